"""Every headline metric as SQL fragments over `measures` (`m`: the span, `p`: the span before it) and `constants` (`k`).

Words — label, definition, formula, worked example — are in `connector/locale/<language>.json`; `METRICS` has the English ones.
A metric's value is `numerator ÷ denominator` unless `value` says otherwise, and empty when the denominator is 0 or unknown;
`reasons` then say why, the first that holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import pyarrow as pa

from connector.errors import ConfigError, nearest


def ratio(numerator: str, denominator: str) -> str:
    """A quotient that is empty where there is nothing to divide by."""
    top, bottom = f"cast({numerator} as double)", f"cast({denominator} as double)"
    return f"case when {denominator} is null or {denominator} = 0 then null else {top} / {bottom} end"


@dataclass(frozen=True, slots=True)
class Formula:
    """How a metric is computed. `used` and `left_out` count the rows that made the number and those that could not."""

    name: str
    unit: str
    numerator: str
    denominator: str | None
    used: str
    left_out: str = "0"
    value: str | None = None
    reasons: tuple[tuple[str, str], ...] = ()

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
LIFETIME: Final = f"({AVERAGE}) * ({PER_CUSTOMER}) * k.lifespan_years * k.margin"
ACQUISITION: Final = ratio("m.spend", "m.new_customers")
NO_CUSTOMERS: Final = ("m.customers = 0", "no_customers")
NO_LIFESPAN: Final = ("k.lifespan_years is null", "no_churn")
NO_SPEND: Final = ("m.spend_rows = 0", "no_spend")
NO_NEW_CUSTOMERS: Final = ("m.new_customers = 0", "no_new_customers")
NO_PREVIOUS: Final = ("p.revenue is null", "no_previous")

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
        reasons=(NO_CLOSED, ("m.won > 0 and m.won_valued = 0", "no_won_value"), ("m.lost > 0 and m.lost_valued = 0", "no_lost_value")),
    ),
    Formula(
        "lead_conversion_rate",
        "percent",
        "m.leads_converted",
        "m.leads",
        "m.leads",
        "m.undated_leads",
        reasons=(("m.leads = 0", "no_leads"),),
    ),
    Formula(
        "pipeline_conversion",
        "percent",
        "m.created_won",
        "m.created",
        "m.created",
        "m.undated_created",
        reasons=(("m.created = 0", "no_created"),),
    ),
    Formula(
        "sales_velocity",
        "money per day",
        velocity("m.opportunities"),
        f"round({CYCLE}, 6)",
        "m.opportunities",
        f"m.won_incomplete + {UNDATED_CLOSED}",
        reasons=(NO_CLOSED, NO_WON, NO_WON_VALUE, NO_CYCLE, ZERO_CYCLE),
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
        "(m.revenue - p.revenue)",
        "p.revenue",
        "m.won_valued + p.won_valued",
        "m.won - m.won_valued + p.won - p.won_valued + m.undated_won",
        value="case when p.revenue is null or p.revenue = 0 or (m.won > 0 and m.won_valued = 0) then null "
        "else cast(m.revenue - p.revenue as double) / cast(p.revenue as double) end",
        reasons=(NO_PREVIOUS, ("p.revenue = 0", "no_previous_revenue"), NO_WON_VALUE),
    ),
    Formula(
        "customer_acquisition_cost",
        "money",
        "m.spend",
        "m.new_customers",
        "m.new_customers",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_SPEND, NO_NEW_CUSTOMERS),
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
    ),
    Formula(
        "clv_to_cac",
        "ratio",
        LIFETIME,
        f"({ACQUISITION})",
        "m.won_with_account",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_WON, NO_WON_VALUE, NO_CUSTOMERS, NO_LIFESPAN, NO_SPEND, NO_NEW_CUSTOMERS),
    ),
    Formula("open_deals", "count", "m.open_deals", None, "m.open_deals", "case when m.is_current = 1 then 0 else m.undated_created end"),
    Formula(
        "open_value",
        "money",
        "m.open_value",
        None,
        "m.open_valued",
        "m.open_deals - m.open_valued + case when m.is_current = 1 then 0 else m.undated_created end",
        value="case when m.open_deals > 0 and m.open_valued = 0 then null else cast(m.open_value as double) end",
        reasons=(("m.open_valued = 0", "no_open_value"),),
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
    ),
    Formula(
        "stalled_share",
        "percent",
        "m.stalled",
        "m.judged",
        "m.judged",
        "m.open_deals - m.judged",
        reasons=(PAST, ("m.open_deals = 0", "no_open"), ("m.judged = 0", "no_stage_limit")),
    ),
    Formula(
        "retention_rate",
        "percent",
        "m.kept",
        "p.customers",
        "p.customers",
        "m.won - m.won_with_account + m.undated_won",
        reasons=(NO_PREVIOUS, ("p.customers = 0", "no_previous_customers")),
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
        "(k.lead_value_per_day * m.days_so_far)",
        "m.leads_valued",
        "m.leads - m.leads_valued + m.undated_leads",
        value="case when k.lead_value_per_day is null or k.lead_value_per_day = 0 or m.days_so_far is null or m.days_so_far = 0 "
        "or (m.leads > 0 and m.leads_valued = 0) then null "
        "else cast(m.lead_value as double) / (cast(k.lead_value_per_day as double) * m.days_so_far) end",
        reasons=(
            ("k.lead_value_per_day is null or k.lead_value_per_day = 0", "no_lead_target"),
            ("m.leads = 0", "no_leads"),
            ("m.leads_valued = 0", "no_lead_value"),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric in words, as `connector metrics`, the Definitions sheet and the documentation show it."""

    name: str
    label: str
    unit: str
    formula: str
    definition: str
    example: str


