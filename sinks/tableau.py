"""Tables as published data sources on Tableau Server and Cloud.

    - {type: tableau, server: https://tableau.example.com, site: acme, token: {name: connector, secret: "${TOKEN}"},
       project: Sales/Published, tables: [{from: deals, name: Deals}, {from: kpis, name: KPIs}]}

A data source is replaced whole, as a job that is waited for; readers see the old table until it is done. `mode: upsert` and `append`
send only rows that changed, with a request id made of the run's, so that Tableau applies them once however often they are sent.
See docs/sinks/tableau.md.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import tableauserverclient as tsc
from pydantic import Field, model_validator

from connector.api import Finding, NetworkConfig, Output, PluginConfig, Receipt, Run, TableSpec
from connector.auth.tableau import Access, Connection
from connector.errors import ConfigError, ConnectorError, TargetError, TransientError
from connector.http import Session
from sinks import tableau_hyper as hyper
from sinks.tableau_site import SCOPES, PublishingSite

log = logging.getLogger(__name__)

Mode = Literal["replace", "upsert", "append"]
LONGEST_DESCRIPTION: Final = 4000
OURS: Final = "Published by connector, flow "
END: Final = "(end of connector's text)"
NAMESPACE: Final = uuid.UUID("6f2c2f0e-53d5-4f0e-9d57-6d1d3b1c2a10")


class TableauTable(TableSpec):
    """A table and the data source it becomes."""

    name: str | None = Field(None, min_length=1, max_length=255, description="Name of the data source; the table's unless given.")
    mode: Mode | None = Field(None, description="replace, upsert or append; the sink's unless given.")

    @model_validator(mode="after")
    def _named(self) -> TableauTable:
        if self.sql is not None and self.name is None:
            raise ValueError("a table made by `sql` needs a `name` for its data source")
        return self


class TableauSinkConfig(NetworkConfig, Access):
    placed: ClassVar[tuple[str, ...]] = ("type", "server", "site", "project")
    type: Literal["tableau"] = "tableau"
    timeout: float = Field(900, gt=0, description="Seconds to wait for an answer; uploads of large tables take long.")
    project: str = Field(min_length=1, description="Project to publish to, by its path: Sales/Published. It must exist.")
    mode: Mode = Field("replace", description="replace: the whole table; upsert: rows by their key; append: rows are added.")
    schema_changes: Literal["grow", "freeze", "any"] = Field(
        "grow", description="grow: new columns come, one that would vanish or change its type stops the run; freeze: no change; any: all."
    )
    job_timeout: float = Field(3600, gt=0, description="Longest wait, in seconds, for Tableau to finish publishing a table.")
    tables: tuple[TableauTable, ...] | None = Field(
        None, min_length=1, description="Tables to publish; omitted: every table that has rows."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> TableauSinkConfig:
        names = [(spec.name or spec.source or "").casefold() for spec in self.tables or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tables go to the data source {twice!r}; name them apart with `name:`")
        return self


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a data source: how we left it (`hash` is of the table), and what is under way: a publish `job`, or rows sent
    under a `request` id that make the table `sent` when Tableau has applied them.
    """

    luid: str = ""
    updated_at: str = ""
    hash: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    job: str = ""
    request: str = ""
    sent: str = ""
    actions: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Note:
        columns = tuple((str(name), str(kind)) for name, kind in value.get("columns", ()))
        plain = {name: value[name] for name in ("luid", "updated_at", "hash", "job", "request", "sent") if name in value}
        return cls(**plain, columns=columns, actions=tuple(value.get("actions", ())))

    def value(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Note.__slots__ if getattr(self, name)}


@dataclass(slots=True)
class Job:
    """One table on its way."""

    name: str
    output: Output
    mode: Mode
    written: hyper.Written
    note: Note
    there: tsc.DatasourceItem | None
    updated_at: str
    changes: hyper.Changes | None = None
    kept: Path | None = None
    started: str = ""

    @property
    def file(self) -> Path:
        """The .hyper file."""
        return self.written.file.with_suffix(".hyper")

    @property
    def untouched(self) -> bool:
        """The data source stands as we left it."""
        return self.there is not None and self.note.luid == self.there.id and self.note.updated_at == self.updated_at != ""

    @property
    def same(self) -> bool:
        return self.untouched and self.note.hash == self.written.hash


