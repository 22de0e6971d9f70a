"""The sandbox's Salesforce: OAuth, SOQL over REST, Bulk API 2.0 queries, describe, deletes, limits — over the generated company.

    org = SalesforceOrg(Company.generate())
    with serve(org) as running:
        ...                                  # running.url("salesforce")
        org.company.advance(3)

The server's clock is the company's. What a test may turn is in `Setup`; caps are small numbers there when traps shall bite early.
"""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from functools import cached_property
from typing import Any, Final, Literal
from urllib.parse import urlencode

from connector.sandbox.company import Company
from connector.sandbox.salesforce_grants import App, Grants, basic
from connector.sandbox.salesforce_objects import Field, SObject, instant, objects, sf_id
from connector.sandbox.server import Refusal, Request, Response, Route, Service, reply
from connector.sandbox.soql import Query, SoqlError, parse

VERSIONS: Final = tuple(float(number) for number in range(31, 69))
LONGEST_REQUEST: Final = 16_384


@dataclass(slots=True)
class Setup(App):
    """How this org is set up and how far its limits go."""

    session_seconds: int = 7_200
    multi_currency: bool = True
    dated_rates: bool = True
    record_types: bool = True
    picklists_by_record_type: bool = True
    hidden_objects: frozenset[str] = frozenset()
    hidden_fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    custom_fields: int = 0
    page_size: int = 2_000
    cursor_days: float = 2
    bulk_page: int = 50_000
    bulk_polls: int = 1
    bulk_end: Literal["JobComplete", "Failed", "Aborted"] = "JobComplete"
    nul_bytes: bool = False
    daily_calls: int = 100_000
    recycle_bin_days: int = 15
    deletes_known_days: int = 30


@dataclass(slots=True)
class Cursor:
    plan: Plan
    rows: list[Any]
    size: int
    path: str
    made: datetime


