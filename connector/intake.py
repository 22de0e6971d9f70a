"""From sources to a whole snapshot: each entity read, normalised, and merged by key into what was there before."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from connector.api import Entity, Since, Source
from connector.engine import PLAIN, Engine, quoted
from connector.errors import ConfigError, nearest
from connector.http import Session
from connector.model import ENTITIES, KEYS
from connector.normalise import normalise
from connector.state import Mark
from connector.store import share, write_parquet

BY_ID_OR_NAME: Final = frozenset({"accounts", "contacts", "owners", "products"})
#: tables of which a read gives all rows of each parent it names: what it does not repeat is gone
WHOLE: Final = {"stage_entries": ("deal_id",)}
FORMAT: Final = 2  # raise it when what is stored of an entity changes: the next run then reads everything anew


@dataclass(frozen=True, slots=True)
class Named:
    """A source under the name the flow gives it, with the session it talks through."""

    name: str
    source: Source
    session: Session
    config: str  # fingerprint; another one makes the next read a full one


@dataclass(frozen=True, slots=True)
class Taken:
    """One entity of one source in the new snapshot, and how it came there. Of a table that is not `seen` nobody knows a column yet."""

    source: str
    entity: str
    mark: Mark
    report: Mapping[str, Any]
    warnings: tuple[str, ...]
    incremental: bool
    seen: bool


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads entities into a snapshot folder; knows the previous one."""

    engine: Engine
    folder: Path
    name: str
    previous: Mapping[tuple[str, str], Mark]
    previous_folder: Path | None
    zone: ZoneInfo
    fields: Mapping[str, str]
    full: bool
    full_refresh: timedelta
    progress: Callable[[str, int, int | None], None]
    now: Callable[[], datetime]

    def take(self, named: Named, entity: Entity) -> Taken:
        """Read one entity and leave `<folder>/sources/<source>/<entity>.parquet`, whole; nothing of a table that never had a column."""
        before = self.previous.get((named.name, entity.name))
        base = self._base(named, entity)
        sent, retried, started = named.session.requests_sent, named.session.retries, monotonic()
        own = _overrides(named.name, entity, self.fields)
        config = _fingerprint(named, entity, own, self.zone)
        stale = base is None or before is None or before.config != config or self.full
        due = before is not None and entity.incremental and self.now() - before.full_at >= self.full_refresh
        since = Since() if stale or due or before is None else Since(before.watermark)
        what = f"{named.name}.{entity.name}"
        scratch = self.folder / "scratch"
        target = self.folder / "sources" / named.name / f"{entity.name}.parquet"
        counts = {"rows_read": 0, "inserted": 0, "updated": 0, "deleted": 0}
        with normalise(
            entity,
            named.source.read(entity, since),
            engine=self.engine,
            scratch=scratch,
            zone=self.zone,
            overrides=own,
            like=pq.read_schema(base) if base is not None and since.watermark else None,
            progress=lambda done, total: self.progress(what, done, total),
        ) as result:
            result.warn(f"{sentence}; it stays empty" for sentence in unreadable(named.name, entity, self.fields))
            full = since.watermark is None or not entity.incremental or result.full
            if result.unchanged and base is not None:
                mode = "unchanged"
            else:
                mode = "full" if full else "incremental"
                if not result.schema.names and base is None:
                    result.warn([f"{entity.place}: empty, and its columns have never been seen: what there is of it at the targets stays"])
                else:  # an empty read of an unknown shape keeps the columns there were
                    schema = result.schema if result.schema.names or base is None else pq.read_schema(base)
                    counts["rows_read"] = write_parquet(scratch / "fresh.parquet", schema, result.batches() if result.rows else ())
                    counts |= self._merge(entity, base, scratch / "fresh.parquet", target, None if full else result.removed)
        changed = base is None or any(counts[key] for key in ("inserted", "updated", "deleted"))
        if base is not None and not changed:
            target.unlink(missing_ok=True)
            share(base, target)
        shutil.rmtree(scratch, ignore_errors=True)
        content = self.name if changed or before is None else before.content
        full_at = before.full_at if before is not None and mode != "full" else self.now()
        mark = Mark(result.watermark, config, content, full_at)
        report = {
            "source": named.name,
            "entity": entity.name,
            "mode": mode,
            **counts,
            "watermark_before": before.watermark if before else None,
            "watermark_after": result.watermark,
            "requests": named.session.requests_sent - sent,
            "retries": named.session.retries - retried,
            "seconds": round(monotonic() - started, 3),
        }
        warnings = tuple(f"{what}: {warning}" for warning in result.warnings)
        return Taken(named.name, entity.name, mark, report, warnings, entity.incremental, target.is_file())

    def _base(self, named: Named, entity: Entity) -> Path | None:
        """The entity's file in the previous snapshot. A mark without its file (a backup half restored) counts as never read."""
        file = self.previous_folder / "sources" / named.name / f"{entity.name}.parquet" if self.previous_folder else None
        return file if file is not None and file.is_file() else None

    def _merge(self, entity: Entity, base: Path | None, fresh: Path, target: Path, removed: Sequence[str] | None) -> dict[str, int]:
        """Write `target` from the previous file and the fresh rows; `removed` None means that fresh is everything.

        Counts what is new, different and gone, by key; a table without a key is compared as a whole.
        """
        engine = self.engine
        target.parent.mkdir(parents=True, exist_ok=True)
        if base is None or removed is None:
            fresh.replace(target)
        else:
            engine.parquet("fresh", [fresh])
            engine.parquet("base", [base])
            key = _key(engine, entity, "base")
            engine.table("removed", pa.table({"id": pa.array(removed, pa.string())}))
            match = " and ".join(f"b.{quoted(name)} is not distinct from f.{quoted(name)}" for name in WHOLE.get(entity.name, key))
            reader = engine.stream(
                f"select * from base b where not exists (select 1 from fresh f where {match}) "
                f"and not exists (select 1 from removed r where r.id = b.{quoted(key[0])}) "
                f"union all by name select * from fresh f where not exists (select 1 from removed r where r.id = f.{quoted(key[0])}) "
                f"order by {', '.join(quoted(name) for name in key)}"
            )
            write_parquet(target, reader.schema, reader)
        engine.parquet("merged", [target])
        if base is None:
            return {"inserted": engine.count("select * from merged"), "updated": 0, "deleted": 0}
        engine.parquet("base", [base])
        return _difference(engine, _key(engine, entity, "merged"))


