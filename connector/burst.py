"""One target for each value of a dimension (`each: owner`): a snapshot divided into snapshots of one value each.

A value's tables are not cut out of the flow's tables but computed anew from the records that are its own, so that no number, limit or list
in them stands on another value's rows. What belongs to a value:

* deals whose column has it; stage entries and line items with their deal;
* leads whose own column has it, else whose owner or deal has; activities of its deals, else of its leads, else of its owners;
* accounts, contacts and products that these refer to; the owners of its deals and leads;
* quotas of its owners, where the dimension is the owner, the team or the manager;
* plain tables that have a column of the dimension's name; stages and rates are everybody's.

Company-wide numbers (spend, the team's quota, the target for leads) and plain tables without the column are left out, and so is what a record
that stays says of somebody else: the owner of a shared account, the colleague who made a call, the deal a lead became.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

import pyarrow as pa

from connector.api import Each
from connector.config import AnyFlow, Targets
from connector.engine import Engine, quoted
from connector.measure import MEMORY, SOURCES, Computed, compute_tables, landmarks, load_tables
from connector.model import ENTITIES
from connector.statements import text
from connector.store import share, write_parquet

#: stands for an id of somebody else's: that there is one counts, which one does not
ELSEWHERE: Final = "…"
WHOLE: Final = ("stages", "rates")
#: dimensions that owners have, and those among them whose quotas are the sum of their owners'
OF_OWNERS: Final = ("team", "manager", "region")
HAVE_QUOTAS: Final = ("owner", "team", "manager")
#: what records refer to → the records that do
REFERRED: Final = {"accounts": ("deals",), "contacts": ("deals", "deal_contacts"), "products": ("deals", "deal_products", "leads")}
PART: Final = {
    **dict.fromkeys(("deals", "stage_entries", "deal_products", "deal_contacts"), "deal"), "leads": "lead", "activities": "activity"
}  # fmt: skip
ID: Final = {table: f"{part}_id" for table, part in PART.items()}


@dataclass(frozen=True, slots=True)
class Whole:
    """What is divided: the folder of the records, that of the tables, and former snapshots (moment and folder, oldest first)."""

    records: Path
    tables: Path
    earlier: Sequence[tuple[datetime, Path]]
    at: datetime


def values_of(engine: Engine, each: Each) -> list[str]:
    """The values that deals and leads have, in order; '' where some have none and `each.empty` wants them. Reads what `place_rows` made."""
    found = engine.fetch("select value from deal_places union select value from lead_places order by value").column(0).to_pylist()
    return [value for value in found if value or each.empty is not None]


def left_behind(engine: Engine, each: Each) -> Iterator[str]:
    """What an admin should know of the rows behind `values_of`, one sentence each."""
    if each.empty is None:
        for table, places in (("deals", "deal_places"), ("leads", "lead_places")):
            if lost := engine.count(f"select * from {places} where value = ''"):
                yield f"{lost:,} {table} without {each.by} go to no target; name one for them with `each: {{by: {each.by}, empty: …}}`"
    if each.by == "owner":
        twice = "select owner from owners where owner is not null group by owner having count(distinct owner_id) > 1 order by owner"
        for name in engine.fetch(twice).column(0).to_pylist():
            yield f"several owners are called {name!r}: they share a target; tell their names apart in the source if they must not"


def place_rows(engine: Engine, by: str) -> None:
    """The value ('' for none) of each row: `owner_places`, `deal_places`, `lead_places`, `activity_places`."""
    if by == "owner":
        people = " union ".join(f"select owner, owner as value from {table}" for table in ("deals", "leads", "activities"))
    else:
        own = f"min({_value(by)})" if by in OF_OWNERS else "''"
        people = f"select owner, {own} as value from owners group by owner"
    engine.store("owner_places", f"select * from ({people}) where owner is not null")
    engine.store("deal_places", f"select deal_id, {_value(by)} as value, owner, account from deals")
    first, then = ("o", "d") if by in OF_OWNERS else ("d", "o")
    own = (
        f"l.{by}"
        if by in (*ENTITIES["leads"].names, "source")
        else f"case when {first}.value <> '' then {first}.value else {then}.value end"
    )
    engine.store(
        "lead_places",
        f"select l.lead_id, {_value(own)} as value, l.owner from leads l left join deal_places d on d.deal_id = l.deal_id "
        "left join owner_places o on o.owner = l.owner",
    )
    engine.store(
        "activity_places",
        "select a.activity_id, a.owner, case when a.deal_id is not null then d.value when l.lead_id is not null then l.value else o.value end "
        "as value from activities a left join deal_places d on d.deal_id = a.deal_id left join lead_places l on l.lead_id = a.lead_id "
        "left join owner_places o on o.owner = a.owner",
    )


def _value(column: str) -> str:
    return f"case when {column} is null or trim({column}) = '' then '' else {column} end"


class Division:
    """A snapshot divided among values. Each table is kept once, sorted by value, so that a part is a short read of it.

    `left_out` are the tables that go to nobody, and why.
    """

    def __init__(self, engine: Engine, each: Each, snapshot: Whole, values: Sequence[str]) -> None:
        self.left_out: dict[str, str] = {}
        self._engine, self._each, self._snapshot = engine, each, snapshot
        self._values = list(values)
        self._kept: list[tuple[str, Path]] = []  # relation, and the file its rows of a value go to
        self._names = (f"part_{number}" for number in count())
        self._number()
        files = [(table, source, file) for table, sources in self._entities.items() for source, file in sources.items()]
        for table, source, file in files:
            engine.parquet(_raw(source, table), [file])
        for table in REFERRED:
            self._refer(table)
        for table, source, file in files:
            self._divide(table, source, file)
        self._past = [(moment, folder) for moment, folder in landmarks(snapshot.earlier, snapshot.at) if self._remembered(folder)]

    def part(self, value: str, folder: Path) -> list[tuple[datetime, Path]]:
        """Leave the records of a value in `folder` as a snapshot has them; returns its former snapshots."""
        number = self._values.index(value)
        for relation, file in self._kept:
            reader = self._engine.stream(f"select * exclude (_number, _row) from {relation} where _number = {number}")
            write_parquet(folder / file, reader.schema, reader)
        for table in WHOLE:
            for source, file in self._entities.get(table, {}).items():
                share(file, folder / "sources" / source / file.name)
        return [(moment, folder / before.name) for moment, before in self._past]

    # ── whose row is it ──

    def _number(self) -> None:
        """`<what>_parts`: the number of the value that a deal, a lead, an activity belongs to, and of each value that an owner works for."""
        engine = self._engine
        numbers = {"number": pa.array(range(len(self._values)), pa.int32()), "value": pa.array(self._values, pa.string())}
        engine.table("parts", pa.table(numbers))
        for what in ("deal", "lead", "activity"):
            engine.store(
                f"{what}_parts", f"select v.number, p.{what}_id as id, p.owner from {what}_places p inner join parts v on v.value = p.value"
            )
        theirs = "select v.number, p.owner as id from owner_places p inner join parts v on v.value = p.value and v.value <> ''"
        engine.store("quota_parts", theirs)
        working = (
            "" if self._each.by == "owner" else " union select number, owner from deal_parts union select number, owner from lead_parts"
        )
        engine.store("owner_parts", f"select number, id from ({theirs}{working}) where id is not null")
        engine.store(
            "account_names",
            "select distinct v.number, lower(trim(p.account)) as id from deal_places p inner join parts v on v.value = p.value where p.account is not null",
        )

    @cached_property
    def _entities(self) -> Mapping[str, Mapping[str, Path]]:
        """Table → source → file of records."""
        found: dict[str, dict[str, Path]] = {}
        for file in sorted(self._snapshot.records.glob(SOURCES)):
            found.setdefault(file.stem, {})[file.parent.name] = file
        return found

    def _columns(self, relation: str) -> list[str]:
        return list(self._engine.schema(f"select * from {quoted(relation)}").names)

    def _id(self, table: str, source: str, column: str) -> str:
        """An id of a source's record as the canonical tables have it: with its source's name where several sources give the table."""
        sources = self._entities.get(table, {})
        return f"{text(source + ':')} || {column}" if len(sources) > 1 and source in sources else column

    def _mine(self, table: str, source: str) -> str:
        """Whether the record `e` is of the part `p`."""
        of = {"deal": "deals", "lead": "leads", "activity": "activities"}[PART[table]]
        return f"p.id = {self._id(of, source, f'e.{ID[table]}')}"

    # ── dividing ──

    def _divide(self, table: str, source: str, file: Path) -> None:
        raw, target = _raw(source, table), file.relative_to(self._snapshot.records)
        columns = self._columns(raw)
        others = self._others(table, source, columns)
        if table in PART:
            self._keep(raw, f"{PART[table]}_parts", self._mine(table, source), target, others)
        elif table in REFERRED:
            self._keep(raw, self._referred(table, source, columns), "p.id = e._row", target, others)
        elif table == "owners" or (table == "quotas" and self._each.by in HAVE_QUOTAS):
            self._keep(raw, f"{table.removesuffix('s')}_parts", "p.id = e.owner" if "owner" in columns else "1 = 0", target, {})
        elif table in ENTITIES and table not in WHOLE:
            self.left_out[table] = "it is the company's"
        elif table not in ENTITIES:
            own = [name for name in columns if name.casefold().replace(" ", "_") == self._each.by]
            if own:
                self._keep(raw, "parts", f"p.value = {_value(f'cast(e.{quoted(own[0])} as varchar)')}", target, {})
            else:
                self.left_out[table] = f"it has no column {self._each.by!r}"

    def _keep(self, raw: str, parts: str, condition: str, target: Path, others: Mapping[str, str]) -> None:
        """Keep the rows `e` of every part `p`, sorted by part; `others` are columns where something of somebody else's may stand."""
        columns = ", ".join(f"{others.get(name, f'e.{quoted(name)}')} as {quoted(name)}" for name in self._columns(raw))
        relation = next(self._names)
        self._engine.keep(
            relation,
            f"select {columns}, p.number as _number, e._row from {_numbered(raw)} e inner join {parts} p on {condition} order by p.number, e._row",
        )
        self._kept.append((relation, target))

    def _others(self, table: str, source: str, columns: Sequence[str]) -> Mapping[str, str]:
        """Columns of a table that may name somebody or something else's, as SQL over the record `e` and its part `p`."""
        people = "select 1 from owner_parts o where o.number = p.number and o.id = e.owner"
        deals = f"select 1 from deal_parts o where o.number = p.number and o.id = {self._id('deals', source, 'e.deal_id')}"
        leads = f"select 1 from lead_parts o where o.number = p.number and o.id = {self._id('leads', source, 'e.lead_id')}"
        names = "select 1 from account_names o where o.number = p.number and o.id = lower(trim(e.account))"
        ids = f"select 1 from account_refs o where o.number = p.number and o.id = {self._id('accounts', source, 'e.account_id')}"
        known = {
            "leads": {"owner": (people, "null"), "deal_id": (deals, text(ELSEWHERE))},
            "activities": {"owner": (people, "null"), "lead_id": (leads, "null")},
            "accounts": {"owner": (people, "null")},
            "contacts": {"account": (names, "null"), "account_id": (ids, "null")},
        }.get(table, {})
        return {
            column: f"case when e.{column} is null or exists ({ours}) then e.{column} else {instead} end"
            for column, (ours, instead) in known.items()
            if column in columns
        }

    def _refer(self, table: str) -> None:
        """`<one>_refs`: the ids and names of accounts, contacts and products that each part's records say, and `<one>_ids`: the ids there are."""
        one = table.removesuffix("s")
        said = ["select cast(null as integer) as number, cast(null as varchar) as id, cast(null as varchar) as name where 1 = 0"]
        for other in REFERRED[table]:
            for source in self._entities.get(other, {}):
                columns = self._columns(_raw(source, other))
                known = self._id(table, source, f"e.{one}_id") if f"{one}_id" in columns else "null"
                name = f"lower(trim(e.{one}))" if one in columns else "null"
                parts = f"{PART[other]}_parts p on {self._mine(other, source)}"
                said.append(f"select p.number, {known}, {name} from {quoted(_raw(source, other))} e inner join {parts}")
        self._engine.store(f"{one}_refs", " union ".join(said))
        there = ["select cast(null as varchar) as id where 1 = 0"]
        there += [
            f"select {self._id(table, source, f'e.{one}_id')} from {quoted(_raw(source, table))} e where e.{one}_id is not null"
            for source in self._entities.get(table, {})
            if f"{one}_id" in self._columns(_raw(source, table))
        ]
        self._engine.store(f"{one}_ids", " union ".join(there))

    def _referred(self, table: str, source: str, columns: Sequence[str]) -> str:
        """The rows (by number) that a part's records refer to: by id, or by name where the id is not known."""
        one, relation = table.removesuffix("s"), next(self._names)
        rows = _numbered(_raw(source, table))
        found = ["select cast(null as integer) as number, cast(null as bigint) as id where 1 = 0"]
        if f"{one}_id" in columns:
            found.append(
                f"select r.number, e._row from {rows} e inner join {one}_refs r on r.id = {self._id(table, source, f'e.{one}_id')}"
            )
        if one in columns:
            unknown = f"r.id is null or not exists (select 1 from {one}_ids i where i.id = r.id)"
            found.append(f"select r.number, e._row from {rows} e inner join {one}_refs r on r.name = lower(trim(e.{one})) where {unknown}")
        self._engine.store(relation, " union ".join(found))
        return relation

    def _remembered(self, folder: Path) -> bool:
        """Keep what a former snapshot knew of the deals that were each part's then; whether it did."""
        tables, memory = folder / "tables" / "deals.parquet", folder / MEMORY
        if not (tables.is_file() and memory.is_file()):
            return False
        then = f"then:{folder.name}"
        self._engine.parquet(then, [tables])
        if self._each.by not in self._columns(then):
            return False
        self._engine.parquet(f"memory:{folder.name}", [memory])
        parts = f"(select v.number, t.deal_id as id from {quoted(then)} t inner join parts v on v.value = {_value(f't.{self._each.by}')})"
        self._keep(f"memory:{folder.name}", parts, "p.id = e.deal_id", Path(folder.name, MEMORY), {})
        if "stage_entries" not in self._entities:  # stages are told from what former snapshots saw of today's deals
            for file in sorted(folder.glob(SOURCES)):
                if file.stem == "deals":
                    raw, source = f"then:{folder.name}:{file.parent.name}", file.parent.name
                    self._engine.parquet(raw, [file])
                    self._keep(raw, "deal_parts", self._mine("deals", source), Path(folder.name) / file.relative_to(folder), {})
        return True


