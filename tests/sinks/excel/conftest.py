"""Tables to deliver and workbooks as teammates make them."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from openpyxl.formatting.rule import DataBarRule, FormulaRule
from openpyxl.styles import PatternFill
from openpyxl.workbook.defined_name import DefinedName
from openpyxl.worksheet.datavalidation import DataValidation
from openpyxl.worksheet.filters import AutoFilter
from openpyxl.worksheet.formula import ArrayFormula
from openpyxl.worksheet.table import Table, TableColumn, TableFormula, TableStyleInfo

from connector.api import Output

SHARED = Path(__file__).parents[4] / "shared"

DEALS = pa.schema(
    [
        pa.field("deal_id", pa.string(), metadata={"unit": "id", "label": "Deal"}),
        pa.field("name", pa.string(), metadata={"label": "Name"}),
        pa.field("amount", pa.decimal128(18, 4), metadata={"unit": "money", "currency": "EUR", "label": "Amount"}),
        pa.field("closed_on", pa.date32(), metadata={"label": "Closed on"}),
        pa.field("changed_at", pa.timestamp("us", "UTC"), metadata={"label": "Changed at"}),
        pa.field("won", pa.bool_(), metadata={"label": "Won"}),
        pa.field("share", pa.float64(), metadata={"unit": "percent", "label": "Share"}),
    ]
)


def output(table: pa.Table, name: str = "deals", key: tuple[str, ...] = ("deal_id",), **more: object) -> Output:
    return Output(name, table.schema, table.num_rows, table.to_reader, key=key, **more)


def deals_table(ids: Iterable[int], *, factor: int = 1) -> pa.Table:
    ids = list(ids)
    midnight = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    columns = [
        [f"D{number}" for number in ids],
        [None if number % 7 == 6 else f"=Deal & {number}" for number in ids],
        [Decimal(number * factor) / 4 for number in ids],
        [dt.date(2025, 1, 1) + dt.timedelta(days=number % 900) for number in ids],
        [midnight + dt.timedelta(minutes=number) for number in ids],
        [number % 2 == 0 for number in ids],
        [number / 8 for number in ids],
    ]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, DEALS, strict=True)], schema=DEALS)


@pytest.fixture
def deals() -> Callable[..., Output]:
    """`deals(range(5), factor=2)`: an Output with one row per id."""
    return lambda ids, *, factor=1, **more: output(deals_table(ids, factor=factor), **more)


@pytest.fixture
def table() -> Callable[..., Output]:
    """`table({"a": [1, 2]}, units={"a": "id"})`: an Output from plain lists or arrays."""

    def make(columns: Mapping[str, object], *, units: Mapping[str, str] | None = None, **more: object) -> Output:
        arrays = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
        fields = [pa.field(name, array.type, metadata={"unit": (units or {}).get(name, "")}) for name, array in arrays.items()]
        more.setdefault("key", ())
        return output(pa.table(list(arrays.values()), schema=pa.schema(fields)), **more)

    return make


@pytest.fixture
def parts() -> Callable[[Path], dict[str, bytes]]:
    """Every part of a workbook, after checking that the archive is sound."""

    def read(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert len(names) == len(set(names))
            return {name: archive.read(name) for name in names}

    return read


@pytest.fixture
def edit() -> Callable[..., Path]:
    """`edit(path, {"part": bytes | None | function})`: the workbook with parts replaced, added or removed."""

    def change(path: Path, changes: Mapping[str, object], to: Path | None = None) -> Path:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        for name, new in changes.items():
            if new is None:
                del contents[name]
            else:
                contents[name] = new(contents[name]) if callable(new) else new
        to = to or path
        with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
        return to

    return change


@pytest.fixture
def cells() -> Callable[..., list[tuple[object, ...]]]:
    """The values of a sheet as openpyxl reads them, formulas as text."""

    def read(path: Path, sheet: str, *, cached: bool = False) -> list[tuple[object, ...]]:
        book = openpyxl.load_workbook(path, data_only=cached)
        try:
            return list(book[sheet].iter_rows(values_only=True))
        finally:
            book.close()

    return read


@pytest.fixture(scope="session")
def validator() -> ModuleType:
    """The schema checker beside the repository; tests that need it skip where it is not."""
    path = SHARED / "tools" / "validate_xlsx.py"
    if not path.is_file():
        pytest.skip("../shared/tools/validate_xlsx.py is not there")
    spec = importlib.util.spec_from_file_location("validate_xlsx", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["validate_xlsx"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def findings(validator: ModuleType) -> Callable[..., list[tuple[str, ...]]]:
    """What a rewrite introduced: errors and warnings the original does not have. `schemas=False` leaves out the slow part."""
    known: dict[tuple[Path, bool], set[tuple[str, ...]]] = {}

    def check(path: Path, original: Path | None = None, *, schemas: bool = True) -> list[tuple[str, ...]]:
        if original is not None and (original, schemas) not in known:
            known[original, schemas] = {validator.key(finding) for finding in validator.findings(str(original), None, schemas)}
        before = known.get((original, schemas), set()) if original else set()
        return [finding for finding in validator.findings(str(path), None, schemas) if validator.key(finding) not in before]

    return check


@pytest.fixture(scope="session")
def introduced() -> Callable[..., set[tuple[str, str, str]]]:
    """What Microsoft's validator (Open XML SDK) finds in a workbook and not in the original: rule, part, description without numbers."""
    program = os.environ.get("OOXML_VALIDATOR_CLI", "")
    if not Path(program).is_file():
        pytest.skip("OOXML_VALIDATOR_CLI names no validator")
    known: dict[Path, set[tuple[str, str, str]]] = {}

    def errors(path: Path) -> set[tuple[str, str, str]]:
        done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=300, check=False)
        found = json.loads(done.stdout)["errors"]
        return {(one.get("id") or one["errorType"], one.get("path") or "", re.sub(r"\d+", "#", one["description"])) for one in found}

    def check(path: Path, original: Path | None = None) -> set[tuple[str, str, str]]:
        if original and original not in known:
            known[original] = errors(original)
        return errors(path) - (known[original] if original else set())

    return check


