"""The tables of a run: computed from the entities into Parquet, and what history and placeholders want to know of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from connector.assemble import assemble
from connector.config import AnyFlow
from connector.definitions import TABLES, Column, TableInfo, described
from connector.delivery import Tables
from connector.engine import Engine, quoted
from connector.errors import ConfigError
from connector.metrics import compute
from connector.model import ENTITIES
from connector.store import write_parquet

CATALOGUE: Final = "catalogue.json"


@dataclass(frozen=True, slots=True)
class Computed:
    """`report` goes into the manifest, and `headline` (metric → value over all time); `facts` feed placeholders (`win_rate.this_month`)."""

    tables: Tables
    currency: str | None
    report: list[dict[str, Any]]
    headline: Mapping[str, float | None]
    facts: Mapping[str, float | None]
    warnings: tuple[str, ...] = ()


def compute_tables(engine: Engine, config: AnyFlow, folder: Path, at: datetime, progress: Callable[[str, int, int | None], None]) -> None:
    """From `<folder>/<source>/<entity>.parquet` to `<folder>/tables/<table>.parquet`, with a catalogue beside them.

    Raises ConfigError when two sources give one plain table, or a plain table takes the name of one of ours.
    """
    entities: dict[str, dict[str, list[Path]]] = {}
    plain: dict[str, str] = {}
    for file in sorted(folder.glob("*/*.parquet")):
        source, name = file.parent.name, file.stem
        if name in ENTITIES:
            entities.setdefault(name, {})[source] = [file]
            continue
        if name in plain or name in TABLES:
            whose = f"source {plain[name]!r} gives it too" if name in plain else "that is the name of a table computed here"
            raise ConfigError(f"source {source!r}: table {name!r}: {whose}", remedy="give one of them another name")
        plain[name] = source
        engine.parquet(name, [file])
    assembled = assemble(engine, entities, config.model, at=at, timezone=config.zone)
    made = compute(engine, assembled, config.model, locale=config.locale)
    infos = dict(made.tables) | {name: described(name, engine.schema(f"select * from {quoted(name)}"), config.locale) for name in plain}
    report = []
    for done, (name, info) in enumerate(infos.items()):
        progress("computing tables", done, len(infos))
        target = folder / "tables" / f"{name}.parquet"
        reader = engine.stream(f"select * from {quoted(name)}")
        rows = write_parquet(target, reader.schema, reader)
        with target.open("rb") as file_:
            digest = hashlib.file_digest(file_, "sha256").hexdigest()[:16]
        report.append({"name": name, "rows": rows, "columns": len(info.columns), "hash": digest})
    progress("computing tables", len(infos), len(infos))
    kpis = engine.fetch("select metric, period, value from kpis").to_pylist()
    catalogue = {
        "currency": made.currency,
        "tables": [asdict(info) for info in infos.values()],
        "report": report,
        "headline": {row["metric"]: row["value"] for row in kpis if row["period"] == "all"},
        "facts": {f"{row['metric']}.{row['period']}": row["value"] for row in kpis},
        "warnings": [],
    }
    (folder / "tables" / CATALOGUE).write_text(json.dumps(catalogue, indent=1), "utf-8")


def load_tables(engine: Engine, folder: Path) -> Computed:
    """The computed tables of a snapshot, as views over their files."""
    catalogue = json.loads((folder / CATALOGUE).read_text("utf-8"))
    infos = {}
    for table in catalogue["tables"]:
        columns = {name: Column(**column) for name, column in table["columns"].items()}
        infos[table["name"]] = TableInfo(table["name"], table["title"], columns, tuple(table["key"]), table["description"])
        engine.parquet(table["name"], [folder / f"{table['name']}.parquet"])
    return Computed(
        Tables(engine, infos),
        catalogue["currency"],
        catalogue["report"],
        catalogue["headline"],
        catalogue["headline"] | catalogue["facts"],
        tuple(catalogue["warnings"]),
    )
