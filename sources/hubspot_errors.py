"""HubSpot's refusals in our words: what was asked, HubSpot's own word for the refusal, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import requests

from connector.errors import AuthError, ConnectorError, SourceError, TransientError

REMEDIES: Final = {
    HTTPStatus.NOT_FOUND: "check `api_version` and `base_url`: the portal has nothing at this address",
    HTTPStatus.REQUEST_URI_TOO_LONG: "something between here and HubSpot takes short addresses only; name fewer properties under `fields`",
}
AGAIN: Final = "run again; if it stays, report this line: HubSpot does not accept a question it used to answer"
_SCOPES: Final = "MISSING_SCOPES"


class Refused(SourceError):  # noqa: N818 — HubSpot's word for it
    """HubSpot said no to this request, `asked` being its method and path."""

    def __init__(self, place: str, asked: str, status: int, category: str) -> None:
        remedy = next((remedy for refused, remedy in REMEDIES.items() if refused == status), AGAIN)
        super().__init__(f"{place}: {asked}: {status} {category}".strip(), remedy=remedy)
        self.status = status


class Forbidden(AuthError):  # noqa: N818
    """A scope or a plan that the token lacks; `scopes` as far as HubSpot names them, `of_scope` when it is one."""

    def __init__(self, place: str, scopes: Sequence[str], category: str) -> None:
        named = ", ".join(scopes)
        self.lacks = f"the token lacks {f'the scope {named}' if scopes else f'a permission ({category})'}"
        super().__init__(
            f"{place}: {self.lacks}",
            remedy=f"add {named or 'it'} to the private app or service key; some data also needs a higher HubSpot plan",
        )
        self.of_scope = bool(scopes) or category == _SCOPES


def refusal(place: str, asked: str, response: requests.Response) -> ConnectorError:
    """The error that an answer without success stands for."""
    status = response.status_code
    body = _body(response)
    category = str(body.get("category") or "")
    if status == 530:
        return AuthError(f"{place}: the token is malformed", remedy="copy it whole; it begins with pat- and has no spaces")
    if status == HTTPStatus.UNAUTHORIZED:
        expired = category == "EXPIRED_AUTHENTICATION"
        return AuthError(
            f"{place}: the token {'has expired' if expired else 'is not known'}",
            remedy="copy the access token of the private app or service key anew; a rotated or deleted one is dead",
        )
    if status == HTTPStatus.FORBIDDEN:
        scopes = _scopes(body)
        if category or scopes:
            return Forbidden(place, scopes, category)
        return AuthError(
            f"{place}: {asked}: 403 without a word of HubSpot's", remedy="ask who runs the firewall or proxy on the way to HubSpot"
        )
    return _passing(place, status, body) or Refused(place, asked, status, category)


def _passing(place: str, status: int, body: Mapping[str, Any]) -> TransientError | None:
    """What is over by itself after a while."""
    if status == 477:
        return TransientError(f"{place}: the portal is being moved between data centres", remedy="run again tomorrow")
    if status == HTTPStatus.TOO_MANY_REQUESTS and _daily(body):
        return TransientError(
            f"{place}: the day's calls are used up", remedy="the count starts anew at midnight of the portal's time zone; run then"
        )
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        return TransientError(f"{place}: {status}", remedy="the next run tries again")
    return None


def no_use_waiting(response: requests.Response) -> bool:
    """Whether asking again within this run cannot help, although the status says so."""
    return response.status_code == 530 or (response.status_code == HTTPStatus.TOO_MANY_REQUESTS and _daily(_body(response)))


def misshapen(place: str, asked: str, lacking: str) -> SourceError:
    """An answer of success that is not what HubSpot gives: nothing may be concluded from it."""
    return SourceError(
        f"{place}: {asked}: the answer has no {lacking}",
        remedy="nothing was taken over; run again, and if it stays, look for a proxy or gateway that answers in HubSpot's place",
    )


def _body(response: requests.Response) -> Mapping[str, Any]:
    """Errors may be JSON, HTML or empty."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _daily(body: Mapping[str, Any]) -> bool:
    return "DAILY" in str(body.get("policyName") or "").upper()


def _scopes(body: Mapping[str, Any]) -> list[str]:
    contexts = [body.get("context"), *(one.get("context") for one in body.get("errors") or () if isinstance(one, dict))]
    return [str(scope) for context in contexts if isinstance(context, dict) for scope in context.get("requiredGranularScopes") or ()]
