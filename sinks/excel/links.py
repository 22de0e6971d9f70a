"""Addresses that people can click: the links on our own address columns, one for each row that has one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sinks.excel.incoming import Incoming
from sinks.excel.markup import DECLARATION, PACKAGE_RELATIONS, RELATIONS, Edits, attribute, parse, prefix
from sinks.excel.references import Area, letters
from sinks.excel.region import Place
from sinks.excel.workbook import Sheet, Workbook, relations_part

MOST: Final = 10_000  # rows; every link is a relationship of its own, and Excel takes 65,530 of them at most
ADDRESS: Final = re.compile(r"https?://[^\s\"<>\\^`{|}\x00-\x20]{1,2000}")


class RowLinks:
    """The links of one table's address columns. They are made anew with the rows; links elsewhere are not ours."""

    def __init__(self, book: Workbook, sheet: Sheet, place: Place, rows: Incoming, *, wanted: bool) -> None:
        self._book = book
        self._sheet = sheet
        self._place = place
        self._rows = rows
        linked = wanted and rows.carries and rows.count <= MOST
        self.columns = {slot.place: slot.ours.name for slot in place.slots if linked and slot.ours and slot.ours.unit == "url"}

    def ours(self, area: Area) -> bool:
        """Whether a link on these cells is one that an earlier run made."""
        place = self._place
        return place.exists and area.left in self.columns and place.first <= area.top <= place.last

    def xml(self, lead: bytes, gone: frozenset[str]) -> bytes:
        """The links as the sheet lists them. `gone` are relationships of ours that nothing else uses."""
        found = list(self._addresses())
        ids = self._relate({address for _, address in found}, gone)
        return b"".join(
            b'<%shyperlink xmlns:r="%s" ref=%s r:id=%s/>' % (lead, RELATIONS.encode(), attribute(cell), attribute(ids[address]))
            for cell, address in found
        )

    def _addresses(self) -> Iterator[tuple[str, str]]:
        for batch in self._rows.batches() if self.columns else ():
            for place, name in self.columns.items():
                for row, address in enumerate(batch.values.column(name).to_pylist(), batch.first):
                    if address and ADDRESS.fullmatch(address):
                        yield f"{letters(place)}{row}", address

    def _relate(self, addresses: set[str], gone: frozenset[str]) -> dict[str, str]:
        """The relationship of each address; those no longer used go."""
        holder = relations_part(self._sheet.part)
        if holder not in self._book.package:
            if not addresses:
                return {}
            data = DECLARATION + b'<Relationships xmlns="%s"></Relationships>' % PACKAGE_RELATIONS.encode()
        else:
            data = self._book.data(holder)
        root, edits = parse(data, holder), Edits(data)
        known = {element.get("Target"): element.get("Id") for element in root.children if element.get("Id") in gone}
        for element in root.children:
            if element.get("Id") in gone and element.get("Target") not in addresses:
                edits.remove(element)
        taken = {element.get("Id") for element in root.children}
        numbers = (f"rId{number}" for number in range(1, len(taken) + len(addresses) + 2))
        free = (name for name in numbers if name not in taken)
        new = {address: next(free) for address in sorted(addresses - known.keys())}
        entry = b'<%sRelationship Id=%s Type=%s Target=%s TargetMode="External"/>'
        kind, lead = attribute(f"{RELATIONS}/hyperlink"), prefix(data, root)
        edits.append(root, b"".join(entry % (lead, attribute(name), kind, attribute(address)) for address, name in new.items()))
        if edits:
            self._book.put(holder, edits.result())
        return known | new
