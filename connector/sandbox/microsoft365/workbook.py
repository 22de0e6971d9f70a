"""The sandbox's Excel for the web: sessions, tables and ranges inside a workbook that people have open at the same time.

One model per file, shared by everybody who has it open, as in co-authoring; it is saved as a new version when the last session ends
or runs out. `people` edit it through `editing`.
"""

from __future__ import annotations

import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from openpyxl import Workbook, load_workbook

from connector.sandbox.microsoft365.answers import refusal
from connector.sandbox.microsoft365.cells import Clash
from connector.sandbox.microsoft365.files import Item
from connector.sandbox.microsoft365.graph import ITEM_AND, Call, Graph
from connector.sandbox.microsoft365.ranges import Ranges
from connector.sandbox.server import Response, reply

IDLE: Final = timedelta(minutes=5)
LIMIT: Final = 5 * 1024 * 1024


@dataclass(slots=True)
class Session:
    id: str
    persistent: bool
    until: datetime


@dataclass(slots=True)
class Live:
    """An open workbook."""

    item: Item
    book: Workbook
    scratch: Workbook | None = None  # what non-persistent sessions play with
    sessions: dict[str, Session] = field(default_factory=dict)
    dirty: bool = False
    by: dict[str, Any] = field(default_factory=dict)