@dataclass(slots=True)
class Job:
    id: str
    operation: str
    plan: Plan
    rows: list[Any]
    made: datetime
    polls: int
    state: str = "UploadComplete"

    def described(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "id": self.id,
            "operation": self.operation,
            "object": self.plan.object.name,
            "createdById": sf_id("005", 1),
            "createdDate": instant(self.made),
            "systemModstamp": instant(self.made),
            "state": self.state,
            "concurrencyMode": "Parallel",
            "contentType": "CSV",
            "apiVersion": 67.0,
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
        }
        if self.state in ("JobComplete", "Failed", "Aborted"):
            about |= {"jobType": "V2Query", "numberRecordsProcessed": len(self.rows), "retries": 0, "totalProcessingTime": 12}
        if self.state == "Failed":
            about["errorMessage"] = "BULK_API_ERROR: the sandbox was told to fail this job"
        return about


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked query: the object, and what gives each selected path."""

    object: SObject
    query: Query
    columns: tuple[tuple[str, str, Callable[[Any], Any]], ...]


def refusal(status: int, code: str, message: str) -> Refusal:
    return Refusal(_error(status, code, message))


def _error(status: int, code: str, message: str) -> Response:
    return reply([{"message": message, "errorCode": code}], status)


class SalesforceOrg(Service):
    """One org, one service. `used` counts API calls of the day; `logins` counts tokens given."""

    name = "salesforce"

    def __init__(self, company: Company, setup: Setup | None = None) -> None:
        self.company = company
        self.setup = setup or Setup()
        self.used = 0
        self.logins = 0
        self.jobs: dict[str, Job] = {}
        self._cursors: dict[str, Cursor] = {}
        self._tokens: dict[str, datetime] = {}
        self.grants = Grants(self.setup, company)
        self._lock = threading.RLock()
        self._numbers = 0

    @cached_property
    def _every(self) -> dict[str, SObject]:
        setup = self.setup
        return objects(self.company, multi_currency=setup.multi_currency, dated_rates=setup.dated_rates, record_types=setup.record_types)

    def objects(self) -> dict[str, SObject]:
        return {name: one for name, one in self._every.items() if name not in self.setup.hidden_objects}

    def expire_sessions(self) -> None:
        """Every access token given so far is dead."""
        self._tokens.clear()

    def expire_cursors(self) -> None:
        self._cursors.clear()

    def routes(self) -> Iterable[Route]:
        data = r"/services/data/v(?P<version>\d+\.\d)"
        yield "GET", r"/services/data/?", self.versions
        yield "POST", r"/services/oauth2/token", self.token
        for name, handler in (
            (r"/query/?", self.query),
            (r"/queryAll/?", self.query_all),
            (r"/(?:query|queryAll)/(?P<locator>[^/]+)", self.more),
            (r"/sobjects/?", self.list_objects),
            (r"/sobjects/(?P<object>\w+)/describe/?", self.describe),
            (r"/sobjects/(?P<object>\w+)/deleted/?", self.deleted),
            (r"/sobjects/(?P<object>\w+)/updated/?", self.updated),
            (r"/sobjects/(?P<object>\w+)/(?P<id>\w{15,18})", self.record),
            (r"/limits/?", self.limits),
            (r"/ui-api/object-info/Opportunity/picklist-values/(?P<record_type>\w+)/StageName", self.picklist),
            (r"/jobs/query/(?P<job>\w+)/?", self.poll),
            (r"/jobs/query/(?P<job>\w+)/results/?", self.results),
        ):
            yield "GET", data + name, self._guarded(handler)
        yield "POST", data + r"/jobs/query/?", self._guarded(self.create_job)
        yield "PATCH", data + r"/jobs/query/(?P<job>\w+)/?", self._guarded(self.abort_job)
        yield "DELETE", data + r"/jobs/query/(?P<job>\w+)/?", self._guarded(self.delete_job)

    def refuse(self, status: int, message: str) -> Response:
        codes = {401: "INVALID_SESSION_ID", 404: "NOT_FOUND", 503: "SERVER_UNAVAILABLE"}
        return _error(status, codes.get(status, "UNKNOWN_EXCEPTION"), message)

    # ── signing in ────────────────────────────────────────────────────────────────────────────────

    def versions(self, request: Request) -> Response:
        return self._dated(
            reply([{"label": f"v{one:g}", "url": f"/services/data/v{one:.1f}", "version": f"{one:.1f}"} for one in VERSIONS])
        )

    def token(self, request: Request) -> Response:
        form = {**basic(request.headers.get("Authorization", "")), **request.form()}
        with self._lock:
            self.logins += 1
            try:
                extra = self.grants.granted(form)
            except Refusal as refused:
                return refused.response
        answer = {
            "access_token": self.sign_in(),
            "instance_url": request.base,
            "id": f"https://login.salesforce.com/id/{sf_id('00D', 1)}/{sf_id('005', 1)}",
            "token_type": "Bearer",
            "issued_at": str(int(self.company.now.timestamp() * 1000)),
            "signature": "c2FuZGJveA==",
            **extra,
        }
        return self._dated(reply(answer))

    def sign_in(self) -> str:
        """A session, as if somebody had signed in."""
        with self._lock:
            self._numbers += 1
            token = f"00DHs!AQ.sandbox.{self._numbers}"
            self._tokens[token] = self.company.now + timedelta(seconds=self.setup.session_seconds)
        return token

    def _guarded(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """A live session, a version that exists, and calls left today."""

        def guarded(request: Request) -> Response:
            with self._lock:
                scheme, _, token = request.headers.get("Authorization", "").partition(" ")
                if scheme != "Bearer" or self._tokens.get(token, self.company.start) <= self.company.now:
                    return self._dated(_error(401, "INVALID_SESSION_ID", "Session expired or invalid"))
                if len(request.path) + len(urlencode(request.query)) + sum(map(len, request.headers.values())) > LONGEST_REQUEST:
                    return self._dated(
                        Response(414, b"<h1>Bad Message 414</h1><pre>reason: URI Too Long</pre>", {"Content-Type": "text/html"})
                    )
                if float(request.args["version"]) not in VERSIONS:
                    return self._dated(_error(404, "NOT_FOUND", "The requested resource does not exist"))
                if self.used >= self.setup.daily_calls:
                    return self._dated(_error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."))
                self.used += 1
                try:
                    answer = handler(request)
                except Refusal as refused:
                    answer = refused.response
            usage = f"api-usage={self.used}/{self.setup.daily_calls}; per-app-api-usage={self.used}/{self.setup.daily_calls}(appName=etl)"
            return self._dated(Response(answer.status, answer.body, {**answer.headers, "Sforce-Limit-Info": usage}))

        return guarded

    def _dated(self, response: Response) -> Response:
        return Response(response.status, response.body, {**response.headers, "Date": format_datetime(self.company.now, usegmt=True)})

    # ── objects ───────────────────────────────────────────────────────────────────────────────────

    def _object(self, name: str, status: int = 400, code: str = "INVALID_TYPE") -> SObject:
        found = {each.casefold(): one for each, one in self.objects().items()}.get(name.casefold())
        if found is None:
            raise refusal(status, code, f"sObject type '{name}' is not supported.")
        hidden = self.setup.hidden_fields.get(found.name, frozenset())
        fields = {each: kind for each, kind in found.fields.items() if each not in hidden}
        if found.name == "Opportunity":
            fields |= {
                f"Extra_{number:03}__c": Field("string", lambda deal: deal.name) for number in range(1, self.setup.custom_fields + 1)
            }
        return replace(found, fields=fields)

    def list_objects(self, request: Request) -> Response:
        return reply({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": [{"name": name, "queryable": True} for name in self.objects()]})

    def describe(self, request: Request) -> Response:
        thing = self._object(request.args["object"], 404, "NOT_FOUND")
        fields = [
            {
                "name": name,
                "label": name,
                "type": kind.type,
                "calculated": False,
                "nillable": name != "Id",
                "custom": name.endswith("__c"),
                "filterable": True,
                "picklistValues": [],
                "length": 255,
            }
            for name, kind in thing.fields.items()
        ]
        return reply(
            {
                "name": thing.name,
                "keyPrefix": thing.prefix,
                "queryable": True,
                "replicateable": "IsDeleted" in thing.fields,
                "custom": False,
                "fields": fields,
            }
        )

    def record(self, request: Request) -> Response:
        thing = self._object(request.args["object"], 404, "NOT_FOUND")
        wanted = request.args["id"]
        for row in thing.rows():
            found = thing.fields["Id"].value(row)
            if wanted in (found, found[:15]) and not self._gone(row):
                plan = self._plan(Query(tuple(thing.fields), thing.name, None, (), (), None, 0, False, (), ()))
                return reply(self._json(plan, row, request.args["version"]))
        raise refusal(404, "NOT_FOUND", "The requested resource does not exist")

    def deleted(self, request: Request) -> Response:
        thing = self._object(request.args["object"])
        now = self.company.now
        start, end = (datetime.fromisoformat(request.query[name].replace(" ", "+")) for name in ("start", "end"))
        earliest = now - timedelta(days=self.setup.deletes_known_days)
        if end - start > timedelta(days=30) or start >= end:
            raise refusal(400, "INVALID_REPLICATION_DATE", "startDate before endDate, at most 30 days apart")
        if start < earliest - timedelta(days=1):
            raise refusal(400, "INVALID_REPLICATION_DATE", "startDate is too far in the past")
        gone = [
            {"id": thing.fields["Id"].value(row), "deletedDate": instant(row.deleted_at)}
            for row in thing.rows()
            if getattr(row, "deleted_at", None) and max(start, earliest) <= row.deleted_at < end
        ]
        return reply({"deletedRecords": gone, "earliestDateAvailable": instant(earliest), "latestDateCovered": instant(min(end, now))})

    def updated(self, request: Request) -> Response:
        thing = self._object(request.args["object"])
        start, end = (datetime.fromisoformat(request.query[name].replace(" ", "+")) for name in ("start", "end"))
        ids = [thing.fields["Id"].value(row) for row in thing.rows() if start <= row.modified_at < end and not self._gone(row)]
        return reply({"ids": ids, "latestDateCovered": instant(min(end, self.company.now))})

    def limits(self, request: Request) -> Response:
        left = self.setup.daily_calls - self.used
        return reply(
            {
                "DailyApiRequests": {"Max": self.setup.daily_calls, "Remaining": left},
                "DailyBulkV2QueryJobs": {"Max": 10_000, "Remaining": 10_000 - len(self.jobs)},
            }
        )

    def picklist(self, request: Request) -> Response:
        wanted = request.args["record_type"]
        pipeline = next((one for one in self.company.pipelines if sf_id("012", one.n) == wanted), None)
        if pipeline is None or not self.setup.picklists_by_record_type:
            raise refusal(404, "NOT_FOUND", "The requested resource does not exist")
        values = [{"label": stage.label, "value": stage.name, "validFor": []} for stage in pipeline.stages]
        return reply({"controllerValues": {}, "defaultValue": None, "values": values})

    # ── SOQL ──────────────────────────────────────────────────────────────────────────────────────

    def query(self, request: Request) -> Response:
        return self._first(request, everything=False)

    def query_all(self, request: Request) -> Response:
        return self._first(request, everything=True)

    def _first(self, request: Request, *, everything: bool) -> Response:
        plan = self._parsed(request.query.get("q", ""))
        if plan.query.offset > 2_000:
            raise refusal(400, "NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000")
        rows = self._select(plan, everything=everything)
        if plan.query.count:
            return reply({"totalSize": len(rows), "done": True, "records": []})
        wanted = re.search(r"batchSize=(\d+)", request.headers.get("Sforce-Query-Options", ""))
        size = min(self.setup.page_size, max(200, int(wanted[1]))) if wanted else self.setup.page_size
        self._numbers += 1
        key = f"0r8Hs{self._numbers:011}"
        path = f"/services/data/v{request.args['version']}/{'queryAll' if everything else 'query'}/{key}"
        self._cursors[key] = Cursor(plan, rows, size, path, self.company.now)
        return self._page(key, 0, request)

    def more(self, request: Request) -> Response:
        if request.query:
            request.violate("a page's address was changed")
        key, _, start = request.args["locator"].partition("-")
        return self._page(key, int(start or 0), request)

    def _page(self, key: str, start: int, request: Request) -> Response:
        cursor = self._cursors.get(key)
        if cursor is None or self.company.now - cursor.made > timedelta(days=self.setup.cursor_days):
            raise refusal(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        rows = cursor.rows[start : start + cursor.size]
        end = start + len(rows)
        answer: dict[str, Any] = {"totalSize": len(cursor.rows), "done": end >= len(cursor.rows)}
        if end < len(cursor.rows):
            answer["nextRecordsUrl"] = f"{cursor.path}-{end}"
        return reply({**answer, "records": [self._json(cursor.plan, row, request.args["version"]) for row in rows]})

    def _parsed(self, text: str) -> Plan:
        try:
            query = parse(text, lambda inner: self._values(self._plan(inner)))
        except SoqlError as error:
            raise refusal(400, "MALFORMED_QUERY", f"\n{text}\n^\nERROR at Row:1:Column:1\n{error}") from error
        return self._plan(query)

    def _plan(self, query: Query) -> Plan:
        thing = self._object(query.object)
        columns = tuple((path, *self._path(thing, path)) for path in query.fields)
        for path in query.asked:
            self._path(thing, path)
        if query.nested:
            raise refusal(400, "MALFORMED_QUERY", "the sandbox has no child relationships in SELECT")
        return Plan(thing, query, columns)

    def _path(self, thing: SObject, path: str) -> tuple[str, Callable[[Any], Any]]:
        """Type and value of a field by path, through parents. Raises INVALID_FIELD."""
        name, _, rest = path.partition(".")
        if rest:
            parent = {each.casefold(): one for each, one in thing.parents.items()}.get(name.casefold())
            if parent is None:
                raise refusal(400, "INVALID_FIELD", f"Didn't understand relationship '{name}' in field path.")
            kind, inner = self._path(self._object(parent[0]), rest)
            step = parent[1]
            return kind, lambda row: None if (found := step(row)) is None else inner(found)
        found = {each.casefold(): kind for each, kind in thing.fields.items()}.get(name.casefold())
        if found is None:
            raise refusal(400, "INVALID_FIELD", f"No such column '{name}' on entity '{thing.name}'.")
        return found.type, found.value

    def _values(self, plan: Plan) -> set[Any]:
        return {plan.columns[0][2](row) for row in self._select(plan, everything=False)}

    def _select(self, plan: Plan, *, everything: bool) -> list[Any]:
        query, thing = plan.query, plan.object
        for path, sign, value in query.bounds:
            kind = self._path(thing, path)[0]
            if kind == "datetime" and isinstance(value, date) and not isinstance(value, datetime):
                raise refusal(400, "INVALID_FIELD", f"value of filter criterion for field '{path}' must be of type dateTime ({sign})")
        getters: dict[str, Callable[[Any], Any]] = {path: self._path(thing, path)[1] for path in query.asked}
        rows = []
        for row in thing.rows():
            if self._purged(row) or (not everything and (self._gone(row) or thing.archived(row))):
                continue
            if query.where is None or query.where(lambda path, row=row: getters[path](row)):  # type: ignore[misc]
                rows.append(row)
        for path, descending in reversed(query.order):
            rows.sort(key=lambda row, get=getters[path]: _sortable(get(row)), reverse=descending)  # type: ignore[misc]
        return rows[query.offset : None if query.limit is None else query.offset + query.limit]

    def _gone(self, row: Any) -> bool:
        return _deleted_at(row) is not None

    def _purged(self, row: Any) -> bool:
        """Out of the recycle bin: no query sees it any more."""
        gone = _deleted_at(row)
        return gone is not None and self.company.now - gone > timedelta(days=self.setup.recycle_bin_days)

    def _json(self, plan: Plan, row: Any, version: str) -> dict[str, Any]:
        thing = plan.object
        url = f"/services/data/v{version}/sobjects/{thing.name}/{thing.fields['Id'].value(row)}" if "Id" in thing.fields else ""
        record: dict[str, Any] = {"attributes": {"type": thing.name, "url": url}}
        for path, _, value in plan.columns:
            parts = path.split(".")
            place, here, at = record, thing, row
            for name in parts[:-1]:
                kind, step = here.parents[name]
                here, at = self._every[kind], step(at)
                if at is None:
                    place[name] = None
                    break
                place = place.setdefault(name, {"attributes": {"type": kind, "url": ""}})
            else:
                place[parts[-1]] = _wire(value(row))
        return record

    # ── Bulk API 2.0 ──────────────────────────────────────────────────────────────────────────────

    def create_job(self, request: Request) -> Response:
        asked = request.json() or {}
        if asked.get("operation") not in ("query", "queryAll") or asked.get("contentType", "CSV") != "CSV":
            raise refusal(400, "INVALIDJOB", "operation and contentType")
        plan = self._parsed(asked.get("query", ""))
        if not plan.object.bulk:
            raise refusal(400, "INVALIDENTITY", f"Entity '{plan.object.name}' is not supported by the Bulk API.")
        if plan.query.count or plan.query.offset:
            raise refusal(400, "FEATURENOTENABLED", "no aggregates and no OFFSET in bulk")
        rows = self._select(plan, everything=asked["operation"] == "queryAll")
        job = Job(sf_id("750", len(self.jobs) + 1), asked["operation"], plan, rows, self.company.now, self.setup.bulk_polls)
        self.jobs[job.id] = job
        return reply(job.described())

    def poll(self, request: Request) -> Response:
        job = self._job(request)
        if job.state in ("UploadComplete", "InProgress"):
            job.polls -= 1
            job.state = "InProgress" if job.polls >= 0 else self.setup.bulk_end
        return reply(job.described())

    def results(self, request: Request) -> Response:
        job = self._job(request)
        if job.state != "JobComplete":
            raise refusal(400, "INVALIDJOBSTATE", f"the job is {job.state}")
        start = int(request.query.get("locator", "0"), 36)
        size = min(self.setup.bulk_page, int(request.query.get("maxRecords", self.setup.bulk_page)))
        rows = job.rows[start : start + size]
        end = start + len(rows)
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow([path for path, _, _ in job.plan.columns])
        for row in rows:
            writer.writerow([self._csv(kind, value(row)) for _, kind, value in job.plan.columns])
        headers = {
            "Content-Type": "text/csv",
            "Sforce-NumberOfRecords": str(len(rows)),
            "Sforce-Locator": _base36(end) if end < len(job.rows) else "null",
        }
        return Response(200, text.getvalue().encode(), headers)

    def _csv(self, kind: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, datetime):
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, Decimal):
            return str(float(value))
        return f"{value}\0" if kind == "string" and self.setup.nul_bytes else str(value)

    def abort_job(self, request: Request) -> Response:
        job = self._job(request)
        job.state = "Aborted"
        return reply(job.described())

    def delete_job(self, request: Request) -> Response:
        del self.jobs[self._job(request).id]
        return Response(204)

    def _job(self, request: Request) -> Job:
        job = self.jobs.get(request.args["job"])
        if job is None:
            raise refusal(404, "NOT_FOUND", "The requested resource does not exist")
        return job


def _deleted_at(row: Any) -> datetime | None:
    record = row[0] if isinstance(row, tuple) else row
    found: datetime | None = getattr(record, "deleted_at", None)
    return found


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _sortable(value: Any) -> tuple[bool, Any]:
    return value is not None, value


def _base36(number: int) -> str:
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append("0123456789abcdefghijklmnopqrstuvwxyz"[digit])
    return "".join(reversed(digits)) or "0"
