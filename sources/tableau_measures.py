"""Sheets with Measure Names: a row per measure and mark, turned back into a row per mark and a column per measure."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.errors import SourceError
from sources.tableau_text import TEXT, Table

ROWS: Final = 20_000
#: Measure Names and Measure Values in the languages a site may speak; others are known by their shape
LONG: Final[Mapping[str, str]] = {
    "Measure Names": "Measure Values",
    "Kennzahlnamen": "Kennzahlwerte",
    "Noms de mesures": "Valeurs de mesures",
    "Nombres de medidas": "Valores de medidas",
    "Nomes de medidas": "Valores de medidas",
    "Nomi misure": "Valori misure",
    "メジャー ネーム": "メジャー バリュー",
    "측정값 이름": "측정값",
    "度量名称": "度量值",
    "度量名稱": "度量值",
}
#: what Tableau writes before the caption of an aggregated field
AGGREGATED: Final = re.compile(r"(Distinct count of|Count of|Avg\.|Sum of|Min\.|Max\.|Median) ", re.IGNORECASE)
SCALES: Final = tuple(Decimal(1).scaleb(-places) for places in (3, 6, 9))  # thousands, millions and billions shown without saying so


def one_row_per_mark(table: Table, place: str, file: Path, locale: str | None, until: ExitStack) -> Table:
    """Un-pivot Measure Names and Measure Values into a column per measure; other tables come back as they are.

    `file` is where marks are collected, so that memory stays flat; it is open `until` the stack is left.

    In the long shape a mark has one row per measure, and every row repeats the other measures' display values: adding up such a column
    counts it as often as there are measures. Raises SourceError where the rows do not tell which mark they belong to.
    """
    numbers = _Numbers((reading.decimal_mark(locale),) if locale else (".", ","))
    found = _by_name(table) or _by_shape(table, numbers)
    if found is None:
        return table
    marks = _Marks(table, place, *found, file, numbers)
    until.callback(marks.close)
    return marks


def _by_name(table: Table) -> tuple[str, str | None] | None:
    """The columns of measure names and values, as Tableau calls them."""
    names = next((name for name in table.names if name in LONG), None)
    return (names, LONG[names] if LONG[names] in table.names else None) if names else None


def _by_shape(table: Table, numbers: _Numbers) -> tuple[str, str] | None:
    """The same in a language we do not know: a column that names columns, and one of the numbers that these show, rounded, in those rows."""
    first = next(table.batches(), None)
    if first is None:
        return None
    for names in table.names:
        words = pc.unique(first[names]).to_pylist()
        headers = [word for word in words if word in table.names and word != names]
        if headers and 1 < len(words) < len(table.names) and all(words):
            others = [name for name in table.names if name != names and name not in words]
            if values := next((name for name in others if _shows(table, names, name, numbers)), None):
                return names, values
    return None


def _shows(table: Table, names: str, values: str, numbers: _Numbers) -> bool:
    """Whether the column named in each row shows that row's value, and every name comes with the same rows otherwise."""
    agreed = 0
    others = [name for name in table.names if name not in (names, values)]
    sums: dict[str | None, int] = {}  # of all that stands beside a name
    for batch in table.batches():
        columns = {name: batch[name].to_pylist() for name in table.names}
        beside = zip(*(columns[name] for name in others), strict=True)
        for row, (name, value, rest) in enumerate(zip(columns[names], columns[values], beside, strict=True)):
            if value and reading.number(value.strip()) is None and value.strip().casefold() not in reading.NULL_WORDS:
                return False
            sums[name] = sums.get(name, 0) + hash(rest)
            if name in others:
                same = numbers.agree(columns[name][row], value)
                if same is False:
                    return False
                agreed += same is True and bool(value)
    return agreed > 0 and len(set(sums.values())) == 1


