"""The one HTTP session: timeouts, patience and error translation for every plugin.

tableauserverclient takes it through `session_factory`, msal as `http_client`; nothing in the product reaches the network
any other way. Retries live here and nowhere else: urllib3's `Retry` does not repeat truncated bodies and by default obeys
`Retry-After` for up to six hours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import InvalidHeader, NewConnectionError

from connector.errors import AuthError, ConfigError, SourceError, TransientError

REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
FINAL: Final = frozenset({501, 505, 507})  # not implemented, no such HTTP version, no space left: as true the next time
LOST: Final = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


@dataclass(frozen=True, slots=True)
class Network:
    """How to reach a service: what `timeout`, `max_wait`, `proxy` and `ca_bundle` in YAML say."""

    timeout: float = 120
    max_wait: float = 300
    proxy: str | None = None
    ca_bundle: str | None = None


class Session(requests.Session):
    """A requests session that repeats what is safe to repeat and counts what it did.

    A request is repeated when the connection breaks or the server answers 408 or 5xx and the method is idempotent, or when the server
    says that it did nothing (429, 503), for any method. The sum of waits for one request never exceeds `max_wait`; one that got no answer
    within `timeout` is repeated once, because a query that takes too long mostly does so again.
    `requests_sent` and `retries` feed the run manifest. `folder` is where a plugin may keep what must outlive the process
    (token caches, resume points), `shared` where it keeps what all flows must have in common, as a token that changes with each use; None in
    tests and one-off use.
    """

    def __init__(
        self,
        network: Network = Network(),
        *,
        attempts: int = 6,
        folder: Path | None = None,
        shared: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self.network = network
        self.folder = folder
        self.shared = shared
        self.sleep = sleep
        self.now = now
        self.requests_sent = 0
        self.retries = 0
        self._attempts = attempts
        self._jitter = jitter
        if network.proxy:
            self.proxies = {"http": network.proxy, "https": network.proxy}
        if network.ca_bundle:
            if not Path(network.ca_bundle).exists():
                raise ConfigError(f"ca_bundle {network.ca_bundle}: no such file")
            self.verify = network.ca_bundle

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """As requests' own; the answer may be any status. Raises requests' exceptions when the connection stays lost.

        `repeatable=True` says that a POST only reads (a search, a batch read) and may be repeated like a GET. `final(response)` says that
        an answer stands although its status asks to come back: a day's quota does not come back within a run.
        """
        kwargs.setdefault("timeout", (min(10.0, self.network.timeout), self.network.timeout))
        if self.network.ca_bundle:  # said with the request, or REQUESTS_CA_BUNDLE would win
            kwargs.setdefault("verify", self.network.ca_bundle)
        idempotent = (method.decode() if isinstance(method, bytes) else method).upper() in REPEATABLE
        repeatable = kwargs.pop("repeatable", idempotent)
        final: Callable[[requests.Response], bool] = kwargs.pop("final", lambda _: False)
        patience, unanswered_before = self.network.max_wait, False
        for attempt in range(1, self._attempts + 1):
            self.requests_sent += 1
            response: requests.Response | None = None
            try:
                response = super().request(method, url, *args, **kwargs)
            except LOST as error:
                too_slow = isinstance(error, requests.ReadTimeout)
                if attempt == self._attempts or not repeatable or untrusted(error) or (too_slow and unanswered_before):
                    raise
                unanswered_before = too_slow
                wait: float | None = self._backoff(attempt)
            else:
                wait = None if final(response) else self._wait(response, repeatable, attempt)
                if wait is None or attempt == self._attempts:
                    return response
            assert wait is not None
            if wait > patience:
                if response is not None:
                    return response
                raise TransientError(
                    f"{host(url)}: no connection, and waiting longer than max_wait={self.network.max_wait:g}s is not allowed"
                )
            patience -= wait
            if response is not None:
                response.close()
            self.retries += 1
            self.sleep(wait)
        raise AssertionError("unreachable")

    def ask(self, method: str, url: str, *, where: str | None = None, **kwargs: Any) -> requests.Response:
        """Like `request`, but what keeps an answer from coming is one of our errors, naming `where`. The answer may be any status."""
        place = where or f"{method} {host(url)}"
        try:
            return self.request(method, url, **kwargs)
        except requests.RequestException as error:
            raise unanswered(place, error) from error
        except UnicodeError as error:  # http.client, about a header
            raise AuthError(
                f"{place}: the credential holds characters that no credential has", remedy="copy it anew, whole and from its source"
            ) from error

    def call(self, method: str, url: str, *, where: str | None = None, **kwargs: Any) -> requests.Response:
        """Like `ask`, but anything except success is one of our errors, naming `where` and never the body.

        Raises AuthError (401, 403), TransientError (429, 5xx, lost connections), SourceError (any other refusal).
        """
        place = where or f"{method} {host(url)}"
        response = self.ask(method, url, where=where, **kwargs)
        status = response.status_code
        if not response.ok:
            response.close()  # nobody will read it
        if status in (401, 403):
            raise AuthError(f"{place}: {status}", remedy="check the credential and its permissions")
        if status in (408, 429) or status >= 500:
            raise TransientError(f"{place}: still {status} after {self._attempts} attempts", remedy="the next run tries again")
        if not response.ok:
            raise SourceError(f"{place}: {status}")
        return response

    def _backoff(self, attempt: int) -> float:
        return float(2.0 ** (attempt - 1) + self._jitter())

    def _wait(self, response: requests.Response, repeatable: bool, attempt: int) -> float | None:
        """Seconds to wait before asking again, or None when the answer stands."""
        if response.status_code in (429, 503):  # the server says it did not do the work: safe for POST too
            asked = retry_after(response.headers, self.now())
            return self._backoff(attempt) if asked is None else asked
        failed = response.status_code == 408 or (response.status_code >= 500 and response.status_code not in FINAL)
        if failed and repeatable:
            return self._backoff(attempt)
        return None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds the server asks us to wait; seconds or an HTTP date (RFC 9110 §10.2.3). None when absent or unreadable."""
    header = (headers.get("Retry-After") or "").strip()
    if header.replace(".", "", 1).isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds()) if header else None
    except (TypeError, ValueError):
        return None


