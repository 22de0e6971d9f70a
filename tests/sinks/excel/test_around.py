"""What else teammates put around a table: queries, groups, pictures, pivots over names, macros. Each through growing and shrinking."""

from __future__ import annotations

import re
from pathlib import Path

import openpyxl
import pytest
from openpyxl.worksheet.table import Table

from connector.errors import TargetError
from sinks.excel.refresh import TableJob, create, refresh

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SHEET = "xl/worksheets/sheet1.xml"
RELATIONS = "xl/worksheets/_rels/sheet1.xml.rels"
DRAWING = "xl/drawings/drawing1.xml"
SHEETS = "application/vnd.openxmlformats-officedocument.spreadsheetml"


@pytest.fixture
def rows(table):
    """`rows(range(6))`: our part of the table Deals."""

    def make(ids, *, extra=None, name="Deals", **more):
        ids = list(ids)
        columns = {"Deal": [f"D{n}" for n in ids], "Amount": [n * 5 for n in ids], **dict.fromkeys(extra or (), ids)}
        return TableJob(table(columns, key=("Deal",)), table=name, key=("Deal",), **more)

    return make


@pytest.fixture
def book(tmp_path, rows):
    """Six deals at A1:B7 and whatever `change(workbook, sheet)` puts around them."""

    def make(change=lambda workbook, sheet: None):
        path = tmp_path / "Team.xlsx"
        create(path, [rows(range(6))])
        workbook = openpyxl.load_workbook(path)
        change(workbook, workbook["Deals"])
        workbook.save(path)
        return path

    return make


def appended(mark: str, text: str):
    return lambda data: data.replace(mark.encode(), text.encode() + mark.encode(), 1)


def typed(**kinds: str):
    return appended("</Types>", "".join(f'<Override PartName="/{part}" ContentType="{kind}"/>' for part, kind in kinds.items()))


def related(**targets: str) -> bytes:
    inner = "".join(
        f'<Relationship Id="rIdQ{at}" Type="{OFFICE}/{kind}" Target="/{part}"/>' for at, (part, kind) in enumerate(targets.items())
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inner}</Relationships>'.encode()


# ── queries ──

QUERY = "xl/queryTables/queryTable1.xml"


def with_query(path, edit, table_part: str, columns: tuple[str, ...]) -> Path:
    """Let a query fill a table, the way Power Query does."""
    fields = "".join(f'<queryTableField id="{n}" name="{name}" tableColumnId="{n}"/>' for n, name in enumerate(columns, 1))
    connection = "xl/connections.xml"

    def filled(data):
        data = re.sub(rb"<table ", b'<table tableType="queryTable" ', data, count=1)
        return re.sub(rb'<tableColumn id="(\d+)"', rb'<tableColumn id="\1" uniqueName="\1" queryTableFieldId="\1"', data)

    return edit(
        path,
        {
            QUERY: (
                f'<queryTable xmlns="{MAIN}" name="ExternalData_1" connectionId="1" autoFormatId="16"><queryTableRefresh nextId="9">'
                f'<queryTableFields count="{len(columns)}">{fields}</queryTableFields></queryTableRefresh></queryTable>'
            ).encode(),
            connection: (
                f'<connections xmlns="{MAIN}"><connection id="1" name="Query - Quota" type="5" refreshedVersion="8"><dbPr connection="Provider=x"'
                f' command="SELECT * FROM [Quota]"/></connection></connections>'
            ).encode(),
            table_part: filled,
            f"xl/tables/_rels/{table_part.rpartition('/')[2]}.rels": related(**{QUERY: "queryTable"}),
            "xl/_rels/workbook.xml.rels": appended(
                "</Relationships>", f'<Relationship Id="rIdK" Type="{OFFICE}/connections" Target="connections.xml"/>'
            ),
            "[Content_Types].xml": typed(**{QUERY: f"{SHEETS}.queryTable+xml", connection: f"{SHEETS}.connections+xml"}),
        },
    )


def quota(sheet, ref):
    first = sheet[ref][0]
    for cell, heading in zip(first, ("Owner", "Quota"), strict=True):
        cell.value = heading
    sheet.add_table(Table(displayName="Quota", name="Quota", ref=ref))


