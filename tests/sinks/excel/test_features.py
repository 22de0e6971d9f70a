"""A workbook with everything around its table, through growing, shrinking, reordering and coming back: what must hold each time."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl.comments import Comment
from openpyxl.worksheet.hyperlink import Hyperlink

from sinks.excel.memory import settled
from sinks.excel.refresh import Options, TableJob, create, refresh

#: openpyxl says what it would lose on saving; here it only reads
pytestmark = pytest.mark.filterwarnings("ignore:.*extension is not supported:UserWarning")

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
#: parts the design allows a refresh of this table to change
OURS = {
    "[Content_Types].xml", "xl/_rels/workbook.xml.rels", "xl/calcChain.xml",  # the calculation chain is dropped
    "xl/workbook.xml", "xl/styles.xml", "xl/worksheets/sheet1.xml", "xl/tables/table1.xml",
    "xl/worksheets/sheet2.xml",  # Summary: its formulas follow the range
    "xl/charts/chart1.xml", "xl/pivotCache/pivotCacheDefinition1.xml", "xl/pivotCache/pivotCacheDefinition2.xml",
    "xl/comments/comment1.xml", "xl/threadedComments/threadedComment1.xml", "xl/drawings/commentsDrawing1.vml",
}  # fmt: skip


@pytest.fixture
def job(table):
    """Our part of the table, in a given order, with an amount of our choosing."""

    def make(numbers, factor=10, **more):
        numbers = list(numbers)
        columns = {
            "Deal": pa.array([f"D{n}" for n in numbers], pa.string()),
            "Name": pa.array([f"Deal {n}" for n in numbers], pa.string()),
            "Amount": pa.array([n * factor for n in numbers], pa.int64()),
        }
        return TableJob(table(columns, key=("Deal",)), table="Deals", key=("Deal",), **more)

    return make


def text(path: Path, parts, name: str) -> str:
    return parts(path).get(name, b"").decode()


def check(path: Path, parts, numbers: list[int], factor: int = 10) -> None:
    """Everything that must be true of the workbook when the table holds these deals in this order."""
    rows = max(1, len(numbers))
    last, total = 4 + rows, 5 + rows
    book = openpyxl.load_workbook(path)
    sheet = book["Deals"]
    by_key = {f"D{n}": 5 + at for at, n in enumerate(numbers)}
    for at, n in enumerate(numbers):
        row = 5 + at
        known = n < 4
        assert [sheet.cell(row, column).value for column in range(2, 9)] == [
            f"note {n}" if known else None, f"D{n}", f"Deal {n}", "=Deals[[#This Row],[Amount]]*2", n * factor,
            n + 0.5 if known else None, f"=F{row}/SUM($F$5:$F${last})",
        ]  # fmt: skip
        assert (sheet.cell(row, 7).fill.fgColor.rgb == "00FFFF00") == (n == 2 and known), "a colour follows its row"
        assert (sheet.row_dimensions[row].height == 33) == (n == 2)
        assert sheet.cell(row, 8).number_format == "0%"
    assert sheet.tables["Deals"].ref == f"B4:H{total}"
    assert sheet.tables["Deals"].autoFilter.ref == f"B4:H{last}"
    assert [sheet.cell(total, column).value for column in (3, 6)] == ["Total", "=SUBTOTAL(109,Deals[Amount])"]
    for row in range(total + 1, 40):
        assert all(sheet.cell(row, column).value is None for column in range(2, 9))
    assert [sheet[cell].value for cell in ("B1", "K6", "A40", "B41")] == ["Team North's list", "beside", "below", f"=SUM(F5:F{last})"]
    assert [str(area) for area in sheet.merged_cells.ranges] == ["J1:K2"]
    assert {str(area.sqref) for area in sheet.conditional_formatting} >= {f"F5:F{last}" if rows > 1 else "F5"}
    assert str(sheet.data_validations.dataValidation[0].sqref) == (f"G5:G{last}" if rows > 1 else "G5")
    links = {area: link.target for area, link in ((cell.coordinate, cell.hyperlink) for line in sheet.iter_rows() for cell in line) if link}
    assert links == {"K6": "https://example.com/beside"} | ({f"C{by_key['D1']}": "https://example.com/D1"} if "D1" in by_key else {})
    notes = {cell.coordinate: cell.comment.text for line in sheet.iter_rows() for cell in line if cell.comment}
    assert notes == {"K6": "beside"} | ({f"G{by_key['D2']}": "ask Anna about D2"} if "D2" in by_key else {})
    boxes = re.findall(r"<\w+:Row>(\d+)</", text(path, parts, "xl/drawings/commentsDrawing1.vml"))
    assert sorted(int(row) + 1 for row in boxes) == sorted([6] + ([by_key["D2"]] if "D2" in by_key else []))
    threads = re.findall(r'ref="(\w+)"', text(path, parts, "xl/threadedComments/threadedComment1.xml"))
    assert threads == ([f"G{by_key['D2']}"] if "D2" in by_key else [])
    summary = book["Summary"]
    assert [summary[f"A{row}"].value for row in (1, 2, 4, 5, 6, 7)] == [
        f'=SUMIFS(Deals!F5:F{last},Deals!C5:C{last},"D3")', f'=INDEX(Deals!$D$5:$D${last},MATCH("D2",Deals!$C$5:$C${last},0))',
        "=SUM(Deals!F:F)", f"=Deals!F{total}", "=SUM(Deals[Amount])", '="Deals!F5:F8"&Deals!A40',
    ]  # fmt: skip
    assert summary["A3"].value.text == f"=SUM(Deals!F5:F{last}*2)"
    assert f"<xm:f>Deals!F5:F{last}</xm:f>" in text(path, parts, "xl/worksheets/sheet2.xml")
    names = {name: defined.attr_text for name, defined in book.defined_names.items()}
    assert names == {
        "DealRange": f"Deals!$B$4:$H${last}", "Amounts": f"Deals!$F$5:$F${last}", "TotalCell": f"Deals!$F${total}",
        "Everything": f"Deals!$A$1:$K${max(20, int(names['Everything'].rpartition('$')[2]))}",
    }  # fmt: skip
    assert int(names["Everything"].rpartition("$")[2]) >= total
    assert sheet.print_area == f"'Deals'!$B$1:$H${total}"
    chart = text(path, parts, "xl/charts/chart1.xml")
    assert f"Deals'!$F$5:$F${last}<" in chart
    assert f"Deals'!$D$5:$D${last}<" in chart
    assert f'ref="B4:H{last}" sheet="Deals"' in text(path, parts, "xl/pivotCache/pivotCacheDefinition1.xml")
    book.close()


def test_the_workbook_is_what_the_checks_expect(featured, parts, findings):
    check(featured, parts, [0, 1, 2, 3])
    assert [finding for finding in findings(featured) if finding[0] == "ERROR"] == []


@pytest.mark.parametrize("numbers", [[3, 2, 1, 0], list(range(12)), [2], [9, 8, 1], []])
def test_one_step(featured, tmp_path, job, parts, findings, numbers):
    new = tmp_path / "new.xlsx"
    changes = refresh(featured, new, [job(numbers, factor=7)], Options(at=AT))
    check(new, parts, numbers, factor=7)
    assert set(changes.parts_changed) <= OURS, changes.parts_changed
    before, after = parts(featured), parts(new)
    assert {name for name in before if before[name] != after.get(name)} <= OURS
    assert "xl/calcChain.xml" not in after
    for number in (1, 2):
        assert b'refreshOnLoad="1"' in after[f"xl/pivotCache/pivotCacheDefinition{number}.xml"]
    assert b'fullCalcOnLoad="1"' in after["xl/workbook.xml"]
    assert findings(new, featured) == []
    assert refresh(new, tmp_path / "again.xlsx", [job(numbers, factor=7)], Options(at=AT, memory=changes.memory)).unchanged


def test_nothing_changed_nothing_touched(featured, tmp_path, job):
    assert refresh(featured, tmp_path / "new.xlsx", [job(range(4))]).unchanged


def test_a_comment_whose_row_is_gone_is_said(featured, tmp_path, job):
    changes = refresh(featured, tmp_path / "new.xlsx", [job([0, 1])], Options(at=AT))
    assert any("ask Anna about D2" in warning for warning in changes.warnings)


def said(path: Path) -> dict[str, str]:
    sheet = openpyxl.load_workbook(path)["Deals"]
    return {cell.coordinate: cell.comment.text for line in sheet.iter_rows() for cell in line if cell.comment}


def test_a_comment_comes_back_with_its_row(featured, tmp_path, job, parts, findings):
    """With its box, and as the conversation it was."""
    gone = refresh(featured, tmp_path / "gone.xlsx", [job([0, 1])], Options(at=AT))
    assert said(tmp_path / "gone.xlsx") == {"K6": "beside"}
    back = tmp_path / "back.xlsx"
    changes = refresh(tmp_path / "gone.xlsx", back, [job([0, 2, 1], factor=3)], Options(at=AT, memory=gone.memory))
    assert said(back) == {"K6": "beside", "G6": "ask Anna about D2"}
    sheet = openpyxl.load_workbook(back)["Deals"]
    assert sheet["G6"].comment.author == "Ben"
    assert text(back, parts, "xl/threadedComments/threadedComment1.xml").count('ref="G6" dT="2026-01-01T00:00:00.00"') == 1
    boxes = text(back, parts, "xl/drawings/commentsDrawing1.vml")
    assert sorted(int(row) + 1 for row in re.findall(r"<\w+:Row>(\d+)</", boxes)) == [6, 6]
    assert len(set(re.findall(r'id="_x0000_s(\d+)"', boxes))) == 2
    assert findings(back, featured) == []
    assert settled(changes.memory)["tables"]["Deals"].keys() == {"D3"}
    assert refresh(back, tmp_path / "again.xlsx", [job([0, 2, 1], factor=3)], Options(at=AT, memory=settled(changes.memory))).unchanged


def test_a_comment_comes_back_to_a_workbook_that_has_none_left(tmp_path, table, parts, findings, edit):
    """Excel drops the parts of comments when the last one is gone."""

    def deals(ids):
        return TableJob(table({"Deal": ids}, key=("Deal",)), table="Deals", key=("Deal",))

    create(tmp_path / "a.xlsx", [deals(["D1", "D2"])])
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    book["Deals"]["A3"].comment = Comment("call <Wile> & Co", "Ann")
    book.save(tmp_path / "a.xlsx")
    gone = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [deals(["D1"])], Options(at=AT))
    openpyxl.load_workbook(tmp_path / "b.xlsx").save(tmp_path / "b.xlsx")
    assert not any("omments" in name for name in parts(tmp_path / "b.xlsx"))
    refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [deals(["D2", "D1"])], Options(at=AT, memory=gone.memory))
    assert said(tmp_path / "c.xlsx") == {"A2": "call <Wile> & Co"}
    assert openpyxl.load_workbook(tmp_path / "c.xlsx")["Deals"]["A2"].comment.author == "Ann"
    assert findings(tmp_path / "c.xlsx") == []


def test_a_link_comes_back_with_its_row(featured, tmp_path, job, parts, findings, edit):
    """With its address, its place within it, and what it says to who points at it."""
    edit(
        featured,
        {"xl/worksheets/sheet1.xml": lambda data: re.sub(rb'(<hyperlink )(ref="C6"|[^>]*ref="C6")', rb'\1location="top" tooltip="the &lt;deal&gt;" \2', data)},
    )  # fmt: skip
    gone = refresh(featured, tmp_path / "gone.xlsx", [job([0, 2])], Options(at=AT))
    assert "the row of a link on Deals!C6 is gone; it led to https://example.com/D1" in gone.warnings
    assert links(tmp_path / "gone.xlsx") == {"K6": ("https://example.com/beside", None, None)}
    back = tmp_path / "back.xlsx"
    changes = refresh(tmp_path / "gone.xlsx", back, [job([2, 0, 1], factor=3)], Options(at=AT, memory=gone.memory))
    known = {"K6": ("https://example.com/beside", None, None), "C7": ("https://example.com/D1", "top", "the <deal>")}
    assert links(back) == known
    relations = "xl/worksheets/_rels/sheet1.xml.rels"
    assert parts(back)[relations] == parts(featured)[relations], "the relationship was still there"
    assert findings(back, featured) == []
    assert "D1" not in settled(changes.memory)["tables"].get("Deals", {})
    assert refresh(back, tmp_path / "again.xlsx", [job([2, 0, 1], factor=3)], Options(at=AT, memory=settled(changes.memory))).unchanged


def test_a_link_comes_back_to_a_sheet_that_has_none_left(tmp_path, table, findings):
    """Excel drops the relationships of links nobody has."""

    def deals(ids):
        return TableJob(table({"Deal": ids}, key=("Deal",)), table="Deals", key=("Deal",))

    create(tmp_path / "a.xlsx", [deals(["D1", "D2", "D3"])])
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    book["Deals"]["A3"].hyperlink = "https://example.com/?a=1&b=2"
    book["Deals"]["A4"].hyperlink = Hyperlink(ref="A4", location="Deals!A1")
    book.save(tmp_path / "a.xlsx")
    gone = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [deals(["D1"])], Options(at=AT))
    openpyxl.load_workbook(tmp_path / "b.xlsx").save(tmp_path / "b.xlsx")
    assert links(tmp_path / "b.xlsx") == {}
    refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [deals(["D3", "D2", "D1"])], Options(at=AT, memory=gone.memory))
    assert links(tmp_path / "c.xlsx") == {"A2": (None, "Deals!A1", None), "A3": ("https://example.com/?a=1&b=2", None, None)}
    assert findings(tmp_path / "c.xlsx") == []


def test_without_a_memory_a_link_is_only_said(featured, tmp_path, job):
    gone = refresh(featured, tmp_path / "gone.xlsx", [job([0, 2])], Options(at=AT, remember=False))
    assert any("https://example.com/D1" in warning for warning in gone.warnings)
    refresh(tmp_path / "gone.xlsx", tmp_path / "back.xlsx", [job([0, 1])], Options(at=AT, memory=gone.memory, remember=False))
    assert links(tmp_path / "back.xlsx").keys() == {"K6"}


def links(path: Path) -> dict[str, tuple[str | None, ...]]:
    sheet = openpyxl.load_workbook(path)["Deals"]
    found = (cell for line in sheet.iter_rows() for cell in line if cell.hyperlink)
    return {cell.coordinate: (cell.hyperlink.target, cell.hyperlink.location, cell.hyperlink.tooltip) for cell in found}


def test_a_conversation_whose_people_are_gone_comes_back_as_a_note(featured, tmp_path, job, edit, findings):
    gone = refresh(featured, tmp_path / "gone.xlsx", [job([0, 1])], Options(at=AT))
    edit(tmp_path / "gone.xlsx", {"xl/persons/person.xml": lambda data: re.sub(rb"<person .*/>", b"", data)})
    refresh(tmp_path / "gone.xlsx", tmp_path / "back.xlsx", [job([2])], Options(at=AT, memory=gone.memory))
    assert said(tmp_path / "back.xlsx") == {"K6": "beside", "G5": "Ben: ask Anna about D2"}
    assert findings(tmp_path / "back.xlsx", featured) == []


steps = st.lists(st.lists(st.integers(0, 15), unique=True, max_size=14), min_size=2, max_size=10)


@given(steps=steps)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ten_random_steps(featured_once, tmp_path_factory, job, parts, findings, steps):
    """Grow, shrink, reorder, insert, come back: nothing is lost on the way, and nothing points to the wrong place at the end."""
    folder = tmp_path_factory.mktemp("steps")
    current, memory = featured_once, {}
    for at, numbers in enumerate(steps):
        new = folder / f"{at}.xlsx"
        changes = refresh(current, new, [job(numbers, factor=at + 1)], Options(at=AT, memory=memory))
        memory = settled(changes.memory)
        current = current if changes.unchanged else new
    book = openpyxl.load_workbook(current)
    sheet = book["Deals"]
    numbers, factor = steps[-1], len(steps)
    for at, n in enumerate(numbers):
        row = [sheet.cell(5 + at, column).value for column in (2, 3, 6, 7)]
        assert row == [f"note {n}" if n < 4 else None, f"D{n}", n * factor, n + 0.5 if n < 4 else None]
    last = 4 + max(1, len(numbers))
    assert sheet["B41"].value == f"=SUM(F5:F{last})"
    assert sheet["A40"].value == "below"
    assert book["Summary"]["A3"].value.text == f"=SUM(Deals!F5:F{last}*2)"
    assert book.defined_names["DealRange"].attr_text == f"Deals!$B$4:$H${last}"
    links = [cell.coordinate for line in sheet.iter_rows() for cell in line if cell.hyperlink and "D1" in cell.hyperlink.target]
    assert links == ([f"C{5 + numbers.index(1)}"] if 1 in numbers else [])
    assert said(current) == {"K6": "beside"} | ({f"G{5 + numbers.index(2)}": "ask Anna about D2"} if 2 in numbers else {})
    assert findings(current, featured_once) == []


def test_rows_below_go_down_with_everything_on_them(featured, tmp_path, job, parts, findings):
    numbers = list(range(50))
    new = tmp_path / "new.xlsx"
    refresh(featured, new, [job(numbers, on_blocked="shift")], Options(at=AT))
    by = 50 - 4
    book = openpyxl.load_workbook(new)
    sheet = book["Deals"]
    assert sheet.tables["Deals"].ref == "B4:H55"
    assert [sheet[f"A{40 + by}"].value, sheet[f"B{41 + by}"].value] == ["below", "=SUM(F5:F54)"]
    assert sheet["K6"].value == "beside"
    assert book["Summary"]["A7"].value == f'="Deals!F5:F8"&Deals!A{40 + by}'
    drawing = text(new, parts, "xl/drawings/drawing1.xml")
    rows = [int(row) for row in re.findall(r"<(?:xdr:)?row>(\d+)<", drawing)]
    assert rows[0] == 19 + by
    assert findings(new, featured) == []


def test_a_blocked_table_moves_to_a_sheet_of_its_own(featured, tmp_path, job, parts, findings):
    numbers = list(range(50))
    new = tmp_path / "new.xlsx"
    options = Options(at=AT)
    changes = refresh(featured, new, [job(numbers, on_blocked="new_sheet")], options)
    book = openpyxl.load_workbook(new)
    old, sheet, summary = book["Deals"], book["Deals 2"], book["Summary"]
    assert not old.tables
    assert sheet.tables["Deals"].ref == "B4:H55"
    assert [sheet.cell(7, column).value for column in range(2, 9)] == [
        "note 2", "D2", "Deal 2", "=Deals[[#This Row],[Amount]]*2", 20, 2.5, "=F7/SUM($F$5:$F$54)",
    ]  # fmt: skip
    assert sheet["G7"].fill.fgColor.rgb == "00FFFF00"
    assert [sheet["C55"].value, sheet["F55"].value] == ["Total", "=SUBTOTAL(109,Deals[Amount])"]
    assert sheet.column_dimensions["C"].width == 22
    assert [old[cell].value for cell in ("B1", "K6", "A40", "B41")] == ["Team North's list", "beside", "below", "=SUM('Deals 2'!F5:F54)"]
    left = {cell.coordinate for line in old["B4:H39"] for cell in line if cell.value is not None}
    assert left == {"C6"}, "openpyxl shows the link that stayed as the text of its empty cell"
    assert summary["A1"].value == "=SUMIFS('Deals 2'!F5:F54,'Deals 2'!C5:C54,\"D3\")"
    assert [summary[f"A{row}"].value for row in (4, 5, 6)] == ["=SUM(Deals!F:F)", "='Deals 2'!F55", "=SUM(Deals[Amount])"]
    assert book.defined_names["Amounts"].attr_text == "'Deals 2'!$F$5:$F$54"
    assert "'Deals 2'!$F$5:$F$54<" in text(new, parts, "xl/charts/chart1.xml")
    assert 'ref="B4:H54" sheet="Deals 2"' in text(new, parts, "xl/pivotCache/pivotCacheDefinition1.xml")
    assert any("comments and links" in warning for warning in changes.warnings)
    assert findings(new, featured) == []
    assert refresh(new, tmp_path / "again.xlsx", [job(numbers, on_blocked="new_sheet")], options).unchanged
    refresh(new, tmp_path / "more.xlsx", [job([2, *range(60, 70)], on_blocked="new_sheet")], options)
    assert findings(tmp_path / "more.xlsx", featured) == []


def test_filtered_rows_are_mentioned(featured, tmp_path, job, edit):
    edit(
        featured,
        {
            "xl/tables/table1.xml": lambda data: re.sub(
                rb'<autoFilter ref="B4:H8"\s*/>',
                b'<autoFilter ref="B4:H8"><filterColumn colId="2"><filters><filter val="Deal 1"/></filters></filterColumn></autoFilter>',
                data,
            )
        },
    )
    changes = refresh(featured, tmp_path / "new.xlsx", [job([1, 0, 7])], Options(at=AT))
    assert any("filter" in warning for warning in changes.warnings)
    assert not refresh(featured, tmp_path / "again.xlsx", [replace(job([1, 0, 7]))], Options(at=AT)).unchanged
