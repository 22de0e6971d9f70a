"""What several test modules need: a flow on disk, the command line in a process of its own, and the shared real data."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out, err)


@pytest.fixture(scope="session")
def new_workplace():
    """Makes workplaces, for fixtures that several tests share."""
    return Workplace


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)
