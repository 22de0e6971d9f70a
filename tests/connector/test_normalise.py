"""Raw pages become canonical rows: read as their column proves, mapped as the admin says, or refused with place and remedy."""

import random
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.api import UTC, Entity, Page
from connector.engine import DuckDB
from connector.errors import ConfigError, SourceError
from connector.model import DATE, ENTITIES, INSTANT
from connector.normalise import normalise

BERLIN = ZoneInfo("Europe/Berlin")


class Read:
    """A normalised read, drawn to its end."""

    def __init__(self, entity, pages, place, **options):
        engine, folder = place
        with normalise(entity, pages, engine=engine, scratch=folder, **options) as result:
            batches = list(result.batches())
            self.again = pa.Table.from_batches(result.batches(), result.schema)
            self.table = pa.Table.from_batches(batches, result.schema)
            self.result = result
        self.warnings, self.removed = result.warnings, result.removed

    def column(self, name):
        return self.table.column(name).to_pylist()

    def type(self, name):
        return self.table.schema.field(name).type


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An engine and its scratch folder; a read leaves nothing in either."""
    folder = tmp_path_factory.mktemp("scratch")
    engine = DuckDB(scratch=folder)
    yield engine, folder
    assert engine.tables() == ()
    assert list(folder.rglob("*.parquet")) == []


@pytest.fixture
def read(place):
    """Reads columns of text, as a CSV file gives them, under the name `plain` unless told otherwise."""

    def run(columns=None, *, name="plain", pages=None, zone=UTC, **entity):
        if columns is not None:
            given = {key: pa.array(values, pa.string()) for key, values in columns.items()}
            pages = [Page(records=pa.record_batch(given), first_row=2), Page(watermark="w1")]
        options = {key: entity.pop(key) for key in ("overrides", "like", "progress") if key in entity}
        entity = Entity(**{"name": name, "place": "deals.csv", "text": True} | entity)
        return Read(entity, pages, place, zone=zone, **options)

    return run


@pytest.fixture
def refused(read):
    """The error of a read that must fail, as `message | remedy`."""

    def run(*args, error=SourceError, **kwargs):
        with pytest.raises(error) as caught:
            read(*args, **kwargs)
        return f"{caught.value} | {caught.value.remedy}"

    return run


def deals(**columns):
    size = len(next(iter(columns.values())))
    return {"deal_id": [f"d{index}" for index in range(size)], **columns}


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "amounts"),
    [
        (["$22,700.00", "(120)", "$1.2M", "-", "3k"], ["22700", "-120", "1200000", None, "3000"]),
        (["1.234,56 €", "12,5", "1.000"], ["1234.56", "12.5", "1000"]),
        (["1,234", "12.5"], ["1234", "12.5"]),
        (["1,234", "1.5"] + ["7"] * 3, ["1234", "1.5", "7", "7", "7"]),
        (["1 234", "999"], ["1234", "999"]),
        (["1,234,567", "1,234"], ["1234567", "1234"]),
        (["0.12345", "0.12355", "N/A", ""], ["0.1234", "0.1236", None, None]),
        (["CHF 1'234.50", "99.5 CHF", "1 234 567", "EUR 12"], ["1234.5", "99.5", "1234567", "12"]),
        (["1.234,5 EUR", "-EUR 7", "1 234,5", "€ 12.345"], ["1234.5", "-7", "1234.5", "12345"]),
    ],
)
def test_a_column_proves_its_decimal_mark(read, written, amounts):
    assert read(deals(amount=written), name="deals").column("amount") == [None if amount is None else Decimal(amount) for amount in amounts]


def test_a_column_that_proves_nothing_is_an_error_with_both_readings(refused):
    message = refused(deals(amount=["500", "1,234", "2,500"]), name="deals")
    assert "'1,234' in row 3 is 1234 (decimal point) or 1.234 (decimal comma)" in message
    assert "column 'amount'" in message
    assert "`locale:`" in message


def test_a_locale_decides_what_the_column_does_not(read):
    assert read(deals(amount=["1,234"]), name="deals", locale="en_US").column("amount") == [Decimal(1234)]
    assert read(deals(amount=["1,234"]), name="deals", locale="de_DE").column("amount") == [Decimal("1.234")]


def test_a_column_with_both_marks_is_an_error_naming_both_rows(refused):
    message = refused(deals(amount=["1,50", "1.50"]), name="deals")
    assert "'1.50' in row 3 has a decimal point, '1,50' in row 2 a decimal comma" in message


def test_a_value_of_the_other_mark_is_bad_when_a_locale_is_set(refused):
    assert "row 3, column 'amount': '1,5' has a decimal comma, the column's is a point" in refused(
        deals(amount=["1.5", "1,5"]), name="deals", locale="en_US"
    )


def test_a_bad_number_names_file_row_column_and_value(refused):
    message = refused({"Id": ["1", "2"], "Value": ["12.5", "twelve"]}, name="deals", fields={"deal_id": "Id", "amount": "Value"})
    assert message.startswith("deals.csv: row 3, column 'Value': 'twelve' is not a number | ")
    assert "on_bad_value: null" in message


def test_bad_values_are_left_empty_and_counted_when_told_so(read):
    found = read(deals(amount=["1", "x", "y", "z", "w"]), name="deals", on_bad_value="null")
    assert found.column("amount") == [Decimal(1), None, None, None, None]
    assert found.warnings == ("deals.csv: unreadable value in column 'amount': 4 rows (row 3, row 4, row 5 …); left empty",)


def test_an_amount_too_large_for_money_is_bad(refused):
    assert "is too large" in refused(deals(amount=["123456789012345"]), name="deals")


def test_counts_are_whole(refused):
    assert "'1.5' is not a whole number" in refused(deals(stage_order=["1", "1.5"]), name="deals")


@pytest.mark.parametrize(
    ("written", "shares"),
    [
        (["50", "100", "0"], [0.5, 1, 0]),
        (["0.5", "1", "0"], [0.5, 1, 0]),
        (["50%", "1"], [0.5, 1]),
        (["50%", "100"], [0.5, 1]),
        (["12,5 %", "7,5 %"], [0.125, 0.075]),
    ],
)
def test_a_probability_is_a_share_of_one(read, written, shares):
    assert read(deals(probability=written), name="deals").column("probability") == shares


def test_a_probability_above_a_hundred_is_bad(refused):
    assert "'150' is not between 0 and 100" in refused(deals(probability=["50", "150"]), name="deals")


def test_a_currency_beside_the_amount_fills_the_currency(read):
    found = read(deals(amount=["$5", "7 EUR", "€1,200.50", "9"]), name="deals")
    assert found.column("currency") == ["USD", "EUR", "EUR", None]
    assert read(deals(amount=["$5"], currency=["CAD"]), name="deals").column("currency") == ["CAD"]
    assert read(deals(amount=["5", "7"]), name="deals").column("currency") == [None, None]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.decimals(0, 10**9, places=2), min_size=1, max_size=40), st.sampled_from([".", ","]), st.randoms(use_true_random=False))
def test_whatever_a_column_proves_is_what_was_written(place, values, mark, chance):
    """Numbers written in one convention, grouped or not, read back or are refused as ambiguous; never as another number."""
    other = "," if mark == "." else "."

    def write(value):
        text = f"{value:,.2f}" if chance.random() < 0.5 else f"{value:.2f}"
        text = text.removesuffix(".00") if chance.random() < 0.5 else text
        return text.translate(str.maketrans({",": other, ".": mark}))

    texts = [write(value) for value in values]
    page = Page(records=pa.record_batch({"deal_id": [str(index) for index in range(len(texts))], "amount": texts}), first_row=2)
    if any(mark in text or text.count(other) > 1 for text in texts):
        assert Read(Entity("deals", "x.csv", text=True), [page], place).column("amount") == values
    elif any(other in text for text in texts):
        with pytest.raises(SourceError, match="no value of the column shows which"):
            Read(Entity("deals", "x.csv", text=True), [page], place)


# ── dates ─────────────────────────────────────────────────────────────────────────────────────────


def test_one_date_proves_the_order_of_its_column(read):
    found = read(deals(created_at=["03/04/2022", "13/04/2022"], closed_at=["03/04/2022", "04/13/2022"]), name="deals")
    assert found.column("created_at") == [date(2022, 4, 3), date(2022, 4, 13)]
    assert found.column("closed_at") == [date(2022, 3, 4), date(2022, 4, 13)]
    assert found.type("created_at") == DATE


def test_ambiguous_dates_are_an_error_with_both_readings(refused):
    message = refused(deals(created_at=["", "04/04/2022", "03/04/2022"]), name="deals")
    assert "'03/04/2022' in row 4 is 3 April 2022 (day-first) or 4 March 2022 (month-first)" in message
    assert "set `dates:` to day-first or month-first" in message


def test_a_date_that_reads_the_same_in_both_orders_needs_no_proof(read):
    assert read(deals(created_at=["04/04/2022"]), name="deals").column("created_at") == [date(2022, 4, 4)]


def test_dates_that_contradict_each_other_name_both_rows(refused):
    message = refused(deals(created_at=["13/04/2022", "04/13/2022"]), name="deals")
    assert "'13/04/2022' in row 2 can only be day-first, '04/13/2022' in row 3 only month-first" in message


def test_an_order_or_a_pattern_decides(read, refused):
    assert read(deals(created_at=["03/04/2022"]), name="deals", dates="day-first").column("created_at") == [date(2022, 4, 3)]
    assert read(deals(created_at=["03/04/2022"]), name="deals", dates="%m/%d/%Y").column("created_at") == [date(2022, 3, 4)]
    assert read(deals(created_at=["03.04.22"]), name="deals", dates="%d.%m.%y").column("created_at") == [date(2022, 4, 3)]
    assert "'12/25/2022' is no day-first date" in refused(deals(created_at=["12/25/2022"]), name="deals", dates="day-first")
    assert "does not fit `dates: %m/%d/%Y`" in refused(deals(created_at=["2022-04-03"]), name="deals", dates="%m/%d/%Y")
    assert "is not a date" in refused(deals(created_at=["03/04/2022"]), name="deals", dates="iso")


def test_a_pattern_may_be_given_for_one_column(read):
    found = read(deals(created_at=["03/04/2022"], closed_at=["2022-05-01"]), name="deals", dates={"created_at": "%d/%m/%Y"})
    assert found.column("created_at") + found.column("closed_at") == [date(2022, 4, 3), date(2022, 5, 1)]


def test_a_pattern_for_a_column_that_is_not_there_is_a_configuration_error(refused):
    message = refused(deals(created_at=["03/04/2022"]), name="deals", dates={"creatd_at": "%d/%m/%Y"}, error=ConfigError)
    assert "deals: dates: no column 'creatd_at'; did you mean 'created_at'?" in message


def test_two_digit_years_need_a_pattern(refused):
    assert "has a year of two digits" in refused(deals(created_at=["03/04/22"]), name="deals")


def test_a_column_with_one_time_is_of_instants_and_the_rest_local_midnights(read):
    found = read(deals(created_at=["2022-07-01", "2022-07-01 10:00", "2022-07-01T10:00:00Z"]), name="deals", zone=BERLIN)
    assert found.type("created_at") == INSTANT
    assert found.column("created_at") == [
        datetime(2022, 6, 30, 22, tzinfo=UTC),
        datetime(2022, 7, 1, 8, tzinfo=UTC),
        datetime(2022, 7, 1, 10, tzinfo=UTC),
    ]


def test_a_date_is_never_shifted_and_an_instant_gives_the_local_day_where_a_day_is_wanted(read):
    found = read(deals(created_at=["2022-07-01"], expected_close_date=["2022-07-01T23:30:00Z"]), name="deals", zone=BERLIN)
    assert found.column("created_at") == [date(2022, 7, 1)]
    assert found.column("expected_close_date") == [date(2022, 7, 2)]


def test_times_around_a_change_of_clocks_read_alike_alone_and_among_others(read):
    """02:30 does not exist on the first day and is there twice on the second; the rest of the column does not change that."""
    times = ["2022-03-27 01:30:00", "2022-03-27 02:30:00", "2022-03-27 03:30:00", "2022-10-30 02:30:00"]
    hours = [(3, 27, 0), (3, 27, 1), (3, 27, 1), (10, 30, 0)]
    expected = [datetime(2022, month, day, hour, 30, tzinfo=UTC) for month, day, hour in hours]
    assert read(deals(created_at=times), name="deals", zone=BERLIN).column("created_at") == expected
    assert [read(deals(created_at=[time]), name="deals", zone=BERLIN).column("created_at")[0] for time in times] == expected
    odd = [f"{times[0].replace('01:30:00', '1:30')}", *times]
    assert read(deals(created_at=odd), name="deals", zone=BERLIN).column("created_at") == [expected[0], *expected]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("order", ["day-first", "month-first"])
def test_numeric_times_read_alike_by_the_batch_and_by_value(read, zone, order):
    chance = random.Random(5)
    moments = [
        datetime(2022, chance.randrange(1, 13), chance.randrange(1, 29), chance.randrange(24), chance.randrange(60)) for _ in range(300)
    ]
    pattern = "%d.%m.%Y %H:%M" if order == "day-first" else "%m/%d/%Y %H:%M"
    texts = [moment.strftime(pattern) for moment in moments]
    found = read(deals(created_at=texts, closed_at=[f"{text} Z" for text in texts]), name="deals", zone=ZoneInfo(zone))
    assert found.column("created_at") == [moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for moment in moments]
    assert found.column("closed_at") == [moment.replace(tzinfo=UTC) for moment in moments]


def test_a_month_is_its_first_day(read):
    assert read({"period": ["2024-01", "Feb 2024"], "amount": ["1", "2"]}, name="spend").column("period") == [
        date(2024, 1, 1),
        date(2024, 2, 1),
    ]


def test_a_column_without_a_date_keeps_the_type_it_had(read):
    like = pa.schema([("closed_at", DATE), ("amount", pa.float64())])
    found = read(deals(closed_at=["", ""]), name="deals", like=like)
    assert (found.type("closed_at"), found.type("created_at")) == (DATE, INSTANT)
    assert found.type("amount") == ENTITIES["deals"].field("amount").type


def test_a_closed_date_before_the_created_date_is_kept_and_counted(read):
    found = read(deals(created_at=["2022-02-01", "2022-02-01"], closed_at=["2022-01-01", "2022-02-01"]), name="deals")
    assert found.column("closed_at")[0] == date(2022, 1, 1)
    assert found.warnings == ("deals.csv: closed before created: 1 row (row 2); left out of sales cycles",)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.dates(date(1990, 1, 1), date(2040, 1, 1)), min_size=1, max_size=30), st.sampled_from(["%d/%m/%Y", "%m/%d/%Y"]))
def test_dates_read_back_as_written_or_are_refused_as_ambiguous(place, days, pattern):
    page = Page(
        records=pa.record_batch({"deal_id": [str(n) for n in range(len(days))], "created_at": [day.strftime(pattern) for day in days]})
    )
    if any(day.day > 12 for day in days) or all(day.day == day.month for day in days):
        assert Read(Entity("deals", "x.csv", text=True), [page], place).column("created_at") == days
    else:
        with pytest.raises(SourceError, match="no value of the column shows which"):
            Read(Entity("deals", "x.csv", text=True), [page], place)


# ── the field map ─────────────────────────────────────────────────────────────────────────────────


def test_columns_are_found_by_name_when_nothing_is_mapped(read):
    found = read({"Deal ID": ["1"], "Stage": ["New"], "created_at": ["2022-01-01"], "Other": ["x"]}, name="deals")
    assert (found.column("deal_id"), found.column("stage"), found.column("created_at")) == (["1"], ["New"], [date(2022, 1, 1)])
    assert found.table.schema.names == ENTITIES["deals"].names


def test_expressions_and_conditions_see_the_source_columns(read):
    found = read(
        {"id": ["1", "2", "3"], "Product Name": ["GTXPro", "MG", "MG"], "v": ["10", "20", "30"]},
        name="deals",
        fields={
            "deal_id": "ID",
            "product": "case when \"Product Name\" = 'GTXPro' then 'GTX Pro' else \"Product Name\" end",
            "amount": "cast(v as double) * 1.5",
            "currency": "'EUR'",
        },
        where="cast(v as int) < 30",
    )
    assert found.column("product") == ["GTX Pro", "MG"]
    assert found.column("amount") == [Decimal(15), Decimal(30)]
    assert found.column("currency") == ["EUR", "EUR"]
    assert found.result.rows == 3


def test_overrides_win_over_fields_and_over_names(read):
    assert read(deals(name=["a"], label=["b"]), name="deals", overrides={"name": "label"}).column("name") == ["b"]
    found = read(deals(a=["x"], b=["y"]), name="deals", fields={"deal_id": "deal_id", "name": "a"}, overrides={"name": "upper(b)"})
    assert found.column("name") == ["Y"]


@pytest.mark.parametrize("written", ["Amout", "Deal Value", "upper(Amout)", "a.b"])
def test_a_missing_mapped_column_lists_the_columns_there_are(refused, written):
    message = refused(deals(Amount=["1"]), name="deals", fields={"deal_id": "deal_id", "amount": written})
    assert "deals.csv: deals.fields.amount: no column" in message
    assert "there is: deal_id, Amount" in message


def test_a_wrong_canonical_name_is_a_configuration_error_with_the_nearest(refused):
    message = refused(deals(x=["1"]), name="deals", fields={"deal_id": "deal_id", "ammount": "x"}, error=ConfigError)
    assert "no column 'ammount' in deals; did you mean 'amount'?" in message


@pytest.mark.parametrize("written", ["1; drop table x", "(select 1)", "upper(", "read_csv('/etc/passwd')", "sum(x)) over ("])
def test_only_one_expression_without_side_effects_is_let_through(refused, written):
    assert "deals: fields.name:" in refused(deals(x=["1"]), name="deals", fields={"deal_id": "deal_id", "name": written}, error=ConfigError)


def test_a_wrong_condition_is_a_configuration_error_and_a_missing_column_in_it_an_error_of_the_source(refused):
    assert "where:" in refused(deals(x=["1"]), name="deals", where="x = ", error=ConfigError)
    assert "deals.where: no column 'y'" in refused(deals(x=["1"]), name="deals", where="y > 1")


def test_an_expression_that_cannot_be_computed_says_what_would(refused):
    message = refused(deals(x=["1", "abc"]), name="deals", fields={"deal_id": "deal_id", "amount": "cast(x as double)"})
    assert "an expression cannot be computed" in message
    assert "try_cast" in message


def test_a_table_without_its_id_column_says_what_it_needs(refused):
    assert "deals needs deal_id" in refused({"x": ["1"]}, name="deals")
    assert "deals needs deal_id" in refused({"x": ["1"]}, name="deals", fields={"name": "x"}, error=ConfigError)


def test_columns_that_differ_only_in_case_are_both_there(read):
    found = read({"Id": ["1"], "ID": ["2"]}, name="deals", fields={"deal_id": "Id", "name": "ID"})
    assert (found.column("deal_id"), found.column("name")) == (["1"], ["2"])


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────


def test_ids_stay_the_text_they_are(read):
    ids = ["007", "1234567890123456789", "0068d000002OrZqAAK", "1e5", " 12 "]
    assert read({"deal_id": ids}, name="deals").column("deal_id") == [*ids[:-1], "12"]


def test_an_id_twice_names_both_rows(refused):
    message = refused({"deal_id": ["a", "b", "a"]}, name="deals")
    assert message.startswith("deals.csv: deal_id 'a' is in row 2 and again in row 4 | ")


def test_a_missing_id_names_the_row(refused):
    assert "deals.csv: row 3 has no Id" in refused({"Id": ["a", " "], "x": ["1", "2"]}, name="deals", fields={"deal_id": "Id", "name": "x"})


def test_rows_without_any_value_are_no_rows(read):
    assert read({"deal_id": ["a", "", "b"], "name": ["x", "  ", "y"]}, name="deals").column("deal_id") == ["a", "b"]


def test_the_admins_own_key_names_the_rows_of_a_plain_table(read, refused):
    assert read({"a": ["1", "1"], "b": ["x", "y"]}, key=("a", "b")).column("b") == ["x", "y"]
    assert "a 1" in refused({"a": ["1", "1"], "b": ["x", "y"]}, key=("a",)).replace("'", "")
    assert "no column 'c'" in refused({"a": ["1"]}, key=("c",))


# ── status ────────────────────────────────────────────────────────────────────────────────────────


def test_listed_words_decide_and_everything_else_is_open(read):
    found = read(
        deals(stage=["Closed Won", "closed lost ", "New", ""]), name="deals", status={"won": ["Closed Won"], "lost": ["Closed Lost"]}
    )
    assert found.column("status") == ["won", "lost", "open", "open"]
    assert found.column("stage") == ["Closed Won", "closed lost", "New", None]


def test_a_mapped_status_goes_before_the_stage(read):
    found = read(deals(stage=["Won"], status=["Dead"]), name="deals", status={"won": ["Won"], "lost": ["Dead"]})
    assert found.column("status") == ["lost"]
    assert found.warnings == ("deals.csv: status.won: no deal has 'Won'; there is: Dead",)


def test_a_status_that_says_it_itself_needs_no_list(read):
    assert read(deals(status=["Open", "WON", "Closed Lost", ""]), name="deals").column("status") == ["open", "won", "lost", None]


def test_unknown_words_of_a_status_are_listed(refused):
    message = refused(deals(status=["won", "Dead", "true"]), name="deals")
    assert "column 'status': not open, won or lost: 'Dead', 'true'" in message
    assert "`status: {won: […], lost: […]}`" in message


def test_an_unknown_outcome_is_a_configuration_error(refused):
    assert "no outcome 'win'; did you mean 'won'?" in refused(deals(stage=["x"]), name="deals", status={"win": ["x"]}, error=ConfigError)


# ── plain tables ──────────────────────────────────────────────────────────────────────────────────


def test_the_columns_of_a_plain_table_get_the_narrowest_type_all_values_have(read):
    found = read(
        {
            "whole": ["1", "-2", "N/A"],
            "money": ["$1,234.50", "7", ""],
            "long": ["0.123456", "1", "2"],
            "flag": ["TRUE", "false", ""],
            "day": ["2022-04-06", "7 Apr 2022", "n/a"],
            "time": ["2022-04-06 10:00", "2022-04-07", ""],
            "id": ["007", "12", "13"],
            "card": ["1234567890123456", "1", "2"],
            "text": ["a", "1", "2022-04-06"],
            "nothing": ["", "", ""],
            "phone": ["+49 170 1234567", "+1 555", "x"],
        }
    )
    types = {field.name: str(field.type) for field in found.table.schema}
    assert types == {
        "whole": "int64", "money": "decimal128(18, 4)", "long": "double", "flag": "bool", "day": "date32[day]", "time": "timestamp[us, tz=UTC]",
        "id": "string", "card": "string", "text": "string", "nothing": "string", "phone": "string",
    }  # fmt: skip
    assert found.column("money") == [Decimal("1234.5"), Decimal(7), None]
    assert found.column("flag") == [True, False, None]


def test_ambiguity_in_a_plain_table_is_an_error_too(refused):
    assert "1,234" in refused({"amount": ["1,234"]})
    assert "3 April 2022" in refused({"when": ["03/04/2022"]})


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────


def records(*rows, **page):
    return Page(records=list(rows), **page)


def api(**entity):
    return {"name": "deals", "place": "Opportunity", "text": False} | entity


def test_typed_records_of_an_api(read):
    pages = [
        records({"Id": 1, "Amount": None, "Account": None, "Won": None, "At": None}),
        records(
            {
                "Id": 2,
                "Amount": 10.5,
                "Account": {"Name": "Acme", "Owner": {"Email": "x@y"}},
                "Won": True,
                "At": "2022-04-06T10:00:00.000+0000",
            }
        ),
        records({"Id": "0003", "Amount": Decimal("19.99"), "Extra": [1, {"a": 2}]}),
    ]
    fields = {
        "deal_id": "Id", "amount": "Amount", "account": "Account.Name", "owner": '"Account.Owner.Email"', "name": "Extra",
        "created_at": "At", "is_existing_customer": "Won", "stage": "case when Won then 'Won' else 'New' end",
    }  # fmt: skip
    found = read(pages=pages, **api(fields=fields))
    assert found.column("deal_id") == ["1", "2", "0003"]
    assert found.column("amount") == [None, Decimal("10.5"), Decimal("19.99")]
    assert found.column("account") == [None, "Acme", None]
    assert found.column("owner") == [None, "x@y", None]
    assert found.column("name") == [None, None, '[1, {"a": 2}]']
    assert found.column("created_at")[1] == datetime(2022, 4, 6, 10, tzinfo=UTC)
    assert found.column("is_existing_customer") == [None, 1, None]
    assert found.column("stage") == ["New", "Won", "New"]


def test_typed_values_need_no_proof(read):
    found = read(
        pages=[records({"deal_id": "1", "amount": 1.234, "probability": 0.5, "created_at": date(2022, 4, 3), "closed_at": 1649239200000})],
        **api(),
    )
    assert found.column("amount") == [Decimal("1.234")]
    assert found.column("created_at") == [date(2022, 4, 3)]
    assert found.column("closed_at") == [datetime(2022, 4, 6, 10, tzinfo=UTC)]


def test_a_numeric_date_of_an_api_is_bad_rather_than_guessed(refused):
    assert "'03/04/2022' is not a date" in refused(pages=[records({"deal_id": "1", "created_at": "03/04/2022"})], **api())


def test_a_field_no_record_has_is_null_where_records_leave_fields_out(read, refused):
    fields = {"deal_id": "Id", "amount": "Amuont", "name": "upper(Nmae)"}
    found = read(pages=[records({"Id": "1", "Amount": 5})], **api(fields=fields, incremental=True))
    assert (found.column("amount"), found.column("name")) == ([None], [None])
    assert any("no record has 'Amuont'; did you mean 'Amount'?" in warning for warning in found.warnings)
    assert "no column 'Amuont'" in refused(pages=[records({"Id": "1", "Amount": 5})], **api(fields=fields))


def test_no_records_at_all_are_no_rows(read):
    found = read(pages=[Page(watermark="w")], **api(fields={"deal_id": "Id", "amount": "Amount * 2"}, where="Amount > 1"))
    assert found.table.num_rows == 0
    assert found.table.schema.names == ENTITIES["deals"].names


def test_of_overlapping_pages_the_last_record_holds(read):
    pages = [
        records({"deal_id": "1", "name": "old"}, {"deal_id": "2", "name": "x"}),
        records({"deal_id": "1", "name": "new"}, watermark="w2"),
    ]
    found = read(pages=pages, **api(incremental=True))
    assert sorted(zip(found.column("deal_id"), found.column("name"), strict=True)) == [("1", "new"), ("2", "x")]
    assert found.result.watermark == "w2"


def test_an_id_stays_removed_unless_a_record_comes_after(read):
    pages = [records({"deal_id": "1"}, {"deal_id": "2"}, removed=("1", "2", "9")), records({"deal_id": "2"})]
    found = read(pages=pages, **api(incremental=True))
    assert found.column("deal_id") == ["2"]
    assert found.removed == ("1", "9")


def test_a_record_that_no_longer_meets_the_condition_is_as_good_as_removed(read):
    pages = [
        records({"deal_id": "1", "stage": "A"}, {"deal_id": "2", "stage": "A"}, {"deal_id": "3", "stage": None}),
        records({"deal_id": "2", "stage": "Test"}),
    ]
    found = read(pages=pages, **api(incremental=True, where="stage <> 'Test'"))
    assert found.column("deal_id") == ["1"]
    assert found.removed == ("3", "2")


def test_an_unchanged_page_is_all_there_is(read):
    found = read(pages=[Page(unchanged=True, watermark="w")], name="deals")
    assert found.result.unchanged
    assert found.table.num_rows == 0


def test_fewer_records_than_announced_are_an_error(refused):
    assert "announced 5 records and sent 1" in refused(pages=[records({"deal_id": "1"}, total=5)], **api())


def test_columns_may_come_late_and_in_any_order(read):
    pages = [records({"deal_id": "1"}), records({"name": "b", "deal_id": "2"}), records({"deal_id": "3", "stage": "s", "name": "c"})]
    found = read(pages=pages, **api())
    assert found.column("name") == [None, "b", "c"]
    assert found.column("stage") == [None, None, "s"]


def test_rows_of_several_files_are_named_with_their_file(refused):
    pages = [
        Page(records=pa.record_batch({"deal_id": ["1"], "amount": ["1"]}), first_row=2, place="a.csv"),
        Page(records=pa.record_batch({"deal_id": ["2", "3"], "amount": ["2", "x"]}), first_row=2, place="b.csv"),
    ]
    assert "b.csv, row 3, column 'amount'" in refused(pages=pages, name="deals")


def test_the_same_read_gives_the_same_rows_in_the_same_order_and_leaves_nothing_behind(read, place):
    chance = random.Random(7)
    columns = deals(amount=[f"{chance.randrange(10**6):,}.{chance.randrange(100):02d}" for _ in range(70_000)])
    found = read(columns, name="deals")
    assert found.column("deal_id") == columns["deal_id"]
    assert found.again.equals(found.table)
    engine, folder = place
    assert list(folder.rglob("*.parquet")) == []
    assert engine.tables() == ()


def test_progress_is_told(read):
    told = []
    read(
        pages=[records({"deal_id": "1"}, total=2), records({"deal_id": "2"})],
        **api(),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)]


def test_a_guess_is_told_until_it_is_surpassed(read):
    told = []
    pages = [records({"deal_id": str(number)}, expected=2 if number == 1 else None) for number in (1, 2, 3)]
    read(pages=pages, **api(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2), (3, None)]


def test_a_condition_of_words_is_no_column_name(read, refused):
    """`amount is not null` reads like a name of four words."""
    columns = {"deal_id": ["1", "2"], "amount": ["5", ""], "Due in days": ["3", "4"]}
    assert read(columns, where="amount is not null").column("deal_id") == [1]
    assert read(columns, fields={"deal_id": "deal_id", "late": "Due in days"}).column("late") == [3, 4]
    assert "no column 'Due in weeks'; did you mean 'Due in days'" in refused(columns, fields={"late": "Due in weeks"})
    assert "no column 'amuont'; did you mean 'amount'" in refused(columns, where="amuont is not null")


def test_a_later_read_without_records_has_nothing_to_choose_from(read):
    for condition in ("Id is not null", "Stage <> 'Test'"):
        page = Page(removed=("1",), watermark="w2")
        found = read(pages=[page], **api(incremental=True, fields={"deal_id": "Id"}, where=condition))
        assert (found.table.num_rows, found.removed) == (0, ("1",))
