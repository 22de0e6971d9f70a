"""Links on the cells of a table: ours, one for each row that has an address, and a teammate's on rows that were gone and are back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from sinks.excel.incoming import Incoming
from sinks.excel.markup import DECLARATION, PACKAGE_RELATIONS, RELATIONS, Edits, Element, attribute, parse, prefix
from sinks.excel.references import Area, letters
from sinks.excel.region import Place
from sinks.excel.table import matching
from sinks.excel.workbook import Sheet, Workbook, relations_part

MOST: Final = 10_000  # rows; every link is a relationship of its own, and Excel takes 65,530 of them at most
ADDRESS: Final = re.compile(r"https?://[^\s\"<>\\^`{|}\x00-\x20]{1,2000}")


#: what is remembered of one link: where it leads (`address`, `location` within it), its `tooltip` and `display`
Link = dict[str, str]
_SAID: Final = ("location", "tooltip", "display")


def link_of(element: Element, addresses: Mapping[str, str]) -> Link:
    """What a sheet says of a link. `addresses` are those of its relationships."""
    known = {"address": addresses.get(element.get(f"{{{RELATIONS}}}id"), ""), **{name: element.get(name) for name in _SAID}}
    return {name: text for name, text in known.items() if text}


class RowLinks:
    """The links of one table's address columns. They are made anew with the rows; links elsewhere are not ours.

    `remembered`: key → heading → the link a teammate had put there before the row was gone.
    """

    def __init__(
        self,
        book: Workbook,
        sheet: Sheet,
        place: Place,
        rows: Incoming,
        remembered: Mapping[str, Mapping[str, Link]],
        *,
        wanted: bool,
    ) -> None:
        self._book = book
        self._sheet = sheet
        self._place = place
        self._rows = rows
        self._remembered = remembered
        linked = wanted and rows.carries and rows.count <= MOST
        self.columns = {slot.place: slot.ours.name for slot in place.slots if linked and slot.ours and slot.ours.unit == "url"}

    def ours(self, area: Area) -> bool:
        """Whether a link on these cells is one that an earlier run made."""
        place = self._place
        return place.exists and area.left in self.columns and place.first <= area.top <= place.last

    def xml(self, lead: bytes, gone: frozenset[str], back: Mapping[str, int]) -> bytes:
        """The links as the sheet lists them. `gone` are relationships of ours that nothing else uses, `back` the row of each key that is back."""
        found: list[tuple[str, Link]] = [(cell, {"address": address}) for cell, address in self._addresses()]
        found += self._returning(back)
        if not (self.columns or found):
            return b""
        ids = self._relate({link["address"] for _, link in found if "address" in link}, gone)
        return b"".join(_entry(lead, cell, link, ids.get(link.get("address", ""))) for cell, link in found)

    def _returning(self, back: Mapping[str, int]) -> Iterator[tuple[str, Link]]:
        places = {matching(slot.heading): slot.place for slot in self._place.slots if slot.place not in self.columns}
        for key, row in back.items():
            for heading, link in self._remembered.get(key, {}).items():
                if heading in places:
                    yield f"{letters(places[heading])}{row}", link

    def _addresses(self) -> Iterator[tuple[str, str]]:
        for batch in self._rows.batches() if self.columns else ():
            for place, name in self.columns.items():
                for row, address in enumerate(batch.values.column(name).to_pylist(), batch.first):
                    if address and ADDRESS.fullmatch(address):
                        yield f"{letters(place)}{row}", address

    def _relate(self, addresses: Collection[str], gone: frozenset[str]) -> dict[str, str]:
        """The relationship of each address; those no longer used go."""
        holder = relations_part(self._sheet.part)
        if holder not in self._book.package:
            if not addresses:
                return {}
            data = DECLARATION + b'<Relationships xmlns="%s"></Relationships>' % PACKAGE_RELATIONS.encode()
        else:
            data = self._book.data(holder)
        root, edits = parse(data, holder), Edits(data)
        linked = (
            element for element in root.children if element.get("Type").endswith("/hyperlink") and element.get("TargetMode") == "External"
        )
        known = {element.get("Target"): element.get("Id") for element in linked}
        for element in root.children:
            if element.get("Id") in gone and element.get("Target") not in addresses:
                edits.remove(element)
        taken = {element.get("Id") for element in root.children}
        numbers = (f"rId{number}" for number in range(1, len(taken) + len(addresses) + 2))
        free = (name for name in numbers if name not in taken)
        new = {address: next(free) for address in sorted(set(addresses) - known.keys())}
        entry = b'<%sRelationship Id=%s Type=%s Target=%s TargetMode="External"/>'
        kind, lead = attribute(f"{RELATIONS}/hyperlink"), prefix(data, root)
        edits.append(root, b"".join(entry % (lead, attribute(name), kind, attribute(address)) for address, name in new.items()))
        if edits:
            self._book.put(holder, edits.result())
        return known | new


def _entry(lead: bytes, cell: str, link: Link, relation: str | None) -> bytes:
    target = (
        b' xmlns:r="%s" ref=%s r:id=%s' % (RELATIONS.encode(), attribute(cell), attribute(relation))
        if relation
        else b" ref=" + attribute(cell)
    )
    said = b"".join(b" %s=%s" % (name.encode(), attribute(link[name])) for name in _SAID if name in link)
    return b"<%shyperlink%s%s/>" % (lead, target, said)
