"""Cells as Excel's web back end reads and writes them: what typing means, what shifts when rows come and go."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import Any, Final

from openpyxl.utils import get_column_letter, range_boundaries
from openpyxl.utils.datetime import to_excel
from openpyxl.worksheet.table import Table, TableColumn
from openpyxl.worksheet.worksheet import Worksheet

NUMBER: Final = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?%?")
DATES: Final = ("%Y-%m-%d", "%m/%d/%Y", "%d-%b-%Y", "%d-%b", "%b-%y")
LONGEST: Final = 32_767
Area = tuple[int, int, int, int]  # left, top, right, bottom; from 1


class Clash(Exception):  # noqa: N818 — what the service answers, not an error of the sandbox
    """Something is in the way; the argument is the service's code for it."""


def area_of(address: str) -> Area:
    """`Sheet1!A1:B2` or `B7` as numbers."""
    left, top, right, bottom = range_boundaries(address.rpartition("!")[2].replace("$", ""))
    if not (left and top and right and bottom):
        raise ValueError(address)
    return int(left), int(top), int(right), int(bottom)


def address_of(area: Area) -> str:
    left, top, right, bottom = area
    first, last = f"{get_column_letter(left)}{top}", f"{get_column_letter(right)}{bottom}"
    return first if first == last else f"{first}:{last}"


def typed(text: str) -> Any:
    """What Excel makes of a text somebody types: (value, data type of openpyxl)."""
    if text.startswith("'"):
        return text[1:], "s"
    if text.startswith("=") and len(text) > 1:
        return text, "f"
    if text.upper() in ("TRUE", "FALSE"):
        return text.upper() == "TRUE", "b"
    plain = text.strip()
    if NUMBER.fullmatch(plain):
        number = float(plain.rstrip("%").replace(",", ""))
        number = number / 100 if plain.endswith("%") else number
        return (int(number) if number.is_integer() and abs(number) < 1e15 else number), "n"
    for form in DATES:
        try:
            day = datetime.strptime(f"{plain} 2026" if form == "%d-%b" else plain, f"{form} %Y" if form == "%d-%b" else form)  # noqa: DTZ007
        except ValueError:
            continue
        return serial(day), "n"
    return text, "s"


def serial(moment: datetime | date | time) -> float:
    return float(to_excel(moment))  # type: ignore[no-untyped-call]


def put(cell: Any, value: Any) -> None:
    """Write a JSON value into a cell: null leaves it, "" clears it, text is read as if typed."""
    if value is None:
        return
    if value == "":
        cell.value = None
        return
    if isinstance(value, str):
        if len(value) > LONGEST + 1:
            raise Clash("invalidArgument")
        content, kind = typed(value)
        cell.value = content
        cell.data_type = kind
        if value.startswith("'"):
            cell.quotePrefix = True
        return
    cell.value = value


