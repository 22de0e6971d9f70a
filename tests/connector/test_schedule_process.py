"""The scheduler on this machine: real processes, signals, the port it listens on, and a configuration that changes under it."""

import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connector.cron import Plan
from connector.errors import ConfigError
from connector.schedule.agenda import Agenda
from connector.schedule.journal import Entry, StateJournal
from connector.schedule.machine import Machine, run_command
from connector.schedule.serve import Stop
from connector.schedule.web import STALE, Board, listening
from connector.state import State
from connector.status import standings

SECRET = "s3cret-of-the-proxy"
YAML = """
flows:
  pipeline:
    schedule: {cron: "0 6 * * *", timezone: Europe/Berlin}
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks: [{type: files, folder: out, format: csv, tables: [{from: deals, columns: [deal_id, amount]}]}]
  broken:
    schedule: {cron: "0 6 * * *"}
    sources: {crm: {type: salesforce, domain: acme.invalid, auth: {type: client_credentials, client_id: a, client_secret: "${SECRET}"},
      base_url: "ftp://acme.invalid"}}
    sinks: [{type: files, folder: out2, format: csv, tables: [{from: deals, columns: [deal_id]}]}]
"""
DEALS = "deal_id,status,amount,created_at,closed_at\nD-1,won,100.50,2026-01-02,2026-01-22\nD-2,open,70,2026-02-10,\n"


