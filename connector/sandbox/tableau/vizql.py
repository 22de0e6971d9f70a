"""The VizQL Data Service: what a published data source has, and typed rows out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, get_args

from connector.sandbox.server import Handler, Refusal, Request, Response, reply
from connector.sandbox.tableau.content import Column, Datasource, Function, Row, Shown, Site, Value, View, wire
from connector.sandbox.tableau.publish import columns_of

EVENT_ROWS: Final = 1000
FUNCTIONS: Final = frozenset(get_args(Function))


class VizQL:
    """Answers read-metadata and query-datasource, as one JSON object or as server-sent events."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def operations(self) -> Iterator[tuple[str, Handler]]:
        yield "read-metadata", self.read_metadata
        yield "query-datasource", self.query

    def source(self, asked: Mapping[str, Any]) -> Datasource:
        wanted = asked.get("datasource", {}).get("datasourceLuid")
        for source in self.site.datasources:
            if source.id == wanted:
                if not source.api_access:
                    raise _refused(403, "403800", "The API access permission is missing.")
                if source.blob is not None and not source.columns:
                    source.columns = columns_of(source.blob)
                return source
        raise _refused(404, "404950", "The data source could not be found.")

    def read_metadata(self, request: Request) -> Response:
        source = self.source(request.json())
        return reply({"data": [_described(column) for column in source.columns], "extraData": {"parameters": []}})

    def query(self, request: Request) -> Response:
        asked = request.json()
        source = self.source(asked)
        options = asked.get("options", {})
        rows = [_plain(row) for row in _selected(source, asked["query"], options)]
        if limit := options.get("rowLimit"):
            rows = rows[:limit]
        if not options.get("returnServerSentEvents"):
            return reply({"data": rows})
        events: list[dict[str, Any]] = [{"event": "METADATA", "data": {"rowCount": len(rows)}}]
        events += [{"event": "DATA", "data": rows[at : at + EVENT_ROWS]} for at in range(0, len(rows), EVENT_ROWS)]
        body = "".join(f"event: {event['event']}\ndata: {json.dumps(event['data'], ensure_ascii=False)}\n\n" for event in events)
        return Response(200, body.encode(), {"Content-Type": "text/event-stream;charset=utf-8"})


def _refused(status: int, code: str, message: str) -> Refusal:
    return Refusal(reply({"errorCode": code, "message": message, "datetime": "2026-01-05T09:00:00Z"}, status))


def _described(column: Column) -> dict[str, str]:
    return {
        "fieldName": column.key,
        "fieldCaption": column.caption,
        "dataType": column.kind,
        "fieldRole": "MEASURE" if column.measure else "DIMENSION",
        "defaultAggregation": "SUM" if column.measure else "COUNT",
        "columnClass": "COLUMN",
        "logicalTableId": "",
    }


def _selected(source: Datasource, query: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
    disaggregate, by_name = options.get("disaggregate", False), options.get("interpretFieldCaptionsAsFieldNames", False)
    filters = dict(_filter(source, each, by_name) for each in query.get("filters", ()))
    shown: list[Shown] = []
    names: list[str] = []
    for field in query["fields"]:
        column = _column(source, field["fieldCaption"], by_name)
        if disaggregate and "function" in field:
            raise _refused(400, "400803", "A query that is not aggregated takes no functions.")
        if field.get("function", "SUM") not in FUNCTIONS:
            raise _refused(400, "400803", f"Unknown Function: {field['function']}.")
        function: Function | None = field.get("function") or ("SUM" if column.measure and not disaggregate else None)
        shown.append(Shown(column.key, function))
        names.append(field.get("fieldAlias") or (f"{function}({column.caption})" if function else column.caption))
    if len(set(names)) < len(names):
        raise _refused(404, "404935", "Two fields have the same caption.")
    marks = View("", source, tuple(shown)).marks(filters)
    distinct = not disaggregate and not any(each.measure for each in shown)
    for mark in dict.fromkeys(marks) if distinct else marks:
        yield dict(zip(names, mark, strict=True))


def _column(source: Datasource, said: str, by_name: bool) -> Column:
    found = [column for column in source.columns if said == (column.key if by_name else column.caption)]
    if not found:
        raise _refused(400, "400803", f"Unknown Field: {said}.")
    if len(found) > 1:
        raise _refused(404, "404935", f"The field {said} is not unique.")
    return found[0]


def _filter(source: Datasource, asked: Mapping[str, Any], by_name: bool) -> tuple[str, frozenset[str]]:
    column = _column(source, asked["field"]["fieldCaption"], by_name)
    if asked["filterType"] != "SET" or asked.get("exclude"):
        raise _refused(400, "400803", f"The sandbox knows no filter of type {asked['filterType']}.")
    return column.key, frozenset(wire(value) for value in asked["values"])


def _plain(row: Row) -> dict[str, object]:
    return {name: _json(value) for name, value in row.items()}


def _json(value: Value) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return value.isoformat() if isinstance(value, date) else value
