"""Signing in to Tableau, and its refusals in our words. The source and the sink talk to a site through `Connection`.

tableauserverclient (TSC) does the talking, through our session. What it does not do by itself is done here:

* it has no retries, no timeouts and no second sign-in: the session has the first two, `Connection.ask` the third;
* a server that hides its version would leave it at REST API 2.4, where filters go unencoded into addresses: the version is asked
  before anything else and an old one is refused;
* its query sets end quietly when a page is refused: `Connection.all` pages with `Pager` and counts;
* a failed sign-out would hide the error before it: sign-out failures are logged and nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import ParseError

import requests
import tableauserverclient as tsc
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from tableauserverclient.server.endpoint.exceptions import (
    InternalServerError,
    NonXMLResponseError,
    RedirectError,
    XMLError,
)
from tableauserverclient.server.exceptions import EndpointUnavailableError, ServerInfoEndpointNotFoundError
from urllib3.exceptions import HTTPError

from connector.auth.tokens import SecretFile
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError
from connector.http import LOST, Session, host, unanswered

log = logging.getLogger(__name__)

OLDEST: Final = "3.8"  # Server 2020.2, the first with crosstabs
JWT_MINUTES: Final = 5
DEAD_SESSION: Final = "401002"
DOWNLOADS: Final = 4
SIGN_INS: Final = 3
BLOCK: Final = 1 << 16
PAGE_SIZE: Final = 1000
REST: Final = re.compile(r".*/api/\d")
#: filters of lists cannot escape these
UNFILTERABLE: Final = re.compile(r"[,:&\[\]*]+")

#: tokens this process has its turn with
_TURNS: Final[set[Path]] = set()

Answer = TypeVar("Answer")


class Token(BaseModel):
    """A personal access token. Tableau keeps one session of it alive: give every connector its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    secret: SecretStr


