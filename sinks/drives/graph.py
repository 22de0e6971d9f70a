"""OneDrive and SharePoint through Microsoft Graph: the file path. Optimistic concurrency; never a lost edit.

A version is the content's tag (cTag): it stands still while Microsoft touches metadata, which the entity's tag (eTag) does not. Every
write names the eTag it replaces, so nothing can slip in between, and a refusal is a conflict only if the content really changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from connector.api import Finding
from connector.auth.microsoft import SignIn, claims_of
from connector.errors import ConfigError, ConflictError, LockedError, TransientError
from connector.http import Session
from sinks.drives.graph_check import findings
from sinks.drives.graph_client import FileBody, GraphClient
from sinks.drives.graph_config import MicrosoftConfig, OneDriveConfig, SharePointConfig
from sinks.drives.graph_errors import Answer, translated
from sinks.drives.graph_names import encoded, names_of
from sinks.drives.graph_places import Item, Places
from sinks.drives.graph_session import Marker
from sinks.drives.graph_upload import Bytes, UploadSession, credible, download, readable
from sinks.drives.quickxor import quick_xor

__all__ = ["GraphDrive", "OneDriveConfig", "SharePointConfig", "login"]

LOG: Final = logging.getLogger("connector.drives")
SINGLE_PUT: Final = 10 << 20
LARGEST_PUT: Final = 250 << 20
ATTEMPTS: Final = 6


class GraphDrive:
    """One file in OneDrive or SharePoint; fulfils `connector.api.Drive`."""

    def __init__(self, config: MicrosoftConfig, path: str, session: Session, *, sign_in: SignIn | None = None) -> None:
        self.config = config
        self.session = session
        self.client = GraphClient(session, sign_in or config.sign_in(session), config.graph_root)
        self.places = Places(config, path, self.client, session)
        self.live = False  # the workbook was edited live in this process: the file path is closed then

    def name(self) -> str:
        return self.places.description

    def check(self) -> Iterator[Finding]:
        return findings(self.config, self.client, self.places)

    def version(self) -> str | None:
        item = self.places.find()
        return item.version if item else None

    def fetch(self, into: Path) -> str | None:
        """Copy the file to `into`; the version it is, proven by its checksum. None when there is no such file."""
        item = self.places.find()
        if item and item.checked_out_by and self._own(item):
            item = self._checked_in(item)
        for _ in range(ATTEMPTS):
            if item is None:
                return None
            digest = download(self.client, item, into, self.name())
            readable(into, item, self.name())
            if digest == item.hash:
                return item.version
            before, item = item, self.places.again(item)
            if item and item.version == before.version and credible(into, item, digest, self.name()):
                return item.version
        raise TransientError(f"{self.name()}: keeps changing while it is downloaded", remedy="the next run tries again")

    def store(self, file: Path, if_version: str | None) -> str:
        """Replace the file in one step, as one new version; see `connector.api.Drive`."""
        if self.live:
            raise LockedError(f"{self.name()} was just edited live", remedy="the next run may replace the file again")
        content = Bytes(file, file.stat().st_size, quick_xor(file))
        item = self.places.find()
        if if_version is None:
            if item:
                raise ConflictError(f"{self.name()} exists by now", remedy="the next run refreshes it")
            item = self._create(content, self.places.file_name)
        elif item is None:
            raise ConflictError(f"{self.name()} was deleted meanwhile", remedy="the next run makes a new one")
        else:
            item = self._replace(item, content, if_version)
        self.places.remember(item)
        Marker(self.session, item, self.name()).end()
        if item.hash and item.hash != content.digest:
            LOG.info("%s: SharePoint added properties of its own to the file; that is the new baseline", self.name())
        return item.version

    def store_copy(self, file: Path, suffix: str) -> str:
        """Put the file next to the target, as `Name suffix.xlsx`; the name it got. For targets that are held open."""
        extension = self._target_name().rpartition(".")[2]
        return self.store_beside(file, f" {suffix}.{extension}")

    def store_beside(self, file: Path, ending: str) -> str:
        """Put the file next to the target, under the target's name with another ending, in place of one that is there; the name it got."""
        name = f"{self._target_name().rpartition('.')[0]}{ending}"
        names_of(name)
        content = Bytes(file, file.stat().st_size, quick_xor(file))
        return self._create(content, name, conflict="replace").name

    def _target_name(self) -> str:
        item = self.places.find()
        return item.name if item else self.places.file_name

    # ── a new file ────────────────────────────────────────────────────────────────────────────────

    def _create(self, content: Bytes, name: str, conflict: str = "fail") -> Item:
        if not name:
            raise ConfigError(f"{self.name()}: no path", remedy="give the path of the workbook")
        target = self.places.find() if conflict == "replace" else None
        if target and target.parent_id:
            drive, folder = target.drive_id, target.parent_id
        else:
            made_in = self.places.make_folders()
            drive, folder = made_in.drive_id, made_in.id
        if self.config.cloud == "china":
            return self._create_by_id(drive, folder, content, name, conflict)
        address = f"/drives/{drive}/items/{folder}:/{encoded(name)}:"
        if content.size <= SINGLE_PUT:
            answer = self.client.ask(
                "PUT",
                f"{address}/content",
                self.name(),
                accept=(409, 423),
                data=content.file.read_bytes(),
                headers={"Content-Type": "application/octet-stream"},
                params={"@microsoft.graph.conflictBehavior": conflict},
            )
        else:
            upload = UploadSession(self.client, self.session, address, self.name())
            answer = upload.upload(content, conflict=conflict, if_match=None, check=lambda: None)
        if answer.ok:
            return self._checked_in(Item.of(answer.body))
        made = self.places.find() if conflict == "fail" else None
        if made and made.hash == content.digest:  # it was ours: only the answer had been lost
            return self._checked_in(made)
        raise translated(answer, self.name())

    def _create_by_id(self, drive: str, folder: str, content: Bytes, name: str, conflict: str) -> Item:
        """Where addresses with colons do not work: an empty file first, then its bytes."""
        body = {"name": name, "file": {}, "@microsoft.graph.conflictBehavior": conflict}
        empty = Item.of(self.client.ask("POST", f"/drives/{drive}/items/{folder}/children", self.name(), json=body).body)
        return self._replace(empty, content, empty.version)

    # ── an existing file ──────────────────────────────────────────────────────────────────────────

    def _replace(self, item: Item, content: Bytes, if_version: str) -> Item:
        """Write over exactly `if_version`. Microsoft refuses now and then without a reason: what counts is whether the content changed."""
        current: Item | None = item
        with ExitStack() as undo:
            for attempt in range(ATTEMPTS):
                if current is None:
                    raise ConflictError(f"{self.name()} was deleted meanwhile", remedy="the next run makes a new one")
                if current.version != if_version and current.hash == content.digest:  # ours: only the answer had been lost
                    undo.pop_all()
                    return self._checked_in(current)
                if current.version != if_version:
                    raise ConflictError(
                        f"{self.name()} was changed by {current.modified_by} meanwhile", remedy="refresh again on what is there now"
                    )
                answer = self._put(current, content, single=attempt > 0)
                if answer.ok:
                    stored = Item.of(answer.body)
                    if stored.size or not content.size:
                        undo.pop_all()
                        return self._checked_in(stored)
                    if_version = stored.version  # arrived empty: once more
                elif answer.status == 423:
                    if current.checked_out_by or not _wants_check_out(answer):
                        raise self._locked(answer, current)
                    self._check_out(current)
                    undo.callback(self._discard_check_out, current)
                self.session.sleep(0.5 * attempt)
                current = self.places.again(current)
        raise ConflictError(f"{self.name()}: Microsoft keeps refusing the upload as outdated", remedy="the next run tries again")

    def _put(self, item: Item, content: Bytes, *, single: bool) -> Answer:
        """One try: in one piece, or in a session that notices changes before its last fragment.

        A personal OneDrive invalidates the tag it was given when a session begins, and a session refused for nothing is refused again: both
        are sent in one piece, which is protected to the end.
        """
        address = f"/drives/{item.drive_id}/items/{item.id}"
        if content.size <= SINGLE_PUT or ((single or item.personal) and content.size <= LARGEST_PUT):
            small = content.size <= SINGLE_PUT
            return self.client.ask(
                "PUT",
                f"{address}/content",
                self.name(),
                accept=(409, 412, 423),
                data=content.file.read_bytes() if small else FileBody(content.file),
                headers={"Content-Type": "application/octet-stream", "If-Match": item.etag or item.version},
            )

        def unchanged() -> None:
            now = self.places.again(item)
            if now is None or now.version != item.version:
                raise ConflictError(f"{self.name()} was changed during the upload", remedy="refresh again on what is there now")

        upload = UploadSession(self.client, self.session, address, self.name())
        return upload.upload(content, conflict="replace", if_match=None if item.personal else item.version, check=unchanged)

    # ── check-out ─────────────────────────────────────────────────────────────────────────────────

    def _check_out(self, item: Item) -> None:
        self.client.ask("POST", f"/drives/{item.drive_id}/items/{item.id}/checkout", f"{self.name()}: check-out")

    def _discard_check_out(self, item: Item) -> None:
        """Give the file back untouched; whatever is wrong with that is less than what made us give up."""
        path = f"/drives/{item.drive_id}/items/{item.id}/discardCheckout"
        answer = self.client.ask("POST", path, f"{self.name()}: check-out", accept=range(400, 600))
        if not answer.ok:
            LOG.warning("%s: is still checked out by this app; the next run checks it in", self.name())

    def _own(self, item: Item) -> bool:
        """Whether it is we who hold the file checked out, from a run that was killed."""
        claims = claims_of(self.client.sign_in.token())
        return item.checked_out_id is not None and item.checked_out_id in (claims.get("appid"), claims.get("oid"))

    def _checked_in(self, item: Item) -> Item:
        """Make a new version visible in libraries with check-out, where it is the writer's alone until then."""
        if item.checked_out_by is None:
            return item
        self.client.ask(
            "POST",
            f"/drives/{item.drive_id}/items/{item.id}/checkin",
            f"{self.name()}: check-in",
            json={"comment": "refresh", "checkInAs": "published"},
        )
        return self.places.again(item) or item

    def _locked(self, answer: Answer, item: Item) -> LockedError:
        if item.checked_out_by:
            return LockedError(f"{self.name()} is checked out by {item.checked_out_by}", remedy="have it checked in, or discarded")
        error = translated(answer, self.name())
        return error if isinstance(error, LockedError) else LockedError(str(error), remedy=error.remedy)


def _wants_check_out(answer: Answer) -> bool:
    return "must first check out" in answer.message.casefold() or "must be checked out" in answer.message.casefold()


def login(config: MicrosoftConfig, session: Session, prompt: Callable[[str], None]) -> str:
    """Sign a person in with a device code for the drive of `config`; `prompt` shows what to do. Returns who signed in."""
    return config.sign_in(session).login(prompt)
