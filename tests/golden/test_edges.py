"""Small companies with every edge the field has, each number worked out in a comment."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from connector.errors import ConfigError

AT = date(2026, 6, 15)


def won(deal_id, amount, created, closed, **columns):
    return {"deal_id": deal_id, "status": "won", "amount": amount, "created_at": created, "closed_at": closed, **columns}


def lost(deal_id, amount, created, closed, **columns):
    return {"deal_id": deal_id, "status": "lost", "amount": amount, "created_at": created, "closed_at": closed, **columns}


def open_(deal_id, amount, created, **columns):
    return {"deal_id": deal_id, "status": "open", "amount": amount, "created_at": created, **columns}


def test_no_closes(measure):
    company = measure(deals=[open_(str(i), 100, date(2026, 6, 1)) for i in range(12)])
    assert company.value("open_value") == 1200
    assert company.value("pipeline_conversion") == 0  # 0 of 12: known
    for metric in ("win_rate", "average_deal_size", "sales_cycle_days", "sales_velocity", "win_rate_value"):
        assert company.value(metric) is None, metric
        assert company.kpi(metric)["note"] in ("no deal was closed", "no deal was won")


def test_all_lost(measure):
    company = measure(deals=[lost(str(i), 100, date(2026, 5, 1), date(2026, 6, 1)) for i in range(12)])
    assert company.value("win_rate") == 0  # 0 of 12: known
    assert company.value("win_rate_value") == 0
    assert company.value("revenue") == 0
    assert company.kpi("average_deal_size")["note"] == "no deal was won"
    assert company.kpi("sales_velocity")["value"] is None


def test_zero_amounts(measure):
    """Won at 0 counts as 0: (0 + 300) ÷ 2 = 150. Lost at 0 never enters an average: 300 ÷ (300 + 100) by value = 75 %."""
    day = date(2026, 6, 1)
    company = measure(deals=[won("a", 0, day, day), won("b", 300, day, day), lost("c", 0, day, day), lost("d", 100, day, day)])
    assert company.value("average_deal_size") == 150
    found = company.kpi("win_rate_value")
    assert (found["value"], found["rows_used"], found["rows_left_out"]) == (0.75, 3, 1)
    assert company.findings()["lost_at_zero"] == 1


def test_missing_amounts_are_missing_not_zero(measure):
    """Two won deals, one without an amount: 300 ÷ 1."""
    day = date(2026, 6, 1)
    company = measure(deals=[won("a", None, day, day), won("b", 300, day, day), open_("c", None, day)])
    found = company.kpi("average_deal_size")
    assert (found["value"], found["rows_used"], found["rows_left_out"]) == (300, 1, 1)
    assert company.kpi("revenue")["rows_left_out"] == 1
    found = company.kpi("open_value")
    assert (found["value"], found["note"], found["rows_left_out"]) == (None, "no open deal has a value in the reporting currency", 1)
    assert {"won_without_amount": 1, "open_without_amount": 1}.items() <= company.findings().items()


def test_missing_dates(measure):
    """Every deal counts in `all`; a period counts those whose date is known and says how many it left out."""
    company = measure(
        deals=[
            won("a", 100, date(2026, 5, 1), date(2026, 5, 11)),
            won("b", 100, None, date(2026, 5, 12)),
            won("c", 100, date(2026, 5, 1), None),
            lost("d", 100, None, None),
            open_("e", 100, None),
        ]
    )
    assert company.kpi("win_rate")["denominator"] == 4
    assert company.value("revenue") == 300
    assert (company.value("revenue", "last_month"), company.kpi("revenue", "last_month")["rows_left_out"]) == (200, 1)
    assert (company.value("win_rate", "last_month"), company.kpi("win_rate", "last_month")["rows_left_out"]) == (1, 2)
    # cycle: only a has both dates → 10 days; b and c are left out
    assert (company.value("sales_cycle_days"), company.kpi("sales_cycle_days")["rows_left_out"]) == (10, 2)
    # e is open now, dated or not; at the end of May nobody knows
    assert [company.value("open_deals", period) for period in ("all", "this_month", "last_month")] == [1, 1, 0]
    assert company.kpi("open_deals", "last_month")["rows_left_out"] == 3


def test_negative_cycle(measure):
    """Closed before created: left out of the cycle (10 days from the other deal), counted everywhere else, and said so."""
    company = measure(deals=[won("a", 100, date(2026, 5, 10), date(2026, 5, 1)), won("b", 100, date(2026, 5, 1), date(2026, 5, 11))])
    assert company.row("deals", "deal_id = 'a'")["cycle_days"] is None
    assert company.value("sales_cycle_days") == 10
    assert company.value("revenue") == 200
    found = company.row("data_quality", "code = 'closed_before_created'")
    assert (found["rows"], found["example_ids"], found["severity"]) == (1, "a", "warning")


PORTAL = [
    {"currency": "EUR", "to_currency": "EUR", "valid_from": date(1900, 1, 1), "rate": 1},
    {"currency": "GBP", "to_currency": "EUR", "valid_from": date(2026, 1, 1), "rate": "1.2"},
    {"currency": "GBP", "to_currency": "EUR", "valid_from": date(2026, 5, 1), "rate": "1.1"},
]


def test_rates_into_another_currency_than_the_reporting_one_are_crossed(measure):
    """A portal's rates go to EUR, reports are in USD: 0.80 EUR a dollar from January, 0.90 from March.

    1.20 ÷ 0.80 = 1.50 dollars a pound in February, 1.10 ÷ 0.90 in June (122.22 for 100); 1 ÷ 0.90 dollars a euro in April.
    """
    dollars = [
        {"currency": "USD", "to_currency": "EUR", "valid_from": date(2026, 1, 1), "rate": "0.8"},
        {"currency": "USD", "to_currency": "EUR", "valid_from": date(2026, 3, 1), "rate": "0.9"},
    ]
    day = date(2026, 1, 1)
    deals = [
        won("february", 100, day, date(2026, 2, 1), currency="GBP"),
        won("june", 100, day, date(2026, 6, 1), currency="GBP"),
        won("euro", 90, day, date(2026, 4, 1), currency="EUR"),
        won("dollar", 7, day, date(2026, 4, 1), currency="USD"),
        won("before", 100, date(2025, 1, 1), date(2025, 6, 1), currency="GBP"),
    ]
    company = measure(deals=deals, rates=[*PORTAL, *dollars], model={"currency": "USD"})
    found = {row["deal_id"]: row["amount_reporting"] for row in company.rows("deals")}
    assert {name: None if value is None else float(value) for name, value in found.items()} == {
        "february": 150,
        "june": 122.22,
        "euro": 100,
        "dollar": 7,
        "before": None,
    }


def test_without_a_rate_of_the_reporting_currency_nothing_is_converted(measure):
    """Amounts in the portal's own currency are no dollars, and rates into it are none into dollars."""
    day = date(2026, 6, 1)
    deals = [
        won("euro", 90, day, day, currency="EUR"),
        won("pound", 90, day, day, currency="GBP"),
        won("dollar", 7, day, day, currency="USD"),
    ]
    company = measure(deals=deals, rates=PORTAL, model={"currency": "USD"})
    assert company.value("revenue") == 7
    found = company.row("data_quality", "code = 'no_rate'")
    assert (found["rows"], found["severity"]) == (2, "error")
    assert "EUR, GBP" in found["finding"]


