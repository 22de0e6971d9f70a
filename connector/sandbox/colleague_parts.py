"""The parts that Excel writes when a colleague makes a sheet with a pivot, a few formulas and a chart (ECMA-376, part 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

HEAD: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
MAIN: Final = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
REL: Final = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
NO_RELATIONSHIPS: Final = HEAD + '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"></Relationships>'
_TYPE: Final = "application/vnd.openxmlformats-officedocument."
SHEET_TYPE: Final = _TYPE + "spreadsheetml.worksheet+xml"
PIVOT_TYPE: Final = _TYPE + "spreadsheetml.pivotTable+xml"
CACHE_TYPE: Final = _TYPE + "spreadsheetml.pivotCacheDefinition+xml"
CHART_TYPE: Final = _TYPE + "drawingml.chart+xml"
DRAWING_TYPE: Final = _TYPE + "drawing+xml"

#: where the pivot and the table of goals begin on the sheet
PIVOT_ROW: Final = 5
GOALS_ROW: Final = 15
HEIGHTS: Final = {1: ' ht="30" customHeight="1"'}
CAPTION: Final = "Amount, EUR"
COLOURS: Final = ("2E7D6B", "E0A030")

Goal = tuple[str, float, int]


@dataclass(frozen=True, slots=True)
class Formats:
    """Cell formats of the workbook, by number."""

    title: str
    small: str
    heading: str
    text: str
    money: str


# ── the sheet ─────────────────────────────────────────────────────────────────────────────────────


def sheet(
    name: str,
    formats: Formats,
    teams: Sequence[str],
    statuses: Sequence[str],
    sums: Mapping[tuple[str, str], float],
    goals: Sequence[Goal],
    drawing: str,
) -> str:
    """The sheet with what the pivot showed when it was saved, and the table of goals with its formulas."""
    rows = {1: [("A", _text(name, formats.title))]}
    rows[2] = [("A", _text("My own sheet: a pivot over Deals, goals I typed in, and a chart of both.", formats.small))]
    rows[PIVOT_ROW - 1] = [("A", _text("Pivot: every deal by team and status", formats.small))]
    rows |= _shown(formats, teams, statuses, sums)
    rows[GOALS_ROW - 1] = [("A", _text("My goals for the open pipeline, by team", formats.small))]
    captions = ("Team", "Open today", "My goal")
    rows[GOALS_ROW] = [(place, _text(caption, formats.heading)) for place, caption in zip("ABC", captions, strict=True)]
    for number, (team, _, goal) in enumerate(goals, GOALS_ROW + 1):
        formula = f"SUMIFS(Deals[Amount (reporting currency)],Deals[Team],A{number},Deals[Open?],1)"
        rows[number] = [
            ("A", _text(team, formats.text)),
            ("B", f's="{formats.money}"><f>{formula}</f>'),  # without a result: programs that do not calculate on opening do so then
            ("C", _number(goal, formats.money)),
        ]
    cells = "".join(
        f'<row r="{number}"{HEIGHTS.get(number, "")}>{"".join(f"""<c r="{place}{number}" {cell}</c>""" for place, cell in row)}</row>'
        for number, row in sorted(rows.items())
    )
    return (
        f'{HEAD}<worksheet {MAIN} {REL}><sheetPr><tabColor rgb="FF{COLOURS[0]}"/><pageSetUpPr fitToPage="1"/></sheetPr>'
        '<sheetViews><sheetView showGridLines="0" workbookViewId="0"/></sheetViews><sheetFormatPr defaultRowHeight="15"/>'
        '<cols><col min="1" max="1" width="24" customWidth="1"/><col min="2" max="5" width="16" customWidth="1"/></cols>'
        f"<sheetData>{cells}</sheetData>"
        '<pageMargins left="0.5" right="0.5" top="0.5" bottom="0.5" header="0.3" footer="0.3"/>'
        f'<pageSetup orientation="landscape" fitToHeight="1"/><drawing r:id="{drawing}"/></worksheet>'
    )


def _shown(
    formats: Formats, teams: Sequence[str], statuses: Sequence[str], sums: Mapping[tuple[str, str], float]
) -> dict[int, list[tuple[str, str]]]:
    """The cells of the pivot as they stood."""
    every = [*statuses, "Grand Total"]
    rows = {
        PIVOT_ROW: [("A", _text(CAPTION, formats.text)), ("B", _text("Column Labels", formats.text))],
        PIVOT_ROW + 1: [
            ("A", _text("Row Labels", formats.text)),
            *((place, _text(caption, formats.text)) for place, caption in zip("BCDEF", every, strict=False)),
        ],
    }
    for number, team in enumerate([*teams, "Grand Total"], PIVOT_ROW + 2):
        of_team = [sum(sums[one, status] for one in (teams if team == "Grand Total" else [team])) for status in statuses]
        values = [*of_team, sum(of_team)]
        cells = [(place, _number(round(value, 2), formats.money)) for place, value in zip("BCDEF", values, strict=False)]
        rows[number] = [("A", _text(team, formats.text)), *cells]
    return rows


def _text(text: str, style: str) -> str:
    return f's="{style}" t="inlineStr"><is><t>{escape(text)}</t></is>'


def _number(value: float, style: str) -> str:
    return f's="{style}"><v>{value!r}</v>'


# ── the pivot ─────────────────────────────────────────────────────────────────────────────────────


def pivot_cache(
    table: str, headings: Sequence[str], items: Mapping[str, Sequence[str]], measure: str, rows: Sequence[Mapping[str, str]]
) -> str:
    """The cache over a table by its name, saved without its records, as Excel does when told not to keep source data in the file."""
    amounts = [float(row[measure]) for row in rows if measure in row]
    blank = ' containsBlank="1"' if len(amounts) < len(rows) else ""
    number = f'<sharedItems containsString="0"{blank} containsNumber="1" minValue="{min(amounts)!r}" maxValue="{max(amounts)!r}"/>'

    def shared(heading: str) -> str:
        if heading == measure:
            return number
        values = "".join(f"<s v={quoteattr(item)}/>" for item in items.get(heading, ()))
        return f'<sharedItems count="{len(items[heading])}">{values}</sharedItems>' if values else "<sharedItems/>"

    fields = "".join(f'<cacheField name={quoteattr(heading)} numFmtId="0">{shared(heading)}</cacheField>' for heading in headings)
    return (
        f'{HEAD}<pivotCacheDefinition {MAIN} {REL} saveData="0" refreshedBy="Excel" createdVersion="6" refreshedVersion="6" '
        f'minRefreshableVersion="3" recordCount="{len(rows)}"><cacheSource type="worksheet"><worksheetSource name="{table}"/></cacheSource>'
        f'<cacheFields count="{len(headings)}">{fields}</cacheFields></pivotCacheDefinition>'
    )


def pivot_table(headings: Sequence[str], down: str, across: str, measure: str, teams: Sequence[str], statuses: Sequence[str]) -> str:
    """Sums of `measure`, one field down and one across, with grand totals."""

    def field(heading: str) -> str:
        axes = {down: ("axisRow", teams), across: ("axisCol", statuses)}
        if heading not in axes:
            return '<pivotField dataField="1" showAll="0"/>' if heading == measure else '<pivotField showAll="0"/>'
        axis, items = axes[heading]
        listed = "".join(f'<item x="{number}"/>' for number in range(len(items)))
        return f'<pivotField axis="{axis}" showAll="0"><items count="{len(items) + 1}">{listed}<item t="default"/></items></pivotField>'

    def placed(items: Sequence[str]) -> str:
        first, *others = [f'<i><x v="{number}"/></i>' if number else "<i><x/></i>" for number in range(len(items))]
        return f'{first}{"".join(others)}<i t="grand"><x/></i>'

    last = f"{'ABCDEFGH'[len(statuses) + 1]}{PIVOT_ROW + 2 + len(teams)}"
    place = {heading: number for number, heading in enumerate(headings)}
    return (
        f'{HEAD}<pivotTableDefinition {MAIN} name="PivotTable1" cacheId="1" applyNumberFormats="0" applyBorderFormats="0" '
        'applyFontFormats="0" applyPatternFormats="0" applyAlignmentFormats="0" applyWidthHeightFormats="1" dataCaption="Values" '
        'updatedVersion="6" minRefreshableVersion="3" useAutoFormatting="1" itemPrintTitles="1" createdVersion="6" indent="0" '
        'outline="1" outlineData="1" multipleFieldFilters="0">'
        f'<location ref="A{PIVOT_ROW}:{last}" firstHeaderRow="1" firstDataRow="2" firstDataCol="1"/>'
        f'<pivotFields count="{len(headings)}">{"".join(map(field, headings))}</pivotFields>'
        f'<rowFields count="1"><field x="{place[down]}"/></rowFields><rowItems count="{len(teams) + 1}">{placed(teams)}</rowItems>'
        f'<colFields count="1"><field x="{place[across]}"/></colFields><colItems count="{len(statuses) + 1}">{placed(statuses)}</colItems>'
        f'<dataFields count="1"><dataField name="{CAPTION}" fld="{place[measure]}" baseField="0" baseItem="0" numFmtId="3"/></dataFields>'
        '<pivotTableStyleInfo name="PivotStyleMedium9" showRowHeaders="1" showColHeaders="1" showRowStripes="0" showColStripes="0" '
        'showLastColumn="1"/></pivotTableDefinition>'
    )


# ── the chart ─────────────────────────────────────────────────────────────────────────────────────


def chart(name: str, goals: Sequence[Goal]) -> str:
    """Columns: what is open beside the goal, by team."""
    first, last = GOALS_ROW + 1, GOALS_ROW + len(goals)
    sheet_name = "'" + escape(name).replace("'", "''") + "'"

    def cached(kind: str, values: Sequence[object]) -> str:
        points = "".join(f'<c:pt idx="{number}"><c:v>{escape(str(value))}</c:v></c:pt>' for number, value in enumerate(values))
        code = "<c:formatCode>General</c:formatCode>" if kind == "num" else ""
        return f'<c:{kind}Cache>{code}<c:ptCount val="{len(values)}"/>{points}</c:{kind}Cache>'

    def series(number: int, column: str, caption: str, values: Sequence[object]) -> str:
        teams = cached("str", [team for team, _, _ in goals])
        return (
            f'<c:ser><c:idx val="{number}"/><c:order val="{number}"/>'
            f"<c:tx><c:strRef><c:f>{sheet_name}!${column}${GOALS_ROW}</c:f>{cached('str', [caption])}</c:strRef></c:tx>"
            f'<c:spPr><a:solidFill><a:srgbClr val="{COLOURS[number]}"/></a:solidFill></c:spPr><c:invertIfNegative val="0"/>'
            f"<c:cat><c:strRef><c:f>{sheet_name}!$A${first}:$A${last}</c:f>{teams}</c:strRef></c:cat>"
            f"<c:val><c:numRef><c:f>{sheet_name}!${column}${first}:${column}${last}</c:f>{cached('num', values)}</c:numRef></c:val></c:ser>"
        )

    drawn = series(0, "B", "Open today", [value for _, value, _ in goals]) + series(1, "C", "My goal", [goal for _, _, goal in goals])
    return (
        f'{HEAD}<c:chartSpace xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
        f'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" {REL}><c:roundedCorners val="0"/><c:chart>'
        '<c:title><c:tx><c:rich><a:bodyPr/><a:p><a:pPr><a:defRPr sz="1200" b="1"/></a:pPr><a:r><a:rPr lang="en-US" sz="1200" b="1"/>'
        "<a:t>Open pipeline against my goals, EUR</a:t></a:r></a:p></c:rich></c:tx>"
        '<c:overlay val="0"/></c:title><c:autoTitleDeleted val="0"/><c:plotArea><c:layout/>'
        f'<c:barChart><c:barDir val="col"/><c:grouping val="clustered"/><c:varyColors val="0"/>{drawn}'
        '<c:gapWidth val="60"/><c:axId val="111"/><c:axId val="222"/></c:barChart>'
        '<c:catAx><c:axId val="111"/><c:scaling><c:orientation val="minMax"/></c:scaling><c:delete val="0"/><c:axPos val="b"/>'
        '<c:numFmt formatCode="General" sourceLinked="0"/><c:majorTickMark val="none"/><c:minorTickMark val="none"/>'
        '<c:tickLblPos val="nextTo"/><c:crossAx val="222"/><c:crosses val="autoZero"/><c:auto val="1"/><c:lblAlgn val="ctr"/>'
        '<c:lblOffset val="100"/><c:noMultiLvlLbl val="0"/></c:catAx>'
        '<c:valAx><c:axId val="222"/><c:scaling><c:orientation val="minMax"/><c:min val="0"/></c:scaling><c:delete val="0"/>'
        '<c:axPos val="l"/><c:majorGridlines><c:spPr><a:ln w="6350"><a:solidFill><a:srgbClr val="D5DBE1"/></a:solidFill></a:ln></c:spPr>'
        '</c:majorGridlines><c:numFmt formatCode="#,##0" sourceLinked="0"/><c:majorTickMark val="none"/><c:minorTickMark val="none"/>'
        '<c:tickLblPos val="nextTo"/><c:crossAx val="111"/><c:crosses val="autoZero"/><c:crossBetween val="between"/></c:valAx>'
        '</c:plotArea><c:legend><c:legendPos val="b"/><c:overlay val="0"/></c:legend><c:plotVisOnly val="1"/>'
        '<c:dispBlanksAs val="gap"/></c:chart></c:chartSpace>'
    )


def drawing(chart_id: str) -> str:
    """The chart's place on the sheet: right of the pivot."""
    return (
        f'{HEAD}<xdr:wsDr xmlns:xdr="http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing" '
        'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><xdr:twoCellAnchor>'
        "<xdr:from><xdr:col>6</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>3</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:from>"
        "<xdr:to><xdr:col>14</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>20</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:to>"
        '<xdr:graphicFrame macro=""><xdr:nvGraphicFramePr>'
        '<xdr:cNvPr id="2" name="Goals" descr="Columns: what is open in each team, beside the goal for it."/><xdr:cNvGraphicFramePr/>'
        '</xdr:nvGraphicFramePr><xdr:xfrm><a:off x="0" y="0"/><a:ext cx="0" cy="0"/></xdr:xfrm><a:graphic>'
        '<a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/chart">'
        f'<c:chart xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" {REL} r:id="{chart_id}"/>'
        "</a:graphicData></a:graphic></xdr:graphicFrame><xdr:clientData/></xdr:twoCellAnchor></xdr:wsDr>"
    )
