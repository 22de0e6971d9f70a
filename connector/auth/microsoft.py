"""Signing in to Microsoft Entra ID, with msal over our own session.

As the app itself (secret, certificate, federated assertion, managed identity), so that nothing stops when a person leaves; or as a
person who once entered a device code, for personal OneDrive and live workbook sessions. The secret goes to the configured authority
and nowhere else: discovery of other hosts is off, redirects are not followed, and a token endpoint elsewhere is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msal
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from connector.auth.aadsts import explained, in_text, refused
from connector.auth.tokens import SecretFile
from connector.errors import AuthError, ConfigError, TransientError
from connector.http import LOST, Session, untrusted

LOG: Final = logging.getLogger("connector.auth")
EARLY: Final = timedelta(minutes=5)
IDLE_WARNING: Final = timedelta(days=60)
IDLE_END: Final = timedelta(days=90)
TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of Microsoft's clouds: where people sign in, where Graph is, whether it has the workbook API."""

    login: str
    graph: str
    workbook: bool = True


CLOUDS: Final[Mapping[str, Cloud]] = {
    "global": Cloud("https://login.microsoftonline.com", "https://graph.microsoft.com"),
    "us": Cloud("https://login.microsoftonline.us", "https://graph.microsoft.us"),
    "us-dod": Cloud("https://login.microsoftonline.us", "https://dod-graph.microsoft.us"),
    "china": Cloud("https://login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn", workbook=False),
}


