"""What stands in and around a table on its sheet: what is ours to write, and what a teammate put there and must keep."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from sinks.excel.cells import Column
from sinks.excel.references import Area, carried, letters
from sinks.excel.sheet import Cell, Row, SheetReader, expanded
from sinks.excel.strings import SharedStrings

SAMPLE: Final = 64  # rows that decide a column's usual format and formula
_ATTRIBUTE: Final = re.compile(rb"""(\s([\w.:-]+)\s*=\s*("[^"]*"|'[^']*'))""")
_HIDDEN: Final = re.compile(rb"""\shidden\s*=\s*["'][^"']*["']""")
_OUTLINE: Final = re.compile(rb"""\soutlineLevel\s*=\s*["'][1-7]["']""")
_NOT_KEPT: Final = (b"r", b"spans")

#: of a run of whole rows, the index and text of those that are not plain
Recognise = Callable[[bytes], Iterator[tuple[int, bytes]]]


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

    For a table that is not there yet `last` is `first - 1` and `right` is `left - 1`. `start` is the first row that is written anew
    (0: `first`); rows below the table go down by `shift`.
    """

    top: int
    first: int
    last: int
    new_last: int
    left: int
    right: int
    slots: tuple[Slot, ...]
    totals: bool = False
    start: int = 0
    shift: int = 0

    @property
    def begin(self) -> int:
        return self.start or self.first

    @property
    def exists(self) -> bool:
        return self.last >= self.first

    @property
    def end(self) -> int:
        return self.last + self.totals

    @property
    def new_end(self) -> int:
        return self.new_last + self.totals

    @property
    def bottom(self) -> int:
        """The last row, as it is now, that the refresh writes anew."""
        return self.end if self.shift else max(self.end, self.new_end)

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

    def __init__(
        self,
        place: Place,
        strings: SharedStrings,
        key: Sequence[str],
        *,
        carries: bool = True,
        attached: frozenset[int] = frozenset(),
        hidden: bool = False,
    ) -> None:
        self.place = place
        self.strings = strings
        self.key_places = [slot.place for name in key for slot in place.slots if slot.ours and slot.ours.name == name]
        self.lead = ""
        self.header: Mapping[int, Cell] = {}
        self.header_attributes = b""
        self.header_style = 0
        self.total: Mapping[int, Cell] = {}
        self.total_attributes = b""
        self.beside: dict[int, Beside] = {}
        #: the outline level of rows the table grows over: what stands beside it stays grouped
        self.grouped: dict[int, str] = {}
        self.carried: dict[str, deque[Carried]] = {}
        self.styles: dict[int, int] = {}
        self.formulas: dict[int, str] = {}
        #: columns whose usual formula is an array formula: what their cells say about it
        self.arrays: dict[int, bytes] = {}
        self.blocked_below: list[str] = []
        self.blocked_right: list[str] = []
        self.has_formulas = False
        self.ends_plainly = False
        self.constants: str | None = None
        self.masters: dict[int, tuple[int, int, str]] = {}
        self._carries = carries
        self._attached = attached
        self._hidden = hidden
        self._sample: list[tuple[Row, list[Cell]]] = []
        self._decided = False

    def key(self, cells: Mapping[int, Cell], position: int) -> str:
        """What identifies a row of data: its key cells, or its place when the table has no key."""
        if not self.key_places:
            return str(position)
        return "\x1f".join(key_text(cells[place].value(self.strings) if place in cells else None) for place in self.key_places)

    def read(self, reader: SheetReader, recognise: Callable[[Region], Recognise | None]) -> None:
        """Take in the sheet's rows down to the region's last. `recognise` finds the rows of data that need a look, a block at a time."""
        place = self.place
        others: Recognise | None = None
        while True:
            block = reader.block(place.last) if others else None
            if block and others:
                for index, xml in others(block.text):
                    self._data(reader, reader.again(xml, block.first + index), None)
                reader.accept(block)
                continue
            row = reader.next_row()
            if row is None:
                break
            if row.number < place.top:
                reader.keep_row(row)
                continue
            decided = self._decided
            self._take(reader, row)
            if self._decided and not decided and not self._attached and place.new_right == place.right:
                others = recognise(self)
            if row.number >= place.bottom:
                break
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
        reader.keep_row(row)
        cells = reader.cells(row)
        self._set_beside(row.number, cells)
        inside = {cell.column: cell for cell in cells if place.left <= cell.column <= place.new_right}
        attributes = row_attributes(row.tag)
        self._note_formulas(cells, row.number)
        if row.number == place.top < place.first and place.exists:
            self.header, self.header_attributes = inside, attributes
            self._block_right(row.number, cells)
        elif place.totals and row.number == place.end:
            self.total, self.total_attributes = inside, attributes
            self._block_right(row.number, cells)
        elif row.number <= place.new_end:
            if row.number > place.end and (level := _OUTLINE.search(row.tag)):
                self.grouped[row.number] = level[0].decode()
            self.blocked_below += [f"{letters(cell.column)}{row.number}" for cell in inside.values() if not cell.blank]

    def _block_right(self, row: int, cells: Iterable[Cell]) -> None:
        new = range(self.place.right + 1, self.place.new_right + 1)
        self.blocked_right += [f"{letters(cell.column)}{row}" for cell in cells if cell.column in new and not cell.blank]

    def _set_beside(self, row: int, cells: Sequence[Cell]) -> None:
        left = tuple(cell for cell in cells if cell.column < self.place.left)
        right = tuple(cell for cell in cells if cell.column > self.place.new_right)
        if left or right:
            self.beside[row] = Beside(left, right)

    def _note_formulas(self, cells: Sequence[Cell], row: int) -> None:
        for cell in cells:
            formula = cell.formula
            if formula is not None:
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
                    if cell.formula.kind == "array":
                        self.arrays[cell.column] = cell.dynamic
        self.styles = {column: counts.most_common(1)[0][0] for column, counts in styles.items()}
        for slot in self.place.theirs:
            counts = formulas.get(slot.place)
            everywhere = bool(counts) and counts is not None and counts.total() == len(self._sample) and len(counts) == 1
            if counts and (slot.formula is not None or everywhere):
                self.formulas[slot.place] = counts.most_common(1)[0][0]
            elif slot.formula is not None:
                self.formulas[slot.place] = slot.formula
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
        attributes = row_attributes(row.tag)
        if not (self.key_places or self._hidden):  # without a key nobody knows which row was meant to be hidden
            attributes = _HIDDEN.sub(b"", attributes)
        self.ends_plainly = row.number == place.last and row.tag.startswith(f'<{self.lead}row r="{place.last}"'.encode())
        reader.keep_row(row)
        cells = cells if cells is not None else reader.cells(row)
        if cells and (cells[0].column < place.left or cells[-1].column > place.right):
            self._set_beside(row.number, cells)
            self._block_right(row.number, cells)
        self._note_formulas(cells, row.number)
        inside = {cell.column: cell for cell in cells if place.left <= cell.column <= place.right}
        if not self._carries:
            return
        kept: dict[int, Cell] = {}
        formats: dict[int, int] = {}
        for slot in place.slots:
            cell = inside.get(slot.place)
            if cell is None:
                continue
            usual = self.styles.get(slot.place, 0)
            if slot.ours is not None:
                if cell.style != usual:
                    formats[slot.place] = cell.style
            elif not self._default(cell, slot, row.number):
                kept[slot.place] = cell
                if self.constants is None and not cell.blank and not cell.formula:
                    self.constants = slot.heading
        if attributes or kept or formats or row.number in self._attached:
            key = self.key(inside, row.number - place.first)
            self.carried.setdefault(key, deque()).append(Carried(row.number, attributes, kept, formats))

    def know(self, keys: Mapping[int, str]) -> None:
        """Rows have a key that is not in their cells: what belongs to a row goes by it; with a row that has none, nothing goes."""
        rows = sorted((row for known in self.carried.values() for row in known), key=lambda row: row.row)
        self.carried = {}
        for row in rows:
            if row.row in keys:
                self.carried.setdefault(keys[row.row], deque()).append(row)

    def alone(self) -> Region:
        """The region on a sheet of its own: without what stands beside it."""
        other = copy(self)
        other.beside, other.grouped = {}, {}
        return other

    @property
    def orphaning(self) -> Mapping[int, tuple[int, int, str]]:
        """Shared formulas whose first cell is a row of data: cells elsewhere that share them need a formula of their own."""
        place = self.place
        return {
            group: master
            for group, master in self.masters.items()
            if place.first <= master[0] <= place.last and place.left <= master[1] <= place.right
        }

    def whole(self, reader: SheetReader, row: Row) -> Carried:
        """A row of data with everything in it, for tables whose rows stay."""
        reader.keep_row(row)
        inside = {cell.column: cell for cell in reader.cells(row) if self.place.left <= cell.column <= self.place.right}
        return Carried(row.number, row_attributes(row.tag), inside)

    def _default(self, cell: Cell, slot: Slot, row: int) -> bool:
        """Whether a teammate's cell holds what any new row would get anyway."""
        if cell.style != self.styles.get(slot.place, 0):
            return False
        if cell.formula is None:
            return cell.blank and slot.place not in self.formulas
        return slot.place in self.formulas and self._normal(cell, row) == self.formulas[slot.place]


def row_attributes(tag: bytes) -> bytes:
    """What somebody decided about a row: its height, format, outline, whether it is hidden. Not its number, nor what says nothing."""
    found = {name: text for text, name, value in _ATTRIBUTE.findall(tag) if name not in _NOT_KEPT and value[1:-1] not in (b"0", b"false")}
    for value, decided in ((b"ht", b"customHeight"), (b"s", b"customFormat")):
        if decided not in found:
            found.pop(value, None)
    return b"".join(text for name, text in found.items() if b":" not in name)


def key_text(value: float | str | bool | None) -> str:
    """A cell's value as part of a key; 7, 7.0 and "7" are one key, because Excel turns one into the other."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str):
        return value.strip()
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
