"""What moved in the pipeline between two snapshots of deals: `pipeline_movement` and `what_changed`.

A run leaves what its successors need in the engine as `deal_memory`; the flow keeps that as Parquet and gives it back here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Final

import pyarrow as pa

from connector.engine import Engine
from connector.errors import ConnectorError
from connector.model import MONEY, RATE, TEXT
from connector.periods import add_months, day_number, fiscal_quarter
from connector.statements import statement, text

MEMORY: Final = pa.schema(
    [(name, TEXT) for name in ("deal_id", "name", "account", "owner", "pipeline_key", "stage", "status")]
    + [("is_open", pa.int8()), ("amount", MONEY), ("currency", TEXT), ("rate", RATE), ("value", MONEY)]
    + [("expected_on", pa.date32()), ("expected_day", pa.int32()), ("url", TEXT), ("as_of", pa.date32()), ("reporting_currency", TEXT)]
)
#: what a row of the movement adds up from, in the order people read it
MOVEMENTS: Final = (
    "new",
    "increased",
    "decreased",
    "pulled_in",
    "pushed_out",
    "moved_stage",
    "reopened",
    "won",
    "lost",
    "removed",
    "currency_effect",
)


@dataclass(frozen=True, slots=True)
class _Look:
    """A memory in the engine: on which day it was taken, in which currency it reckons."""

    name: str
    day: date
    currency: str | None


def compare(engine: Engine, memories: Sequence[Sequence[Path]], now: date, currency: str | None, fiscal_year_start: int, none: str) -> None:
    """Build `pipeline_movement` (every step between successive snapshots) and `what_changed` (the last step).

    `memories` are Parquet files of former `deal_memory`s, oldest first; `deal_memory` in the engine is the present.
    Snapshots in another reporting currency cannot be compared and are passed over. Raises ConnectorError if a step does not
    add up to the cent.
    """
    looks = [look for place, files in enumerate(memories) if files and (look := _look(engine, f"memory_{place}", files))]
    comparable = [look for look in looks if look.currency == currency]
    engine.table("memory_none", MEMORY.empty_table())
    past = comparable or [_Look("memory_none", now, currency)]
    steps = list(pairwise([*past, _Look("deal_memory", now, currency)]))
    for place, (before, after) in enumerate(steps):
        _stand(engine, before, after, fiscal_year_start)
        engine.store(f"movement_{place}", statement("pipeline_movement") if comparable else _nothing(statement("pipeline_movement")))
        _prove(engine, f"movement_{place}", before, after)
    engine.store("what_changed", statement("what_changed") if comparable else _nothing(statement("what_changed")))
    movements = " union all ".join(f"select {place} as place, m.* from movement_{place} m" for place in range(len(steps)))
    engine.table("step_days", _days(steps))
    engine.store("movements", movements)
    engine.store("pipeline_movement", statement("pipeline_movement_sheet").format(none=text(none)))


def _look(engine: Engine, name: str, files: Sequence[Path]) -> _Look | None:
    engine.parquet(name, files)
    [row] = engine.fetch(f"select max(as_of) as day, max(reporting_currency) as currency from {name}").to_pylist()
    return _Look(name, row["day"], row["currency"]) if row["day"] else None


def _stand(engine: Engine, before: _Look, after: _Look, fiscal_year_start: int) -> None:
    """`before` and `after`, each deal placed by when it is expected: 1 by the end of the later look's quarter, 2 after it, 3 undated."""
    quarter = fiscal_quarter(after.day.replace(day=1), fiscal_year_start)
    end = day_number(add_months(quarter, 3)) - 1
    expected = f"case when expected_day is null then 3 when expected_day > {end} then 2 else 1 end as expected"
    for name, look in (("before", before), ("after", after)):
        engine.view(name, f"select *, {expected} from {look.name}")


def _prove(engine: Engine, movement: str, before: _Look, after: _Look) -> None:
    """Every row must add up to the cent: opening and closing are counted, not derived."""
    total = " + ".join(f"cast({name} as decimal(38, 4))" for name in ("opening", *MOVEMENTS))
    wrong = engine.fetch(f"select stage, {total} - closing as off from {movement} where {total} <> closing order by stage").to_pylist()
    if wrong:
        raise ConnectorError(
            f"pipeline movement from {before.day} to {after.day} does not add up in stage {wrong[0]['stage']!r}: off by {wrong[0]['off']}",
            remedy="this is a bug; please report it with the two snapshots' deals of that stage",
        )


def _days(steps: Sequence[tuple[_Look, _Look]]) -> pa.Table:
    rows = [{"place": place, "period_start": before.day, "period_end": after.day} for place, (before, after) in enumerate(steps)]
    schema = pa.schema([("place", pa.int32()), ("period_start", pa.date32()), ("period_end", pa.date32())])
    return pa.Table.from_pylist(rows, schema=schema)


def _nothing(sql: str) -> str:
    return f"select * from ({sql}) where 1 = 0"
