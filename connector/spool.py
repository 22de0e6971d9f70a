"""The raw pages of one read, on disk as text, so that a column can be proven before it is read and memory stays flat.

Records of any shape become columns of text (`a.b` for nested values) in the order they first appear; what a value was before
(text, whole number, number, boolean, date, instant) is kept per column.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connector.api import Page, Record
from connector.model import TEXT

Kind = Literal["text", "whole", "number", "boolean", "date", "instant"]
ROW: Final = "·row"
ROWS_PER_GROUP: Final = 10_000  # the engine holds several groups decoded while it streams
_KINDS: Final[dict[type, Kind]] = {
    str: "text", bool: "boolean", int: "whole", float: "number", Decimal: "number", datetime: "instant", date: "date"
}  # fmt: skip


class Spool:
    """Parquet files of one read: column `·0`, `·1` … for each source column, and `·row`, the record's place in the read from 0.

    A file has the columns known when it was begun; `files` lists them with their columns.
    """

    def __init__(self, folder: Path, name: str, place: str) -> None:
        self.kinds: dict[str, set[Kind]] = {}
        self.files: list[tuple[Path, int]] = []
        self.rows = 0
        self.untyped = True  # every page was mappings: a column nobody filled is not in them
        self._folder = folder
        self._name = name
        self.place = place
        self._starts: list[tuple[int, str, int | None]] = []
        self._waiting: list[pa.RecordBatch] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, page: Page) -> None:
        if isinstance(page.records, pa.RecordBatch):
            self.untyped = False
            columns, count = dict(_arrow_columns(page.records)), page.records.num_rows
        else:
            columns, count = dict(_record_columns(page.records)), len(page.records)
        self._starts.append((self.rows, page.place or self.place, page.first_row))
        width = len(self.kinds)
        for name, (_, kind) in columns.items():
            self.kinds.setdefault(name, set()).update(kind)
        if len(self.kinds) > width:
            self._close_file()
        if count:
            self._keep(columns, count)
        self.rows += count

    def close(self) -> None:
        self._close_file()

    def remove(self) -> None:
        for path, _ in self.files:
            path.unlink(missing_ok=True)

    def row(self, ordinal: int) -> str:
        """A record's place as a person finds it: `row 17`, with its file where the read has several."""
        start, place, first = self._starts[bisect_right(self._starts, ordinal, key=lambda start: start[0]) - 1]
        number = f"row {ordinal - start + first}" if first is not None else f"record {ordinal + 1}"
        return number if place == self.place else f"{place}, {number}"

    def _keep(self, columns: Mapping[str, tuple[pa.Array, Iterable[Kind]]], count: int) -> None:
        arrays = [trimmed(columns[name][0]) if name in columns else pa.nulls(count, TEXT) for name in self.kinds]
        ordinals = pa.array(range(self.rows, self.rows + count), pa.int64())
        batch = pa.RecordBatch.from_arrays([ordinals, *arrays], names=[ROW, *(f"·{index}" for index in range(len(arrays)))])
        if arrays and all(array.null_count for array in arrays):  # rows without any value, as spreadsheets leave behind
            batch = batch.filter(reduce(pc.or_, (array.is_valid() for array in arrays)))
        self._waiting.append(batch)
        if sum(waiting.num_rows for waiting in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting)
        self._waiting.clear()
        if self._writer is None:
            path = self._folder / f"{self._name}-{len(self.files)}.parquet"
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="lz4", write_statistics=False)
            self.files.append((path, table.num_columns - 1))
        self._writer.write_table(table, ROWS_PER_GROUP * 3 // 2)

    def _close_file(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def as_text(array: pa.Array) -> tuple[pa.Array, set[Kind]]:
    """An Arrow column of any type as text, and what it was. Null and NaN are null; whole floats have no decimals."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_null(kind):
        return array.cast(TEXT), set()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return array.cast(TEXT), {"text"}
    if pa.types.is_boolean(kind):
        return array.cast(TEXT), {"boolean"}
    if pa.types.is_integer(kind):
        return array.cast(TEXT), {"whole"}
    if pa.types.is_floating(kind):
        return pa.array([None if value is None else _number(value) for value in array.to_pylist()], TEXT), {"number"}
    if pa.types.is_decimal(kind):
        texts = array.cast(TEXT)
        return pc.if_else(pc.match_substring(texts, "."), pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), "."), texts), {"number"}
    if pa.types.is_date(kind):
        return array.cast(pa.date32()).cast(TEXT), {"date"}
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", kind.tz and "UTC")).cast(TEXT), {"instant"}
    if pa.types.is_time(kind):
        return array.cast(TEXT), {"text"}
    return _texts(array.to_pylist())


def _arrow_columns(batch: pa.RecordBatch) -> Iterable[tuple[str, tuple[pa.Array, set[Kind]]]]:
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_struct(array.type):
            inner = pa.RecordBatch.from_arrays(array.flatten(), names=[f"{name}.{field.name}" for field in array.type])
            yield from _arrow_columns(inner)
        else:
            yield name, as_text(array)


def _record_columns(records: Sequence[Record]) -> Iterable[tuple[str, tuple[pa.Array, set[Kind]]]]:
    for key in dict.fromkeys(chain.from_iterable(records)):
        yield from _value_columns(str(key), [record.get(key) for record in records])


def _value_columns(name: str, values: list[Any]) -> Iterable[tuple[str, tuple[pa.Array, set[Kind]]]]:
    types = set(map(type, values)) - {type(None)}
    if any(issubclass(kind, Mapping) for kind in types):
        nested = [value if isinstance(value, Mapping) else {} for value in values]
        for key in dict.fromkeys(chain.from_iterable(nested)):
            yield from _value_columns(f"{name}.{key}", [value.get(key) for value in nested])
        values = [None if isinstance(value, Mapping) else value for value in values]
        if types == {dict}:
            return
    yield name, _texts(values)


def _texts(values: list[Any]) -> tuple[pa.Array, set[Kind]]:
    types = set(map(type, values)) - {type(None)}
    kinds: set[Kind] = {_KINDS.get(kind, "text") for kind in types}
    if types <= {str}:
        return pa.array(values, TEXT), kinds
    return pa.array([None if value is None else _text(value) for value in values], TEXT), kinds


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        return _number(value)
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple) else str(value)


def _number(value: float | Decimal) -> str | None:
    """The shortest text that gives the number back; never with three decimals, which could be taken for thousands beside text."""
    if not math.isfinite(value):
        return None
    if value == int(value):
        return str(int(value))
    text = repr(value) if isinstance(value, float) else f"{value.normalize():f}"
    return f"{text}0" if len(text.partition(".")[2]) == 3 else text


def trimmed(texts: pa.Array) -> pa.Array:
    """Without white space around; empty is null."""
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)
