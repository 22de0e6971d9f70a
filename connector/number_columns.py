"""Columns of numbers, which prove their own decimal mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.column import BAD, Context, Sample, any_like, by_pattern, by_value, cast_or_none, distinct, prove, sample, unlike
from connector.model import COUNT, TEXT
from connector.reading import Mark, Written

_CODES: Final = "|".join(sorted({*reading.CURRENCY_SIGNS.values()}))
_SPACE: Final = "['’ \u00a0\u202f]"
_SPACED: Final = rf"[1-9]\d{{0,2}}(?:{_SPACE}\d{{3}}){{1,3}}"
CURRENCY: Final = rf"[$€£]|{_CODES}"


def _money(digits: str) -> str:
    return rf"^-?(?:(?:{CURRENCY}) ?)?(?:{digits})(?: ?(?:{CURRENCY}))?$"


def _readable(mark: str, other: str) -> str:
    """What reads with `mark` before the decimals once currency, spaces and the other mark are stripped."""
    return _money(rf"(?:\d{{1,14}}|[1-9]\d{{0,2}}(?:{other}\d{{3}}){{1,3}}|{_SPACED})(?:{mark}\d{{1,4}})?")


def _proving(mark: str, other: str) -> str:
    """What reads with no other mark before the decimals: 1,234.5 · 1,234,567 · 1 234.5 · 1234.567 · 0.123 · 12.5"""
    grouped = rf"[1-9]\d{{0,2}}(?:{other}\d{{3}})"
    return _money(
        rf"{grouped}{{1,3}}{mark}\d+|{grouped}{{2,3}}|{_SPACED}{mark}\d+|\d{{4,14}}{mark}\d+|0{mark}\d+|\d{{1,14}}{mark}(?:\d{{1,2}}|\d{{4,}})"
    )


NEUTRAL: Final = _money(rf"\d{{1,14}}|{_SPACED}")
READABLE: Final[dict[Mark, str]] = {".": _readable(r"\.", ","), ",": _readable(",", r"\.")}
PROVING: Final[dict[Mark, str]] = {".": _proving(r"\.", ","), ",": _proving(",", r"\.")}
WHOLE: Final = r"^-?\d{1,14}$"
#: neither an id nor anything but a number of at most four decimals
PLAINLY_NUMBER: Final = _money(
    rf"(?:0|[1-9]\d{{0,13}}|{_SPACED})(?:[.,]\d{{1,4}})?|[1-9]\d{{0,2}}(?:(?:,\d{{3}}){{1,3}}(?:\.\d{{1,4}})?|(?:\.\d{{3}}){{1,3}}(?:,\d{{1,4}})?)"
)


@dataclass(slots=True)
class Numbers:
    context: Context
    type: pa.DataType
    share: bool = False
    mark: Mark | None = None
    currencies: bool = False  # some value has a currency sign or code
    _proofs: dict[Mark, Sample] = field(default_factory=dict)
    _either: Sample | None = None
    _hundred: bool = False  # a share above 1 shows that the column counts to 100
    _memory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.context.text:
            self.mark = "."
        elif self.context.locale:
            self.mark = reading.decimal_mark(self.context.locale)

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        self.currencies = self.currencies or any_like(values, CURRENCY)
        odd = values if self.share else unlike(values, NEUTRAL)
        for mark, pattern in PROVING.items():
            if not self.share and len(odd):
                proving = pc.match_substring_regex(odd, pattern)
                if (first := pc.index(proving, True).as_py()) >= 0:
                    prove(self._proofs, mark, odd[first].as_py(), values, rows)
                    odd = odd.filter(pc.invert(proving))
        for text in distinct(odd, self._memory):
            if (written := reading.number(text)) is not None:
                self._weigh(text, written, values, rows)

    def _weigh(self, text: str, written: Written, values: pa.Array, rows: pa.Array) -> None:
        self.currencies |= written.currency is not None
        readings = {mark: value for mark in written.marks() if (value := written.value(mark)) is not None}
        if len(readings) == 1:
            prove(self._proofs, next(iter(readings)), text, values, rows)
        elif readings and readings["."] != readings[","] and self._either is None:
            self._either = sample(text, values, rows)
        if self.share and readings and not written.percent:
            self._hundred = self._hundred or max(readings.values()) > 1

    def settle(self) -> None:
        self._memory.clear()
        if self.mark:
            return
        if len(self._proofs) == 2:
            point, comma = self._proofs["."], self._proofs[","]
            raise self.context.error(
                f"{point.value!r} in {self.context.row(point.row)} has a decimal point, {comma.value!r} in {self.context.row(comma.row)} "
                "a decimal comma",
                remedy="set `locale:` (en_US: 1,234.56 · de_DE: 1.234,56); values of the other form are then bad values",
            )
        if not self._proofs and self._either:
            written = reading.number(self._either.value)
            assert written is not None
            raise self.context.error(
                f"{self._either.value!r} in {self.context.row(self._either.row)} is {_plain(written.value('.'))} (decimal point) "
                f"or {_plain(written.value(','))} (decimal comma), and no value of the column shows which",
                remedy="set `locale:`, e.g. en_US (1,234.56) or de_DE (1.234,56)",
            )
        self.mark = next(iter(self._proofs), ".")

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        assert self.mark
        if self.share:
            return by_value(values, self.type, self._value, self._memory)
        return by_pattern(values, WHOLE if self.type == COUNT else READABLE[self.mark], self._cast, self.type, self._value, self._memory)

    def currency(self, values: pa.Array) -> pa.Array:
        """ISO codes of the signs and codes written beside the numbers."""
        around = pc.replace_substring_regex(values, r"[.,]?\d[\d.,'’\s]*", "0")
        return by_value(around, TEXT, self._code, {})[0]

    def _cast(self, values: pa.Array) -> pa.Array | None:
        bare = pc.replace_substring_regex(values, rf"[^\d{self.mark}-]", "")
        return cast_or_none(pc.replace_substring(bare, ",", ".") if self.mark == "," else bare, self.type)

    def why(self, value: str) -> str:
        written = reading.number(value)
        if written and self.mark not in written.marks() and written.marks():
            return f"has a decimal {'comma' if self.mark == '.' else 'point'}, the column's is a {'point' if self.mark == '.' else 'comma'}"
        if written and written.marks() and self.type == COUNT:
            return "is not a whole number"
        return (
            "is not between 0 and 100" if written and self.share else "is too large" if written and written.marks() else "is not a number"
        )

    def _value(self, text: str) -> Any:
        written = reading.number(text)
        value = written.value(self.mark) if written and self.mark else None
        if written is None or value is None:
            return BAD
        if self.share:
            value = value if written.percent or not self._hundred else value / 100
            if not 0 <= value <= 1:
                return BAD
        return fit(value, self.type)

    def _code(self, text: str) -> str | None:
        written = reading.number(text)
        return reading.currency_code(written.currency, self.context.locale) if written and written.currency else None


def fit(value: Decimal, kind: pa.DataType) -> Any:
    """The value as Arrow takes it for a type, rounded half-even to the type's decimals; `BAD` when it does not fit."""
    if pa.types.is_decimal(kind):
        if value.adjusted() >= kind.precision - kind.scale:
            return BAD
        return value.quantize(Decimal(1).scaleb(-kind.scale), ROUND_HALF_EVEN)
    if pa.types.is_integer(kind):
        return int(value) if abs(value) < 2**63 and value == value.to_integral_value() else BAD
    return float(value)


def _plain(value: Decimal | None) -> str:
    return f"{value:f}".rstrip("0").rstrip(".") if value and "." in f"{value:f}" else str(value)
