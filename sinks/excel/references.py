"""Cell references: reading them, finding them in formulas, and moving them when a table grows or shrinks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

from connector.errors import TargetError

ROWS: Final = 1_048_576
COLUMNS: Final = 16_384

_AREA: Final = re.compile(r"(\$?)([A-Za-z]{1,3})(\$?)([0-9]{1,7})(?::(\$?)([A-Za-z]{1,3})(\$?)([0-9]{1,7}))?")
_TOKEN: Final = re.compile(
    r"""
      "(?:[^"]|"")*"                                                                  # text
    | (?P<sheet>'(?:[^']|'')+'!|(?:\[[^\[\]]*\])?[^\W\d][\w.?]*(?::[\w.?]+)?!)?        # sheet, workbook or span of sheets
      (?P<area>\$?[A-Za-z]{1,3}\$?[0-9]{1,7}(?::\$?[A-Za-z]{1,3}\$?[0-9]{1,7})?|(?P<rows>\$?[0-9]{1,7}:\$?[0-9]{1,7}))(?![\w(.!\[])
    | [^\W\d][\w.?\\]*                                                                # functions and names
    | [0-9]+(?:\.[0-9]*)?(?:[Ee][+-]?[0-9]+)?                                         # numbers
    | \[(?:[^\[\]']|'.|\[(?:[^\[\]']|'.)*\])*\]                                       # columns of a table
    """,
    re.VERBOSE,
)


@cache
def letters(column: int) -> str:
    """27 → AA."""
    text = ""
    while column:
        column, digit = divmod(column - 1, 26)
        text = chr(65 + digit) + text
    return text


@cache
def number(column: str) -> int:
    """AA → 27."""
    value = 0
    for letter in column.upper():
        value = value * 26 + ord(letter) - 64
    return value


@dataclass(frozen=True, slots=True, order=True)
class Area:
    """Cells from the top left to the bottom right, both included, counted from 1."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def read(cls, text: str) -> Self:
        """`B2:D9` or `B2`, with or without $. Raises TargetError for anything else or beyond the sheet."""
        found = _AREA.fullmatch(text.strip())
        if not found:
            raise TargetError(f"{text[:40]!r} is not a cell or range", remedy="write it like B2 or B2:D9")
        left, top = number(found[2]), int(found[4])
        right, bottom = (number(found[6]), int(found[8])) if found[6] else (left, top)
        if not (1 <= top <= bottom <= ROWS and 1 <= left <= right <= COLUMNS):
            raise TargetError(f"{text[:40]!r} is not a range of a sheet (A1 to XFD{ROWS})", remedy="name cells a sheet has")
        return cls(top, left, bottom, right)

    def __str__(self) -> str:
        first = f"{letters(self.left)}{self.top}"
        last = f"{letters(self.right)}{self.bottom}"
        return first if first == last else f"{first}:{last}"

    @property
    def span(self) -> str:
        """Always with a colon, as a table's `ref` is written."""
        return f"{letters(self.left)}{self.top}:{letters(self.right)}{self.bottom}"

    def overlaps(self, other: Area) -> bool:
        return self.top <= other.bottom and other.top <= self.bottom and self.left <= other.right and other.left <= self.right


@dataclass(frozen=True, slots=True)
class Move:
    """What a refresh did to one sheet: the table's data ended at row `last`, now ends at `new_last`.

    The header (or, without one, the first data row) is at `top`, the first data row at `first`; `totals` says that a total row follows the data.
    Whole rows from `shift_from` on went down by `shift_by`. With `to` the table itself moved to another sheet, to the same cells.
    """

    sheet: str
    left: int
    right: int
    top: int
    first: int
    last: int
    new_last: int
    totals: bool = False
    shift_from: int = ROWS + 1
    shift_by: int = 0
    to: str = ""

    @property
    def end(self) -> int:
        return self.last + self.totals

    @property
    def new_end(self) -> int:
        return self.new_last + self.totals

    @property
    def whole(self) -> Area:
        """The table, before and after."""
        return Area(self.top, self.left, max(self.end, self.new_end), self.right)

    def __bool__(self) -> bool:
        return self.last != self.new_last or bool(self.shift_by or self.to)

    def row(self, row: int) -> int:
        """Where a row that is not the table's went."""
        return min(row + self.shift_by, ROWS) if row >= self.shift_from else row

    def area(self, area: Area, *, single: bool = False) -> Area:
        """Where a reference points afterwards. `single` says it was written as one cell, which never grows."""
        inside = self.left <= area.left and area.right <= self.right
        if inside and self.totals and area.top == area.bottom == self.end:
            return Area(self.new_end, area.left, self.new_end, area.right)
        if inside and not single and area.top in (self.top, self.first) and area.bottom in (self.last, self.end):
            return Area(area.top, area.left, area.bottom - self.last + self.new_last, area.right)
        across = area.left <= self.right and self.left <= area.right
        if across and not single and area.top <= self.top and area.bottom >= self.end:
            bottom = self.new_end if area.bottom == self.end else max(self.row(area.bottom), self.new_end)
            return Area(area.top, area.left, bottom, area.right)
        return Area(self.row(area.top), area.left, self.row(area.bottom), area.right)

    @property
    def home(self) -> str:
        """The sheet the table is on afterwards."""
        return self.to or self.sheet

    def formula(self, text: str, sheet: str | None, now: str | None = None) -> str:
        """A formula standing on `sheet` (None: a name, a chart: every reference names its sheet) after the move; `now` is where it then stands."""

        def moved(where: str | None, lead: str, area: str) -> str:
            target = where if where is not None else sheet or ""
            if target.casefold() == self.sheet.casefold():
                if self.to and self._covers(area):
                    target = self.to
                    lead = f"{quoted(target)}!"
                area = moved_text(area, self)
            if where is None:
                lead = "" if target == (now or sheet or "") else f"{quoted(target)}!"
            return lead + area

        return each_reference(text, moved)

    def own(self, text: str) -> str:
        """A formula of the table's own cells."""
        return self.formula(text, self.sheet, self.home)

    def _covers(self, area: str) -> bool:
        """Whether a reference means cells of the table, as it stood."""
        found = _AREA.fullmatch(area)
        if not found or int(found[4]) < self.top or number(found[2]) < self.left:
            return False
        return int(found[8] or found[4]) <= self.end and number(found[6] or found[2]) <= self.right

    def areas(self, text: str) -> str:
        """A list of ranges (`sqref`) on the table's own sheet; a rule over a table of one row grows with it."""
        if self.to:
            return text
        return " ".join(str(self.area(Area.read(part))) if _AREA.fullmatch(part) else part for part in text.split())


def moved_text(text: str, move: Move) -> str:
    """`$B$2:B9` after a move, with its dollar signs."""
    found = _AREA.fullmatch(text)
    if not found:  # whole rows: 3:4
        first, last = text.split(":")
        return ":".join(("$" if part.startswith("$") else "") + str(move.row(int(part.lstrip("$")))) for part in (first, last))
    try:
        before = Area.read(text)
    except TargetError:  # B9:A1, ZZZ9: names and ranges of another order stay as they are
        return text
    after = move.area(before, single=found[6] is None)
    if after == before:
        return text
    start = f"{found[1]}{found[2]}{found[3]}{after.top}"
    return start if found[6] is None else f"{start}:{found[5]}{found[6]}{found[7]}{after.bottom}"


def each_reference(formula: str, change: Callable[[str | None, str, str], str]) -> str:
    """The formula with every reference replaced by `change(sheet or None, sheet as written, cells)`; texts, names and table columns stay."""

    def one(match: re.Match[str]) -> str:
        area = match["area"]
        if area is None:
            return match[0]
        sheet = match["sheet"]
        if sheet is not None:
            name = sheet[:-1]
            name = name[1:-1].replace("''", "'") if name.startswith("'") else name
            return change(name, str(sheet), area)
        return change(None, "", area)

    return _TOKEN.sub(one, formula)


def carried(formula: str, rows: int, top: int, bottom: int, last: int | None = None) -> str:
    """A formula copied `rows` further down, as Excel's sort and fill do: relative references to rows top…bottom go along.

    A reference to all rows of data (top…`last`, or `bottom`) stays: it means the column, not the row.
    """
    whole = (str(top), str(bottom if last is None else last))
    if not rows:
        return formula

    def moved(sheet: str | None, lead: str, area: str) -> str:
        found = _AREA.fullmatch(area)
        if sheet is not None or not found or (whole[0] != whole[1] and (found[4], found[8]) == whole):
            return lead + area

        def line(dollar: str | None, row: str | None) -> str:
            if row is None:
                return ""
            goes = not dollar and top <= int(row) <= bottom
            return str(min(ROWS, max(1, int(row) + rows))) if goes else row

        start = f"{found[1]}{found[2]}{found[3]}{line(found[3], found[4])}"
        return start if found[6] is None else f"{start}:{found[5]}{found[6]}{found[7]}{line(found[7], found[8])}"

    return each_reference(formula, moved)


def shared(formula: str, rows: int, columns: int) -> str:
    """The text of a shared formula in a cell `rows` below and `columns` right of the cell that holds it."""

    def moved(_: str | None, lead: str, area: str) -> str:
        found = _AREA.fullmatch(area)
        if not found:
            return lead + area

        def cell(dollar: str, column: str, fixed: str, row: str) -> str:
            name = column if dollar else letters((number(column) + columns - 1) % COLUMNS + 1)
            line = row if fixed else str((int(row) + rows - 1) % ROWS + 1)
            return f"{dollar}{name}{fixed}{line}"

        start = cell(found[1], found[2], found[3], found[4])
        return lead + (start if found[6] is None else f"{start}:{cell(found[5], found[6], found[7], found[8])}")

    return each_reference(formula, moved)


def quoted(sheet: str) -> str:
    """A sheet's name as a reference writes it."""
    plain = re.fullmatch(r"[^\W\d][\w.]*", sheet) and not _AREA.fullmatch(sheet) and not re.fullmatch(r"[Rr]?[0-9]*[Cc]?[0-9]*", sheet)
    return sheet if plain else "'" + sheet.replace("'", "''") + "'"
