"""Bulk API 2.0 queries of the sandbox's Salesforce: created, polled, read page by page as CSV, aborted, removed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from connector.sandbox.company import Company
from connector.sandbox.salesforce_objects import instant, sf_id
from connector.sandbox.salesforce_rows import Plan, Rows, refusal
from connector.sandbox.salesforce_settings import Setup
from connector.sandbox.server import Request, Response, Route, reply


@dataclass(slots=True)
class Job:
    id: str
    operation: str
    plan: Plan
    rows: list[Any]
    made: datetime
    polls: int
    state: str = "UploadComplete"

    def described(self, error: str) -> dict[str, Any]:
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
            about["errorMessage"] = error
        return about


class Jobs:
    """The query jobs of one org, by id."""

    def __init__(self, company: Company, setup: Setup, rows: Rows) -> None:
        self.company = company
        self.setup = setup
        self.rows = rows
        self.known: dict[str, Job] = {}
        self._made = 0

    def routes(self) -> Iterable[Route]:
        yield "POST", r"/jobs/query/?", self.create
        yield "GET", r"/jobs/query/(?P<job>\w+)/?", self.poll
        yield "GET", r"/jobs/query/(?P<job>\w+)/results/?", self.results
        yield "PATCH", r"/jobs/query/(?P<job>\w+)/?", self.abort
        yield "DELETE", r"/jobs/query/(?P<job>\w+)/?", self.delete

    def create(self, request: Request) -> Response:
        asked = request.json() or {}
        if asked.get("operation") not in ("query", "queryAll") or asked.get("contentType", "CSV") != "CSV":
            raise refusal(400, "INVALIDJOB", "operation and contentType")
        plan = self.rows.parsed(asked.get("query", ""))
        if not plan.object.bulk:
            raise refusal(400, "INVALIDENTITY", f"Entity '{plan.object.name}' is not supported by the Bulk API.")
        if plan.query.count or plan.query.offset or plan.query.group:
            raise refusal(400, "FEATURENOTENABLED", "no aggregates and no OFFSET in bulk")
        rows = self.rows.select(plan, everything=asked["operation"] == "queryAll")
        self._made += 1
        job = Job(sf_id("750", self._made), asked["operation"], plan, rows, self.company.now, self.setup.bulk_polls)
        self.known[job.id] = job
        return reply(job.described(self.setup.bulk_error))

    def poll(self, request: Request) -> Response:
        job = self._job(request)
        if job.state in ("UploadComplete", "InProgress"):
            job.polls -= 1
            job.state = "InProgress" if job.polls >= 0 else self.setup.bulk_end
        return reply(job.described(self.setup.bulk_error))

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
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000{self.setup.bulk_utc}"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, Decimal):
            return str(float(value))
        return f"{value}\0" if kind == "string" and self.setup.nul_bytes else str(value)

    def abort(self, request: Request) -> Response:
        job = self._job(request)
        job.state = "Aborted"
        return reply(job.described(self.setup.bulk_error))

    def delete(self, request: Request) -> Response:
        del self.known[self._job(request).id]
        return Response(204)

    def _job(self, request: Request) -> Job:
        job = self.known.get(request.args["job"])
        if job is None:
            raise refusal(404, "NOT_FOUND", "The requested resource does not exist")
        return job


def _base36(number: int) -> str:
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append("0123456789abcdefghijklmnopqrstuvwxyz"[digit])
    return "".join(reversed(digits)) or "0"
