"""The sink: fetch, refresh, store; conflicts, locks, dry runs, and runs that have nothing to do."""

from __future__ import annotations

import dataclasses
import datetime as dt
import errno

import openpyxl
import pytest

from connector.api import Run
from connector.errors import ConfigError, ConflictError, LockedError, TargetError
from connector.http import Session
from sinks.excel.sink import ExcelConfig, ExcelSink, ExcelTable

AT = dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)


@pytest.fixture
def slept():
    return []


@pytest.fixture
def sink(tmp_path, slept):
    def make(**more):
        drive = {"type": "local", "folder": str(tmp_path / "drive")}
        tables = [{"from": "deals", "table": "Deals"}]
        config = ExcelConfig.model_validate({"type": "excel", "drive": drive, "path": "Pipeline.xlsx", "tables": tables, **more})
        return ExcelSink(config, Session(sleep=slept.append))

    return make


def run(**more) -> Run:
    return Run("sales", "run-1", AT, **more)


def named(output, **more):
    """The output as the flow hands it over: with the entry of `tables` it belongs to."""
    return {"deals#0": dataclasses.replace(output, spec=ExcelTable.model_validate({"from": "deals", "table": "Deals", **more}))}


def test_the_first_run_makes_the_workbook(sink, tmp_path, deals):
    receipt = sink().write(named(deals(range(5))), run())
    assert (receipt.outcome, receipt.rows, receipt.version_before) == ("written", {"deals": 5}, None)
    assert openpyxl.load_workbook(tmp_path / "drive" / "Pipeline.xlsx")["Deals"].tables["Deals"].ref == "A1:G6"


def test_nothing_new_nothing_written(sink, tmp_path, deals):
    first = sink().write(named(deals(range(5))), run())
    before = (tmp_path / "drive" / "Pipeline.xlsx").stat()
    again = sink().write(named(deals(range(5))), dataclasses.replace(run(previous=first), run_id="run-2", at=AT + dt.timedelta(1)))
    assert (again.outcome, again.version_after, again.parts_changed) == ("unchanged", first.version_after, ())
    after = (tmp_path / "drive" / "Pipeline.xlsx").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_known_data_and_a_known_workbook_are_not_even_read(sink, deals):
    first = sink().write(named(deals(range(5))), run())

    def never():
        raise AssertionError("the table was read")

    unread = named(dataclasses.replace(deals(range(5)), open=never))
    receipt = sink().write(unread, run(previous=first, fresh=False))
    assert (receipt.outcome, receipt.rows) == ("unchanged", first.rows)


def test_a_workbook_somebody_changed_is_refreshed_although_the_data_is_known(sink, tmp_path, deals):
    first = sink().write(named(deals(range(5))), run())
    path = tmp_path / "drive" / "Pipeline.xlsx"
    book = openpyxl.load_workbook(path)
    book["Deals"]["C3"] = 999
    book.save(path)
    receipt = sink().write(named(deals(range(5))), run(previous=first, fresh=False))
    assert receipt.outcome == "written"
    assert openpyxl.load_workbook(path)["Deals"]["C3"].value == 0.25


def test_a_dry_run_says_what_it_would_do(sink, tmp_path, deals):
    receipt = sink().write(named(deals(range(5))), run(dry_run=True))
    assert receipt.outcome == "would write"
    assert receipt.bytes > 0
    assert not (tmp_path / "drive").exists()


class Meddler:
    """A drive on which a colleague saves the workbook just before we do, `times` times."""

    def __init__(self, drive, path, times):
        self._drive, self._path, self.times = drive, path, times

    def __getattr__(self, name):
        return getattr(self._drive, name)

    def store(self, file, if_version):
        if self.times:
            self.times -= 1
            book = openpyxl.load_workbook(self._path)
            book.worksheets[0]["J1"] = f"theirs {self.times}"
            book.save(self._path)
        return self._drive.store(file, if_version)


def test_a_colleague_who_saves_meanwhile_is_never_overwritten(sink, tmp_path, deals):
    sink().write(named(deals(range(5))), run())
    path = tmp_path / "drive" / "Pipeline.xlsx"
    ours = sink()
    ours._drive = Meddler(ours._drive, path, 2)
    assert ours.write(named(deals(range(6))), run()).outcome == "written"
    sheet = openpyxl.load_workbook(path)["Deals"]
    assert sheet["J1"].value == "theirs 0"
    assert sheet["A7"].value == "D5"
    ours._drive = Meddler(ours._drive._drive, path, 99)
    with pytest.raises(ConflictError):
        ours.write(named(deals(range(7))), run())
    assert openpyxl.load_workbook(path).worksheets[0]["J1"].value.startswith("theirs")


