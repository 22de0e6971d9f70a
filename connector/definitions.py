"""What metrics, tables and columns mean, in the words of `connector/locale/<language>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa

from connector.errors import ConfigError, nearest
from connector.formulas import FORMULAS


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric in words, as `connector metrics`, the Definitions sheet and the documentation show it."""

    name: str
    label: str
    unit: str
    formula: str
    definition: str
    example: str


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
    """What a column holds. `unit` is money, money per day, percent, days, count, ratio, id, url, text, date or instant.

    Money is in the reporting currency, unless it is `foreign`: then in the currency of its record.
    """

    unit: str
    label: str
    description: str = ""
    foreign: bool = False


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
    "deal_contacts": ("deal_contact_id",),
    "spend": (),
    "quotas": (),
    "rates": ("currency", "valid_from"),
    "data_quality": ("code",),
    "definitions": ("name",),
}

#: columns whose name does not betray their type's unit
UNITS: Final = {
    "money": "amount amount_reporting weighted_amount open_value weighted_value revenue average_deal_size value price amount_before "
    "amount_after revenue_12_months cumulative_weighted quota target projected",
    "money per day": "sales_velocity sales_velocity_closed",
    "percent": "probability win_rate revenue_growth change_pct conversion conversion_of_decided cumulative_conversion share share_of_value "
    "expected_share target_win_rate win_rate_gap revenue_share target_revenue_share revenue_share_gap lead_share target_lead_share "
    "lead_share_gap lead_conversion_rate attainment quota_coverage",
    "days": "age_days cycle_days days_in_stage sales_cycle_days stalled_after_days days median_days p90_days limit_days days_over "
    "days_overdue days_since_won",
    "ratio": "rate",
    "id": "deal_id lead_id activity_id account_id contact_id owner_id product_id deal_product_id deal_contact_id",
    "url": "url example_url",
}
_UNIT_OF: Final = {column: unit for unit, columns in UNITS.items() for column in columns.split()}
#: money that is in the record's own currency
FOREIGN: Final = frozenset({("deals", "amount"), ("leads", "value"), ("deal_products", "amount"), ("products", "price")})
#: numbers of `kpis` whose unit is the row's `unit`
KPI_NUMBERS: Final = ("value", "previous", "change", "numerator", "denominator")


def unit_of(table: str, name: str, kind: pa.DataType) -> str:
    """What a column of one of our tables is measured in; by its type where its name does not say."""
    number = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if table == "kpis" and name in KPI_NUMBERS:
        return "ratio"
    if table == "pipeline_movement" and number:
        return "money"
    if name in _UNIT_OF:
        return _UNIT_OF[name]
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "instant"
    if pa.types.is_integer(kind):
        return "count"
    return "ratio" if number else "text"


def described(name: str, schema: pa.Schema, locale: str = "en", own: Mapping[str, Column] = MappingProxyType({})) -> TableInfo:
    """Title, columns and key of a table in the words of a language; `own` describes columns an admin added."""
    said = words(locale)
    table = said["tables"].get(name, {})
    columns = {
        column.name: own.get(column.name)
        or Column(
            unit=unit_of(name, column.name, column.type),
            label=said["columns"].get(column.name) or column.name.replace("_", " ").capitalize(),
            description=said["metrics"].get(column.name, {}).get("definition", ""),
            foreign=(name, column.name) in FOREIGN,
        )
        for column in schema
    }
    return TableInfo(name, table.get("title", name), columns, TABLES.get(name, ()), table.get("description", ""))