def other_part(found: dict[str, bytes], name: str) -> str:
    return next(part for part, data in found.items() if part.startswith("xl/tables/table") and f'displayName="{name}"'.encode() in data)


@pytest.mark.parametrize("ids", [range(12), [4]], ids=["grows", "shrinks"])
@pytest.mark.parametrize("here", [True, False], ids=["our sheet", "another sheet"])
def test_a_query_that_fills_another_table(book, rows, tmp_path, edit, parts, findings, here, ids):
    path = book(lambda workbook, sheet: quota(sheet if here else workbook.create_sheet("Quota"), "F1:G4"))
    theirs = other_part(parts(path), "Quota")
    with_query(path, edit, theirs, ("Owner", "Quota"))
    refresh(path, tmp_path / "new.xlsx", [rows(ids)])
    before, after = parts(path), parts(tmp_path / "new.xlsx")
    for part in (QUERY, "xl/connections.xml", theirs, f"xl/tables/_rels/{theirs.rpartition('/')[2]}.rels"):
        assert after[part] == before[part], part
    assert after["[Content_Types].xml"] == before["[Content_Types].xml"]
    assert findings(tmp_path / "new.xlsx", path) == []


def test_a_query_below_goes_down_with_its_table(book, rows, tmp_path, edit, parts, findings):
    path = book(lambda _, sheet: quota(sheet, "A10:B12"))
    theirs = other_part(parts(path), "Quota")
    with_query(path, edit, theirs, ("Owner", "Quota"))
    refresh(path, tmp_path / "new.xlsx", [rows(range(20), on_blocked="shift")])
    before, after = parts(path), parts(tmp_path / "new.xlsx")
    assert b'ref="A24:B26"' in after[theirs]
    assert after[QUERY] == before[QUERY]
    assert findings(tmp_path / "new.xlsx", path) == []


def test_an_older_query_fills_a_range_and_not_a_table(book, rows, tmp_path, edit, parts, findings):
    """Its range is a name of its sheet, which goes down with the rows; the query itself is not touched."""

    def change(workbook, sheet):
        sheet["A12"], sheet["A13"] = "Rate", 7
        sheet.defined_names["ExternalData_1"] = openpyxl.workbook.defined_name.DefinedName("ExternalData_1", attr_text="Deals!$A$12:$A$13")

    path = book(change)
    edit(
        path,
        {
            QUERY: f'<queryTable xmlns="{MAIN}" name="ExternalData_1" connectionId="1" autoFormatId="16"/>'.encode(),
            RELATIONS: appended("</Relationships>", f'<Relationship Id="rIdQ" Type="{OFFICE}/queryTable" Target="/{QUERY}"/>'),
            "[Content_Types].xml": typed(**{QUERY: f"{SHEETS}.queryTable+xml"}),
        },
    )
    refresh(path, tmp_path / "new.xlsx", [rows(range(14), on_blocked="shift")])
    after = parts(tmp_path / "new.xlsx")
    assert after[QUERY] == parts(path)[QUERY]
    assert b"Deals!$A$20:$A$21<" in after["xl/workbook.xml"]
    assert findings(tmp_path / "new.xlsx", path) == []


def test_a_query_that_fills_our_own_table_is_said_and_left_alone(book, rows, tmp_path, edit, parts, findings):
    path = book()
    ours = other_part(parts(path), "Deals")
    with_query(path, edit, ours, ("Deal", "Amount"))
    changes = refresh(path, tmp_path / "new.xlsx", [rows(range(9))])
    assert [warning for warning in changes.warnings if "filled by a query" in warning]
    before, after = parts(path), parts(tmp_path / "new.xlsx")
    assert after[QUERY] == before[QUERY]
    assert b'tableType="queryTable"' in after[ours]
    assert b'ref="A1:B10"' in after[ours]
    assert findings(tmp_path / "new.xlsx", path) == []


def test_a_query_that_fills_our_own_table_takes_no_new_column(book, rows, tmp_path, edit, parts):
    """The query lists the columns of its table; one it does not know would have Excel repair the file."""
    path = book()
    with_query(path, edit, other_part(parts(path), "Deals"), ("Deal", "Amount"))
    with pytest.raises(TargetError, match="filled by a query of its own and lacks Stage") as refused:
        refresh(path, tmp_path / "new.xlsx", [rows(range(9), extra=["Stage"])])
    assert refused.value.remedy
    assert not (tmp_path / "new.xlsx").exists()


