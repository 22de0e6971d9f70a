"""Numbers, dates and booleans as people write them, one value at a time.

Nothing here guesses: `number` and `when` say every reading a text has, and `columns.py` lets a whole column prove which one is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.numbers import get_decimal_symbol, get_territory_currencies, list_currencies

from connector.errors import ConfigError

Mark = Literal[".", ","]
Order = Literal["day-first", "month-first"]
ORDERS: Final[tuple[Order, ...]] = ("day-first", "month-first")

#: what people put into a cell that has no value (compared without case)
NULL_WORDS: Final = frozenset({"-", "--", "–", "—", "null", "none", "nil", "n/a", "na", "#n/a", "nan"})

TRUE_WORDS: Final = frozenset({"true", "t", "yes", "y", "1", "on", "ja", "wahr", "oui", "vrai", "si", "sí", "是"})
FALSE_WORDS: Final = frozenset({"false", "f", "no", "n", "0", "off", "nein", "falsch", "non", "faux", "否"})

CURRENCY_SIGNS: Final = {
    "$": "USD", "US$": "USD", "C$": "CAD", "CA$": "CAD", "A$": "AUD", "AU$": "AUD", "NZ$": "NZD", "HK$": "HKD", "S$": "SGD", "R$": "BRL",
    "MX$": "MXN", "NT$": "TWD", "€": "EUR", "£": "GBP", "¥": "JPY", "￥": "JPY", "元": "CNY", "CN¥": "CNY", "₹": "INR", "₽": "RUB",
    "₩": "KRW", "₪": "ILS", "₺": "TRY", "₫": "VND", "฿": "THB", "₴": "UAH", "₦": "NGN", "₱": "PHP", "zł": "PLN", "Kč": "CZK", "Ft": "HUF",
    "Fr.": "CHF", "SFr.": "CHF", "kr": "SEK", "kr.": "DKK", "RMB": "CNY",
}  # fmt: skip
#: signs several currencies share; a locale's own currency wins over the table above
SHARED_SIGNS: Final = frozenset({"$", "¥", "￥", "kr", "kr.", "£"})

SCALES: Final = {"k": 3, "tsd": 3, "tsd.": 3, "m": 6, "mm": 6, "mn": 6, "mio": 6, "mio.": 6, "million": 6, "b": 9, "bn": 9, "mrd": 9, "mrd.": 9,
                 "billion": 9}  # fmt: skip

_NUMBER: Final = re.compile(r"(\D*?)([.,]?\d[\d.,'’\s]*)(?:[eE]([+-]?\d{1,3}))?(\D*)")
_AROUND: Final = re.compile(r"[()+%−-]|[^\s()+%−\d-]+")
_SPACE: Final = re.compile(r"[\s'’]")
_SPACED: Final = re.compile(r"\d{1,3}([\s'’]\d{3})+(?![\s'’\d])")
_GROUPED: Final = {mark: re.compile(rf"\d{{1,3}}(?:{re.escape(mark)}\d{{2,3}})*{re.escape(mark)}\d{{3}}") for mark in ".,"}


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Written:
    """A number taken apart: `digits` with at most the separators `.` and `,`; the rest is what stood around them."""

    digits: str
    negative: bool = False
    exponent: int = 0
    percent: bool = False
    currency: str | None = None
    spaced: bool = False

    def marks(self) -> frozenset[Mark]:
        """The decimal marks under which the digits read: both when there is no separator or it may be either."""
        point, comma = self.value("."), self.value(",")
        return frozenset(mark for mark, value in ((".", point), (",", comma)) if value is not None)  # type: ignore[misc]

    def value(self, mark: Mark) -> Decimal | None:
        """The number with `mark` before the decimals and the other separator, if any, between thousands."""
        other = "," if mark == "." else "."
        whole, found, decimals = self.digits.partition(mark)
        if mark in decimals or other in decimals or (found and not decimals):
            return None
        if other in whole:
            if self.spaced or whole.startswith("0") or not _GROUPED[other].fullmatch(whole):
                return None
            whole = whole.replace(other, "")
        number = Decimal(f"{whole or '0'}.{decimals or '0'}").scaleb(self.exponent - (2 if self.percent else 0))
        return -number if self.negative else number


def number(text: str) -> Written | None:
    """Take `$22,700.00`, `1.234,56 €`, `(120)`, `120-`, `12.5%`, `$1.2M`, `1 234,5` or `1e6` apart; None when it is no number."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    before, body, exponent, after = match[1], match[2].strip(), match[3], match[4]
    spaced = _SPACE.search(body) is not None
    if spaced:
        if not _SPACED.match(body):
            return None
        body = _SPACE.sub("", body)
    around = [*((False, token) for token in _AROUND.findall(before)), *((True, token) for token in _AROUND.findall(after))]
    signs, scale, percent, currency = 0, 0, False, None
    opened = (False, "(") in around
    if opened != ((True, ")") in around):
        return None
    for behind, token in around:
        if (behind, token) in ((False, "("), (True, ")"), (False, "+")):
            continue
        if token in "-−":  # noqa: S105 — a sign, not a secret
            signs += 1
        elif token == "%" and behind and not percent:  # noqa: S105 — a sign, not a secret
            percent = True
        elif behind and not scale and token.casefold() in SCALES:
            scale = SCALES[token.casefold()]
        elif currency is None and is_currency(token):
            currency = token
        else:
            return None
    if signs + opened > 1 or (percent and (scale or currency)):
        return None
    return Written(body, bool(signs or opened), int(exponent or 0) + scale, percent, currency, spaced)


