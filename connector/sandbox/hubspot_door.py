"""Who may enter the sandbox's HubSpot, with which scopes, and how often: tokens, versions of the paths, budgets of calls, their headers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from connector.sandbox.hubspot_search import error
from connector.sandbox.hubspot_setup import SCHEMAS, SCOPES, Setup
from connector.sandbox.server import Refusal, Request, Response, reply

LONGEST_ADDRESS: Final = 16_000
USUAL_CALLS: Final = 190  # in ten seconds, and in a day, of a Professional portal
USUAL_DAY: Final = 650_000


class Door:
    """`calls` counts the day's requests, `searches` those of them that search."""

    def __init__(self, setup: Setup, now: Callable[[], datetime]) -> None:
        self.setup = setup
        self.calls = 0
        self.searches = 0
        self._now = now
        self._access: dict[str, datetime] = {}
        self._recent: deque[datetime] = deque()
        self._recent_searches: deque[datetime] = deque()

    def oauth(self, request: Request) -> Response:
        """The token endpoint. What it says is as old as its path: v1 belongs to the legacy paths."""
        form, setup = request.form(), self.setup
        if (request.args.get("version") or "v3") not in setup.versions:
            return not_found()
        known = (form.get("client_id"), form.get("client_secret")) == (setup.client_id, setup.client_secret)
        if form.get("grant_type") != "refresh_token" or not known or form.get("refresh_token") != setup.refresh_token:
            return reply(
                {"error": "invalid_grant", "error_description": "missing or invalid refresh token", "status": "BAD_REFRESH_TOKEN"}, 400
            )
        token = f"CJsandbox{len(self._access)}"
        self._access[token] = self._now() + timedelta(seconds=setup.oauth_seconds)
        return reply(
            {"access_token": token, "refresh_token": setup.refresh_token, "expires_in": setup.oauth_seconds, "token_type": "bearer"}
        )

    def expire_tokens(self) -> None:
        """Every OAuth token given so far is dead."""
        self._access = dict.fromkeys(self._access, self._now())

    def admit(self, request: Request) -> None:
        """Raises Refusal for who may not enter, or not now."""
        if (request.args.get("version") or "v3") not in self.setup.versions:
            raise Refusal(not_found())
        if "hapikey" in request.query:
            request.violate("?hapikey= is dead")
        self._check_token(request.headers.get("Authorization", ""))
        if len(request.path) + len(request.raw_query) > LONGEST_ADDRESS:
            raise Refusal(Response(414, b"<html>Request-URI Too Large</html>", {"Content-Type": "text/html"}))
        if self.setup.daily_calls is not None and self.calls >= self.setup.daily_calls:
            raise Refusal(self._limited("DAILY", "You have reached your daily limit.", None))
        self.calls += 1
        if request.path.endswith("/search"):
            self.searches += 1
            self._limit(self._recent_searches, self.setup.searches_per_second, 1, "SECONDLY", "secondly")
        self._limit(self._recent, self.setup.calls_per_10_seconds, 10, "TEN_SECONDLY_ROLLING", "ten_secondly_rolling")

    def headers(self, request: Request) -> dict[str, str]:
        """What is left of the budgets. Searches do not say."""
        if request.path.endswith("/search"):
            return {}
        limit, day = self.setup.calls_per_10_seconds or USUAL_CALLS, self.setup.daily_calls or USUAL_DAY
        headers = {
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            "X-HubSpot-RateLimit-Max": str(limit),
            "X-HubSpot-RateLimit-Remaining": str(max(0, limit - len(self._recent))),
        }
        if request.headers.get("Authorization", "") == f"Bearer {self.setup.token}":  # not of OAuth apps
            headers |= {"X-HubSpot-RateLimit-Daily": str(day), "X-HubSpot-RateLimit-Daily-Remaining": str(max(0, day - self.calls))}
        return headers

    def may_read(self, name: str) -> None:
        """Raises Refusal without the scope of these objects."""
        self._need(SCOPES[name])

    def may_describe(self, name: str) -> None:
        """Raises Refusal where neither the definitions nor the objects are open."""
        self._need(SCOPES[name], *([SCHEMAS[name]] if name in SCHEMAS else []))

    def _need(self, *one_of: str) -> None:
        if not self.setup.scopes.intersection(one_of):
            message = "This app hasn't been granted all required scopes to make this call."
            details = [
                {"message": "One or more of the following scopes are required.", "context": {"requiredGranularScopes": list(one_of)}}
            ]
            raise Refusal(error(403, "MISSING_SCOPES", message, errors=details))

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if not header:
            raise Refusal(error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found."))
        if scheme != "Bearer" or not token or not all(char.isalnum() or char in "-._~+/=" for char in token):
            raise Refusal(Response(530, b"<html>error code: 1016</html>", {"Content-Type": "text/html"}))
        if token == self.setup.token:
            return
        if token not in self._access:
            raise Refusal(error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found."))
        if self._access[token] <= self._now():
            raise Refusal(error(401, "EXPIRED_AUTHENTICATION", "The OAuth token used to make this call expired 3 hour(s) ago."))

    def _limit(self, recent: deque[datetime], calls: int | None, seconds: int, policy: str, name: str) -> None:
        if calls is None:
            return
        now = self._now()
        while recent and (now - recent[0]).total_seconds() >= seconds:
            recent.popleft()
        if len(recent) >= calls:
            raise Refusal(self._limited(policy, f"You have reached your {name} limit.", seconds))
        recent.append(now)

    def _limited(self, policy: str, message: str, wait: int | None) -> Response:
        answer = error(429, "RATE_LIMITS", message, errorType="RATE_LIMIT", policyName=policy)
        more = {"Retry-After": str(wait)} if wait and self.setup.retry_after else {}
        return Response(429, answer.body, {**answer.headers, **more})


def not_found() -> Response:
    return Response(404, b"<html>Not found</html>", {"Content-Type": "text/html"})
