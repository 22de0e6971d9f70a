"""The Overview sheet: title, when the data was taken, two bands of headline figures, and a grid of charts under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import pyarrow as pa
from babel.dates import format_interval

from connector.api import Output, Run
from sinks.excel.cells import Column, columns_of
from sinks.excel.charts import add_chart, chart_xml
from sinks.excel.figures import LESS_IS_BETTER, ChartTable, Figure, Headlines, Words, band, output
from sinks.excel.locate import Prepared, TableJob
from sinks.excel.look import GREEN, HEADER, LINE, MUTED, NAVY, RED, Format, Look, dress, number_format, whole_money
from sinks.excel.markup import DECLARATION, MAIN, RELATIONS, escaped
from sinks.excel.references import Area, letters
from sinks.excel.table import new_table
from sinks.excel.workbook import TABLE_TYPE, Sheet, Workbook

AS_OF, RESULTS, PIPELINE = "AsOf", "Headlines", "PipelineToday"
CARDS: Final = 6
LEFT: Final = 2  # column B
TITLE_ROW, STRIP_ROW = 2, 3
BAND_ROWS: Final = (7, 13)  # the labels of each band; three rows of figures below, its heading above
CHART_ROW: Final = 18
CHART_HEIGHT: Final = 13  # rows
GRID: Final = 3  # charts side by side
WIDTH: Final = 26.0
HEIGHTS: Final = {
    1: 8,
    2: 34,
    3: 14,
    4: 18,
    5: 10,
    6: 22,
    7: 20,
    8: 30,
    9: 17,
    10: 17,
    11: 10,
    12: 22,
    13: 20,
    14: 30,
    15: 17,
    16: 17,
    17: 14,
}
CHART_DATA_TOP: Final = 3


@dataclass(frozen=True, slots=True)
class Overview:
    """The Overview of one run."""

    figures: Headlines
    run: Run
    words: Words
    locale: str

    def jobs(self) -> list[TableJob]:
        """The two bands. The first of them that is missing makes the sheet; a band somebody deleted stays away."""
        bands = ((RESULTS, self.figures.results), (PIPELINE, self.figures.pipeline))
        return [TableJob(band(name, figures), table=name, prepare=self.prepare, widen=False) for name, figures in bands if figures]

    def strip(self) -> TableJob:
        """When the data was taken and what the figures stand for."""
        return TableJob(self._strip(), table=AS_OF, prepare=lambda _book, _columns: None, widen=False, volatile=True)

    def _strip(self) -> Output:
        figures, said = self.figures, self.words["strip"]
        period = self._days((figures.start, figures.end)) if figures.start and figures.end else self.words["everything"]
        values = {
            "as_of": pa.array([self.run.at], pa.timestamp("s", "UTC")),
            "flow": pa.array([self.run.flow]),
            "period": pa.array([period]),
            "before": pa.array([self._days(figures.before) if figures.before else "–"]),
        }
        schema = pa.schema([pa.field(name, value.type, metadata={"label": said[name]}) for name, value in values.items()])
        return output("as_of", pa.table(list(values.values()), schema=schema))

    def _days(self, span: tuple[date, date]) -> str:
        return str(format_interval(span[0], span[1], "yMMMd", locale=self.locale))

    # ── the sheet ──

    def prepare(self, book: Workbook, columns: Sequence[Column]) -> Prepared | None:
        """Make the sheet with its tables, empty but formatted; not when it is there or there is nothing to show."""
        if not self.figures.known or find_table(book, AS_OF):
            return None
        if not book.sheets:
            dress(book)
        sheet = book.add_sheet(self.words["overview"], b"")
        look = Look(book)
        rows: dict[int, str] = {TITLE_ROW: _text("B", TITLE_ROW, self.words["title"], look.cell(Format(size=20, bold=True, colour=NAVY)))}
        tables = [self._strip_rows(look, rows)]
        rules = []
        for top, (name, figures) in zip(BAND_ROWS, ((RESULTS, self.figures.results), (PIPELINE, self.figures.pipeline)), strict=True):
            chosen = _chosen(figures)
            if not chosen:
                continue
            heading = self.words["results" if name == RESULTS else "pipeline"]
            edge = Format(size=11, bold=True, colour=NAVY, edges=("bottom",), edge=NAVY)
            rows[top - 1] = _text("B", top - 1, heading, look.cell(edge)) + "".join(
                f'<c r="{letters(LEFT + at)}{top - 1}" s="{look.cell(edge)}"/>' for at in range(1, CARDS)
            )
            tables.append((name, self._band_rows(look, rows, top, chosen), [figure.label for figure in chosen]))
            rules += _change_rules(look, top + 2, chosen)
        look.save()
        relations = [_add_table(book, sheet, name, area, headings) for name, area, headings in tables]
        book.put(sheet.part, _sheet_xml(rows, rules, relations, self.words["page"]))
        return Prepared(sheet)

    def _strip_rows(self, look: Look, rows: dict[int, str]) -> tuple[str, Area, list[str]]:
        labels = list(self.words["strip"].values())
        small, plain = look.cell(Format(size=8, colour=MUTED)), look.cell(Format(size=10))
        instant = look.cell(Format(number="yyyy\\-mm\\-dd\\ hh:mm", horizontal="left"))
        rows[STRIP_ROW] = "".join(_text(letters(LEFT + at), STRIP_ROW, label, small) for at, label in enumerate(labels))
        rows[STRIP_ROW + 1] = "".join(
            f'<c r="{letters(LEFT + at)}{STRIP_ROW + 1}" s="{plain if at else instant}"/>' for at in range(len(labels))
        )
        return AS_OF, Area(STRIP_ROW, LEFT, STRIP_ROW + 1, LEFT + len(labels) - 1), labels

    def _band_rows(self, look: Look, rows: dict[int, str], top: int, figures: Sequence[Figure]) -> Area:
        for line in range(4):
            cells = []
            for at, figure in enumerate(figures):
                place = letters(LEFT + at)
                style = look.cell(self._card(figure, line))
                cells.append(_text(place, top, figure.label, style) if not line else f'<c r="{place}{top + line}" s="{style}"/>')
            rows[top + line] = "".join(cells)
        return Area(top, LEFT, top + 3, LEFT + len(figures) - 1)

    def _card(self, figure: Figure, line: int) -> Format:
        number = number_format(figure.unit, self.run.currency)
        if figure.unit == "days":
            number += f'" {self.words["days"]}"'
        elif figure.unit == "ratio":
            number = '0.0"×"'
        if line == 0:
            return Format(size=9, colour=MUTED, vertical="bottom")
        if line == 1:
            return Format(number=number, size=18, bold=True, horizontal="left", shrink=True)
        if line == 2:
            shown = f'#,##0.0" {self.words["points"]}"' if figure.unit == "percent" else "#,##0.0%"
            return Format(number=f'"▲ "{shown};"▼ "{shown};"■ "{shown}', size=9, bold=True, colour=MUTED, horizontal="left")
        was = f'"{self.words["was"]} "'
        return Format(number=";".join(was + part for part in number.split(";")), size=9, colour=MUTED, horizontal="left")


def find_table(book: Workbook, name: str) -> Sheet | None:
    """The sheet that holds one of our tables."""
    return next((sheet for sheet, table in book.tables() if table.name.casefold() == name.casefold()), None)


def _chosen(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.value is not None][:CARDS]


def _change_rules(look: Look, row: int, figures: Sequence[Figure]) -> list[str]:
    """Green for the better, red for the worse, whichever way that is."""
    rules = []
    for less in (False, True):
        cells = [f"{letters(LEFT + at)}{row}" for at, figure in enumerate(figures) if (figure.metric in LESS_IS_BETTER) == less]
        if not cells:
            continue
        good, bad = ("lessThan", "greaterThan") if less else ("greaterThan", "lessThan")
        both = "".join(
            f'<cfRule type="cellIs" dxfId="{look.rule(colour, bold=True)}" priority="{{}}" operator="{operator}"><formula>0</formula></cfRule>'
            for colour, operator in ((GREEN, good), (RED, bad))
        )
        rules.append(f'<conditionalFormatting sqref="{" ".join(cells)}">{both}</conditionalFormatting>')
    return rules


def _text(column: str, row: int, text: str, style: int) -> str:
    return f'<c r="{column}{row}" s="{style}" t="inlineStr"><is><t>{escaped(text).decode()}</t></is></c>'


def _add_table(book: Workbook, sheet: Sheet, name: str, area: Area, headings: Sequence[str]) -> str:
    part, number = book.free_table_part()
    book.put(part, new_table(number, book.free_table_name(name), area, headings, styled=False, filtered=False))
    book.add_type(part, TABLE_TYPE)
    return book.add_relation(sheet.part, "table", part)


def _sheet_xml(rows: dict[int, str], rules: Sequence[str], tables: Sequence[str], page: str) -> bytes:
    lines = "".join(f'<row r="{row}" ht="{HEIGHTS[row]}" customHeight="1">{rows.get(row, "")}</row>' for row in HEIGHTS)
    last = letters(LEFT + CARDS - 1)
    formats = "".join(rule.replace("{}", str(2 * at + 1), 1).replace("{}", str(2 * at + 2), 1) for at, rule in enumerate(rules))
    parts = "".join(f'<tablePart r:id="{relation}"/>' for relation in tables)
    return (
        DECLARATION
        + (
            f'<worksheet xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheetPr><tabColor rgb="FF{NAVY}"/><pageSetUpPr fitToPage="1"/></sheetPr>'
            f'<dimension ref="B2:{last}16"/><sheetViews><sheetView showGridLines="0" tabSelected="1" workbookViewId="0">'
            f'<selection activeCell="A1" sqref="A1"/></sheetView></sheetViews><sheetFormatPr defaultRowHeight="15" customHeight="1"/>'
            f'<cols><col min="1" max="1" width="2" customWidth="1"/><col min="2" max="{LEFT + CARDS - 1}" width="{WIDTH:g}" customWidth="1"/>'
            f'<col min="{LEFT + CARDS}" max="{LEFT + CARDS}" width="2" customWidth="1"/></cols><sheetData>{lines}</sheetData>{formats}'
            '<printOptions horizontalCentered="1"/><pageMargins left="0.4" right="0.4" top="0.5" bottom="0.6" header="0.3" footer="0.3"/>'
            '<pageSetup paperSize="9" orientation="landscape" fitToWidth="1" fitToHeight="1"/>'
            f"<headerFooter><oddFooter>&amp;L&amp;F&amp;R{escaped(page).decode()}</oddFooter></headerFooter>"
            f'<tableParts count="{len(tables)}">{parts}</tableParts></worksheet>'
        ).encode()
    )


# ── charts and their tables ──


def slots() -> Iterator[Area]:
    """The places of the charts, row by row."""
    top = CHART_ROW
    while True:
        for at in range(GRID):
            left = LEFT + at * CARDS // GRID
            yield Area(top, left, top + CHART_HEIGHT - 1, left + CARDS // GRID - 1)
        top += CHART_HEIGHT + 1


def chart_jobs(charts: Sequence[ChartTable], words: Words) -> list[TableJob]:
    """The tables under the charts, each with its place on the sheet of chart data; a new one brings its chart to the Overview."""
    jobs = []
    left = 1
    for chart in charts:
        name = "Chart" + "".join(word.capitalize() for word in chart.name.split("_"))
        cell = f"{letters(left)}{CHART_DATA_TOP}"
        place = _placer(chart, cell, words, charts)
        jobs.append(TableJob(chart.table, table=name, cell=cell, key=chart.table.key, optional=True, prepare=place, widen=False))
        left += len(chart.table.schema) + 1
    return jobs


def _placer(
    chart: ChartTable, cell: str, words: Words, charts: Sequence[ChartTable]
) -> Callable[[Workbook, Sequence[Column]], Prepared | None]:
    def place(book: Workbook, columns: Sequence[Column]) -> Prepared | None:
        overview = find_table(book, AS_OF)
        if overview is None:
            return None
        sheet = book.sheet(words["chart_data"]) or book.add_sheet(words["chart_data"], _chart_data_sheet(book, charts, words))
        anchor = Area.read(cell)
        table = Area(anchor.top, anchor.left, anchor.top + chart.table.rows, anchor.left + len(columns) - 1)
        add_chart(book, overview, chart_xml(chart.chart, sheet.name, table), chart.chart.title, chart.chart.alt, slots())
        look = Look(book)
        header = look.cell(HEADER)
        formats = {
            column.name: look.cell(Format(number=whole_money(column.currency), vertical="")) for column in columns if column.unit == "money"
        }
        formats |= {
            column.name: look.cell(Format(number="yyyy\\-mm", horizontal="center", vertical=""))
            for column in columns
            if column.kind == "date"
        }
        look.save()
        return Prepared(sheet, header, 21, formats)

    return place


def _chart_data_sheet(book: Workbook, charts: Sequence[ChartTable], words: Words) -> bytes:
    look = Look(book)
    heading = look.cell(Format(size=11, bold=True, colour=NAVY))
    look.save()
    widths, captions, left = [], [], 1
    for chart in charts:
        captions.append(_text(letters(left), 1, chart.chart.title, heading))
        for at, column in enumerate(columns_of(chart.table.schema)):
            wide = 24 if not at and column.kind == "text" else 15
            widths.append(f'<col min="{left + at}" max="{left + at}" width="{wide}" customWidth="1"/>')
        left += len(chart.table.schema)
        widths.append(f'<col min="{left}" max="{left}" width="3" customWidth="1"/>')
        left += 1
    return (
        DECLARATION
        + (
            f'<worksheet xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheetPr><tabColor rgb="FF{LINE}"/><pageSetUpPr fitToPage="1"/></sheetPr>'
            f'<dimension ref="A1"/><sheetViews><sheetView showGridLines="0" workbookViewId="0"/></sheetViews><sheetFormatPr defaultRowHeight="15"/>'
            f'<cols>{"".join(widths)}</cols><sheetData><row r="1" ht="20" customHeight="1">{"".join(captions)}</row></sheetData>'
            '<pageMargins left="0.4" right="0.4" top="0.5" bottom="0.6" header="0.3" footer="0.3"/>'
            '<pageSetup paperSize="9" orientation="landscape" fitToWidth="1" fitToHeight="0"/></worksheet>'
        ).encode()
    )