def test_memory_is_handed_on_before_the_workbook_is_replaced(sink, tmp_path, deals):
    ours = sink()
    ours.write(named(deals(range(3))), run())
    path = tmp_path / "drive" / "Pipeline.xlsx"
    book = openpyxl.load_workbook(path)
    sheet = book["Deals"]
    sheet["H1"], sheet["H3"] = "Note", "call them"
    sheet.tables["Deals"].ref = "A1:H4"
    sheet.tables["Deals"].autoFilter.ref = "A1:H4"
    sheet.tables["Deals"].tableColumns.append(openpyxl.worksheet.table.TableColumn(id=8, name="Note"))
    book.save(path)
    kept = []

    def remember(memory):
        assert openpyxl.load_workbook(path)["Deals"]["H3"].value == "call them", "the note is still in the workbook"
        kept.append(memory)

    ours.write(named(deals([0, 2])), run(remember=remember))
    ours.write(named(deals([0, 1, 2])), run(memory=kept[-1], remember=kept.append))
    assert openpyxl.load_workbook(path)["Deals"]["H3"].value == "call them"


@pytest.mark.parametrize("how", ["fail", "wait", "copy"])
def test_while_somebody_has_it_open(sink, tmp_path, deals, slept, how):
    sink().write(named(deals(range(3))), run())
    path = tmp_path / "drive" / "Pipeline.xlsx"
    before = path.read_bytes()
    lock = tmp_path / "drive" / "~$Pipeline.xlsx"
    lock.touch()
    if how == "copy":
        receipt = sink(on_locked="copy").write(named(deals(range(4))), run())
        assert "stored beside it" in receipt.why
        (copy,) = [entry for entry in lock.parent.iterdir() if entry not in (path, lock)]
        assert len(list(openpyxl.load_workbook(copy)["Deals"].rows)) == 5
    else:
        with pytest.raises(LockedError):
            sink(on_locked=how, wait_seconds=5).write(named(deals(range(4))), run())
        assert slept == ([] if how == "fail" else [2, 2, 1])
    assert path.read_bytes() == before


def test_waiting_ends_when_they_close_it(sink, tmp_path, deals, slept):
    sink().write(named(deals(range(3))), run())
    lock = tmp_path / "drive" / "~$Pipeline.xlsx"
    lock.touch()
    ours = sink()
    ours._session.sleep = lambda seconds: lock.unlink()
    assert ours.write(named(deals(range(4))), run()).outcome == "written"


def test_a_template_is_where_a_new_workbook_starts(sink, tmp_path, deals):
    book = openpyxl.Workbook()
    book.active["A1"] = "Our template"
    book.save(tmp_path / "template.xlsx")
    ours = sink(template=str(tmp_path / "template.xlsx"))
    ours.write(named(deals(range(3)), sheet="Data"), run())
    book = openpyxl.load_workbook(tmp_path / "drive" / "Pipeline.xlsx")
    assert book.sheetnames == ["Sheet", "Data"]
    assert book["Sheet"]["A1"].value == "Our template"
    missing = sink(template=str(tmp_path / "gone.xlsx"))
    assert [finding.ok for finding in missing.check()] == [True, False]


def test_only_workbooks_have_a_path_here(sink):
    with pytest.raises(ConfigError, match=r"'Pipeline\.csv' is not an Excel workbook") as error:
        sink(path="Pipeline.csv")
    assert ".xlsx" in error.value.remedy


def test_a_refusal_leaves_the_file_alone(sink, tmp_path, deals):
    folder = tmp_path / "drive"
    folder.mkdir()
    (folder / "Pipeline.xlsx").write_bytes(b"not a zip")
    with pytest.raises(TargetError, match="not a zip archive"):
        sink().write(named(deals(range(3))), run())
    assert [entry.name for entry in folder.iterdir()] == ["Pipeline.xlsx"]
    assert (folder / "Pipeline.xlsx").read_bytes() == b"not a zip"


def test_no_space_for_temporary_files(sink, tmp_path, deals, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sinks.excel.package.Package.save", full)
    with pytest.raises(TargetError, match="no space left") as error:
        sink().write(named(deals(range(3))), run())
    assert "TMPDIR" in error.value.remedy
    assert not (tmp_path / "drive").exists()
