"""A folder of this machine, or a share mounted on it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field

from connector.api import Finding, Location, Model
from connector.errors import ConfigError, ConflictError, LockedError, TargetError

#: A lock file older than this was left behind by a program that crashed.
STALE_LOCK: Final = 24 * 3600.0
CHUNK: Final = 1 << 20


class LocalConfig(Model):
    """`{type: local, folder: DIR}`."""

    placed: ClassVar[tuple[str, ...]] = ("type", "folder")
    type: Literal["local"] = "local"
    folder: Location = Field(description="Folder that holds the workbook.")


class LocalDrive:
    """One file in a folder, replaced in one step. Its version is the hash of its content, so touching it changes nothing.

    Excel (`~$name`) and LibreOffice (`.~lock.name#`) say with a lock file that somebody has the workbook open;
    one older than a day is taken for left behind.
    """

    def __init__(self, config: LocalConfig, path: str, *, now: Callable[[], float] = time.time) -> None:
        if Path(path).is_absolute() or ".." in Path(path).parts or not Path(path).name:
            raise ConfigError(
                f"path {path!r} must be a file below the drive's folder", remedy="write it relative to `folder`, without `..`"
            )
        self._target = Path(config.folder, path)
        self._now = now

    def name(self) -> str:
        return str(self._target)

    def check(self) -> Iterator[Finding]:
        folder = next(parent for parent in self._target.parents if parent.exists())
        if self._target.is_dir() or not folder.is_dir():
            wrong = self._target if self._target.is_dir() else folder
            yield Finding(self.name(), ok=False, detail=f"{wrong} is not a {'file' if wrong is self._target else 'folder'}",
                          remedy="name the workbook's file in `path`", exit_code=5)  # fmt: skip
            return
        if not os.access(folder, os.W_OK):
            yield Finding(self.name(), ok=False, detail=f"{folder} is read-only", remedy="give this user write permission", exit_code=5)
            return
        opened = self._lock()
        if opened:
            yield Finding(self.name(), ok=False, detail=f"somebody has it open ({opened.name})", remedy="close it", exit_code=75)
            return
        yield Finding(self.name(), ok=True, detail="there" if self._target.exists() else "will be created")

    def version(self) -> str | None:
        with _explained(self._target):
            return _hash(self._target) if self._exists() else None

    def fetch(self, into: Path) -> str | None:
        with _explained(self._target):
            if not self._exists():
                return None
            for _ in range(3):
                before = self._target.stat()
                version = _copy(self._target, into)
                after = self._target.stat()
                if (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino):
                    return version
        raise LockedError(f"{self.name()}: it is being written while we read it", remedy="the next run tries again")

    def store(self, file: Path, if_version: str | None) -> str:
        with _explained(self._target):
            target = self._target.resolve()  # a link stays a link
            target.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(target)
            opened = self._lock()
            if opened:
                raise LockedError(f"{self.name()}: somebody has it open ({opened.name})", remedy="close it; the next run tries again")
            partial = target.with_name(f".{target.name}.{os.getpid()}.connector-tmp")
            try:
                version = _copy(file, partial, sync=True)
                self._replace(partial, target, if_version)
            finally:
                partial.unlink(missing_ok=True)
            _sync_folder(target.parent)
            return version

    def _replace(self, partial: Path, target: Path, if_version: str | None) -> None:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
        current = _hash(target) if target.exists() else None
        if current != if_version:
            happened = "deleted" if current is None else "changed" if if_version else "created"
            raise ConflictError(f"{self.name()}: somebody {happened} it while it was being refreshed", remedy="the next run tries again")
        if current is not None:
            held = target.stat()
            shutil.copystat(target, partial)
            with suppress(PermissionError):  # only root may give a file away; the folder's rules apply then
                os.chown(partial, held.st_uid, held.st_gid)
            os.utime(partial)
            partial.replace(target)
            return
        try:
            os.link(partial, target)  # fails when somebody created it meanwhile
        except FileExistsError as error:
            raise ConflictError(f"{self.name()}: somebody created it meanwhile", remedy="the next run tries again") from error
        except OSError:  # a file system without hard links
            partial.replace(target)

    def _exists(self) -> bool:
        if self._target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(self._target))
        return self._target.exists()

    def _lock(self) -> Path | None:
        """The lock file of a program that has the workbook open."""
        target = self._target
        for lock in (target.with_name(f"~${target.name}"), target.with_name(f".~lock.{target.name}#")):
            with suppress(FileNotFoundError, NotADirectoryError):
                if self._now() - lock.stat().st_mtime < STALE_LOCK:
                    return lock
        return None

    def _sweep(self, target: Path) -> None:
        """Remove what a killed run left behind."""
        pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]+)\.connector-tmp")
        for entry in target.parent.iterdir():
            found = pattern.fullmatch(entry.name)
            if found and not _alive(int(found[1])):
                entry.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return process != os.getpid()


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _copy(source: Path, target: Path, *, sync: bool = False) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with source.open("rb") as reading, target.open("wb") as writing:
        while data := reading.read(CHUNK):
            digest.update(data)
            writing.write(data)
        if sync:
            writing.flush()
            os.fsync(writing.fileno())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """What the operating system says, in our errors."""
    try:
        yield
    except IsADirectoryError as error:
        raise TargetError(f"{target} is a folder", remedy="name the workbook's file in `path`") from error
    except NotADirectoryError as error:
        raise TargetError(f"{target.parent} is not a folder", remedy="correct `folder` or `path`") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TargetError(f"{target}: the disk is full", remedy="free space, or deliver elsewhere") from error
        if error.errno in (errno.EBUSY, errno.ETXTBSY, errno.EDEADLK, errno.EAGAIN) or getattr(error, "winerror", None) in (32, 33):
            raise LockedError(f"{target}: another program holds it", remedy="close it; the next run tries again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TargetError(
                f"{target}: no permission to read or replace it", remedy="give this user write permission on its folder"
            ) from error
        raise TargetError(f"{target}: {error.strerror or error}", remedy="correct `folder` or `path`") from error
