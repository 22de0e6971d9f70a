"""Bytes up and down: downloads that prove themselves, upload sessions that survive a break."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from connector.auth.tokens import SecretFile
from connector.errors import ConflictError, TargetError, TransientError
from connector.http import LOST, Session
from sinks.drives.graph_client import BLOCK, TRIES, GraphClient, lost, read
from sinks.drives.graph_errors import Answer, translated
from sinks.drives.graph_places import Item
from sinks.drives.quickxor import QuickXor

LOG: Final = logging.getLogger("connector.drives")
FRAGMENT: Final = 32 * 327_680  # 10 MiB; every fragment but the last must be a multiple of 320 KiB
ENCRYPTED: Final = bytes.fromhex("D0CF11E0")


# ── down ──────────────────────────────────────────────────────────────────────────────────────────


def download(client: GraphClient, item: Item, into: Path, what: str) -> str:
    """Write the bytes of `item` to `into`; their quickXorHash. Continues where a broken connection left off."""
    answer = client.ask("GET", f"/drives/{item.drive_id}/items/{item.id}/content", what)
    address = answer.headers.get("Location")
    if not address:
        raise TransientError(f"{what}: Microsoft Graph gave no download address", remedy="the next run tries again")
    hashed = QuickXor()
    with into.open("wb") as file:
        for attempt in range(1, TRIES + 1):
            try:
                if _continue(client, address, file, hashed, what):
                    return hashed.digest()
            except LOST as error:
                if attempt == TRIES:
                    raise lost(f"{what}: download", error) from None
                client.session.retries += 1
                client.session.sleep(2.0**attempt)
            else:  # the server cannot continue: from the beginning
                file.seek(0)
                file.truncate()
                hashed = QuickXor()
    raise TransientError(f"{what}: the download kept breaking", remedy="the next run tries again")


def _continue(client: GraphClient, address: str, file: Any, hashed: QuickXor, what: str) -> bool:
    """Fetch what is missing; False when the server only offers the whole."""
    start = file.tell()
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with client.bare("GET", address, what, headers=headers, stream=True) as response:
        if start and response.status_code != 206:
            return False
        if not response.ok:
            raise translated(read(response), f"{what}: download")
        for block in response.iter_content(BLOCK):
            file.write(block)
            hashed.update(block)
    return True


def readable(file: Path, item: Item, what: str) -> None:
    """Raises TargetError for a workbook that is encrypted by a label."""
    with file.open("rb") as source:
        if source.read(4) == ENCRYPTED and item.name.casefold().endswith((".xlsx", ".xlsm")):
            raise TargetError(
                f"{what} is encrypted by a sensitivity label (or is an old .xls file)",
                remedy="remove the encryption from this file, or save it as .xlsx",
            )


def credible(file: Path, item: Item, digest: str, what: str) -> bool:
    """Whether to take bytes for an item that has not changed: SharePoint may lack the checksum, or serve other bytes than it says."""
    if digest == item.hash or (item.hash is None and file.stat().st_size == item.size):
        return True
    if not _sound(file):
        return False
    LOG.warning("%s: SharePoint serves other bytes than its checksum says; the package is sound and is used", what)
    return True


def _sound(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as package:
            return package.testzip() is None
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
    ):  # whatever zipfile makes of a damaged one
        return False


# ── up ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Bytes:
    """What is to be uploaded."""

    file: Path
    size: int
    digest: str


class UploadSession:
    """Uploads in fragments to `address` (an item, or a parent and a name). Kept between runs: the same bytes continue where they broke off.

    `check` is asked before the last fragment whether the target still is what it was; it raises if not.
    """

    def __init__(self, client: GraphClient, session: Session, address: str, what: str) -> None:
        self._client = client
        self._address = address
        self._what = what
        name = "upload-" + "".join(char if char.isalnum() else "-" for char in address)[-80:]
        self._kept = SecretFile(session.folder / f"{name}.json" if session.folder else None, sleep=session.sleep)
        self._sleep = session.sleep

    def upload(self, content: Bytes, *, conflict: str, if_match: str | None, check: Callable[[], None]) -> Answer:
        """The service's answer to the last fragment, or its refusal (409, 412, 423) at whatever point it came."""
        basis = {"digest": content.digest, "size": content.size, "if_match": if_match}
        url, position = self._resumed(basis)
        for _ in range(2):  # a session may be gone; then all starts once more
            if url is None:
                answer = self._open(conflict, if_match)
                if not answer.ok:
                    return answer
                url, position = str(answer.body["uploadUrl"]), 0
                self._kept.write(json.dumps({**basis, "url": url}))
            done = self._send(url, position, content, check)
            if done is not None:
                self._kept.forget()
                return done
            url = None
        raise TransientError(f"{self._what}: the upload session was lost twice", remedy="the next run tries again")

    def probe(self, conflict: str) -> Answer:
        """Whether an upload would be let in: a session is opened and closed again. Nothing is written."""
        answer = self._open(conflict, None)
        if answer.ok:
            self._cancel(str(answer.body["uploadUrl"]))
        return answer

    def _open(self, conflict: str, if_match: str | None) -> Answer:
        return self._client.ask(
            "POST",
            f"{self._address}/createUploadSession",
            self._what,
            accept=(409, 412, 423),
            again=True,
            json={"item": {"@microsoft.graph.conflictBehavior": conflict}},
            headers={"If-Match": if_match} if if_match else {},
        )

    def _resumed(self, basis: Mapping[str, object]) -> tuple[str | None, int]:
        """The session of an earlier, broken run, if it was for the same bytes; otherwise it is given up."""
        try:
            kept = json.loads(self._kept.read() or "{}")
        except ValueError:
            kept = {}
        url = kept.pop("url", None)
        if not isinstance(url, str):
            return None, 0
        if kept == basis:
            position = self._position(url)
            if position is not None:
                LOG.info("%s: the upload continues at byte %d", self._what, position)
                return url, position
        self._cancel(url)
        self._kept.forget()
        return None, 0

    def _send(self, url: str, position: int, content: Bytes, check: Callable[[], None]) -> Answer | None:
        """Fragment after fragment; None when the session is gone."""
        stuck = 0
        with content.file.open("rb") as source:
            while True:
                source.seek(position)
                data = source.read(FRAGMENT)
                end = position + len(data)
                if end == content.size:
                    self._checked(url, check)
                answer = self._fragment(url, data, f"bytes {position}-{end - 1}/{content.size}")
                if answer is not None and answer.status in (200, 201):
                    return answer
                if answer is not None and answer.status == 202:
                    position, stuck = _expected(answer.body, end), 0
                    continue
                if answer is not None and answer.status not in (401, 404, 416) and answer.status < 500:
                    self._cancel(url)
                    if answer.status in (409, 412, 423):
                        return answer
                    self._kept.forget()
                    raise translated(answer, self._what)
                stuck += 1
                if stuck > TRIES:
                    raise TransientError(
                        f"{self._what}: the upload kept breaking at byte {position}", remedy="the next run continues there"
                    )
                self._sleep(5.0)
                reached = self._position(url)
                if reached is None:
                    return None
                if reached >= content.size:  # all bytes are there but the file is not: the commit was refused or its answer was lost
                    self._cancel(url)
                    return Answer(409, {"error": {"code": "resourceModified"}}, {})
                position = reached

    def _checked(self, url: str, check: Callable[[], None]) -> None:
        try:
            check()
        except ConflictError:
            self._cancel(url)
            self._kept.forget()
            raise

    def _fragment(self, url: str, data: bytes, span: str) -> Answer | None:
        """The answer to a fragment; None when it was lost."""
        try:
            return read(self._client.bare("PUT", url, self._what, data=data, headers={"Content-Range": span}))
        except LOST:
            return None

    def _position(self, url: str) -> int | None:
        """How far the service has come; None when it knows nothing of the session."""
        try:
            answer = read(self._client.bare("GET", url, self._what))
        except requests.RequestException as error:
            raise lost(self._what, error) from None
        if answer.status == 200:
            return _expected(answer.body, 1 << 62)
        if answer.status < 500 and answer.status != 429:
            return None
        raise translated(answer, self._what)

    def _cancel(self, url: str) -> None:
        """Tell the service to drop the session; it would do so by itself in time."""
        try:
            self._client.bare("DELETE", url, self._what)
        except requests.RequestException as error:
            LOG.info("%s: an upload session could not be closed (%s)", self._what, type(error).__name__)


def _expected(body: Mapping[str, Any], otherwise: int) -> int:
    """The first byte the service still wants."""
    ranges = body.get("nextExpectedRanges") or ()
    return min((int(str(span).partition("-")[0]) for span in ranges), default=otherwise)
