"""Refresh tables of a workbook: a function from a file and Arrow tables to a file, in which only what must change has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC as UTC_ZONE
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from connector.api import UTC, Output
from connector.errors import TargetError
from sinks.excel.blank import blank_workbook
from sinks.excel.cells import Rendering
from sinks.excel.deliver import TableRefresh, shared_strings, styles_of
from sinks.excel.incoming import sliced
from sinks.excel.locate import TableJob
from sinks.excel.memory import Memory
from sinks.excel.package import Package
from sinks.excel.placeholders import adopt, fill, placeholders
from sinks.excel.references import ROWS, Area
from sinks.excel.workbook import MACRO_TYPE, PLAIN_TYPE, Workbook

__all__ = ["Changes", "Options", "TableJob", "create", "refresh"]
EPOCH: Final = datetime(1980, 1, 1, tzinfo=UTC_ZONE)


@dataclass(frozen=True, slots=True)
class Options:
    """What else a refresh may know: the clock and zone of the run, its facts for placeholders, and what the admin allows."""

    timezone: ZoneInfo = UTC
    at: datetime = EPOCH
    facts: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    remember: bool = True
    remember_days: int = 400
    break_signature: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What a refresh did. Without changed parts nothing was written. `memory` goes to the next run."""

    parts_changed: tuple[str, ...]
    parts_untouched: int
    rows: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    date1904: bool = False

    @property
    def unchanged(self) -> bool:
        return not self.parts_changed


def refresh(workbook: Path, result: Path, jobs: Sequence[TableJob], options: Options = Options()) -> Changes:
    """Refresh the tables of `workbook` into `result`; without changes `result` is not written.

    Raises TargetError, with the cells or parts named, for whatever cannot be done without harm. `workbook` is only read.
    """
    with Package(workbook) as package:
        changes = _refresh(package, jobs, options)
        if not changes.unchanged:
            package.save(result)
        return changes


def create(result: Path, jobs: Sequence[TableJob], options: Options = Options(), template: Path | None = None) -> Changes:
    """A new workbook with these tables, from a template or from nothing. Its suffix says whether it may hold macros (`.xlsm`).

    Raises TargetError as `refresh` does, and for a template with macros when the workbook may have none.
    """
    base = template
    if base is None:
        base = result.with_name(result.name + ".blank")
        base.write_bytes(blank_workbook())
    with Package(base) as package:
        changes = _refresh(package, jobs, options, template=template is not None)
        _name_kind(package, options, macros=result.suffix == ".xlsm")
        package.save(result)
    return changes


def _name_kind(package: Package, options: Options, *, macros: bool) -> None:
    book = Workbook(package, break_signature=options.break_signature)
    if not macros and any(relation.kind == "vbaProject" for relation in book.relations(book.part)):
        raise TargetError("the template holds macros, and a workbook named .xlsx may not", remedy="end `path` in .xlsm, or drop the macros")
    book.become(MACRO_TYPE if macros else PLAIN_TYPE)


def _refresh(package: Package, jobs: Sequence[TableJob], options: Options, *, template: bool = False) -> Changes:
    warnings: dict[str, None] = {}
    book = Workbook(package, break_signature=options.break_signature)
    if template:
        adopt(book, shared_strings(book), warnings.setdefault)
    places = placeholders(book)
    rendering = Rendering(options.timezone, book.date1904, warnings.setdefault)
    today = options.at.astimezone(options.timezone).date()
    memory = Memory(options.memory, today=today, days=options.remember_days, enabled=options.remember)
    if places:
        fill(book, [place for place in places if not place.volatile], options.facts, styles_of(book), options.timezone, warnings.setdefault)
    rows: dict[str, int] = {}
    done: dict[str, str] = {}
    for job in sorted(jobs, key=lambda job: job.volatile):
        if job.volatile and not package.changed():
            continue
        for part in _parts(book, job):
            table = TableRefresh(book, part, rendering, memory)
            target = table.target()
            if target is None and part.optional and not part.output.rows:
                continue
            if target is None and part.prepare and (target := table.prepared()) is None:
                continue
            name = table.run(target)
            if name in done:
                raise TargetError(
                    f"{job.output.name} and {done[name]} both go to table {name!r}",
                    remedy="give each entry of `tables` its own `table` or `cell`",
                )
            done[name] = job.output.name
        rows[job.output.name] = job.output.rows
    if not book.sheets:
        raise TargetError("the workbook would have no sheet", remedy="deliver at least one table")
    if package.changed():
        moved = [place for place in placeholders(book) if place.volatile] if places else []
        if moved:
            fill(book, moved, options.facts, styles_of(book), options.timezone, warnings.setdefault)
        book.recalculate()
    return Changes(package.changed(), package.untouched(), rows, tuple(warnings), memory.result(), book.date1904)


def _parts(book: Workbook, job: TableJob) -> Iterator[TableJob]:
    """The job, or with `overflow: split` as many jobs as it takes sheets; parts of earlier runs are emptied when rows get fewer."""
    if job.overflow == "error" or job.mode != "replace":
        yield job
        return
    tables = {table.name.casefold(): table for _, table in book.tables()}
    start, number = 0, 1
    while True:
        name = job.name if number == 1 else f"{job.name}_{number}"
        known = tables.get(name.casefold())
        if number > 1 and start >= job.output.rows and known is None:
            return
        cell = job.cell if number == 1 else None
        room = ROWS - known.first + 1 - known.totals if known else ROWS - Area.read(cell or "A1").top
        output = _slice(job.output, start, room)
        yield replace(job, output=output, table=name, sheet=job.sheet if number == 1 else None, cell=cell)
        start, number = start + output.rows, number + 1


def _slice(output: Output, start: int, count: int) -> Output:
    rows = max(0, min(count, output.rows - start))
    if not start and rows == output.rows:
        return output

    def part(open_rows: Callable[[], pa.RecordBatchReader]) -> Callable[[], pa.RecordBatchReader]:
        def read() -> pa.RecordBatchReader:
            reader = open_rows()
            return pa.RecordBatchReader.from_batches(reader.schema, sliced(reader, start, rows))

        return read

    hidden = output.hidden and replace(output.hidden, open=part(output.hidden.open))
    return replace(output, rows=rows, open=part(output.open), hidden=hidden)
