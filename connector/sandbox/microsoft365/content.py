"""What is done to files: bytes up and down, folders, versions, check-out, links. And the host that serves pre-authenticated addresses."""

from __future__ import annotations

import secrets
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

from connector.sandbox.microsoft365.answers import item_json, refusal, version_json
from connector.sandbox.microsoft365.files import Drive, Item
from connector.sandbox.microsoft365.graph import FORBIDDEN, ITEM, ITEM_AND, Call, Graph, Place, picked
from connector.sandbox.server import Response, reply

SINGLE_PUT_LIMIT: Final = 250 * 1024 * 1024
FRAGMENT: Final = 327_680
FRAGMENT_LIMIT: Final = 60 * 1024 * 1024
CHANGED: Final = "ETag does not match current item's value"
LOCKED: Final = "The resource you are attempting to access is locked"


class Content:
    """The file endpoints of Graph. `scratch` holds arriving bytes; `held_by_workbook` tells of files the workbook API still holds."""

    def __init__(self, graph: Graph, scratch: Path) -> None:
        self.graph = graph
        self.scratch = scratch
        self.puts = 0
        self.held_by_workbook: Callable[[Item], bool] = lambda _: False
        add = graph.add
        add("PATCH", ITEM, self.patch, 2)
        add("DELETE", ITEM, self.delete, 2)
        add("GET", ITEM_AND + "/children", self.children, 2)
        add("POST", ITEM_AND + "/children", self.make_folder, 2)
        add("GET", ITEM_AND + "/content", self.download, 1)
        add("PUT", ITEM_AND + "/content", self.put, 2)
        add("GET", ITEM_AND + "/versions", self.versions, 2)
        add("GET", ITEM_AND + "/versions/(?P<version>[^/]+)/content", self.download, 1)
        add("POST", ITEM_AND + "/versions/(?P<version>[^/]+)/restoreVersion", self.restore, 2)
        add("POST", ITEM_AND + "/checkout", self.check_out, 2)
        add("POST", ITEM_AND + "/checkin", self.check_in, 2)
        add("POST", ITEM_AND + "/discardCheckout", self.discard, 2)
        add("POST", ITEM_AND + "/createLink", self.link, 5)
        add("GET", ITEM_AND + "/permissions", self.permissions, 5)
        add("POST", ITEM_AND + "/permissions", self.grant, 5)

    # ── the rules every write obeys ───────────────────────────────────────────────────────────────

    def writable(self, call: Call, item: Item) -> None:
        """Raises the refusal of a file that is open, or checked out by somebody else."""
        bypass = "bypass-shared-lock" in (call.header("Prefer") or "") and call.request.method in ("DELETE", "PATCH")
        held = self.held_by_workbook(item)
        if held and call.request.running.strict:
            call.request.violate("a file request right after workbook calls on the same file")
        if (held or item.drive.lock(item)) and not bypass:
            raise refusal(423, "notAllowed", LOCKED, "resourceLocked")
        if item.checked_out and item.checked_out != call.who:
            raise refusal(423, "notAllowed", "The file is checked out for editing by another user.", "resourceLocked")

    def matching(self, call: Call, item: Item, condition: str | None) -> None:
        if condition and condition != "*" and condition not in (item.etag, item.ctag):
            raise refusal(412, "resourceModified", CHANGED, "entityTagDoesNotMatch")
        if call.header("If-None-Match") == "*":
            raise refusal(412, "resourceModified", "The item exists.", "entityTagDoesNotMatch")

    def room(self, drive: Drive, size: int) -> None:
        if drive.used + size > drive.behaviour.quota:
            raise refusal(507, "quotaLimitReached", "Insufficient Space Available")

    def replace(self, call: Call, item: Item, file: Path) -> None:
        """A new version, with everything the library then does by itself."""
        drive, behaviour = item.drive, item.drive.behaviour
        if behaviour.checkout and not item.checked_out:
            raise refusal(423, "notAllowed", f"The file {item.name} is not checked out. You must first check out this document.")
        drive.put(item, file, call.who)
        self.after_write(item)

    def after_write(self, item: Item) -> None:
        behaviour = item.drive.behaviour
        if behaviour.promotion and item.drive.kind != "personal" and zipfile.is_zipfile(item.path):
            self.promote(item)
        if behaviour.drifting_etag:
            item.etag_n += 1

    def promote(self, item: Item) -> None:
        """SharePoint writes properties into an Office file it was given: another size, another hash."""
        file = self.scratch / uuid4().hex
        shutil.copyfile(item.path, file)
        with zipfile.ZipFile(file, "a") as package:
            name = "customXml/item990.xml"
            if name not in package.namelist():
                package.writestr(name, "<properties xmlns='sandbox'/>")
        item.drive.rewrite(item, file, bump_ctag=item.drive.behaviour.promotion_bumps_ctag)

    def create(self, call: Call, place: Place, file: Path) -> Item:
        assert place.parent is not None
        item = place.drive.make_file(place.parent, place.name, file, call.who)
        if place.drive.behaviour.checkout:
            item.checked_out, item.before_checkout = call.who, 1
        self.after_write(item)
        return item

    def free_name(self, place: Place) -> str:
        assert place.parent is not None
        stem, dot, suffix = place.name.rpartition(".")
        number = 1
        while True:
            name = f"{stem} {number}{dot}{suffix}" if dot else f"{place.name} {number}"
            if name.casefold() not in place.parent.children:
                return name
            number += 1

    def arrive(self, body: bytes) -> Path:
        file = self.scratch / uuid4().hex
        file.write_bytes(body)
        return file

    # ── items ─────────────────────────────────────────────────────────────────────────────────────

    def children(self, call: Call) -> Response:
        folder = self.graph.existing(call, write=False)
        for child in list(folder.children.values()):
            folder.drive.look(child)
        found = sorted(folder.children.values(), key=lambda child: child.name.casefold())
        query = call.request.query
        start, size = int(query.get("$skiptoken", 0)), int(query.get("$top", 200))
        part = found[start : start + size]
        value: dict[str, Any] = {"value": [picked(call, item_json(child, self.graph.downloads, call.content)) for child in part]}
        if start + size < len(found):
            value["@odata.nextLink"] = f"{call.request.target}?{urlencode({**query, '$skiptoken': start + size}, safe='$,')}"
        return reply(value)

    def make_folder(self, call: Call) -> Response:
        place, body = self.graph.place(call, write=True), call.json()
        parent, name = place.item, str(body.get("name", ""))
        if parent is None:
            raise refusal(404, "itemNotFound", "The resource could not be found.")
        if not name or FORBIDDEN.search(name):
            raise refusal(400, "invalidRequest", "The name in the provided oneDrive item is blank or invalid.")
        if name.casefold() in parent.children:
            behaviour = body.get("@microsoft.graph.conflictBehavior", "fail")
            if behaviour == "fail":
                raise refusal(409, "nameAlreadyExists", "An item with the same name already exists under the parent")
            if behaviour == "rename":
                name = self.free_name(Place(parent.drive, None, parent, name))
            else:
                return self.graph.shown(call, parent.children[name.casefold()])
        if "file" in body:
            return self.graph.shown(call, self.create(call, Place(parent.drive, None, parent, name), self.arrive(b"")), 201)
        return self.graph.shown(call, parent.drive.make_folder(parent, name, call.who), 201)

    def patch(self, call: Call) -> Response:
        """Rename, move, or set dates."""
        item, body = self.graph.existing(call, write=True), call.json()
        self.writable(call, item)
        self.matching(call, item, call.header("If-Match"))
        target = body.get("parentReference", {}).get("id")
        parent = item.drive.items.get(target) if target else item.parent
        name = body.get("name", item.name)
        if parent is None or FORBIDDEN.search(name):
            raise refusal(400, "invalidRequest", "The name or the destination is not usable.")
        if (parent, name) != (item.parent, item.name):
            if name.casefold() in parent.children and parent.children[name.casefold()] is not item:
                raise refusal(409, "nameAlreadyExists", "An item with the same name already exists under the parent")
            item.drive.move(item, parent, name)
        if dated := body.get("fileSystemInfo", {}).get("lastModifiedDateTime"):
            item.dated = dated
            item.etag_n += 1
        return self.graph.shown(call, item)

    def delete(self, call: Call) -> Response:
        item = self.graph.existing(call, write=True)
        self.writable(call, item)
        self.matching(call, item, call.header("If-Match"))
        item.drive.delete(item)
        return Response(204)

    # ── bytes ─────────────────────────────────────────────────────────────────────────────────────

    def download(self, call: Call) -> Response:
        item = self.graph.existing(call, write=False)
        version = None
        if wanted := call.request.args.get("version"):
            version = next((version for version in item.versions if version.id == wanted), None)
            if version is None:
                raise refusal(404, "itemNotFound", "The version could not be found.")
            if version is item.current:
                version = None
            elif version.file is None:
                raise refusal(404, "itemNotFound", "The version's content is gone.")
        return Response(302, headers={"Location": self.graph.downloads.address(call.content, item, version)})

    def put(self, call: Call) -> Response:
        place, body = self.graph.place(call, write=True), call.request.body
        if len(body) > SINGLE_PUT_LIMIT:
            raise refusal(413, "maxFileSizeExceeded", "The file is too large for a single request.")
        if place.parent is None and place.item is None:
            place = self.with_folders(call, place)
        self.puts += 1
        every = place.drive.behaviour.spurious_conflict_every
        if every and self.puts % every == 0:
            raise refusal(409, "resourceModified", CHANGED)
        self.room(place.drive, len(body))
        if place.item is None:
            if call.header("If-Match"):
                raise refusal(412, "resourceModified", CHANGED, "entityTagDoesNotMatch")
            return self.graph.shown(call, self.create(call, place, self.arrive(body)), 201)
        behaviour = call.request.query.get("@microsoft.graph.conflictBehavior", "replace")
        if behaviour == "fail":
            raise refusal(409, "nameAlreadyExists", "The specified item name already exists.")
        if behaviour == "rename":
            renamed = Place(place.drive, None, place.parent, self.free_name(place))
            return self.graph.shown(call, self.create(call, renamed, self.arrive(body)), 201)
        self.writable(call, place.item)
        self.matching(call, place.item, call.header("If-Match"))
        self.replace(call, place.item, self.arrive(body))
        return self.graph.shown(call, place.item)

    def with_folders(self, call: Call, place: Place) -> Place:
        """The service makes missing folders of a path by itself."""
        folder = place.drive.root
        for name in call.request.args.get("path", "").strip("/").split("/")[:-1]:
            folder = place.drive.find(name, folder) or place.drive.make_folder(folder, name, call.who)
        return Place(place.drive, None, folder, place.name)

    # ── versions, check-out, links ────────────────────────────────────────────────────────────────

    def versions(self, call: Call) -> Response:
        item = self.graph.existing(call, write=False)
        return reply({"value": [version_json(version) for version in reversed(item.versions)]})

    def restore(self, call: Call) -> Response:
        item, wanted = self.graph.existing(call, write=True), call.request.args["version"]
        self.writable(call, item)
        version = next((version for version in item.versions if version.id == wanted), None)
        if version is None or version is item.current or version.file is None:
            raise refusal(400, "invalidRequest", "The version cannot be restored.")
        item.drive.restore(item, version, call.who)
        return Response(204)

    def check_out(self, call: Call) -> Response:
        item = self.graph.existing(call, write=True)
        if item.drive.kind == "personal":
            raise refusal(400, "invalidRequest", "API not found")
        self.writable(call, item)
        item.checked_out, item.before_checkout = call.who, len(item.versions)
        item.etag_n += 1
        return Response(204)

    def check_in(self, call: Call) -> Response:
        item = self.graph.existing(call, write=True)
        if not item.checked_out:
            raise refusal(400, "invalidRequest", "The file is not checked out.")
        self.writable(call, item)
        item.checked_out = None
        item.etag_n += 1
        return Response(204)

    def discard(self, call: Call) -> Response:
        item = self.graph.existing(call, write=True)
        if not item.checked_out:
            raise refusal(400, "invalidRequest", "The file is not checked out.")
        self.writable(call, item)
        item.drive.discard_checkout(item)
        return Response(204)

    def link(self, call: Call) -> Response:
        item, body = self.graph.existing(call, write=True), call.json()
        kind = body.get("type", "view")
        status = 200 if kind in item.links else 201
        url = item.links.setdefault(kind, f"https://sandbox.sharepoint.com/:x:/s/{secrets.token_urlsafe(16)}")
        self.graph.shares[url] = item
        return reply({"id": kind, "roles": ["write" if kind == "edit" else "read"], "link": {"type": kind, "webUrl": url}}, status)

    def permissions(self, call: Call) -> Response:
        item = self.graph.existing(call, write=False)
        granted = [{"id": app, "roles": [role], "grantedToV2": {"application": {"id": app}}} for app, role in item.grants.items()]
        return reply({"value": granted})

    def grant(self, call: Call) -> Response:
        item, body = self.graph.existing(call, write=True), call.json()
        app = body.get("grantedTo", {}).get("application", {}).get("id")
        if not app or not body.get("roles"):
            raise refusal(400, "invalidRequest", "roles and grantedTo are required.")
        item.grants[app] = body["roles"][0]
        return reply({"id": app, "roles": body["roles"]}, 201)