def shown(cell: Any) -> Any:
    """The value as the API gives it: dates are serials, formulas their (here: unknown) result."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "f":
        return 0
    if isinstance(value, datetime | date | time):
        return serial(value)
    return value


def formula(cell: Any) -> Any:
    return str(cell.value) if cell.data_type == "f" else shown(cell)


def kind(cell: Any) -> str:
    value = shown(cell)
    if value == "":
        return "Empty"
    if isinstance(value, bool):
        return "Boolean"
    if isinstance(value, int):
        return "Integer"
    return "Double" if isinstance(value, float) else "String"


def relative(text: str, row: int, column: int) -> str:
    """A formula in R1C1 notation, as seen from a cell."""

    def reference(match: re.Match[str]) -> str:
        left, _, right, _ = area_of(f"{match[2]}1")
        assert left == right
        down, across = int(match[4]) - row, left - column
        first = f"R{match[4]}" if match[3] else f"R[{down}]" if down else "R"
        return first + (f"C{left}" if match[1] else f"C[{across}]" if across else "C")

    return re.sub(r"(?<![\w\[\]@])(\$?)([A-Z]{1,3})(\$?)(\d+)(?![\w(\]])", reference, text)


def absolute(text: str, row: int, column: int) -> str:
    """The other way round."""

    def reference(match: re.Match[str]) -> str:
        down, across = match[1] or match[2] or "", match[3] or match[4] or ""
        at_row = row + int(match[2] or 0) if not match[1] else int(match[1])
        at_column = column + int(match[4] or 0) if not match[3] else int(match[3])
        return f"{'$' if match[3] and across else ''}{get_column_letter(at_column)}{'$' if match[1] and down else ''}{at_row}"

    return re.sub(r"(?<![\w\[\]@])R(?:(\d+)|\[(-?\d+)\])?C(?:(\d+)|\[(-?\d+)\])?(?![\w\[(])", reference, text)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


def body_of(table: Table) -> Area:
    """The rows between the header and the totals."""
    left, top, right, bottom = area_of(table.ref)
    return left, top + 1, right, bottom - (table.totalsRowCount or 0)


def resize(table: Table, rows: int) -> None:
    """Make the table longer or shorter."""
    left, top, right, bottom = area_of(table.ref)
    table.ref = address_of((left, top, right, bottom + rows))
    if table.autoFilter:
        table.autoFilter.ref = address_of((left, top, right, bottom + rows - (table.totalsRowCount or 0)))


def filtered(table: Table) -> bool:
    return bool(table.autoFilter and table.autoFilter.filterColumn)


def overlaps(one: Area, other: Area) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def shift(sheet: Worksheet, columns: tuple[int, int], first: int, rows: int, but: Table | None) -> None:
    """Move what stands from row `first` on in these columns by `rows`; tables move along, or are in the way."""
    left, right = columns
    last = max(sheet.max_row, first)
    below: Area = (left, first, right, last)
    for table in sheet.tables.values():
        area = area_of(table.ref)
        if table is but or not overlaps(area, below):
            continue
        if area[0] < left or area[2] > right or area[1] < first:
            raise Clash("insertDeleteConflict")
    for merged in sheet.merged_cells.ranges:
        if overlaps(merged.bounds, below) and (merged.bounds[0] < left or merged.bounds[2] > right):
            raise Clash("insertDeleteConflict")
    for table in sheet.tables.values():
        area = area_of(table.ref)
        if table is not but and overlaps(area, below):
            table.ref = address_of((area[0], area[1] + rows, area[2], area[3] + rows))
    if first <= sheet.max_row:
        sheet.move_range(address_of((left, first, right, sheet.max_row)), rows=rows, translate=True)


def add_rows(sheet: Worksheet, table: Table, count: int) -> int:
    """New empty rows at the end of the table; the sheet row of the first. Formats and calculated columns come along."""
    left, top, right, bottom = body_of(table)
    if filtered(table):
        raise Clash("filteredRangeConflict")
    shift(sheet, (left, right), bottom + 1, count, table)
    resize(table, count)
    for column in range(left, right + 1):
        above: Any = sheet.cell(bottom, column)
        for row in range(bottom + 1, bottom + 1 + count):
            new: Any = sheet.cell(row, column)
            new._style = above._style  # noqa: SLF001 — openpyxl's way to copy a format
        calculated: TableColumn = table.tableColumns[column - left]
        if calculated.calculatedColumnFormula is not None and bottom >= top and above.data_type == "f":
            pattern = relative(str(above.value), bottom, column)
            for row in range(bottom + 1, bottom + 1 + count):
                sheet.cell(row, column).value = absolute(pattern, row, column)
    return bottom + 1


def delete_area(sheet: Worksheet, area: Area) -> None:
    """Delete cells, those below move up. Rows of a table go only as whole rows, and never the last one."""
    left, top, right, bottom = area
    count = bottom - top + 1
    inside: Table | None = None
    for table in sheet.tables.values():
        body = body_of(table)
        if not overlaps(area, area_of(table.ref)):
            continue
        if (left, right) != (body[0], body[2]) or top < body[1] or bottom > body[3] or count > body[3] - body[1]:
            raise Clash("insertDeleteConflict")
        if filtered(table):
            raise Clash("filteredRangeConflict")
        inside = table
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            sheet._cells.pop((row, column), None)  # noqa: SLF001 — openpyxl has no public way to drop one cell
    shift(sheet, (left, right), bottom + 1, -count, inside)
    if inside:
        resize(inside, -count)
