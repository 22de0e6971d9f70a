"""Values as Tableau shows them: the text of a CSV export and the cells of a crosstab."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Final
from xml.sax.saxutils import escape

from babel import Locale
from babel.dates import format_date
from babel.numbers import get_decimal_symbol, get_group_symbol

from connector.sandbox.tableau.content import Format, Shown, Value, View

PARTS: Final = {"d": "{0.day", "M": "{0.month", "y": "{0.year"}
TEXTUAL: Final = ("text", "date", "month", "datetime")
NAMES: Final = "Measure Names"
VALUES: Final = "Measure Values"


class Display:
    """Formats values for one locale, rounded as a sheet shows them."""

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self._marks = str.maketrans({",": get_group_symbol(locale), ".": get_decimal_symbol(locale)})
        pattern = Locale.parse(locale).datetime_skeletons["yMd"].pattern
        self._day = re.sub("d+|M+|y+", lambda part: PARTS[part[0][0]] + (":02}" if len(part[0]) == 2 else "}"), pattern)

    def text(self, value: Value, form: Format) -> str:
        if value is None:
            return "Null" if form in TEXTUAL else ""
        if isinstance(value, bool):
            return "True" if value else "False"
        if isinstance(value, date):
            return self._moment(value, form)
        if isinstance(value, str):
            return value
        if form == "percent":
            return self._number(value * 100, 1) + "%"
        if form == "money":
            return f"-${self._number(-value, 0)}" if value < 0 else f"${self._number(value, 0)}"
        return self._number(value, 0 if form == "integer" else 2) if form != "text" else str(value)

    def precise(self, value: Value) -> str:
        """As Measure Values shows a number: hardly rounded, with separators, without unit."""
        if value is None:
            return ""
        text = f"{Decimal(str(value)):,.9f}".rstrip("0").rstrip(".") if not isinstance(value, int) else f"{value:,}"
        return text.translate(self._marks)

    def _number(self, value: float | Decimal, decimals: int) -> str:
        return f"{value:,.{decimals}f}".translate(self._marks)

    def _moment(self, value: date, form: Format) -> str:
        if form == "month":
            return format_date(value, "LLLL yyyy", locale=self.locale)
        day = self._day.format(value)
        if not isinstance(value, datetime):
            return day
        hour = f"{value.hour % 12 or 12}:{value:%M:%S %p}" if self.locale == "en_US" else f"{value:%H:%M:%S}"
        return f"{day} {hour}"


def table(view: View, filters: Mapping[str, frozenset[str]], locale: str) -> Iterator[list[str]]:
    """Header and rows of a view's summary data, as text."""
    display = Display(locale)
    marks: Iterable[tuple[Value, ...]] = view.marks(filters)
    if not view.measure_names:
        yield [shown.header for shown in view.shown]
        any_marks = False
        for mark in marks:
            any_marks = True
            yield [display.text(value, shown.format) for shown, value in zip(view.shown, mark, strict=True)]
        if view.totals and any_marks:
            yield [display.text(value, shown.format) for shown, value in zip(view.shown, view.grand_total(filters), strict=True)]
        return
    dimensions = [index for index, shown in enumerate(view.shown) if not shown.measure]
    measures = [index for index, shown in enumerate(view.shown) if shown.measure]
    yield [NAMES, *(view.shown[i].header for i in dimensions), VALUES, *(view.shown[i].header for i in measures)]
    for mark in marks:
        texts = [display.text(value, shown.format) for shown, value in zip(view.shown, mark, strict=True)]
        for measure in measures:
            yield [view.shown[measure].name, *(texts[i] for i in dimensions), display.precise(mark[measure]), *(texts[i] for i in measures)]


def csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """UTF-8, CRLF, quotes by RFC 4180."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()


def crosstab(view: View, filters: Mapping[str, frozenset[str]], locale: str) -> bytes | None:
    """The sheet as Excel shows it: dimensions merged down their groups, the Columns shelf as header rows; None without marks."""
    display = Display(locale)
    marks = list(view.marks(filters))
    if not marks:
        return None
    across = next((i for i, shown in enumerate(view.shown) if shown.caption == view.across), None)
    down = [i for i, shown in enumerate(view.shown) if not shown.measure and i != across]
    measures = [i for i, shown in enumerate(view.shown) if shown.measure]
    if across is None:
        body = [[_cell(display, view.shown[i], mark[i]) for i in (*down, *measures)] for mark in marks]
        return _xlsx([[view.shown[i].header for i in (*down, *measures)]], body, len(down))
    heads = list(dict.fromkeys(display.text(mark[across], view.shown[across].format) for mark in marks))
    lines: dict[tuple[Value, ...], dict[tuple[str, int], Value]] = {}
    for mark in marks:
        line = lines.setdefault(tuple(mark[i] for i in down), {})
        for measure in measures:
            line[display.text(mark[across], view.shown[across].format), measure] = mark[measure]
    cells = [(head, measure) for head in heads for measure in measures]
    top: list[str | float | None] = [*(None for _ in down), *(head if measure == measures[0] else None for head, measure in cells)]
    second: list[str | float | None] = [*(view.shown[i].header for i in down), *(view.shown[m].header for _, m in cells)]
    body = [
        [*(_cell(display, view.shown[i], value) for i, value in zip(down, key, strict=True)), *(_number(line.get(cell)) for cell in cells)]
        for key, line in lines.items()
    ]
    return _xlsx([top, second], body, len(down), span=len(measures))


def _cell(display: Display, shown: Shown, value: Value) -> str | float | None:
    return _number(value) if shown.measure else display.text(value, shown.format)


def _number(value: Value) -> float | None:
    assert not isinstance(value, str | date)
    return None if value is None else float(value)


_TYPES: Final = (
    '<?xml version="1.0" encoding="UTF-8"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>'
)
_RELS: Final = (
    '<?xml version="1.0" encoding="UTF-8"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}" Target="{target}"/>'
    "</Relationships>"
)
_WORKBOOK: Final = (
    '<?xml version="1.0" encoding="UTF-8"?><workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
    '<sheets><sheet name="Sheet 1" sheetId="1" r:id="rId1"/></sheets></workbook>'
)


def _xlsx(heads: Sequence[Sequence[str | float | None]], body: Sequence[Sequence[str | float | None]], down: int, span: int = 1) -> bytes:
    """A workbook of one sheet; equal neighbours in the first `down` columns are merged, as are `span` cells of the first header row."""
    merged = list(_groups(heads, body, down))
    if len(heads) > 1 and span > 1:
        merged += [f"{_name(start)}1:{_name(start + span - 1)}1" for start in range(down, len(heads[0]), span)]
    lines = [list(row) for row in (*heads, *body)]
    for area in merged:
        first, last = area.split(":")
        column = first.rstrip("0123456789")
        if last.rstrip("0123456789") == column:
            for row in range(int(first[len(column) :]), int(last[len(column) :])):
                lines[row][_index(column)] = None
    rows = "".join(f'<row r="{number}">{_row(number, row)}</row>' for number, row in enumerate(lines, 1))
    merges = f'<mergeCells count="{len(merged)}">' + "".join(f'<mergeCell ref="{area}"/>' for area in merged) + "</mergeCells>"
    sheet = (
        '<?xml version="1.0" encoding="UTF-8"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f"<sheetData>{rows}</sheetData>{merges if merged else ''}</worksheet>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        for name, text in {
            "[Content_Types].xml": _TYPES,
            "_rels/.rels": _RELS.format(kind="officeDocument", target="xl/workbook.xml"),
            "xl/workbook.xml": _WORKBOOK,
            "xl/_rels/workbook.xml.rels": _RELS.format(kind="worksheet", target="worksheets/sheet1.xml"),
            "xl/worksheets/sheet1.xml": sheet,
        }.items():
            package.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def _groups(heads: Sequence[object], body: Sequence[Sequence[str | float | None]], down: int) -> Iterator[str]:
    for column in range(max(0, down - 1)):  # the innermost dimension names a row and is never merged
        start = 0
        for row in range(1, len(body) + 1):
            if row == len(body) or list(body[row][: column + 1]) != list(body[start][: column + 1]):
                if row - start > 1:
                    yield f"{_name(column)}{start + len(heads) + 1}:{_name(column)}{row + len(heads)}"
                start = row


def _name(column: int) -> str:
    name, column = "", column + 1
    while column:
        column, rest = divmod(column - 1, 26)
        name = chr(65 + rest) + name
    return name


def _index(name: str) -> int:
    index = 0
    for letter in name:
        index = index * 26 + ord(letter) - 64
    return index - 1


def _row(number: int, values: Sequence[str | float | None]) -> str:
    return "".join(
        f'<c r="{_name(column)}{number}"><v>{value!r}</v></c>'
        if isinstance(value, float)
        else f'<c r="{_name(column)}{number}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
        for column, value in enumerate(values)
        if value not in (None, "")
    )