def is_currency(token: str) -> bool:
    return token in CURRENCY_SIGNS or token.upper() in _codes()


def currency_code(sign: str, locale: str | None) -> str:
    """ISO 4217 code of a sign or code; a shared sign is the locale's own currency where that uses it."""
    if sign in SHARED_SIGNS and locale and (own := _own_currency(locale)) and CURRENCY_SIGNS[sign] != own:
        symbol = known_locale(locale).currency_symbols.get(own, own)
        if symbol.casefold() == sign.casefold():
            return own
    return CURRENCY_SIGNS.get(sign, sign.upper())


@cache
def _codes() -> frozenset[str]:
    return frozenset(list_currencies())


@cache
def _own_currency(locale: str) -> str | None:
    territory = known_locale(locale).territory
    current = get_territory_currencies(territory) if territory else []
    return current[0] if current else None


def decimal_mark(locale: str) -> Mark:
    """The decimal mark of a babel locale identifier. Raises ConfigError when there is no such locale."""
    return "," if get_decimal_symbol(known_locale(locale)) in (",", "٫") else "."


def known_locale(name: str) -> Locale:
    try:
        return Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError) as error:
        raise ConfigError(f"locale: there is no locale {name!r}", remedy="use a language and a country, such as en_US or de_DE") from error


# ── booleans ──────────────────────────────────────────────────────────────────────────────────────


def flag(text: str) -> bool | None:
    """True or false as people write it; None for anything else."""
    word = text.casefold()
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


# ── dates ─────────────────────────────────────────────────────────────────────────────────────────

_TIME: Final = (
    r"(?:(?:T|,?\s+(?:at\s+)?)(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?(?:\s*([ap])\.?m\.?)?\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?"
)
_YEAR_FIRST: Final = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){_TIME}", re.IGNORECASE)
_YEAR_LAST: Final = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}){_TIME}", re.IGNORECASE)
_CJK: Final = re.compile(rf"(\d{{4}})[年년]\s*(\d{{1,2}})[月월]\s*(\d{{1,2}})[日일]{_TIME}", re.IGNORECASE)
_WEEKDAY: Final = r"(?:[^\W\d_]+,\s*)?"
_MONTH_NAME: Final = r"([^\W\d_]+)\.?"
_DAY_NAMED: Final = re.compile(
    rf"{_WEEKDAY}(\d{{1,2}})(?:st|nd|rd|th|er|[.º])?(?:\s+de\s+|[\s-]*){_MONTH_NAME}(?:\s+de\s+|,?[\s-]*)(\d{{4}}){_TIME}", re.IGNORECASE
)
_MONTH_NAMED: Final = re.compile(rf"{_WEEKDAY}{_MONTH_NAME}[\s-]*(\d{{1,2}})(?:st|nd|rd|th)?(?:,\s*|\s+|-)(\d{{4}}){_TIME}", re.IGNORECASE)
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})")
_NAMED_MONTH: Final = re.compile(r"([^\W\d_]+)\.?[\s-]+(\d{4})")
#: a month without a day reads as its first day, where a date is wanted
MONTH_ONLY: Final = re.compile(rf"{_MONTH.pattern}|{_NAMED_MONTH.pattern}")
#: 03/04/22: never read without an explicit pattern
TWO_DIGIT_YEAR: Final = re.compile(r"\d{1,2}([-/.])\d{1,2}\1\d{2}(?!\d).*|\d{1,2}[\s-][^\W\d_]+[\s-]\d{2}", re.DOTALL)

