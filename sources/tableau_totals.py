"""Rows that Tableau added up: which they are, whether their numbers prove it, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.errors import SourceError
from sources.tableau_measures import AGGREGATED, unit
from sources.tableau_text import Table

Policy = Literal["keep", "drop"] | None
Verdict = Literal["sum", "trivial", "no"]
Row = list[str | None]

_ALL: Final = ("All", "Alle", "全部", "すべて", "전체")
_TOTAL: Final = (
    *("Grand Total", "Total", "Gesamtsumme", "Gesamt", "Total général", "Total general", "Total geral", "Totale complessivo", "Totale"),
    *("总计", "合计", "總計", "合計", "総計", "총합계", "총계", "합계"),
)
_WORDS: Final = "|".join(map(re.escape, _TOTAL))
PLAIN: Final = rf"(?i)^(?:{_WORDS}|{'|'.join(_ALL)})$"
#: also `East Total` and `Total East`, which add up the rows of East
LABELLED: Final = rf"(?i)^(?:{_WORDS}|{'|'.join(_ALL)}|.+ (?:{_WORDS})|Totale? .+)$"
_PLAIN: Final = re.compile(PLAIN)
_OF_ONE: Final = re.compile(rf"(?P<before>.+?) (?:{_WORDS})|Totale? (?P<behind>.+)", re.IGNORECASE)
#: numbers that tell rows apart and are no measures: ids and keys by their header, and years
_KEY: Final = re.compile(r"(?i)(?:^|.*[\s_(-])(?:id|ids|key|code|number|nummer)\)?$|.*[a-z](?-i:Id|ID)$|.*番号$")
_YEAR: Final = re.compile(r"(?i)(?:fiscal )?year(?: of .+)?|(?:jahr|année|año|anno|ano)(?:\W.*)?|年.*")
#: headers of measures that need not add up where others do
_NOT_ADDED: Final = re.compile(
    r"(?i)%|ø|\b(?:distinct|avg|average|mean|median|min|max|minimum|maximum|rate|ratio|percent|percentage|share|margin|probability|score|rank|per"
    r"|durchschnitt\w*|mittelwert|quote|anteil|moyenne|taux|media|média|promedio|tasa|taxa|tasso)\b"
)
_ANY: Final = frozenset({"", "*", "null"})  # what a total shows of fields in which the rows below it differ
MANY: Final = 100  # rows with a label, in which a column may still name totals whatever its other rows say
NAMED: Final = 3  # rows that a warning names
CELLS: Final = 6  # of a row


def label(cell: str | None) -> str | None:
    """What a cell with a total's label adds up: `""` everything, `East` for `East Total`; None for other cells."""
    if not cell:
        return None
    if _PLAIN.match(cell):
        return ""
    match = _OF_ONE.fullmatch(cell)
    return (match["before"] or match["behind"]) if match else None


@dataclass(frozen=True, slots=True)
class Guard:
    """How totals among the rows are judged and what becomes of them.

    A row is suspected when a cell says Total, All or East Total and other rows could be what it sums up. It is left out when its numbers are
    their sums. `policy` decides what becomes of one that proves nothing; without it that is a SourceError.

    `key` says which columns tell rows apart, `first_row` how people number the first row (None: not at all), and `exact` that numbers are
    not rounded.
    """

    place: str
    policy: Policy
    locale: str | None
    warn: Callable[[str], None]
    key: Callable[[str], bool] = lambda _: False
    first_row: int | None = 2
    exact: bool = False

    def gone(self, table: Table) -> set[int]:
        """The rows that are to be left out, by their place."""
        suspects = _suspects(table)
        if not suspects:
            return set()
        proven, doubtful = _Judge(table, suspects, self).verdict()
        if self.policy == "keep":
            if kept := sorted(proven | doubtful):
                named = self._named(table, kept[0], suspects)
                self.warn(
                    f"{self.place}: {_count(len(kept))} kept as `totals: keep` says; {'it' if len(kept) == 1 else 'the first'} is {named}"
                )
            return set()
        for number, place in enumerate(sorted(doubtful)):
            said = f"{self.place}: {self._named(table, place, suspects)} looks like a total, and no number proves it"
            if self.policy is None:
                raise SourceError(said, remedy="turn totals off in the view, or set `totals: drop` or `totals: keep`")
            if number < NAMED:
                self.warn(f"{said}: left out as `totals: drop` says")
        if gone := proven | doubtful:
            self.warn(f"{self.place}: {_count(len(gone))} left out")
        return gone

    def without(self, table: Table) -> Table:
        gone = self.gone(table)
        return _Without(table, gone) if gone else table

    def _named(self, table: Table, place: int, suspects: Mapping[int, Row]) -> str:
        cells = [f"{name} {cell[:40]!r}" for name, cell in zip(table.names, suspects[place], strict=True) if cell]
        shown = ", ".join(cells[:CELLS]) + (" …" if len(cells) > CELLS else "")
        return f"the row of {shown}" if self.first_row is None else f"row {place + self.first_row} ({shown})"


