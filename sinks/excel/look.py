"""How workbooks of ours look: palette, theme, cell formats and conditional formats, added to whatever styles a workbook has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sinks.excel.markup import DECLARATION, Edits, Element, attribute, parse
from sinks.excel.styles import SYMBOLS, format_for, money
from sinks.excel.workbook import Workbook

FONT: Final = "Arial"
SIZE: Final = 10
NAVY, TEAL, AMBER, GREEN, RED, SLATE = "1F3A5F", "2F7F8C", "C77700", "2E7D4F", "B3372F", "8593A3"
INK, MUTED, LINE, PALE, LINK = "1B2733", "66727F", "D5DBE1", "E4E9EE", "1B5E9E"

_DRAWING: Final = "http://schemas.openxmlformats.org/drawingml/2006/main"
_THEME_TYPE: Final = "application/vnd.openxmlformats-officedocument.theme+xml"


@dataclass(frozen=True, slots=True)
class Format:
    """A cell format, as far as ours differ. `edges` are the sides with a hairline; `colour` and `fill` are RRGGBB."""

    number: str = "General"
    size: float = SIZE
    bold: bool = False
    colour: str = INK
    fill: str = ""
    edges: tuple[str, ...] = ()
    edge: str = LINE
    horizontal: str = ""
    vertical: str = "center"
    wrap: bool = False
    shrink: bool = False
    indent: int = 0


HEADER: Final = Format(bold=True, colour="FFFFFF", fill=NAVY, horizontal="left", wrap=True, indent=1)


class Look:
    """The workbook's styles with ours added to them. `save` writes them; existing formats keep their numbers."""

    def __init__(self, book: Workbook) -> None:
        self._book = book
        self._part = next(book.package.proper(r.target) for r in book.relations(book.part) if r.kind == "styles")
        self._data = book.data(self._part)
        root = parse(self._data, self._part)
        self._lists = {element.name: element for element in root.children}
        self._root = root
        self._known = {
            name: [self._data[child.start : child.end] for child in element.children]
            for name, element in self._lists.items()
            if name in ("fonts", "fills", "borders", "cellXfs", "dxfs")
        }
        self._known.setdefault("dxfs", [])
        self._numbers = {code.get("formatCode"): int(code.get("numFmtId")) for code in self._children("numFmts")}
        self._new_numbers: dict[str, int] = {}

    def _children(self, name: str) -> list[Element]:
        return self._lists[name].children if name in self._lists else []

    def cell(self, look: Format) -> int:
        """The index of a cell format."""
        bold = "<b/>" if look.bold else ""
        font = f'<font>{bold}<sz val="{look.size:g}"/><color rgb="FF{look.colour}"/><name val="{FONT}"/><family val="2"/></font>'
        fill = '<fill><patternFill patternType="none"/></fill>'
        if look.fill:
            fill = f'<fill><patternFill patternType="solid"><fgColor rgb="FF{look.fill}"/><bgColor indexed="64"/></patternFill></fill>'
        sides = "".join(
            f'<{side} style="thin"><color rgb="FF{look.edge}"/></{side}>' if side in look.edges else f"<{side}/>"
            for side in ("left", "right", "top", "bottom", "diagonal")
        )
        options = {
            "horizontal": look.horizontal,
            "vertical": look.vertical,
            "indent": str(look.indent or ""),
            "wrapText": "1" if look.wrap else "",
            "shrinkToFit": "1" if look.shrink else "",
        }
        alignment = "".join(f' {name}="{value}"' for name, value in options.items() if value)
        xf = (
            f'<xf numFmtId="{self._number(look.number)}" fontId="{self._place("fonts", font)}" fillId="{self._place("fills", fill)}" '
            f'borderId="{self._place("borders", f"<border>{sides}</border>")}" xfId="0" applyNumberFormat="1" applyFont="1" applyFill="1" '
            f'applyBorder="1" applyAlignment="1"><alignment{alignment}/></xf>'
        )
        return self._place("cellXfs", xf)

    def rule(self, colour: str, fill: str = "", *, bold: bool = False) -> int:
        """The index of a conditional format's look."""
        font = f'<font>{"<b/>" if bold else ""}<color rgb="FF{colour}"/></font>'
        painted = f'<fill><patternFill patternType="solid"><fgColor rgb="FF{fill}"/><bgColor rgb="FF{fill}"/></patternFill></fill>'
        return self._place("dxfs", f"<dxf>{font}{painted if fill else ''}</dxf>")

    def _place(self, name: str, xml: str) -> int:
        known, raw = self._known[name], xml.encode()
        if raw not in known:
            known.append(raw)
        return known.index(raw)

    def _number(self, code: str) -> int:
        if code == "General":
            return 0
        if code not in self._numbers:
            self._numbers[code] = self._new_numbers[code] = max(163, *self._numbers.values()) + 1 if self._numbers else 164
        return self._numbers[code]

    def save(self) -> None:
        """Write the styles part, if anything was added."""
        edits = Edits(self._data)
        for name, known in self._known.items():
            old = len(self._children(name))
            if len(known) == old:
                continue
            if name in self._lists:
                edits.set(self._lists[name], "count", str(len(known)))
                edits.append(self._lists[name], b"".join(known[old:]))
            else:
                styles = self._lists.get("cellStyles", self._lists["cellXfs"])
                edits.after(styles, b'<%s count="%d">%s</%s>' % (name.encode(), len(known), b"".join(known), name.encode()))
        entries = b"".join(
            b'<numFmt numFmtId="%d" formatCode=%s/>' % (number, attribute(code)) for code, number in self._new_numbers.items()
        )
        if entries and "numFmts" in self._lists:
            edits.set(self._lists["numFmts"], "count", str(len(self._numbers)))
            edits.append(self._lists["numFmts"], entries)
        elif entries:
            holding = b'<numFmts count="%d">%s</numFmts>' % (len(self._new_numbers), entries)
            edits.replace(self._root.inner, self._root.inner, holding)
        if edits:
            self._book.put(self._part, edits.result())