def _raw(source: str, table: str) -> str:
    return f"raw:{source}:{table}"


def _numbered(relation: str) -> str:
    return f"(select *, row_number() over () as _row from {quoted(relation)})"


class Burst:
    """The values of a snapshot, and the tables of each, computed when they are asked for, one value at a time: memory and disk stay flat.

    `values` are in order, '' for rows without one; `remarks` are what an admin should know of the others.
    """

    def __init__(self, config: AnyFlow, each: Each, snapshot: Whole, scratch: Path, open_engine: Callable[[Path], Engine]) -> None:
        model = config.model.model_copy(update={"targets": Targets()})
        self._config = config.model_copy(update={"model": model})
        self._each, self._snapshot = each, snapshot
        self._scratch, self._open = scratch, open_engine
        self._division: Division | None = None
        self._engine = open_engine(scratch / "divided")
        load_tables(self._engine, snapshot.tables)
        place_rows(self._engine, each.by)
        self.values = values_of(self._engine, each)
        self.remarks = list(left_behind(self._engine, each))

    @property
    def by(self) -> str:
        return self._each.by

    def label(self, value: str) -> str:
        """How people call a value."""
        return value or self._each.empty or ""

    def divide(self) -> Division:
        """Divide the snapshot, the first time somebody asks for it."""
        if self._division is None:
            self._division = Division(self._engine, self._each, self._snapshot, self.values)
        return self._division

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tables that no value gets, and why; known once the snapshot is divided."""
        return self._division.left_out if self._division else {}

    @contextmanager
    def tables(self, value: str) -> Iterator[Computed]:
        """Everything computed for one value; gone again afterwards."""
        folder = self._scratch / "value"
        engine = self._open(folder / "spill")
        try:
            earlier = self.divide().part(value, folder)
            compute_tables(engine, self._config, folder, self._snapshot.at, earlier)
            engine.close()
            engine = self._open(folder / "spill")
            yield load_tables(engine, folder / "tables")
        finally:
            engine.close()
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        self._engine.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
