"""The tables of a run: computed from the entities into Parquet, and what history and placeholders want to know of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from connector.assemble import assemble
from connector.config import AnyFlow
from connector.definitions import TABLES, Column, TableInfo, described
from connector.delivery import Tables
from connector.engine import Engine, quoted
from connector.errors import ConfigError
from connector.metrics import compute
from connector.model import ENTITIES
from connector.store import share, write_parquet

CATALOGUE: Final = "catalogue.json"
SOURCES: Final = "sources/*/*.parquet"  # what each source gave, in a snapshot's folder
MEMORY: Final = Path("memory", "deals.parquet")  # what later runs tell movement from
WEEKS: Final = 13
WATCHED: Final = timedelta(
    weeks=8
)  # stages are told from our own snapshots once they reach back so far; before, most deals were seen in one stage


@dataclass(frozen=True, slots=True)
class Computed:
    """`report` goes into the manifest, and `headline` (metric → value over all time); `facts` feed placeholders (`win_rate.this_month`)."""

    tables: Tables
    currency: str | None
    report: list[dict[str, Any]]
    headline: Mapping[str, float | None]
    facts: Mapping[str, float | None]


def compute_tables(
    engine: Engine,
    config: AnyFlow,
    folder: Path,
    at: datetime,
    earlier: Sequence[tuple[datetime, Path]],
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> None:
    """From `<folder>/sources/<source>/<entity>.parquet` to `<folder>/tables/<table>.parquet`, with a catalogue beside them.

    `earlier` are former snapshots, moment and folder, oldest first: what moved is told from them. Raises ConfigError when two sources give one plain table, or a plain table takes the name of one of ours.
    """
    entities: dict[str, dict[str, list[Path]]] = {}
    plain: dict[str, Path] = {}
    for file in sorted(folder.glob(SOURCES)):
        source, name = file.parent.name, file.stem
        if name in ENTITIES:
            entities.setdefault(name, {})[source] = [file]
            continue
        if name in plain or name in TABLES:
            whose = f"source {plain[name].parent.name!r} gives it too" if name in plain else "that is the name of a table computed here"
            raise ConfigError(f"source {source!r}: table {name!r}: {whose}", remedy="give one of them another name")
        plain[name] = file
    past = landmarks(earlier, at)
    watched = past if past and at - past[0][0] >= WATCHED else []
    seen = {moment: deals for moment, snapshot in watched if (deals := _deals_of(snapshot))}
    assembled = assemble(engine, entities, config.model, at=at, timezone=config.zone, earlier=seen)
    memories = [[file] for _, snapshot in past if (file := snapshot / MEMORY).is_file()]
    made = compute(engine, assembled, config.model, memories=memories, locale=config.locale)
    reader = engine.stream("select * from deal_memory")
    write_parquet(folder / MEMORY, reader.schema, reader)
    infos = dict(made.tables) | {name: described(name, pq.read_schema(file), config.locale) for name, file in plain.items()}
    report = []
    for done, (name, info) in enumerate(infos.items()):
        progress("computing tables", done, len(infos))
        target = folder / "tables" / f"{name}.parquet"
        if name in plain:
            share(plain[name], target)
        else:
            reader = engine.stream(f"select * from {quoted(name)}")
            write_parquet(target, reader.schema, reader)
        with target.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()[:16]
        rows = pq.read_metadata(target).num_rows
        report.append({"name": name, "rows": rows, "columns": len(info.columns), "hash": digest})
    progress("computing tables", len(infos), len(infos))
    kpis = engine.fetch("select metric, period, value from kpis").to_pylist()
    catalogue = {
        "currency": made.currency,
        "tables": [asdict(info) for info in infos.values()],
        "report": report,
        "headline": {row["metric"]: row["value"] for row in kpis if row["period"] == "all"},
        "facts": {f"{row['metric']}.{row['period']}": row["value"] for row in kpis},
    }
    (folder / "tables" / CATALOGUE).write_text(json.dumps(catalogue), "utf-8")


def landmarks(snapshots: Sequence[tuple[datetime, Path]], at: datetime) -> list[tuple[datetime, Path]]:
    """The snapshots movement is told between: the last of each ISO week of the last quarter, and the previous run's."""
    recent = [one for one in snapshots if at - one[0] <= timedelta(weeks=WEEKS)]
    weekly = {moment.strftime("%G-W%V"): (moment, folder) for moment, folder in recent}
    return sorted({*weekly.values(), *snapshots[-1:]})


def _deals_of(snapshot: Path) -> dict[str, list[Path]]:
    """The `deals` entity of each source in a snapshot."""
    return {file.parent.name: [file] for file in sorted(snapshot.glob(SOURCES)) if file.stem == "deals"}


def load_tables(engine: Engine, folder: Path, unseen: frozenset[str] = frozenset()) -> Computed:
    """The computed tables of a snapshot, as views over their files; `unseen` are those it would have, had a column of them been seen."""
    catalogue = json.loads((folder / CATALOGUE).read_text("utf-8"))
    infos = {}
    for table in catalogue["tables"]:
        columns = {name: Column(**column) for name, column in table["columns"].items()}
        infos[table["name"]] = TableInfo(table["name"], table["title"], columns, tuple(table["key"]), table["description"])
        engine.parquet(table["name"], [folder / f"{table['name']}.parquet"])
    return Computed(
        Tables(engine, infos, catalogue["currency"], unseen - infos.keys()),
        catalogue["currency"],
        catalogue["report"],
        catalogue["headline"],
        catalogue["headline"] | catalogue["facts"],
    )