# ── groups ──


def levels(path: Path) -> dict[int, tuple[int, bool]]:
    sheet = openpyxl.load_workbook(path)["Deals"]
    return {row: (one.outlineLevel, bool(one.hidden)) for row, one in sheet.row_dimensions.items() if one.outlineLevel}


def grouped(workbook, sheet):
    """Deals 1 and 2 are grouped, deal 2 folded away; beside and below the table rows 9 to 12 are a group; so are columns E to F."""
    sheet["E9"], sheet["E12"] = "beside", "beside too"
    for row in (3, 4, *range(9, 13)):
        sheet.row_dimensions[row].outlineLevel = 2 if row == 4 else 1
    sheet.row_dimensions[4].hidden = True
    sheet.column_dimensions.group("E", "F", outline_level=1, hidden=True)
    sheet.sheet_format.outlineLevelRow, sheet.sheet_format.outlineLevelCol = 2, 1


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (range(12), {3: (1, False), 4: (2, True)} | dict.fromkeys(range(9, 13), (1, False))),
        ([5, 4, 2, 1, 0, 3, 6, 7, 8], {4: (2, True), 5: (1, False)} | dict.fromkeys(range(9, 13), (1, False))),
        ([2], {2: (2, True)} | dict.fromkeys(range(9, 13), (1, False))),
        ([0, 3], dict.fromkeys(range(9, 13), (1, False))),
    ],
    ids=["grows", "reorders", "shrinks", "loses them"],
)
def test_grouped_rows_and_columns(book, rows, tmp_path, parts, findings, ids, expected):
    """A group in the table follows its rows; a group beside it stays, also where the table grows along it; new rows are shown."""
    path = book(grouped)
    refresh(path, tmp_path / "new.xlsx", [rows(ids)])
    assert levels(tmp_path / "new.xlsx") == expected
    before, after = parts(path)[SHEET], parts(tmp_path / "new.xlsx")[SHEET]
    for pattern in (rb"<cols>.*?</cols>", rb"<sheetFormatPr[^>]*>"):
        assert re.search(pattern, after)[0] == re.search(pattern, before)[0]
    assert b"outlineLevel" in re.search(rb"<cols>.*?</cols>", after)[0]
    assert findings(tmp_path / "new.xlsx", path) == []
    assert refresh(tmp_path / "new.xlsx", tmp_path / "again.xlsx", [rows(ids)]).unchanged


def test_a_folded_group_the_table_grows_into_hides_no_row_of_ours(book, rows, tmp_path):
    def change(workbook, sheet):
        for row in range(9, 12):
            sheet.row_dimensions[row].outlineLevel, sheet.row_dimensions[row].hidden = 1, True

    refresh(book(change), tmp_path / "new.xlsx", [rows(range(8))])
    assert levels(tmp_path / "new.xlsx") == {9: (1, False), 10: (1, True), 11: (1, True)}


def test_groups_below_go_down_with_their_rows(book, rows, tmp_path, findings):
    def change(workbook, sheet):
        grouped(workbook, sheet)
        sheet["A10"] = "below"

    path = book(change)
    refresh(path, tmp_path / "new.xlsx", [rows(range(16), on_blocked="shift")])
    assert levels(tmp_path / "new.xlsx") == {3: (1, False), 4: (2, True)} | dict.fromkeys(range(19, 23), (1, False))
    assert findings(tmp_path / "new.xlsx", path) == []


def test_groups_go_along_to_a_sheet_of_its_own(book, rows, tmp_path, parts, findings):
    def change(workbook, sheet):
        grouped(workbook, sheet)
        sheet["A10"] = "below"

    path = book(change)
    refresh(path, tmp_path / "new.xlsx", [rows(range(16), on_blocked="new_sheet")])
    sheet = openpyxl.load_workbook(tmp_path / "new.xlsx")["Deals 2"]
    assert {row: one.outlineLevel for row, one in sheet.row_dimensions.items() if one.outlineLevel} == {3: 1, 4: 2}
    before, after = parts(path)[SHEET], parts(tmp_path / "new.xlsx")
    fresh = next(data for name, data in after.items() if name.startswith("xl/worksheets/sheet") and b"<tableParts" in data)
    usual = re.search(rb"<sheetFormatPr ([^>]*?)\s*/>", before)[1]
    assert b'outlineLevelRow="2"' in usual
    assert set(re.search(rb"<sheetFormatPr ([^>]*?)\s*/>", fresh)[1].split()) == set(usual.split()), "without it Excel shows no buttons"
    assert findings(tmp_path / "new.xlsx", path) == []


