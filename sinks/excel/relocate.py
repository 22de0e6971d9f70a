"""A table that is blocked moves to a sheet of its own: same cells, same name; what stood around it stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from connector.errors import TargetError
from sinks.excel.follow import follow_sheet
from sinks.excel.incoming import Incoming
from sinks.excel.markup import DECLARATION, MAIN, RELATIONS, Edits, attribute, parse
from sinks.excel.references import Move
from sinks.excel.region import Region
from sinks.excel.rows import Composer
from sinks.excel.sheet import Skeleton
from sinks.excel.sheetwriter import SheetWriter
from sinks.excel.table import Table
from sinks.excel.workbook import Sheet, Workbook, relations_part


def relocate(
    book: Workbook,
    sheet: Sheet,
    table: Table,
    region: Region,
    old: Skeleton,
    rows: Incoming,
    compose: Callable[[Region, Move], Composer],
    move: Move,
    formats: Mapping[int, int],
) -> tuple[Move, Composer]:
    """Write the table on a new sheet and clear it from its old one; the move for references to it, and what composed its rows."""
    if region.lead:
        raise TargetError(
            f"the table cannot be moved away from sheet {sheet.name!r} as it is written", remedy="save the workbook in Excel first"
        )
    fresh = book.add_sheet(f"{sheet.name[:28]} 2", _empty(old))
    move = replace(move, to=fresh.name)
    alone = region.alone()
    composer = compose(alone, move)
    SheetWriter(book, fresh, alone, move, formats).write_alone(rows, composer, book.add_relation(fresh.part, "table", table.part))
    relation = next(one.id for one in book.relations(sheet.part) if one.target.casefold() == table.part.casefold())
    edits = Edits(old.data)
    follow_sheet(edits, old.root, move, region)
    _drop_table_part(edits, old, relation)
    SheetWriter(book, sheet, region, move, formats).write_without(edits.result(0, old.at), edits.result(old.at))
    _drop_relation(book, sheet, relation)
    return move, composer


def _empty(old: Skeleton) -> bytes:
    """A sheet without cells, its columns as wide and its rows as high and as grouped as the old one's."""
    usual = old.root.find("sheetFormatPr")
    own = (
        b"".join(b" %s=%s" % (name.encode(), attribute(text)) for name, text in usual.attributes.items() if "{" not in name)
        if usual
        else b""
    )
    formats = b"<sheetFormatPr%s/>" % own if own else b""
    columns = old.root.find("cols")
    widths = old.data[columns.start : columns.end] if columns else b""
    return DECLARATION + b'<worksheet xmlns="%s" xmlns:r="%s">%s%s<sheetData/></worksheet>' % (
        MAIN.encode(),
        RELATIONS.encode(),
        formats,
        widths,
    )


def _drop_table_part(edits: Edits, sheet: Skeleton, relation: str) -> None:
    holder = sheet.root.find("tableParts")
    mine = [entry for entry in (holder.children if holder else ()) if entry.get(f"{{{RELATIONS}}}id") == relation]
    if holder is not None and len(holder.children) == len(mine):
        edits.remove(holder)
    elif holder is not None:
        edits.set(holder, "count", str(len(holder.children) - len(mine)))
        for entry in mine:
            edits.remove(entry)


def _drop_relation(book: Workbook, sheet: Sheet, relation: str) -> None:
    part = relations_part(sheet.part)
    data = book.data(part)
    edits = Edits(data)
    for element in parse(data, part).children:
        if element.get("Id") == relation:
            edits.remove(element)
    book.put(part, edits.result())
