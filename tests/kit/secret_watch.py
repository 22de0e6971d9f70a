"""Watches every test for secrets that get out: what the sandboxes issue and are shown, and what any configuration keeps secret.

Looked through at the end of each test: what it printed and logged, what the command line printed, the text of every error of ours
(also of those that were caught), and every file of every data folder. Only token files, readable by their owner alone, may hold one.
"""

import contextlib
import re
import stat
from urllib.parse import unquote_plus

import pytest

from connector.errors import ConnectorError
from connector.logs import Redaction
from connector.sandbox import server

LEAST = 8  # characters of a secret that is looked for
LARGEST = 1 << 16
SHOWN = re.compile(rb'(?:client_secret|refresh_token|assertion|password|token)=([^&\s]+)|personalAccessTokenSecret="([^"]+)"|jwt="([^"]+)"')
ISSUED = re.compile(
    rb'"(?:access_token|refresh_token|id_token|uploadUrl|@microsoft\.graph\.downloadUrl)"\s*:\s*"([^"]+)"|<credentials[^>]* token="([^"]+)"'
)


class Watch:
    """What is secret, and what has come out. `allowed` ends the watch for one test."""

    def __init__(self):
        self.secrets = set()
        self.said = []
        self.folders = set()
        self.looked = {}
        self.module = None

    def learn(self, *secrets):
        self.secrets.update(secret for secret in secrets if len(secret) >= LEAST)

    def say(self, where, text):
        self.said.append((where, text))

    def overhear(self, headers, body, response):
        """Credentials in a request to the sandbox and in its answer."""
        for name in ("Authorization", "X-Tableau-Auth"):
            self.learn(headers.get(name, "").rpartition(" ")[2])
        if len(body) <= LARGEST:
            self.learn(*(unquote_plus(next(filter(None, found)).decode()) for found in SHOWN.findall(body)))
        if isinstance(response.body, bytes) and any(mark in response.body for mark in (b'_token"', b'Url"', b"<credentials")):
            self.learn(*(next(filter(None, found)).decode() for found in ISSUED.findall(response.body)))

    def begin(self, module):
        if module is not self.module:
            self.module = module
            self.secrets.clear()
            self.folders.clear()
            self.looked.clear()
        self.said.clear()

    def leaks(self, folder):
        """Where something secret was found, without saying what."""
        everything = "\n".join(text for _, text in self.said)
        for secret in (one for one in self.secrets if one in everything):
            for where, text in self.said:
                before, found, _ = text.partition(secret)
                if found:
                    yield f"{where}: {before[-60:]}‹{secret[:3]}…›"
        raw = [secret.encode() for secret in self.secrets]
        for file in self._kept(folder) if raw else ():
            data = file.read_bytes()
            if any(secret in data for secret in raw) and not (stat.S_IMODE(file.stat().st_mode) == 0o600 and "plugins" in file.parts):
                yield str(file)

    def _kept(self, folder):
        """Files of data folders that have changed since they were last looked through."""
        for place in {folder, *self.folders} - {None}:
            for state in place.rglob("state.db"):
                for file in state.parent.rglob("*"):
                    with contextlib.suppress(FileNotFoundError):
                        about = file.stat()
                        if stat.S_ISREG(about.st_mode) and self.looked.get(file) != (about.st_mtime_ns, about.st_size, len(self.secrets)):
                            self.looked[file] = (about.st_mtime_ns, about.st_size, len(self.secrets))
                            yield file


WATCH = Watch()


def _wrapped(cls, name, wrap):
    setattr(cls, name, wrap(getattr(cls, name)))


def _overheard(dispatch):
    def overheard(self, path, query, body):
        response = dispatch(self, path, query, body)
        WATCH.overhear(self.headers, body, response)
        return response

    return overheard


def _learned(learn):
    def learned(self, secrets):
        secrets = list(secrets)
        WATCH.learn(*secrets)
        learn(self, secrets)

    return learned


def _noted(init):
    def noted(self, message, *, remedy=None):
        init(self, message, remedy=remedy)
        WATCH.say("an error", f"{message} → {remedy}")

    return noted


_wrapped(server._Connection, "dispatch", _overheard)
_wrapped(Redaction, "learn", _learned)
_wrapped(ConnectorError, "__init__", _noted)


@pytest.fixture
def secrets_shown():
    """For tests of what shows secrets on purpose."""
    return WATCH


@pytest.fixture
def watch():
    """For tests of the watch itself, and of secrets it cannot overhear."""
    return WATCH


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before any fixture of the test, also of its module."""
    WATCH.begin(item.module)


@pytest.fixture(autouse=True)
def no_secret_gets_out(request):
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if "secrets_shown" in request.fixturenames:
        return
    for when, key, text in request.node._report_sections:
        WATCH.say(f"{key} of {when}", text)
    leaks = list(WATCH.leaks(folder))
    assert not leaks, f"secrets got out: {leaks}"
