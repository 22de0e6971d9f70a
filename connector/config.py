"""YAML to frozen values. This first part is what a flow may say; reading files is below it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from connector.api import Model


class Stage(Model):
    """A stage as the team works it; what the CRM's metadata says otherwise stands for keys not given."""

    name: str
    pipeline: str | None = Field(None, description="Pipeline it belongs to; every pipeline unless given.")
    order: int | None = Field(None, description="Place in the pipeline, from 1; the order in this list unless given.")
    probability: float | None = Field(None, ge=0, le=1, description="Chance of winning from here, 0 to 1.")
    won: bool = False
    lost: bool = False
    stalled_after_days: int | None = Field(None, ge=0, description="Days after which an open deal here counts as stalled.")


class Targets(Model):
    lead_value_per_day: Decimal | None = Field(None, ge=0, description="Value of new leads wanted per day, in the reporting currency.")


class ProductTarget(Model):
    win_rate: float | None = Field(None, ge=0, le=1)
    revenue_share: float | None = Field(None, ge=0, le=1)
    lead_share: float | None = Field(None, ge=0, le=1)


class ScoringRule(Model):
    """Points for leads that meet a condition, e.g. {when: "lead_source = 'Referral'", points: 20, kind: profile}."""

    when: str = Field(description="SQL condition over the columns of `leads`.")
    points: float
    kind: Literal["profile", "behaviour", "engagement"] = "profile"


class LeadScoring(Model):
    rules: tuple[ScoringRule, ...] = ()
    grades: Mapping[str, float] = Field({"A": 75, "B": 50, "C": 25}, description="Grade → least score; below all of them: D.")
    qualified_score: float | None = Field(None, description="Least score of a qualified lead; BANT decides unless given.")
    bant_needed: int = Field(3, ge=0, le=4, description="How many of budget, authority, need and timing a qualified lead must have.")


class OwnMetric(Model):
    """A metric of the admin's own: one aggregate expression over a canonical table."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    table: str = "deals"
    sql: str = Field(description="Aggregate expression, e.g. sum(amount_reporting) / count(*).")
    unit: Literal["money", "money per day", "ratio", "percent", "days", "count"] = "count"
    label: str | None = None
    description: str = ""
    by: tuple[str, ...] = Field((), description="Also as a column of these by_… tables, e.g. [owner, product].")


class ModelConfig(Model):
    """How raw records become the canonical tables and the metrics."""

    currency: str | None = Field(None, min_length=3, max_length=3, description="Reporting currency, ISO 4217.")
    rates: Mapping[str, Any] | None = Field(
        None,
        description="Rates into the reporting currency: {path: rates.csv} with columns currency, valid_from, rate; or {USD: 0.92}. "
        "amount_reporting = amount × rate.",
    )
    fiscal_year_start: int = Field(1, ge=1, le=12, description="First month of the fiscal year.")
    stages: tuple[Stage, ...] = ()
    size_buckets: tuple[Decimal, ...] = Field((), description="Upper bounds of deal sizes, ascending, in the reporting currency.")
    targets: Targets = Targets()
    product_targets: Mapping[str, ProductTarget] = {}
    balance: Mapping[str, float] = Field({}, description="Stage → share of the open pipeline it should hold.")
    lead_scoring: LeadScoring = LeadScoring()
    margin: float = Field(1, ge=0, le=1, description="Margin in customer lifetime value.")
    customer_lifespan_years: float | None = Field(None, gt=0, description="Customer lifespan; 1 ÷ yearly churn unless given.")
    welcome_days: int = Field(90, ge=0, description="How long a new customer is in the welcome period.")
    at_risk_days: int = Field(365, ge=1, description="Days since the last won deal after which a customer is at risk.")
    metrics: tuple[OwnMetric, ...] = Field((), description="Metrics of your own.")
    fields: Mapping[str, str] = Field(
        {}, description="Canonical column: source column or SQL expression, where an org uses its own; `leads.value` for another table than deals."
    )