LANGUAGES: Final = ("en", "zh")


@cache
def words(locale: str = "en") -> Mapping[str, Any]:
    """The words of one language. Raises ConfigError for a language there is no file for."""
    language = locale.replace("_", "-").split("-")[0].lower()
    folder = files("connector").joinpath("locale")
    known = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if language not in known:
        raise ConfigError(f"no words for locale {locale!r}; {nearest(language, known)}")
    found: Mapping[str, Any] = json.loads(folder.joinpath(f"{language}.json").read_text(encoding="utf-8"))
    return found


def metrics(locale: str = "en") -> tuple[Metric, ...]:
    """Every headline metric in the words of a language."""
    said = words(locale)["metrics"]
    return tuple(Metric(formula.name, unit=formula.unit, **said[formula.name]) for formula in FORMULAS)


METRICS: Final = metrics()


# ── tables and columns ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds. `unit` is money, money per day, percent, days, count, ratio, id, url, text, date or instant."""

    unit: str
    label: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table in the engine; its rows are in the order in which they are meant to be read."""

    name: str
    title: str
    columns: Mapping[str, Column]
    key: tuple[str, ...] = ()
    description: str = ""


#: every table people may see, in the order of a workbook, and the column(s) that name a row
TABLES: Final[dict[str, tuple[str, ...]]] = {
    "kpis": ("metric", "period"),
    "deals": ("deal_id",),
    "by_stage": ("stage",),
    "by_owner": ("owner",),
    "by_team": ("team",),
    "by_manager": ("manager",),
    "by_product": ("product",),
    "by_product_category": ("product_category",),
    "by_region": ("region",),
    "by_segment": ("segment",),
    "by_lead_source": ("lead_source",),
    "by_size": ("size",),
    "by_month": ("month",),
    "by_quarter": ("quarter",),
    "stage_conversion": ("pipeline", "stage"),
    "pipeline_movement": ("pipeline", "stage"),
    "what_changed": ("deal_id", "change"),
    "stalled_deals": ("deal_id",),
    "follow_ups": ("reason", "deal_id", "due_date"),
    "pipeline_balance": ("pipeline", "stage"),
    "lead_quality": ("grade",),
    "lead_targets": ("span", "start"),
    "product_mix": ("product_category",),
    "forecast": ("month", "forecast_category"),
    "customers": ("account",),
    "leads": ("lead_id",),
    "activities": ("activity_id",),
    "stages": ("pipeline", "stage"),
    "stage_entries": ("deal_id", "stage", "entered_at"),
    "accounts": (),
    "contacts": (),
    "owners": (),
    "products": (),
    "deal_products": ("deal_product_id",),
    "spend": (),
    "quotas": (),
    "rates": ("currency", "valid_from"),
    "data_quality": ("finding", "table"),
    "definitions": ("name",),
}

UNITS: Final = {
    "money": "amount amount_reporting weighted_amount open_value weighted_value revenue average_deal_size value price",
    "money per day": "sales_velocity sales_velocity_closed",
    "percent": "probability win_rate revenue_growth change_pct",
    "days": "age_days cycle_days days_in_stage sales_cycle_days stalled_after_days days",
    "ratio": "rate",
    "id": "deal_id lead_id activity_id account_id contact_id owner_id product_id deal_product_id",
    "url": "url",
}
_UNIT_OF: Final = {column: unit for unit, columns in UNITS.items() for column in columns.split()}


def unit_of(name: str, kind: pa.DataType) -> str:
    """What a column of one of our tables is measured in; by its type where its name does not say."""
    if name in _UNIT_OF:
        return _UNIT_OF[name]
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "instant"
    if pa.types.is_integer(kind):
        return "count"
    return "ratio" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "text"


def described(name: str, schema: pa.Schema, locale: str = "en") -> TableInfo:
    """Title, columns and key of a table in the words of a language."""
    said = words(locale)
    table = said["tables"].get(name, {})
    columns = {}
    for column in schema:
        unit = "ratio" if name == "kpis" and column.name in KPI_NUMBERS else unit_of(column.name, column.type)
        label = said["columns"].get(column.name) or column.name.replace("_", " ").capitalize()
        columns[column.name] = Column(unit, label, said["metrics"].get(column.name, {}).get("definition", ""))
    return TableInfo(name, table.get("title", name), columns, TABLES.get(name, ()), table.get("description", ""))


#: numbers of `kpis` whose unit is the row's `unit`
KPI_NUMBERS: Final = ("value", "previous", "change", "numerator", "denominator")
