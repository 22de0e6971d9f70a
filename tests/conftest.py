"""What several test modules need: a flow on disk, the command line, and the shared real data."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from postgres import MissingError, cluster
from secret_watch import WATCH, no_secret_gets_out, pytest_runtest_setup, secrets_shown, watch  # noqa: F401  (over every test)

from connector.cli import main
from connector.logs import REDACTION

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Real exports and workbooks beside the checkout; tests that want them skip where there are none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)

    @property
    def manifest(self):
        return json.loads(self.out.strip().splitlines()[-1])


class Workplace:
    """A folder with a connector.yaml, and the command line run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.yaml = folder / "connector.yaml"
        WATCH.folders.add(folder)

    def write(self, name, text, encoding="utf-8"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    def start(self, *arguments, **env):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CONNECTOR_")} | env
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "connector", *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def connector(self, *arguments, **env):
        """The command line's own entry point, here and now: `start` is the real process, three times the price."""
        out, err, log = io.StringIO(), io.StringIO(), logging.getLogger("connector")
        kept = (log.handlers[:], log.level, log.propagate, set(REDACTION.secrets))
        left = {key: value for key, value in os.environ.items() if not key.startswith("CONNECTOR_")}
        with (
            mock.patch.dict(os.environ, left | env, clear=True),
            mock.patch.object(sys, "argv", ["connector", *map(str, arguments)]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as done:
                code = int(done.code or 0)
            finally:
                log.handlers[:], log.level, log.propagate = kept[:3]
                REDACTION.secrets = kept[3]
        WATCH.say(f"connector {arguments[0]}", out.getvalue() + err.getvalue())
        return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def new_workplace():
    """Makes workplaces, for fixtures that several tests share."""
    return Workplace


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL, started when the first test asks for it."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(cluster())
        except MissingError as reason:
            pytest.skip(str(reason))
        yield server