def test_small_currencies_are_converted_to_the_cent(measure):
    """163 yen and 26,001.5 đồng a euro: 100,000,000 JPY are 613,496.93 EUR, 2,000,000,000 VND are 76,918.64 EUR."""
    day = date(2026, 6, 1)
    rates = [
        {"currency": name, "valid_from": day, "rate": (1 / Decimal(units)).quantize(Decimal("1e-12"))}
        for name, units in (("JPY", "163"), ("VND", "26001.5"))
    ]
    deals = [won("yen", 100_000_000, day, day, currency="JPY"), won("dong", 2_000_000_000, day, day, currency="VND")]
    company = measure(deals=deals, rates=rates, model={"currency": "EUR"})
    assert {row["deal_id"]: float(row["amount_reporting"]) for row in company.rows("deals")} == {"yen": 613_496.93, "dong": 76_918.64}


def test_large_amounts_in_another_currency_are_converted(measure):
    """25 billion dollars at 0.9 are 22.5 billion euros, and a lead of 3 million is worth 2.7."""
    day = date(2026, 6, 1)
    company = measure(
        deals=[won("large", 25_000_000_000, day, day, currency="USD")],
        leads=[{"lead_id": "l", "value": 3_000_000, "currency": "USD", "created_at": day}],
        rates=[{"currency": "USD", "valid_from": day, "rate": "0.9"}],
        model={"currency": "EUR", "targets": {"lead_value_per_day": 10_000}},
    )
    assert company.value("revenue") == 22_500_000_000
    assert company.kpi("lead_value_attainment", "this_month")["numerator"] == 2_700_000