def eventually(check, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def fetched(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text):
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_scheduler_that_wakes_up_late_runs_what_it_missed_tells_and_stops(workplace):
    workplace.write("connector.yaml", YAML)
    workplace.write("deals.csv", DEALS)
    state = State(workplace.folder / "data")
    yesterday = datetime.now(UTC) - timedelta(days=3)
    for flow, zone in (("pipeline", "Europe/Berlin"), ("broken", "UTC")):
        StateJournal(state).write(flow, Entry(f"0 6 * * * {zone}", yesterday))
    state.close()
    path = workplace.folder / "log"
    with path.open("w") as log:
        command = [sys.executable, "-m", "connector", "schedule", "--listen", "127.0.0.1:0", "--log-format", "json"]
        process = subprocess.Popen(command, cwd=workplace.folder, env=os.environ | {"SECRET": SECRET}, stderr=log)
    try:
        port = eventually(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", path.read_text()))[1]

        def both_ended():
            found = samples(fetched(port, "/metrics")[1])
            return found if sum(value for (name, _), value in found.items() if name == "connector_flow_runs_total") == 2 else None

        told = eventually(both_ended)
        assert told["connector_flow_runs_total", ("0", "pipeline")] == 1
        assert told["connector_flow_missed_total", ("pipeline",)] == 2
        assert told["connector_flow_consecutive_failures", ("broken",)] == 1
        assert told["connector_flow_exit_code", ("pipeline",)] == 0
        assert told["connector_flow_exit_code", ("broken",)] > 0
        assert abs(told["connector_flow_last_success_timestamp_seconds", ("pipeline",)] - time.time()) < 120
        assert told["connector_flow_next_due_timestamp_seconds", ("pipeline",)] > time.time()
        assert told["connector_configuration_ok", ()] == 1
        status, body = fetched(port, "/health")
        assert (status, json.loads(body)["status"]) == (200, "ok")  # a flow that fails is no reason to restart the scheduler
        assert fetched(port, "/")[0] == 404
        second = workplace.connector("schedule", SECRET=SECRET)
        assert second.code == 75
        assert "another scheduler works on this data folder" in second.err
        command = Path(f"/proc/{process.pid}/cmdline")
        assert not command.exists() or SECRET not in command.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"broken", "pipeline"} == {line["flow"] for line in lines if "flow" in line}
    assert any(line.get("flow") == "pipeline" and "written (deals 2)" in line["message"] for line in lines)
    assert any(line.get("flow") == "broken" and line["level"] == "error" for line in lines)
    assert lines[-1]["message"] == "stopped"
    assert SECRET not in path.read_text()
    assert (workplace.folder / "out" / "deals.csv").is_file()
    with sqlite3.connect(workplace.folder / "data" / "state.db") as db:
        assert db.execute("select count(*) from due where due is null").fetchone() == (2,)
    db.close()


def test_no_schedule_anywhere_is_an_error_with_a_remedy(workplace):
    workplace.write("connector.yaml", re.sub(r"\n    schedule: .*", "", YAML))
    done = workplace.connector("schedule", SECRET=SECRET)
    assert done.code == 2
    assert "no flow has a schedule" in done.err
    assert "schedule: {cron" in done.err
    assert workplace.connector("schedule", "--listen", "nowhere").code == 2


# ── processes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def make_machine():
    def make(script, read=dict, watched=list):
        command = [sys.executable, "-I", "-S", "-c", script]
        return Machine(lambda flow: command, read, watched, lambda agenda: None)

    return make


def ended(machine):
    found = []

    def look():
        machine.wait(timedelta(seconds=0.2))
        found.extend(machine.ended())
        return found

    return eventually(look)


def test_what_a_run_prints_becomes_log_lines_of_its_flow(make_machine, caplog):
    script = """
import sys
print('{"at": "x", "level": "warning", "message": "a field is missing"}')
print("{not json}")
print("f: ok in 1.0 s")
print("error: f: no such file")
print("x" * 200_000, flush=True)
sys.stdout.buffer.write(bytes([0xff, 10]))
"""
    machine = make_machine(script)
    with caplog.at_level("DEBUG", logger="connector"):
        machine.start("f")
        assert ended(machine) == [("f", 0)]
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told[:4] == [("WARNING", "a field is missing"), ("INFO", "{not json}"), ("INFO", "ok in 1.0 s"), ("ERROR", "no such file")]
    assert sum(len(text) for _, text in told if set(text) == {"x"}) == 200_000
    assert told[-1] == ("INFO", "done")
    assert {record.flow for record in caplog.records} == {"f"}


@pytest.mark.parametrize(("script", "code"), [("import sys; sys.exit(4)", 4), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_how_a_run_ended_is_known(make_machine, caplog, script, code):
    machine = make_machine(script)
    machine.start("f")
    assert ended(machine) == [("f", code)]
    assert caplog.records[-1].levelname == "ERROR"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("script", "how", "code"),
    [
        (  # whatever the shell that runs the tests does with SIGINT
            "import signal, time\nsignal.signal(2, signal.default_int_handler)\nprint('up', flush=True)\ntry: time.sleep(60)\nexcept: raise SystemExit(130)",
            Stop.ASK,
            130,
        ),
        ("import signal, time; signal.signal(2, signal.SIG_IGN); print('up', flush=True); time.sleep(60)", Stop.KILL, -9),
    ],
)
def test_a_run_is_asked_to_stop_and_killed_when_it_will_not(make_machine, caplog, script, how, code):
    machine = make_machine(script)
    with caplog.at_level("INFO", logger="connector"):
        machine.start("f")
        eventually(lambda: "up" in caplog.text)
        machine.stop("f", Stop.ASK if code == 130 else how)
        assert ended(machine) == [("f", code)]
    machine.stop("f", Stop.KILL)  # it has ended: nothing happens


def test_a_grandchild_that_keeps_the_pipe_open_does_not_hold_up_the_schedule(make_machine):
    machine = make_machine("import subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(15)'])")
    machine.start("f")
    began = time.monotonic()
    assert ended(machine) == [("f", 0)]
    assert time.monotonic() - began < 12


def test_the_command_line_of_a_run_holds_paths_and_nothing_secret(tmp_path):
    command = run_command(tmp_path / "connector.yaml", tmp_path / "data", "info")("pipeline")
    assert command[:5] == [sys.executable, "-m", "connector", "run", "pipeline"]
    assert command[5:9] == ["--config", str(tmp_path / "connector.yaml"), "--data", str(tmp_path / "data")]


# ── the configuration on disk ─────────────────────────────────────────────────────────────────────


def test_a_changed_configuration_is_read_and_a_faulty_one_changes_nothing(make_machine, tmp_path, caplog):
    file = tmp_path / "connector.yaml"
    file.write_text("a")

    secret = tmp_path / "secret"

    def read():
        if "!" in file.read_text() and not secret.exists():
            raise ConfigError("a fault in the configuration")
        return {file.read_text(): Plan("0 6 * * *")}

    machine = make_machine("", read, lambda: [file])
    assert list(machine.plans()) == ["a"]
    assert machine.plans() is None
    file.write_text("b!")
    assert machine.plans() is None
    assert machine.fault == "a fault in the configuration"
    file.write_text("c!!")
    assert machine.plans() is None
    assert caplog.text.count("the schedule stays as it was") == 1
    secret.write_text("")  # what the configuration names may come later
    assert list(machine.plans()) == ["c!!"]
    file.write_text("d")
    assert list(machine.plans()) == ["d"]
    assert machine.fault == ""


# ── health and metrics ────────────────────────────────────────────────────────────────────────────


def test_health_says_when_the_loop_has_stopped_turning(tmp_path):
    state = State(tmp_path)
    now = [1000.0]
    board = Board(lambda: list(standings({}, state, datetime.now(UTC))), lambda: "line 3: no", lambda: now[0])
    agenda = Agenda(StateJournal(state), jobs=1)
    agenda.plan({"f": Plan("0 6 * * *")}, datetime(2026, 1, 1, tzinfo=UTC))
    board.show(agenda)
    with listening(("127.0.0.1", 0), board) as port:
        status, body = fetched(port, "/health")
        assert (status, json.loads(body)["flows"]) == (200, {"f": {"running": False, "next_run": "2026-01-01T06:00:00+00:00"}})
        assert json.loads(body)["configuration"] == "at fault; see the log"
        assert samples(fetched(port, "/metrics")[1])["connector_configuration_ok", ()] == 0
        now[0] += STALE.total_seconds() + 1
        assert fetched(port, "/health")[0] == 503
        with pytest.raises(ConfigError, match="--listen") as caught, listening(("127.0.0.1", port), board):
            pass
        assert "another port" in caught.value.remedy
    state.close()
    with socket.socket() as free:
        assert free.connect_ex(("127.0.0.1", port)) != 0


def test_a_scrape_that_fails_is_answered_and_logged(caplog):
    board = Board(lambda: 1 // 0 if broken else [], lambda: "")
    broken = False
    with listening(("127.0.0.1", 0), board) as port:
        broken = True
        with caplog.at_level(logging.ERROR, logger="connector"):
            assert fetched(port, "/metrics")[0] == 500
    assert "ZeroDivisionError" in caplog.text
