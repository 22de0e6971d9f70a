"""What happened, kept in SQLite: runs, watermarks, receipts, snapshots. Numbered migrations; many readers, one writer."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from connector.api import Receipt
from connector.errors import BusyError, ConfigError

MIGRATIONS: Final = (
    """
    create table run (
        id text primary key, flow text not null, at text not null, started_at text not null, finished_at text,
        outcome text not null default 'running', exit_code integer, message text, manifest text,
        pid integer not null, host text not null, lease_until text not null
    );
    create unique index one_running on run (flow) where outcome = 'running';
    create index run_by_flow on run (flow, started_at);
    create table snapshot (flow text not null, name text not null, at text not null, tables_key text not null, primary key (flow, name));
    create table watermark (
        flow text not null, source text not null, entity text not null, watermark text, config text not null,
        content text not null, full_at text not null, primary key (flow, source, entity)
    );
    create table memory (flow text not null, sink text not null, memory text not null, primary key (flow, sink));
    create table receipt (flow text not null, sink text not null, tables_key text not null, receipt text not null, primary key (flow, sink));
    """,
    """
    create table incident (
        id integer primary key, flow text not null, cause text not null, event text not null, run_id text not null, exit_code integer not null,
        reason text not null, remedy text not null, opened_at text not null, last_at text not null, runs integer not null, closed_at text
    );
    create unique index open_incident on incident (flow, cause) where closed_at is null;
    create table notice (
        id integer primary key, flow text not null, notifier text not null, topic text not null, made_at text not null, message text not null,
        outcome text not null default 'pending', unique (flow, notifier, topic)
    );
    """,
    """
    create table due (flow text primary key, plan text not null, upto text not null, due text, started_at text);
    """,
)
LEASE: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a complete read ended: the source's watermark, under which configuration, and the snapshot its content is from."""

    watermark: str | None
    config: str
    content: str
    full_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    name: str
    at: datetime
    tables_key: str


