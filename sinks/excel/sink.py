"""Excel workbooks on a drive: fetch, refresh, store; a changed version means fetch again and refresh again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import ClassVar, Final, Literal

from pydantic import Field

from connector.api import Drive, Finding, Location, NetworkConfig, Output, PluginConfig, Receipt, Run, TableSpec
from connector.errors import ConfigError, ConflictError, LockedError, TargetError
from connector.http import Network, Session
from sinks.drives import DriveConfig, open_drive
from sinks.excel.refresh import Changes, Options, TableJob, create, refresh
from sinks.excel.standard import standard

ATTEMPTS: Final = 5
SUFFIXES: Final = (".xlsx", ".xlsm")
PAUSE: Final = 2.0


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


class ExcelConfig(PluginConfig):
    """A workbook and the tables in it."""

    type: Literal["excel"] = "excel"
    drive: DriveConfig
    path: str = Field(description="The workbook on the drive, e.g. Sales/Pipeline.xlsx.")
    on_locked: Literal["wait", "workbook", "copy", "fail"] = Field("wait", description="What to do while somebody has the workbook open.")
    wait_seconds: float = Field(20, ge=0, description="How long `on_locked: wait` waits before it exits 75 and leaves it to the next run.")
    template: Location | None = Field(None, description="Workbook to start from when there is none yet.")
    tables: tuple[ExcelTable, ...] | None = Field(None, min_length=1, description="Tables to deliver; omitted: the standard workbook.")
    break_signature: bool = Field(False, description="Drop a digital signature that the refresh would break.")
    locale: str | None = Field(None, description="Language of sheets and headings we create: en or zh.")
    remember: bool = Field(True, description="Remember what teammates wrote beside rows that vanish, for when they come back.")
    remember_days: int = Field(400, ge=1, description="How long to remember it.")

    def network(self) -> Network:
        return self.drive.network() if isinstance(self.drive, NetworkConfig) else Network()


class ExcelSink:
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

    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt:
        """Deliver the tables. Raises TargetError with the target untouched, LockedError or ConflictError to try again later."""
        before = run.previous
        if before and not run.fresh and before.version_after and self._drive.version() == before.version_after:
            return Receipt(
                self._drive.name(), "unchanged", rows=before.rows, why="neither the data nor the workbook has changed since the last run",
                version_before=before.version_after, version_after=before.version_after,
            )  # fmt: skip
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
        current, result = scratch / "current", scratch / "result"
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
        if version is not None and changes.unchanged:
            return self._receipt("unchanged", changes, version, version, "every cell already holds its value")
        size = result.stat().st_size
        if run.dry_run:
            return self._receipt("would write", changes, version, version, "dry run", size)
        if changes.memory != run.memory:
            run.remember(changes.memory)
        target, after = self._store(result, version)
        return self._receipt("written", changes, version, after, "" if target == self._drive.name() else f"stored as {target}", size)

    def _template(self) -> Path | None:
        template = self._config.template
        if template is None:
            return None
        if not Path(template).is_file():
            raise ConfigError(f"template {template}: there is no such file")
        return Path(template)

    def _store(self, result: Path, version: str | None) -> tuple[str, str]:
        """Store, doing what `on_locked` says while somebody has the workbook open; where it went and its version."""
        deadline = self._config.wait_seconds
        while True:
            try:
                return self._drive.name(), self._drive.store(result, version)
            except LockedError:
                if self._config.on_locked == "copy":
                    return self._store_copy(result)
                if self._config.on_locked != "wait" or deadline <= 0:
                    raise
            pause = min(PAUSE, deadline)
            deadline -= pause
            self._session.sleep(pause)

    def _store_copy(self, result: Path) -> tuple[str, str]:
        path = PurePosixPath(self._config.path)
        copy = open_drive(self._config.drive, str(path.with_name(f"{path.stem} (refreshed copy){path.suffix}")), self._session)
        return copy.name(), copy.store(result, copy.version())

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
