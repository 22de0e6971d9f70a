"""The spans of time a number is about: the periods of `kpis`, the months and quarters of the `by_…` tables.

Dates are counted in whole days since 1970-01-01 (`day_number`), so that comparing and subtracting them is plain integer
arithmetic in every SQL engine.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

PERIODS: Final = (
    "all",
    "this_month",
    "last_month",
    "this_quarter",
    "last_quarter",
    "this_year",
    "last_year",
    "trailing_30_days",
    "trailing_90_days",
    "trailing_12_months",
)

EPOCH: Final = date(1970, 1, 1)
FIRST_DAY: Final = (date.min - EPOCH).days
LAST_DAY: Final = (date.max - EPOCH).days


def day_number(day: date) -> int:
    """Whole days since 1970-01-01."""
    return (day - EPOCH).days


@dataclass(frozen=True, slots=True)
class Span:
    """Days from `start` to `end`, both included. `years` is its length for yearly rates: a month is 1/12, whatever its days."""

    start: date
    end: date
    years: float

    @property
    def days(self) -> int:
        return (self.end - self.start).days + 1


@dataclass(frozen=True, slots=True)
class Window:
    """A span in the place it has in a table. `back` counts steps into the past: 0 the period, 1 the one it is compared with, 2 …

    `kind` is period, month or quarter; `span` is None for everything ever, dated or not.
    """

    kind: str
    name: str
    back: int
    span: Span | None


def add_months(day: date, months: int) -> date:
    """The same day `months` later (negative: earlier), or the month's last day where it has no such day."""
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def months_from(first: date, count: int) -> Span:
    """`count` whole months from the first day of a month."""
    return Span(first, add_months(first, count) - timedelta(days=1), count / 12)


def fiscal_quarter(first_of_month: date, fiscal_year_start: int) -> date:
    """The first day of the (fiscal) quarter a month is in."""
    return add_months(first_of_month, -((first_of_month.month - fiscal_year_start) % 3))


def fiscal_year(first_of_month: date, fiscal_year_start: int) -> date:
    """The first day of the (fiscal) year a month is in."""
    return add_months(first_of_month, -((first_of_month.month - fiscal_year_start) % 12))


def quarter_name(first_day: date, fiscal_year_start: int) -> str:
    """`2017Q1`; where the fiscal year does not begin in January `FY2018Q1`, named after the year it ends in."""
    start = fiscal_year(first_day, fiscal_year_start)
    number = ((first_day.year - start.year) * 12 + first_day.month - start.month) // 3 + 1
    return f"{start.year}Q{number}" if fiscal_year_start == 1 else f"FY{start.year + 1}Q{number}"


def period_windows(at: date, fiscal_year_start: int) -> Iterator[Window]:
    """Every period as of `at`, each with the two before it.

    `this_…` and `last_…` are whole calendar (fiscal) spans and are compared with the whole span before; `trailing_…` end with `at`.
    """
    month = at.replace(day=1)
    starts = {
        "month": (month, 1),
        "quarter": (fiscal_quarter(month, fiscal_year_start), 3),
        "year": (fiscal_year(month, fiscal_year_start), 12),
    }
    for name in PERIODS:
        which, _, size = name.partition("_")
        if name == "all":
            yield Window("period", name, 0, None)
        elif which != "trailing":
            first, count = starts[size]
            for back in range(3):
                start = add_months(first, -count * (back + (which == "last")))
                yield Window("period", name, back, months_from(start, count))
        elif size.endswith("days"):
            days = int(size.partition("_")[0])
            for back in range(3):
                end = at - timedelta(days=days * back)
                yield Window("period", name, back, Span(end - timedelta(days=days - 1), end, days / 365))
        else:
            months = int(size.partition("_")[0])
            for back in range(3):
                start = add_months(at + timedelta(days=1), -months * (back + 1))
                end = add_months(at + timedelta(days=1), -months * back) - timedelta(days=1)
                yield Window("period", name, back, Span(start, end, months / 12))


def calendar_windows(first: date, last: date, fiscal_year_start: int) -> Iterator[Window]:
    """Every month and quarter that touches `first` to `last`, without gaps."""
    month = first.replace(day=1)
    quarter = fiscal_quarter(month, fiscal_year_start)
    while month <= last:
        yield Window("month", f"{month:%Y-%m}", 0, months_from(month, 1))
        month = add_months(month, 1)
    while quarter <= last:
        yield Window("quarter", quarter_name(quarter, fiscal_year_start), 0, months_from(quarter, 3))
        quarter = add_months(quarter, 3)


def lead_windows(at: date) -> Iterator[Window]:
    """The last 30 days, the last 13 weeks (from Monday) and the months from a year before `at` to half a year after it."""
    for back in range(29, -1, -1):
        day = at - timedelta(days=back)
        yield Window("lead_day", day.isoformat(), 0, Span(day, day, 1 / 365))
    monday = at - timedelta(days=at.weekday())
    for back in range(12, -1, -1):
        start = monday - timedelta(weeks=back)
        yield Window("lead_week", f"{start:%G-W%V}", 0, Span(start, start + timedelta(days=6), 7 / 365))
    for ahead in range(-12, 7):
        start = add_months(at.replace(day=1), ahead)
        yield Window("lead_month", f"{start:%Y-%m}", 0, months_from(start, 1))
