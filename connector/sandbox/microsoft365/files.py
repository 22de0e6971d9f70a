"""Drives, items and versions as OneDrive and SharePoint keep them. The current bytes lie in a real folder, under their real names."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from connector.sandbox.server import Clock

Kind = Literal["personal", "business", "documentLibrary"]
Who = Mapping[str, Any]  # an identitySet: {"user": {…}, "application": {…}}

SPACE: Final = UUID("6b7cbf0e-3d0a-4f50-9d1e-0b4d3d7f2a11")
SERVICE: Final[Who] = {"user": {"displayName": "System Account"}}
LOCK_MINUTES: Final = 30


@dataclass(slots=True)
class Lock:
    """Somebody has the file open for editing. `mode` is desktop or web (people), or workbook (an API session)."""

    owner: str
    mode: str
    until: datetime


@dataclass(slots=True)
class Version:
    number: int
    size: int
    hash: str
    modified: datetime
    by: Who
    file: Path | None = None  # where the bytes of a past version lie; None: it is the current one

    @property
    def id(self) -> str:
        return f"{self.number}.0"


@dataclass(slots=True, eq=False)
class Item:
    """A file or a folder. eTag counts every change, cTag changes of content."""

    drive: Drive
    id: str
    guid: str
    name: str
    parent: Item | None
    folder: bool
    created: datetime
    modified: datetime
    by: Who
    children: dict[str, Item] = field(default_factory=dict)
    etag_n: int = 1
    ctag_n: int = 1
    versions: list[Version] = field(default_factory=list)
    lock: Lock | None = None
    checked_out: Who | None = None
    before_checkout: int = 0  # versions that stood when it was checked out
    grants: dict[str, str] = field(default_factory=dict)  # app id → role
    links: dict[str, str] = field(default_factory=dict)  # link type → url
    stamp: tuple[int, int] = (0, 0)  # mtime and size of the file we know
    dated: str | None = None  # when it was changed according to the client (fileSystemInfo)

    @property
    def etag(self) -> str:
        if self.drive.kind == "personal":
            return base64.b64encode(f"{self.guid}.{self.etag_n}".encode()).decode().rstrip("=")
        return f'"{{{self.guid}}},{self.etag_n}"'

    @property
    def ctag(self) -> str:
        if self.drive.kind == "personal":
            return "aYzo" + base64.b64encode(f"{self.guid}.{self.ctag_n}".encode()).decode().rstrip("=")
        return f'"c:{{{self.guid}}},{self.ctag_n}"'

    @property
    def segments(self) -> list[str]:
        """The names from the root down."""
        return [] if self.parent is None else [*self.parent.segments, self.name]

    @property
    def path(self) -> Path:
        """Where it lies on disk."""
        return self.drive.folder.joinpath(*self.segments)

    @property
    def current(self) -> Version:
        return self.versions[-1]

    def ancestors(self) -> Iterator[Item]:
        """Itself, its folder, … up to the root."""
        item: Item | None = self
        while item:
            yield item
            item = item.parent


@dataclass(slots=True)
class Behaviour:
    """What a library does that its clients must cope with. All off: the gentle case."""

    checkout: bool = False  # "Require Check Out"
    promotion: bool = False  # SharePoint rewrites Office files after an upload
    promotion_bumps_ctag: bool = False
    drifting_etag: bool = False  # metadata extraction bumps the eTag after every upload
    spurious_conflict_every: int = 0  # every nth PUT answers 409 resourceModified for nothing
    keep_versions: int = 500  # 1: versioning is off
    quota: int = 5 << 40


class Drive:
    """One drive. People may work in `folder` too: a file changed there becomes a new version when it is next looked at."""

    def __init__(self, drive_id: str, kind: Kind, name: str, folder: Path, history: Path, owner: Who, clock: Clock) -> None:
        self.id = drive_id
        self.kind: Kind = kind
        self.name = name
        self.folder = folder
        self.history = history
        self.owner = owner
        self.clock = clock
        self.site: Any = None
        self.behaviour = Behaviour()
        self.items: dict[str, Item] = {}
        self._made = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.root = self._new("root", None, owner, folder=True)

    @property
    def used(self) -> int:
        return sum(item.current.size for item in self.items.values() if item.versions)

    def find(self, path: str, start: Item | None = None) -> Item | None:
        """The item at a path below `start` (the root), names compared without case."""
        item = start or self.root
        for segment in path.strip("/").split("/") if path.strip("/") else ():
            self.look(item)
            child = item.children.get(segment.casefold())
            if child is None:
                return None
            item = child
        self.look(item)
        return item

    def look(self, item: Item) -> None:
        """Take in what people did in the folder meanwhile."""
        if item.folder:
            self._look_into(item)
        elif not item.path.exists():
            self.forget(item)
        elif _stamp(item.path) != item.stamp:
            self._changed(item, {"user": {"displayName": "somebody in the folder"}})

    def _look_into(self, folder: Item) -> None:
        if not folder.path.is_dir():
            return
        for entry in sorted(folder.path.iterdir()):
            if entry.name.startswith(".") or entry.name.casefold() in folder.children:
                continue
            if entry.is_dir():
                self.make_folder(folder, entry.name, SERVICE)
            else:
                item = self._new(entry.name, folder, SERVICE, folder=False)
                item.stamp = _stamp(entry)
                item.versions.append(Version(1, item.stamp[1], quick_xor(entry), item.modified, SERVICE))
        for child in list(folder.children.values()):
            if not child.path.exists():
                self.forget(child)

    def make_folder(self, parent: Item, name: str, by: Who) -> Item:
        item = self._new(name, parent, by, folder=True)
        item.path.mkdir(exist_ok=True)
        return item

    def make_file(self, parent: Item, name: str, file: Path, by: Who) -> Item:
        """A new file of the bytes in `file`, which is moved in."""
        item = self._new(name, parent, by, folder=False)
        file.replace(item.path)
        item.stamp = _stamp(item.path)
        item.versions.append(Version(1, item.stamp[1], quick_xor(item.path), item.modified, by))
        return item

    def put(self, item: Item, file: Path, by: Who) -> None:
        """A new version of the bytes in `file`, which is moved in."""
        past = self.history / f"{item.id}-{item.current.number}"
        past.parent.mkdir(parents=True, exist_ok=True)
        item.path.replace(past)
        item.current.file = past
        file.replace(item.path)
        self._changed(item, by)

    def _changed(self, item: Item, by: Who) -> None:
        item.stamp = _stamp(item.path)
        item.modified, item.by, item.dated = self.clock.now(), by, None
        item.versions.append(Version(item.current.number + 1, item.stamp[1], quick_xor(item.path), item.modified, by))
        del item.versions[: -max(1, self.behaviour.keep_versions)]
        item.etag_n += 1
        item.ctag_n += 1

    def rewrite(self, item: Item, file: Path, *, bump_ctag: bool) -> None:
        """The service changes the bytes of the current version by itself."""
        file.replace(item.path)
        item.stamp = _stamp(item.path)
        item.current.size, item.current.hash = item.stamp[1], quick_xor(item.path)
        item.etag_n += 1
        item.ctag_n += bump_ctag

    def restore(self, item: Item, version: Version, by: Who) -> None:
        """Bring back a past version's bytes, as a new version."""
        assert version.file is not None
        copy = version.file.with_suffix(".restored")
        shutil.copyfile(version.file, copy)
        self.put(item, copy, by)

    def discard_checkout(self, item: Item) -> None:
        """Back to what stood when the file was checked out."""
        if len(item.versions) > item.before_checkout:
            kept = item.versions[item.before_checkout - 1]
            if kept.file:
                self.rewrite(item, kept.file, bump_ctag=True)
                kept.file = None
            del item.versions[item.before_checkout :]
        item.checked_out = None

    def move(self, item: Item, parent: Item, name: str) -> None:
        old = item.path
        assert item.parent is not None
        del item.parent.children[item.name.casefold()]
        item.parent, item.name = parent, name
        parent.children[name.casefold()] = item
        old.replace(item.path)
        item.etag_n += 1

    def delete(self, item: Item) -> None:
        """To the recycle bin, for good as far as this API goes."""
        if item.folder:
            shutil.rmtree(item.path)
        else:
            item.path.unlink()
        self.forget(item)

    def forget(self, item: Item) -> None:
        for child in list(item.children.values()):
            self.forget(child)
        if item.parent:
            item.parent.children.pop(item.name.casefold(), None)
        self.items.pop(item.id, None)

    def lock(self, item: Item) -> Lock | None:
        """Who holds the file open; leases run out by themselves."""
        if item.lock and item.lock.until <= self.clock.now():
            item.lock = None
        return item.lock

    def open_in_excel(self, item: Item, owner: str, mode: str = "desktop", minutes: float = LOCK_MINUTES) -> None:
        """Somebody opens the file; to view it takes no lock."""
        if mode != "view":
            item.lock = Lock(owner, mode, self.clock.now() + timedelta(minutes=minutes))

    def close_in_excel(self, item: Item) -> None:
        item.lock = None

    def _new(self, name: str, parent: Item | None, by: Who, *, folder: bool) -> Item:
        self._made += 1
        guid = str(uuid5(SPACE, f"{self.id}/{self._made}")).upper()
        digest = blake2b(f"{self.id}/{self._made}".encode(), digest_size=20).digest()
        item_id = f"{self.id.upper()}!{100 + self._made}" if self.kind == "personal" else "01" + base64.b32encode(digest).decode()[:32]
        now = self.clock.now()
        item = Item(self, item_id, guid, name, parent, folder, now, now, by)
        self.items[item.id] = item
        if parent:
            parent.children[name.casefold()] = item
        return item


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def quick_xor(file: Path) -> str:
    """quickXorHash: byte i, rotated left by 11·i bits within 160, XORed; the length XORed into the last 8 bytes; base64."""
    folded, size = 0, 0
    width = 160 * 8192
    with file.open("rb") as source:
        while block := source.read(width):
            folded ^= int.from_bytes(block, "little")
            size += len(block)
    while width > 160:
        width //= 2
        folded = (folded >> (8 * width)) ^ (folded & ((1 << (8 * width)) - 1))
    hashed, ring = 0, (1 << 160) - 1
    for index, byte in enumerate(folded.to_bytes(160, "little")):
        turned = byte << (11 * index % 160)
        hashed ^= (turned & ring) | (turned >> 160)
    hashed ^= size << 96
    return base64.b64encode(hashed.to_bytes(20, "little")).decode()
