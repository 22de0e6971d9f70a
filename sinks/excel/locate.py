"""Where a table is, or where it goes: by name, by defined name, by sheet and cell; and which of its columns are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import pyarrow as pa

from connector.api import HiddenKey, Output
from connector.errors import TargetError
from sinks.excel.cells import Column
from sinks.excel.references import COLUMNS, ROWS, Area
from sinks.excel.region import Place, Slot
from sinks.excel.sheet import Cell, SheetReader
from sinks.excel.strings import SharedStrings
from sinks.excel.table import Table, TableColumn, matching
from sinks.excel.workbook import Sheet, Workbook

Mode = Literal["replace", "append", "upsert"]
OnBlocked = Literal["error", "shift", "new_sheet"]
Overflow = Literal["error", "split"]
SHOWN: Final = 8  # cells or columns named in a message


@dataclass(frozen=True, slots=True)
class Prepared:
    """A place made for a table that was not in the workbook: its sheet, and the cell formats and header height it starts with."""

    sheet: Sheet
    header: int = 0
    height: float | None = None
    formats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableJob:
    """One table to refresh and where to find it: by `table` (or a defined name), else on `sheet` at `cell`, else it is new.

    `title` names the sheet that is made when neither table nor sheet is there.
    `volatile` marks tables that say when and by whom (About): they never cause a write of their own.
    `optional` tables are not created while they have no rows.
    `prepare` makes the place of a table that is not there yet, or the table itself; None leaves it out.
    `heights` gives the heights of rows that bring none of their own; `links` makes addresses clickable.
    Without `widen` columns that the table lacks are not added to it: somebody chose the ones it has.
    """

    output: Output
    table: str | None = None
    sheet: str | None = None
    cell: str | None = None
    title: str | None = None
    key: tuple[str, ...] = ()
    mode: Mode = "replace"
    overflow: Overflow = "error"
    on_blocked: OnBlocked = "error"
    volatile: bool = False
    optional: bool = False
    prepare: Callable[[Workbook, Sequence[Column]], Prepared | None] | None = None
    widen: bool = True
    heights: Callable[[pa.RecordBatch], Sequence[float]] | None = None
    links: bool = False

    @property
    def name(self) -> str:
        return self.table or self.output.title or self.output.name

    @property
    def hidden(self) -> HiddenKey | None:
        """The key of rows that do not show it. Rows that stay where they are can do without."""
        return self.output.hidden if self.mode == "replace" else None

    def rows(self) -> pa.RecordBatchReader:
        """The rows, with all of their key."""
        return self.hidden.open() if self.hidden else self.output.open()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job's table stands. Without `table` it is a plain range (`columns` not empty) or nothing yet."""

    sheet: Sheet
    area: Area
    table: Table | None = None
    columns: tuple[TableColumn, ...] = ()
    prepared: Prepared | None = None

    @property
    def exists(self) -> bool:
        return bool(self.columns)

    @property
    def name(self) -> str:
        return self.table.name if self.table else f"{self.sheet.name}!{self.area}"


def find(book: Workbook, job: TableJob, columns: Sequence[Column], strings: SharedStrings) -> Target | None:
    """The job's table, or the place on an existing sheet where it goes; None when it needs a sheet of its own."""
    tables = book.tables()
    if job.table:
        for sheet, table in tables:
            if table.name.casefold() == job.table.casefold():
                return Target(sheet, table.area, table, table.columns)
    sheet_name, cell = _named(book, job) or (job.sheet, job.cell)
    sheet_of = book.sheet(sheet_name) if sheet_name else None
    if sheet_of is None:
        return None
    anchor = Area.read(cell or "A1")
    anchor = Area(anchor.top, anchor.left, anchor.top, anchor.left)
    for sheet, table in tables:
        if sheet.part == sheet_of.part and table.area.overlaps(anchor):
            return Target(sheet, table.area, table, table.columns)
    return _plain_range(book, sheet_of, anchor, columns, strings)


def _named(book: Workbook, job: TableJob) -> tuple[str, str] | None:
    """The sheet and cell a defined name of the table's name stands for."""
    for name, formula, _ in book.names() if job.table else ():
        if name.casefold() == (job.table or "").casefold():
            sheet, mark, area = formula.rpartition("!")
            if not mark:
                raise TargetError(
                    f"the name {name!r} stands for {formula[:60]!r}, not for cells", remedy="name a table or a range in `table`"
                )
            return sheet.strip("'").replace("''", "'"), area
    return None


