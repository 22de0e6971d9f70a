"""Workbooks we make ourselves: they open, they hold what was sent, and the same input gives the same bytes."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from zoneinfo import ZoneInfo

import openpyxl
import pyarrow as pa
import pytest

from connector.errors import TargetError
from sinks.excel.refresh import Options, TableJob, create, refresh


def test_a_new_workbook_holds_the_values_sent(tmp_path, deals, cells, findings):
    create(tmp_path / "new.xlsx", [TableJob(deals(range(100)), table="Deals")])
    rows = cells(tmp_path / "new.xlsx", "Deals")
    assert rows[0] == ("Deal", "Name", "Amount", "Closed on", "Changed at", "Won", "Share")
    assert rows[4] == ("D3", "=Deal & 3", 0.75, dt.datetime(2025, 1, 4), dt.datetime(2025, 1, 1, 0, 3), False, 0.375)
    assert rows[7][1] is None
    assert len(rows) == 101
    assert findings(tmp_path / "new.xlsx") == []


def test_formats_say_what_the_numbers_are(tmp_path, deals):
    create(tmp_path / "new.xlsx", [TableJob(deals(range(3)), table="Deals")])
    sheet = openpyxl.load_workbook(tmp_path / "new.xlsx")["Deals"]
    assert "€" in sheet["C2"].number_format
    assert sheet["D2"].number_format == "yyyy\\-mm\\-dd"
    assert "hh:mm" in sheet["E2"].number_format
    assert sheet["G2"].number_format == "0.0%"
    assert sheet["B2"].data_type == "s", "a text that starts with = is a text"
    assert sheet.freeze_panes == "A2"
    assert sheet.tables["Deals"].ref == "A1:G4"


def test_the_same_input_gives_the_same_bytes(tmp_path, deals):
    for name in ("a.xlsx", "b.xlsx"):
        create(tmp_path / name, [TableJob(deals(range(30)), table="Deals")])
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()


def test_instants_are_shown_in_the_zone_of_the_run(tmp_path, table, cells):
    at = pa.array([dt.datetime(2025, 7, 1, 22, 30, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"))
    plain = pa.array([dt.datetime(2025, 7, 1, 22, 30)], pa.timestamp("ms"))
    job = TableJob(table({"at": at, "plain": plain}), table="T")
    create(tmp_path / "new.xlsx", [job], Options(timezone=ZoneInfo("Europe/Berlin")))
    assert cells(tmp_path / "new.xlsx", "T")[1] == (dt.datetime(2025, 7, 2, 0, 30), dt.datetime(2025, 7, 1, 22, 30))


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "<b>&amp;</b>",
        " lead",
        "trail ",
        "two\nlines",
        "tab\there",
        "_x0041_",
        "\x01\x1f",
        "😀",
        "a  b",
        "'quoted'",
    ],
)
def test_text_comes_back_as_it_was(tmp_path, table, text):
    create(tmp_path / "new.xlsx", [TableJob(table({"text": [text]}), table="T")])
    cell = openpyxl.load_workbook(tmp_path / "new.xlsx")["T"]["A2"]
    assert cell.data_type == "s"
    assert openpyxl.utils.escape.unescape(cell.value) == text


def test_lone_surrogates_and_stray_bytes_become_text_excel_accepts(tmp_path, table, findings):
    raw = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xed\xa0\x80", b"a\xff"], pa.binary()).buffers())
    create(tmp_path / "new.xlsx", [TableJob(table({"text": raw}), table="T")])
    sheet = openpyxl.load_workbook(tmp_path / "new.xlsx")["T"]
    assert [sheet["A2"].value, sheet["A3"].value] == ["_xD800_", "a\ufffd"]
    assert findings(tmp_path / "new.xlsx") == []


def test_what_is_not_a_number_is_empty_and_decimals_keep_their_digits(tmp_path, table, parts):
    numbers = pa.array([math.nan, math.inf, -math.inf, None, 0.1])
    exact = pa.array([Decimal("12345678901.2300"), Decimal("-0.0001"), None, Decimal(0), Decimal("100.0000")], pa.decimal128(18, 4))
    create(tmp_path / "new.xlsx", [TableJob(table({"n": numbers, "d": exact}), table="T")])
    xml = parts(tmp_path / "new.xlsx")["xl/worksheets/sheet1.xml"].decode()
    assert xml.count('<c r="A') == 2
    assert [f"<v>{text}</v>" in xml for text in ("12345678901.23", "-0.0001", "0", "100", "0.1")] == [True] * 5


def test_integers_excel_would_round_are_text_and_said_so(tmp_path, table, cells):
    changes = create(tmp_path / "new.xlsx", [TableJob(table({"n": [1, 1234567890123456789], "id": [7, 8]}, units={"id": "id"}), table="T")])
    assert cells(tmp_path / "new.xlsx", "T")[1:] == [(1, "7"), ("1234567890123456789", "8")]
    assert "15 digits" in changes.warnings[0]


def test_dates_before_excels_epoch(tmp_path, table, cells):
    days = pa.array([dt.date(1850, 1, 1), dt.date(1900, 1, 1), dt.date(1900, 3, 1), dt.date(9999, 12, 31)])
    create(tmp_path / "new.xlsx", [TableJob(table({"day": days}), table="T")])
    assert [row[0] for row in cells(tmp_path / "new.xlsx", "T")[1:]] == [
        "1850-01-01", dt.datetime(1900, 1, 1), dt.datetime(1900, 3, 1), dt.datetime(9999, 12, 31),
    ]  # fmt: skip


def test_a_text_too_long_for_a_cell_names_its_place(tmp_path, table):
    with pytest.raises(TargetError, match=r"row 3, column 'story': the text has 32,768 characters"):
        create(tmp_path / "new.xlsx", [TableJob(table({"story": ["x" * 32_767, "y" * 32_768]}), table="T")])
    assert not (tmp_path / "new.xlsx").exists()


def test_every_arrow_type_has_a_cell(tmp_path, table, cells):
    columns = {
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
        "large": pa.array(["a", None], pa.large_string()),
        "nothing": pa.nulls(2),
        "nested": pa.array([[1, 2], None]),
        "time": pa.array([dt.time(12), None]),
        "span": pa.array([dt.timedelta(hours=36), None]),
        "small": pa.array([1, None], pa.int8()),
        "unsigned": pa.array([2**63, None], pa.uint64()),
        "half": pa.array([0.5, None], pa.float32()),
    }
    create(tmp_path / "new.xlsx", [TableJob(table(columns), table="T")])
    assert cells(tmp_path / "new.xlsx", "T")[1] == (
        "a", "a", None, "[1, 2]", dt.time(12), dt.timedelta(hours=36), 1, "9223372036854775808", 0.5,
    )  # fmt: skip


def test_binary_columns_are_refused_by_name(tmp_path, table):
    with pytest.raises(TargetError, match="'blob' holds binary data"):
        create(tmp_path / "new.xlsx", [TableJob(table({"blob": [b"x"]}), table="T")])


def test_headings_are_unique_for_excel(tmp_path, table, cells, findings):
    create(tmp_path / "new.xlsx", [TableJob(table({"a": [1], "A": [2], "line\nbreak": [3], "": [4]}), table="T")])
    assert cells(tmp_path / "new.xlsx", "T")[0] == ("a", "A 2", "line break", "Column")
    assert findings(tmp_path / "new.xlsx") == []


def test_an_empty_table_has_one_blank_row_and_grows_again(tmp_path, deals, cells, findings):
    create(tmp_path / "a.xlsx", [TableJob(deals([]), table="Deals")])
    assert cells(tmp_path / "a.xlsx", "Deals")[1:] == [(None,) * 7]
    assert findings(tmp_path / "a.xlsx") == []
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [TableJob(deals(range(3)), table="Deals")])
    assert len(cells(tmp_path / "b.xlsx", "Deals")) == 4
    refresh(tmp_path / "b.xlsx", tmp_path / "c.xlsx", [TableJob(deals([]), table="Deals")])
    assert refresh(tmp_path / "c.xlsx", tmp_path / "d.xlsx", [TableJob(deals([]), table="Deals")]).unchanged


def test_several_tables_in_one_workbook(tmp_path, deals, table, findings):
    jobs = [TableJob(deals(range(3)), table="Deals"), TableJob(table({"x": [1]}), table="Other", title="Something: else/with*marks")]
    create(tmp_path / "a.xlsx", jobs)
    assert openpyxl.load_workbook(tmp_path / "a.xlsx").sheetnames == ["Deals", "Something  else with marks"]
    assert findings(tmp_path / "a.xlsx") == []
    assert refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", jobs).unchanged
