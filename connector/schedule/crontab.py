"""The crontab that runs the flows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from cronsim import CronSim

from connector.cron import Plan
from connector.errors import ConfigError
from connector.schedule.place import Place

#: what every cron reads: *, numbers, names, ranges, lists, steps of a range
COMMON: Final = re.compile(r"(\*|\d+-\d+)(/\d+)?|\d+|[A-Za-z]{3}(-[A-Za-z]{3})?")
HEAD: Final = """\
# Runs the flows of {config}; made by `connector schedule --print crontab`.
# Put it into the crontab of the user who owns the data folder: crontab -e
# cron makes up for nothing that it missed while the machine was off, and does not repeat a run that ends with exit code 75.
# It knows no exported variables: secrets come from the .env beside the configuration, or from files (${{file:…}})."""
ZONED: Final = """\
# CRON_TZ is understood by cronie (Fedora, RHEL, SUSE, Arch). The cron of Debian and Ubuntu and that of BusyBox ignore it and would go by
# the machine's clock{clock}: there, set the machine's time zone, or use `--print systemd` or `connector schedule`."""


def crontab(plans: Mapping[str, Plan], place: Place) -> str:
    """The lines, flows of the machine's own time zone first. Raises ConfigError for an expression that crons do not have."""
    return "\n".join(_lines(plans, place))


def _lines(plans: Mapping[str, Plan], place: Place) -> Iterator[str]:
    yield HEAD.format(config=place.config)
    clock = f" ({place.timezone})" if place.timezone else ""
    zones = sorted({plan.timezone for plan in plans.values()}, key=lambda zone: (zone != place.timezone, zone))
    if zones != [place.timezone]:
        yield ZONED.format(clock=clock)
    for zone in zones:
        yield ""
        if zone != place.timezone:
            yield f"CRON_TZ={zone}"
        for flow, plan in plans.items():
            if plan.timezone == zone:
                command = shlex.join(place.command(flow)).replace("%", r"\%")
                yield f"{_fields(flow, plan)} {command}"


def _fields(flow: str, plan: Plan) -> str:
    """The expression, with what only some crons read (5/15) written out as lists."""
    parsed = CronSim(plan.cron, datetime(2026, 1, 1))  # noqa: DTZ001  (only its fields are read)
    sets: tuple[Collection[Any], ...] = (parsed.minutes, parsed.hours, parsed.days, parsed.months, parsed.weekdays)
    fields = []
    for text, values in zip(plan.cron.split(), sets, strict=True):
        if all(COMMON.fullmatch(term) for term in text.split(",")):
            fields.append(text)
        elif all(isinstance(value, int) and value >= 0 for value in values):
            fields.append(",".join(map(str, sorted(values))))
        else:
            raise ConfigError(
                f"{flow}: no cron reads {text!r} in {plan.cron!r}", remedy="use `--print systemd` or `connector schedule`, which do"
            )
    return " ".join(fields)
