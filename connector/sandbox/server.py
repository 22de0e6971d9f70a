"""The small HTTP kit the sandbox's services share: routing, JSON, faults on demand, a log of what clients did.

To add a service, subclass `Service`, name it, and list its routes::

    class Greeter(Service):
        name = "greeter"

        def routes(self) -> Iterable[Route]:
            yield "GET", r"/hello/(?P<who>[^/]+)", self.hello

        def hello(self, request: Request) -> Response:
            return reply({"hello": request.args["who"]})

    with serve(Greeter()) as running:
        requests.get(running.url("greeter") + "/hello/Ann")

A route is a method, a regular expression that the whole raw path must match, and a handler; the first match wins and its named
groups arrive percent-decoded in `request.args`. Every service listens on a loopback port of its own (0: any free one), each
request in a thread of its own: guard what handlers share. A handler may raise `Refusal(response)` from any depth.

Tests steer it from outside: `running.faults.add(...)` breaks requests, `running.requests` tells what was asked, and
`running.violations` collects what a well-behaved client would not have done (a handler says so with `request.violate(...)`;
a handler that crashes is listed there too), so that a test ends with `assert running.violations == []`. With `strict`, so is
a client that comes back before the `Retry-After` it was given is over.
`running.clock` is the time the services go by: `clock.sleep` moves it without waiting.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from connector.errors import ConfigError

BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked. `path` is as sent (percent-encoded); `query` is decoded, the last value wins; `base` is the URL it was sent to."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: bytes
    args: Mapping[str, str]
    base: str
    running: Running
    raw_query: str = ""

    @property
    def target(self) -> str:
        return f"{self.base}{self.path}"

    def json(self) -> Any:
        """The body as JSON, None when it is empty. Raises ValueError."""
        return json.loads(self.body) if self.body else None

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    def violate(self, what: str) -> None:
        """Note that a well-behaved client would not have sent this."""
        self.running.violations.append(f"{self.method} {unquote(self.path)}: {what}")


@dataclass(frozen=True, slots=True)
class Response:
    """What the service answers. A `Path` as body is streamed from disk."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818 — not an error of ours: the answer a client deserves
    """Ends a handler with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


Handler = Callable[[Request], Response]
Route = tuple[str, str, Handler]


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(
        status, json.dumps(value, ensure_ascii=False, default=str).encode(), {"Content-Type": "application/json", **(headers or {})}
    )


class Service:
    """One host of the sandbox. `tls` makes it speak https; `refuse` says unknown addresses and injected faults in the service's own words."""

    name: str
    tls: ssl.SSLContext | None = None

    def routes(self) -> Iterable[Route]:
        raise NotImplementedError

    def refuse(self, status: int, message: str) -> Response:
        return reply({"error": message}, status)


class Clock:
    """The time of day plus what was slept away, so that a test waits half an hour in no time."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def sleep(self, seconds: float) -> None:
        self._offset += timedelta(seconds=seconds)


@dataclass(slots=True)
class Fault:
    """How requests whose `METHOD /path?query` matches `match` (searched, decoded) are broken.

    `status` answers so; `drop` resets the connection; `truncate` cuts the answer after so many bytes; `latency` waits first (seconds).
    With `after`, the service does its work before the answer is lost: a hidden success. `skip` spares the first matches, `times`
    limits how many are hit (None: all), `share` hits that part of them by chance. `service` limits it to one host.
    """

    match: str
    status: int | None = None
    drop: bool = False
    truncate: int | None = None
    latency: float = 0
    after: bool = False
    times: int | None = 1
    skip: int = 0
    share: float = 1
    service: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hits: int = 0


class Faults:
    """The faults a test asked for; the same ones at the same requests for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._faults: list[Fault] = []
        self._chance = random.Random(seed)  # noqa: S311 — which requests fail is no secret
        self._lock = threading.Lock()

    def add(self, match: str, **how: Any) -> Fault:
        """Break requests as `Fault` says; keep what is returned to see how often it was hit."""
        fault = Fault(match, **how)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def draw(self, service: str, line: str) -> Fault | None:
        """The fault this request meets."""
        with self._lock:
            for fault in self._faults:
                if fault.service not in (None, service) or not re.search(fault.match, line):
                    continue
                if fault.times is not None and fault.hits >= fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                elif fault.share >= 1 or self._chance.random() < fault.share:
                    fault.hits += 1
                    return fault
        return None


@dataclass(frozen=True, slots=True)
class Logged:
    """One request as the log keeps it; `status` is 0 when the connection was dropped."""

    service: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    status: int
    at: datetime

    @property
    def line(self) -> str:
        return f"{self.method} {unquote(self.path)}"

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


class Running:
    """Services that are listening. See the module's docstring."""

    def __init__(self, clock: Clock | None = None, *, strict: bool = False) -> None:
        self.clock = clock or Clock()
        self.strict = strict
        self.faults = Faults()
        self.requests: list[Logged] = []
        self.violations: list[str] = []
        self._servers: dict[str, _Server] = {}
        self._not_before: dict[tuple[str, str, str], datetime] = {}

    def url(self, service: str) -> str:
        return self._servers[service].base

    @property
    def urls(self) -> dict[str, str]:
        return {name: server.base for name, server in self._servers.items()}

    def asked(self, pattern: str) -> list[Logged]:
        """The logged requests whose `METHOD /path` (decoded) matches, searched."""
        return [logged for logged in self.requests if re.search(pattern, logged.line)]

    def patience(self, service: str, method: str, path: str, response: Response | None = None) -> None:
        """Remember when this request may be repeated (with the answer), or complain that it is too early (without)."""
        key, now = (service, method, path), self.clock.now()
        if response is None:
            early = (self._not_before.pop(key, now) - now).total_seconds()
            if early > 0.5 and self.strict:
                self.violations.append(f"{method} {unquote(path)}: came back {early:.0f} s before Retry-After was over")
        elif response.status in (429, 503) and response.headers.get("Retry-After", "").isdigit():
            self._not_before[key] = now + timedelta(seconds=int(response.headers["Retry-After"]))

    def start(self, service: Service, port: int = 0) -> str:
        """Listen; the base URL. Raises ConfigError when the port is taken."""
        try:
            self._servers[service.name] = server = _Server(service, port, self)
        except OSError as error:
            raise ConfigError(
                f"sandbox: cannot listen on port {port} for {service.name}: {error.strerror}", remedy="name a free port, or 0 for any"
            ) from error
        server.thread.start()
        return server.base

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()


