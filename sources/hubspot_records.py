"""From what HubSpot says of an object to a record: values as what they are, the ids it is associated with, our own keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sources import hubspot_history as histories
from sources import hubspot_tables as tables
from sources.hubspot_api import Portal, Record, linked, typed
from sources.hubspot_tables import Table
from sources.hubspot_types import ObjectTypes


class Records:
    """`further` are properties to read beside ours, by table of ours."""

    def __init__(self, portal: Portal, types: ObjectTypes, further: Mapping[str, Sequence[str]]) -> None:
        self._portal = portal
        self._types = types
        self._further = further

    def wanted(self, table: Table) -> tuple[str, ...]:
        """Properties to ask for: ours, those of the portal's own, and those named in the configuration."""
        known = self._types.properties(table.kind)
        own = [name for name, about in known.items() if not about.get("hubspotDefined") and not about.get("archived")]
        return tuple(dict.fromkeys([*(name for name in table.properties if name in known), *own, *self._further.get(table.entity, ())]))

    def missing(self, table: Table) -> list[str]:
        """Properties we asked for that the token does not see, or the portal does not have."""
        known = self._types.properties(table.kind)
        return [name for name in (*table.properties, *self._further.get(table.entity, ())) if name not in known]

    def targets(self, table: Table) -> list[str]:
        """Object types whose associations a list brings along."""
        return [to for _, to in table.links if self._types.readable(to)]

    def reads(self, *of: Table) -> tuple[str, ...]:
        """The keys of records that hold something: another set, by a scope or a new property, makes the next read a full one."""
        made = {"kind", "subject", "due", "done"} if of[0].entity == "activities" else set()
        links = {column for table in of for column, to in table.links if self._types.readable(to)}
        return tuple(sorted({"id", "createdAt", *made, *links, *(tables.kept_as(name) for table in of for name in self.wanted(table))}))

    def finished(self, table: Table, found: Sequence[Record], *, searched: bool = False) -> list[Record]:
        """Records with typed values, nulls for properties that are not visible, and the ids they are associated with.

        What the search gave has no associations; they are asked for.
        """
        known = self._types.properties(table.kind)
        names = dict.fromkeys((*table.properties, *self.wanted(table)))
        kinds = {name: str(known[name]["type"]) if name in known and name not in tables.IDS else "string" for name in names}
        keys = {name: tables.kept_as(name) for name in names}
        links = {column: self._links(table.kind, to, found, searched=searched) for column, to in table.links}
        records = []
        for one in found:
            values = one["properties"]
            record = {keys[name]: typed(values.get(name), kind) for name, kind in kinds.items()}
            record |= {"id": one["id"], "createdAt": one.get("createdAt")}
            record |= {column: next(iter(linked_to.get(one["id"], ())), None) for column, linked_to in links.items()}
            if table.entity == "activities":
                record |= tables.activity(record, table.kind, self._portal.started)
            elif "propertiesWithHistory" in one:
                record["history"] = histories.rows(one)
            records.append(record)
        return records

    def _links(self, kind: str, to: str, found: Sequence[Record], *, searched: bool) -> dict[str, list[str]]:
        """Associated ids: from the list as far as it has all of them, else asked for."""
        if not self._types.readable(to):
            return {}
        if searched:
            return self._portal.associated(kind, to, [one["id"] for one in found])
        inline = {one["id"]: linked(one, to) for one in found}
        partial = [identifier for identifier, (_, whole) in inline.items() if not whole]
        return {identifier: ids for identifier, (ids, _) in inline.items()} | (
            self._portal.associated(kind, to, partial) if partial else {}
        )