class TableauSink:
    """Publishes each table as a data source, whole or by its changed rows, after all of them are written and judged."""

    Config: ClassVar[type[PluginConfig]] = TableauSinkConfig
    takes_empty: ClassVar[bool] = True  # a table that has lost its rows must lose them in Tableau too

    def __init__(self, config: TableauSinkConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._connection = Connection(config, session, SCOPES)
        self._site = PublishingSite(self._connection, config.project, config.job_timeout)

    # ── check ─────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        try:
            yield _finding("pantab", lambda: hyper.require_pantab() and "installed")
            yield _finding(f"sign-in to {self._connection.place}", lambda: f"REST API {self._connection.server().version}")
            if self._connection.signed_in:
                yield _finding(f"project {self._config.project}", self._checked_project)
        finally:
            self._connection.sign_out()

    def _checked_project(self) -> str:
        project = self._site.project_id()
        specs = self._config.tables or ()
        there = self._site.datasources(project) if specs else {}
        for spec in specs:
            self._refuse_strangers(spec.name or spec.source or "", there)
        return f"may be published to; {len(there)} data sources are there"

    # ── write ─────────────────────────────────────────────────────────────────────────────────────

    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt:
        """Publish what changed. Raises TargetError, AuthError or TransientError; every data source is then wholly old or wholly new."""
        notes = {name: Note.read(value) for name, value in run.memory.get("tables", {}).items()}
        named = {name: output for name, output in self._named(tables).items() if output.spec or output.rows or name in notes}
        try:
            project = self._site.project_id()
            warnings = [] if run.dry_run else self._finish(notes, run)
            there = self._site.datasources(project)
            stamps = {name: self._site.updated_at(there[name]) for name in named if name in there}
            before = _version(stamps)
            receipt = Receipt(
                self._site.target,
                "unchanged",
                {key: output.rows for key, output in tables.items()},
                "every data source already holds its table",
                version_before=before,
                version_after=before,
                parts_untouched=len(named),
                warnings=tuple(warnings),
            )
            if run.previous and not run.fresh and before == run.previous.version_after:
                return receipt
            with _folder() as folder:
                jobs = list(self._prepared(named, there, stamps, notes, run, folder))
                changed = [job for job in jobs if not job.same and not self._nothing_to_append(job)]
                receipt = replace(receipt, parts_changed=tuple(job.name for job in changed), parts_untouched=len(jobs) - len(changed))
                if run.dry_run or not changed:
                    return replace(receipt, outcome="would write", why="dry run") if changed else receipt
                for job in changed:  # whatever Hyper does not take shows before the first is published
                    self._make(job, folder)
                size = sum(job.file.stat().st_size for job in changed)
                self._deliver(changed, project, notes, run)
        finally:
            self._connection.sign_out()
        return replace(receipt, outcome="written", why="", bytes=size, version_after=_version({job.name: job.updated_at for job in jobs}))

    def _named(self, tables: Mapping[str, Output]) -> dict[str, Output]:
        named: dict[str, Output] = {}
        for output in tables.values():
            given = output.spec.name if isinstance(output.spec, TableauTable) else None
            named[given or output.name] = output
        return named

    def _prepared(
        self,
        named: Mapping[str, Output],
        there: Mapping[str, tsc.DatasourceItem],
        stamps: Mapping[str, str],
        notes: Mapping[str, Note],
        run: Run,
        folder: Path,
    ) -> Iterator[Job]:
        """Every table as a .hyper file, and everything that speaks against publishing it."""
        for index, (name, output) in enumerate(named.items()):
            mode = (output.spec.mode if isinstance(output.spec, TableauTable) else None) or self._config.mode
            if mode == "upsert" and not output.key:
                raise ConfigError(f"{name}: mode upsert needs to know which rows are the same", remedy="name the column(s) with `key:`")
            self._refuse_strangers(name, there, notes.get(name, Note()))
            run.progress(name, index, len(named))
            written = hyper.write(output, name, folder / f"{index}.parquet")
            item = there.get(name)
            note = notes.get(name, Note())
            known = item is not None and note.luid in ("", item.id)
            job = Job(name, output, mode, written, note if known else Note(), item, stamps.get(name, ""))
            self._refuse_changes(job)
            key = self._key(job)
            if mode != "replace" and key and (example := hyper.repeated_key(written, key)):
                raise TargetError(f"{name}: rows have no key of their own: {example}", remedy="choose a `key:` that every row has once")
            yield job

    def _key(self, job: Job) -> tuple[str, ...]:
        """The key under the headings of the data source."""
        named = job.output.spec.columns if job.output.spec else None
        return tuple(named.get(name, name) if isinstance(named, Mapping) else name for name in job.output.key)

    def _refuse_changes(self, job: Job) -> None:
        """Workbooks in Tableau break where a field they use vanishes or becomes something else."""
        old, new = dict(job.note.columns), dict(job.written.columns)
        if self._config.schema_changes == "any" or not old:
            return
        gone = [name for name in old if name not in new]
        turned = [name for name in old if name in new and old[name] != new[name]]
        come = [name for name in new if name not in old] if self._config.schema_changes == "freeze" else []
        if gone or turned or come:
            what = [f"column {name!r} is gone" for name in gone]
            what += [f"column {name!r} was {old[name]} and is {new[name]}" for name in turned]
            what += [f"column {name!r} is new" for name in come]
            raise TargetError(
                f"{self._site.target}: data source {job.name!r}: {'; '.join(what)}; workbooks may use it",
                remedy="bring the column back, publish under another `name:`, or set `schema_changes: any`",
            )

    def _nothing_to_append(self, job: Job) -> bool:
        """An append is of this run's rows, whatever became of the data source since: the same rows are not added twice."""
        return job.mode == "append" and job.there is not None and (not job.output.rows or job.note.hash == job.written.hash)

    # ── one table ─────────────────────────────────────────────────────────────────────────────────

    def _make(self, job: Job, folder: Path) -> None:
        """The .hyper file to send: the rows that differ where that can be known, else the whole table."""
        sends_rows = job.there is not None and job.mode != "replace"
        if sends_rows and job.note.columns not in ((), job.written.columns):
            if job.mode == "append":
                raise TargetError(
                    f"{self._site.target}: data source {job.name!r}: rows with other columns cannot be added to it",
                    remedy="publish under another `name:`, or bring the columns back",
                )
            sends_rows = False
        state = self._state(job.name)
        known = state if state is not None and state.exists() and job.untouched and self._key(job) else None
        if sends_rows and (known or job.mode == "append"):
            job.changes = hyper.difference(job.written, known, self._key(job), job.file, job.name, removing=job.mode == "upsert")
            if known and job.mode == "append":
                hyper.together(known, job.changes, job.name, folder / f"{_file_name(job.name)}.parquet")
                job.kept = folder / f"{_file_name(job.name)}.parquet"
        else:
            hyper.extract(job.written, job.name, job.file)

    def _deliver(self, jobs: Sequence[Job], project: str, notes: dict[str, Note], run: Run) -> None:
        """Send everything, then wait: Tableau works on several tables at a time. One that fails does not keep the others from the end."""
        for done, job in enumerate(jobs):
            run.progress(job.name, done, len(jobs))
            self._publish(job, project, notes, run) if job.changes is None else self._send_rows(job, job.changes, notes, run)
        errors: list[ConnectorError] = []
        for job in jobs:
            try:
                self._end(job, project, notes, run)
            except ConnectorError as error:
                errors.append(error)
        if errors:
            raise next((error for error in errors if not isinstance(error, TransientError)), errors[0])

    def _end(self, job: Job, project: str, notes: dict[str, Note], run: Run) -> None:
        """Wait for one table's job, and note how the data source stands then."""
        if job.started:
            self._site.wait(f"data source {job.name!r}", job.started)
        job.there = job.there or self._site.datasources(project).get(job.name)
        if job.there is None:
            raise TransientError(
                f"{self._site.target}: data source {job.name!r} was published and is not listed yet", remedy="the next run finds it"
            )
        job.updated_at = self._site.updated_at(job.there)
        self._keep(job)
        done = Note(luid=str(job.there.id), updated_at=job.updated_at, hash=job.written.hash, columns=job.written.columns)
        self._remember(notes, job.name, done, run)
        if (pending := self._pending(job.name)) is not None:
            pending.unlink(missing_ok=True)

    def _publish(self, job: Job, project: str, notes: dict[str, Note], run: Run) -> None:
        """Replace the data source whole. Its id, permissions and certification stay."""
        description = _description(job.output, run.flow, (job.there.description if job.there else None) or "")
        job.started = self._site.publish(project, job.name, description, job.file)
        self._remember(notes, job.name, replace(job.note, job=job.started), run)

    def _send_rows(self, job: Job, changes: hyper.Changes, notes: dict[str, Note], run: Run) -> None:
        """One batch under a request id of this run: Tableau applies it once, however often it is sent."""
        assert job.there is not None
        actions = _actions(changes, self._key(job))
        if not actions:
            return
        luid = str(job.there.id)
        request = str(uuid.uuid5(NAMESPACE, f"{luid} {run.run_id}"))
        pending = self._pending(job.name)
        if pending is not None:
            _place(changes.file, pending)
        under_way = replace(job.note, luid=luid, request=request, sent=job.written.hash, actions=tuple(actions))
        self._remember(notes, job.name, under_way, run)
        job.started = self._site.change_rows(job.name, luid, request, actions, changes.file)

    def _finish(self, notes: dict[str, Note], run: Run) -> list[str]:
        """What an earlier run began and did not see the end of: wait for its job, send its rows again under their old id. Warnings."""
        warnings = []
        for name, note in list(notes.items()):
            if note.job:
                self._site.settle(note.job)
                notes[name] = replace(note, job="", updated_at="")
            if note.request:
                payload, applied = self._pending(name), note.hash
                if payload is not None and payload.exists():
                    try:
                        self._site.wait(
                            f"data source {name!r}", self._site.change_rows(name, note.luid, note.request, note.actions, payload)
                        )
                        applied = note.sent
                    except TargetError as error:  # all or nothing: nothing, then
                        log.info("%s: %s", name, error)
                    payload.unlink()
                else:
                    warnings.append(
                        f"{name}: a run was cut off while it sent rows, and what it sent is lost: rows may be missing or doubled"
                    )
                if (state := self._state(name)) is not None:
                    state.unlink(missing_ok=True)
                done = replace(note, hash=applied, request="", sent="", actions=(), updated_at="", job="")
                self._remember(notes, name, done, run)
        return warnings

    def _refuse_strangers(self, name: str, there: Mapping[str, tsc.DatasourceItem], note: Note = Note()) -> None:
        """A data source somebody else made under our name is theirs."""
        item = there.get(name)
        if item is not None and note.luid != item.id and OURS not in (item.description or ""):
            raise TargetError(
                f"{self._site.target}: there is a data source {name!r} that was not published by connector",
                remedy=f"choose another `name:`; or, to hand that one over, write {OURS!r} into its description",
            )

    # ── what is remembered ────────────────────────────────────────────────────────────────────────

    def _remember(self, notes: dict[str, Note], name: str, note: Note, run: Run) -> None:
        notes[name] = note
        run.remember({"tables": {name: note.value() for name, note in sorted(notes.items())}})

    def _state(self, name: str) -> Path | None:
        """Where the table as delivered is kept; None when nothing may be kept."""
        return self._session.folder / f"{_file_name(name)}.parquet" if self._session.folder else None

    def _pending(self, name: str) -> Path | None:
        return self._session.folder / f"{_file_name(name)}.pending.hyper" if self._session.folder else None

    def _keep(self, job: Job) -> None:
        """Keep what was delivered, to compare the next run's table with."""
        state = self._state(job.name)
        if state is not None and job.mode != "replace" and self._key(job):
            _place(job.kept or job.written.file, state)


def _actions(changes: hyper.Changes, key: Sequence[str]) -> list[dict[str, Any]]:
    """One batch, all or nothing: keys that are gone leave, then rows come or are replaced."""
    target = {"target-schema": hyper.EXTRACT[0], "target-table": hyper.EXTRACT[1], "source-schema": "Extract"}
    pairs = [{"op": "eq", "source-col": name, "target-col": name} for name in key]
    condition: dict[str, Any] = pairs[0] if len(pairs) == 1 else {"op": "and", "args": pairs}
    actions: list[dict[str, Any]] = []
    if changes.gone:
        actions.append({"action": "delete", "source-table": "Gone", **target, "condition": condition})
    if changes.changed and key:
        actions.append({"action": "upsert", "source-table": "Changed", **target, "condition": condition})
    elif changes.changed:
        actions.append({"action": "insert", "source-table": "Changed", **target})
    return actions


def _description(output: Output, flow: str, existing: str) -> str:
    """What the columns mean, set into what people wrote there themselves."""
    named = output.spec.columns if output.spec else None
    lines = [f"{OURS}{flow}. Date-times are in UTC."]
    if output.title:
        lines.append(output.title)
    for column in output.schema:
        meaning = (column.metadata or {}).get(b"description", b"").decode()
        if meaning:
            lines.append(f"{named.get(column.name, column.name) if isinstance(named, Mapping) else column.name}: {meaning}")
    before, found, rest = existing.partition(OURS)
    after = rest.partition(END)[2] if found else ""
    room = LONGEST_DESCRIPTION - len(before) - len(after) - len(END) - 1
    text = lines[0]
    for line in lines[1:]:
        if len(text) + len(line) + 1 <= room:
            text += f"\n{line}"
    return f"{before}{text}\n{END}{after}"


def _version(stamps: Mapping[str, str]) -> str | None:
    there = {name: stamp for name, stamp in stamps.items() if stamp}
    return hashlib.sha256(repr(sorted(there.items())).encode()).hexdigest()[:32] if there else None


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _place(file: Path, target: Path) -> None:
    """Copy in one step: the target is the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copyfile(file, partial)
    partial.replace(target)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="connector-tableau-") as folder:
        yield Path(folder)


def _finding(what: str, look: Callable[[], object]) -> Finding:
    try:
        return Finding(what, ok=True, detail=str(look()))
    except ConnectorError as error:
        return Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)
