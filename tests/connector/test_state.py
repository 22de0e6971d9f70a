"""State: the lease, what moves together, and the retention ladder."""

import json
import sqlite3
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pytest

from connector.api import Receipt
from connector.config import Retention
from connector.errors import BusyError, ConfigError
from connector.state import MIGRATIONS, Mark, Snapshot, State
from connector.store import Store, expired

NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path)
    yield opened
    opened.close()


def succeed(state, run_id="r1", **changes):
    arguments = {
        "outcome": "ok",
        "manifest": {"seconds": 1.0},
        "marks": {("crm", "deals"): Mark("w1", "c1", "s1", NOW)},
        "receipts": {"excel:1": Receipt("Pipeline.xlsx", "written", rows={"deals": 3}, parts_changed=("a", "b"))},
        "snapshot": Snapshot("s1", NOW, "k1"),
    } | changes
    state.succeed(run_id, "f", NOW, **arguments)


def test_what_a_run_moved_is_found_by_the_next(state):
    with state.lease("r1", "f", NOW, NOW):
        succeed(state)
    assert state.marks("f") == {("crm", "deals"): Mark("w1", "c1", "s1", NOW)}
    assert state.receipt("f", "excel:1") == ("k1", Receipt("Pipeline.xlsx", "written", rows={"deals": 3}, parts_changed=("a", "b")))
    assert state.snapshots("f") == [Snapshot("s1", NOW, "k1")]
    (run,) = state.history("f", 10)
    assert (run["outcome"], run["exit_code"], run["manifest"]) == ("ok", 0, {"seconds": 1.0})


def test_nothing_moves_when_one_thing_cannot(state):
    with state.lease("r1", "f", NOW, NOW), pytest.raises(TypeError):
        succeed(state, manifest={("no", "json"): 1})
    assert state.marks("f") == {}
    assert state.snapshots("f") == []


def test_a_second_run_is_refused_and_names_the_first(state, tmp_path):
    other = State(tmp_path)
    with state.lease("r1", "f", NOW, NOW), pytest.raises(BusyError, match="run r1 holds it") as caught, other.lease("r2", "f", NOW, NOW):
        pass
    assert caught.value.exit_code == 75
    with other.lease("r3", "g", NOW, NOW):
        pass
    other.close()


def test_a_killed_run_frees_its_flow_at_once(state, tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from datetime import UTC, datetime
        from pathlib import Path
        from connector.state import State
        now = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
        with State(Path({str(tmp_path)!r})).lease("killed", "f", now, now):
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", script], check=False)
    with state.lease("next", "f", NOW, NOW):
        succeed(state, "next")
    assert [(run["run_id"], run["outcome"]) for run in state.history("f", 10)] == [("next", "ok"), ("killed", "killed")]


def test_memory_is_kept_at_once(state):
    state.remember("f", "excel:1", {"Deals": {"D-1": "a note"}})
    assert state.memory("f", "excel:1") == {"Deals": {"D-1": "a note"}}
    assert state.memory("f", "excel:2") == {}


def test_a_state_of_a_newer_version_is_left_alone(state, tmp_path):
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute(f"pragma user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(ConfigError, match="newer version"):
        State(tmp_path)


def test_a_data_folder_that_is_a_file_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError) as caught:
        State(tmp_path / "data")
    assert "--data" in caught.value.remedy


def test_the_ladder_keeps_every_run_then_one_a_day_a_week_a_month_a_quarter():
    runs = [(f"{at:%Y-%m-%d %H}", at) for at in (NOW - timedelta(hours=12 * step) for step in range(2 * 900, -1, -1))]
    gone = set(expired(runs, Retention(), NOW))
    kept = [at for name, at in runs if name not in gone]
    assert kept[-1] == NOW
    ages = [(NOW - at).days for at in kept]
    assert sum(age < 7 for age in ages) == 14
    assert sum(7 < age <= 119 for age in ages) == 112
    weekly = [at for at, age in zip(kept, ages, strict=True) if 121 < age < 58 * 7]
    weeks = {at.strftime("%G-%V") for at in weekly}
    months = {at.strftime("%Y-%m") for at in weekly}
    assert len(weeks) in {40, 41}  # of 284 days
    assert len(weeks) <= len(weekly) <= len(weeks) + len(months)  # the last of a month is rarely the last of a week
    oldest = [at for at, age in zip(kept, ages, strict=True) if age > 14 * 31 + 31]
    assert len({(at.year, (at.month - 1) // 3) for at in oldest}) == len(oldest)


def test_the_ladder_never_takes_the_newest():
    assert expired([("only", NOW - timedelta(days=9000))], Retention(quarterly=False), NOW) == []
    assert expired([], Retention(), NOW) == []


def test_what_killed_runs_left_is_swept(tmp_path):
    store = Store(tmp_path, "f")
    known = store.commit(store.begin(NOW, "r1"))
    store.begin(NOW, "r2")
    store.commit(store.begin(NOW, "r3"))
    preview = store.begin(NOW, "preview-1", preview=True)
    store.sweep([known])
    assert [folder.name for folder in store.folder.iterdir()] == [known]
    assert preview.is_dir()


def test_history_survives_as_json(state):
    with state.lease("r1", "f", NOW, NOW):
        state.fail("r1", NOW, 4, "no column", {"sources": []})
    assert json.loads(json.dumps(state.history(None, 1)))[0]["exit_code"] == 4
