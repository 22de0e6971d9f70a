"""Upload sessions, and the host of pre-authenticated addresses that serves them and downloads."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from connector.sandbox.microsoft365.answers import instant, item_json, problem, refusal
from connector.sandbox.microsoft365.content import CHANGED, Content
from connector.sandbox.microsoft365.graph import ITEM, ITEM_AND, Call, Place
from connector.sandbox.server import Request, Response, Route, Service, reply

FRAGMENT: Final = 327_680
FRAGMENT_LIMIT: Final = 60 * 1024 * 1024


@dataclass(slots=True)
class Upload:
    """An upload session: where it will go, and what has arrived."""

    id: str
    call: Call
    place: Place
    conflict: str
    if_match: str | None
    file: Path
    until: datetime
    dated: str | None = None
    total: int | None = None
    arrived: int = 0
    misaligned: bool = False
    deferred: bool = False
    flaky: int = 0  # how many fragments will meet a 404 first


class Uploads:
    """The sessions that are open."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.graph = content.graph
        self.open: dict[str, Upload] = {}
        self.flaky = False  # 404 right after the session was made
        self.graph.add("PUT", ITEM, self.commit, 2)
        self.graph.add("POST", ITEM_AND + r"/(?:microsoft\.graph\.)?createUploadSession", self.create, 2)

    def create(self, call: Call) -> Response:
        place, body = self.graph.place(call, write=True), call.json()
        about = body.get("item", {})
        if about and "@microsoft.graph.conflictBehavior" in about and next(iter(about)) != "@microsoft.graph.conflictBehavior":
            raise refusal(400, "invalidRequest", "The annotation must come first in the item.")
        if "name" in about and about["name"] != place.name:
            raise refusal(400, "invalidRequest", "The name in the body must be that of the path.")
        if place.parent is None and place.item is None:
            place = self.content.with_folders(call, place)
        if place.item:
            self.content.writable(call, place.item)
            self.content.matching(call, place.item, call.header("If-Match"))
        if "fileSize" in about:
            self.content.room(place.drive, int(about["fileSize"]))
        upload = Upload(
            secrets.token_urlsafe(32),
            call,
            place,
            about.get("@microsoft.graph.conflictBehavior", "replace"),  # the documentation says fail, the service does this
            call.header("If-Match"),
            self.content.scratch / uuid4().hex,
            self.graph.clock.now() + timedelta(minutes=15),
            dated=about.get("fileSystemInfo", {}).get("lastModifiedDateTime"),
            deferred=bool(body.get("deferCommit")),
            flaky=int(self.flaky),
        )
        upload.file.touch()
        self.open[upload.id] = upload
        if place.item and place.drive.kind == "personal":
            place.item.etag_n += 1
        url = f"{call.content}/_api/v2.0/drives/{place.drive.id}/items/uploadSession?guid='{uuid4()}'&overwrite=True&tempauth={upload.id}"
        return reply({"uploadUrl": url, "expirationDateTime": instant(upload.until), "nextExpectedRanges": ["0-"]})

    def fragment(self, upload: Upload, request: Request) -> Response:
        if upload.flaky:
            upload.flaky -= 1
            return problem(404, "itemNotFound", "The upload session was not found")
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", request.headers.get("Content-Range", ""))
        if not given:
            raise refusal(400, "invalidRequest", "The Content-Range header is missing or malformed.")
        first, last, total = (int(number) for number in given.groups())
        if upload.total is not None and total != upload.total:
            raise refusal(400, "invalidRequest", "The total size has changed.")
        upload.total = total
        if last - first + 1 != len(request.body):
            raise refusal(416, "invalidRange", "The length does not fit the range.", "fragmentLengthMismatch")
        if first < upload.arrived:
            raise refusal(416, "invalidRange", "The fragment overlaps with what has been received.", "fragmentOverlap")
        if first > upload.arrived:
            raise refusal(416, "invalidRange", "The fragment is out of order.", "fragmentOutOfOrder")
        if len(request.body) > FRAGMENT_LIMIT:
            raise refusal(413, "maxFileSizeExceeded", "The fragment is too large.")
        final = last + 1 == total
        upload.misaligned = upload.misaligned or (not final and len(request.body) % FRAGMENT != 0)
        with upload.file.open("ab") as file:
            file.write(request.body)
        upload.arrived = last + 1
        if not final:
            return self.status(upload, 202)
        if upload.misaligned:
            raise refusal(400, "invalidRequest", "Fragments must be multiples of 320 KiB.")
        if upload.deferred:
            return self.status(upload, 202)
        return self.finish(upload, upload.place)

    def status(self, upload: Upload, status: int = 200) -> Response:
        expected = [] if upload.arrived == upload.total else [f"{upload.arrived}-"]
        return reply({"expirationDateTime": instant(upload.until), "nextExpectedRanges": expected}, status)

    def finish(self, upload: Upload, place: Place) -> Response:
        """The last byte is there: it becomes the file, if it still may."""
        call, drive = upload.call, place.drive
        item = place.parent.children.get(place.name.casefold()) if place.parent else None
        self.content.room(drive, upload.arrived)
        if item and upload.conflict == "fail":
            raise refusal(409, "nameAlreadyExists", "The specified item name already exists.")
        if item is None or upload.conflict == "rename":
            if item is None and upload.if_match:
                raise refusal(412, "resourceModified", CHANGED, "entityTagDoesNotMatch")
            name = self.content.free_name(place) if item else place.name
            item = self.content.create(call, Place(drive, None, place.parent, name), upload.file)
            status = 201
        else:
            self.content.writable(call, item)
            self.content.matching(call, item, upload.if_match)
            self.content.replace(call, item, upload.file)
            status = 200
        item.dated = upload.dated
        del self.open[upload.id]
        return reply(item_json(item, self.graph.downloads, call.content), status)

    def commit(self, call: Call) -> Response:
        """The bytes of a session that met a late conflict, under another name."""
        place, body = self.graph.place(call, write=True), call.json()
        token = str(body.get("@microsoft.graph.sourceUrl", "")).rpartition("tempauth=")[2]
        upload = self.open.get(token)
        if upload is None:
            raise refusal(404, "itemNotFound", "The upload session was not found")
        upload.conflict = body.get("@microsoft.graph.conflictBehavior", "fail")
        upload.arrived = upload.total or 0
        return self.finish(upload, place)