class Workbooks:
    """The workbook endpoints of Graph. What the service may refuse is switched on by tests."""

    def __init__(self, graph: Graph, scratch: Path) -> None:
        self.graph = graph
        self.scratch = scratch
        self.live: dict[str, Live] = {}
        self.last_call: dict[str, datetime] = {}
        self.app_only = True  # whether apps without a person may edit
        self.slow = False  # sessions are made in the background (202)
        self.grace = timedelta(seconds=60)  # the file stays locked so long after the last session
        self.refreshed_pivots: list[str] = []
        self._operations: dict[str, list[Any]] = {}
        self.add("POST", "/createSession", self.create_session)
        self.add("POST", "/refreshSession", self.refresh_session)
        self.add("POST", "/closeSession", self.close_session)
        self.add("GET", r"/operations/(?P<operation>[^/]+)", self.operation)
        self.add("GET", r"/sessionInfoResource\(key=(?:'|%27)(?P<operation>[^/]+?)(?:'|%27)\)", self.session_info)
        Ranges(self)

    def add(self, method: str, pattern: str, handler: Callable[[Call, Live], Response]) -> None:
        """An address below `…/workbook`."""
        self.graph.add(method, ITEM_AND + "/workbook" + pattern, self._guarded(handler), 1)

    # ── people ────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def editing(self, item: Item) -> Iterator[Workbook]:
        """Somebody edits the open workbook, in the midst of everything else."""
        with self.graph.lock:
            live = self._open(item)
            yield live.book
            live.dirty = True

    def look(self, item: Item) -> None:
        """Save a workbook nobody has open any more."""
        live = self.live.get(item.id)
        if live:
            self._expire(item)
            if not live.sessions and not item.drive.lock(item):
                self.live.pop(item.id, None)
                self._save(live)

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────

    def in_use(self, item: Item) -> bool:
        """Whether the file is held by the API: a session, or the time it takes the service to let go."""
        self.look(item)
        last = self.last_call.get(item.id)
        open_sessions = bool(self.live.get(item.id) and self.live[item.id].sessions)
        return open_sessions or (last is not None and self.graph.clock.now() - last < self.grace)

    def _expire(self, item: Item) -> None:
        live = self.live.get(item.id)
        if live is None or not live.sessions:
            return
        now = self.graph.clock.now()
        live.sessions = {key: session for key, session in live.sessions.items() if session.until > now}
        if not live.sessions:
            self._release(live)

    def _release(self, live: Live) -> None:
        live.scratch = None
        self.last_call[live.item.id] = self.graph.clock.now()
        if not live.item.drive.lock(live.item):  # nobody else has it open: it is saved and closed
            self.live.pop(live.item.id, None)
            self._save(live)

    def _save(self, live: Live) -> None:
        if not live.dirty:
            return
        file = self.scratch / uuid4().hex
        live.book.save(file)
        live.item.drive.put(live.item, file, live.by or {"user": {"displayName": "co-author"}})
        live.dirty = False

    def _open(self, item: Item) -> Live:
        if item.id not in self.live:
            copy = self.scratch / f"{uuid4().hex}.xlsx"
            shutil.copyfile(item.path, copy)
            try:
                self.live[item.id] = Live(item, load_workbook(copy))
            except (zipfile.BadZipFile, KeyError, ValueError, OSError):
                raise refusal(403, "accessDenied", "Could not obtain a WAC access token.") from None
            finally:
                copy.unlink()
        return self.live[item.id]

    def _guarded(self, handler: Callable[[Call, Live], Response]) -> Callable[[Call], Response]:
        def handle(call: Call) -> Response:
            item = self.graph.existing(call, write=True)
            self._expire(item)
            self._may(call, item)
            if len(call.request.body) > LIMIT:
                raise refusal(413, "requestSizeExceeded", "The request is too large.", "RequestPayloadSizeLimitExceeded")
            live = self._open(item)
            self.last_call[item.id] = self.graph.clock.now()
            live.by = call.who
            if not re.search("/createSession$|/operations/|/sessionInfoResource", call.request.path):
                self._in_session(call, live)
            try:
                response = handler(call, live)
            except Clash as clash:
                code = str(clash)
                raise refusal(400 if code == "invalidArgument" else 409, "conflict", "The operation could not be done.", code) from None
            if isinstance(response.body, bytes) and len(response.body) > LIMIT:
                raise refusal(413, "requestSizeExceeded", "The response is too large.", "ResponsePayloadSizeLimitExceeded")
            return response

        return handle

    def _may(self, call: Call, item: Item) -> None:
        if item.drive.kind == "personal":
            raise refusal(403, "accessDenied", "Could not obtain a WAC access token.")
        if call.app_only and not self.app_only:
            raise refusal(403, "accessDenied", "Access denied.", "forbiddenUncategorized", "EditModeAccessDenied")
        lock = item.drive.lock(item)
        if lock and lock.mode == "exclusive":
            raise refusal(409, "conflict", f"{lock.owner} is editing this workbook.", "conflictUncategorized", "EditModeCannotAcquireLock")

    def _in_session(self, call: Call, live: Live) -> Session | None:
        key = call.header("workbook-session-id")
        if key is None:
            if call.request.running.strict:
                call.request.violate("no workbook-session-id")
            return None
        session = live.sessions.get(key)
        if session is None:
            raise refusal(404, "itemNotFound", "The session is gone.", "invalidSessionReCreatable")
        session.until = self.graph.clock.now() + IDLE
        return session

    def book(self, call: Call, live: Live) -> Workbook:
        key = call.header("workbook-session-id")
        if key is None or live.sessions[key].persistent:
            return live.book
        if live.scratch is None:
            copy = self.scratch / f"{uuid4().hex}.xlsx"
            live.book.save(copy)
            live.scratch = load_workbook(copy)
            copy.unlink()
        return live.scratch

    def create_session(self, call: Call, live: Live) -> Response:
        persistent = bool(call.json().get("persistChanges", True))
        session = Session(f"cluster=SANDBOX&session={secrets.token_urlsafe(40)}==", persistent, self.graph.clock.now() + IDLE)
        live.sessions[session.id] = session
        if self.slow:
            operation = uuid4().hex
            self._operations[operation] = [session, 2]
            return Response(202, headers={"Location": f"{self._base(call)}/operations/{operation}"})
        return reply(self._info(session), 201)

    def operation(self, call: Call, live: Live) -> Response:
        key = call.request.args["operation"]
        if key not in self._operations:
            raise refusal(404, "itemNotFound", "No such operation.")
        self._operations[key][1] -= 1
        if self._operations[key][1] > 0:
            return reply({"id": key, "status": "running"})
        where = f"{self._base(call)}/sessionInfoResource(key='{key}')"
        return reply({"id": key, "status": "succeeded", "resourceLocation": where})

    def session_info(self, call: Call, live: Live) -> Response:
        return reply(self._info(self._operations[call.request.args["operation"]][0]))

    def refresh_session(self, call: Call, live: Live) -> Response:
        return Response(204)

    def close_session(self, call: Call, live: Live) -> Response:
        live.sessions.pop(call.header("workbook-session-id") or "", None)
        if not live.sessions:
            self._release(live)
        return Response(204)

    def _info(self, session: Session) -> dict[str, Any]:
        return {"id": session.id, "persistChanges": session.persistent}

    def _base(self, call: Call) -> str:
        return call.request.target.partition("/workbook/")[0] + "/workbook"
