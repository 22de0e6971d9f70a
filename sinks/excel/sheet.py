"""A worksheet's text, read as a stream of rows between a head and a tail, so that rows nobody changes are copied as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import unescape

from connector.errors import TargetError
from sinks.excel.markup import MAIN, Element, damaged, guard, parse, utf8
from sinks.excel.references import COLUMNS, ROWS, letters, number, shared
from sinks.excel.strings import SharedStrings
from sinks.excel.table import unescaped

MAX_HEAD: Final = 32 << 20
MAX_ROW: Final = 64 << 20
LEAST_BLOCK: Final = 1 << 16

_SHEET_DATA: Final = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?)sheetData(?:\s[^<>]*?)?(/?)>")
_ENTITIES: Final = {"&quot;": '"', "&apos;": "'"}
_ROW_NUMBER: Final = re.compile(rb"""\sr\s*=\s*["']([0-9]{1,7})["']""")
_TAG_END: Final = re.compile(rb"""(?:[^>"']|"[^"]*"|'[^']*')*>""")
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_VALUES: Final = (b"<v>", b"<is>")
_CONTENT: Final = re.compile(rb"<(?:[\w.-]+:)?(?:v|f|is)\b")
_VALUE: Final = re.compile(rb"<(?:[\w.-]+:)?v(?:\s[^>]*)?>(.*?)</", re.DOTALL)
_FORMULA: Final = re.compile(rb"""<(?:[\w.-]+:)?f((?:\s(?:[^>"']|"[^"]*"|'[^']*')*?)?)(?:/>|>(.*?)</)""", re.DOTALL)
_STYLE: Final = re.compile(rb"""\ss\s*=\s*["']([0-9]{1,9})["']""")
_KIND: Final = re.compile(rb"""\st\s*=\s*["'](\w+)["']""")
_GROUP: Final = re.compile(rb"""\ssi\s*=\s*["']([0-9]{1,9})["']""")
_DYNAMIC: Final = re.compile(rb"""\scm\s*=\s*["'][0-9]{1,9}["']""")
_NUMBER_REFERENCE: Final = re.compile(r"&#(?:x([0-9A-Fa-f]+)|([0-9]+));")


@dataclass(frozen=True, slots=True)
class Row:
    """A row's number, its opening tag and its content. `xml` is the whole."""

    number: int
    tag: bytes
    content: bytes
    numbered: bool

    @property
    def empty(self) -> bool:
        return self.tag.endswith(b"/>")


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `first` to `last` as they stand."""

    first: int
    last: int
    text: bytes


@dataclass(slots=True)
class Cell:
    """A cell as it stands: its column, the attributes of its tag without `r`, and what is inside."""

    column: int
    attributes: bytes
    content: bytes
    lead: bytes = b""

    @property
    def style(self) -> int:
        return _style(self.attributes)

    @property
    def type(self) -> str:
        return _type(self.attributes)

    @property
    def dynamic(self) -> bytes:
        """What marks a formula as one of today's array formulas (`cm`); without it Excel would show the older kind."""
        found = _DYNAMIC.search(self.attributes)
        return found[0] if found else b""

    @property
    def blank(self) -> bool:
        """Nothing but formatting."""
        return not self.content or not _CONTENT.search(self.content)

    @property
    def formula(self) -> Formula | None:
        if not self.content or self.content.startswith(_VALUES):  # a formula comes first
            return None
        found = _FORMULA.search(self.content)
        if not found:
            return None
        kind, group = _KIND.search(found[1]), _GROUP.search(found[1])
        return Formula(plain(found[2] or b""), kind[1].decode() if kind else "normal", int(group[1]) if group else None, found[1])

    def value(self, strings: SharedStrings) -> float | str | bool | None:
        """What the cell shows, ignoring formats: number, text, flag, or None when it is empty."""
        kind = self.type
        if kind == "inlineStr":
            return unescaped("".join(plain(text) for text in _texts(self.content))) or None
        found = _VALUE.search(self.content)
        if not found or not found[1]:
            return None
        text = plain(found[1])
        if kind == "s":
            return strings[text] or None
        if kind == "b":
            return text.strip() in ("1", "true")
        if kind in ("str", "e", "d"):
            return unescaped(text) or None
        try:
            return float(text)
        except ValueError:
            return text

    def at(self, row: int, column: int | None = None) -> bytes:
        """The cell's text in another place."""
        place = f"{letters(column or self.column)}{row}".encode()
        start = b"<" + self.lead + b'c r="' + place + b'"' + self.attributes
        return start + b"/>" if not self.content else start + b">" + self.content + b"</" + self.lead + b"c>"


@lru_cache(maxsize=4096)
def _style(attributes: bytes) -> int:
    found = _STYLE.search(attributes)
    return int(found[1]) if found else 0


@lru_cache(maxsize=4096)
def _type(attributes: bytes) -> str:
    found = _KIND.search(attributes)
    return found[1].decode() if found else "n"


@dataclass(frozen=True, slots=True)
class Formula:
    text: str
    kind: str
    group: int | None
    attributes: bytes


class SheetReader:
    """One pass over a worksheet: `head`, then `rows()` (some or all), then `rest()` for the rows nobody looks at, then `tail`.

    What is copied from the original must pass `keep`, a parser that refuses anything that is not well-formed.
    """

    def __init__(self, pieces: Iterator[bytes], part: str) -> None:
        self._pieces = pieces
        self._part = part
        self._at = 0
        self._buffer = b""
        self._row = 0
        self._start = self._before = 0
        self._read = self._looked = 0
        self.tail = b""
        self._read_head()
        self._guard = guard()
        self.keep(self.head)

    def _read_head(self) -> None:
        found = None
        while found is None:
            if len(self._buffer) > MAX_HEAD or not self._more():
                raise damaged(self._part, "it has no rows part (sheetData)")
            found = _SHEET_DATA.search(self._buffer)
        start = self._buffer[:200]
        if utf8(start, self._part) is not start:
            raise damaged(self._part, "its text is not UTF-8")
        self.lead = found[1]
        self.head = self._buffer[: found.start()] + b"<" + self.lead + b"sheetData>"
        self._at = found.end()
        self._open, self._close = b"<" + self.lead + b"row", b"</" + self.lead + b"row"
        self._end = b"</" + self.lead + b"sheetData"
        if found[2]:
            self._buffer = self._buffer[: found.end()] + self._end + b">" + self._buffer[found.end() :]

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        self._read += 1
        return True

    def _need(self, size: int) -> None:
        while len(self._buffer) - self._at < size:
            if not self._more():
                raise damaged(self._part, "it ends within its rows")

    def _find(self, mark: bytes, start: int) -> int:
        """The place of `mark` at or after `start` (relative to the current place), reading on as needed."""
        while (found := self._buffer.find(mark, self._at + start)) < 0:
            if len(self._buffer) - self._at > MAX_ROW:
                raise damaged(self._part, "it has an endless row")
            start = max(start, len(self._buffer) - self._at - len(mark))
            if not self._more():
                raise damaged(self._part, "it ends within its rows")
        return found - self._at

    def rows(self) -> Iterator[Row]:
        """The next rows, in order. Stop iterating to hand over to `rest`: the row last given is consumed."""
        while (row := self.next_row()) is not None:
            yield row

    def next_row(self) -> Row | None:
        """The next row, or None at the end of the rows."""
        self._skip_space()
        self._need(len(self._end) + 1)
        if self._buffer.startswith(self._end, self._at):
            return None
        if not self._buffer.startswith(self._open, self._at) or self._buffer[self._at + len(self._open)] not in b" />\t\r\n":
            raise damaged(self._part, "something other than rows stands among its rows")
        first = self._find(b">", len(self._open))
        tag_end = _TAG_END.match(self._buffer, self._at)
        while tag_end is None:
            first = self._find(b">", first + 1)
            tag_end = _TAG_END.match(self._buffer, self._at)
        length = tag_end.end() - self._at
        tag = self._buffer[self._at : self._at + length]
        content = b""
        if not tag.endswith(b"/>"):
            close = self._find(self._close, length)
            end = self._find(b">", close) + 1
            content = self._buffer[self._at + length : self._at + close]
            if b"<!" in content or b"<?" in content:
                raise damaged(self._part, "its rows hold comments or raw sections")
            length = end
        self._start, self._before = self._at, self._row
        self._at += length
        found = _ROW_NUMBER.search(tag)
        number = int(found[1]) if found else self._row + 1
        if not self._row < number <= ROWS:
            raise damaged(self._part, f"row {number} stands after row {self._row}")
        self._row = number
        return Row(number, tag, content, found is not None)

    def reach(self, row: int) -> None:
        """Go on until the next row is numbered `row` or more."""
        while (found := self.next_row()) is not None:
            if found.number >= row:
                self._at, self._row = self._start, self._before
                return

    def _skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer) or not self._more():
                return

    def rest(self) -> Iterator[bytes]:
        """All rows not yet given, as text in pieces; then `tail` is set."""
        while (found := self._buffer.find(self._end, self._at)) < 0:
            keep = max(self._at, len(self._buffer) - len(self._end))
            if keep > self._at:
                piece = self._buffer[self._at : keep]
                self._at = keep
                yield piece
            if not self._more():
                raise damaged(self._part, "it ends within its rows")
        if found > self._at:
            yield self._buffer[self._at : found]
        self._at = found
        self.finish()

    def finish(self) -> None:
        """Read what follows the rows."""
        self._at += self._find(b">", 0) + 1
        pieces = [self._buffer[self._at :]]
        size = 0
        for piece in self._pieces:
            size += len(piece)
            if size > MAX_HEAD:
                raise damaged(self._part, "what follows its rows is too large")
            pieces.append(piece)
        self.tail = b"</" + self.lead + b"sheetData>" + b"".join(pieces)

    def xml(self, row: Row) -> bytes:
        """A row as it stands."""
        return row.tag if row.empty else row.tag + row.content + self._close + b">"

    def again(self, xml: bytes, number: int) -> Row:
        """A row as text, read the way this sheet's rows are."""
        tag_end = _TAG_END.match(xml)
        found = tag_end and _ROW_NUMBER.search(tag_end[0])
        if not tag_end or not found or int(found[1]) != number or not xml.startswith(self._open) or b"<!" in xml or b"<?" in xml:
            raise damaged(self._part, f"something other than row {number} stands in its place")
        tag = tag_end[0]
        return Row(number, tag, b"" if tag.endswith(b"/>") else xml[len(tag) : xml.rindex(self._close)], numbered=True)

    def block(self, last: int) -> Block | None:
        """The whole rows at hand, when they follow each other without a gap and end above row `last`. `accept` takes them."""
        if len(self._buffer) - self._at < LEAST_BLOCK and not self._more():
            return None
        if self._looked == self._read:  # what is at hand has no such block
            return None
        self._looked = self._read
        end = self._buffer.rfind(self._close + b">", self._at)
        text = self._buffer[self._at : end + len(self._close) + 1] if end > 0 else b""
        count = text.count(self._close + b">")
        final = self._row + count
        if (
            not count
            or final >= last
            or text.rfind(self._open + b' r="%d"' % final) <= text.rfind(self._close, 0, len(text) - len(self._close) - 1)
        ):
            return None
        return Block(self._row + 1, final, text)

    def accept(self, block: Block) -> None:
        """Go on behind a block."""
        self._at += len(block.text)
        self._row = block.last

    def take(self, expected: memoryview, rows: int) -> bool:
        """Whether the next rows are exactly these; if so, go on behind them."""
        here = [self._buffer[self._at :]]
        missing = len(expected) - len(here[0])
        while missing > 0 and (piece := next(self._pieces, None)) is not None:
            here.append(piece)
            missing -= len(piece)
        if len(here) > 1:
            self._buffer, self._at = b"".join(here), 0
        if memoryview(self._buffer)[self._at : self._at + len(expected)] != expected:
            return False
        self._at += len(expected)
        self._row += rows
        return True

    def skip_past(self, row: int) -> None:
        """Go on behind a row that is known to be there and to say its number first, without looking at the rows before it."""
        mark = self._open + b' r="%d"' % row
        while (found := self._buffer.find(mark, self._at)) < 0:
            self._at = max(self._at, len(self._buffer) - len(mark))
            if not self._more():
                raise damaged(self._part, "it ends within its rows")
        self._at = found
        self.next_row()

    def keep_row(self, row: Row) -> None:
        self.keep(self.xml(row))

    def keep(self, text: bytes) -> None:
        """Refuse text that is not well-formed where it stands."""
        try:
            self._guard.Parse(text, False)
        except expat.ExpatError as error:
            raise damaged(self._part, f"it is not well-formed XML ({error})") from error

    def cells(self, row: Row) -> list[Cell]:
        """A row's cells, in order; columns nobody wrote down are counted."""
        found = []
        previous = 0
        lead = self.lead
        for name, attributes, content in _cell_pattern(lead).findall(row.content):
            if name:
                column = _number(name)
            else:
                column, attributes = _elsewhere(attributes, previous + 1)  # noqa: PLW2901 - without the place
            if not previous < column <= COLUMNS:
                raise damaged(self._part, f"the cells of row {row.number} are out of order")
            found.append(Cell(column, attributes, content, lead))
            previous = column
        return found


