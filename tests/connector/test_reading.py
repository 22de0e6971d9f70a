"""One written value at a time: every form people use reads as what they meant, and nothing else reads at all."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.errors import ConfigError
from connector.reading import by_pattern, currency_code, decimal_mark, flag, from_count, instant, number, when

LOCALES = ("en_US", "en_IN", "de_DE", "de_CH", "fr_FR", "pl_PL", "sv_SE", "pt_BR", "es_MX", "zh_CN", "ja_JP", "cs_CZ", "nl_NL", "it_IT")


@pytest.mark.parametrize(
    ("text", "mark", "value"),
    [
        ("$22,700.00", ".", "22700.00"),
        ("1.234,56 €", ",", "1234.56"),
        ("(120)", ".", "-120"),
        ("($1,200.50)", ".", "-1200.50"),
        ("120-", ".", "-120"),
        ("−120", ".", "-120"),
        ("-$5", ".", "-5"),
        ("$-5", ".", "-5"),
        ("+7", ".", "7"),
        ("12.5%", ".", "0.125"),
        ("12,5 %", ",", "0.125"),
        ("$1.2M", ".", "1200000"),
        ("3k", ".", "3000"),
        ("1.2bn", ".", "1200000000"),
        ("1,5 Mio. €", ",", "1500000"),
        ("2 Mrd", ",", "2000000000"),
        ("1 234,5", ",", "1234.5"),
        ("1\u202f234\u00a0567,5", ",", "1234567.5"),
        ("1'234.50", ".", "1234.50"),
        ("1’234", ".", "1234"),
        ("12,34,567.80", ".", "1234567.80"),
        ("EUR 5", ",", "5"),
        ("5 usd", ".", "5"),
        ("R$ 1.000,00", ",", "1000"),
        (".5", ".", "0.5"),
        ("1e6", ".", "1000000"),
        ("1.5E-3", ".", "0.0015"),
        ("9007199254740993", ".", "9007199254740993"),
    ],
)
def test_a_number_reads_as_it_is_meant(text, mark, value):
    assert number(text).value(mark) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    ["", "abc", "12abc", "1 2", "--5", "5-6", "(5", "5)", ")5(", "5%%", "$5 EUR", "1-2-3", "2022-04-06", "10:30", "5 kg", "#1", "1/2", "%"],
)
def test_what_is_no_number_is_none(text):
    assert number(text) is None


@pytest.mark.parametrize("text", ["1,2,3", "1.2.3.4", "1,23,45", "5,", "1,234.5.6", "1.234,5,6", "0,123,456", "1234.567,8"])
def test_digits_and_separators_in_no_order_have_no_reading(text):
    assert number(text).marks() == frozenset()


@pytest.mark.parametrize(
    ("text", "both"), [("1,234", True), ("12.345", True), ("1234", True), ("12,5", False), ("0.123", False), ("1,234,567", False)]
)
def test_only_one_group_of_three_can_be_taken_for_thousands_or_decimals(text, both):
    assert (len(number(text).marks()) == 2) is both


amounts = st.decimals(min_value=-(10**12), max_value=10**12, places=2, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(amounts, st.sampled_from(LOCALES))
def test_a_number_written_in_a_locale_reads_back(amount, locale):
    assert number(format_decimal(amount, locale=locale, decimal_quantization=False)).value(decimal_mark(locale)) == amount


@settings(deadline=None)
@given(amounts, st.sampled_from(LOCALES), st.sampled_from(["USD", "EUR", "GBP", "CHF", "PLN"]))
def test_money_written_in_a_locale_reads_back_with_its_currency(amount, locale, currency):
    written = number(format_currency(amount, currency, format="#,##0.00 ¤¤;-#,##0.00 ¤¤", locale=locale, currency_digits=False))
    assert written.value(decimal_mark(locale)) == amount
    assert currency_code(written.currency, locale) == currency


@settings(deadline=None)
@given(amounts)
def test_no_reading_is_invented(amount):
    """Whatever marks a text reads under, writing it with that mark gives the text's digits again."""
    text = f"{amount:,}"
    for mark in number(text).marks():
        assert mark == "." or "." not in text


@pytest.mark.parametrize(
    ("sign", "locale", "code"),
    [
        ("$", None, "USD"),
        ("$", "en_CA", "CAD"),
        ("$", "de_DE", "USD"),
        ("¥", "zh_CN", "CNY"),
        ("kr", "nb_NO", "NOK"),
        ("€", "en_US", "EUR"),
        ("chf", None, "CHF"),
    ],
)
def test_a_shared_sign_is_the_locales_own_currency(sign, locale, code):
    assert currency_code(sign, locale) == code


