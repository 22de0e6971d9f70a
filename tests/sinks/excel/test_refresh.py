"""A teammate's workbook after a refresh: our cells are new, theirs are theirs, everything else is byte for byte what it was."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import openpyxl
import pyarrow as pa
import pytest

from connector.errors import TargetError
from sinks.excel.memory import settled
from sinks.excel.refresh import Options, TableJob, create, refresh

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def ours(table):
    """Rows for the teammate's table, by deal number."""

    def make(numbers, factor=10, **more):
        numbers = list(numbers)
        columns = {
            "deal_id": pa.array([f"D{n}" for n in numbers], pa.string()),
            "Name": pa.array([f"Deal {n}" for n in numbers], pa.string()),
            "Amount": pa.array([n * factor for n in numbers], pa.int64()),
        }
        made = table(columns, units={"deal_id": "id", "Amount": "money"}, key=("deal_id",))
        fields = [
            field.with_metadata({**field.metadata, b"label": {"deal_id": b"Deal"}.get(field.name, field.name.encode())})
            for field in made.schema
        ]
        rows = made.reader().read_all().cast(pa.schema(fields))
        return TableJob(
            type(made)("deals", rows.schema, rows.num_rows, rows.to_reader, key=("deal_id",)), table="Deals", key=("deal_id",), **more
        )

    return make


def grid(path, sheet="Deals"):
    book = openpyxl.load_workbook(path)
    try:
        return [[cell.value for cell in row] for row in book[sheet]["A4:F20"]]
    finally:
        book.close()