def unanswered(place: str, error: requests.RequestException) -> ConfigError | AuthError | TransientError:
    """What keeps an answer from coming, as one of our errors."""
    if isinstance(error, requests.exceptions.ProxyError):
        return TransientError(f"{place}: the proxy cannot be reached", remedy="check `proxy`")
    if untrusted(error):
        return ConfigError(f"{place}: the server's certificate is not trusted", remedy="name the issuing authority's file in ca_bundle")
    if isinstance(error, LOST):
        return TransientError(
            f"{place}: no answer ({type(error).__name__})", remedy="check the address and the network; the next run tries again"
        )
    if isinstance(error, requests.exceptions.InvalidHeader):
        if error.args and isinstance(error.args[0], InvalidHeader):  # of the answer: urllib3 says so, requests about ours
            return TransientError(f"{place}: the answer has contradictory headers", remedy="look at the proxy or gateway on the way")
        return AuthError(f"{place}: the credential holds a line break or another character that no credential has", remedy="copy it anew")
    return ConfigError(f"{place}: not a usable address ({type(error).__name__})", remedy="it begins with https:// and names a host")


def untrusted(error: Exception) -> bool:
    """Whether it was the server's certificate; a connection that breaks during TLS is an SSLError too."""
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def unsent(error: requests.RequestException) -> bool:
    """Whether a request cannot have reached the server, so that sending it again cannot do anything twice."""
    if not isinstance(error, LOST) or isinstance(
        error, requests.ConnectTimeout | requests.exceptions.ProxyError | requests.exceptions.SSLError
    ):
        return True
    return isinstance(getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError)


def host(url: str | bytes) -> str:
    """The host of an address, for messages: paths and queries may hold secrets."""
    text = url.decode() if isinstance(url, bytes) else url
    return urlsplit(text).netloc.rpartition("@")[2] or "?"
