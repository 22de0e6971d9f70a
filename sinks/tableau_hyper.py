"""Tables as .hyper files: copied to Parquet as a stream, fingerprinted on the way, compared with what was delivered before.

pantab brings Hyper, and Hyper reads the Parquet itself. Rows are not given to pantab's own writer: of a stream that fails half-way it
leaves a shorter table and no error, and it has no text for decimals between -0.1 and 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connector.api import Output
from connector.errors import ConfigError, TargetError

EXTRACT: Final = ("Extract", "Extract")
LONGEST_NAME: Final = 255
DIGITS: Final = 18  # of a Hyper number that every Tableau reads
CHANGED: Final = ("Extract", "Changed")
GONE: Final = ("Extract", "Gone")
ROWS: Final = 50_000


def require_pantab() -> Any:
    """The library that has Hyper. Raises ConfigError when it is not installed."""
    try:
        import pantab  # noqa: PLC0415 — an extra, and a large one
    except ImportError as error:
        raise ConfigError(
            "the Tableau sink writes .hyper files with pantab, which is not installed", remedy='pip install "pipeline-connector[tableau]"'
        ) from error
    return pantab


@dataclass(frozen=True, slots=True)
class Written:
    """A table on disk as Parquet: its columns with their types in words, its rows, and a fingerprint of all of it."""

    file: Path
    columns: tuple[tuple[str, str], ...]
    rows: int
    hash: str


def write(output: Output, place: str, file: Path) -> Written:
    """The output with Hyper's types, under its headings. Raises TargetError for what Hyper cannot hold, naming the column."""
    schema = _schema(output, place)
    rows = 0
    with pq.ParquetWriter(file, schema, compression="lz4", write_statistics=False) as copy:
        for batch in output.reader():
            rows += batch.num_rows
            copy.write_batch(_fitted(batch, schema, place))
    if rows != output.rows:
        raise TargetError(f"{place}: {output.rows} rows announced, {rows} read", remedy="run again; nothing was published")
    with file.open("rb") as written:
        mark = hashlib.file_digest(written, "sha256").hexdigest()[:32]
    return Written(file, tuple((field.name, str(field.type)) for field in schema), rows, mark)