@pytest.fixture
def teammates_book(tmp_path: Path) -> Path:
    """A workbook a colleague made: our columns in another order, a formula and notes of theirs among them, a total row, things around it."""
    path = tmp_path / "Pipeline.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Deals"
    sheet["A1"] = "Pipeline of team North"
    sheet["I2"] = "beside"
    sheet["I7"] = "=SUM(C5:C8)"
    headings = ["Note", "Deal", "Amount", "Double", "Name", "Owner's call"]
    for column, heading in enumerate(headings, 1):
        sheet.cell(4, column, heading)
    for at, number in enumerate(range(4)):
        row = 5 + at
        sheet.cell(row, 1, f"note {number}")
        sheet.cell(row, 2, f"D{number}")
        sheet.cell(row, 3, number * 10).number_format = "0.00"
        sheet.cell(row, 4, "=Deals[[#This Row],[Amount]]*2")
        sheet.cell(row, 5, f"Deal {number}")
        if number != 2:
            sheet.cell(row, 6, number + 0.5)
    sheet.cell(9, 2, "Total")
    sheet.cell(9, 3, "=SUBTOTAL(109,Deals[Amount])")
    sheet["A12"] = "below"
    named = Table(displayName="Deals", name="Deals", ref="A4:F9", totalsRowCount=1)
    named.tableColumns = [TableColumn(id=at, name=heading) for at, heading in enumerate(headings, 1)]
    named.tableColumns[1].totalsRowLabel = "Total"
    named.tableColumns[2].totalsRowFunction = "sum"
    named.tableColumns[3].calculatedColumnFormula = TableFormula(attr_text="Deals[[#This Row],[Amount]]*2")
    named.tableStyleInfo = TableStyleInfo(name="TableStyleMedium9", showRowStripes=True)
    sheet.add_table(named)
    other = book.create_sheet("Summary")
    other["A1"] = "=SUM(Deals!C5:C8)"
    other["A2"] = "=SUM(Deals!$C$5:$C$8)*Deals!$I$1"
    other["A3"] = "=Deals!C9"
    other["A4"] = "=SUM(Deals[Amount])"
    book.save(path)
    book.close()
    return path


