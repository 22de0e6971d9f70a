"""What teammates wrote beside rows that are gone, kept for when the rows come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any, Final

from sinks.excel.identity import Written
from sinks.excel.links import Link
from sinks.excel.markup import escaped
from sinks.excel.notes import Remark
from sinks.excel.references import carried
from sinks.excel.region import Carried, Place, Region
from sinks.excel.rows import Composer
from sinks.excel.sheet import Cell, expanded
from sinks.excel.sheetwriter import text_cell
from sinks.excel.strings import SharedStrings
from sinks.excel.table import matching

VERSIONS: Final = 3  # of a table's rows: the delivered one, and as many as came to nothing in a row


class Memory:
    """Notes by table, row key and heading, as JSON: `{"tables": {"Deals": {"D7": {"at": "2026-01-31", "cells": {"note": {…}}}}}}`.

    A cell is `{"text": …}`, `{"number": …}`, `{"flag": …}` or `{"formula": …}` as it would read in the first row of data. Beside `cells`
    a note may have `comments` (`notes.Remark`) and `links` (`links.Link`), by heading.

    For tables that do not show their key there is also `"written": {"Deals": […]}`: which rows the table may hold (`identity`), as it
    was delivered last, and behind it what later runs wrote that may not have got there.
    """

    def __init__(self, stored: Mapping[str, Any], *, today: date, days: int, enabled: bool = True) -> None:
        self._enabled = enabled
        self._today = today
        oldest = (today - timedelta(days=days)).isoformat()
        tables: Mapping[str, Mapping[str, Any]] = stored.get("tables", {}) if enabled else {}
        self._tables = {
            name: {key: _waiting(note) for key, note in notes.items() if str(note.get("at", "")) >= oldest}
            for name, notes in tables.items()
        }
        self._written: dict[str, list[Any]] = {name: list(versions) for name, versions in stored.get("written", {}).items()}

    def result(self) -> dict[str, Any]:
        """What to hand to the next run."""
        tables = {name: notes for name, notes in self._tables.items() if notes}
        parts = {"tables": tables, "written": self._written}
        return {name: part for name, part in parts.items() if part}

    def versions(self, table: str) -> list[Written]:
        """What the table may hold, if it does not show its key."""
        return [Written.unpacked(version) for version in self._written.get(table, ())]

    def wrote(self, table: str, rows: Written) -> None:
        """Remember the rows of a table that does not show their key."""
        new = rows.packed()
        before = [version for version in self._written.get(table, ()) if version != new]
        self._written[table] = [*before[:1], *before[1:][-(VERSIONS - 2) :], new]

    def recall(self, table: str, place: Place, formats: Mapping[int, int], lead: bytes) -> Callable[[str], Carried | None] | None:
        """What was beside a row that is back, by key; None when nothing is remembered of this table."""
        notes = self._tables.get(table)
        if not notes:
            return None
        places = {matching(slot.heading): slot.place for slot in place.theirs}

        def known(key: str) -> Carried | None:
            note = notes.get(key)
            if note is None:
                return None
            cells = {places[name]: _cell(places[name], cell, formats, lead) for name, cell in note["cells"].items() if name in places}
            return Carried(place.first, cells=cells)

        return known

    def keep(self, table: str, vanished: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember plain values beside rows that are gone: key → heading → value."""
        if not self._enabled:
            return
        notes = self._tables.setdefault(table, {})
        for key, values in vanished.items():
            cells = {matching(heading): _plain(value) for heading, value in values.items()}
            notes[key] = {**notes.get(key, {}), "at": self._today.isoformat(), "cells": cells}

    def comments(self, table: str) -> dict[str, Mapping[str, Remark]]:
        """What was said on rows that are gone: key → heading → comment."""
        return {key: note["comments"] for key, note in self._tables.get(table, {}).items() if "comments" in note}

    def links(self, table: str) -> dict[str, Mapping[str, Link]]:
        """Where the links on rows that are gone led: key → heading → link."""
        return {key: note["links"] for key, note in self._tables.get(table, {}).items() if "links" in note}

    def note(
        self,
        table: str,
        region: Region,
        composer: Composer,
        strings: SharedStrings,
        comments: Mapping[tuple[int, int], Remark],
        links: Mapping[tuple[int, int], Link],
    ) -> None:
        """Remember what belonged to rows that are gone; `comments` and `links` are by row and column of the sheet.

        What is `back` beside its row is forgotten once that has been delivered.
        """
        if not self._enabled:
            return
        theirs = {slot.place: matching(slot.heading) for slot in region.place.theirs}
        headings = {slot.place: matching(slot.heading) for slot in region.place.slots}
        notes = self._tables.setdefault(table, {})
        for key, row in composer.left_behind():
            cells = {theirs[at]: _noted(cell, row, region, strings) for at, cell in row.cells.items() if not cell.blank and at in theirs}
            attached = {
                name: kept
                for name, known in (("comments", comments), ("links", links))
                if (kept := {headings[at]: one for (line, at), one in known.items() if line == row.row and at in headings})
            }
            if cells or attached:
                notes[key] = {"at": self._today.isoformat(), "cells": cells, **attached}
            else:
                notes.pop(key, None)
        for key, note in notes.items():
            notes[key] = {**note, "back": True} if key in composer.seen else note


def _waiting(note: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in note.items() if name != "back"}


def settled(memory: Mapping[str, Any]) -> dict[str, Any]:
    """The memory once everything has been delivered: what is back is forgotten, and of what a table may hold, the last is what it holds."""
    waiting = {
        table: {key: note for key, note in notes.items() if not note.get("back")} for table, notes in memory.get("tables", {}).items()
    }
    parts = {
        **memory,
        "tables": {table: notes for table, notes in waiting.items() if notes},
        "written": {table: versions[-1:] for table, versions in memory.get("written", {}).items()},
    }
    return {name: part for name, part in parts.items() if part}


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"flag": value}
    return {"number": float(value)} if isinstance(value, (int, float)) else {"text": str(value)}


def _noted(cell: Cell, row: Carried, region: Region, strings: SharedStrings) -> dict[str, Any]:
    formula = cell.formula
    if formula:
        text = expanded(formula, region.masters, row.row, cell.column)
        place = region.place
        return {"formula": carried(text, place.first - row.row, place.first, place.last)}
    value = cell.value(strings)
    return {"flag": value} if isinstance(value, bool) else {"number": value} if isinstance(value, float) else {"text": value}


def _cell(place: int, noted: Mapping[str, Any], formats: Mapping[int, int], lead: bytes) -> Cell:
    style = formats.get(place, 0)
    attributes = b' s="%d"' % style if style else b""
    if "formula" in noted:
        return Cell(place, attributes, b"<%sf>%s</%sf>" % (lead, escaped(noted["formula"]), lead), lead)
    if "number" in noted:
        return Cell(place, attributes, b"<%sv>%s</%sv>" % (lead, repr(noted["number"]).encode(), lead), lead)
    if "flag" in noted:
        return Cell(place, attributes + b' t="b"', b"<%sv>%d</%sv>" % (lead, noted["flag"], lead), lead)
    return text_cell(place, noted["text"] or "", style, lead)
