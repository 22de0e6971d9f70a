"""One table's refresh: find it, see what is there, see whether anything differs, write it, and let the rest of the workbook follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import Final

from connector.errors import TargetError
from sinks.excel.attached import Attachments
from sinks.excel.blank import new_sheet
from sinks.excel.cells import Column, Rendering, columns_of, xml_of
from sinks.excel.drawn import Drawn, drawn
from sinks.excel.follow import follow
from sinks.excel.identity import Written, written
from sinks.excel.incoming import Incoming, incoming
from sinks.excel.links import RowLinks
from sinks.excel.locate import SHOWN, Prepared, TableJob, Target, find, layout, room
from sinks.excel.memory import Memory
from sinks.excel.notes import Remark, ReturningComments
from sinks.excel.plain import MOST_COLUMNS, PlainRows
from sinks.excel.recognise import recognise_rows
from sinks.excel.references import ROWS, Area, Move, carried
from sinks.excel.region import Place, Recognise, Region
from sinks.excel.relocate import relocate
from sinks.excel.rows import Composer
from sinks.excel.sheet import Cell, Row, SheetReader, Skeleton, skeleton
from sinks.excel.sheetwriter import SheetWriter
from sinks.excel.strings import SharedStrings
from sinks.excel.styles import UNITS, Styles
from sinks.excel.table import new_table, usable_name
from sinks.excel.workbook import TABLE_TYPE, Sheet, Workbook

#: how LibreOffice saves flags
FLAGS: Final = {"TRUE()": True, "FALSE()": False}
MOST_ROWS: Final = 250_000  # of a table without its key: what is remembered of it is held in memory


@dataclass(frozen=True, slots=True)
class Scan:
    """A sheet read once: the table's region, and the sheet without its rows."""

    region: Region
    sheet: Skeleton


@dataclass(frozen=True, slots=True)
class Plan:
    """A refresh before anything is written. `keyed`: what teammates wrote follows its row; `elsewhere`: the table moves to a new sheet."""

    target: Target
    place: Place
    rows: Incoming
    scan: Scan
    attachments: Attachments
    keyed: bool
    elsewhere: bool