def test_large_amounts_are_weighted(measure):
    """300 million yen, likely at 75 %, are 225 million."""
    company = measure(deals=[open_("large", 300_000_000, date(2026, 6, 1), probability=0.75, currency="JPY")])
    assert company.value("weighted_value") == 225_000_000


def test_spend_and_quotas_are_converted_like_deals(measure):
    """Spend of 110 USD in May at 0.80 is 88 EUR over one new customer; a quota of 1,000 USD at 0.90 and one of 100 EUR are 1,000. CHF has no rate."""
    may = date(2026, 5, 1)
    rates = [
        {"currency": "USD", "valid_from": date(2026, 1, 1), "rate": "0.9"},
        {"currency": "USD", "valid_from": may, "rate": "0.8"},
    ]
    company = measure(
        deals=[won("a", 300, may, date(2026, 5, 20), currency="EUR", account="A")],
        spend=[{"period": may, "amount": 110, "currency": "USD"}, {"period": may, "amount": 50, "currency": "CHF", "category": "Fair"}],
        quotas=[{"period": date(2026, 4, 1), "amount": 1_000, "currency": "USD"}, {"period": date(2026, 4, 1), "amount": 100}],
        rates=rates,
        model={"currency": "EUR"},
    )
    assert company.kpi("customer_acquisition_cost", "last_month")["value"] == 88
    assert company.kpi("coverage", "this_quarter")["denominator"] == 1_000 - 300
    found = company.row("data_quality", "code = 'spend_without_rate'")
    assert (found["rows"], found["example_ids"], found["severity"]) == (1, "Fair", "error")


def test_two_currencies_with_a_rate_change(measure):
    """USD at 0.90 from January, 0.80 from May. Won on 30 April: 100 USD → 90.00; won on 1 May: 100 USD → 80.00; 33.33 USD open today → 26.66 (26.664).

    Revenue 90 + 80 + 50 EUR = 220; a CHF deal has no rate: it counts as won, its value is nowhere.
    """
    rates = [
        {"currency": "USD", "valid_from": date(2026, 1, 1), "rate": 0.9},
        {"currency": "USD", "valid_from": date(2026, 5, 1), "rate": 0.8},
    ]
    day = date(2026, 4, 1)
    company = measure(
        deals=[
            won("april", 100, day, date(2026, 4, 30), currency="USD"),
            won("may", 100, day, date(2026, 5, 1), currency="USD"),
            won("euro", 50, day, date(2026, 5, 1), currency="EUR"),
            won("franc", 70, day, date(2026, 5, 1), currency="CHF"),
            open_("open", "33.33", day, currency="USD"),
            won("early", 10, date(2025, 1, 1), date(2025, 12, 31), currency="USD"),
        ],
        rates=rates,
        model={"currency": "EUR"},
    )
    found = {row["deal_id"]: row["amount_reporting"] for row in company.rows("deals")}
    assert {name: None if value is None else str(value) for name, value in found.items()} == {
        "april": "90.0000",
        "may": "80.0000",
        "euro": "50.0000",
        "franc": None,
        "open": "26.6600",
        "early": None,
    }
    assert float(company.row("deals", "deal_id = 'may'")["rate"]) == 0.8
    assert (company.value("revenue"), company.kpi("revenue")["rows_left_out"]) == (220, 2)
    assert company.kpi("win_rate")["numerator"] == 5
    found = company.row("data_quality", "code = 'no_rate'")
    assert (found["rows"], found["example_ids"], found["severity"]) == (2, "early, franc", "error")
    assert "CHF, USD" in found["finding"]


