"""`{{refreshed_at}}`, `{{kpi.win_rate}}`: cells of a template that say something about the run, filled anew each time.

A hidden name (`_connector_1`) remembers each such cell, with the text it had in its comment, so that the cell is found again
wherever teammates have moved it by then. A cell they cleared, or gave a formula, is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from connector.errors import nearest
from sinks.excel.cells import EPOCH_1900, EPOCH_1904
from sinks.excel.markup import Edits, attribute, escaped, parse, prefix
from sinks.excel.references import Area, letters, quoted
from sinks.excel.sheet import Cell, SheetReader
from sinks.excel.sheetwriter import text_cell
from sinks.excel.strings import SharedStrings
from sinks.excel.styles import Styles, is_date
from sinks.excel.workbook import Sheet, Workbook

NAME: Final = "_connector_"
LONGEST: Final = 255  # characters of a name's comment
#: what changes with every run; alone it is no reason to write
VOLATILE: Final = frozenset({"refreshed_at", "run_id"})
_MARK: Final = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A cell and the text it stands for."""

    sheet: str
    row: int
    column: int
    text: str

    @property
    def volatile(self) -> bool:
        return bool(VOLATILE & set(_MARK.findall(self.text)))


def adopt(book: Workbook, strings: SharedStrings, warn: Callable[[str], object]) -> None:
    """Find the placeholders of a template and have hidden names remember them."""
    found = [place for sheet in book.sheets for place in _in_sheet(book, sheet, strings)]
    for place in found:
        if len(place.text) > LONGEST:
            warn(
                f"{place.sheet}!{letters(place.column)}{place.row}: a text with placeholders may have {LONGEST} characters; it stays as it is"
            )
    entries = [
        (f"{NAME}{number}", f"{quoted(place.sheet)}!${letters(place.column)}${place.row}", place.text)
        for number, place in enumerate((place for place in found if len(place.text) <= LONGEST), 1)
    ]
    if entries:
        _add_names(book, entries)


def placeholders(book: Workbook) -> list[Placeholder]:
    """The cells that hidden names remember; names whose cell was deleted are passed over."""
    holder = book.read(book.part).find("definedNames")
    places = []
    for element in holder.children if holder else ():
        sheet, mark, area = element.text.rpartition("!")
        if element.get("name").startswith(NAME) and mark and re.fullmatch(r"\$?[A-Z]{1,3}\$?[0-9]{1,7}", area):
            cell = Area.read(area)
            places.append(Placeholder(sheet.strip("'").replace("''", "'"), cell.top, cell.left, element.get("comment")))
    return places


def fill(
    book: Workbook, places: list[Placeholder], facts: Mapping[str, Any], styles: Styles, zone: ZoneInfo, warn: Callable[[str], object]
) -> None:
    """Put the run's facts into the cells. A placeholder nobody knows stays, with a warning."""
    known = flattened(facts)
    for name in {name for place in places for name in _MARK.findall(place.text)} - set(known):
        warn(f"placeholder {{{{{name}}}}}: {nearest(name, known)}")
    for sheet in book.sheets:
        here = {(place.row, place.column): place.text for place in places if place.sheet.casefold() == sheet.name.casefold()}
        if here:
            _fill_sheet(book, sheet, here, lambda text, cell: _cell(text, cell, known, styles, zone, date1904=book.date1904))


def flattened(facts: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """`{"kpi": {"win_rate": 0.4}}` as `{"kpi.win_rate": 0.4}`."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{lead}{name}.")
        else:
            flat[f"{lead}{name}"] = value
    return flat


def _in_sheet(book: Workbook, sheet: Sheet, strings: SharedStrings) -> Iterator[Placeholder]:
    reader = SheetReader(book.package.stream(sheet.part), sheet.part)
    for row in reader.rows():
        if b't="s"' not in row.content and b"{{" not in row.content:
            continue
        for cell in reader.cells(row):
            text = cell.value(strings) if cell.type in ("s", "inlineStr") else None
            if isinstance(text, str) and _MARK.search(text):
                yield Placeholder(sheet.name, row.number, cell.column, text)


def _add_names(book: Workbook, entries: list[tuple[str, str, str]]) -> None:
    data = book.data(book.part)
    root, edits = parse(data, book.part), Edits(data)
    lead = prefix(data, root)
    new = b"".join(
        b'<%sdefinedName name=%s comment=%s hidden="1">%s</%sdefinedName>' % (lead, attribute(name), attribute(text), escaped(cell), lead)
        for name, cell, text in entries
    )
    holder = root.find("definedNames")
    if holder is not None:
        edits.append(holder, new)
    else:
        before = [element for element in root.children if element.name in ("sheets", "functionGroups", "externalReferences")]
        edits.after(before[-1], b"<%sdefinedNames>%s</%sdefinedNames>" % (lead, new, lead))
    book.put(book.part, edits.result())


def _fill_sheet(book: Workbook, sheet: Sheet, texts: Mapping[tuple[int, int], str], filled: Callable[[str, Cell], Cell]) -> None:
    reader = SheetReader(book.package.stream(sheet.part), sheet.part)
    out = book.package.writer()
    out.write(reader.head)
    rows = {row for row, _ in texts}
    last = max(rows)
    while (row := reader.next_row()) is not None:
        if row.number in rows and row.numbered:
            cells = [
                filled(texts[row.number, cell.column], cell)
                if (row.number, cell.column) in texts and not (cell.blank or cell.formula)
                else cell
                for cell in reader.cells(row)
            ]
            out.write(row.tag if row.empty else row.tag + b"".join(cell.at(row.number) for cell in cells) + b"</" + reader.lead + b"row>")
        else:
            out.write(reader.xml(row))
        if row.number >= last:
            break
    for piece in reader.rest():
        out.write(piece)
    out.write(reader.tail)
    book.put(sheet.part, out.finish())


def _cell(text: str, cell: Cell, facts: Mapping[str, Any], styles: Styles, zone: ZoneInfo, *, date1904: bool) -> Cell:
    """The cell with its text filled in; a placeholder that stands alone keeps its type."""
    alone = _MARK.fullmatch(text.strip())
    value = facts.get(alone[1], text) if alone else None
    style = b' s="%d"' % cell.style if cell.style else b""
    lead = cell.lead
    if isinstance(value, datetime):
        value = value.astimezone(zone).replace(tzinfo=None) if value.tzinfo else value
        if is_date(styles.code(cell.style)):
            seconds = (value - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 - wall clock, as a sheet has it
            value = seconds / 86_400 + (EPOCH_1904 if date1904 else EPOCH_1900)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(cell.column, style, b"<%sv>%s</%sv>" % (lead, repr(value).encode(), lead), lead)
    return text_cell(cell.column, _MARK.sub(lambda mark: _said(facts.get(mark[1], mark[0]), zone), text), cell.style, lead)


def _said(value: Any, zone: ZoneInfo) -> str:
    if value is None:
        return "–"  # an empty cell would read as one that a teammate cleared
    if isinstance(value, datetime):
        return f"{value.astimezone(zone) if value.tzinfo else value:%Y-%m-%d %H:%M}"
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:.10g}" if isinstance(value, float) else str(value)