class State:
    """`state.db` in the data folder, and beside it one lock file a flow.

    A run holds the operating system's lock on its flow's lock file, which ends with the process, however that ends: a killed run
    never blocks the next. The lease in the `run` table is for other hosts on a shared folder whose file system passes no locks on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a copy of the CRM lies in it
            self._db = _open(folder / "state.db", wal=True)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigError(f"{folder}: the data folder cannot be used: {error}", remedy="name a writable folder with --data") from error
        self._migrate()

    def close(self) -> None:
        self._db.close()

    @property
    def db(self) -> sqlite3.Connection:
        """For modules that keep tables of their own in it."""
        return self._db

    def _migrate(self) -> None:
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version > len(MIGRATIONS):
            raise ConfigError(f"{self._folder}: the state was written by a newer version", remedy="upgrade, or use another --data folder")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"begin immediate; {script}; pragma user_version = {number}; commit;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    # ── the lease ───────────────────────────────────────────────────────────────────────────

    @contextmanager
    def lease(self, run_id: str, flow: str, at: datetime, now: datetime) -> Iterator[str | None]:
        """Hold the flow for this run; gives the id of the run before when that was killed. Raises BusyError naming the run that holds it."""
        lock = self._lock(flow)
        killed = None
        try:
            with self.transaction():
                running = self._running(flow)
                if running and lock is not None and (running["host"] == socket.gethostname() or _when(running["lease_until"]) < now):
                    self._db.execute(
                        "update run set outcome = 'killed', finished_at = ?, message = 'the process ended without a word' where id = ?",
                        (_text(now), running["id"]),
                    )
                    killed, running = running["id"], None
                if running or lock is None:
                    raise BusyError(_busy(flow, running), remedy="wait for it to end; a killed run frees the flow by itself")
                self._db.execute(
                    "insert into run (id, flow, at, started_at, pid, host, lease_until) values (?, ?, ?, ?, ?, ?, ?)",
                    (run_id, flow, _text(at), _text(now), os.getpid(), socket.gethostname(), _text(now + LEASE)),
                )
            yield killed
        finally:
            if lock is not None:
                lock.close()

    @contextmanager
    def alone(self, name: str) -> Iterator[bool]:
        """Hold the lock of that name, which ends with the process; False when another process has it."""
        lock = self._lock(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.close()

    def renew(self, run_id: str, now: datetime) -> None:
        self._db.execute("update run set lease_until = ? where id = ?", (_text(now + LEASE), run_id))

    def _lock(self, flow: str) -> sqlite3.Connection | None:
        """An exclusive lock that ends with the process, by SQLite's own locking: the same on every platform."""
        folder = self._folder / "locks"
        folder.mkdir(exist_ok=True)
        lock = _open(folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', flow)}.lock", timeout=0)
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError:
            lock.close()
            return None
        return lock

    def _running(self, flow: str) -> dict[str, Any] | None:
        row = self._db.execute(
            "select id, pid, host, started_at, lease_until from run where flow = ? and outcome = 'running'", (flow,)
        ).fetchone()
        return dict(zip(("id", "pid", "host", "started_at", "lease_until"), row, strict=True)) if row else None

    # ── outcomes ────────────────────────────────────────────────────────────────────────────

    def succeed(
        self,
        run_id: str,
        flow: str,
        now: datetime,
        *,
        outcome: str,
        manifest: Mapping[str, Any],
        marks: Mapping[tuple[str, str], Mark],
        receipts: Mapping[str, Receipt],
        snapshot: Snapshot,
    ) -> None:
        """Watermarks, receipts, snapshot and outcome land together, or not at all."""
        with self.transaction():
            self._db.execute(
                "insert or replace into snapshot values (?, ?, ?, ?)", (flow, snapshot.name, _text(snapshot.at), snapshot.tables_key)
            )
            self._db.execute("delete from watermark where flow = ?", (flow,))
            for (source, entity), mark in marks.items():
                values = (flow, source, entity, mark.watermark, mark.config, mark.content, _text(mark.full_at))
                self._db.execute("insert into watermark values (?, ?, ?, ?, ?, ?, ?)", values)
            for sink, receipt in receipts.items():
                text = json.dumps(asdict(receipt), default=str)
                self._db.execute("insert or replace into receipt values (?, ?, ?, ?)", (flow, sink, snapshot.tables_key, text))
            self._finish(run_id, now, outcome, 0, "", manifest)

    def fail(
        self, run_id: str, now: datetime, exit_code: int, message: str, manifest: Mapping[str, Any], *, outcome: str = "failed"
    ) -> None:
        """A run that moved nothing: failed, stopped, or a dry run."""
        self._finish(run_id, now, outcome, exit_code, message, manifest)

    def _finish(self, run_id: str, now: datetime, outcome: str, exit_code: int, message: str, manifest: Mapping[str, Any]) -> None:
        self._db.execute(
            "update run set outcome = ?, finished_at = ?, exit_code = ?, message = ?, manifest = ? where id = ?",
            (outcome, _text(now), exit_code, message, json.dumps(manifest, default=str), run_id),
        )

    def amend(self, run_id: str, manifest: Mapping[str, Any]) -> None:
        """Put the manifest of a finished run as it is now: what was told of it, and how that went."""
        self._db.execute("update run set manifest = ? where id = ?", (json.dumps(manifest, default=str), run_id))

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    def marks(self, flow: str) -> dict[tuple[str, str], Mark]:
        rows = self._db.execute("select source, entity, watermark, config, content, full_at from watermark where flow = ?", (flow,))
        return {(row[0], row[1]): Mark(row[2], row[3], row[4], _when(row[5])) for row in rows}

    def receipt(self, flow: str, sink: str) -> tuple[str, Receipt] | None:
        """The sink's last receipt, and the key of the tables it delivered."""
        row = self._db.execute("select tables_key, receipt from receipt where flow = ? and sink = ?", (flow, sink)).fetchone()
        return (row[0], Receipt(**_tuples(json.loads(row[1])))) if row else None

    def memory(self, flow: str, sink: str) -> dict[str, Any]:
        """What the sink asked to have remembered."""
        row = self._db.execute("select memory from memory where flow = ? and sink = ?", (flow, sink)).fetchone()
        return json.loads(row[0]) if row else {}

    def remember(self, flow: str, sink: str, memory: Mapping[str, Any]) -> None:
        self._db.execute("insert or replace into memory values (?, ?, ?)", (flow, sink, json.dumps(memory)))

    def snapshots(self, flow: str) -> list[Snapshot]:
        """Oldest first."""
        rows = self._db.execute("select name, at, tables_key from snapshot where flow = ? order by name", (flow,))
        return [Snapshot(row[0], _when(row[1]), row[2]) for row in rows]

    def forget(self, flow: str, names: Sequence[str]) -> None:
        with self.transaction():
            self._db.executemany("delete from snapshot where flow = ? and name = ?", [(flow, name) for name in names])

    def history(self, flow: str | None, limit: int) -> list[dict[str, Any]]:
        """Past runs, newest first, with their manifests."""
        columns = ("run_id", "flow", "at", "started_at", "finished_at", "outcome", "exit_code", "message", "manifest")
        rows = self._db.execute(
            "select id, flow, at, started_at, finished_at, outcome, exit_code, message, manifest from run "
            "where (? is null or flow = ?) order by started_at desc, rowid desc limit ?",
            (flow, flow, limit),
        )
        runs = [dict(zip(columns, row, strict=True)) for row in rows]
        return [run | {"manifest": json.loads(run["manifest"] or "null")} for run in runs]


def _open(path: Path, *, timeout: float = 30, wal: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    if wal:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
    return connection


def _busy(flow: str, running: Mapping[str, Any] | None) -> str:
    if not running:
        return f"{flow}: another run is starting"
    return f"{flow}: run {running['id']} holds it since {running['started_at']} (process {running['pid']} on {running['host']})"


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _tuples(receipt: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in receipt.items()}
