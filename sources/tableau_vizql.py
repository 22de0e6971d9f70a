"""The VizQL Data Service: typed, unrounded rows of a published data source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from connector.auth.tableau import BLOCK, Connection, Refused, at_least
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError, nearest
from sources.tableau_answers import as_object, refuse_saved_page
from sources.tableau_text import unique

ROWS: Final = 20_000
BETWEEN: Final = re.compile(r"[\s,]*")
EVENTS_SINCE: Final = "3.28"  # Tableau 2026.1 sends rows as events, with their number first
TYPES: Final[Mapping[str, pa.DataType]] = {
    "STRING": pa.string(),
    "INTEGER": pa.int64(),
    "REAL": pa.float64(),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "BOOLEAN": pa.bool_(),
}
#: what a function gives, where that is not its field's own type
RESULTS: Final[Mapping[str, pa.DataType]] = {
    **dict.fromkeys(("COUNT", "COUNTD", "YEAR", "QUARTER", "MONTH", "WEEK", "DAY"), pa.int64()),
    **dict.fromkeys(("AVG", "MEDIAN", "STDEV", "VAR"), pa.float64()),
    **dict.fromkeys(("TRUNC_YEAR", "TRUNC_QUARTER", "TRUNC_MONTH", "TRUNC_WEEK", "TRUNC_DAY"), pa.date32()),
}
AGAIN: Final = "run again; nothing was taken over"
Query = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a published data source, as read-metadata describes it."""

    name: str
    caption: str
    kind: str
    aggregate: bool

    @property
    def of_every_row(self) -> bool:
        """Whether each row has a value of its own, of a type we know."""
        return self.kind in TYPES and not self.aggregate


def fields(connection: Connection, what: str, luid: str) -> list[Field]:
    """The fields of a data source. Raises SourceError for an answer that does not describe them."""
    place = f"{connection.place}: {what}"
    try:
        body = {"datasource": {"datasourceLuid": luid}}
        response = connection.fetch(what, "POST", _address("read-metadata"), json=body, repeatable=True)
    except Refused as refusal:
        raise _explained(connection, what, refusal, ()) from refusal
    described = as_object(place, response).get("data")
    if not isinstance(described, list):
        raise SourceError(f"{place}: the answer does not list the fields", remedy=AGAIN)
    return [_field(place, each) for each in described]


def _field(place: str, described: Any) -> Field:
    given = described if isinstance(described, dict) else {}
    caption = given.get("fieldCaption", given.get("fieldName"))
    if not isinstance(caption, str):
        raise SourceError(f"{place}: the answer describes a field without its name", remedy=AGAIN)
    aggregate = given.get("columnClass") == "TABLE_CALCULATION" or given.get("defaultAggregation") == "AGG"
    return Field(str(given.get("fieldName", caption)), caption, str(given.get("dataType", "UNKNOWN")), aggregate)


# ── the question ──────────────────────────────────────────────────────────────────────────────────


def query(
    known: Sequence[Field],
    what: str,
    columns: Sequence[tuple[str, str, str | None]],
    filters: Mapping[str, Sequence[object]],
    parameters: Mapping[str, object],
) -> tuple[dict[str, Any], pa.Schema]:
    """The query and the schema of its answer: the columns (name, field, function), or every field of every row.

    Raises SourceError for a field the data source does not have.
    """
    chosen = _chosen(known, what, columns)
    by_name = not columns and len({each.caption for _, each, _ in chosen}) < len(chosen)  # captions repeat: ask by the names beneath them
    names = unique([name for name, _, _ in chosen])
    aggregated = any(function for _, _, function in chosen)
    asked: list[dict[str, Any]] = []
    for name, (_, each, function) in zip(names, chosen, strict=True):
        asked.append({"fieldCaption": each.name if by_name else each.caption, **({"function": function} if function else {})})
        if aggregated or name != asked[-1]["fieldCaption"]:  # a measure without a function comes back as SUM(…) unless it is named
            asked[-1]["fieldAlias"] = name
    sets = [
        {
            "field": {"fieldCaption": _known(known, what, caption).name if by_name else _known(known, what, caption).caption},
            "filterType": "SET",
            "values": [_json(value) for value in values],
            "exclude": False,
        }
        for caption, values in filters.items()
    ]
    body: dict[str, Any] = {"fields": asked}
    if sets:
        body["filters"] = sets
    if parameters:
        body["parameters"] = [{"parameterCaption": name, "value": _json(value)} for name, value in parameters.items()]
    options: dict[str, Any] = {"returnFormat": "OBJECTS", "disaggregate": not aggregated}
    if by_name:
        options["interpretFieldCaptionsAsFieldNames"] = True
    types = [RESULTS.get(function or "", TYPES[each.kind]) for _, each, function in chosen]
    return {"query": body, "options": options}, pa.schema([pa.field(name, kind) for name, kind in zip(names, types, strict=True)])