# ── pictures ──

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
BODY = (
    '<xdr:pic><xdr:nvPicPr><xdr:cNvPr id="{id}" name="{name}"/><xdr:cNvPicPr/></xdr:nvPicPr><xdr:blipFill><a:blip r:embed="rId1"/>'
    '<a:stretch><a:fillRect/></a:stretch></xdr:blipFill><xdr:spPr><a:xfrm><a:off x="0" y="0"/><a:ext cx="9525" cy="9525"/></a:xfrm>'
    '<a:prstGeom prst="rect"><a:avLst/></a:prstGeom></xdr:spPr></xdr:pic><xdr:clientData/>'
)


def corner(name: str, row: int, column: int) -> str:
    return (
        f"<xdr:{name}><xdr:col>{column}</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>{row}</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:{name}>"
    )


def two(how: str, top: int, bottom: int, *, column: int = 0) -> str:
    """A picture between two cells, rows counted from 0; `how` it goes along with them."""
    start = f'<xdr:twoCellAnchor editAs="{how}">' if how else "<xdr:twoCellAnchor>"
    return start + corner("from", top, column) + corner("to", bottom, column + 2) + BODY + "</xdr:twoCellAnchor>"


def one(top: int) -> str:
    return f'<xdr:oneCellAnchor>{corner("from", top, 0)}<xdr:ext cx="1219200" cy="762000"/>{BODY}</xdr:oneCellAnchor>'


@pytest.fixture
def pictures(book, edit):
    """The workbook with pictures at these anchors."""

    def make(*anchors, change=lambda workbook, sheet: None):
        inner = "".join(anchor.format(id=at, name=f"Logo {at}") for at, anchor in enumerate(anchors, 1))
        drawing = (
            '<xdr:wsDr xmlns:xdr="http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"'
            f' xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="{OFFICE}">{inner}</xdr:wsDr>'
        )
        return edit(
            book(change),
            {
                DRAWING: drawing.encode(),
                "xl/media/image1.png": PIXEL,
                "xl/drawings/_rels/drawing1.xml.rels": related(**{"xl/media/image1.png": "image"}).replace(b"rIdQ0", b"rId1"),
                RELATIONS: appended("</Relationships>", f'<Relationship Id="rIdD" Type="{OFFICE}/drawing" Target="/{DRAWING}"/>'),
                SHEET: appended("<tableParts", f'<drawing xmlns:r="{OFFICE}" r:id="rIdD"/>'),
                "[Content_Types].xml": lambda data: typed(**{DRAWING: "application/vnd.openxmlformats-officedocument.drawing+xml"})(
                    data
                ).replace(b"<Default ", b'<Default Extension="png" ContentType="image/png"/><Default ', 1),
            },
        )

    return make


def anchored(path: Path, parts) -> list[int]:
    return [int(row) for row in re.findall(rb"<xdr:row>(\d+)</xdr:row>", parts(path)[DRAWING])]


def below(workbook, sheet):
    sheet["A12"] = "below"


ALL = (one(14), two("", 14, 18), two("oneCell", 14, 18), two("absolute", 14, 18))


@pytest.mark.parametrize("mode", ["error", "shift", "new_sheet"])
def test_pictures_stay_while_there_is_room(pictures, rows, tmp_path, parts, findings, mode):
    path = pictures(*ALL)
    changes = refresh(path, tmp_path / "new.xlsx", [rows(range(13), on_blocked=mode)])
    before, after = parts(path), parts(tmp_path / "new.xlsx")
    for part in (DRAWING, "xl/drawings/_rels/drawing1.xml.rels", "xl/media/image1.png", RELATIONS):
        assert after[part] == before[part], part
    assert not any("drawn" in warning for warning in changes.warnings)
    assert findings(tmp_path / "new.xlsx", path) == []