def test_rates_from_the_configuration_and_from_the_crm(measure):
    """{GBP: 1.2} configured; the dollar deal brings its own rate."""
    day = date(2026, 5, 1)
    company = measure(
        deals=[won("gbp", 100, day, day, currency="GBP"), won("usd", 100, day, day, currency="USD", rate=0.5)],
        model={"currency": "EUR", "rates": {"GBP": 1.2}},
    )
    assert company.value("revenue") == 170


def test_several_currencies_without_a_reporting_currency(measure):
    day = date(2026, 5, 1)
    company = measure(deals=[won("a", 100, day, day, currency="EUR"), won("b", 100, day, day, currency="USD")])
    assert company.tables.currency is None
    assert company.kpi("revenue")["value"] is None
    assert company.kpi("revenue")["note"] == "no won deal has a value in the reporting currency"
    assert company.value("win_rate") == 1
    assert "EUR, USD" in company.row("data_quality", "code = 'no_rate'")["finding"]


def test_one_currency_needs_no_conversion(measure):
    day = date(2026, 5, 1)
    company = measure(deals=[won("a", 100, day, day, currency="JPY"), won("b", 100, day, day)])
    assert (company.tables.currency, company.value("revenue")) == ("JPY", 200)


STAGES = {
    "stages": [
        {"name": "Talk", "probability": 0.2},
        {"name": "Offer", "probability": 0.5},
        {"name": "Won", "won": True},
        {"name": "Lost", "lost": True},
    ]
}


def entry(deal_id, stage, day):
    return {"deal_id": deal_id, "stage": stage, "entered_at": day}


def test_reopened_deal(measure):
    """Lost in March, reopened in April: open now, one history; the stay in Lost ended by going back."""
    company = measure(
        deals=[open_("r", 100, date(2026, 1, 1), stage="Offer")],
        stage_entries=[
            entry("r", "Talk", date(2026, 1, 1)),
            entry("r", "Lost", date(2026, 3, 1)),
            entry("r", "Offer", date(2026, 4, 1)),
        ],
        model=STAGES,
    )
    entries = company.rows("stage_entries", "stage, days, next_stage, outcome, left_at, basis")
    assert entries == [
        {"stage": "Talk", "days": 59, "next_stage": "Lost", "outcome": "lost", "left_at": date(2026, 3, 1), "basis": "history"},
        {"stage": "Lost", "days": 31, "next_stage": "Offer", "outcome": "moved_back", "left_at": date(2026, 4, 1), "basis": "history"},
        {"stage": "Offer", "days": 75, "next_stage": None, "outcome": "current", "left_at": None, "basis": "history"},
    ]
    deal = company.row("deals")
    assert (deal["status"], deal["days_in_stage"], deal["stage_entered_at"]) == ("open", 75, date(2026, 4, 1))
    conversion = {row["stage"]: row for row in company.rows("stage_conversion")}
    # it came to Offer after all: Talk advanced, nobody is lost
    assert [conversion["Talk"][name] for name in ("entered", "advanced", "lost")] == [1, 1, 0]
    assert [conversion["Offer"][name] for name in ("entered", "advanced", "still_here")] == [1, 0, 1]


