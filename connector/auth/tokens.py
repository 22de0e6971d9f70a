"""A small file of secrets that several processes share: locked while it is used, replaced in one step, readable by its owner only.

For token caches and resume points. A process killed at any moment leaves the old text or the new one, never half of either.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from connector.errors import TransientError


class SecretFile:
    """`file` may be None: then nothing is kept and nothing is locked. `wait` is how many seconds to wait for other processes."""

    def __init__(self, file: Path | None, *, wait: float = 60, sleep: Callable[[float], None] = time.sleep) -> None:
        self.file = file
        self._wait = wait
        self._sleep = sleep

    def read(self) -> str:
        """What is kept, empty when there is nothing."""
        try:
            return self.file.read_text(encoding="utf-8") if self.file else ""
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def write(self, text: str) -> None:
        """Replace what is kept."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.file.parent, prefix=f".{self.file.name}.")  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as partial:
                partial.write(text)
                partial.flush()
                os.fsync(partial.fileno())
            Path(name).replace(self.file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def forget(self) -> None:
        if self.file:
            self.file.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out. Raises TransientError when they do not come to an end."""
        if self.file is None:
            yield
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.file.with_name(self.file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(handle)
            yield
        finally:
            os.close(handle)

    def _acquire(self, handle: int) -> None:
        waited = 0.0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waited >= self._wait:
                    assert self.file is not None
                    raise TransientError(
                        f"{self.file.name} has been in use by another process for {self._wait:g} seconds",
                        remedy="the next run tries again",
                    ) from None
            else:
                return
            self._sleep(0.1)
            waited += 0.1
