"""Refreshing tables inside a workbook that people have open, through the Excel REST API.

Only our columns are written, cell by cell; a teammate's columns stay with their rows. Every step can be done twice, so a run that breaks
half-way is completed by the next one. There is no way to resize a table: it grows by adding rows and shrinks by deleting cells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa

from connector.api import Output, Run
from connector.errors import ConfigError, TargetError, TransientError, nearest
from sinks.drives.graph import GraphDrive
from sinks.drives.graph_errors import Answer, translated
from sinks.drives.graph_session import LiveSession, Marker
from sinks.excel.cells import MAX_TEXT, Column, Rendering, columns_of, plain_values
from sinks.excel.references import letters
from sinks.excel.region import key_text
from sinks.excel.rows import keys_of
from sinks.excel.table import matching

LOG: Final = logging.getLogger("connector.drives")
CELLS: Final = 10_000  # in one request; the service takes 5 MB and echoes several times what it is sent
FEWEST: Final = 50
COOLDOWN: Final = 5.0
NEAR: Final = 20  # changed rows so close together are written in one request
TOO_MUCH: Final = (
    "rangeExceedsLimit",
    "payloadTooLargeUncategorized",
    "RequestPayloadSizeLimitExceeded",
    "ResponsePayloadSizeLimitExceeded",
    "MaxRequestDurationExceeded",
    "requestAborted",
)
Values = list[list[Any]]
Keep = Callable[[str, Mapping[str, Mapping[str, Any]]], None]


@dataclass(frozen=True, slots=True)
class WorkbookChanges:
    """What was done to the open workbook. `vanished`: what teammates had written beside rows that are gone (table → key → heading → value)."""

    rows: Mapping[str, int]
    added: int = 0
    deleted: int = 0
    written: int = 0
    completed: bool = False
    vanished: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def unchanged(self) -> bool:
        return not (self.added or self.deleted or self.written)


def _unkept(table: str, notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Notes that nobody keeps."""


def update_tables(
    drive: GraphDrive, tables: Mapping[str, Output], run: Run, *, date1904: bool = False, keep: Keep = _unkept
) -> WorkbookChanges:
    """Bring the tables (by their Excel names) up to date while people work. From here on the drive takes no file in this process.

    `keep` is given what teammates wrote beside rows (table, key → heading → value) before those rows are deleted.

    Raises AuthError when the service does not let this sign-in edit live, LockedError when somebody's Excel holds the file alone,
    TargetError when a table is missing or something is in the way, TransientError to try again later: the next run completes it.
    """
    item = drive.places.find()
    if item is None:
        raise TargetError(f"{drive.name()} does not exist", remedy="let the first run create it while nobody has it open")
    if drive.config.cloud == "china":
        raise ConfigError(f"{drive.name()}: this cloud has no live editing", remedy="set on_locked to wait or copy")
    if item.personal:
        raise ConfigError(f"{drive.name()}: a personal OneDrive has no live editing", remedy="set on_locked to wait or copy")
    if PurePosixPath(item.name).suffix.casefold() != ".xlsx":
        raise ConfigError(f"{drive.name()}: live editing takes .xlsx files only", remedy="set on_locked to wait or copy")
    drive.live = True
    marker = Marker(drive.session, item, drive.name())
    completed = marker.left()
    warnings: list[str] = []
    rendering = Rendering(run.timezone, date1904, warnings.append)
    done: list[_Table] = []
    with LiveSession(drive.client, drive.session, item, drive.name()) as live:
        for name, output in tables.items():
            run.progress(f"{name} (live)", len(done), len(tables))
            done.append(_Table(live, name, output, rendering, drive.name(), lambda: marker.begin(run.run_id), keep))
            done[-1].update()
        if any(table.changed for table in done):
            _refresh_pivots(live)
            _recalculate(live)
    marker.end()
    return WorkbookChanges(
        {table.name: table.output.rows for table in done},
        added=sum(table.added for table in done),
        deleted=sum(table.deleted for table in done),
        written=sum(table.written for table in done),
        completed=completed,
        vanished={table.name: table.vanished for table in done if table.vanished},
        warnings=tuple(warnings),
    )


