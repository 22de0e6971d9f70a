"""A sheet for one table: widths, header, frozen panes, conditional formats and print set-up, before the engine puts the rows in."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from connector.api import Output
from sinks.excel.cells import Column
from sinks.excel.locate import Prepared
from sinks.excel.look import AMBER, GREEN, HEADER, INK, LINK, MUTED, RED, SLATE, TEAL, Format, Look, dress, whole_money
from sinks.excel.markup import DECLARATION, MAIN, RELATIONS, Edits, escaped, parse, prefix
from sinks.excel.references import letters, quoted
from sinks.excel.styles import format_for
from sinks.excel.workbook import Sheet, Workbook

#: tables whose money is a record's own and keeps its cents
RECORDS: Final = frozenset(
    {
        "deals",
        "leads",
        "deal_products",
        "deal_contacts",
        "products",
        "activities",
        "contacts",
        "accounts",
        "owners",
        "stages",
        "stage_entries",
        "rates",
    }
)
NOTES: Final = frozenset({"definitions", "data_quality", "about"})
#: columns for those who calculate with the table; they stand behind the others
TECHNICAL: Final = frozenset({"metric", "unit", "stage_order", "is_open", "is_won", "is_lost", "is_closed", "modified_at", "source"})
#: columns that hold codes of ours; sheets of the standard workbook show words in their place
CODED: Final = {
    "kpis": ("period",),
    "deals": ("status",),
    "stage_conversion": ("basis",),
    "stage_entries": ("outcome", "basis"),
    "what_changed": ("change",),
    "stalled_deals": ("basis",),
    "follow_ups": ("reason",),
    "pipeline_balance": ("verdict", "basis"),
    "lead_targets": ("span",),
    "forecast": ("forecast_category",),
    "data_quality": ("severity",),
}
Codes = Mapping[str, Mapping[str, str]]
#: shares and growth with an arrow
CHANGES: Final = ("change_pct", "revenue_growth", "win_rate_gap", "revenue_share_gap", "lead_share_gap")
#: columns that a table's rules look at
NEEDED: Final = {
    "follow_ups": {"days_overdue"},
    "stalled_deals": {"days_over"},
    "pipeline_balance": {"verdict"},
    "data_quality": {"severity"},
    "what_changed": {"change"},
    "customers": {"is_at_risk"},
    "deals": {"is_open", "expected_close_date"},
}
WIDEST: Final = 44.0
LONG: Final = 60.0  # width of texts that wrap
PAPER: Final = 240.0  # widths a landscape page takes and stays readable
LINE_HEIGHT: Final = 13.0  # points
BUTTON: Final = 3.0  # room for the filter button
SOFT: Final = {RED: "FBE9E7", AMBER: "FFF3DC", GREEN: "E6F3EA"}


@dataclass(frozen=True, slots=True)
class Page:
    """The sheet of one table."""

    name: str
    output: Output
    page: str
    codes: Codes

    def prepare(self, book: Workbook, columns: Sequence[Column]) -> Prepared:
        """Make the sheet; the engine adds the table at its top left."""
        if not book.sheets:
            dress(book)
        look = Look(book)
        sample = _sample(self.output)
        formats = {column.name: style for column in columns if (style := self._format(look, column)) is not None}
        header = look.cell(HEADER)
        rules = list(self._rules(look, columns))
        look.save()
        widths = [self._width(column, sample) for column in columns]
        lines = max((_lines(column.heading, width - BUTTON) for column, width in zip(columns, widths, strict=True)), default=1)
        sheet = book.add_sheet(self.output.title or self.name, self._xml(columns, widths, rules))
        _repeat_header(book, sheet)
        return Prepared(sheet, header, 8 + LINE_HEIGHT * lines, formats)

    def _format(self, look: Look, column: Column) -> int | None:
        """A format of our own where the engine's usual one is not the best."""
        if self.name in NOTES:
            wordy = column.kind == "text"
            return look.cell(Format(vertical="top", horizontal="left" if wordy else "", wrap=wordy, indent=int(wordy)))
        if column.kind == "text":
            return look.cell(Format(horizontal="left", vertical="", indent=1, colour=LINK if column.unit == "url" else INK))
        if column.kind in ("date", "instant"):
            return look.cell(Format(number=format_for(None, column.kind, None), horizontal="center", vertical=""))
        number = None
        if column.unit in ("money", "money per day") and self.name not in RECORDS:
            number = whole_money(column.currency)
        elif column.name in CHANGES:
            number = '"▲ "0.0%;"▼ "0.0%;0.0%'
        elif column.name in ("numerator", "denominator") or (column.unit == "days" and pa.types.is_integer(column.type)):
            number = "#,##0"
        elif column.name == "rate":
            number = "0.0000"
        return look.cell(Format(number=number, vertical="")) if number else None

    def _width(self, column: Column, sample: pa.RecordBatch | None) -> float:
        words = max((_wide(word) for word in column.heading.split()), default=1)
        half = _wide(column.heading) / 2 + 2
        least = max(words, half) + BUTTON
        if column.kind == "text":
            longest = _longest(sample, column.name)
            if self.name in NOTES and longest > WIDEST:
                return LONG
            return min(max(longest + 3, least, 8), WIDEST)
        if column.kind in ("date", "instant"):
            return max({"date": 12.0, "instant": 17.5}[column.kind], least)
        return max(_longest_number(sample, column) + 2.5, least, 8)

    def heights(self, batch: pa.RecordBatch) -> list[float]:
        """The height of each row whose texts wrap: people who open the file elsewhere than in Excel get no other."""
        texts = [batch.column(at).to_pylist() for at, field in enumerate(batch.schema) if pa.types.is_string(field.type)]
        return [3 + LINE_HEIGHT * max(_lines(text or "", LONG - 6) for text in row) for row in zip(*texts, strict=True)]

    # ── rules ──

    def _rules(self, look: Look, columns: Sequence[Column]) -> Iterator[str]:
        """Conditional formats where they help to see what matters."""
        area = {column.name: letters(at) for at, column in enumerate(columns, 1)}
        last = self.output.rows + 1
        whole = f"A2:{letters(len(columns))}{last}"

        def span(name: str) -> str:
            return f"{area[name]}2:{area[name]}{last}"

        def alike(name: str, code: str, colour: str) -> str:
            style = look.rule(colour, SOFT.get(colour, ""), bold=True)
            return _rule(span(name), f'type="cellIs" dxfId="{style}" operator="equal"', f'"{self.codes[name][code]}"')

        match self.name if NEEDED.get(self.name, set()) <= area.keys() else None:
            case "follow_ups":
                yield _rule(
                    span("days_overdue"), f'type="cellIs" dxfId="{look.rule(RED, SOFT[RED], bold=True)}" operator="greaterThan"', "30"
                )
                yield _rule(span("days_overdue"), f'type="cellIs" dxfId="{look.rule(AMBER, SOFT[AMBER])}" operator="greaterThan"', "0")
            case "stalled_deals":
                yield _bar(span("days_over"), AMBER)
            case "pipeline_balance":
                yield alike("verdict", "crowded", AMBER)
                yield alike("verdict", "thin", RED)
                yield alike("verdict", "healthy", GREEN)
            case "data_quality":
                yield alike("severity", "error", RED)
                yield alike("severity", "warning", AMBER)
            case "what_changed":
                yield alike("change", "won", GREEN)
                yield alike("change", "lost", RED)
                yield alike("change", "removed", RED)
            case "customers":
                yield _rule(whole, f'type="expression" dxfId="{look.rule(AMBER)}"', f"${area['is_at_risk']}2=1")
            case "deals":
                overdue = f'AND(${area["is_open"]}2=1,${area["expected_close_date"]}2<>"",${area["expected_close_date"]}2<TODAY())'
                yield _rule(span("expected_close_date"), f'type="expression" dxfId="{look.rule(RED, SOFT[RED])}"', overdue)
        if self.name.startswith("by_") or self.name in ("product_mix", "stage_conversion"):
            for name in ("revenue", "conversion"):
                if name in area:
                    yield _bar(span(name), "A9BDD3")
        for name in CHANGES:
            if name in area and self.name != "kpis":
                yield _rule(span(name), f'type="cellIs" dxfId="{look.rule(GREEN)}" operator="greaterThan"', "0")
                yield _rule(span(name), f'type="cellIs" dxfId="{look.rule(RED)}" operator="lessThan"', "0")

    # ── text ──

    def _xml(self, columns: Sequence[Column], widths: Sequence[float], rules: Sequence[str]) -> bytes:
        cols = "".join(
            f'<col min="{at}" max="{at}" width="{width:.1f}" customWidth="1"/>'
            for at, (column, width) in enumerate(zip(columns, widths, strict=True), 1)
        )
        fixed = 0 if self.name in NOTES or sum(widths) < 140 else _fixed(columns)
        corner = f"{letters(fixed + 1)}2"
        split = f'xSplit="{fixed}" ' if fixed else ""
        pane = f'<pane {split}ySplit="1" topLeftCell="{corner}" '
        where = "bottomRight" if fixed else "bottomLeft"
        pane += f'activePane="{where}" state="frozen"/><selection pane="{where}" activeCell="{corner}" sqref="{corner}"/>'
        numbered = "".join(re.sub("PRIORITY", str(at), rule) for at, rule in enumerate(rules, 1))
        colour = SLATE if self.name in RECORDS else MUTED if self.name in NOTES else TEAL
        return (
            DECLARATION
            + (
                f'<worksheet xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheetPr><tabColor rgb="FF{colour}"/><pageSetUpPr fitToPage="1"/></sheetPr>'
                f'<dimension ref="A1"/><sheetViews><sheetView showGridLines="0" workbookViewId="0">{pane}</sheetView></sheetViews>'
                f'<sheetFormatPr defaultRowHeight="15"/><cols>{cols}</cols><sheetData/>{numbered}'
                '<pageMargins left="0.4" right="0.4" top="0.5" bottom="0.6" header="0.3" footer="0.3"/>'
                f'<pageSetup paperSize="9" orientation="landscape" fitToWidth="{math.ceil(sum(widths) / PAPER)}" fitToHeight="0"/>'
                f"<headerFooter><oddFooter>&amp;L&amp;A&amp;R{escaped(self.page).decode()}</oddFooter></headerFooter></worksheet>"
            ).encode()
        )