def whole_money(currency: str | None) -> str:
    """Money without cents, for sums."""
    return money(currency).replace("0.000", "0").replace("0.00", "0")


def number_format(unit: str, currency: str | None) -> str:
    """The number format of a headline figure."""
    if unit in ("money", "money per day"):
        return whole_money(currency)
    return format_for(unit, "number", currency) if unit != "days" else "#,##0"


def short_money(currency: str | None) -> str:
    """€1.2M, €350K: for charts."""
    symbol = whole_money(currency).partition("#")[0]
    return f'[>=1000000]{symbol}0.0,,"M";[>=1000]{symbol}0,"K";{symbol}0'


def brief_money(value: float, currency: str | None) -> str:
    """€1.2M, −€350K: for names in charts."""
    symbol = SYMBOLS.get(currency, currency) if currency else ""
    size, sign = abs(value), "−" if value < 0 else ""
    for limit, unit, digits in ((1e6, "M", 1), (1e3, "K", 0)):
        if round(size / limit, digits) >= 1:
            return f"{sign}{symbol}{size / limit:,.{digits}f}{unit}"
    return f"{sign}{symbol}{size:,.0f}"


def dress(book: Workbook) -> None:
    """Give a workbook that is still blank our font and our colours."""
    part = next(book.package.proper(r.target) for r in book.relations(book.part) if r.kind == "styles")
    data = book.data(part)
    root, edits = parse(data, part), Edits(data)
    fonts = root.find("fonts")
    assert fonts is not None, "a blank workbook has a font"
    first = fonts.children[0]
    font = f'<font><sz val="{SIZE}"/><color theme="1"/><name val="{FONT}"/><family val="2"/></font>'
    edits.replace(first.start, first.end, font.encode())
    book.put(part, edits.result())
    theme = f"{book.folder}/theme/theme1.xml"
    book.put(theme, _theme())
    book.add_type(theme, _THEME_TYPE)
    book.add_relation(book.part, "theme", theme)


def _theme() -> bytes:
    colours = {
        "dk1": INK,
        "lt1": "FFFFFF",
        "dk2": NAVY,
        "lt2": PALE,
        "accent1": NAVY,
        "accent2": TEAL,
        "accent3": AMBER,
        "accent4": GREEN,
        "accent5": RED,
        "accent6": SLATE,
        "hlink": LINK,
        "folHlink": "6A4C93",
    }
    scheme = "".join(f'<a:{name}><a:srgbClr val="{value}"/></a:{name}>' for name, value in colours.items())
    face = f'<a:latin typeface="{FONT}"/><a:ea typeface=""/><a:cs typeface=""/>'
    solid = '<a:solidFill><a:schemeClr val="phClr"/></a:solidFill>'
    line = f'<a:ln w="9525">{solid}<a:prstDash val="solid"/></a:ln>'
    effect = "<a:effectStyle><a:effectLst/></a:effectStyle>"
    return (
        DECLARATION
        + (
            f'<a:theme xmlns:a="{_DRAWING}" name="Connector"><a:themeElements><a:clrScheme name="Connector">{scheme}</a:clrScheme>'
            f'<a:fontScheme name="Connector"><a:majorFont>{face}</a:majorFont><a:minorFont>{face}</a:minorFont></a:fontScheme>'
            f'<a:fmtScheme name="Connector"><a:fillStyleLst>{solid * 3}</a:fillStyleLst><a:lnStyleLst>{line * 3}</a:lnStyleLst>'
            f"<a:effectStyleLst>{effect * 3}</a:effectStyleLst><a:bgFillStyleLst>{solid * 3}</a:bgFillStyleLst></a:fmtScheme>"
            "</a:themeElements></a:theme>"
        ).encode()
    )
