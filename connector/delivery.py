"""What of the flow's tables goes to a sink: `from`, `sql`, `columns`, `where`, `sort` and `limit` as one SELECT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from connector.api import HiddenKey, Output, TableSpec
from connector.definitions import TableInfo
from connector.engine import Engine, SqlError, quoted, single_expression, single_select, unknown_column
from connector.errors import ConfigError, nearest

SORT: Final = re.compile(r"(?P<minus>-)?\s*(?P<name>.+?)(?:\s+(?P<way>asc|desc))?", re.IGNORECASE)
#: numbers of `kpis` measured in the row's `unit`
KPI_VALUES: Final = ("value", "previous", "change")


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a run: in the engine under their names, what their columns mean, and the reporting currency where there is one.

    `unseen` are tables that a source gives and that have been empty so far, without a column to be seen.
    """

    engine: Engine
    info: Mapping[str, TableInfo]
    currency: str | None = None
    unseen: frozenset[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        return name in self.info

    def rows(self, name: str) -> int:
        return self.engine.count(f"select * from {quoted(name)}")

    def reader(self, name: str, limit: int | None = None) -> pa.RecordBatchReader:
        """Rows of a table. Raises ConfigError naming the nearest table."""
        if name not in self.info:
            raise ConfigError(f"no table {name!r}; {nearest(name, self.info)}")
        return self.engine.stream(f"select * from {quoted(name)}{'' if limit is None else f' limit {limit}'}")

    def columns(self, name: str) -> Mapping[str, Any]:
        return self.info[name].columns


def outputs(
    tables: Tables, specs: Sequence[TableSpec] | None, currency: str | None, place: str, *, empty: bool = False
) -> Iterator[tuple[str, Output]]:
    """The outputs of one sink: those it names, else every table that has rows (with `empty`: every table), with headings for people.

    Raises ConfigError naming `place` and the key at fault.
    """
    if specs is None:
        for name, info in tables.info.items():
            rows = tables.rows(name)
            if rows or empty:
                yield name, _output(tables, name, f"select * from {quoted(name)}", info, None, currency, rows, info.key)
        return
    for index, spec in enumerate(specs):
        if spec.source in tables.unseen:
            continue
        where = f"{place}.tables[{index}]"
        info = _info(tables, spec, where)
        sql, key, hidden = _sql(tables, spec, info, where)
        if spec.sql is not None or spec.where is not None:
            sql = _settled(tables.engine, sql, f"_output_{index}", where)
        name = spec.source or f"sql_{index + 1}"
        yield f"{name}#{index}", _output(tables, name, sql, info, spec, currency, tables.engine.count(sql), key, hidden)


def _info(tables: Tables, spec: TableSpec, where: str) -> TableInfo:
    if (spec.source is None) == (spec.sql is None):
        raise ConfigError(f"{where}: give either `from` or `sql`")
    if spec.source is None:
        return TableInfo(name="sql", title="", columns={}, key=())
    if spec.source not in tables:
        raise ConfigError(f"{where}.from: no table {spec.source!r}; {nearest(spec.source, tables.info)}")
    return tables.info[spec.source]


def _sql(tables: Tables, spec: TableSpec, info: TableInfo, where: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """One SELECT; the key of its rows; and the columns of that key which are not delivered: they come last."""
    if spec.sql is not None:
        try:
            single_select(spec.sql)
            there = tables.engine.schema(spec.sql).names
        except SqlError as error:
            raise ConfigError(f"{where}.sql: {error}") from error
        base = f"({spec.sql.strip().rstrip(';')}\n)"
    else:
        assert spec.source is not None
        base, there = quoted(spec.source), tables.engine.schema(f"select * from {quoted(spec.source)}").names
    chosen = _chosen(spec, there, where)
    key = _key(spec, info, there, where)
    hidden = tuple(name for name in key if name not in chosen)
    sql = f"select {', '.join(quoted(name) for name in (*chosen, *hidden))} from {base}"
    if spec.where is not None:
        _prove(tables.engine, spec.where, base, there, f"{where}.where")
        sql += f" where ({spec.where}\n)"
    if spec.sort is not None:
        sql += f" order by {', '.join(_order(term, there, where) for term in ([spec.sort] if isinstance(spec.sort, str) else spec.sort))}"
    return (sql if spec.limit is None else f"{sql} limit {spec.limit}"), key, hidden


def _chosen(spec: TableSpec, there: Sequence[str], where: str) -> list[str]:
    if spec.columns is None:
        return list(there)
    for name in spec.columns:
        if name not in there:
            raise ConfigError(f"{where}.columns: no column {name!r}; {nearest(name, there)}")
    return list(spec.columns)


def _key(spec: TableSpec, info: TableInfo, there: Sequence[str], where: str) -> tuple[str, ...]:
    if spec.key is None:
        return info.key if set(info.key) <= set(there) else ()
    names = (spec.key,) if isinstance(spec.key, str) else spec.key
    for name in names:
        if name not in there:
            raise ConfigError(f"{where}.key: no column {name!r}; {nearest(name, there)}")
    return names


def _prove(engine: Engine, condition: str, base: str, there: Sequence[str], where: str) -> None:
    try:
        single_expression(condition)
        engine.schema(f"select ({condition}\n) as condition from {base}")
    except SqlError as error:
        raise ConfigError(f"{where}: {unknown_column(error, there) or error}") from error


def _settled(engine: Engine, sql: str, name: str, where: str) -> str:
    """Run what an admin wrote once, whole: a value it cannot work on shows here, before anything is touched."""
    try:
        engine.store(name, sql)
    except SqlError as error:
        raise ConfigError(f"{where}: {error}") from error
    return f"select * from {quoted(name)}"


def _order(term: str, there: Sequence[str], where: str) -> str:
    match = SORT.fullmatch(term.strip())
    name = match["name"] if match else term
    if match is None or name not in there:
        raise ConfigError(f"{where}.sort: no column {name!r}; {nearest(name, there)}")
    descending = match["minus"] is not None or (match["way"] or "").lower() == "desc"
    return f"{quoted(name)} {'desc' if descending else 'asc'} nulls last"


def _output(
    tables: Tables,
    name: str,
    sql: str,
    info: TableInfo,
    spec: TableSpec | None,
    currency: str | None,
    rows: int,
    key: tuple[str, ...],
    hidden: tuple[str, ...] = (),
) -> Output:
    """The query as an Arrow stream whose fields say unit, currency and heading."""
    plain = tables.engine.schema(sql)
    headings = spec.columns if spec is not None and isinstance(spec.columns, Mapping) else {}
    visible = plain.names[: len(plain) - len(hidden)]
    fields = []
    for column in plain:
        known = info.columns.get(column.name)
        label = headings.get(column.name) or (known.label if known and spec is None else column.name)
        meta = {b"label": label.encode()}
        if known:
            meta |= {b"unit": known.unit.encode(), b"description": known.description.encode()}
            if info.name == "kpis" and column.name in KPI_VALUES and "unit" in visible:
                meta |= {b"unit_by": b"unit", b"currency": currency.encode()} if currency else {b"unit_by": b"unit"}
            elif currency and known.unit.startswith("money") and not known.foreign:
                meta[b"currency"] = currency.encode()
        fields.append(column.with_metadata(meta))
    whole = pa.schema(fields)
    schema = pa.schema(fields[: len(visible)])

    def read(schema: pa.Schema) -> pa.RecordBatchReader:
        batches = tables.engine.stream(sql)
        rows = (pa.RecordBatch.from_arrays(batch.columns[: len(schema)], schema=schema) for batch in batches)
        return pa.RecordBatchReader.from_batches(schema, rows)

    return Output(
        name=name,
        schema=schema,
        rows=rows,
        open=lambda: read(schema),
        spec=spec,
        key=() if hidden else key,
        title=info.title,
        hidden=HiddenKey(pa.schema([whole.field(column) for column in key]), lambda: read(whole)) if hidden else None,
    )
