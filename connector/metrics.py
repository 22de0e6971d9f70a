"""Every number of a run, from the canonical tables that `assemble` left in the engine.

`compute` leaves each table of docs/metrics.md in the engine under its name and returns what its columns mean.
The SQL is in `connector/sql`; it runs unchanged on any engine: no nullif, every case has an else, every window a partition,
days are integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from connector.assemble import Assembled
from connector.changes import compare
from connector.config import ModelConfig
from connector.definitions import TABLES, Column, TableInfo, described, words
from connector.engine import Engine
from connector.formulas import FORMULAS, Formula
from connector.metrics_page import metrics_page
from connector.model import MONEY
from connector.own_metrics import add_to_dimensions, check_own, own_kpis, own_label
from connector.periods import EPOCH, FIRST_DAY, LAST_DAY, Window, calendar_windows, day_number, lead_windows, period_windows
from connector.quality import PLAUSIBLE_DAYS, findings
from connector.statements import statement, text

__all__ = ["Tables", "compute", "metrics_page"]

FINAL: Final = "select stage from stage_facts where is_won = 1 or is_lost = 1"
#: table → (column of deal_facts, column that orders its values, order of the rows)
DIMENSIONS: Final = {
    "by_stage": ("stage", "stage_order", f"case when m.value in ({FINAL}) then 1 else 0 end, m.place is null, m.place, m.value"),
    "by_owner": ("owner", "owner", "m.revenue desc, m.value"),
    "by_team": ("team", "team", "m.revenue desc, m.value"),
    "by_manager": ("manager", "manager", "m.revenue desc, m.value"),
    "by_product": ("product", "product", "m.revenue desc, m.value"),
    "by_product_category": ("product_category", "product_category", "m.revenue desc, m.value"),
    "by_region": ("region", "region", "m.revenue desc, m.value"),
    "by_segment": ("segment", "segment", "m.revenue desc, m.value"),
    "by_lead_source": ("lead_source", "lead_source", "m.revenue desc, m.value"),
    "by_size": ("size_bucket", "size_order", "m.place, m.value"),
}
DIMENSION_COLUMNS: Final = {table.removeprefix("by_"): column for table, (column, _, _) in DIMENSIONS.items()}
QUALITY: Final = {
    "finding": pa.string(),
    "severity": pa.string(),
    "table": pa.string(),
    "rows": pa.int64(),
    "example_ids": pa.string(),
    "example_url": pa.string(),
    "effect": pa.string(),
    "code": pa.string(),
}
DEFINITIONS: Final = {
    "name": pa.string(),
    "kind": pa.string(),
    "label": pa.string(),
    "definition": pa.string(),
    "formula": pa.string(),
    "basis": pa.string(),
    "rows_left_out": pa.int64(),
}
NO_OWN: Final = "select '' as metric, 'period' as kind, '' as name, 0 as back, cast(null as double) as value, 0 as rows_used, 0 as rows_left_out where 1 = 0"
RATES: Final = ("win_rate", "average_deal_size", "sales_cycle_days", "sales_velocity", "sales_velocity_closed")


@dataclass(frozen=True, slots=True)
class Tables:
    """Every table in the engine that people may see, in the order of a workbook; those without rows included.

    `currency` is that of the money columns, where there is one.
    """

    currency: str | None
    tables: Mapping[str, TableInfo]


#: what is computed in which order: relations the tables are made of, then the tables
STEPS: Final = (
    ("daily", "undated", "cycle_counts", "flows", "window_customers", "cycle_medians", "window_money", "lifespan"),
    ("stage_reach", "stage_furthest", "stage_days", "stage_percentiles", "stall_limits"),
    ("stock", "measures", "spans"),
    ("stage_conversion", "stalled_deals", "follow_ups", "pipeline_balance"),
    ("lead_quality", "lead_targets", "product_mix", "forecast", "customers"),
)


def compute(
    engine: Engine, assembled: Assembled, model: ModelConfig, *, memories: Sequence[Sequence[Path]] = (), locale: str = "en"
) -> Tables:
    """Compute every table of docs/metrics.md.

    `assembled` is what `assemble` returned for this engine. `memories` are the Parquet files that former runs made of the relation
    `deal_memory`, oldest first; the last one is the previous run's.
    """
    check_own(engine, model, DIMENSION_COLUMNS)
    _settle(engine, assembled, model, locale)
    for name in chain(*STEPS):
        engine.store(name, statement(name))
        if name == "lifespan":
            engine.store("constants", "select p.*, l.lifespan_years from params p cross join lifespan l")
        if name == "stall_limits":
            engine.view("open_deals", statement("open_deals"))
    said = words(locale)
    _kpis(engine, model)
    _by(engine, model, said["none"])
    compare(engine, memories, assembled.at, assembled.currency, model.fiscal_year_start, said["none"])
    _values(engine, "data_quality", QUALITY, findings(engine, assembled, said))
    _values(engine, "definitions", DEFINITIONS, list(_definitions(engine, assembled, model, said)))
    there = set(engine.tables())
    own = {metric.name: Column(metric.unit, own_label(metric), metric.description) for metric in model.metrics}
    return Tables(
        assembled.currency,
        {name: described(name, engine.schema(f"select * from {name}"), locale, own) for name in TABLES if name in there},
    )


def _settle(engine: Engine, assembled: Assembled, model: ModelConfig, locale: str) -> None:
    """What is constant in a run: `windows`, `params`, targets, words."""
    at, said = assembled.at, words(locale)
    today = day_number(at)
    bounds = ", ".join(
        f"{bound}(case when abs({day} - {today}) <= {PLAUSIBLE_DAYS} then {day} else null end) as {bound}_{day}"
        for bound, day in (("min", "created_day"), ("min", "closed_day"), ("max", "closed_day"))
    )
    [span] = engine.fetch(f"select {bounds} from deal_facts").to_pylist()
    known = [EPOCH + timedelta(days=day) for day in span.values() if day is not None]
    first, last = min([at, *known]), max([at, *known])
    windows = [
        *period_windows(at, model.fiscal_year_start),
        *calendar_windows(first, last, model.fiscal_year_start),
        *lead_windows(at),
    ]
    engine.table("windows", _windows(windows, at, (at - first).days + 1))
    _values(
        engine,
        "params",
        {
            "at_day": pa.int32(),
            "at_date": pa.date32(),
            "margin": pa.float64(),
            "configured_lifespan": pa.float64(),
            "lead_value_per_day": MONEY,
            "at_risk_days": pa.int32(),
            "stage_basis": pa.string(),
            "none": pa.string(),
        },
        [
            (
                today,
                at,
                model.margin,
                model.customer_lifespan_years,
                model.targets.lead_value_per_day,
                model.at_risk_days,
                assembled.stage_basis,
                said["none"],
            )
        ],
    )
    _values(engine, "balance_targets", {"stage": pa.string(), "share": pa.float64()}, sorted(model.balance.items()))
    _values(
        engine,
        "product_targets",
        {"category": pa.string(), "win_rate": pa.float64(), "revenue_share": pa.float64(), "lead_share": pa.float64()},
        [(name, target.win_rate, target.revenue_share, target.lead_share) for name, target in sorted(model.product_targets.items())],
    )
    _say(engine, model, said)


def _say(engine: Engine, model: ModelConfig, said: Mapping[str, Any]) -> None:
    """`metric_words` and `note_words`: labels and reasons in the language of the flow."""
    _values(
        engine,
        "metric_words",
        {"metric": pa.string(), "label": pa.string(), "unit": pa.string()},
        [
            *((formula.name, said["metrics"][formula.name]["label"], formula.unit) for formula in FORMULAS),
            *((own.name, own_label(own), own.unit) for own in model.metrics),
        ],
    )
    _values(engine, "note_words", {"code": pa.string(), "note": pa.string()}, list(said["notes"].items()))


def _values(engine: Engine, name: str, columns: Mapping[str, pa.DataType], rows: Sequence[tuple[object, ...]]) -> None:
    """A small table of constants."""
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    engine.table(name, pa.Table.from_pylist(records, schema=pa.schema(list(columns.items()))))


def _windows(windows: list[Window], at: date, days_of_everything: int) -> pa.Table:
    today = day_number(at)
    rows = []
    for position, window in enumerate(windows):
        span = window.span
        start, end = (day_number(span.start), day_number(span.end)) if span else (FIRST_DAY, LAST_DAY)
        so_far = max(0, min(end, today) - start + 1) if span else days_of_everything
        rows.append(
            {
                "kind": window.kind,
                "name": window.name,
                "back": window.back,
                "position": position,
                "period_start": span.start if span else None,
                "period_end": span.end if span else None,
                "start_day": start,
                "end_day": end,
                "is_everything": int(span is None),
                "is_current": int(end >= today),
                "is_running": int(span is not None and start <= today < end),
                "days_so_far": so_far,
                "days": span.days if span else days_of_everything,
                "years_so_far": span.years * so_far / span.days if span else days_of_everything / 365.25,
            }
        )
    schema = pa.schema(
        [("kind", pa.string()), ("name", pa.string()), ("back", pa.int32()), ("position", pa.int32())]
        + [("period_start", pa.date32()), ("period_end", pa.date32())]
        + [(name, pa.int32()) for name in ("start_day", "end_day", "is_everything", "is_current", "is_running", "days_so_far", "days")]
        + [("years_so_far", pa.float64())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _kpis(engine: Engine, model: ModelConfig) -> None:
    """`kpis`: ours, then the admin's own, each in every period with the one before it."""
    ours = [_kpi(place, formula) for place, formula in enumerate(FORMULAS)]
    theirs = [f"select {text(own.name)} as metric, o.* from ({own_kpis(own)}) o" for own in model.metrics]
    engine.store("own_values", " union all ".join(theirs) or NO_OWN)
    engine.store("kpi_values", " union all ".join(ours) + " union all " + statement("own_kpis"))
    engine.store("kpis", statement("kpis"))


