"""Comments of rows that were gone and are back: put on their cells again, with the box that shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sinks.excel.markup import DECLARATION, MAIN, RELATIONS, Edits, Element, attribute, escaped, parse, prefix
from sinks.excel.references import letters
from sinks.excel.region import Place
from sinks.excel.table import matching
from sinks.excel.workbook import Relation, Sheet, Workbook

#: what is remembered of one cell: `{"author": …, "text": …}`, and for a conversation its `"thread"`: [{"at", "person", "name", "id", "parent", "text"}]
Remark = dict[str, Any]

COMMENTS_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.comments+xml"
BOXES_TYPE: Final = "application/vnd.openxmlformats-officedocument.vmlDrawing"
THREADS: Final = "http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments"
#: what follows a sheet's comment boxes (ECMA-376 part 1, 18.3.1.99)
AFTER_BOXES: Final = frozenset(
    {"legacyDrawingHF", "drawingHF", "picture", "oleObjects", "controls", "webPublishItems", "tableParts", "extLst"}
)

_SPACES: Final = {
    b"v": b"urn:schemas-microsoft-com:vml",
    b"o": b"urn:schemas-microsoft-com:office:office",
    b"x": b"urn:schemas-microsoft-com:office:excel",
}
_DECLARED: Final = b"".join(b' xmlns:%s="%s"' % pair for pair in _SPACES.items())
_BOX_TYPE: Final = (
    b'<v:shapetype%s id="_x0000_t202" coordsize="21600,21600" o:spt="202" path="m,l,21600r21600,l21600,xe">'
    b'<v:stroke joinstyle="miter"/><v:path gradientshapeok="t" o:connecttype="rect"/></v:shapetype>'
)
_BOX: Final = (
    b'<v:shape%s id="_x0000_s%d" type="#_x0000_t202" style="position:absolute;width:144pt;height:60pt;z-index:%d;visibility:hidden"'
    b' fillcolor="#ffffe1" o:insetmode="auto"><v:fill color2="#ffffe1"/><v:shadow color="black" obscured="t"/><v:path o:connecttype="none"/>'
    b'<v:textbox style="mso-direction-alt:auto"><div style="text-align:left"></div></v:textbox><x:ClientData ObjectType="Note">'
    b"<x:MoveWithCells/><x:SizeWithCells/><x:Anchor>%d, 15, %d, 2, %d, 31, %d, 9</x:Anchor><x:AutoFill>False</x:AutoFill>"
    b"<x:Row>%d</x:Row><x:Column>%d</x:Column></x:ClientData></v:shape>"
)
_SHAPE: Final = re.compile(rb"""["']_x0000_s([0-9]{1,9})["']""")
_END: Final = re.compile(rb"</xml\s*>\s*$")


class ReturningComments:
    """The comments of one table's rows that are back. `remembered`: key → heading → what was said there."""

    def __init__(self, book: Workbook, sheet: Sheet, place: Place, remembered: Mapping[str, Mapping[str, Remark]]) -> None:
        self._book = book
        self._sheet = sheet
        self._places = {matching(slot.heading): slot.place for slot in place.slots}
        self._remembered = remembered
        self._found: list[tuple[int, int, Remark]] = []
        self._boxes = ""

    def make_room(self, edits: Edits, root: Element, back: Mapping[str, int]) -> None:
        """Have the sheet name a drawing for the boxes, if there will be any. `back`: the row of each key that is back."""
        self._found = [
            (row, self._places[heading], remark)
            for key, row in back.items()
            for heading, remark in self._remembered.get(key, {}).items()
            if heading in self._places
        ]
        if not self._found:
            return
        known = root.find("legacyDrawing")
        if known is not None:
            identity = known.get(f"{{{RELATIONS}}}id")
            self._boxes = next(self._book.package.proper(one.target) for one in self._relations() if one.id == identity)
            return
        self._boxes = self._book.free_part(f"{self._book.folder}/drawings/vmlDrawing%d.vml".lstrip("/"))
        self._book.put(self._boxes, b"<xml%s></xml>" % _DECLARED)
        self._book.add_type(self._boxes, BOXES_TYPE)
        relation = self._book.add_relation(self._sheet.part, "vmlDrawing", self._boxes)
        entry = b'<%slegacyDrawing xmlns:r="%s" r:id=%s/>' % (prefix(edits.data, root), RELATIONS.encode(), attribute(relation))
        place = next((element.start for element in root.children if element.name in AFTER_BOXES), root.close)
        edits.replace(place, place, entry)

    def put(self) -> None:
        """Say again what was said, once everything else has found its place."""
        if not self._found:
            return
        threads = self._part("threadedComment")
        persons = people(self._book)
        entries: list[tuple[int, int, str, str]] = []
        for row, column, remark in self._found:
            thread = remark.get("thread", ())
            if thread and threads and all(one["person"] in persons for one in thread):
                self._converse(threads, f"{letters(column)}{row}", thread)
                entries.append((row, column, remark["author"], remark["text"]))
            elif thread:  # the conversation as a note: its people or its part are no longer in the workbook
                entries.append((row, column, thread[0]["name"], "\n".join(f"{one['name']}: {one['text']}" for one in thread)))
            else:
                entries.append((row, column, remark["author"], remark["text"]))
        self._comment(entries)
        self._draw(entries)

    def _relations(self) -> list[Relation]:
        return self._book.relations(self._sheet.part)

    def _part(self, kind: str) -> str | None:
        found = (one.target for one in self._relations() if one.kind == kind and one.target in self._book.package)
        part = next(found, None)
        return part and self._book.package.proper(part)

    def _comment(self, entries: Sequence[tuple[int, int, str, str]]) -> None:
        part = self._part("comments")
        if part is None:
            part = self._book.free_part(f"{self._book.folder}/comments%d.xml".lstrip("/"))
            self._book.put(
                part, DECLARATION + b'<comments xmlns="%s"><authors></authors><commentList></commentList></comments>' % MAIN.encode()
            )
            self._book.add_type(part, COMMENTS_TYPE)
            self._book.add_relation(self._sheet.part, "comments", part)
        data = self._book.data(part)
        root, edits = parse(data, part), Edits(data)
        lead, authors, comments = prefix(data, root), root.find("authors"), root.find("commentList")
        if authors is None or comments is None:
            return
        names = [element.text for element in authors.children]
        new = [name for name in dict.fromkeys(author for _, _, author, _ in entries) if name not in names]
        names += new
        edits.append(authors, b"".join(b"<%sauthor>%s</%sauthor>" % (lead, escaped(name), lead) for name in new))
        entry = b'<%scomment ref="%s%d" authorId="%d"><%stext><%st xml:space="preserve">%s</%st></%stext></%scomment>'
        edits.append(
            comments,
            b"".join(
                entry % (lead, letters(column).encode(), row, names.index(author), lead, lead, escaped(text), lead, lead, lead)
                for row, column, author, text in entries
            ),
        )
        self._book.put(part, edits.result())

    def _draw(self, entries: Sequence[tuple[int, int, str, str]]) -> None:
        data = self._book.data(self._boxes)
        start, end = data[:4096], _END.search(data)
        declared = b"" if all(b'xmlns:%s="%s"' % pair in start for pair in _SPACES.items()) else _DECLARED
        number = max((int(found[1]) for found in _SHAPE.finditer(data)), default=1024)
        boxes = b"" if b"_x0000_t202" in data else _BOX_TYPE % declared
        for at, (row, column, _, _) in enumerate(entries, 1):
            anchor = (column, max(0, row - 2), column + 2, row + 3)
            boxes += _BOX % (declared, number + at, at, *anchor, row - 1, column - 1)
        place = end.start() if end else len(data)
        self._book.put(self._boxes, data[:place] + boxes + data[place:])

    def _converse(self, part: str, cell: str, thread: Sequence[Mapping[str, str]]) -> None:
        data = self._book.data(part)
        root, edits = parse(data, part), Edits(data)
        lead = prefix(data, root)
        for one in thread:
            parent = b" parentId=%s" % attribute(one["parent"]) if one["parent"] else b""
            said = tuple(map(attribute, (cell, one["at"], one["person"], one["id"])))
            entry = b"<%sthreadedComment ref=%s dT=%s personId=%s id=%s%s><%stext>%s</%stext></%sthreadedComment>"
            edits.append(root, entry % (lead, *said, parent, lead, escaped(one["text"]), lead, lead))
        self._book.put(part, edits.result())


def people(book: Workbook) -> dict[str, str]:
    """The names of those who take part in conversations, by their ids."""
    parts = [one.target for one in book.relations(book.part) if one.kind == "person" and one.target in book.package]
    return {one.get("id"): one.get("displayName") for part in parts for one in book.read(book.package.proper(part)).walk()}


def remark_of(element: Element, authors: Sequence[str], names: Mapping[str, str]) -> Remark:
    """What a comment says, or one turn of a conversation."""
    if element.name == "threadedComment":
        person, text = element.get("personId"), element.find("text")
        turn = {"at": element.get("dT"), "person": person, "name": names.get(person, ""), "id": element.get("id")}
        return {"thread": [{**turn, "parent": element.get("parentId"), "text": text.text if text else ""}]}
    author = element.get("authorId")
    known = author.isdecimal() and int(author) < len(authors)
    return {"author": authors[int(author)] if known else "", "text": said(element)}


def said(element: Element) -> str:
    """The text of a comment, whatever its parts look like."""
    return "".join(child.text for child in element.walk() if child.name in ("t", "text") and not child.children)
