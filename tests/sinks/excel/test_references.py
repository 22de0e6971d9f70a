"""References: which of them a table that grows, shrinks or moves takes along, and which mean something else."""

from __future__ import annotations

import pytest

from connector.errors import TargetError
from sinks.excel.references import Area, Move, carried, letters, number, quoted, shared

#: a table at B4:D9: header, data in rows 5 to 8, a total row; it grows to row 20
GROWN = Move("My data", 2, 4, 4, 5, 8, 20, totals=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("B5:B8", "B5:B20"),
        ("$B$5:$D$8", "$B$5:$D$20"),
        ("B4:D8", "B4:D20"),
        ("B4:D9", "B4:D21"),
        ("C9", "C21"),
        ("$C$9", "$C$21"),
        ("A1:D9", "A1:D21"),
        ("A1:Z15", "A1:Z21"),
        ("A1:Z50", "A1:Z50"),
        ("C6", "C6"),
        ("C6:C7", "C6:C7"),
        ("C8", "C8"),
        ("F5:F8", "F5:F8"),
        ("B:B", "B:B"),
        ("5:8", "5:8"),
        ("B30", "B30"),
    ],
)
def test_growing(before, after):
    assert GROWN.formula(f"SUM('My data'!{before})", None) == f"SUM('My data'!{after})"
    assert GROWN.formula(f"SUM({before})", "My data") == f"SUM({after})"
    assert GROWN.formula(f"SUM({before})", "Other") == f"SUM({before})"
    assert GROWN.formula(f"SUM(Other!{before})", "My data") == f"SUM(Other!{before})"


@pytest.mark.parametrize(
    "formula",
    [
        "\"B5:B8 of 'My data'!B5:B8\"",
        "LOG10(5)+Data[B5:B8]",
        "Table1[[#This Row],[B5:B8]]",
        "B5_B8+ABC1234567",
        "[1]Sheet!B5:B8",
        "'[1]My data'!B5:B8",
        "First:Last!B5:B8",
        "SUM(#REF!)",
        "1.5E5+B5X",
        "B5(1)",
    ],
)
def test_what_only_looks_like_a_reference(formula):
    assert GROWN.formula(formula, "My data") == formula


def test_rows_that_went_down():
    move = Move("S", 1, 3, 1, 2, 5, 9, shift_from=6, shift_by=4)
    assert move.formula("A2:A5+A7+$B$6:C8+SUM(7:9)+A1:A8", "S") == "A2:A9+A11+$B$10:C12+SUM(11:13)+A1:A12"
    assert move.areas("A2:A5 D7 B6:C8") == "A2:A9 D11 B10:C12"


def test_a_rule_over_one_row_grows_with_the_table_and_a_formula_over_one_cell_does_not():
    move = Move("S", 1, 2, 1, 2, 2, 7)
    assert move.areas("A2:B2") == "A2:B7"
    assert move.formula("A2:A2+A2", "S") == "A2:A7+A2"


def test_a_table_that_moved_takes_references_to_its_cells_along():
    move = Move("Old", 2, 4, 4, 5, 8, 20, totals=True, to="New one")
    assert move.formula("SUM(Old!B5:B8)+Old!C6+Old!A1", None) == "SUM('New one'!B5:B20)+'New one'!C6+Old!A1"
    assert move.formula("SUM(B5:B8)+A1", "Old") == "SUM('New one'!B5:B20)+A1"
    assert move.own("C6*$H$1+Old!C9") == "C6*Old!$H$1+'New one'!C21"


def test_a_formula_goes_along_with_its_row():
    assert carried("B5*$C$5+A$5+$A5+Z1+SUM(B5:B8)+Other!B5", 3, 5, 8) == "B8*$C$5+A$5+$A8+Z1+SUM(B5:B8)+Other!B5"
    assert carried('"B5"&B5', 1, 5, 8) == '"B5"&B6'


def test_a_shared_formula_reads_from_where_it_stands():
    assert shared("A1+$B$1+C$1+$D1+S!A1:B2", 2, 1) == "B3+$B$1+D$1+$D3+S!B3:C4"


@pytest.mark.parametrize(("column", "name"), [(1, "A"), (26, "Z"), (27, "AA"), (702, "ZZ"), (703, "AAA"), (16384, "XFD")])
def test_column_names(column, name):
    assert (letters(column), number(name), number(name.lower())) == (name, column, column)


@pytest.mark.parametrize(
    ("sheet", "written"),
    [("Deals", "Deals"), ("My data", "'My data'"), ("It's", "'It''s'"), ("A1", "'A1'"), ("2025", "'2025'"), ("R1C1", "'R1C1'")],
)
def test_sheet_names(sheet, written):
    assert quoted(sheet) == written


@pytest.mark.parametrize("text", ["", "A", "1", "A0", "A1:", "B2:A1", "XFE1", "A1048577", "A1:B2:C3", "'S'!A1"])
def test_what_is_not_a_range(text):
    with pytest.raises(TargetError):
        Area.read(text)


def test_ranges():
    assert str(Area.read("$b$2:D9")) == "B2:D9"
    assert (str(Area.read("B2")), Area.read("B2").span) == ("B2", "B2:B2")
    assert Area.read("A1:C3").overlaps(Area.read("C3:D4"))
    assert not Area.read("A1:C3").overlaps(Area.read("D1:D9"))