@contextmanager
def serve(
    *services: Service, ports: Mapping[str, int] | None = None, clock: Clock | None = None, strict: bool = False
) -> Iterator[Running]:
    """Run services on loopback until the block ends."""
    running = Running(clock, strict=strict)
    try:
        for service in services:
            running.start(service, (ports or {}).get(service.name, 0))
        yield running
    finally:
        running.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined in stop()
    block_on_close = True
    request_queue_size = 64

    def __init__(self, service: Service, port: int, running: Running) -> None:
        self.service = service
        self.running = running
        self.routes = [(method, re.compile(pattern), handler) for method, pattern, handler in service.routes()]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Connection)
        if service.tls:
            self.socket = service.tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        scheme, host = ("https", "localhost") if service.tls else ("http", "127.0.0.1")
        self.base = f"{scheme}://{host}:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=f"sandbox-{service.name}", daemon=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(error := sys.exception(), OSError):  # a client that hangs up is its own business
            self.running.violations.append(f"{self.service.name}: the sandbox crashed: {error!r}")

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client was faster
                    continue
        self.server_close()


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if self.parse_request():
            self.answer()
            if not self.wfile.closed:
                self.wfile.flush()

    def answer(self) -> None:
        server, running = self.server, self.server.running
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        running.patience(server.service.name, self.command, parts.path)
        fault = running.faults.draw(server.service.name, f"{self.command} {unquote(self.path)}")
        if fault and fault.latency:
            time.sleep(fault.latency)
        if fault and fault.drop and not fault.after:
            self.log(parts.path, query, b"", 0)
            self.reset()
            return
        body = self.body()
        if fault and fault.status and not fault.after:
            response = self.faulty(fault)
        else:
            response = self.dispatch(parts.path, query, body)
            if fault and fault.status:
                response = self.faulty(fault)
        running.patience(server.service.name, self.command, parts.path, response)
        dropped = bool(fault and fault.drop)
        self.log(parts.path, query, body, 0 if dropped else response.status)
        if dropped:
            self.reset()
        else:
            self.send(response, fault.truncate if fault else None)

    def faulty(self, fault: Fault) -> Response:
        assert fault.status is not None
        if fault.body is not None:
            return Response(fault.status, fault.body, {"Content-Type": "application/json", **fault.headers})
        refused = self.server.service.refuse(fault.status, "injected by the sandbox")
        return Response(fault.status, refused.body, {**refused.headers, **fault.headers})

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            blocks = []
            while size := int(self.rfile.readline(1024).split(b";")[0], 16):
                blocks.append(self.rfile.read(size))
                self.rfile.readline(1024)
            while self.rfile.readline(65537).strip():
                pass
            return b"".join(blocks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def dispatch(self, path: str, query: Mapping[str, str], body: bytes) -> Response:
        service = self.server.service
        known = False
        for method, pattern, handler in self.server.routes:
            match = pattern.fullmatch(path)
            known = known or bool(match)
            if not match or self.command != method:
                continue
            args = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            scheme = "https" if service.tls else "http"
            base = f"{scheme}://{self.headers['Host']}" if self.headers["Host"] else self.server.base
            request = Request(self.command, path, query, self.headers, body, args, base, self.server.running, urlsplit(self.path).query)
            try:
                return handler(request)
            except Refusal as refusal:
                return refusal.response
            except Exception:  # noqa: BLE001 — reported to the test through `violations`
                request.violate(f"the sandbox crashed: {traceback.format_exc()}")
                return service.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the sandbox crashed")
        if known:
            return service.refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"no {self.command} here")
        return service.refuse(HTTPStatus.NOT_FOUND, "no such address")

    def send(self, response: Response, truncate: int | None) -> None:
        size = response.body.stat().st_size if isinstance(response.body, Path) else len(response.body)
        self.send_response_only(response.status)
        if "Date" not in response.headers:
            self.send_header("Date", self.date_time_string(self.server.running.clock.now().timestamp()))
        for name, value in response.headers.items():
            self.send_header(name, value)
        bodiless = response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if not bodiless:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if bodiless or self.command == "HEAD":
            return
        for block in _blocks(response.body, size if truncate is None else min(truncate, size)):
            self.wfile.write(block)
        if truncate is not None and truncate < size:
            self.close_connection = True

    def reset(self) -> None:
        """Break the connection the hard way (RST, not FIN)."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def log(self, path: str, query: Mapping[str, str], body: bytes, status: int) -> None:
        running = self.server.running
        headers = {name.lower(): value for name, value in self.headers.items()}
        kept = body if len(body) <= BLOCK else b""
        running.requests.append(Logged(self.server.service.name, self.command, path, query, headers, kept, status, running.clock.now()))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the name http.server gave it
        """`running.requests` is the log."""


def _blocks(body: bytes | Path, size: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[:size]
        return
    with body.open("rb") as file:
        while size and (block := file.read(min(BLOCK, size))):
            size -= len(block)
            yield block
