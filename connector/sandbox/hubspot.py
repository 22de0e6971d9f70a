"""The sandbox's HubSpot: CRM objects, search, batch reads, associations, pipelines, owners, currencies — over the generated company.

    portal = HubSpotPortal(Company.generate())
    with serve(portal) as running:
        ...                                  # running.url("hubspot"), token "pat-sandbox"

Both path families answer: `/crm/objects/2026-09/deals` and `/crm/v3/objects/deals`. The server's clock is the company's. What a test may
turn is in `Setup`; caps are small numbers there when traps shall bite early.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

from connector.sandbox.company import HOME, Company
from connector.sandbox.hubspot_door import Door, not_found
from connector.sandbox.hubspot_objects import STRIDE, TYPES, Kind, Portal, exchange_rates, hs_id, instant, number_of, owner_id, pipeline_id
from connector.sandbox.hubspot_search import MOST_RESULTS, comparable, error, groups_of, ids_of, invalid, json_of, matches, number, sorts_of
from connector.sandbox.hubspot_settings import lead_pipeline, owner, pipeline, pipelines, properties
from connector.sandbox.hubspot_setup import SCOPES, Setup
from connector.sandbox.server import Refusal, Request, Response, Route, Service, reply

__all__ = ["SCOPES", "HubSpotPortal", "Setup"]

NAMES: Final = {number: name for name, (number, _) in TYPES.items()} | {name: name for name in TYPES}
LABELS: Final = {
    ("deals", "companies"): ((5, "Primary"), (341, None)),
    ("deals", "contacts"): ((3, None),),
    ("deals", "line_items"): ((19, None),),
}
MOST_LISTED: Final = 100
MOST_WITH_HISTORY: Final = 50


class HubSpotPortal(Service):
    """One portal, one service."""

    name = "hubspot"

    def __init__(self, company: Company, setup: Setup | None = None) -> None:
        self.company = company
        self.setup = setup or Setup()
        self.now: Callable[[], datetime] = lambda: company.now
        self.door = Door(self.setup, lambda: self.now())  # noqa: PLW0108  the clock of the portal may be replaced
        self._cursors: set[int] = set()
        self._found: tuple[str, list[Any]] = ("", [])
        self._lock = threading.RLock()
        self._portal: Portal | None = None

    @property
    def portal(self) -> Portal:
        if self._portal is None or self._portal.zone.key != self.setup.time_zone:
            self._portal = Portal(self.company, self.setup)
        return self._portal

    def routes(self) -> Iterable[Route]:
        objects = r"(?:/crm/objects/(?P<version>20\d\d-\d\d(?:-beta)?)|/crm/v3/objects)/(?P<type>[\w-]+)"
        associations = r"(?:/crm/associations/(?P<version>20\d\d-\d\d)|/crm/v4/associations)/(?P<from>[\w-]+)/(?P<to>[\w-]+)/batch/read"
        yield "POST", r"/oauth/(?:(?P<version>20\d\d-\d\d)|v1)/token", self.door.oauth
        for method, pattern, handler in (
            ("GET", objects + r"/?", self.list_objects),
            ("POST", objects + r"/search/?", self.search),
            ("POST", objects + r"/batch/read/?", self.batch_read),
            ("GET", objects + r"/(?P<id>\d+)", self.read_object),
            ("POST", associations, self.associations),
            ("GET", r"/crm/v4/objects/(?P<from>[\w-]+)/(?P<id>\d+)/associations/(?P<to>[\w-]+)", self.associations_of),
            ("GET", _both("crm/pipelines") + r"/(?P<type>[\w-]+)/?", self.pipelines),
            ("GET", _both("crm/pipelines") + r"/(?P<type>[\w-]+)/(?P<id>[\w-]+)", self.pipeline),
            ("GET", _both("crm/properties") + r"/(?P<type>[\w-]+)/?", self.properties),
            ("GET", _both("crm/owners") + r"/?", self.owners),
            ("GET", _both("crm/owners") + r"/(?P<id>\d+)", self.owner),
            ("GET", _both("settings/currencies") + r"/exchange-rates(?P<current>/current)?", self.rates),
            ("GET", _both("settings/currencies") + r"/company-currency", self.company_currency),
            ("GET", _both("account-info") + r"/details", self.details),
            ("GET", _both("account-info") + r"/api-usage/daily/private-apps", self.usage),
        ):
            yield method, pattern, self._guarded(handler)

    def refuse(self, status: int, message: str) -> Response:
        if status == 404:
            return not_found()
        return error(status, {401: "INVALID_AUTHENTICATION", 429: "RATE_LIMITS"}.get(status, "INTERNAL_ERROR"), message)

    def expire_tokens(self) -> None:
        """Every OAuth token given so far is dead."""
        self.door.expire_tokens()

    def _guarded(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def guarded(request: Request) -> Response:
            with self._lock:
                try:
                    self.door.admit(request)
                    answer = handler(request)
                except Refusal as refused:
                    answer = refused.response
            headers = {"Date": format_datetime(self.now().astimezone(UTC), usegmt=True), **self.door.headers(request)}
            return Response(answer.status, answer.body, {**answer.headers, **headers})

        return guarded

    # ── objects ───────────────────────────────────────────────────────────────────────────────────

    def _kind(self, name: str) -> Kind:
        """An object type whose objects the token may read. Raises Refusal."""
        kind = self._type(name)
        self.door.may_read(kind.name)
        return kind

    def _type(self, name: str) -> Kind:
        if name not in NAMES:
            raise Refusal(error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {name}"))
        return self.portal.kinds[NAMES[name]]

    def list_objects(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        asked = _multiple(request.raw_query)
        history = asked.get("propertiesWithHistory", [])
        most = MOST_WITH_HISTORY if history else MOST_LISTED
        limit = number(request.query.get("limit"), "limit", 10)
        if not 0 < limit <= most:
            raise invalid(f"limit must be at most {most}")
        limit = min(limit, self.setup.history_page_size if history else self.setup.page_size)
        after = number(request.query.get("after"), "after", 0)
        if self.setup.own_cursors_only and after and after not in self._cursors:
            raise Refusal(error(400, "VALIDATION_ERROR", "The after token is not valid."))
        for to in asked.get("associations", ()):
            self._kind(to)
        archived = request.query.get("archived") == "true"
        page: list[Any] = []
        for record in self._from(kind, after):
            if (kind.gone(record) is not None) == archived and not (archived and self._purged(kind, record)):
                page.append(record)
                if len(page) > limit:
                    break
        more = len(page) > limit
        results = [self._json(kind, record, asked) for record in page[:limit]]
        answer: dict[str, Any] = {"results": results}
        if more:
            last = results[-1]["id"]
            self._cursors.add(int(last))
            answer["paging"] = {"next": {"after": last, "link": f"{request.base}{request.path}?after={last}"}}
        return reply(answer)

    def _from(self, kind: Kind, after: int) -> Iterator[Any]:
        """Records by ascending id, beyond `after`."""
        highest: int = next(reversed(kind.records), 0)
        start = max(1, (after - TYPES[kind.name][1]) // STRIDE - 1)
        for n in range(start, highest + 1):
            record = kind.get(n)
            if record is not None and int(hs_id(kind.name, n)) > after:
                yield record

    def _purged(self, kind: Kind, record: Any) -> bool:
        gone = kind.gone(record)
        return gone is not None and self.now() - gone > timedelta(days=self.setup.archived_days)

    def _json(self, kind: Kind, record: Any, asked: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        names = [name for name, one in kind.properties.items() if one.given]
        names += [name for name in asked.get("properties", ()) if name in kind.properties]
        values = {name: kind.properties[name].value(record) for name in dict.fromkeys(names)}
        identifier = hs_id(kind.name, record.n)
        found: dict[str, Any] = {
            "id": identifier,
            "properties": values,
            "createdAt": instant(record.created_at),
            "updatedAt": instant(record.modified_at),
            "archived": (gone := kind.gone(record)) is not None,
            "url": f"https://app-eu1.hubspot.com/contacts/{self.setup.portal}/record/{TYPES[kind.name][0]}/{identifier}",
        }
        if gone:
            found["archivedAt"] = instant(gone)
        if histories := asked.get("propertiesWithHistory"):
            found["propertiesWithHistory"] = {name: self._history(kind, record, name) for name in histories if name in kind.properties}
        if associations := asked.get("associations"):
            inline = {}
            for name in associations:
                if (one := self._inline(kind, record, NAMES.get(name, name))) is not None:
                    inline["line items" if NAMES.get(name) == "line_items" else NAMES.get(name, name)] = one
            if inline:
                found["associations"] = inline
        return found

    def _history(self, kind: Kind, record: Any, name: str) -> list[dict[str, Any]]:
        """Newest first; a property without a history of its own has its present value."""
        rows = kind.history[name](record) if name in kind.history else [(kind.properties[name].value(record), record.modified_at)]
        found = [
            {"value": value, "timestamp": instant(at), "sourceType": "CRM_UI", "sourceId": "userId:8884209"} for value, at in reversed(rows)
        ]
        return found[: self.setup.history_rows]

    def _linked(self, kind: Kind, record: Any, to: str) -> list[str]:
        numbers = kind.associated[to](record) if to in kind.associated else []
        target = self.portal.kinds[to]
        return [hs_id(to, n) for n in sorted(numbers) if (one := target.get(n)) is not None and target.gone(one) is None]

    def _inline(self, kind: Kind, record: Any, to: str) -> dict[str, Any] | None:
        ids = self._linked(kind, record, to)
        if not ids:
            return None
        label = f"{kind.name.removesuffix('s')}_to_{to.removesuffix('s')}"
        names = [label, f"{label}_unlabeled"] if (kind.name, to) == ("deals", "companies") else [label]
        first = ids[: self.setup.associations_inline]
        found: dict[str, Any] = {"results": [{"id": one, "type": name} for one in first for name in names]}
        if len(ids) > len(first):
            found["paging"] = {"next": {"after": first[-1], "link": ""}}
        return found

    def read_object(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        record = kind.get(number_of(kind.name, request.args["id"]))
        if record is None or (kind.gone(record) is not None) != (request.query.get("archived") == "true"):
            return Response(404, b"", {})
        return reply(self._json(kind, record, _multiple(request.raw_query)))

    def batch_read(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        body = json_of(request)
        inputs = ids_of(body, MOST_WITH_HISTORY if body.get("propertiesWithHistory") else MOST_LISTED)
        results, gone = [], []
        for one in inputs:
            record = kind.get(number_of(kind.name, str(one["id"])))
            if record is None or kind.gone(record) is not None:
                gone.append(str(one["id"]))
            else:
                results.append(self._json(kind, record, body))
        answer: dict[str, Any] = {
            "status": "COMPLETE",
            "results": results,
            "startedAt": instant(self.now()),
            "completedAt": instant(self.now()),
        }
        if gone:
            missing = {"status": "error", "category": "OBJECT_NOT_FOUND", "message": "Could not get some objects", "context": {"ids": gone}}
            answer |= {"numErrors": 1, "errors": [missing]}
        return reply(answer, 207 if gone else 200)

    # ── search ────────────────────────────────────────────────────────────────────────────────────

    def search(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        body = json_of(request) if request.body else {}
        asked_for, after = number(body.get("limit"), "limit", 10), number(body.get("after"), "after", 0)
        limit = min(asked_for, self.setup.search_page_size)
        groups, sorts = groups_of(body), sorts_of(kind, body)
        if asked_for > MOST_RESULTS:
            raise invalid(f"limit must be at most {MOST_RESULTS}")
        if after + limit > self.setup.search_cap:
            raise invalid("after + limit > 10000")
        key = json.dumps([kind.name, groups, sorts, self.company.version, self.now().isoformat()])
        if self._found[0] != key:
            self._found = (key, self._matching(kind, groups, sorts))
        found = self._found[1]
        page = found[after : after + limit]
        asked = {"properties": body.get("properties", [])}
        answer: dict[str, Any] = {"total": len(found), "results": [self._json(kind, record, asked) for record in page]}
        if after + len(page) < min(len(found), self.setup.search_cap):
            answer["paging"] = {"next": {"after": str(after + len(page))}}
        return reply(answer)

    def _matching(self, kind: Kind, groups: Sequence[Sequence[Mapping[str, Any]]], sorts: Sequence[tuple[str, bool]]) -> list[Any]:
        visible = self.now() - timedelta(seconds=self.setup.index_lag)
        tests = [[matches(kind, one) for one in filters] for filters in groups]
        found = [
            record
            for record in kind.records.values()
            if kind.gone(record) is None
            and record.modified_at <= visible
            and (not tests or any(all(test(record) for test in group) for group in tests))
        ]
        for name, descending in reversed(sorts):
            found.sort(key=partial(_sorted_by, kind, name), reverse=descending)
        return found

    # ── associations ──────────────────────────────────────────────────────────────────────────────

    def associations(self, request: Request) -> Response:
        start, to = self._kind(request.args["from"]), self._kind(request.args["to"]).name
        inputs = ids_of(json_of(request), 1_000)
        as_text = "version" in request.args
        results, none = [], []
        for one in inputs:
            record = start.get(number_of(start.name, str(one["id"])))
            ids = self._linked(start, record, to) if record is not None else []
            if ids:
                results.append(
                    self._linked_page(start.name, to, str(one["id"]), ids, number(one.get("after"), "after", 0), as_text=as_text)
                )
            else:
                none.append(str(one["id"]))
        answer: dict[str, Any] = {
            "status": "COMPLETE",
            "results": results,
            "startedAt": instant(self.now()),
            "completedAt": instant(self.now()),
        }
        if none:
            answer |= {"numErrors": len(none), "errors": [_no_association(start.name, to, one) for one in none]}
        return reply(answer, 207 if none else 200)

    def _linked_page(self, start: str, to: str, identifier: str, ids: list[str], after: int, *, as_text: bool) -> dict[str, Any]:
        page = [one for one in ids if int(one) > after][: self.setup.association_page]
        labels = LABELS.get((start, to), ((1, None),))
        types = [{"category": "HUBSPOT_DEFINED", "typeId": number, "label": label} for number, label in labels]
        found: dict[str, Any] = {
            "from": {"id": identifier},
            "to": [{"toObjectId": one if as_text else int(one), "associationTypes": types} for one in page],
        }
        if page and page[-1] != ids[-1]:
            found["paging"] = {"next": {"after": page[-1]}}
        return found

    def associations_of(self, request: Request) -> Response:
        start, to = self._kind(request.args["from"]), self._kind(request.args["to"]).name
        record = start.get(number_of(start.name, request.args["id"]))
        ids = self._linked(start, record, to) if record is not None else []
        after = number(request.query.get("after"), "after", 0)
        page = self._linked_page(start.name, to, request.args["id"], ids, after, as_text=False)
        return reply({"results": page["to"], **({"paging": page["paging"]} if "paging" in page else {})})

    # ── the portal ────────────────────────────────────────────────────────────────────────────────

    def pipelines(self, request: Request) -> Response:
        kind = self._kind(request.args["type"]).name
        archived = request.query.get("archived") == "true"
        every = {"deals": [pipeline(one) for one in self.company.pipelines], "leads": [lead_pipeline()]}.get(kind, [])
        return reply({"results": pipelines(every, self.company.pipelines, self.setup.archived, archived=archived)})

    def pipeline(self, request: Request) -> Response:
        self._kind(request.args["type"])
        found = next((one for one in self.company.pipelines if pipeline_id(one) == request.args["id"]), None)
        return reply(pipeline(found)) if found else Response(404)

    def properties(self, request: Request) -> Response:
        kind = self._type(request.args["type"])
        self.door.may_describe(kind.name)
        return reply({"results": properties(kind)})

    def owners(self, request: Request) -> Response:
        self.door.may_read("owners")
        archived = request.query.get("archived") == "true"
        limit, after = min(number(request.query.get("limit"), "limit", 100), 500), number(request.query.get("after"), "after", 0)
        every = [one for one in self.company.owners.values() if one.active != archived and int(owner_id(one.n)) > after]
        answer: dict[str, Any] = {"results": [owner(one) for one in every[:limit]]}
        if len(every) > limit:
            answer["paging"] = {"next": {"after": owner_id(every[limit - 1].n)}}
        return reply(answer)

    def owner(self, request: Request) -> Response:
        self.door.may_read("owners")
        found = next((one for one in self.company.owners.values() if owner_id(one.n) == request.args["id"]), None)
        return reply(owner(found)) if found else Response(404)

    def rates(self, request: Request) -> Response:
        self.door.may_read("currencies")
        if not self.setup.multi_currency:
            raise Refusal(error(403, "BANNED", "This feature is not available on your plan."))
        rates = exchange_rates(self.company)
        if "current" in request.args:
            rates = list({rate["fromCurrencyCode"]: rate for rate in rates}.values())
        limit, after = 100, number(request.query.get("after"), "after", 0)
        answer: dict[str, Any] = {"results": rates[after : after + limit]}
        if after + limit < len(rates):
            answer["paging"] = {"next": {"after": str(after + limit)}}
        return reply(answer)

    def company_currency(self, request: Request) -> Response:
        self.door.may_read("currencies")
        return reply({"currencyCode": HOME, "id": "1", "createdAt": instant(self.company.start)})

    def details(self, request: Request) -> Response:
        offset = self.now().astimezone(self.portal.zone).utcoffset() or timedelta()
        return reply(
            {
                "portalId": self.setup.portal,
                "accountType": "STANDARD",
                "timeZone": self.setup.time_zone,
                "companyCurrency": HOME,
                "additionalCurrencies": ["USD", "GBP"] if self.setup.multi_currency else [],
                "utcOffset": f"{self.now().astimezone(self.portal.zone):%z}",
                "utcOffsetMilliseconds": int(offset.total_seconds() * 1000),
                "uiDomain": "app-eu1.hubspot.com",
                "dataHostingLocation": "eu1",
            }
        )

    def usage(self, request: Request) -> Response:
        row = {"name": "private-apps-api-calls-daily", "usageLimit": self.setup.daily_calls or 650_000, "currentUsage": self.door.calls}
        return reply({"results": [row]})


def _both(resource: str) -> str:
    """/crm/owners/2026-09 and /crm/v3/owners."""
    area, _, name = resource.rpartition("/")
    old = f"{area}/v3/{name}" if area else f"{name}/v3"
    return rf"/(?:{resource}/(?P<version>20\d\d-\d\d(?:-beta)?)|{old})"


def _multiple(raw_query: str) -> dict[str, list[str]]:
    """Lists come as `a,b` or as the parameter repeated."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(raw_query):
        found.setdefault(name, []).extend(value.split(","))
    return found


def _sorted_by(kind: Kind, name: str, record: Any) -> tuple[bool, Any]:
    return comparable(kind, name, kind.properties[name].value(record))


def _no_association(start: str, to: str, identifier: str) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "OBJECT_NOT_FOUND",
        "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND",
        "message": f"No {to} is associated with {start} {identifier}.",
        "context": {"fromObjectId": [identifier], "fromObjectType": [start], "toObjectType": [to]},
    }
