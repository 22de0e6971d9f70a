"""What was due and what of it was done, kept in the state database so that a restart neither forgets nor repeats a run."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from connector.logs import LOG
from connector.state import State

TRY_LATER = 75


@dataclass(frozen=True, slots=True)
class Entry:
    """A flow's place in its schedule.

    `upto`: due times until then are dealt with. `due`: the one taken up and not done yet; `started_at`: when its run first started.
    """

    plan: str
    upto: datetime
    due: datetime | None = None
    started_at: datetime | None = None


class Journal(Protocol):
    def read(self, flow: str) -> Entry | None: ...

    def write(self, flow: str, entry: Entry) -> None: ...

    def ended_since(self, flow: str, moment: datetime) -> bool:
        """Whether a run that began at `moment` or later has come to an end that asks for no repetition."""


class StateJournal:
    """The journal in `state.db`."""

    def __init__(self, state: State) -> None:
        self._db = state.db

    def read(self, flow: str) -> Entry | None:
        row = self._db.execute("select plan, upto, due, started_at from due where flow = ?", (flow,)).fetchone()
        return Entry(row[0], datetime.fromisoformat(row[1]), _moment(row[2]), _moment(row[3])) if row else None

    def write(self, flow: str, entry: Entry) -> None:
        """A database that cannot be written does not stop the schedule; what is lost is only a restart's memory of this step."""
        values = (flow, entry.plan, _text(entry.upto), _text(entry.due), _text(entry.started_at))
        try:
            self._db.execute("insert or replace into due values (?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            LOG.error("the schedule's journal cannot be written: %s", error, extra={"flow": flow})

    def ended_since(self, flow: str, moment: datetime) -> bool:
        row = self._db.execute(
            "select 1 from run where flow = ? and started_at >= ? and exit_code is not null and exit_code not in (?, 130) limit 1",
            (flow, _text(moment), TRY_LATER),
        ).fetchone()
        return row is not None


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment else None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