def _difference(engine: Engine, key: Sequence[str]) -> dict[str, int]:
    """How `merged` differs from `base`: rows inserted, updated, deleted, by key."""
    old, new = engine.schema("select * from base"), engine.schema("select * from merged")
    if old != new or not key:
        both = "(select * from base except all select * from merged) union all (select * from merged except all select * from base)"
        if old == new and engine.count(both) == 0:
            return {"inserted": 0, "updated": 0, "deleted": 0}
        return {"inserted": engine.count("select * from merged"), "updated": 0, "deleted": engine.count("select * from base")}
    match = " and ".join(f"o.{quoted(name)} is not distinct from n.{quoted(name)}" for name in key)
    row = ", ".join(quoted(name) for name in new.names)
    side = f"select hash({row}) as _row, true as _there, {', '.join(quoted(name) for name in key)} from"
    counts = engine.fetch(
        "select count(*) filter (where o._there is null) as inserted, count(*) filter (where n._there is null) as deleted, "
        "count(*) filter (where o._there and n._there and o._row <> n._row) as updated "
        f"from ({side} base) o full outer join ({side} merged) n on {match}"
    ).to_pylist()[0]
    return {name: int(counts[name]) for name in ("inserted", "updated", "deleted")}


def _key(engine: Engine, entity: Entity, table: str) -> tuple[str, ...]:
    """The columns that name a row of a normalised table in the engine; none when it lacks them."""
    key = KEYS.get(entity.name, entity.key)
    there = engine.schema(f"select * from {quoted(table)}").names
    if entity.name in BY_ID_OR_NAME:  # by id where the source gives ids, else by name
        return tuple(name for name in key if engine.count(f"select 1 from {quoted(table)} where {quoted(name)} is not null limit 1"))[:1]
    return key if set(key) <= set(there) else ()


def _overrides(source: str, entity: Entity, fields: Mapping[str, str]) -> dict[str, str]:
    """What `model.fields` says of this entity: `amount` is of deals, `leads.value` of leads, `crm.leads.value` of source `crm` alone."""
    own = {}
    for name in sorted(fields, key=lambda name: name.count(".")):  # what is said of one source goes before what is said of all
        place, _, column = name.rpartition(".")
        only, _, table = place.rpartition(".")
        columns = ENTITIES.get(table or "deals")
        if columns is None or column not in columns.names:
            raise ConfigError(f"model.fields: no canonical column {name!r}; {nearest(column, columns.names if columns else ENTITIES)}")
        if (table or "deals") == entity.name and only in ("", source):
            own[column] = fields[name]
    return own


def unreadable(source: str, entity: Entity, fields: Mapping[str, str]) -> list[str]:
    """What `model.fields` takes from a source column that cannot be read there, one sentence each; nothing where a source does not say."""
    there = {name.casefold() for name in entity.reads}
    return [
        f"model.fields: {entity.name}.{column}: {entity.place} has no {written!r} that can be read"
        for column, written in (_overrides(source, entity, fields) if there else {}).items()
        if PLAIN.fullmatch(written) and written.casefold() not in there
    ]


def _fingerprint(named: Named, entity: Entity, own: Mapping[str, str], zone: ZoneInfo) -> str:
    """What a stored entity depends on beside the source's data. Secrets are no part of it: a renewed token changes nothing."""
    return hashlib.sha256(repr((FORMAT, named.config, entity, own, zone.key)).encode()).hexdigest()[:16]
