"""Requests to Microsoft Graph: signed, decorated, repeated where that is safe, refusals as our errors.

Repetition after 429, 503 and 5xx is the session's work; here is what needs to know Graph: an expired token is renewed once, a claims
challenge is answered once, and addresses that carry their own permission never see the bearer token nor any message.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import requests

from connector import __version__
from connector.auth.microsoft import SignIn
from connector.errors import ConfigError, TransientError
from connector.http import LOST, Session, untrusted
from sinks.drives.graph_errors import Answer, translated

LOG: Final = logging.getLogger("connector.drives")
AGENT: Final = f"NONISV|pipeline-connector|connector/{__version__}"
BLOCK: Final = 1 << 20
TRIES: Final = 3


class FileBody:
    """A file as a request's body: read in blocks, and from its beginning again when the request is repeated."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._file.open("rb") as source:
            while block := source.read(BLOCK):
                yield block


class GraphClient:
    """`root` is the service's address without version; `path`s begin after it. `sign_in` gives the bearer token."""

    def __init__(self, session: Session, sign_in: SignIn, root: str) -> None:
        self.session = session
        self.sign_in = sign_in
        self._root = root.rstrip("/").removesuffix("/v1.0") + "/v1.0"

    def ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        accept: Collection[int] = (),
        again: bool = False,
        json: object = None,
        data: bytes | FileBody | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer when it is a success or one of `accept`ed statuses (0: there was none); otherwise the error of `what`.

        `again` says that a POST or PATCH may be repeated when its answer was lost.
        """
        given: dict[str, Any] = {"json": json, "data": data, "params": params, "allow_redirects": False}
        if again:
            given["repeatable"] = True
        answer = self._send(method, path, what, headers or {}, given, accept)
        if self._may_renew(answer):
            answer = self._send(method, path, what, headers or {}, given, accept)
        if answer.ok:
            self._believable(method, path, answer, what)
        elif answer.status not in accept:
            raise translated(answer, what)
        return answer

    def _believable(self, method: str, path: str, answer: Answer, what: str) -> None:
        """A proxy's page or a gateway's redirect is not an answer of Graph's. Downloads alone are redirected."""
        foreign = answer.status >= 300 or (method == "GET" and not answer.body)
        if foreign and not (answer.status == 302 and path.endswith("/content")):
            raise ConfigError(f"{what}: {answer.status}, but no answer of Microsoft Graph's", remedy="check base_url and proxy")

    def _send(
        self, method: str, path: str, what: str, headers: Mapping[str, str], given: Mapping[str, Any], accept: Collection[int]
    ) -> Answer:
        own = {"Authorization": f"Bearer {self.sign_in.token()}", "User-Agent": AGENT, "client-request-id": str(uuid4())}
        try:
            response = self.session.request(method, self._root + path, headers={**own, **headers}, **given)
        except requests.RequestException as error:
            if 0 in accept and isinstance(error, LOST) and not untrusted(error):
                return Answer(0, {}, {})
            raise lost(what, error) from None
        answer = read(response)
        LOG.debug("%s %s: %d, request id %s", method, path, answer.status, answer.headers.get("request-id"))
        return answer

    def _may_renew(self, answer: Answer) -> bool:
        """Get another token where that may help: it expired, it was revoked, or it is older than a permission."""
        if answer.status == 401:
            self.sign_in.renew(challenge(answer.headers.get("WWW-Authenticate", "")))
            return True
        if answer.status == 403 and self.sign_in.kept:
            self.sign_in.renew()
            return True
        return False

    def bare(
        self, method: str, url: str, what: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None, stream: bool = False
    ) -> requests.Response:
        """A request to an address that carries its own permission: without the bearer token, and unnamed in errors.

        Raises requests' exceptions in `LOST` when the connection stays lost (with the address in them: do not chain them).
        """
        if urlsplit(url).scheme not in ("http", "https"):
            raise TransientError(f"{what}: Microsoft Graph gave an address that is none", remedy="the next run tries again")
        return self.session.request(method, url, data=data, headers={"User-Agent": AGENT, **(headers or {})}, stream=stream)


def read(response: requests.Response) -> Answer:
    """A response as an answer."""
    try:
        body = response.json() if response.content else {}
    except ValueError:
        body = {}
    return Answer(response.status_code, body if isinstance(body, dict) else {}, response.headers)


def lost(what: str, error: Exception) -> ConfigError | TransientError:
    """The error for a connection that stayed lost. Not chained: the original names addresses that are secret."""
    if untrusted(error):
        return ConfigError(f"{what}: the server's certificate is not trusted", remedy="name the issuing authority's file in ca_bundle")
    if not isinstance(error, LOST):
        return ConfigError(f"{what}: not a usable address ({type(error).__name__})", remedy="check base_url")
    return TransientError(f"{what}: no answer ({type(error).__name__})", remedy="check the network; the next run tries again")


def challenge(header: str) -> str | None:
    """The claims a 401 asks for (continuous access evaluation), as JSON; None when it just refuses the token."""
    found = re.search(r'claims="([^"]+)"', header)
    if not found or "insufficient_claims" not in header:
        return None
    try:
        return base64.b64decode(found[1] + "=" * (-len(found[1]) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
