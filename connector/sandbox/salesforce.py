"""The sandbox's Salesforce: OAuth, SOQL over REST, Bulk API 2.0 queries, describe, deletes, limits — over the generated company.

    org = SalesforceOrg(Company.generate())
    with serve(org) as running:
        ...                                  # running.url("salesforce")
        org.company.advance(3)

The server's clock is the company's. What a test may turn is in `Setup`; caps are small numbers there when traps shall bite early.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlencode

from connector.sandbox.company import Company
from connector.sandbox.salesforce_grants import Grants, basic
from connector.sandbox.salesforce_jobs import Job, Jobs
from connector.sandbox.salesforce_objects import SObject, instant, sf_id
from connector.sandbox.salesforce_org import objects
from connector.sandbox.salesforce_rows import Plan, Rows, error, refusal
from connector.sandbox.salesforce_settings import Setup
from connector.sandbox.server import Refusal, Request, Response, Route, Service, reply
from connector.sandbox.soql import Query

__all__ = ["SalesforceOrg", "Setup"]

VERSIONS: Final = tuple(float(number) for number in range(31, 69))
LONGEST_REQUEST: Final = 16_384
SECOND: Final = timedelta(seconds=1)


@dataclass(slots=True)
class Cursor:
    plan: Plan
    rows: list[Any]
    size: int
    path: str
    made: datetime


class SalesforceOrg(Service):
    """One org, one service. `used` counts API calls of the day; `logins` counts tokens given."""

    name = "salesforce"

    def __init__(self, company: Company, setup: Setup | None = None) -> None:
        self.company = company
        self.setup = setup or Setup()
        self.used = 0
        self.logins = 0
        self.rows = Rows(company, self.setup, lambda: self.objects(), lambda: self._every)  # noqa: PLW0108 — a test may replace `objects`
        self._jobs = Jobs(company, self.setup, self.rows)
        self._cursors: dict[str, Cursor] = {}
        self._tokens: dict[str, datetime] = {}
        self.grants = Grants(self.setup, company)
        self._lock = threading.RLock()
        self._numbers = 0

    @cached_property
    def _every(self) -> dict[str, SObject]:
        return objects(self.company, self.setup)

    def objects(self) -> dict[str, SObject]:
        return {name: one for name, one in self._every.items() if name not in self.setup.hidden_objects}

    @property
    def jobs(self) -> dict[str, Job]:
        return self._jobs.known

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
        ):
            yield "GET", data + name, self._guarded(handler)
        for method, name, job_handler in self._jobs.routes():
            yield method, data + name, self._guarded(job_handler)

    def refuse(self, status: int, message: str) -> Response:
        codes = {401: "INVALID_SESSION_ID", 404: "NOT_FOUND", 503: "SERVER_UNAVAILABLE"}
        return error(status, codes.get(status, "UNKNOWN_EXCEPTION"), message)

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
                extra = self.grants.granted(form, request.headers.get("Host", "").partition(":")[0])
            except Refusal as refused:
                return refused.response
        answer = {
            "access_token": self.sign_in(),
            "instance_url": self.setup.instance_url or request.base,
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
                    return self._dated(error(401, "INVALID_SESSION_ID", "Session expired or invalid"))
                if "api" not in self.setup.scope.split():
                    return self._dated(error(401, "INVALID_SESSION_ID", "This session is not valid for use with the REST API"))
                if len(request.path) + len(urlencode(request.query)) + sum(map(len, request.headers.values())) > LONGEST_REQUEST:
                    return self._dated(
                        Response(414, b"<h1>Bad Message 414</h1><pre>reason: URI Too Long</pre>", {"Content-Type": "text/html"})
                    )
                if float(request.args["version"]) not in VERSIONS:
                    return self._dated(error(404, "NOT_FOUND", "The requested resource does not exist"))
                if self.used >= self.setup.daily_calls:
                    return self._dated(error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."))
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

    def list_objects(self, request: Request) -> Response:
        return reply({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": [{"name": name, "queryable": True} for name in self.objects()]})

    def describe(self, request: Request) -> Response:
        thing = self.rows.object(request.args["object"], 404, "NOT_FOUND")
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
        thing = self.rows.object(request.args["object"], 404, "NOT_FOUND")
        wanted = request.args["id"]
        for row in thing.rows():
            found = thing.fields["Id"].value(row)
            if wanted in (found, found[:15]) and not self.rows.gone(row):
                plan = self.rows.plan(Query(tuple(thing.fields), thing.name))
                return reply(self.rows.json(plan, row, request.args["version"]))
        raise refusal(404, "NOT_FOUND", "The requested resource does not exist")

    def deleted(self, request: Request) -> Response:
        thing = self.rows.object(request.args["object"])
        now = self.company.now
        start, end = (datetime.fromisoformat(request.query[name].replace(" ", "+")) for name in ("start", "end"))
        earliest = now - timedelta(days=self.setup.deletes_known_days)
        covered = min(end, now - timedelta(seconds=self.setup.deletes_lag_seconds))
        if end - start > timedelta(days=30) or start >= end:
            raise refusal(400, "INVALID_REPLICATION_DATE", "startDate before endDate, at most 30 days apart")
        if start < earliest - timedelta(days=1):
            raise refusal(400, "INVALID_REPLICATION_DATE", "startDate is too far in the past")
        gone = [
            {"id": thing.fields["Id"].value(row), "deletedDate": instant(row.deleted_at)}
            for row in thing.rows()
            if getattr(row, "deleted_at", None) and max(start, earliest) <= row.deleted_at < min(end, covered + SECOND)
        ]
        return reply({"deletedRecords": gone, "earliestDateAvailable": instant(earliest), "latestDateCovered": instant(covered)})

    def updated(self, request: Request) -> Response:
        thing = self.rows.object(request.args["object"])
        start, end = (datetime.fromisoformat(request.query[name].replace(" ", "+")) for name in ("start", "end"))
        ids = [thing.fields["Id"].value(row) for row in thing.rows() if start <= row.modified_at < end and not self.rows.gone(row)]
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
        values = [
            {"label": stage.label, "value": stage.name, "validFor": []}
            for stage in pipeline.stages
            if stage.name not in self.setup.inactive_stages
        ]
        return reply({"controllerValues": {}, "defaultValue": None, "values": values})

    # ── SOQL ──────────────────────────────────────────────────────────────────────────────────────

    def query(self, request: Request) -> Response:
        return self._first(request, everything=False)

    def query_all(self, request: Request) -> Response:
        return self._first(request, everything=True)

    def _first(self, request: Request, *, everything: bool) -> Response:
        plan = self.rows.parsed(request.query.get("q", ""))
        if plan.query.offset > 2_000:
            raise refusal(400, "NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000")
        rows = self.rows.select(plan, everything=everything)
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
        return reply({**answer, "records": [self.rows.json(cursor.plan, row, request.args["version"]) for row in rows]})
