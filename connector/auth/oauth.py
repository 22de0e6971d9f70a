"""OAuth 2.0 access tokens for programs: client credentials, JWT bearer (RFC 7523) and refresh tokens, also rotating ones.

A grant is a frozen value read from YAML; `OAuth` asks the token endpoint with it and hands out one token to everybody who shares it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import jwt
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from connector.auth.tokens import SecretFile
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError
from connector.http import Session

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_LIFE: Final = timedelta(minutes=3)
EARLY: Final = timedelta(seconds=60)


class _Grant(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    client_id: str = Field(description="Consumer key of the app.")


class ClientCredentials(_Grant):
    """The app signs in as itself."""

    type: Literal["client_credentials"] = "client_credentials"
    client_secret: SecretStr

    def form(self, now: datetime) -> dict[str, str]:
        return {"grant_type": self.type, "client_id": self.client_id, "client_secret": self.client_secret.get_secret_value()}


class JwtBearer(_Grant):
    """The app signs in as a user who approved it, with a certificate instead of a secret."""

    type: Literal["jwt_bearer"] = "jwt_bearer"
    username: str = Field(description="User the app acts as.")
    private_key: SecretStr = Field(description="RSA key in PEM, e.g. ${file:/run/secrets/salesforce.pem}.")
    audience: str = Field("https://login.salesforce.com", description="https://test.salesforce.com for a sandbox org.")

    def form(self, now: datetime) -> dict[str, str]:
        claims = {"iss": self.client_id, "sub": self.username, "aud": self.audience, "exp": int((now + JWT_LIFE).timestamp())}
        try:
            assertion = jwt.encode(claims, self.private_key.get_secret_value(), algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise ConfigError(
                "auth.private_key is not an RSA key in PEM", remedy="it begins with -----BEGIN PRIVATE KEY----- and has no password"
            ) from error
        return {"grant_type": JWT_BEARER, "assertion": assertion}


class RefreshToken(_Grant):
    """A token a person got once, exchanged for access tokens. Where the service rotates it, the newest is kept beside the state."""

    type: Literal["refresh_token"] = "refresh_token"
    client_secret: SecretStr | None = None
    refresh_token: SecretStr

    def form(self, now: datetime) -> dict[str, str]:
        form = {"grant_type": self.type, "client_id": self.client_id, "refresh_token": self.refresh_token.get_secret_value()}
        return form | ({"client_secret": self.client_secret.get_secret_value()} if self.client_secret else {})


Grant = Annotated[ClientCredentials | JwtBearer | RefreshToken, Field(discriminator="type")]


@dataclass(frozen=True, slots=True, repr=False)
class AccessToken:
    """`answer` is all the endpoint said; `expires_at` is None where it did not say."""

    text: str
    made_at: datetime
    expires_at: datetime | None
    answer: Mapping[str, Any]


#: An error with a remedy for the endpoint's `error` and `error_description`
Explain = Callable[[str, str], ConnectorError]


class OAuth:
    """Hands out one access token, and a new one when the old is dead; safe to share between threads.

    `former` is where the service may still have its token endpoint if `url` is unknown there. `rotates` says that the service may replace a
    refresh token when it is used: asking once more after a lost answer would then spend it twice, which ends the grant.
    """

    def __init__(
        self,
        grant: ClientCredentials | JwtBearer | RefreshToken,
        url: str,
        session: Session,
        *,
        place: str,
        explain: Explain,
        former: str | None = None,
        rotates: bool = True,
    ) -> None:
        self._grant = grant
        self._url = url
        self._session = session
        self._place = place
        self._explain = explain
        self._former = former
        self._repeatable = not (rotates and isinstance(grant, RefreshToken))
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._file = _rotation_file(grant, session.shared or session.folder)

    def token(self) -> AccessToken:
        """The token in use. Raises AuthError when there is none to be had."""
        with self._lock:
            token = self._token
            if token is None or (token.expires_at is not None and token.expires_at - EARLY <= self._session.now()):
                token = self._token = self._ask()
            return token

    def renew(self, dead: AccessToken) -> AccessToken:
        """A token in place of one the service refused. Others may have renewed it meanwhile; a storm of refusals makes one sign-in."""
        with self._lock:
            if self._token is None or self._token is dead:
                self._token = self._ask()
            return self._token

    def _ask(self) -> AccessToken:
        with self._file.locked():
            now = self._session.now()
            form = self._grant.form(now)
            if kept := self._kept():
                form["refresh_token"] = kept
            answer = self._answer(form)
            rotated = answer.get("refresh_token")
            if isinstance(self._grant, RefreshToken) and rotated and rotated != form["refresh_token"]:
                self._file.write(json.dumps({"refresh_token": rotated}))  # before anything uses the access token
        life = answer.get("expires_in")
        return AccessToken(str(answer["access_token"]), now, now + timedelta(seconds=float(life)) if life else None, answer)

    def _kept(self) -> str:
        text = self._file.read() if isinstance(self._grant, RefreshToken) else ""
        try:
            return str(json.loads(text)["refresh_token"]) if text else ""
        except (ValueError, KeyError, TypeError) as error:
            assert self._file.file is not None
            raise AuthError(
                f"{self._place}: the refresh token kept in {self._file.file.name} is damaged",
                remedy="sign in again, put the new token into auth.refresh_token, and remove that file from the data folder's plugins",
            ) from error

    def _answer(self, form: Mapping[str, str]) -> dict[str, Any]:
        response = self._session.ask(
            "POST", self._url, where=self._place, data=form, headers={"Accept": "application/json"}, repeatable=self._repeatable
        )
        if response.status_code == HTTPStatus.NOT_FOUND and self._former:
            self._url, self._former = self._former, None
            return self._answer(form)
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        if response.ok and isinstance(answer, dict) and answer.get("access_token"):
            return answer
        if response.status_code == 429 or response.status_code >= 500:
            raise TransientError(f"{self._place}: signing in: {response.status_code}", remedy="the next run tries again")
        if isinstance(answer, dict) and answer.get("error"):
            raise self._explain(str(answer["error"]), str(answer.get("error_description") or ""))
        if response.status_code in (400, 401, 403):
            raise self._explain(str(response.status_code), "")
        raise SourceError(f"{self._place}: no token endpoint answers there ({response.status_code})", remedy="check the address")


def _rotation_file(grant: ClientCredentials | JwtBearer | RefreshToken, folder: Path | None) -> SecretFile:
    """Where a rotated token is kept: named after the configured one, so that a new one in YAML starts afresh, and in one place for all flows
    that name it: two copies would each spend the other's.
    """
    if folder is None or not isinstance(grant, RefreshToken):
        return SecretFile(None)
    name = hashlib.sha256(grant.refresh_token.get_secret_value().encode()).hexdigest()[:16]
    return SecretFile(folder / f"refresh-{name}.json")
