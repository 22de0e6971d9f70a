"""What a flow may say, as frozen values. `connector.configfile` reads them from files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, Union
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from connector.api import EachConfig, Model, PluginConfig
from connector.errors import ConfigError, nearest
from connector.notifiers import Notifier
from connector.registry import Kind, plugins


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
    date: str | None = Field(
        None, description="Date column that places a row in a period, e.g. closed_at; without it the metric is over everything."
    )


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
        {},
        description="Canonical column: source column or SQL expression, where an org uses its own; `leads.value` for another table than deals, "
        "`crm.leads.value` for one source alone.",
    )

    @field_validator("rates")
    @classmethod
    def _rates(cls, rates: Mapping[str, Any] | None, info: ValidationInfo) -> Mapping[str, Any] | None:
        """A `path` makes it a table of the files source; otherwise every value is a number."""
        if rates is None or "path" in rates:
            return rates and _file_table("rates", rates, info)
        if wrong := [key for key, value in rates.items() if not _is_number(value)]:
            raise ValueError(f"the rate of {wrong[0]} is not a number; give {{path: rates.csv}} or e.g. {{USD: 0.92}}")
        return rates


def _is_number(value: Any) -> bool:
    try:
        return Decimal(str(value)) > 0
    except InvalidOperation:
        return False


def _file_table(name: str, table: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
    """A table of the files source, with its path made absolute and its keys proven."""
    config = plugins("sources")["files"].cls.Config
    try:
        valid = config.model_validate({"type": "files", "tables": {name: dict(table)}}, context=info.context)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        raise ValueError("; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)) from None
    return {**table, "path": valid.tables[name].path}


# ── flows ─────────────────────────────────────────────────────────────────────────────────────────


def _timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"no time zone {name!r}; use a name like Europe/Berlin or UTC")
    return name


def _cron(expression: str) -> str:
    try:
        CronSim(expression if len(expression.split()) == 5 else "not five fields", NEW_YEAR)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is not a cron expression ({error}); five fields, e.g. 0 6 * * 1-5") from None
    return expression


NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
Timezone = Annotated[str, AfterValidator(_timezone)]


class Schedule(Model):
    cron: Annotated[str, AfterValidator(_cron)] = Field(description="Five cron fields, e.g. 0 6 * * 1-5.")
    timezone: Timezone = Field("UTC", description="Time zone of the schedule, e.g. Europe/Berlin.")
    jitter: int = Field(0, ge=0, le=3600, description="Start up to so many seconds late, so that flows due together do not start together.")


class Gate(Model):
    """Limits beyond which yesterday's file stands."""

    max_row_drop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share of a table's rows that may vanish between two runs; of a CRM's records 0.5 unless given.",
    )
    max_value_change: float | None = Field(None, gt=0, description="Largest relative change of open value or of revenue between two runs.")
    tables: Mapping[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {}, description="Table → a max_row_drop of its own; 1 lets it shrink as it will."
    )
    emptied_sources: bool = Field(True, description="Stop when a source gives none of the deals, leads, … it gave before.")
    emptied_fields: bool = Field(True, description="Stop when a field that was filled is empty in every row.")
    lost_stages: bool = Field(True, description="Stop when a stage that held deals is gone.")


class Retention(Model):
    """How long snapshots are kept: every run for `days`, then one a day, a week, a month, a quarter."""

    days: int = Field(7, ge=1)
    daily_days: int = Field(120, ge=0)
    weekly_weeks: int = Field(58, ge=0)
    monthly_months: int = Field(14, ge=0)
    quarterly: bool = True


S = TypeVar("S", bound=PluginConfig)
K = TypeVar("K", bound=PluginConfig)
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Flow(Model, Generic[S, K]):
    """Sources, a model of them, and the sinks their tables go to."""

    sources: Mapping[SourceName, S] = Field(min_length=1)
    model: ModelConfig = ModelConfig()
    sinks: tuple[K, ...] = ()
    schedule: Schedule | None = None
    timezone: Timezone | None = Field(None, description="Decides which day an instant falls on; the schedule's unless given, else UTC.")
    locale: str = Field("en", description="Language of labels in workbooks.")
    gate: Gate = Gate()
    notify: tuple[Notifier, ...] = Field((), description="Who is told when a run fails, recovers or is kept back, and of the figures.")
    retention: Retention = Retention()
    full_refresh_days: int = Field(7, ge=1, description="Read everything anew at least so often: stamps never cover every change.")

    @model_validator(mode="after")
    def _fields_of_sources(self) -> Self:
        for name in self.model.fields:
            source = name.rpartition(".")[0].rpartition(".")[0]
            if source and source not in self.sources:
                raise ValueError(f"model.fields.{name}: no source {source!r}; {nearest(source, self.sources)}")
        return self

    @field_validator("sinks", mode="before")
    @classmethod
    def _dividable(cls, sinks: Any) -> Any:
        """`each` on a sink whose target has no path to put a value into."""
        known = plugins("sinks")
        able = sorted(name for name, plugin in known.items() if issubclass(plugin.cls.Config, EachConfig))
        for sink in sinks if isinstance(sinks, list) else ():
            kind = sink.get("type") if isinstance(sink, Mapping) and "each" in sink else None
            if kind in known and kind not in able:
                raise ValueError(
                    f"`each` does not go with type {kind!r}: its target has no path that could name a value; {', '.join(able)} can"
                )
        return sinks

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone or (self.schedule.timezone if self.schedule else "UTC"))


class Config(Model, Generic[S, K]):
    flows: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Flow[S, K]] = Field(min_length=1)

    def flow(self, name: str) -> Flow[S, K]:
        """The flow of that name. Raises ConfigError naming the nearest."""
        if name not in self.flows:
            raise ConfigError(f"no flow {name!r}; {nearest(name, self.flows)}")
        return self.flows[name]


AnyConfig = Config[PluginConfig, PluginConfig]
AnyFlow = Flow[PluginConfig, PluginConfig]


def config_type() -> type[AnyConfig]:
    """`Config`, closed over the plugins installed here."""

    def union(kind: Kind) -> Any:
        models = tuple(plugin.cls.Config for plugin in plugins(kind).values())
        return models[0] if len(models) == 1 else Annotated[Union[models], Field(discriminator="type")]  # noqa: UP007

    closed: Any = Config
    return closed[union("sources"), union("sinks")]  # type: ignore[no-any-return]