def test_pictures_below_go_down_as_their_anchors_say(pictures, rows, tmp_path, parts, findings):
    """With the cells, but one that moves and is not sized keeps its height, and one that does neither stays."""
    path = pictures(*ALL, two("", 2, 14, column=5), two("oneCell", 2, 14, column=5), change=below)
    refresh(path, tmp_path / "new.xlsx", [rows(range(16), on_blocked="shift")])
    assert anchored(tmp_path / "new.xlsx", parts) == [24, 24, 28, 24, 28, 14, 18, 2, 24, 2, 14]
    assert parts(tmp_path / "new.xlsx")["xl/media/image1.png"] == PIXEL
    assert findings(tmp_path / "new.xlsx", path) == []


def test_a_blocked_table_leaves_pictures_and_file_alone(pictures, rows, tmp_path):
    path = pictures(*ALL, change=below)
    before = path.read_bytes()
    with pytest.raises(TargetError, match="A12"):
        refresh(path, tmp_path / "new.xlsx", [rows(range(16))])
    assert path.read_bytes() == before
    assert not (tmp_path / "new.xlsx").exists()


@pytest.mark.parametrize("anchor", [one(10), two("oneCell", 10, 14)], ids=["one cell", "two cells"])
def test_a_picture_the_table_would_reach_under(pictures, rows, tmp_path, parts, findings, anchor):
    """It hides rows without holding cells: moved out of the way where that is wished for, else said."""
    path = pictures(anchor)
    changes = refresh(path, tmp_path / "under.xlsx", [rows(range(16))])
    assert "sheet 'Deals': deals now reaches under what is drawn there: 'Logo 1' at A11" in changes.warnings
    assert parts(tmp_path / "under.xlsx")[DRAWING] == parts(path)[DRAWING]
    changes = refresh(path, tmp_path / "shifted.xlsx", [rows(range(16), on_blocked="shift")])
    assert not any("drawn" in warning for warning in changes.warnings)
    assert anchored(tmp_path / "shifted.xlsx", parts)[0] == 20
    assert findings(tmp_path / "shifted.xlsx", path) == []


def test_a_picture_that_moves_with_nothing_is_only_said(pictures, rows, tmp_path, parts):
    path = pictures(two("absolute", 10, 14))
    changes = refresh(path, tmp_path / "new.xlsx", [rows(range(16), on_blocked="shift")])
    assert any("'Logo 1' at A11" in warning for warning in changes.warnings)
    assert parts(tmp_path / "new.xlsx")[DRAWING] == parts(path)[DRAWING]


# ── pivots over names ──


@pytest.mark.parametrize(
    ("name", "fed", "after"),
    [
        ("Deals!$B$4:$H$8", True, "Deals!$B$4:$H$13"),
        ("Deals!$C$4:$F$8", True, "Deals!$C$4:$F$13"),
        ("Deals!$B$4:$H$6", True, "Deals!$B$4:$H$6"),
        ("Deals!$B:$H", True, "Deals!$B:$H"),
        ("Deals[#All]", True, "Deals[#All]"),
        ("OFFSET(Deals!$B$4,0,0,COUNTA(Deals!$C:$C),7)", True, "OFFSET(Deals!$B$4,0,0,COUNTA(Deals!$C:$C),7)"),
        ("Deals!$J$20:$K$30", False, "Deals!$J$20:$K$30"),
        ("Summary!$A$1:$A$7", False, "Summary!$A$1:$A$7"),
    ],
    ids=["table", "some columns", "some rows", "whole columns", "structured", "calculated", "beside it", "another sheet"],
)  # fmt: skip
def test_a_pivot_over_a_name(featured, rows, tmp_path, parts, edit, findings, name, fed, after):
    """The name follows; the pivot refreshes when the file is opened if the name may mean our rows, and is left alone if it cannot."""
    cache = "xl/pivotCache/pivotCacheDefinition1.xml"
    edit(
        featured,
        {
            cache: lambda data: data.replace(b'ref="B4:H8" sheet="Deals"', b'name="PivotData"'),
            "xl/workbook.xml": appended("</definedNames>", f'<definedName name="PivotData">{name}</definedName>'),
        },
    )
    refresh(featured, tmp_path / "new.xlsx", [rows(range(9))])
    found = parts(tmp_path / "new.xlsx")
    assert (b'refreshOnLoad="1"' in found[cache]) == fed
    assert (found[cache] == parts(featured)[cache]) == (not fed)
    assert b'<worksheetSource name="PivotData"/>' in found[cache]
    assert f'name="PivotData">{after}<'.encode() in found["xl/workbook.xml"]
    assert findings(tmp_path / "new.xlsx", featured, schemas=False) == []


