"""Real workbooks of other projects, with all that people put into them: what is not ours comes out byte for byte as it went in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from connector.errors import TargetError
from sinks.excel.deliver import shared_strings
from sinks.excel.package import Package
from sinks.excel.refresh import TableJob, refresh
from sinks.excel.sheet import SheetReader
from sinks.excel.workbook import Workbook

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "workbooks"
WORKBOOKS = sorted(FOLDER.glob("*.xls?"))
REFUSED = {
    "apache__SimpleStrict.xlsx": "Strict",
    "dotnet__ActiveXControls-O12-XL-Controls.xlsx": "Strict",
    "apache__hello-world-signed.xlsx": "signed",
    "apache__protected_passtika.xlsx": "encrypted",
}
#: what adding a sheet with a table may change, and what refreshing it may change
ADDING = {"[Content_Types].xml", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/styles.xml"}
#: the schema check takes a second and more per file: here for a few that differ, in the soak for all
SCHEMAS = {
    "SheetJS__pivot_table_named_range.xlsx",
    "apache__simple-monthly-budget.xlsx",
    "apache__ExcelWithAttachments.xlsm",
    "jmcnamara__checkbox07.xlsx",
}

pytestmark = pytest.mark.skipif(not WORKBOOKS, reason="../shared/data/workbooks is not there")
#: with dozens of sheets the checker, not the refresh, takes its time
LONG = {"ClosedXML__TemplateWithTableSourcePivotTables.xlsx", "apache__stress002.xlsx", "apache__dataValidationTableRange.xlsx"}
WORKBOOKS_AS_PARAMETERS = [pytest.param(path, id=path.stem, marks=[pytest.mark.soak] if path.name in LONG else []) for path in WORKBOOKS]
each = pytest.mark.parametrize("workbook", WORKBOOKS_AS_PARAMETERS)
accepted = pytest.mark.parametrize("workbook", [one for one in WORKBOOKS_AS_PARAMETERS if one.values[0].name not in REFUSED])


def values(path: Path, name: str) -> list[list[object]]:
    """The data of a table as the file holds it, read by our own reader; formulas as their text."""
    with Package(path) as package:
        book = Workbook(package)
        strings = shared_strings(book)
        sheet, table = next((sheet, table) for sheet, table in book.tables() if table.name == name)
        rows = []
        reader = SheetReader(package.stream(sheet.part), sheet.part)
        for row in reader.rows():
            if table.first <= row.number <= table.last:
                cells = {cell.column: cell for cell in reader.cells(row)}
                rows.append([_shown(cells.get(at), strings) for at in range(table.area.left, table.area.right + 1)])
        return rows


def _shown(cell, strings):
    if cell is None:
        return None
    return f"={cell.formula.text}" if cell.formula else cell.value(strings)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in {**before, **after} if before.get(name) != after.get(name)}


@each
def test_our_sheet_in_their_workbook(workbook, tmp_path, deals, parts, findings):
    """Added with 500 rows, refreshed with 400 and 2,000: only parts that are ours differ, and nothing new is wrong."""
    original = parts(workbook) if workbook.name != "apache__protected_passtika.xlsx" else {}
    current = workbook
    for step, rows in enumerate((500, 400, 2000)):
        new = tmp_path / f"{step}{workbook.suffix}"
        job = TableJob(deals(range(rows)), table="ConnectorDeals", key=("deal_id",))
        if workbook.name in REFUSED:
            with pytest.raises(TargetError, match=REFUSED[workbook.name]):
                refresh(current, new, [job])
            assert not new.exists()
            return
        changes = refresh(current, new, [job])
        after = parts(new)
        ours = set(after) - set(original)
        assert changed(original, after) <= ours | ADDING, sorted(changed(original, after) - ours)
        if step:
            assert set(changes.parts_changed) <= ours, changes.parts_changed
        data = values(new, "ConnectorDeals")
        assert len(data) == rows
        assert data[-1] == [
            f"D{rows - 1}",
            None if rows % 7 == 0 else f"=Deal & {rows - 1}",
            (rows - 1) / 4,
            *data[-1][3:6],
            (rows - 1) / 8,
        ]
        current = new
    assert refresh(current, tmp_path / "again", [job]).unchanged
    assert findings(current, workbook, schemas=workbook.name in SCHEMAS) == []


@accepted
def test_a_table_of_theirs(workbook, tmp_path, table, parts, findings):
    """Each table they have takes one row less and forty more; other sheets and parts stay as they are."""
    with Package(workbook) as package:
        book = Workbook(package)
        known = [
            (sheet.part, one.name, one.part, [c.name for c in one.columns if not c.formula], one.last - one.first + 1)
            for sheet, one in book.tables()
        ]
    if not known:
        pytest.skip("it has no table")
    original = parts(workbook)
    for sheet_part, name, table_part, headings, count in known[:3]:
        for rows in {max(1, count - 1), count + 40}:
            columns = {heading: pa.array([f"{heading} {at}" for at in range(rows)]) for heading in headings}
            new = tmp_path / f"new{workbook.suffix}"
            try:
                changes = refresh(workbook, new, [TableJob(table(columns), table=name)])
            except TargetError:
                changes = refresh(workbook, new, [TableJob(table(columns), table=name, on_blocked="shift")])
            data = values(new, name)
            assert len(data) == rows
            assert [value for value in data[-1] if not str(value).startswith("=")] == [f"{heading} {rows - 1}" for heading in headings]
            others = {part for part in changed(original, parts(new)) if part.startswith("xl/worksheets/sheet")} - {sheet_part}
            assert others == set(), "another sheet changed although no formula there names the range"
            assert rows == count or table_part in changes.parts_changed
            assert findings(new, workbook, schemas=workbook.name in SCHEMAS) == []


@pytest.mark.soak
@accepted
def test_every_schema_finding(workbook, tmp_path, deals, findings):
    refresh(workbook, tmp_path / f"a{workbook.suffix}", [TableJob(deals(range(2000)), table="ConnectorDeals")])
    assert findings(tmp_path / f"a{workbook.suffix}", workbook) == []


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
@accepted
def test_libreoffice_opens_what_it_opened(workbook, tmp_path, deals):
    def opened(path: Path) -> bool:
        command = [
            "soffice",
            f"-env:UserInstallation=file://{tmp_path}/profile",
            "--headless",
            "--norestore",
            "--convert-to",
            "csv",
            "--outdir",
        ]
        done = subprocess.run([*command, str(tmp_path), str(path)], capture_output=True, timeout=300, check=False)
        made = tmp_path / f"{path.stem}.csv"
        return done.returncode == 0 and made.exists()

    if not opened(workbook):
        pytest.skip("LibreOffice does not open the original")
    refreshed = tmp_path / f"refreshed{workbook.suffix}"
    refresh(workbook, refreshed, [TableJob(deals(range(700)), table="ConnectorDeals")])
    assert opened(refreshed)
