"""When a flow is due: cron expressions on the wall clock of a time zone, as instants in UTC.

cronsim reads the expressions and walks naive wall-clock times; the change to and from summer time is decided here, by the two rules of
Debian's cron(8), for shifts of any size (cronsim's own walk loses runs where a zone shifts by half an hour):

* A time of day (neither minutes nor hours begin with `*`): due once a day. A time that the clock skips is due at the first moment after
  the gap; a time that comes twice is due the first time.
* A frequency (minutes or hours begin with `*`): goes by elapsed time. What the clock skips is not due; what comes twice is due twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from connector.config import Schedule

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
LONG_AGO = timedelta(days=31)  # missed times are counted no further back


@dataclass(frozen=True, slots=True)
class Plan:
    """A cron expression and the zone whose clock it is read by; `jitter` in seconds."""

    cron: str
    timezone: str = "UTC"
    jitter: int = 0

    @classmethod
    def of(cls, schedule: Schedule) -> Plan:
        return cls(schedule.cron, schedule.timezone, schedule.jitter)

    @property
    def key(self) -> str:
        """What decides the due times, as text."""
        return f"{' '.join(self.cron.split())} {self.timezone}"

    @property
    def by_frequency(self) -> bool:
        minutes, hours = self.cron.split()[:2]
        return minutes.startswith("*") or hours.startswith("*")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def dues(self, after: datetime) -> Iterator[datetime]:
        """Every due time later than `after`, in order, each once."""
        walk = _frequent if self.by_frequency else _daily
        return walk(self.cron, self.zone, after)

    def next(self, after: datetime) -> datetime | None:
        """The first due time later than `after`; None when there is none in fifty years."""
        return next(self.dues(after), None)

    def passed(self, after: datetime, until: datetime) -> tuple[datetime | None, int]:
        """The last due time in (after, until], and how many there were (of the last month, where it is longer)."""
        last, count = None, 0
        for start in (max(after, until - LONG_AGO), after):
            for due in self.dues(start):
                if due > until:
                    break
                last, count = due, count + 1
            if last is not None or start == after:
                break
        return last, count


def _daily(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    last = after.astimezone(UTC)
    for wall in CronSim(cron, after.astimezone(zone).replace(tzinfo=None)):
        due = _first(wall, zone)
        if due > last:
            yield due
            last = due


def _first(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the clock shows `wall`, or the first after the gap it falls into."""
    due = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if due.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
        return due
    return _shift(zone, due - DAY, due) or due


def _frequent(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Walks from one change of the offset to the next; between two, wall clock and UTC go in step."""
    start = after.astimezone(UTC)
    found = start
    while True:
        offset = _offset(zone, start)
        shift = None
        for wall in CronSim(cron, (found + offset).replace(tzinfo=None)):
            due = wall.replace(tzinfo=UTC) - offset
            shift = _shift(zone, start, due)
            if shift is not None:
                break
            yield due
            start = found = due
        if shift is None:
            return
        start, found = shift, shift - SECOND  # the moment of the change itself may be due


def _shift(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The first instant in (start, end] with another offset than the one at `start`. Steps of a day: zones change less often."""
    before = _offset(zone, start)
    low, high = start, min(start + DAY, end)
    while _offset(zone, high) == before:
        if high == end:
            return None
        low, high = high, min(high + DAY, end)
    while high - low > SECOND:
        middle = low + timedelta(seconds=(high - low) // SECOND // 2)
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high.replace(microsecond=0)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