def test_an_unknown_locale_is_named():
    with pytest.raises(ConfigError, match="no locale 'xx_YY'"):
        decimal_mark("xx_YY")


@pytest.mark.parametrize(("text", "value"), [("TRUE", True), ("no", False), ("Ja", True), ("0", False), ("maybe", None), ("2", None)])
def test_a_flag(text, value):
    assert flag(text) is value


# ── dates ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2022-04-06", date(2022, 4, 6)),
        ("2022/4/6", date(2022, 4, 6)),
        ("6-Apr-2022", date(2022, 4, 6)),
        ("06Apr2022", date(2022, 4, 6)),
        ("6. April 2022", date(2022, 4, 6)),
        ("April 6, 2022", date(2022, 4, 6)),
        ("Sept 6th, 2022", date(2022, 9, 6)),
        ("Wed, 6 Apr 2022", date(2022, 4, 6)),
        ("2022-04", date(2022, 4, 1)),
        ("Jan 2024", date(2024, 1, 1)),
        ("2022-04-06T10:00:00Z", datetime(2022, 4, 6, 10, tzinfo=UTC)),
        ("2022-04-06 10:00:00.123456789+02:00", datetime(2022, 4, 6, 10, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))),
        ("2022-04-06T10:00-0530", datetime(2022, 4, 6, 10, tzinfo=timezone(-timedelta(hours=5, minutes=30)))),
        ("April 6, 2022 at 3:05 PM", datetime(2022, 4, 6, 15, 5)),
        ("2022-04-06 12:30 am", datetime(2022, 4, 6, 0, 30)),
    ],
)
def test_a_date_without_a_choice_of_order(text, moment):
    read = when(text)
    assert read.day_first == read.month_first == moment


def test_both_readings_of_a_numeric_date():
    read = when("02/03/2022 16:11")
    assert read.day_first == datetime(2022, 3, 2, 16, 11)
    assert read.month_first == datetime(2022, 2, 3, 16, 11)


@pytest.mark.parametrize(("text", "order"), [("13/04/2022", "day-first"), ("04/13/2022", "month-first")])
def test_a_part_above_twelve_leaves_one_order(text, order):
    assert when(text).read(order) == date(2022, 4, 13)
    assert when(text).read({"day-first": "month-first", "month-first": "day-first"}[order]) is None


@pytest.mark.parametrize(
    "text",
    [
        "3/4/22",
        "31/04/2022",
        "2022-02-30",
        "2022-13-01",
        "13/13/2022",
        "6 Foo 2022",
        "2022-04-06 25:00",
        "2022-04-06 13:00 pm",
        "20220406",
        "yesterday",
        "12",
    ],
)
def test_what_is_no_date_is_none(text):
    assert when(text) is None


days = st.dates(min_value=date(1900, 1, 1), max_value=date(2999, 12, 31))


@settings(deadline=None)
@given(days, st.sampled_from(LOCALES))
def test_a_date_as_its_locale_writes_it_out_reads_back(day, locale):
    assert when(format_date(day, "long", locale=locale), locale).read(None) == day


@settings(deadline=None)
@given(days, st.sampled_from(["%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y"]))
def test_a_day_first_date_reads_back(day, pattern):
    assert when(day.strftime(pattern)).read("day-first") == day
    assert by_pattern(day.strftime(pattern), pattern) == day


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 12, 31), timezones=st.just(UTC)))
def test_an_instant_in_iso_8601_reads_back(moment):
    assert when(moment.isoformat()).read(None) == moment


@pytest.mark.parametrize(
    ("count", "moment"),
    [
        ("44657", date(2022, 4, 6)),
        ("44657.5", datetime(2022, 4, 6, 12)),
        ("1649239200000", datetime(2022, 4, 6, 10, tzinfo=UTC)),
        ("0", None),
        ("5000000", None),
    ],
)
def test_a_typed_number_is_an_excel_serial_or_milliseconds(count, moment):
    assert from_count(Decimal(count)) == moment


def test_a_time_without_a_zone_is_in_the_flows():
    berlin = ZoneInfo("Europe/Berlin")
    assert instant(datetime(2022, 7, 1, 10), berlin) == datetime(2022, 7, 1, 8, tzinfo=UTC)
    assert instant(date(2022, 7, 1), berlin) == datetime(2022, 6, 30, 22, tzinfo=UTC)