Moment = date | datetime


@dataclass(frozen=True, slots=True)
class When:
    """The two readings of a written date; the same one twice when the order does not matter, None where an order is impossible."""

    day_first: Moment | None
    month_first: Moment | None

    def read(self, order: Order | None) -> Moment | None:
        return self.month_first if order == "month-first" else self.day_first


def when(text: str, locale: str | None = None) -> When | None:
    """Every reading of a date or an instant with a four-digit year; None when it is neither.

    An instant without a zone comes back naive: it is in the flow's time zone. Month names are English or the locale's.
    """
    if match := _YEAR_FIRST.fullmatch(text):
        return _same(_moment(match[1], match[3], match[4], match.groups()[4:]))
    if match := _YEAR_LAST.fullmatch(text):
        clock = match.groups()[4:]
        readings = When(_moment(match[4], match[3], match[1], clock), _moment(match[4], match[1], match[3], clock))
        return readings if readings.day_first or readings.month_first else None
    if match := _CJK.fullmatch(text):
        return _same(_moment(match[1], match[2], match[3], match.groups()[3:]))
    if match := _DAY_NAMED.fullmatch(text):
        return _same(_moment(match[3], months(locale).get(match[2].casefold()), match[1], match.groups()[3:]))
    if match := _MONTH_NAMED.fullmatch(text):
        return _same(_moment(match[3], months(locale).get(match[1].casefold()), match[2], match.groups()[3:]))
    if match := _MONTH.fullmatch(text):
        return _same(_moment(match[1], match[2], 1, ()))
    if match := _NAMED_MONTH.fullmatch(text):
        return _same(_moment(match[2], months(locale).get(match[1].casefold()), 1, ()))
    return None


def by_pattern(text: str, pattern: str) -> Moment | None:
    """A date, or an instant where the pattern has a time, by `strptime`."""
    try:
        moment = datetime.strptime(text, pattern)  # noqa: DTZ007 — naive on purpose: it is in the flow's time zone
    except ValueError:
        return None
    return moment if has_time(pattern) else moment.date()


def has_time(pattern: str) -> bool:
    return bool(re.search(r"%[HIMSpfXcTzZ]", pattern))


def from_count(count: Decimal) -> Moment | None:
    """A typed number as a moment: an Excel serial (days since 1899-12-30) or milliseconds since 1970, told apart by size."""
    if 1 <= count < 2_958_466:
        days, part = divmod(count, 1)
        day = date(1899, 12, 30) + timedelta(days=int(days))
        if not part:
            return day
        return datetime(day.year, day.month, day.day) + timedelta(seconds=round(float(part) * 86_400))  # noqa: DTZ001
    if 100_000_000_000 <= count < 253_402_300_800_000:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(count))
    return None


def instant(moment: Moment, zone: ZoneInfo) -> datetime:
    """In UTC; a naive time is in `zone`, a date is its local midnight."""
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=zone)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)


def day(moment: Moment, zone: ZoneInfo) -> date:
    """The day it is in `zone`; a date stays itself."""
    if not isinstance(moment, datetime):
        return moment
    return (moment.astimezone(zone) if moment.tzinfo else moment).date()


@cache
def months(locale: str | None) -> dict[str, int]:
    """Month names and their abbreviations, casefolded, in English and the locale's language."""
    names = {"sept": 9}
    for language in dict.fromkeys(["en", *([locale] if locale else [])]):
        tables = known_locale(language).months
        for context in ("format", "stand-alone"):
            for width in ("wide", "abbreviated"):
                names.update({name.rstrip(".").casefold(): month for month, name in tables[context][width].items()})
    return names


def _same(moment: Moment | None) -> When | None:
    return When(moment, moment) if moment else None


def _moment(year: str, month: str | int | None, day: str | int, clock: tuple[str | None, ...]) -> Moment | None:
    hour, minute, second, fraction, half, zone = clock or (None,) * 6
    try:
        if month is None:
            return None
        if hour is None:
            return date(int(year), int(month), int(day))
        hours = int(hour)
        if half:
            if not 1 <= hours <= 12:
                return None
            hours = hours % 12 + (12 if half in "pP" else 0)
        micro = int((fraction or "0")[:6].ljust(6, "0"))
        moment = datetime(int(year), int(month), int(day), hours, int(minute or 0), int(second or 0), micro, tzinfo=_zone(zone))
    except (ValueError, OverflowError):
        return None
    return moment


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text.upper() in ("Z", "UTC", "GMT"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:]) if len(text) > 3 else 0
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
