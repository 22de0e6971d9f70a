"""Where the target is: from what the configuration says to a drive and an item, once; then by id, so that a rename or move is followed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit

from connector.auth.tokens import SecretFile
from connector.errors import ConfigError, TargetError, nearest
from connector.http import Session
from sinks.drives.graph_client import GraphClient
from sinks.drives.graph_config import OneDriveConfig, SharePointConfig
from sinks.drives.graph_names import encoded, names_of, share_token

LOG: Final = logging.getLogger("connector.drives")
SELECT: Final = "id,name,size,eTag,cTag,file,folder,root,parentReference,webUrl,lastModifiedDateTime,lastModifiedBy,publication"
SOME: Final[Mapping[str, str]] = {"$select": SELECT}


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder as Graph describes it. `version` stands for the content: it does not move when only metadata do."""

    drive_id: str
    id: str
    name: str
    version: str
    etag: str | None
    size: int
    hash: str | None
    folder: bool
    parent_id: str | None
    path: str
    modified: str
    modified_by: str
    checked_out_by: str | None
    checked_out_id: str | None
    personal: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        parent = body.get("parentReference") or {}
        hashes = (body.get("file") or {}).get("hashes") or {}
        publication = body.get("publication") or {}
        out = publication.get("level") == "checkout"
        folder = unquote(str(parent.get("path") or "").partition("root:")[2]).strip("/")
        return cls(
            drive_id=str(parent.get("driveId") or ""),
            id=str(body["id"]),
            name=str(body.get("name") or ""),
            version=str(body.get("cTag") or body.get("eTag") or ""),
            etag=body.get("eTag"),
            size=int(body.get("size") or 0),
            hash=hashes.get("quickXorHash"),
            folder="folder" in body or "root" in body,
            parent_id=parent.get("id"),
            path="/".join(name for name in (folder, str(body.get("name") or "")) if name),
            modified=str(body.get("lastModifiedDateTime") or ""),
            modified_by=who(body.get("lastModifiedBy")),
            checked_out_by=who(publication.get("checkedOutBy")) if out else None,
            checked_out_id=identity(publication.get("checkedOutBy")) if out else None,
            personal=parent.get("driveType") == "personal",
        )


def who(identities: Mapping[str, Any] | None) -> str:
    """Somebody, as one would call them."""
    for kind in ("user", "application", "device", "group"):
        identity = (identities or {}).get(kind) or {}
        if name := identity.get("displayName") or identity.get("email") or identity.get("id"):
            return str(name)
    return "somebody"


def identity(identities: Mapping[str, Any] | None) -> str | None:
    """The id of a person, or of the app where no person is behind it."""
    for kind in ("user", "application"):
        if found := ((identities or {}).get(kind) or {}).get("id"):
            return str(found)
    return None


@dataclass(frozen=True, slots=True)
class Start:
    """Where the path begins: a drive's root, or the folder (or file) a link, an id or the app folder leads to."""

    drive_id: str
    item: Item | None = None