def test_rows_are_replaced_and_teammates_cells_follow_their_key(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    changes = refresh(teammates_book, new, [ours([3, 7, 1, 2])])
    assert set(changes.parts_changed) == {"xl/worksheets/sheet1.xml"} | set(changes.parts_changed) & {"xl/workbook.xml", "xl/styles.xml"}
    assert grid(new)[:6] == [
        ["Note", "Deal", "Amount", "Double", "Name", "Owner's call"],
        ["note 3", "D3", 30, "=Deals[[#This Row],[Amount]]*2", "Deal 3", 3.5],
        [None, "D7", 70, "=Deals[[#This Row],[Amount]]*2", "Deal 7", None],
        ["note 1", "D1", 10, "=Deals[[#This Row],[Amount]]*2", "Deal 1", 1.5],
        ["note 2", "D2", 20, "=Deals[[#This Row],[Amount]]*2", "Deal 2", None],
        [None, "Total", "=SUBTOTAL(109,Deals[Amount])", None, None, None],
    ]
    assert findings(new, teammates_book) == []


def test_growing_takes_the_total_row_and_references_along(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    refresh(teammates_book, new, [ours(range(6))])
    book = openpyxl.load_workbook(new)
    sheet, summary = book["Deals"], book["Summary"]
    assert sheet.tables["Deals"].ref == "A4:F11"
    assert sheet["B11"].value == "Total"
    assert sheet["I7"].value == "=SUM(C5:C10)"
    assert sheet["A12"].value == "below"
    assert sheet["I2"].value == "beside"
    assert [summary[f"A{row}"].value for row in (1, 2, 3, 4)] == [
        "=SUM(Deals!C5:C10)", "=SUM(Deals!$C$5:$C$10)*Deals!$I$1", "=Deals!C11", "=SUM(Deals[Amount])",
    ]  # fmt: skip
    assert findings(new, teammates_book) == []


def test_shrinking_leaves_nothing_behind(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    refresh(teammates_book, new, [ours([2])])
    assert grid(new)[1][0:3] == ["note 2", "D2", 20]
    assert grid(new)[2][1] == "Total"
    assert grid(new)[3:8] == [[None] * 6] * 5
    book = openpyxl.load_workbook(new)
    assert book["Deals"]["I7"].value == "=SUM(C5:C5)"
    assert book["Summary"]["A3"].value == "=Deals!C6"
    assert findings(new, teammates_book) == []


def test_a_refresh_that_changes_nothing_writes_nothing(teammates_book, tmp_path, ours):
    first = tmp_path / "first.xlsx"
    refresh(teammates_book, first, [ours([3, 1, 2, 0])])
    changes = refresh(first, tmp_path / "second.xlsx", [ours([3, 1, 2, 0])])
    assert changes.unchanged
    assert not (tmp_path / "second.xlsx").exists()


def test_saved_by_another_program_it_still_holds_our_values(teammates_book, tmp_path, ours):
    """openpyxl moves texts to shared strings and drops what it does not know; our values are the same nevertheless."""
    first, saved = tmp_path / "first.xlsx", tmp_path / "saved.xlsx"
    refresh(teammates_book, first, [ours([3, 1, 2, 0])])
    openpyxl.load_workbook(first).save(saved)
    assert refresh(saved, tmp_path / "again.xlsx", [ours([3, 1, 2, 0])]).unchanged
    assert not refresh(saved, tmp_path / "again.xlsx", [ours([3, 1, 2, 0], factor=11)]).unchanged


def test_ten_changed_rows_rewrite_the_sheet_and_nothing_else(tmp_path, deals, parts):
    create(tmp_path / "a.xlsx", [TableJob(deals(range(500)), table="Deals")])
    ids = [*range(490), *range(1000, 1010)]
    changes = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [TableJob(deals(ids), table="Deals")])
    assert changes.parts_changed == ("xl/worksheets/sheet1.xml",)
    before, after = parts(tmp_path / "a.xlsx"), parts(tmp_path / "b.xlsx")
    assert {name for name in before if before[name] != after[name]} == {"xl/worksheets/sheet1.xml"}


def test_what_stands_below_is_never_overwritten(teammates_book, tmp_path, ours):
    before = teammates_book.read_bytes()
    with pytest.raises(TargetError, match=r"sheet 'Deals': deals needs cells that hold something else: A12") as error:
        refresh(teammates_book, tmp_path / "new.xlsx", [ours(range(7))])
    assert "on_blocked" in error.value.remedy
    assert teammates_book.read_bytes() == before
    assert not (tmp_path / "new.xlsx").exists()


def test_shift_moves_what_stands_below(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    book = openpyxl.load_workbook(teammates_book)
    book["Deals"]["B12"] = "=SUM(C5:C8)+A13"
    book["Deals"].merge_cells("C14:D15")
    book["Summary"]["B1"] = "=Deals!A12&Deals!$A$4"
    book.save(teammates_book)
    refresh(teammates_book, new, [ours(range(9), on_blocked="shift")])
    book = openpyxl.load_workbook(new)
    assert book["Deals"].tables["Deals"].ref == "A4:F14"
    assert book["Deals"]["A17"].value == "below"
    assert book["Deals"]["B17"].value == "=SUM(C5:C13)+A18"
    assert [str(area) for area in book["Deals"].merged_cells.ranges] == ["C19:D20"]
    assert book["Summary"]["B1"].value == "=Deals!A17&Deals!$A$4"
    assert findings(new, teammates_book) == []


def test_notes_of_rows_that_vanish_are_remembered_until_they_are_back(teammates_book, tmp_path, ours):
    options = Options(at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    without = refresh(teammates_book, tmp_path / "a.xlsx", [ours([0, 2])], options)
    assert set(without.memory["tables"]["Deals"]) == {"D1", "D3"}
    back = Options(at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC), memory=without.memory)
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [ours([1, 0, 2])], back)
    assert [row[0] for row in grid(tmp_path / "b.xlsx")[1:4]] == ["note 1", "note 0", "note 2"]
    assert grid(tmp_path / "b.xlsx")[1][5] == 1.5


def test_a_note_that_is_back_and_then_deleted_stays_deleted(teammates_book, tmp_path, ours):
    """But it is not forgotten before the file that holds it has been delivered."""
    gone = refresh(teammates_book, tmp_path / "a.xlsx", [ours([0, 2])], Options(at=AT))
    back = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [ours([1, 0, 2])], Options(at=AT, memory=gone.memory))
    assert "D1" in back.memory["tables"]["Deals"]
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [ours([1, 0, 2])], Options(at=AT, memory=back.memory))
    assert grid(tmp_path / "b.xlsx")[1][0] == "note 1"
    delivered = settled(back.memory)
    assert set(delivered["tables"]["Deals"]) == {"D3"}
    book = openpyxl.load_workbook(tmp_path / "b.xlsx")
    book["Deals"]["A5"] = None
    book.save(tmp_path / "b.xlsx")
    refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [ours([2, 1, 0])], Options(at=AT, memory=delivered))
    assert [row[0] for row in grid(tmp_path / "c.xlsx")[1:4]] == ["note 2", None, "note 0"]


def test_memory_ends_with_its_age_and_can_be_switched_off(teammates_book, tmp_path, ours):
    first = refresh(teammates_book, tmp_path / "a.xlsx", [ours([0])], Options(at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))
    late = Options(at=dt.datetime(2027, 3, 1, tzinfo=dt.UTC), memory=first.memory)
    assert refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [ours([0, 1])], late).memory == {}
    assert grid(tmp_path / "b.xlsx")[2][0] is None
    assert refresh(teammates_book, tmp_path / "c.xlsx", [ours([0])], Options(remember=False)).memory == {}


