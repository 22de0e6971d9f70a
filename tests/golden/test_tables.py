"""Tables with a shape of their own: movement between runs, changes, follow-ups, balance, leads, products, forecast, customers, own metrics."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from connector.changes import MOVEMENTS
from connector.definitions import METRICS, TABLES, words
from connector.errors import ConfigError

AT = date(2026, 6, 15)
DAY = date(2026, 5, 1)
STAGES = [{"name": "Talk"}, {"name": "Offer"}, {"name": "Won", "won": True}, {"name": "Lost", "lost": True}]


def deal(deal_id, status="open", amount=100, stage="Talk", **columns):
    return {"deal_id": deal_id, "status": status, "amount": amount, "stage": stage, "created_at": DAY, **columns}


# ── movement ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def moved(measure):
    """Two runs, 1 June and 15 June. Reckoned in EUR; the dollar goes from 0.90 to 0.80 on 10 June. The quarter ends on 30 June."""
    rates = [
        {"currency": "USD", "valid_from": date(2026, 1, 1), "rate": 0.9},
        {"currency": "USD", "valid_from": date(2026, 6, 10), "rate": 0.8},
    ]
    model = {"currency": "EUR", "stages": STAGES}
    soon, later, closed = date(2026, 6, 20), date(2026, 8, 1), date(2026, 6, 8)
    before = measure(
        at=date(2026, 6, 1),
        model=model,
        rates=rates,
        deals=[
            deal("raised", amount=100, expected_close_date=soon),
            deal("cut", amount=100, expected_close_date=soon),
            deal("moved", amount=40, expected_close_date=soon, owner="Ann"),
            deal("pushed", amount=70, expected_close_date=soon),
            deal("pulled", amount=30, expected_close_date=later),
            deal("dollar", amount=1000, currency="USD", expected_close_date=soon),
            deal("won", amount=500, expected_close_date=soon),
            deal("lost", amount=60, expected_close_date=soon),
            deal("merged", amount=11, expected_close_date=soon),
            deal("back", "lost", amount=25, stage="Lost", closed_at=DAY),
            deal("same", amount=1, expected_close_date=soon),
        ],
    )
    after = measure(
        at=AT,
        model=model,
        rates=rates,
        memories=[before.remember()],
        deals=[
            deal("raised", amount=150, expected_close_date=soon),
            deal("cut", amount=80, expected_close_date=soon),
            deal("moved", amount=40, stage="Offer", expected_close_date=soon, owner="Bob"),
            deal("pushed", amount=70, expected_close_date=later),
            deal("pulled", amount=30, expected_close_date=soon),
            deal("dollar", amount=1100, currency="USD", expected_close_date=soon),
            deal("won", "won", amount=520, stage="Won", closed_at=closed),
            deal("lost", "lost", amount=60, stage="Lost", closed_at=closed),
            deal("back", amount=25, expected_close_date=soon),
            deal("new", amount=5, expected_close_date=soon),
            deal("quick", "won", amount=9, stage="Won", closed_at=closed),
            deal("same", amount=1, expected_close_date=soon),
        ],
    )
    return before, after


def test_movement_adds_up_and_says_why(moved):
    """Opening 100 + 100 + 40 + 70 + 30 + 900 + 500 + 60 + 11 + 1 = 1,812; closing 150 + 80 + 40 + 70 + 30 + 880 + 25 + 5 + 1 = 1,281.

    The dollars: 1,000 at 0.90 = 900; at 0.80 = 800, so −100 is the currency's; 1,100 at 0.80 = 880, so +80 is an increase.
    Increased 50 + 80, decreased −20, new 5, reopened 25, won −500 (what was open), lost −60, removed −11.
    """
    before, after = moved
    rows = after.rows("pipeline_movement")
    total = {name: sum(row[name] for row in rows) for name in ("opening", *MOVEMENTS, "closing")}
    assert total == {
        "opening": 1812,
        "new": 5,
        "increased": 130,
        "decreased": -20,
        "pulled_in": 0,
        "pushed_out": 0,
        "moved_stage": 0,
        "reopened": 25,
        "won": -500,
        "lost": -60,
        "removed": -11,
        "currency_effect": -100,
        "closing": 1281,
    }
    for row in rows:
        assert row["opening"] + sum(row[name] for name in MOVEMENTS) == pytest.approx(row["closing"], abs=1e-9), row
        assert (row["period_start"], row["period_end"]) == (date(2026, 6, 1), AT)
    assert total["opening"] == before.value("open_value")
    assert total["closing"] == after.value("open_value")


def test_movement_between_stages_and_quarters(moved):
    """40 leaves Talk for Offer; 70 leaves this quarter for a later one, 30 comes from there."""
    _, after = moved
    rows = {(row["stage"], row["expected"]): row for row in after.rows("pipeline_movement")}
    assert set(rows) == {("Talk", "by the end of the quarter"), ("Talk", "later"), ("Offer", "by the end of the quarter")}
    now, later, offer = (
        rows[key] for key in (("Talk", "by the end of the quarter"), ("Talk", "later"), ("Offer", "by the end of the quarter"))
    )
    assert [now["moved_stage"], offer["moved_stage"]] == [-40, 40]
    assert [now["pushed_out"], later["pushed_out"]] == [-70, 70]
    assert [now["pulled_in"], later["pulled_in"]] == [30, -30]
    assert [later["opening"], later["closing"]] == [30, 70]


def test_what_changed(moved):
    _, after = moved
    found = [
        (row["change"], row["deal_id"], row["before"], row["after"], row["amount_before"], row["amount_after"])
        for row in after.rows("what_changed")
    ]
    assert found == [
        ("won", "won", "Talk", "Won", 500, 520),
        ("won", "quick", None, "Won", None, 9),
        ("lost", "lost", "Talk", "Lost", 60, 60),
        ("new", "new", None, "Talk", None, 5),
        ("reopened", "back", "Lost", "Talk", 25, 25),
        ("stage", "moved", "Talk", "Offer", 40, 40),
        ("amount", "dollar", None, None, 900, 880),
        ("amount", "won", None, None, 500, 520),
        ("amount", "raised", None, None, 100, 150),
        ("amount", "cut", None, None, 100, 80),
        ("close_date", "pushed", "2026-06-20", "2026-08-01", 70, 70),
        ("close_date", "pulled", "2026-08-01", "2026-06-20", 30, 30),
        ("owner", "moved", "Ann", "Bob", 40, 40),
        ("removed", "merged", "Talk", None, 11, None),
    ]


def test_a_first_run_has_nothing_to_compare_with(moved):
    before, _ = moved
    assert before.rows("pipeline_movement") == before.rows("what_changed") == []


def test_three_runs_chain(measure):
    """10 → 15 → 12: each step starts where the one before ended."""
    first = measure(at=date(2026, 4, 1), deals=[deal("a", amount=10)]).remember()
    second = measure(at=date(2026, 5, 1), deals=[deal("a", amount=15)]).remember()
    company = measure(deals=[deal("a", amount=12)], memories=[first, second])
    steps = [
        [row[name] for name in ("period_start", "opening", "increased", "decreased", "closing")]
        for row in company.rows("pipeline_movement")
    ]
    assert steps == [[date(2026, 4, 1), 10, 5, 0, 15], [date(2026, 5, 1), 15, 0, -3, 12]]
    assert [row["amount_before"] for row in company.rows("what_changed")] == [15]


def test_a_run_in_another_currency_is_not_compared(measure):
    before = measure(at=date(2026, 6, 1), deals=[deal("a", currency="USD")], model={"currency": "USD"}).remember()
    company = measure(deals=[deal("a", currency="USD")], model={"currency": "EUR", "rates": {"USD": 0.9}}, memories=[before])
    assert company.rows("pipeline_movement") == []


# ── lists to work through ─────────────────────────────────────────────────────────────────────────


def test_follow_ups(measure):
    company = measure(
        deals=[
            deal("quiet", amount=5, expected_close_date=date(2026, 9, 1), owner="Ann"),
            deal("planned", next_activity_at=date(2026, 6, 20)),
            deal("late", expected_close_date=date(2026, 6, 1), next_activity_at=date(2026, 6, 20)),
            # lost on 20 March: three months after is 20 June; lost on 16 December: six months after is 16 June
            deal("spring", "lost", closed_at=date(2026, 3, 20), lost_reason="price"),
            deal("winter", "lost", closed_at=date(2025, 12, 16)),
            deal("old", "lost", closed_at=date(2025, 3, 1)),
            # first won on 1 June: welcome for 90 days, until 30 August; the second deal makes nobody new
            deal("first", "won", closed_at=date(2026, 6, 1), account="Acme"),
            deal("second", "won", closed_at=date(2026, 6, 10), account="acme "),
        ],
        activities=[
            {"activity_id": "1", "deal_id": "planned", "subject": "Call back", "due_at": date(2026, 6, 12), "owner": "Bob"},
            {"activity_id": "2", "deal_id": "planned", "subject": "Done", "due_at": date(2026, 6, 12), "done_at": date(2026, 6, 12)},
            {"activity_id": "3", "deal_id": "spring", "subject": "On a closed deal", "due_at": date(2026, 6, 12)},
        ],
    )
    rows = company.rows("follow_ups")
    found = [(row["reason"], row["deal_id"], row["due_date"], row["days_overdue"], row["subject"]) for row in rows]
    assert found == [
        ("overdue_activity", "planned", date(2026, 6, 12), 3, "Call back"),
        ("close_date_past", "late", date(2026, 6, 1), 14, "Talk"),
        ("no_next_activity", "quiet", AT, 0, "Talk"),
        ("check_in_6_months", "winter", date(2026, 6, 16), 0, None),
        ("check_in_3_months", "spring", date(2026, 6, 20), 0, "price"),
        ("welcome", "first", date(2026, 8, 30), 0, None),
    ]
    assert rows[0]["owner"] == "Bob"


def test_without_any_planned_activity_nobody_is_told_to_plan(measure):
    assert measure(deals=[deal("a"), deal("b")]).rows("follow_ups") == []


def test_stalled_by_the_habits_of_won_deals(measure):
    """Ten won deals spent 1 … 10 days in Talk: the 90th percentile is 9 + 0.1 × (10 − 9) = 9.1 days."""
    history, deals = [], []
    for days in range(1, 11):
        closed = DAY + timedelta(days=days)
        deals.append(deal(f"w{days:02}", "won", stage="Won", closed_at=closed))
        history += [
            {"deal_id": f"w{days:02}", "stage": "Talk", "entered_at": DAY},
            {"deal_id": f"w{days:02}", "stage": "Won", "entered_at": closed},
        ]
    for name, since in (("slow", 10), ("fine", 9)):
        deals.append(deal(name))
        history.append({"deal_id": name, "stage": "Talk", "entered_at": AT - timedelta(days=since)})
    company = measure(deals=deals, stage_entries=history, model={"stages": STAGES})
    [stalled] = company.rows("stalled_deals")
    assert (stalled["deal_id"], stalled["limit_days"], stalled["basis"]) == ("slow", pytest.approx(9.1), "won_deals")
    assert stalled["days_over"] == pytest.approx(0.9)
    assert company.value("stalled_share") == 0.5
    fewer = measure(deals=deals[1:], stage_entries=history[2:], model={"stages": STAGES})
    assert fewer.rows("stalled_deals") == []  # nine are too few to tell


# ── balance, products, leads, forecast, customers ─────────────────────────────────────────────────


def test_pipeline_balance(measure):
    """6 of 10 open deals in Talk that should hold 50 % (healthy: 60 ÷ 50 = 1.2), 1 in Offer of 40 % (thin), 3 in Sign of 10 % (crowded)."""
    stages = [{"name": "Talk"}, {"name": "Offer"}, {"name": "Sign"}]
    spread = [*["Talk"] * 6, "Offer", *["Sign"] * 3]
    company = measure(
        deals=[deal(str(i), stage=stage, amount=10) for i, stage in enumerate(spread)],
        model={"stages": stages, "balance": {"Talk": 0.5, "Offer": 0.4, "Sign": 0.1}},
    )
    rows = company.rows("pipeline_balance", "stage, deals, value, share, expected_share, verdict, basis")
    assert [list(row.values()) for row in rows] == [
        ["Talk", 6, 60, 0.6, 0.5, "healthy", "configured"],
        ["Offer", 1, 10, 0.1, 0.4, "thin", "configured"],
        ["Sign", 3, 30, 0.3, 0.1, "crowded", "configured"],
    ]


def test_product_mix(measure):
    """Desks: 3 of 4 won against a target of 50 %, 90 of 100 of the revenue against 80 %, 1 of 2 leads."""
    deals = [deal(f"w{i}", "won", amount=30, product="Desk", closed_at=DAY) for i in range(3)]
    deals += [deal("l", "lost", product="Desk", closed_at=DAY), deal("c", "won", amount=10, product="Lamp", closed_at=DAY)]
    company = measure(
        deals=deals,
        products=[{"product": "desk", "product_category": "Desks"}],
        leads=[{"lead_id": "1", "product": "Desk"}, {"lead_id": "2", "product": "Lamp"}],
        model={"product_targets": {"Desks": {"win_rate": 0.5, "revenue_share": 0.8, "lead_share": 0.5}}},
    )
    desks, lamps = company.rows("product_mix")
    assert [desks[name] for name in ("product_category", "leads", "created", "won", "lost", "revenue", "win_rate")] == [
        "Desks",
        1,
        4,
        3,
        1,
        90,
        0.75,
    ]
    assert [desks[name] for name in ("win_rate_gap", "revenue_share_gap", "lead_share_gap")] == [0.25, pytest.approx(0.1), 0]
    assert (lamps["product_category"], lamps["target_win_rate"]) == ("Lamp", None)
    assert company.findings()["product_unmatched"] == 1


def test_lead_scoring_and_bant(measure):
    """Points: referral 60, budget known 20. 80 → A, 60 → B, 20 → D. BANT: three of four make a qualified lead."""
    leads = [
        {"lead_id": "1", "lead_source": "Referral", "budget": 1, "authority": 1, "need": 1, "value": 100, "deal_id": "open"},
        {"lead_id": "2", "lead_source": "Referral", "budget": 0, "authority": 1, "need": 1, "deal_id": "open2"},
        {"lead_id": "3", "lead_source": "Web", "budget": 1},
        {"lead_id": "4", "lead_source": "Web"},
        {"lead_id": "5", "lead_source": "Web", "score": 99.0, "grade": "Hot"},
    ]
    rules = [{"when": "lead_source = 'Referral'", "points": 60}, {"when": "budget = 1", "points": 20, "kind": "engagement"}]
    company = measure(leads=leads, deals=[deal("open"), deal("open2")], model={"lead_scoring": {"rules": rules}})
    found = [(row["lead_id"], row["score"], row["grade"], row["is_qualified"]) for row in company.rows("leads")]
    assert found == [("1", 80, "A", 1), ("2", 60, "B", 0), ("3", 20, "D", 0), ("4", 0, "D", None), ("5", 99, "Hot", None)]
    quality = {row["grade"]: row for row in company.rows("lead_quality")}
    assert [quality["B"][name] for name in ("leads", "unqualified", "unqualified_in_pipeline", "converted", "with_budget")] == [
        1,
        1,
        1,
        1,
        0,
    ]
    assert [quality["D"][name] for name in ("leads", "average_score", "profile_points", "engagement_points", "not_judged")] == [
        2,
        10,
        0,
        10,
        1,
    ]


def test_forecast(measure):
    """June: 100 won of a quota of 400, 200 at 50 % expected: (100 + 100) ÷ 400 = 50 %. The rows add up to 100 + 200 + 300 + 7."""
    company = measure(
        deals=[
            deal("won", "won", amount=100, closed_at=date(2026, 6, 3)),
            deal("commit", amount=200, probability=0.5, forecast_category="Commit", expected_close_date=date(2026, 6, 30)),
            deal("later", amount=300, probability=0.1, forecast_category="Pipeline", expected_close_date=date(2026, 8, 30)),
            deal("never", amount=7),
        ],
        quotas=[{"period": date(2026, 6, 1), "amount": 400}],
    )
    rows = [
        list(row.values())
        for row in company.rows(
            "forecast", "month, forecast_category, deals, value, weighted_value, cumulative_weighted, quota, quota_coverage"
        )
    ]
    assert rows == [
        ["2026-06", "closed", 1, 100, 100, 100, 400, 0.5],
        ["2026-06", "Commit", 1, 200, 100, 200, None, None],
        ["2026-08", "Pipeline", 1, 300, 30, 230, None, None],
        ["(none)", "(none)", 1, 7, None, 230, None, None],
    ]


def test_customers(measure):
    """Acme bought twice, a year apart; Beta 400 days ago and is at risk."""
    company = measure(
        deals=[
            deal("a", "won", amount=10, account="Acme", closed_at=date(2025, 6, 1)),
            deal("b", "won", amount=20, account="Acme", closed_at=date(2026, 6, 5)),
            deal("c", amount=5, account="Acme"),
            deal("d", "won", amount=7, account="Beta", closed_at=AT - timedelta(days=400)),
            deal("e", amount=5, account="Prospect"),
        ]
    )
    acme, beta = company.rows("customers")
    assert [acme[name] for name in ("account", "won", "revenue", "revenue_12_months", "open_value", "days_since_won", "is_at_risk")] == [
        "Acme",
        2,
        30,
        20,
        5,
        10,
        0,
    ]
    assert [beta[name] for name in ("account", "first_won", "days_since_won", "is_at_risk", "open_deals")] == [
        "Beta",
        AT - timedelta(days=400),
        400,
        1,
        0,
    ]
    existing = {row["deal_id"]: row["is_existing_customer"] for row in company.rows("deals")}
    assert existing == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}


# ── own metrics, words ────────────────────────────────────────────────────────────────────────────


def test_own_metrics(measure):
    """Average of amount per deal: (100 + 50 + 30) ÷ 3 = 60 over all; Ann (100 + 50) ÷ 2 = 75, Bob 30; won in May 100, in June 50."""
    company = measure(
        deals=[
            deal("a", "won", amount=100, owner="Ann", closed_at=date(2026, 5, 3)),
            deal("b", "won", amount=50, owner="Ann", closed_at=date(2026, 6, 3)),
            deal("c", "won", amount=30, owner="Bob"),
        ],
        model={
            "metrics": [
                {
                    "name": "value_per_deal",
                    "sql": "sum(amount_reporting) / count(*)",
                    "unit": "money",
                    "by": ["owner"],
                    "description": "Per deal.",
                },
                {
                    "name": "won_value",
                    "sql": "sum(amount_reporting)",
                    "unit": "money",
                    "date": "closed_at",
                    "by": ["month"],
                    "label": "Won!",
                },
            ]
        },
    )
    assert (company.value("value_per_deal"), company.kpi("value_per_deal")["label"]) == (60, "Value per deal")
    assert company.rows("kpis", where="metric = 'value_per_deal' and period <> 'all'") == []
    assert {row["owner"]: row["value_per_deal"] for row in company.rows("by_owner")} == {"Ann": 75, "Bob": 30}
    june = company.kpi("won_value", "this_month")
    assert [june[name] for name in ("label", "value", "previous", "change", "rows_used", "rows_left_out")] == ["Won!", 50, 100, -50, 1, 1]
    assert company.value("won_value") == 180
    assert {row["month"]: row["won_value"] for row in company.rows("by_month")} == {"2026-05": 100, "2026-06": 50}
    defined = company.row("definitions", "name = 'value_per_deal'")
    assert [defined[name] for name in ("kind", "definition", "formula")] == ["Own metric", "Per deal.", "sum(amount_reporting) / count(*)"]
    assert company.tables.tables["by_owner"].columns["value_per_deal"].unit == "money"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"sql": "sum(amuont)"}, "no column 'amuont'; did you mean 'amount'"),
        ({"sql": "amount"}, "aggregate"),
        ({"sql": "max(owner)"}, "not a number"),
        ({"sql": "(select 1)"}, "one expression"),
        ({"sql": "1; drop table deals"}, "one SELECT"),
        ({"sql": "count(*)", "table": "deasl"}, "no table 'deasl'; did you mean 'deals'"),
        ({"sql": "count(*)", "date": "closed"}, "no date column 'closed' in deals; did you mean 'closed_at'"),
        ({"sql": "count(*)", "by": ["regoin"]}, "no table by_regoin; did you mean 'region'"),
        ({"sql": "count(*)", "by": ["month"]}, "needs to know by which date"),
        ({"sql": "count(*)", "table": "leads", "by": ["team"]}, "leads has no column 'team'"),
    ],
)
def test_own_metrics_are_checked(measure, metric, message):
    with pytest.raises(ConfigError) as caught:
        measure(model={"metrics": [{"name": "mine", **metric}]})
    assert "model.metrics[0] (mine)" in str(caught.value)
    assert message in str(caught.value) + (caught.value.remedy or "")


def test_own_metric_may_not_take_a_name(measure):
    with pytest.raises(ConfigError, match="there is a metric of that name already"):
        measure(model={"metrics": [{"name": "win_rate", "sql": "count(*)"}]})


def test_languages_say_the_same_things():
    english, chinese = words("en"), words("zh-CN")

    def shape(value):
        return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    assert shape(english) == shape(chinese)
    assert set(english["metrics"]) == {metric.name for metric in METRICS}
    assert set(english["tables"]) == set(TABLES)
    with pytest.raises(ConfigError, match="no words for locale 'fr'"):
        words("fr")


def test_everything_is_labelled_in_chinese(measure):
    company = measure(deals=[deal("a", owner=None)], locale="zh")
    assert company.kpi("win_rate")["label"] == "赢单率"
    assert company.kpi("win_rate")["note"] == "没有关闭的商机"
    assert [row["owner"] for row in company.rows("by_owner")] == []
    missing = {
        (name, column)
        for name, info in company.tables.tables.items()
        for column, meaning in info.columns.items()
        if meaning.label.isascii()
    }
    assert not missing
    assert company.tables.tables["deals"].title == "商机"


def test_definitions_cover_what_the_workbook_shows(measure):
    company = measure(deals=[deal("a", "won", amount=None, closed_at=DAY)])
    rows = {row["name"]: row for row in company.rows("definitions")}
    assert set(rows) == {metric.name for metric in METRICS} | set(TABLES)
    assert rows["average_deal_size"]["rows_left_out"] == 1
    assert all(row["definition"] for row in rows.values())


def test_units_and_keys(measure):
    company = measure(deals=[deal("a", closed_at=datetime(2026, 6, 1, tzinfo=ZoneInfo("UTC")))])
    deals = company.tables.tables["deals"]
    assert deals.key == ("deal_id",)
    units = {name: column.unit for name, column in deals.columns.items()}
    assert [units[name] for name in ("amount", "probability", "cycle_days", "created_at", "closed_at", "url", "deal_id", "name")] == [
        "money",
        "percent",
        "days",
        "date",
        "instant",
        "url",
        "id",
        "text",
    ]
    assert (deals.columns["amount"].foreign, deals.columns["amount_reporting"].foreign) == (True, False)
    assert company.tables.tables["pipeline_movement"].columns["won"].unit == "money"
    assert company.tables.tables["by_owner"].columns["won"].unit == "count"
    for name, info in company.tables.tables.items():
        assert set(info.key) <= set(info.columns), name
