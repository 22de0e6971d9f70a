"""One column of text to one Arrow type: first the whole column is seen, then it is settled how it reads, then it is read.

A column proves its own decimal mark and date order; one that proves nothing, or both, is an error that names the rows, not a guess.
Most values are read by Arrow in one go; the odd ones once per distinct value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.errors import SourceError
from connector.model import COUNT, DATE, FLAG, INSTANT, MONEY, TEXT
from connector.reading import Mark, Moment, Order, Written

REMEMBERED: Final = 100_000  # distinct values kept per column, so that memory stays flat


def _money(digits: str) -> str:
    return rf"^-?[$€£]?(?:{digits})(?: ?[$€£])?$"


def _readable(mark: str, other: str) -> str:
    """What reads with `mark` before the decimals once the sign and the other mark are stripped."""
    return _money(rf"(?:\d{{1,14}}|[1-9]\d{{0,2}}(?:{other}\d{{3}}){{1,3}})(?:{mark}\d{{1,4}})?")


def _proving(mark: str, other: str) -> str:
    """What reads with no other mark before the decimals: 1,234.5 · 1,234,567 · 1234.567 · 0.123 · 12.5"""
    grouped = rf"[1-9]\d{{0,2}}(?:{other}\d{{3}})"
    return _money(rf"{grouped}{{1,3}}{mark}\d+|{grouped}{{2,3}}|\d{{4,14}}{mark}\d+|0{mark}\d+|\d{{1,14}}{mark}(?:\d{{1,2}}|\d{{4,}})")


NEUTRAL: Final = _money(r"\d{1,14}")
READABLE: Final[dict[Mark, str]] = {".": _readable(r"\.", ","), ",": _readable(",", r"\.")}
PROVING: Final[dict[Mark, str]] = {".": _proving(r"\.", ","), ",": _proving(",", r"\.")}
WHOLE: Final = r"^-?\d{1,14}$"
CANONICAL: Final = r"^-?(0|[1-9]\d{0,13})(\.\d{1,4})?$"  # neither an id nor a number with a choice of reading
ISO_DAY: Final = r"^\d{4}-\d\d-\d\d$"
ISO_INSTANT: Final = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z)$"


@dataclass(frozen=True, slots=True)
class Context:
    """What a column needs to know to speak of itself: its name, and the words for a row ("deals.csv, row 5")."""

    name: str
    source: str
    row: Callable[[int], str]
    zone: ZoneInfo
    text: bool = True  # written by people, to be proven; False: typed by an API or a file format
    counted: bool = False  # typed numbers may stand for dates (Excel serials, milliseconds)
    locale: str | None = None
    dates: str | None = None

    def error(self, message: str, *, remedy: str | None = None) -> SourceError:
        return SourceError(f"{self.source}: column {self.name!r}: {message}", remedy=remedy)


class Column(Protocol):
    """`see` every batch, `settle` once, then `read` every batch: the values, and where a value could not be read (or None)."""

    type: pa.DataType

    def see(self, values: pa.Array, rows: pa.Array) -> None: ...
    def settle(self) -> None: ...
    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]: ...
    def why(self, value: str) -> str: ...


@dataclass(slots=True)
class Sample:
    """A value and the row it stands in, for messages."""

    value: str
    row: int


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


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


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


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


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
        self.currencies = self.currencies or _any_like(values, "[$€£]")
        odd = values if self.share else _unlike(values, NEUTRAL)
        for mark, pattern in PROVING.items():
            if not self.share and len(odd):
                proving = pc.match_substring_regex(odd, pattern)
                if (first := pc.index(proving, True).as_py()) >= 0:
                    _prove(self._proofs, mark, odd[first].as_py(), values, rows)
                    odd = odd.filter(pc.invert(proving))
        for text in _distinct(odd, self._memory):
            if (written := reading.number(text)) is not None:
                self._weigh(text, written, values, rows)

    def _weigh(self, text: str, written: Written, values: pa.Array, rows: pa.Array) -> None:
        self.currencies |= written.currency is not None
        readings = {mark: value for mark in written.marks() if (value := written.value(mark)) is not None}
        if len(readings) == 1:
            _prove(self._proofs, next(iter(readings)), text, values, rows)
        elif readings and readings["."] != readings[","] and self._either is None:
            self._either = _sample(text, values, rows)
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
            return _by_value(values, self.type, self._value, self._memory)
        return _by_pattern(values, WHOLE if self.type == COUNT else READABLE[self.mark], self._cast, self.type, self._value, self._memory)

    def currency(self, values: pa.Array) -> pa.Array:
        """ISO codes of the signs and codes written beside the numbers."""
        around = pc.replace_substring_regex(values, r"[.,]?\d[\d.,'’\s]*", "0")
        return _by_value(around, TEXT, self._code, {})[0]

    def _cast(self, values: pa.Array) -> pa.Array | None:
        bare = pc.replace_substring_regex(values, "[,$€£ ]" if self.mark == "." else "[.$€£ ]", "")
        return _cast(pc.replace_substring(bare, ",", ".") if self.mark == "," else bare, self.type)

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
            return _BAD
        if self.share:
            value = value if written.percent or not self._hundred else value / 100
            if not 0 <= value <= 1:
                return _BAD
        return fit(value, self.type)

    def _code(self, text: str) -> str | None:
        written = reading.number(text)
        return reading.currency_code(written.currency, self.context.locale) if written and written.currency else None


def fit(value: Decimal, kind: pa.DataType) -> Any:
    """The value as Arrow takes it for a type, rounded half-even to the type's decimals; `_BAD` when it does not fit."""
    if pa.types.is_decimal(kind):
        if value.adjusted() >= kind.precision - kind.scale:
            return _BAD
        return value.quantize(Decimal(1).scaleb(-kind.scale), ROUND_HALF_EVEN)
    if pa.types.is_integer(kind):
        return int(value) if abs(value) < 2**63 and value == value.to_integral_value() else _BAD
    return float(value)


