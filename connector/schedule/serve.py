"""The scheduler's loop. Everything it touches of the world is a `World`: this machine, or a simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Protocol

from connector.cron import Plan
from connector.logs import LOG
from connector.schedule.agenda import Agenda

POLL: Final = timedelta(seconds=15)  # at least so often the clock and the configuration are looked at
LAST_WORDS: Final = timedelta(seconds=10)  # for a run that was asked to stop


class Stop(Enum):
    """How a run is made to stop."""

    ASK = "ask"
    KILL = "kill"


class World(Protocol):
    def now(self) -> datetime:
        """The wall clock, in UTC."""

    def wait(self, pause: timedelta) -> None:
        """Sleep; wakes early when a run has ended or a signal has come."""

    def elapsed(self) -> timedelta:
        """A clock that nobody sets."""

    def start(self, flow: str) -> None:
        """Start one run of a flow in a process of its own."""

    def ended(self) -> list[tuple[str, int]]:
        """Flow and exit code of the runs that have ended since last asked; a run killed by signal N has -N."""

    def stop(self, flow: str, how: Stop) -> None:
        """Make a run stop."""

    def signals(self) -> int:
        """How often we were told to stop."""

    def plans(self) -> Mapping[str, Plan] | None:
        """The flows and their plans, when they may have changed since last asked."""

    def shown(self, agenda: Agenda) -> None:
        """The agenda after each turn, for whoever watches."""


def serve(agenda: Agenda, world: World, *, grace: timedelta, poll: timedelta = POLL) -> None:
    """Run what is due until told to stop; then let the runs under way end, within `grace`."""
    while not world.signals():
        plans = world.plans()
        if plans is not None:
            agenda.plan(plans, world.now())
        _finish(agenda, world)
        for flow in agenda.take(world.now()):
            _start(agenda, world, flow)
        world.shown(agenda)
        wake = agenda.wake()
        pause = min(poll, wake - world.now()) if wake else poll
        world.wait(max(pause, timedelta(0)))
    _drain(agenda, world, grace)


def _finish(agenda: Agenda, world: World, *, stopped: bool = False) -> None:
    for flow, code in world.ended():
        agenda.finish(flow, code, world.now(), stopped=stopped and code != 0)


def _start(agenda: Agenda, world: World, flow: str) -> None:
    try:
        world.start(flow)
    except OSError as error:  # no memory or no process left: as transient as a busy network
        LOG.error("the run cannot be started: %s", error, extra={"flow": flow})
        agenda.finish(flow, 75, world.now())


def _drain(agenda: Agenda, world: World, grace: timedelta) -> None:
    """A first signal gives the runs under way their time, then asks them to stop, then kills; a second one kills at once."""
    began = world.elapsed()
    how = None
    if agenda.running:
        LOG.info("stopping; waits up to %d s for %s", grace.total_seconds(), ", ".join(agenda.running))
    while agenda.running:
        world.shown(agenda)
        passed = world.elapsed() - began
        before, left = how, grace - passed
        if world.signals() > 1 or left <= -LAST_WORDS:
            how, left = Stop.KILL, POLL
        elif left <= timedelta(0):
            how, left = Stop.ASK, left + LAST_WORDS
        if how and how is not before:
            for flow in agenda.running:
                world.stop(flow, how)
        world.wait(left)
        _finish(agenda, world, stopped=how is not None)
    LOG.info("stopped")