class TableRefresh:
    """Refreshes one table of a workbook in place (in the package; nothing is saved)."""

    def __init__(self, book: Workbook, job: TableJob, rendering: Rendering, memory: Memory) -> None:
        self._book = book
        self._job = job
        self._memory = memory
        self._rendering = rendering
        self._columns: tuple[Column, ...] = columns_of(job.output.schema)
        self._key: tuple[Column, ...] = columns_of(job.hidden.schema) if job.hidden else ()
        self._strings = shared_strings(book)

    def target(self) -> Target | None:
        """Where the table is or goes on a sheet there is; None when it needs a new sheet."""
        return find(self._book, self._job, self._columns, self._strings)

    def prepared(self) -> Target | None:
        """The place the job makes for a table that is not there; None when it does not want it."""
        place = self._job.prepare(self._book, self._columns) if self._job.prepare else None
        return (self.target() or replace(self._anchored(place.sheet), prepared=place)) if place else None

    def run(self, target: Target | None) -> str:
        """Refresh; the name of the table that now holds the rows. Raises TargetError, and then nothing is to be saved."""
        plan = self._plan(target or self._new_sheet(self._job.title or self._job.sheet or self._job.name))
        target, place, rows, region = plan.target, plan.place, plan.rows, plan.scan.region
        name = self._check_target(target, region)
        styles = styles_of(self._book)
        formats = _formats(styles, region, place)
        by_unit = _unit_formats(styles, place, formats)
        recall = self._memory.recall(name, place, formats, region.lead.encode()) if plan.keyed else None

        def compose(region: Region, move: Move) -> Composer:
            return Composer(region, formats, self._rendering, move, recall, by_unit, self._job.heights, self._key)

        move = _move(target.sheet, place)
        composer = compose(region, move)
        gone: dict[tuple[int, int], Remark] = {}
        if self._key and rows.count <= MOST_ROWS:
            self._memory.wrote(name, self._written(rows))
        if target.table and self._same(target.sheet, region, composer, rows):
            return name
        if plan.elsewhere and target.table:
            move, composer = relocate(self._book, target.sheet, target.table, region, plan.scan.sheet, rows, compose, move, formats)
            if plan.attachments.rows:
                self._rendering.warn(f"table {name!r} moved to sheet {move.to!r}; comments and links on its cells stayed on {move.sheet!r}")
        else:
            added = self._add_table(target.sheet, place) if target.table is None else None
            writer = SheetWriter(self._book, target.sheet, region, move, formats)
            returning = ReturningComments(self._book, target.sheet, place, self._memory.comments(name) if plan.keyed else {})
            writer.write(rows, composer, plan.scan.sheet, plan.attachments, returning, added)
            gone = plan.attachments.follow(composer.went, move)
            returning.put()
        if plan.keyed:
            self._memory.note(name, region, composer, self._strings, gone, plan.attachments.gone_links)
        if styles.changed:
            self._book.put(styles.part, styles.result())
        if target.table is not None:
            wider = [slot.heading for slot in place.slots if slot.place > place.right]
            self._book.put(target.table.part, target.table.followed(move, wider))
        if region.has_formulas or move.shift_by or move.to:
            self._book.drop_calculation_chain()
        follow(self._book, move, table=name if target.table else None)
        return name

    def _plan(self, target: Target) -> Plan:
        """Where the rows go and what is there now; room is made, or the refresh refused."""
        job = self._job
        rows = incoming(self._book, target.sheet, layout(target, job, self._columns), job, self._rendering, self._strings)
        place = rows.place
        if place.new_end > ROWS:
            raise self._too_long(place)
        scan = self._scan(target.sheet, place)
        blocked = self._obstacles(target, scan, place)
        covered = self._covered(target.sheet, place)
        going = [one for one in covered if job.on_blocked == "shift" and one.moves and one.area.top > place.end]
        blocked += map(str, going)
        elsewhere = bool(blocked) and place.exists and target.table is not None and job.on_blocked == "new_sheet"
        if elsewhere and job.mode == "append":
            raise self._in_the_way(target, blocked)
        if blocked and not elsewhere:
            target, place, scan = self._make_room(target, place, scan, blocked)
        staying = [str(one) for one in covered if one not in going and not elsewhere]
        if staying:
            self._rendering.warn(f"sheet {target.sheet.name!r}: {job.output.name} now reaches under what is drawn there: {_list(staying)}")
        keyed = rows.carries and bool(scan.region.key_places or self._key)
        remembered = self._memory.links(target.table.name) if keyed and target.table else {}
        links = RowLinks(self._book, target.sheet, place, rows, remembered, wanted=job.links)
        attachments = Attachments(self._book, target.sheet, place, scan.sheet.root, self._rendering.warn, links, keyed=keyed)
        if attachments.rows and keyed:
            scan = self._scan(target.sheet, place, attachments.rows)
        if self._key and scan.region.carried:
            recognise_rows(self._book, target, scan.region, attachments.rows, self._memory, lambda: self._written(rows), self._rendering)
        if target.prepared:
            _dress(scan.region, target.prepared)
        return Plan(target, place, rows, scan, attachments, keyed, elsewhere)

    def _written(self, rows: Incoming) -> Written:
        ours = [slot.ours for slot in rows.place.slots if slot.ours]
        return written((batch.values for batch in rows.batches()), ours, self._key, self._rendering)

    def _new_sheet(self, wanted: str) -> Target:
        anchor = Area.read(self._job.cell or "A1")
        return self._anchored(self._book.add_sheet(wanted, new_sheet(self._columns, anchor, self._job.output.open)))

    def _anchored(self, sheet: Sheet) -> Target:
        anchor = Area.read(self._job.cell or "A1")
        return Target(sheet, Area(anchor.top, anchor.left, anchor.top, anchor.left))

    # ── what is there ──

    def _scan(self, sheet: Sheet, place: Place, attached: frozenset[int] = frozenset()) -> Scan:
        reader = SheetReader(self._book.package.stream(sheet.part), sheet.part)
        carries, hidden = self._job.mode == "replace", bool(self._key)
        region = Region(place, self._strings, self._job.key, carries=carries, attached=attached, hidden=hidden)
        region.lead = reader.lead.decode()

        region.read(reader, _plain)
        for piece in reader.rest():
            reader.keep(piece)
        without = skeleton(reader.head, reader.tail, sheet.part)
        protection = without.root.find("sheetProtection")
        if protection and protection.get("sheet") in ("1", "true"):
            raise TargetError(
                f"sheet {sheet.name!r} is protected", remedy="unprotect it in Excel (Review → Unprotect Sheet), or name another sheet"
            )
        return Scan(region, without)

    def _obstacles(self, target: Target, scan: Scan, place: Place) -> list[str]:
        """What stands where the table will be and is not the table's own."""
        found = [*scan.region.blocked_right, *scan.region.blocked_below]
        fresh = _fresh_areas(place)
        for _, table in (pair for pair in self._book.tables() if pair[0].part == target.sheet.part):
            if (target.table is None or table.part != target.table.part) and any(area.overlaps(table.area) for area in fresh):
                found.append(f"table {table.name} ({table.area})")
        merges = scan.sheet.root.find("mergeCells")
        merged = [element.get("ref") for element in (merges.children if merges else ())]
        return [*found, *(f"merged cells {ref}" for ref in merged if any(area.overlaps(Area.read(ref)) for area in fresh))]

    def _covered(self, sheet: Sheet, place: Place) -> list[Drawn]:
        """What is drawn where a table that is there will be and is not yet."""
        fresh = _fresh_areas(place) if place.exists else []
        found = drawn(self._book, sheet) if fresh else ()
        return [one for one in found if any(one.area.overlaps(area) for area in fresh)]

    def _make_room(self, target: Target, place: Place, scan: Scan, blocked: Sequence[str]) -> tuple[Target, Place, Scan]:
        """What `on_blocked` says: move the rows below out of the way, use a new sheet, or refuse."""
        job = self._job
        if job.on_blocked == "shift" and place.exists and not scan.region.blocked_right:
            shifted = replace(place, shift=place.new_end - place.end)
            torn = [
                f"table {table.name} ({table.area})"
                for sheet, table in self._book.tables()
                if sheet.part == target.sheet.part
                and (not target.table or table.part != target.table.part)
                and table.area.top <= place.end < table.area.bottom
            ]
            if not torn:
                again = self._scan(target.sheet, shifted)
                blocked = self._obstacles(target, again, shifted)
                if not blocked:
                    return target, shifted, again
            blocked = torn or blocked
        if job.on_blocked == "new_sheet" and not place.exists:
            fresh = self._new_sheet(f"{job.title or job.sheet or job.name} 2")
            moved = replace(layout(fresh, job, self._columns), new_last=fresh.area.top + place.new_last - place.top)
            return fresh, moved, self._scan(fresh.sheet, moved)
        raise self._in_the_way(target, blocked)

    def _in_the_way(self, target: Target, cells: Sequence[str]) -> TargetError:
        other = {
            "error": "`on_blocked: shift` or `on_blocked: new_sheet`",
            "shift": "`on_blocked: new_sheet`",
            "new_sheet": "`on_blocked: shift`",
        }
        return TargetError(
            f"sheet {target.sheet.name!r}: {self._job.output.name} needs cells that hold something else: {_list(cells)}",
            remedy=f"move them, or set {other[self._job.on_blocked]}",
        )

    def _too_long(self, place: Place) -> TargetError:
        return TargetError(
            f"table {self._job.output.name!r} has {self._job.output.rows:,} rows; there is room for {room(place):,} on the sheet",
            remedy="set `overflow: split`, or narrow it with `where` or `limit`",
        )

    def _check_target(self, target: Target, region: Region) -> str:
        name = target.table.name if target.table else self._book.free_table_name(usable_name(self._job.name))
        if region.constants and not (region.key_places or self._key) and self._job.mode == "replace":
            raise TargetError(
                f"table {name!r} has values of a teammate in column {region.constants!r}, and no key to keep them beside their rows",
                remedy=f"set `key` to what identifies a row, and have it among the table's columns: {_list([c.name for c in self._columns])}",
            )
        for slot in region.place.theirs if not self._job.widen else ():
            self._rendering.warn(f"table {name!r}: column {slot.heading!r} is none of ours any more and is left as it is")
        if target.table and target.table.queried:
            self._rendering.warn(f"table {name!r} is also filled by a query in the workbook: refreshing that query replaces our rows")
        if target.table and target.table.filtered:
            self._rendering.warn(f"table {name!r} is filtered: rows that are new are shown until somebody applies the filter again")
        return name

    # ── whether it differs ──

    def _same(self, sheet: Sheet, region: Region, composer: Composer, rows: Incoming) -> bool:
        """Whether every cell of ours already holds our value, however Excel spelled it when it saved the file."""
        place = region.place
        if place.last != place.new_last or place.new_right != place.right or (not rows.count and place.begin == place.first):
            return not rows.count and place.last == place.new_last == place.first and self._blank(sheet, place)
        reader = SheetReader(self._book.package.stream(sheet.part), sheet.part)
        reader.reach(place.begin)
        ours = [slot.place for slot in place.slots if slot.ours]
        for first, texts in composer.rows(rows.batches()):
            if reader.take(xml_of(texts), len(texts)):
                continue
            for number, wanted in enumerate(texts.to_pylist(), first):
                row = reader.next_row()
                if row is None or row.number != number:
                    return False
                new = reader.again(wanted.encode(), number)
                if reader.xml(row) != reader.xml(new) and not self._alike(reader, row, new, ours):
                    return False
        return True

    def _blank(self, sheet: Sheet, place: Place) -> bool:
        """Whether a table without rows shows its one blank row already."""
        reader = SheetReader(self._book.package.stream(sheet.part), sheet.part)
        reader.reach(place.first)
        row = reader.next_row()
        cells = reader.cells(row) if row is not None and row.number == place.first else ()
        return all(cell.blank for cell in cells if place.left <= cell.column <= place.right)

    def _alike(self, reader: SheetReader, row: Row, new: Row, ours: Sequence[int]) -> bool:
        """Whether two rows hold the same values in our columns."""
        before = {cell.column: cell for cell in reader.cells(row)}
        after = {cell.column: cell for cell in reader.cells(new)}
        return all(_same_value(self._value(before.get(place)), self._value(after.get(place))) for place in ours)

    def _value(self, cell: Cell | None) -> object:
        """What a cell says; a formula says nothing of ours, except as LibreOffice saves flags."""
        formula = cell.formula if cell else None
        if formula:
            return FLAGS.get(formula.text, formula)
        return cell.value(self._strings) if cell else None

    def _add_table(self, sheet: Sheet, place: Place) -> str:
        """A table part for a place that has none; the id by which its sheet refers to it."""
        name = self._book.free_table_name(usable_name(self._job.name))
        part, number = self._book.free_table_part()
        self._book.put(part, new_table(number, name, place.area, [slot.heading for slot in place.slots], styled=not place.exists))
        self._book.add_type(part, TABLE_TYPE)
        return self._book.add_relation(sheet.part, "table", part)


