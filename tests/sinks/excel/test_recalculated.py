"""What a teammate sees after opening the refreshed workbook: a real LibreOffice calculates it."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest

from sinks.excel.refresh import TableJob, create, refresh

pytestmark = [
    pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed"),
    pytest.mark.filterwarnings("ignore:.*extension is not supported:UserWarning"),
]
#: have it calculate on load, as Excel does when fullCalcOnLoad is set
ALWAYS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema">
<item oor:path="/org.openoffice.Office.Calc/Formula/Load"><prop oor:name="OOXMLRecalcMode" oor:op="fuse"><value>0</value></prop></item>
</oor:items>"""


def opened(path: Path, folder: Path) -> Path:
    """The workbook as LibreOffice saves it after opening."""
    profile = folder / "profile" / "user"
    profile.mkdir(parents=True)
    (profile / "registrymodifications.xcu").write_text(ALWAYS)
    command = [
        "soffice",
        f"-env:UserInstallation=file://{profile.parent}",
        "--headless",
        "--norestore",
        "--convert-to",
        "xlsx:Calc MS Excel 2007 XML",
    ]
    subprocess.run([*command, "--outdir", str(folder / "out"), str(path)], check=True, capture_output=True, timeout=180)
    return folder / "out" / path.name


def test_formulas_pivots_and_charts_show_the_new_data(featured, tmp_path, table, deals):
    numbers = [3, 7, 1, 0, 12, 5]
    columns = {
        "Deal": [f"D{n}" for n in numbers],
        "Name": [f"Deal {n % 3}" for n in numbers],
        "Amount": pa.array([n * 100 for n in numbers]),
    }
    job = TableJob(table(columns, key=("Deal",)), table="Deals", key=("Deal",))
    refresh(featured, tmp_path / "mid.xlsx", [job])
    refresh(tmp_path / "mid.xlsx", tmp_path / "new.xlsx", [TableJob(deals(range(50)), table="Added")])
    result = opened(tmp_path / "new.xlsx", tmp_path)
    book = openpyxl.load_workbook(result, data_only=True)
    deals_sheet, summary, pivot = book["Deals"], book["Summary"], book["Pivot"]
    assert [summary[f"A{row}"].value for row in range(1, 7)] == [300, "#N/A", 5600, 5600, 2800, 2800], "D2 is gone"
    assert [deals_sheet[f"E{row}"].value for row in range(5, 11)] == [n * 200 for n in numbers], "a calculated column"
    assert deals_sheet["F11"].value == 2800, "the total row"
    assert deals_sheet["H6"].value == pytest.approx(700 / 2800)
    shown = {row[0].value: row[1].value for row in pivot["A3:B12"] if isinstance(row[1].value, int | float)}
    assert shown["Deal 0"] == 1500, "the pivot by range, refreshed on load"
    assert shown["Deal 1"] == 800
    with zipfile.ZipFile(result) as archive:
        chart = next(archive.read(name).decode() for name in archive.namelist() if name.startswith("xl/charts/chart"))
    assert "$F$5:$F$10" in chart
    assert "<c:v>1200</c:v>" in chart, "the chart was drawn from the new cells"
    added = list(book["Added"].values)
    assert added[0][0] == "Deal"
    assert added[4][:3] == ("D3", "=Deal & 3", 0.75)
    assert len(added) == 51


def test_libreoffice_saved_it_and_nothing_has_changed(tmp_path, deals):
    """Its save moves texts to shared strings and renumbers formats; the values are ours all the same."""
    job = TableJob(deals(range(40)), table="Deals", key=("deal_id",))
    create(tmp_path / "ours.xlsx", [job])
    saved = opened(tmp_path / "ours.xlsx", tmp_path)
    assert refresh(saved, tmp_path / "again.xlsx", [job]).unchanged
