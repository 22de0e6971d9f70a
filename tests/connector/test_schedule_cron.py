"""Due times against a calendar of our own, minute by minute, where the clocks change: hours, half hours, at midnight, by two hours."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from connector.cron import Plan

#: zone, and a moment half a day before its clock changes
CHANGES = [
    ("Europe/Berlin", "2026-03-28T12:00Z"),
    ("Europe/Berlin", "2026-10-24T12:00Z"),
    ("America/New_York", "2026-03-07T20:00Z"),
    ("America/New_York", "2026-10-31T20:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T03:00Z"),  # half an hour
    ("Australia/Lord_Howe", "2026-04-04T03:00Z"),
    ("Africa/Cairo", "2026-04-23T12:00Z"),  # at midnight
    ("Africa/Cairo", "2026-10-29T12:00Z"),
    ("America/St_Johns", "2026-03-07T20:00Z"),
    ("Antarctica/Troll", "2026-03-28T12:00Z"),  # two hours
    ("Antarctica/Troll", "2026-10-24T12:00Z"),
    ("Asia/Kathmandu", "2026-03-28T12:00Z"),  # never
]
FREQUENCIES = ["*/15 * * * *", "30 * * * *", "0 * * * *", "*/20 */2 * * *", "0 */6 * * *", "*/10 2 * * *", "5 */3 * * 0"]
TIMES = ["30 2 * * *", "0 2 * * *", "30 1,2 * * *", "0,30 1-3 * * *", "15 0 * * *", "30 23 * * *", "45 1 * * *", "0 6 * * 1-5"]


def expected(plan, start, end):
    """Every minute in [start, end) whose wall clock fits; by time of day, doubled ones once and lost ones at the end of the gap."""
    cron, zone, dues, seen, before = CronSim(plan.cron, datetime(2026, 1, 1)), ZoneInfo(plan.timezone), [], set(), None
    moment = start - timedelta(hours=3)
    while moment < end:
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        lost = []
        while not plan.by_frequency and before is not None and before + timedelta(minutes=1) < wall:
            before += timedelta(minutes=1)
            lost.append(before)
        before = wall
        fits = [one for one in (*lost, wall) if fits_in(cron, one) and (plan.by_frequency or one not in seen)]
        seen.update(fits)
        if fits and moment >= start:
            dues.append(moment)
        moment += timedelta(minutes=1)
    return dues


def fits_in(cron, wall):
    return wall.minute in cron.minutes and wall.hour in cron.hours and wall.month in cron.months and cron.match_day(wall.date())


def until(plan, start, end):
    dues = []
    for due in plan.dues(start):
        if due >= end:
            return dues
        dues.append(due)
    return dues


@pytest.mark.parametrize(("zone", "moment"), CHANGES)
def test_due_times_where_the_clock_changes(zone, moment):
    start = datetime.fromisoformat(moment)
    end = start + timedelta(hours=30)
    for cron in (*FREQUENCIES, *TIMES):
        plan = Plan(cron, zone)
        assert until(plan, start - timedelta(seconds=1), end) == expected(plan, start, end), cron


def test_every_starting_point_goes_on_with_the_same_due_times():
    """Asked at any moment, also in the middle of the doubled hour, the next due time is the one a walk from before gives."""
    chance = random.Random(7)
    for zone, moment in CHANGES:
        start = datetime.fromisoformat(moment)
        for cron in ("30 2 * * *", "*/30 * * * *", "30 1,2 * * *", "0 */6 * * *"):
            plan = Plan(cron, zone)
            dues = until(plan, start, start + timedelta(days=3))
            for _ in range(6):
                after = start + timedelta(seconds=chance.randrange(36 * 3600))
                assert plan.next(after) == next(due for due in dues if due > after)


@pytest.mark.parametrize(
    ("zone", "day", "due"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-03-29T01:00Z"),  # 02:30 is lost: at 03:00
        ("Europe/Berlin", "2026-10-25", "2026-10-25T00:30Z"),  # 02:30 comes twice: the first
        ("America/New_York", "2026-03-08", "2026-03-08T07:00Z"),
        ("America/New_York", "2026-11-01", "2026-11-01T07:30Z"),  # there 01:30 comes twice, 02:30 does not
    ],
)
def test_half_past_two_on_the_days_the_clock_changes(zone, day, due):
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    assert until(Plan("30 2 * * *", zone), midnight, midnight + timedelta(days=1)) == [datetime.fromisoformat(due)]


def test_a_quarter_past_two_on_lord_howe_is_lost_for_half_an_hour():
    midnight = datetime(2026, 10, 4, tzinfo=ZoneInfo("Australia/Lord_Howe"))
    (due,) = until(Plan("15 2 * * *", "Australia/Lord_Howe"), midnight, midnight + timedelta(hours=20))
    assert due.astimezone(midnight.tzinfo).strftime("%H:%M %z") == "02:30 +1100"


def test_what_passed_is_the_last_and_how_many():
    plan, start = Plan("0 6 * * *", "Europe/Berlin"), datetime(2026, 3, 25, 12, tzinfo=UTC)
    assert plan.passed(start, start + timedelta(days=7)) == (datetime(2026, 4, 1, 4, tzinfo=UTC), 7)
    assert plan.passed(start, start + timedelta(hours=1)) == (None, 0)
    yearly = Plan("0 0 1 1 *")
    assert yearly.passed(datetime(2020, 6, 1, tzinfo=UTC), start) == (datetime(2026, 1, 1, tzinfo=UTC), 6)
    busy, _ = Plan("* * * * *").passed(datetime(2020, 1, 1, tzinfo=UTC), start)
    assert busy == start


def test_an_expression_that_is_never_due_ends():
    assert Plan("0 0 29 2 *").next(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2028, 2, 29, tzinfo=UTC)
    assert Plan("0 0 30 2,4 *").next(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 4, 30, tzinfo=UTC)
