"""Cell formats: which of the workbook's formats a value may keep, and new ones added behind those that are there."""

from __future__ import annotations

import re
from typing import Final, Literal

from sinks.excel.markup import MAIN, Edits, Element, attribute, damaged, parse, prefix

Kind = Literal["number", "date", "instant", "time", "duration", "flag", "text"]

#: numFmtId → code of the formats every workbook has (ECMA-376 part 1, 18.8.30)
BUILT_IN: Final = {0: "General", 1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 49: "@"}
DATES: Final = frozenset((*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)))
DATE: Final = "yyyy\\-mm\\-dd"
INSTANT: Final = "yyyy\\-mm\\-dd\\ hh:mm"
SYMBOLS: Final = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥", "CNY": "¥", "INR": "₹", "KRW": "₩", "CHF": "CHF"}
WHOLE: Final = frozenset({"JPY", "KRW", "VND", "CLP", "ISK", "XOF", "XAF", "PYG", "UGX", "RWF", "BIF", "DJF", "GNF", "KMF", "VUV", "XPF"})
THREE: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})


def money(currency: str | None) -> str:
    """The number format of a currency: `[$€-x-euro2]`-free, so that it reads the same in every locale."""
    digits = "0" if currency in WHOLE else "0.000" if currency in THREE else "0.00"
    number = "#,##" + digits
    if not currency:
        return number
    symbol = SYMBOLS.get(currency, currency)
    front = f'"{symbol} "' if len(symbol) > 1 else f'"{symbol}"'
    return f"{front}{number};\\-{front}{number}"


def format_for(unit: str | None, kind: Kind, currency: str | None) -> str:
    """The number format a column gets when nobody chose another one."""
    if kind in ("date", "instant", "time", "duration"):
        return {"date": DATE, "instant": INSTANT, "time": "hh:mm:ss", "duration": "[h]:mm:ss"}[kind]
    if kind != "number":
        return "General"
    if unit in ("money", "money per day"):
        return money(currency)
    return {"percent": "0.0%", "ratio": "0.00", "days": "#,##0.0", "count": "#,##0"}.get(unit or "", "General")


#: units a number can have, for columns that say it row by row
UNITS: Final = ("money", "money per day", "percent", "days", "count", "ratio")


def is_date(code: str) -> bool:
    """Whether Excel shows a number with this format as a date or time."""
    plain = re.sub(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', "", code.partition(";")[0])
    return bool(re.search(r"[dmyhsDMYHS]", plain)) and "General" not in plain


class Styles:
    """The styles part: looks formats up and appends the ones that are missing; existing ones keep their numbers."""

    def __init__(self, data: bytes, part: str = "xl/styles.xml") -> None:
        self._data = data
        self._root = parse(data, part)
        self.part = part
        cells = self._root.find("cellXfs")
        if self._root.name != "styleSheet" or self._root.space != MAIN or cells is None or not cells.children:
            raise damaged(part, "it holds no cell formats")
        self._cells: Element = cells
        self._formats: list[bytes] = [data[xf.start : xf.end] for xf in cells.all("xf")]
        self._known = len(self._formats)
        self._numbers: dict[int, str] = dict(BUILT_IN)
        self._new_numbers: dict[int, str] = {}
        for number in self._custom():
            self._numbers[_int(number.get("numFmtId"), part)] = number.get("formatCode")

    def _custom(self) -> list[Element]:
        holder = self._root.find("numFmts")
        return holder.all("numFmt") if holder else []

    def code(self, style: int) -> str:
        """The number format of a cell format."""
        return self._code(self._number(style))

    def _code(self, number: int) -> str:
        if number in self._numbers:
            return self._numbers[number]
        return DATE if number in DATES else "General" if number == 0 else "0"

    def _number(self, style: int) -> int:
        if not 0 <= style < len(self._formats):
            return 0
        found = re.search(rb"""\snumFmtId\s*=\s*["']([0-9]+)["']""", self._opening(style))
        return int(found[1]) if found else 0

    def _opening(self, style: int) -> bytes:
        return self._formats[style].partition(b">")[0] + b">"

    def fitting(self, style: int, unit: str | None, kind: Kind, currency: str | None) -> int:
        """The cell format for a column: the teammate's where it can show the value, else a copy of it with our number format."""
        style = style if 0 <= style < len(self._formats) else 0
        current = self.code(style)
        wanted = format_for(unit, kind, currency)
        if kind in ("text", "flag"):
            return style
        temporal = kind in ("date", "instant", "time", "duration")
        fits = is_date(current) if temporal else not is_date(current) and (current != "General" or wanted == "General")
        return style if fits and current != "@" else self._with_number(style, wanted)

    def showing(self, style: int, unit: str, currency: str | None) -> int:
        """A copy of a cell format that shows numbers of this unit."""
        return self._with_number(style, format_for(unit, "number", currency))

    def _with_number(self, style: int, code: str) -> int:
        number = self._number_for(code)
        raw = self._formats[style]
        opening, rest = self._opening(style), raw[len(self._opening(style)) :]
        empty = opening.endswith(b"/>")
        opening = re.sub(rb"""\s(numFmtId|applyNumberFormat)\s*=\s*("[^"]*"|'[^']*')""", b"", opening.rstrip(b"/>"))
        name, _, others = opening.partition(b" ")
        new = name + b' numFmtId="%d"' % number + (b" " + others.strip() if others.strip() else b"") + b' applyNumberFormat="1"'
        new += b"/>" if empty else b">" + rest
        if new in self._formats:
            return self._formats.index(new)
        self._formats.append(new)
        return len(self._formats) - 1

    def _number_for(self, code: str) -> int:
        for number, known in self._numbers.items():
            if known == code:
                return number
        number = max(163, *self._numbers) + 1
        self._numbers[number] = self._new_numbers[number] = code
        return number

    @property
    def changed(self) -> bool:
        return len(self._formats) > self._known

    def result(self) -> bytes:
        """The part with the new formats behind the old ones; unchanged when there are none."""
        edits = Edits(self._data)
        lead = prefix(self._data, self._root)
        added = self._formats[self._known :]
        if added:
            edits.set(self._cells, "count", str(len(self._formats)))
            edits.append(self._cells, b"".join(added))
        if self._new_numbers:
            entries = b"".join(
                b'<%snumFmt numFmtId="%d" formatCode=%s/>' % (lead, number, attribute(code)) for number, code in self._new_numbers.items()
            )
            holder = self._root.find("numFmts")
            if holder:
                edits.set(holder, "count", str(len(holder.children) + len(self._new_numbers)))
                edits.append(holder, entries)
            else:
                holding = b'<%snumFmts count="%d">%s</%snumFmts>' % (lead, len(self._new_numbers), entries, lead)
                edits.replace(self._root.inner, self._root.inner, holding)
        return edits.result()


def _int(text: str, part: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise damaged(part, f"{text[:20]!r} where a number is expected")
    return int(text)