def test_a_pivot_over_another_workbook_is_left_alone(featured, rows, tmp_path, parts, edit):
    cache = "xl/pivotCache/pivotCacheDefinition1.xml"
    away = f'ref="B4:H8" sheet="Deals" xmlns:r="{OFFICE}" r:id="rIdAway"'.encode()
    edit(featured, {cache: lambda data: data.replace(b'ref="B4:H8" sheet="Deals"', away)})
    refresh(featured, tmp_path / "new.xlsx", [rows(range(9))])
    assert parts(tmp_path / "new.xlsx")[cache] == parts(featured)[cache]


# ── macros ──

MACROS = "xl/vbaProject.bin"
YAML = """\
flows:
  sales:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks:
      - type: excel
        drive: {type: local, folder: share}
        path: Pipeline.xlsm
        tables: [{from: deals, sheet: Deals, table: Deals, columns: [deal_id, amount]}]
"""


def with_macros(path: Path, edit, to: Path) -> Path:
    return edit(
        path,
        {
            MACROS: b"\xd0\xcf\x11\xe0 a project, to us only bytes" + bytes(range(256)),
            "xl/_rels/workbook.xml.rels": appended(
                "</Relationships>",
                '<Relationship Id="rIdM" Type="http://schemas.microsoft.com/office/2006/relationships/vbaProject" Target="vbaProject.bin"/>',
            ),
            "[Content_Types].xml": lambda data: data.replace(b"spreadsheetml.sheet.main+xml", b"SWAP").replace(
                b"application/vnd.openxmlformats-officedocument.SWAP", b"application/vnd.ms-excel.sheet.macroEnabled.main+xml"
            ).replace(b"<Default ", b'<Default Extension="bin" ContentType="application/vnd.ms-office.vbaProject"/><Default ', 1),
        },
        to,
    )  # fmt: skip


def main_type(found: dict[str, bytes]) -> str:
    return re.search(rb'PartName="/xl/workbook.xml" ContentType="([^"]*)"|ContentType="([^"]*)" PartName="/xl/workbook.xml"', found["[Content_Types].xml"])[1].decode()  # fmt: skip


def test_a_workbook_with_macros_stays_one(workplace, edit, parts, findings):
    """From the first run on, and after a run of the command line over what a colleague put into it."""
    work, heading = workplace, "deal_id,name,stage,status,amount,created_at\n"
    work.write("connector.yaml", YAML)
    work.write("share/.keep", "")
    work.write("deals.csv", heading + "K1,Anvil,new,open,10,2026-01-02\nK2,Rocket,new,open,20,2026-01-02\n")
    run = ("run", "sales", "--accept", "--at")
    assert work.connector(*run, "2026-02-01T06:00:00Z").code == 0
    path = work.folder / "share" / "Pipeline.xlsm"
    assert main_type(parts(path)) == "application/vnd.ms-excel.sheet.macroEnabled.main+xml", "Excel opens no .xlsm that says it is none"
    with_macros(path, edit, path)
    before, copy = parts(path), Path(path.with_name("before.xlsm"))
    copy.write_bytes(path.read_bytes())
    work.write("deals.csv", (work.folder / "deals.csv").read_text() + "K3,Magnet,new,open,30,2026-01-02\n")
    done = work.connector(*run, "2026-02-02T06:00:00Z")
    assert done.code == 0, done.err
    after = parts(path)
    assert after[MACROS] == before[MACROS]
    assert after["[Content_Types].xml"] == before["[Content_Types].xml"]
    assert sorted(one.name for one in path.parent.glob("Pipeline*")) == ["Pipeline.xlsm"]
    assert [cell.value for cell in openpyxl.load_workbook(path)["Deals"]["B"]][1:] == [10, 20, 30]
    assert findings(path, copy) == []


