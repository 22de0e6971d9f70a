"""Columns of dates and instants, which prove their own order of day and month."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.column import BAD, Context, Sample, any_like, by_pattern, by_value, cast_or_none, distinct, prove, sample, unlike
from connector.model import DATE, INSTANT
from connector.reading import Moment, Order, When

_CLOCK: Final = r"[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"
_NUMERIC: Final = r"\d{1,2}/\d{1,2}/\d{4}|\d{1,2}\.\d{1,2}\.\d{4}|\d{1,2}-\d{1,2}-\d{4}"
_SMALL, _LARGE = "(?:0?[1-9]|1[0-2])", r"(?:1[3-9]|2\d|3[01])"
ISO_DAY: Final = r"^\d{4}-\d\d-\d\d$"
ISO: Final = rf"^\d{{4}}-\d\d-\d\d(?:{_CLOCK}Z?)?$"
NUMERIC: Final = rf"^(?:{_NUMERIC})(?:{_CLOCK})?$"
PROVING: Final[dict[Order, str]] = {"day-first": f"^{_LARGE}[./-]{_SMALL}[./-]", "month-first": f"^{_SMALL}[./-]{_LARGE}[./-]"}
NUMERIC_DAY: Final = f"^(?:{_NUMERIC})$"
_PARTS: Final = r"^(\d\d)[./-](\d\d)[./-](\d{4})"


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
        odd = values
        if not self._pattern and not self.context.counted:
            odd = unlike(values, ISO)
            self._seen |= len(odd) < len(values) - values.null_count
            self._timed = self._timed or any_like(values, ":")
            numeric = odd.filter(pc.match_substring_regex(odd, NUMERIC))
            self._see_numeric(numeric, values, rows)
            odd = unlike(odd, NUMERIC) if len(numeric) else odd
        for text in distinct(odd, self._memory):
            if self._pattern or self._counts(text) is not None:
                moment = self._moment(text)
                self._seen |= moment is not None
                self._timed |= isinstance(moment, datetime)
            elif (when := reading.when(text, self.context.locale)) is not None:
                self._weigh(text, when, values, rows)

    def _see_numeric(self, numeric: pa.Array, values: pa.Array, rows: pa.Array) -> None:
        for order, pattern in PROVING.items():
            if order not in self._proofs and (first := pc.index(pc.match_substring_regex(numeric, pattern), True).as_py()) >= 0:
                prove(self._proofs, order, numeric[first].as_py(), values, rows)
        for text in distinct(numeric, {}) if not self._seen or not (self._proofs or self._either) else ():
            if (when := reading.when(text)) is not None:
                self._weigh(text, when, values, rows)
            if self._seen and (self._proofs or self._either):
                return

    def _weigh(self, text: str, when: When, values: pa.Array, rows: pa.Array) -> None:
        self._seen = True
        self._timed |= isinstance(when.day_first or when.month_first, datetime)
        if when.day_first is None:
            prove(self._proofs, "month-first", text, values, rows)
        elif when.month_first is None:
            prove(self._proofs, "day-first", text, values, rows)
        elif when.day_first != when.month_first and self._either is None:
            self._either = sample(text, values, rows)

    def settle(self) -> None:
        self._memory.clear()
        self.type = self.kind or (INSTANT if self._timed else DATE if self._seen else self.context.unseen or INSTANT)
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
        if self._pattern or self.context.counted:
            return by_value(values, self.type, self._value, self._memory)
        usual = ISO_DAY if self.type == DATE else ISO
        if self.order:
            usual = f"{usual}|{NUMERIC_DAY if self.type == DATE else NUMERIC}"
        return by_pattern(values, usual, self._cast, self.type, self._value, self._memory)

    def _cast(self, values: pa.Array) -> pa.Array | None:
        """Dates and times of the usual forms all at once; None when one of them does not exist, or some have zones and some none."""
        texts = values
        if self.order:
            padded = pc.replace_substring_regex(values, r"\b(\d)([./-])", r"0\1\2")
            texts = pc.replace_substring_regex(padded, _PARTS, r"\3-\2-\1" if self.order == "day-first" else r"\3-\1-\2")
        if self.type == DATE:
            return cast_or_none(texts, DATE)
        if any_like(texts, "Z$"):
            return cast_or_none(texts, INSTANT)
        local = cast_or_none(texts, pa.timestamp("us"))
        return None if local is None else self._placed(local, values)

    def _placed(self, local: pa.Array, values: pa.Array) -> pa.Array:
        """Local times as instants; those that a change of clocks left out are few, and read by value."""
        zone = self.context.zone.key
        try:
            return pc.assume_timezone(local, zone, ambiguous="earliest").cast(INSTANT)
        except pa.ArrowInvalid:
            moments = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest")
            skipped = pc.fill_null(pc.not_equal(pc.local_timestamp(moments), local), False)
            read, _ = by_value(values.filter(skipped), INSTANT, self._value, self._memory)
            return pc.replace_with_mask(moments.cast(INSTANT), skipped, read)

    def why(self, value: str) -> str:
        if self._pattern:
            return f"does not fit `dates: {self._pattern}`"
        if reading.TWO_DIGIT_YEAR.fullmatch(value):
            return "has a year of two digits; `dates:` with a pattern such as %d/%m/%y says which century and order"
        if self.order and reading.when(value, self.context.locale):
            return f"is no {self.order} date"
        return "is not a date"

    @property
    def explicit(self) -> bool:
        """Whether only what fits a pattern is a date."""
        return self._pattern is not None

    def could_read(self, text: str) -> bool:
        """Whether the text is a whole date in one order or the other; a month alone is left as text."""
        if self._pattern or self._counts(text) is not None:
            return self._moment(text) is not None
        return not reading.MONTH_ONLY.fullmatch(text) and reading.when(text, self.context.locale) is not None

    def _value(self, text: str) -> Any:
        moment = self._moment(text)
        if moment is None:
            return BAD
        try:
            return reading.day(moment, self.context.zone) if self.type == DATE else reading.instant(moment, self.context.zone)
        except OverflowError:
            return BAD

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
