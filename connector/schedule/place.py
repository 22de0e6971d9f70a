"""Where the flows run: the paths and names that a crontab or a unit needs."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from connector.settings import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """Absolute paths of the interpreter, the configuration and the data folder, the user, and the machine's time zone if it is known."""

    python: Path
    config: Path
    data: Path
    user: str
    timezone: str | None

    @classmethod
    def here(cls, settings: Settings) -> Place:
        python = Path(sys.executable).absolute()  # not resolved: a virtual environment's interpreter is a link
        return cls(python, settings.config.resolve(), settings.data.resolve(), getpass.getuser(), _timezone())

    @property
    def folder(self) -> Path:
        return self.config if self.config.is_dir() else self.config.parent

    def command(self, flow: str) -> list[str]:
        return [str(self.python), "-m", "connector", "run", flow, "--config", str(self.config), "--data", str(self.data)]


def _timezone() -> str | None:
    if named := os.environ.get("TZ", "").lstrip(":"):
        return named
    _, _, zone = os.path.realpath("/etc/localtime").partition("/zoneinfo/")
    return zone.removeprefix("Etc/") or None
