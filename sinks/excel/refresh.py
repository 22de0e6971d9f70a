"""Refresh tables of a workbook: a function from a file and Arrow tables to a file, in which only what must change has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from connector.api import UTC, Output
from connector.errors import TargetError
from sinks.excel.blank import blank_workbook, new_sheet
from sinks.excel.cells import Column, Rendering, columns_of, xml_of
from sinks.excel.follow import follow
from sinks.excel.markup import Edits, Element, attribute, escaped, prefix
from sinks.excel.package import Deflater, Package
from sinks.excel.references import ROWS, Area, Move
from sinks.excel.region import Place, Region, Slot
from sinks.excel.rows import Composer, nothing, numbered, standing_cell
from sinks.excel.sheet import Cell, Row, SharedStrings, SheetReader, skeleton
from sinks.excel.styles import Styles
from sinks.excel.table import Table, matching, new_table, usable_name
from sinks.excel.workbook import TABLE_TYPE, Sheet, Workbook

Mode = Literal["replace", "append", "upsert"]
OnBlocked = Literal["error", "shift", "new_sheet"]
Overflow = Literal["error", "split"]
SHOWN: Final = 8  # cells named in a message


@dataclass(frozen=True, slots=True)
class TableJob:
    """One table to refresh and where to find it: by `table` (or a defined name), else on `sheet` at `cell`, else it is new.

    `title` names the sheet that is made when neither table nor sheet is there.
    `volatile` marks tables that say when and by whom (About): they never cause a write of their own.
    `optional` tables are not created while they have no rows.
    """

    output: Output
    table: str | None = None
    sheet: str | None = None
    title: str | None = None
    cell: str | None = None
    key: tuple[str, ...] = ()
    mode: Mode = "replace"
    overflow: Overflow = "error"
    on_blocked: OnBlocked = "error"
    volatile: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What else a refresh may know: the clock and zone of the run, and what the admin allows."""

    timezone: ZoneInfo = UTC
    at: datetime | None = None
    break_signature: bool = False
    remember: bool = True
    remember_days: int = 400
    memory: Mapping[str, Any] = field(default_factory=dict)
    placeholders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a refresh did. Without changed parts nothing was written."""

    parts_changed: tuple[str, ...]
    parts_untouched: int
    rows: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unchanged(self) -> bool:
        return not self.parts_changed


def refresh(workbook: Path, result: Path, jobs: Sequence[TableJob], options: Options = Options()) -> Changes:
    """Refresh the tables of `workbook` into `result`; without changes `result` is not written.

    Raises TargetError, with the cells or parts named, for whatever cannot be done without harm. `workbook` is only read.
    """
    with Package(workbook) as package:
        return _run(package, result, jobs, options)


def create(result: Path, jobs: Sequence[TableJob], options: Options = Options(), template: Path | None = None) -> Changes:
    """A new workbook with these tables, from a template or from nothing."""
    if template is not None:
        return _created(template, result, jobs, options)
    minimal = result.with_name(result.name + ".blank")
    minimal.write_bytes(blank_workbook())
    try:
        return _created(minimal, result, jobs, options)
    finally:
        minimal.unlink()


def _created(base: Path, result: Path, jobs: Sequence[TableJob], options: Options) -> Changes:
    changes = refresh(base, result, jobs, options)
    if changes.unchanged:
        result.write_bytes(base.read_bytes())
    return changes


def _run(package: Package, result: Path, jobs: Sequence[TableJob], options: Options) -> Changes:
    warnings: list[str] = []

    def warn(text: str) -> None:
        if text not in warnings:
            warnings.append(text)

    book = Workbook(package, break_signature=options.break_signature)
    if not book.sheets and not jobs:
        raise TargetError("the workbook would have no sheet", remedy="name a table")
    rows: dict[str, int] = {}
    for job in sorted(jobs, key=lambda job: job.volatile):
        if job.volatile and not package.changed():
            continue
        rows[job.output.name] = TableRefresh(book, job, options, warn).run()
    changed = package.changed()
    if changed:
        book.recalculate()
        package.save(result)
    return Changes(package.changed(), package.untouched(), rows, tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a job's table is, or where it goes."""

    sheet: Sheet
    table: Table | None
    anchor: Area


