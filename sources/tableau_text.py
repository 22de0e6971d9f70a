"""The summary data of a view, as Tableau exports it: text for people, turned back into a table of one row per mark.

Typing is not done here: numbers, dates and `Null` are read column by column by the same rules as any text. What only Tableau does
is undone here: repeated headers, Measure Names beside Measure Values, totals among the rows.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from connector import reading
from connector.errors import SourceError

BLOCK: Final = 1 << 20  # the reader keeps some thirty of them ahead; a row must fit in one
ROWS: Final = 20_000
#: Measure Names and Measure Values in the languages a site may speak
LONG: Final[Mapping[str, str]] = {
    "Measure Names": "Measure Values",
    "Kennzahlnamen": "Kennzahlwerte",
    "Noms de mesures": "Valeurs de mesures",
    "Nombres de medidas": "Valores de medidas",
    "度量名称": "度量值",
}
#: what Tableau writes before the caption of an aggregated field
AGGREGATED: Final = re.compile(r"(Distinct count of|Count of|Avg\.|Sum of|Min\.|Max\.|Median) ", re.IGNORECASE)
TOTALS: Final = frozenset(
    form
    for word in ("Grand Total", "Total", "All", "Gesamtsumme", "Gesamt", "Alle", "Total général", "Total general", "总计", "合计", "全部")
    for form in (word, word.lower(), word.upper())
)
TEXT: Final = pa.string()


class Table(Protocol):
    """Columns of text that can be read again from the start."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def batches(self) -> Iterator[pa.RecordBatch]: ...


@dataclass(slots=True)
class Export:
    """A CSV file from Tableau: UTF-8 with or without BOM, CRLF, quotes by RFC 4180. Repeated headers get a number."""

    file: Path
    place: str
    names: tuple[str, ...] = field(init=False)
    repeated: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        with self.file.open(encoding="utf-8-sig", newline="") as lines:
            try:
                header = next(csv.reader(lines), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise self._broken(error) from error
        names = unique([name.strip() for name in header])
        self.names = tuple(names)
        self.repeated = tuple(name for name, given in zip(names, header, strict=True) if name != given.strip())

    def batches(self) -> Iterator[pa.RecordBatch]:
        if not self.names or not self.has_rows():
            return
        try:
            reader = pacsv.open_csv(
                self.file,
                read_options=pacsv.ReadOptions(column_names=self.names, skip_rows_after_names=1, block_size=BLOCK, use_threads=False),
                parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(self.names) > 1),
                convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(self.names, TEXT)),
            )
            yield from reader
        except pa.ArrowInvalid as error:
            raise self._broken(error) from error

    def has_rows(self) -> bool:
        with self.file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            rows = csv.reader(lines)
            try:
                next(rows, None)
                return next(rows, None) is not None
            except csv.Error:  # a very long cell is still a row
                return True

    def _broken(self, error: Exception) -> SourceError:
        reason = str(error).split("\n")[0][:200]
        return SourceError(f"{self.place}: the data does not read as CSV: {reason}", remedy="run again; nothing was taken over")


def unique(names: Sequence[str]) -> list[str]:
    """Every name different from the others, also without regard to case; empty ones are numbered by position."""
    taken: set[str] = set()
    given = []
    for position, name in enumerate(names, 1):
        plain = name or f"column {position}"
        candidate, number = plain, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{plain} ({number})"
        taken.add(candidate.casefold())
        given.append(candidate)
    return given


def unproven(table: Table, filters: Mapping[str, Sequence[str]]) -> list[str]:
    """The filters the rows do not prove: there is no such column, or rows have other values."""
    proven = {name for name in filters if name in table.names}
    for batch in table.batches() if proven else ():
        proven -= {name for name in proven if not pc.all(pc.is_in(batch[name], pa.array(filters[name], TEXT)), min_count=0).as_py()}
    return [name for name in filters if name not in proven]


# ── Measure Names ─────────────────────────────────────────────────────────────────────────────────