FEATURED = ("Note", "Deal", "Name", "Double", "Amount", "Call", "Part")
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@pytest.fixture(scope="session")
def featured_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workbook with most of what teammates put around a table: see `_featured_sheets` and `_featured_parts`."""
    path = tmp_path_factory.mktemp("featured") / "Featured.xlsx"
    _featured_sheets(path)
    _featured_parts(path)
    return path


@pytest.fixture
def featured(featured_once: Path, tmp_path: Path) -> Path:
    path = tmp_path / "Featured.xlsx"
    path.write_bytes(featured_once.read_bytes())
    return path


def _featured_sheets(path: Path) -> None:
    """The table at B4 with a total row; around it notes, formats, rules, links, comments, charts, names, and formulas elsewhere."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Deals"
    sheet["B1"], sheet["K6"], sheet["A40"], sheet["B41"] = "Team North's list", "beside", "below", "=SUM(F5:F8)"
    for column, heading in enumerate(FEATURED, 2):
        sheet.cell(4, column, heading)
    for number in range(4):
        row = 5 + number
        values = (f"note {number}", f"D{number}", f"Deal {number}", "=Deals[[#This Row],[Amount]]*2", number * 10, number + 0.5)
        for column, value in enumerate(values, 2):
            sheet.cell(row, column, value)
        sheet.cell(row, 8, f"=F{row}/SUM($F$5:$F$8)").number_format = "0%"
    sheet["G7"].fill = PatternFill("solid", fgColor="FFFF00")
    sheet.row_dimensions[7].height = 33
    sheet.column_dimensions["C"].width = 22
    sheet.freeze_panes = "A5"
    sheet.merge_cells("J1:K2")
    sheet["C9"], sheet["F9"] = "Total", "=SUBTOTAL(109,Deals[Amount])"
    named = Table(displayName="Deals", name="Deals", ref="B4:H9", totalsRowCount=1, autoFilter=AutoFilter(ref="B4:H8"))
    named.tableColumns = [TableColumn(id=at, name=heading) for at, heading in enumerate(FEATURED, 1)]
    named.tableColumns[1].totalsRowLabel = "Total"
    named.tableColumns[4].totalsRowFunction = "sum"
    named.tableColumns[3].calculatedColumnFormula = TableFormula(attr_text="Deals[[#This Row],[Amount]]*2")
    named.tableColumns[6].calculatedColumnFormula = TableFormula(attr_text="F5/SUM($F$5:$F$8)")
    sheet.add_table(named)
    sheet.conditional_formatting.add("F5:F8", DataBarRule("min", None, "max", None, "FF638EC6"))
    sheet.conditional_formatting.add("B6:C6", FormulaRule(["$F6>1"], fill=PatternFill("solid", bgColor="FF0000")))
    choice = DataValidation("list", formula1="=Lists!$A$1:$A$3")
    choice.add("G5:G8")
    sheet.add_data_validation(choice)
    sheet["C6"].hyperlink = "https://example.com/D1"
    sheet["K6"].hyperlink = "https://example.com/beside"
    sheet["G7"].comment = Comment("ask Anna about D2", "Ben")
    sheet["K6"].comment = Comment("beside", "Ben")
    sheet.print_area = "B1:H9"
    chart = BarChart()
    chart.add_data(Reference(sheet, range_string="Deals!$F$4:$F$8"), titles_from_data=True)
    chart.set_categories(Reference(sheet, range_string="Deals!$D$5:$D$8"))
    sheet.add_chart(chart, "M20")
    summary = book.create_sheet("Summary")
    summary["A1"] = '=SUMIFS(Deals!F5:F8,Deals!C5:C8,"D3")'
    summary["A2"] = '=INDEX(Deals!$D$5:$D$8,MATCH("D2",Deals!$C$5:$C$8,0))'
    summary["A3"] = ArrayFormula("A3", "=SUM(Deals!F5:F8*2)")
    summary["A4"] = "=SUM(Deals!F:F)"
    summary["A5"] = "=Deals!F9"
    summary["A6"] = "=SUM(Deals[Amount])"
    summary["A7"] = '="Deals!F5:F8"&Deals!A40'
    book.create_sheet("Lists")["A1"] = "yes"
    pivots = book.create_sheet("Pivot")
    pivots["A3"] = "Row Labels"
    for name, area in {"DealRange": "$B$4:$H$8", "Amounts": "$F$5:$F$8", "TotalCell": "$F$9", "Everything": "$A$1:$K$20"}.items():
        book.defined_names[name] = DefinedName(name, attr_text=f"Deals!{area}")
    book.save(path)
    book.close()


