"""One Salesforce org: sessions, errors in our words, SOQL over REST and Bulk API 2.0.

Facts: REST API and Bulk API 2.0 developer guides. What is done here because others fell into it:

* `instance_url` of the token answer is the address for everything, never the login host; a configured `base_url` wins.
* A refused session is renewed once and the request repeated; several threads share one sign-in.
* The day's call budget is read from a header that may say more than one thing; a used-up day ends the run, it is not waited for.
* A Bulk job ends as JobComplete, Failed or Aborted; its last page says the word "null"; its CSV may hold NUL bytes, and its text may
  be "NA" or "None" and mean it.
* The next page of a query is an address to be followed as it is.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from typing import Any, Final
from urllib.parse import quote, urljoin

from connector.auth.oauth import Grant, OAuth
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError
from connector.http import Session, host
from connector.pages import Answer, Ask, HeaderCursor, NextUrl, Part, walk
from connector.resume import PlaceLostError, Step

log = logging.getLogger(__name__)

Record = dict[str, Any]
LONGEST_ADDRESS: Final = 12_000  # of 16,384 bytes for the address and headers together
BULK_ROWS: Final = 10_000
SLOWEST_POLL: Final = 30.0
BUSY: Final = frozenset({"SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW", "TXN_SECURITY_METERING_ERROR", "UNKNOWN_EXCEPTION"})
GONE_PLACES: Final = frozenset({"INVALID_QUERY_LOCATOR", "QUERY_TIMEOUT"})
_USAGE: Final = re.compile(r"(?:^|[;,\s])api-usage=(\d+)/(\d+)")

#: what to do about the token endpoint's refusals, by a word of its answer
REMEDIES: Final = {
    "request not supported on this domain": "name your My Domain in `domain`, e.g. acme.my.salesforce.com, not login or test",
    "no client credentials user enabled": "choose a run-as user in the app's client-credentials settings",
    "client identifier invalid": "check client_id: it is the consumer key of the External Client App",
    "invalid_client": "check client_id and client_secret; a new secret may have been made",
    "hasn't approved this consumer": "authorise the app for the user beforehand (app policies: admin approved users, and a permission set)",
    "audience is invalid": "set auth.audience to https://login.salesforce.com, or https://test.salesforce.com for a sandbox org",
    "invalid assertion": "the private key does not belong to the certificate of the app",
    "expired authorization code": "check this machine's clock: the assertion lives for three minutes",
    "expired access/refresh token": "the refresh token was revoked or used twice: sign in again and put the new one into auth.refresh_token",
    "unsupported_grant_type": "enable this OAuth flow in the app's settings",
}


class Refused(SourceError):  # noqa: N818 — Salesforce's word for it
    """Salesforce said no to this request: status, errorCode, and the last line of its message (for us; it is never shown)."""

    def __init__(self, place: str, status: int, code: str, reason: str) -> None:
        super().__init__(f"{place}: {status} {code}".strip())
        self.status = status
        self.code = code
        self.reason = reason


class Org:
    """`base_url` wins over the `domain`; `budget` is the share of the day's calls after which reading stops."""

    def __init__(self, session: Session, *, domain: str, base_url: str | None, auth: Grant, version: str, budget: float) -> None:
        self.session = session
        self.place = f"Salesforce {host(base_url or f'https://{domain}')}"
        self._fixed = base_url.rstrip("/") if base_url else None
        self._budget = budget
        self._data = f"/services/data/{version}"
        self._started: datetime | None = None
        login = f"{self._fixed or f'https://{domain}'}/services/oauth2/token"
        self._oauth = OAuth(auth, login, session, place=self.place, explain=self._explain)
        self.describe = cache(self._describe)

    @cached_property
    def started(self) -> datetime:
        """The org's own clock before the first data was asked for: a skewed clock here loses nothing."""
        if self._started is None:
            self.versions()
        assert self._started is not None
        return self._started

    # ── asking ────────────────────────────────────────────────────────────────────────────────────

    def get(self, path: str) -> Any:
        """A resource below /services/data/vXX.X. Raises Refused."""
        return self.fetch(Ask(self._data + path)).body

    def fetch(self, ask: Ask) -> Answer:
        """The JSON answer to a request of this org. Raises Refused for what is about the request, our errors for all else."""
        response = self.send(ask)
        try:
            return Answer(json.loads(response.text, parse_float=Decimal) if response.content else None, response.headers)
        except ValueError as error:
            raise SourceError(f"{self.place}: the answer is not JSON", remedy="is this the address of a Salesforce org?") from error

    def send(self, ask: Ask) -> Any:
        patience, wait = self.session.network.max_wait, 1.0
        renewed = False
        while True:
            token = self._oauth.token()
            base = self._fixed or str(token.answer.get("instance_url", "")).rstrip("/")
            response = self.session.ask(
                ask.method,
                urljoin(base + "/", ask.url.lstrip("/")),
                where=self.place,
                params=dict(ask.params) or None,
                json=ask.json,
                headers={"Authorization": f"Bearer {token.text}", "Accept-Encoding": "gzip", **ask.headers},
                repeatable=True,
            )
            self._note(response.headers)
            if response.ok:
                return response
            refused = _refused(self.place, response)
            if response.status_code == 401 and not renewed:
                self._oauth.renew(token)
                renewed = True
            elif _busy(refused) and wait <= patience:
                self.session.sleep(wait)
                patience, wait = patience - wait, wait * 2
            else:
                raise self._error(refused)

    def _note(self, headers: Mapping[str, str]) -> None:
        """Keep the org's time of the first answer; stop when the day's budget is used."""
        if self._started is None:
            self._started = parsedate_to_datetime(headers["Date"]).astimezone(UTC) if "Date" in headers else self.session.now()
        usage = _USAGE.search(headers.get("Sforce-Limit-Info", ""))
        if usage and int(usage[1]) >= self._budget * int(usage[2]):
            raise TransientError(
                f"{self.place}: {int(usage[1]):,} of {int(usage[2]):,} API calls of the last 24 hours are used, "
                f"and api_budget leaves the rest to others",
                remedy="run later, raise api_budget, or schedule less often",
            )

    def _error(self, refused: Refused) -> ConnectorError:
        """Ours where the request is not to blame."""
        status, code = refused.status, refused.code
        if status == 401:
            return AuthError(f"{self.place}: the session was refused twice", remedy="check the app's policies and the user's IP ranges")
        if code == "REQUEST_LIMIT_EXCEEDED" and "Concurrent" not in refused.reason:
            return TransientError(
                f"{self.place}: the API calls of the last 24 hours are used up", remedy="run later, or ask Salesforce for a higher limit"
            )
        if code in ("API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED", "FUNCTIONALITY_NOT_ENABLED"):
            return AuthError(f"{self.place}: {code}", remedy="the edition or profile lacks API access: grant 'API Enabled' to the user")
        if status == 403 and code not in ("", "NOT_FOUND"):
            return AuthError(f"{self.place}: {code or status}", remedy="give the connected user read permission")
        if status == 429 or status >= 500 or status in (406, 420) or _busy(refused):
            return TransientError(str(refused), remedy="the next run tries again")
        return refused

    def _explain(self, error: str, description: str) -> AuthError:
        said = f"{error}: {description}" if description else error
        remedy = next(
            (remedy for word, remedy in REMEDIES.items() if word in said), "check `auth` against the app's settings in Salesforce"
        )
        return AuthError(f"{self.place}: signing in was refused ({said})", remedy=remedy)

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    @cached_property
    def objects(self) -> frozenset[str]:
        """The objects the user may see."""
        return frozenset(one["name"] for one in self.get("/sobjects")["sobjects"])

    def _describe(self, name: str) -> dict[str, str] | None:
        """Fields the user may see and their types; None when the object is not there for this user."""
        if name not in self.objects:
            return None
        return {field["name"]: field["type"] for field in self.get(f"/sobjects/{name}/describe")["fields"]}

    def versions(self) -> list[str]:
        """API versions the org speaks, oldest first; costs no call of the budget."""
        return [f"v{one['version']}" for one in self.fetch(Ask("/services/data")).body]

    def rows(self, soql: str, *, everything: bool = False) -> Iterator[Record]:
        """The records of a small query, with what is in the recycle bin and the archive if `everything`."""
        for part in self.query(soql, everything=everything):
            yield from map(_plain, part.records)

    def query(self, soql: str, *, everything: bool = False) -> Iterator[Part]:
        return self.parts(Ask(f"{self._data}/{'queryAll' if everything else 'query'}", {"q": soql}))

    def parts(self, ask: Ask) -> Iterator[Part]:
        """Pages of a query from a request on; only a whole walk is held against the announced total."""
        total = "totalSize" if "q" in ask.params else None
        try:
            yield from walk(self.fetch, ask, NextUrl("nextRecordsUrl"), place=self.place, records="records", total=total)
        except Refused as refused:
            if refused.code in GONE_PLACES:
                raise PlaceLostError(
                    f"{self.place}: the query could not be read to its end ({refused.code})",
                    remedy="run again; if it stays, lower bulk_from so that a Bulk job reads it",
                ) from refused
            raise

    def deleted(self, name: str, since: datetime) -> list[str] | None:
        """Ids purged or deleted since then; None when the org no longer knows all of them."""
        window = {"start": stamp(since.replace(second=0)), "end": stamp(self.started.replace(second=0), minutes=1)}
        try:
            answer = self.fetch(Ask(f"{self._data}/sobjects/{name}/deleted/", window)).body
        except Refused as refused:
            if refused.code == "INVALID_REPLICATION_DATE":
                return None
            raise
        earliest = answer.get("earliestDateAvailable")
        if earliest and datetime.fromisoformat(earliest) > since:
            return None
        return [one["id"] for one in answer["deletedRecords"]]

    # ── many rows ─────────────────────────────────────────────────────────────────────────────────

    def steps(self, soql: str, types: Mapping[str, str], place: Any, *, everything: bool, bulk_from: int) -> Iterator[Step]:
        """Every record of a query, by REST or, where it announces `bulk_from` rows or more, by a Bulk job; from a place on.

        Raises PlaceLostError when the org no longer knows the place.
        """
        if place and "job" in place:
            yield from self._results(place, types)
            return
        ask = Ask(place["next"]) if place else Ask(f"{self._data}/{'queryAll' if everything else 'query'}", {"q": soql})
        if not place and len(quote(soql)) > LONGEST_ADDRESS:
            yield from self._bulk(soql, types, everything=everything)
            return
        for part in self.parts(ask):
            if "q" in ask.params and part.following and (part.total or 0) >= bulk_from:
                try:
                    yield from self._bulk(soql, types, everything=everything)
                except Refused as refused:
                    log.info("%s; no Bulk job for this query, going on by REST", refused)
                else:
                    return
            bulk_from = 1 << 60
            yield Step([_plain(record) for record in part.records], {"next": part.following.url} if part.following else None, part.total)

    def _bulk(self, soql: str, types: Mapping[str, str], *, everything: bool) -> Iterator[Step]:
        asked = {"operation": "queryAll" if everything else "query", "query": soql, "contentType": "CSV"}
        job = self.fetch(Ask(f"{self._data}/jobs/query", method="POST", json=asked | {"columnDelimiter": "COMMA", "lineEnding": "LF"})).body
        yield Step([], place := {"job": job["id"], "locator": None, "received": 0})
        yield from self._results(place, types)

    def _results(self, place: Mapping[str, Any], types: Mapping[str, str]) -> Iterator[Step]:
        job = f"{self._data}/jobs/query/{place['job']}"
        total = self._finished(job)
        first = Ask(f"{job}/results", {"maxRecords": str(BULK_ROWS)}, headers={"Accept": "text/csv"})
        start = first.with_params(locator=place["locator"]) if place["locator"] else first
        ask: Ask | None = start
        pager = HeaderCursor("locator", "Sforce-Locator", "null")
        received, seen = place["received"], set()
        with ThreadPoolExecutor(1, thread_name_prefix="bulk") as ahead:  # the next page is on its way while this one is read
            coming = ahead.submit(self.send, start)
            while ask is not None:
                response = coming.result()
                ask = pager.next(ask, Answer(None, response.headers), 0)
                locator = ask.params["locator"] if ask else None
                if locator in seen:
                    raise SourceError(f"{self.place}: the Bulk job gave the same page twice", remedy="run again")
                seen.add(locator)
                if ask is not None:
                    coming = ahead.submit(self.send, ask)
                records = _csv(response.content, types)
                received += len(records)
                if ask is None and received < total:
                    raise SourceError(
                        f"{self.place}: the Bulk job has {total:,} records and sent {received:,}",
                        remedy="run again; nothing was taken over",
                    )
                yield Step(records, {"job": place["job"], "locator": locator, "received": received} if ask else None, total)
        try:
            self.send(Ask(job, method="DELETE"))
        except ConnectorError as error:
            log.info("%s; the finished Bulk job was not removed, Salesforce does so after seven days", error)

    def _finished(self, job: str) -> int:
        """Wait until a job has ended well; how many records it has."""
        wait = 1.0
        while True:
            try:
                about = self.fetch(Ask(job)).body
            except Refused as refused:
                if refused.status == 404:
                    raise PlaceLostError(f"{self.place}: the Bulk job is gone") from refused
                raise
            state = about["state"]
            if state == "JobComplete":
                return int(about.get("numberRecordsProcessed", 0))
            if state in ("Failed", "Aborted"):
                reason = str(about.get("errorMessage") or "somebody stopped it").partition(":")[0]
                raise SourceError(f"{self.place}: the Bulk job ended as {state} ({reason})", remedy="run again")
            self.session.sleep(wait)
            wait = min(wait * 1.5, SLOWEST_POLL)


