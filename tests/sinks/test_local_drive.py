"""A folder as a drive: replaced in one step or not at all, and never over somebody else's change."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from connector.errors import ConfigError, ConflictError, LockedError, TargetError
from sinks.drives.local import STALE_LOCK, LocalConfig, LocalDrive


@pytest.fixture
def drive(tmp_path):
    return LocalDrive(LocalConfig(folder=str(tmp_path / "share")), "team/Book.xlsx")


@pytest.fixture
def new(tmp_path):
    file = tmp_path / "new"
    file.write_bytes(b"new content")
    return file


def there(tmp_path, content=b"old") -> Path:
    target = tmp_path / "share" / "team" / "Book.xlsx"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def test_a_missing_file_is_created_with_its_folder(drive, tmp_path, new):
    assert drive.version() is None
    assert drive.fetch(tmp_path / "x") is None
    version = drive.store(new, None)
    assert drive.version() == version
    assert drive.fetch(tmp_path / "x") == version
    assert (tmp_path / "x").read_bytes() == b"new content"
    assert [entry.name for entry in (tmp_path / "share" / "team").iterdir()] == ["Book.xlsx"]


def test_touching_a_file_does_not_change_its_version(drive, tmp_path):
    target = there(tmp_path)
    version = drive.version()
    os.utime(target, (1, 1))
    assert drive.version() == version


@pytest.mark.parametrize(("now", "word"), [(b"theirs", "changed"), (None, "deleted")])
def test_a_change_between_read_and_write_is_a_conflict(drive, tmp_path, new, now, word):
    target = there(tmp_path)
    version = drive.fetch(tmp_path / "x")
    target.write_bytes(now) if now else target.unlink()
    with pytest.raises(ConflictError, match=word):
        drive.store(new, version)
    assert (target.read_bytes() if now else None) == now
    assert len(list(target.parent.iterdir())) == bool(now)


def test_a_file_created_meanwhile_is_a_conflict(drive, tmp_path, new):
    there(tmp_path)
    with pytest.raises(ConflictError, match="created"):
        drive.store(new, None)


def test_mode_and_links_are_kept(drive, tmp_path, new):
    real = tmp_path / "real.xlsx"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "share" / "team" / "Book.xlsx"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    drive.store(new, drive.version())
    assert link.is_symlink()
    assert real.read_bytes() == b"new content"
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("lock", ["~$Book.xlsx", ".~lock.Book.xlsx#"])
def test_an_open_workbook_is_locked_until_its_lock_is_a_day_old(tmp_path, new, lock):
    clock = [0.0]
    drive = LocalDrive(LocalConfig(folder=str(tmp_path / "share")), "team/Book.xlsx", now=lambda: clock[0])
    target = there(tmp_path)
    sign = target.with_name(lock)
    sign.write_text("somebody")
    clock[0] = sign.stat().st_mtime + 60
    version = drive.version()
    assert [finding.exit_code for finding in drive.check()] == [75]
    with pytest.raises(LockedError, match="has it open"):
        drive.store(new, version)
    assert target.read_bytes() == b"old"
    clock[0] += STALE_LOCK
    drive.store(new, version)
    assert target.read_bytes() == b"new content"


def test_what_a_killed_run_left_behind_is_swept_away(drive, tmp_path, new):
    target = there(tmp_path)
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    dead = target.with_name(f".Book.xlsx.{int(finished.stdout)}.connector-tmp")
    alive = target.with_name(f".Book.xlsx.{os.getppid()}.connector-tmp")
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    drive.store(new, drive.version())
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, TargetError, "disk is full"),
        (errno.EROFS, TargetError, "no permission"),
        (errno.ETXTBSY, LockedError, "another program"),
        (errno.EIO, TargetError, "Input/output"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(drive, tmp_path, new, monkeypatch, number, kind, words):
    target = there(tmp_path)
    version = drive.version()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=words):
        drive.store(new, version)
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in target.parent.iterdir()] == ["Book.xlsx"]


def test_a_folder_in_the_files_place(drive, tmp_path, new):
    (tmp_path / "share" / "team" / "Book.xlsx").mkdir(parents=True)
    for call in (drive.version, lambda: drive.fetch(tmp_path / "x"), lambda: drive.store(new, None)):
        with pytest.raises(TargetError, match="is a folder"):
            call()
    assert [finding.exit_code for finding in drive.check()] == [5]


def test_a_file_in_the_folders_place(drive, tmp_path, new):
    (tmp_path / "share").write_text("a file")
    with pytest.raises(TargetError, match="not a folder"):
        drive.store(new, None)
    assert [finding.ok for finding in drive.check()] == [False]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(drive, tmp_path, new):
    target = there(tmp_path)
    target.parent.chmod(0o500)
    try:
        with pytest.raises(TargetError, match="no permission"):
            drive.store(new, drive.version())
        assert [finding.exit_code for finding in drive.check()] == [5]
    finally:
        target.parent.chmod(0o700)


@pytest.mark.parametrize("path", ["/etc/Book.xlsx", "../Book.xlsx", "a/../../Book.xlsx", ""])
def test_paths_stay_below_the_folder(tmp_path, path):
    with pytest.raises(ConfigError, match="below the drive's folder"):
        LocalDrive(LocalConfig(folder=str(tmp_path)), path)


def test_check_says_whether_it_will_be_created(drive, tmp_path):
    assert [(finding.ok, finding.detail) for finding in drive.check()] == [(True, "will be created")]
    there(tmp_path)
    assert [(finding.ok, finding.detail) for finding in drive.check()] == [(True, "there")]
