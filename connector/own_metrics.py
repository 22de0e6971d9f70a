"""Metrics of the admin's own: one aggregate expression over a canonical table, in `kpis` and as a column of `by_…` tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from connector.config import ModelConfig, OwnMetric
from connector.engine import Engine, SqlError, single_expression, unknown_column
from connector.errors import ConfigError, nearest
from connector.formulas import FORMULAS
from connector.model import ENTITIES

#: relation with days for a canonical table, and its day column for each date column
DATED: Final[dict[str, tuple[str, Mapping[str, str]]]] = {
    "deals": (
        "deal_facts",
        {
            "created_at": "created_day",
            "closed_at": "closed_day",
            "expected_close_date": "expected_day",
            "stage_entered_at": "stage_entered_day",
        },
    ),
    "leads": ("lead_facts", {"created_at": "created_day"}),
    "activities": ("activity_facts", {"due_at": "due_day", "done_at": "done_day"}),
}
SPANS: Final = ("month", "quarter")
COLUMN_OF: Final = {"size": "size_bucket"}


def check_own(engine: Engine, model: ModelConfig, dimensions: Mapping[str, str]) -> None:
    """Refuse what is not one aggregate over known columns. `dimensions` are the `by_…` tables and the column of `deals` each stands for.

    Raises ConfigError naming the metric and what would have been right.
    """
    taken = {formula.name for formula in FORMULAS}
    for index, own in enumerate(model.metrics):
        place = f"model.metrics[{index}] ({own.name})"
        if own.name in taken:
            raise ConfigError(f"{place}: there is a metric of that name already", remedy="choose another name")
        taken.add(own.name)
        if own.table not in ENTITIES:
            raise ConfigError(f"{place}.table: no table {own.table!r}; {nearest(own.table, ENTITIES)}")
        _check_expression(engine, own, place)
        _check_date(own, place)
        for dimension in own.by:
            if dimension not in dimensions and dimension not in SPANS:
                raise ConfigError(f"{place}.by: no table by_{dimension}; {nearest(dimension, [*dimensions, *SPANS])}")
            columns = engine.schema(f"select * from {own.table}").names
            if dimension in SPANS and own.date is None:
                raise ConfigError(
                    f"{place}.by: {dimension} needs to know by which date", remedy="add `date: closed_at` or another date column"
                )
            if dimension in dimensions and dimensions[dimension] not in columns:
                raise ConfigError(f"{place}.by: {own.table} has no column {dimensions[dimension]!r}; {nearest(dimension, columns)}")


def _check_expression(engine: Engine, own: OwnMetric, place: str) -> None:
    try:
        single_expression(own.sql)
        kind = engine.schema(f"select ({own.sql}) as value, count(*) as rows_used from {own.table}").field("value").type
    except SqlError as error:
        said = unknown_column(error, engine.schema(f"select * from {own.table}").names) or str(error)
        raise ConfigError(
            f"{place}.sql: {said}", remedy=f"write one aggregate over the columns of {own.table}, e.g. sum(amount_reporting) / count(*)"
        ) from error
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigError(f"{place}.sql: gives {kind}, not a number", remedy="aggregate to a number, e.g. count(*) or avg(cycle_days)")


def _check_date(own: OwnMetric, place: str) -> None:
    known = DATED[own.table][1] if own.table in DATED else {}
    if own.date is not None and own.date not in known:
        raise ConfigError(f"{place}.date: no date column {own.date!r} in {own.table}; {nearest(own.date, known)}")


def own_label(own: OwnMetric) -> str:
    return own.label or own.name.replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class _Over:
    """Where an own metric is computed: the rows, and the day that places a row in a span, if any."""

    relation: str
    day: str | None


def _over(own: OwnMetric) -> _Over:
    relation, days = DATED.get(own.table, (own.table, {}))
    return _Over(relation, days[own.date] if own.date else None)


def own_kpis(own: OwnMetric) -> str:
    """Values of an own metric per window, as SQL: kind, name, back, value, rows_used, rows_left_out.

    Without a date it is over everything; with one, rows without that date are left out of every period but `all`.
    """
    over = _over(own)
    everything = (
        f"select 'period' as kind, 'all' as name, 0 as back, cast(({own.sql}) as double) as value, count(*) as rows_used, 0 as rows_left_out "
        f"from {over.relation}"
    )
    if over.day is None:
        return everything
    return (
        f"{everything} union all select window_kind, window_name, window_back, cast(({own.sql}) as double), count(*), max(undated_rows) from ("
        f"select t.*, w.kind as window_kind, w.name as window_name, w.back as window_back, u.undated_rows from {over.relation} t "
        f"inner join windows w on t.{over.day} between w.start_day and w.end_day and w.is_everything = 0 and w.kind in ('period', 'month', 'quarter') "
        f"cross join (select count(*) as undated_rows from {over.relation} where {over.day} is null) u"
        ") placed group by window_kind, window_name, window_back"
    )


def add_to_dimensions(engine: Engine, model: ModelConfig, dimensions: Mapping[str, str], none: str) -> None:
    """Add own metrics as columns to the `by_…` tables they name."""
    for own in model.metrics:
        for dimension in own.by:
            values = dict(_values(engine, own, dimension, dimensions, none))
            table = engine.fetch(f"select * from by_{dimension}")
            column = pa.array([values.get(value) for value in table.column(dimension).to_pylist()], type=pa.float64())
            engine.table(f"by_{dimension}", table.append_column(own.name, column))


def _values(engine: Engine, own: OwnMetric, dimension: str, dimensions: Mapping[str, str], none: str) -> Iterator[tuple[Any, float | None]]:
    if dimension in SPANS:
        sql = f"select name as value, value as number from own_values where metric = '{own.name}' and kind = '{dimension}'"
    else:
        column = dimensions[dimension]
        sql = f"select {column} as value, cast(({own.sql}) as double) as number from {_over(own).relation} group by {column}"
    for row in engine.fetch(sql).to_pylist():
        yield (none if row["value"] is None else row["value"]), row["number"]
