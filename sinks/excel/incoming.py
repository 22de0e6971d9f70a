"""The rows a job brings, by mode: they replace what is there, come behind it, or are merged into it by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from connector.errors import TargetError
from sinks.excel.cells import SLICE_ROWS, Column, Rendering
from sinks.excel.locate import TableJob
from sinks.excel.region import Place, Region
from sinks.excel.rows import Batch, keys_of, numbered
from sinks.excel.sheet import SheetReader
from sinks.excel.strings import SharedStrings
from sinks.excel.workbook import Sheet, Workbook


@dataclass(frozen=True, slots=True)
class Incoming:
    """The table's place once the rows are in, how many rows are written, and the rows, to be read as often as needed.

    `carries` says that what teammates wrote must be carried to where its row goes; in tables that only grow rows stay.
    """

    place: Place
    count: int
    batches: Callable[[], Iterator[Batch]]
    carries: bool


def incoming(book: Workbook, sheet: Sheet, place: Place, job: TableJob, rendering: Rendering, strings: SharedStrings) -> Incoming:
    """What the job writes. Raises TargetError when its mode needs a key that it lacks."""
    output = job.output
    if job.mode == "replace" or not place.exists:
        new = replace(place, new_last=place.first + max(1, output.rows) - 1)
        return Incoming(new, output.rows, lambda: numbered(job.rows(), place.first), carries=True)
    columns = [slot.ours for name in job.key for slot in place.slots if slot.ours and slot.ours.name == name]
    if job.mode == "upsert" and not columns:
        raise TargetError(
            f"table {job.name!r}: `mode: upsert` needs a key", remedy="set `key` to what identifies a row, and have it in `columns`"
        )
    known, blank = _known_keys(book, sheet, place, job, strings)
    start = place.first if blank else place.last + 1
    if job.mode == "append":
        return _appended(place, start, job, columns, set(known), rendering)
    return _upserted(book, sheet, place, start, job, columns, known, rendering, strings)


def _known_keys(book: Workbook, sheet: Sheet, place: Place, job: TableJob, strings: SharedStrings) -> tuple[list[str], bool]:
    """The keys of the rows that are there, in order, and whether the table holds nothing but its one blank row."""
    region = Region(place, strings, job.key)
    reader = SheetReader(book.package.stream(sheet.part), sheet.part)
    keys: list[str] = []
    blank = place.last == place.first
    for row in reader.rows():
        if row.number > place.last:
            break
        if row.number >= place.first:
            cells = {cell.column: cell for cell in reader.cells(row)}
            keys += [""] * (row.number - place.first - len(keys))
            keys.append(region.key(cells, row.number - place.first))
            blank = blank and all(cell.blank for place_, cell in cells.items() if place.left <= place_ <= place.right)
    keys += [""] * (place.last - place.first + 1 - len(keys))
    return ([], True) if blank else (keys, False)


def _appended(place: Place, start: int, job: TableJob, columns: Sequence[Column], known: set[str], rendering: Rendering) -> Incoming:
    """Rows behind the ones that are there; with a key, only those that are not there yet, so that a repeated run adds nothing."""

    def new_rows() -> Iterator[pa.RecordBatch]:
        seen = set(known)
        for batch in job.output.open():
            if not columns:
                yield batch
                continue
            keys = keys_of(batch, columns, rendering)
            mask = [key not in seen and not seen.add(key) for key in keys]  # type: ignore[func-returns-value]
            yield batch.filter(pa.array(mask, pa.bool_()))

    count = sum(batch.num_rows for batch in new_rows()) if columns else job.output.rows
    new = replace(place, new_last=max(place.last, start + count - 1), start=start)

    def batches() -> Iterator[Batch]:
        return numbered(pa.RecordBatchReader.from_batches(job.output.schema, new_rows()), start)

    return Incoming(new, count, batches, carries=False)


def _upserted(
    book: Workbook,
    sheet: Sheet,
    place: Place,
    start: int,
    job: TableJob,
    columns: Sequence[Column],
    known: Sequence[str],
    rendering: Rendering,
    strings: SharedStrings,
) -> Incoming:
    """Rows that are there get their new values where they stand; rows that are not come behind."""
    table = job.output.open().read_all().combine_chunks()
    index = {key: at for at, key in enumerate(key for batch in table.to_batches() for key in keys_of(batch, columns, rendering))}
    if len(index) < table.num_rows:
        raise TargetError(f"table {job.name!r}: its key is not unique in the rows to deliver", remedy="name more columns in `key`")
    there = set(known)
    added = [at for key, at in index.items() if key not in there]
    new = replace(place, new_last=max(place.first, start + len(added) - 1))

    def values(places: Sequence[int | None]) -> pa.RecordBatch:
        taken = table.take(pa.array(places, pa.int64())).combine_chunks().to_batches()
        return taken[0]

    def batches() -> Iterator[Batch]:
        region = Region(new, strings, job.key)
        reader = SheetReader(book.package.stream(sheet.part), sheet.part)
        rows = (row for row in reader.rows() if row.number >= place.first)
        row = next(rows, None)
        for first in range(0, len(known), SLICE_ROWS):
            keys = known[first : first + SLICE_ROWS]
            old = []
            for number in range(place.first + first, place.first + first + len(keys)):
                here = row is not None and row.number == number
                old.append(region.whole(reader, row) if here and row is not None else None)
                row = next(rows, None) if here else row
            places = [index.get(key) for key in keys]
            yield Batch(place.first + first, values(places), old, [at is not None for at in places])
        for first in range(0, len(added), SLICE_ROWS):
            yield Batch(start + first, values(added[first : first + SLICE_ROWS]))

    return Incoming(new, len(known) + len(added), batches, carries=False)


def sliced(reader: pa.RecordBatchReader, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """`count` rows from row `start` on."""
    for batch in reader:
        if start >= batch.num_rows:
            start -= batch.num_rows
            continue
        part = batch.slice(start, count)
        start, count = 0, count - part.num_rows
        yield part
        if not count:
            return
