"""Tables on the terminal, and the story of a run."""

import json
import re
import sys
from decimal import Decimal

import pyarrow as pa
import pytest

from connector.definitions import Column
from connector.report import show, story

COLUMNS = {
    "owner": Column("text", "Owner"),
    "revenue": Column("money", "Revenue"),
    "speed": Column("money per day", "Speed"),
    "win_rate": Column("percent", "Win rate"),
    "cycle": Column("days", "Cycle"),
    "deals": Column("count", "Deals"),
    "amount": Column("money", "Amount", foreign=True),
}
ROWS = [
    {"owner": "Ann [x]", "revenue": 1234567.891, "speed": 12.5, "win_rate": 0.4, "cycle": 28.5, "deals": 1200, "amount": Decimal("9.5000")},
    {"owner": "王小明", "revenue": -10.0, "speed": None, "win_rate": None, "cycle": 3.0, "deals": 7, "amount": None},
]


def shown(capsys, rows, columns, currency="EUR"):
    show(pa.Table.from_pylist(rows).to_reader(), "table", columns, currency)
    return capsys.readouterr().out.splitlines()


def test_numbers_stand_at_the_right_under_their_units(capsys):
    names, units, _, ann, wang, count = shown(capsys, ROWS, COLUMNS)
    assert [word.strip() for word in names.split("┃")] == list(COLUMNS)
    assert [word.strip() for word in units.split("┃")] == ["", "EUR", "EUR per day", "%", "days", "", "own currency"]
    assert ann.split("│") == ["Ann [x] ", " 1,234,567.89 ", "       12.50 ", "    40.0% ", "  28.5 ", " 1,200 ", "         9.50"]
    assert wang.split("│") == ["王小明  ", "       -10.00 ", "             ", "          ", "     3 ", "     7 ", ""]
    assert count == "2 rows"


def test_every_row_of_kpis_has_its_own_unit(capsys):
    columns = {"metric": Column("text", ""), "value": Column("ratio", ""), "unit": Column("text", ""), "numerator": Column("ratio", "")}
    rows = [
        {"metric": metric, "value": value, "unit": unit, "numerator": 2.0}
        for metric, value, unit in (
            ("revenue", 1000.0, "money"),
            ("sales_velocity", 2.5, "money per day"),
            ("win_rate", 0.4, "percent"),
            ("sales_cycle_days", 6.25, "days"),
            ("coverage", 3.0, "ratio"),
            ("open_deals", 1200.0, "count"),
            ("clv_to_cac", None, "ratio"),
        )
    ]
    lines = shown(capsys, rows, columns)[2:-1]
    values = [line.split("│")[1].strip() for line in lines]
    assert values == ["1,000.00 EUR", "2.50 EUR/day", "40.0%", "6.25 d", "3 ×", "1,200", ""]


def test_what_is_wider_than_the_terminal_goes_on_below(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown(capsys, ROWS, COLUMNS)]
    assert max(map(len, lines)) <= 40
    headings = [[word.strip() for word in line.split("┃")] for line in lines if line.startswith("owner")]
    assert [words[0] for words in headings] == ["owner"] * len(headings), "each part begins with the first column"
    assert [word for words in headings for word in words[1:]] == list(COLUMNS)[1:]


@pytest.mark.parametrize("style", ["csv", "json"])
def test_machines_get_bare_values(capsys, style):
    show(pa.Table.from_pylist(ROWS).to_reader(), style, COLUMNS, "EUR")
    out = capsys.readouterr().out
    if style == "json":
        assert json.loads(out)[0]["revenue"] == 1234567.891
    else:
        assert out.splitlines()[1] == "Ann [x],1234567.891,12.5,0.4,28.5,1200,9.5"


def test_two_hundred_workbooks_do_not_bury_the_one_that_failed():
    quiet = {
        "outcome": "unchanged",
        "why": "every cell already holds its value",
        "rows": {"deals": 4},
        "parts_changed": (),
        "parts_untouched": 9,
    }
    sinks = [{"target": f"{number}.xlsx", "each": {"owner": str(number)}} | quiet for number in range(200)]
    sinks[7] |= {"outcome": "failed", "why": "somebody has it open"}
    sinks[9] |= {"outcome": "written", "why": "", "parts_changed": ("a",)}
    manifest = {"flow": "f", "outcome": "failed", "seconds": 1.0, "sources": [], "sinks": sinks, "warnings": []}
    assert story(manifest).splitlines()[1:] == [
        "  sink   7.xlsx: failed: somebody has it open (deals 4)",
        "  sink   9.xlsx: written (deals 4); 1 parts written, 9 left as they were",
        "  sink   198 others: unchanged",
    ]