def _plain(value: Decimal | None) -> str:
    return f"{value:f}".rstrip("0").rstrip(".") if value and "." in f"{value:f}" else str(value)


# ── booleans ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Flag:
    type: pa.DataType = FLAG
    _memory: dict[str, Any] = field(default_factory=dict)

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        pass

    def settle(self) -> None:
        pass

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        flags, bad = _by_value(values, pa.bool_(), self._value, self._memory)
        return flags.cast(self.type), bad

    def why(self, value: str) -> str:
        return "is neither true nor false"

    def _value(self, text: str) -> Any:
        value = reading.flag(text)
        return _BAD if value is None else value


# ── dates ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Dates:
    """Dates and instants. With `kind` None the column is `DATE` when every value is a date, else `INSTANT`."""

    context: Context
    kind: pa.DataType | None = None
    type: pa.DataType = INSTANT
    order: Order | None = None
    _pattern: str | None = None
    _seen: bool = False
    _timed: bool = False
    _proofs: dict[Order, Sample] = field(default_factory=dict)
    _either: Sample | None = None
    _memory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dates = self.context.dates
        if dates in reading.ORDERS:
            self.order = dates
        elif dates and dates != "iso":
            self._pattern = dates

    def see(self, values: pa.Array, rows: pa.Array) -> None:
        odd = _unlike(values, ISO_DAY)
        self._seen |= len(odd) < len(values) - values.null_count
        if self._timed and not self._pattern:
            odd = _unlike(odd, ISO_INSTANT)
        for text in _distinct(odd, self._memory):
            if self._pattern or self._counts(text) is not None:
                moment = self._moment(text)
                self._seen |= moment is not None
                self._timed |= isinstance(moment, datetime)
                continue
            when = reading.when(text, self.context.locale)
            if when is None:
                continue
            self._seen = True
            self._timed |= isinstance(when.day_first or when.month_first, datetime)
            if when.day_first is None:
                _prove(self._proofs, "month-first", text, values, rows)
            elif when.month_first is None:
                _prove(self._proofs, "day-first", text, values, rows)
            elif when.day_first != when.month_first and self._either is None:
                self._either = _sample(text, values, rows)

    def settle(self) -> None:
        self._memory.clear()
        self.type = self.kind or (DATE if self._seen and not self._timed else INSTANT)
        if self.order or self._pattern or self.context.dates == "iso" or not self.context.text:
            return
        if len(self._proofs) == 2:
            days, months = self._proofs["day-first"], self._proofs["month-first"]
            raise self.context.error(
                f"{days.value!r} in {self.context.row(days.row)} can only be day-first, {months.value!r} in {self.context.row(months.row)} "
                "only month-first",
                remedy="set `dates:` to day-first, month-first or a pattern such as %m/%d/%Y; values of the other form are then bad values",
            )
        if not self._proofs and self._either:
            when = reading.when(self._either.value)
            assert when
            assert when.day_first
            assert when.month_first
            raise self.context.error(
                f"{self._either.value!r} in {self.context.row(self._either.row)} is {_spoken(when.day_first)} (day-first) or "
                f"{_spoken(when.month_first)} (month-first), and no value of the column shows which",
                remedy="set `dates:` to day-first or month-first",
            )
        self.order = next(iter(self._proofs), None)

    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        if self._pattern:
            return _by_value(values, self.type, self._value, self._memory)
        iso = ISO_DAY if self.type == DATE else ISO_INSTANT
        return _by_pattern(values, iso, lambda texts: _cast(texts, self.type), self.type, self._value, self._memory)

    def why(self, value: str) -> str:
        if self._pattern:
            return f"does not fit `dates: {self._pattern}`"
        if reading.TWO_DIGIT_YEAR.fullmatch(value):
            return "has a year of two digits; `dates:` with a pattern such as %d/%m/%y says which century and order"
        if self.order and reading.when(value, self.context.locale):
            return f"is no {self.order} date"
        return "is not a date"

    def could_read(self, text: str) -> bool:
        """Whether the text is a whole date in one order or the other; a month alone is left as text."""
        if self._pattern or self._counts(text) is not None:
            return self._moment(text) is not None
        return not reading.MONTH_ONLY.fullmatch(text) and reading.when(text, self.context.locale) is not None

    def _value(self, text: str) -> Any:
        moment = self._moment(text)
        if moment is None:
            return _BAD
        try:
            return reading.day(moment, self.context.zone) if self.type == DATE else reading.instant(moment, self.context.zone)
        except OverflowError:
            return _BAD

    def _moment(self, text: str) -> Moment | None:
        if self._pattern:
            return reading.by_pattern(text, self._pattern)
        if (count := self._counts(text)) is not None:
            return reading.from_count(count)
        when = reading.when(text, self.context.locale)
        if when is None or (self.order is None and when.day_first != when.month_first):
            return None
        return when.read(self.order)

    def _counts(self, text: str) -> Decimal | None:
        return Decimal(text) if self.context.counted and text.replace(".", "", 1).isdigit() else None


