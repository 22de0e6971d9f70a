"""How the sandbox's Salesforce lets programs in: the OAuth grants, and refusals in OAuth's words."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

import jwt

from connector.sandbox.company import Company
from connector.sandbox.salesforce_settings import App
from connector.sandbox.server import Refusal, reply

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Grants:
    """Decides on grants. `tokens` are the refresh tokens that live; reuse of a rotated one ends them all."""

    def __init__(self, app: App, company: Company) -> None:
        self.setup = app
        self.company = company
        self.tokens = {app.refresh_token}
        self._spent: set[str] = set()

    def granted(self, form: Mapping[str, str], host: str = "") -> dict[str, str]:
        """What a grant adds to the answer, asked for at a host. Raises Refusal in OAuth's own words."""
        grant = form.get("grant_type")
        if form.get("client_id") != self.setup.client_id and grant != JWT_BEARER:
            raise _denied("invalid_client_id", "client identifier invalid", 400)
        if grant == "client_credentials":
            if host.endswith(".salesforce.com") and host != self.setup.my_domain:
                raise _denied("invalid_grant", "request not supported on this domain")
            if form.get("client_secret") != self.setup.client_secret:
                raise _denied("invalid_client", "invalid client credentials", 401)
            if not self.setup.run_as_user:
                raise _denied("invalid_grant", "no client credentials user enabled")
            return {"scope": self.setup.scope}
        if grant == JWT_BEARER:
            self._check_assertion(form.get("assertion", ""))
            return {"scope": self.setup.scope}
        if grant == "refresh_token":
            return self._refreshed(form.get("refresh_token", ""))
        raise _denied("unsupported_grant_type", "grant type not supported")

    def _check_assertion(self, assertion: str) -> None:
        now = self.company.now.timestamp()
        try:
            claims = jwt.decode(
                assertion,
                self.setup.public_key or "",
                ["RS256"],
                audience=["https://login.salesforce.com", "https://test.salesforce.com", f"https://{self.setup.my_domain}"],
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidAudienceError as error:
            raise _denied("invalid_grant", "audience is invalid") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise _denied("invalid_grant", "invalid assertion") from error
        if claims.get("iss") != self.setup.client_id or claims.get("sub") != self.setup.username:
            raise _denied("invalid_grant", "user hasn't approved this consumer")
        if not now < float(claims.get("exp", 0)) <= now + 300:
            raise _denied("invalid_grant", "expired authorization code")

    def _refreshed(self, given: str) -> dict[str, str]:
        if given in self._spent:  # reuse of a rotated token revokes the whole grant
            self.tokens.clear()
        if given not in self.tokens:
            raise _denied("invalid_grant", "expired access/refresh token")
        if not self.setup.rotate_refresh_tokens:
            return {}
        self.tokens.discard(given)
        self._spent.add(given)
        fresh = f"refresh-{len(self._spent)}"
        self.tokens.add(fresh)
        return {"refresh_token": fresh}


def basic(header: str) -> dict[str, str]:
    """The app's credentials where they come as HTTP Basic instead of in the form."""
    scheme, _, text = header.partition(" ")
    if scheme != "Basic":
        return {}
    client_id, _, secret = base64.b64decode(text).decode().partition(":")
    return {"client_id": client_id, "client_secret": secret}


def _denied(error: str, description: str, status: int = 400) -> Refusal:
    return Refusal(reply({"error": error, "error_description": description}, status))