def one_row_per_mark(table: Table, place: str, file: Path, locale: str | None, until: ExitStack) -> Table:
    """Un-pivot Measure Names and Measure Values into a column per measure; other tables come back as they are.

    `file` is where marks are collected, so that memory stays flat; it is open `until` the stack is left.

    In the long shape a mark has one row per measure, and every row repeats the other measures' display values: adding up such a column
    counts it as often as there are measures. Raises SourceError where the rows do not tell which mark they belong to.
    """
    names = next((name for name in table.names if name in LONG), None)
    if names is None:
        return table
    marks = _Marks(table, place, names, LONG[names] if LONG[names] in table.names else None, file, locale)
    until.callback(marks.close)
    return marks


class _Marks:
    """The un-pivoted table, kept on disk: marks by what their rows share, cells by mark and measure."""

    def __init__(self, table: Table, place: str, names: str, values: str | None, file: Path, locale: str | None) -> None:
        self._table, self._place, self._names, self._values = table, place, names, values
        self._measures = self._in_order()
        repeated = self._measures if values else ()
        shared = [name for name in table.names if name not in (names, values) and name not in repeated]
        suspects = [name for name in shared if values and AGGREGATED.match(name)]
        self._shared = shared
        self._same = {(name, measure): 0 for name in suspects for measure in self._measures}
        self._decimals: tuple[reading.Mark, ...] = (reading.decimal_mark(locale),) if locale else (".", ",")
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
        order = {measure: index for index, measure in enumerate(self._measures)}
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
                if measure in repeated and not self._agree(columns[measure][row], value):
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
            self._same[name, measure] = self._same[name, measure] + 1 if self._agree(shown, value) else -1

    def _agree(self, shown: str | None, value: str | None) -> bool:
        """Is `shown` what `value` looks like when rounded for display?"""
        rounded, exact = reading.number((shown or "").strip()), reading.number((value or "").strip())
        if rounded is None or exact is None:
            return (rounded is None) == (exact is None)
        for mark in self._decimals:
            left, right = rounded.value(mark), exact.value(mark)
            if left is not None and right is not None and abs(left - right) <= unit(rounded, mark):
                return True
        return False

    def _contradiction(self, measure: str, shown: str | None, value: str | None) -> SourceError:
        return SourceError(
            f"{self._place}: column {measure!r} says {shown!r} where Measure Values says {value!r}",
            remedy="take the field off the view's Detail, Tooltip or Label, or rename it in the workbook",
        )


def unit(written: reading.Written, mark: reading.Mark) -> Decimal:
    """One in the last place a number shows: 14.4% → 0.001."""
    decimals = len(written.digits.partition(mark)[2])
    return Decimal(1).scaleb(written.exponent - decimals - (2 if written.percent else 0))


