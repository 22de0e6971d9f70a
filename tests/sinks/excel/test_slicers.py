"""Slicers and timelines: on our table they go on working, and no byte of them changes."""

from __future__ import annotations

import re

import openpyxl
import pytest
from openpyxl.worksheet.table import TableColumn

from sinks.excel.refresh import TableJob, create, refresh

pytestmark = pytest.mark.filterwarnings("ignore:.*extension is not supported:UserWarning")

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
X14 = "http://schemas.microsoft.com/office/spreadsheetml/2009/9/main"
X15 = "http://schemas.microsoft.com/office/spreadsheetml/2010/11/main"
MS = "http://schemas.microsoft.com/office/2007/relationships"
SLICER = {"xl/slicers/slicer1.xml", "xl/slicerCaches/slicerCache1.xml"}


def rows(table, ids, **more):
    ids = list(ids)
    columns = {
        "Deal": [f"D{n}" for n in ids],
        "Stage": [("open", "won", "lost")[n % 3] for n in ids],
        "Amount": [n * 5 for n in ids],
        **{name: [value] * len(ids) for name, value in more.pop("extra", {}).items()},
    }
    return TableJob(table(columns, key=("Deal",)), table="Deals", key=("Deal",), **more)


@pytest.fixture
def sliced(tmp_path, table, edit):
    """Our table with a note column of a teammate's, and a slicer on Stage, below the table, the way Excel writes one."""
    path = tmp_path / "Sliced.xlsx"
    create(path, [rows(table, range(6))])
    book = openpyxl.load_workbook(path)
    sheet = book["Deals"]
    named = sheet.tables["Deals"]
    named.ref = named.autoFilter.ref = "A1:D7"
    named.tableColumns.append(TableColumn(id=7, name="note"))
    sheet["D1"], sheet["D3"] = "note", "about D1"
    book.save(path)
    frame = (
        '<xdr:wsDr xmlns:xdr="http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"'
        ' xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><xdr:twoCellAnchor editAs="oneCell">'
        "<xdr:from><xdr:col>5</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>19</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:from>"
        "<xdr:to><xdr:col>8</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>33</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:to>"
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
        ' xmlns:sle15="http://schemas.microsoft.com/office/drawing/2012/slicer"><mc:Choice Requires="sle15">'
        '<xdr:graphicFrame macro=""><xdr:nvGraphicFramePr><xdr:cNvPr id="2" name="Stage"/><xdr:cNvGraphicFramePr/></xdr:nvGraphicFramePr>'
        '<xdr:xfrm><a:off x="0" y="0"/><a:ext cx="0" cy="0"/></xdr:xfrm><a:graphic>'
        '<a:graphicData uri="http://schemas.microsoft.com/office/drawing/2010/slicer">'
        '<sle:slicer xmlns:sle="http://schemas.microsoft.com/office/drawing/2010/slicer" name="Stage"/></a:graphicData></a:graphic>'
        "</xdr:graphicFrame></mc:Choice><mc:Fallback>"
        '<xdr:sp macro="" textlink=""><xdr:nvSpPr><xdr:cNvPr id="0" name=""/><xdr:cNvSpPr/></xdr:nvSpPr><xdr:spPr><a:prstGeom prst="rect"/></xdr:spPr>'
        "</xdr:sp></mc:Fallback></mc:AlternateContent><xdr:clientData/></xdr:twoCellAnchor></xdr:wsDr>"
    )
    drawing = f'<drawing xmlns:r="{OFFICE}" r:id="rIdD"/>'.encode()
    slicers = (
        f'<extLst><ext uri="{{3A4CF648-6AED-40f4-86FF-DC5316D8AED3}}" xmlns:x14="{X14}"><x14:slicerList>'
        f'<x14:slicer xmlns:r="{OFFICE}" r:id="rIdS"/></x14:slicerList></ext></extLst></worksheet>'
    ).encode()
    caches = (
        f'<extLst><ext uri="{{46BE6895-7355-4a93-B00E-2C351335B9C9}}" xmlns:x15="{X15}"><x15:slicerCaches xmlns:x14="{X14}">'
        f'<x14:slicerCache xmlns:r="{OFFICE}" r:id="rIdC"/></x15:slicerCaches></ext></extLst></workbook>'
    )
    types = {
        "xl/slicers/slicer1.xml": "application/vnd.ms-excel.slicer+xml",
        "xl/slicerCaches/slicerCache1.xml": "application/vnd.ms-excel.slicerCache+xml",
        "xl/drawings/drawing1.xml": "application/vnd.openxmlformats-officedocument.drawing+xml",
    }
    entries = "".join(f'<Override PartName="/{part}" ContentType="{kind}"/>' for part, kind in types.items())

    def before(mark, text):
        return lambda data: data.replace(mark.encode(), text.encode() + mark.encode(), 1)

    edit(
        path,
        {
            "xl/slicers/slicer1.xml": f'<slicers xmlns="{X14}"><slicer name="Stage" cache="Slicer_Stage" caption="Stage" rowHeight="241300"/></slicers>'.encode(),
            "xl/slicerCaches/slicerCache1.xml": (
                f'<slicerCacheDefinition xmlns="{X14}" xmlns:x="{MAIN}" name="Slicer_Stage" sourceName="Stage"><extLst>'
                f'<x:ext uri="{{2F2917AC-EB37-4324-AD4E-5DD8C200BD13}}" xmlns:x15="{X15}"><x15:tableSlicerCache tableId="1" column="2"/></x:ext>'
                f"</extLst></slicerCacheDefinition>"
            ).encode(),
            "xl/drawings/drawing1.xml": frame.encode(),
            "xl/worksheets/sheet1.xml": lambda data: data.replace(b"<tableParts", drawing + b"<tableParts").replace(b"</worksheet>", slicers),
            "xl/worksheets/_rels/sheet1.xml.rels": before(
                "</Relationships>",
                f'<Relationship Id="rIdD" Type="{OFFICE}/drawing" Target="/xl/drawings/drawing1.xml"/>'
                f'<Relationship Id="rIdS" Type="{MS}/slicer" Target="/xl/slicers/slicer1.xml"/>',
            ),
            "xl/_rels/workbook.xml.rels": before(
                "</Relationships>", f'<Relationship Id="rIdC" Type="{MS}/slicerCache" Target="slicerCaches/slicerCache1.xml"/>'
            ),
            "xl/workbook.xml": lambda data: re.sub(
                rb"<definedNames\s*/>|<calcPr", lambda found: b'<definedNames><definedName name="Slicer_Stage">#N/A</definedName></definedNames>'
                + (found[0] if found[0] == b"<calcPr" else b""), data, count=1,
            ).replace(b"</workbook>", caches.encode()),
            "[Content_Types].xml": before("</Types>", entries),
        },
    )  # fmt: skip
    return path


