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
from functools import cache, cached_property
from typing import Any, Final

import requests

from connector.auth.oauth import OAuth
from connector.errors import AuthError, ConnectorError, SourceError, TransientError
from connector.http import Session, host
from connector.pages import Answer, Ask, Cursor, Pace, Part, walk

log = logging.getLogger(__name__)

Record = dict[str, Any]
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


class Refused(SourceError):  # noqa: N818 — HubSpot's word for it
    """HubSpot said no to this request."""

    def __init__(self, place: str, status: int, category: str) -> None:
        super().__init__(f"{place}: {status} {category}".strip())
        self.status = status


class Forbidden(AuthError):  # noqa: N818
    """A scope or a plan that the token lacks; `scopes` as far as HubSpot names them."""

    def __init__(self, place: str, scopes: Sequence[str], category: str) -> None:
        named = ", ".join(scopes)
        super().__init__(
            f"{place}: the token lacks {f'the scope {named}' if scopes else f'a permission ({category})'}",
            remedy=f"add {named or 'it'} to the private app or service key; some data also needs a higher HubSpot plan",
        )
        self.scopes = tuple(scopes)


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
        self.properties = cache(self._properties)

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
        """The JSON answer. Raises Refused, Forbidden, AuthError or TransientError."""
        with self._searches if ask.url.endswith("/search") else nullcontext():
            response = self._signed(ask)
        self._note(response.headers)
        if not response.ok:
            raise self._error(response)
        try:
            return Answer(json.loads(response.text) if response.content else {}, response.headers)
        except ValueError as error:
            raise SourceError(f"{self.place}: the answer is not JSON", remedy="is this the address of HubSpot's API?") from error

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
                final=_no_use_waiting,
            )

    def _note(self, headers: Mapping[str, str]) -> None:
        if self._started is None:
            self._started = parsedate_to_datetime(headers["Date"]).astimezone(UTC) if "Date" in headers else self.session.now()
        if most := headers.get("X-HubSpot-RateLimit-Max", ""):
            self._calls.calls = max(1, int(int(most) * 0.95))

    def _error(self, response: requests.Response) -> ConnectorError:
        status = response.status_code
        body = _body(response)
        category = str(body.get("category") or "")
        if status == 530:
            return AuthError(f"{self.place}: the token is malformed", remedy="copy it whole; it begins with pat- and has no spaces")
        if status == 401:
            expired = category == "EXPIRED_AUTHENTICATION"
            return AuthError(
                f"{self.place}: the token {'has expired' if expired else 'is not known'}",
                remedy="copy the access token of the private app or service key anew; a rotated or deleted one is dead",
            )
        if status == 403:
            return Forbidden(self.place, _scopes(body), category)
        if status == 477:
            return TransientError(f"{self.place}: the portal is being moved between data centres", remedy="run again tomorrow")
        if status == 429 and _daily(body):
            return TransientError(
                f"{self.place}: the day's calls are used up", remedy="the count starts anew at midnight of the portal's time zone; run then"
            )
        if status == 429 or status >= 500:
            return TransientError(f"{self.place}: {status}", remedy="the next run tries again")
        return Refused(self.place, status, category)

    # ── the portal ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def details(self) -> Mapping[str, Any]:
        """Portal id, time zone, currency; also finds out which version of the paths the portal knows."""
        try:
            found: Mapping[str, Any] = self.fetch(Ask(self.path("account-info", "details"))).body
        except Refused as refused:
            if refused.status != 404 or self.version == LEGACY:
                raise
            log.info("%s does not know version %s; using the v3 paths", self.place, self.version)
            self.version = LEGACY
            found = self.fetch(Ask(self.path("account-info", "details"))).body
        return found

    @property
    def started(self) -> datetime:
        """HubSpot's clock before the first data was asked for: a skewed clock here loses nothing."""
        if self._started is None and not self.details:
            raise SourceError(f"{self.place}: the answer is empty")
        assert self._started is not None
        return self._started

    def _properties(self, kind: str) -> Mapping[str, Mapping[str, Any]] | None:
        """Definitions by name; None when the token may not see the object type."""
        try:
            return self.fetch_properties(kind)
        except Forbidden:
            return None

    def fetch_properties(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """As `properties`, but raises Forbidden, which names the missing scope."""
        return {one["name"]: one for one in self.fetch(Ask(self.path("crm/properties", kind))).body["results"]}

    def results(self, path: str, **params: str) -> Iterator[Record]:
        """Everything of a small list."""
        for part in walk(self.fetch, Ask(path, params), _AFTER, place=self.place, records="results"):
            yield from part.records

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
        for part in walk(self.fetch, Ask(self.path("crm/objects", kind), params), _AFTER, place=self.place, records="results"):
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
            yield from self.fetch(Ask(self.path("crm/objects", kind, "batch/read"), method="POST", json=body)).body["results"]

    def search(self, kind: str, modified: str, since: datetime, properties: Sequence[str]) -> Iterator[list[Record]]:
        """What changed since then, by ascending id: every page a search of its own, so that no cap and no moving order bites."""
        last = 0
        while True:
            filters = [
                {"propertyName": modified, "operator": "GTE", "value": str(int(since.timestamp() * 1000))},
                {"propertyName": "hs_object_id", "operator": "GT", "value": str(last)},
            ]
            body = {
                "filterGroups": [{"filters": filters}],
                "sorts": [{"propertyName": "hs_object_id", "direction": "ASCENDING"}],
                "properties": list(properties),
                "limit": SEARCH_PAGE,
            }
            answer = self.fetch(Ask(self.path("crm/objects", kind, "search"), method="POST", json=body)).body
            found = answer["results"]
            if not found:
                return
            if int(found[0]["id"]) <= last:
                raise SourceError(f"{self.place}: a search by id went backwards", remedy="run again; if it stays, report it to HubSpot")
            last = max(int(one["id"]) for one in found)
            yield found
            if int(answer["total"]) <= len(found):
                return

    def extent(self, kind: str, after: int, last: int | None) -> tuple[int, int]:
        """How many objects there are beyond `after` and up to `last`, about, and the highest of their ids."""
        bounds = [("GT", after), *([("LTE", last)] if last is not None else [])]
        filters = [{"propertyName": "hs_object_id", "operator": operator, "value": str(bound)} for operator, bound in bounds]
        body = {
            "filterGroups": [{"filters": filters}],
            "sorts": [{"propertyName": "hs_object_id", "direction": "DESCENDING"}],
            "properties": [],
            "limit": 1,
        }
        answer = self.fetch(Ask(self.path("crm/objects", kind, "search"), method="POST", json=body)).body
        return int(answer["total"]), int(answer["results"][0]["id"]) if answer["results"] else 0

    def associated(self, start: str, to: str, ids: Sequence[str]) -> dict[str, list[str]]:
        """Every associated id of each object, however many, in order of id."""
        found: dict[str, dict[str, None]] = {}
        waiting: list[dict[str, str]] = [{"id": one} for one in ids]
        path = self.path("crm/associations", start, to, "batch/read")
        while waiting:
            now, waiting = waiting[:ASSOCIATIONS_BATCH], waiting[ASSOCIATIONS_BATCH:]
            for one in self.fetch(Ask(path, method="POST", json={"inputs": now})).body["results"]:
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


def _body(response: requests.Response) -> Mapping[str, Any]:
    """Errors may be JSON, HTML or empty."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _daily(body: Mapping[str, Any]) -> bool:
    return "DAILY" in str(body.get("policyName") or "").upper()


def _no_use_waiting(response: requests.Response) -> bool:
    return response.status_code in (477, 530) or (response.status_code == 429 and _daily(_body(response)))


def _scopes(body: Mapping[str, Any]) -> list[str]:
    contexts = [body.get("context"), *(one.get("context") for one in body.get("errors") or () if isinstance(one, dict))]
    return [str(scope) for context in contexts if isinstance(context, dict) for scope in context.get("requiredGranularScopes") or ()]
