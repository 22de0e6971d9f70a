"""Whatever refers to a table's range follows it: on its own sheet, and in names, charts, pivots, controls and formulas elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from connector.errors import TargetError
from sinks.excel.markup import RELATIONS, Edits, Element, attribute, escaped, parse, prefix
from sinks.excel.references import ROWS, Area, Move, each_reference
from sinks.excel.region import Region
from sinks.excel.sheet import plain
from sinks.excel.table import Table
from sinks.excel.workbook import TYPES, Workbook

#: parts that may hold formulas; everything else is never looked into
CARRIERS: Final = ("worksheet+xml", "chart+xml", "chartex+xml", "drawing+xml", "controlproperties+xml", "table+xml")
HELD: Final = 64 << 20

_ELEMENT: Final = re.compile(
    rb"(<(?:[\w.-]+:)?(?:f|formula|formula1|formula2|calculatedColumnFormula|totalsRowFormula)(?:\s[^<>]*)?>)([^<]+)(?=</)"
)
_ATTRIBUTE: Final = re.compile(rb"""(\s(?:textlink|fmlaRange|fmlaLink|fmlaGroup|fmlaTxbx|location)\s*=\s*)("[^"<]*"|'[^'<]*')""")


def follow(book: Workbook, move: Move, table: str | None) -> None:
    """Move references in the workbook's other parts, and have pivots over the table refresh when the file is opened."""
    _refresh_pivots(book, move, table)
    if not move:
        return
    _follow_names(book, move)
    own = next(sheet.part for sheet in book.sheets if sheet.name == move.sheet)
    written = {sheet.part for sheet in book.sheets if sheet.name in (move.sheet, move.home)}
    for part in _carriers(book):
        if part not in written:
            _follow_part(book, part, move)
    if move.shift_by:
        _shift_parts(book, own, move)


def follow_sheet(edits: Edits, root: Element, move: Move, region: Region) -> None:
    """What stands before and after the rows of the table's own sheet."""
    _set_dimension(edits, root, region)
    if not move:
        return
    for element in root.walk():
        if element.get("sqref") and element.name not in ("selection", "pane"):
            edits.set(element, "sqref", move.areas(element.get("sqref")))
        elif element.name in ("f", "formula", "formula1", "formula2") and element.text and not element.children:
            edits.text(element, move.formula(element.text, move.sheet))
        elif element.name == "sqref" and element.text:
            edits.text(element, move.areas(element.text))
        elif move.shift_by:
            _shift_element(edits, element, move)


def append_table_part(edits: Edits, root: Element, data: bytes, relation: str) -> None:
    """Have a sheet name a table that is new on it."""
    lead = prefix(data, root)
    entry = b'<%stablePart xmlns:r="%s" r:id=%s/>' % (lead, RELATIONS.encode(), attribute(relation))
    holder = root.find("tableParts")
    if holder is not None:
        edits.set(holder, "count", str(len(holder.children) + 1))
        edits.append(holder, entry)
        return
    holding = b'<%stableParts count="1">%s</%stableParts>' % (lead, entry, lead)
    extension = root.find("extLst")
    place = root.close if extension is None else extension.start
    edits.replace(place, place, holding)


def _set_dimension(edits: Edits, root: Element, region: Region) -> None:
    dimension = root.find("dimension")
    if dimension is None:
        return
    place = region.place
    try:
        old = Area.read(dimension.get("ref"))
    except TargetError:
        return  # a hint that says nothing; readers ignore it
    bottom = max([place.new_end, *region.beside]) if old.bottom <= place.end else old.bottom + place.shift
    new = Area(min(old.top, place.top), min(old.left, place.left), min(max(bottom, place.new_end), ROWS), max(old.right, place.new_right))
    edits.set(dimension, "ref", str(new))


def _shift_element(edits: Edits, element: Element, move: Move) -> None:
    """Things with a place below the table, when rows went down."""
    if element.name in ("mergeCell", "autoFilter", "sortState", "sortCondition", "cellWatch") and element.get("ref"):
        edits.set(element, "ref", move.areas(element.get("ref")))
    elif element.name == "brk" and element.parent is not None and element.parent.name == "rowBreaks" and element.get("id").isdecimal():
        edits.set(element, "id", str(move.row(int(element.get("id")) + 1) - 1))  # a break stands above the row after it
    elif element.name == "row" and element.parent is not None and element.parent.name in ("from", "to") and element.text.isdecimal():
        edits.text(element, str(int(element.text) + _lowered(element.parent, move)))


def _lowered(corner: Element, move: Move) -> int:
    """By how much a corner of something drawn goes down: as its anchor says, with the cells, without being stretched, or not at all."""
    anchor = corner.parent
    how = anchor.get("editAs") if anchor is not None else ""
    if how == "absolute":
        return 0
    start = anchor.find("from") if anchor is not None and how == "oneCell" else None
    row = (start or corner).find("row")
    above = int(row.text) if row is not None and row.text.isdecimal() else 0  # anchors count rows from 0
    return move.row(above + 1) - 1 - above


def _follow_names(book: Workbook, move: Move) -> None:
    data = book.data(book.part)
    root, edits = parse(data, book.part), Edits(data)
    holder = root.find("definedNames")
    for element in holder.children if holder else ():
        edits.text(element, move.formula(element.text, None))
    if edits:
        book.put(book.part, edits.result())