def _batch(rows: Sequence[Sequence[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row[index] for row in rows], TEXT) for index in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# ── totals ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Sum:
    """What the rows below a suspected total add up to, per column that holds numbers; `places` is how far each may be off."""

    rows: int = 0
    sums: dict[int, Decimal] = field(default_factory=dict)
    places: dict[int, Decimal] = field(default_factory=dict)


def without_totals(
    table: Table, place: str, policy: Literal["keep", "drop"] | None, locale: str | None, warn: Callable[[str], None]
) -> Table:
    """The table without the rows that Tableau added as totals.

    A row is suspected when a cell says Total, Grand Total or All and other rows could be what it sums up. It is dropped when one of its
    numbers is their sum, or `policy` says so; one that proves nothing is a SourceError unless `policy` decides.
    """
    if policy == "keep":
        return table
    suspects = _suspects(table)
    if not suspects:
        return table
    proven, doubtful = _judge(table, suspects, locale)
    if doubtful and policy is None:
        row = suspects[min(doubtful)]
        shown = ", ".join(f"{name} {cell!r}" for name, cell in zip(table.names, row, strict=True) if cell)
        raise SourceError(
            f"{place}: row {min(doubtful) + 2} looks like a total, and no number in it shows whether it is ({shown})",
            remedy="turn totals off in the view, or set `totals: drop` or `totals: keep`",
        )
    gone = proven | doubtful
    if gone:
        warn(f"{place}: {len(gone)} total row{'s' if len(gone) > 1 else ''} left out")
    return _Without(table, gone) if gone else table


@dataclass(slots=True)
class _Without:
    table: Table
    gone: set[int]

    @property
    def names(self) -> tuple[str, ...]:
        return self.table.names

    def batches(self) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in self.table.batches():
            stay = [start + row not in self.gone for row in range(batch.num_rows)]
            start += batch.num_rows
            yield batch if all(stay) else batch.filter(pa.array(stay))


def _suspects(table: Table) -> dict[int, list[str | None]]:
    """Rows with a cell that says total, by their place."""
    found: dict[int, list[str | None]] = {}
    start = 0
    labels = pa.array(sorted(TOTALS), TEXT)
    for batch in table.batches():
        hits: set[int] = set()
        for column in batch.columns:
            hits.update(pc.indices_nonzero(pc.is_in(column, labels)).to_pylist())
        for row in hits:
            found[start + row] = [column[row].as_py() for column in batch.columns]
        start += batch.num_rows
    return found


def _judge(table: Table, suspects: Mapping[int, list[str | None]], locale: str | None) -> tuple[set[int], set[int]]:
    """Which suspects are sums of other rows, and which might be totals but show no sum. Those nothing lies below are data."""
    below: dict[tuple[int, ...], dict[tuple[str | None, ...], _Sum]] = {}
    keys: dict[int, tuple[tuple[int, ...], tuple[str | None, ...]]] = {}
    numbers = _number_columns(table)
    mark = reading.decimal_mark(locale) if locale else _mark(table, numbers)
    for place, row in suspects.items():
        fixed = tuple(index for index, cell in enumerate(row) if index not in numbers and cell and cell not in TOTALS)
        keys[place] = fixed, tuple(row[index] for index in fixed)
        below.setdefault(fixed, {}).setdefault(keys[place][1], _Sum())
    place = 0
    for batch in table.batches():
        columns = [column.to_pylist() for column in batch.columns]
        for cells in zip(*columns, strict=True):
            if place not in suspects:
                for fixed, sums in below.items():
                    if (group := sums.get(tuple(cells[index] for index in fixed))) is not None:
                        _add(group, cells, numbers, mark)
            place += 1
    proven, doubtful = set(), set()
    for place, row in suspects.items():
        fixed, key = keys[place]
        group = below[fixed][key]
        if group.rows and any(_is_sum(group, row, index, mark) for index in numbers):
            proven.add(place)
        elif group.rows:
            doubtful.add(place)
    return proven, doubtful


def _number_columns(table: Table) -> list[int]:
    """Columns in which every cell with something in it is a number."""
    numbers = set(range(len(table.names)))
    for batch in table.batches():
        for index in list(numbers):
            texts = pc.unique(batch.column(index)).to_pylist()
            if any(text and text.casefold() not in reading.NULL_WORDS and reading.number(text.strip()) is None for text in texts):
                numbers.discard(index)
    return sorted(numbers)


def _mark(table: Table, numbers: Sequence[int]) -> reading.Mark:
    """The decimal mark some number of the table proves; a point when none does."""
    for batch in table.batches():
        for index in numbers:
            for text in batch.column(index).to_pylist():
                if text and (written := reading.number(text.strip())) and len(marks := written.marks()) == 1:
                    return next(iter(marks))
    return "."


def _add(group: _Sum, row: Sequence[str | None], numbers: Sequence[int], mark: reading.Mark) -> None:
    group.rows += 1
    for index in numbers:
        written = reading.number((row[index] or "").strip())
        if written and (value := written.value(mark)) is not None:
            group.sums[index] = group.sums.get(index, Decimal(0)) + value
            group.places[index] = group.places.get(index, Decimal(0)) + unit(written, mark) / 2


def _is_sum(group: _Sum, row: Sequence[str | None], index: int, mark: reading.Mark) -> bool:
    written = reading.number((row[index] or "").strip())
    value = written.value(mark) if written else None
    if written is None or not value or index not in group.sums:
        return False
    return abs(value - group.sums[index]) <= group.places[index] + unit(written, mark) / 2
