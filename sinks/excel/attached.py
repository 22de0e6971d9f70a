"""What hangs on the cells of a table without standing in them: comments, threaded comments, links. They follow their row by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from connector.errors import TargetError
from sinks.excel.links import Link, RowLinks, link_of
from sinks.excel.markup import RELATIONS, Edits, Element, parse, prefix
from sinks.excel.notes import Remark, people, remark_of, said
from sinks.excel.references import Area, Move, letters
from sinks.excel.region import Place
from sinks.excel.workbook import Relation, Sheet, Workbook

#: what follows a sheet's links (ECMA-376 part 1, 18.3.1.99)
AFTER_LINKS: Final = frozenset(
    {"printOptions", "pageMargins", "pageSetup", "headerFooter", "rowBreaks", "colBreaks", "customProperties", "cellWatches", "ignoredErrors",
     "smartTags", "drawing", "legacyDrawing", "legacyDrawingHF", "picture", "oleObjects", "controls", "webPublishItems", "tableParts", "extLst"}
)  # fmt: skip

_SHAPE: Final = re.compile(rb"<(?:\w+:)?shape\b.*?</(?:\w+:)?shape>", re.DOTALL)
_ROW: Final = re.compile(rb"(<(?:\w+:)?Row>\s*)([0-9]{1,7})(\s*</)")
_COLUMN: Final = re.compile(rb"<(?:\w+:)?Column>\s*([0-9]{1,5})\s*</")
_ANCHOR: Final = re.compile(rb"(<(?:\w+:)?Anchor>)([^<]*)(</)")


class Attachments:
    """The comments and links of one sheet. `rows` are the rows of data that have some; `keyed` says that they follow their row."""

    def __init__(
        self, book: Workbook, sheet: Sheet, place: Place, root: Element, warn: Callable[[str], object], ours: RowLinks, *, keyed: bool
    ) -> None:
        self._book = book
        self._sheet = sheet
        self._place = place
        self._warn = warn
        self._keyed = keyed
        self._ours = ours
        #: the links of rows that are gone, by row and column; once the sheet is written
        self.gone_links: dict[tuple[int, int], Link] = {}
        self._relations = [
            relation
            for relation in book.relations(sheet.part)
            if relation.kind in ("comments", "threadedComment", "vmlDrawing") and not relation.external and relation.target in book.package
        ]
        cells = [element.get("ref") for element in _links(root) if not self._is_ours(element)]
        for relation in self._relations:
            if relation.kind != "vmlDrawing":
                cells += [element.get("ref") for element in _comments(book, relation)[1]]
        self.rows = frozenset(area.top for cell in cells if (area := _cell(cell)) and self._inside(area))

    def _inside(self, area: Area) -> bool:
        place = self._place
        return place.exists and place.first <= area.top <= place.last and place.left <= area.left and area.right <= place.right

    def _to(self, area: Area, went: Mapping[int, int], move: Move) -> Area | None:
        """Where a cell's attachment goes; None when its row is gone."""
        if self._keyed and self._inside(area):
            row = went.get(area.top)
            return None if row is None else Area(row, area.left, row, area.right)
        return move.area(area, single=True)

    def follow_sheet(self, edits: Edits, root: Element, went: Mapping[int, int], back: Mapping[str, int], move: Move) -> None:
        """The sheet's links. `back`: the row of each key that is back."""
        links = _links(root)
        mine = [element for element in links if self._is_ours(element)]
        gone = {_relation(element) for element in mine} - {_relation(element) for element in links if element not in mine}
        areas = [_cell(element.get("ref")) for element in links]
        places = [None if element in mine else area and self._to(area, went, move) for element, area in zip(links, areas, strict=True)]
        theirs = [
            (element, area) for element, area, to in zip(links, areas, places, strict=True) if area and not to and element not in mine
        ]
        self._note_gone(theirs)
        new = self._ours.xml(prefix(edits.data, root), frozenset(gone), back)
        if links and not any(places) and all(areas) and not new and links[0].parent is not None:
            edits.remove(links[0].parent)  # an empty list of links is not allowed
            return
        if new and links and links[0].parent is not None:
            edits.append(links[0].parent, new)
        elif new:
            lead = prefix(edits.data, root)
            place = next((element.start for element in root.children if element.name in AFTER_LINKS), root.close)
            edits.replace(place, place, b"<%shyperlinks>%s</%shyperlinks>" % (lead, new, lead))
        for element, area, to in zip(links, areas, places, strict=True):
            if to is not None:
                edits.set(element, "ref", str(to))
            elif area is not None:
                edits.remove(element)

    def _note_gone(self, links: list[tuple[Element, Area]]) -> None:
        addresses = {one.id: one.target for one in self._book.relations(self._sheet.part) if one.external} if links else {}
        for element, area in links:
            link = self.gone_links[area.top, area.left] = link_of(element, addresses)
            to = link.get("address") or link.get("location", "")
            self._warn(f"the row of a link on {self._sheet.name}!{letters(area.left)}{area.top} is gone; it led to {to[:500]}")

    def _is_ours(self, link: Element) -> bool:
        area = _cell(link.get("ref"))
        return area is not None and self._ours.ours(area)

    def follow(self, went: Mapping[int, int], move: Move) -> dict[tuple[int, int], Remark]:
        """The sheet's comments and their boxes. What was said on rows that are gone, by row and column."""
        gone: dict[tuple[int, int], Remark] = {}
        names = people(self._book) if any(relation.kind == "threadedComment" for relation in self._relations) else {}
        for relation in self._relations:
            if relation.kind == "vmlDrawing":
                self._follow_boxes(relation, went, move)
                continue
            part, comments, authors = _comments(self._book, relation)
            edits = Edits(self._book.data(part))
            for element in comments:
                area = _cell(element.get("ref"))
                if area is None:
                    continue
                to = self._to(area, went, move)
                if to is None:
                    text = " ".join(said(element).split())
                    self._warn(f"the row of a comment on {self._sheet.name}!{letters(area.left)}{area.top} is gone; it said: {text[:500]}")
                    remark = gone.setdefault((area.top, area.left), {"author": "", "text": ""})
                    remark.update(
                        {"thread": [*remark.get("thread", ()), *new["thread"]]}
                        if "thread" in (new := remark_of(element, authors, names))
                        else new
                    )
                    edits.remove(element)
                else:
                    edits.set(element, "ref", str(to))
            if edits:
                self._book.put(part, edits.result())
        return gone

    def _follow_boxes(self, relation: Relation, went: Mapping[int, int], move: Move) -> None:
        """The drawing of comment boxes is VML, which is often not even XML: only the numbers in it are changed."""
        part = self._book.package.proper(relation.target)

        def shape(match: re.Match[bytes]) -> bytes:
            row, column = _ROW.search(match[0]), _COLUMN.search(match[0])
            if row is None or column is None:
                return match[0]
            line, place = int(row[2]) + 1, int(column[1]) + 1
            to = self._to(Area(line, place, line, place), went, move)
            if to is None:
                return b""
            if to.top == line:
                return match[0]
            moved = _ROW.sub(rb"\g<1>%d\g<3>" % (to.top - 1), match[0])
            return _ANCHOR.sub(lambda anchor: anchor[1] + _anchored(anchor[2], to.top - line) + anchor[3], moved)

        data = self._book.data(part)
        new = _SHAPE.sub(shape, data)
        if new != data:
            self._book.put(part, new)


def _anchored(anchor: bytes, rows: int) -> bytes:
    """`left column, offset, top row, offset, right column, offset, bottom row, offset` further down."""
    numbers = anchor.split(b",")
    if len(numbers) != 8 or not all(number.strip().lstrip(b"-").isdigit() for number in numbers):
        return anchor
    for at in (2, 6):
        numbers[at] = b" %d" % max(0, int(numbers[at]) + rows)
    return b",".join(numbers)


def _relation(link: Element) -> str:
    return link.get(f"{{{RELATIONS}}}id")


def _links(root: Element) -> list[Element]:
    holder = root.find("hyperlinks")
    return holder.all("hyperlink") if holder else []


def _comments(book: Workbook, relation: Relation) -> tuple[str, list[Element], list[str]]:
    """A part with comments, the comments, and the names of their authors."""
    part = book.package.proper(relation.target)
    root = parse(book.data(part), part)
    authors = root.find("authors")
    names = [element.text for element in authors.children] if authors else []
    return part, [element for element in root.walk() if element.name in ("comment", "threadedComment")], names


def _cell(ref: str) -> Area | None:
    try:
        return Area.read(ref)
    except TargetError:
        return None
