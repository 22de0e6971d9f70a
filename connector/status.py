"""`connector status`: how each flow stands, what is wrong with it and what to do, from the history and the clock alone."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from connector.config import AnyFlow
from connector.cron import Plan
from connector.state import State

#: what to do when a run failed without a word on it
REMEDIES: Final = {
    1: "report it, with the log of the run",
    2: "mend the configuration; `connector check` names file, line and key",
    3: "renew the credential or grant the permission; `connector check` tries it",
    4: "look at the source the message names",
    5: "look at the workbook the message names; yesterday's stands",
    75: "nothing, unless it lasts; it is tried again",
}
GRAVITY: Final = (1, 2, 3, 4, 5, 75)  # gravest first
LATE: Final = "nothing runs the schedule: see that `connector schedule`, the timer or cron is alive"
SLACK: Final = timedelta(minutes=10)  # a due run may start that much late, beside its jitter, before it is called late


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the last run failed. `since`: the first of the failures in a row."""

    exit_code: int
    message: str
    remedy: str
    since: datetime
    runs: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a flow stands. `data_at`: what moment its figures are of; `late`: the due time that passed without a run."""

    flow: str
    schedule: Plan | None
    succeeded_at: datetime | None
    data_at: datetime | None
    next_due: datetime | None
    running_since: datetime | None
    late: datetime | None
    fault: Fault | None

    @property
    def state(self) -> str:
        """One word: ok, failing, late or new; `running` is told beside it."""
        if self.fault:
            return "failing"
        if self.late:
            return "late"
        return "ok" if self.succeeded_at else "new"

    @property
    def exit_code(self) -> int:
        """0; the last run's exit code when it failed; 2 when the flow is late."""
        return self.fault.exit_code if self.fault else 2 if self.late else 0


def standings(flows: Mapping[str, AnyFlow], state: State, now: datetime) -> Iterator[Standing]:
    for name, flow in flows.items():
        yield _standing(name, Plan.of(flow.schedule) if flow.schedule else None, state.db, now)


def gravest(exit_codes: Iterable[int]) -> int:
    """The exit code that asks most of the admin; 0 when there is none."""
    codes = set(exit_codes)
    return next((code for code in GRAVITY if code in codes), 0)


# ── from the history ──────────────────────────────────────────────────────────────────────────────

GOOD: Final = "outcome in ('ok', 'unchanged')"


def _standing(flow: str, plan: Plan | None, db: sqlite3.Connection, now: datetime) -> Standing:
    query = f"select at, finished_at, started_at from run where flow = ? and {GOOD} order by started_at desc, rowid desc limit 1"
    good = db.execute(query, (flow,)).fetchone()
    running_since, killed = _running(db, flow, now)
    return Standing(
        flow=flow,
        schedule=plan,
        succeeded_at=datetime.fromisoformat(good[1]) if good else None,
        data_at=datetime.fromisoformat(good[0]) if good else None,
        next_due=plan.next(now) if plan else None,
        running_since=running_since,
        late=_late(db, flow, plan, now) if plan and running_since is None else None,
        fault=_fault(db, flow, good[2] if good else "", killed=killed),
    )