def test_teammates_values_without_a_key_are_not_guessed_at(teammates_book, tmp_path, ours):
    with pytest.raises(TargetError, match="values of a teammate in column 'Note'"):
        refresh(teammates_book, tmp_path / "new.xlsx", [replace(ours([0, 1]), key=())])


def test_a_new_column_of_ours_comes_at_the_right_end(tmp_path, deals, cells, findings):
    small = deals(range(3))
    narrow = small.reader().read_all().select(["deal_id", "amount"])
    create(tmp_path / "a.xlsx", [TableJob(type(small)("deals", narrow.schema, 3, narrow.to_reader), table="Deals")])
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [TableJob(deals(range(3)), table="Deals")])
    assert cells(tmp_path / "b.xlsx", "Deals")[0] == ("Deal", "Amount", "Name", "Closed on", "Changed at", "Won", "Share")
    assert cells(tmp_path / "b.xlsx", "Deals")[2][:3] == ("D1", 0.25, "=Deal & 1")
    assert findings(tmp_path / "b.xlsx") == []


def test_no_room_for_a_new_column_names_the_cells(teammates_book, tmp_path, table):
    book = openpyxl.load_workbook(teammates_book)
    book["Deals"]["G6"] = "theirs"
    book.save(teammates_book)
    job = TableJob(table({"Deal": ["D1"], "Region": ["x"]}), table="Deals", key=("Deal",))
    with pytest.raises(TargetError, match="G6"):
        refresh(teammates_book, tmp_path / "new.xlsx", [job])


def test_a_plain_range_with_our_headings_becomes_a_table(tmp_path, table, cells, findings):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Data"
    for row in (["Title"], [], ["", "Note", "Deal", "Amount"], ["", "mine", "D1", 5], ["", None, "D2", 6], [], ["", "far below"]):
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    job = TableJob(table({"Deal": ["D2", "D1", "D3"], "Amount": [60, 50, 30]}), sheet="Data", cell="B3", key=("Deal",))
    with pytest.raises(TargetError, match="B7"):
        refresh(
            tmp_path / "a.xlsx",
            tmp_path / "b.xlsx",
            [TableJob(table({"Deal": ["x"] * 9, "Amount": [1] * 9}), sheet="Data", cell="B3", key=("Deal",))],
        )
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [job])
    assert [row[1:] for row in cells(tmp_path / "b.xlsx", "Data")[2:7]] == [
        ("Note", "Deal", "Amount"), (None, "D2", 60), ("mine", "D1", 50), (None, "D3", 30), ("far below", None, None),
    ]  # fmt: skip
    assert openpyxl.load_workbook(tmp_path / "b.xlsx")["Data"].tables["deals"].ref == "B3:D6"
    assert findings(tmp_path / "b.xlsx", tmp_path / "a.xlsx") == []
    assert refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [job]).unchanged


def test_append_adds_below_and_a_repeated_run_adds_nothing(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    refresh(teammates_book, new, [ours([2, 5], mode="append")])
    assert [row[:3] for row in grid(new)[1:7]] == [
        ["note 0", "D0", 0], ["note 1", "D1", 10], ["note 2", "D2", 20], ["note 3", "D3", 30], [None, "D5", 50],
        [None, "Total", "=SUBTOTAL(109,Deals[Amount])"],
    ]  # fmt: skip
    assert grid(new)[5][3] == "=Deals[[#This Row],[Amount]]*2"
    assert findings(new, teammates_book) == []
    assert refresh(new, tmp_path / "again.xlsx", [ours([2, 5], mode="append")]).unchanged


def test_upsert_updates_in_place_and_adds_the_rest(teammates_book, tmp_path, ours, findings):
    new = tmp_path / "new.xlsx"
    refresh(teammates_book, new, [ours([9, 2], factor=7, mode="upsert")])
    assert [row[:3] for row in grid(new)[1:6]] == [
        ["note 0", "D0", 0], ["note 1", "D1", 10], ["note 2", "D2", 14], ["note 3", "D3", 30], [None, "D9", 63],
    ]  # fmt: skip
    assert findings(new, teammates_book) == []
    assert refresh(new, tmp_path / "again.xlsx", [ours([9, 2], factor=7, mode="upsert")]).unchanged


def test_upsert_needs_a_key_and_unique_rows(teammates_book, tmp_path, ours):
    with pytest.raises(TargetError, match="needs a key"):
        refresh(teammates_book, tmp_path / "new.xlsx", [replace(ours([1], mode="upsert"), key=())])
    with pytest.raises(TargetError, match="not unique"):
        refresh(teammates_book, tmp_path / "new.xlsx", [ours([1, 1], mode="upsert")])


def test_two_entries_for_one_table_are_refused(teammates_book, tmp_path, ours):
    with pytest.raises(TargetError, match="both go to table 'Deals'"):
        refresh(teammates_book, tmp_path / "new.xlsx", [ours([1]), ours([2])])


def test_a_table_by_defined_name(tmp_path, table, cells):
    book = openpyxl.Workbook()
    book.active.title = "My data"
    book.active["C5"], book.active["C6"] = "Deal", "old"
    book.defined_names["DealList"] = openpyxl.workbook.defined_name.DefinedName("DealList", attr_text="'My data'!$C$5:$C$6")
    book.save(tmp_path / "a.xlsx")
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [TableJob(table({"Deal": ["a", "b"]}), table="DealList")])
    assert [row[2] for row in cells(tmp_path / "b.xlsx", "My data")[4:]] == ["Deal", "a", "b"]
    assert openpyxl.load_workbook(tmp_path / "b.xlsx").defined_names["DealList"].attr_text == "'My data'!$C$5:$C$7"