class Hyper:
    """A .hyper file that is being made. Every question runs in a Hyper process of its own."""

    def __init__(self, file: Path, place: str) -> None:
        self.file = file
        self._place = place
        self._pantab = require_pantab()

    def create(self, tables: Mapping[tuple[str, str], str]) -> None:
        """Tables from what their queries give."""
        self.file.write_bytes(_nothing())
        for name, rows in tables.items():
            self.query(f"create table {named(name)} as {rows}")

    def query(self, sql: str) -> pa.Table:
        found: pa.Table = self._refused(lambda: self._pantab.frame_from_hyper_query(self.file, sql, return_type="pyarrow"))
        return found

    def stream(self, sql: str) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_stream(self._pantab.frame_from_hyper_query(self.file, sql, return_type="stream", chunk_size=ROWS))

    def _refused(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (RuntimeError, ValueError) as error:
            reason = str(error).split("\n")[0][:200]
            raise TargetError(
                f"{self._place}: Hyper does not take the table: {reason}", remedy="rename the column with `columns: {name: heading}`"
            ) from error


def extract(written: Written, place: str, file: Path) -> None:
    """The table as Extract.Extract of a new .hyper file."""
    Hyper(file, place).create({EXTRACT: _rows_of(written.file)})


@cache
def _nothing() -> bytes:
    """A .hyper file with the schema Extract and nothing in it. Made once: it takes Hyper longer than a small table."""
    pantab = require_pantab()
    with TemporaryDirectory(prefix="connector-tableau-") as folder:
        file = Path(folder, "nothing.hyper")
        pantab.frame_to_hyper(pa.table({"nothing": pa.array([], pa.int64())}), file, table=EXTRACT)
        pantab.frame_from_hyper_query(file, f"drop table {named(EXTRACT)}", return_type="pyarrow")
        return file.read_bytes()


def repeated_key(written: Written, key: Sequence[str]) -> str | None:
    """An example of a key that is empty or stands for several rows, None when every row has its own."""
    columns = pq.read_table(written.file, columns=list(key))
    counted = columns.group_by(list(key)).aggregate([([], "count_all")])
    odd = reduce(pc.or_, (pc.is_null(counted[name]) for name in key), pc.greater(counted["count_all"], 1))
    found = counted.filter(odd).slice(0, 1).to_pylist()
    return ", ".join(f"{name} {found[0][name]!r}" for name in key) if found else None


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to happen to the delivered table: rows to add or replace, keys whose rows go. `file` holds both as tables."""

    file: Path
    changed: int
    gone: int


def difference(new: Written, before: Path | None, key: Sequence[str], into: Path, place: str, *, removing: bool) -> Changes:
    """What `new` has beyond `before` (None: all of it); `removing` also compares rows with known keys and finds keys that are gone."""
    match = " and ".join(f"a.{quoted(name)} = b.{quoted(name)}" for name in key)
    missing = "select {columns} from external({one}) a where not exists (select 1 from external({other}) b where {match})"
    tables = {CHANGED: _rows_of(new.file)}
    if before is not None and removing:
        gone = missing.format(columns=", ".join(map(quoted, key)), one=_text(before), other=_text(new.file), match=match)
        tables = {CHANGED: f"{_rows_of(new.file)} except all {_rows_of(before)}", GONE: gone}
    elif before is not None:
        tables = {CHANGED: missing.format(columns="*", one=_text(new.file), other=_text(before), match=match)}
    database = Hyper(into, place)
    database.create(tables)
    counts = database.query("select " + ", ".join(f"(select count(*) from {named(name)})" for name in tables))
    changed, *gone_rows = (column[0].as_py() for column in counts.columns)
    return Changes(into, changed, sum(gone_rows))


def together(before: Path, changes: Changes, place: str, into: Path) -> None:
    """The rows delivered before with those that were added, as Parquet."""
    with pq.ParquetFile(before) as old, pq.ParquetWriter(into, old.schema_arrow, compression="lz4") as copy:
        for batch in old.iter_batches(ROWS):
            copy.write_batch(batch)
        for batch in Hyper(changes.file, place).stream(f"select * from {named(CHANGED)}"):
            copy.write_batch(batch.cast(old.schema_arrow))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def named(table: tuple[str, str]) -> str:
    return ".".join(map(quoted, table))


def _rows_of(file: Path) -> str:
    return f"select * from external({_text(file)})"


def _text(file: Path) -> str:
    return "'" + str(file).replace("'", "''") + "'"


# ── types and names ───────────────────────────────────────────────────────────────────────────────


def _schema(output: Output, place: str) -> pa.Schema:
    """The columns as Hyper takes them, under their headings. Raises TargetError or ConfigError naming the column."""
    named = output.spec.columns if output.spec else None
    headings = [named.get(name, name) for name in output.schema.names] if isinstance(named, Mapping) else output.schema.names
    if not headings:
        raise TargetError(f"{place}: the table has no columns", remedy="name at least one under `columns:`")
    seen: dict[str, str] = {}
    for heading in headings:
        if not heading.strip() or any(ord(sign) < 32 for sign in heading):
            raise TargetError(f"{place}: column name {heading!r} is not a name", remedy="rename it with `columns: {name: heading}`")
        if len(heading) > LONGEST_NAME:
            raise TargetError(
                f"{place}: column name {heading[:40]!r}… has {len(heading)} letters, {LONGEST_NAME} fit",
                remedy="rename it with `columns: {name: heading}`",
            )
        if (other := seen.get(heading.casefold())) is not None:
            raise TargetError(f"{place}: columns {other!r} and {heading!r} have one name in Tableau", remedy="rename one of them")
        seen[heading.casefold()] = heading
    return pa.schema([pa.field(heading, _type(field, place)) for heading, field in zip(headings, output.schema, strict=True)])


def _type(field: pa.Field, place: str) -> pa.DataType:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_boolean(kind):
        return kind
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_decimal(kind):
        return kind if kind.precision <= DIGITS else pa.decimal128(DIGITS, min(kind.scale, DIGITS))
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or kind == pa.string_view()
        or pa.types.is_null(kind)
        or pa.types.is_time(kind)
    ):
        return pa.string()
    raise TargetError(
        f"{place}: column {field.name!r} holds {kind}, for which Tableau has no type",
        remedy="leave it out, or turn it into text with `sql:`",
    )


def _fitted(batch: pa.RecordBatch, schema: pa.Schema, place: str) -> pa.RecordBatch:
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if pa.types.is_timestamp(plain.type) and plain.type.tz:  # Tableau's date-times have no zone: they are in UTC
            plain = plain.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
        if pa.types.is_floating(plain.type):
            plain = pc.if_else(pc.is_finite(plain), plain, None)
        try:
            columns.append(plain.cast(field.type))
        except pa.ArrowInvalid as error:
            raise TargetError(
                f"{place}: column {field.name!r}: a value does not fit {field.type}",
                remedy=f"Tableau's numbers have {DIGITS} digits: round the column with `sql:`",
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)
