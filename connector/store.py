"""Snapshots: whole, immutable Parquet that any engine can read.

    <data>/flows/<flow>/<stamp>-<run>/sources/<source>/<entity>.parquet   what each source gave, merged by key
    <data>/flows/<flow>/<stamp>-<run>/tables/<table>.parquet              what was computed from it
    <data>/flows/<flow>/<stamp>-<run>/memory/deals.parquet                what later runs tell movement from

A snapshot is written under a name that ends in `.partial` and renamed when it is whole.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from connector.config import Retention
from connector.errors import TargetError

PARTIAL: Final = ".partial"
DAY: Final = 86_400
ROWS_PER_GROUP: Final = 40_000


class Store:
    """The snapshots of one flow."""

    def __init__(self, data: Path, flow: str) -> None:
        self.folder = data / "flows" / flow
        self.previews = data / "previews" / flow

    def path(self, name: str) -> Path:
        return self.folder / name

    def begin(self, at: datetime, run_id: str, *, preview: bool = False) -> Path:
        """A new, empty snapshot folder, still partial. A preview's lies apart, where no run sweeps it away."""
        home = self.previews if preview else self.folder
        folder = home / f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{run_id}{PARTIAL}"
        with writing(folder):
            folder.mkdir(parents=True)
        return folder

    def commit(self, partial: Path) -> str:
        """Make a snapshot whole; returns its name."""
        final = partial.with_name(partial.name.removesuffix(PARTIAL))
        with writing(final):
            partial.replace(final)
        return final.name

    def discard(self, partial: Path) -> None:
        """Remove a snapshot that was not committed."""
        shutil.rmtree(partial, ignore_errors=True)

    def sweep(self, known: Iterable[str]) -> None:
        """Remove what killed runs left: partial snapshots and whole ones that no run finished."""
        names = set(known)
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.previews.iterdir() if self.previews.is_dir() else ():
            if time.time() - folder.stat().st_mtime > DAY:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Stream batches into a Parquet file, small ones gathered into row groups; returns the rows."""
    written, rows = 0, 0
    waiting: list[pa.RecordBatch] = []
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            for batch in batches:
                waiting.append(batch)
                rows += batch.num_rows
                if rows - written >= ROWS_PER_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting, schema))
                    written = rows
                    waiting.clear()
            if rows > written:
                writer.write_table(pa.Table.from_batches(waiting, schema))
    return rows


def share(source: Path, target: Path) -> None:
    """The same immutable file in a second snapshot, without a second copy where the file system allows."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def expired(names: Sequence[tuple[str, datetime]], policy: Retention, now: datetime) -> list[str]:
    """Snapshots the retention ladder lets go. `names` are oldest first; the newest always stays.

    Of each day, ISO week, month or quarter the last snapshot stands for the whole of it.
    """
    kept = {names[-1][0]} if names else set()
    rungs: list[tuple[timedelta | None, str]] = [
        (timedelta(days=policy.daily_days), "%Y-%m-%d"),
        (timedelta(weeks=policy.weekly_weeks), "%G-W%V"),
        (timedelta(days=31 * policy.monthly_months), "%Y-%m"),
    ]
    for reach, pattern in rungs:
        last = {at.strftime(pattern): name for name, at in names if reach and now - at <= reach}
        kept |= set(last.values())
    if policy.quarterly:
        kept |= set({f"{at.year}Q{(at.month + 2) // 3}": name for name, at in names}.values())
    kept |= {name for name, at in names if now - at <= timedelta(days=policy.days)}
    return [name for name, _ in names if name not in kept]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk or a read-only folder, as an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetError(f"{path.parent}: no space left", remedy="free space, or name another folder with --data") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TargetError(
                f"{path.parent}: not writable", remedy="give this user write access, or name another folder with --data"
            ) from error
        raise
