"""Crosstabs: which rows are the header, what merged cells mean, totals, and the same care as for views."""

import io
from datetime import date, datetime

import openpyxl
import pytest

from connector.api import Since
from connector.errors import SourceError
from connector.http import Session
from connector.sandbox.server import serve
from connector.sandbox.tableau import Project, Site, Tableau, View, Workbook
from sources.tableau import TableauConfig, TableauSource


def workbook(*lines, merge=()):
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(list(line))
    for area in merge:
        book.active.merge_cells(area)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


@pytest.fixture
def read():
    project = Project("Sales")
    book = Workbook("Book", project)
    book.add(View("View", raw=b"A\r\n1\r\n"))
    with serve(Tableau(Site(projects=[project], workbooks=[book]), strict=True)) as running:

        def read(*lines, merge=(), **spec):
            """The rows of a sheet laid out like this, and the warnings."""
            running.faults.clear()
            running.faults.add("crosstab", status=200, body=workbook(*lines, merge=merge), times=None)
            token = {"name": "connector", "secret": "sandbox-secret"}
            views = [{"view": "Book/View", "table": "t", "mode": "crosstab", **spec}]
            source = TableauSource(TableauConfig(base_url=running.url("tableau"), site="sales", token=token, views=views), Session())
            found = list(source.read(source.entities()[0], Since()))
            rows = [row for page in found for row in (page.records if isinstance(page.records, list | tuple) else page.records.to_pylist())]
            return rows, found[0].warnings

        yield read


class TestHeader:
    def test_a_blank_corner_above_the_names_of_the_rows(self, read):
        rows, _ = read(["", "January", "February"], ["Amount", 10, 20], ["Deals", 1, 2])
        assert rows == [{"column 1": "Amount", "January": 10, "February": 20}, {"column 1": "Deals", "January": 1, "February": 2}]

    def test_one_row_of_data(self, read):
        assert read(["", "January", "February"], ["Amount", 10, 20])[0] == [{"column 1": "Amount", "January": 10, "February": 20}]

    def test_rows_whose_numbers_are_missing_are_data(self, read):
        rows, _ = read(["Region", "Amount"], ["EMEA", None], ["APAC", 20])
        assert [row["Region"] for row in rows] == ["EMEA", "APAC"]

    def test_a_first_column_without_a_value_is_data(self, read):
        assert read(["Region", "Amount"], [None, 10], ["APAC", 20])[0][0] == {"Region": None, "Amount": 10}
        assert read([None, "January"], [None, 10], ["APAC", 20])[0][0] == {"column 1": None, "January": 10}

    def test_years_above_measures(self, read):
        rows, _ = read(
            [None, 2025, None, 2026, None],
            ["Region", "Amount", "Deals", "Amount", "Deals"],
            ["EMEA", 10, 1, 20, 2],
            merge=["B1:C1", "D1:E1"],
        )
        assert rows == [{"Region": "EMEA", "2025 / Amount": 10, "2025 / Deals": 1, "2026 / Amount": 20, "2026 / Deals": 2}]

    def test_years_above_quarters(self, read):
        rows, _ = read([None, 2025, 2025], [None, 1, 2], ["EMEA", 10, 20])
        assert rows == [{"column 1": "EMEA", "2025 / 1": 10, "2025 / 2": 20}]

    def test_a_title_across_is_wider_than_the_data(self, read):
        rows, _ = read(["Title"], ["Region", "Amount"], ["EMEA", 10], merge=["A1:F1"])
        assert rows == [{"Title / Region": "EMEA", "Title / Amount": 10}]

    def test_cells_merged_below_the_last_row(self, read):
        assert read(["Region", "Amount"], ["EMEA", 10], merge=["A2:A9"])[0] == [{"Region": "EMEA", "Amount": 10}]

    def test_text_without_any_number(self, read):
        rows, _ = read(["Deal", "Stage"], ["D1", "Won"], ["D2", "Lost"])
        assert rows == [{"Deal": "D1", "Stage": "Won"}, {"Deal": "D2", "Stage": "Lost"}]

    def test_dates_are_values(self, read):
        rows, _ = read(["", "Closed"], ["D1", date(2026, 1, 31)], ["D2", datetime(2026, 2, 1, 9)])
        assert [row["column 1"] for row in rows] == ["D1", "D2"]


class TestEmpty:
    @pytest.mark.parametrize("lines", [[], [["Region", "Amount"]], [["", "", ""]], [["Region", "Amount"], [None, None]]])
    def test_a_sheet_without_rows_is_an_empty_table_that_says_so(self, read, lines):
        rows, warnings = read(*lines)
        assert rows == []
        assert warnings == ("Tableau view 'Book/View': the view is empty",)

    def test_nothing_but_a_total(self, read):
        rows, warnings = read(["Region", "Amount"], ["Grand Total", 30], totals="drop")
        assert rows == [{"Region": "Grand Total", "Amount": 30}]
        assert warnings == ()


class TestTotals:
    LINES = (
        ["Region", "Stage", "Amount"],
        ["EMEA", "Won", 0.1],
        ["EMEA", "Lost", 0.2],
        ["EMEA", "Total", 0.3],
        ["APAC", "Won", 7],
        ["Grand Total", None, 7.3],
    )

    def test_are_left_out_and_said(self, read):
        rows, warnings = read(*self.LINES)
        assert [row["Amount"] for row in rows] == [0.1, 0.2, 7]
        assert warnings == ("Tableau view 'Book/View': 2 total rows left out",)

    def test_may_be_kept(self, read):
        rows, warnings = read(*self.LINES, totals="keep")
        assert len(rows) == 5
        assert "row 4 (Region 'EMEA', Stage 'Total', Amount '0.3')" in warnings[0]

    def test_unrounded_numbers_add_up_to_the_last_digit(self, read):
        lines = [["Region", "Amount"], ["EMEA", 10.4], ["APAC", 20.4], ["Grand Total", 30.9]]
        with pytest.raises(SourceError, match=r"row 4 \(Region 'Grand Total', Amount '30.9'\) looks like a total"):
            read(*lines)
        assert len(read(*lines, totals="drop")[0]) == 2


def test_null_is_missing_where_that_is_said(read):
    lines = [["Region", "Amount"], ["Null", 10], ["APAC", 20]]
    assert read(*lines)[0][0]["Region"] == "Null"
    assert read(*lines, null_text=True)[0][0]["Region"] is None


def test_ids_shown_as_numbers_are_the_ids(read):
    lines = [["Deal ID", "Amount"], ["7,100,001", 10], [7100002, 20]]
    rows, _ = read(*lines, table="deals", locale="en_US", fields={"deal_id": "Deal ID"})
    assert [row["Deal ID"] for row in rows] == ["7100001", 7100002]


def test_a_filter_is_proven_by_the_rows(read):
    lines = [["Region", "Amount"], ["EMEA", 10], ["APAC", 20]]
    assert len(read(*lines, filters={"Region": ["EMEA", "APAC"]})[0]) == 2
    with pytest.raises(SourceError, match="a row has Region 'APAC'"):
        read(*lines, filters={"Region": "EMEA"})
