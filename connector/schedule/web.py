"""`--listen`: `/health` and `/metrics` of a running scheduler. Nothing secret is in them, and nobody is asked who they are."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from connector import __version__
from connector.errors import ConfigError
from connector.logs import LOG
from connector.schedule.agenda import Agenda, Line
from connector.schedule.serve import POLL
from connector.status import Standing

STALE: Final = POLL * 6
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Seen:
    """A flow on the agenda as it was after a turn of the loop."""

    flow: str
    running: bool
    attempt: int
    next_due: datetime | None
    ended: tuple[tuple[int, int], ...]
    skipped: int
    missed: int
    retried: int

    @classmethod
    def of(cls, line: Line) -> Seen:
        ended = tuple(sorted(line.ended.items()))
        return cls(line.flow, line.running, line.attempt, line.next, ended, line.skipped, line.missed, line.retried)


@dataclass(eq=False)
class Board:
    """What the loop shows and the web server reads: replaced whole after every turn, so that no lock is needed.

    `standings` reads how the flows stand from the state database; it is called by the server's threads.
    """

    standings: Callable[[], list[Standing]]
    fault: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    seen: tuple[Seen, ...] = ()
    turned: float = 0.0

    def show(self, agenda: Agenda) -> None:
        self.seen = tuple(Seen.of(line) for line in agenda.lines.values())
        self.turned = self.clock()

    def health(self) -> tuple[int, dict[str, object]]:
        """200 while the loop turns. A flow that fails is no reason to restart the scheduler: it is in `/metrics` and `status`."""
        stuck = timedelta(seconds=self.clock() - self.turned) > STALE
        flows = {one.flow: {"running": one.running, "next_run": one.next_due and one.next_due.isoformat()} for one in self.seen}
        body: dict[str, object] = {
            "status": "stuck" if stuck else "ok",
            "version": __version__,
            "configuration": "at fault; see the log" if self.fault() else "ok",
            "flows": flows,
        }
        return (503 if stuck else 200), body

    def collect(self) -> Iterable[Metric]:
        """For prometheus-client: the scheduler's counts since it started, and how the flows stand."""
        yield _gauge("build_info", "Version of the running connector.", ("version",), [((__version__,), 1)])
        yield _gauge("configuration_ok", "0 while the configuration on disk has a fault.", (), [((), int(not self.fault()))])
        runs = CounterMetricFamily("connector_flow_runs", "Runs the scheduler has seen end.", labels=("flow", "exit_code"))
        for one in self.seen:
            for code, count in one.ended:
                runs.add_metric((one.flow, str(code)), count)
        yield runs
        counts: tuple[tuple[str, str, Callable[[Seen], int]], ...] = (
            ("skipped", "Due times skipped because the flow still ran.", lambda one: one.skipped),
            ("missed", "Due times without a run that ended, made up for by a later one.", lambda one: one.missed),
            ("retries", "Repetitions after exit code 75.", lambda one: one.retried),
        )
        for name, about, count_of in counts:
            counter = CounterMetricFamily(f"connector_flow_{name}", about, labels=("flow",))
            for one in self.seen:
                counter.add_metric((one.flow,), count_of(one))
            yield counter
        yield _gauge("flow_running", "1 while a run is under way.", ("flow",), [((one.flow,), int(one.running)) for one in self.seen])
        stamps = [((one.flow,), one.next_due.timestamp()) for one in self.seen if one.next_due]
        yield _gauge("flow_next_due_timestamp_seconds", "When the flow is due next.", ("flow",), stamps)
        standings = self.standings()
        moments: tuple[tuple[str, str, Callable[[Standing], datetime | None]], ...] = (
            ("last_success", "When the last good run ended.", lambda one: one.succeeded_at),
            ("data", "What moment the figures in the workbook are of.", lambda one: one.data_at),
        )
        for name, about, moment_of in moments:
            stamps = [((one.flow,), moment.timestamp()) for one in standings if (moment := moment_of(one))]
            yield _gauge(f"flow_{name}_timestamp_seconds", about, ("flow",), stamps)
        failures = [((one.flow,), one.fault.runs if one.fault else 0) for one in standings]
        yield _gauge("flow_consecutive_failures", "Failed runs since the last good one.", ("flow",), failures)
        yield _gauge(
            "flow_exit_code",
            "As `connector status --check`: 0 when all is well.",
            ("flow",),
            [((one.flow,), one.exit_code) for one in standings],
        )
        yield _gauge(
            "flow_late",
            "1 when a due time has passed without a run.",
            ("flow",),
            [((one.flow,), int(one.late is not None)) for one in standings],
        )


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"connector_{name}", about, labels=labels)
    for label, value in values:
        gauge.add_metric(label, value)
    return gauge


@contextmanager
def listening(address: tuple[str, int] | None, board: Board) -> Iterator[int | None]:
    """Serve the board at an address; gives the port. Raises ConfigError when the address cannot be had."""
    if address is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(board)
    try:
        server = ThreadingHTTPServer(address, _answering(board, registry))
    except OSError as error:
        raise ConfigError(
            f"--listen {address[0]}:{address[1]}: {error.strerror}", remedy="name another port, or stop what uses it"
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _answering(board: Board, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            try:
                status, kind, body = self._answer()
            except Exception as error:  # noqa: BLE001  (a scrape that fails must not end the thread without an answer)
                LOG.error("%s: %s: %s", self.path, type(error).__name__, error)
                status, kind, body = 500, TEXT, b"failed; see the log\n"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self) -> tuple[int, str, bytes]:
            if self.path == "/health":
                status, told = board.health()
                return status, "application/json", json.dumps(told, ensure_ascii=False).encode() + b"\n"
            if self.path == "/metrics":
                return 200, TEXT, generate_latest(registry)
            return 404, TEXT, b"there is: /health, /metrics\n"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
            LOG.debug(format, *args)

    return Answer
