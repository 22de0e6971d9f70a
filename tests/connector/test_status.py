"""`connector status`: how a flow stands, from its history and the clock."""

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from connector.api import Receipt
from connector.config import Schedule
from connector.schedule.journal import Entry, StateJournal
from connector.state import Snapshot, State
from connector.status import REMEDIES, SLACK, gravest, plainly, show, standings

NOW = datetime(2026, 3, 4, 9, 0, tzinfo=UTC)  # a Wednesday
DAILY = Schedule(cron="0 6 * * *")
HOUR = timedelta(hours=1)
YAML = """
flows:
  pipeline:
    schedule: {cron: "0 6 * * *", timezone: Europe/Berlin}
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks: [{type: files, folder: out, format: csv, tables: [{from: deals, columns: [deal_id]}]}]
  other:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
"""
DEALS = "deal_id,status,amount,created_at,closed_at\nD-1,won,100.50,2026-01-02,2026-01-22\n"


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path)
    yield opened
    opened.close()


def good(state, at, flow="f", outcome="ok"):
    run_id = f"{flow}{at.isoformat()}"
    with state.lease(run_id, flow, at, at):
        state.succeed(
            run_id, flow, at + timedelta(minutes=1), outcome=outcome, manifest={}, marks={}, receipts={"x": Receipt("x", "written")},
            snapshot=Snapshot(run_id, at, "k"),
        )  # fmt: skip


def bad(state, at, code=3, message="the token has expired", remedy="renew it", flow="f", outcome="failed"):
    run_id = f"{flow}{at.isoformat()}"
    with state.lease(run_id, flow, at, at):
        state.fail(run_id, at + timedelta(minutes=1), code, message, {"remedy": remedy}, outcome=outcome)


def standing(state, schedule=DAILY, now=NOW, flow="f"):
    (found,) = standings({flow: SimpleNamespace(schedule=schedule)}, state, now)
    return found


def test_a_flow_that_never_ran_is_new_and_nothing_is_wrong(state):
    found = standing(state)
    assert (found.state, found.exit_code, found.succeeded_at, found.late) == ("new", 0, None, None)
    assert found.next_due == datetime(2026, 3, 5, 6, tzinfo=UTC)
    assert standing(state, schedule=None).next_due is None


def test_a_good_run_tells_when_it_ended_and_of_when_its_data_are(state):
    good(state, NOW - 3 * HOUR)
    found = standing(state)
    assert (found.state, found.exit_code) == ("ok", 0)
    assert found.data_at == NOW - 3 * HOUR
    assert found.succeeded_at == NOW - 3 * HOUR + timedelta(minutes=1)
    assert plainly(found, NOW)["data_age_seconds"] == 3 * 3600


def test_failures_in_a_row_are_counted_from_the_last_good_run_and_the_last_one_speaks(state):
    good(state, NOW - 50 * HOUR)
    bad(state, NOW - 27 * HOUR, 75, "busy", "")
    bad(state, NOW - 3 * HOUR)
    found = standing(state)
    assert (found.state, found.exit_code) == ("failing", 3)
    assert (found.fault.message, found.fault.remedy, found.fault.runs) == ("the token has expired", "renew it", 2)
    assert found.fault.since == NOW - 27 * HOUR
    assert found.data_at == NOW - 50 * HOUR
    good(state, NOW - HOUR, outcome="unchanged")
    assert standing(state).state == "ok"


@pytest.mark.parametrize("code", sorted(REMEDIES))
def test_a_run_that_gave_no_advice_has_its_exit_codes(state, code):
    bad(state, NOW - HOUR, code, "no", "")
    assert standing(state).fault.remedy == REMEDIES[code]
    assert standing(state).exit_code == code


def test_a_stopped_run_is_no_bug(state):
    bad(state, NOW - HOUR, 130, "KeyboardInterrupt: ", "")
    assert (standing(state).exit_code, standing(state).fault.message) == (75, "the run was stopped")


def test_a_dry_run_says_nothing_about_the_workbook(state):
    bad(state, NOW - HOUR, 0, "", outcome="dry run")
    assert standing(state).state == "new"


def test_a_due_time_without_a_run_is_late_after_a_while(state):
    good(state, datetime(2026, 3, 3, 6, 0, 5, tzinfo=UTC))
    due = datetime(2026, 3, 4, 6, tzinfo=UTC)
    assert standing(state, now=due + SLACK / 2).late is None
    found = standing(state, now=due + 2 * SLACK)
    assert (found.late, found.state, found.exit_code) == (due, "late", 2)
    patient = Schedule(cron="0 6 * * *", jitter=3600)
    assert standing(state, schedule=patient, now=due + 2 * SLACK).late is None
    assert "connector schedule" in plainly(found, due)["late"]["remedy"]
    bad(state, due + timedelta(minutes=30))
    assert standing(state).late is None  # it ran, and failed: that is another trouble