def test_a_template_with_macros(tmp_path, rows, book, edit, parts):
    template = with_macros(book(), edit, tmp_path / "start.xlsm")
    create(tmp_path / "new.xlsm", [rows(range(9))], template=template)
    found = parts(tmp_path / "new.xlsm")
    assert found[MACROS] == parts(template)[MACROS]
    assert main_type(found) == "application/vnd.ms-excel.sheet.macroEnabled.main+xml"


def test_macros_do_not_go_into_a_workbook_that_may_have_none(tmp_path, rows, book, edit):
    template = with_macros(book(), edit, tmp_path / "start.xlsm")
    with pytest.raises(TargetError, match="the template holds macros") as refused:
        create(tmp_path / "new.xlsx", [rows(range(9))], template=template)
    assert ".xlsm" in refused.value.remedy
    assert not (tmp_path / "new.xlsx").exists()


def test_a_template_file_becomes_a_workbook(tmp_path, rows, book, edit, parts):
    """Excel opens no .xlsx that says it is an .xltx."""
    edit(book(), {"[Content_Types].xml": lambda data: data.replace(b"sheet.main+xml", b"template.main+xml")}, tmp_path / "t.xltx")
    create(tmp_path / "new.xlsx", [rows(range(3))], template=tmp_path / "t.xltx")
    assert main_type(parts(tmp_path / "new.xlsx")) == f"{SHEETS}.sheet.main+xml"


# ── how it looks, and neighbours ──


@pytest.mark.parametrize("ids", [range(12), [3]], ids=["grows", "shrinks"])
def test_looks_are_kept(featured, rows, tmp_path, parts, ids):
    """Frozen panes, banding, widths: the text that says so is the same."""
    refresh(featured, tmp_path / "new.xlsx", [rows(ids)])
    before, after = parts(featured), parts(tmp_path / "new.xlsx")
    edit_style = rb"<tableStyleInfo[^>]*>"
    assert re.findall(edit_style, after["xl/tables/table1.xml"]) == re.findall(edit_style, before["xl/tables/table1.xml"])
    for pattern in (rb"<sheetViews>.*?</sheetViews>", rb"<cols>.*?</cols>", rb"<sheetFormatPr[^>]*>"):
        assert re.search(pattern, after[SHEET])[0] == re.search(pattern, before[SHEET])[0]
    assert b'state="frozen"' in after[SHEET]


def test_banding_somebody_chose_is_kept(teammates_book, rows, tmp_path, parts):
    refresh(teammates_book, tmp_path / "new.xlsx", [rows(range(6))])
    style = re.search(rb"<tableStyleInfo[^>]*>", parts(tmp_path / "new.xlsx")["xl/tables/table1.xml"])[0]
    assert b'name="TableStyleMedium9"' in style
    assert b'showRowStripes="1"' in style


def test_several_tables_on_a_sheet(book, rows, tmp_path, parts, findings):
    """One beside ours is not touched; one below stands in the way, or goes down; one beside that would be torn is not."""

    def change(workbook, sheet):
        quota(sheet, "F1:G4")
        for at, cell in enumerate(sheet["A12:B12"][0]):
            cell.value = f"Head {at}"
        sheet.add_table(Table(displayName="Below", name="Below", ref="A12:B14"))

    path = book(change)
    refresh(path, tmp_path / "free.xlsx", [rows(range(9))])
    before, after = parts(path), parts(tmp_path / "free.xlsx")
    for name in ("Quota", "Below"):
        assert after[other_part(before, name)] == before[other_part(before, name)]
    with pytest.raises(TargetError, match=r"table Below \(A12:B14\)"):
        refresh(path, tmp_path / "no.xlsx", [rows(range(12))])
    refresh(path, tmp_path / "down.xlsx", [rows(range(16), on_blocked="shift")])
    tables = openpyxl.load_workbook(tmp_path / "down.xlsx")["Deals"].tables
    assert dict(tables.items()) == {"Deals": "A1:B17", "Quota": "F1:G4", "Below": "A22:B24"}
    assert findings(tmp_path / "down.xlsx", path) == []


def test_a_table_beside_that_would_be_torn(book, rows, tmp_path):
    def change(workbook, sheet):
        quota(sheet, "F5:G20")
        sheet["A12"] = "below"

    with pytest.raises(TargetError, match=r"table Quota \(F5:G20\)"):
        refresh(book(change), tmp_path / "new.xlsx", [rows(range(16), on_blocked="shift")])
