"""Native charts over ranges of the workbook, as the parts of a drawing. No values are cached: Excel reads the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sinks.excel.look import FONT, INK, LINE, MUTED
from sinks.excel.markup import DECLARATION, RELATIONS, Edits, Element, attribute, escaped, parse, prefix
from sinks.excel.references import Area, letters, quoted
from sinks.excel.workbook import Sheet, Workbook

CHART: Final = "http://schemas.openxmlformats.org/drawingml/2006/chart"
DRAWING: Final = "http://schemas.openxmlformats.org/drawingml/2006/main"
SHEET_DRAWING: Final = "http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"
DRAWING_TYPE: Final = "application/vnd.openxmlformats-officedocument.drawing+xml"
CHART_TYPE: Final = "application/vnd.openxmlformats-officedocument.drawingml.chart+xml"
#: what follows a sheet's `drawing` (ECMA-376 part 1, 18.3.1.99)
AFTER_DRAWING: Final = frozenset(
    {"legacyDrawing", "legacyDrawingHF", "picture", "oleObjects", "controls", "webPublishItems", "tableParts", "extLst"}
)
INSET: Final = 50_000  # EMU between a chart and the edge of its slot


@dataclass(frozen=True, slots=True)
class Series:
    """One column of the chart's table. An empty `colour` leaves bars invisible, to stack others on them."""

    column: int
    colour: str
    line: bool = False
    secondary: bool = False
    labels: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars or columns, with lines over them, over a table whose first column holds the categories.

    `number` is the value axis's format, none without one; `months` says that the categories are months shown in that format, with a label `every` so many.
    """

    title: str
    alt: str
    series: tuple[Series, ...]
    across: bool = False
    stacked: bool = False
    number: str = ""
    second: str = ""
    months: str = ""
    legend: bool = False
    gap: int = 50
    every: int = 1


def chart_xml(chart: Chart, sheet: str, table: Area) -> bytes:
    """The part of a chart over a table (header included) of a sheet."""
    bars = [(at, one) for at, one in enumerate(chart.series) if not one.line]
    lines = [(at, one) for at, one in enumerate(chart.series) if one.line]
    second = any(one.secondary for _, one in lines)
    body = _bars(chart, bars, sheet, table)
    if lines:
        axes = (30, 40) if second else (10, 20)
        series = "".join(_series(chart, at, one, sheet, table) for at, one in lines)
        body += f'<c:lineChart><c:grouping val="standard"/><c:varyColors val="0"/>{series}<c:marker val="1"/>{_ids(axes)}</c:lineChart>'
    body += _category_axis(chart, 10, 20, hidden=False) + _value_axis(chart.number, 20, 10, side="b" if chart.across else "l", least="0")
    if second:
        body += _category_axis(chart, 30, 40, hidden=True) + _value_axis(chart.second, 40, 30, side="r")
    hidden = "".join(f'<c:legendEntry><c:idx val="{at}"/><c:delete val="1"/></c:legendEntry>' for at, one in bars if not one.colour)
    legend = f'<c:legend><c:legendPos val="b"/>{hidden}<c:overlay val="0"/>{_text(8, MUTED)}</c:legend>' if chart.legend else ""
    return (
        DECLARATION
        + (
            f'<c:chartSpace xmlns:c="{CHART}" xmlns:a="{DRAWING}" xmlns:r="{RELATIONS}"><c:date1904 val="0"/><c:roundedCorners val="0"/>'
            f'<c:chart>{_title(chart.title)}<c:autoTitleDeleted val="0"/><c:plotArea>{_plot(chart)}{body}'
            f'<c:spPr><a:noFill/></c:spPr></c:plotArea>{legend}<c:plotVisOnly val="0"/><c:dispBlanksAs val="gap"/></c:chart>'
            f'<c:spPr><a:solidFill><a:srgbClr val="FFFFFF"/></a:solidFill><a:ln w="9525">{_solid(LINE)}</a:ln></c:spPr>{_text(8, MUTED)}</c:chartSpace>'
        ).encode()
    )


def _plot(chart: Chart) -> str:
    """Bars that run across have room for their names, and for the label behind the longest one."""
    if not chart.across:
        return "<c:layout/>"
    labelled = any(one.labels for one in chart.series)
    sides = {"x": 0.4, "y": 0.14, "w": 0.46 if labelled else 0.56, "h": 0.7 if chart.legend else 0.82}
    places = "".join(f'<c:{name} val="{value}"/>' for name, value in sides.items())
    return f'<c:layout><c:manualLayout><c:layoutTarget val="inner"/><c:xMode val="edge"/><c:yMode val="edge"/>{places}</c:manualLayout></c:layout>'


def _bars(chart: Chart, series: Sequence[tuple[int, Series]], sheet: str, table: Area) -> str:
    grouping, overlap = ("stacked", '<c:overlap val="100"/>') if chart.stacked else ("clustered", "")
    return (
        f'<c:barChart><c:barDir val="{"bar" if chart.across else "col"}"/><c:grouping val="{grouping}"/><c:varyColors val="0"/>'
        + "".join(_series(chart, at, one, sheet, table) for at, one in series)
        + f'<c:gapWidth val="{chart.gap}"/>{overlap}{_ids((10, 20))}</c:barChart>'
    )


def _series(chart: Chart, at: int, one: Series, sheet: str, table: Area) -> str:
    where = escaped(quoted(sheet)).decode()
    top, first, last = table.top, table.top + 1, table.bottom
    column, categories = letters(table.left + one.column), letters(table.left)
    name = f"<c:tx><c:strRef><c:f>{where}!${column}${top}</c:f></c:strRef></c:tx>"
    kind = "numRef" if chart.months else "strRef"
    cat = f"<c:cat><c:{kind}><c:f>{where}!${categories}${first}:${categories}${last}</c:f></c:{kind}></c:cat>"
    val = f"<c:val><c:numRef><c:f>{where}!${column}${first}:${column}${last}</c:f></c:numRef></c:val>"
    start = f'<c:ser><c:idx val="{at}"/><c:order val="{at}"/>{name}'
    if one.line:
        marker = f'<c:marker><c:symbol val="circle"/><c:size val="4"/><c:spPr>{_solid(one.colour)}<a:ln w="6350">{_solid("FFFFFF")}</a:ln></c:spPr></c:marker>'
        paint = f'<c:spPr><a:ln w="19050" cap="rnd">{_solid(one.colour)}<a:round/></a:ln></c:spPr>'
        return f'{start}{paint}{marker}{cat}{val}<c:smooth val="0"/></c:ser>'
    paint = _solid(one.colour) if one.colour else "<a:noFill/>"
    shape = f'<c:spPr>{paint}<a:ln><a:noFill/></a:ln></c:spPr><c:invertIfNegative val="0"/>'
    return f"{start}{shape}{_labels(one.labels)}{cat}{val}</c:ser>"


def _labels(number: str) -> str:
    if not number:
        return ""
    shown = "".join(
        f'<c:{name} val="{int(name == "showVal")}"/>'
        for name in ("showLegendKey", "showVal", "showCatName", "showSerName", "showPercent", "showBubbleSize")
    )
    code = attribute(number).decode()
    return f'<c:dLbls><c:numFmt formatCode={code} sourceLinked="0"/><c:spPr><a:noFill/></c:spPr>{_text(8, INK)}<c:dLblPos val="outEnd"/>{shown}</c:dLbls>'


def _category_axis(chart: Chart, own: int, other: int, *, hidden: bool) -> str:
    direction = "maxMin" if chart.across else "minMax"
    name = "dateAx" if chart.months else "catAx"
    code = attribute(chart.months or "General").decode()
    tail = (
        f'<c:auto val="0"/><c:lblOffset val="100"/><c:baseTimeUnit val="months"/><c:majorUnit val="{chart.every}"/><c:majorTimeUnit val="months"/>'
        if chart.months
        else '<c:auto val="1"/><c:lblAlgn val="ctr"/><c:lblOffset val="100"/><c:noMultiLvlLbl val="1"/>'
    )
    return (
        f'<c:{name}><c:axId val="{own}"/><c:scaling><c:orientation val="{direction}"/></c:scaling><c:delete val="{int(hidden)}"/>'
        f'<c:axPos val="{"l" if chart.across else "b"}"/><c:numFmt formatCode={code} sourceLinked="0"/>'
        f'<c:majorTickMark val="none"/><c:minorTickMark val="none"/><c:tickLblPos val="low"/><c:spPr><a:ln w="9525">{_solid(LINE)}</a:ln></c:spPr>'
        f'{_text(8, INK)}<c:crossAx val="{other}"/><c:crosses val="autoZero"/>{tail}</c:{name}>'
    )


def _value_axis(number: str, own: int, other: int, *, side: str, least: str = "") -> str:
    """Bars stand on zero, so that their lengths compare."""
    grid = number and side != "r"
    floor = f'<c:min val="{least}"/>' if least else ""
    lines = f'<c:majorGridlines><c:spPr><a:ln w="6350">{_solid(LINE)}</a:ln></c:spPr></c:majorGridlines>' if grid else ""
    code = attribute(number or "General").decode()
    return (
        f'<c:valAx><c:axId val="{own}"/><c:scaling><c:orientation val="minMax"/>{floor}</c:scaling><c:delete val="{int(not number)}"/>'
        f'<c:axPos val="{side}"/>{lines}<c:numFmt formatCode={code} sourceLinked="0"/><c:majorTickMark val="none"/>'
        f'<c:minorTickMark val="none"/><c:tickLblPos val="nextTo"/><c:spPr><a:ln><a:noFill/></a:ln></c:spPr>{_text(8, MUTED)}'
        f'<c:crossAx val="{other}"/><c:crosses val="{"autoZero" if side == "l" else "max"}"/><c:crossBetween val="between"/></c:valAx>'
    )


def _title(text: str) -> str:
    layout = '<c:layout><c:manualLayout><c:xMode val="edge"/><c:yMode val="edge"/><c:x val="0.025"/><c:y val="0.03"/></c:manualLayout></c:layout>'
    run = f'<a:r><a:rPr sz="1000" b="1">{_solid(INK)}<a:latin typeface="{FONT}"/></a:rPr><a:t>{escaped(text).decode()}</a:t></a:r>'
    rich = f'<c:rich><a:bodyPr/><a:p><a:pPr algn="l"><a:defRPr sz="1000" b="1"/></a:pPr>{run}</a:p></c:rich>'
    return f'<c:title><c:tx>{rich}</c:tx>{layout}<c:overlay val="0"/></c:title>'


def _text(size: int, colour: str) -> str:
    face = f'<a:defRPr sz="{size * 100}" b="0">{_solid(colour)}<a:latin typeface="{FONT}"/></a:defRPr>'
    return f'<c:txPr><a:bodyPr/><a:p><a:pPr>{face}</a:pPr><a:endParaRPr lang="en-US"/></a:p></c:txPr>'


def _solid(colour: str) -> str:
    return f'<a:solidFill><a:srgbClr val="{colour}"/></a:solidFill>'


def _ids(axes: tuple[int, int]) -> str:
    return "".join(f'<c:axId val="{axis}"/>' for axis in axes)


# ── on a sheet ──


def add_chart(book: Workbook, sheet: Sheet, chart: bytes, name: str, alt: str, slots: Iterator[Area]) -> None:
    """Put a chart on a sheet, into the first of `slots` (cells) that no other drawing covers."""
    drawing = _drawing(book, sheet)
    data = book.data(drawing)
    root, edits = parse(data, drawing), Edits(data)
    taken = [area for anchor in root.children if (area := _covered(anchor))]
    ids = [int(element.get("id")) for element in root.walk() if element.name == "cNvPr" and element.get("id").isdecimal()]
    slot = next(slot for slot in slots if not any(slot.overlaps(area) for area in taken))
    part = book.free_part(f"{book.folder}/charts/chart%d.xml")
    book.put(part, chart)
    book.add_type(part, CHART_TYPE)
    relation = book.add_relation(drawing, "chart", part)
    edits.append(root, _anchor(slot, max(ids, default=1) + 1, name, alt, relation, prefix(data, root).decode() or "xdr:"))
    book.put(drawing, edits.result())


def _covered(anchor: Element) -> Area | None:
    """The cells a drawing lies on. One without an end is taken to be as large as a chart."""
    start, end = anchor.find("from"), anchor.find("to")
    if start is None:
        return None
    top, left = (int(_word(start, kind)) + 1 for kind in ("row", "col"))
    if end is None:
        return Area(top, left, top + 12, left + 1)
    bottom, right = (int(_word(end, kind)) + (_word(end, f"{kind}Off") != "0") for kind in ("row", "col"))
    return Area(top, left, max(top, bottom), max(left, right))


def _word(corner: Element, name: str) -> str:
    found = corner.find(name)
    return found.text.strip() if found and found.text.strip().isdecimal() else "0"


def _anchor(slot: Area, number: int, name: str, alt: str, relation: str, lead: str) -> bytes:
    def corner(tag: str, row: int, column: int, offset: int) -> str:
        place = f"<{lead}col>{column}</{lead}col><{lead}colOff>{offset}</{lead}colOff><{lead}row>{row}</{lead}row><{lead}rowOff>0</{lead}rowOff>"
        return f"<{lead}{tag}>{place}</{lead}{tag}>"

    start = corner("from", slot.top - 1, slot.left - 1, INSET)
    end = corner("to", slot.bottom, slot.right, 0)
    words = f"name={attribute(name).decode()} descr={attribute(alt).decode()}"
    return (
        f'<{lead}twoCellAnchor xmlns:xdr="{SHEET_DRAWING}" editAs="oneCell">{start}{end}<{lead}graphicFrame macro=""><{lead}nvGraphicFramePr>'
        f'<{lead}cNvPr id="{number}" {words}/><{lead}cNvGraphicFramePr/></{lead}nvGraphicFramePr>'
        f'<{lead}xfrm><a:off xmlns:a="{DRAWING}" x="0" y="0"/><a:ext xmlns:a="{DRAWING}" cx="0" cy="0"/></{lead}xfrm>'
        f'<a:graphic xmlns:a="{DRAWING}"><a:graphicData uri="{CHART}"><c:chart xmlns:c="{CHART}" xmlns:r="{RELATIONS}" r:id="{relation}"/>'
        f"</a:graphicData></a:graphic></{lead}graphicFrame><{lead}clientData/></{lead}twoCellAnchor>"
    ).encode()


def _drawing(book: Workbook, sheet: Sheet) -> str:
    """The sheet's drawing, made when it has none."""
    for relation in book.relations(sheet.part):
        if relation.kind == "drawing" and not relation.external:
            return book.package.proper(relation.target)
    part = book.free_part(f"{book.folder}/drawings/drawing%d.xml")
    book.put(part, DECLARATION + b'<xdr:wsDr xmlns:xdr="%s" xmlns:a="%s"></xdr:wsDr>' % (SHEET_DRAWING.encode(), DRAWING.encode()))
    book.add_type(part, DRAWING_TYPE)
    added = book.add_relation(sheet.part, "drawing", part)
    data = book.data(sheet.part)
    root, edits = parse(data, sheet.part), Edits(data)
    entry = b'<%sdrawing xmlns:r="%s" r:id=%s/>' % (prefix(data, root), RELATIONS.encode(), attribute(added))
    later = next((element for element in root.children if element.name in AFTER_DRAWING), None)
    edits.replace(later.start if later else root.close, later.start if later else root.close, entry)
    book.put(sheet.part, edits.result())
    return part