def column_of_the_slicer(found: dict[str, bytes]) -> str:
    """The table's column that the slicer's cache means, by the ids that Excel goes by."""
    cache = re.search(rb'tableSlicerCache tableId="(\d+)" column="(\d+)"', found["xl/slicerCaches/slicerCache1.xml"])
    part = next(
        data for name, data in found.items() if name.startswith("xl/tables/") and re.search(rb'<table [^>]*\bid="%s"' % cache[1], data)
    )
    columns = dict(re.findall(rb'<tableColumn id="(\d+)" name="([^"]*)"', part))
    assert len(columns) == part.count(b"<tableColumn "), "every column has an id of its own"
    return columns[cache[2]].decode()


def test_the_workbook_is_what_the_checks_expect(sliced, parts, findings):
    assert column_of_the_slicer(parts(sliced)) == "Stage"
    assert [finding for finding in findings(sliced) if finding[0] == "ERROR"] == []


@pytest.mark.parametrize(
    ("ids", "extra"), [(range(15), {}), ([5, 1], {}), ([], {}), ([3, 1, 7], {"Region": "EMEA", "Owner": "Ana"})], ids=["grows", "shrinks", "empties", "widens"]
)  # fmt: skip
def test_a_slicer_on_our_table(sliced, tmp_path, table, parts, findings, ids, extra):
    new = tmp_path / "new.xlsx"
    refresh(sliced, new, [rows(table, ids, extra=extra)])
    before, after = parts(sliced), parts(new)
    for part in (
        *SLICER,
        "xl/drawings/drawing1.xml",
        "[Content_Types].xml",
        "xl/_rels/workbook.xml.rels",
        "xl/worksheets/_rels/sheet1.xml.rels",
    ):
        assert after[part] == before[part], part
    assert column_of_the_slicer(after) == "Stage"
    assert b'<x14:slicer xmlns:r="%s" r:id="rIdS"/>' % OFFICE.encode() in after["xl/worksheets/sheet1.xml"]
    assert b'name="Slicer_Stage"' in after["xl/workbook.xml"]
    assert b"slicerCache " in after["xl/workbook.xml"]
    assert findings(new, sliced) == []


