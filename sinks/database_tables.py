"""A flow's table on its way into a database: names that can be kept, types, and the batches as they are sent, fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from connector.api import Output
from connector.errors import ConfigError, TargetError
from sinks.database_connection import BOOKS, Dialect

Mode = Literal["replace", "upsert", "append"]
DIGITS: Final = 38  # of an Arrow decimal that drivers take
RENAME: Final = "rename it with `columns: {name: heading}`"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A table of the flow and what it becomes: SQL types and meanings by the name of the column."""

    name: str
    output: Output
    mode: Mode
    key: tuple[str, ...]
    schema: pa.Schema
    types: Mapping[str, str]
    meanings: Mapping[str, str]
    meaning: str


def wanted(output: Output, name: str, mode: Mode, flow: str, dialect: Dialect) -> Wanted:
    """Raises ConfigError or TargetError naming the table or column that cannot be had."""
    if reason := _refused(name, dialect, column=False):
        raise ConfigError(f"{dialect.place}: table name {name[:80]!r} {reason}", remedy="choose another with `name:`")
    if mode == "upsert" and not output.key:
        raise ConfigError(f"{name}: mode upsert needs to know which rows are the same", remedy="name the column(s) with `key:`")
    given = output.spec.columns if output.spec else None
    headings = {column: given.get(column, column) if isinstance(given, Mapping) else column for column in output.schema.names}
    if not headings:
        raise TargetError(f"{name}: the table has no columns", remedy="name at least one under `columns:`")
    _refuse_headings(name, list(headings.values()), dialect)
    schema = pa.schema([pa.field(headings[column.name], _plain_type(column, name, dialect)) for column in output.schema])
    meanings = {headings[column.name]: text for column in output.schema if (text := _meaning(column))}
    meaning = " ".join(part for part in (f"{output.title}." if output.title else "", f"Published by connector, flow {flow}.") if part)
    key = tuple(headings[column] for column in output.key) if mode != "replace" else ()
    return Wanted(name, output, mode, key, schema, {one.name: dialect.type(one.type) for one in schema}, meanings, meaning)


def _refuse_headings(table: str, headings: list[str], dialect: Dialect) -> None:
    seen: dict[str, str] = {}
    for heading in headings:
        if reason := _refused(heading, dialect, column=True):
            raise TargetError(f"{table}: column name {heading[:80]!r} {reason}", remedy=RENAME)
        if (other := seen.setdefault(dialect.same_name(heading), heading)) is not heading:
            raise TargetError(f"{table}: columns {other!r} and {heading!r} have one name in {dialect.place}", remedy=RENAME)


def _refused(name: str, dialect: Dialect, *, column: bool) -> str | None:
    if not name.strip() or any(ord(sign) < 32 for sign in name):
        return "is not a name"
    if (size := len(name.encode())) > dialect.longest_name:
        return f"has {size} bytes, {dialect.longest_name} fit"
    if not column and name.casefold().startswith(BOOKS):
        return f"begins with {BOOKS!r}, which is kept for our own tables"
    return dialect.refused_name(name, column=column)


def _meaning(column: pa.Field) -> str:
    facts = column.metadata or {}
    text, currency = facts.get(b"description", b"").decode(), facts.get(b"currency", b"").decode()
    return f"{text} In {currency}." if text and currency else text


def _plain_type(column: pa.Field, table: str, dialect: Dialect) -> pa.DataType:
    """The Arrow type that is sent: signed, decoded, in UTC, to the microsecond."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind) or kind in (pa.int16(), pa.int32(), pa.int64(), pa.float64(), pa.date32(), pa.string(), pa.binary()):
        return kind
    if pa.types.is_decimal(kind):
        digits, scale = kind.precision - min(kind.scale, 0), max(kind.scale, 0)
        if digits <= DIGITS:
            return pa.decimal128(digits, scale)
    simple: Any = {
        pa.int8(): pa.int16(),
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.decimal128(20, 0),
        pa.float16(): pa.float32(),
        pa.float32(): pa.float32(),
        pa.date64(): pa.date32(),
        pa.null(): pa.string(),
        pa.large_string(): pa.string(),
        pa.string_view(): pa.string(),
        pa.large_binary(): pa.binary(),
        pa.binary_view(): pa.binary(),
    }
    if kind in simple:
        return simple[kind]
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_time(kind):
        return pa.time64("us")
    raise TargetError(
        f"{table}: column {column.name!r} holds {kind}, for which {dialect.place} has no type here",
        remedy="leave it out, or turn it into text or a number with `sql:`",
    )


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Sent:
    """What is known of a table once its batches have gone by."""

    rows: int = 0
    bytes: int = 0
    hash: str = ""
    valued: set[str] = field(default_factory=set)


def _nothing(done: int) -> None:
    """Nobody watches."""


def batches(table: Wanted, dialect: Dialect, sent: Sent, watch: Callable[[int], None] = _nothing) -> Iterator[pa.RecordBatch]:
    """The rows as they are sent; `sent` is filled on the way. Raises TargetError for a value that cannot be kept, naming the column."""
    mark = hashlib.sha256(repr(list(table.types.items())).encode())
    for batch in table.output.reader():
        columns = [_fitted(column, plain, table, dialect) for column, plain in zip(batch.columns, table.schema, strict=True)]
        ready = pa.RecordBatch.from_arrays(columns, names=table.schema.names)
        sent.rows += ready.num_rows
        sent.bytes += ready.nbytes
        sent.valued |= {name for name, column in zip(table.schema.names, columns, strict=True) if column.null_count < len(column)}
        mark.update(ready.serialize())
        watch(sent.rows)
        yield ready
    if sent.rows != table.output.rows:
        raise TargetError(f"{table.name}: {table.output.rows} rows announced, {sent.rows} read", remedy="run again; nothing was published")
    sent.hash = mark.hexdigest()[:32]


def sent_schema(table: Wanted, dialect: Dialect) -> pa.Schema:
    """The schema of `batches`."""
    return pa.schema([pa.field(one.name, dialect.fit(pa.array([], one.type)).type) for one in table.schema])


def _fitted(column: pa.Array, plain: pa.Field, table: Wanted, dialect: Dialect) -> pa.Array:
    kind = plain.type
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(kind):  # a number that cannot be computed is missing; NaN would poison every sum
        column = column.cast(kind)
        column = pc.if_else(pc.is_finite(column), column, None)
    try:
        fine = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
        column = dialect.fit(column.cast(kind, safe=not fine))
    except pa.ArrowInvalid as error:
        raise TargetError(
            f"{table.name}: column {plain.name!r}: a value does not fit {dialect.type(kind)} exactly", remedy="round the column with `sql:`"
        ) from error
    if pa.types.is_string(column.type) and _holds_nul(column):
        raise TargetError(f"{table.name}: column {plain.name!r}: a text holds the character NUL", remedy="take it out with `sql:`")
    return column


def _holds_nul(column: pa.Array) -> bool:
    text = column.buffers()[2]
    if text is None or text.to_pybytes().find(b"\0") < 0:  # of the whole buffer: fast, and nearly always enough
        return False
    return bool(pc.any(pc.match_substring(column, "\0")).as_py())
