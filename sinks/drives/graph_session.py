"""A session in the live workbook (Excel REST API): opened once, kept alive, made anew when the service drops it, always closed.

One request at a time, as the service demands. What is asked here is repeated only where that does no harm.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from connector.auth.tokens import SecretFile
from connector.errors import ConnectorError, TransientError
from connector.http import Session
from sinks.drives.graph_client import GraphClient
from sinks.drives.graph_errors import Answer, translated
from sinks.drives.graph_places import Item

LOG: Final = logging.getLogger("connector.drives")
ALIVE: Final = timedelta(minutes=4)  # a session dies after about five minutes without a call
POLL: Final = 2.0
POLLS: Final = 120
COOLDOWN: Final = 60.0  # a timed-out createSession may have left a session that holds the workbook
OPENINGS: Final = 3


class Marker:
    """Remembers in the session's folder that a live refresh of an item has begun to write, until it is done."""

    def __init__(self, session: Session, item: Item, what: str) -> None:
        name = "".join(char if char.isalnum() else "-" for char in item.id)
        self._file = SecretFile(session.folder / f"live-{name}.json" if session.folder else None, sleep=session.sleep)
        self._what = what
        self._begun = False

    def left(self) -> bool:
        """Whether an earlier one broke off."""
        broken = bool(self._file.read())
        if broken:
            LOG.warning("%s: an earlier live refresh broke off half-way; this run completes it", self._what)
        return broken

    def begin(self, run_id: str) -> None:
        if not self._begun:
            self._file.write(json.dumps({"run": run_id}))
            self._begun = True

    def end(self) -> None:
        self._file.forget()


class LiveSession:
    """`with LiveSession(…) as live: live.ask(…)`. Paths begin after `/workbook`. Changes are saved by the service as they are made."""

    def __init__(self, client: GraphClient, session: Session, item: Item, what: str) -> None:
        self._client = client
        self._sleep = session.sleep
        self._now = session.now
        self._base = f"/drives/{item.drive_id}/items/{item.id}/workbook"
        self._what = what
        self._id: str | None = None
        self._last = session.now()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._send("POST", "/closeSession", json={})
        except ConnectorError as failed:  # it runs out by itself; the changes are saved
            LOG.info("%s: the editing session could not be closed (%s)", self._what, type(failed).__name__)

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        again: bool = True,
    ) -> Answer:
        """One call. `again=False`: do not repeat it when its answer was lost."""
        if self._now() - self._last > ALIVE:
            self._refresh()
        answer = self._send(method, path, json=json, params=params, accept=(*accept, 404, 0), again=again)
        if answer.says("invalidSessionReCreatable"):
            LOG.info("%s: the editing session was lost; another one is opened", self._what)
            self._open()
            answer = self._send(method, path, json=json, params=params, accept=accept, again=again)
        if answer.ok or answer.status in accept:
            return answer
        if answer.status == 0:
            raise TransientError(f"{self._what}: no answer", remedy="check the network; the next run tries again")
        raise translated(answer, self._what)

    def pause(self, seconds: float) -> None:
        """Give the service time."""
        self._sleep(seconds)

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        again: bool = True,
    ) -> Answer:
        headers = {"workbook-session-id": self._id} if self._id else {}
        answer = self._client.ask(
            method, self._base + path, self._what, json=json, params=params, accept=accept, headers=headers, again=again
        )
        self._last = self._now()
        return answer

    def _refresh(self) -> None:
        answer = self._send("POST", "/refreshSession", json={}, accept=(404,))
        if not answer.ok:
            self._open()

    def _open(self) -> None:
        """Raises AuthError, LockedError or TargetError when the service will not let us edit: that is how the capability is probed."""
        self._id = None
        for opening in range(1, OPENINGS + 1):
            answer = self._send("POST", "/createSession", json={"persistChanges": True}, accept=(0, 500, 502, 504), again=False)
            if answer.ok:
                self._id = self._made(answer) if answer.status == 202 else str(answer.body["id"])
                return
            if opening < OPENINGS:
                self._sleep(COOLDOWN)
        raise TransientError(f"{self._what}: Excel for the web does not open it in time", remedy="the next run tries again")

    def _made(self, answer: Answer) -> str:
        """The session of an operation that takes its time."""
        operation = self._relative(answer.headers.get("Location", ""))
        for _ in range(POLLS):
            body = self._send("GET", operation).body
            if body.get("status") == "succeeded":
                return str(self._send("GET", self._relative(str(body.get("resourceLocation", "")))).body["id"])
            if body.get("status") == "failed":
                raise translated(Answer(500, body, {}), self._what)
            self._sleep(POLL)
        raise TransientError(f"{self._what}: Excel for the web does not open it in time", remedy="the next run tries again")

    def _relative(self, address: str) -> str:
        _, found, path = address.partition("/workbook/")
        if not found:
            raise TransientError(f"{self._what}: Microsoft Graph gave no address to ask at", remedy="the next run tries again")
        return "/" + quote(path, safe="/()=',%")
