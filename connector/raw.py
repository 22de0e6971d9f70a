"""The spool of one read as SQL sees it: every source column as text, and under its own name with its own type for expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count
from typing import Any, Final

import pyarrow as pa

from connector.api import Entity
from connector.engine import Engine, SqlError, quoted, single_expression, unknown_column
from connector.errors import ConfigError, SourceError, nearest
from connector.spool import ROW, Kind, Spool

CELLS_PER_BATCH: Final = 100_000  # a batch is held several times over, as text and as values: wide tables come in fewer rows

_TYPES: Final[dict[Kind, str]] = {"whole": "bigint", "number": "double", "boolean": "boolean", "date": "date", "instant": "timestamptz"}
#: a column's name rather than an expression: words, perhaps with dots, hyphens and spaces
_NAME: Final = re.compile(r"(?!(?:null|true|false)$)[^\W\d][\w.]*(?:[ -]+[\w.]+)*", re.IGNORECASE)
_CONDITION: Final = re.compile(r" is (not )?null$", re.IGNORECASE)  # of words only, and no name all the same
_NUMBERS: Final = count()  # several reads may be open in one engine


class Raw:
    """Views over a spool, until `drop`. SQL here is assembled from quoted names and from expressions that `expression` has let through."""

    def __init__(self, entity: Entity, spool: Spool, engine: Engine) -> None:
        self._entity = entity
        self._spool = spool
        self._engine = engine
        self._view = f"·{entity.name}·{next(_NUMBERS)}·"
        self._helpers: list[str] = []
        for index, (path, _) in enumerate(spool.files):
            engine.parquet(f"{self._view}{index}", [path])
        self.lacking: list[str] = []  # columns asked for that no record of an API has

    @property
    def columns(self) -> Mapping[str, set[Kind]]:
        return self._spool.kinds

    def drop(self) -> None:
        for index in range(len(self._spool.files)):
            self._engine.drop(f"{self._view}{index}")
        for helper in self._helpers:
            self._engine.drop(helper)

    # ── what the admin wrote ──────────────────────────────────────────────────────────────────────

    def find(self, written: str) -> str | None:
        """The source column of that name, exactly or, if only one is, but for upper and lower case."""
        if written in self.columns:
            return written
        alike = [name for name in self.columns if name.casefold() == written.casefold()]
        return alike[0] if len(alike) == 1 else None

    def text(self, column: str) -> str:
        """SQL of a source column's raw text."""
        return quoted(f"·{list(self.columns).index(column)}")

    def expression(self, place: str, written: str) -> str:
        """SQL of an expression over source columns. `place` (`fields.amount`) is where it stands.

        Raises SourceError for a column that is not there, ConfigError for anything that is no expression.
        """
        absent = f"no column {written!r}; {nearest(written, self.columns)}"
        name = _NAME.fullmatch(written) is not None
        if name and not _CONDITION.search(written):
            return self._absent(place, written, absent)
        try:
            single_expression(written)
            self._engine.schema(f"select {written} as c from {self._probe}")
        except SqlError as error:
            if missing := unknown_column(error, self.columns):
                return self._absent(place, written, missing)
            if name:
                return self._absent(place, written, absent)
            raise ConfigError(f"{self._entity.name}: {place}: {error}", remedy=f"the columns are: {', '.join(self.columns)}") from error
        return f"({written})"

    def _absent(self, place: str, written: str, message: str) -> str:
        """An API may leave out what nobody filled, and a read without records shows no columns: null. Otherwise an error."""
        if not self._spool.untyped or (self._spool.rows and (self._entity.text or not self._entity.incremental)):
            raise SourceError(f"{self._entity.place}: {self._entity.name}.{place}: {message}")
        if self._spool.rows:
            self.lacking.append(written)
        return "cast(null as varchar)"

    # ── queries ───────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def table(self) -> str:
        """The rows with each column as text, and again under its own name as what it is."""
        seen: set[str] = set()
        typed = []
        for name, kinds in self.columns.items():
            if name.casefold() in seen:  # SQL does not tell Id from ID; a plain name in the field map does
                continue
            seen.add(name.casefold())
            kind = next(iter(kinds)) if len(kinds) == 1 else "number" if kinds == {"whole", "number"} else "text"
            typed.append(f"{f'cast({self.text(name)} as {_TYPES[kind]})' if kind in _TYPES else self.text(name)} as {quoted(name)}")
        return f"(select {', '.join(['*', *typed])} from ({self._rows()}))"

    @cached_property
    def _probe(self) -> str:
        """The same table without rows, in memory: what an expression gives is found out without opening files."""
        name = f"{self._view}probe"
        self._engine.store(name, f"select * from {self.table} limit 0")
        self._helpers.append(name)
        return quoted(name)

    def _rows(self) -> str:
        width = len(self.columns)
        columns = [quoted(f"·{index}") for index in range(width)]
        nothing = [f"cast(null as varchar) as {column}" for column in columns]
        parts = [
            f"select {', '.join([quoted(ROW), *columns[:have], *nothing[have:]])} from {quoted(f'{self._view}{number}')}"
            for number, (_, have) in enumerate(self._spool.files)
        ]
        return " union all ".join(parts) or f"select {', '.join([f'cast(null as bigint) as {quoted(ROW)}', *nothing])} where false"

    def types(self, columns: Mapping[str, str]) -> dict[str, pa.DataType]:
        """What each expression gives."""
        if not columns:
            return {}
        schema = self._engine.schema(f"select {_named(columns)} from {self._probe}")
        return {name: schema.field(name).type for name in columns}

    def stream(self, columns: Mapping[str, str], condition: str) -> Iterator[pa.RecordBatch]:
        """Columns by name in the order of the read. Raises SourceError for what an expression cannot compute."""
        try:
            rows = min(50_000, max(2_048, CELLS_PER_BATCH // len(columns)))
            yield from self._engine.stream(f"select {_named(columns)} from {self.table} where {condition}", rows)
        except (SqlError, pa.ArrowException) as error:
            raise self._cannot(error) from error

    def rows(self, select: str, condition: str, rest: str = "") -> list[dict[str, Any]]:
        """A small result: one dict a row."""
        try:
            found: list[dict[str, Any]] = self._engine.fetch(f"select {select} from {self.table} where {condition} {rest}").to_pylist()
        except SqlError as error:
            raise self._cannot(error) from error
        return found

    def helper(self, name: str, table: pa.Table) -> str:
        """A small table to look things up in; returns its name in SQL."""
        full = f"{self._view}{name}"
        self._engine.table(full, table)
        self._helpers.append(full)
        return quoted(full)

    def _cannot(self, error: Exception) -> SourceError:
        reason = str(error).split("\n")[0]
        return SourceError(
            f"{self._entity.place}: {self._entity.name}: an expression cannot be computed: {reason}",
            remedy="`try_cast(… as …)` gives null where a value does not fit",
        )


def _named(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{sql} as {quoted(name)}" for name, sql in columns.items())