def _plain_range(book: Workbook, sheet: Sheet, anchor: Area, columns: Sequence[Column], strings: SharedStrings) -> Target:
    """What stands at a cell without being a table: nothing, or a header of ours with rows under it, which becomes a table."""
    reader = SheetReader(book.package.stream(sheet.part), sheet.part)
    row = reader.next_row()
    while row is not None and row.number < anchor.top:
        row = reader.next_row()
    header = _run(reader.cells(row) if row is not None and row.number == anchor.top else [], anchor.left)
    if not header:
        return Target(sheet, anchor)
    headings = [str(cell.value(strings) or "") for cell in header]
    ours = {matching(name) for column in columns for name in (column.heading, *column.aliases)}
    if not ours & {matching(heading) for heading in headings}:
        raise TargetError(
            f"sheet {sheet.name!r}: cell {anchor} holds {headings[0][:40]!r}, which is not a heading of {_list([c.heading for c in columns])}",
            remedy="name another `cell` or `sheet`, or clear it",
        )
    if len({matching(heading) for heading in headings}) < len(headings):
        raise TargetError(
            f"sheet {sheet.name!r}: the headings from cell {anchor} on are not unique", remedy="give each column a name of its own"
        )
    right, bottom = anchor.left + len(header) - 1, anchor.top
    while (row := reader.next_row()) is not None and row.number == bottom + 1:
        if all(cell.blank for cell in reader.cells(row) if anchor.left <= cell.column <= right):
            break
        bottom = row.number
    known = tuple(TableColumn(at, heading) for at, heading in enumerate(headings, 1))
    return Target(sheet, Area(anchor.top, anchor.left, max(bottom, anchor.top + 1), right), None, known)


def _run(cells: Sequence[Cell], left: int) -> list[Cell]:
    """Cells with something in them, side by side from a column on."""
    run: list[Cell] = []
    for cell in cells:
        if cell.column == left + len(run) and not cell.blank:
            run.append(cell)
    return run


def layout(target: Target, job: TableJob, columns: Sequence[Column]) -> Place:
    """The table's place with as many rows of data as the job brings; where it is now when the job only adds to it."""
    table, area = target.table, target.area
    slots = _slots(target, job, columns)
    if slots[-1].place > COLUMNS:
        raise TargetError(
            f"table {job.name!r} has no room for {len(slots)} columns from column {area.left} on", remedy="choose fewer `columns`"
        )
    if not target.exists:
        return Place(area.top, area.top + 1, area.top, area.top + 1, area.left, area.left - 1, slots)
    header, totals = (table.header, table.totals) if table else (True, False)
    last = area.bottom - totals
    return Place(area.top, area.top + header, last, last, area.left, area.right, slots, totals)


def room(place: Place) -> int:
    """How many rows of data fit on the sheet."""
    return ROWS - place.first + 1 - place.totals


def _slots(target: Target, job: TableJob, columns: Sequence[Column]) -> tuple[Slot, ...]:
    """The table's columns with ours matched by heading; ours that it lacks come behind its last one."""
    left = target.area.left
    if not target.exists:
        return tuple(Slot(left + at, column.heading, column) for at, column in enumerate(columns))
    ours: dict[str, Column] = {}
    for column in columns:
        ours.setdefault(matching(column.heading), column)
    for column in columns:
        for name in column.aliases:
            ours.setdefault(matching(name), column)
    taken: set[str] = set()
    slots = []
    for at, known in enumerate(target.columns):
        match = ours.get(matching(known.name))
        mine = match if match and match.name not in taken else None
        if mine:
            taken.add(mine.name)
        slots.append(Slot(left + at, known.name, mine, None if mine else known.formula))
    missing = [column for column in columns if column.name not in taken]
    if len(missing) == len(columns):
        raise TargetError(
            f"table {target.name!r} has none of the columns of {job.output.name!r}; it has {_list([known.name for known in target.columns])}",
            remedy="name the right table, or give the columns the headings it has with `columns`",
        )
    if missing and target.table and target.table.queried:
        raise TargetError(
            f"table {target.name!r} is filled by a query of its own and lacks {_list([column.heading for column in missing])}",
            remedy="choose another table, or unlink the query in Excel",
        )
    headings = {matching(known.name) for known in target.columns}
    for at, column in enumerate(missing if job.widen else ()):
        heading, count = column.heading, 1
        while matching(heading) in headings:
            count += 1
            heading = f"{column.heading} {count}"
        headings.add(matching(heading))
        slots.append(Slot(target.area.right + 1 + at, heading, column))
    return tuple(slots)


def _list(words: Sequence[str]) -> str:
    shown = ", ".join(words[:SHOWN])
    return f"{shown} and {len(words) - SHOWN} more" if len(words) > SHOWN else shown
