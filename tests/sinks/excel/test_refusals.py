"""A workbook from a shared drive is hostile until proven otherwise: each refusal says what and what to do, and nothing is written."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import openpyxl
import pytest

from connector.errors import TargetError
from sinks.excel.refresh import Options, TableJob, create, refresh

SHEET = "xl/worksheets/sheet1.xml"


@pytest.fixture
def ours(tmp_path, deals):
    path = tmp_path / "book.xlsx"
    create(path, [TableJob(deals(range(5)), table="Deals")])
    return path


@pytest.fixture
def refused(tmp_path, deals):
    """Refresh and expect a refusal; the message and remedy."""

    def attempt(path, words, *, rows=range(6), **job):
        before = path.read_bytes()
        with pytest.raises(TargetError, match=words) as error:
            refresh(path, tmp_path / "result.xlsx", [TableJob(deals(rows), **{"table": "Deals", **job})])
        assert error.value.remedy
        assert error.value.exit_code == 5
        assert path.read_bytes() == before
        assert not (tmp_path / "result.xlsx").exists()

    return attempt


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a zip archive"),
        (b"just some text", "not a zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), r"old \.xls format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le"), "encrypted with a password"),
    ],
)
def test_what_is_not_a_workbook(tmp_path, refused, content, words):
    path = tmp_path / "odd.xlsx"
    path.write_bytes(content)
    refused(path, words)


def test_other_packages_are_not_workbooks(ours, refused, edit):
    edit(ours, {"[Content_Types].xml": lambda data: data.replace(b"spreadsheetml.sheet.main+xml", b"wordprocessingml.document.main+xml")})
    refused(ours, "not an Excel workbook")


def test_binary_workbooks(ours, refused, edit):
    kind = b"application/vnd.ms-excel.sheet.binary.macroEnabled.main"
    old = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    edit(ours, {"[Content_Types].xml": lambda data: data.replace(old, kind)})
    refused(ours, r"\.xlsb")


def test_strict_workbooks(ours, refused, edit):
    strict = b"http://purl.oclc.org/ooxml/officeDocument/relationships/officeDocument"
    plain = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    edit(ours, {"_rels/.rels": lambda data: data.replace(plain, strict)})
    refused(ours, "Strict Open XML")


def test_protected_sheets(ours, refused, edit):
    edit(ours, {SHEET: lambda data: data.replace(b"</sheetData>", b'</sheetData><sheetProtection sheet="1" objects="1"/>')})
    refused(ours, "sheet 'Deals' is protected")


def test_a_protected_structure_takes_no_new_sheet(ours, refused, edit):
    edit(ours, {"xl/workbook.xml": lambda data: data.replace(b"<bookViews>", b'<workbookProtection lockStructure="1"/><bookViews>')})
    refused(ours, "structure is protected", table="Other")


SIGNATURE = "http://schemas.openxmlformats.org/package/2006/relationships/digital-signature"


@pytest.fixture
def signed(ours, edit):
    relation = f'<Relationship Id="rIdS" Type="{SIGNATURE}/origin" Target="_xmlsignatures/origin.sigs"/></Relationships>'.encode()
    inner = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="rId1" Type="{SIGNATURE}/signature" Target="sig1.xml"/></Relationships>'
    ).encode()
    types = (
        b'<Default Extension="sigs" ContentType="application/vnd.openxmlformats-package.digital-signature-origin"/>'
        b'<Override PartName="/_xmlsignatures/sig1.xml" ContentType="application/vnd.openxmlformats-package.digital-signature-xmlsignature+xml"/></Types>'
    )
    return edit(
        ours,
        {
            "_rels/.rels": lambda data: data.replace(b"</Relationships>", relation),
            "[Content_Types].xml": lambda data: data.replace(b"</Types>", types),
            "_xmlsignatures/origin.sigs": b"",
            "_xmlsignatures/_rels/origin.sigs.rels": inner,
            "_xmlsignatures/sig1.xml": b"<Signature/>",
        },
    )


def test_signed_workbooks_unless_the_admin_says_so(signed, refused, tmp_path, deals, parts, findings):
    refused(signed, "digitally signed")
    refresh(signed, tmp_path / "unsigned.xlsx", [TableJob(deals(range(6)), table="Deals")], Options(break_signature=True))
    assert not [name for name in parts(tmp_path / "unsigned.xlsx") if "signature" in name]
    assert findings(tmp_path / "unsigned.xlsx") == []


@pytest.mark.parametrize("name", ["../evil.xml", "/etc/passwd", "xl/../../evil", "C:/evil", "xl\\evil.xml"])
def test_names_that_climb(ours, refused, name):
    with zipfile.ZipFile(ours, "a") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        archive.writestr(info, b"x")
    refused(ours, "unsafe name")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [SHEET, "XL/Worksheets/Sheet1.xml"])
def test_a_part_twice(ours, refused, name):
    with zipfile.ZipFile(ours, "a") as archive:
        archive.writestr(name, b"<worksheet/>")
    refused(ours, "twice")


def test_entity_declarations(ours, refused, edit):
    bomb = b'<!DOCTYPE w [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    for part in (SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/tables/table1.xml", "[Content_Types].xml"):
        broken = edit(ours, {part: lambda data: data.replace(b"?>", b"?>" + bomb, 1)}, to=ours.with_name("bomb.xlsx"))
        refused(broken, "document type")


def test_zip_bombs(ours, refused):
    """A third of a gigabyte of nothing where the sheet should be, and one whose header lies about its size."""
    rows = b"<row/>" * 2_000_000
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packed.compress(rows) for _ in range(30)) + packed.flush()
    whole = io.BytesIO(ours.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != SHEET}
    for claimed in (30 * len(rows), 1000):
        path = ours.with_name(f"bomb{claimed}.xlsx")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in others.items():
                archive.writestr(name, data)
            archive.writestr(zipfile.ZipInfo(SHEET), body, zipfile.ZIP_STORED)
        data = bytearray(path.read_bytes())
        for mark, method, size in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
            at = data.index(SHEET.encode()) if mark == b"PK\3\4" else data.rindex(SHEET.encode())
            at = data.rindex(mark, 0, at)
            data[at + method : at + method + 2] = struct.pack("<H", 8)
            data[at + size : at + size + 4] = struct.pack("<L", claimed)
        path.write_bytes(data)
        refused(path, "zip bomb" if claimed > 1000 else "unpacks to more|no rows part")


def test_a_million_styled_empty_rows_are_only_copied(ours, tmp_path, deals, edit):
    empty = b"".join(b'<row r="%d" s="1" customFormat="1"/>' % row for row in range(10_000, 210_000))
    edit(ours, {SHEET: lambda data: data.replace(b"</sheetData>", empty + b"</sheetData>")})
    refresh(ours, tmp_path / "result.xlsx", [TableJob(deals(range(50)), table="Deals")])
    with zipfile.ZipFile(tmp_path / "result.xlsx") as archive:
        assert empty in archive.read(SHEET)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("[Content_Types].xml", None, "no content types"),
        ("xl/workbook.xml", None, "no main part"),
        ("xl/styles.xml", None, "no styles|styles.xml' is missing"),
        ("xl/tables/table1.xml", None, "table1.xml' is missing"),
        (SHEET, None, "part of sheet 'Deals' is missing"),
        (SHEET, lambda data: data[: len(data) // 2], "ends within its rows|no rows part"),
        (SHEET, lambda data: data.replace(b"</worksheet>", b"</work>"), "not well-formed"),
        (SHEET, lambda data: data.replace(b'<row r="3"', b'<row r="2"'), "stands after row"),
        (SHEET, lambda data: data.replace(b'<row r="3"', b'<row r="9999999"'), "stands after row"),
        (SHEET, lambda data: data.replace(b"<row ", b"<!-- x --><row ", 1), "other than rows"),
        (SHEET, lambda data: data.replace(b'<c r="B2"', b'<c r="ZZZ2"'), "out of order"),
        (SHEET, lambda data: data.replace(b"<worksheet", b"<chartsheet").replace(b"</worksheet", b"</chartsheet"), "not a worksheet"),
        ("xl/tables/table1.xml", lambda data: data.replace(b'ref="A1:G6"', b'ref="A1:XFE6"'), "not a range of a sheet"),
        ("xl/tables/table1.xml", lambda data: data.replace(b'ref="A1:G6"', b'ref="A1:F6"'), "lists 7 columns"),
        ("xl/tables/table1.xml", lambda data: data.replace(b'id="1"', b'id="x"', 1), "not a number"),
        ("xl/tables/table1.xml", lambda data: b"<table/>", "does not describe a table"),
        ("xl/workbook.xml", lambda data: data.replace(b"rId2", b"rId99"), "refers to nothing"),
        ("xl/styles.xml", lambda data: data.replace(b"<cellXfs", b"<noXfs").replace(b"</cellXfs", b"</noXfs"), "no cell formats"),
    ],
)
def test_damaged_parts(ours, refused, edit, part, change, words):
    edit(ours, {part: change})
    refused(ours, words)


def test_a_wrong_checksum(ours, refused):
    data = bytearray(ours.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(SHEET.encode()))
    data[at + 16] ^= 0xFF
    ours.write_bytes(data)
    refused(ours, "checksum")


def test_a_table_with_none_of_our_columns(tmp_path, refused):
    book = openpyxl.Workbook()
    for row in (["Apples", "Pears"], [1, 2]):
        book.active.append(row)
    book.active.add_table(openpyxl.worksheet.table.Table(displayName="Deals", ref="A1:B2"))
    book.save(tmp_path / "fruit.xlsx")
    refused(tmp_path / "fruit.xlsx", "none of the columns of 'deals'; it has Apples, Pears")


def test_a_cell_that_holds_something_else(tmp_path, refused):
    book = openpyxl.Workbook()
    book.active.title = "Data"
    book.active["B2"] = "Shopping list"
    book.save(tmp_path / "list.xlsx")
    refused(tmp_path / "list.xlsx", "cell B2 holds 'Shopping list'", table=None, sheet="Data", cell="B2")


@pytest.mark.parametrize("cell", ["A0", "ZZZZ1", "1A", "A1048577", "", "A1:"])
def test_a_cell_that_is_not_one(ours, refused, cell):
    if cell:
        refused(ours, "not a cell or range|not a range of a sheet", table=None, sheet="Deals", cell=cell)


def test_merged_cells_and_other_tables_in_the_way(ours, refused):
    book = openpyxl.load_workbook(ours)
    book["Deals"].merge_cells("B8:C9")
    book.save(ours)
    refused(ours, "merged cells B8:C9", rows=range(8))
