"""Tables of a database: PostgreSQL, SQLite, and by the same code whatever has an ADBC driver.

    - {type: database, url: "postgresql://connector:${PASSWORD}@db.example.com/sales", schema: pipeline,
       tables: [{from: deals, mode: upsert}, {from: kpis}]}

All tables of a run change in one transaction: readers see the old tables or the new ones, nobody waits, and a run that is killed leaves
nothing behind. Views and permissions on the tables stay. Unchanged tables are not written. See docs/sinks/database.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode

import pyarrow as pa
from pydantic import Field, SecretStr, ValidationInfo, model_validator

from connector.api import Finding, Output, PluginConfig, Receipt, Run, TableSpec
from connector.errors import ConflictError, ConnectorError, TargetError, nearest
from connector.http import Session
from sinks.database_connection import BOOKS, Connection, Dialect, Standing, quoted
from sinks.database_plan import (
    BOOKS_COLUMNS,
    Entry,
    Merge,
    Reshaping,
    columns_of,
    creation,
    entry_columns,
    merge,
    new_meanings,
    read_entries,
    refuse_strangers,
    reshaping,
    write_entry,
)
from sinks.database_postgresql import PostgreSQL
from sinks.database_sqlite import SQLite
from sinks.database_tables import Mode, Sent, Wanted, batches, sent_schema, wanted

URL: Final = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?:(?P<user>[^:@/]*)(?::(?P<password>.*))?@)?(?P<server>[^@?]*)(?:\?(?P<options>[^@]*))?", re.DOTALL
)
SQLITE: Final = "sqlite:///"
SCHEMA: Final = "pipeline"


class DatabaseTable(TableSpec):
    """A table of the flow and the table it becomes."""

    name: str | None = Field(None, min_length=1, description="Name of the table in the database; the flow's unless given.")
    mode: Mode | None = Field(None, description="replace, upsert or append; the sink's unless given.")

    @model_validator(mode="after")
    def _named(self) -> DatabaseTable:
        if self.sql is not None and self.name is None:
            raise ValueError("a table made by `sql` needs a `name` in the database")
        return self


class DatabaseSinkConfig(PluginConfig):
    """A database and the schema in it that is ours."""

    placed: ClassVar[tuple[str, ...]] = ("type", "url", "schema_")
    type: Literal["database"] = "database"
    url: str = Field(description="postgresql://user:${PASSWORD}@host:5432/database?sslmode=require, or sqlite:///file.db.")
    password: SecretStr = Field(
        SecretStr(""), description="The password, if it does not stand in `url`; here it needs no percent-encoding."
    )
    schema_: str | None = Field(
        None, alias="schema", min_length=1, description="Schema the tables are in, made when it is missing: pipeline. SQLite has none."
    )
    mode: Mode = Field("replace", description="replace: every row; upsert: rows by their key; append: rows are added.")
    schema_changes: Literal["evolve", "freeze"] = Field(
        "evolve", description="evolve: new columns come and types grow; freeze: neither. A column that vanishes always stops the run."
    )
    connect_timeout: float = Field(30, gt=0, description="Seconds to wait for the server to answer.")
    lock_timeout: float = Field(60, ge=0, description="Seconds to wait while somebody else holds a table.")
    tables: tuple[DatabaseTable, ...] | None = Field(
        None, min_length=1, description="Tables to deliver; omitted: every table that has rows."
    )

    @model_validator(mode="before")
    @classmethod
    def _password_apart(cls, given: Any, info: ValidationInfo) -> Any:
        """Take the password out of the URL, so that the URL may be shown; make a file's path absolute."""
        if not isinstance(given, Mapping) or not isinstance(given.get("url"), str):
            return given
        url = given["url"].strip()
        if url.startswith(SQLITE):
            return {**given, "url": f"{SQLITE}{Path((info.context or {}).get('folder') or '', url.removeprefix(SQLITE))}"}
        match = URL.fullmatch(url)
        if match is None:
            raise ValueError("url: is no address of a database; write postgresql://user:${PASSWORD}@host/database or sqlite:///file.db")
        options = dict(parse_qsl(match["options"] or "", keep_blank_values=True))
        password = options.pop("password", None) or unquote(match["password"] or "")
        if "sslpassword" in options:
            raise ValueError("url: sslpassword is not taken; use a key without a passphrase")
        signed = f"{match['user']}@" if match["user"] else ""
        query = f"?{urlencode(options)}" if options else ""
        plain = f"{match['scheme']}://{signed}{match['server']}{query}"
        return {**given, "url": plain, **({"password": password} if password else {})}

    @model_validator(mode="after")
    def _fits(self) -> DatabaseSinkConfig:
        scheme = self.url.partition("://")[0]
        if scheme not in DIALECTS:
            raise ValueError(f"url: no database {scheme!r}; {nearest(scheme, DIALECTS)}")
        if scheme == "sqlite" and self.schema_:
            raise ValueError("schema: SQLite has no schemas; leave it out")
        if scheme == "sqlite" and self.url in ("sqlite:", "sqlite://", SQLITE, f"{SQLITE}."):
            raise ValueError("url: names no file; write sqlite:///file.db")
        if self.schema_ and (self.schema_.startswith("pg_") or self.schema_ == "information_schema" or len(self.schema_.encode()) > 63):
            raise ValueError(f"schema: {self.schema_!r} cannot be a schema of yours; choose another name of at most 63 bytes")
        dialect = self.dialect()
        names = [dialect.same_name(spec.name or spec.source or "") for spec in self.tables or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tables go to the table {twice!r}; name them apart with `name:`")
        return self

    def dialect(self) -> Dialect:
        return DIALECTS[self.url.partition("://")[0]](self)


def _postgresql(config: DatabaseSinkConfig) -> PostgreSQL:
    match = URL.fullmatch(config.url)
    assert match is not None
    return PostgreSQL(
        server=match["server"],
        user=unquote(match["user"] or ""),
        password=config.password.get_secret_value(),
        options=dict(parse_qsl(match["options"] or "", keep_blank_values=True)),
        schema=config.schema_ or SCHEMA,
        lock_timeout=config.lock_timeout,
        connect_timeout=config.connect_timeout,
    )


def _sqlite(config: DatabaseSinkConfig) -> SQLite:
    return SQLite(Path(config.url.removeprefix(SQLITE)), config.lock_timeout)


#: what a URL may begin with
DIALECTS: Final[Mapping[str, Callable[[DatabaseSinkConfig], Dialect]]] = {
    "postgresql": _postgresql,
    "postgres": _postgresql,
    "sqlite": _sqlite,
}


@dataclass(slots=True)
class Job:
    """One table on its way: what is wanted, what stands there, and, once its rows have gone by, what has to be done."""

    wanted: Wanted
    standing: Standing | None
    entry: Entry | None
    sent: Sent = field(default_factory=Sent)
    staged: str = ""
    shape: Reshaping | None = None
    merge: Merge | None = None
    comments: tuple[str, ...] = ()
    to_do: bool = True

    @property
    def name(self) -> str:
        return self.wanted.name


class DatabaseSink:
    """Loads every table that changed beside the old ones, then brings all of them up to date in the same transaction."""

    Config: ClassVar[type[PluginConfig]] = DatabaseSinkConfig
    takes_empty: ClassVar[bool] = True  # a table that has lost its rows must lose them in the database too

    def __init__(self, config: DatabaseSinkConfig, session: Session, dialect: Dialect | None = None) -> None:
        self._config = config
        self._dialect = dialect or config.dialect()

    @property
    def target(self) -> str:
        return f"{self._dialect.place}, schema {self._dialect.schema}" if self._dialect.schema else self._dialect.place

    # ── check ─────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        names = [name for spec in self._config.tables or () if (name := spec.name or spec.source)]
        try:
            with self._connected(reading=True) as connection:
                findings = list(self._dialect.check(connection, names))
                yield from findings
                if not all(finding.ok for finding in findings):
                    return
                standing, entries = self._found(connection, names)
                for spec in self._config.tables or ():
                    yield from self._check_table(spec, standing, entries)
        except ConnectorError as error:
            yield Finding(self.target, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)

    def _check_table(self, spec: DatabaseTable, standing: Mapping[str, Standing], entries: Mapping[str, Entry]) -> Iterator[Finding]:
        """Whether the table is ours and keeps the columns it has, as far as the configuration tells."""
        name = spec.name or spec.source or ""
        entry, there = entries.get(name), standing.get(name)
        if there is not None and (entry is None or not there.plain):
            yield Finding(
                f"table {name}",
                ok=False,
                detail="is there and was not made by connector",
                remedy="choose another `name:` or `schema:`, or rename what is there",
                exit_code=5,
            )
        elif there is not None and entry is not None and spec.columns is not None:
            headings = list(spec.columns.values() if isinstance(spec.columns, Mapping) else spec.columns)
            left = [column.name for column in there.columns if column.name in entry.columns and column.name not in headings]
            if left:
                detail = f"has the column {left[0]!r}, which `columns` no longer names"
                yield Finding(f"table {name}", ok=False, detail=detail, remedy="name it again, or drop it in the database", exit_code=5)

    # ── write ─────────────────────────────────────────────────────────────────────────────────────

    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt:
        """Raises ConfigError, AuthError, TargetError or TransientError; every table is then as it was."""
        with self._connected(reading=run.dry_run) as connection:
            jobs = self._jobs(tables, run, connection)
            before = _version([job for job in jobs if job.standing])
            receipt = Receipt(
                self.target,
                "unchanged",
                {key: output.rows for key, output in tables.items()},
                "every table already holds its rows",
                version_before=before,
                version_after=before,
                parts_untouched=len(jobs),
            )
            if self._known_to_stand(jobs, before, run):
                return receipt
            for index, job in enumerate(jobs):
                self._look(job, index, connection, run)
            changed = [job for job in jobs if job.to_do]
            receipt = replace(receipt, parts_changed=tuple(job.name for job in changed), parts_untouched=len(jobs) - len(changed))
            if run.dry_run or not changed:
                return replace(receipt, outcome="would write", why="dry run") if changed else receipt
            self._prepare(changed, connection)
            for job in changed:
                self._apply(job, connection, run)
            after = _version(jobs)
            connection.commit()
        return replace(receipt, outcome="written", why="", bytes=sum(job.sent.bytes for job in changed), version_after=after)

    @contextmanager
    def _connected(self, *, reading: bool) -> Iterator[Connection]:
        connection = self._dialect.connect(reading=reading)
        try:
            yield connection
        finally:
            connection.close()

    def _jobs(self, tables: Mapping[str, Output], run: Run, connection: Connection) -> list[Job]:
        """What is wanted beside what stands there. Refuses what is not ours, and names and types that cannot be had."""
        named: dict[str, Output] = {}
        for output in tables.values():
            given = output.spec.name if isinstance(output.spec, DatabaseTable) else None
            named[given or output.name] = output
        standing, entries = self._found(connection, list(named), stamps=True)
        jobs = []
        for name, output in named.items():
            if output.spec is None and not output.rows and name not in standing:
                continue  # nobody asked for it, and it has never had rows
            mode = (output.spec.mode if isinstance(output.spec, DatabaseTable) else None) or self._config.mode
            if output.spec is None and mode == "upsert" and not output.key:
                mode = "replace"
            table = wanted(output, name, mode, run.flow, self._dialect)
            refuse_strangers(table, standing.get(name), entries.get(name), run.flow, self._dialect.place)
            jobs.append(Job(table, standing.get(name), entries.get(name)))
        return jobs

    def _found(self, connection: Connection, names: Sequence[str], *, stamps: bool = False) -> tuple[dict[str, Standing], dict[str, Entry]]:
        """Tables that stand in the database, and what our books say of them."""
        found = self._dialect.standing(connection, [BOOKS, *names])
        if found.pop(BOOKS, None) is None:
            return found, {}
        rows = connection.rows(read_entries(self._dialect.table(BOOKS), names)) if names else []
        entries = {str(name): Entry.read(row) for name, *row in rows}
        if stamps:
            for name in entries.keys() & {name for name, table in found.items() if table.plain}:
                _, stamp = self._dialect.count(connection, name)
                found[name] = replace(found[name], stamp=stamp)
        return found, entries

    def _known_to_stand(self, jobs: Sequence[Job], version: str | None, run: Run) -> bool:
        """The flow has nothing new, and every table stands as we left it."""
        return bool(
            run.previous and not run.fresh and version is not None and version == run.previous.version_after and all(map(_stands, jobs))
        )

    # ── one table ─────────────────────────────────────────────────────────────────────────────────

    def _look(self, job: Job, index: int, connection: Connection, run: Run) -> None:
        """Decide what has to be done: by the fingerprint where that is enough, else by comparing with the rows that are there."""
        table, entry, standing = job.wanted, job.entry, job.standing
        if entry is not None and (entry.run_id == run.run_id or (standing is not None and self._same_by_hash(job))):
            job.to_do = False
            return
        if standing is not None or table.key:
            job.staged = f"{BOOKS}_{index}"
            connection.run(self._dialect.temporary(job.staged, columns_of(table, key=False)))
            self._load(job, job.staged, connection, run, temporary=True)
        if standing is not None and entry is not None:
            job.shape = reshaping(
                table,
                standing,
                entry,
                job.sent.valued,
                self._config.schema_changes,
                self._dialect,
                lambda name: bool(
                    connection.rows(f"select 1 from {self._dialect.table(table.name)} where {quoted(name)} is not null limit 1")
                ),
            )
        job.merge = merge(table, standing, job.shape, job.sent.valued, job.staged, self._dialect)
        if table.key and (found := connection.rows(job.merge.bad_key())):
            example = ", ".join(f"{name} {value!r}" for name, value in zip(table.key, found[0], strict=True))
            raise TargetError(f"{table.name}: rows have no key of their own: {example}", remedy="choose a `key:` that every row has once")
        job.comments = tuple(self._dialect.comments(table.name, *new_meanings(table, standing, entry, job.shape)))
        job.to_do = standing is None or bool(job.shape or job.comments) or self._differs(job, connection)

    def _same_by_hash(self, job: Job) -> bool:
        """The rows are those we wrote, and nobody has written since. An append is of this run's rows, whatever became of the table."""
        entry, table = job.entry, job.wanted
        assert entry is not None
        if entry.columns != entry_columns(table) or (table.mode != "append" and (entry.rows != table.output.rows or not _stands(job))):
            return False
        sent = Sent()
        for _ in batches(table, self._dialect, sent):
            pass
        return sent.hash == entry.hash

    def _differs(self, job: Job, connection: Connection) -> bool:
        assert job.merge is not None
        if job.wanted.mode != "append" and self._dialect.count(connection, job.name)[0] != job.sent.rows:
            return True
        return bool(connection.rows(job.merge.differs()))

    def _load(self, job: Job, into: str, connection: Connection, run: Run, *, temporary: bool) -> None:
        table = job.wanted
        rows = batches(table, self._dialect, job.sent, lambda done: run.progress(table.name, done, table.output.rows))
        reader = pa.RecordBatchReader.from_batches(sent_schema(table, self._dialect), rows)
        connection.load(into, reader, self._dialect.schema, temporary=temporary)

    def _prepare(self, jobs: Sequence[Job], connection: Connection) -> None:
        """From here on no other run writes; what stands there must still be what was looked at."""
        self._dialect.prepare(connection, BOOKS_COLUMNS.format(instant=self._dialect.type(pa.timestamp("us", "UTC"))))
        standing, entries = self._found(connection, [job.name for job in jobs], stamps=True)
        for job in jobs:
            if (standing.get(job.name), entries.get(job.name)) != (job.standing, job.entry):
                raise ConflictError(f"{self.target}: table {job.name!r} was changed while its rows were loaded", remedy="run again")

    def _apply(self, job: Job, connection: Connection, run: Run) -> None:
        table = job.wanted
        assert job.merge is not None
        if job.standing is None:
            connection.run(creation(table, self._dialect))
        for statement in job.shape.statements(job.merge.table) if job.shape else ():
            connection.run(statement)
        if job.staged:
            for statement in job.merge.statements():
                connection.run(statement)
        else:  # nobody sees a new table before the transaction ends
            self._load(job, table.name, connection, run, temporary=False)
        for statement in job.comments:
            connection.run(statement)
        rows, stamp = self._dialect.count(connection, table.name)
        if table.mode != "append" and rows != job.sent.rows:
            raise TargetError(
                f"{self.target}: table {table.name!r} would hold {rows} rows instead of {job.sent.rows}",
                remedy="a trigger, a rule or a policy that somebody put on the table changes what is written; take it away",
            )
        job.entry = Entry(run.flow, run.run_id, rows, job.sent.hash, stamp, table.meaning, entry_columns(table))
        connection.run(write_entry(self._dialect.table(BOOKS), table.name, job.entry, run.at.astimezone(UTC).isoformat()))


def _stands(job: Job) -> bool:
    """Nobody has changed the table's rows since we wrote them; False where the database cannot tell."""
    return job.standing is not None and job.entry is not None and job.entry.stamp is not None and job.standing.stamp == job.entry.stamp


def _version(jobs: Sequence[Job]) -> str | None:
    marks = sorted(f"{job.name} {job.entry.hash} {job.entry.stamp}\n" for job in jobs if job.entry)
    return hashlib.sha256("".join(marks).encode()).hexdigest()[:32] if marks else None
