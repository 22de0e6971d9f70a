"""`connector schedule` itself: the loop on this machine, alone on its data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from connector.config import AnyConfig
from connector.cron import Plan
from connector.errors import BusyError, ConfigError
from connector.logs import LOG
from connector.schedule.agenda import Agenda
from connector.schedule.journal import StateJournal
from connector.schedule.machine import Machine, run_command
from connector.schedule.serve import serve
from connector.settings import Settings
from connector.state import State
from connector.status import Standing, standings

LOCK: Final = "-scheduler"  # no flow has such a name
UNSCHEDULED: Final = 'give a flow a schedule, e.g. schedule: {cron: "0 6 * * 1-5", timezone: Europe/Berlin}'


def planned(config: AnyConfig) -> dict[str, Plan]:
    """The flows that have a schedule."""
    return {name: Plan.of(flow.schedule) for name, flow in config.flows.items() if flow.schedule}


def planned_at_all(config: AnyConfig) -> dict[str, Plan]:
    """As `planned`. Raises ConfigError where no flow has a schedule."""
    plans = planned(config)
    if not plans:
        raise ConfigError("no flow has a schedule", remedy=UNSCHEDULED)
    return plans


def run_schedule(
    settings: Settings, load: Callable[[], AnyConfig], *, jobs: int, grace: timedelta, address: tuple[str, int] | None
) -> None:
    """Run every flow on its schedule until SIGTERM or SIGINT.

    Raises ConfigError for a configuration with a fault or without a schedule, BusyError when another scheduler has the data folder.
    """
    from connector.schedule.web import Board, listening  # noqa: PLC0415  (prometheus-client: only with a scheduler)

    config = load()
    plans = planned_at_all(config)

    def read() -> Mapping[str, Plan]:
        nonlocal config
        config = load()
        return planned(config)

    def standing() -> list[Standing]:
        state = State(settings.data)
        try:
            return list(standings(config.flows, state, datetime.now(UTC)))
        finally:
            state.close()

    path, data = settings.config.resolve(), settings.data.resolve()
    with ExitStack() as stack:
        state = State(settings.data)
        stack.callback(state.close)
        if not stack.enter_context(state.alone(LOCK)):
            raise BusyError(f"{settings.data}: another scheduler works on this data folder", remedy="stop it first, or name another --data")
        board = Board(standing, lambda: machine.fault)
        machine = Machine(run_command(path, data, settings.log_level), read, lambda: _files(path), board.show)
        agenda = Agenda(StateJournal(state), jobs=jobs)
        board.show(agenda)
        port = stack.enter_context(listening(address, board))
        machine.listen_to_signals()
        if address:
            LOG.info("health and metrics on http://%s:%s", address[0], port)
        _introduce(plans, jobs)
        serve(agenda, machine, grace=grace)


def _introduce(plans: Mapping[str, Plan], jobs: int) -> None:
    now = datetime.now(UTC)
    LOG.info("%d flow%s on schedule, %d at a time", len(plans), "s" if len(plans) != 1 else "", jobs)
    for flow, plan in plans.items():
        due = plan.next(now)
        when = f"{due.astimezone(plan.zone):%a %d %b %Y %H:%M} {plan.timezone}" if due else "never"
        LOG.info("%s, next %s", plan.key, when, extra={"flow": flow})


def _files(path: Path) -> list[Path]:
    """What decides the schedule: the YAML files, and the `.env` beside them."""
    folder = path if path.is_dir() else path.parent
    return [*(sorted(path.glob("*.yaml")) if path.is_dir() else [path]), folder / ".env"]
