"""Before a table that does not show its key is written anew: whose row is it that a teammate wrote into?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connector.errors import TargetError
from sinks.excel.cells import Rendering
from sinks.excel.identity import Prints, Recognised, Value, Written, compared, recognise
from sinks.excel.locate import SHOWN, Target
from sinks.excel.memory import Memory
from sinks.excel.region import Carried, Region
from sinks.excel.sheet import SheetReader
from sinks.excel.workbook import Workbook


def recognise_rows(
    book: Workbook,
    target: Target,
    region: Region,
    attached: frozenset[int],
    memory: Memory,
    incoming: Callable[[], Written],
    rendering: Rendering,
) -> None:
    """Give what belongs to the rows of a region the keys of their rows. Raises TargetError rather than guess.

    `attached` are rows with comments or links; `incoming` gives the rows about to be written, for when nothing is remembered.
    """
    first = region.place.first
    rows = {row.row: row for known in region.carried.values() for row in known}
    carrying = [number - first for number, row in rows.items() if number in attached or _says_something(row)]
    here = _prints(book, target, region)
    versions = memory.versions(target.name)
    if versions:
        moved = target.table is not None and any(slot.place in target.table.sorted_by for slot in region.place.theirs)
        known = recognise(
            here, versions, carrying, ordered=not moved, alike=lambda places: _alike([rows.get(first + at) for at in places], attached)
        )
    else:
        known = compared(here, incoming(), carrying)
    if known.doubtful:
        raise _doubt(target, region, known, remembered=bool(versions))
    for at in carrying:
        if known.keys[at] is None:
            _say_goodbye(target, region, rows[first + at], rendering)
    region.know({first + at: key for at, key in enumerate(known.keys) if key is not None})


def _says_something(row: Carried) -> bool:
    return any(not cell.blank for cell in row.cells.values())


def _alike(rows: Sequence[Carried | None], attached: frozenset[int]) -> bool:
    """Whether it does not matter which is which."""
    if any(row is not None and row.row in attached for row in rows):
        return False
    said = {
        row
        and (row.attributes, *((at, cell.attributes, cell.content) for at, cell in sorted(row.cells.items())), *sorted(row.styles.items()))
        for row in rows
    }
    return len(said) == 1


def _prints(book: Workbook, target: Target, region: Region) -> Prints:
    """What stands in our columns now."""
    place = region.place
    ours = {slot.place: slot.ours.name for slot in place.slots if slot.ours and slot.place <= place.right}
    count = place.last - place.first + 1
    values: dict[int, list[Value]] = {at: [None] * count for at in ours}
    reader = SheetReader(book.package.stream(target.sheet.part), target.sheet.part)
    reader.reach(place.first)
    for row in reader.rows():
        if row.number > place.last:
            break
        for cell in reader.cells(row):
            if cell.column in values:
                values[cell.column][row.number - place.first] = cell.value(region.strings)
    return Prints.of(count, {name: values[at] for at, name in ours.items()})


def _doubt(target: Target, region: Region, known: Recognised, *, remembered: bool) -> TargetError:
    numbers = sorted(region.place.first + at for at in known.doubtful)
    shown = ", ".join(map(str, numbers[:SHOWN])) + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")
    why = (
        "it was edited, or equals another, and the rows have been moved about" if remembered else "nothing is remembered of an earlier run"
    )
    return TargetError(
        f"table {target.name!r} has something of a teammate's in row {shown}, and nobody can tell which of our rows that is: {why}",
        remedy="have the key among the table's `columns`, or move what they wrote out of the table for one run",
    )


def _say_goodbye(target: Target, region: Region, row: Carried, rendering: Rendering) -> None:
    headings = {slot.place: slot.heading for slot in region.place.theirs}
    said = [f"{headings[at]}: {cell.value(region.strings)}" for at, cell in sorted(row.cells.items()) if at in headings and not cell.blank]
    rendering.warn(f"table {target.name!r}: row {row.row} is none of ours and is gone; it said: {'; '.join(said)[:500]}")