def test_backward_stage_move(measure):
    """a goes Talk → Offer → Talk and is lost there; b goes Talk → Offer → won; c is still in Talk; d was lost in Offer.

    Talk: entered a b c d = 4; advanced (came to Offer) a b d = 3; still here c. Offer: entered a b d = 3; advanced (won) b = 1; lost here d; moved back a.
    Cumulative: of the 4 that entered Talk, 3 came to Offer.
    """
    days = [date(2026, 1, day) for day in (1, 11, 21, 31)]
    company = measure(
        deals=[
            lost("a", 1, days[0], days[3], stage="Lost"),
            won("b", 1, days[0], days[2], stage="Won"),
            open_("c", 1, days[0], stage="Talk"),
            lost("d", 1, days[0], days[2], stage="Lost"),
        ],
        stage_entries=[
            entry("a", "Talk", days[0]),
            entry("a", "Offer", days[1]),
            entry("a", "Talk", days[2]),
            entry("b", "Talk", days[0]),
            entry("b", "Offer", days[1]),
            entry("b", "Won", days[2]),
            entry("c", "Talk", days[0]),
            entry("d", "Talk", days[0]),
            entry("d", "Offer", days[1]),
        ],
        model=STAGES,
    )
    talk, offer = company.rows("stage_conversion")
    names = ("stage", "entered", "advanced", "lost", "still_here", "moved_back", "won")
    assert [talk[name] for name in names] == ["Talk", 4, 3, 0, 1, 0, 1]
    assert [offer[name] for name in names] == ["Offer", 3, 1, 1, 0, 1, 1]
    assert [talk["conversion"], offer["conversion"]] == [0.75, pytest.approx(1 / 3)]
    assert [talk["conversion_of_decided"], offer["conversion_of_decided"]] == [1, 0.5]
    assert [talk["cumulative_conversion"], offer["cumulative_conversion"]] == [1, 0.75]
    # stays that ended in Talk: a 10 and 10 days, b 10, d 10; in Offer: a 10, b 10, d 10 (closed on the 21st)
    assert [talk["median_days"], talk["p90_days"], offer["median_days"]] == [10, 10, 10]
    outcomes = company.rows("stage_entries", "stage, outcome", "deal_id = 'a'")
    assert [row["outcome"] for row in outcomes] == ["advanced", "moved_back", "lost"]


def test_stage_entries_that_repeat_a_stage_are_one_stay(measure):
    """CRMs write a history row for every change; Talk, Talk, Offer is one stay of 20 days in Talk."""
    company = measure(
        deals=[open_("a", 1, date(2026, 1, 1), stage="Offer")],
        stage_entries=[entry("a", "Talk", date(2026, 1, 1)), entry("a", "Talk", date(2026, 1, 11)), entry("a", "Offer", date(2026, 1, 21))],
        model=STAGES,
    )
    assert [(row["stage"], row["days"]) for row in company.rows("stage_entries")] == [("Talk", 20), ("Offer", 145)]


def test_conversion_without_history(measure):
    """4 open in Talk, 3 open in Offer, 2 won, 5 lost in stage Lost (of which nothing is known), 1 lost while in Offer.

    Talk: 4 + 3 + 2 + 1 entered, 6 advanced, 4 still here. Offer: 3 + 2 + 1 entered, 2 advanced, 1 lost, 3 still here.
    """
    day = date(2026, 5, 1)
    company = measure(
        deals=[
            *(open_(f"t{i}", 1, day, stage="Talk") for i in range(4)),
            *(open_(f"o{i}", 1, day, stage="Offer") for i in range(3)),
            *(won(f"w{i}", 1, day, day, stage="Won") for i in range(2)),
            *(lost(f"l{i}", 1, day, day, stage="Lost") for i in range(5)),
            lost("lo", 1, day, day, stage="Offer"),
        ],
        model=STAGES,
    )
    talk, offer = company.rows("stage_conversion")
    names = ("stage", "entered", "advanced", "lost", "still_here", "won", "basis")
    assert [talk[name] for name in names] == ["Talk", 10, 6, 0, 4, 2, "reached"]
    assert [offer[name] for name in names] == ["Offer", 6, 2, 1, 3, 2, "reached"]
    assert talk["cumulative_conversion"] == 1
    assert offer["cumulative_conversion"] == 0.6
    assert talk["median_days"] is None
    assert company.engine.count("select * from stage_entries") == 16