class _Marks:
    """The un-pivoted table, kept on disk: marks by what their rows share, cells by mark and measure."""

    def __init__(self, table: Table, place: str, names: str, values: str | None, file: Path, numbers: _Numbers) -> None:
        self._table, self._place, self._names, self._values = table, place, names, values
        self._measures = self._in_order()
        repeated = self._measures if values else ()
        shared = [name for name in table.names if name not in (names, values) and name not in repeated]
        suspects = [name for name in shared if values and AGGREGATED.match(name)]
        self._shared = shared
        self._same = {(name, measure): 0 for name in suspects for measure in self._measures}
        self._numbers = numbers
        self._database = sqlite3.connect(file)
        self._database.executescript(
            "pragma journal_mode = off; pragma synchronous = off;"
            "create table mark (id integer primary key, key text unique);"
            "create table cell (mark integer, measure integer, value text, primary key (mark, measure)) without rowid;"
        )
        try:
            self._fill()
        except BaseException:
            self.close()
            raise
        again = {name for (name, _), agreed in self._same.items() if agreed > 0}
        self._kept = [index for index, name in enumerate(shared) if name not in again]
        self.names = tuple(shared[index] for index in self._kept) + (self._measures if values else ())

    def close(self) -> None:
        self._database.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([pa.field(name, TEXT) for name in self.names])
        rows: list[list[str | None]] = []
        current = -1
        select = (
            "select mark.id, mark.key, cell.measure, cell.value from mark join cell on cell.mark = mark.id order by mark.id, cell.measure"
        )
        for mark, key, measure, value in self._database.execute(select):
            if mark != current:
                current = mark
                if len(rows) == ROWS:
                    yield _batch(rows, schema)
                    rows = []
                shared = json.loads(key)
                rows.append([*(shared[index] for index in self._kept), *([None] * len(self._measures) if self._values else [])])
            if self._values:
                rows[-1][len(self._kept) + measure] = value
        if rows:
            yield _batch(rows, schema)

    def _in_order(self) -> tuple[str, ...]:
        seen: dict[str, None] = {}
        for batch in self._table.batches():
            seen.update(dict.fromkeys(pc.unique(batch[self._names]).to_pylist()))
        return tuple(seen)

    def _fill(self) -> None:
        numbers, order = self._numbers, {measure: index for index, measure in enumerate(self._measures)}
        repeated = [name for name in self._measures if name in self._table.names and self._values]
        for batch in self._table.batches():
            columns = {name: batch[name].to_pylist() for name in self._table.names}
            measures = columns[self._names]
            keys = [json.dumps(key, ensure_ascii=False) for key in zip(*(columns[name] for name in self._shared), strict=True)]
            keys = keys or ["[]"] * batch.num_rows
            self._database.executemany("insert or ignore into mark (key) values (?)", ((key,) for key in keys))
            for row, (key, measure) in enumerate(zip(keys, measures, strict=True)):
                value = columns[self._values][row] if self._values else None
                self._put(key, order[measure], measure, value)
                if measure in repeated and numbers.agree(columns[measure][row], value, SCALES) is False:
                    raise self._contradiction(measure, columns[measure][row], value)
                for name in {name for name, other in self._same if other == measure}:
                    self._compare(name, measure, columns[name][row], value)
        self._database.commit()
        if not self._values:
            self._require_all()

    def _put(self, key: str, index: int, measure: str, value: str | None) -> None:
        try:
            self._database.execute("insert into cell select id, ?, ? from mark where key = ?", (index, value, key))
        except sqlite3.IntegrityError as error:
            shown = ", ".join(f"{name} {part!r}" for name, part in zip(self._shared, json.loads(key), strict=True))
            raise SourceError(
                f"{self._place}: {measure!r} comes twice for one mark ({shown or 'the only one'}): "
                f"{self._names} cannot be turned into columns",
                remedy="put a field that tells the marks apart, such as an id, on Detail in the view",
            ) from error

    def _require_all(self) -> None:
        """Without Measure Values every mark must be there once per measure; then one of its rows says it all."""
        marks = self._database.execute(
            "select count(*) from (select mark from cell group by mark having count(*) <> ?)", (len(self._measures),)
        )
        if marks.fetchone()[0]:
            raise SourceError(
                f"{self._place}: {self._names} is on the sheet without Measure Values, and its rows do not repeat evenly",
                remedy="put Measure Values on the sheet, or take Measure Names off it",
            )

    def _compare(self, name: str, measure: str, shown: str | None, value: str | None) -> None:
        """Does a column that looks aggregated show this measure again? Once it does not, it never will."""
        if self._same[name, measure] >= 0:
            self._same[name, measure] = self._same[name, measure] + 1 if self._numbers.agree(shown, value) else -1

    def _contradiction(self, measure: str, shown: str | None, value: str | None) -> SourceError:
        return SourceError(
            f"{self._place}: column {measure!r} says {shown!r} where Measure Values says {value!r}",
            remedy="take the field off the view's Detail, Tooltip or Label, show it as a plain number, or rename it in the workbook",
        )


class _Numbers:
    """Compares numbers as a sheet shows them; `marks` are the decimal marks that may be meant."""

    def __init__(self, marks: Sequence[reading.Mark]) -> None:
        self._marks = marks

    def agree(self, shown: str | None, value: str | None, scales: Sequence[Decimal] = ()) -> bool | None:
        """Is `shown` what `value` looks like when rounded for display? None when it is shown in words, as `12 days`, or left blank."""
        rounded, exact = reading.number((shown or "").strip()), reading.number((value or "").strip())
        if rounded is None:
            return True if exact is None else None
        if exact is None:
            return False
        for mark in self._marks:
            left, right = rounded.value(mark), exact.value(mark)
            if left is None or right is None:
                continue
            place = unit(rounded, mark)
            if abs(left - right) <= place or any(abs(left - right * scale) <= place / 2 for scale in scales):
                return True
        return False


def unit(written: reading.Written, mark: reading.Mark) -> Decimal:
    """One in the last place a number shows: 14.4% → 0.001."""
    decimals = len(written.digits.partition(mark)[2])
    return Decimal(1).scaleb(written.exponent - decimals - (2 if written.percent else 0))


def _batch(rows: Sequence[Sequence[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row[index] for row in rows], TEXT) for index in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