def _spoken(moment: Moment) -> str:
    return f"{moment.day} {moment:%B %Y}"


# ── columns of plain tables ───────────────────────────────────────────────────────────────────────


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
        if self._any and self._numbers and not self._dates and not self._flag:
            self._whole = self._whole and not len(_unlike(values, WHOLE))
            odd = _unlike(values, CANONICAL)
        for text in _distinct(odd, self._memory):
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


# ── values ────────────────────────────────────────────────────────────────────────────────────────

_BAD: Final = object()


def _any_like(values: pa.Array, pattern: str) -> bool:
    return pc.any(pc.match_substring_regex(values, pattern)).as_py() is True


def _unlike(values: pa.Array, pattern: str) -> pa.Array:
    return values.filter(pc.invert(pc.match_substring_regex(values, pattern)))


def _distinct(values: pa.Array, memory: dict[str, Any]) -> Iterator[str]:
    """Values not met before, as far as `memory` reaches."""
    for text in values.unique().to_pylist():
        if text is not None and text not in memory:
            if len(memory) < REMEMBERED:
                memory[text] = None
            yield text


def _prove(proofs: dict[Any, Sample], proven: Mark | Order, text: str, values: pa.Array, rows: pa.Array) -> None:
    """Keep the first value that proves something."""
    if proven not in proofs:
        proofs[proven] = _sample(text, values, rows)


def _sample(text: str, values: pa.Array, rows: pa.Array) -> Sample:
    return Sample(text, rows[pc.index(values, text).as_py()].as_py())


def _by_value(values: pa.Array, kind: pa.DataType, read: Callable[[str], Any], memory: dict[str, Any]) -> tuple[pa.Array, pa.Array | None]:
    """Read each distinct value once. The second array marks the values that could not be read."""
    encoded = values.dictionary_encode()
    results: list[Any] = []
    for text in encoded.dictionary.to_pylist():
        if text in memory:
            results.append(memory[text])
            continue
        result = None if text is None or text.casefold() in reading.NULL_WORDS else read(text)
        if len(memory) < REMEMBERED:
            memory[text] = result
        results.append(result)
    good = [None if result is _BAD else result for result in results]
    bad = [result is _BAD for result in results]
    marked = pa.array(bad, pa.bool_()).take(encoded.indices).fill_null(False) if any(bad) else None
    return pa.array(good, kind).take(encoded.indices), marked


def _by_pattern(
    values: pa.Array,
    pattern: str,
    cast: Callable[[pa.Array], pa.Array | None],
    kind: pa.DataType,
    read: Callable[[str], Any],
    memory: dict[str, Any],
) -> tuple[pa.Array, pa.Array | None]:
    """Values of the usual form all at once by `cast`, the others by value."""
    usual = pc.fill_null(pc.match_substring_regex(values, pattern), True)
    if pc.all(usual).as_py() is not False and (done := cast(values)) is not None:
        return done, None
    done = cast(pc.if_else(usual, values, None))
    if done is None:
        return _by_value(values, kind, read, memory)
    odd = pc.invert(usual)
    results, bad = _by_value(values.filter(odd), kind, read, memory)
    marked = None if bad is None else pc.replace_with_mask(pa.array([False] * len(values)), odd, bad)
    return pc.replace_with_mask(done, odd, results), marked


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:  # a 30 February among them: the slow way finds it
        return None
