"""One transaction with a database over ADBC, and what a database must be able to say for the sink to write to it.

ADBC is Arrow's own database interface: batches go to the driver as they are (PostgreSQL takes them as binary COPY), and every driver has
the same few calls. What differs from database to database is a `Dialect`; PostgreSQL and SQLite are here, another is one more file and
one more line in `sinks.database.DIALECTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import pyarrow as pa

from connector.api import Finding
from connector.errors import ConfigError, ConnectorError

BOOKS = "_connector"  # our table of what each table holds; no table of a flow may have a name that begins so


def adbc_driver(module: str, extra: str) -> Any:
    """The DB-API of a driver. Raises ConfigError when it is not installed."""
    try:
        return import_module(f"{module}.dbapi")
    except ImportError as error:
        raise ConfigError(
            f"the database sink needs the ADBC driver {module}, which is not installed", remedy=f'pip install "pipeline-connector[{extra}]"'
        ) from error


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | int | None) -> str:
    """A value in SQL; text by doubling quotes, which is all that standard strings need."""
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table in the database. `filled` says that the database gives it its values (generated, identity)."""

    name: str
    type: str
    filled: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A table as it stands in the database. `stamp` changes with any change of its rows; None where the database cannot tell."""

    plain: bool
    columns: tuple[Column, ...]
    comment: str | None = None
    stamp: str | None = None


class Connection:
    """One transaction. Every error is one of ours; after one, only `close` is left, which undoes everything."""

    def __init__(self, raw: Any, errors: type[Exception], explain: Callable[[Exception], ConnectorError]) -> None:
        self._raw = raw
        self._errors = errors
        self._explain = explain

    def run(self, sql: str) -> None:
        self._explained(lambda cursor: cursor.execute(sql))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        def fetch(cursor: Any) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

        found: list[tuple[Any, ...]] = self._explained(fetch)
        return found

    def load(self, table: str, batches: pa.RecordBatchReader, schema: str | None, *, temporary: bool) -> None:
        """Append batches to a table, one at a time. What the reader raises goes to the caller as it is."""
        failed: list[BaseException] = []

        def watched() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except BaseException as error:
                failed.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(batches.schema, watched())
        where = {"temporary": True} if temporary else {"db_schema_name": schema} if schema else {}
        try:
            self._explained(lambda cursor: cursor.adbc_ingest(table, reader, mode="append", **where))
        except ConnectorError:
            if failed:
                raise failed[0] from None
            raise

    def commit(self) -> None:
        try:
            self._raw.commit()
        except self._errors as error:
            raise self._explain(error) from error

    def close(self) -> None:
        with suppress(self._errors):
            self._raw.rollback()
        with suppress(self._errors):
            self._raw.close()

    def _explained(self, act: Callable[[Any], Any]) -> Any:
        try:
            with self._raw.cursor() as cursor:
                return act(cursor)
        except self._errors as error:
            raise self._explain(error) from error


class Dialect(Protocol):
    """A database: how to reach it, its types, and the SQL that is its own. Everything else is the same for all of them."""

    @property
    def place(self) -> str:
        """The database in messages and receipts; never with a password."""

    @property
    def longest_name(self) -> int:
        """In bytes of UTF-8."""

    @property
    def schema(self) -> str | None:
        """The schema the tables are in, where the database has schemas."""

    def connect(self, *, reading: bool) -> Connection:
        """Begin a transaction; `reading`: nothing will be written. Raises ConfigError, AuthError or TransientError."""

    def same_name(self, name: str) -> str:
        """Equal for names that the database takes for one."""

    def refused_name(self, name: str, *, column: bool) -> str | None:
        """Why the database itself does not take a name."""

    def table(self, name: str) -> str:
        """The table in SQL."""

    def type(self, kind: pa.DataType) -> str:
        """The column type for an Arrow type, as the catalogue spells it."""

    def fit(self, column: pa.Array) -> pa.Array:
        """The values as they are sent. Raises pa.ArrowInvalid for one the database would not keep exactly."""

    def widened(self, old: str, new: str) -> str | None:
        """The narrowest type that a column may have or be given, so that it keeps `old` values and takes `new` ones."""

    def temporary(self, name: str, columns: str) -> str:
        """SQL that makes a table of this transaction's own."""

    def standing(self, connection: Connection, names: Sequence[str]) -> dict[str, Standing]:
        """What is there under these names."""

    def count(self, connection: Connection, name: str) -> tuple[int, str | None]:
        """Rows of a table, and its stamp."""

    def prepare(self, connection: Connection, books: str) -> None:
        """Make our schema and our books (`books`: its columns) where they are missing, and let one run write at a time."""

    def comments(self, name: str, table: str | None, columns: Mapping[str, str]) -> Iterator[str]:
        """SQL that says what a table and its columns mean."""

    def check(self, connection: Connection, names: Sequence[str]) -> Iterator[Finding]:
        """Whether the sink may do what it will do, proven without writing."""