def test_conversion_from_our_own_snapshots(measure):
    """Two former runs saw deal a in Talk, then in Offer; today it is won. Nobody knows since when it was in Talk."""
    company = measure(
        deals=[won("a", 1, None, date(2026, 6, 14), stage="Won"), open_("b", 1, date(2026, 6, 10), stage="Talk")],
        earlier={
            datetime(2026, 5, 1, 6, tzinfo=UTC): [open_("a", 1, None, stage="Talk")],
            datetime(2026, 5, 31, 6, tzinfo=UTC): [open_("a", 1, None, stage="Offer")],
        },
        model=STAGES,
    )
    entries = company.rows("stage_entries", "deal_id, stage, days, outcome, basis")
    assert entries == [
        {"deal_id": "a", "stage": "Talk", "days": None, "outcome": "advanced", "basis": "snapshot"},
        {"deal_id": "a", "stage": "Offer", "days": 15, "outcome": "won", "basis": "snapshot"},
        {"deal_id": "a", "stage": "Won", "days": None, "outcome": "won", "basis": "snapshot"},
        {"deal_id": "b", "stage": "Talk", "days": 5, "outcome": "current", "basis": "snapshot"},
    ]


def test_months_without_deals_are_there(measure):
    company = measure(deals=[won("a", 100, date(2026, 1, 10), date(2026, 1, 20)), won("b", 50, date(2026, 1, 10), date(2026, 4, 20))])
    assert [(row["month"], row["won"], row["revenue"]) for row in company.rows("by_month")] == [
        ("2026-01", 1, 100),
        ("2026-02", 0, 0),
        ("2026-03", 0, 0),
        ("2026-04", 1, 50),
        ("2026-05", 0, 0),
        ("2026-06", 0, 0),
    ]
    # growth of February against January: −100 %; of April against an empty March: nobody can say
    assert [row["revenue_growth"] for row in company.rows("by_month")] == [None, -1, None, None, -1, None]
    # b was open at the end of January, February and March
    assert [row["open_deals"] for row in company.rows("by_month")] == [1, 1, 1, 0, 0, 0]


def test_a_slip_of_the_pen_does_not_fill_by_month(measure):
    """Created in the year 202 instead of 2026: a finding, not 21,000 months."""
    company = measure(deals=[won("a", 100, date(202, 5, 1), date(2026, 5, 20)), won("b", 100, date(2026, 4, 10), date(2026, 5, 20))])
    assert [row["month"] for row in company.rows("by_month")] == ["2026-04", "2026-05", "2026-06"]
    assert company.findings()["date_implausible"] == 1
    assert company.value("revenue") == 200


def test_quarter_boundary_in_another_time_zone(measure):
    """Won at 22:30 UTC on 31 March: that is 1 April in Berlin (summer time), still March in New York."""
    moment = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)
    deal = won("a", 100, datetime(2026, 3, 1, 12, tzinfo=UTC), moment)
    quarters = {}
    for zone in ("Europe/Berlin", "America/New_York"):
        company = measure(deals=[deal], timezone=zone)
        [quarters[zone]] = [row["quarter"] for row in company.rows("by_quarter") if row["won"]]
        row = company.row("deals")
        assert row["closed_at"] == moment
        assert row["closed_month"] == ("2026-04" if zone == "Europe/Berlin" else "2026-03")
    assert quarters == {"Europe/Berlin": "2026Q2", "America/New_York": "2026Q1"}


