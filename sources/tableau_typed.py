"""The ways to Tableau's data that keep its types: the VizQL Data Service, the extract itself, and the crosstab's cells."""

from __future__ import annotations

import codecs
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import requests
from python_calamine import CalamineError, CalamineWorkbook

from connector.auth.tableau import BLOCK, Connection, Refused, at_least
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError, nearest
from connector.http import LOST
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
Query = Mapping[str, Any]


# ── VizQL Data Service ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a published data source, as read-metadata describes it."""

    name: str
    caption: str
    kind: str
    aggregate: bool


def fields(connection: Connection, what: str, luid: str) -> list[Field]:
    """The fields of a data source."""
    described = _vizql(connection, what, "read-metadata", {"datasource": {"datasourceLuid": luid}}).json()["data"]
    return [
        Field(
            each["fieldName"],
            each["fieldCaption"],
            each["dataType"],
            each.get("columnClass") == "TABLE_CALCULATION" or each.get("defaultAggregation") == "AGG",
        )
        for each in described
    ]


def query(
    known: Sequence[Field],
    what: str,
    columns: Mapping[str, str | None],
    filters: Mapping[str, Sequence[object]],
    parameters: Mapping[str, object],
) -> tuple[dict[str, Any], pa.Schema]:
    """The query and the schema of its answer: the columns with their functions, or every field of every row.

    Raises SourceError for a caption the data source does not have.
    """
    chosen = _chosen(known, what, columns)
    by_name = len({each.caption for each, _ in chosen}) < len(chosen)  # captions repeat: ask by the names beneath them
    names = unique([each.caption for each, _ in chosen])
    asked: list[dict[str, Any]] = []
    for name, (each, function) in zip(names, chosen, strict=True):
        asked.append({"fieldCaption": each.name if by_name else each.caption, **({"function": function} if function else {})})
        if name != asked[-1]["fieldCaption"] or function:
            asked[-1]["fieldAlias"] = name
    sets = [
        {
            "field": {"fieldCaption": _known(known, what, caption, by_name=by_name)},
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
    options: dict[str, Any] = {"returnFormat": "OBJECTS", "disaggregate": not any(function for _, function in chosen)}
    if by_name:
        options["interpretFieldCaptionsAsFieldNames"] = True
    types = [RESULTS.get(function or "", TYPES[each.kind]) for each, function in chosen]
    return {"query": body, "options": options}, pa.schema([pa.field(name, kind) for name, kind in zip(names, types, strict=True)])


def rows(connection: Connection, what: str, luid: str, asked: Query, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The answer in batches; as events with their announced number where the server can."""
    version = str(connection.server().version)
    options = {**asked["options"], **({"returnServerSentEvents": True} if at_least(version, EVENTS_SINCE) else {})}
    body = {"datasource": {"datasourceLuid": luid}, "query": asked["query"], "options": options}
    with _vizql(connection, what, "query-datasource", body, stream=True) as response:
        events = "event-stream" in response.headers.get("Content-Type", "")
        try:
            found = _from_events(response, what) if events else _from_json(response, what)
            waiting: list[Mapping[str, Any]] = []
            for row in found:
                waiting.append(row)
                if len(waiting) == ROWS:
                    yield _typed(waiting, schema, what)
                    waiting = []
            yield _typed(waiting, schema, what)
        except LOST as error:
            raise TransientError(
                f"{connection.place}: {what}: the answer broke off ({type(error).__name__})", remedy="the next run tries again"
            ) from error


def _chosen(known: Sequence[Field], what: str, columns: Mapping[str, str | None]) -> list[tuple[Field, str | None]]:
    if not columns:
        return [(each, None) for each in known if each.kind in TYPES and not each.aggregate]
    by_caption = {each.caption: each for each in reversed(known)}
    for caption in columns:
        _known(known, what, caption)
        if by_caption[caption].kind not in TYPES:
            raise SourceError(f"{what}: {caption!r} is {by_caption[caption].kind.lower()}, which has no column type")
    return [(by_caption[caption], function) for caption, function in columns.items()]


def _known(known: Sequence[Field], what: str, caption: str, *, by_name: bool = False) -> str:
    for each in known:
        if each.caption == caption:
            return each.name if by_name else each.caption
    raise SourceError(f"{what}: no field {caption!r}; {nearest(caption, sorted({each.caption for each in known}))}")


def _vizql(connection: Connection, what: str, operation: str, body: Query, *, stream: bool = False) -> requests.Response:
    try:
        return connection.fetch(what, "POST", f"/api/v1/vizql-data-service/{operation}", json=body, stream=stream)
    except Refused as refusal:
        raise _explained(connection, what, refusal) from refusal


def _explained(connection: Connection, what: str, refusal: Refused) -> ConnectorError:
    place = f"{connection.place}: {what}"
    if refusal.code == "403800":
        return AuthError(f"{place}: the user lacks API Access to it", remedy="give the user the API Access capability on the data source")
    if refusal.code == "400804":
        return SourceError(f"{place}: the answer is too large", remedy="name the `columns` you need, set `filters`, or use `mode: extract`")
    if refusal.status == 404 and not refusal.code:
        return ConfigError(f"{place}: this Tableau has no VizQL Data Service", remedy="use `mode: view` or `mode: extract`")
    if refusal.status == 400:
        return SourceError(f"{place}: the query was refused ({refusal})", remedy="check `columns`, `filters` and `parameters`")
    return connection.error(what, refusal)


def _from_events(response: requests.Response, what: str) -> Iterator[Mapping[str, Any]]:
    """Rows of server-sent events, counted against what the first event announced."""
    announced, sent = None, 0
    for name, data in _events(response):
        if name == "METADATA":
            announced = data.get("rowCount")
        elif name == "DATA":
            yield from data
            sent += len(data)
        elif name == "ERROR":
            raise SourceError(f"{what}: Tableau broke off with error {data.get('errorCode', 'unknown')}", remedy="run again")
    if announced is None or announced != sent:
        raise SourceError(f"{what}: {announced} rows announced, {sent} sent", remedy="run again; nothing was taken over")


def _events(response: requests.Response) -> Iterator[tuple[str, Any]]:
    name, lines = "", []
    response.encoding = "utf-8"
    for line in response.iter_lines(BLOCK, decode_unicode=True):
        key, _, value = line.partition(":")
        if key == "event":
            name = value.strip()
        elif key == "data":
            lines.append(value.removeprefix(" "))
        elif not line and lines:
            data = json.loads("\n".join(lines))
            if isinstance(data, dict) and "event" in data:  # the whole event as the data of a nameless one
                name, data = data["event"], data["data"]
            yield name, data
            name, lines = "", []


def _from_json(response: requests.Response, what: str) -> Iterator[Mapping[str, Any]]:
    """The objects of `{"data": [...]}` one by one, without holding them all."""
    decoder, text, started = json.JSONDecoder(), "", False
    chunks = codecs.iterdecode(response.iter_content(BLOCK), "utf-8")
    for chunk in chunks:
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
                if re.search(r'"error"\s*:\s*\{', text[at:] + "".join(chunks)):
                    raise SourceError(f"{what}: Tableau broke off with an error", remedy="run again; nothing was taken over")
                return
            try:
                row, at = decoder.raw_decode(text, at)
            except ValueError:
                break
            yield row
        text = text[at:]
    raise SourceError(f"{what}: the answer is not complete", remedy="run again; nothing was taken over")


def _typed(found: Sequence[Mapping[str, Any]], schema: pa.Schema, what: str) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_arrays(
            [pa.array([_value(row[field.name], field.type) for row in found], field.type) for field in schema], schema=schema
        )
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise SourceError(f"{what}: a row does not fit what Tableau says of its fields: {str(error)[:200]}") from error


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def _value(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str) and pa.types.is_date(kind):
        return date.fromisoformat(value[:10])
    if isinstance(value, str) and pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value).replace(tzinfo=None)
    return int(value) if pa.types.is_integer(kind) and value is not None else value


# ── extract ───────────────────────────────────────────────────────────────────────────────────────


def require_pantab() -> Any:
    """The library that reads .hyper files. Raises ConfigError when it is not installed."""
    try:
        import pantab  # noqa: PLC0415 — an extra, and a large one
    except ImportError as error:
        raise ConfigError(
            "`mode: extract` reads .hyper files with pantab, which is not installed", remedy='pip install "pipeline-connector[tableau]"'
        ) from error
    return pantab


def extract(connection: Connection, what: str, luid: str, wanted: str | None, folder: Path) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The rows of a data source's extract, each batch with the number of all rows."""
    pantab = require_pantab()
    package = folder / "source.tdsx"
    try:
        connection.download(what, f"datasources/{luid}/content", package, params={"includeExtract": "True"})
    except Refused as refusal:
        if refusal.status == 403:
            raise AuthError(
                f"{connection.place}: {what}: may not be downloaded", remedy="give the user the Download Data Source capability on it"
            ) from refusal
        raise connection.error(what, refusal) from refusal
    file = _hyper(package, what, folder)
    with _readable(what):
        names = pantab.libpantab.get_table_names(str(file))
    table = _one_table(names, wanted, what)
    quoted = ".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in table)
    with _readable(what):
        total = pantab.frame_from_hyper_query(file, f"select count(*) from {quoted}", return_type="pyarrow").column(0)[0].as_py()
        stream = pantab.frame_from_hyper_query(file, f"select * from {quoted}", return_type="stream", chunk_size=ROWS)
        reader = pa.RecordBatchReader.from_stream(stream)
        for batch in reader:
            yield batch, total
        if not total:
            yield pa.RecordBatch.from_pylist([], reader.schema), total


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0][:200]
        raise SourceError(
            f"{what}: does not read as an extract: {reason}", remedy="refresh the extract in Tableau, or use `mode: vds`"
        ) from error


def _hyper(package: Path, what: str, folder: Path) -> Path:
    if not zipfile.is_zipfile(package):
        return package.rename(package.with_suffix(".hyper"))
    with zipfile.ZipFile(package) as contents:
        inside = [name for name in contents.namelist() if name.endswith(".hyper")]
        if len(inside) != 1:
            raise SourceError(
                f"{what}: {'no extract' if not inside else f'{len(inside)} extracts'} in the data source",
                remedy="use `mode: vds`, which also reads live connections",
            )
        file = folder / "source.hyper"
        with contents.open(inside[0]) as packed, file.open("wb") as plain:
            while block := packed.read(1 << 20):
                plain.write(block)
    return file


def _one_table(names: Iterable[Any], wanted: str | None, what: str) -> tuple[str, ...]:
    there = {".".join(parts): parts for name in names if (parts := name if isinstance(name, tuple) else (name,))}
    if wanted is None and len(there) == 1:
        return next(iter(there.values()))
    if wanted is None:
        raise ConfigError(
            f"{what}: the extract has {len(there)} tables", remedy=f"set `extract_table` to one of: {', '.join(sorted(there))}"
        )
    if wanted not in there:
        raise SourceError(f"{what}: no table {wanted!r} in the extract; {nearest(wanted, sorted(there))}")
    return there[wanted]


# ── crosstab ──────────────────────────────────────────────────────────────────────────────────────


def crosstab(file: Path, what: str) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a crosstab: headers of several rows joined by ` / `, merged cells repeated."""
    try:
        with CalamineWorkbook.from_path(file) as book:
            sheet = book.get_sheet_by_index(0)
            cells: list[list[Any]] = sheet.to_python(skip_empty_area=False)
            merged = sheet.merged_cell_ranges or []
    except CalamineError as error:
        raise SourceError(f"{what}: the crosstab does not read as a workbook: {error}", remedy="run again, or use `mode: view`") from error
    for (top, left), (bottom, right) in merged:
        for row in range(top, min(bottom, len(cells) - 1) + 1):
            for column in range(left, right + 1):
                cells[row][column] = cells[top][left]
    heads = next((number for number, row in enumerate(cells, 1) if row and row[0] != ""), 0)
    heads = max([heads, *(bottom + 1 for (top, left), (bottom, _) in merged if top == left == 0)])
    if not heads:
        raise SourceError(f"{what}: the crosstab has no header", remedy="use `mode: view`")
    width = max(len(row) for row in cells)
    body = [[None if cell == "" else cell for cell in (*row, *[""] * (width - len(row)))] for row in cells[heads:]]
    parts = [
        list(dict.fromkeys(str(row[column]) for row in cells[:heads] if column < len(row) and row[column] != "")) for column in range(width)
    ]
    return unique([" / ".join(part) for part in parts]), body