class Places:
    """Finds the target and its folder. What was found is kept in `session.folder` for the next runs."""

    def __init__(self, config: OneDriveConfig | SharePointConfig, path: str, client: GraphClient, session: Session) -> None:
        self._config = config
        self._client = client
        self._names = names_of(path)
        self._children_only = config.cloud == "china"  # paths with colons do not work there
        address = config.model_dump(
            include={"user", "drive_id", "item_id", "share_url", "approot", "site", "library", "client_id", "base_url"}
        )
        key = hashlib.sha256(json.dumps([address, path], sort_keys=True).encode()).hexdigest()[:16]
        self._memory = SecretFile(session.folder / f"drive-{key}.json" if session.folder else None, sleep=session.sleep)
        self._start: Start | None = None
        self._known: tuple[str, str] | None = self._recall()

    @property
    def description(self) -> str:
        """The target in words."""
        config = self._config
        path = "/".join(self._names)
        if isinstance(config, SharePointConfig):
            library = f" – {config.library}" if config.library else ""
            return f"SharePoint {urlsplit(config.site).path.strip('/') or config.site}{library}: {path}"
        owner = config.user or config.drive_id or ("a shared link" if config.share_url else "the signed-in user")
        return f"OneDrive of {owner}: {path}" if path else f"OneDrive of {owner}"

    # ── the target ────────────────────────────────────────────────────────────────────────────────

    def find(self) -> Item | None:
        """The file, or None when there is none yet. Raises TargetError when a folder is in its place."""
        item = self._followed() or self._by_path()
        if item is None:
            return None
        if item.folder:
            raise TargetError(f"{self.description} is a folder", remedy="name a file in it")
        self.remember(item)
        return item

    def again(self, item: Item) -> Item | None:
        """How a known item stands now."""
        answer = self._client.ask("GET", f"/drives/{item.drive_id}/items/{item.id}", self.description, accept=(404,), params=SOME)
        return Item.of(answer.body) if answer.ok else None

    def remember(self, item: Item) -> None:
        if self._known != (item.drive_id, item.id):
            self._known = (item.drive_id, item.id)
            self._memory.write(json.dumps({"drive": item.drive_id, "item": item.id}))

    def _recall(self) -> tuple[str, str] | None:
        try:
            kept = json.loads(self._memory.read() or "{}")
            return str(kept["drive"]), str(kept["item"])
        except (ValueError, KeyError, TypeError):
            return None

    def _followed(self) -> Item | None:
        """The item of the last run, wherever it is now."""
        if self._known is None:
            return None
        drive, item = self._known
        answer = self._client.ask("GET", f"/drives/{drive}/items/{item}", self.description, accept=(404,), params=SOME)
        if not answer.ok:
            self._known = None
            return None
        found = Item.of(answer.body)
        if self._names and not found.path.casefold().endswith("/".join(self._names).casefold()):
            LOG.info("%s is now at %s; followed", self.description, found.path)
        return found

    def _by_path(self) -> Item | None:
        start = self.start()
        if not self._names:
            if start.item is None:
                raise ConfigError(f"{self.description}: no path", remedy="give the path of the workbook")
            return start.item
        if start.item and not start.item.folder:
            if self._names[-1].casefold() != start.item.name.casefold():
                raise ConfigError(
                    f"{self.description}: the address leads to the file {start.item.name!r}", remedy="leave path out, or name that file"
                )
            return start.item
        return self._below(self._names)

    # ── folders ───────────────────────────────────────────────────────────────────────────────────

    @property
    def file_name(self) -> str:
        return self._names[-1] if self._names else ""

    def folder(self) -> Item | None:
        """The folder the target goes to, or None when it is missing."""
        return self._below(self._names[:-1])

    def nearest_folder(self) -> tuple[Item, int]:
        """The deepest folder on the way to the target that exists, and how many names deep it is."""
        for depth in range(len(self._names) - 1, -1, -1):
            item = self._below(self._names[:depth])
            if item and not item.folder:
                raise TargetError(f"{self.description}: a file is where the folder {item.name!r} should be", remedy="rename one of them")
            if item:
                return item, depth
        raise TargetError(f"{self.description}: the drive has no root folder")

    def make_folders(self) -> Item:
        """The folder the target goes to, made with all folders above it where they are missing."""
        folder, depth = self.nearest_folder()
        for below in range(depth + 1, len(self._names)):
            folder = self._make(folder, self._names[:below])
        return folder

    def _make(self, parent: Item, names: tuple[str, ...]) -> Item:
        body = {"name": names[-1], "folder": {}, "@microsoft.graph.conflictBehavior": "fail"}
        answer = self._client.ask(
            "POST", f"/drives/{parent.drive_id}/items/{parent.id}/children", self.description, accept=(409,), again=True, json=body
        )
        made = Item.of(answer.body) if answer.ok else self._below(names)
        if made is None or not made.folder:
            raise TargetError(f"{self.description}: a file is where the folder {names[-1]!r} should be", remedy="rename one of them")
        return made

    def _below(self, names: tuple[str, ...]) -> Item | None:
        """The item at a path from the start."""
        start = self.start()
        root = "items/root" if self._children_only else "root"
        base = f"/drives/{start.drive_id}/" + (f"items/{start.item.id}" if start.item else root)
        if names and self._children_only:
            return self._walked(start, base, names)
        address = base + (f":/{encoded(*names)}" if names else "")
        answer = self._client.ask("GET", address, self.description, accept=(404,) if names else (), params=SOME)
        return Item.of(answer.body) if answer.ok else None

    def _walked(self, start: Start, address: str, names: tuple[str, ...]) -> Item | None:
        """The same, folder by folder."""
        found: Item | None = None
        for name in names:
            found = self._child(address, name)
            if found is None:
                return None
            address = f"/drives/{start.drive_id}/items/{found.id}"
        return found

    def _child(self, address: str, name: str) -> Item | None:
        params: dict[str, str] | None = {**SOME, "$top": "200"}
        path = f"{address}/children"
        while True:
            answer = self._client.ask("GET", path, self.description, params=params)
            for child in answer.body.get("value") or ():
                if str(child.get("name", "")).casefold() == name.casefold():
                    return Item.of(child)
            following = answer.body.get("@odata.nextLink")
            if not following:
                return None
            path, params = str(following).partition("/v1.0")[2], None

    # ── drives ────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> Start:
        """The drive, and where in it the path begins. Raises ConfigError, AuthError or TargetError when it cannot be found."""
        if self._start is None:
            config = self._config
            self._start = self._library(config) if isinstance(config, SharePointConfig) else self._onedrive(config)
        return self._start

    def _onedrive(self, config: OneDriveConfig) -> Start:
        if config.share_url:
            return self._item_start(f"/shares/{share_token(config.share_url)}/driveItem", "the shared link")
        if config.drive_id and config.item_id:
            return self._item_start(f"/drives/{quote(config.drive_id, safe='!')}/items/{quote(config.item_id, safe='!')}", "the item")
        if config.drive_id:
            body = self._client.ask("GET", f"/drives/{quote(config.drive_id, safe='!')}", f"drive {config.drive_id}").body
            return Start(str(body["id"]))
        owner = f"/users/{quote(config.user, safe='')}" if config.user else "/me"
        what = f"the OneDrive of {config.user or 'the signed-in user'}"
        if config.approot:
            return self._item_start(f"{owner}/drive/special/approot", f"the app folder in {what}")
        return Start(str(self._client.ask("GET", f"{owner}/drive", what).body["id"]))

    def _item_start(self, address: str, what: str) -> Start:
        item = Item.of(self._client.ask("GET", address, what, params=SOME).body)
        return Start(item.drive_id, item)

    def _library(self, config: SharePointConfig) -> Start:
        what = f"SharePoint site {config.site}"
        site = str(self._client.ask("GET", f"/sites/{_site_address(config.site)}", what).body["id"])
        if config.library is None:
            return Start(str(self._client.ask("GET", f"/sites/{site}/drive", f"{what}: default library").body["id"]))
        drives = self._client.ask("GET", f"/sites/{site}/drives", f"{what}: libraries").body.get("value") or ()
        wanted = config.library.casefold()
        for drive in drives:
            segment = unquote(urlsplit(str(drive.get("webUrl", ""))).path.rstrip("/").rpartition("/")[2])
            if wanted in (str(drive.get("name", "")).casefold(), segment.casefold()):
                return Start(str(drive["id"]))
        raise ConfigError(f"{what}: no library {config.library!r}; {nearest(config.library, [str(drive.get('name')) for drive in drives])}")


def _site_address(site: str) -> str:
    """`https://host/sites/x`, `host/sites/x`, `host:/sites/x` or a site id, as Graph wants it."""
    if "," in site:
        return quote(site, safe=",")
    host, _, path = site.removeprefix("https://").removeprefix("http://").partition("/")
    names = [name for name in path.partition("?")[0].split("/") if name]
    host = host.rstrip(":")
    return f"{quote(host, safe='.-:')}:/{encoded(*(unquote(name) for name in names))}" if names else quote(host, safe=".-:")
