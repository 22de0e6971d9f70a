"""One HubSpot portal: signing in, call budgets, errors in our words, and the few ways to ask for CRM objects.

Facts: HubSpot's developer documentation. What is done here because others fell into it:

* Paths are date-versioned; where a portal does not know the version, the v3 and v4 paths are used, whose answers have the same shape.
* Search gives at most 10,000 results, and its order by a changing stamp loses or repeats records: searches go by object id, each
  page a query of its own beyond the last id.
* Lists go by object id too, so that an id range can be read by itself, several at a time.
* Search has a budget of its own, and no headers that tell it. A used-up day is not waited for.
* "No association" comes as an error inside a success.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final

import requests

from connector.auth.oauth import OAuth
from connector.errors import SourceError
from connector.http import Session, host
from connector.pages import Answer, Ask, Cursor, Pace, Part, walk
from sources.hubspot_errors import Refused, misshapen, no_use_waiting, refusal

log = logging.getLogger(__name__)

Record = dict[str, Any]
Filter = Mapping[str, str]
HOME: Final = "https://api.hubapi.com"
LEGACY: Final = "v3"
LIST_PAGE: Final = 100
HISTORY_PAGE: Final = 50
SEARCH_PAGE: Final = 200
BATCH: Final = 100
ASSOCIATIONS_BATCH: Final = 1_000
LONGEST_LIST: Final = 12_000  # characters of property names in an address
SEARCHES: Final = 4  # of 5 per second, which all users of the account share
CALLS: Final = 95  # of 100 in ten seconds, until a header tells more
_AFTER: Final = Cursor("after", "paging.next.after")


class Portal:
    """What can be asked of one portal. `token` is a private app's or service key's, or an `OAuth`."""

    def __init__(self, session: Session, *, base_url: str | None, token: str | OAuth, version: str) -> None:
        self.session = session
        self.base = (base_url or HOME).rstrip("/")
        self.place = f"HubSpot {host(self.base)}" if base_url else "HubSpot"
        self.version = version
        self._token = token
        self._started: datetime | None = None
        self._calls = Pace(CALLS, 10, now=session.now, sleep=session.sleep)
        self._searches = Pace(SEARCHES, 1, now=session.now, sleep=session.sleep)

    # ── asking ────────────────────────────────────────────────────────────────────────────────────

    def path(self, area: str, *rest: str) -> str:
        """`crm/objects`, `crm/pipelines`, `settings/currencies`, `account-info`, … in the portal's version."""
        head, _, name = area.rpartition("/")
        if self.version != LEGACY:
            parts = [area, self.version]
        elif area == "crm/associations":
            parts = ["crm/v4/associations"]
        else:
            parts = [f"{head}/{LEGACY}/{name}" if head else f"{name}/{LEGACY}"]
        return "/".join(["", *parts, *rest])

    def fetch(self, ask: Ask) -> Answer:
        """The JSON answer. Raises Refused, Forbidden, AuthError, TransientError, or SourceError for an answer that is none of HubSpot's."""
        with self._searches if ask.url.endswith("/search") else nullcontext():
            response = self._signed(ask)
        self._note(response.headers)
        if not response.ok:
            raise refusal(self.place, _asked(ask), response)
        try:
            return Answer(json.loads(response.text) if response.content else {}, response.headers)
        except ValueError as error:
            raise misshapen(self.place, _asked(ask), "JSON") from error

    def listed(self, ask: Ask, *keys: str) -> Answer:
        """An answer with a list of `results`, each of which has these keys. Anything else is an error: it is not "nothing"."""
        answer = self.fetch(ask)
        found = answer.body.get("results") if isinstance(answer.body, dict) else None
        if not isinstance(found, list) or not all(isinstance(one, dict) and all(key in one for key in keys) for one in found):
            raise misshapen(self.place, _asked(ask), "list of results" if not keys else f"list of results with {' and '.join(keys)}")
        return answer

    def _signed(self, ask: Ask) -> requests.Response:
        """The answer to a request with the token; an access token that expired under way is renewed once."""
        if not isinstance(self._token, OAuth):
            return self._send(ask, self._token)
        token = self._token.token()
        response = self._send(ask, token.text)
        return self._send(ask, self._token.renew(token).text) if response.status_code == 401 else response

    def _send(self, ask: Ask, token: str) -> requests.Response:
        with self._calls:
            return self.session.ask(
                ask.method,
                self.base + ask.url,
                where=self.place,
                params=dict(ask.params) or None,
                json=ask.json,
                headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip", "Accept": "application/json"},
                repeatable=True,
                final=no_use_waiting,
            )

    def _note(self, headers: Mapping[str, str]) -> None:
        if self._started is None:
            self._started = parsedate_to_datetime(headers["Date"]).astimezone(UTC) if "Date" in headers else self.session.now()
        if most := headers.get("X-HubSpot-RateLimit-Max", ""):
            self._calls.calls = max(1, int(int(most) * 0.95))

    # ── the portal ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def details(self) -> Mapping[str, Any]:
        """Portal id, time zone, currencies; also finds out which version of the paths the portal knows."""
        try:
            return self._details()
        except Refused as refused:
            if refused.status != 404 or self.version == LEGACY:
                raise
            log.info("%s does not know version %s; using the v3 paths", self.place, self.version)
            self.version = LEGACY
            return self._details()

    def _details(self) -> Mapping[str, Any]:
        ask = Ask(self.path("account-info", "details"))
        found = self.fetch(ask).body
        if not isinstance(found, dict) or "portalId" not in found:
            raise misshapen(self.place, _asked(ask), "portalId")
        return found

    @property
    def started(self) -> datetime:
        """HubSpot's clock before the first data was asked for: a skewed clock here loses nothing."""
        if self._started is None and not self.details:
            raise SourceError(f"{self.place}: the answer is empty")
        assert self._started is not None
        return self._started

    def properties(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """Definitions of an object type's properties, by name."""
        return {one["name"]: one for one in self.listed(Ask(self.path("crm/properties", kind)), "name", "type").body["results"]}

    def results(self, path: str, *keys: str, **params: str) -> Iterator[Record]:
        """Everything of a small list, each with these keys."""
        for part in self._walk(Ask(path, params), *keys):
            yield from part.records

    def _walk(self, ask: Ask, *keys: str) -> Iterator[Part]:
        return walk(lambda one: self.listed(one, *keys), ask, _AFTER, place=f"{self.place}: {_asked(ask)}", records="results")

    # ── objects ───────────────────────────────────────────────────────────────────────────────────

    def pages(
        self,
        kind: str,
        properties: Sequence[str],
        *,
        after: int = 0,
        history: str | None = None,
        associations: Sequence[str] = (),
        archived: bool = False,
        limit: int | None = None,
    ) -> Iterator[Part]:
        """Pages of a list by ascending id, from beyond `after`."""
        many = len(",".join(properties)) > LONGEST_LIST
        params = {
            "limit": str(limit or (HISTORY_PAGE if history else LIST_PAGE)),
            "archived": "true" if archived else "false",
            **({"after": str(after)} if after else {}),
            **({"properties": ",".join(properties)} if properties and not many else {}),
            **({"propertiesWithHistory": history} if history else {}),
            **({"associations": ",".join(associations)} if associations else {}),
        }
        for part in self._walk(Ask(self.path("crm/objects", kind), params), "id", "properties"):
            yield self._with_all(kind, part, properties) if many else part

    def _with_all(self, kind: str, part: Part, properties: Sequence[str]) -> Part:
        """More properties than an address holds come by batch read."""
        full = {one["id"]: one["properties"] for one in self.batch(kind, [one["id"] for one in part.records], properties)}
        return replace(part, records=[{**one, "properties": full[one["id"]]} for one in part.records if one["id"] in full])

    def batch(self, kind: str, ids: Sequence[str], properties: Sequence[str], *, history: str | None = None) -> Iterator[Record]:
        """Objects by id; those gone meanwhile are not in it."""
        size = HISTORY_PAGE if history else BATCH
        for start in range(0, len(ids), size):
            body = {"inputs": [{"id": one} for one in ids[start : start + size]], "properties": list(properties)}
            body |= {"propertiesWithHistory": [history] if history else []}
            ask = Ask(self.path("crm/objects", kind, "batch/read"), method="POST", json=body)
            yield from self.listed(ask, "id", "properties").body["results"]

    def search(self, kind: str, groups: Sequence[Sequence[Filter]], properties: Sequence[str]) -> Iterator[list[Record]]:
        """What meets all filters of one of the groups, by ascending id: every page a search of its own, so that no cap and no moving
        order bites.
        """
        last = 0
        while True:
            beyond = compared("hs_object_id", "GT", last)
            found, total = self._found(kind, [[*group, beyond] for group in groups], "ASCENDING", SEARCH_PAGE, properties)
            if not found:
                return
            if int(found[0]["id"]) <= last:
                raise SourceError(f"{self.place}: a search by id went backwards", remedy="run again; if it stays, report it to HubSpot")
            last = max(int(one["id"]) for one in found)
            yield found
            if total <= len(found):
                return

    def extent(self, kind: str, after: int, last: int | None) -> tuple[int, int]:
        """How many objects there are beyond `after` and up to `last`, about, and the highest of their ids."""
        bounds = [("GT", after), *([("LTE", last)] if last is not None else [])]
        filters = [compared("hs_object_id", operator, bound) for operator, bound in bounds]
        found, total = self._found(kind, [filters], "DESCENDING", 1, ())
        return total, int(found[0]["id"]) if found else 0

    def _found(
        self, kind: str, groups: Sequence[Sequence[Filter]], direction: str, limit: int, properties: Sequence[str]
    ) -> tuple[list[Record], int]:
        """The first page of a search by id, and how many it is of."""
        body = {
            "filterGroups": [{"filters": list(filters)} for filters in groups],
            "sorts": [{"propertyName": "hs_object_id", "direction": direction}],
            "properties": list(properties),
            "limit": limit,
        }
        ask = Ask(self.path("crm/objects", kind, "search"), method="POST", json=body)
        answer = self.listed(ask, "id", "properties").body
        if not isinstance(answer.get("total"), int):
            raise misshapen(self.place, _asked(ask), "total")
        return answer["results"], answer["total"]

    def associated(self, start: str, to: str, ids: Sequence[str]) -> dict[str, list[str]]:
        """Every associated id of each object, however many, in order of id."""
        found: dict[str, dict[str, None]] = {}
        waiting: list[dict[str, str]] = [{"id": one} for one in ids]
        path = self.path("crm/associations", start, to, "batch/read")
        while waiting:
            now, waiting = waiting[:ASSOCIATIONS_BATCH], waiting[ASSOCIATIONS_BATCH:]
            for one in self.listed(Ask(path, method="POST", json={"inputs": now}), "from", "to").body["results"]:
                mine = found.setdefault(str(one["from"]["id"]), {})
                before = len(mine)
                mine.update(dict.fromkeys(str(to["toObjectId"]) for to in one["to"]))
                following = (one.get("paging") or {}).get("next")
                if following and len(mine) > before:
                    waiting.append({"id": str(one["from"]["id"]), "after": str(following["after"])})
        return {one: sorted(linked, key=int) for one, linked in found.items()}


def linked(record: Mapping[str, Any], to: str) -> tuple[list[str], bool]:
    """Associated ids as a list gives them, without duplicates, and whether these are all. A key may hold a space ("line items")."""
    every = record.get("associations") or {}
    found = every.get(to) or every.get(to.replace("_", " ")) or {}
    ids = dict.fromkeys(str(one["id"]) for one in found.get("results", ()))
    return sorted(ids, key=int), not found.get("paging")


def typed(value: str | None, kind: str) -> Any:
    """A property's text as what it is; an empty one is null."""
    if value is None or value == "":
        return None
    if kind == "bool":
        return value == "true"
    if kind == "number":
        try:
            return Decimal(value)
        except InvalidOperation:
            return value
    return value


def compared(name: str, operator: str, value: datetime | int) -> Filter:
    """A filter of a search; instants are milliseconds there."""
    number = int(value.timestamp() * 1000) if isinstance(value, datetime) else value
    return {"propertyName": name, "operator": operator, "value": str(number)}


def _asked(ask: Ask) -> str:
    return f"{ask.method} {ask.url}"