def _refresh_pivots(live: LiveSession) -> None:
    for sheet in live.ask("GET", "/worksheets", params={"$select": "id,name"}).body["value"]:
        address = f"/worksheets/{quote(sheet['id'], safe='')}/pivotTables"
        if live.ask("GET", address, params={"$select": "id,name"}).body["value"]:
            live.ask("POST", f"{address}/refreshAll", json={})


def _recalculate(live: LiveSession) -> None:
    if live.ask("GET", "/application").body.get("calculationMode") == "Manual":
        live.ask("POST", "/application/calculate", json={"calculationType": "Recalculate"})


@dataclass(frozen=True, slots=True)
class _Span:
    """The body of the table on its sheet: rows and columns from 1."""

    top: int
    count: int
    left: int
    width: int

    def address(self, first: int, count: int, left: int = 0, width: int | None = None) -> str:
        """Rows `first`… of the body, as A1:B2."""
        start, end = self.left + left, self.left + left + (self.width if width is None else width) - 1
        return f"{letters(start)}{self.top + first}:{letters(end)}{self.top + first + count - 1}"


class _Table:
    """One table on its way to new content."""

    def __init__(
        self, live: LiveSession, name: str, output: Output, rendering: Rendering, what: str, before_writing: Callable[[], None], keep: Keep
    ) -> None:
        self.name = name
        self.output = output
        self.added = self.deleted = self.written = 0
        self.vanished: dict[str, dict[str, Any]] = {}
        self._live = live
        self._before_writing = before_writing
        self._keep = keep
        self._rendering = rendering
        self._what = f"{what}: table {name}"
        self._columns = columns_of(output.schema)
        self._cells = CELLS
        self._known: dict[int, str] = {}  # the key of each row, when rows are told apart by keys
        self._key_places: list[int] = []
        self._table, self._sheet = self._find()
        self._places = self._map()

    @property
    def changed(self) -> bool:
        return bool(self.added or self.deleted or self.written)

    def update(self) -> None:
        """Everything: rows that stay are patched, new ones added, others deleted; then the count is verified."""
        data = self.output.reader().read_all().combine_chunks()
        keys = [column for column in self._columns if column.name in self.output.key]
        theirs = [place for place in range(len(self._places)) if self._places[place] is None]
        if theirs and keys and len(keys) == len(self.output.key):
            self._by_key(data, tuple(keys), theirs)
        else:
            self._by_position(data)
        if (count := self._span().count) != max(1, data.num_rows):
            LOG.info("%s: has %d rows instead of %d", self._what, count, data.num_rows)
            raise self._disturbed()

    def _disturbed(self) -> TransientError:
        return TransientError(f"{self._what}: somebody is moving its rows about", remedy="the next run completes the refresh")

    # ── what is there ─────────────────────────────────────────────────────────────────────────────

    def _find(self) -> tuple[str, str]:
        """The addresses of the table and of its sheet."""
        tables = self._live.ask("GET", "/tables", params={"$select": "id,name"}).body["value"]
        found = next((table for table in tables if table["name"].casefold() == self.name.casefold()), None)
        if found is None:
            raise TargetError(
                f"{self._what} is not in the open workbook; {nearest(self.name, [table['name'] for table in tables])}",
                remedy="it is created by the next run that finds the workbook closed",
            )
        table = f"/tables/{quote(found['id'], safe='')}"
        address = str(self._live.ask("GET", f"{table}/headerRowRange()", params={"$select": "address"}).body["address"])
        title = address.rpartition("!")[0].removeprefix("'").removesuffix("'").replace("''", "'")
        sheets = self._live.ask("GET", "/worksheets", params={"$select": "id,name"}).body["value"]
        sheet = next((sheet["id"] for sheet in sheets if sheet["name"] == title), None)
        if sheet is None:
            raise self._disturbed()
        return table, f"/worksheets/{quote(sheet, safe='')}"

    def _map(self) -> list[Column | None]:
        """For each column of the table ours, or None for a teammate's. Columns of ours that are missing are added at the end."""
        header = self._live.ask("GET", f"{self._table}/headerRowRange()", params={"$select": "values"}).body["values"][0]
        by_name = {matching(name): column for column in self._columns for name in (*column.aliases, column.heading)}
        places = [by_name.get(matching(str(heading))) for heading in header]
        for column in self._columns:
            if column not in places:
                rows = self._span().count
                self._edit("POST", f"{self._table}/columns/add", json={"values": [[column.heading], *[[""]] * rows]}, again=False)
                places.append(column)
                self.written += 1
        return places

    def _span(self) -> _Span:
        body = self._live.ask("GET", f"{self._table}/dataBodyRange()", params={"$select": "rowIndex,rowCount,columnIndex,columnCount"}).body
        return _Span(body["rowIndex"] + 1, body["rowCount"], body["columnIndex"] + 1, body["columnCount"])

    # ── the two ways ──────────────────────────────────────────────────────────────────────────────

    def _by_position(self, data: pa.Table) -> None:
        """Row by row in our order: nobody else has columns here, or nothing tells the rows apart."""
        span = self._span()
        stay = min(span.count, data.num_rows)
        self._patch(span, [(row, row) for row in range(stay)], data)
        self._add(list(range(stay, data.num_rows)), data, span.count)
        self._delete(list(range(max(1, data.num_rows), span.count)))
        if not data.num_rows:
            self._blank(span)

    def _by_key(self, data: pa.Table, keys: Sequence[Column], theirs: Sequence[int]) -> None:
        """Rows stay where they are, so that what teammates wrote beside them stays with them; new ones come at the end."""
        span = self._span()
        waiting: dict[str, list[int]] = {}
        position = 0
        for batch in data.to_batches():
            for key in keys_of(batch, keys, self._rendering):
                waiting.setdefault(key, []).append(position)
                position += 1
        stay: list[tuple[int, int]] = []
        gone: dict[int, str] = {}
        self._known = dict(enumerate(self._keys(span, keys)))
        for row, key in self._known.items():
            if known := waiting.get(key):
                stay.append((row, known.pop(0)))
            else:
                gone[row] = key
        self._remember(span, gone, theirs)
        self._patch(span, stay, data)
        self._add(sorted(row for known in waiting.values() for row in known), data, span.count)
        self._delete(list(gone) if data.num_rows else list(gone)[1:])
        if not data.num_rows:
            self._blank(self._span())

    def _keys(self, span: _Span, keys: Sequence[Column]) -> Iterator[str]:
        """The key of each row on the sheet."""
        self._key_places = [self._places.index(column) for column in keys]
        left, right = min(self._key_places), max(self._key_places)
        for _, values in self._read(span, left, right - left + 1):
            for row in values:
                yield self._key(row, left)

    def _key(self, values: Sequence[Any], left: int) -> str:
        return "\x1f".join(key_text(_plain(values[place - left])) for place in self._key_places)

    def _still(self, rows: Sequence[int], values: Values, left: int) -> None:
        """Before rows are written or deleted: they must still be the ones we took them for."""
        if self._known and any(self._key(row, left) != self._known[at] for at, row in zip(rows, values, strict=True)):
            raise self._disturbed()

    def _remember(self, span: _Span, gone: Mapping[int, str], theirs: Sequence[int]) -> None:
        """What teammates wrote beside rows that go."""
        headings = self._live.ask("GET", f"{self._table}/headerRowRange()", params={"$select": "values"}).body["values"][0]
        for first, count in _runs(list(gone)):
            for row, cells in enumerate(self._range(span.address(first, count), "formulas")["formulas"], first):
                written = {str(headings[place]): cells[place] for place in theirs if not str(cells[place]).startswith("=")}
                if kept := {heading: value for heading, value in written.items() if value != ""}:
                    self.vanished[gone[row]] = kept
        if self.vanished:
            self._keep(self.name, self.vanished)
            self._rendering.warn(f"table {self.name}: {len(self.vanished)} rows with teammates' entries are gone from the data")

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def _patch(self, span: _Span, pairs: Sequence[tuple[int, int]], data: pa.Table) -> None:
        """Our values of data row `to` into body row `at`, for each (at, to); only where something differs."""
        left, width = self._ours()
        rows = dict(pairs)
        for start, count in _runs(list(rows)):
            for first, current in self._read(_Span(span.top + start, count, span.left, span.width), left, width):
                at = start + first
                self._still(range(at, at + len(current)), current, left)
                wanted = self._values(data, [rows[at + offset] for offset in range(len(current))])
                wanted = [row[left : left + width] for row in wanted]
                changed = [offset for offset, row in enumerate(wanted) if not _same(row, current[offset])]
                for offset, length in _runs(changed, NEAR):
                    self._write(span.address(at + offset, length, left, width), wanted[offset : offset + length])

    def _edit(self, method: str, path: str, **how: Any) -> Answer:
        self._before_writing()
        return self._live.ask(method, path, **how)

    def _write(self, address: str, values: Values) -> None:
        self._edit("PATCH", f"{self._sheet}/range(address='{address}')", json={"values": values}, params={"$select": "address"})
        self.written += len(values)

    def _add(self, rows: Sequence[int], data: pa.Table, count: int) -> None:
        """New rows at the end. Adding is not repeatable: after a lost answer the table is asked how long it is."""
        if not rows:
            return
        before = count
        start = 0
        while start < len(rows):
            size = max(1, self._cells // len(self._places))
            values = self._values(data, rows[start : start + size])
            answer = self._edit(
                "POST", f"{self._table}/rows/add", json={"index": None, "values": values}, accept=(0, 400, 413, 500, 502, 504), again=False
            )
            if not answer.ok:
                now = self._span().count
                if now == count and self._smaller(answer):
                    continue
                if now not in (count, count + len(values)):
                    raise self._disturbed()
                if now == count:
                    self._retry(answer)
                    continue
            start += len(values)
            count += len(values)
            self.added += len(values)
        self._extend_formulas(before, count)

    def _retry(self, answer: Answer) -> None:
        """Another try at adding rows, a bounded number of times."""
        if answer.status == 400 or self._cells <= FEWEST:
            raise (
                translated(answer, self._what)
                if answer.status
                else TransientError(f"{self._what}: no answer", remedy="the next run tries again")
            )
        self._cells //= 2
        self._live.pause(COOLDOWN)

    def _smaller(self, answer: Answer) -> bool:
        """Ask for less from now on, if it was too much."""
        if not answer.says(*TOO_MUCH) or self._cells <= FEWEST:
            return False
        self._cells //= 2
        return True

    def _extend_formulas(self, before: int, after: int) -> None:
        """A teammate's calculated column goes on in the new rows, where Excel has not seen to it."""
        span = self._span()
        ends = [self._range(span.address(row, 1), "formulasR1C1")["formulasR1C1"][0] for row in (0, before - 1, before)]
        for place, (first, last, new) in enumerate(zip(*ends, strict=True)):
            if self._places[place] is None and new == "" and first == last and str(first).startswith("="):
                address = span.address(before, after - before, place, 1)
                self._edit(
                    "PATCH", f"{self._sheet}/range(address='{address}')", json={"formulasR1C1": [[first]]}, params={"$select": "address"}
                )

    def _delete(self, rows: Sequence[int]) -> None:
        """Whole rows of the table, from the bottom up, so that those above keep their place."""
        for first, count in reversed(list(_runs(rows))):
            span = self._span()
            if self._known:
                self._still(range(first, first + count), self._range(span.address(first, count), "values")["values"], 0)
            self._edit("POST", f"{self._sheet}/range(address='{span.address(first, count)}')/delete", json={"shift": "Up"}, again=False)
            self.deleted += count

    def _blank(self, span: _Span) -> None:
        """A table cannot have no row at all: the one that is left says nothing."""
        left, width = self._ours()
        empty = [["" if column else None for column in self._places[left : left + width]]]
        (current,) = self._range(span.address(0, 1, left, width), "values")["values"]
        if not _same(empty[0], current):
            self._write(span.address(0, 1, left, width), empty)

    # ── ranges and values ─────────────────────────────────────────────────────────────────────────

    def _ours(self) -> tuple[int, int]:
        """The stretch of columns that holds ours; a teammate's in between are left alone (null)."""
        places = [place for place, column in enumerate(self._places) if column]
        return places[0], places[-1] - places[0] + 1

    def _read(self, span: _Span, left: int, width: int) -> Iterator[tuple[int, Values]]:
        """The values of some columns in pieces the service can answer."""
        start = 0
        while start < span.count:
            size = min(max(1, self._cells // width), span.count - start)
            address = span.address(start, size, left, width)
            answer = self._live.ask(
                "GET", f"{self._sheet}/range(address='{address}')", params={"$select": "values"}, accept=(400, 413, 503, 504)
            )
            if not answer.ok:
                if self._smaller(answer):
                    continue
                raise translated(answer, self._what)
            yield start, answer.body["values"]
            start += size

    def _range(self, address: str, what: str) -> Mapping[str, Any]:
        return self._live.ask("GET", f"{self._sheet}/range(address='{address}')", params={"$select": what}).body

    def _values(self, data: pa.Table, rows: Sequence[int]) -> Values:
        """Rows of the table as JSON: ours, and null (leave alone) for a teammate's columns."""
        taken = data.take(pa.array(rows, pa.int64()))
        columns = [None if column is None else self._cells_of(taken, column) for column in self._places]
        return [[None if column is None else column[row] for column in columns] for row in range(len(rows))]

    def _cells_of(self, data: pa.Table, column: Column) -> list[Any]:
        values = data.column(column.name).combine_chunks()
        plain, textual = plain_values(values, column, self._rendering)
        mask = [textual] * len(plain) if isinstance(textual, bool) else textual.to_pylist()
        return [_cell(text, bool(is_text), column) for text, is_text in zip(plain.to_pylist(), mask, strict=True)]


def _cell(text: str | None, is_text: bool, column: Column) -> Any:
    """A value that Excel cannot take for anything else: the apostrophe keeps text text, "" empties the cell."""
    if text is None:
        return ""
    if is_text:
        if len(text) * 2 > MAX_TEXT and len(text.encode("utf-16-le")) // 2 > MAX_TEXT:
            raise TargetError(
                f"column {column.heading!r}: a text of {len(text)} characters; a cell holds {MAX_TEXT}",
                remedy="shorten it with `sql` or `columns`",
            )
        return f"'{text}"
    if column.kind == "flag":
        return text == "1"
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _same(wanted: Sequence[Any], current: Sequence[Any]) -> bool:
    return all(new is None or _equal(new, old) for new, old in zip(wanted, current, strict=True))


def _equal(new: Any, old: Any) -> bool:
    if isinstance(new, str):
        return isinstance(old, str) and new.removeprefix("'") == old
    return not isinstance(old, str) and _plain(new) == _plain(old)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _runs(rows: Sequence[int], gap: int = 1) -> Iterator[tuple[int, int]]:
    """Ascending numbers as stretches: (first, how many); those less than `gap` apart go together."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] > rows[place - 1] + gap:
            yield rows[start], rows[place - 1] - rows[start] + 1
            start = place