def test_it_goes_down_with_the_rows_it_stands_on(sliced, tmp_path, table, parts, findings, edit):
    below = b'<row r="12"><c r="A12" t="inlineStr"><is><t>below</t></is></c></row></sheetData>'
    edit(sliced, {"xl/worksheets/sheet1.xml": lambda data: data.replace(b"</sheetData>", below)})
    new = tmp_path / "new.xlsx"
    refresh(sliced, new, [rows(table, range(20), on_blocked="shift")])
    before, after = parts(sliced), parts(new)
    assert {part: after[part] for part in SLICER} == {part: before[part] for part in SLICER}
    assert re.findall(rb"<xdr:row>(\d+)</xdr:row>", after["xl/drawings/drawing1.xml"]) == [b"33", b"47"]
    assert findings(new, sliced) == []


def test_it_still_means_a_table_that_had_to_move(sliced, tmp_path, table, parts, findings, edit):
    below = b'<row r="12"><c r="A12" t="inlineStr"><is><t>below</t></is></c></row></sheetData>'
    edit(sliced, {"xl/worksheets/sheet1.xml": lambda data: data.replace(b"</sheetData>", below)})
    new = tmp_path / "new.xlsx"
    refresh(sliced, new, [rows(table, range(20), on_blocked="new_sheet")])
    before, after = parts(sliced), parts(new)
    assert {part: after[part] for part in SLICER} == {part: before[part] for part in SLICER}
    assert column_of_the_slicer(after) == "Stage"
    assert findings(new, sliced) == []


def test_slicers_of_pivots_and_timelines_are_not_touched(featured, tmp_path, table, parts, edit):
    """Their pivots are marked to refresh; what they filter is theirs."""
    theirs = {
        "xl/slicerCaches/slicerCache9.xml": f'<slicerCacheDefinition xmlns="{X14}" name="Slicer_Name" sourceName="Name"><pivotTables>'
        f'<pivotTable tabId="4" name="Pivot1"/></pivotTables><data><tabular pivotCacheId="1"><items count="1"><i x="0" s="1"/></items></tabular></data>'
        f"</slicerCacheDefinition>",
        "xl/timelineCaches/timelineCache1.xml": f'<timelineCacheDefinition xmlns="{X15}" name="Timeline_Closed" sourceName="Closed"/>',
        "xl/timelines/timeline1.xml": f'<timelines xmlns="{X15}"><timeline name="Closed" cache="Timeline_Closed" caption="Closed"/></timelines>',
    }
    kinds = {"slicerCaches": "slicerCache", "timelineCaches": "timelineCache"}
    relations = "".join(
        f'<Relationship Id="rIdT{at}" Type="{MS}/{kinds[folder]}" Target="{part[3:]}"/>'
        for at, part in enumerate(theirs)
        if (folder := part.split("/")[1]) in kinds
    )
    edit(
        featured,
        {name: text.encode() for name, text in theirs.items()}
        | {"xl/_rels/workbook.xml.rels": lambda data: data.replace(b"</Relationships>", relations.encode() + b"</Relationships>")},
    )
    refresh(featured, tmp_path / "new.xlsx", [rows(table, range(9), extra={"Name": "x"})])
    after = parts(tmp_path / "new.xlsx")
    assert {name: after[name].decode() for name in theirs} == theirs
    assert b'refreshOnLoad="1"' in after["xl/pivotCache/pivotCacheDefinition1.xml"]
