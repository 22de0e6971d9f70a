"""The scheduler through simulated time: every due time has one run, is skipped because the flow still ran, or is made up for. Nothing else."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from connector.cron import Plan
from connector.schedule.agenda import FIRST_PAUSE, RETRIES, Agenda
from connector.schedule.journal import Entry, StateJournal
from connector.schedule.serve import Stop, serve
from connector.state import State

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
#: flow → plan, weekdays (Monday is 0), hours and minutes: the plan twice, so that the second can be told without a cron library
FLOWS = {
    "berlin": (Plan("30 2 * * *", "Europe/Berlin"), range(7), [2], [30]),
    "new-york": (Plan("30 2 * * *", "America/New_York"), range(7), [2], [30]),
    "new-york-doubled": (Plan("30 1 * * *", "America/New_York"), range(7), [1], [30]),
    "lord-howe": (Plan("15 2 * * *", "Australia/Lord_Howe", jitter=300), range(7), [2], [15]),
    "weekdays": (Plan("0 6 * * 1-5", "Europe/Berlin"), range(5), [6], [0]),
    "frequent": (Plan("30 */6 * * *", "Australia/Lord_Howe"), range(7), range(0, 24, 6), [30]),
}


def calendar(flow, start, end):
    """The due times of a flow in (start, end], counted day by day on the wall clock of its zone."""
    plan, weekdays, hours, minutes = FLOWS[flow]
    zone, dues, day = ZoneInfo(plan.timezone), set(), start.date() - DAY
    while day <= end.date() + DAY:
        walls = [datetime.combine(day, time(hour, minute)) for hour in hours for minute in minutes if day.weekday() in weekdays]
        for due in walls:
            wall = due
            shown = sorted({at for fold in (0, 1) if shows(at := wall.replace(tzinfo=zone, fold=fold).astimezone(UTC), zone, wall)})
            while not shown and not plan.by_frequency:  # lost: the first minute there is
                wall += MINUTE
                shown = [at] if shows(at := wall.replace(tzinfo=zone).astimezone(UTC), zone, wall) else []
            dues.update(shown if plan.by_frequency else shown[:1])
        day += DAY
    return sorted(due for due in dues if start < due <= end)


def shows(moment, zone, wall):
    return moment.astimezone(zone).replace(tzinfo=None, fold=0) == wall


class Watched(Agenda):
    """Remembers which due times it gave up."""

    def __init__(self, journal, *, jobs):
        super().__init__(journal, jobs=jobs)
        self.given_up = []

    def finish(self, flow, code, now, *, stopped=False):
        line = self.lines[flow]
        due = line.due
        super().finish(flow, code, now, stopped=stopped)
        if code == 75 and line.due is None:
            self.given_up.append((flow, due))


class CrashError(Exception):
    """The power goes; whatever ran is gone."""


class OverError(Exception):
    """The end of the simulation."""


@dataclass
class Memory:
    """A journal that outlives the scheduler, and the runs that ended whoever watched them."""

    entries: dict = field(default_factory=dict)
    ended: list = field(default_factory=list)

    def read(self, flow):
        return self.entries.get(flow)

    def write(self, flow, entry):
        self.entries[flow] = entry

    def ended_since(self, flow, moment):
        return any(one == flow and started >= moment for one, started in self.ended)


@dataclass
class Simulation:
    """A machine with a clock that can be wrong, and runs that take as long and end as they are told."""

    plans: dict
    seconds: object = lambda flow, at: 60
    code: object = lambda flow, at: 0
    memory: Memory = field(default_factory=Memory)
    happenings: list = field(default_factory=list)  # (when, what), in order
    time: datetime = NEW_YEAR
    skew: timedelta = timedelta()
    jobs: int = 10
    poll: timedelta = HOUR

    def __post_init__(self):
        self.processes, self.orphans, self.finished, self.log, self.counts, self.told = {}, {}, [], [], Counter(), 0
        self.stops, self.changed, self.latest, self.waits = [], True, self.time, 0
        self.agenda, self.given_up, self.orphans_done = None, defaultdict(set), defaultdict(list)

    # what serve asks of a world

    def now(self):
        return self.time + self.skew

    def elapsed(self):
        return self.time - NEW_YEAR

    def wait(self, pause):
        assert pause >= timedelta()
        self.waits += 1
        until = self.time + pause
        if self.processes or self.orphans:
            until = min(until, max(self.time, min(end for end, *_ in (*self.processes.values(), *self.orphans.values()))))
        if self.happenings and self.happenings[0][0] <= until:
            moment, what = self.happenings.pop(0)
            self.time = max(self.time, moment)
            self._reap()
            what(self)
        else:
            self.time = until
            self._reap()
        self.latest = max(self.latest, self.now())

    def start(self, flow):
        assert flow not in self.processes, "two runs of a flow at once"
        at = self.now()
        if flow in self.orphans:  # the lease refuses it
            self.processes[flow] = (self.time, at, None)
            return
        end = self.time + timedelta(seconds=self.seconds(flow, at))
        self.processes[flow] = (end, at, self.agenda.lines[flow].due)

    def _reap(self):
        for runs in (self.processes, self.orphans):
            for flow, (end, at, due) in list(runs.items()):
                if end <= self.time:
                    del runs[flow]
                    code = self.code(flow, at) if due else 75
                    if runs is self.processes:
                        self.finished.append((flow, code))
                    else:
                        self.orphans_done[flow].append(due)
                    if due:
                        self.log.append((flow, due, at, code))
                    if code != 75:
                        self.memory.ended.append((flow, at))

    def ended(self):
        finished, self.finished = self.finished, []
        return finished

    def stop(self, flow, how):
        self.stops.append((self.time, flow, how))
        self.processes.pop(flow)
        self.finished.append((flow, 130))

    def signals(self):
        return self.told

    def plans_now(self):
        return self.plans

    def shown(self, agenda):
        assert len(self.processes) <= self.jobs

    # the simulation's own

    def scheduler(self, grace=MINUTE):
        """One life of a scheduler: until a crash, a stop, or the end."""
        self.told, self.changed, self.finished = 0, True, []
        self.agenda = Watched(self.memory, jobs=self.jobs)
        try:
            serve(self.agenda, World(self), grace=grace, poll=self.poll)
        finally:
            for line in self.agenda.lines.values():
                self.counts["skipped"] += line.skipped
                self.counts["missed"] += line.missed
                self.counts[line.flow, "skipped"] += line.skipped
                self.counts[line.flow, "missed"] += line.missed
            for flow, due in self.agenda.given_up:
                self.given_up[flow].add(due)

    def live(self, end):
        """Start a scheduler as often as one ends, until `end`."""
        self.happenings = [*sorted(self.happenings, key=lambda one: one[0]), (end, stop_all)]
        while True:
            try:
                self.scheduler()
            except CrashError:
                continue
            except OverError:
                return

    def done(self):
        """Flow → due times whose run came to an end, in order."""
        done = defaultdict(list)
        for flow, due, _, _ in self.log:
            done[flow].append(due)
        return done


class World:
    """`Simulation` under the names of the protocol (its field `plans` is the mapping itself)."""

    def __init__(self, simulation):
        self._simulation = simulation

    def __getattr__(self, name):
        return getattr(self._simulation, name)

    def plans(self):
        changed, self._simulation.changed = self._simulation.changed, False
        return self._simulation.plans if changed else None


def stop_all(simulation):
    raise OverError


def asleep(length):
    def happen(simulation):
        simulation.time += length

    return happen


def clock_off(skew):
    def happen(simulation):
        simulation.skew = skew

    return happen


def power_cut(simulation):
    simulation.processes.clear()
    simulation.orphans.clear()
    raise CrashError


def orphaned(simulation):
    """The scheduler alone is killed; its runs go on."""
    simulation.orphans |= {flow: run for flow, run in simulation.processes.items() if run[2]}
    simulation.processes.clear()
    raise CrashError


def stopped(simulation):
    simulation.told = 1


def plans():
    return {flow: plan for flow, (plan, *_) in FLOWS.items()}


def test_a_year_in_which_nothing_goes_wrong():
    """Every due run happened once, across every change of the clock in both directions, at its minute or within its jitter."""
    simulation = Simulation(plans())
    end = NEW_YEAR + timedelta(days=365)
    simulation.live(end)
    for flow in FLOWS:
        assert simulation.done()[flow] == calendar(flow, NEW_YEAR, end - HOUR), flow
    assert simulation.counts["skipped"] == simulation.counts["missed"] == 0
    for flow, due, at, _ in simulation.log:
        assert timedelta() <= at - due <= timedelta(seconds=FLOWS[flow][0].jitter)
    late = [at - due for flow, due, at, _ in simulation.log if flow == "lord-howe"]
    assert len(set(late)) > 100  # the jitter spreads
    assert simulation.waits < 3 * len(simulation.log) + 365 * 24 * 2  # and nothing spins


@pytest.mark.parametrize("orphans", [False, True])
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 60))])
def test_a_year_in_which_everything_goes_wrong(seed, orphans):
    """Restarts, power cuts, sleeps, slow and failing runs, clocks set back: each due time is done, given up, skipped or made up for, once."""
    chance = random.Random(seed)
    everything = [power_cut, stopped, asleep(7 * DAY), asleep(5 * HOUR), clock_off(-3 * HOUR), clock_off(timedelta())]
    if orphans:
        everything += [orphaned, orphaned]
    end = NEW_YEAR + timedelta(days=365)
    happenings = [(NEW_YEAR + chance.random() * timedelta(days=355), chance.choice(everything)) for _ in range(150)]
    simulation = Simulation(
        plans(),
        seconds=lambda flow, at: chance.choice([30, 30, 30, 3600, 50 * 3600]),
        code=lambda flow, at: chance.choice([0, 0, 0, 4, 75]),
        happenings=happenings,
        jobs=3,
    )
    simulation.live(end)
    for flow in FLOWS:
        entry = simulation.memory.entries[flow]
        dues = calendar(flow, NEW_YEAR, entry.upto)
        done = [due for one, due, _, code in simulation.log if one == flow and code != 75]
        twice = [due for due, count in Counter(done).items() if count > 1]
        assert not twice, [one for one in simulation.log if one[0] == flow and one[1] in twice]
        assert set(done) <= set(dues), "a run at no due time"
        ended = set(done) | simulation.given_up[flow]
        told = (
            len(ended)
            + simulation.counts[flow, "skipped"]
            + simulation.counts[flow, "missed"]
            + (entry.due is not None and entry.due not in ended)
        )
        overtaken = len(simulation.orphans_done[flow])  # made up for and then done after all, by a run the scheduler could not see
        assert told - overtaken <= len(dues) <= told, flow
    assert sum(simulation.counts[flow, "missed"] for flow in FLOWS) > 50
    assert sum(simulation.counts[flow, "skipped"] for flow in FLOWS) > 50
    assert any(simulation.orphans_done.values()) == orphans


def test_a_week_asleep_is_made_up_for_by_one_run():
    simulation = Simulation({"f": Plan("0 6 * * *")}, happenings=[(NEW_YEAR + timedelta(days=2), asleep(7 * DAY))])
    simulation.live(NEW_YEAR + timedelta(days=11))
    started = [at for _, _, at, _ in simulation.log]
    assert started == [
        NEW_YEAR + 6 * HOUR,
        NEW_YEAR + DAY + 6 * HOUR,
        NEW_YEAR + timedelta(days=9),  # on waking
        NEW_YEAR + timedelta(days=9, hours=6),
        NEW_YEAR + timedelta(days=10, hours=6),
    ]
    assert simulation.counts["missed"] == 6


def test_a_week_down_is_made_up_for_by_one_run():
    memory = Memory()
    first = Simulation({"f": Plan("0 6 * * *")}, memory=memory)
    first.live(NEW_YEAR + DAY)
    second = Simulation({"f": Plan("0 6 * * *")}, memory=memory, time=NEW_YEAR + timedelta(days=8))
    second.live(NEW_YEAR + timedelta(days=9))
    assert [at for _, _, at, _ in second.log] == [NEW_YEAR + timedelta(days=8), NEW_YEAR + timedelta(days=8, hours=6)]


def test_a_flow_nobody_has_seen_before_waits_for_its_next_due_time():
    simulation = Simulation({"f": Plan("0 6 * * *")}, time=NEW_YEAR + 7 * HOUR)
    simulation.live(NEW_YEAR + DAY + 5 * HOUR)
    assert simulation.log == []


def test_a_run_longer_than_its_interval_has_the_times_it_covers_skipped():
    simulation = Simulation({"f": Plan("0 * * * *")}, seconds=lambda flow, at: 3.5 * 3600)
    simulation.live(NEW_YEAR + 8.75 * HOUR)
    assert [at.hour for _, _, at, _ in simulation.log] == [1, 5]
    assert simulation.counts["skipped"] == 6


def test_a_clock_set_back_repeats_nothing():
    happenings = [(NEW_YEAR + 6.5 * HOUR, clock_off(-2 * HOUR)), (NEW_YEAR + 30 * HOUR, clock_off(timedelta()))]
    simulation = Simulation({"f": Plan("0 6 * * *")}, happenings=happenings, poll=MINUTE)
    simulation.live(NEW_YEAR + timedelta(days=3))
    assert simulation.done()["f"] == calendar_of("0 6", 3)


def test_a_clock_that_was_years_ahead_for_a_moment_costs_one_run_and_no_years():
    ahead = [(NEW_YEAR + 12 * HOUR, clock_off(timedelta(days=3650))), (NEW_YEAR + 13 * HOUR, clock_off(timedelta()))]
    simulation = Simulation({"f": Plan("0 6 * * *")}, happenings=ahead, poll=MINUTE)
    simulation.live(NEW_YEAR + timedelta(days=3))
    here = [at for _, _, at, _ in simulation.log if at.year == 2026]
    assert here == calendar_of("0 6", 3)
    assert len(simulation.log) == 4


def calendar_of(_, days):
    return [NEW_YEAR + timedelta(days=day, hours=6) for day in range(days)]


# ── exit code 75 ──────────────────────────────────────────────────────────────────────────────────


def test_try_later_is_tried_again_with_growing_pauses_then_given_up():
    simulation = Simulation({"f": Plan("0 6 * * *")}, code=lambda flow, at: 75)
    simulation.live(NEW_YEAR + DAY)
    starts = [at for _, _, at, _ in simulation.log]
    pauses = [later - earlier - MINUTE for earlier, later in pairwise(starts)]
    assert pauses == [FIRST_PAUSE * 2**attempt for attempt in range(RETRIES)]
    assert simulation.memory.entries["f"].due is None


def test_a_repetition_succeeds_and_the_next_day_begins_anew():
    simulation = Simulation({"f": Plan("0 6 * * *")}, code=lambda flow, at: 75 if at.minute < 2 else 0)
    simulation.live(NEW_YEAR + timedelta(days=2))
    assert [(at.day, at.minute, code) for _, _, at, code in simulation.log] == [(1, 0, 75), (1, 2, 0), (2, 0, 75), (2, 2, 0)]


def test_a_repetition_gives_way_to_the_next_due_time():
    simulation = Simulation({"f": Plan("*/5 * * * *")}, seconds=lambda flow, at: 1, code=lambda flow, at: 75)
    simulation.live(NEW_YEAR + 9 * MINUTE)
    assert [at.minute for _, _, at, _ in simulation.log] == [5, 6, 8]


def test_other_exit_codes_wait_for_the_next_due_time():
    simulation = Simulation({"f": Plan("0 6 * * *")}, code=lambda flow, at: 3)
    simulation.live(NEW_YEAR + DAY)
    assert len(simulation.log) == 1


# ── many flows ────────────────────────────────────────────────────────────────────────────────────


def test_no_more_runs_at_a_time_than_allowed_and_none_is_forgotten():
    simulation = Simulation({f"f{number}": Plan("0 6 * * *") for number in range(9)}, seconds=lambda flow, at: 600, jobs=2)
    simulation.live(NEW_YEAR + 12 * HOUR)
    starts = [at - NEW_YEAR - 6 * HOUR for _, _, at, _ in simulation.log]
    assert starts == [10 * MINUTE * (number // 2) for number in range(9)]


def test_jitter_is_the_same_for_a_due_time_and_shorter_than_the_wait_for_the_next():
    runs = []
    for _ in range(2):
        simulation = Simulation({f"f{number}": Plan("*/10 * * * *", jitter=3600) for number in range(5)})
        simulation.live(NEW_YEAR + HOUR)
        runs.append(simulation.log)
        assert all(timedelta() <= at - due < 5 * MINUTE for _, due, at, _ in simulation.log)
    assert runs[0] == runs[1]
    assert simulation.counts["missed"] == 0


def test_a_run_that_cannot_be_started_is_tried_again():
    class Crowded(Simulation):
        def start(self, flow):
            if self.now() < NEW_YEAR + 6 * HOUR + 2 * MINUTE:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            super().start(flow)

    simulation = Crowded({"f": Plan("0 6 * * *")})
    simulation.live(NEW_YEAR + DAY)
    assert [at - NEW_YEAR for _, _, at, _ in simulation.log] == [6 * HOUR + 3 * MINUTE]


# ── the configuration changes ─────────────────────────────────────────────────────────────────────


def replanned(new):
    def happen(simulation):
        simulation.plans, simulation.changed = new, True

    return happen


def test_flows_come_change_and_go_without_a_restart():
    changes = [
        (NEW_YEAR + 5 * HOUR, replanned({"a": Plan("0 8 * * *"), "b": Plan("0 7 * * *")})),
        (NEW_YEAR + 10 * HOUR, replanned({"b": Plan("0 7 * * *"), "late": Plan("0 9 * * *")})),
    ]
    simulation = Simulation({"a": Plan("0 6 * * *")}, happenings=changes)
    simulation.live(NEW_YEAR + DAY + 10 * HOUR)
    assert [(flow, (at - NEW_YEAR) // HOUR) for flow, _, at, _ in simulation.log] == [("b", 7), ("a", 8), ("b", 31), ("late", 33)]


def test_a_flow_that_goes_while_it_runs_ends_in_peace():
    simulation = Simulation(
        {"a": Plan("0 6 * * *")}, seconds=lambda flow, at: 7200, happenings=[(NEW_YEAR + 7 * HOUR, replanned({"b": Plan("0 7 * * *")}))]
    )
    simulation.live(NEW_YEAR + 12 * HOUR)
    assert [flow for flow, *_ in simulation.log] == ["a"]
    assert list(simulation.agenda.lines) == ["b"]


def test_a_plan_changed_while_nobody_was_there_still_owes_what_the_old_one_did():
    memory = Memory()
    Simulation({"a": Plan("0 6 * * *"), "b": Plan("0 18 * * *")}, memory=memory).live(NEW_YEAR + 5 * HOUR)
    second = Simulation({"a": Plan("0 5 * * *"), "b": Plan("0 5 * * *")}, memory=memory, time=NEW_YEAR + 10 * HOUR)
    second.live(NEW_YEAR + 12 * HOUR)
    assert second.log == [("a", NEW_YEAR + 6 * HOUR, NEW_YEAR + 10 * HOUR, 0)]


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────


def stopping(seconds, happenings):
    simulation = Simulation({"f": Plan("0 6 * * *"), "g": Plan("1 6 * * *")}, seconds=lambda flow, at: seconds, happenings=happenings)
    simulation.scheduler(grace=MINUTE)
    return simulation


def test_told_to_stop_a_run_may_end_and_none_begins():
    simulation = stopping(50, [(NEW_YEAR + 6 * HOUR + timedelta(seconds=30), stopped)])
    assert [(flow, code) for flow, _, _, code in simulation.log] == [("f", 0)]
    assert simulation.stops == []


def test_a_run_that_does_not_end_in_time_is_asked_to_and_stays_due():
    simulation = stopping(9000, [(NEW_YEAR + 6 * HOUR + timedelta(seconds=30), stopped)])
    assert simulation.stops == [(NEW_YEAR + 6 * HOUR + timedelta(seconds=90), "f", Stop.ASK)]
    assert simulation.memory.entries["f"].due == NEW_YEAR + 6 * HOUR
    again = Simulation({"f": Plan("0 6 * * *")}, memory=simulation.memory, time=NEW_YEAR + 7 * HOUR)
    again.live(NEW_YEAR + 8 * HOUR)
    assert [due for _, due, _, _ in again.log] == [NEW_YEAR + 6 * HOUR]


def test_a_run_that_will_not_hear_is_killed():
    class Deaf(Simulation):
        def stop(self, flow, how):
            if how is Stop.KILL:
                super().stop(flow, how)

    simulation = Deaf({"f": Plan("0 6 * * *")}, seconds=lambda flow, at: 9000, happenings=[(NEW_YEAR + 6 * HOUR + MINUTE, stopped)])
    simulation.scheduler(grace=MINUTE)
    assert simulation.stops == [(NEW_YEAR + 6 * HOUR + 2 * MINUTE + timedelta(seconds=10), "f", Stop.KILL)]


def test_a_second_signal_kills_at_once():
    def again(simulation):
        simulation.told = 2

    second = NEW_YEAR + 6 * HOUR + timedelta(seconds=40)
    simulation = stopping(9000, [(second - timedelta(seconds=10), stopped), (second, again)])
    assert simulation.stops == [(second, "f", Stop.KILL)]


# ── the journal in the state database ─────────────────────────────────────────────────────────────


def test_the_journal_comes_back_as_it_was_written(tmp_path):
    state = State(tmp_path)
    journal = StateJournal(state)
    entry = Entry("0 6 * * * UTC", NEW_YEAR, NEW_YEAR, NEW_YEAR + HOUR)
    assert journal.read("f") is None
    journal.write("f", entry)
    journal.write("g", Entry("0 6 * * * UTC", NEW_YEAR))
    state.close()
    state = State(tmp_path)
    assert StateJournal(state).read("f") == entry
    assert StateJournal(state).read("g") == Entry("0 6 * * * UTC", NEW_YEAR)
    state.close()


def test_a_run_that_ended_while_the_scheduler_was_away_is_not_repeated(tmp_path):
    """Only one that came to an end of its own counts: not one killed, stopped or told to try later."""
    state = State(tmp_path)
    journal = StateJournal(state)
    for run_id, code, outcome in (("r1", 75, "failed"), ("r2", 130, "failed"), ("r3", 4, "failed")):
        assert not journal.ended_since("f", NEW_YEAR)
        with state.lease(run_id, "f", NEW_YEAR, NEW_YEAR + HOUR):
            state.fail(run_id, NEW_YEAR + HOUR, code, "", {}, outcome=outcome)
    assert journal.ended_since("f", NEW_YEAR)
    assert not journal.ended_since("f", NEW_YEAR + 2 * HOUR)
    assert not journal.ended_since("g", NEW_YEAR)
    state.close()


def test_a_journal_that_cannot_be_written_is_logged_and_the_schedule_goes_on(tmp_path, caplog):
    state = State(tmp_path)
    journal = StateJournal(state)
    state.db.execute("drop table due")
    with caplog.at_level("ERROR", logger="connector"):
        journal.write("f", Entry("0 6 * * * UTC", NEW_YEAR))
    assert "journal cannot be written" in caplog.text
    state.close()


def test_the_calendar_these_tests_count_by():
    """The oracle itself, on days anybody can check."""
    spring = calendar("berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC))
    assert spring == [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 30, 0, 30, tzinfo=UTC)]
    assert len(calendar("weekdays", NEW_YEAR, NEW_YEAR + timedelta(days=365))) == sum(
        date.fromordinal(day).weekday() < 5 for day in range(date(2026, 1, 1).toordinal(), date(2027, 1, 1).toordinal())
    )
