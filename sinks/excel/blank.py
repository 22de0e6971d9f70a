"""A workbook and a sheet of our own, from nothing."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from sinks.excel.cells import Column
from sinks.excel.markup import CONTENT_TYPES, DECLARATION, MAIN, PACKAGE_RELATIONS, RELATIONS
from sinks.excel.references import Area, letters

WIDEST: Final = 60.0
NARROWEST: Final = 9.0
FROZEN: Final = 20
WIDTHS: Final = {"date": 11.5, "instant": 17.0, "time": 10.0, "duration": 11.0, "flag": 9.0}

_TYPES: Final = (
    f'<Types xmlns="{CONTENT_TYPES}"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/></Types>'
)
_ROOT: Final = f'<Relationships xmlns="{PACKAGE_RELATIONS}"><Relationship Id="rId1" Type="{RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
_BOOK: Final = (
    f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><workbookPr/><bookViews><workbookView/></bookViews>'
    '<sheets></sheets><calcPr calcId="191029" fullCalcOnLoad="1"/></workbook>'
)
_BOOK_RELATIONS: Final = (
    f'<Relationships xmlns="{PACKAGE_RELATIONS}"><Relationship Id="rId1" Type="{RELATIONS}/styles" Target="styles.xml"/></Relationships>'
)
_STYLES: Final = (
    f'<styleSheet xmlns="{MAIN}"><fonts count="1"><font><sz val="11"/><name val="Calibri"/><family val="2"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
    '<cellXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles>'
    '<dxfs count="0"/><tableStyles count="0" defaultTableStyle="TableStyleMedium2" defaultPivotStyle="PivotStyleLight16"/></styleSheet>'
)


def blank_workbook() -> bytes:
    """A package with everything a workbook needs but its first sheet."""
    out = io.BytesIO()
    parts = {
        "[Content_Types].xml": _TYPES,
        "_rels/.rels": _ROOT,
        "xl/workbook.xml": _BOOK,
        "xl/_rels/workbook.xml.rels": _BOOK_RELATIONS,
        "xl/styles.xml": _STYLES,
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), DECLARATION + text.encode(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def new_sheet(columns: Sequence[Column], anchor: Area, open_rows: Callable[[], pa.RecordBatchReader]) -> bytes:
    """An empty sheet made for a table at `anchor`: widths that fit the first rows, the header frozen."""
    widths = b"".join(
        b'<col min="%d" max="%d" width="%g" customWidth="1"/>' % (anchor.left + at, anchor.left + at, width)
        for at, width in enumerate(_widths(columns, open_rows))
    )
    view = b'<sheetViews><sheetView workbookViewId="0">' + _frozen(anchor) + b"</sheetView></sheetViews>"
    return (
        DECLARATION
        + b'<worksheet xmlns="%s" xmlns:r="%s"><dimension ref="%s"/>%s<sheetFormatPr defaultRowHeight="15"/><cols>%s</cols><sheetData/></worksheet>'
        % (MAIN.encode(), RELATIONS.encode(), str(Area(anchor.top, anchor.left, anchor.top, anchor.left)).encode(), view, widths)
    )


def _frozen(anchor: Area) -> bytes:
    """The panes that keep the header in sight, unless it stands so far down that little else would be."""
    if anchor.top > FROZEN:
        return b""
    cell = f"{letters(anchor.left)}{anchor.top + 1}".encode()
    pane = b'<pane ySplit="%d" topLeftCell="A%d" activePane="bottomLeft" state="frozen"/><selection pane="bottomLeft" activeCell="%s" sqref="%s"/>'
    return pane % (anchor.top, anchor.top + 1, cell, cell)


def _widths(columns: Sequence[Column], open_rows: Callable[[], pa.RecordBatchReader]) -> list[float]:
    reader = open_rows()
    sample = next((batch for batch in reader if batch.num_rows), None)
    reader.close()
    return [_width(column, sample.column(column.name) if sample is not None else None) for column in columns]


def _width(column: Column, values: pa.Array | None) -> float:
    heading = len(column.heading) + 4.0  # room for the filter button
    if column.kind in WIDTHS:
        return max(WIDTHS[column.kind], heading)
    if column.kind == "number":
        return max(14.0 if column.unit in ("money", "money per day") else 11.0, heading)
    longest = 0.0
    if values is not None and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        lengths = pc.utf8_length(values)
        longest = float(pc.max(lengths).as_py() or 0)
    return min(max(longest + 2, heading, NARROWEST), WIDEST)