def _plain(region: Region) -> Recognise | None:
    place = region.place
    fixed = {at: text for at, text in region.formulas.items() if carried(text, 1, place.first, place.last) == text}
    if len(place.slots) > MOST_COLUMNS or any(at not in fixed for at in region.formulas):
        return None
    return PlainRows(place.slots, region.styles, fixed, region.lead).others


def _same_value(one: object, other: object) -> bool:
    """Programs save numbers with 15 to 17 digits."""
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-13)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def styles_of(book: Workbook) -> Styles:
    """The workbook's cell formats."""
    part = next((r.target for r in book.relations(book.part) if r.kind == "styles"), None)
    if part is None:
        raise TargetError("the workbook has no styles part", remedy="open the workbook in Excel and save it again")
    part = book.package.proper(part)
    return Styles(book.data(part), part)


def shared_strings(book: Workbook) -> SharedStrings:
    """The workbook's shared strings, not read yet."""
    part = next((r.target for r in book.relations(book.part) if r.kind == "sharedStrings" and r.target in book.package), None)
    load: Callable[[], Iterator[bytes]] | None = (lambda: book.package.stream(part)) if part else None
    return SharedStrings(load, part or "")


def _formats(styles: Styles, region: Region, place: Place) -> dict[int, int]:
    """The cell format of each column: the teammate's where it can show our values, else a copy with our number format."""
    formats = {}
    for slot in place.slots:
        style = region.styles.get(slot.place, 0)
        formats[slot.place] = styles.fitting(style, slot.ours.unit, slot.ours.kind, slot.ours.currency) if slot.ours else style
    return formats


