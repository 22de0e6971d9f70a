"""`connector sandbox`: the demo's services alone, to try a configuration out on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from connector.demo import CONFIG, clear, configuration
from connector.errors import TargetError
from connector.sandbox.control import Control
from connector.sandbox.office import Office
from connector.sandbox.server import Running, serve

#: in the order of their ports
SERVICES: Final = ("control", "salesforce", "hubspot", "tableau", "graph", "identity", "content", "managed-identity")


def stay_open(folder: Path, port: int, say: Callable[[str], Any]) -> None:
    """Serve until SIGINT or SIGTERM; files and a configuration lie in `folder`. Port 0 takes any that are free.

    Raises ConfigError when a port is taken, TargetError when `folder` cannot be written or holds what is not the sandbox's.
    """
    with _told_to_stop() as stop, open_office(folder, port) as running:
        config = folder / CONFIG
        say(_about(folder, running))
        say(f"A configuration that reaches all of this, also in {config}:\n\n{config.read_text('utf-8')}")
        say("Stop with Ctrl-C.")
        stop.wait()
    say("closed")


@contextmanager
def open_office(folder: Path, port: int) -> Iterator[Running]:
    """The services, listening, with a company that has come to the present hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder, drives=False)
        office = Office(folder, now=datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    except OSError as error:
        raise TargetError(f"{folder}: cannot be written: {error.strerror}", remedy="name another folder with --out") from error
    path = folder / CONFIG
    control = Control(office, lambda: _about(folder, running), lambda: path.read_text("utf-8"))
    ports = {name: port + place for place, name in enumerate(SERVICES)} if port else {}
    with serve(control, *office.services(), ports=ports, clock=office.cloud.clock) as running:
        path.write_text(office.configuration(configuration(), running), "utf-8")
        yield running


def _about(folder: Path, running: Running) -> str:
    """What is here, for people."""
    url, command = running.url, f"connector --config {folder / CONFIG} --data {folder / 'data'}"
    return f"""\
The sandbox is open. It has no real account, and all of it runs on this machine.

  Salesforce       {url("salesforce"):24}  client id sandbox-client, client secret sandbox-secret
  HubSpot          {url("hubspot"):24}  token pat-sandbox
  Tableau          {url("tableau"):24}  site sales, token connector with secret sandbox-secret
  Microsoft Graph  {url("graph"):24}  sign-in at {url("identity")}; tenant, app and secret stand in the configuration
  Files            {folder}           its OneDrive and SharePoint folders: open, edit and replace what lies there

  {command} check
  {command} run demo
  curl -X POST {url("control")}/days/7         a week passes; run again with the --at it tells
  curl {url("control")}/connector.yaml         the configuration
"""


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by SIGINT and SIGTERM, also where a shell has made a background process deaf to the first."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
