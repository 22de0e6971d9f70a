"""A SOQL query as a value, and how it is run: by REST; as a Bulk job where it has many rows, many fields or takes too long for REST; and
where there is no Bulk API for it, with its fields in groups that fit into an address.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from connector.pages import Ask, dig
from connector.resume import PlaceLostError, Step
from sources.salesforce_api import Org, QueryTimeoutError, Record, plain
from sources.salesforce_bulk import Jobs, NoBulkError
from sources.salesforce_ids import listed

log = logging.getLogger(__name__)

LONGEST_ADDRESS: Final = 12_000  # of 16,384 bytes for the address and headers together
LONGEST_GROUP: Final = 5_000  # leaves room for a list of ids


@dataclass(frozen=True, slots=True)
class Query:
    """`types` are the paths to select with their types; `everything` reads the recycle bin and the archive too."""

    object: str
    types: Mapping[str, str]
    where: str = ""
    order: str = ""
    everything: bool = False

    @property
    def soql(self) -> str:
        where = f" WHERE {self.where}" if self.where else ""
        order = f" ORDER BY {self.order}" if self.order else ""
        return f"SELECT {', '.join(self.types)} FROM {self.object}{where}{order}"

    @property
    def too_long(self) -> bool:
        """Whether it does not fit into an address."""
        return len(quote(self.soql)) > LONGEST_ADDRESS

    def groups(self) -> list[Query]:
        """The same with the fields in groups that fit; each has the Id."""
        room = min(LONGEST_GROUP, LONGEST_ADDRESS - len(quote(replace(self, types={}).soql)))
        groups: list[dict[str, str]] = []
        left = 0
        for name, kind in self.types.items():
            left -= len(quote(f", {name}"))
            if not groups or left < 0:
                groups.append({"Id": "id"})
                left = room - len(quote(f"Id, {name}"))
            groups[-1][name] = kind
        return [replace(self, types=group) for group in groups]


class Queries:
    """Runs queries of one org. From `bulk_from` announced rows on, a Bulk job reads them."""

    def __init__(self, org: Org, bulk_from: int) -> None:
        self._org = org
        self._jobs = Jobs(org)
        self._bulk_from = bulk_from

    def steps(self, query: Query, place: Any = None) -> Iterator[Step]:
        """Every record of a query, from a place on. Raises PlaceLostError when the org no longer knows the place."""
        if place and "next" in place:
            yield from self._pages(query, place)
            return
        pages, first, slow = self._pages(query, None), None, None
        if not place and not query.too_long:
            try:
                first = next(pages)
            except QueryTimeoutError as error:
                slow = error
            else:
                if first.place is None or (first.total or 0) < self._bulk_from:
                    yield first
                    yield from pages
                    return
        try:
            yield from self._jobs.steps(query.soql, query.types, place, everything=query.everything)
        except NoBulkError as refused:
            if slow:
                raise slow from refused
            log.info("%s; no Bulk job for %s, going on by REST", refused, query.object)
            yield from (first,) if first else ()
            yield from pages

    def twice(self, query: Query) -> Iterator[list[Record]]:
        """The records of a query, asked once more from the start when its place is lost under way; later pages win over earlier ones."""
        for last in (False, True):
            try:
                for step in self.steps(query):
                    yield step.records
            except PlaceLostError:
                if last:
                    raise
            else:
                return

    def _pages(self, query: Query, place: Mapping[str, Any] | None) -> Iterator[Step]:
        """By REST."""
        first, *others = query.groups() if query.too_long else (query,)
        ask = Ask(place["next"]) if place else self._org.question(first.soql, everything=first.everything)
        received = place.get("received", 0) if place else 0
        for part in self._org.parts(ask):
            received += len(part.records)
            announced = dig(part.answer.body, "totalSize")  # of the whole query, on every page
            if part.following is None and isinstance(announced, int) and received < announced:
                raise PlaceLostError(
                    f"{self._org.place}: {announced:,} records of {query.object} were announced and {received:,} sent",
                    remedy="run again; nothing was taken over",
                )
            records = [plain(record) for record in part.records]
            for other in others:
                records = self._joined(records, other)
            following = {"next": part.following.url, "received": received} if part.following else None
            yield Step(records, following, None if others else part.total)

    def _joined(self, records: list[Record], group: Query) -> list[Record]:
        """With the fields of one more group. What has gone since the first group was read goes here too."""
        more: dict[str, Record] = {}
        for some in listed([record["Id"] for record in records]):
            query = replace(group, where=f"Id IN ({some})", order="")
            more |= {record["Id"]: record for record in self._org.rows(query.soql, everything=query.everything)}
        return [record | more[record["Id"]] for record in records if record["Id"] in more]