def _dress(region: Region, prepared: Prepared) -> None:
    """A new table starts with the formats prepared for it."""
    region.header_style = prepared.header
    if prepared.height is not None:
        region.header_attributes = b' ht="%g" customHeight="1"' % prepared.height
    for slot in region.place.slots:
        if slot.ours and slot.ours.name in prepared.formats:
            region.styles[slot.place] = prepared.formats[slot.ours.name]


def _unit_formats(styles: Styles, place: Place, formats: Mapping[int, int]) -> dict[int, dict[str, int]]:
    """For columns whose unit stands in another column: the cell format of each unit."""
    return {
        slot.place: {unit: styles.showing(formats[slot.place], unit, slot.ours.currency) for unit in UNITS}
        for slot in place.slots
        if slot.ours and slot.ours.unit_by
    }


def _move(sheet: Sheet, place: Place) -> Move:
    last = place.last if place.exists else place.new_last  # nothing can have referred to a table that was not there
    shift_from = place.end + 1 if place.shift else ROWS + 1
    return Move(sheet.name, place.left, place.right, place.top, place.first, last, place.new_last, place.totals, shift_from, place.shift)


def _fresh_areas(place: Place) -> list[Area]:
    """The cells a table will cover and does not cover yet."""
    if not place.exists:
        return [place.area]
    areas = []
    if place.new_end > place.end and not place.shift:
        areas.append(Area(place.end + 1, place.left, place.new_end, place.new_right))
    if place.new_right > place.right:
        areas.append(Area(place.top, place.right + 1, place.end, place.new_right))
    return areas


def _list(words: Sequence[str]) -> str:
    shown = ", ".join(words[:SHOWN])
    return f"{shown} and {len(words) - SHOWN} more" if len(words) > SHOWN else shown
