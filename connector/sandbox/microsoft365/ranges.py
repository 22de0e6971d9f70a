"""Sheets, tables and ranges of an open workbook: what the Excel REST API does with cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from openpyxl import Workbook
from openpyxl.worksheet.table import Table, TableColumn
from openpyxl.worksheet.worksheet import Worksheet

from connector.sandbox.microsoft365.answers import refusal
from connector.sandbox.microsoft365.cells import (
    Area,
    Clash,
    absolute,
    add_rows,
    address_of,
    area_of,
    body_of,
    delete_area,
    formula,
    kind,
    put,
    relative,
    shift,
    shown,
)
from connector.sandbox.microsoft365.graph import Call, picked
from connector.sandbox.server import Response, reply

SHEET: Final = r"/worksheets/(?P<sheet>[^/]+)"
TABLE: Final = r"(?:/worksheets/(?P<sheet>[^/]+))?/tables/(?P<table>[^/]+)"
RANGE: Final = SHEET + r"/range\(address=(?:'|%27)(?P<address>[^/]+?)(?:'|%27)\)"


class Opened(Protocol):
    """An open workbook, as far as cells are concerned."""

    dirty: bool


class Books(Protocol):
    """Where open workbooks come from."""

    refreshed_pivots: list[str]

    def add(self, method: str, pattern: str, handler: Callable[[Call, Any], Response]) -> None: ...
    def book(self, call: Call, live: Any) -> Workbook: ...


class Ranges:
    """The endpoints for cells."""

    def __init__(self, books: Books) -> None:
        self.books = books
        add = books.add
        add("GET", "/worksheets", self.sheets)
        add("GET", SHEET + r"/usedRange(?:\(valuesOnly=(?:true|false)\))?", self.used_range)
        add("GET", SHEET + "/pivotTables", self.pivots)
        add("POST", SHEET + "/pivotTables/refreshAll", self.refresh_pivots)
        add("GET", "/application", self.application)
        add("POST", "/application/calculate", self.calculate)
        add("GET", "/tables", self.tables)
        add("GET", SHEET + "/tables", self.tables)
        add("GET", TABLE, self.table)
        add("GET", TABLE + "/worksheet", self.table_sheet)
        add("GET", TABLE + "/columns", self.columns)
        add("POST", TABLE + "/columns/add", self.add_column)
        add("GET", TABLE + r"/rows/(?:\$count|count\(\))", self.count)
        add("POST", TABLE + "/rows(?:/add)?", self.add_rows)
        add("DELETE", TABLE + r"/rows/(?:itemAt\(index=)?(?P<index>\d+)\)?", self.delete_row)
        add("POST", TABLE + "/clearFilters", self.clear_filters)
        add("GET", TABLE + r"/(?P<part>headerRowRange|dataBodyRange|totalRowRange|range)(?:\(\))?", self.table_range)
        add("GET", RANGE, self.get_range)
        add("PATCH", RANGE, self.patch_range)
        add("POST", RANGE + "/clear", self.clear_range)
        add("POST", RANGE + "/delete", self.delete_range)
        add("POST", RANGE + "/insert", self.insert_range)

    # ── sheets and pivots ─────────────────────────────────────────────────────────────────────────

    def sheets(self, call: Call, live: Opened) -> Response:
        sheets = self.books.book(call, live).worksheets
        visible = {"visible": "Visible", "hidden": "Hidden", "veryHidden": "VeryHidden"}
        return reply(
            {
                "value": [
                    picked(call, {"id": sheet_id(sheet), "name": sheet.title, "position": place, "visibility": visible[sheet.sheet_state]})
                    for place, sheet in enumerate(sheets)
                ]
            }
        )

    def used_range(self, call: Call, live: Opened) -> Response:
        sheet = self._sheet(call, live)
        return self._range(call, sheet, (1, 1, max(1, sheet.max_column), max(1, sheet.max_row)))

    def pivots(self, call: Call, live: Opened) -> Response:
        sheet: Any = self._sheet(call, live)
        return reply({"value": [{"id": str(place), "name": pivot.name} for place, pivot in enumerate(sheet._pivots)]})  # noqa: SLF001 — not public

    def refresh_pivots(self, call: Call, live: Opened) -> Response:
        self.books.refreshed_pivots.append(self._sheet(call, live).title)
        return Response(204)

    def application(self, call: Call, live: Opened) -> Response:
        mode = self.books.book(call, live).calculation.calcMode
        names = {"auto": "Automatic", "autoNoTable": "AutomaticExceptTables", "manual": "Manual"}
        return reply({"calculationMode": names[mode or "auto"]})

    def calculate(self, call: Call, live: Opened) -> Response:
        return Response(204)

    # ── tables ────────────────────────────────────────────────────────────────────────────────────

    def tables(self, call: Call, live: Opened) -> Response:
        sheets = [self._sheet(call, live)] if "sheet" in call.request.args else self.books.book(call, live).worksheets
        return reply({"value": [picked(call, _table_json(table)) for sheet in sheets for table in sheet.tables.values()]})

    def table(self, call: Call, live: Opened) -> Response:
        return reply(picked(call, _table_json(self._table(call, live)[1])))

    def table_sheet(self, call: Call, live: Opened) -> Response:
        sheet = self._table(call, live)[0]
        return reply(picked(call, {"id": sheet_id(sheet), "name": sheet.title, "visibility": "Visible"}))

    def columns(self, call: Call, live: Opened) -> Response:
        table = self._table(call, live)[1]
        return reply(
            {"value": [{"id": str(column.id), "name": column.name, "index": place} for place, column in enumerate(table.tableColumns)]}
        )

    def add_column(self, call: Call, live: Opened) -> Response:
        """At the end; what stands there must be empty."""
        sheet, table = self._table(call, live)
        values = call.json().get("values") or []
        left, top, right, bottom = area_of(table.ref)
        for row in range(top, bottom + 1):
            if sheet.cell(row, right + 1).value is not None:
                raise Clash("insertDeleteConflict")
        table.ref = address_of((left, top, right + 1, bottom))
        if table.autoFilter:
            table.autoFilter.ref = table.ref
        name = str(values[0][0]) if values else f"Column{right - left + 2}"
        table.tableColumns.append(TableColumn(id=max(column.id for column in table.tableColumns) + 1, name=name))
        for row, content in enumerate([[name], *values[1:]], top):
            put(sheet.cell(row, right + 1), content[0])
        live.dirty = True
        return reply({"id": str(table.tableColumns[-1].id), "name": name, "index": right - left + 1}, 201)

    def count(self, call: Call, live: Opened) -> Response:
        _, top, _, bottom = body_of(self._table(call, live)[1])
        return reply({"value": bottom - top + 1})

    def add_rows(self, call: Call, live: Opened) -> Response:
        sheet, table = self._table(call, live)
        self._unprotected(sheet)
        body = call.json()
        left, top, right, bottom = body_of(table)
        values = body.get("values")
        if not isinstance(values, list) or not values or any(not isinstance(row, list) or len(row) != right - left + 1 for row in values):
            raise refusal(400, "invalidRequest", "The values do not fit the table's columns.", "invalidArgument")
        if body.get("index") not in (None, bottom - top + 1):
            raise refusal(501, "notImplemented", "The sandbox adds rows at the end only.")
        first = add_rows(sheet, table, len(values))
        for row, content in enumerate(values, first):
            for column, value in enumerate(content, left):
                put(sheet.cell(row, column), value)
        live.dirty = True
        return reply({"index": first - top, "values": [values[0]]}, 201)

    def delete_row(self, call: Call, live: Opened) -> Response:
        sheet, table = self._table(call, live)
        self._unprotected(sheet)
        left, top, right, _ = body_of(table)
        row = top + int(call.request.args["index"])
        delete_area(sheet, (left, row, right, row))
        live.dirty = True
        return Response(204)

    def clear_filters(self, call: Call, live: Opened) -> Response:
        table = self._table(call, live)[1]
        if table.autoFilter:
            table.autoFilter.filterColumn = []
        live.dirty = True
        return Response(204)

    def table_range(self, call: Call, live: Opened) -> Response:
        sheet, table = self._table(call, live)
        left, top, right, bottom = area_of(table.ref)
        totals = table.totalsRowCount or 0
        if call.request.args["part"] == "totalRowRange" and not totals:
            raise refusal(404, "itemNotFound", "The table has no total row.")
        areas = {
            "range": (left, top, right, bottom),
            "headerRowRange": (left, top, right, top),
            "dataBodyRange": (left, top + 1, right, bottom - totals),
            "totalRowRange": (left, bottom, right, bottom),
        }
        return self._range(call, sheet, areas[call.request.args["part"]])

    # ── ranges ────────────────────────────────────────────────────────────────────────────────────

    def get_range(self, call: Call, live: Opened) -> Response:
        return self._range(call, self._sheet(call, live), self._area(call))

    def patch_range(self, call: Call, live: Opened) -> Response:
        sheet, area, body = self._sheet(call, live), self._area(call), call.json()
        self._unprotected(sheet)
        left, top, right, bottom = area
        for name in ("numberFormat", "values", "formulas", "formulasR1C1"):
            if name not in body:
                continue
            matrix = _fitted(body[name], bottom - top + 1, right - left + 1)
            for row in range(top, bottom + 1):
                for column in range(left, right + 1):
                    value = matrix[row - top][column - left]
                    if name == "numberFormat":
                        sheet.cell(row, column).number_format = value or sheet.cell(row, column).number_format
                    elif name == "formulasR1C1" and isinstance(value, str):
                        put(sheet.cell(row, column), absolute(value, row, column))
                    else:
                        put(sheet.cell(row, column), value)
        live.dirty = True
        return self._range(call, sheet, area)

    def clear_range(self, call: Call, live: Opened) -> Response:
        sheet = self._sheet(call, live)
        self._unprotected(sheet)
        left, top, right, bottom = self._area(call)
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                sheet.cell(row, column).value = None
        live.dirty = True
        return Response(204)

    def delete_range(self, call: Call, live: Opened) -> Response:
        sheet = self._sheet(call, live)
        self._unprotected(sheet)
        if call.json().get("shift") != "Up":
            raise refusal(501, "notImplemented", "The sandbox shifts up only.")
        delete_area(sheet, self._area(call))
        live.dirty = True
        return Response(204)

    def insert_range(self, call: Call, live: Opened) -> Response:
        sheet = self._sheet(call, live)
        self._unprotected(sheet)
        if call.json().get("shift") != "Down":
            raise refusal(501, "notImplemented", "The sandbox shifts down only.")
        left, top, right, bottom = area = self._area(call)
        shift(sheet, (left, right), top, bottom - top + 1, None)
        live.dirty = True
        return self._range(call, sheet, area)

    def _range(self, call: Call, sheet: Worksheet, area: Area) -> Response:
        left, top, right, bottom = area
        wanted = (call.request.query.get("$select") or "").split(",") if call.request.query.get("$select") else None

        def matrix(of: Callable[[Any], Any]) -> list[list[Any]]:
            return [[of(sheet.cell(row, column)) for column in range(left, right + 1)] for row in range(top, bottom + 1)]

        makers: dict[str, Callable[[Any], Any]] = {
            "values": shown,
            "text": lambda cell: str(shown(cell)),
            "formulas": formula,
            "formulasLocal": formula,
            "formulasR1C1": lambda cell: relative(str(cell.value), cell.row, cell.column) if cell.data_type == "f" else shown(cell),
            "numberFormat": lambda cell: cell.number_format,
            "valueTypes": kind,
        }
        value: dict[str, Any] = {
            "address": f"'{sheet.title}'!{address_of(area)}" if " " in sheet.title else f"{sheet.title}!{address_of(area)}",
            "rowCount": bottom - top + 1,
            "columnCount": right - left + 1,
            "cellCount": (bottom - top + 1) * (right - left + 1),
            "rowIndex": top - 1,
            "columnIndex": left - 1,
        }
        value |= {name: matrix(of) for name, of in makers.items() if wanted is None or name in wanted}
        return reply({name: part for name, part in value.items() if wanted is None or name in wanted})

    # ── what an address means ─────────────────────────────────────────────────────────────────────

    def _sheet(self, call: Call, live: Opened) -> Worksheet:
        wanted = call.request.args["sheet"].casefold()
        for sheet in self.books.book(call, live).worksheets:
            if wanted in (sheet_id(sheet).casefold(), sheet.title.casefold()):
                return sheet
        raise refusal(404, "resourceNotFound", "The sheet does not exist.", "itemNotFound")

    def _table(self, call: Call, live: Opened) -> tuple[Worksheet, Table]:
        wanted = call.request.args["table"].casefold()
        for sheet in self.books.book(call, live).worksheets:
            for table in sheet.tables.values():
                if wanted in (table.name.casefold(), _table_id(table).casefold()):
                    return sheet, table
        raise refusal(404, "resourceNotFound", "The table does not exist.", "itemNotFound")

    def _area(self, call: Call) -> Area:
        try:
            return area_of(call.request.args["address"])
        except (ValueError, TypeError):
            raise refusal(400, "invalidRequest", "The address is not a range.", "invalidArgument") from None

    def _unprotected(self, sheet: Worksheet) -> None:
        if sheet.protection.sheet:
            raise refusal(403, "accessDenied", "The worksheet is protected.", "accessDenied")


def sheet_id(sheet: Any) -> str:
    number = sheet.parent.worksheets.index(sheet)
    return f"{{00000000-0001-0000-{number:04}-000000000000}}"


def _table_id(table: Table) -> str:
    return f"{{00000000-000C-0000-FFFF-FFFF{table.id:08}}}"


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "id": _table_id(table),
        "name": table.name,
        "showHeaders": True,
        "showTotals": bool(table.totalsRowCount),
        "style": table.tableStyleInfo.name if table.tableStyleInfo else None,
    }


def _fitted(matrix: Any, rows: int, columns: int) -> list[list[Any]]:
    """A matrix of the target's shape; one value is spread over it."""
    if not isinstance(matrix, list):
        return [[matrix] * columns for _ in range(rows)]
    if len(matrix) == 1 and isinstance(matrix[0], list) and len(matrix[0]) == 1:
        return [[matrix[0][0]] * columns for _ in range(rows)]
    if len(matrix) != rows or any(not isinstance(row, list) or len(row) != columns for row in matrix):
        raise refusal(400, "invalidRequest", "The number of rows or columns in the input does not match the range.", "invalidArgument")
    return matrix
