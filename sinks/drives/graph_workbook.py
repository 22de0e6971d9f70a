"""Refreshing tables inside a workbook that people have open, through the Excel REST API.

Only our columns are written, cell by cell; a teammate's columns stay with their rows. Every step can be done twice, so a run that breaks
half-way is completed by the next one. There is no way to resize a table: it grows by adding rows and shrinks by deleting cells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import quote

import pyarrow as pa

from connector.api import Output, Run
from connector.errors import ConfigError, TargetError, TransientError, nearest
from sinks.drives.graph import GraphDrive
from sinks.drives.graph_errors import Answer, translated
from sinks.drives.graph_session import LiveSession, Marker
from sinks.drives.graph_values import cell_value, is_constant, plain, runs, same_row, value_of
from sinks.excel.cells import Column, Rendering, columns_of, plain_values
from sinks.excel.identity import Prints, Written, recognise, written
from sinks.excel.references import letters
from sinks.excel.region import key_text
from sinks.excel.rows import keys_of
from sinks.excel.table import matching

LOG: Final = logging.getLogger("connector.drives")
CELLS: Final = 10_000  # in one request; the service takes 5 MB and echoes several times what it is sent
BYTES: Final = 1 << 20  # in one request
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


class Notes(Protocol):
    """What is remembered of tables by their names; everything told is durable when a call returns."""

    def keep(self, table: str, vanished: Mapping[str, Mapping[str, Any]]) -> None:
        """What teammates wrote beside rows that are about to be deleted: key → heading → value."""

    def versions(self, table: str) -> Sequence[Written]:
        """What a table that does not show its key may hold."""

    def wrote(self, table: str, rows: Written) -> None:
        """What is about to be written to such a table."""


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


class Forgetful:
    """Notes that nobody keeps."""

    def keep(self, table: str, vanished: Mapping[str, Mapping[str, Any]]) -> None: ...
    def versions(self, table: str) -> Sequence[Written]:
        return ()

    def wrote(self, table: str, rows: Written) -> None: ...


FORGETFUL: Final = Forgetful()


def update_tables(
    drive: GraphDrive, tables: Mapping[str, Output], run: Run, *, date1904: bool = False, notes: Notes = FORGETFUL
) -> WorkbookChanges:
    """Bring the tables (by their Excel names) up to date while people work. From here on the drive takes no file in this process.

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
            done.append(_Table(live, name, output, rendering, drive.name(), lambda: marker.begin(run.run_id), notes))
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


