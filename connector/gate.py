"""The publish gate: yesterday's file stands when today's data looks broken. Compared is always with what was published last."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from connector.config import Gate
from connector.engine import Engine
from connector.errors import GateError
from connector.model import ENTITIES

#: fewer rows than this come and go without anything being broken; deals are counted from the first
FEW: Final = 20
#: of a CRM's records that are kept in step, more than this share of so many do not vanish in one go; a lost permission looks just so
VANISHED: Final = 0.5
MANY: Final = 100
#: a column counts as filled when this share of its rows is
FILLED: Final = 0.2
#: without a CRM's list of stages: a stage with this share of all deals does not empty in one go
SHARE: Final = 0.05

Place = tuple[str, str]  # source and entity


@dataclass(frozen=True, slots=True)
class Shape:
    """How much an entity of a snapshot holds: its rows, and how many of them have a value, by column."""

    rows: int
    filled: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and money of all deals."""

    deals: int
    open_value: float
    revenue: float


def reasons(gate: Gate, engine: Engine, before: Path, after: Path, steady: Collection[str], synced: Collection[Place] = ()) -> list[str]:
    """Why the snapshot in `after` should not replace the one in `before`; every reason at once.

    `steady` are the sources whose configuration is as it was: what is missing from another one an admin has taken out.
    `synced` are the entities that a CRM keeps us in step with, so that a row that is missing counts as deleted there.
    """
    old, new = _shapes(before), _shapes(after)
    found = [*_rows(gate, old, new, steady, synced), *(_fields(old, new, steady) if gate.emptied_fields else ())]
    deals = before / "tables" / "deals.parquet", after / "tables" / "deals.parquet"
    if all(file.is_file() for file in deals):
        found += _totals(gate, _sum(engine, deals[0]), _sum(engine, deals[1]))
        if gate.lost_stages:
            found += _stages(engine, before, after)
    return found


def refusal(flow: str, why: Collection[str]) -> GateError:
    return GateError(
        f"not published: {'; '.join(why)}",
        remedy=f"look at the source; if the change is real, let it through once with `connector run {flow} --accept`",
    )


# ── rows and fields of each source ────────────────────────────────────────────────────────────────


def _shapes(snapshot: Path) -> dict[Place, Shape]:
    """From the files' footers; no row is read."""
    return {(file.parent.name, file.stem): _shape(file) for file in sorted(snapshot.glob("sources/*/*.parquet"))}


def _shape(file: Path) -> Shape:
    footer = pq.read_metadata(file)
    empty: dict[str, int] = {}
    unknown = set()
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                unknown.add(column.path_in_schema)
            else:
                empty[column.path_in_schema] = empty.get(column.path_in_schema, 0) + statistics.null_count
    return Shape(footer.num_rows, {name: footer.num_rows - count for name, count in empty.items() if name not in unknown})


def _rows(
    gate: Gate, old: Mapping[Place, Shape], new: Mapping[Place, Shape], steady: Collection[str], synced: Collection[Place]
) -> Iterator[str]:
    for (source, entity), was in old.items():
        if was.rows < (1 if entity == "deals" else FEW):
            continue
        now = new.get((source, entity))
        limit = gate.tables.get(entity, gate.max_row_drop)
        watched = gate.emptied_sources and entity in ENTITIES and entity not in gate.tables
        if now is None:
            if watched and source in steady:
                yield f"{source} no longer gives {entity} ({was.rows:,} rows before)"
        elif now.rows == 0 and watched:
            yield f"{source}: {entity} is empty ({was.rows:,} rows before)"
        elif limit is not None and 1 - now.rows / was.rows > limit and not _alone(entity, old):
            yield _fell(f"{source}: {entity}", was.rows, now.rows, limit)
        elif limit is None and (source, entity) in synced and was.rows >= MANY and 1 - now.rows / was.rows > VANISHED:
            yield _fell(f"{source}: {entity}", was.rows, now.rows, VANISHED)


def _alone(entity: str, old: Mapping[Place, Shape]) -> bool:
    """Deals of a single source: the deals table says it."""
    return entity == "deals" and sum(name == "deals" for _, name in old) == 1


def _fell(what: str, was: int, now: int, limit: float) -> str:
    return f"{what} fell from {was:,} to {now:,} ({1 - now / was:.0%}; max_row_drop is {limit:.0%})"


def _fields(old: Mapping[Place, Shape], new: Mapping[Place, Shape], steady: Collection[str]) -> Iterator[str]:
    for (source, entity), was in old.items():
        now = new.get((source, entity))
        if entity not in ENTITIES or now is None or min(was.rows, now.rows) < FEW:
            continue
        for column, filled in was.filled.items():
            gone = now.filled[column] == 0 if column in now.filled else source in steady
            if gone and filled / was.rows >= FILLED and column in ENTITIES[entity].names:
                yield f"{source}: {entity}.{column} is empty in every row ({filled / was.rows:.0%} were filled before)"


# ── the deals of all sources ──────────────────────────────────────────────────────────────────────


def _sum(engine: Engine, deals: Path) -> Totals:
    engine.parquet("gate_deals", [deals])
    row = engine.fetch(
        "select count(*) as deals, coalesce(sum(case when is_open = 1 then cast(amount_reporting as double) else 0 end), 0) as open_value, "
        "coalesce(sum(case when is_won = 1 then cast(amount_reporting as double) else 0 end), 0) as revenue from gate_deals"
    ).to_pylist()[0]
    return Totals(**row)


def _totals(gate: Gate, before: Totals, after: Totals) -> Iterator[str]:
    limit = gate.tables.get("deals", gate.max_row_drop)
    if limit is not None and before.deals and 1 - after.deals / before.deals > limit:
        yield _fell("deals", before.deals, after.deals, limit)
    for what, old, new in (("open value", before.open_value, after.open_value), ("revenue won", before.revenue, after.revenue)):
        change = abs(new - old) / abs(old) if old else 0.0
        if gate.max_value_change is not None and change > gate.max_value_change:
            yield f"{what} went from {old:,.2f} to {new:,.2f} ({change:.0%}; max_value_change is {gate.max_value_change:.0%})"


def _stages(engine: Engine, before: Path, after: Path) -> Iterator[str]:
    """Stages that held deals and are gone: from the CRM's own list where it has one, else from the deals themselves."""
    held, holds = _counts(engine, before, "tables/deals.parquet"), _counts(engine, after, "tables/deals.parquet")
    listed, lists = _counts(engine, before, "sources/*/stages.parquet"), _counts(engine, after, "sources/*/stages.parquet")
    for stage, deals in held.items():
        told = listed and lists
        gone = stage in listed and stage not in lists if told else deals >= max(FEW, SHARE * sum(held.values()))
        if gone and stage not in holds:
            yield f"stage {stage!r} is gone ({deals:,} deals before)"


def _counts(engine: Engine, snapshot: Path, pattern: str) -> dict[str, int]:
    """Stage → rows, over every file of the pattern that has stages."""
    files = [file for file in sorted(snapshot.glob(pattern)) if "stage" in pq.read_schema(file).names]
    counts: dict[str, int] = {}
    for file in files:
        engine.parquet("gate_stages", [file])
        for row in engine.fetch("select stage, count(*) as n from gate_stages where stage is not null group by 1 order by 1").to_pylist():
            counts[row["stage"]] = counts.get(row["stage"], 0) + row["n"]
    return counts
