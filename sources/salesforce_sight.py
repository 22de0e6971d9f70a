"""What the connected user may see of an org: which tables there are, which fields they are read with, and what is missing from them.

An object or field that is hidden looks like one that is not there. What is missing is said by every run and found by `connector check`;
only where an edition may lack the object, and nobody named its table, it is no more than a note.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from connector.api import Finding
from connector.errors import AuthError, ConnectorError
from sources import salesforce_tables as tables
from sources.salesforce_api import Org, Record
from sources.salesforce_ids import Lengthening, lengthen, lengthening
from sources.salesforce_query import Query
from sources.salesforce_tables import Parent, Table

log = logging.getLogger(__name__)

UNREADABLE: Final = frozenset({"base64", "address", "location", "complexvalue"})
#: without these there is nothing to report on
REQUIRED: Final = frozenset({"deals", "stages", "owners"})
IN_A_PERMISSION_SET: Final = "in the user's permission set"


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to read of a table: fields with types; what is wanted and missing; what is needed and missing (`lost`)."""

    there: bool
    fields: Mapping[str, str]
    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    ids: Lengthening = ()

    @property
    def readable(self) -> bool:
        return self.there and not self.lost

    @property
    def reported(self) -> list[str]:
        """Missing fields that every org should have."""
        return [name for name in self.missing if name.rpartition(".")[2] not in tables.OPTIONAL]