def test_date_only_values_never_shift(measure):
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        company = measure(deals=[won("a", 100, date(2026, 3, 1), date(2026, 3, 31))], timezone=zone)
        assert company.row("deals")["closed_at"] == date(2026, 3, 31)
        assert company.row("deals")["closed_month"] == "2026-03"
        assert company.row("deals")["cycle_days"] == 30


def test_fiscal_year(measure):
    """A fiscal year from July: 15 June 2026 is in the last quarter of FY2026; the year before began on 1 July 2024."""
    company = measure(
        deals=[
            won("a", 100, date(2025, 6, 1), date(2025, 6, 30)),
            won("b", 10, date(2025, 6, 1), date(2025, 7, 1)),
            won("c", 1, date(2025, 6, 1), date(2026, 4, 1)),
        ],
        model={"fiscal_year_start": 7},
    )
    assert {row["quarter"]: row["revenue"] for row in company.rows("by_quarter") if row["won"]} == {
        "FY2025Q4": 100,
        "FY2026Q1": 10,
        "FY2026Q4": 1,
    }
    found = company.kpi("revenue", "this_year")
    assert (found["period_start"], found["period_end"], found["value"], found["previous"]) == (date(2025, 7, 1), date(2026, 6, 30), 11, 100)
    assert company.kpi("revenue", "this_quarter")["period_start"] == date(2026, 4, 1)
    assert company.value("revenue", "last_quarter") == 0


def test_trailing_periods_end_today(measure):
    """30 days ending on 15 June begin on 17 May; the 30 days before begin on 17 April; 12 months begin on 16 June 2025."""
    company = measure(deals=[])
    spans = {period: company.kpi("revenue", period) for period in ("trailing_30_days", "trailing_12_months")}
    assert [spans["trailing_30_days"][name] for name in ("period_start", "period_end")] == [date(2026, 5, 17), AT]
    assert [spans["trailing_12_months"][name] for name in ("period_start", "period_end")] == [date(2025, 6, 16), AT]


def test_sizes(measure):
    """Configured bounds 100 and 1,000: a bound belongs to the size above it."""
    company = measure(
        deals=[open_(str(amount), amount, None) for amount in (99, 100, 999, 1000)] + [open_("?", None, None)],
        model={"size_buckets": [100, 1000]},
    )
    assert [(row["size"], row["deals"]) for row in company.rows("by_size")] == [
        ("< 100", 1),
        ("100 – 1,000", 2),
        ("≥ 1,000", 1),
        ("(none)", 1),
    ]


def test_status_of_configured_stages_wins(measure):
    """The CRM says open; the team's stage Won is a won stage all the same."""
    company = measure(deals=[open_("a", 100, date(2026, 5, 1), stage="Won") | {"closed_at": date(2026, 5, 2)}], model=STAGES)
    assert company.row("deals")["status"] == "won"
    assert company.value("revenue") == 100


def test_probability_comes_from_the_stage(measure):
    """Talk 20 % of 100 and, as the deal itself says, 90 % of 100; 50 is not a probability."""
    company = measure(
        deals=[
            open_("a", 100, None, stage="Talk"),
            open_("b", 100, None, stage="Talk", probability=0.9),
            open_("c", 100, None, stage="Talk", probability=50.0),
        ],
        model=STAGES,
    )
    found = company.kpi("weighted_value")
    assert (found["value"], found["rows_used"], found["rows_left_out"]) == (110, 2, 1)
    assert company.findings()["probability_refused"] == 1


def test_unknown_scoring_column_is_a_configuration_error(measure):
    with pytest.raises(ConfigError, match=r"lead_scoring.rules\[0\].when: no column 'sorce'"):
        measure(leads=[{"lead_id": "1"}], model={"lead_scoring": {"rules": [{"when": "sorce = 'Web'", "points": 5}]}})