class TableRefresh:
    """One table's refresh. `run` gives the number of rows it now holds from us."""

    def __init__(self, book: Workbook, job: TableJob, options: Options, warn: Any) -> None:
        self._book = book
        self._job = job
        self._warn = warn
        self._columns = columns_of(job.output.schema)
        self._rendering = Rendering(options.timezone, book.date1904, warn)
        strings = next((r.target for r in book.relations(book.part) if r.kind == "sharedStrings" and r.target in book.package), None)
        self._strings = SharedStrings((lambda: book.package.stream(strings)) if strings else None, strings or "")

    def run(self) -> int:
        found = self._locate()
        if found is None and self._job.optional and not self._job.output.rows:
            return 0
        found = found or self._add_sheet()
        place = self._place(found)
        self._check_sheet(found.sheet)
        region, head, tail = self._scan(found.sheet, place)
        if region.blocked:
            raise self._blocked(found.sheet, region.blocked)
        self._check_constants(region, found)
        styles = self._styles(region, place)
        move = Move(found.sheet.name, place.left, place.right, place.top, place.first, place.last, place.new_last, place.totals)
        if place.last < place.first:  # a table that was not there: nothing can have referred to it
            move = Move(found.sheet.name, place.left, place.right, place.top, place.first, place.new_last, place.new_last, place.totals)
        composer = Composer(region, styles.of, self._rendering, move, region.lead, nothing)
        if found.table and self._same(found, region, composer):
            return self._job.output.rows
        written = self._write(found, region, composer, move, head, tail, styles.of)
        if written != self._job.output.rows:
            raise AssertionError(f"{self._job.output.name} announced {self._job.output.rows} rows and gave {written}")
        if styles.changed:
            self._book.put(styles.part, styles.result())
        if found.table is not None:
            added = [slot.heading for slot in place.slots if slot.place > place.right]
            self._book.put(found.table.part, found.table.followed(move, added))
        if region.has_formulas:
            self._book.drop_calculation_chain()
        follow(self._book, move, table=found.table.name if found.table else None)
        return written

    # ── where ──

    def _locate(self) -> _Found | None:
        job = self._job
        tables = self._book.tables()
        if job.table:
            for sheet, table in tables:
                if table.name.casefold() == job.table.casefold():
                    return _Found(sheet, table, table.area)
        sheet_name, cell = job.sheet, job.cell
        for name, formula, _ in self._book.names() if job.table else ():
            if name.casefold() == (job.table or "").casefold() and "!" in formula:
                where, _, area = formula.rpartition("!")
                sheet_name, cell = where.strip("'").replace("''", "'"), str(Area.read(area))
        sheet_of = self._book.sheet(sheet_name) if sheet_name else None
        if sheet_of is None:
            return None
        anchor = Area.read(cell or "A1")
        for sheet, table in tables:
            if sheet.part == sheet_of.part and table.area.overlaps(Area(anchor.top, anchor.left, anchor.top, anchor.left)):
                return _Found(sheet, table, table.area)
        return _Found(sheet_of, None, anchor)

    def _add_sheet(self) -> _Found:
        job = self._job
        name = job.sheet or job.title or job.table or job.output.title or job.output.name
        anchor = Area.read(job.cell or "A1")
        sheet = self._book.add_sheet(name, new_sheet(self._columns, anchor, job.output.open))
        return _Found(sheet, None, anchor)

    def _place(self, found: _Found) -> Place:
        rows = max(1, self._job.output.rows)
        table = found.table
        if table is None:
            top, left = found.anchor.top, found.anchor.left
            slots = tuple(Slot(left + at, column.heading, column) for at, column in enumerate(self._columns))
            place = Place(top, top + 1, top, top + rows, left, left - 1, slots)
        else:
            place = Place(
                table.area.top,
                table.first,
                table.last,
                table.first + rows - 1,
                table.area.left,
                table.area.right,
                self._slots(table),
                table.totals,
            )
        if place.new_end > ROWS:
            room = ROWS - place.first + 1 - place.totals
            raise TargetError(
                f"table {self._job.output.name!r} has {self._job.output.rows:,} rows; there is room for {room:,} on the sheet",
                remedy="set `overflow: split`, or narrow it with `where` or `limit`",
            )
        return place

    def _slots(self, table: Table) -> tuple[Slot, ...]:
        """The table's columns with ours matched by heading; ours that it lacks come behind its last one."""
        ours: dict[str, Column] = {}
        for column in self._columns:
            for name in (column.heading, *column.aliases):
                ours.setdefault(matching(name), column)
        taken: set[str] = set()
        slots = []
        for at, known in enumerate(table.columns):
            match = ours.get(matching(known.name))
            column = match if match and match.name not in taken else None
            if column:
                taken.add(column.name)
            slots.append(Slot(table.area.left + at, known.name, column, known.formula if column is None else None))
        missing = [column for column in self._columns if column.name not in taken]
        if len(missing) == len(self._columns):
            raise TargetError(
                f"table {table.name!r} has none of the columns of {self._job.output.name!r}: it has {_list([c.name for c in table.columns])}",
                remedy="name the right table, or give the columns the headings it has with `columns`",
            )
        if missing and table.queried:
            raise TargetError(f"table {table.name!r} is fed by a query of its own and lacks {_list([c.heading for c in missing])}",
                              remedy="choose another table, or unlink the query in Excel")  # fmt: skip
        headings = {matching(known.name) for known in table.columns}
        for at, column in enumerate(missing):
            heading = column.heading
            while matching(heading) in headings:
                heading += " (2)"
            slots.append(Slot(table.area.right + 1 + at, heading, column))
        return tuple(slots)

    def _check_sheet(self, sheet: Sheet) -> None:
        """Refuse what the sheet's own properties forbid; the rest of the checks read it anyway."""

    # ── what is there ──

    def _scan(self, sheet: Sheet, place: Place) -> tuple[Region, bytes, bytes]:
        reader = SheetReader(self._book.package.stream(sheet.part), sheet.part)
        region = Region(place, self._strings, self._job.key)
        region.lead = reader.lead.decode()

        def rows() -> Iterator[Row]:
            while (row := reader.next_row()) is not None:
                if row.number < place.top:
                    reader.keep(row.tag if row.empty else row.tag + row.content + b"</" + reader.lead + b"row>")
                    continue
                yield row
                if row.number >= place.bottom:
                    return

        region.read(reader, rows())
        for piece in reader.rest():
            reader.keep(piece)
        data, root = skeleton(reader.head, reader.tail, sheet.part)
        protection = root.find("sheetProtection")
        if protection and protection.get("sheet") in ("1", "true"):
            raise TargetError(
                f"sheet {sheet.name!r} is protected", remedy="unprotect it in Excel (Review → Unprotect Sheet), or name another sheet"
            )
        return region, reader.head, reader.tail

    def _blocked(self, sheet: Sheet, cells: Sequence[str]) -> TargetError:
        return TargetError(
            f"sheet {sheet.name!r}: {self._job.output.name} needs cells that hold something else: {_list(cells)}",
            remedy="move them, or set `on_blocked: shift` or `on_blocked: new_sheet`",
        )

    def _check_constants(self, region: Region, found: _Found) -> None:
        if region.constants and not region.key_places:
            name = found.table.name if found.table else self._job.output.name
            raise TargetError(
                f"table {name!r} has values of a teammate in column {region.constants!r}, and no key to keep them beside their rows",
                remedy=f"set `key` to the column(s) that identify a row, e.g. one of {_list([c.name for c in self._columns])}",
            )

    def _styles(self, region: Region, place: Place) -> _Formats:
        part = next(r.target for r in self._book.relations(self._book.part) if r.kind == "styles")
        styles = Styles(self._book.data(part), part)
        of = {}
        for slot in place.slots:
            style = region.styles.get(slot.place, 0)
            of[slot.place] = styles.fitting(style, slot.ours.unit, slot.ours.kind, slot.ours.currency) if slot.ours else style
        return _Formats(of, styles, part)

    # ── whether it differs ──

    def _same(self, found: _Found, region: Region, composer: Composer) -> bool:
        """Whether every cell of ours already holds our value, however Excel spelled it when it saved the file."""
        place = region.place
        if place.last != place.new_last or place.new_right != place.right or not self._job.output.rows:
            return False
        reader = SheetReader(self._book.package.stream(found.sheet.part), found.sheet.part)
        row: Row | None = None
        while (row := reader.next_row()) is not None and row.number < place.first:
            pass
        ours = [slot.place for slot in place.slots if slot.ours]
        for first, texts in composer.rows(numbered(self._job.output.open(), place.first)):
            for at, text in enumerate(texts):
                wanted = text.as_py().encode()
                if row is None or row.number != first + at:
                    return False
                if row.tag + row.content + b"</" + reader.lead + b"row>" != wanted:
                    new = SheetReader(iter([reader.head + wanted + b"</" + reader.lead + b"sheetData>"]), found.sheet.part).next_row()
                    assert new is not None
                    if self._values(reader, row, ours) != self._values(reader, new, ours):
                        return False
                row = reader.next_row()
        return True

    def _values(self, reader: SheetReader, row: Row, ours: Sequence[int]) -> list[object]:
        cells = {cell.column: cell for cell in reader.cells(row)}
        values: list[object] = []
        for place in ours:
            cell = cells.get(place)
            value = cell.value(self._strings) if cell else None
            if cell and cell.formula:
                values.append(cell.formula)  # never equal to a value of ours
            else:
                values.append(float(f"{value:.14g}") if isinstance(value, float) else value)
        return values

    # ── writing ──

    def _write(
        self, found: _Found, region: Region, composer: Composer, move: Move, head: bytes, tail: bytes, styles: Mapping[int, int]
    ) -> int:
        sheet, place = found.sheet, region.place
        out = Deflater()
        new_tail_relation = None
        if found.table is None:
            new_tail_relation = self._add_table(sheet, place)
        head, tail = self._frame(head, tail, sheet, region, move, new_tail_relation)
        reader = SheetReader(self._book.package.stream(sheet.part), sheet.part)
        out.write(head)
        row = reader.next_row()
        while row is not None and row.number < place.top:
            out.write(self._standing(reader, row, region, move))
            row = reader.next_row()
        while row is not None and row.number <= place.bottom:
            row = reader.next_row()
        written = self._write_table(out, region, composer, move, styles)
        if row is not None:
            if move or not row.numbered:
                while row is not None:
                    out.write(self._standing(reader, row, region, move))
                    row = reader.next_row()
            else:
                out.write(_xml(reader, row))
                for piece in reader.rest():
                    out.write(piece)
        out.write(tail)
        self._book.package.put(sheet.part, out.finish())
        return written

    def _write_table(self, out: Deflater, region: Region, composer: Composer, move: Move, styles: Mapping[int, int]) -> int:
        place, lead = region.place, region.lead
        if place.top < place.first:
            out.write(self._header(region, move, lead))
        written, at = 0, place.first
        for _, texts in composer.rows(numbered(self._job.output.open(), place.first)):
            out.write(xml_of(texts))
            written += len(texts)
            at += len(texts)
        if not written:  # a table keeps one row, blank but formatted
            blank = [
                Cell(slot.place, b' s="%d"' % styles[slot.place] if styles[slot.place] else b"", b"", lead.encode()).at(place.first)
                for slot in place.slots
                if styles[slot.place]
            ]
            out.write(self._row(lead, place.first, b"", self._with_beside(region, place.first, blank, move)))
        if place.totals:
            cells = [standing_cell(cell, place.new_end, region, move) for _, cell in sorted(region.total.items())]
            out.write(self._row(lead, place.new_end, region.total_attributes, self._with_beside(region, place.new_end, cells, move)))
        for line in range(place.new_end + 1, place.bottom + 1):
            if line in region.beside:
                out.write(self._row(lead, line, b"", self._with_beside(region, line, [], move)))
        return written

    def _header(self, region: Region, move: Move, lead: str) -> bytes:
        place = region.place
        cells = []
        for slot in place.slots:
            cell = region.header.get(slot.place)
            if cell is None or slot.place > place.right:
                neighbour = region.header.get(place.right)
                style = b' s="%d"' % neighbour.style if neighbour and neighbour.style else b""
                cell = _text_cell(slot.place, slot.heading, style, lead.encode())
            cells.append(standing_cell(cell, place.top, region, move))
        return self._row(lead, place.top, region.header_attributes, self._with_beside(region, place.top, cells, move))

    def _with_beside(self, region: Region, row: int, cells: list[bytes], move: Move) -> bytes:
        beside = region.beside.get(row)
        if beside is None:
            return b"".join(cells)
        left = [standing_cell(cell, row, region, move) for cell in beside.left]
        right = [standing_cell(cell, row, region, move) for cell in beside.right]
        return b"".join((*left, *cells, *right))

    def _row(self, lead: str, number: int, attributes: bytes, cells: bytes) -> bytes:
        name = lead.encode() + b"row"
        return b'<%s r="%d"%s>%s</%s>' % (name, number, attributes, cells, name)

    def _standing(self, reader: SheetReader, row: Row, region: Region, move: Move) -> bytes:
        """A row outside the table: as it was, but for references that follow."""
        if not row.numbered:
            return self._row(
                region.lead, row.number, row.tag.rstrip(b"/>")[len(region.lead) + 4 :],
                b"".join(standing_cell(cell, row.number, region, move) for cell in reader.cells(row)),
            )  # fmt: skip
        if move and b"f" in row.content and any(cell.formula for cell in reader.cells(row)):
            cells = [standing_cell(cell, row.number, region, move) for cell in reader.cells(row)]
            return row.tag + b"".join(cells) + b"</" + reader.lead + b"row>"
        return _xml(reader, row)

    def _frame(self, head: bytes, tail: bytes, sheet: Sheet, region: Region, move: Move, table: str | None) -> tuple[bytes, bytes]:
        """The sheet's head and tail with what follows the table."""
        data, root = skeleton(head, tail, sheet.part)
        edits = Edits(data)
        _set_dimension(edits, root, region)
        for element in root.walk():
            if element.name in ("conditionalFormatting", "dataValidation", "protectedRange", "ignoredError") and element.get("sqref"):
                edits.set(element, "sqref", move.areas(element.get("sqref")))
            elif element.name in ("f", "formula", "formula1", "formula2") and element.text and not element.children:
                edits.text(element, move.formula(element.text, sheet.name))
            elif element.name == "sqref" and element.text:
                edits.text(element, move.areas(element.text))
        if table is not None:
            _append_table_part(edits, root, data, table)
        return edits.result(0, len(head)), edits.result(len(head))

    def _add_table(self, sheet: Sheet, place: Place) -> str:
        name = self._book.free_table_name(usable_name(self._job.table or self._job.output.title or self._job.output.name))
        part, number = self._book.free_table_part()
        self._book.put(part, new_table(number, name, place.area, [slot.heading for slot in place.slots]))
        self._book.add_type(part, TABLE_TYPE)
        return self._book.add_relation(sheet.part, "table", part)