class Sight:
    """`wanted` are the tables to read (none named: all); `further` are fields to read beside those we know, by table."""

    def __init__(self, org: Org, wanted: tuple[str, ...], further: Mapping[str, tuple[str, ...]]) -> None:
        self._org = org
        self._wanted = wanted
        self._further = further
        self._looks: dict[str, Look] = {}

    def wants(self, *names: str) -> bool:
        """Whether any of these tables is to be read."""
        return not self._wanted or not set(names).isdisjoint(self._wanted)

    @cached_property
    def multi_currency(self) -> bool:
        return "CurrencyIsoCode" in (self._org.describe("Opportunity") or {})

    @cached_property
    def record_types(self) -> bool:
        """Whether deals may be told apart by record type; the record types themselves may be hidden all the same."""
        return "RecordTypeId" in (self._org.describe("Opportunity") or {})

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The wanted tables of this kind of org, visible or not."""
        return tuple(table for table in tables.TABLES if self.wants(table.entity) and (table.entity != "rates" or self.multi_currency))

    def of(self, entity: str) -> tuple[Table, ...]:
        """The tables an entity of ours is read from."""
        return tuple(table for table in self.tables if table.entity == entity and self.look(table).readable)

    # ── one table ─────────────────────────────────────────────────────────────────────────────────

    def look(self, table: Table) -> Look:
        if table.object not in self._looks:
            self._looks[table.object] = self._look(table)
        return self._looks[table.object]

    def _look(self, table: Table) -> Look:
        if table.setup:
            return Look(table.object in self._org.objects, dict.fromkeys(table.fields, ""))
        visible = self._org.describe(table.object)
        if visible is None:
            return Look(there=False, fields={})
        wanted = dict.fromkeys((*table.fields, *self._further.get(table.entity, ())))
        parents = {path: parent.type for path, parent in table.parents.items() if self._reaches(path, parent, visible)}
        missing = [name for name in wanted if name not in visible] + [path for path in table.parents if path not in parents]
        custom = [name for name, kind in visible.items() if name.endswith("__c") and kind not in UNREADABLE]
        fields = {name: visible[name] for name in (*wanted, *custom) if name in visible}
        lost = tuple(name for name in table.needed if name in missing)
        return Look(True, fields | parents, tuple(missing), lost, lengthening(fields))

    def _reaches(self, path: str, parent: Parent, visible: Mapping[str, str]) -> bool:
        field = path.rpartition(".")[2]
        if parent.link not in visible or parent.object not in self._org.objects:
            return False
        return field == "Name" or field in (self._org.describe(parent.object) or {})

    def query(self, table: Table, *more: str, where: str = "", order: str = "", everything: bool = False) -> Query:
        """A query for a table's fields, and `more` of them."""
        conditions = [where] if where else []
        if table.archive and "IsChild" in (self._org.describe(table.object) or {}):  # an event has a copy for each attendee
            conditions.append("IsChild = false")
        if table.archive and not where:  # queryAll has the archive, but also the recycle bin
            conditions.append("IsDeleted = false")
        types = {**self.look(table).fields, **dict.fromkeys(more, "boolean")}
        return Query(table.object, types, " AND ".join(conditions), order, everything)

    def finish(self, record: Record, table: Table) -> None:
        """Nulls for fields the user may not see; ids in their long form."""
        look = self.look(table)
        record.update(dict.fromkeys(look.missing))
        lengthen(record, look.ids)

    # ── what is missing ───────────────────────────────────────────────────────────────────────────

    def require(self) -> None:
        """Raises AuthError when something cannot be seen without which there is nothing to report on."""
        for table in self.tables:
            look = self.look(table)
            if table.entity in REQUIRED and not look.there:
                raise hidden(self._org, table.object)
            if table.entity in REQUIRED and look.lost:
                raise AuthError(
                    f"{self._org.place}: {table.object}.{look.lost[0]} is not visible to the connected user",
                    remedy=f"grant Read on {', '.join(look.lost)} {IN_A_PERMISSION_SET}",
                )

    def hidden_fields(self, entity: str) -> list[str]:
        """Sentences on what is read as empty."""
        return [
            f"{table.object}: hidden from the connected user (field-level security), read as empty: {', '.join(reported)}"
            for table in self.of(entity)
            if (reported := self.look(table).reported)
        ]

    def left_out(self) -> list[str]:
        """Sentences on tables that are not read, or not from everything."""
        return [sentence for table in self.tables if (sentence := self._left_out(table))] + [
            f"{thing} is not visible to the connected user; {lost}" for thing, lost, optional in self._beside() if not optional
        ]

    def _left_out(self, table: Table) -> str | None:
        look = self.look(table)
        if look.readable:
            return None
        what = "lacks them" if self.of(table.entity) else "is missing"
        if look.lost:
            return f"{table.object}: hidden from the connected user: {', '.join(look.lost)}; table {table.entity} {what}"
        if self._may_lack(table):
            log.info("%s: %s is not visible, or not there; no table %s", self._org.place, table.object, table.entity)
            return None
        return f"{table.object} is not visible to the connected user; table {table.entity} {what}"

    def _may_lack(self, table: Table) -> bool:
        """Whether it is no mistake that an object cannot be seen."""
        return table.optional and table.entity not in self._wanted

    def _beside(self) -> Iterator[tuple[str, str, bool]]:
        """Objects that tables are completed from and that cannot be seen: what is lost without them, and whether an org may lack them."""
        for thing, applies, lost, optional in (
            ("RecordType", self.record_types and self.wants("deals", "stages", "stage_entries"), "every deal is in one pipeline", False),
            ("Group", self.wants("owners"), "queues that own leads have no name", True),
            ("DatedConversionRate", self.multi_currency and self.wants("rates"), "today's rates hold for all time", True),
        ):
            if applies and thing not in self._org.objects:
                yield thing, lost, optional

    # ── checking ──────────────────────────────────────────────────────────────────────────────────

    def findings(self) -> Iterator[Finding]:
        """Every object and field that a run would read."""
        unasked = self.wants("deals", "stage_entries") and tables.STAGES not in self.tables
        for table in (*self.tables, *((tables.STAGES,) if unasked else ())):
            what = f"{self._org.place} {table.object}"
            try:
                yield self._finding(what, table)
            except ConnectorError as error:
                yield Finding(what, False, str(error), error.remedy or "", error.exit_code)
        for thing, lost, optional in self._beside():
            what = f"{self._org.place} {thing}"
            if optional:
                yield Finding(what, True, f"not visible, or not there: {lost}")
            else:
                yield Finding(what, False, f"not visible to the connected user: {lost}", f"give the user Read on {thing}", 3)

    def _finding(self, what: str, table: Table) -> Finding:
        look = self.look(table)
        if not look.there and self._may_lack(table):
            return Finding(what, True, f"not visible, or not there in this edition: no table {table.entity}")
        if not look.there:
            error = hidden(self._org, table.object)
            return Finding(what, False, str(error), error.remedy or "", error.exit_code)
        if missing := look.reported:
            lost = f"; without {', '.join(look.lost)} there is no table {table.entity}" if look.lost else ""
            return Finding(
                what, False, f"hidden fields: {', '.join(missing)}{lost}", f"grant Read on {', '.join(missing)} {IN_A_PERMISSION_SET}", 3
            )
        return Finding(what, True, "readable")


def hidden(org: Org, thing: str) -> AuthError:
    return AuthError(
        f"{org.place}: {thing} is not visible to the connected user",
        remedy=f"give the user's permission set Read on {thing} (and View All, so that totals are those of the team)",
    )
