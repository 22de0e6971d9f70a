"""Excel workbooks on a drive: fetch, refresh, store; a changed version means fetch again and refresh again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field

from connector.api import Drive, EachConfig, Finding, Location, NetworkConfig, Output, PluginConfig, Receipt, Run, TableSpec
from connector.errors import ConfigError, ConflictError, LockedError, TargetError
from connector.http import Network, Session
from sinks.drives import DriveConfig, open_drive
from sinks.drives.graph import GraphDrive, login
from sinks.drives.local import LocalConfig, LocalDrive
from sinks.excel.identity import Written
from sinks.excel.memory import Memory, settled
from sinks.excel.refresh import Changes, Options, TableJob, create, refresh
from sinks.excel.standard import standard

ATTEMPTS: Final = 5
SUFFIXES: Final = (".xlsx", ".xlsm")
PAUSE: Final = 2.0
LONG_PAUSE: Final = 30.0


class ExcelTable(TableSpec):
    """One table of a workbook: looked up by its Excel name, else on `sheet` at `cell`; a missing one is created."""

    sheet: str | None = Field(None, min_length=1, max_length=31, description="Sheet that holds the table, or gets it.")
    table: str | None = Field(None, min_length=1, max_length=255, description="Name of the Excel table, or a defined name.")
    cell: str | None = Field(None, description="Top left cell on `sheet`; A1 unless given.")
    mode: Literal["replace", "append", "upsert"] = Field("replace", description="What happens to rows that are there already.")
    overflow: Literal["error", "split"] = Field("error", description="What to do with more rows than a sheet holds.")
    on_blocked: Literal["error", "shift", "new_sheet"] = Field(
        "error", description="What to do when something below the table would be overwritten."
    )


class ExcelConfig(EachConfig):
    """A workbook and the tables in it."""

    templated: ClassVar[str] = "path"
    placed: ClassVar[tuple[str, ...]] = ("type", "drive", "path")
    type: Literal["excel"] = "excel"
    drive: DriveConfig
    path: str = Field(description="The workbook on the drive, e.g. Sales/Pipeline.xlsx.")
    on_locked: Literal["wait", "workbook", "copy", "fail"] = Field("wait", description="What to do while somebody has the workbook open.")
    wait_seconds: float | None = Field(
        None, ge=0, description="How long `on_locked: wait` waits before it exits 75: 20 seconds for a local file, 600 otherwise."
    )
    template: Location | None = Field(None, description="Workbook to start from when there is none yet.")
    tables: tuple[ExcelTable, ...] | None = Field(None, min_length=1, description="Tables to deliver; omitted: the standard workbook.")
    break_signature: bool = Field(False, description="Drop a digital signature that the refresh would break.")
    locale: str | None = Field(None, description="Language of sheets and headings we create: en or zh.")
    remember: bool = Field(True, description="Remember what teammates wrote beside rows that vanish, for when they come back.")
    remember_days: int = Field(400, ge=1, description="How long to remember it.")

    def network(self) -> Network:
        return self.drive.network() if isinstance(self.drive, NetworkConfig) else Network()

    def hasty(self) -> Self:
        return self.model_copy(update={"wait_seconds": 0.0})


class ExcelSink:
    """Refreshes the tables it owns in a workbook, and leaves everything else in it as it is."""

    Config: ClassVar[type[PluginConfig]] = ExcelConfig
    takes_empty: ClassVar[bool] = True  # a table that has lost its rows must lose them in the workbook too

    def __init__(self, config: ExcelConfig, session: Session) -> None:
        if PurePosixPath(config.path).suffix.lower() not in SUFFIXES:
            raise ConfigError(f"path {config.path!r} is not an Excel workbook", remedy="name a file that ends in .xlsx or .xlsm")
        self._config = config
        self._session = session
        self._drive: Drive = open_drive(config.drive, config.path, session)

    def check(self) -> Iterator[Finding]:
        yield from self._drive.check()
        template = self._config.template
        if template and not Path(template).is_file():
            yield Finding(f"template {template}", ok=False, detail="there is no such file", remedy="correct `template`", exit_code=2)

    def wants_login(self) -> bool:
        return not isinstance(self._config.drive, LocalConfig) and self._config.drive.device_code

    def login(self, prompt: Callable[[str], None]) -> str:
        """Sign a person in for the drive; returns who it was."""
        assert not isinstance(self._config.drive, LocalConfig)
        return login(self._config.drive, self._session, prompt)

    def standing(self, run: Run) -> Receipt | None:
        """The receipt, if neither tables nor workbook have changed since the last run; else None."""
        before = run.previous
        if before and not run.fresh and before.version_after and self._drive.version() == before.version_after:
            return Receipt(
                self._drive.name(), "unchanged", rows=before.rows, why="neither the data nor the workbook has changed since the last run",
                version_before=before.version_after, version_after=before.version_after,
            )  # fmt: skip
        return None

    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt:
        """Deliver the tables. Raises TargetError with the target untouched, LockedError or ConflictError to try again later."""
        if standing := self.standing(run):
            return standing
        jobs = self._jobs(tables, run)
        delivered = {output.name for output in tables.values() if output.rows or output.spec}
        with TemporaryDirectory(prefix="connector-") as scratch:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    receipt = self._attempt(jobs, run, Path(scratch))
                    return replace(receipt, rows={name: count for name, count in receipt.rows.items() if name in delivered})
                except ConflictError:
                    if attempt == ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def _attempt(self, jobs: list[TableJob], run: Run, scratch: Path) -> Receipt:
        current, result = scratch / "current", scratch / f"result{PurePosixPath(self._config.path).suffix.lower()}"
        version = self._drive.fetch(current)
        options = Options(
            timezone=run.timezone,
            at=run.at,
            facts=run.facts,
            break_signature=self._config.break_signature,
            remember=self._config.remember,
            remember_days=self._config.remember_days,
            memory=run.memory,
        )
        try:
            changes = create(result, jobs, options, self._template()) if version is None else refresh(current, result, jobs, options)
        except TargetError as error:
            raise TargetError(f"{self._drive.name()}: {error}", remedy=error.remedy) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TargetError(
                f"{self._drive.name()}: no space left in {scratch.parent} to write it", remedy="free space, or set TMPDIR"
            ) from error
        if version is not None and changes.unchanged:
            if not run.dry_run:
                _keep(run, settled(changes.memory))
            return self._receipt("unchanged", changes, version, version, "every cell already holds its value")
        size = result.stat().st_size
        if run.dry_run:
            return self._receipt("would write", changes, version, version, "dry run", size)
        _keep(run, changes.memory)
        return self._delivered(jobs, run, changes, result, version)

    def _template(self) -> Path | None:
        template = self._config.template
        if template is None:
            return None
        if not Path(template).is_file():
            raise ConfigError(f"template {template}: there is no such file")
        return Path(template)

    def _delivered(self, jobs: list[TableJob], run: Run, changes: Changes, result: Path, version: str | None) -> Receipt:
        """Store the result, doing what `on_locked` says while somebody has the workbook open."""
        size, patience = result.stat().st_size, self._wait()
        while True:
            try:
                stored = self._drive.store(result, version)
                if (memory := settled(changes.memory)) != changes.memory:
                    run.remember(memory)
                return self._receipt("written", changes, version, stored, "", size)
            except LockedError:
                if self._config.on_locked == "copy":
                    name = self._store_copy(result, run)
                    return self._receipt("written", changes, version, None, f"somebody has it open: stored beside it as {name}", size)
                if self._config.on_locked == "workbook":
                    return self._live(jobs, run, changes, version)
                if self._config.on_locked == "fail" or patience <= 0:
                    raise
            pause = min(PAUSE if isinstance(self._drive, LocalDrive) else LONG_PAUSE, patience)
            patience -= pause
            run.progress(f"{self._drive.name()}: somebody has it open, waiting", int(self._wait() - patience), int(self._wait()))
            self._session.sleep(pause)

    def wants_manifest(self) -> bool:
        return self._config.manifest

    def leave_manifest(self, manifest: bytes) -> None:
        """`Pipeline.manifest.json` beside `Pipeline.xlsx`, wherever that is by now. Raises ConnectorError; the workbook stands."""
        with TemporaryDirectory(prefix="connector-") as scratch:
            file = Path(scratch, "manifest.json")
            file.write_bytes(manifest)
            if isinstance(self._drive, GraphDrive):
                self._drive.store_beside(file, ".manifest.json")
                return
            path = PurePosixPath(self._config.path)
            beside = open_drive(self._config.drive, str(path.with_name(f"{path.stem}.manifest.json")), self._session)
            beside.store(file, beside.version())

    def _wait(self) -> float:
        """Seconds `on_locked: wait` may take: people close a shared workbook less often than a program lets go of a file."""
        if self._config.wait_seconds is not None:
            return self._config.wait_seconds
        return 20 if isinstance(self._drive, LocalDrive) else 600

    def _store_copy(self, result: Path, run: Run) -> str:
        suffix = f"(refresh {run.at.astimezone(run.timezone):%Y-%m-%dT%H%M})"
        if isinstance(self._drive, GraphDrive):
            return self._drive.store_copy(result, suffix)
        path = PurePosixPath(self._config.path)
        beside = open_drive(self._config.drive, str(path.with_name(f"{path.stem} {suffix}{path.suffix}")), self._session)
        beside.store(result, beside.version())
        return beside.name()

    def _live(self, jobs: list[TableJob], run: Run, changes: Changes, version: str | None) -> Receipt:
        """Edit the tables inside the workbook people have open. Raises ConfigError where that cannot be."""
        drive = self._drive
        if not isinstance(drive, GraphDrive):
            raise ConfigError(
                "on_locked: workbook needs a workbook on OneDrive or SharePoint", remedy="set on_locked to wait, copy or fail"
            )
        unfit = [job for job in jobs if job.mode != "replace" or not job.table]
        if unfit:
            raise ConfigError(
                f"on_locked: workbook can only replace tables that have a `table` name; {unfit[0].output.name} is not one",
                remedy="name the Excel table of every entry and use mode: replace, or set on_locked to wait or copy",
            )
        stands = {**changes.memory, "written": run.memory.get("written", {})}  # the file that would have been was not delivered
        today = run.at.astimezone(run.timezone).date()
        memory = Memory(stands, today=today, days=self._config.remember_days, enabled=self._config.remember)
        notes = _LiveNotes(memory, run)

        from sinks.drives.graph_workbook import update_tables  # noqa: PLC0415  (it needs this package's cells)

        done = update_tables(drive, {str(job.table): job.output for job in jobs}, run, date1904=changes.date1904, notes=notes)
        run.remember(settled(memory.result()))
        why = "edited inside the workbook that people have open" + ("; completed what an earlier run had begun" if done.completed else "")
        return Receipt(
            drive.name(),
            "unchanged" if done.unchanged else "written",
            rows=done.rows,
            why=why,
            version_before=version,
            warnings=done.warnings,
        )

    def _receipt(
        self,
        outcome: Literal["written", "unchanged", "would write"],
        changes: Changes,
        before: str | None,
        after: str | None,
        why: str,
        size: int = 0,
    ) -> Receipt:
        return Receipt(
            self._drive.name(),
            outcome,
            rows=changes.rows,
            why=why,
            bytes=size,
            version_before=before,
            version_after=after,
            parts_changed=changes.parts_changed,
            parts_untouched=changes.parts_untouched,
            warnings=changes.warnings,
        )

    def _jobs(self, tables: Mapping[str, Output], run: Run) -> list[TableJob]:
        if all(output.spec is None for output in tables.values()):
            return standard(tables, run, self._config.locale)
        return [_job(output) for output in tables.values()]


class _LiveNotes:
    """The sink's memory while an open workbook is edited: told, and kept at once."""

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run
        self.versions = memory.versions

    def keep(self, table: str, vanished: Mapping[str, Mapping[str, Any]]) -> None:
        self._memory.keep(table, vanished)
        self._run.remember(self._memory.result())

    def wrote(self, table: str, rows: Written) -> None:
        self._memory.wrote(table, rows)
        self._run.remember(self._memory.result())


def _keep(run: Run, memory: Mapping[str, Any]) -> None:
    if memory != run.memory:
        run.remember(memory)


def _job(output: Output) -> TableJob:
    spec = output.spec
    assert isinstance(spec, ExcelTable), "the flow hands each table over with the entry of `tables` it belongs to"
    return TableJob(
        output,
        table=spec.table,
        sheet=spec.sheet,
        cell=spec.cell,
        key=tuple(name for name in output.key if name in output.schema.names),
        mode=spec.mode,
        overflow=spec.overflow,
        on_blocked=spec.on_blocked,
    )