def _kpi(place: int, formula: Formula) -> str:
    """One metric in every period and in the one before it; `reason` is why it may be empty."""
    reasons = "".join(f"when {condition} then {text(code)} " for condition, code in formula.reasons)
    reason = f"case {reasons}else 'no_value' end" if reasons else "'no_value'"
    return (
        f"select {place} as place, {text(formula.name)} as metric, m.name as period, m.back, m.period_start, m.period_end, m.position, "
        f"m.is_running, {formula.sql()} as value, cast({formula.numerator} as double) as numerator, "
        f"cast({formula.denominator or 'null'} as double) as denominator, "
        f"cast(coalesce({formula.used}, 0) as bigint) as rows_used, cast(coalesce({formula.left_out}, 0) as bigint) as rows_left_out, "
        f"{reason} as reason from spans m where m.kind = 'period' and m.back < 2"
    )


def _by(engine: Engine, model: ModelConfig, none: str) -> None:
    for table, (column, order, sort) in DIMENSIONS.items():
        sql = statement("by_dimension").format(
            dimension=column, order=order, sort=sort, none=text(none), name=table.removeprefix("by_"), columns=_columns(("deals",))
        )
        engine.store(table, sql)
    for name in ("month", "quarter"):
        growth = f"{next(f for f in FORMULAS if f.name == 'revenue_growth').sql()} as revenue_growth"
        engine.store(f"by_{name}", statement("by_window").format(name=name, columns=f"{_columns(())},\n  {growth}"))
    add_to_dimensions(engine, model, DIMENSION_COLUMNS, none)


