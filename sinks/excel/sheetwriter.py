"""Writes a sheet anew around a refreshed table: rows nobody changes as they are, the table's rows composed, references following."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from connector.errors import TargetError
from sinks.excel.attached import Attachments
from sinks.excel.cells import xml_of
from sinks.excel.follow import append_table_part, follow_sheet, followed_rows
from sinks.excel.incoming import Incoming
from sinks.excel.markup import Edits, escaped
from sinks.excel.notes import ReturningComments
from sinks.excel.package import Deflater
from sinks.excel.references import ROWS, Move
from sinks.excel.region import Region
from sinks.excel.rows import Composer, standing_cell
from sinks.excel.sheet import Cell, Row, SheetReader, Skeleton, skeleton
from sinks.excel.workbook import Sheet, Workbook

_ROW_PLACE = re.compile(rb"""(\sr\s*=\s*["'])[0-9]+""")


class SheetWriter:
    """Writes one sheet, once."""

    def __init__(self, book: Workbook, sheet: Sheet, region: Region, move: Move, formats: Mapping[int, int]) -> None:
        self._book = book
        self._sheet = sheet
        self._region = region
        self._place = region.place
        self._move = move
        self._formats = formats
        self._lead = region.lead.encode()
        self._orphaning = region.orphaning

    def write(
        self,
        rows: Incoming,
        composer: Composer,
        sheet: Skeleton,
        attachments: Attachments,
        returning: ReturningComments,
        table: str | None,
    ) -> None:
        """Write the sheet's part. `table` is the relationship of a table that is new on it."""
        front = Edits(sheet.data)
        follow_sheet(front, sheet.root, self._move, self._region)
        reader = self._reader()
        out = self._book.package.writer()
        out.write(front.result(0, sheet.at))
        row = reader.next_row()
        while row is not None and row.number < self._place.top:
            out.write(self._standing(reader, row))
            row = reader.next_row()
        row = self._write_table(out, rows, composer, reader, row)
        self._write_rest(out, reader, row)
        back = Edits(sheet.data)
        follow_sheet(back, sheet.root, self._move, self._region)
        attachments.follow_sheet(back, sheet.root, composer.went, composer.back, self._move)
        returning.make_room(back, sheet.root, composer.back)
        if table is not None:
            append_table_part(back, sheet.root, sheet.data, table)
        out.write(back.result(sheet.at))
        self._book.put(self._sheet.part, out.finish())

    def write_alone(self, rows: Incoming, composer: Composer, table: str) -> None:
        """Write the table on a sheet that has nothing else. `table` is its relationship there."""
        reader = self._reader()
        row = reader.next_row()
        reader.finish()
        sheet = skeleton(reader.head, reader.tail, self._sheet.part)
        edits = Edits(sheet.data)
        append_table_part(edits, sheet.root, sheet.data, table)
        out = self._book.package.writer()
        out.write(reader.head)
        self._write_table(out, rows, composer, reader, row)
        out.write(edits.result(sheet.at))
        self._book.put(self._sheet.part, out.finish())

    def write_without(self, head: bytes, tail: bytes) -> None:
        """Write the sheet without the table: only what stands around it."""
        place = self._place
        out = self._book.package.writer()
        out.write(head)
        reader = self._reader()
        for row in reader.rows():
            if not place.top <= row.number <= place.end:
                out.write(self._standing(reader, row))
            elif row.number in self._region.beside:
                out.write(self._row(row.number, b"", self._with_beside(row.number, [])))
        out.write(tail)
        self._book.put(self._sheet.part, out.finish())

    def _reader(self) -> SheetReader:
        return SheetReader(self._book.package.stream(self._sheet.part), self._sheet.part)

    def _write_table(self, out: Deflater, rows: Incoming, composer: Composer, reader: SheetReader, row: Row | None) -> Row | None:
        """The table's rows, from header to total row; the row that follows what was read."""
        place = self._place
        if place.top < place.first:
            out.write(self._header())
        while row is not None and row.number < place.first:
            row = reader.next_row()
        while row is not None and row.number < place.begin:
            out.write(self._standing(reader, row))
            row = reader.next_row()
        if self._region.ends_plainly and row is not None and row.number < place.last:
            reader.skip_past(place.last)
            row = reader.next_row()
        while row is not None and row.number <= place.bottom:
            row = reader.next_row()
        written = 0
        for _, texts in composer.rows(rows.batches()):
            out.write(xml_of(texts))
            written += len(texts)
        if written != rows.count:
            raise AssertionError(f"{self._sheet.name}: {rows.count} rows were announced and {written} came")
        if not written and place.begin == place.first:
            out.write(self._blank_row())
        if place.totals:
            cells = [
                standing_cell(cell, place.new_end, self._move, self._orphaning, was=place.end, own=True)
                for _, cell in sorted(self._region.total.items())
            ]
            attributes = self._region.total_attributes or self._region.grouped.get(place.new_end, "").encode()
            out.write(self._row(place.new_end, attributes, self._with_beside(place.new_end, cells)))
        for line in range(place.new_end + 1, place.bottom + 1):
            if line in self._region.beside:
                out.write(self._row(line, b"", self._with_beside(line, [])))
        return row

    def _write_rest(self, out: Deflater, reader: SheetReader, row: Row | None) -> None:
        if row is None:
            reader.finish()
        elif self._move.shift_by or self._orphaning or not row.numbered:
            while row is not None:
                out.write(self._standing(reader, row))
                row = reader.next_row()
            reader.finish()
        else:
            out.write(self._standing(reader, row))
            for text in followed_rows(reader.rest(), self._move):
                out.write(text)

    def _blank_row(self) -> bytes:
        """A table keeps one row when it has no data: blank, formatted."""
        line = self._place.first
        styled = [
            Cell(slot.place, b' s="%d"' % self._formats[slot.place], b"", self._lead).at(line)
            for slot in self._place.slots
            if self._formats[slot.place]
        ]
        return self._row(line, b"", self._with_beside(line, styled))

    def _header(self) -> bytes:
        place = self._place
        neighbour = self._region.header.get(place.right)
        cells = []
        for slot in place.slots:
            cell = self._region.header.get(slot.place) if slot.place <= place.right else None
            if cell is None or cell.type not in ("s", "inlineStr", "str") or cell.formula:
                style = cell.style if cell else neighbour.style if neighbour else self._region.header_style
                cell = text_cell(slot.place, slot.heading, style, self._lead)
            cells.append(standing_cell(cell, place.top, self._move, own=True))
        return self._row(place.top, self._region.header_attributes, self._with_beside(place.top, cells))

    def _with_beside(self, row: int, cells: Sequence[bytes]) -> bytes:
        beside = self._region.beside.get(row)
        if beside is None:
            return b"".join(cells)
        left = [standing_cell(cell, row, self._move, self._orphaning) for cell in beside.left]
        right = [standing_cell(cell, row, self._move, self._orphaning) for cell in beside.right]
        return b"".join((*left, *cells, *right))

    def _row(self, number: int, attributes: bytes, cells: bytes) -> bytes:
        name = self._lead + b"row"
        return b'<%s r="%d"%s>%s</%s>' % (name, number, attributes, cells, name)

    def _standing(self, reader: SheetReader, row: Row) -> bytes:
        """A row outside the table: as it was, but for references that follow and rows that went down."""
        line = self._move.row(row.number)
        if line == row.number and row.numbered and not ((self._move or self._orphaning) and b"f" in row.content):
            return reader.xml(row)
        cells = reader.cells(row)
        if row.number + self._move.shift_by > ROWS and row.number >= self._move.shift_from and any(not cell.blank for cell in cells):
            raise TargetError(
                f"sheet {self._sheet.name!r}: row {row.number} would be moved beyond the end of the sheet",
                remedy="make room below the table",
            )
        if line == row.number and row.numbered and not any(cell.formula for cell in cells):
            return reader.xml(row)
        tag = _ROW_PLACE.sub(rb"\g<1>%d" % line, row.tag, count=1) if row.numbered else b'<%srow r="%d"%s' % (
            self._lead, line, row.tag[len(self._lead) + 4 :],
        )  # fmt: skip
        if row.empty:
            return tag
        return (
            tag
            + b"".join(standing_cell(cell, line, self._move, self._orphaning, was=row.number) for cell in cells)
            + b"</"
            + self._lead
            + b"row>"
        )


def text_cell(column: int, text: str, style: int, lead: bytes) -> Cell:
    """A cell that holds a text."""
    space = b' xml:space="preserve"' if text != text.strip() or "\n" in text else b""
    content = b"<%sis><%st%s>%s</%st></%sis>" % (lead, lead, space, escaped(text), lead, lead)
    return Cell(column, (b' s="%d"' % style if style else b"") + b' t="inlineStr"', content, lead)