def _carriers(book: Workbook) -> Iterator[str]:
    for element in book.read(TYPES).all("Override"):
        name = element.get("PartName").lstrip("/")
        if element.get("ContentType").endswith(CARRIERS) and name in book.package:
            yield book.package.proper(name)


def followed_rows(pieces: Iterator[bytes], move: Move) -> Iterator[bytes]:
    """Rows of the table's own sheet that stay where they are, with their formulas following."""
    if not move:
        yield from pieces
        return

    def element(match: re.Match[bytes]) -> bytes:
        before = plain(match[2])
        after = move.formula(before, move.sheet)
        return match[0] if after == before else match[1] + escaped(after)

    for text in _whole_elements(pieces):
        yield _ELEMENT.sub(element, text) if b"</f>" in text or b":f>" in text else text


def _follow_part(book: Workbook, part: str, move: Move) -> None:
    """Rewrite the formulas of a part that name the sheet; parts that do not mention it are only searched."""
    needle = escaped(move.sheet.replace("'", "''"))
    if not _mentions(book.package.stream(part), needle):
        return
    out = book.package.writer()
    for text in _whole_elements(book.package.stream(part)):
        out.write(_followed(text, move, needle))
    book.put(part, out.finish())


def _mentions(pieces: Iterator[bytes], needle: bytes) -> bool:
    rest = b""
    for piece in pieces:
        if needle in rest + piece[: len(needle)] or needle in piece:
            return True
        rest = piece[-len(needle) :]
    return False


def _whole_elements(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Text in pieces that end between cells, so that no formula is cut in two."""
    held = b""
    for piece in pieces:
        held += piece
        cut = max(held.rfind(b"</c>") + 4, held.rfind(b":c>") + 3, held.rfind(b"/>") + 2)
        if cut > 3:
            yield held[:cut]
            held = held[cut:]
        if len(held) > HELD:
            raise TargetError("a part of the workbook has an endless element", remedy="open the workbook in Excel and save it again")
    yield held


def _followed(text: bytes, move: Move, needle: bytes) -> bytes:
    def element(match: re.Match[bytes]) -> bytes:
        if needle not in match[2]:
            return match[0]
        before = plain(match[2])
        after = move.formula(before, None)
        return match[0] if after == before else match[1] + escaped(after)

    def value(match: re.Match[bytes]) -> bytes:
        if needle not in match[2]:
            return match[0]
        before = plain(match[2][1:-1])
        after = move.formula(before, None)
        return match[0] if after == before else match[1] + attribute(after)

    return _ATTRIBUTE.sub(value, _ELEMENT.sub(element, text))


def _shift_parts(book: Workbook, own: str, move: Move) -> None:
    """Tables, drawings and pivots of the same sheet that stand below."""
    for relation in book.relations(own):
        if relation.external or relation.target not in book.package or relation.kind not in ("table", "drawing", "pivotTable"):
            continue
        part = book.package.proper(relation.target)
        data = book.data(part)
        root, edits = parse(data, part), Edits(data)
        if relation.kind == "table":
            if Table(data, part).area.top <= move.last:
                continue
            edits.set(root, "ref", move.areas(root.get("ref")))
        for element in root.walk():
            if relation.kind == "pivotTable" and element.name == "location":
                edits.set(element, "ref", move.areas(element.get("ref")))
            else:
                _shift_element(edits, element, move)
        if edits:
            book.put(part, edits.result())


def _refresh_pivots(book: Workbook, move: Move, table: str | None) -> None:
    """Pivot caches fed by the table, by its name, by a name for its range, or by the range, refresh when the file is opened."""
    names = {name.casefold() for name, formula, _ in book.names() if _may_mean(formula, move, table)}
    if table:
        names.add(table.casefold())
    for relation in book.relations(book.part):
        if relation.kind != "pivotCacheDefinition" or relation.target not in book.package:
            continue
        part = book.package.proper(relation.target)
        data = book.data(part)
        root, edits = parse(data, part), Edits(data)
        source = next((element for element in root.walk() if element.name == "worksheetSource"), None)
        if source is None or source.get(f"{{{RELATIONS}}}id"):  # of another workbook
            continue
        area = Area.read(source.get("ref")) if source.get("ref") else None
        if source.get("sheet").casefold() != move.sheet.casefold() or not (area and area.overlaps(move.whole)):
            area = None
        if area is None and source.get("name").casefold() not in names:
            continue
        edits.set(root, "refreshOnLoad", "1")
        if area is not None:
            edits.set(source, "ref", move.area(area).span)
            edits.set(source, "sheet", move.home)
        book.put(part, edits.result())


def _may_mean(formula: str, move: Move, table: str | None) -> bool:
    """Whether a name may stand for cells of the table. A plain range says so; what is calculated may, if it mentions sheet or table."""
    cells: list[tuple[str | None, str]] = []

    def noted(sheet: str | None, _: str, area: str) -> str:
        cells.append((sheet, area))
        return ""

    if not each_reference(formula, noted).strip("=") and len(cells) == 1:
        sheet, area = cells[0]
        try:
            return (sheet or "").casefold() == move.sheet.casefold() and Area.read(area).overlaps(move.whole)
        except TargetError:  # whole rows, or cells in another order: they may
            pass
    sources = [text.casefold() for text in (move.sheet.replace("'", "''"), table) if text]
    return any(source in formula.casefold() for source in sources)
