"""The sandbox's HubSpot: CRM objects, search, batch reads, associations, pipelines, owners, currencies — over the generated company.

    portal = HubSpotPortal(Company.generate())
    with serve(portal) as running:
        ...                                  # running.url("hubspot"), token "pat-sandbox"

Both path families answer: `/crm/objects/2026-09/deals` and `/crm/v3/objects/deals`. The server's clock is the company's. What a test may turn
is in `Setup`; caps are small numbers there when traps shall bite early.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from connector.sandbox.company import HOME, Company
from connector.sandbox.hubspot_objects import (
    STRIDE,
    TYPES,
    Kind,
    Portal,
    exchange_rates,
    hs_id,
    instant,
    number_of,
    owner_id,
    pipeline_id,
)
from connector.sandbox.hubspot_search import comparable, error, matches
from connector.sandbox.hubspot_settings import lead_pipeline, owner, pipeline, properties
from connector.sandbox.server import Refusal, Request, Response, Route, Service, reply

NAMES: Final = {number: name for name, (number, _) in TYPES.items()} | {name: name for name in TYPES}
SCOPES: Final = {
    "deals": "crm.objects.deals.read",
    "companies": "crm.objects.companies.read",
    "contacts": "crm.objects.contacts.read",
    "leads": "crm.objects.leads.read",
    "line_items": "crm.objects.line_items.read",
    "products": "e-commerce",
    "calls": "crm.objects.contacts.read",
    "meetings": "crm.objects.contacts.read",
    "tasks": "crm.objects.contacts.read",
    "emails": "crm.objects.contacts.read",
    "owners": "crm.objects.owners.read",
    "currencies": "settings.currencies.read",
}
LABELS: Final = {
    ("deals", "companies"): ((5, "Primary"), (341, None)),
    ("deals", "contacts"): ((3, None),),
    ("deals", "line_items"): ((19, None),),
}
LONGEST_ADDRESS: Final = 16_000


@dataclass(slots=True)
class Setup:
    """How this portal is set up and how far its limits go. Limits of calls hold by the company's clock; None: there is none."""

    token: str = "pat-sandbox"  # noqa: S105  everybody may enter the sandbox
    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"  # noqa: S105
    refresh_token: str = "refresh-0"  # noqa: S105
    oauth_seconds: int = 1_800
    scopes: frozenset[str] = frozenset(SCOPES.values())
    versions: frozenset[str] = frozenset({"2026-03", "2026-09", "v3"})
    time_zone: str = "Europe/Berlin"
    portal: int = 147_893_286
    multi_currency: bool = True
    page_size: int = 100
    history_page_size: int = 50
    history_rows: int = 1_000
    search_page_size: int = 200
    search_cap: int = 10_000
    index_lag: float = 0
    own_cursors_only: bool = False
    associations_inline: int = 100
    association_page: int = 500
    archived_days: int = 90
    calls_per_10_seconds: int | None = None
    searches_per_second: int | None = None
    daily_calls: int | None = None
    retry_after: bool = False