def _fixed(columns: Sequence[Column]) -> int:
    """How many columns stay in sight: up to the name of the row."""
    names = [column.name for column in columns[:3]]
    return names.index("name") + 1 if "name" in names else names.index("label") + 1 if "label" in names else 1


def _rule(span: str, attributes: str, formula: str) -> str:
    formula = escaped(formula).decode()
    return f'<conditionalFormatting sqref="{span}"><cfRule {attributes} priority="PRIORITY"><formula>{formula}</formula></cfRule></conditionalFormatting>'


def _bar(span: str, colour: str) -> str:
    bar = f'<dataBar><cfvo type="num" val="0"/><cfvo type="max"/><color rgb="FF{colour}"/></dataBar>'
    return f'<conditionalFormatting sqref="{span}"><cfRule type="dataBar" priority="PRIORITY">{bar}</cfRule></conditionalFormatting>'


def readable(output: Output, codes: Codes) -> Output:
    """The table as people read it: technical columns at the end, words for codes."""
    names = sorted(output.schema.names, key=lambda name: name in TECHNICAL or (output.name == "definitions" and name == "name"))
    schema = pa.schema([output.schema.field(name) for name in names], output.schema.metadata)
    coded = CODED.get(output.name, ())

    def shown(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [_said(batch.column(name), codes[name]) if name in coded else batch.column(name) for name in names]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def read() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, (shown(batch) for batch in output.open()))

    return replace(output, schema=schema, open=read)