def test_a_flow_only_the_scheduler_knows_is_late_too(state):
    journal = StateJournal(state)
    journal.write("f", Entry("0 6 * * * UTC", datetime(2026, 3, 3, 12, tzinfo=UTC)))
    assert standing(state).late == datetime(2026, 3, 4, 6, tzinfo=UTC)
    journal.write("f", Entry("0 6 * * * UTC", NOW - 3 * HOUR))  # taken up and done
    assert standing(state).late is None
    journal.write("f", Entry("0 6 * * * UTC", NOW - 3 * HOUR, due=NOW - 3 * HOUR))  # taken up, and then nothing
    assert standing(state).late == NOW - 3 * HOUR


def test_a_run_under_way_is_running_and_never_late(state):
    good(state, NOW - 60 * HOUR)
    with state.lease("now", "f", NOW - HOUR, NOW - HOUR):
        found = standing(state)
        assert (found.running_since, found.late, found.state) == (NOW - HOUR, None, "ok")
        assert plainly(found, NOW)["running_since"] == "2026-03-04T08:00:00Z"


@pytest.mark.skipif(os.name != "posix", reason="process ids of POSIX")
@pytest.mark.parametrize("outcome", ["running", "killed"])
def test_a_run_whose_process_is_gone_was_killed(state, outcome):
    """Also before the next run has found out."""
    gone = 2**22 + 1  # no process has such an id
    state.db.execute(
        "insert into run (id, flow, at, started_at, pid, host, lease_until, outcome) values ('r', 'f', ?, ?, ?, ?, ?, ?)",
        ("2026-03-04T08:00:00+00:00", "2026-03-04T08:00:00+00:00", gone, socket.gethostname(), "2026-03-04T10:00:00+00:00", outcome),
    )
    found = standing(state)
    assert (found.running_since, found.exit_code) == (None, 75)
    assert "without a word" in found.fault.message


def test_a_run_on_another_host_runs_as_long_as_its_lease(state):
    state.db.execute(
        "insert into run (id, flow, at, started_at, pid, host, lease_until) values ('r', 'f', ?, ?, 1, 'elsewhere', ?)",
        ("2026-03-04T08:00:00+00:00", "2026-03-04T08:00:00+00:00", "2026-03-04T09:10:00.000000+00:00"),
    )
    assert standing(state).running_since == NOW - HOUR
    assert standing(state, now=NOW + HOUR).fault.exit_code == 75


def test_the_gravest_code_is_the_one_that_asks_most():
    assert gravest([]) == gravest([0, 0]) == 0
    assert gravest([75, 0, 5, 3]) == 3
    assert gravest([75, 0]) == 75
    assert gravest([2, 1, 75]) == 1


def test_the_table_says_what_is_wrong_and_what_to_do(state, capsys):
    good(state, NOW - 50 * HOUR)
    bad(state, NOW - 27 * HOUR)
    bad(state, NOW - 3 * HOUR)
    show([standing(state, Schedule(cron="0 6 * * *", timezone="Europe/Berlin"))], NOW)
    told = capsys.readouterr().out
    assert re.search(r"✗\s+f\s+failing\s+2 d ago\s+2 d ago\s+Thu 05 Mar 06:00 Europe/Berlin", told)
    assert "f: failed with exit code 3, 2 runs in a row since 2026-03-03 06:00 UTC" in told
    assert "\n  the token has expired\n  → renew it\n" in told


def test_the_command_for_people_for_machines_and_for_a_monitor(workplace):
    workplace.write("connector.yaml", YAML)
    assert [one["state"] for one in workplace.connector("status", "--json").json()] == ["new", "new"]
    failed = workplace.connector("run", "pipeline")
    assert failed.code == 4
    done = workplace.connector("status", "--check")
    assert done.code == 4
    assert "deals.csv: no such file" in done.out
    assert f"→ in {workplace.folder}" in done.out  # the run's own advice
    assert workplace.connector("status").code == 0
    assert workplace.connector("status", "other", "--check").code == 0
    workplace.write("deals.csv", DEALS)
    assert workplace.connector("run", "pipeline").code == 0
    (found,) = workplace.connector("status", "pipeline", "--json", "--check").json()
    assert (found["state"], found["exit_code"], found["consecutive_failures"], found["fault"]) == ("ok", 0, 0, None)
    assert found["schedule"] == {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}
    assert found["data_age_seconds"] < 120
    wrong = workplace.connector("status", "pipelin")
    assert (wrong.code, "did you mean 'pipeline'" in wrong.err) == (2, True)
