"""What teammates wrote beside rows that are gone, kept for when the rows come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from sinks.excel.markup import escaped
from sinks.excel.references import carried
from sinks.excel.region import Carried, Place, Region
from sinks.excel.rows import Composer
from sinks.excel.sheet import Cell, expanded
from sinks.excel.sheetwriter import text_cell
from sinks.excel.strings import SharedStrings
from sinks.excel.table import matching


class Memory:
    """Notes by table, row key and heading, as JSON: `{"tables": {"Deals": {"D7": {"at": "2026-01-31", "cells": {"note": {…}}}}}}`.

    A cell is `{"text": …}`, `{"number": …}`, `{"flag": …}` or `{"formula": …}` as it would read in the first row of data.
    """

    def __init__(self, stored: Mapping[str, Any], *, today: date, days: int, enabled: bool = True) -> None:
        self._enabled = enabled
        self._today = today
        oldest = (today - timedelta(days=days)).isoformat()
        tables: Mapping[str, Mapping[str, Any]] = stored.get("tables", {}) if enabled else {}
        self._tables = {
            name: {key: note for key, note in notes.items() if str(note.get("at", "")) >= oldest} for name, notes in tables.items()
        }

    def result(self) -> dict[str, Any]:
        """What to hand to the next run."""
        tables = {name: notes for name, notes in self._tables.items() if notes}
        return {"tables": tables} if tables else {}

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
            notes[key] = {"at": self._today.isoformat(), "cells": {matching(heading): _plain(value) for heading, value in values.items()}}

    def note(self, table: str, region: Region, composer: Composer, strings: SharedStrings) -> None:
        """Remember what belonged to rows that are gone."""
        if not self._enabled:
            return
        headings = {slot.place: matching(slot.heading) for slot in region.place.theirs}
        notes = self._tables.setdefault(table, {})
        for key, row in composer.left_behind():
            cells = {
                headings[at]: _noted(cell, row, region, strings) for at, cell in row.cells.items() if not cell.blank and at in headings
            }
            if cells:
                notes[key] = {"at": self._today.isoformat(), "cells": cells}
            else:
                notes.pop(key, None)


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