def _count(rows: int) -> str:
    return f"{rows} total row{'s' if rows > 1 else ''}"


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


def _suspects(table: Table) -> dict[int, Row]:
    """Rows with a total's label, by their place."""
    hits: list[list[int]] = [[] for _ in table.names]
    plain = [0] * len(table.names)
    rows = 0
    for batch in table.batches():
        for index, column in enumerate(batch.columns):
            found = pc.indices_nonzero(pc.match_substring_regex(column, LABELLED))
            hits[index] += [rows + row for row in found.to_pylist()]
            plain[index] += pc.sum(pc.match_substring_regex(column.take(found), PLAIN)).as_py() or 0
        rows += batch.num_rows
    # a column that says All in most rows, as one of a parameter does, names no totals
    wanted = {place for found, said in zip(hits, plain, strict=True) if said <= max(MANY, rows // 2) for place in found}
    suspects: dict[int, Row] = {}
    start = 0
    for batch in table.batches() if wanted else ():
        for place in sorted(place for place in wanted if start <= place < start + batch.num_rows):
            suspects[place] = [column[place - start].as_py() for column in batch.columns]
        start += batch.num_rows
    return suspects


# ── proof ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Column:
    """What the rows below a suspected total have in one column: their sum, and how far rounding may have taken it off."""

    sum: Decimal = Decimal(0)
    units: Decimal = Decimal(0)
    squares: Decimal = Decimal(0)
    whole: bool = True
    flags: bool = True

    def add(self, written: reading.Written, value: Decimal, mark: reading.Mark) -> None:
        place = unit(written, mark)
        self.sum += value
        self.units += place
        self.squares += place * place
        self.whole = self.whole and _is_count(written, value)
        self.flags = self.flags and value in (0, 1)

    def agrees(self, written: reading.Written, value: Decimal, mark: reading.Mark, *, exact: bool) -> bool:
        """Is `value` the sum? Whole numbers to the letter; others as far as rounding may explain, and never more than 2 %."""
        off = abs(value - self.sum)
        if off == 0 or (self.whole and _is_count(written, value)):
            return off == 0
        largest = max(abs(value), abs(self.sum))
        if off <= largest.scaleb(-9):  # a computer's addition
            return True
        half = unit(written, mark) / 2
        likely = 4 * (self.squares / 12).sqrt() + half  # four standard deviations of so many roundings
        return not exact and off <= min(likely, self.units / 2 + half, largest / 50)


@dataclass(slots=True)
class _Below:
    """The rows a suspect may sum up."""

    rows: int = 0
    columns: dict[int, _Column] = field(default_factory=dict)


def _is_count(written: reading.Written, value: Decimal) -> bool:
    """A whole number without currency, scale or percent sign is what it is, and not rounded."""
    return not (written.currency or written.exponent or written.percent) and value == value.to_integral_value()


class _Judge:
    """Which suspects are sums of other rows, and which might be totals but show no sum. Those nothing lies below are data."""

    def __init__(self, table: Table, suspects: Mapping[int, Row], guard: Guard) -> None:
        self._table, self._suspects, self._exact = table, suspects, guard.exact
        self._labels = {place: [label(cell) for cell in row] for place, row in suspects.items()}
        self._numbers = _number_columns(table)
        self._mark = reading.decimal_mark(guard.locale) if guard.locale else _mark(table, self._numbers)
        self._sure = {index for index, name in enumerate(table.names) if guard.key(name)}
        self._tops: dict[int, Decimal] = {}

    def verdict(self) -> tuple[set[int], set[int]]:
        """Proven and doubtful rows. One that agrees only in zeros and ones is proven by another total of the same columns."""
        groups = self._below()
        found = {place: self._judged(place, below) for place, below in groups.items() if below.rows}
        proven = {place for place, verdict in found.items() if verdict == "sum"}
        sound = {self._kind(place) for place in proven} - {self._kind(place) for place, verdict in found.items() if verdict == "no"}
        proven |= {place for place, verdict in found.items() if verdict == "trivial" and self._kind(place) in sound}
        return proven, set(found) - proven

    def _kind(self, place: int) -> tuple[bool, ...]:
        return tuple(said is not None for said in self._labels[place])

    def _below(self) -> dict[int, _Below]:
        """What lies below each suspect: the rows that are like it in all but labels, blanks and measures."""
        groups: dict[tuple[int, ...], dict[tuple[str | None, ...], _Below]] = {}
        below: dict[int, _Below] = {}
        for place, row in self._suspects.items():
            fixed = [(index, self._fixed(place, index, cell)) for index, cell in enumerate(row)]
            known = {index: cell for index, cell in fixed if cell}
            below[place] = groups.setdefault(tuple(known), {}).setdefault(tuple(known.values()), _Below())
        place = 0
        for batch in self._table.batches():
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if place not in self._suspects:
                    for indices, group in groups.items():
                        if (found := group.get(tuple(cells[index] for index in indices))) is not None:
                            self._add(found, cells)
                place += 1
        return below

    def _fixed(self, place: int, index: int, cell: str | None) -> str | None:
        """The cell the rows below share with a suspect in this column; nothing where they may differ."""
        said = self._labels[place][index]
        if said is not None:
            return said
        if (cell or "").casefold() in _ANY:
            return None
        return cell if index not in self._numbers or self._tells_apart(index, cell or "") else None

    def _tells_apart(self, index: int, cell: str) -> bool:
        """Whether a number is an id or a year. A sum is at least as large as what it adds up, so the largest of a column may be one."""
        name, value = self._table.names[index], self._value(cell)
        if index in self._sure:
            return True
        if value is None or value != value.to_integral_value() or AGGREGATED.match(name):
            return False
        return (1900 <= value <= 2100 and _YEAR.fullmatch(name) is not None) or (
            _KEY.fullmatch(name) is not None and value < self._top(index)
        )

    def _top(self, index: int) -> Decimal:
        """The largest number of a column, suspects aside."""
        if index not in self._tops:
            largest, place = Decimal(0), 0
            for batch in self._table.batches():
                for cell in batch.column(index).to_pylist():
                    if place not in self._suspects and (value := self._value(cell or "")) is not None:
                        largest = max(largest, value)
                    place += 1
            self._tops[index] = largest
        return self._tops[index]

    def _add(self, below: _Below, cells: Sequence[str | None]) -> None:
        below.rows += 1
        for index in self._numbers:
            written = reading.number((cells[index] or "").strip())
            if written and (value := written.value(self._mark)) is not None:
                below.columns.setdefault(index, _Column()).add(written, value, self._mark)

    def _judged(self, place: int, below: _Below) -> Verdict:
        """`sum` when a measure is the sum of those below and no other contradicts; `trivial` when only zeros and ones say so."""
        verdict: Verdict = "no"
        for index in self._numbers:
            cell = self._suspects[place][index] or ""
            written = reading.number(cell.strip())
            value = written.value(self._mark) if written else None
            if written is None or value is None or self._fixed(place, index, cell):
                continue
            column = below.columns.get(index)
            if column and column.agrees(written, value, self._mark, exact=self._exact):
                trivial = value == 0 or (column.flags and value == 1)
                verdict = verdict if trivial and verdict == "sum" else "trivial" if trivial else "sum"
            elif not (written.percent or _NOT_ADDED.search(self._table.names[index])):
                return "no"
        return verdict

    def _value(self, text: str) -> Decimal | None:
        written = reading.number(text.strip())
        return written.value(self._mark) if written else None


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
