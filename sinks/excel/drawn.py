"""What lies over the cells of a sheet: pictures, charts, shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sinks.excel.markup import Element
from sinks.excel.references import Area, letters
from sinks.excel.workbook import Sheet, Workbook

ROW: Final = 190_500  # EMU of a row of the usual height, 15 points
COLUMN: Final = 609_600  # EMU of a column of the usual width, 64 pixels


@dataclass(frozen=True, slots=True)
class Drawn:
    """Something drawn and the cells it covers; where only its size is known, as many as it covers at the usual height and width.

    `moves` says that it goes along when its cells move.
    """

    name: str
    area: Area
    moves: bool

    def __str__(self) -> str:
        return f"{self.name!r} at {letters(self.area.left)}{self.area.top}"


def drawn(book: Workbook, sheet: Sheet) -> Iterator[Drawn]:
    """What is drawn on a sheet, but for what has no place among its cells."""
    for relation in book.relations(sheet.part):
        if relation.kind != "drawing" or relation.external or relation.target not in book.package:
            continue
        for anchor in book.read(book.package.proper(relation.target)).walk():
            start = anchor.find("from") if anchor.name in ("oneCellAnchor", "twoCellAnchor") else None
            if start is None:
                continue
            name = next((element.get("name") for element in anchor.walk() if element.name == "cNvPr"), "")
            top, left = _number(start, "row"), _number(start, "col")
            bottom, right = _reach(anchor, top, left)
            yield Drawn(name, Area(top + 1, left + 1, max(top, bottom) + 1, max(left, right) + 1), anchor.get("editAs") != "absolute")


def _reach(anchor: Element, top: int, left: int) -> tuple[int, int]:
    """The last row and column that something covers, counted from 0."""
    end, size = anchor.find("to"), anchor.find("ext")
    if end is not None:
        return _number(end, "row") - (not _number(end, "rowOff")), _number(end, "col") - (not _number(end, "colOff"))
    height, width = (int(text) if size and (text := size.get(side)).isdecimal() else 0 for side in ("cy", "cx"))
    return top + int(height // ROW), left + int(width // COLUMN)


def _number(corner: Element, name: str) -> int:
    element = corner.find(name)
    text = element.text.strip() if element else ""
    return int(text) if text.isdecimal() and len(text) < 10 else 0