class ContentHost(Service):
    """The host of pre-authenticated addresses.

    A bearer token sent here is refused in strict mode: this host was never meant to see one. Otherwise it is overlooked, as the service
    did for years while clients sent it.
    """

    name = "content"

    def __init__(self, uploads: Uploads) -> None:
        self.uploads = uploads
        self.graph = uploads.graph

    def routes(self) -> Iterable[Route]:
        yield "GET", r"/_layouts/15/download\.aspx", self.download
        for method in ("GET", "PUT", "POST", "DELETE"):
            yield method, r"/_api/v2\.0/drives/[^/]+/items/uploadSession", self.upload

    def refuse(self, status: int, message: str) -> Response:
        return problem(status, "itemNotFound" if status == 404 else "generalException", message)

    def _without_bearer(self, request: Request) -> None:
        if request.running.strict and "Authorization" in request.headers:
            request.violate("a bearer token was sent to a pre-authenticated address")
            raise refusal(401, "unauthenticated", "The caller is not authenticated.")

    def download(self, request: Request) -> Response:
        self._without_bearer(request)
        graph = self.graph
        with graph.lock:
            item, version, since = graph.downloads.tokens.get(request.query.get("tempauth", ""), (None, None, None))
            if item is None or since is None or graph.clock.now() - since > timedelta(hours=1):
                raise refusal(401, "unauthenticated", "The address has expired.")
            if item.id not in item.drive.items:
                raise refusal(404, "itemNotFound", "The resource could not be found.")
            file = version.file if version and version.file else item.path
            return _ranged(request, file, {"Content-Type": "application/octet-stream", "ETag": item.etag})

    def upload(self, request: Request) -> Response:
        self._without_bearer(request)
        graph = self.graph
        with graph.lock:
            upload = self.uploads.open.get(request.query.get("tempauth", ""))
            if upload is None or graph.clock.now() > upload.until:
                raise refusal(404, "itemNotFound", "The upload session was not found")
            if request.method == "PUT":
                return self.uploads.fragment(upload, request)
            if request.method == "GET":
                return self.uploads.status(upload)
            if request.method == "POST":
                return self.uploads.finish(upload, upload.place)
            del self.uploads.open[upload.id]
            upload.file.unlink(missing_ok=True)
            return Response(204)


def _ranged(request: Request, file: Path, headers: dict[str, str]) -> Response:
    size = file.stat().st_size
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not wanted:
        return Response(200, file.read_bytes(), {**headers, "Accept-Ranges": "bytes"})
    first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
    if first >= size:
        return Response(416, headers={"Content-Range": f"bytes */{size}"})
    with file.open("rb") as source:
        source.seek(first)
        return Response(206, source.read(last - first + 1), {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})