def stamp(moment: datetime, minutes: int = 0) -> str:
    """A date-time literal of SOQL and of getDeleted."""
    moment = moment.astimezone(UTC)
    return f"{datetime.fromtimestamp(moment.timestamp() + 60 * minutes, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _csv(content: bytes, types: Mapping[str, str]) -> list[Record]:
    """Values as REST would have given them, by the type of their field; empty is null."""
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


def _plain(record: Mapping[str, Any]) -> Record:
    """Without `attributes`, here and in parents; instants end in Z."""
    found: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            if name != "attributes":
                found[name] = _plain(value)
        else:
            found[name] = _zulu(value) if isinstance(value, str) else value
    return found


def _zulu(text: str) -> str:
    """2026-05-01T07:25:37.000+0000 with a Z; any other text as it is."""
    return f"{text[:-5]}Z" if len(text) == 28 and text[10] == "T" and text.endswith("+0000") else text


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("double", "currency", "percent", "int", "long"), Decimal),
    "boolean": lambda text: text == "true",
    "datetime": _zulu,
}


def _busy(refused: Refused) -> bool:
    concurrent = refused.code == "REQUEST_LIMIT_EXCEEDED" and "Concurrent" in refused.reason
    return concurrent or refused.code in BUSY


def _refused(place: str, response: Any) -> Refused:
    """Errors come as an array, an object, as HTML or not at all."""
    try:
        body = response.json()
    except ValueError:
        body = None
    first = body[0] if isinstance(body, list) and body else body if isinstance(body, dict) else {}
    reason = str(first.get("message") or "").strip().split("\n")[-1]
    return Refused(place, response.status_code, str(first.get("errorCode") or ""), reason[:200])


def known_domain(domain: str) -> str:
    """My Domain without scheme and slash. Raises ConfigError for the hosts that cannot work."""
    name = re.sub(r"^https?://", "", domain).rstrip("/")
    if name.split(".")[0] in ("login", "test") or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", name):
        raise ConfigError(f"domain: {name!r} is not a My Domain", remedy="Setup → My Domain names it, e.g. acme.my.salesforce.com")
    return name
