"""The sandbox's front door: what is here, a configuration that reaches it, and a way to let days pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC

from connector.sandbox.office import Office
from connector.sandbox.server import Request, Response, Route, Service, reply

LONGEST: int = 366


class Control(Service):
    """`GET /` tells what `about` says, `GET /connector.yaml` gives the configuration, `POST /days/7` lets a week pass."""

    name = "control"

    def __init__(self, office: Office, about: Callable[[], str], configuration: Callable[[], str]) -> None:
        self.office = office
        self.about = about
        self.configuration = configuration
        self._lock = threading.Lock()

    def routes(self) -> Iterable[Route]:
        yield "GET", "/", lambda _: _plain(self.about())
        yield "GET", "/connector.yaml", lambda _: _plain(self.configuration())
        yield "POST", r"/days/(?P<days>\d{1,3})", self.pass_days

    def pass_days(self, request: Request) -> Response:
        """Only between runs: a CRM does not stand still in the middle of an answer, but it does not leap either."""
        days = int(request.args["days"])
        if not 1 <= days <= LONGEST:
            return reply({"error": f"from 1 to {LONGEST} days"}, 400)
        with self._lock:
            self.office.advance(days)
        now = f"{self.office.now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return reply({"now": now, "then": f"connector run demo --at {now}"})


def _plain(text: str) -> Response:
    return Response(200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})
