"""Stages: the CRM's metadata, what the configuration says instead, and stages that only deals or their history know of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final, TypeVar

import pyarrow as pa

from connector.config import ModelConfig, Stage
from connector.engine import Engine
from connector.model import DATE, ENTITIES, FLAG, INSTANT, TEXT

T = TypeVar("T")
Key = tuple[str | None, str]  # pipeline, stage
Rows = Mapping[Key, Mapping[str, Any]]

METADATA: Final = "select * from gathered_stages where stage is not null order by pipeline, stage, source desc"
OF_DEALS: Final = """
select pipeline, stage, min(stage_order) as stage_order, min(source) as source,
  case when min(status) = 'won' and max(status) = 'won' then 1 else 0 end as is_won,
  case when min(status) = 'lost' and max(status) = 'lost' then 1 else 0 end as is_lost
from gathered_deals where stage is not null group by pipeline, stage"""
OF_HISTORY: Final = """
select pipeline, stage, min(stage_order) as stage_order, min(source) as source
from gathered_stage_entries where stage is not null group by pipeline, stage"""


def settle_stages(engine: Engine, model: ModelConfig) -> None:
    """Build `stage_facts` (with numbers and helpers) and `stages` (as people see it), one row per pipeline and stage.

    A stage given without a pipeline stands in every pipeline there is. Where no source has metadata, a stage whose deals are
    all won (lost) is taken for a won (lost) stage.
    """
    told, held, passed = (_by_stage(engine, sql) for sql in (METADATA, OF_DEALS, OF_HISTORY))
    pipelines: set[str | None] = {pipeline for pipeline, _ in (*held, *told, *passed) if pipeline is not None}
    if not pipelines or any(pipeline is None for pipeline, _ in held):
        pipelines.add(None)
    known = {stage for _, stage in (*told, *held)}
    unheard = [(pipeline, stage) for pipeline, stage in passed if pipeline is not None or stage not in known]
    listed = [*told, *held, *unheard, *((stage.pipeline, stage.name) for stage in model.stages)]
    rows = [
        _settled(key, number, model, told, held, passed)
        for number, key in enumerate(sorted(_spread(listed, pipelines), key=lambda key: (key[0] or "", key[1])), start=1)
    ]
    when = next((row["modified_at"] for row in rows if row["modified_at"] is not None), None)
    modified = DATE if isinstance(when, date) and not isinstance(when, datetime) else INSTANT
    columns = [(column.name, modified if column.name == "modified_at" else column.type) for column in ENTITIES["stages"]]
    helpers = [("stage_number", pa.int32()), ("pipeline_key", TEXT), ("configured", FLAG), ("source", TEXT)]
    engine.table("stage_facts", pa.Table.from_pylist(rows, schema=pa.schema([*columns, *helpers])))
    names = ", ".join(ENTITIES["stages"].names)
    engine.view("stages", f"select {names}, source from stage_facts order by pipeline_key, stage_order nulls last, stage")


def _by_stage(engine: Engine, sql: str) -> Rows:
    return {(row["pipeline"], row["stage"]): row for row in engine.fetch(sql).to_pylist()}


def _spread(keys: Iterable[Key], pipelines: Iterable[str | None]) -> set[Key]:
    return {(place, stage) for pipeline, stage in keys for place in (pipelines if pipeline is None else (pipeline,))}


def _settled(key: Key, number: int, model: ModelConfig, told: Rows, held: Rows, passed: Rows) -> dict[str, Any]:
    pipeline, stage = key
    order, setting = _setting(model, pipeline, stage)
    metadata, deals, history = (rows.get(key) or rows.get((None, stage)) or {} for rows in (told, held, passed))
    ending = setting if setting and (setting.won or setting.lost) else None
    guess = {} if told else deals
    return {
        "pipeline": pipeline,
        "stage": stage,
        "stage_order": _first(order, metadata.get("stage_order"), deals.get("stage_order"), history.get("stage_order")),
        "probability": _first(setting.probability if setting else None, metadata.get("probability")),
        "is_won": int(ending.won) if ending else _first(metadata.get("is_won"), guess.get("is_won"), 0),
        "is_lost": int(ending.lost) if ending else _first(metadata.get("is_lost"), guess.get("is_lost"), 0),
        "stalled_after_days": _first(setting.stalled_after_days if setting else None, metadata.get("stalled_after_days")),
        "modified_at": metadata.get("modified_at"),
        "stage_number": number,
        "pipeline_key": pipeline or "",
        "configured": int(ending is not None),
        "source": _first(*(rows.get("source") for rows in (metadata, deals, history)), ""),
    }


def _setting(model: ModelConfig, pipeline: str | None, name: str) -> tuple[int | None, Stage | None]:
    """A stage's configured place and settings; one that names the pipeline beats one for all."""
    fitting = [
        (place, stage) for place, stage in enumerate(model.stages, start=1) if stage.name == name and stage.pipeline in (None, pipeline)
    ]
    if not fitting:
        return None, None
    place, stage = max(fitting, key=lambda item: (item[1].pipeline is not None, -item[0]))
    return (place if stage.order is None else stage.order), stage


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)