def _said(values: pa.Array, words: Mapping[str, str]) -> pa.Array:
    """The word for each code; what is no code stays as it is."""
    encoded = values.dictionary_encode()
    return pa.array([words.get(value, value) for value in encoded.dictionary.to_pylist()], values.type).take(encoded.indices)


def _sample(output: Output) -> pa.RecordBatch | None:
    """The first rows, for widths."""
    reader = output.open()
    sample = next((batch for batch in reader if batch.num_rows), None)
    reader.close()
    return sample


def _wide(text: str) -> int:
    """How many digits wide a text is; East Asian letters count as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _lines(text: str, width: float) -> int:
    lines, used = 1, 0.0
    for word in text.split():
        if used and used + 1 + _wide(word) > width:
            lines, used = lines + 1, 0
        used += _wide(word) + (1 if used else 0)
        while used > width:  # a word too long for a line is broken
            lines, used = lines + 1, used - width
    return lines


def _longest(sample: pa.RecordBatch | None, name: str) -> float:
    if sample is None or not sample.num_rows:
        return 0
    values = sample.column(name)
    if not pa.types.is_string(values.type):
        values = values.cast(pa.string())
    longest = values.filter(pc.equal(pc.utf8_length(values), pc.max(pc.utf8_length(values))))
    return float(_wide(longest[0].as_py())) if len(longest) else 0


def _longest_number(sample: pa.RecordBatch | None, column: Column) -> float:
    """The width of the largest number in its format."""
    if sample is None or column.kind != "number":
        return 8
    span: dict[str, Any] = pc.min_max(sample.column(column.name).cast(pa.float64())).as_py()
    largest = max(abs(span["max"] or 0), abs(span["min"] or 0))
    digits = len(f"{largest:,.0f}") + (1 if (span["min"] or 0) < 0 else 0)
    extra = {"money": 5, "money per day": 5, "percent": 5, "days": 2, "ratio": 3}.get(column.unit or "", 0)
    return digits + (8 if column.unit_by else extra)


def _repeat_header(book: Workbook, sheet: Sheet) -> None:
    """Print the header row on every page."""
    data = book.data(book.part)
    root, edits = parse(data, book.part), Edits(data)
    lead = prefix(data, root)
    formula = escaped(f"{quoted(sheet.name)}!$1:$1")
    entry = b'<%sdefinedName name="_xlnm.Print_Titles" localSheetId="%d">%s</%sdefinedName>' % (lead, sheet.index, formula, lead)
    holder = root.find("definedNames")
    if holder is not None:
        edits.append(holder, entry)
    else:
        before = next(element for name in ("externalReferences", "functionGroups", "sheets") if (element := root.find(name)))
        edits.after(before, b"<%sdefinedNames>%s</%sdefinedNames>" % (lead, entry, lead))
    book.put(book.part, edits.result())
