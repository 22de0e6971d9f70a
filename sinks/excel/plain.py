"""Rows of data in which nothing needs to be kept, recognised thousands at a time; the others are looked at one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from sinks.excel.markup import escaped
from sinks.excel.references import letters
from sinks.excel.region import Slot

MOST_COLUMNS: Final = 250  # beyond it the pattern would outgrow the engine's automaton
TEXT: Final = r"[^<]*"


class PlainRows:
    """Knows what a row looks like whose cells are all ours, or a teammate's usual formula, in the columns' usual formats."""

    def __init__(self, slots: Sequence[Slot], styles: Mapping[int, int], formulas: Mapping[int, str], lead: str) -> None:
        cells = "".join(_cell(slot, styles.get(slot.place, 0), formulas.get(slot.place), lead) for slot in slots)
        self._close = f"</{lead}row>"
        undecided = r'(?: (?:spans|ht|[A-Za-z0-9]+:dyDescent)="[0-9:. ]*"| (?:customFormat|customHeight|hidden|collapsed|outlineLevel)="(?:0|false)")*'
        self._pattern = rf'^<{lead}row r="[0-9]+"{undecided}>{cells}$'

    def others(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Of a run of whole rows, those that are not plain: their index and text."""
        rows = pc.split_pattern(pa.array([text], pa.binary()), pattern=self._close).values
        rows = rows.slice(0, len(rows) - 1)  # nothing follows the last closing tag
        plain = pc.match_substring_regex(rows, self._pattern)
        for index in pc.indices_nonzero(pc.invert(plain)).to_pylist():
            yield index, rows[index].as_py() + self._close.encode()


def _cell(slot: Slot, style: int, formula: str | None, lead: str) -> str:
    """What a column's cell may be: left out, blank, a value if it is ours, the usual formula if it is not."""
    start = f'<{lead}c r="{letters(slot.place)}[0-9]+"' + (f' s="{style}"' if style else '(?: s="0")?')
    end = f"</{lead}c>"
    value = f"<{lead}v>{TEXT}</{lead}v>"
    if slot.ours is not None:
        inline = f'<{lead}is><{lead}t(?: xml:space="preserve")?>{TEXT}</{lead}t></{lead}is>'
        return f'(?:{start}(?:/>|>{value}{end}| t="(?:inlineStr">{inline}|[bsn]">{value}){end}))?'
    if formula is None:
        return f"(?:{start}/>)?"
    text = re.escape(escaped(formula).decode())
    return f'{start}(?: t="(?:str|b|e|n)")?><{lead}f>{text}</{lead}f>(?:{value}|<{lead}v/>)?{end}'
