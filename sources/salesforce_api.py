"""One Salesforce org: sessions, errors in our words, what there is, SOQL over REST, and what was deleted.

Facts: REST API developer guide. What is done here because others fell into it:

* `instance_url` of the token answer is the address for everything, never the login host; a configured `base_url` wins.
* A refused session is renewed once and the request repeated; several threads share one sign-in.
* The day's call budget is read from a header that may say more than one thing; a used-up day ends the run, it is not waited for.
* What the session repeats (5xx, 429) is not repeated here again; here only what Salesforce says in other statuses.
* The next page of a query is an address to be followed as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from typing import Any, Final
from urllib.parse import urljoin

from connector.auth.oauth import AccessToken, Grant, OAuth
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError
from connector.http import Session, host
from connector.pages import Answer, Ask, NextUrl, Part, walk
from connector.resume import PlaceLostError

Record = dict[str, Any]
BUSY: Final = frozenset({"SERVER_UNAVAILABLE", "UNABLE_TO_LOCK_ROW", "TXN_SECURITY_METERING_ERROR", "UNKNOWN_EXCEPTION"})
BUSY_STATUSES: Final = frozenset({406, 420})  # an org that is moved or set up says so in HTML
TIMED_OUT: Final = "QUERY_TIMEOUT"
NO_API: Final = frozenset({"API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED", "FUNCTIONALITY_NOT_ENABLED"})
#: answers of getDeleted that mean: not all of it is known
FORGOTTEN: Final = frozenset({"INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"})
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
#: refusals of the token endpoint that are about the moment
LATER: Final = ("login rate exceeded", "retry your request")


class Refused(SourceError):  # noqa: N818 — Salesforce's word for it
    """Salesforce said no to this request: status, errorCode, and the last line of its message (for us; it is never shown)."""

    def __init__(self, place: str, status: int, code: str, reason: str) -> None:
        remedy = "run `connector check`: it names what the connected user may not see"
        super().__init__(f"{place}: {status} {code}".strip(), remedy=remedy)
        self.status = status
        self.code = code
        self.reason = reason

    @property
    def busy(self) -> bool:
        """Whether it is about the moment, in a status that the session does not repeat."""
        concurrent = self.code == "REQUEST_LIMIT_EXCEEDED" and "Concurrent" in self.reason
        return not _repeated(self.status) and (concurrent or self.code in BUSY or self.status in BUSY_STATUSES)


class QueryTimeoutError(PlaceLostError):
    """A query took longer than Salesforce allows: it may be read otherwise."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """Ids that were deleted or purged, as far as the org knew at `covered`."""

    ids: tuple[str, ...]
    covered: datetime


class Org:
    """`base_url` wins over the `domain`; `budget` is the share of the day's calls after which reading stops."""

    def __init__(self, session: Session, *, domain: str, base_url: str | None, auth: Grant, version: str, budget: float) -> None:
        self.session = session
        self.place = f"Salesforce {host(base_url or f'https://{domain}')}"
        self._fixed = base_url.rstrip("/") if base_url else None
        self._budget = budget
        self._version = version
        self.data = f"/services/data/{version}"
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
        return self.fetch(Ask(self.data + path)).body

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
            response = self.session.ask(
                ask.method,
                urljoin(self._base(token) + "/", ask.url.lstrip("/")),
                where=self.place,
                params=dict(ask.params) or None,
                json=ask.json,
                headers={"Authorization": f"Bearer {token.text}", "Accept-Encoding": "gzip", **ask.headers},
                repeatable=True,
                final=_timed_out,
            )
            self._note(response.headers)
            if response.ok:
                return response
            refused = _refused(self.place, response)
            if response.status_code == 401 and not renewed:
                self._oauth.renew(token)
                renewed = True
            elif refused.busy and wait <= patience:
                self.session.sleep(wait)
                patience, wait = patience - wait, wait * 2
            else:
                raise self._error(refused)

    def _base(self, token: AccessToken) -> str:
        base = self._fixed or str(token.answer.get("instance_url") or "").rstrip("/")
        if not base:
            raise SourceError(
                f"{self.place}: signed in, but the answer has no instance_url", remedy="is `domain` the org's My Domain, and not a proxy's?"
            )
        return base

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
        if code == TIMED_OUT:
            return refused
        if status == 401:
            return self._no_session(refused)
        if code == "REQUEST_LIMIT_EXCEEDED" and "Concurrent" not in refused.reason:
            return TransientError(
                f"{self.place}: the API calls of the last 24 hours are used up", remedy="run later, or ask Salesforce for a higher limit"
            )
        if code in NO_API:
            return AuthError(f"{self.place}: {code}", remedy="the edition or profile lacks API access: grant 'API Enabled' to the user")
        if refused.busy or _repeated(status):
            return TransientError(str(refused), remedy="the next run tries again")
        if status == 403 and not code:
            return AuthError(
                f"{self.place}: 403, and not in Salesforce's words",
                remedy="let this machine's address through: the user's login IP ranges, and any proxy or firewall before the org",
            )
        if status == 403 and code != "NOT_FOUND":
            return AuthError(f"{self.place}: {code}", remedy="give the connected user read permission")
        return refused

    def _no_session(self, refused: Refused) -> AuthError:
        if "not valid for use" in refused.reason:
            return AuthError(
                f"{self.place}: the session may not use the REST API",
                remedy="add the OAuth scope `api` (Manage user data via APIs) to the app",
            )
        return AuthError(f"{self.place}: the session was refused twice", remedy="check the app's policies and the user's IP ranges")

    def _explain(self, error: str, description: str) -> ConnectorError:
        said = f"{error}: {description}" if description else error
        if any(word in said for word in LATER):
            return TransientError(f"{self.place}: signing in was put off ({said})", remedy="run later; too many sign-ins came at once")
        remedy = next(
            (remedy for word, remedy in REMEDIES.items() if word in said), "check `auth` against the app's settings in Salesforce"
        )
        return AuthError(f"{self.place}: signing in was refused ({said})", remedy=remedy)

    @contextmanager
    def shaped(self, what: str) -> Iterator[None]:
        """Around the reading of an answer: one of another shape is one of our errors."""
        try:
            yield
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise SourceError(
                f"{self.place}: {what} came in another shape than Salesforce gives it",
                remedy="is this the address of a Salesforce org, and no proxy answering for it?",
            ) from error

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    @cached_property
    def objects(self) -> frozenset[str]:
        """The objects the user may see. Raises ConfigError when the org does not speak our API version."""
        try:
            body = self.get("/sobjects")
        except Refused as refused:
            if refused.status in (404, 410):
                self.require_version()
            raise
        with self.shaped("the list of objects"):
            return frozenset(str(one["name"]) for one in body["sobjects"])

    def _describe(self, name: str) -> dict[str, str] | None:
        """Fields the user may see and their types; None when the object is not there for this user."""
        if name not in self.objects:
            return None
        body = self.get(f"/sobjects/{name}/describe")
        with self.shaped(f"the description of {name}"):
            return {str(field["name"]): str(field["type"]) for field in body["fields"]}

    def versions(self) -> list[str]:
        """API versions the org speaks, oldest first; costs no call of the budget."""
        body = self.fetch(Ask("/services/data")).body
        with self.shaped("the list of versions"):
            known = [f"v{one['version']}" for one in body]
            return [known[0], *known[1:]]

    def require_version(self) -> None:
        """Raises ConfigError when the org does not speak our version, because it is too new or retired."""
        known = self.versions()
        if self._version not in known:
            raise ConfigError(f"{self.place}: no API {self._version}", remedy=f"set api_version to one of {known[0]} … {known[-1]}")

    # ── queries ───────────────────────────────────────────────────────────────────────────────────

    def question(self, soql: str, *, everything: bool = False) -> Ask:
        """The request for a query's first page, with what is in the recycle bin and the archive if `everything`."""
        return Ask(f"{self.data}/{'queryAll' if everything else 'query'}", {"q": soql})

    def rows(self, soql: str, *, everything: bool = False) -> Iterator[Record]:
        """The records of a small query."""
        for part in self.parts(self.question(soql, everything=everything)):
            yield from map(plain, part.records)

    def parts(self, ask: Ask) -> Iterator[Part]:
        """Pages of a query from a request on; only a whole walk is held against the announced total."""
        total = "totalSize" if "q" in ask.params else None
        try:
            for part in walk(self.fetch, ask, NextUrl("nextRecordsUrl"), place=self.place, records="records", total=total):
                if not all(isinstance(record, dict) for record in part.records):
                    raise SourceError(
                        f"{self.place}: a page of a query holds no records", remedy="is this the address of a Salesforce org, and no proxy?"
                    )
                yield part
        except Refused as refused:
            if refused.code == TIMED_OUT:
                raise QueryTimeoutError(
                    f"{self.place}: a query took longer than Salesforce allows ({TIMED_OUT})",
                    remedy="run again when the org is quieter; if it stays, ask Salesforce for an index on SystemModstamp",
                ) from refused
            if refused.code == "INVALID_QUERY_LOCATOR":
                raise PlaceLostError(
                    f"{self.place}: the query could not be read to its end ({refused.code})",
                    remedy="run again; if it stays, lower bulk_from so that a Bulk job reads it",
                ) from refused
            raise

    def deleted(self, name: str, since: datetime) -> Deleted | None:
        """What was purged or deleted since then; None when the org no longer knows all of it."""
        window = {"start": stamp(since.replace(second=0)), "end": stamp(self.started.replace(second=0), minutes=1)}
        try:
            answer = self.fetch(Ask(f"{self.data}/sobjects/{name}/deleted/", window)).body
        except Refused as refused:
            if refused.code in FORGOTTEN:
                return None
            raise
        with self.shaped(f"the list of deleted {name} records"):
            earliest = answer.get("earliestDateAvailable")
            if earliest and datetime.fromisoformat(earliest) > since:
                return None
            covered = answer.get("latestDateCovered")
            ids = tuple(str(one["id"]) for one in answer["deletedRecords"])
            return Deleted(ids, datetime.fromisoformat(covered) if covered else self.started)


