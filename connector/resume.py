"""A read of everything that was interrupted goes on where it stopped.

While such a read runs, its pages are kept on disk with the place of the next one. A read that finds kept pages first asks for what
changed since they were taken, then replays them without the changed records, then goes on at the place. When it ends, they go.

    <folder>/unfinished/<name>-<fingerprint>/000001.json.gz
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from connector.api import Page
from connector.errors import SourceError

log = logging.getLogger(__name__)

KEPT_FOR: Final = timedelta(hours=24)
#: what reading a damaged page ends in
DAMAGED: Final = (OSError, EOFError, zlib.error, ValueError, KeyError)


class PlaceLostError(SourceError):
    """The service no longer knows the place where reading was to go on, or what changed since, or a kept page is damaged."""


@dataclass(frozen=True, slots=True)
class Step:
    """A page of a read of everything. `place` (JSON) is where to go on after it, None after the last one.

    `total` is how many records there will be in all, where that is exact; `expected` about how many, for progress.
    """

    records: list[dict[str, Any]]
    place: Any = None
    total: int | None = None
    expected: int | None = None


class Unfinished:
    """The pages kept of one read; none when there is no folder.

    `identity` is everything the pages depend on: kept pages of another configuration are not found.
    Pages older than a day are forgotten: what was deleted since then might not be told any more.
    """

    def __init__(self, folder: Path | None, name: str, identity: object, now: datetime) -> None:
        fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        self.folder = folder / "unfinished" / f"{name}-{fingerprint}" if folder else None
        self.started: str | None = None
        self.place: Any = None
        self._pages = 0
        self._find(now)

    def _find(self, now: datetime) -> None:
        files = sorted(self.folder.glob("*.json.gz")) if self.folder else []
        if not files:
            return
        if now.timestamp() - files[0].stat().st_mtime > KEPT_FOR.total_seconds():
            self.forget()
            return
        try:
            last = _load(files[-1])
            self.started, self.place, self._pages = last["started"], last["place"], len(files)
        except DAMAGED as error:
            log.info("%s: kept pages are damaged (%s); reading from the start", self.folder, type(error).__name__)
            self.forget()

    def replay(self) -> Iterator[list[dict[str, Any]]]:
        """Raises PlaceLostError for a page that is damaged."""
        for file in sorted(self.folder.glob("*.json.gz")) if self.folder and self._pages else ():
            try:
                records = _load(file)["records"]
            except DAMAGED as error:
                raise PlaceLostError(f"{file}: damaged ({type(error).__name__})") from error
            yield records

    def keep(self, started: str, step: Step) -> None:
        """Put a page on disk, whole or not at all. The last page of a read is not kept: nothing can interrupt the read after it."""
        if self.folder is None or step.place is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pages += 1
        file = self.folder / f"{self._pages:06}.json.gz"
        partial = file.with_suffix(".partial")
        text = json.dumps({"started": started, "place": step.place, "records": step.records}, default=_tagged)
        with partial.open("wb") as whole:
            whole.write(gzip.compress(text.encode(), compresslevel=1, mtime=0))
            whole.flush()
            os.fsync(whole.fileno())
        partial.replace(file)

    def forget(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.started, self.place, self._pages = None, None, 0


def read_everything(
    unfinished: Unfinished,
    started: str,
    *,
    steps: Callable[[Any], Iterable[Step]],
    changes: Callable[[str], Iterable[Page]],
    key: Callable[[Any], str],
) -> Iterator[Page]:
    """All pages of a full read, taken up where an earlier one stopped.

    `started` is now, in the source's words; `steps(place)` reads from a place (None: the beginning); `changes(started)` reads what
    changed or went since then; `key(record)` is what changes and removals name. `changes` or `steps` raise PlaceLostError when the service
    no longer knows: then everything is read from the start, and what came before it is overruled.
    """
    changed: set[str] = set()
    try:
        if unfinished.started is not None:
            for page in changes(unfinished.started):
                changed.update(page.removed, (key(record) for record in page.records))
                yield replace(page, total=None, watermark=None, unchanged=False)
            for records in unfinished.replay():
                yield Page([record for record in records if key(record) not in changed])
        yield from _go_on(unfinished, unfinished.started or started, steps(unfinished.place), changed, key)
    except PlaceLostError as lost:
        log.info("%s; reading from the start", lost)
        unfinished.forget()
        yield from _go_on(unfinished, started, steps(None), changed, key)
    unfinished.forget()


def _go_on(unfinished: Unfinished, started: str, steps: Iterable[Step], changed: set[str], key: Callable[[Any], str]) -> Iterator[Page]:
    whole = unfinished.started is None
    for step in steps:
        unfinished.keep(started, step)
        fresh = [record for record in step.records if key(record) not in changed] if changed else step.records
        yield Page(fresh, total=step.total if whole else None, expected=step.expected)


def _load(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()), object_hook=_untagged)
    return found


def _tagged(value: object) -> object:
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    raise TypeError(f"a record holds a {type(value).__name__}")


def _untagged(value: dict[str, Any]) -> Any:
    return Decimal(value["decimal"]) if value.keys() == {"decimal"} else value