def _size(values: Values) -> int:
    return len(json.dumps(values))


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
        self,
        live: LiveSession,
        name: str,
        output: Output,
        rendering: Rendering,
        what: str,
        before_writing: Callable[[], None],
        notes: Notes,
    ) -> None:
        self.name = name
        self.output = output
        self.added = self.deleted = self.written = 0
        self.vanished: dict[str, dict[str, Any]] = {}
        self._live = live
        self._before_writing = before_writing
        self._notes = notes
        self._rendering = rendering
        self._what = f"{what}: table {name}"
        self._columns = columns_of(output.schema)
        self._cells = CELLS
        self._hidden = columns_of(output.hidden.schema) if output.hidden else ()
        self._known: dict[int, object] = {}  # what every row must still say when it is written or deleted
        self._table, self._sheet = self._find()
        self._places = self._map()
        self._key_places = [self._places.index(column) for column in self._columns if column.name in output.key]

    @property
    def changed(self) -> bool:
        return bool(self.added or self.deleted or self.written)

    def update(self) -> None:
        """Everything: rows that stay are patched, new ones added, others deleted; then the count is verified."""
        data = (self.output.hidden.open() if self.output.hidden else self.output.open()).read_all().combine_chunks()
        keys = self._hidden or [column for column in self._columns if column.name in self.output.key]
        theirs = [place for place in range(len(self._places)) if self._places[place] is None]
        if theirs and (self._hidden or (keys and len(keys) == len(self.output.key))):
            self._by_key(data, tuple(keys), theirs)
        else:
            self._refuse_constants(theirs)
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
        self._note(data, range(data.num_rows))
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
        there = self._recognised(span, theirs) if self._hidden else self._keys(span)
        for row, key in enumerate(there):
            if known := waiting.get(key):
                stay.append((row, known.pop(0)))
            else:
                gone[row] = key
        self._remember(span, gone, theirs)
        added = sorted(row for known in waiting.values() for row in known)
        self._note(data, [*(row for _, row in stay), *added])
        self._patch(span, stay, data)
        self._add(added, data, span.count)
        self._delete(list(gone) if data.num_rows else list(gone)[1:])
        if not data.num_rows:
            self._blank(self._span())

    def _keys(self, span: _Span) -> list[str]:
        """The key of each row on the sheet."""
        left, right = min(self._key_places), max(self._key_places)
        keys = [self._key(row, left) for _, values in self._read(span, left, right - left + 1) for row in values]
        self._known = dict(enumerate(keys))
        return keys

    def _key(self, values: Sequence[Any], left: int) -> str:
        return "\x1f".join(key_text(plain(values[place - left])) for place in self._key_places)

    def _recognised(self, span: _Span, theirs: Sequence[int]) -> list[str]:
        """The key of each row on a sheet that does not show it; "" for a row that is none of ours. Raises TargetError rather than guess."""
        left, width = self._ours()
        rows = [row for _, values in self._read(span, left, width) for row in values]
        self._known = {at: self._said(row, left) for at, row in enumerate(rows)}
        ours = {column.name: place for place, column in enumerate(self._places) if column}
        here = Prints.of(len(rows), {name: [value_of(row[place - left]) for row in rows] for name, place in ours.items()})
        known = recognise(here, self._notes.versions(self.name), range(len(rows)), ordered=True)
        for first, count in runs(sorted(known.doubtful)):
            for at, cells in enumerate(self._range(span.address(first, count), "formulas")["formulas"], first):
                if any(is_constant(cells[place]) for place in theirs):
                    raise TargetError(
                        f"{self._what}: has something of a teammate's in row {span.top + at}, and nobody can tell which of our rows that is",
                        remedy="have the key among the table's `columns`, or set on_locked to wait",
                    )
        return [key or "" for key in known.keys]

    def _refuse_constants(self, theirs: Sequence[int]) -> None:
        """Without a key what teammates typed cannot be kept beside its row."""
        span = self._span()
        for place in theirs:
            for first in range(0, span.count, self._cells):
                address = span.address(first, min(self._cells, span.count - first), place, 1)
                if any(is_constant(cell) for (cell,) in self._range(address, "formulas")["formulas"]):
                    raise TargetError(
                        f"{self._what}: has values of a teammate, and no key to keep them beside their rows",
                        remedy="set `key` to what identifies a row",
                    )

    def _said(self, values: Sequence[Any], left: int) -> tuple[Any, ...]:
        return tuple(plain(values[place - left]) for place, column in enumerate(self._places) if column)

    def _note(self, data: pa.Table, order: Sequence[int]) -> None:
        """Remember what a table that does not show its key will hold, before any of it is written."""
        if self._hidden:
            rows = data.take(pa.array(order, pa.int64()))
            self._notes.wrote(self.name, written(rows.to_batches(), self._columns, self._hidden, self._rendering))

    def _still(self, rows: Sequence[int], values: Values, left: int) -> None:
        """Before rows are written or deleted: they must still be the ones we took them for."""
        mark = self._said if self._hidden else self._key
        if self._known and any(mark(row, left) != self._known[at] for at, row in zip(rows, values, strict=True)):
            raise self._disturbed()

    def _remember(self, span: _Span, gone: Mapping[int, str], theirs: Sequence[int]) -> None:
        """What teammates wrote beside rows that go."""
        headings = self._live.ask("GET", f"{self._table}/headerRowRange()", params={"$select": "values"}).body["values"][0]
        for first, count in runs(list(gone)):
            for row, cells in enumerate(self._range(span.address(first, count), "formulas")["formulas"], first):
                if kept := {str(headings[place]): cells[place] for place in theirs if is_constant(cells[place])}:
                    self.vanished[gone[row]] = kept
        if self.vanished:
            self._notes.keep(self.name, self.vanished)
            self._rendering.warn(f"table {self.name}: {len(self.vanished)} rows with teammates' entries are gone from the data")

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def _patch(self, span: _Span, pairs: Sequence[tuple[int, int]], data: pa.Table) -> None:
        """Our values of data row `to` into body row `at`, for each (at, to); only where something differs."""
        left, width = self._ours()
        rows = dict(pairs)
        for start, count in runs(list(rows)):
            for first, current in self._read(_Span(span.top + start, count, span.left, span.width), left, width):
                at = start + first
                self._still(range(at, at + len(current)), current, left)
                wanted = self._values(data, [rows[at + offset] for offset in range(len(current))])
                wanted = [row[left : left + width] for row in wanted]
                changed = [offset for offset, row in enumerate(wanted) if not same_row(row, current[offset])]
                for offset, length in runs(changed, NEAR):
                    self._write(span, at + offset, left, wanted[offset : offset + length])

    def _edit(self, method: str, path: str, **how: Any) -> Answer:
        self._before_writing()
        return self._live.ask(method, path, **how)

    def _write(self, span: _Span, first: int, left: int, values: Values) -> None:
        """Values into rows of the body from `first` on, in as many requests, one after the other, as the service wants."""
        half = len(values) // 2
        answer = None
        if not half or _size(values) <= BYTES:
            path = f"{self._sheet}/range(address='{span.address(first, len(values), left, len(values[0]))}')"
            answer = self._edit("PATCH", path, json={"values": values}, params={"$select": "address"}, accept=(400, 413))
            if answer.ok:
                self.written += len(values)
                return
        if answer and not (half and self._smaller(answer)):
            raise translated(answer, self._what)
        self._write(span, first, left, values[:half])
        self._write(span, first + half, left, values[half:])

    def _add(self, rows: Sequence[int], data: pa.Table, count: int) -> None:
        """New rows at the end. Adding is not repeatable: after a lost answer the table is asked how long it is."""
        if not rows:
            return
        before = count
        start = 0
        while start < len(rows):
            size = max(1, self._cells // len(self._places))
            values = self._values(data, rows[start : start + size])
            while len(values) > 1 and _size(values) > BYTES:
                values = values[: len(values) // 2]
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
        for first, count in reversed(list(runs(rows))):
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
        if not same_row(empty[0], current):
            self._write(span, 0, left, empty)

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
        return [cell_value(text, bool(is_text), column) for text, is_text in zip(plain.to_pylist(), mask, strict=True)]