def _chosen(known: Sequence[Field], what: str, columns: Sequence[tuple[str, str, str | None]]) -> list[tuple[str, Field, str | None]]:
    if not columns:
        return [(each.caption, each, None) for each in known if each.of_every_row]
    chosen = [(name, _known(known, what, caption), function) for name, caption, function in columns]
    for _, each, _ in chosen:
        if each.kind not in TYPES:
            raise SourceError(f"{what}: {each.caption!r} is {each.kind.lower()}, which has no column type")
    return chosen


def _known(known: Sequence[Field], what: str, caption: str) -> Field:
    for each in known:
        if each.caption == caption:
            return each
    raise SourceError(f"{what}: no field {caption!r}; {nearest(caption, sorted({each.caption for each in known}))}")


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def _address(operation: str) -> str:
    return f"/api/v1/vizql-data-service/{operation}"


def _explained(connection: Connection, what: str, refusal: Refused, captions: Iterable[str]) -> ConnectorError:
    place = f"{connection.place}: {what}"
    said = refusal.said.decode(errors="replace")
    # its words are Tableau's, the captions are ours
    named = max((each for each in captions if re.search(rf"(?<!\w){re.escape(each)}(?!\w)", said)), key=len, default=None)
    about = f": {named!r}" if named else ""
    if refusal.code == "403800":
        return AuthError(f"{place}: the user lacks API Access to it", remedy="give the user the API Access capability on the data source")
    if refusal.code == "403157":
        return ConfigError(
            f"{place}: the VizQL Data Service is switched off on this site",
            remedy="ask the site's admin to switch it on, or use `mode: extract` or `mode: view`",
        )
    if refusal.code == "400804":
        return SourceError(f"{place}: the answer is too large", remedy="name the `columns` you need, set `filters`, or use `mode: extract`")
    if refusal.code == "404934":
        return SourceError(f"{place}: Tableau knows no such field{about}", remedy="check `columns` and `filters` against the data source")
    if refusal.code == "404935":
        return SourceError(
            f"{place}: several fields go by one name{about}", remedy="rename one in the data source, or leave `columns` out to get them all"
        )
    if refusal.status == 408:
        return TransientError(
            f"{place}: Tableau took too long for the answer",
            remedy="the next run tries again; fewer `columns`, `filters` or `mode: extract` make it quicker",
        )
    if refusal.status == 404 and not refusal.code:
        return ConfigError(f"{place}: this Tableau has no VizQL Data Service", remedy="use `mode: view` or `mode: extract`")
    if refusal.status == 400:
        return SourceError(f"{place}: the query was refused ({refusal}){about}", remedy="check `columns`, `filters` and `parameters`")
    return connection.error(what, refusal)


# ── the answer ────────────────────────────────────────────────────────────────────────────────────


def rows(connection: Connection, what: str, luid: str, asked: Query, schema: pa.Schema, file: Path) -> Iterator[pa.RecordBatch]:
    """The answer in batches; as events with their announced number where the server can. It is kept in `file`, whole, before any is given."""
    version = str(connection.server().version)
    options = {**asked["options"], **({"returnServerSentEvents": True} if at_least(version, EVENTS_SINCE) else {})}
    body = {"datasource": {"datasourceLuid": luid}, "query": asked["query"], "options": options}
    try:
        kind = connection.download(what, _address("query-datasource"), file, method="POST", json=body)
    except Refused as refusal:
        mentioned = [each["fieldCaption"] for each in asked["query"]["fields"]]
        mentioned += [each["field"]["fieldCaption"] for each in asked["query"].get("filters", ())]
        raise _explained(connection, what, refusal, mentioned) from refusal
    refuse_saved_page(f"{connection.place}: {what}", kind, file)
    waiting: list[Row] = []
    for row in _from_events(file, what) if "event-stream" in kind else _from_json(file, what):
        waiting.append(row)
        if len(waiting) == ROWS:
            yield _typed(waiting, schema, what)
            waiting = []
    yield _typed(waiting, schema, what)


def _from_events(file: Path, what: str) -> Iterator[Row]:
    """Rows of server-sent events, counted against what the first event announced."""
    announced, sent = None, 0
    for name, data in _events(file, what):
        if name == "DATA":
            found = _rows(data or [], what)
            yield from found
            sent += len(found)
        elif name in ("METADATA", "ERROR"):
            told = data if isinstance(data, dict) else {}
            if name == "ERROR":
                code = re.sub(r"\D", "", str(told.get("errorCode", "")))
                raise SourceError(f"{what}: Tableau broke off with error {code or 'unknown'}", remedy=AGAIN)
            announced = told.get("rowCount")
    if announced is None or announced != sent:
        raise SourceError(f"{what}: {announced if announced is not None else 'no'} rows announced, {sent} sent", remedy=AGAIN)