def _featured_parts(path: Path) -> None:
    """What openpyxl cannot write: sparklines, a threaded comment, two pivots, a calculation chain, a part nobody knows."""
    with zipfile.ZipFile(path) as archive:
        parts = {
            name: archive.read(name).decode() if name.endswith((".xml", ".rels", ".vml")) else archive.read(name)
            for name in archive.namelist()
        }
    sparkline = (
        '<extLst><ext uri="{05C60535-1F16-4fd2-B633-F4F36F0B64E0}" xmlns:x14="http://schemas.microsoft.com/office/spreadsheetml/2009/9/main">'
        '<x14:sparklineGroups xmlns:xm="http://schemas.microsoft.com/office/excel/2006/main"><x14:sparklineGroup><x14:sparklines><x14:sparkline>'
        "<xm:f>Deals!F5:F8</xm:f><xm:sqref>C1</xm:sqref></x14:sparkline></x14:sparklines></x14:sparklineGroup></x14:sparklineGroups></ext></extLst>"
    )
    parts["xl/worksheets/sheet2.xml"] = parts["xl/worksheets/sheet2.xml"].replace("</worksheet>", sparkline + "</worksheet>")
    relations = parts["xl/worksheets/_rels/sheet1.xml.rels"]
    kind = "http://schemas.microsoft.com/office/2017/10/relationships"
    parts["xl/worksheets/_rels/sheet1.xml.rels"] = relations.replace(
        "</Relationships>",
        f'<Relationship Id="rIdT" Type="{kind}/threadedComment" Target="/xl/threadedComments/threadedComment1.xml"/></Relationships>',
    )
    person, thread = "{11111111-1111-1111-1111-111111111111}", "{22222222-2222-2222-2222-222222222222}"
    threads = "http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments"
    parts["xl/threadedComments/threadedComment1.xml"] = (
        f'<ThreadedComments xmlns="{threads}"><threadedComment ref="G7" dT="2026-01-01T00:00:00.00" personId="{person}" id="{thread}">'
        "<text>ask Anna about D2</text></threadedComment></ThreadedComments>"
    )
    parts["xl/persons/person.xml"] = (
        f'<personList xmlns="{threads}"><person displayName="Ben" id="{person}" userId="Ben" providerId="None"/></personList>'
    )
    pivot_part, cache_part = "xl/pivotTables/pivotTable%d.xml", "xl/pivotCache/pivotCacheDefinition%d.xml"
    for number, source in ((1, 'ref="B4:H8" sheet="Deals"'), (2, 'name="Deals"')):
        parts[cache_part % number], parts[pivot_part % number] = _pivot(number, source)
        parts[f"xl/pivotTables/_rels/pivotTable{number}.xml.rels"] = _relations(
            ("pivotCacheDefinition", f"../pivotCache/pivotCacheDefinition{number}.xml")
        )
    parts["xl/worksheets/_rels/sheet4.xml.rels"] = _relations(
        ("pivotTable", "../pivotTables/pivotTable1.xml"), ("pivotTable", "../pivotTables/pivotTable2.xml")
    )
    parts["xl/calcChain.xml"] = (
        f'<calcChain xmlns="{MAIN}">' + "".join(f'<c r="{cell}" i="1"/>' for cell in ("E5", "H5", "F9", "B41")) + "</calcChain>"
    )
    parts["customXml/item1.xml"] = '<notes xmlns="urn:team">keep me</notes>'
    book = parts["xl/_rels/workbook.xml.rels"]
    more = f'<Relationship Id="rIdC" Type="{OFFICE}/calcChain" Target="calcChain.xml"/><Relationship Id="rIdX" Type="{OFFICE}/customXml" Target="../customXml/item1.xml"/>'
    more += f'<Relationship Id="rIdP" Type="{kind}/person" Target="persons/person.xml"/>'
    more += "".join(
        f'<Relationship Id="rIdV{n}" Type="{OFFICE}/pivotCacheDefinition" Target="pivotCache/pivotCacheDefinition{n}.xml"/>' for n in (1, 2)
    )
    parts["xl/_rels/workbook.xml.rels"] = book.replace("</Relationships>", more + "</Relationships>")
    caches = "".join(f'<pivotCache xmlns:r="{OFFICE}" cacheId="{n}" r:id="rIdV{n}"/>' for n in (1, 2))
    calculation = parts["xl/workbook.xml"].partition("<calcPr")[2].partition("/>")[0]
    parts["xl/workbook.xml"] = parts["xl/workbook.xml"].replace(
        f"<calcPr{calculation}/>", f'<calcPr calcId="191029"/><pivotCaches>{caches}</pivotCaches>'
    )
    sheets = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    types = {
        "/xl/calcChain.xml": f"{sheets}.calcChain+xml",
        "/xl/threadedComments/threadedComment1.xml": "application/vnd.ms-excel.threadedcomments+xml",
        "/xl/persons/person.xml": "application/vnd.ms-excel.person+xml",
        **{f"/{pivot_part % n}": f"{sheets}.pivotTable+xml" for n in (1, 2)},
        **{f"/{cache_part % n}": f"{sheets}.pivotCacheDefinition+xml" for n in (1, 2)},
    }
    entries = "".join(f'<Override PartName="{part}" ContentType="{kind}"/>' for part, kind in types.items())
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace("</Types>", entries + "</Types>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def _relations(*entries: tuple[str, str]) -> str:
    inner = "".join(
        f'<Relationship Id="rId{at}" Type="{OFFICE}/{kind}" Target="{target}"/>' for at, (kind, target) in enumerate(entries, 1)
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inner}</Relationships>'


def _pivot(number: int, source: str) -> tuple[str, str]:
    """A pivot of Amount by Name: its cache and its table."""
    items = "".join(f'<s v="Deal {n}"/>' for n in range(4))
    shared = {"Name": f'<sharedItems count="4">{items}</sharedItems>'}
    fields = "".join(f'<cacheField name="{name}" numFmtId="0">{shared.get(name, "<sharedItems/>")}</cacheField>' for name in FEATURED)
    cache = (
        f'<pivotCacheDefinition xmlns="{MAIN}" saveData="0" refreshedBy="Ben" refreshedDate="45000" createdVersion="6" refreshedVersion="6"'
        f' minRefreshableVersion="3" recordCount="4"><cacheSource type="worksheet"><worksheetSource {source}/></cacheSource>'
        f'<cacheFields count="{len(FEATURED)}">{fields}</cacheFields></pivotCacheDefinition>'
    )
    column = 1 + 4 * (number - 1)
    place = f"{'ABCDEFGH'[column - 1]}3:{'ABCDEFGH'[column]}8"
    row_items = "".join(f'<item x="{n}"/>' for n in range(4)) + '<item t="default"/>'
    used = {
        "Name": f'<pivotField axis="axisRow" showAll="0"><items count="5">{row_items}</items></pivotField>',
        "Amount": '<pivotField dataField="1" showAll="0"/>',
    }
    pivot_fields = "".join(used.get(name, '<pivotField showAll="0"/>') for name in FEATURED)
    lines = "<i><x/></i>" + "".join(f'<i><x v="{n}"/></i>' for n in range(1, 4)) + '<i t="grand"><x/></i>'
    table = (
        f'<pivotTableDefinition xmlns="{MAIN}" name="Pivot{number}" cacheId="{number}" dataCaption="Values" updatedVersion="6"'
        f' minRefreshableVersion="3" createdVersion="6" outline="1" outlineData="1"><location ref="{place}" firstHeaderRow="1" firstDataRow="1"'
        f' firstDataCol="1"/><pivotFields count="{len(FEATURED)}">{pivot_fields}</pivotFields><rowFields count="1"><field x="2"/></rowFields>'
        f'<rowItems count="5">{lines}</rowItems><colItems count="1"><i/></colItems><dataFields count="1">'
        '<dataField name="Sum of Amount" fld="4" baseField="0" baseItem="0"/></dataFields></pivotTableDefinition>'
    )
    return cache, table
