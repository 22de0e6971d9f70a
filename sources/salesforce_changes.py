"""What changed in an org since a moment: by `SystemModstamp`, with what was deleted, purged or merged away.

A stamp does not tell everything. An event is done when its time has passed; the children of a merged account follow it without being
touched; one row of a deal's history does not say whether the stage changed, so that the whole history of a changed deal is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from connector.api import Page
from sources.salesforce_api import Org, Record, stamp
from sources.salesforce_ids import listed
from sources.salesforce_query import Queries
from sources.salesforce_sight import Sight
from sources.salesforce_tables import Table

OVERLAP: Final = timedelta(minutes=10)  # records become visible a little after their stamp
IN_ORDER: Final = "OpportunityId, CreatedDate, Id"

Finish = Callable[[Record, Table], Record]


class Changes:
    """Reads changes; remembers, by entity, up to when it knows what was deleted."""

    def __init__(self, org: Org, sight: Sight, queries: Queries, finish: Finish) -> None:
        self._org = org
        self._sight = sight
        self._queries = queries
        self._finish = finish
        self._covered: dict[str, datetime] = {}
        self._masters: dict[tuple[str, datetime], list[str]] = {}

    def watermark(self, entity: str) -> str:
        """The org's clock before the first request; earlier where it did not yet know what was deleted by then."""
        covered = self._covered.get(entity, self._org.started)
        return stamp(covered if covered < self._org.started - OVERLAP else self._org.started)

    def since(self, entity: str, things: Sequence[Table], watermark: str) -> Iterator[Page] | None:
        """What changed or went; None when the org no longer knows all that went."""
        since = datetime.fromisoformat(watermark) - OVERLAP
        gone: list[str] = []
        for thing in ["Opportunity"] if entity == "stage_entries" else [table.object for table in things]:
            deleted = self._org.deleted(thing, since)
            if deleted is None:
                self._covered.pop(entity, None)
                return None
            gone += deleted.ids
            self._covered[entity] = min(deleted.covered, self._covered.get(entity, deleted.covered))
        return self._entries(things[0], since, gone) if entity == "stage_entries" else self._records(things, since, gone)

    def _records(self, things: Sequence[Table], since: datetime, gone: list[str]) -> Iterator[Page]:
        """Changed records, then what went: `gone` as the org lists it, and what the recycle bin holds. What was restored is alive."""
        alive: set[str] = set()
        for table in things:
            for condition in (self._changed(table, since), *self._moved(table, since)):
                query = self._sight.query(table, "IsDeleted", where=condition, everything=True)
                for records in self._queries.twice(query):
                    kept = [self._finish(record, table) for record in records if not record["IsDeleted"]]
                    alive.update(record["Id"] for record in kept)
                    gone += [record["Id"] for record in records if record.get("IsDeleted")]
                    yield Page(kept)
        yield Page(removed=tuple(one for one in dict.fromkeys(gone) if one not in alive))

    def _changed(self, table: Table, since: datetime) -> str:
        condition = f"SystemModstamp >= {stamp(since)}"
        if "EndDateTime" in self._sight.look(table).fields:
            return f"({condition} OR (EndDateTime >= {stamp(since)} AND EndDateTime <= {stamp(self._org.started)}))"
        return condition

    def _moved(self, table: Table, since: datetime) -> Iterator[str]:
        """Conditions for the children of records that others were merged into."""
        for field, parent in table.follows.items():
            if field in self._sight.look(table).fields:
                yield from (f"{field} IN ({some})" for some in listed(self._merged_into(parent, since)))

    def _merged_into(self, thing: str, since: datetime) -> list[str]:
        if (thing, since) not in self._masters:
            visible = "MasterRecordId" in (self._org.describe(thing) or {})
            merged = f"IsDeleted = true AND MasterRecordId != null AND SystemModstamp >= {stamp(since)}"
            rows = self._org.rows(f"SELECT MasterRecordId FROM {thing} WHERE {merged}", everything=True) if visible else ()
            self._masters[thing, since] = list(dict.fromkeys(str(row["MasterRecordId"]) for row in rows))
        return self._masters[thing, since]

    def _entries(self, table: Table, since: datetime, gone: list[str]) -> Iterator[Page]:
        """The whole history of every deal that changed."""
        changed = f"OpportunityId IN (SELECT Id FROM Opportunity WHERE SystemModstamp >= {stamp(since)})"
        last = None
        for records in self._queries.twice(self._sight.query(table, where=changed, order=IN_ORDER)):
            kept, last = entered([self._finish(record, table) for record in records], last)
            yield Page(kept)
        bin_only = f"SELECT Id FROM Opportunity WHERE IsDeleted = true AND SystemModstamp >= {stamp(since)}"
        gone = list(dict.fromkeys([*gone, *(row["Id"] for row in self._org.rows(bin_only, everything=True))]))
        alive: set[str] = set()
        for some in listed(gone):
            alive.update(row["Id"] for row in self._org.rows(f"SELECT Id FROM Opportunity WHERE Id IN ({some})"))
        yield Page(removed=tuple(one for one in gone if one not in alive))


def entered(records: list[Record], last: list[str] | None) -> tuple[list[Record], list[str] | None]:
    """History rows that entered a stage. `last` is the deal and stage of the row before: rows also follow changes of amount or date."""
    entries = []
    for record in records:
        here = [record["OpportunityId"], record["StageName"]]
        if here != last:
            entries.append(record)
        last = here
    return entries, last
