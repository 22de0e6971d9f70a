"""The Excel sink itself, run after run, into a workbook on OneDrive that a colleague edits at random moments."""

import datetime as dt
import io
import multiprocessing
import random
import time
from contextlib import contextmanager
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
import requests
from openpyxl.worksheet.table import TableColumn

from connector.api import HiddenKey, Output, Run
from connector.errors import TransientError
from connector.http import Session
from connector.sandbox.microsoft365 import USER
from sinks.drives import graph, graph_upload
from sinks.excel.sink import ExcelConfig, ExcelSink

AT = dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)
PATH = "Sales/Pipeline.xlsx"
TABLES = [{"from": "deals", "table": "Deals", "sheet": "Deals"}, {"from": "log", "table": "Log", "sheet": "Log", "mode": "append"}]


def tables(number):
    """What refresh `number` delivers: some of forty deals in some order, without their ids; and one more line of a log."""
    chance = random.Random(number)
    ids = chance.sample(range(40), 30)
    shown = pa.table(
        {"name": [f"Deal {n}" for n in ids], "owner": [f"Rep {n % 4}" for n in ids], "amount": [number * 1000 + n for n in ids]}
    )
    whole = shown.append_column("deal_id", pa.array([f"D{n}" for n in ids]))
    hidden = HiddenKey(pa.schema([whole.field("deal_id")]), whole.to_reader)
    log = pa.table({"refresh": [f"refresh {number}"], "rows": [len(ids)]})
    config = ExcelConfig.model_validate({"type": "excel", "drive": {"type": "local", "folder": "."}, "path": "x.xlsx", "tables": TABLES})
    return {
        "deals#0": Output("deals", shown.schema, 30, shown.to_reader, spec=config.tables[0], hidden=hidden),
        "log#1": Output("log", log.schema, 1, log.to_reader, spec=config.tables[1], key=("refresh",)),
    }


def write(drive, session, number, memory, kept):
    """One run of the sink."""
    config = ExcelConfig.model_validate(
        {"type": "excel", "drive": {"type": "onedrive", **drive}, "path": PATH, "wait_seconds": 0, "tables": TABLES}
    )
    ExcelSink(config, session).write(tables(number), Run("sales", f"run-{number}", AT, memory=memory, remember=kept))


class Colleague:
    """Writes notes beside deals, in a column of their own, and on a sheet of their own: download, change, upload, with a tool of theirs."""

    def __init__(self, world, seed, *, locks):
        self.world, self.chance, self.locks = world, random.Random(seed), locks
        self.token = world.cloud.identity.issue(world.cloud.app, None, ())
        self.item = world.files.find(PATH)
        self.edits = 0
        self.notes = {}
        self.at_work = False
        url = f"{world.running.url('graph')}/v1.0/drives/{world.files.id}/items/{self.item.id}/content"
        self.how = {"url": url, "headers": {"Authorization": f"Bearer {self.token}", "User-Agent": "ISV|Ann|Tool/1.0"}, "timeout": 5}

    def maybe(self):
        if self.at_work or self.chance.random() > 0.08:
            return
        self.at_work = True
        if self.locks and self.chance.random() < 0.4:
            if self.item.lock:
                self.world.files.close_in_excel(self.item)
            else:
                self.world.files.open_in_excel(self.item, "ann@acme.com", minutes=3)
        elif not self.item.lock:
            self.edit()
        self.at_work = False

    def edit(self):
        faults, self.world.running.faults._faults = self.world.running.faults._faults, []
        with self.book() as book:
            book["Team"].cell(self.edits + 1, 1).value = f"edit {self.edits}"
            rows = list(book["Deals"][book["Deals"].tables["Deals"].ref])[1:]
            row = self.chance.choice(rows)
            said = [*filter(None, [row[3].value]), f"edit {self.edits}"]
            row[3].value = "; ".join(said)
            self.notes.setdefault(row[0].value, []).append(f"edit {self.edits}")
        self.world.running.faults._faults = faults
        self.edits += 1

    @contextmanager
    def book(self):
        book = openpyxl.load_workbook(io.BytesIO(requests.get(**self.how).content))
        yield book
        stream = io.BytesIO()
        book.save(stream)
        requests.put(**self.how, data=stream.getvalue()).raise_for_status()


@pytest.fixture
def begun(world):
    """The first delivery, and a colleague who has made themselves at home in it: a column of notes, a sheet of their own."""

    def make(seed, *, locks=False, weight=0):
        drive, memory = {**world.common(), "user": USER}, {}
        write(drive, world.session(), 0, {}, memory.update)
        colleague = Colleague(world, seed, locks=locks)
        with colleague.book() as book:
            deals = book["Deals"]
            table = deals.tables["Deals"]
            table.ref = table.autoFilter.ref = "A1:D31"
            table.tableColumns.append(TableColumn(id=4, name="note"))
            deals["D1"] = "note"
            team = book.create_sheet("Team")
            for row in range(weight):
                team.cell(row + 1, 3).value = "".join(
                    random.Random(row).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=250)
                )
        return drive, memory, colleague

    return make