class ConnectedApp(BaseModel):
    """A connected app with direct trust, and the user it signs in as."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    client_id: str
    secret_id: str
    secret: SecretStr
    user: str = Field(description="User name; on Tableau Cloud the e-mail address.")


class Access(BaseModel):
    """The keys of a configuration that say where Tableau is and who signs in; beside those of api.NetworkConfig."""

    base_url: str | None = None
    server: str | None = Field(None, description="Address of Tableau Server or Cloud, e.g. https://eu-west-1a.online.tableau.com.")
    site: str = Field("", description="The site as it stands in addresses after /site/; empty for the default site of a Tableau Server.")
    token: Token | None = Field(None, description="Personal access token: {name, secret}.")
    app: ConnectedApp | None = Field(None, description="Connected app instead of a token: {client_id, secret_id, secret, user}.")
    api_version: str | None = Field(
        None, pattern=r"^3\.\d+$", description="REST API version, where a gateway hides it; otherwise the server's own."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.token is None) == (self.app is None):
            raise ValueError("give either `token: {name, secret}` or `app: {client_id, secret_id, secret, user}`")
        if self.server is None and self.base_url is None:
            raise ValueError("`server` is missing: the address of Tableau, e.g. https://eu-west-1a.online.tableau.com")
        return self

    @property
    def address(self) -> str:
        return str(self.base_url or self.server).rstrip("/")


@dataclass(slots=True)
class Refused(Exception):  # noqa: N818 — becomes one of our errors before it leaves this module or its caller
    """Tableau said no: the status and, where it gave one, its six-digit code. `said` is the beginning of the answer, never to be shown."""

    status: int
    code: str = ""
    said: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"Tableau error {self.code}" if self.code else f"status {self.status}"


@dataclass(slots=True)
class Connection:
    """One site of a Tableau, signed in to when first asked something. `scopes` are what a connected app asks for."""

    access: Access
    session: Session
    scopes: Sequence[str]
    _server: tsc.Server | None = field(default=None, init=False)
    _turn: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __post_init__(self) -> None:
        self.session.hooks["response"].append(self._look)

    @property
    def place(self) -> str:
        return f"Tableau {host(self.access.address)}"

    @property
    def signed_in(self) -> bool:
        return self._server is not None

    def server(self) -> tsc.Server:
        """The client, signed in. Raises AuthError, ConfigError or TransientError."""
        if self._server is None:
            self._wait_for_turn()
            try:
                self._server = self._sign_in()
            except BaseException:
                self._turn.close()
                raise
        return self._server

    def sign_out(self) -> None:
        """End the session, if there is one. What goes wrong is logged: it must not hide why we leave."""
        server, self._server = self._server, None
        try:
            if server is not None:
                server.auth.sign_out()
        except Exception as error:  # noqa: BLE001 — whatever it is, the session ends by itself
            log.info("%s: sign-out failed (%s); the session ends by itself", self.place, type(error).__name__)
        finally:
            self._turn.close()

    def ask(self, what: str, question: Callable[[tsc.Server], Answer]) -> Answer:
        """Put a question that may be repeated; one that finds its session dead is asked once more in a new one.

        `what` names the object in messages. Raises our errors; of Tableau's refusals those the caller has not caught as `Refused`.
        """
        try:
            return self.put(what, question)
        except Refused as refusal:
            raise self.error(what, refusal) from refusal

    def put(self, what: str, question: Callable[[tsc.Server], Answer]) -> Answer:
        """As `ask`, but what Tableau refuses is raised as `Refused`, for callers who know what a code means."""
        try:
            return self._translated(what, lambda: question(self.server()))
        except Refused as refusal:
            if refusal.status != 401:
                raise
        log.info("%s: the session was ended; signing in again", self.place)
        if self.access.app:  # it may be alive and only lack a scope
            self.sign_out()
        self._server = None
        try:
            return self._translated(what, lambda: question(self.server()))
        except Refused as refusal:
            if refusal.code == DEAD_SESSION:
                raise self._ended(what) from refusal
            raise

    def all(self, what: str, endpoint: Callable[[tsc.Server], Any], filters: Mapping[str, str] | None = None) -> list[Any]:
        """Everything a list has that may pass the filters (field: value), by pages, with every attribute.

        A value with signs that filters cannot say is asked for with a wildcard: compare what comes. Raises SourceError when there is less
        than was announced.
        """
        options = tsc.RequestOptions(pagesize=PAGE_SIZE)  # type: ignore[no-untyped-call]
        options.all_fields = True
        for name, value in (filters or {}).items():
            if value:
                text = value if name == "contentUrl" else UNFILTERABLE.sub("*", value)
                options.filter.add(tsc.Filter(name, tsc.RequestOptions.Operator.Equals, text))  # type: ignore[no-untyped-call]

        def question(server: tsc.Server) -> list[Any]:
            totals: list[int] = []

            def page(request: tsc.RequestOptions) -> tuple[list[Any], tsc.PaginationItem]:
                items, pagination = endpoint(server).get(request)
                totals.append(pagination.total_available or 0)
                return items, pagination

            items: list[Any] = list(tsc.Pager(cast("Any", page), options))
            if len(items) != totals[-1]:
                raise SourceError(
                    f"{self.place}: {what}: {totals[-1]} announced, {len(items)} sent", remedy="run again; the list changed meanwhile"
                )
            return items

        return self.ask(what, question)

    def fetch(self, what: str, method: str, path: str, **how: Any) -> requests.Response:
        """A request TSC would read into memory or not make at all. `path` is below the site, or absolute when it begins with /.

        Raises `Refused` beside our errors; a streamed answer is the caller's to close.
        """

        def question(server: tsc.Server) -> requests.Response:
            address = server.server_address + path if path.startswith("/") else f"{server.baseurl}/sites/{server.site_id}/{path}"
            headers = {"X-Tableau-Auth": server.auth_token}
            response = self.session.request(method, address, headers=headers, allow_redirects=False, **how)
            if not response.ok or response.is_redirect:
                raise _refusal(response)
            return response

        return self.put(what, question)

    def download(self, what: str, path: str, into: Path, *, method: str = "GET", **how: Any) -> str:
        """Save an answer of any size and return its content type; one that breaks off is asked for again.

        A POST must be one that only reads. Raises `Refused` beside our errors.
        """
        for attempt in range(1, DOWNLOADS + 1):
            with self.fetch(what, method, path, stream=True, repeatable=True, **how) as response, into.open("wb") as file:
                try:
                    for block in response.iter_content(BLOCK):
                        file.write(block)
                except LOST as error:
                    if attempt == DOWNLOADS:
                        raise unanswered(f"{self.place}: {what}", error) from error
                else:
                    return str(response.headers.get("Content-Type", ""))
            self.session.retries += 1
            self.session.sleep(2.0**attempt)
        raise AssertionError("unreachable")

    def _look(self, response: requests.Response, *, stream: bool = False, **_: object) -> None:
        """What TSC would not notice: a redirect to another host, a 401 that is not Tableau's own XML, and a page instead of any XML.

        TSC takes the session's token along to any host; only the same host on https may have it.
        """
        target = urljoin(response.url, response.headers.get("Location", "")) if response.is_redirect else response.url
        here, there = urlsplit(response.url), urlsplit(target)
        if here.netloc != there.netloc and (here.hostname, "https") != (there.hostname, there.scheme):
            raise ConfigError(
                f"{self.place}: redirects to {host(target)}", remedy=f"if that is right, set `server: {there.scheme}://{there.netloc}`"
            )
        if response.status_code == 401:
            raise _refusal(response)
        if response.ok and not stream and REST.match(here.path) and "text/html" in response.headers.get("Content-Type", ""):
            raise self._foreign(self.place)

    # ── signing in ────────────────────────────────────────────────────────────────────────────────

    def _wait_for_turn(self) -> None:
        """A token has one session: other processes of this data folder that use it wait until we have signed out, and we for them."""
        token, folder = self.access.token, self.session.folder
        if token is None or folder is None:
            return
        name = hashlib.sha256(f"{self.access.address} {self.access.site} {token.name}".encode()).hexdigest()[:16]
        file = folder.parents[1] / f"tableau-{name}"  # two above plugins/<flow>/<plugin>: what all flows have in common
        if file in _TURNS:  # another plugin of this process has it
            return
        try:
            self._turn.enter_context(SecretFile(file, wait=self.session.network.max_wait, sleep=self.session.sleep).locked())
        except TransientError as error:
            raise self._busy("sign-in") from error
        _TURNS.add(file)
        self._turn.callback(_TURNS.discard, file)

    def _sign_in(self) -> tsc.Server:
        access = self.access
        try:
            server = tsc.Server(access.address, session_factory=lambda: self.session)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise ConfigError(f"{self.place}: not a usable address", remedy="check `server`, e.g. https://tableau.example.com") from error
        server.version = access.api_version or self._version(server)
        for attempt in range(1, SIGN_INS + 1):  # a second sign-in does nothing twice: it replaces the first
            try:
                self._enter(server)
                break
            except TransientError:
                if attempt == SIGN_INS:
                    raise
            self.session.retries += 1
            self.session.sleep(2.0 ** (attempt - 1))
        return server

    def _enter(self, server: tsc.Server) -> None:
        try:
            self._translated("sign-in", lambda: server.auth.sign_in(self._credentials()))
        except Refused as refusal:
            raise (self._not_let_in() if refusal.status in (401, 403) else self.error("sign-in", refusal)) from refusal

    def _version(self, server: tsc.Server) -> str:
        try:
            info = self._translated("server version", server.server_info.get)
        except Refused as refusal:
            if refusal.status == 429 or refusal.status >= 500:
                raise self.error("server version", refusal) from refusal
            raise ConfigError(
                f"{self.place}: does not tell its version ({refusal})",
                remedy="check `server`; behind a gateway that hides it, set `api_version`, e.g. 3.21",
            ) from refusal
        found = str(info.rest_api_version) if info else "unknown"
        if not re.fullmatch(r"\d+\.\d+", found) or not at_least(found, OLDEST):
            raise ConfigError(f"{self.place}: REST API {found}; {OLDEST} (Tableau Server 2020.2) or later is needed")
        return found

    def _credentials(self) -> tsc.PersonalAccessTokenAuth | tsc.JWTAuth:
        token, app, site = self.access.token, self.access.app, self.access.site
        if token:
            return tsc.PersonalAccessTokenAuth(token_name=token.name, personal_access_token=token.secret.get_secret_value(), site_id=site)
        assert app
        return tsc.JWTAuth(jwt=self._jwt(app), site_id=site)  # by keyword: TSC 0.42 put isUat where site_id used to be

    def _jwt(self, app: ConnectedApp) -> str:
        now = int(self.session.now().timestamp())
        header = {"alg": "HS256", "typ": "JWT", "kid": app.secret_id, "iss": app.client_id}
        claims = {
            "iss": app.client_id,
            "aud": "tableau",
            "sub": app.user,
            "jti": str(uuid.uuid4()),
            "iat": now,
            "exp": now + JWT_MINUTES * 60,
            "scp": list(self.scopes),
        }
        body = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{body}.{_base64(hmac.new(app.secret.get_secret_value().encode(), body.encode(), hashlib.sha256).digest())}"

    # ── refusals in our words ─────────────────────────────────────────────────────────────────────

    def _translated(self, what: str, act: Callable[[], Answer]) -> Answer:
        """TSC's and requests' exceptions as `Refused` or ours."""
        place = f"{self.place}: {what}"
        try:
            return act()
        except XMLError as error:
            raise Refused(int(error.code[:3]) if error.code[:3].isdigit() else 400, error.code) from error
        except InternalServerError as error:
            raise Refused(error.code) from error
        except ServerInfoEndpointNotFoundError as error:
            raise Refused(404, "404003") from error
        except EndpointUnavailableError as error:
            raise ConfigError(f"{place}: this Tableau is too old: {error}") from error
        except (NonXMLResponseError, ParseError, RedirectError) as error:
            raise self._foreign(place) from error
        except requests.RequestException as error:
            raise unanswered(place, error) from error

    def error(self, what: str, refusal: Refused) -> ConnectorError:
        """The error a refusal becomes where its code says nothing special."""
        place = f"{self.place}: {what}"
        if refusal.status in (408, 429) or refusal.status >= 500:
            return TransientError(f"{place}: still {refusal.status} after all attempts", remedy="the next run tries again")
        if refusal.status == 401 and not refusal.code:
            return AuthError(
                f"{place}: refused with status 401, though not by Tableau",
                remedy="let the gateway or single sign-on before Tableau pass addresses that begin with /api/",
            )
        if refusal.status in (401, 403):
            return AuthError(f"{place}: not permitted ({refusal})", remedy=f"let {self._who()} see and download it")
        if refusal.status == 404:
            return AuthError(f"{place}: not there, or hidden from {self._who()} ({refusal})", remedy="check the name and the permissions")
        return SourceError(f"{place}: refused ({refusal})")

    def _foreign(self, place: str) -> ConfigError:
        remedy = "check `server` (no path, https) and any proxy or single sign-on"
        return ConfigError(f"{place}: the answer is not of Tableau's REST API", remedy=remedy)

    def _who(self) -> str:
        return f"the user of token {self.access.token.name!r}" if self.access.token else f"user {self._app().user!r}"

    def _app(self) -> ConnectedApp:
        assert self.access.app
        return self.access.app

    def _not_let_in(self) -> AuthError:
        """Expired, revoked, mistyped and wrong site all look the same from here."""
        site = f"site {self.access.site!r}" if self.access.site else "the default site"
        if self.access.token:
            return AuthError(
                f"{self.place}: sign-in with token {self.access.token.name!r} to {site} was refused",
                remedy="the token has expired (15 days unused, or the site's limit), was revoked, or name, secret or `site` is wrong: "
                "make a new token under My Account Settings and update the secret; `site` is the part after /site/ in addresses",
            )
        return AuthError(
            f"{self.place}: sign-in as {self._app().user!r} to {site} was refused",
            remedy="check that the connected app is enabled, client_id, secret_id and secret are of one app, the user exists on the site, "
            "and this machine's clock is right",
        )

    def _busy(self, what: str) -> TransientError:
        assert self.access.token
        return TransientError(
            f"{self.place}: {what}: another process is using token {self.access.token.name!r}, and Tableau keeps one session per token",
            remedy="run again; give every connector a token of its own, or use `app:`",
        )

    def _ended(self, what: str) -> ConnectorError:
        if self.access.token:
            return self._busy(what)
        return AuthError(
            f"{self.place}: {what}: not permitted for the connected app",
            remedy=f"the app and the user need access to it, with the scopes {', '.join(self.scopes)}",
        )


def _refusal(response: requests.Response) -> Refused:
    """What an answer that is none says: in XML, in JSON, or nothing that reads."""
    with response:
        try:
            read = response._content_consumed  # type: ignore[attr-defined]  # noqa: SLF001
            said = response.content[:4096] if read else response.raw.read(4096, decode_content=True)
        except (HTTPError, *LOST) as error:
            log.info("%s: status %d, and what it says does not read (%s)", host(response.url), response.status_code, type(error).__name__)
            said = b""
    match = re.search(rb'(?:<error code="|"errorCode"\s*:\s*")(\d{6})"', said)
    return Refused(response.status_code, match[1].decode() if match else "", said)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def at_least(version: str, wanted: str) -> bool:
    """3.10 is later than 3.9."""
    return [int(part) for part in version.split(".")] >= [int(part) for part in wanted.split(".")]
