"""Who is told what of a run: an incident once, its end once, a digest once a period.

An incident is one cause of failure of one flow, from the run that met it first until a run succeeds. Everything that says "try later"
(exit 75) is one cause, told only when it lasts. A notice is written down before it is sent and marked before it leaves, so that a kill
at any moment costs at most that one message, and never sends it twice. Whatever goes wrong here, the run stands as it is.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from connector.api import Finding
from connector.config import AnyFlow
from connector.definitions import METRICS
from connector.errors import ConnectorError, GateError, TransientError
from connector.http import Network, Session
from connector.logs import LOG, REDACTION
from connector.notifiers import LONGEST, LONGEST_SUBJECT, Notice, Notifier, UndeliveredError, UnsureError, name_of, written
from connector.state import State

TRY_LATER: Final = "try later"
KILLED: Final = "killed"
#: words with a digit in them: counts, moments, ids; they change from run to run while the cause is the same
VARIABLE: Final = re.compile(r"[^\s'\"(),;:]*\d[^\s'\"(),;:]*")
STALE: Final = timedelta(days=7)
SUBJECTS: Final = {
    "failure": "{flow}: not refreshed",
    "gate": "{flow}: not published, the figures look wrong",
    "recovery": "{flow}: refreshed again",
    "digest": "{flow}: the figures",
}
TEXTS: Final = {
    "failure": "{reason}\n\nWhat to do: {remedy}\n\nThe workbook still shows the figures of {refreshed}. Failing since {since}, runs: {runs}. "
    "Run {run}, exit code {exit_code}.",
    "gate": "{reason}\n\nWhat to do: {remedy}\n\nThe workbook still shows the figures of {refreshed}. Run {run}.",
    "recovery": "Refreshed at {at}. It had failed since {since}, runs: {runs}. The last reason was: {reason}",
    "digest": "{figures}\n\nSince the last digest:\n{changes}\n\nWarnings:\n{warnings}\n\nRefreshed at {at}.",
}


@dataclass(frozen=True, slots=True)
class Incident:
    """An open one: what failed, since when and how often."""

    id: int
    cause: str
    event: str
    run_id: str
    exit_code: int
    reason: str
    remedy: str
    opened_at: datetime
    last_at: datetime
    runs: int

    def due(self, notifier: Notifier) -> bool:
        """Whether it has lasted long enough to be told."""
        lasted = self.last_at - self.opened_at >= timedelta(hours=notifier.after_hours)
        return self.cause != TRY_LATER or self.runs >= notifier.after_runs or (self.runs > 1 and lasted)


@dataclass(frozen=True, slots=True)
class Notices:
    """What a flow's notifiers are told. Every method returns what was sent and how that went, for the manifest."""

    flow: str
    config: AnyFlow
    state: State
    now: Callable[[], datetime]
    session: Callable[[Network], Session] = Session

    def killed(self, run_id: str) -> list[dict[str, Any]]:
        """The run before ended without a word; told at once, because this one may end so too."""
        remedy = "look into the machine's log: out of memory, a restart, a time limit of the scheduler"
        return self._safely(lambda: self._failed(run_id, KILLED, "failure", 1, f"run {run_id} ended without a word", remedy))

    def failed(self, run_id: str, error: BaseException, message: str, exit_code: int) -> list[dict[str, Any]]:
        """A run ended with an error. One that a person stopped is no incident."""
        if isinstance(error, KeyboardInterrupt):
            return []
        event = "gate" if isinstance(error, GateError) else "failure"
        cause = TRY_LATER if isinstance(error, TransientError) else f"{exit_code} {VARIABLE.sub('#', message)[:500]}"
        remedy = (error.remedy if isinstance(error, ConnectorError) else None) or "see the log of the run"
        return self._safely(lambda: self._failed(run_id, cause, event, exit_code, message, remedy))

    def succeeded(self, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A run delivered: what was wrong is over, and a digest may be due."""
        return self._safely(lambda: self._succeeded(manifest))

    def check(self, notifier: Notifier) -> Iterator[Finding]:
        """Whether its service answers, and signs us in; nothing is sent."""
        with self.session(notifier.network()) as session:
            try:
                yield from notifier.check(session)
            except UndeliveredError as error:
                yield Finding(notifier.target, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=2)

    def try_out(self) -> Iterator[Finding]:
        """Send a test message through every notifier."""
        for notifier in self.config.notify:
            at, what = self.now(), f"test message: {notifier.type} ({notifier.target})"
            notice = Notice(f"test-{at:%Y%m%dT%H%M%S}", "test", f"{self.flow}: a test", "This is what a message of connector looks like.")
            try:
                with self.session(notifier.network()) as session:
                    why = notifier.send(notice, session, at)
            except ConnectorError as error:
                yield Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=2)
            else:
                yield Finding(what, ok=True, detail=why or "sent")

    # ── what to tell ────────────────────────────────────────────────────────────────────────

    def _safely(self, act: Callable[[], None]) -> list[dict[str, Any]]:
        """Nothing that goes wrong with telling changes what is told of."""
        if not self.config.notify:
            return []
        try:
            act()
            return self._deliver()
        except Exception as error:  # noqa: BLE001  (a full disk, a bug: the run itself is done)
            what = f"{type(error).__name__}: {error}" if isinstance(error, (ConnectorError, sqlite3.Error)) else type(error).__name__
            LOG.warning("nobody could be told: %s", what)
            return [{"outcome": "failed", "why": REDACTION.clean(what)}]

    def _failed(self, run_id: str, cause: str, event: str, exit_code: int, reason: str, remedy: str) -> None:
        now = _text(self.now())
        with self.state.transaction():
            self.state.db.execute(
                "insert into incident (flow, cause, event, run_id, exit_code, reason, remedy, opened_at, last_at, runs) "
                "values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) on conflict (flow, cause) where closed_at is null do update set "
                "run_id = excluded.run_id, reason = excluded.reason, remedy = excluded.remedy, last_at = excluded.last_at, runs = runs + 1",
                (self.flow, cause, event, run_id, exit_code, REDACTION.clean(reason), REDACTION.clean(remedy), now, now),
            )
            incident = next(one for one in self._open() if one.cause == cause)
            for notifier in self.config.notify:
                if incident.event in notifier.on and incident.due(notifier):
                    self._tell(notifier, incident.event, self._topic(notifier, incident), self._of_incident(incident))

    def _topic(self, notifier: Notifier, incident: Incident) -> str:
        """What makes a notice the same one: the incident, and with `remind_hours` how many reminders it has had."""
        base = f"incident {incident.id}"
        row = self.state.db.execute(
            "select count(*), max(made_at) from notice where flow = ? and notifier = ? and (topic = ? or topic like ?)",
            (self.flow, name_of(notifier), base, f"{base} reminder %"),
        ).fetchone()
        told, last = row
        late = notifier.remind_hours and told and self.now() - _when(last) >= timedelta(hours=notifier.remind_hours)
        return f"{base} reminder {told}" if late else base

    def _succeeded(self, manifest: Mapping[str, Any]) -> None:
        with self.state.transaction():
            incidents = self._open()
            for notifier in self.config.notify:
                over = [one for one in incidents if one.due(notifier)]
                if over and "recovery" in notifier.on:
                    self._tell(notifier, "recovery", f"recovery {over[-1].id}", self._of_recovery(over, manifest))
                if "digest" in notifier.on:
                    self._tell(notifier, "digest", self._period(notifier), self._of_digest(notifier, manifest))
            now = _text(self.now())
            self.state.db.execute("update incident set closed_at = ? where flow = ? and closed_at is null", (now, self.flow))

    def _open(self) -> list[Incident]:
        """Open incidents, the one met last at the end."""
        rows = self.state.db.execute(
            "select id, cause, event, run_id, exit_code, reason, remedy, opened_at, last_at, runs from incident "
            "where flow = ? and closed_at is null order by last_at, id",
            (self.flow,),
        )
        return [Incident(*(*row[:7], _when(row[7]), _when(row[8]), row[9])) for row in rows]

    def _of_incident(self, incident: Incident) -> dict[str, Any]:
        last = self.state.db.execute(
            "select max(finished_at) from run where flow = ? and outcome in ('ok', 'unchanged')", (self.flow,)
        ).fetchone()[0]
        return self._fields(incident.run_id) | {
            "reason": incident.reason,
            "remedy": incident.remedy,
            "exit_code": incident.exit_code,
            "since": self._moment(incident.opened_at),
            "runs": incident.runs,
            "refreshed": self._moment(_when(last)) if last else "never yet",
        }

    def _of_recovery(self, over: Sequence[Incident], manifest: Mapping[str, Any]) -> dict[str, Any]:
        refreshed = self._fields(manifest["run_id"])
        began = {"since": self._moment(min(one.opened_at for one in over)), "runs": sum(one.runs for one in over)}
        return refreshed | began | {"reason": over[-1].reason, "exit_code": 0, "refreshed": refreshed["at"]}

    def _of_digest(self, notifier: Notifier, manifest: Mapping[str, Any]) -> dict[str, Any]:
        figures = {name: value for name, value in manifest["metrics"].items() if value is not None}
        row = self.state.db.execute(
            "select message from notice where flow = ? and notifier = ? and topic like 'digest %' order by id desc limit 1",
            (self.flow, name_of(notifier)),
        ).fetchone()
        before = json.loads(row[0])["fields"]["metrics"] if row else {}
        changes = [
            f"{_label(name)}: {_figure(name, before[name])} → {_figure(name, value)}"
            for name, value in figures.items()
            if name in before and before[name] != value
        ]
        fields = self._fields(manifest["run_id"])
        return fields | {
            "exit_code": 0,
            "refreshed": fields["at"],
            "figures": "\n".join(f"{_label(name)}: {_figure(name, value)}" for name, value in figures.items()),
            "changes": "\n".join(changes) or ("nothing" if before else "this is the first"),
            "warnings": "\n".join(manifest["warnings"]) or "none",
            "metrics": figures,
        }

    def _fields(self, run_id: str) -> dict[str, Any]:
        return {"flow": self.flow, "run": run_id, "at": self._moment(self.now())}

    def _moment(self, at: datetime) -> str:
        return f"{at.astimezone(self.config.zone):%Y-%m-%d %H:%M %Z}"

    def _period(self, notifier: Notifier) -> str:
        return f"digest {self.now().astimezone(self.config.zone):{'%Y-%m-%d' if notifier.digest == 'daily' else '%G-W%V'}}"

    # ── the outbox ──────────────────────────────────────────────────────────────────────────

    def _tell(self, notifier: Notifier, event: str, topic: str, fields: Mapping[str, Any]) -> None:
        """Write a notice down, once for each notifier and topic."""
        known: Mapping[str, Any] = REDACTION.clean_tree({**fields, "event": event})
        subject = " ".join(written(notifier.subject or SUBJECTS[event], known, LONGEST_SUBJECT).split())
        text = written(notifier.text or TEXTS[event], known, LONGEST)
        number = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.flow}-{topic}")
        notice = Notice(f"{number}-{name_of(notifier)[-8:]}", event, subject, text, known)
        self.state.db.execute(
            "insert or ignore into notice (flow, notifier, topic, made_at, message) values (?, ?, ?, ?, ?)",
            (self.flow, name_of(notifier), topic, _text(self.now()), json.dumps(asdict(notice), ensure_ascii=False)),
        )

    def _deliver(self) -> list[dict[str, Any]]:
        """Send what is pending, oldest first; a notifier that fails keeps its notices, in order, for the next run."""
        done: list[dict[str, Any]] = []
        db, now = self.state.db, self.now()
        db.execute(
            "update notice set outcome = 'given up' where flow = ? and outcome = 'pending' and made_at < ?", (self.flow, _text(now - STALE))
        )
        for name, notifier in {name_of(notifier): notifier for notifier in self.config.notify}.items():
            rows = db.execute(
                "select id, message from notice where flow = ? and notifier = ? and outcome = 'pending' order by id", (self.flow, name)
            ).fetchall()
            for row, message in rows:
                with self.state.transaction():  # marked before it leaves: another run, or the next after a kill, does not send it again
                    mine = db.execute("update notice set outcome = 'sending' where id = ? and outcome = 'pending'", (row,)).rowcount
                if not mine:
                    continue
                report = {"notifier": notifier.type, "to": notifier.target} | self._send(notifier, Notice(**json.loads(message)), now)
                db.execute("update notice set outcome = ? where id = ?", (report["outcome"], row))
                done.append(report)
                if report["outcome"] == "pending":
                    break
        return done

    def _send(self, notifier: Notifier, notice: Notice, now: datetime) -> dict[str, Any]:
        try:
            with self.session(notifier.network()) as session:
                why, outcome = notifier.send(notice, session, now), "sent"
        except UnsureError as error:
            why, outcome = str(error), "unsure"
        except Exception as error:  # noqa: BLE001  (whatever a library does: it is tried again)
            why, outcome = str(error) if isinstance(error, ConnectorError) else type(error).__name__, "pending"
        why = REDACTION.clean(why)
        if why:
            LOG.warning("%s (%s): %s", notifier.type, notifier.target, why)
        return {"event": notice.event, "outcome": outcome} | ({"why": why} if why else {})


def _label(name: str) -> str:
    return next((metric.label for metric in METRICS if metric.name == name), name)


def _figure(name: str, value: float) -> str:
    unit = next((metric.unit for metric in METRICS if metric.name == name), "")
    return f"{value:.1%}" if unit == "percent" else f"{value:,.2f}".rstrip("0").rstrip(".")


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)
