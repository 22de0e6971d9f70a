"""Killed at any moment, the next run gives the tables and the history of an undisturbed one; two at once do not happen."""

import hashlib
import random
import signal
import subprocess
import time

import pytest

YAML = """
flows:
  pipeline:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks:
      - type: excel
        drive: {type: local, folder: out}
        path: Pipeline.xlsx
        tables:
          - {from: deals, sheet: Deals, table: Deals, columns: [deal_id, owner, status, amount, closed_at]}
          - {from: by_owner, sheet: Owners, table: Owners}
"""


def deals(rows, seed):
    draw = random.Random(seed)
    lines = ["deal_id,owner,status,amount,created_at,closed_at"]
    for number in range(rows):
        status = draw.choice(["won", "lost", "open"])
        closed = "" if status == "open" else f"2026-0{draw.randint(3, 6)}-11"
        lines.append(
            f"D-{number:06},Owner {draw.randint(1, 30)},{status},{draw.randint(1, 99999)}.{draw.randint(10, 99)},2026-01-{draw.randint(10, 28)},{closed}"
        )
    return "\n".join(lines) + "\n"


def first_load(place):
    place.write("connector.yaml", YAML)
    place.write("deals.csv", deals(8_000, 1))
    assert place.connector("run", "pipeline", "--at", "2026-07-01").code == 0
    place.write("deals.csv", deals(8_400, 2))


def tables(place):
    """Everything a reader can see: the workbook's cells and the snapshot's tables."""
    from openpyxl import load_workbook

    book = load_workbook(place.folder / "out" / "Pipeline.xlsx", read_only=True)
    cells = {sheet.title: [[cell.value for cell in row] for row in sheet.iter_rows()] for sheet in book if sheet.title != "About"}
    book.close()
    queried = [
        place.connector("query", "pipeline", f"select * from {name}", "--format", "csv").out for name in ("deals", "kpis", "by_owner")
    ]
    return cells, [hashlib.sha256(text.encode()).hexdigest() for text in queried]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, new_workplace):
    place = new_workplace(tmp_path_factory.mktemp("undisturbed"))
    first_load(place)
    started = time.monotonic()
    assert place.connector("run", "pipeline", "--at", "2026-07-02").code == 0
    return tables(place), time.monotonic() - started


def test_killed_at_twenty_random_moments(workplace, undisturbed):
    expected, seconds = undisturbed
    first_load(workplace)
    draw = random.Random(20)
    killed = 0
    for number in range(20):
        workplace.write("deals.csv", deals(8_400, 100 + number))
        process = workplace.start("run", "pipeline", "--at", "2026-07-02")
        started = time.monotonic()
        try:
            process.communicate(timeout=draw.uniform(0.25, 0.95) * seconds)
            seconds = min(seconds, time.monotonic() - started)  # the machine was busier when an undisturbed run was timed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 10, "most runs ended before they were killed; the test says nothing"
    workplace.write("deals.csv", deals(8_400, 2))
    done = workplace.connector("run", "pipeline", "--at", "2026-07-02")
    assert done.code == 0, done.err
    assert tables(workplace) == expected
    runs = workplace.connector("history", "pipeline", "--json", "--limit", "100").json()
    assert all(run["outcome"] in ("ok", "unchanged", "killed") for run in runs)
    assert not [run for run in runs if run["outcome"] == "running"]
    assert [path.name for path in (workplace.folder / "out").iterdir()] == ["Pipeline.xlsx"]
    snapshots = [path.name for path in (workplace.folder / "data" / "flows" / "pipeline").iterdir()]
    assert not [name for name in snapshots if name.endswith((".partial", ".spill"))]
    finished = {run["run_id"] for run in runs if run["outcome"] == "ok"}
    assert snapshots
    assert {name.partition("Z-")[2] for name in snapshots} <= finished


def test_two_at_once_the_second_exits_75_naming_the_first(workplace):
    workplace.write("connector.yaml", YAML)
    workplace.write("deals.csv", deals(60_000, 1))
    first = workplace.start("run", "pipeline", "--json")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list((workplace.folder / "data").glob("flows/pipeline/*.partial")):
        time.sleep(0.02)
    second = workplace.connector("run", "pipeline")
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert second.code == 75
    assert f"process {first.pid}" in second.err
