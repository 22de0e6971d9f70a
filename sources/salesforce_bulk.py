"""Bulk API 2.0 query jobs: create, wait, take the result page by page, remove.

A job ends as JobComplete, Failed or Aborted. The last page of its result says the word "null"; its CSV may hold NUL bytes, and its text may
be "NA" or "None" and mean it. A job that ended badly, or whose result is not what it announced, is a lost place: the read begins again with
another one. An object or org that has no Bulk API is told apart from that.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from connector.errors import AuthError, ConnectorError, SourceError, TransientError
from connector.pages import Answer, Ask, HeaderCursor
from connector.resume import PlaceLostError, Step
from sources.salesforce_api import Org, Record, Refused, zulu

log = logging.getLogger(__name__)

BULK_ROWS: Final = 10_000
SLOWEST_POLL: Final = 30.0
PATIENCE: Final = 1_800.0
"""Seconds a job may take beyond `max_wait`; millions of rows take minutes."""
UNSUPPORTED: Final = ("INVALIDENTITY", "not supported by the Bulk API")
csv.field_size_limit(1 << 24)  # a long text area has up to 131,072 characters, which is where the csv module would stop

Place = Mapping[str, Any]


class NoBulkError(SourceError):
    """The org does not read this by a Bulk job; nothing was read yet."""


class Jobs:
    """Runs queries as Bulk jobs of one org."""

    def __init__(self, org: Org) -> None:
        self._org = org

    def steps(self, soql: str, types: Mapping[str, str], place: Place | None, *, everything: bool) -> Iterator[Step]:
        """Every record of a query, from a place on. Raises NoBulkError before the first of them; PlaceLostError; TransientError for a
        job that takes too long, whose place stays good.
        """
        if place is None:
            place = self._created(soql, everything=everything)
            yield Step([], place)
        total = self._ended(place)
        yield from self._results(place, types, total)
        try:
            self._org.send(Ask(self._address(place), method="DELETE"))
        except ConnectorError as error:
            log.info("%s; the finished Bulk job was not removed, Salesforce does so after seven days", error)

    def _address(self, place: Place) -> str:
        return f"{self._org.data}/jobs/query/{place['job']}"

    def _created(self, soql: str, *, everything: bool) -> Place:
        asked = {"operation": "queryAll" if everything else "query", "query": soql, "contentType": "CSV"}
        ask = Ask(f"{self._org.data}/jobs/query", method="POST", json=asked | {"columnDelimiter": "COMMA", "lineEnding": "LF"})
        try:
            body = self._org.fetch(ask).body
        except (Refused, AuthError) as error:
            raise NoBulkError(str(error)) from error
        with self._org.shaped("a new Bulk job"):
            return {"job": str(body["id"]), "locator": None, "received": 0}

    def _ended(self, place: Place) -> int:
        """Wait until a job has ended well; how many records it has."""
        wait, waited = 1.0, 0.0
        while True:
            state, count, reason = self._looked_at(place)
            if state == "JobComplete":
                return count
            if state in ("Failed", "Aborted"):
                message = f"{self._org.place}: the Bulk job ended as {state} ({reason.partition(':')[0] or 'somebody stopped it'})"
                if any(word in reason for word in UNSUPPORTED):
                    raise NoBulkError(message)
                raise PlaceLostError(message, remedy="run again; if it stays, raise bulk_from so that REST reads it")
            if waited >= self._org.session.network.max_wait + PATIENCE:
                raise TransientError(
                    f"{self._org.place}: the Bulk job is still {state} after {waited / 60:.0f} minutes",
                    remedy="run again later: a full read goes on with the same job",
                )
            log.info("%s: the Bulk job is %s, %s records so far", self._org.place, state, f"{count:,}")
            self._org.session.sleep(wait)
            waited += wait
            wait = min(wait * 1.5, SLOWEST_POLL)

    def _looked_at(self, place: Place) -> tuple[str, int, str]:
        """A job's state, its number of records, and what it says of its end."""
        try:
            about = self._org.fetch(Ask(self._address(place))).body
        except Refused as refused:
            if refused.status == 404:
                raise PlaceLostError(f"{self._org.place}: the Bulk job is gone") from refused
            raise
        with self._org.shaped("a Bulk job"):
            return str(about["state"]), int(about.get("numberRecordsProcessed") or 0), str(about.get("errorMessage") or "")

    def _results(self, place: Place, types: Mapping[str, str], total: int) -> Iterator[Step]:
        first = Ask(f"{self._address(place)}/results", {"maxRecords": str(BULK_ROWS)}, headers={"Accept": "text/csv"})
        start = first.with_params(locator=place["locator"]) if place["locator"] else first
        ask: Ask | None = start
        pager = HeaderCursor("locator", "Sforce-Locator", "null")
        received, seen = place["received"], set()
        with ThreadPoolExecutor(1, thread_name_prefix="bulk") as ahead:  # the next page is on its way while this one is read
            coming = ahead.submit(self._org.send, start)
            while ask is not None:
                response = self._come(coming)
                ask = pager.next(ask, Answer(None, response.headers), 0)
                locator = ask.params["locator"] if ask else None
                if locator in seen:
                    raise self._lost("gave the same page twice")
                seen.add(locator)
                if ask is not None:
                    coming = ahead.submit(self._org.send, ask)
                records = self._parsed(response.content, types)
                received += len(records)
                if ask is None and received < total:
                    raise self._lost(f"has {total:,} records and sent {received:,}")
                yield Step(records, {"job": place["job"], "locator": locator, "received": received} if ask else None, total)

    def _come(self, page: Future[Any]) -> Any:
        try:
            return page.result()
        except Refused as refused:  # a locator or a result that is no longer there
            raise self._lost(f"no longer gives its result ({refused.status} {refused.code})") from refused

    def _parsed(self, content: bytes, types: Mapping[str, str]) -> list[Record]:
        try:
            return parsed(content, types)
        except (ValueError, csv.Error, InvalidOperation) as error:
            raise self._lost("sent a page that is not the CSV it should be") from error

    def _lost(self, what: str) -> PlaceLostError:
        return PlaceLostError(f"{self._org.place}: the Bulk job {what}", remedy="run again; nothing was taken over")


def parsed(content: bytes, types: Mapping[str, str]) -> list[Record]:
    """A page of CSV with values as REST would have given them, by the type of their field; empty is null. Raises ValueError for ragged rows."""
    text = content.decode("utf-8", errors="replace").replace("\0", "")
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = next(reader, [])
    readers = [(column, _READERS.get(types.get(column, ""), str)) for column in columns]
    flat = ({name: read(text) if text else None for (name, read), text in zip(readers, row, strict=True)} for row in reader)
    return [_nested(record) for record in flat] if any("." in name for name in columns) else list(flat)


def _nested(flat: Record) -> Record:
    """`Owner.Name` as REST has it: an object in an object."""
    record: Record = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        place = record
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return record


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("double", "currency", "percent", "int", "long"), Decimal),
    "boolean": lambda text: text == "true",
    "datetime": zulu,
}
