"""Many refreshes of one file while a colleague works in it, locks come and go, and the network is what it is."""

import io
import multiprocessing
import random
import resource
import time
from pathlib import Path

import openpyxl
import pytest
import requests

from connector.errors import ConflictError, LockedError, TransientError
from connector.http import Session
from sinks.drives.graph import GraphDrive, OneDriveConfig

MEGABYTE = 1 << 20


class Colleague:
    """Works in the same file at random moments with a tool of their own: download, change a cell, upload."""

    def __init__(self, world, seed, *, locks):
        self.world, self.chance, self.locks = world, random.Random(seed), locks
        self.edits = 0
        self.token = world.cloud.identity.issue(world.cloud.app, None, ())
        self.item = world.files.find("Sales/Pipeline.xlsx")
        self.at_work = False

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
        url = f"{self.world.running.url('graph')}/v1.0/drives/{self.world.files.id}/items/{self.item.id}/content"
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": "ISV|Ann|Tool/1.0"}
        kept, self.world.running.faults._faults = self.world.running.faults._faults, []
        book = openpyxl.load_workbook(io.BytesIO(requests.get(url, headers=headers, timeout=5).content))
        book.active.cell(self.edits + 1, 3).value = f"edit {self.edits}"
        stream = io.BytesIO()
        book.save(stream)
        requests.put(url, headers=headers, data=stream.getvalue(), timeout=5).raise_for_status()
        self.world.running.faults._faults = kept
        self.edits += 1


def refresh(world, session, number):
    """One run: fetch, write our cell, store; again on a conflict. A scheduler's patience around it: later when it says so."""
    for _ in range(60):
        drive = world.drive(session=session)
        try:
            for _ in range(8):
                version = drive.fetch(world.folder / "current.xlsx")
                book = openpyxl.load_workbook(world.folder / "current.xlsx")
                if book.active.cell(number + 1, 2).value == f"refresh {number}":
                    return  # an earlier try did it, and only its answer was lost
                book.active.cell(number + 1, 2).value = f"refresh {number}"
                book.save(world.folder / "new.xlsx")
                try:
                    drive.store(world.folder / "new.xlsx", version)
                except ConflictError:
                    continue
                return
        except (LockedError, TransientError):
            world.cloud.clock.sleep(60)
    raise AssertionError(f"refresh {number} never came through")


def campaign(world, workbook, refreshes, seed, *, locks=False, faults=False):
    world.put("Sales/Pipeline.xlsx", workbook())
    colleague = Colleague(world, seed, locks=locks)
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
    for number in range(refreshes):
        refresh(world, session, number)
    world.running.faults.clear()
    item = world.files.find("Sales/Pipeline.xlsx")
    sheet = openpyxl.load_workbook(item.path).active
    assert [sheet.cell(number + 1, 2).value for number in range(refreshes)] == [f"refresh {number}" for number in range(refreshes)]
    assert [sheet.cell(number + 1, 3).value for number in range(colleague.edits)] == [f"edit {number}" for number in range(colleague.edits)]
    assert colleague.edits > refreshes / 10
    numbers = [version.number for version in item.versions]
    assert numbers == list(range(1, 2 + refreshes + colleague.edits))


@pytest.mark.parametrize(("locks", "faults"), [(False, False), (True, False), (True, True)])
def test_no_edit_is_lost(world, workbook, locks, faults):
    campaign(world, workbook, 12, 3, locks=locks, faults=faults)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("locks", "faults"), [(False, False), (True, False), (True, True)])
def test_no_edit_is_lost_in_a_hundred_refreshes(world, workbook, seed, locks, faults):
    campaign(world, workbook, 100, seed, locks=locks, faults=faults)


def child_drive(config, state):
    config = OneDriveConfig(**config)
    return GraphDrive(config, "Sales/Pipeline.xlsx", Session(config.network(), folder=Path(state)))


def in_child(world):
    return {**world.common(), "user": "sales@acme.com"}, str(world.folder / "state")


def _store(config, state, file, version):
    child_drive(config, state).store(Path(file), version)


def test_a_process_killed_in_the_middle_of_an_upload(world):
    """The old file stands; the next run continues, and there is one new version."""
    item = world.put("Sales/Pipeline.xlsx", b"old")
    file = world.local(b"new" * (11 * MEGABYTE))
    world.running.faults.add("PUT /_api", latency=1, skip=2)
    process = multiprocessing.get_context("spawn").Process(target=_store, args=(*in_child(world), str(file), item.ctag))
    process.start()
    while len(world.running.asked("^PUT /_api")) < 2 and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join()
    assert (world.read(), len(item.versions)) == (b"old", 1)
    world.drive().store(file, item.ctag)
    assert (item.path.read_bytes() == file.read_bytes(), len(item.versions)) == (True, 2)
    first = world.running.asked("^PUT /_api")[-2].headers["content-range"]
    assert int(first.split()[1].partition("-")[0]) >= 20 * MEGABYTE


def _measured(config, state, file, version, answers):
    drive = child_drive(config, state)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    newer = drive.store(Path(file), version)
    drive.fetch(Path(file).with_name("back"))
    answers.put((newer, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))


def test_sixty_megabytes_with_a_break_in_little_memory(world):
    item = world.put("Sales/Pipeline.xlsx", b"old")
    file = world.folder / "large.xlsx"
    with file.open("wb") as target:
        for block in range(60):
            target.write(bytes([block]) * MEGABYTE)
    world.running.faults.add("PUT /_api", drop=True, skip=3)
    world.running.faults.add("download.aspx", truncate=30 * MEGABYTE)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_measured, args=(*in_child(world), str(file), item.ctag, answers))
    process.start()
    newer, grown = answers.get(timeout=120)
    process.join()
    assert newer == item.ctag
    assert (world.folder / "back").read_bytes() == file.read_bytes()
    assert grown < 60 * MEGABYTE
