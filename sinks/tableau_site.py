"""A Tableau site as one publishes to it: the project, what is in it, and jobs that are started and waited for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import tableauserverclient as tsc

from connector.auth.tableau import Connection, Refused
from connector.errors import AuthError, ConfigError, TargetError, TransientError, nearest

POLL_FIRST, POLL_FACTOR, POLL_MOST = 0.5, 1.4, 30.0
SCOPES: Final = (
    "tableau:content:read",
    "tableau:datasources:create",
    "tableau:datasources:update",
    "tableau:file_uploads:create",
    "tableau:jobs:read",
)


@dataclass(frozen=True, slots=True)
class PublishingSite:
    """`project` is a path; `patience` is how many seconds a job may take."""

    connection: Connection
    project: str
    patience: float

    @property
    def target(self) -> str:
        return f"{self.connection.place}, project {self.project}"

    # ── what is there ─────────────────────────────────────────────────────────────────────────────

    def project_id(self) -> str:
        """The id of the project at the path; projects are never made. Raises AuthError or ConfigError."""
        wanted = [part.strip() for part in self.project.strip("/").split("/")]
        projects = self.connection.all("projects", lambda server: server.projects)
        level: list[tsc.ProjectItem] = [project for project in projects if not project.parent_id]
        for depth, name in enumerate(wanted):
            found = [project for project in level if project.name == name]
            if len(found) != 1:
                where = "/".join(wanted[:depth]) or "the site"
                raise ConfigError(
                    f"{self.connection.place}: {'no' if not found else 'more than one'} project {name!r} in {where}; "
                    f"{nearest(name, sorted(str(project.name) for project in level))}",
                    remedy="make the project in Tableau, or let the user see it",
                )
            if depth == len(wanted) - 1:
                if found[0].writeable is False:
                    raise AuthError(f"{self.target}: may not be published to", remedy="give the user the Publish capability on the project")
                return str(found[0].id)
            level = [project for project in projects if project.parent_id == found[0].id]
        raise AssertionError("a path has at least one part")

    def datasources(self, project: str) -> dict[str, tsc.DatasourceItem]:
        """The data sources of a project, by name."""
        listed = self.connection.all("data sources", lambda server: server.datasources)
        return {str(item.name): item for item in listed if item.project_id == project}

    def updated_at(self, item: tsc.DatasourceItem) -> str:
        """The stamp as the server writes it."""
        what = f"data source {item.name!r}"
        try:
            body = self.connection.fetch(what, "GET", f"datasources/{item.id}").text
        except Refused as refusal:
            raise self.connection.error(what, refusal) from refusal
        match = re.search(r'<datasource\b[^>]*\bupdatedAt="([^"]*)"', body)
        return match[1] if match else ""

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────

    def publish(self, project: str, name: str, description: str, file: Path) -> str:
        """Start replacing the data source whole; the id of the job. Its own id, permissions and certification stay."""
        item = tsc.DatasourceItem(project, name=name)
        item.description = description
        return self._started(f"data source {name!r}", lambda server: server.datasources.publish(item, file, "Overwrite", as_job=True))

    def change_rows(self, name: str, luid: str, request: str, actions: Sequence[Mapping[str, Any]], payload: Path) -> str:
        """Start changing rows, once for a request id however often it comes; the id of the job."""

        def send(server: tsc.Server) -> tsc.JobItem:
            return server.datasources.update_hyper_data(luid, request_id=request, actions=cast("Any", actions), payload=payload)

        return self._started(f"rows of data source {name!r}", send)

    def _started(self, what: str, send: Callable[[tsc.Server], tsc.JobItem]) -> str:
        """The id of the job that was started. Raises AuthError, TargetError or TransientError."""
        try:
            return str(self.connection.put(what, send).id)
        except Refused as refusal:
            place = f"{self.target}: {what}"
            if refusal.status == 403:
                raise AuthError(
                    f"{place}: may not be published ({refusal})",
                    remedy="the user needs a Creator or Explorer (can publish) role, and Publish and Overwrite on the project",
                ) from refusal
            if refusal.status in (400, 404, 409, 413):
                raise TargetError(
                    f"{place}: refused ({refusal})", remedy="run again; if it stays, publish under another `name:`"
                ) from refusal
            raise self.connection.error(what, refusal) from refusal

    def wait(self, what: str, job: str) -> None:
        """Until the job has ended well. Raises TargetError when it failed, TransientError when it takes too long."""
        waited, pause = 0.0, POLL_FIRST
        while not (state := self._job(what, job)).done:
            if waited >= self.patience:
                raise TransientError(
                    f"{self.target}: {what}: Tableau is still working after {waited:.0f} s",
                    remedy="the next run waits for it first; `job_timeout` sets how long",
                )
            self.connection.session.sleep(pause)
            waited, pause = waited + pause, min(pause * POLL_FACTOR, POLL_MOST)
        if state.code == "2":
            raise TargetError(f"{self.target}: {what}: somebody cancelled Tableau's job", remedy="run again")
        if state.code not in ("0", "3"):
            raise TargetError(
                f"{self.target}: {what}: Tableau's job failed{f': {state.notes}' if state.notes else ''}",
                remedy="the data source is as it was; look at the job in Tableau under Jobs, then run again",
            )

    def settle(self, job: str) -> None:
        """Until an earlier run's job has ended, however."""
        try:
            self.wait("the job of an earlier run", job)
        except (TargetError, AuthError):
            return

    def _job(self, what: str, job: str) -> _JobState:
        """Read from the answer itself: TSC takes a time with fractions of seconds for none, and would wait for ever."""
        try:
            body = self.connection.fetch(what, "GET", f"jobs/{job}").text
        except Refused as refusal:
            raise self.connection.error(what, refusal) from refusal
        return _JobState.read(body)


@dataclass(frozen=True, slots=True)
class _JobState:
    """A job's answer; the code means something only when the job is done."""

    done: bool
    code: str
    notes: str

    @classmethod
    def read(cls, body: str) -> _JobState:
        head = re.search(r"<job\b[^>]*>", body)
        text = head[0] if head else ""
        code = re.search(r'\bfinishCode="(\d+)"', text)
        notes = re.search(r'<notes>([^<]*)|<statusNote\b[^>]*\btext="([^"]*)"', body)
        return cls(" completedAt=" in text, code[1] if code else "", (notes[1] or notes[2] or "")[:200] if notes else "")