def _running(db: sqlite3.Connection, flow: str, now: datetime) -> tuple[datetime | None, bool]:
    """Since when a run is under way; and whether one that never said how it ended is dead."""
    row = db.execute("select started_at, pid, host, lease_until from run where flow = ? and outcome = 'running'", (flow,)).fetchone()
    if row is None:
        return None, False
    started, pid, host, lease = row
    alive = _alive(pid) if host == socket.gethostname() and os.name == "posix" else datetime.fromisoformat(lease) >= now
    return (datetime.fromisoformat(started), False) if alive else (None, True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _late(db: sqlite3.Connection, flow: str, plan: Plan, now: datetime) -> datetime | None:
    """The last due time at which nothing ran, of a flow that has run, or that a scheduler knew, before it."""
    (begun,) = db.execute("select max(started_at) from run where flow = ? and outcome != 'dry run'", (flow,)).fetchone()
    upto, owed = db.execute("select upto, due from due where flow = ?", (flow,)).fetchone() or (None, None)
    since = [datetime.fromisoformat(text) for text in (begun, None if owed else upto) if text]
    if owed:
        since.append(datetime.fromisoformat(owed) - timedelta(seconds=1))
    if not since:
        return None
    return plan.passed(max(since), now - SLACK - timedelta(seconds=plan.jitter))[0]


def _fault(db: sqlite3.Connection, flow: str, after: str, *, killed: bool) -> Fault | None:
    """The failures in a row since the last success."""
    failed = f"flow = ? and started_at > ? and not {GOOD} and outcome != 'dry run' and (outcome != 'running' or ?)"
    count, first = db.execute(f"select count(*), min(started_at) from run where {failed}", (flow, after, killed)).fetchone()
    if not count:
        return None
    query = f"select exit_code, message, manifest from run where {failed} order by started_at desc, rowid desc limit 1"
    code, message, manifest = db.execute(query, (flow, after, killed)).fetchone()
    since = datetime.fromisoformat(first)
    if code is None:
        return Fault(75, "the run ended without a word", "see the machine's log: out of memory, a restart, a time limit", since, count)
    if code == 130:
        return Fault(75, "the run was stopped", "run it again", since, count)
    remedy = (json.loads(manifest or "null") or {}).get("remedy") or REMEDIES.get(code, REMEDIES[1])
    return Fault(code, message or "", remedy, since, count)


# ── shown ─────────────────────────────────────────────────────────────────────────────────────────

LOOKS: Final = {"ok": ("●", "green"), "failing": ("✗", "red"), "late": ("!", "yellow"), "new": ("○", "dim")}


def plainly(standing: Standing, now: datetime) -> dict[str, Any]:
    """Instants in ISO 8601 in UTC, ages in whole seconds, what there is none of as null."""
    fault, plan = standing.fault, standing.schedule
    return {
        "flow": standing.flow,
        "state": standing.state,
        "exit_code": standing.exit_code,
        "last_success": _instant(standing.succeeded_at),
        "data_at": _instant(standing.data_at),
        "data_age_seconds": int((now - standing.data_at).total_seconds()) if standing.data_at else None,
        "schedule": {"cron": plan.cron, "timezone": plan.timezone} if plan else None,
        "next_run": _instant(standing.next_due),
        "running_since": _instant(standing.running_since),
        "late": {"due": _instant(standing.late), "remedy": LATE} if standing.late else None,
        "consecutive_failures": fault.runs if fault else 0,
        "fault": {"exit_code": fault.exit_code, "message": fault.message, "remedy": fault.remedy, "since": _instant(fault.since)}
        if fault
        else None,
    }


def show(standings: Sequence[Standing], now: datetime) -> None:
    """A line a flow, and under it what is wrong and what to do."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim", padding=(0, 3, 0, 0))
    for heading in ("", "flow", "state", "last success", "data of", "next run"):
        table.add_column(heading, overflow="fold")
    for standing in standings:
        mark, style = LOOKS[standing.state]
        state = "running" if standing.running_since else standing.state
        cells = [_ago(standing.succeeded_at, now, "never"), _ago(standing.data_at, now, "none"), _coming(standing, now)]
        table.add_row(Text(mark, style), Text(standing.flow, "bold"), Text(state, style), *map(Text, cells))
    console.print(table)
    for standing in standings:
        for line, style in _troubles(standing, now):
            console.print(Text(line, style), soft_wrap=True)


def _troubles(standing: Standing, now: datetime) -> Iterator[tuple[str, str]]:
    if fault := standing.fault:
        runs = f"{fault.runs} runs in a row since {fault.since:%Y-%m-%d %H:%M} UTC" if fault.runs > 1 else f"{_age(now - fault.since)} ago"
        yield f"\n{standing.flow}: failed with exit code {fault.exit_code}, {runs}", "bold"
        yield f"  {fault.message}", ""
        yield f"  → {fault.remedy}", "cyan"
    if standing.late and standing.schedule:
        yield f"\n{standing.flow}: late; nothing ran at {standing.late.astimezone(standing.schedule.zone):%a %d %b %H:%M}", "bold"
        yield f"  → {LATE}", "cyan"


def _ago(moment: datetime | None, now: datetime, never: str) -> str:
    return f"{_age(now - moment)} ago" if moment else never


def _age(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (size == 60 and seconds >= 60):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _coming(standing: Standing, now: datetime) -> str:
    if standing.schedule is None or standing.next_due is None:
        return "by hand"
    return f"{standing.next_due.astimezone(standing.schedule.zone):%a %d %b %H:%M} {standing.schedule.timezone}"


def _instant(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
