"""Where SQL runs. DuckDB, in memory over Parquet; nothing else in the product imports it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa

from connector.errors import ConnectorError, TargetError, TransientError, nearest

PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quoted(name: str) -> str:
    """A SQL identifier for any name."""
    return '"' + name.replace('"', '""') + '"'


class SqlError(ConnectorError):
    """SQL that does not fit, with the engine's reason on one line.

    Whoever runs SQL that an admin wrote turns it into a ConfigError that names the place; SQL of ours that does not fit is a bug.
    """


class Engine(Protocol):
    """The few things the product asks of a SQL engine."""

    def parquet(self, name: str, files: Sequence[Path]) -> None: ...
    def table(self, name: str, data: pa.Table | pa.RecordBatchReader) -> None: ...
    def view(self, name: str, sql: str) -> None: ...
    def store(self, name: str, sql: str) -> None: ...
    def keep(self, name: str, sql: str) -> None: ...
    def close(self) -> None: ...
    def drop(self, name: str) -> None: ...
    def tables(self) -> tuple[str, ...]: ...
    def schema(self, sql: str) -> pa.Schema: ...
    def stream(self, sql: str, rows_per_batch: int = ...) -> pa.RecordBatchReader: ...
    def fetch(self, sql: str) -> pa.Table: ...
    def count(self, sql: str) -> int: ...


class DuckDB:
    """One connection, in memory, UTC, spilling to `scratch`; reads files only below `folders`.

    SQL from YAML and from `connector query` runs here, so the connection is locked: no files but ours, no network,
    no extensions, no settings. Deterministic: insertion order is preserved and one text gives one result.
    """

    def __init__(
        self, *, folders: Iterable[Path] = (), scratch: Path | None = None, memory: str = "2GB", threads: int | None = None
    ) -> None:
        config: dict[str, Any] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
            "memory_limit": memory,
        }
        if threads:
            config["threads"] = str(threads)
        self._connection = duckdb.connect(config=config)
        self._scratch = scratch.resolve() if scratch else None
        if scratch:
            scratch.mkdir(parents=True, exist_ok=True)
        allowed = [str(Path(folder).resolve()) for folder in (*folders, *([scratch] if scratch else []))]
        self._connection.execute("set timezone = 'UTC'")
        self._connection.execute("set enable_progress_bar = false")
        if scratch:
            self._connection.execute(f"set temp_directory = {_text(str(scratch))}")
        self._connection.execute(f"set allowed_directories = [{', '.join(_text(folder) for folder in allowed)}]")
        self._connection.execute("set enable_external_access = false")
        self._connection.execute("set lock_configuration = true")

    def parquet(self, name: str, files: Sequence[Path]) -> None:
        """A view over Parquet files of one schema."""
        names = ", ".join(_text(str(Path(file).resolve())) for file in files)
        self._run(f"create or replace view {quoted(name)} as select * from read_parquet([{names}])")

    def table(self, name: str, data: pa.Table | pa.RecordBatchReader) -> None:
        """A table in memory from Arrow."""
        self._connection.register("_arriving", data)
        try:
            self._run(f"create or replace table {quoted(name)} as select * from _arriving")
        finally:
            self._connection.unregister("_arriving")

    def view(self, name: str, sql: str) -> None:
        self._run(f"create or replace view {quoted(name)} as {sql}")

    def store(self, name: str, sql: str) -> None:
        """A table in memory from a query."""
        self._run(f"create or replace table {quoted(name)} as {sql}")

    def keep(self, name: str, sql: str) -> None:
        """A relation of many rows, computed once: as Parquet in `scratch` where there is one, so that memory stays flat."""
        if self._scratch is None:
            self.store(name, sql)
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        file = self._scratch / f"{name}.parquet"
        self._run(f"copy ({sql}) to {_text(str(file))} (format parquet)")
        self.parquet(name, [file])

    def close(self) -> None:
        self._connection.close()

    def drop(self, name: str) -> None:
        stored = self._run(f"select 1 from duckdb_tables() where table_name = {_text(name)}").fetchall()
        self._run(f"drop {'table' if stored else 'view'} if exists {quoted(name)}")

    def tables(self) -> tuple[str, ...]:
        rows = self._run("select table_name from information_schema.tables order by table_name").fetchall()
        return tuple(str(row[0]) for row in rows)

    def schema(self, sql: str) -> pa.Schema:
        return self.fetch(f"select * from ({sql}) limit 0").schema

    def stream(self, sql: str, rows_per_batch: int = 50_000) -> pa.RecordBatchReader:
        """The result in batches. Each call uses a cursor of its own, so streams may interleave."""
        with _translated():
            return self._relation(sql, self._connection.cursor()).to_arrow_reader(rows_per_batch)

    def fetch(self, sql: str) -> pa.Table:
        with _translated():
            return self._relation(sql, self._connection).to_arrow_table()

    def count(self, sql: str) -> int:
        return int(self._run(f"select count(*) from ({sql})").fetchall()[0][0])

    def _relation(self, sql: str, connection: Any) -> Any:
        with _translated():
            return connection.sql(sql)

    def _run(self, sql: str) -> Any:
        with _translated():
            return self._connection.execute(sql)


@contextmanager
def _translated() -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        if "No space left" in str(error):
            raise TargetError("no space left in the data folder", remedy="free space, or name another folder with --data") from error
        if isinstance(error, duckdb.IOException):
            raise TransientError(f"the engine cannot read or write its files: {reason(error)}") from error
        raise TransientError(
            f"the engine ran out of memory or disk: {reason(error)}", remedy="free disk space for the data folder"
        ) from error
    except duckdb.Error as error:
        raise SqlError(reason(error)) from error


def single_select(sql: str) -> None:
    """Refuse anything but one SELECT without side effects. Raises SqlError."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise SqlError(reason(error)) from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SqlError("expected one SELECT and nothing else")


def single_expression(expression: str) -> None:
    """Refuse anything but one scalar expression (no sub-select, no second statement). Raises SqlError."""
    single_select(f"select {expression}\n")
    try:
        tree = duckdb.execute("select json_serialize_sql(?)", [f"select {expression}\n"]).fetchone()
    except duckdb.Error as error:
        raise SqlError(reason(error)) from error
    assert tree is not None
    node = json.loads(tree[0])["statements"][0]["node"]
    simple = node["type"] == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY" and len(node["select_list"]) == 1
    if not simple or '"SUBQUERY"' in tree[0] or '"STAR"' in tree[0]:
        raise SqlError("expected one expression over the columns, without a select of its own")


def reason(error: Exception) -> str:
    """The engine's reason on one line, without its caret drawing."""
    text = str(error).split("\n\nLINE ")[0].split("\nLINE ")[0]
    return " ".join(text.split())


def unknown_column(error: SqlError, columns: Iterable[str]) -> str | None:
    """The message for a column that is not there, or None when the error is something else."""
    match = re.search(r'Referenced column "([^"]+)" (?:was )?not found', str(error))
    return f"no column {match[1]!r}; {nearest(match[1], columns)}" if match else None


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
