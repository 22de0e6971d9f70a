"""Which reader a column gets; and the columns that need no proof, or whose very type is to be found out.

A column proves its own decimal mark and date order; one that proves nothing, or both, is an error that names the rows, not a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa

from connector import reading
from connector.column import BAD, Column, Context, by_value, distinct, unlike
from connector.date_columns import ISO, NUMERIC, Dates
from connector.model import COUNT, DATE, FLAG, INSTANT, MONEY, TEXT
from connector.number_columns import PLAINLY_NUMBER, WHOLE, Numbers


def column(kind: pa.DataType | None, context: Context, *, when: bool = False, share: bool = False) -> Column:
    """The reader for a type; None infers it. `when`: an instant that is a date if every value is one. `share`: 0–100 becomes 0–1."""
    if kind is None:
        return Inferred(context)
    if kind == TEXT:
        return Text()
    if kind == FLAG or pa.types.is_boolean(kind):
        return Flag(kind)
    if when or kind in (DATE, INSTANT):
        return Dates(context, None if when else kind)
    return Numbers(context, kind, share=share)


@dataclass(slots=True)
class Text:
    type: pa.DataType = TEXT

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        pass

    def settle(self) -> None:
        pass

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        return values, None

    def why(self, value: str) -> str:
        raise AssertionError("any text is text")


@dataclass(slots=True)
class Flag:
    type: pa.DataType = FLAG
    _memory: dict[str, Any] = field(default_factory=dict)

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        pass

    def settle(self) -> None:
        pass

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        flags, bad = by_value(values, pa.bool_(), self._value, self._memory)
        return flags.cast(self.type), bad

    def why(self, value: str) -> str:
        return "is neither true nor false"

    def _value(self, text: str) -> Any:
        value = reading.flag(text)
        return BAD if value is None else value


class Inferred:
    """The narrowest type every value of a plain table's column has: boolean, whole number, number, date, instant; else text."""

    def __init__(self, context: Context) -> None:
        self.type: pa.DataType = TEXT
        self._settled: Column = Text()
        self._numbers: Numbers | None = Numbers(context, MONEY)
        self._dates: Dates | None = Dates(context)
        self._flag = self._exact = self._whole = True
        self._any = False
        self._memory: dict[str, Any] = {}

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        odd = values
        if self._any and self._numbers and not (self._dates or self._flag):
            self._whole = self._whole and not len(unlike(values, WHOLE))
            odd = unlike(values, PLAINLY_NUMBER)
        elif self._any and self._dates and not (self._numbers or self._flag or self._dates.explicit):
            odd = unlike(values, f"{ISO}|{NUMERIC}")
        for text in distinct(odd, self._memory):
            if not (self._numbers or self._dates or self._flag):
                return
            if text.casefold() in reading.NULL_WORDS:
                continue
            self._any = True
            self._flag = self._flag and text.casefold() in ("true", "false")
            if self._numbers and not self._is_number(text):
                self._numbers = None
            if self._dates and not self._dates.could_read(text):
                self._dates = None
        for candidate in (self._numbers, self._dates):
            if candidate:
                candidate.see(values, rows)

    def settle(self) -> None:
        self._memory.clear()
        if not self._any:
            return
        if self._flag:
            self._settled = Flag(pa.bool_())
        elif self._numbers:
            self._numbers.type = COUNT if self._whole else MONEY if self._exact else pa.float64()
            self._settled = self._numbers
        elif self._dates:
            self._settled = self._dates
        self._settled.settle()
        self.type = self._settled.type

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        return self._settled.read(values)

    def why(self, value: str) -> str:
        return self._settled.why(value)

    def _is_number(self, text: str) -> bool:
        digits = text.lstrip("+-")
        if digits.isdigit() and (len(digits) > 15 or (digits[0] == "0" and len(digits) > 1)):
            return False  # an id: as a number it would lose digits
        written = reading.number(text)
        if written is None or not written.marks():
            return False
        values = [value for mark in written.marks() if (value := written.value(mark)) is not None]
        self._whole = self._whole and written.digits.isdigit() and all(value == value.to_integral_value() for value in values)
        self._exact = self._exact and all(_exponent(value) >= -4 and value.adjusted() < 14 for value in values)
        return True


def _exponent(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent
