"""The part that says where an Excel table is and which columns it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from connector.errors import TargetError
from sinks.excel.markup import DECLARATION, MAIN, Edits, Element, attribute, damaged, parse, prefix
from sinks.excel.references import Area, Move

STYLE: Final = "TableStyleMedium2"
_ESCAPE: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as the workbook has it. `formula` is set for a calculated column."""

    id: int
    name: str
    formula: str | None = None


class Table:
    """A table part, read; and written anew by changing only what follows the data."""

    def __init__(self, data: bytes, part: str) -> None:
        self.part = part
        self._data = data
        root = self._root = parse(data, part)
        if root.name != "table" or root.space != MAIN:
            raise damaged(part, "it does not describe a table")
        self.id = _count(root, "id", part)
        self.name = root.get("displayName") or root.get("name")
        self.area = Area.read(root.get("ref"))
        self.header = _count(root, "headerRowCount", part, 1) > 0
        self.totals = _count(root, "totalsRowCount", part, 0) > 0
        self.queried = root.get("tableType") == "queryTable"
        holder = root.find("tableColumns")
        self._columns: list[Element] = holder.all("tableColumn") if holder else []
        self._holder = holder
        self.columns = tuple(_column(element, part) for element in self._columns)
        if len(self.columns) != self.area.right - self.area.left + 1:
            raise damaged(part, f"it lists {len(self.columns)} columns for the range {self.area}")
        if self.area.top + self.header + self.totals > self.area.bottom + 1:
            raise damaged(part, f"its range {self.area} has no room for its header and total row")

    @property
    def first(self) -> int:
        """The first row of data."""
        return self.area.top + self.header

    @property
    def last(self) -> int:
        """The last row of data; a table always has one, if only a blank one."""
        return self.area.bottom - self.totals

    @property
    def filtered(self) -> bool:
        """Whether a filter hides rows."""
        filter_ = self._root.find("autoFilter")
        return bool(filter_ and filter_.find("filterColumn"))

    @property
    def sorted_by(self) -> frozenset[int]:
        """The columns of the sheet by which somebody sorted the table."""
        areas = (Area.read(element.get("ref")) for element in self._root.walk() if element.name == "sortCondition" and element.get("ref"))
        return frozenset(area.left for area in areas)

    def followed(self, move: Move, added: Sequence[str]) -> bytes:
        """The part after the data moved and columns of ours were added at the right end."""
        edits = Edits(self._data)
        right = self.area.right + len(added)
        bottom = move.new_end
        top = self.area.top
        edits.set(self._root, "ref", Area(top, self.area.left, bottom, right).span)
        edits.set(self._root, "insertRow", None)  # Excel's blank row of a table that had no data
        for element in self._root.walk():
            if element.name in ("autoFilter", "sortState", "sortCondition") and element.get("ref"):
                area = Area.read(element.get("ref"))
                wide = right if element.name != "sortCondition" and area.right == self.area.right else area.right
                low = move.new_last if area.bottom in (move.last, move.end) else area.bottom
                edits.set(element, "ref", Area(area.top, area.left, max(low, area.top), wide).span)
            elif element.name in ("calculatedColumnFormula", "totalsRowFormula") and element.text:
                edits.text(element, move.own(element.text))
        if added and self._holder:
            lead = prefix(self._data, self._root)
            next_id = max(column.id for column in self.columns) + 1
            new = b"".join(
                b"<%stableColumn id=%s name=%s/>" % (lead, attribute(str(next_id + place)), attribute(escaped_name(name)))
                for place, name in enumerate(added)
            )
            edits.set(self._holder, "count", str(len(self.columns) + len(added)))
            edits.append(self._holder, new)
        return edits.result()


def new_table(number: int, name: str, area: Area, headings: Sequence[str], *, styled: bool = True, filtered: bool = True) -> bytes:
    """A fresh table part. `area` includes the header; `filtered` gives it filter buttons."""
    columns = b"".join(
        b"<tableColumn id=%s name=%s/>" % (attribute(str(place)), attribute(escaped_name(heading)))
        for place, heading in enumerate(headings, 1)
    )
    style = b'<tableStyleInfo name="%s" showFirstColumn="0" showLastColumn="0" showRowStripes="1" showColumnStripes="0"/>' % STYLE.encode()
    return (
        DECLARATION + b'<table xmlns="%s" id="%d" name=%s displayName=%s ref="%s" totalsRowShown="0">'
        b'%s<tableColumns count="%d">%s</tableColumns>%s</table>'
        % (
            MAIN.encode(),
            number,
            attribute(name),
            attribute(name),
            area.span.encode(),
            b'<autoFilter ref="%s"/>' % area.span.encode() if filtered else b"",
            len(headings),
            columns,
            style if styled else b"",
        )
    )


def escaped_name(name: str) -> str:
    """A heading as the table part spells it: line breaks and look-alike escapes as `_xHHHH_`."""
    name = _ESCAPE.sub(r"_x005F_x\1_", name)
    return re.sub(r"[\x00-\x1f]", lambda match: f"_x{ord(match[0]):04X}_", name)


def unescaped(text: str) -> str:
    """`_x000a_` back to the character it stands for."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def matching(name: str) -> str:
    """Headings are the same when they differ only by case and white space."""
    return " ".join(name.split()).casefold()


def usable_name(text: str) -> str:
    """A table name Excel accepts, from any words: letters, digits, underscore, dot; not like a cell."""
    name = re.sub(r"[^\w.]+", "_", text).strip("_") or "Table"
    if not (name[0].isalpha() or name[0] == "_") or re.fullmatch(r"[A-Za-z]{1,3}[0-9]+|[RrCc]|[Rr][0-9]*[Cc][0-9]*", name):
        name = "_" + name
    return name[:250]


def _column(element: Element, part: str) -> TableColumn:
    formula = element.find("calculatedColumnFormula")
    return TableColumn(_count(element, "id", part), unescaped(element.get("name")), formula.text if formula else None)


def _count(element: Element, name: str, part: str, default: int | None = None) -> int:
    text = element.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise TargetError(
            f"part {part} of the workbook: {name}={text[:20]!r} is not a number", remedy="open and save the workbook in Excel"
        )
    return int(text)