_CELL_PLACE: Final = re.compile(rb"""\sr\s*=\s*["']([A-Za-z]{1,3})[0-9]{1,7}["']""")


@lru_cache(maxsize=64)
def _cell_pattern(lead: bytes) -> re.Pattern[bytes]:
    """A cell: its column where that is said first, its other attributes, its content."""
    name = re.escape(lead + b"c")
    attributes = rb"""((?:\s(?:[^>"']|"[^"]*"|'[^']*')*?)?)"""
    return re.compile(
        rb"<" + name + rb"""(?: r="([A-Z]{1,3})[0-9]{1,7}")?""" + attributes + rb"\s*(?:/>|>(.*?)</" + name + rb"\s*>)", re.DOTALL
    )


@lru_cache(maxsize=COLUMNS)
def _number(column: bytes) -> int:
    return number(column.decode())


def _elsewhere(attributes: bytes, following: int) -> tuple[int, bytes]:
    """The column of a cell that does not say it first, or not at all; and its other attributes."""
    place = _CELL_PLACE.search(attributes)
    if place is None:
        return following, attributes
    return number(place[1].decode()), attributes[: place.start()] + attributes[place.end() :]


def _texts(content: bytes) -> list[bytes]:
    without = re.sub(rb"<(?:[\w.-]+:)?rPh\b.*?</(?:[\w.-]+:)?rPh>", b"", content, flags=re.DOTALL)
    return re.findall(rb"<(?:[\w.-]+:)?t(?:\s[^>]*)?>(.*?)</", without, re.DOTALL)


