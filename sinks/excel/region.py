"""What stands in and around a table on its sheet: what is ours to write, and what a teammate put there and must keep."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sinks.excel.cells import Column
from sinks.excel.references import Area, carried, letters
from sinks.excel.sheet import Cell, Row, SharedStrings, SheetReader, expanded

SAMPLE: Final = 64  # rows that decide a column's usual format and formula
_IGNORED: Final = re.compile(rb"""\s(?:r|spans|[\w.-]+:dyDescent)\s*=\s*("[^"]*"|'[^']*')""")
_STYLES: Final = re.compile(rb"""\ss="([0-9]+)\"""")


@dataclass(frozen=True, slots=True)
class Slot:
    """One column of the table as it will be. `ours` is None for a teammate's; `formula` is what the table calls its calculation."""

    place: int
    heading: str
    ours: Column | None = None
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """What belongs to a row of data and is not ours: row attributes, a teammate's cells, formats that differ from the column's."""

    row: int
    attributes: bytes = b""
    cells: Mapping[int, Cell] = field(default_factory=dict)
    styles: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beside:
    """What shares a sheet row with the table without belonging to it."""

    left: tuple[Cell, ...] = ()
    right: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the table is and where it will be: header at `top`, data from `first`, old data to `last`, new data to `new_last`.

    For a table that is not there yet `last` is `first - 1` and `right` is `left - 1`.
    """

    top: int
    first: int
    last: int
    new_last: int
    left: int
    right: int
    slots: tuple[Slot, ...]
    totals: bool = False

    @property
    def end(self) -> int:
        return self.last + self.totals

    @property
    def new_end(self) -> int:
        return self.new_last + self.totals

    @property
    def bottom(self) -> int:
        """The last row the refresh looks at."""
        return max(self.end, self.new_end)

    @property
    def new_right(self) -> int:
        return self.slots[-1].place

    @property
    def area(self) -> Area:
        return Area(self.top, self.left, self.new_end, self.new_right)

    @property
    def theirs(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.ours is None)


class Region:
    """The rows of a sheet from the table's header to the last row it had or will have, read once."""

    def __init__(self, place: Place, strings: SharedStrings, key: Sequence[str], *, everything: bool = False) -> None:
        self.place = place
        self.strings = strings
        self.key_places = [slot.place for name in key for slot in place.slots if slot.ours and slot.ours.name == name]
        self.lead = ""
        self.header: Mapping[int, Cell] = {}
        self.header_attributes = b""
        self.total: Mapping[int, Cell] = {}
        self.total_attributes = b""
        self.beside: dict[int, Beside] = {}
        self.carried: dict[str, deque[Carried]] = {}
        self.order: list[str] = []
        self.styles: dict[int, int] = {}
        self.formulas: dict[int, str] = {}
        self.blocked: list[str] = []
        self.has_formulas = False
        self.constants: str | None = None
        self.masters: dict[int, tuple[int, int, str]] = {}
        self._everything = everything
        self._sample: list[tuple[Row, list[Cell]]] = []
        self._decided = False
        self._usual: list[bytes] = []

    def key(self, cells: Mapping[int, Cell], position: int) -> str:
        """What identifies a row of data: its key cells, or its place when the table has no key."""
        if not self.key_places:
            return str(position)
        return "\x1f".join(key_text(cells[place].value(self.strings) if place in cells else None) for place in self.key_places)

    def read(self, reader: SheetReader, rows: Iterable[Row]) -> None:
        """Take in the rows of the region; rows above it must not be among them."""
        for row in rows:
            self._take(reader, row)
        self._decide(reader)

    def _take(self, reader: SheetReader, row: Row) -> None:
        place = self.place
        if place.first <= row.number <= place.last:
            if self._decided:
                self._data(reader, row, None)
            else:
                self._sample.append((row, reader.cells(row)))
                if len(self._sample) == SAMPLE:
                    self._decide(reader)
            return
        self._keep(reader, row)
        cells = reader.cells(row)
        self._set_beside(row.number, cells)
        inside = {cell.column: cell for cell in cells if place.left <= cell.column <= place.new_right}
        attributes = _IGNORED.sub(b"", _attributes(row.tag))
        self._note_formulas(cells, row.number)
        if row.number == place.top and place.top < place.first and place.last >= place.first:
            self.header, self.header_attributes = inside, attributes
            self._block(row.number, (cell for cell in inside.values() if cell.column > place.right))
        elif place.totals and row.number == place.end:
            self.total, self.total_attributes = inside, attributes
            self._block(row.number, (cell for cell in inside.values() if cell.column > place.right))
        elif row.number <= place.new_end:
            self._block(row.number, inside.values())

    def _keep(self, reader: SheetReader, row: Row) -> None:
        reader.keep(row.tag if row.empty else row.tag + row.content + b"</" + reader.lead + b"row>")

    def _block(self, row: int, cells: Iterable[Cell]) -> None:
        self.blocked += [f"{letters(cell.column)}{row}" for cell in cells if not cell.blank]

    def _set_beside(self, row: int, cells: Sequence[Cell]) -> None:
        left = tuple(cell for cell in cells if cell.column < self.place.left)
        right = tuple(cell for cell in cells if cell.column > self.place.new_right)
        if left or right:
            self.beside[row] = Beside(left, right)

    def _note_formulas(self, cells: Sequence[Cell], row: int) -> None:
        for cell in cells:
            formula = cell.formula
            if formula:
                self.has_formulas = True
                if formula.kind == "shared" and formula.text and formula.group is not None:
                    self.masters[formula.group] = (row, cell.column, formula.text)

    def _decide(self, reader: SheetReader) -> None:
        """From the first rows of data, each column's usual format and formula."""
        if self._decided:
            return
        self._decided = True
        styles: dict[int, Counter[int]] = {}
        formulas: dict[int, Counter[str]] = {}
        for row, cells in self._sample:
            self._note_formulas(cells, row.number)
            for cell in cells:
                styles.setdefault(cell.column, Counter())[cell.style] += 1
                if cell.formula:
                    formulas.setdefault(cell.column, Counter())[self._normal(cell, row.number)] += 1
        self.styles = {column: counts.most_common(1)[0][0] for column, counts in styles.items()}
        for slot in self.place.theirs:
            counts = formulas.get(slot.place)
            everywhere = bool(counts) and counts is not None and counts.total() == len(self._sample) and len(counts) == 1
            if counts and (slot.formula is not None or everywhere):
                self.formulas[slot.place] = counts.most_common(1)[0][0]
            elif slot.formula is not None:
                self.formulas[slot.place] = slot.formula
        self._usual = [str(style).encode() for slot in self.place.slots if (style := self.styles.get(slot.place, 0))]
        sample, self._sample = self._sample, []
        for row, cells in sample:
            self._data(reader, row, cells)

    def _normal(self, cell: Cell, row: int) -> str:
        """A cell's formula as it would read in the first row of data."""
        formula = cell.formula
        assert formula is not None
        text = expanded(formula, self.masters, row, cell.column)
        return carried(text, self.place.first - row, self.place.first, self.place.last)

    def _data(self, reader: SheetReader, row: Row, cells: list[Cell] | None) -> None:
        """One row of data: remember what does not come from us."""
        place = self.place
        attributes = _IGNORED.sub(b"", _attributes(row.tag))
        plain = not self._everything and not place.theirs and not attributes and place.new_right == place.right
        if plain and self._ours_only(row):
            return
        self._keep(reader, row)
        cells = cells if cells is not None else reader.cells(row)
        self._set_beside(row.number, cells)
        self._note_formulas(cells, row.number)
        inside = {cell.column: cell for cell in cells if place.left <= cell.column <= place.right}
        self._block(row.number, (cell for cell in cells if place.right < cell.column <= place.new_right))
        kept: dict[int, Cell] = {}
        formats: dict[int, int] = {}
        for slot in place.slots:
            cell = inside.get(slot.place)
            if cell is None:
                continue
            usual = self.styles.get(slot.place, 0)
            if self._everything:
                kept[slot.place] = cell
            elif slot.ours is not None:
                if cell.style != usual:
                    formats[slot.place] = cell.style
            elif not self._default(cell, slot, row.number):
                kept[slot.place] = cell
                if self.constants is None and not cell.blank and not cell.formula:
                    self.constants = slot.heading
        key = self.key(inside, row.number - place.first)
        if self._everything:
            self.order.append(key)
        if attributes or kept or formats:
            self.carried.setdefault(key, deque()).append(Carried(row.number, attributes, kept, formats))

    def _default(self, cell: Cell, slot: Slot, row: int) -> bool:
        """Whether a teammate's cell holds what any new row would get anyway."""
        if cell.style != self.styles.get(slot.place, 0):
            return False
        if cell.formula is None:
            return cell.blank and slot.place not in self.formulas
        return slot.place in self.formulas and self._normal(cell, row) == self.formulas[slot.place]

    def _ours_only(self, row: Row) -> bool:
        """A quick look at a row of a table that is all ours: nothing beside it, no formulas, no formats of its own."""
        content = row.content
        first, last = content.find(b'<c r="'), content.rfind(b'<c r="')
        if first < 0 or content.find(b"<f") >= 0:
            return False
        if _column(content, first + 6) < self.place.left or _column(content, last + 6) > self.place.right:
            return False
        return _STYLES.findall(content) == self._usual


def _column(content: bytes, at: int) -> int:
    value = 0
    while 65 <= (code := content[at]) <= 90:
        value = value * 26 + code - 64
        at += 1
    return value


def _attributes(tag: bytes) -> bytes:
    """What stands between the name and the end of an opening tag."""
    return b"".join(re.split(rb"(?=\s)", tag, maxsplit=1)[1:]).rstrip(b"/> \t\r\n")


def key_text(value: float | str | bool | None) -> str:
    """A cell's value as part of a key; 7, 7.0 and "7" are one key, because Excel turns one into the other."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str):
        return value.strip()
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