# ── how an app or a person proves who they are ────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Secret:
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A .pfx file, or a PEM file with the private key and the certificate."""

    file: Path
    password: str | None = field(default=None, repr=False)

    def credential(self, now: datetime) -> dict[str, str]:
        """What msal takes: PEM, the certificate that belongs to the key first. Raises ConfigError, or AuthError when it has expired."""
        password = self.password.encode() if self.password else None
        try:
            data = self.file.read_bytes()
            if self.file.suffix.lower() in (".pfx", ".p12"):
                key, leaf, chain = pkcs12.load_key_and_certificates(data, password)
                found = [*([leaf] if leaf else []), *chain]
            else:
                key, found = serialization.load_pem_private_key(data, password), x509.load_pem_x509_certificates(data)
        except OSError as error:
            raise ConfigError(f"certificate {self.file}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError):
            raise ConfigError(
                f"certificate {self.file}: cannot be opened with this certificate_password",
                remedy="name a .pfx file, or a PEM file that holds both the private key and the certificate",
            ) from None
        own = [certificate for certificate in found if key and certificate.public_key() == key.public_key()]
        if key is None or not own:
            raise ConfigError(f"certificate {self.file}: holds no certificate of its private key")
        if own[0].not_valid_after_utc < now:
            raise AuthError(
                f"certificate {self.file}: expired on {own[0].not_valid_after_utc:%Y-%m-%d}",
                remedy="make a new one and upload its public part to the app registration",
            )
        plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        ordered = [*own, *(certificate for certificate in found if certificate not in own)]
        public = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in ordered)
        return {"private_key": plain.decode(), "public_certificate": public.decode()}


@dataclass(frozen=True, slots=True)
class Federation:
    """A file with an assertion somebody else signs and keeps fresh (AKS workload identity, CI systems)."""

    file: Path

    def assertion(self) -> str:
        try:
            return self.file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"federated_token {self.file}: cannot be read ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The managed identity of the machine we run on; `client_id` names a user-assigned one."""

    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who signs in once with a device code. `permissions` are delegated ones, e.g. Files.ReadWrite."""

    permissions: tuple[str, ...] = ("Files.ReadWrite",)


Proof = Secret | Certificate | Federation | HostIdentity | Person


class SignIn(Protocol):
    """Where a bearer token comes from."""

    @property
    def app_only(self) -> bool: ...
    @property
    def kept(self) -> bool: ...
    def token(self) -> str: ...
    def renew(self, claims: str | None = None) -> str: ...


class MicrosoftSignIn:
    """Tokens for `resource` (a Graph root), kept in memory and, with `session.folder`, in a file between runs.

    Raises ConfigError (2), AuthError (3) or TransientError (75) with the remedy in words.
    """

    def __init__(
        self, session: Session, proof: Proof, *, tenant: str, client_id: str, authority: str = CLOUDS["global"].login, resource: str
    ) -> None:
        self._session = session
        self._proof = proof
        self._tenant = tenant
        self._client_id = client_id
        self._authority = authority.rstrip("/") + ("" if urlsplit(authority).path.strip("/") else f"/{tenant}")
        self._resource = resource.rstrip("/")
        self._token: str | None = None
        self._until: datetime | None = None
        self._kept = False
        key = hashlib.sha256(f"{self._authority}\n{client_id}\n{self._resource}\n{type(proof).__name__}".encode()).hexdigest()[:16]
        self._file = SecretFile(session.folder / f"microsoft-{key}.json" if session.folder else None, sleep=session.sleep)
        self._cache = msal.SerializableTokenCache()

    @property
    def app_only(self) -> bool:
        return not isinstance(self._proof, Person)

    @property
    def kept(self) -> bool:
        """Whether the token is one from an earlier run: permissions granted since are not in it."""
        return self._kept

    @property
    def place(self) -> str:
        if isinstance(self._proof, HostIdentity):
            return "sign-in with the machine's managed identity"
        return f"sign-in at {self._tenant} as app {self._client_id}"

    def token(self) -> str:
        """A bearer token that is good for some minutes yet."""
        if self._token is None or self._until is None or self._session.now() >= self._until - EARLY:
            self._take(self._acquire(fresh=False, claims=None))
        assert self._token is not None
        return self._token

    def renew(self, claims: str | None = None) -> str:
        """A new token although the old one should still be good: the service refused it, or asked for `claims` (JSON)."""
        self._take(self._acquire(fresh=True, claims=claims))
        assert self._token is not None
        return self._token

    def login(self, prompt: Callable[[str], None]) -> str:
        """Sign a person in with a device code; `prompt` shows them what to do. Returns who it was."""
        if not isinstance(self._proof, Person):
            raise ConfigError(f"{self.place}: nobody needs to sign in, the app does so itself", remedy="set device_code: true for a person")
        with self._translated():
            flow = self._app.initiate_device_flow(self._scopes)
            if "user_code" not in flow:
                raise refused(flow, self.place)
            prompt(str(flow["message"]))
            patience = float(flow["expires_in"])
            while True:
                flow.pop("latest_attempt_at", None)  # msal's own clock; ours keeps the interval
                answer = self._app.acquire_token_by_device_flow(flow, exit_condition=lambda _: True)
                if answer.get("error") not in ("authorization_pending", "slow_down") or patience <= 0:
                    break
                interval = float(flow.get("interval", 5)) + (5 if answer["error"] == "slow_down" else 0)
                self._session.sleep(interval)
                patience -= interval
        if "access_token" not in answer:
            raise refused(answer, self.place)
        who = str((answer.get("id_token_claims") or {}).get("preferred_username", "?"))
        with self._file.locked():
            for account in self._app.get_accounts():
                if account.get("username") != who:
                    self._app.remove_account(account)
            self._file.write(self._cache.serialize())
        self._take(answer)
        return who

    def idle(self) -> timedelta | None:
        """How long ago a person's sign-in was last renewed; it ends after 90 days. None for apps."""
        if self.app_only:
            return None
        times = [int(entry.get("last_modification_time", 0)) for entry in self._cache.search(msal.TokenCache.CredentialType.REFRESH_TOKEN)]
        return self._session.now() - datetime.fromtimestamp(max(times), self._session.now().tzinfo) if times else None

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    @property
    def _scopes(self) -> list[str]:
        if isinstance(self._proof, Person):
            return [f"{self._resource}/{permission}" for permission in self._proof.permissions]
        return [f"{self._resource}/.default"]

    def _take(self, answer: Mapping[str, Any]) -> None:
        self._token = str(answer["access_token"])
        self._kept = answer.get("token_source") == "cache"
        self._until = self._session.now() + timedelta(seconds=int(answer["expires_in"]))

    def _acquire(self, *, fresh: bool, claims: str | None) -> Mapping[str, Any]:
        with self._file.locked(), self._translated():
            self._cache.deserialize(self._kept_tokens())
            self._cache.has_state_changed = False
            try:
                answer = self._ask(fresh, claims)
            finally:
                if self._cache.has_state_changed:
                    self._file.write(self._cache.serialize())
        if "access_token" not in answer:
            raise refused(answer, self.place)
        return answer

    def _kept_tokens(self) -> str:
        kept = self._file.read()
        try:
            whole = isinstance(json.loads(kept or "{}"), dict)
        except ValueError:
            whole = False
        if not whole:
            LOG.warning("%s: the token cache was damaged and is made anew", self.place)
        return kept if kept and whole else "{}"

    def _ask(self, fresh: bool, claims: str | None) -> Mapping[str, Any]:
        match self._proof:
            case HostIdentity():
                if fresh:
                    self.__dict__.pop("_app", None)
                    self._cache.deserialize("{}")
                answer = self._app.acquire_token_for_client(resource=self._resource, claims_challenge=claims)
            case Person():
                accounts = self._app.get_accounts()
                if not accounts:
                    raise AuthError(f"{self.place}: nobody has signed in yet", remedy="run `connector login`")
                self._warn_when_idle()
                answer = self._app.acquire_token_silent_with_error(self._scopes, accounts[0], force_refresh=fresh, claims_challenge=claims)
            case _:
                if fresh:
                    self._app.remove_tokens_for_client()
                answer = self._app.acquire_token_for_client(self._scopes, claims_challenge=claims)
        return answer or {"error": "no token"}

    def _warn_when_idle(self) -> None:
        idle = self.idle()
        if idle and idle > IDLE_WARNING:
            LOG.warning(
                "%s: the sign-in was last renewed %d days ago and ends after %d; run `connector login` if runs are that rare",
                self.place,
                idle.days,
                IDLE_END.days,
            )

    @cached_property
    def _app(self) -> Any:
        if isinstance(self._proof, HostIdentity):
            identity = (
                msal.UserAssignedManagedIdentity(client_id=self._proof.client_id)
                if self._proof.client_id
                else msal.SystemAssignedManagedIdentity()
            )
            return msal.ManagedIdentityClient(identity, http_client=self._session, token_cache=self._cache)
        wire = _Wire(self._session, self._authority, self.place)
        common: dict[str, Any] = {
            "authority": self._authority,
            "token_cache": self._cache,
            "http_client": wire,
            "instance_discovery": False,
        }
        match self._proof:
            case Person():
                return msal.PublicClientApplication(self._client_id, **common)
            case Secret(value):
                credential: object = value
            case Certificate():
                credential = self._proof.credential(self._session.now())
            case Federation():
                credential = {"client_assertion": self._proof.assertion}
        return msal.ConfidentialClientApplication(self._client_id, client_credential=credential, **common)

    def _translated(self) -> _Translated:
        return _Translated(self.place)


