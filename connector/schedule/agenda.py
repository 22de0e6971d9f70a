"""What to run when: the scheduler's decisions, as a pure function of the time, the plans and what has ended.

For each due time of a flow one run is started. Due times that nobody was there for (the machine slept, the scheduler was down) are made
up for by one run. A due time that comes while the flow still runs is skipped. A run that ends with exit code 75 is repeated with growing
pauses until the next due time takes its place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from connector.cron import Plan
from connector.logs import LOG
from connector.schedule.journal import TRY_LATER, Entry, Journal

RETRIES: Final = 6  # after 1, 2, 4, 8, 16 and 32 minutes: an hour in all
FIRST_PAUSE: Final = timedelta(minutes=1)
SET_BACK: Final = timedelta(days=1)  # a clock this far behind what is done was wrong before


@dataclass(slots=True)
class Line:
    """A flow on the agenda."""

    flow: str
    plan: Plan
    upto: datetime
    next: datetime | None
    due: datetime | None = None
    start_at: datetime | None = None
    started_at: datetime | None = None
    running: bool = False
    dropped: bool = False
    attempt: int = 0
    ended: Counter[int] = field(default_factory=Counter)  # exit code → runs
    skipped: int = 0
    missed: int = 0
    retried: int = 0
    noted: Entry | None = None  # as the journal has it


class Agenda:
    """The flows and their due times. `jobs`: how many run at a time."""

    def __init__(self, journal: Journal, *, jobs: int) -> None:
        self._journal = journal
        self._jobs = jobs
        self.lines: dict[str, Line] = {}

    @property
    def running(self) -> list[str]:
        return [line.flow for line in self.lines.values() if line.running]

    def plan(self, plans: Mapping[str, Plan], now: datetime) -> None:
        """Take over the flows and their plans: at the start, and whenever the configuration has changed."""
        for flow, plan in plans.items():
            line = self.lines.get(flow)
            if line is None:
                line = self.lines[flow] = self._opened(flow, plan, now)
            elif line.plan.key != plan.key:
                line.upto = max(line.upto, now)
                LOG.info("schedule is now %s", plan.key, extra={"flow": flow})
            line.plan, line.dropped = plan, False
            line.next = plan.next(line.upto)
            self._note(line)
        for flow in [flow for flow in self.lines if flow not in plans]:
            self.lines[flow].dropped = True
            if not self.lines[flow].running:
                del self.lines[flow]

    def _opened(self, flow: str, plan: Plan, now: datetime) -> Line:
        """A flow never seen before counts from now; one that is known goes on where it was."""
        entry = self._journal.read(flow)
        if entry is None:
            return Line(flow, plan, now, None)
        line = Line(flow, plan, entry.upto, None, due=entry.due, started_at=entry.started_at, noted=entry)
        if not self._settled(line) and entry.due:
            LOG.info("the run due at %s is still to be done", _short(entry.due), extra={"flow": flow})
            line.start_at = now
        if entry.plan != plan.key:  # what the earlier plan still owes is run, then the new one counts from now
            cron, _, timezone = entry.plan.rpartition(" ")
            owed, _ = Plan(cron, timezone).passed(entry.upto, now)
            if owed:
                line.due, line.start_at, line.started_at = owed, now, None
            line.upto = max(entry.upto, now)
        return line

    # ── in time ─────────────────────────────────────────────────────────────────────────────

    def take(self, now: datetime) -> list[str]:
        """The flows to start now; they count as running until `finish` is called for them."""
        for line in self.lines.values():
            self._advance(line, now)
            if line.start_at and line.start_at <= now and self._settled(line):
                self._note(line)
        waiting = [line for line in self.lines.values() if line.start_at and line.start_at <= now and not line.running]
        waiting.sort(key=lambda line: (line.start_at, line.flow))
        chosen = waiting[: max(0, self._jobs - len(self.running))]
        for line in chosen:
            line.running, line.start_at = True, None
            line.started_at = min(line.started_at or now, now)  # earlier than the first start where the clock was set back since
            self._note(line)
        return [line.flow for line in chosen]

    def _settled(self, line: Line) -> bool:
        """Whether a run that somebody else saw to its end (a scheduler before us, a person) has done what is due; then it is done."""
        settled = bool(line.due and line.started_at and self._journal.ended_since(line.flow, line.started_at))
        if settled:
            line.due, line.start_at, line.started_at, line.attempt = None, None, None, 0
        return settled

    def _advance(self, line: Line, now: datetime) -> None:
        if line.upto - now > SET_BACK:
            LOG.warning("the clock was set back from %s; the schedule goes on from now", _short(line.upto), extra={"flow": line.flow})
            line.upto = now
            line.next = line.plan.next(now)
            line.start_at = min(line.start_at, now) if line.start_at else None
            self._note(line)
        if line.next is None or line.next > now:
            return
        last, count = line.plan.passed(line.upto, now)
        line.upto = last or now
        line.next = line.plan.next(line.upto)
        if line.running:
            line.skipped += count
            LOG.warning("still running, so the run due at %s is skipped", _short(line.upto), extra={"flow": line.flow})
        elif last is not None:
            missed = count - 1 + (line.due is not None)
            if missed:
                line.missed += missed
                LOG.warning("%d not done, made up for by the run due at %s", missed, _short(last), extra={"flow": line.flow})
            line.due, line.start_at, line.started_at, line.attempt = last, last + jitter(line, last), None, 0
        self._note(line)

    def finish(self, flow: str, code: int, now: datetime, *, stopped: bool = False) -> None:
        """A run has ended. `stopped`: by us, on the way out, so that it is still due."""
        line = self.lines[flow]
        line.running = False
        line.ended[code] += 1
        if not stopped and (line.dropped or not self._repeats(line, code, now)):
            line.due, line.started_at, line.attempt = None, None, 0
        if line.dropped:
            del self.lines[flow]
        self._note(line)

    def _repeats(self, line: Line, code: int, now: datetime) -> bool:
        pause = FIRST_PAUSE * 2**line.attempt
        if code != TRY_LATER or line.attempt >= RETRIES or (line.next is not None and now + pause >= line.next):
            return False
        line.attempt += 1
        line.retried += 1
        line.start_at = now + pause
        LOG.info("tries again in %d min", pause // FIRST_PAUSE, extra={"flow": line.flow})
        return True

    def wake(self) -> datetime | None:
        """When `take` may next have something to start, unless a run ends before."""
        moments = [line.next for line in self.lines.values() if line.next]
        if len(self.running) < self._jobs:
            moments += [line.start_at for line in self.lines.values() if line.start_at]
        return min(moments, default=None)

    def _note(self, line: Line) -> None:
        entry = Entry(line.plan.key, line.upto, line.due, line.started_at)
        if entry != line.noted:
            self._journal.write(line.flow, entry)
            line.noted = entry


def jitter(line: Line, due: datetime) -> timedelta:
    """A pause before a due time's run: the same one every time it is asked for, and never as long as the wait for the next due time."""
    digest = hashlib.sha256(f"{line.flow} {due.isoformat()}".encode()).digest()
    most = line.plan.jitter if line.next is None else min(line.plan.jitter, (line.next - due).total_seconds() / 2)
    return timedelta(seconds=int(most * int.from_bytes(digest[:8]) / 2**64))


def _short(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