class HubSpotPortal(Service):
    """One portal, one service. `calls` counts the day's requests."""

    name = "hubspot"

    def __init__(self, company: Company, setup: Setup | None = None) -> None:
        self.company = company
        self.setup = setup or Setup()
        self.calls = 0
        self.searches = 0
        self.now: Callable[[], datetime] = lambda: company.now
        self._cursors: set[int] = set()
        self._access: dict[str, datetime] = {}
        self._recent: deque[datetime] = deque()
        self._recent_searches: deque[datetime] = deque()
        self._found: tuple[str, list[Any]] = ("", [])
        self._lock = threading.RLock()
        self._portal: Portal | None = None

    @property
    def portal(self) -> Portal:
        if self._portal is None or self._portal.zone.key != self.setup.time_zone:
            self._portal = Portal(self.company, self.setup.time_zone)
        return self._portal

    def routes(self) -> Iterable[Route]:
        objects = r"(?:/crm/objects/(?P<version>20\d\d-\d\d(?:-beta)?)|/crm/v3/objects)/(?P<type>[\w-]+)"
        associations = r"(?:/crm/associations/(?P<version>20\d\d-\d\d)|/crm/v4/associations)/(?P<from>[\w-]+)/(?P<to>[\w-]+)/batch/read"
        yield "POST", r"/oauth/(?:(?P<version>20\d\d-\d\d)|v1)/token", self.oauth
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
            return Response(404, b"<html>Not found</html>", {"Content-Type": "text/html"})
        return error(status, {401: "INVALID_AUTHENTICATION", 429: "RATE_LIMITS"}.get(status, "INTERNAL_ERROR"), message)

    # ── letting in ────────────────────────────────────────────────────────────────────────────────

    def oauth(self, request: Request) -> Response:
        form, setup = request.form(), self.setup
        known = (form.get("client_id"), form.get("client_secret")) == (setup.client_id, setup.client_secret)
        if form.get("grant_type") != "refresh_token" or not known or form.get("refresh_token") != setup.refresh_token:
            return reply(
                {"error": "invalid_grant", "error_description": "missing or invalid refresh token", "status": "BAD_REFRESH_TOKEN"}, 400
            )
        token = f"CJsandbox{len(self._access)}"
        self._access[token] = self.now() + timedelta(seconds=setup.oauth_seconds)
        return reply(
            {"access_token": token, "refresh_token": setup.refresh_token, "expires_in": setup.oauth_seconds, "token_type": "bearer"}
        )

    def expire_tokens(self) -> None:
        """Every OAuth token given so far is dead."""
        self._access = dict.fromkeys(self._access, self.company.start)

    def _guarded(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def guarded(request: Request) -> Response:
            with self._lock:
                try:
                    self._admit(request)
                    answer = handler(request)
                except Refusal as refused:
                    answer = refused.response
            headers = {"Date": format_datetime(self.now().astimezone(UTC), usegmt=True)}
            if not request.path.endswith("/search") and self.setup.calls_per_10_seconds:
                limit = self.setup.calls_per_10_seconds
                headers |= {
                    "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
                    "X-HubSpot-RateLimit-Max": str(limit),
                    "X-HubSpot-RateLimit-Remaining": str(limit - len(self._recent)),
                }
            return Response(answer.status, answer.body, {**answer.headers, **headers})

        return guarded

    def _admit(self, request: Request) -> None:
        version = request.args.get("version") or "v3"
        if version not in self.setup.versions:
            raise Refusal(Response(404, b"<html>Not found</html>", {"Content-Type": "text/html"}))
        if "hapikey" in request.query:
            request.violate("?hapikey= is dead")
        self._check_token(request.headers.get("Authorization", ""))
        if len(request.path) + len(request.raw_query) > LONGEST_ADDRESS:
            raise Refusal(Response(414, b"<html>Request-URI Too Large</html>", {"Content-Type": "text/html"}))
        if self.setup.daily_calls is not None and self.calls >= self.setup.daily_calls:
            raise Refusal(self._limited("DAILY", "You have reached your daily limit.", None))
        self.calls += 1
        search = request.path.endswith("/search")
        if search:
            self.searches += 1
            self._limit(self._recent_searches, self.setup.searches_per_second, 1, "SECONDLY", "secondly")
        self._limit(self._recent, self.setup.calls_per_10_seconds, 10, "TEN_SECONDLY_ROLLING", "ten_secondly_rolling")

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if not header:
            raise Refusal(error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found."))
        if scheme != "Bearer" or not token or not all(char.isalnum() or char in "-._~+/=" for char in token):
            raise Refusal(Response(530, b"<html>error code: 1016</html>", {"Content-Type": "text/html"}))
        if token == self.setup.token:
            return
        if token not in self._access:
            raise Refusal(error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found."))
        if self._access[token] <= self.now():
            raise Refusal(error(401, "EXPIRED_AUTHENTICATION", "The OAuth token used to make this call expired 3 hour(s) ago."))

    def _limit(self, recent: deque[datetime], calls: int | None, seconds: int, policy: str, name: str) -> None:
        if calls is None:
            return
        now = self.now()
        while recent and (now - recent[0]).total_seconds() >= seconds:
            recent.popleft()
        if len(recent) >= calls:
            raise Refusal(self._limited(policy, f"You have reached your {name} limit.", seconds))
        recent.append(now)

    def _limited(self, policy: str, message: str, wait: int | None) -> Response:
        answer = error(429, "RATE_LIMITS", message, errorType="RATE_LIMIT", policyName=policy)
        more = {"Retry-After": str(wait)} if wait and self.setup.retry_after else {}
        return Response(429, answer.body, {**answer.headers, **more})

    def _scope(self, name: str) -> None:
        scope = SCOPES[name]
        if scope not in self.setup.scopes:
            message = "This app hasn't been granted all required scopes to make this call."
            details = [{"message": "One or more of the following scopes are required.", "context": {"requiredGranularScopes": [scope]}}]
            raise Refusal(error(403, "MISSING_SCOPES", message, errors=details))

    # ── objects ───────────────────────────────────────────────────────────────────────────────────

    def _kind(self, name: str) -> Kind:
        if name not in NAMES:
            raise Refusal(error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {name}"))
        self._scope(NAMES[name])
        return self.portal.kinds[NAMES[name]]

    def list_objects(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        asked = _multiple(request.raw_query)
        history = asked.get("propertiesWithHistory", [])
        limit = int(request.query.get("limit", 10))
        most = self.setup.history_page_size if history else self.setup.page_size
        if not 0 < limit <= (50 if history else 100):
            raise Refusal(error(400, "VALIDATION_ERROR", f"limit must be at most {50 if history else 100}"))
        limit = min(limit, most)
        after = int(request.query.get("after", "0"))
        if self.setup.own_cursors_only and after and after not in self._cursors:
            raise Refusal(error(400, "VALIDATION_ERROR", "The after token is not valid."))
        archived = request.query.get("archived") == "true"
        page: list[Any] = []
        for record in self._from(kind, after):
            if self._archived(record) == archived and not (archived and self._purged(record)):
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

    def _archived(self, record: Any) -> bool:
        return getattr(record, "deleted_at", None) is not None

    def _purged(self, record: Any) -> bool:
        gone: datetime = record.deleted_at
        return self.now() - gone > timedelta(days=self.setup.archived_days)

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
            "archived": self._archived(record),
            "url": f"https://app-eu1.hubspot.com/contacts/{self.setup.portal}/record/{TYPES[kind.name][0]}/{identifier}",
        }
        if found["archived"]:
            found["archivedAt"] = instant(record.deleted_at)
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
        return [hs_id(to, n) for n in sorted(numbers) if (one := target.get(n)) is not None and not self._archived(one)]

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
        if record is None or self._archived(record) != (request.query.get("archived") == "true"):
            return Response(404, b"", {})
        return reply(self._json(kind, record, _multiple(request.raw_query)))

    def batch_read(self, request: Request) -> Response:
        kind = self._kind(request.args["type"])
        body = request.json()
        most = 50 if body.get("propertiesWithHistory") else 100
        if len(body["inputs"]) > most:
            raise Refusal(error(400, "VALIDATION_ERROR", f"at most {most} inputs"))
        results, gone = [], []
        for one in body["inputs"]:
            record = kind.get(number_of(kind.name, str(one["id"])))
            if record is None or self._archived(record):
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
        body = request.json() or {}
        limit, after = min(int(body.get("limit", 10)), self.setup.search_page_size), int(body.get("after") or 0)
        groups = body.get("filterGroups", [])
        if int(body.get("limit", 10)) > 200 or len(groups) > 5 or any(len(group["filters"]) > 10 for group in groups):
            raise Refusal(error(400, "VALIDATION_ERROR", "There was a problem with the request."))
        if after + limit > self.setup.search_cap:
            raise Refusal(
                error(400, "VALIDATION_ERROR", "There was a problem with the request.", errors=[{"message": "after + limit > 10000"}])
            )
        key = json.dumps([kind.name, groups, body.get("sorts"), self.company.version, self.now().isoformat()])
        if self._found[0] != key:
            self._found = (key, self._matching(kind, groups, body.get("sorts") or []))
        found = self._found[1]
        page = found[after : after + limit]
        asked = {"properties": body.get("properties", [])}
        answer: dict[str, Any] = {"total": len(found), "results": [self._json(kind, record, asked) for record in page]}
        if after + len(page) < min(len(found), self.setup.search_cap):
            answer["paging"] = {"next": {"after": str(after + len(page))}}
        return reply(answer)

    def _matching(self, kind: Kind, groups: Sequence[Mapping[str, Any]], sorts: Sequence[Any]) -> list[Any]:
        visible = self.now() - timedelta(seconds=self.setup.index_lag)
        tests = [[matches(kind, one) for one in group["filters"]] for group in groups]
        found = [
            record
            for record in kind.records.values()
            if not self._archived(record)
            and record.modified_at <= visible
            and (not tests or any(all(test(record) for test in group) for group in tests))
        ]
        for sort in reversed(sorts):
            name, descending = (sort, False) if isinstance(sort, str) else (sort["propertyName"], sort.get("direction") == "DESCENDING")
            found.sort(key=lambda record, name=name: comparable(kind, name, kind.properties[name].value(record)), reverse=descending)
        return found

    # ── associations ──────────────────────────────────────────────────────────────────────────────

    def associations(self, request: Request) -> Response:
        start, to = self._kind(request.args["from"]), NAMES.get(request.args["to"], "")
        inputs = request.json()["inputs"]
        if len(inputs) > 1_000:
            raise Refusal(error(400, "VALIDATION_ERROR", "at most 1000 inputs"))
        as_text = "version" in request.args
        results, none = [], []
        for one in inputs:
            record = start.get(number_of(start.name, str(one["id"])))
            ids = self._linked(start, record, to) if record is not None else []
            if ids:
                results.append(self._linked_page(start.name, to, str(one["id"]), ids, int(one.get("after") or 0), as_text=as_text))
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
        start, to = self._kind(request.args["from"]), NAMES.get(request.args["to"], "")
        record = start.get(number_of(start.name, request.args["id"]))
        ids = self._linked(start, record, to) if record is not None else []
        page = self._linked_page(start.name, to, request.args["id"], ids, int(request.query.get("after") or 0), as_text=False)
        return reply({"results": page["to"], **({"paging": page["paging"]} if "paging" in page else {})})

    # ── the portal ────────────────────────────────────────────────────────────────────────────────

    def pipelines(self, request: Request) -> Response:
        kind = self._kind(request.args["type"]).name
        if request.query.get("archived") == "true":
            return reply({"results": []})
        if kind == "leads":
            return reply({"results": [lead_pipeline()]})
        return reply({"results": [pipeline(one) for one in self.company.pipelines] if kind == "deals" else []})

    def pipeline(self, request: Request) -> Response:
        self._kind(request.args["type"])
        found = next((one for one in self.company.pipelines if pipeline_id(one) == request.args["id"]), None)
        return reply(pipeline(found)) if found else Response(404)

    def properties(self, request: Request) -> Response:
        return reply({"results": properties(self._kind(request.args["type"]))})

    def owners(self, request: Request) -> Response:
        self._scope("owners")
        archived = request.query.get("archived") == "true"
        limit, after = min(int(request.query.get("limit", 100)), 500), int(request.query.get("after") or 0)
        every = [one for one in self.company.owners.values() if one.active != archived and int(owner_id(one.n)) > after]
        answer: dict[str, Any] = {"results": [owner(one) for one in every[:limit]]}
        if len(every) > limit:
            answer["paging"] = {"next": {"after": owner_id(every[limit - 1].n)}}
        return reply(answer)

    def owner(self, request: Request) -> Response:
        self._scope("owners")
        found = next((one for one in self.company.owners.values() if owner_id(one.n) == request.args["id"]), None)
        return reply(owner(found)) if found else Response(404)

    def rates(self, request: Request) -> Response:
        self._scope("currencies")
        if not self.setup.multi_currency:
            raise Refusal(error(403, "BANNED", "This feature is not available on your plan."))
        rates = exchange_rates(self.company)
        if "current" in request.args:
            rates = list({rate["fromCurrencyCode"]: rate for rate in rates}.values())
        limit, after = 100, int(request.query.get("after") or 0)
        answer: dict[str, Any] = {"results": rates[after : after + limit]}
        if after + limit < len(rates):
            answer["paging"] = {"next": {"after": str(after + limit)}}
        return reply(answer)

    def company_currency(self, request: Request) -> Response:
        self._scope("currencies")
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
        row = {"name": "private-apps-api-calls-daily", "usageLimit": self.setup.daily_calls or 650_000, "currentUsage": self.calls}
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


def _no_association(start: str, to: str, identifier: str) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "OBJECT_NOT_FOUND",
        "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND",
        "message": f"No {to} is associated with {start} {identifier}.",
        "context": {"fromObjectId": [identifier], "fromObjectType": [start], "toObjectType": [to]},
    }