def _definitions(
    engine: Engine, assembled: Assembled, model: ModelConfig, said: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, str, str, str, int | None]]:
    """Rows of `definitions`: every metric, then every table."""
    left_out = {
        row["metric"]: row["rows_left_out"]
        for row in engine.fetch("select metric, rows_left_out from kpis where period = 'all'").to_pylist()
    }
    for formula in FORMULAS:
        metric = said["metrics"][formula.name]
        basis = said["bases"][formula.basis]
        yield formula.name, said["kinds"]["metric"], metric["label"], metric["definition"], metric["formula"], basis, left_out[formula.name]
    for own in model.metrics:
        basis = said["bases"]["own"].format(table=own.table)
        yield own.name, said["kinds"]["own"], own_label(own), own.description, own.sql, basis, left_out[own.name]
    for name in TABLES:
        table = said["tables"][name]
        basis = said["stage_bases"][assembled.stage_basis] if name in ("stage_conversion", "stage_entries") else table.get("basis", "")
        yield name, said["kinds"]["table"], table["title"], table["description"], "", basis, None


def _columns(extra: tuple[str, ...]) -> str:
    formulas = {formula.name: formula.sql() for formula in FORMULAS}
    counts = [f"m.{name}" for name in (*extra, "open_deals")]
    values = [f"{formulas[name]} as {name}" for name in ("open_value", "weighted_value")]
    facts = [f"m.{name}" for name in ("created", "won", "lost")]
    rates = [f"{formulas[name]} as {name}" for name in ("revenue", *RATES)]
    return ",\n  ".join([*counts, *values, *facts, *rates])
