"""The machine, as the scheduler sees it: its clock, its processes, its signals, and the configuration on its disk."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Final

from connector.cron import Plan
from connector.errors import ConfigError
from connector.logs import LOG
from connector.schedule.agenda import Agenda
from connector.schedule.serve import Stop

LINE: Final = 64 * 1024  # longer lines of a run's output come in pieces
LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Machine:
    """Runs are processes `command(flow)`; what they print becomes our log. `read` gives the plans, or raises ConfigError."""

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        read: Callable[[], Mapping[str, Plan]],
        watched: Callable[[], Sequence[Path]],
        shown: Callable[[Agenda], None],
    ) -> None:
        self._command = command
        self._read = read
        self._watched = watched
        self.shown = shown
        self._seen: object = None
        self._fault = ""
        self._signals = 0
        self._inbox: SimpleQueue[tuple[str, int] | None] = SimpleQueue()  # its put may be called by a signal handler
        self._ended: list[tuple[str, int]] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # ── time ────────────────────────────────────────────────────────────────────────────────

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic())

    def wait(self, pause: timedelta) -> None:
        with suppress(Empty):
            self._receive(self._inbox.get(timeout=max(0.0, pause.total_seconds())))
            while True:
                self._receive(self._inbox.get_nowait())

    def _receive(self, word: tuple[str, int] | None) -> None:
        if word is not None:
            del self._processes[word[0]]
            self._ended.append(word)

    # ── signals ─────────────────────────────────────────────────────────────────────────────

    def listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: object) -> None:
        self._signals += 1
        self._inbox.put(None)

    def signals(self) -> int:
        return self._signals

    # ── runs ────────────────────────────────────────────────────────────────────────────────

    def start(self, flow: str) -> None:
        """In a session of its own, so that Ctrl-C on our terminal reaches us alone."""
        process = subprocess.Popen(  # noqa: S603  (our own executable)
            self._command(flow), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._processes[flow] = process
        threading.Thread(target=self._attend, args=(flow, process), daemon=True).start()

    def _attend(self, flow: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        listener = threading.Thread(target=_pass_on, args=(flow, process.stdout), daemon=True)
        listener.start()
        code = process.wait()
        listener.join(timeout=5)  # a grandchild may hold the pipe for longer
        LOG.log(logging.INFO if code == 0 else logging.ERROR, "%s", _epitaph(code), extra={"flow": flow})
        self._inbox.put((flow, code))

    def ended(self) -> list[tuple[str, int]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self, flow: str, how: Stop) -> None:
        """Ask as Ctrl-C does: the run then writes into the history that it was stopped."""
        process = self._processes.get(flow)
        if process is None:
            return
        if how is Stop.KILL:
            process.kill()
        elif os.name == "nt":
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)

    # ── configuration ───────────────────────────────────────────────────────────────────────

    def plans(self) -> Mapping[str, Plan] | None:
        """A configuration with a fault changes nothing; the fault is logged once, and may go without a change of these files."""
        seen = _fingerprint(self._watched())
        if seen == self._seen and not self._fault:
            return None
        self._seen = seen
        try:
            plans = self._read()
        except ConfigError as error:
            if str(error) != self._fault:
                LOG.error("the schedule stays as it was: %s", error)
            self._fault = str(error)
            return None
        if self._fault:
            LOG.info("the configuration is in order again")
        self._fault = ""
        return plans

    @property
    def fault(self) -> str:
        """What is wrong with the configuration on disk; empty when nothing is."""
        return self._fault


def _fingerprint(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def _pass_on(flow: str, output: IO[bytes]) -> None:
    with output:
        while line := output.readline(LINE):
            level, text = _understood(line.decode("utf-8", "replace").rstrip())
            if text:
                LOG.log(level, "%s", text.removeprefix(f"{flow}: "), extra={"flow": flow})


def _understood(line: str) -> tuple[int, str]:
    """A line of a run's output: its log as JSON lines, what it tells people, and its last error."""
    if line.startswith("{"):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            told = json.loads(line)
            return LEVELS[told["level"]], "\n".join(filter(None, (told["message"], told.get("traceback"))))
    return (logging.ERROR if line.startswith("error: ") else logging.INFO), line.removeprefix("error: ")


def _epitaph(code: int) -> str:
    if code == 0:
        return "done"
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return f"ended with exit code {code}"


def run_command(config: Path, data: Path, level: str) -> Callable[[str], list[str]]:
    """The command line of a flow's run; no secret is in it."""
    fixed = ["--config", str(config), "--data", str(data), "--log-format", "json", "--log-level", level]
    return lambda flow: [sys.executable, "-m", "connector", "run", flow, *fixed]
