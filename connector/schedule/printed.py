"""`connector schedule --print`: what else may run the flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from connector.cron import Plan
from connector.schedule.crontab import crontab
from connector.schedule.place import Place
from connector.schedule.systemd import systemd
from connector.settings import Settings

Printer = Callable[[Mapping[str, Plan], Settings], str]
PRINTED: Final[Mapping[str, Printer]] = {
    "crontab": lambda plans, settings: crontab(plans, Place.here(settings)),
    "systemd": lambda plans, settings: systemd(plans, Place.here(settings)),
}
