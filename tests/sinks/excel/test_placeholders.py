"""Templates: `{{…}}` in any cell is filled on the first run and on every one after it, wherever the cell has gone."""

from __future__ import annotations

import datetime as dt

import openpyxl
import pytest

from sinks.excel.refresh import Options, TableJob, create, refresh

FACTS = {
    "refreshed_at": dt.datetime(2026, 3, 2, 6, 30, tzinfo=dt.UTC),
    "run_id": "r1",
    "flow": "sales",
    "kpi": {"win_rate": 0.6315, "revenue.this_month": 1200, "coverage": None},
}


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.xlsx"
    book = openpyxl.Workbook()
    front = book.active
    front.title = "Team's front"
    for cell, text in {
        "A1": "Refreshed {{refreshed_at}} by {{flow}}",
        "B2": "{{kpi.win_rate}}",
        "B3": "{{ kpi.revenue.this_month }}",
        "B4": "{{refreshed_at}}",
        "B5": "{{kpi.coverage}}",
        "B6": "{{kpi.winrate}}",
        "B7": "plain",
    }.items():
        front[cell] = text
    front["B2"].number_format = "0.0%"
    front["B4"].number_format = "yyyy-mm-dd hh:mm"
    book.save(path)
    return path


def front(path):
    sheet = openpyxl.load_workbook(path)["Team's front"]
    return [sheet["A1"].value, *(sheet[f"B{row}"].value for row in range(2, 8))]


def test_a_template_is_filled_and_filled_again(template, tmp_path, deals, findings):
    job = TableJob(deals(range(3)), table="Deals")
    first = create(tmp_path / "a.xlsx", [job], Options(facts=FACTS), template)
    assert front(tmp_path / "a.xlsx") == [
        "Refreshed 2026-03-02 06:30 by sales", 0.6315, 1200, dt.datetime(2026, 3, 2, 6, 30), "–", "{{kpi.winrate}}", "plain",
    ]  # fmt: skip
    assert openpyxl.load_workbook(tmp_path / "a.xlsx")["Team's front"]["B2"].number_format == "0.0%"
    assert any("kpi.win_rate" in warning for warning in first.warnings), "an unknown placeholder is answered with the nearest"
    assert findings(tmp_path / "a.xlsx", template) == []
    later = FACTS | {"refreshed_at": dt.datetime(2026, 3, 3, 6, 30, tzinfo=dt.UTC), "kpi": {"win_rate": 0.7}}
    changes = refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [job], Options(facts=later))
    assert front(tmp_path / "b.xlsx")[:2] == ["Refreshed 2026-03-03 06:30 by sales", 0.7]
    assert "xl/tables/table1.xml" not in changes.parts_changed


def test_a_new_date_alone_is_no_reason_to_write(template, tmp_path, deals):
    job = TableJob(deals(range(3)), table="Deals")
    create(tmp_path / "a.xlsx", [job], Options(facts=FACTS), template)
    later = FACTS | {"refreshed_at": dt.datetime(2026, 3, 3, 6, 30, tzinfo=dt.UTC)}
    assert refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [job], Options(facts=later)).unchanged


def test_cells_teammates_took_over_are_theirs(template, tmp_path, deals):
    create(tmp_path / "a.xlsx", [TableJob(deals(range(3)), table="Deals")], Options(facts=FACTS), template)
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    sheet = book["Team's front"]
    sheet["B2"], sheet["B3"] = None, "=1+1"
    del book.defined_names["_connector_4"]
    book.save(tmp_path / "a.xlsx")
    refresh(tmp_path / "a.xlsx", tmp_path / "b.xlsx", [TableJob(deals(range(4)), table="Deals")], Options(facts=FACTS))
    assert front(tmp_path / "b.xlsx")[1:3] == [None, "=1+1"]
