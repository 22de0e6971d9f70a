"""Every headline metric as SQL fragments over a row `m` of `spans`: everything counted in a span of time.

A metric's value is `numerator ÷ denominator` unless `value` says otherwise, and empty when the denominator is 0 or unknown;
`reasons` then say why, the first that holds. The words are in `connector/locale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


def ratio(numerator: str, denominator: str) -> str:
    """A quotient that is empty where there is nothing to divide by."""
    top, bottom = f"cast({numerator} as double)", f"cast({denominator} as double)"
    return f"case when {denominator} is null or {denominator} = 0 then null else {top} / {bottom} end"


@dataclass(frozen=True, slots=True)
class Formula:
    """How a metric is computed. `used` and `left_out` count the rows that made the number and those that could not.

    `basis` names, in the locale files, which rows a period takes by which date.
    """

    name: str
    unit: str
    numerator: str
    denominator: str | None
    used: str
    left_out: str = "0"
    value: str | None = None
    reasons: tuple[tuple[str, str], ...] = ()
    basis: str = "closed"

    def sql(self) -> str:
        if self.value is not None:
            return self.value
        return f"cast({self.numerator} as double)" if self.denominator is None else ratio(self.numerator, self.denominator)


AVERAGE: Final = ratio("m.revenue", "m.won_valued")
CYCLE: Final = ratio("m.cycle_days", "m.cycle_deals")
WIN_RATE: Final = ratio("m.won", "(m.won + m.lost)")
UNDATED_CLOSED: Final = "m.undated_won + m.undated_lost"
NO_WON: Final = ("m.won = 0", "no_won")
NO_WON_VALUE: Final = ("m.won_valued = 0", "no_won_value")
NO_CYCLE: Final = ("m.cycle_deals = 0", "no_cycle")
ZERO_CYCLE: Final = ("m.cycle_days = 0", "zero_cycle")
NO_CLOSED: Final = ("m.won + m.lost = 0", "no_closed")
PAST: Final = ("m.is_current = 0", "only_now")


def velocity(deals: str) -> str:
    """The numerator of a velocity. Its factors are rounded as `kpis` readers see them, so that the number can be worked out again."""
    return f"{deals} * round({AVERAGE}, 6) * round({WIN_RATE}, 6)"


PER_CUSTOMER: Final = (
    "case when m.customers = 0 or m.years_so_far is null or m.years_so_far = 0 then null "
    "else cast(m.won_with_account as double) / m.customers / m.years_so_far end"
)
LIFETIME: Final = f"({AVERAGE}) * ({PER_CUSTOMER}) * m.lifespan_years * m.margin"
ACQUISITION: Final = ratio("m.spend", "m.new_customers")
NO_CUSTOMERS: Final = ("m.customers = 0", "no_customers")
NO_LIFESPAN: Final = ("m.lifespan_years is null", "no_churn")
NO_SPEND: Final = ("m.spend_rows = 0", "no_spend")
NO_NEW_CUSTOMERS: Final = ("m.new_customers = 0", "no_new_customers")
NO_PREVIOUS: Final = ("m.previous_revenue is null", "no_previous")

FORMULAS: Final = (
    Formula(
        "average_deal_size",
        "money",
        "m.revenue",
        "m.won_valued",
        "m.won_valued",
        "m.won - m.won_valued + m.undated_won",
        reasons=(NO_WON, NO_WON_VALUE),
    ),
    Formula(
        "sales_cycle_days",
        "days",
        "m.cycle_days",
        "m.cycle_deals",
        "m.cycle_deals",
        "m.won - m.cycle_deals + m.undated_won",
        reasons=(NO_WON, NO_CYCLE),
    ),
    Formula(
        "sales_cycle_days_median",
        "days",
        "m.cycle_days",
        "m.cycle_deals",
        "m.cycle_deals",
        "m.won - m.cycle_deals + m.undated_won",
        value="m.median_days",
        reasons=(NO_WON, NO_CYCLE),
    ),
    Formula("win_rate", "percent", "m.won", "(m.won + m.lost)", "m.won + m.lost", UNDATED_CLOSED, reasons=(NO_CLOSED,)),
    Formula(
        "win_rate_value",
        "percent",
        "m.revenue",
        "(m.revenue + m.lost_value)",
        "m.won_valued + m.lost_valued",
        f"m.won + m.lost - m.won_valued - m.lost_valued + {UNDATED_CLOSED}",
        value="case when m.lost > 0 and m.lost_valued = 0 or m.won > 0 and m.won_valued = 0 or m.revenue + m.lost_value = 0 then null "
        "else cast(m.revenue as double) / cast(m.revenue + m.lost_value as double) end",
        reasons=(
            NO_CLOSED,
            ("m.won > 0 and m.won_valued = 0", "no_won_value"),
            ("m.lost > 0 and m.lost_valued = 0", "no_lost_value"),
            ("m.revenue + m.lost_value = 0", "zero_value"),
        ),
    ),
    Formula(
        "lead_conversion_rate",
        "percent",
        "m.leads_converted",
        "m.leads",
        "m.leads",
        "m.undated_leads",
        reasons=(("m.leads = 0", "no_leads"),),
        basis="leads",
    ),
    Formula(
        "pipeline_conversion",
        "percent",
        "m.created_won",
        "m.created",
        "m.created",
        "m.undated_created",
        reasons=(("m.created = 0", "no_created"),),
        basis="created",
    ),
    Formula(
        "sales_velocity",
        "money per day",
        velocity("m.opportunities"),
        f"round({CYCLE}, 6)",
        "m.opportunities",
        f"m.won_incomplete + {UNDATED_CLOSED}",
        reasons=(NO_CLOSED, NO_WON, NO_WON_VALUE, NO_CYCLE, ZERO_CYCLE),
        basis="worked",
    ),
    Formula(
        "sales_velocity_closed",
        "money per day",
        velocity("(m.won + m.lost)"),
        f"round({CYCLE}, 6)",
        "m.won + m.lost",
        f"m.won_incomplete + {UNDATED_CLOSED}",
        reasons=(NO_CLOSED, NO_WON, NO_WON_VALUE, NO_CYCLE, ZERO_CYCLE),
    ),
    Formula(
        "revenue",
        "money",
        "m.revenue",
        None,
        "m.won_valued",
        "m.won - m.won_valued + m.undated_won",
        value="case when m.won > 0 and m.won_valued = 0 then null else cast(m.revenue as double) end",
        reasons=(NO_WON_VALUE,),
    ),
    Formula(
        "revenue_growth",
        "percent",
        "(m.revenue - m.previous_revenue)",
        "m.previous_revenue",
        "m.won_valued + m.previous_valued",
        "m.won - m.won_valued + m.previous_won - m.previous_valued + m.undated_won",
        value="case when m.previous_revenue is null or m.previous_revenue = 0 or (m.won > 0 and m.won_valued = 0) then null "
        "else cast(m.revenue - m.previous_revenue as double) / cast(m.previous_revenue as double) end",
        reasons=(NO_PREVIOUS, ("m.previous_revenue = 0", "no_previous_revenue"), NO_WON_VALUE),
    ),
    Formula(
        "customer_acquisition_cost",
        "money",
        "m.spend",
        "m.new_customers",
        "m.new_customers",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_SPEND, NO_NEW_CUSTOMERS),
        basis="customers",
    ),
    Formula(
        "customer_lifetime_value",
        "money",
        LIFETIME,
        None,
        "m.won_with_account",
        "m.won - m.won_with_account + m.undated_won",
        value=LIFETIME,
        reasons=(NO_WON, NO_WON_VALUE, NO_CUSTOMERS, NO_LIFESPAN),
        basis="customers",
    ),
    Formula(
        "clv_to_cac",
        "ratio",
        LIFETIME,
        f"({ACQUISITION})",
        "m.won_with_account",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_WON, NO_WON_VALUE, NO_CUSTOMERS, NO_LIFESPAN, NO_SPEND, NO_NEW_CUSTOMERS),
        basis="customers",
    ),
    Formula(
        "open_deals",
        "count",
        "m.open_deals",
        None,
        "m.open_deals",
        "case when m.is_current = 1 then 0 else m.undated_created end",
        basis="open",
    ),
    Formula(
        "open_value",
        "money",
        "m.open_value",
        None,
        "m.open_valued",
        "m.open_deals - m.open_valued + case when m.is_current = 1 then 0 else m.undated_created end",
        value="case when m.open_deals > 0 and m.open_valued = 0 then null else cast(m.open_value as double) end",
        reasons=(("m.open_valued = 0", "no_open_value"),),
        basis="open",
    ),
    Formula(
        "weighted_value",
        "money",
        "m.weighted_value",
        None,
        "m.weighted_deals",
        "m.open_deals - m.weighted_deals",
        value="case when m.open_deals > 0 and m.weighted_deals = 0 then null else cast(m.weighted_value as double) end",
        reasons=(PAST, ("m.weighted_deals = 0", "no_weighted_value")),
        basis="open",
    ),
    Formula(
        "coverage",
        "ratio",
        "m.expected_value",
        "(m.quota - m.revenue)",
        "m.expected_valued",
        "m.expected_deals - m.expected_valued + m.undated_expected",
        value="case when m.is_running = 0 or m.quota is null or m.quota - m.revenue <= 0 or (m.expected_deals > 0 and m.expected_valued = 0) "
        "then null else cast(m.expected_value as double) / cast(m.quota - m.revenue as double) end",
        reasons=(
            ("m.is_running = 0", "only_running"),
            ("m.quota_rows = 0", "no_quota"),
            ("m.quota - m.revenue <= 0", "quota_reached"),
            ("m.expected_valued = 0", "no_open_value"),
        ),
        basis="expected",
    ),
    Formula(
        "stalled_share",
        "percent",
        "m.stalled",
        "m.judged",
        "m.judged",
        "m.open_deals - m.judged",
        reasons=(PAST, ("m.open_deals = 0", "no_open"), ("m.judged = 0", "no_stage_limit")),
        basis="open",
    ),
    Formula(
        "retention_rate",
        "percent",
        "m.kept",
        "m.previous_customers",
        "m.previous_customers",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_PREVIOUS, ("m.previous_customers = 0", "no_previous_customers")),
        basis="customers",
    ),
    Formula(
        "repeat_revenue_share",
        "percent",
        "m.existing_revenue",
        "m.known_revenue",
        "m.existing_known",
        "m.won - m.existing_known + m.undated_won",
        reasons=(NO_WON, ("m.existing_known = 0", "no_customers"), ("m.known_revenue = 0", "no_won_value")),
    ),
    Formula(
        "lead_value_attainment",
        "percent",
        "m.lead_value",
        "(m.lead_value_per_day * m.days_so_far)",
        "m.leads_valued",
        "m.leads - m.leads_valued + m.undated_leads",
        value="case when m.lead_value_per_day is null or m.lead_value_per_day = 0 or m.days_so_far is null or m.days_so_far = 0 "
        "or (m.leads > 0 and m.leads_valued = 0) then null "
        "else cast(m.lead_value as double) / (cast(m.lead_value_per_day as double) * m.days_so_far) end",
        reasons=(
            ("m.lead_value_per_day is null or m.lead_value_per_day = 0", "no_lead_target"),
            ("m.leads = 0", "no_leads"),
            ("m.leads_valued = 0", "no_lead_value"),
        ),
        basis="leads",
    ),
)