@dataclass(frozen=True, slots=True)
class _Formats:
    of: Mapping[int, int]
    styles: Styles
    part: str

    @property
    def changed(self) -> bool:
        return self.styles.changed

    def result(self) -> bytes:
        return self.styles.result()


def _xml(reader: SheetReader, row: Row) -> bytes:
    return row.tag if row.empty else row.tag + row.content + b"</" + reader.lead + b"row>"


def _text_cell(column: int, text: str, attributes: bytes, lead: bytes) -> Cell:
    content = b"<%sis><%st>%s</%st></%sis>" % (lead, lead, escaped(text), lead, lead)
    return Cell(column, attributes + b' t="inlineStr"', content, lead)


def _set_dimension(edits: Edits, root: Element, region: Region) -> None:
    dimension = root.find("dimension")
    if dimension is None:
        return
    place = region.place
    try:
        old = Area.read(dimension.get("ref"))
    except TargetError:
        return  # a hint that says nothing; readers ignore it
    bottom = old.bottom
    if old.bottom <= place.end:
        bottom = max([place.new_end, *region.beside])
    new = Area(min(old.top, place.top), min(old.left, place.left), max(bottom, place.new_end), max(old.right, place.new_right))
    edits.set(dimension, "ref", str(new))


def _append_table_part(edits: Edits, root: Element, data: bytes, relation: str) -> None:
    lead = prefix(data, root)
    namespace = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    entry = b'<%stablePart xmlns:r="%s" r:id=%s/>' % (lead, namespace, attribute(relation))
    holder = root.find("tableParts")
    if holder is not None:
        edits.set(holder, "count", str(len(holder.children) + 1))
        edits.append(holder, entry)
        return
    holding = b'<%stableParts count="1">%s</%stableParts>' % (lead, entry, lead)
    extension = root.find("extLst")
    if extension is not None:
        edits.before(extension, holding)
    else:
        edits.replace(root.close, root.close, holding)


def _list(words: Sequence[str]) -> str:
    shown = ", ".join(words[:SHOWN])
    return f"{shown} and {len(words) - SHOWN} more" if len(words) > SHOWN else shown