def _events(file: Path, what: str) -> Iterator[tuple[str, Any]]:
    """The events by name. Lines end with LF or CRLF and nothing else: texts may hold what Unicode calls a line's end."""
    name, lines = "", []
    with file.open("rb") as answer:
        for ended in answer:
            line = ended.rstrip(b"\r\n")
            key, _, value = line.partition(b":")
            if key == b"event":
                name = value.strip().decode(errors="replace")
            elif key == b"data":
                lines.append(value.removeprefix(b" "))
            elif not line and lines:
                try:
                    data = json.loads(b"\n".join(lines))
                except ValueError as error:  # also bytes that are no UTF-8
                    raise SourceError(f"{what}: an event of the answer does not read as JSON", remedy=AGAIN) from error
                if isinstance(data, dict) and "event" in data:  # the whole event as the data of a nameless one
                    name, data = str(data["event"]), data.get("data")
                yield name, data
                name, lines = "", []


def _rows(data: Any, what: str) -> list[Row]:
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise SourceError(f"{what}: an event of the answer holds no rows", remedy=AGAIN)
    return data


def _from_json(file: Path, what: str) -> Iterator[Row]:
    """The objects of `{"data": [...]}` one by one, without holding them all."""
    decoder, text, started = json.JSONDecoder(), "", False
    with file.open(encoding="utf-8", newline="") as answer:
        for chunk in _chunks(answer, what):
            text += chunk
            if not started:
                start = re.search(r'"data"\s*:\s*\[', text)
                if not start:
                    continue
                started, text = True, text[start.end() :]
            at = 0
            while True:
                between = BETWEEN.match(text, at)
                at = between.end() if between else at
                if text.startswith("]", at):
                    if re.search(r'"error"\s*:\s*\{', text[at:] + "".join(_chunks(answer, what))):
                        raise SourceError(f"{what}: Tableau broke off with an error", remedy=AGAIN)
                    return
                if at < len(text) and text[at] != "{":
                    raise SourceError(f"{what}: the answer holds something else than rows", remedy=AGAIN)
                try:
                    row, at = decoder.raw_decode(text, at)
                except ValueError:  # the rest of it is to come
                    break
                yield row
            text = text[at:]
    raise SourceError(f"{what}: the answer is not complete", remedy=AGAIN)


def _chunks(answer: Any, what: str) -> Iterator[str]:
    try:
        while chunk := answer.read(BLOCK):
            yield chunk
    except UnicodeDecodeError as error:
        raise SourceError(f"{what}: the answer is not in UTF-8", remedy=AGAIN) from error


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def _typed(found: Sequence[Row], schema: pa.Schema, what: str) -> pa.RecordBatch:
    columns = [_column(found, field, what) for field in schema]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _column(found: Sequence[Row], field: pa.Field, what: str) -> pa.Array:
    """A column as announced, and never a value changed to fit. Times with an offset are instants: the column is then in UTC."""
    values = []
    for row in found:
        if field.name not in row:
            raise SourceError(f"{what}: a row has no {field.name!r}", remedy=AGAIN)
        try:
            values.append(_value(row[field.name], field.type))
        except (ValueError, TypeError, OverflowError) as error:
            raise _misfit(what, field, row[field.name]) from error
    kind = field.type
    if pa.types.is_timestamp(kind):
        aware = {value.tzinfo is not None for value in values if value is not None}
        if len(aware) > 1:
            raise SourceError(f"{what}: field {field.name!r}: some times have an offset and some none", remedy=AGAIN)
        kind = pa.timestamp("us", "UTC") if True in aware else kind
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _misfit(what, field, next((value for value in values if not _fits(value, kind)), None)) from error


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.scalar(value, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return False
    return True


def _misfit(what: str, field: pa.Field, value: Any) -> SourceError:
    return SourceError(
        f"{what}: field {field.name!r}: {str(value)[:40]!r} does not fit what Tableau says of it ({field.type})",
        remedy="correct the field's type in the data source, leave it out of `columns`, or use `mode: extract`",
    )


def _value(value: Any, kind: pa.DataType) -> Any:
    """Raises ValueError for what would have to be changed."""
    if value is None:
        return None
    if pa.types.is_integer(kind):
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("not whole")
        return int(value)
    if isinstance(value, str) and (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        moment = datetime.fromisoformat(value)
        if pa.types.is_timestamp(kind):
            return moment.astimezone(UTC) if moment.tzinfo else moment
        if moment.time() != time():
            raise ValueError("not a whole day")
        return moment.date()
    return value