def plain(xml: bytes) -> str:
    """Character data as text: entities and character references resolved."""
    text = xml.decode("utf-8", "replace")
    if "&" not in text:
        return text
    text = _NUMBER_REFERENCE.sub(lambda match: _character(int(match[1], 16) if match[1] else int(match[2])), text)
    return unescape(text, _ENTITIES)


def _character(code: int) -> str:
    return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A sheet without its rows: its text, its tree, and where in the text the rows stand."""

    data: bytes
    root: Element
    at: int


def skeleton(head: bytes, tail: bytes, part: str) -> Skeleton:
    """The sheet without its rows. Raises TargetError unless it is a worksheet whose rows stood where they should."""
    data = head + tail
    root = parse(data, part)
    rows = root.find("sheetData")
    if root.name != "worksheet" or root.space != MAIN or rows is None or rows.inner != len(head) or rows.space != MAIN:
        raise damaged(part, "it is not a worksheet")
    return Skeleton(data, root, len(head))


def expanded(formula: Formula, masters: Mapping[int, tuple[int, int, str]], row: int, column: int) -> str:
    """The text of a cell's formula, also when it only says that it shares another cell's."""
    if formula.kind != "shared" or formula.group is None or formula.text:
        return formula.text
    if formula.group not in masters:
        raise TargetError(
            f"cell {letters(column)}{row} shares a formula with a cell that is not there",
            remedy="open the workbook in Excel and save it again",
        )
    at_row, at_column, text = masters[formula.group]
    return shared(text, row - at_row, column - at_column)