def refresh(drive, session, number, memory, clock):
    """A scheduler's patience around a run: later, when it says so. What the sink wants remembered is kept at once, as the state does."""

    def keep(new):
        memory.clear()
        memory.update(new)

    for _ in range(60):
        try:
            return write(drive, session, number, dict(memory), keep)
        except TransientError:
            clock.sleep(60)
    raise AssertionError(f"refresh {number} never came through")


def check(world, colleague, refreshes):
    """Every edit of theirs and every refresh of ours is in the file, and there is a version for each."""
    world.running.faults.clear()
    item = world.files.find(PATH)
    book = openpyxl.load_workbook(item.path)
    assert [book["Team"].cell(at + 1, 1).value for at in range(colleague.edits)] == [f"edit {at}" for at in range(colleague.edits)]
    assert [row[0].value for row in book["Log"][book["Log"].tables["Log"].ref][1:]] == [
        f"refresh {number}" for number in range(refreshes + 1)
    ]
    rows = [[cell.value for cell in row] for row in book["Deals"][book["Deals"].tables["Deals"].ref][1:]]
    last = tables(refreshes)["deals#0"].reader().read_all().to_pydict()
    assert [row[:3] for row in rows] == [list(row) for row in zip(*last.values(), strict=True)]
    assert {row[0]: row[3].split("; ") for row in rows if row[3]} == {
        name: said for name, said in colleague.notes.items() if name in last["name"]
    }
    assert [version.number for version in item.versions] == list(range(1, 3 + refreshes + colleague.edits))


def campaign(world, begun, refreshes, seed, *, locks=False, faults=False):
    drive, memory, colleague = begun(seed, locks=locks)
    if faults:
        world.running.faults._chance = random.Random(seed)
        for how in ({"status": 429, "headers": {"Retry-After": "2"}}, {"status": 503}, {"status": 504}, {"status": 504, "after": True},
                    {"drop": True}, {"drop": True, "after": True}):  # fmt: skip
            world.running.faults.add("", share=0.018, times=None, **how)
    session = world.session()
    send = session.request

    def interrupted(*args, **kwargs):
        colleague.maybe()
        return send(*args, **kwargs)

    session.request = interrupted
    for number in range(1, refreshes + 1):
        refresh(drive, session, number, memory, world.cloud.clock)
    assert colleague.edits > refreshes / 10
    check(world, colleague, refreshes)


def in_a_child(drive, state, number, memory, answers):
    """A run whose upload takes many pieces."""
    graph.SINGLE_PUT, graph_upload.FRAGMENT = 0, 327_680
    write(drive, Session(ExcelConfig.model_validate({"type": "excel", "drive": {"type": "onedrive", **drive}, "path": PATH}).network(), folder=Path(state)),
          number, memory, answers.put)  # fmt: skip


def killed(world, drive, number, memory, pieces):
    """A run in a process of its own, killed after so many pieces of its upload; what it had asked to have remembered is."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    before = len(world.running.asked("^PUT /_api"))
    slow = world.running.faults.add("^PUT /_api", latency=3, times=None)  # so that the last piece is never under way when the end comes
    process = context.Process(target=in_a_child, args=(drive, str(world.folder / "state"), number, dict(memory), answers))
    process.start()
    while len(world.running.asked("^PUT /_api")) < before + pieces and process.is_alive():
        time.sleep(0.02)
    assert process.is_alive(), "it should be in the middle of its upload"
    process.kill()
    process.join()
    world.running.faults._faults.remove(slow)
    while not answers.empty():
        memory.clear()
        memory.update(answers.get())


def killed_campaign(world, begun, refreshes, seed, every):
    """Now and then the process is killed in the middle of an upload; the colleague edits before the next try, or not."""
    drive, memory, colleague = begun(seed, weight=4500)
    chance = random.Random(seed)
    for number in range(1, refreshes + 1):
        if number % every == every // 2:
            killed(world, drive, number, memory, 1 + chance.randrange(2))
        if chance.random() < 0.5:
            colleague.edit()
        refresh(drive, world.session(), number, memory, world.cloud.clock)
    check(world, colleague, refreshes)


@pytest.mark.parametrize(("locks", "faults"), [(False, False), (True, False), (True, True)])
def test_every_edit_and_every_refresh_is_there(world, begun, locks, faults):
    campaign(world, begun, 12, 4, locks=locks, faults=faults)


def test_also_when_the_process_is_killed_in_the_middle_of_an_upload(world, begun):
    killed_campaign(world, begun, 2, 1, every=2)


@pytest.mark.soak
@pytest.mark.parametrize(("locks", "faults"), [(False, False), (True, False), (True, True)])
def test_a_hundred_refreshes(world, begun, locks, faults):
    campaign(world, begun, 100, 7, locks=locks, faults=faults)


@pytest.mark.soak
def test_a_hundred_refreshes_killed_now_and_then(world, begun):
    killed_campaign(world, begun, 100, 7, every=4)