def test_more_rows_than_a_sheet_holds(tmp_path, table):
    job = TableJob(table({"n": range(9)}), table="Big", cell="A1048570")
    with pytest.raises(TargetError, match=r"'deals' has 9 rows; there is room for 6 on the sheet") as error:
        create(tmp_path / "a.xlsx", [job])
    assert "overflow: split" in error.value.remedy
    changes = create(tmp_path / "a.xlsx", [replace(job, overflow="split")])
    assert changes.rows == {"deals": 9}
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    assert [(sheet.title, next(iter(sheet.tables.values())).ref) for sheet in book] == [("Big", "A1048570:A1048576"), ("Big_2", "A1:A4")]
    assert [row[0] for row in book["Big_2"].values] == ["n", 6, 7, 8]
    fewer = TableJob(table({"n": range(3)}), table="Big", overflow="split")
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [fewer])
    book = openpyxl.load_workbook(tmp_path / "b.xlsx")
    assert [next(iter(sheet.tables.values())).ref for sheet in book] == ["A1048570:A1048573", "A1:A2"]
    assert [row[0] for row in book["Big_2"].values] == ["n"]


def test_a_new_table_without_room_gets_a_sheet_of_its_own(teammates_book, tmp_path, table, findings):
    job = TableJob(table({"x": range(9)}), table="Other", sheet="Summary", cell="C1")
    book = openpyxl.load_workbook(teammates_book)
    book["Summary"]["C5"] = "theirs"
    book.save(teammates_book)
    with pytest.raises(TargetError, match="C5"):
        refresh(teammates_book, tmp_path / "new.xlsx", [job])
    refresh(teammates_book, tmp_path / "new.xlsx", [replace(job, on_blocked="new_sheet")])
    book = openpyxl.load_workbook(tmp_path / "new.xlsx")
    assert book["Summary"]["C5"].value == "theirs"
    assert book["Summary 2"].tables["Other"].ref == "C1:C10"
    assert findings(tmp_path / "new.xlsx", teammates_book) == []


def test_a_formula_shared_beyond_the_table_keeps_its_meaning(teammates_book, tmp_path, ours, edit, findings):
    """Excel writes filled-down formulas once; when the first cell's row moves, the others need the text themselves."""

    def share(data):
        text = data.decode()
        for row in range(5, 9):
            old = "<f>Deals[[#This Row],[Amount]]*2</f>"
            new = f'<f t="shared" ref="D5:D13" si="0">C{row}*2</f>' if row == 5 else '<f t="shared" si="0"/>'
            text = text.replace(old, new, 1)
        return text.replace('<row r="12"', '<row r="10"><c r="D10"><f t="shared" si="0"/></c></row><row r="12"').encode()

    edit(
        teammates_book,
        {"xl/worksheets/sheet1.xml": share, "xl/tables/table1.xml": lambda data: data.replace(b"Deals[[#This Row],[Amount]]*2", b"C5*2")},
    )
    refresh(teammates_book, tmp_path / "new.xlsx", [ours([3, 1, 0, 2])])
    sheet = openpyxl.load_workbook(tmp_path / "new.xlsx")["Deals"]
    assert [sheet[f"D{row}"].value for row in (5, 6, 7, 8, 10)] == ["=C5*2", "=C6*2", "=C7*2", "=C8*2", "=C10*2"]
    assert findings(tmp_path / "new.xlsx", teammates_book) == []
