"""The worked examples of docs/metrics.md, and what each number does when there is nothing to compute it from."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from connector.definitions import METRICS

DAY = date(2026, 3, 2)


def deals(number, status, *, start=0, **columns):
    return [{"deal_id": f"{status}{start + index}", "status": status, **columns} for index in range(number)]


@pytest.fixture(scope="module")
def fifty(measure):
    """50 deals: 10 won for 100 each after 20 days, 15 lost, 25 open."""
    closed = DAY + timedelta(days=20)
    return measure(
        deals=[
            *deals(10, "won", amount=100, created_at=DAY, closed_at=closed),
            *deals(15, "lost", amount=150, created_at=DAY, closed_at=closed),
            *deals(25, "open", amount=100, created_at=DAY),
        ]
    )


def test_average_deal_size(fifty):
    """1,000 over 10 deals → 100"""
    found = fifty.kpi("average_deal_size")
    assert (found["value"], found["numerator"], found["denominator"]) == (100, 1000, 10)
    assert (found["unit"], found["label"], found["rows_used"], found["rows_left_out"]) == ("money", "Average deal size", 10, 0)


def test_sales_cycle(measure):
    """60 days over 10 deals → 6; the median of 1, 2, 3, 4, 5, 6, 7, 8, 9, 15 is halfway between 5 and 6"""
    cycles = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)
    company = measure(
        deals=[
            {"deal_id": str(days), "status": "won", "amount": 1, "created_at": DAY, "closed_at": DAY + timedelta(days=days)}
            for days in cycles
        ]
    )
    assert company.kpi("sales_cycle_days")["numerator"] == 60
    assert company.value("sales_cycle_days") == 6
    assert company.value("sales_cycle_days_median") == 5.5


def test_win_rate(measure):
    """4 won, 6 lost → 40 %; 400 won of 1,000 by value → 40 %; open deals do not count"""
    company = measure(deals=[*deals(4, "won", amount=100), *deals(6, "lost", amount=100), *deals(5, "open", amount=100)])
    assert company.value("win_rate") == 0.4
    assert company.value("win_rate_value") == 0.4


def test_lead_conversion(measure):
    """25 of 200 → 12.5 %"""
    leads = [{"lead_id": str(index), "created_at": DAY, "deal_id": f"d{index}" if index < 25 else None} for index in range(200)]
    assert measure(leads=leads).value("lead_conversion_rate") == 0.125


def test_pipeline_conversion(fifty):
    """10 of 50 → 20 %"""
    assert fifty.value("pipeline_conversion") == 0.2


def test_sales_velocity(fifty):
    """50 × 100 × 0.4 ÷ 20 → 100 a day; closed deals only: 25 × 100 × 0.4 ÷ 20 = 50 = revenue ÷ cycle"""
    assert fifty.value("sales_velocity") == pytest.approx(100, abs=1e-9)
    assert fifty.value("sales_velocity_closed") == pytest.approx(50, abs=1e-9)
    assert fifty.value("revenue") / fifty.value("sales_cycle_days") == pytest.approx(50, abs=1e-9)


def test_revenue_growth(measure):
    """100 then 120 → 20 %"""
    company = measure(
        deals=[
            {"deal_id": "a", "status": "won", "amount": 100, "closed_at": date(2026, 4, 30)},
            {"deal_id": "b", "status": "won", "amount": 120, "closed_at": date(2026, 5, 1)},
        ]
    )
    assert company.value("revenue_growth", "last_month") == pytest.approx(0.2)
    months = {row["month"]: row["revenue_growth"] for row in company.rows("by_month")}
    assert months == {"2026-04": None, "2026-05": pytest.approx(0.2), "2026-06": -1}


def test_customer_acquisition_cost(measure):
    """10,000 over 100 customers → 100; a customer's second deal makes no new customer"""
    won = [
        {"deal_id": str(i), "status": "won", "amount": 5, "account": f"A{i % 100}", "closed_at": date(2026, 5, 1 + i // 100)}
        for i in range(150)
    ]
    company = measure(deals=won, spend=[{"period": date(2026, 5, 1), "amount": 10000}])
    found = company.kpi("customer_acquisition_cost", "last_month")
    assert (found["value"], found["numerator"], found["denominator"]) == (100, 10000, 100)


def test_customer_lifetime_value(measure):
    """100 × 2 deals a year × 3 years → 600; ÷ an acquisition cost of 100 → 6"""
    won = [
        {"deal_id": f"{customer}-{deal}", "status": "won", "amount": 100, "account": f"A{customer}", "closed_at": date(2026, 1, 10 + deal)}
        for customer in range(5)
        for deal in range(2)
    ]
    company = measure(deals=won, spend=[{"period": date(2026, 1, 1), "amount": 500}], model={"customer_lifespan_years": 3})
    assert company.value("customer_lifetime_value", "trailing_12_months") == pytest.approx(600)
    assert company.value("clv_to_cac", "trailing_12_months") == pytest.approx(6)


def test_margin_scales_lifetime_value(measure):
    """600 at a margin of 30 % → 180"""
    won = [
        {"deal_id": str(deal), "status": "won", "amount": 100, "account": "A", "closed_at": date(2026, 1, 10 + deal)} for deal in range(2)
    ]
    company = measure(deals=won, model={"customer_lifespan_years": 3, "margin": 0.3})
    assert company.value("customer_lifetime_value", "trailing_12_months") == pytest.approx(180)


def test_lifespan_from_churn(measure):
    """Four customers in the twelve months before last, three of whom bought again: a churn of 1 ÷ 4 a year, a lifespan of 4 years.

    In the last twelve months three deals of 100 over three customers: 100 × 1 × 4 = 400.
    """
    before = [{"deal_id": f"b{i}", "status": "won", "amount": 70, "account": f"A{i}", "closed_at": date(2025, 1, 5)} for i in range(4)]
    after = [{"deal_id": f"a{i}", "status": "won", "amount": 100, "account": f"A{i}", "closed_at": date(2026, 1, 5)} for i in range(3)]
    company = measure(deals=before + after)
    assert company.value("retention_rate", "trailing_12_months") == 0.75
    assert company.value("customer_lifetime_value", "trailing_12_months") == pytest.approx(400)
    assert company.value("repeat_revenue_share", "trailing_12_months") == 1


def test_coverage(measure):
    """300 open, quota 200, won 100 → 3.0×; what is expected later or never does not count"""
    company = measure(
        deals=[
            {"deal_id": "w", "status": "won", "amount": 100, "closed_at": date(2026, 6, 2)},
            {"deal_id": "o1", "status": "open", "amount": 100, "expected_close_date": date(2026, 6, 20)},
            {"deal_id": "o2", "status": "open", "amount": 200, "expected_close_date": date(2026, 6, 30)},
            {"deal_id": "o3", "status": "open", "amount": 900, "expected_close_date": date(2026, 7, 1)},
            {"deal_id": "o4", "status": "open", "amount": 900},
        ],
        quotas=[{"period": date(2026, 6, 1), "amount": 200}],
    )
    found = company.kpi("coverage", "this_month")
    assert (found["value"], found["rows_left_out"], found["note"]) == (3.0, 1, "period still running")
    assert company.kpi("coverage", "last_month")["note"] == "only for a period that is still running"


def test_open_pipeline(measure):
    """100 × 50 % + 200 × 10 % → 70 weighted, 300 open"""
    company = measure(
        deals=[
            {"deal_id": "a", "status": "open", "amount": 100, "probability": 0.5},
            {"deal_id": "b", "status": "open", "amount": 200, "probability": 0.1},
        ]
    )
    assert [company.value(name) for name in ("open_deals", "open_value", "weighted_value")] == [2, 300, 70]


def test_lead_value_attainment(measure):
    """A target of 250 a day: 7,500 in 30 days is 100 %; the months' targets are 250 × their days, 30 in June"""
    leads = [{"lead_id": str(i), "created_at": date(2026, 6, 15) - timedelta(days=i), "value": 250} for i in range(30)]
    company = measure(leads=leads, model={"targets": {"lead_value_per_day": 250}})
    assert company.value("lead_value_attainment", "trailing_30_days") == 1
    months = {row["start"]: row for row in company.rows("lead_targets", where="span = 'month'")}
    assert months["2026-06"]["target"] == 7500
    # half a year from 1 July: 184 days at 250 a day; at the pace of the last 30 days just that is heading there
    ahead = [months[month] for month in ("2026-07", "2026-08", "2026-09", "2026-10", "2026-11", "2026-12")]
    assert sum(row["target"] for row in ahead) == sum(row["projected"] for row in ahead) == 184 * 250
    # June so far: 15 days of 250, on to 30 days at that pace
    assert (months["2026-06"]["value"], months["2026-06"]["projected"]) == (15 * 250, 30 * 250)


def test_stalled_share(measure):
    """2 of 8 → 25 %; deals in a stage without a limit are left out"""
    open_deals = [
        {"deal_id": str(i), "status": "open", "stage": "Offer", "stage_entered_at": date(2026, 6, 15) - timedelta(days=15 if i < 2 else 14)}
        for i in range(8)
    ]
    unlimited = {"deal_id": "x", "status": "open", "stage": "Talk", "stage_entered_at": date(2020, 1, 1)}
    company = measure(deals=[*open_deals, unlimited], model={"stages": [{"name": "Talk"}, {"name": "Offer", "stalled_after_days": 14}]})
    found = company.kpi("stalled_share")
    assert (found["value"], found["rows_used"], found["rows_left_out"]) == (0.25, 8, 1)
    assert [row["deal_id"] for row in company.rows("stalled_deals")] == ["0", "1"]


def test_an_empty_company_has_every_table_and_no_zero_for_unknown(measure):
    company = measure(deals=[])
    assert {row["metric"] for row in company.rows("kpis")} == {metric.name for metric in METRICS}
    counted = {"open_deals", "open_value", "weighted_value", "revenue"}  # nothing open, nothing won: that is known to be 0
    for row in company.rows("kpis"):
        if row["value"] is None:
            assert row["note"], row
        else:
            assert (row["metric"] in counted, row["value"]) == (True, 0), row
    for name in company.tables.tables:
        company.rows(name)  # present, with a schema


def test_a_running_period_says_so(fifty):
    assert fifty.kpi("open_deals", "this_month")["note"] == "period still running"
    assert fifty.kpi("open_deals", "last_month")["note"] is None
