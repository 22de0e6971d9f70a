"""The systemd units that run the flows: a service and a timer for each.

`OnCalendar` says weekday AND date; cron's "day of month OR day of week" therefore takes two lines. Syntax: systemd.time(7).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cronsim import CronSim

from connector.cron import Plan
from connector.errors import ConfigError
from connector.schedule.place import Place

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EVERY_DAY: Final = frozenset(range(1, 32))
ANY_WEEKDAY: Final = frozenset(range(7))
FOLDER: Final = "/etc/systemd/system"
HEAD: Final = r"""# Runs the flows of {config}; made by `connector schedule --print systemd`. To install:
#   connector schedule --print systemd | sudo awk '/^# \/[^ ]+[.](service|timer)$/ {{file = $2}} file {{print > file}}'
#   sudo systemctl daemon-reload && sudo systemctl enable --now {timers}
# Secrets come from the .env beside the configuration, or from files (${{file:…}}); units do not see a shell's variables."""
SERVICE: Final = """\
# {folder}/connector-{flow}.service
[Unit]
Description=connector: refresh {flow}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
WorkingDirectory={cwd}
ExecStart={command}
RestartForceExitStatus=75
RestartSec=10min
KillSignal=SIGINT
TimeoutStopSec=90
NoNewPrivileges=yes
ProtectSystem=full
ReadWritePaths=-{data}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native"""
TIMER: Final = """\
# {folder}/connector-{flow}.timer
[Unit]
Description=connector: when {flow} is due

[Timer]
{calendars}
Persistent=true
AccuracySec=1s{jitter}

[Install]
WantedBy=timers.target"""


def systemd(plans: Mapping[str, Plan], place: Place) -> str:
    """Every unit under a comment with its path. Raises ConfigError for a day that `OnCalendar` cannot name."""
    timers = " ".join(f"connector-{flow}.timer" for flow in plans)
    units = [HEAD.format(config=place.config, timers=timers)]
    for flow, plan in plans.items():
        command = " ".join(map(_quoted, place.command(flow)))
        paths = {"cwd": _path(str(place.folder)), "data": _quoted(str(place.data))}
        units.append(SERVICE.format(folder=FOLDER, flow=flow, user=place.user, command=command, **paths))
        jitter = f"\nRandomizedDelaySec={plan.jitter}\nFixedRandomDelay=true" if plan.jitter else ""
        calendars = "\n".join(f"OnCalendar={calendar}" for calendar in calendars_of(plan))
        units.append(TIMER.format(folder=FOLDER, flow=flow, calendars=calendars, jitter=jitter))
    return "\n\n".join(units)


# ── cron to OnCalendar ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Days:
    """Days that are both one of these weekdays (Monday is 0) and one of these days of the month, counted from its start or its end."""

    weekdays: frozenset[int] = ANY_WEEKDAY
    days: frozenset[int] = EVERY_DAY
    from_end: bool = False

    def __and__(self, other: Days) -> Days | None:
        """None: systemd has no words for it."""
        weekdays = self.weekdays & other.weekdays
        if self.from_end == other.from_end:
            return Days(weekdays, self.days & other.days, self.from_end)
        for one, two in ((self, other), (other, self)):
            if one.days == EVERY_DAY:
                return Days(weekdays, two.days, two.from_end)
        return None


def calendars_of(plan: Plan) -> list[str]:
    """The `OnCalendar` values that together are the plan. Raises ConfigError where systemd has none."""
    cron = CronSim(plan.cron, datetime(2026, 1, 1))  # noqa: DTZ001  (only its fields are read)
    by_date, by_weekday = list(_dates(cron.days)), list(_weekdays(cron.weekdays))
    chosen = [one & two for one in by_date for two in by_weekday] if cron.day_and else [*by_date, *by_weekday]
    months = _listed(cron.months, 1, 12)
    clock = f"{_listed(cron.hours, 0, 23)}:{_listed(cron.minutes, 0, 59)}:00 {plan.timezone}"
    calendars = []
    for one in chosen:
        if one is None:
            raise ConfigError(f"systemd has no words for the days of {plan.cron!r}", remedy="use `connector schedule`")
        if one.weekdays and one.days:
            weekdays = "" if one.weekdays == ANY_WEEKDAY else f"{_named(one.weekdays)} "
            calendars.append(f"{weekdays}*-{months}{_day(one)} {clock}")
    return list(dict.fromkeys(calendars))


def _dates(days: Collection[int]) -> Iterator[Days]:
    plain = frozenset(day for day in days if day > 0)
    if plain:
        yield Days(days=plain)
    if CronSim.LAST in days:
        yield Days(days=frozenset({1}), from_end=True)
    if CronSim.LAST_WEEKDAY in days:  # the last day, or the Friday before a weekend at the end
        yield Days(frozenset(range(5)), frozenset({1}), from_end=True)
        yield Days(frozenset({4}), frozenset({2, 3}), from_end=True)


def _weekdays(weekdays: Collection[int | tuple[int, int]]) -> Iterator[Days]:
    plain = frozenset((day - 1) % 7 for day in weekdays if isinstance(day, int))
    if plain:
        yield Days(plain)
    for one in sorted(day for day in weekdays if isinstance(day, tuple)):
        weekday, which = frozenset({(one[0] - 1) % 7}), one[1]
        week = frozenset(range(1, 8)) if which == CronSim.LAST else frozenset(range(7 * which - 6, min(7 * which, 31) + 1))
        yield Days(weekday, week, from_end=which == CronSim.LAST)


def _day(one: Days) -> str:
    if not one.from_end:
        return f"-{_listed(one.days, 1, 31)}"
    return "~07/1" if len(one.days) == 7 else f"~{_listed(one.days, 1, 31)}"


def _named(weekdays: Collection[int]) -> str:
    return ",".join(WEEKDAYS[first] if first == last else f"{WEEKDAYS[first]}..{WEEKDAYS[last]}" for first, last in _runs(weekdays))


def _listed(values: Collection[int], least: int, most: int) -> str:
    """`*`, or a list of numbers and ranges; no steps: systemd 252 passes over the first of `01/9` after the turn of a month."""
    ordered = sorted(values)
    if len(ordered) == most - least + 1:
        return "*"
    return ",".join(f"{first:02}" if first == last else f"{first:02}..{last:02}" for first, last in _runs(ordered))


def _runs(values: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    ordered = sorted(values)
    first = 0
    for index, value in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != value + 1:
            yield ordered[first], value
            first = index + 1


# ── quoting ───────────────────────────────────────────────────────────────────────────────────────


def _quoted(word: str) -> str:
    """A word of a command line: systemd.syntax(7), systemd.service(5)."""
    safe = _path(word).replace("$", "$$")
    if not any(mark in safe for mark in " \t'\"\\;"):
        return safe
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(text: str) -> str:
    return text.replace("%", "%%")