def stamp(moment: datetime, minutes: int = 0) -> str:
    """A date-time literal of SOQL and of getDeleted."""
    moment = moment.astimezone(UTC)
    return f"{datetime.fromtimestamp(moment.timestamp() + 60 * minutes, UTC):%Y-%m-%dT%H:%M:%SZ}"


def plain(record: Mapping[str, Any]) -> Record:
    """Without `attributes`, here and in parents; instants end in Z."""
    found: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            if name != "attributes":
                found[name] = plain(value)
        else:
            found[name] = zulu(value) if isinstance(value, str) else value
    return found


def zulu(text: str) -> str:
    """2026-05-01T07:25:37.000+0000 with a Z; any other text as it is."""
    return f"{text[:-5]}Z" if len(text) == 28 and text[10] == "T" and text.endswith("+0000") else text


def _repeated(status: int) -> bool:
    """Whether the session asks again after this status by itself."""
    return status in (408, 429) or status >= 500


def _timed_out(response: Any) -> bool:
    """An answer that stands although its status asks to come back: the same query takes as long again."""
    return response.status_code >= 500 and _refused("", response).code == TIMED_OUT


def _refused(place: str, response: Any) -> Refused:
    """Errors come as an array, an object, as HTML or not at all."""
    try:
        body = response.json()
    except ValueError:
        body = None
    first = body[0] if isinstance(body, list) and body else body
    about = first if isinstance(first, dict) else {}
    reason = str(about.get("message") or "").strip().split("\n")[-1]
    return Refused(place, response.status_code, str(about.get("errorCode") or ""), reason[:200])


def known_domain(domain: str) -> str:
    """My Domain without scheme and slash. Raises ConfigError for the hosts that cannot work."""
    name = re.sub(r"^https?://", "", domain).rstrip("/")
    if name.split(".")[0] in ("login", "test") or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", name):
        raise ConfigError(f"domain: {name!r} is not a My Domain", remedy="Setup → My Domain names it, e.g. acme.my.salesforce.com")
    return name
