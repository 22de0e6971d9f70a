"""Whatever refers to a table's range elsewhere in the workbook follows it: names, charts, pivots, formulas."""

from __future__ import annotations

from sinks.excel.markup import Edits, parse
from sinks.excel.references import Move
from sinks.excel.workbook import Workbook


def follow(book: Workbook, move: Move, table: str | None) -> None:
    """Move references in the workbook's other parts, and have pivots over the table refresh when the file is opened."""
    if move:
        _follow_names(book, move)
    _refresh_pivots(book, move, table)


def _follow_names(book: Workbook, move: Move) -> None:
    data = book.data(book.part)
    root, edits = parse(data, book.part), Edits(data)
    holder = root.find("definedNames")
    for element in holder.children if holder else ():
        edits.text(element, move.formula(element.text, None))
    if edits:
        book.put(book.part, edits.result())


def _refresh_pivots(book: Workbook, move: Move, table: str | None) -> None:
    names = {name.casefold() for name, formula, _ in book.names() if move.sheet.casefold() in formula.casefold()}
    if table:
        names.add(table.casefold())
    for relation in book.relations(book.part):
        if relation.kind != "pivotCacheDefinition" or relation.target not in book.package:
            continue
        part = book.package.proper(relation.target)
        data = book.data(part)
        root, edits = parse(data, part), Edits(data)
        source = next((element for element in root.walk() if element.name == "worksheetSource"), None)
        if source is None:
            continue
        by_range = source.get("sheet").casefold() == move.sheet.casefold() and source.get("ref")
        if not by_range and source.get("name").casefold() not in names:
            continue
        edits.set(root, "refreshOnLoad", "1")
        if by_range:
            edits.set(source, "ref", move.areas(source.get("ref")))
        book.put(part, edits.result())
