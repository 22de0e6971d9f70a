"""What has to be done to a table so that it holds the flow's rows, as SQL; and everything that speaks against doing it.

No statement here needs more than to write rows while others read: rows are deleted, updated and inserted inside one transaction, so
readers keep the old table until it ends, nobody waits, and what hangs on the table (views, permissions, indexes) stays. A truncated
table would be empty for readers whose transaction is older, a table put in place of another would lose its views and permissions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from connector.errors import TargetError
from sinks.database_connection import BOOKS, Dialect, Standing, literal, quoted
from sinks.database_tables import Wanted

#: columns of our books; the last is JSON: name → {type, meaning}
BOOKS_COLUMNS: Final = (
    "table_name text primary key, flow text not null, run_id text not null, refreshed_at {instant} not null, row_count bigint not null, "
    "hash text not null, stamp text, meaning text not null, columns text not null"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What our books say of a table: how we left it."""

    flow: str
    run_id: str
    rows: int
    hash: str
    stamp: str | None
    meaning: str
    columns: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, row: Sequence[Any]) -> Entry:
        flow, run_id, rows, mark, stamp, meaning, columns = row
        return cls(flow, run_id, int(rows), mark, stamp, meaning, json.loads(columns))


def read_entries(books: str, names: Collection[str]) -> str:
    listed = ", ".join(literal(name) for name in names)
    return f"select table_name, flow, run_id, row_count, hash, stamp, meaning, columns from {books} where table_name in ({listed})"


def write_entry(books: str, name: str, entry: Entry, at: str) -> str:
    values: dict[str, str | int | None] = {
        "table_name": name,
        "flow": entry.flow,
        "run_id": entry.run_id,
        "refreshed_at": at,
        "row_count": entry.rows,
        "hash": entry.hash,
        "stamp": entry.stamp,
        "meaning": entry.meaning,
        "columns": json.dumps(entry.columns, ensure_ascii=False),
    }
    taken = ", ".join(f"{column} = excluded.{column}" for column in list(values)[1:])
    given = ", ".join(literal(value) for value in values.values())
    return f"insert into {books} ({', '.join(values)}) values ({given}) on conflict (table_name) do update set {taken}"


# ── columns ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reshaping:
    """What happens to the columns of a table: those that come, those whose type grows, those that never held a value and start anew."""

    add: Mapping[str, str]
    widen: Mapping[str, str]
    anew: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.add or self.widen or self.anew)

    def statements(self, table: str) -> Iterator[str]:
        for name in self.anew:
            yield f"alter table {table} drop column {quoted(name)}"
        for name, kind in {**self.anew, **self.add}.items():
            yield f"alter table {table} add column {quoted(name)} {kind}"
        for name, kind in self.widen.items():
            yield f"alter table {table} alter column {quoted(name)} type {kind}"


def refuse_strangers(table: Wanted, standing: Standing | None, entry: Entry | None, flow: str, place: str) -> None:
    """A table that somebody else made under our name is theirs."""
    if standing is None:
        return
    if entry is None or not standing.plain:
        what = "a table" if standing.plain else "a view or other thing"
        raise TargetError(
            f"{place}: there is {what} {table.name!r} that was not made by connector",
            remedy="choose another `name:` or `schema:`, or rename what is there",
        )
    if entry.flow != flow:
        raise TargetError(
            f"{place}: table {table.name!r} belongs to flow {entry.flow!r}",
            remedy=f"choose another `name:`; or, to hand it over, set `flow` in the table {BOOKS}",
        )


def reshaping(
    table: Wanted,
    standing: Standing,
    entry: Entry,
    valued: Collection[str],
    changes: Literal["evolve", "freeze"],
    dialect: Dialect,
    holds_values: Callable[[str], bool],
) -> Reshaping:
    """Raises TargetError where the table cannot take the rows without harm to whoever reads it. `valued`: columns that bring a value;
    `holds_values` tells of a column of the table.
    """
    there = {column.name: column for column in standing.columns}
    add, widen, anew = {}, {}, {}
    gone = [name for name in entry.columns if name in there and name not in table.types]
    faults = [f"column {name!r} is gone" for name in gone]
    for name, kind in table.types.items():
        old = there.get(name)
        if old is None:
            add[name] = kind
        elif name not in entry.columns:
            faults.append(f"column {name!r} is new here, and somebody has added one of that name")
        elif name in valued and (wider := dialect.widened(old.type, kind)) != old.type:
            if wider is not None:
                widen[name] = wider
            elif holds_values(name):
                faults.append(f"column {name!r} was {old.type} and is {kind}")
            else:
                anew[name] = kind
    shape = Reshaping(add, widen, anew)
    if changes == "freeze":
        faults += [f"column {name!r} is new" for name in add]
        faults += [f"column {name!r} was {there[name].type} and is {table.types[name]}" for name in {**widen, **anew}]
    if faults:
        raise TargetError(
            f"{dialect.place}: table {table.name!r}: {'; '.join(faults)}",
            remedy=_remedy(table, gone, dialect, changes),
        )
    foreign = [name for name, column in there.items() if name not in entry.columns and not column.filled]
    if table.mode == "replace" and foreign:
        raise TargetError(
            f"{dialect.place}: table {table.name!r}: somebody has added column {foreign[0]!r}, whose values would be lost with the rows",
            remedy="deliver it with `mode: upsert`, which keeps the rows; or keep the column in a table of its own",
        )
    return shape


