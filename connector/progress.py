"""Progress: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from connector.logs import LOG

EVERY: Final = 15.0  # seconds between two plain lines about one thing


class Watch:
    """Call it with what is being done, how far it is, and out of how many (None: not known)."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._spoke: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total)
            self._bar.update(self._tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        started = self._spoke.setdefault(what, now)
        if now - started >= EVERY or (done == total and done and now - started >= 1):
            self._spoke[what] = now
            LOG.info("%s: %s%s", what, f"{done:,}", f" of {total:,}" if total and total != done else "")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def watching() -> Iterator[Watch]:
    """A bar when stderr is a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield Watch(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    watch = Watch(bar)
    try:
        yield watch
    finally:
        watch.close()
