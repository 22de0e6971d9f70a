"""What a workbook's teammates wrote is remembered for the workbook, not for one wording of its configuration."""

import openpyxl
import pytest

YAML = """
flows:
  p:
    sources:
      crm: {type: files, tables: {deals: {path: deals.csv, status: {won: [Won], lost: [Lost]}}}}
    sinks:
      - type: excel
        drive: {type: local, folder: out}
        path: P.xlsx
        tables: [{from: deals, sheet: Deals, table: Deals, columns: [COLUMNS]}]
"""
ROWS = {"D1": "Alpha,Open,10", "D2": "Beta,Open,20", "D3": "Gamma,Open,30"}


def deliver(place, ids, columns="deal_id, name, amount", more=""):
    place.write("deals.csv", "deal_id,name,stage,amount\n" + "".join(f"{one},{ROWS[one]}\n" for one in ids))
    place.write("connector.yaml", YAML.replace("COLUMNS", columns) + more)
    outcome = place.connector("run", "p")
    assert outcome.code == 0, outcome.err


def annotate(place, notes):
    """As LibreOffice would: a column at the end of the table."""
    book = openpyxl.load_workbook(place.folder / "out" / "P.xlsx")
    sheet = book["Deals"]
    table = sheet.tables["Deals"]
    width, last = sheet.max_column + 1, sheet.max_row
    sheet.cell(1, width, "Note")
    names = {row[0].row: row for row in sheet.iter_rows(min_row=2)}
    for number, row in names.items():
        said = next((notes[cell.value] for cell in row if cell.value in notes), None)
        sheet.cell(number, width, said)
    table.ref = f"A1:{sheet.cell(last, width).coordinate}"
    table.autoFilter.ref = table.ref
    table.tableColumns.append(openpyxl.worksheet.table.TableColumn(id=width, name="Note"))
    book.save(place.folder / "out" / "P.xlsx")


def noted(place):
    rows = list(openpyxl.load_workbook(place.folder / "out" / "P.xlsx")["Deals"].iter_rows(values_only=True))
    name, note = rows[0].index("name"), rows[0].index("Note")
    return {row[name]: row[note] for row in rows[1:]}


@pytest.mark.parametrize("columns", ["deal_id, name, amount", "name, amount"])
def test_a_note_is_remembered_through_a_change_of_configuration(workplace, columns):
    deliver(workplace, ["D1", "D2", "D3"], columns)
    annotate(workplace, {"Alpha": "call Ann", "Beta": "wait"})
    deliver(workplace, ["D1", "D3"], columns)
    assert noted(workplace) == {"Alpha": "call Ann", "Gamma": None}
    deliver(workplace, ["D3", "D2", "D1"], columns, "        on_locked: fail\n        remember_days: 30\n")
    assert noted(workplace) == {"Alpha": "call Ann", "Beta": "wait", "Gamma": None}


def test_notes_follow_rows_known_by_what_they_said_through_a_change_of_columns(workplace):
    deliver(workplace, ["D1", "D2", "D3"], "name, amount")
    annotate(workplace, {"Alpha": "call Ann", "Beta": "wait"})
    deliver(workplace, ["D3", "D2", "D1"], "name, stage, amount")
    assert noted(workplace) == {"Alpha": "call Ann", "Beta": "wait", "Gamma": None}
    deliver(workplace, ["D2", "D1"], "stage, name")
    assert noted(workplace) == {"Alpha": "call Ann", "Beta": "wait"}