class _Wire:
    """msal's requests, over our session: to the authority's host only, and repeated when the answer was lost."""

    def __init__(self, session: Session, authority: str, place: str) -> None:
        self._session = session
        self._host = urlsplit(authority).netloc.casefold()
        self._place = place

    def get(self, url: str, **kwargs: Any) -> requests.Response:
        """Raises what the answer says, which msal would not pass on: there is no such tenant, for one."""
        response = self._send("GET", url, **kwargs)
        if 400 <= response.status_code < 500 and (found := in_text(response.text)):
            raise explained(found, "", self._place)
        return response

    def post(self, url: str, **kwargs: Any) -> requests.Response:
        for attempt in range(1, TRIES + 1):
            last = attempt == TRIES
            try:
                response = self._send("POST", url, **kwargs)
            except LOST:
                if last:
                    raise
            else:
                if response.status_code < 500 or response.status_code == 503 or last:
                    return response
                response.close()
            self._session.retries += 1
            self._session.sleep(2.0**attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """The session is not ours to close."""

    def _send(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        host = urlsplit(url).netloc.casefold()
        if host != self._host:
            raise ConfigError(
                f"{self._place}: {self._host} refers to {host}; nothing was sent there", remedy="check `authority` and `cloud`"
            )
        for name in ("timeout", "verify", "proxies"):
            kwargs.pop(name, None)
        return self._session.request(method, url, allow_redirects=False, **kwargs)


class _Translated:
    """msal reports trouble in five ways; this makes our errors of four of them (the fifth is an answer with `error` in it)."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        place = self._place
        match error:
            case requests.RequestException() if untrusted(error):
                raise ConfigError(
                    f"{place}: the certificate of the server is not trusted", remedy="name its authority in ca_bundle"
                ) from None
            case requests.RequestException():
                raise TransientError(
                    f"{place}: no answer ({type(error).__name__})", remedy="check the network; the next run tries again"
                ) from None
            case msal.exceptions.MsalServiceError():
                raise TransientError(
                    f"{place}: Microsoft's sign-in failed", remedy="nothing is wrong here; the next run tries again"
                ) from None
            case msal.ManagedIdentityError():
                raise ConfigError(f"{place}: this machine has none", remedy="use client_secret or certificate outside Azure") from None
            case (
                ValueError() | RuntimeError()
            ):  # the constructor's way to report an unknown tenant, json's to report a page that is not JSON
                if found := in_text(str(error)):
                    raise explained(found, "", place) from None
                raise ConfigError(f"{place}: not a sign-in service", remedy="check `authority`, `cloud` and `tenant`") from None


def claims_of(token: str) -> Mapping[str, Any]:
    """What a token says about itself (unverified); empty for tokens that are not JWTs, as personal accounts have."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        value = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