def _remedy(table: Wanted, gone: Sequence[str], dialect: Dialect, changes: str) -> str:
    parts = ["correct the source or `columns:`", "deliver it under another `name:`"]
    if gone:
        parts.insert(1, f"let it go for good: alter table {dialect.table(table.name)} drop column {quoted(gone[0])}")
    if changes == "freeze":
        parts.append("allow changes with `schema_changes: evolve`")
    return "; or ".join(parts)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Merge:
    """Rows from a table of this transaction's own (`staged`) into the one people read. `columns`: name → what is written into it."""

    table: str
    staged: str
    columns: Mapping[str, str]
    key: tuple[str, ...]
    mode: Literal["replace", "upsert", "append"]

    def _same_key(self) -> str:
        return " and ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.key)

    def _insert(self, condition: str = "") -> str:
        names = ", ".join(quoted(name) for name in self.columns)
        given = ", ".join(self.columns.values())
        return f"insert into {self.table} ({names}) select {given} from {self.staged} s{condition}"

    def bad_key(self) -> str:
        """An example of a key that is missing or that several rows have."""
        names = [quoted(name) for name in self.key]
        missing = " or ".join(f"{name} is null" for name in names)
        return f"select {', '.join(names)} from {self.staged} group by {', '.join(names)} having count(*) > 1 or {missing} limit 1"

    def differs(self) -> str:
        """A row if there is something to do."""
        if self.mode == "append":
            return f"select 1 from {self.staged} s {self._unknown()} limit 1"
        names = ", ".join(quoted(name) for name in self.columns)
        given = ", ".join(f"{value} as {quoted(name)}" for name, value in self.columns.items())
        both = f"select {given}, 1 as _connector_side from {self.staged} s union all select {names}, -1 from {self.table}"
        return f"select 1 from ({both}) as _both group by {names} having sum(_connector_side) <> 0 limit 1"

    def _unknown(self) -> str:
        return f"where not exists (select 1 from {self.table} t where {self._same_key()})" if self.key else ""

    def statements(self) -> Iterator[str]:
        if self.mode == "replace":
            yield f"delete from {self.table}"
        elif self.mode == "upsert":
            names = ", ".join(quoted(name) for name in self.key)
            yield f"delete from {self.table} where ({names}) in (select {names} from {self.table} group by {names} having count(*) > 1)"
            yield f"delete from {self.table} as t where not exists (select 1 from {self.staged} s where {self._same_key()})"
            others = {name: value for name, value in self.columns.items() if name not in self.key}
            if others:
                given = ", ".join(f"{quoted(name)} = {value}" for name, value in others.items())
                changed = " or ".join(f"t.{quoted(name)} is distinct from {value}" for name, value in others.items())
                yield f"update {self.table} as t set {given} from {self.staged} s where {self._same_key()} and ({changed})"
        yield self._insert(f" {self._unknown()}" if self.mode != "replace" else "")


def merge(
    table: Wanted, standing: Standing | None, shape: Reshaping | None, valued: Collection[str], staged: str, dialect: Dialect
) -> Merge:
    """A column that brings no value is written as null, whatever its type has become."""
    there = {column.name: column.type for column in standing.columns} if standing else {}
    retyped = {**shape.add, **shape.anew} if shape else {}
    kinds = {name: retyped.get(name) or there.get(name, kind) for name, kind in table.types.items()}
    given = {name: f"s.{quoted(name)}" if name in valued or kinds[name] == kind else "null" for name, kind in table.types.items()}
    return Merge(dialect.table(table.name), staged, given, table.key, table.mode)


def creation(table: Wanted, dialect: Dialect) -> str:
    """SQL that makes the table; with a key where rows are told apart by one."""
    return f"create table {dialect.table(table.name)} ({columns_of(table, key=True)})"


def columns_of(table: Wanted, *, key: bool) -> str:
    """Names and types of the columns in SQL."""
    needed = table.key if key else ()
    parts = [f"{quoted(name)} {kind}{' not null' if name in needed else ''}" for name, kind in table.types.items()]
    if needed:
        parts.append(f"primary key ({', '.join(quoted(name) for name in needed)})")
    return ", ".join(parts)


# ── meanings ──────────────────────────────────────────────────────────────────────────────────────


def new_meanings(
    table: Wanted, standing: Standing | None, entry: Entry | None, shape: Reshaping | None
) -> tuple[str | None, dict[str, str]]:
    """The comments to set, on the table and on its columns: a comment that somebody rewrote is theirs."""
    anew = shape.anew if shape else {}
    there = {column.name: column.comment for column in standing.columns if column.name not in anew} if standing else {}
    ours = {name: facts.get("meaning") for name, facts in entry.columns.items()} if entry else {}
    columns = {
        name: text for name, text in table.meanings.items() if there.get(name) != text and there.get(name) in (None, "", ours.get(name))
    }
    of_table = standing.comment if standing else None
    free = of_table != table.meaning and of_table in (None, "", entry.meaning if entry else None)
    return table.meaning if free else None, columns


def entry_columns(table: Wanted) -> dict[str, dict[str, str]]:
    """The columns as our books keep them."""
    return {name: {"type": kind, "meaning": table.meanings.get(name, "")} for name, kind in table.types.items()}
