"""PostgreSQL for the database sink: binary COPY into a temporary table, types, comments, privileges, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

import pyarrow as pa

from connector.api import Finding
from connector.errors import AuthError, ConfigError, ConflictError, ConnectorError, LockedError, TargetError, TransientError
from sinks.database_connection import BOOKS, Column, Connection, Standing, adbc_driver, literal, quoted

SYSTEM_COLUMNS: Final = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
#: whole-number types: digits every value of the type fits in, digits that every number of so many fits the type with
WHOLE: Final = {"smallint": (5, 4), "integer": (10, 9), "bigint": (19, 18)}
TYPES: Final = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.date32(): "date",
    pa.time64("us"): "time without time zone",
    pa.timestamp("us", "UTC"): "timestamp with time zone",
    pa.timestamp("us"): "timestamp without time zone",
    pa.string(): "text",
    pa.binary(): "bytea",
}
STANDING: Final = """
select c.relname::text, c.relkind::text in ('r', 'p'), a.attname::text, format_type(a.atttypid, a.atttypmod),
       a.attgenerated <> '' or a.attidentity <> '', col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class')
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = {schema} and c.relname in ({names}) and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """`server` is host, port and database as they stand in the URL; the password is nowhere else than in the call that connects."""

    server: str
    user: str
    password: str = field(repr=False)
    options: Mapping[str, str]
    schema: str
    lock_timeout: float
    connect_timeout: float

    longest_name = 63

    @property
    def place(self) -> str:
        return f"postgresql://{self.server}"

    # ── connecting ────────────────────────────────────────────────────────────────────────────────

    def connect(self, *, reading: bool) -> Connection:
        driver = adbc_driver("adbc_driver_postgresql", "postgres")
        given = {"connect_timeout": str(max(2, round(self.connect_timeout))), "application_name": "connector", **self.options}
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        signed = f"{quote(self.user, safe='')}{secret}@" if self.user or secret else ""
        try:
            raw = driver.connect(f"postgresql://{signed}{self.server}?{urlencode(given, quote_via=quote)}")
        except driver.Error as error:
            raise self._not_connected(str(error)) from None
        connection = Connection(raw, driver.Error, self._error)
        try:
            connection.run(f"set local lock_timeout = {round(self.lock_timeout * 1000)}")
            connection.run("set local idle_in_transaction_session_timeout = 0")
        except ConnectorError:
            connection.close()
            raise
        return connection

    def _not_connected(self, message: str) -> ConnectorError:
        reason = self._clean(message.partition("failed: ")[2] or message.partition("connect: ")[2] or message)
        if re.search(r"starting up|shutting down|recovery mode|too many|reserved for", reason):
            return TransientError(f"{self.place}: {reason}", remedy="run again")
        if re.search(r"database .* does not exist", reason):
            return ConfigError(f"{self.place}: {reason}", remedy="correct the database's name in `url:`")
        if re.search(r"invalid .*option|unexpected|sslmode|certificate|SSL", reason) and "pg_hba" not in reason:
            return ConfigError(f"{self.place}: {reason}", remedy="correct `url:` and the options after its question mark")
        if "FATAL" in reason or "no password supplied" in reason:
            return AuthError(f"{self.place}: {reason}", remedy="correct user and password, or let the server's pg_hba.conf admit them")
        return TransientError(f"{self.place}: cannot be reached: {reason}", remedy="run again; or correct host and port in `url:`")

    def _clean(self, text: str) -> str:
        """The first line, without the password."""
        line = next(iter(text.strip().splitlines()), "").strip()
        return line.replace(self.password, "***")[:300] if self.password else line[:300]

    def _error(self, error: Exception) -> ConnectorError:
        """By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html"""
        state = str(getattr(error, "sqlstate", None) or "")
        details = {key: bytes(value).decode("utf-8", "replace") for key, value in getattr(error, "details", None) or ()}
        reason = self._clean(details.get("PG_DIAG_MESSAGE_PRIMARY") or str(error))
        hint = details.get("PG_DIAG_MESSAGE_DETAIL", "")
        said = f"{self.place}: {reason}{f' ({self._clean(hint)})' if hint else ''}"
        if state == "42501":
            return AuthError(said, remedy=f"the user needs: {self._grants()}")
        if state.startswith("28"):
            return AuthError(said, remedy="correct user and password")
        if state == "55P03":
            return LockedError(
                said, remedy="somebody works on the table or another run publishes there; run again, or raise `lock_timeout`"
            )
        if state in ("40001", "40P01") or (state == "23505" and "pg_" in reason):
            return ConflictError(f"{said}: another run was at it", remedy="run again")
        if not state or state[:2] in ("08", "57") or state in ("53200", "53300"):
            return TransientError(said, remedy="run again")
        if state == "53100":
            return TargetError(said, remedy="free space on the database server")
        if state in ("2BP01", "0A000"):
            return TargetError(said, remedy="drop the view or rule that uses the column, run, and make it again")
        if state == "25006":
            return TargetError(said, remedy="name the primary server in `url:`; this one takes no writes")
        if state == "23503":
            return TargetError(said, remedy="another table refers to these rows: deliver them with `mode: upsert`, which keeps them")
        if state.startswith("23"):
            return TargetError(said, remedy="a constraint that somebody put on the table refuses the rows; drop it, or correct the rows")
        return TargetError(said, remedy="nothing was changed; correct the table in the database or choose another `name:`")

    def _grants(self) -> str:
        who, database = quoted(self.user or "USER"), self.server.rpartition("/")[2] or "DATABASE"
        return f"grant connect, temporary on database {quoted(database)} to {who}; create schema {quoted(self.schema)} authorization {who}"

    # ── names and types ───────────────────────────────────────────────────────────────────────────

    def same_name(self, name: str) -> str:
        return name

    def refused_name(self, name: str, *, column: bool) -> str | None:
        return "is kept by PostgreSQL for itself" if column and name in SYSTEM_COLUMNS else None

    def table(self, name: str) -> str:
        return f"{quoted(self.schema)}.{quoted(name)}"

    def type(self, kind: pa.DataType) -> str:
        return f"numeric({kind.precision},{kind.scale})" if pa.types.is_decimal(kind) else TYPES[kind]

    def fit(self, column: pa.Array) -> pa.Array:
        return column

    def widened(self, old: str, new: str) -> str | None:
        if old == new or (new == "text" and old.startswith("character varying")) or (old == "numeric" and _digits(new)):
            return old
        if old in ("real", "double precision") and new in ("real", "double precision"):
            return "double precision"
        if {old, new} <= {"smallint", "integer", "double precision"} and "double precision" in (old, new):
            return "double precision"
        if old in WHOLE and new in WHOLE:
            return max(old, new, key=lambda kind: WHOLE[kind])
        has, needs = _digits(old), _digits(new)
        if has is None or needs is None:
            return None
        fits = WHOLE[old][1] if old in WHOLE else has[0]
        if needs[0] <= fits and needs[1] <= has[1]:
            return old
        scale = max(has[1], needs[1])
        return f"numeric({max(has[0], needs[0]) + scale},{scale})"

    def temporary(self, name: str, columns: str) -> str:
        return f"create temporary table {quoted(name)} ({columns}) on commit drop"

    # ── what is there ─────────────────────────────────────────────────────────────────────────────

    def standing(self, connection: Connection, names: Sequence[str]) -> dict[str, Standing]:
        found: dict[str, Standing] = {}
        listed = ", ".join(literal(name) for name in names)
        for name, plain, column, kind, filled, comment, of_table in connection.rows(
            STANDING.format(schema=literal(self.schema), names=listed)
        ):
            table = found.setdefault(name, Standing(plain, (), of_table))
            columns = (*table.columns, Column(column, kind, filled, comment)) if column else ()
            found[name] = Standing(plain, columns, of_table)
        return found

    def count(self, connection: Connection, name: str) -> tuple[int, str | None]:
        """Every row knows the transaction that wrote it: their sum changes with any change, and reading it takes no decoding of values."""
        sql = f"select count(*), coalesce(sum(xmin::text::bigint), 0)::text from {self.table(name)}"
        ((rows, stamp),) = connection.rows(sql)
        return rows, stamp

    def prepare(self, connection: Connection, books: str) -> None:
        if not connection.rows(f"select 1 from pg_catalog.pg_namespace where nspname = {literal(self.schema)}"):
            connection.run(f"create schema if not exists {quoted(self.schema)}")
        if BOOKS not in self.standing(connection, [BOOKS]):
            connection.run(f"create table if not exists {self.table(BOOKS)} ({books})")
        connection.run(f"lock table {self.table(BOOKS)} in share row exclusive mode")

    def comments(self, name: str, table: str | None, columns: Mapping[str, str]) -> Iterator[str]:
        if table is not None:
            yield f"comment on table {self.table(name)} is {literal(table)}"
        for column, text in columns.items():
            yield f"comment on column {self.table(name)}.{quoted(column)} is {literal(text)}"

    # ── check ─────────────────────────────────────────────────────────────────────────────────────

    def check(self, connection: Connection, names: Sequence[str]) -> Iterator[Finding]:
        ((version, standby),) = connection.rows("select current_setting('server_version'), pg_is_in_recovery()")
        yield _finding(
            self.place,
            f"PostgreSQL {version}",
            [("it is a standby and takes no writes", 5)] if standby else [],
            "name the primary server in `url:`",
        )
        schema = literal(self.schema)
        ((there, may_make, may_stage),) = connection.rows(
            f"select exists (select 1 from pg_catalog.pg_namespace where nspname = {schema}), "
            "has_database_privilege(current_database(), 'create'), has_database_privilege(current_database(), 'temporary')"
        )
        faults = [] if may_stage else [("temporary tables may not be made", 3)]
        if there:
            ((usage, create),) = connection.rows(
                f"select has_schema_privilege({schema}, 'usage'), has_schema_privilege({schema}, 'create')"
            )
            faults += [] if usage and create else [("tables may not be made in it", 3)]
        elif not may_make:
            faults.append(("it is not there and may not be made", 3))
        yield _finding(f"schema {self.schema}", "is there" if there else "will be made", faults, f"the user needs: {self._grants()}")
        if there:
            yield from self._check_tables(connection, [BOOKS, *names])

    def _check_tables(self, connection: Connection, names: Sequence[str]) -> Iterator[Finding]:
        for name in self.standing(connection, names):
            needed = ", ".join(f"has_table_privilege(c.oid, '{right}')" for right in ("select", "insert", "update", "delete"))
            ((*rights, owner),) = connection.rows(
                f"select {needed}, pg_has_role(c.relowner, 'usage') from pg_catalog.pg_class c "
                f"join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = {literal(self.schema)} and c.relname = {literal(name)}"
            )
            faults = [] if all(rights) else [("its rows may not be read and written", 3)]
            if all(rights) and not owner:
                faults.append(("it belongs to another user: columns and comments could not change", 3))
            yield _finding(
                f"table {name}", "may be written", faults, f"alter table {self.table(name)} owner to {quoted(self.user or 'USER')}"
            )


def _finding(what: str, detail: str, faults: Sequence[tuple[str, int]], remedy: str) -> Finding:
    if not faults:
        return Finding(what, ok=True, detail=detail)
    return Finding(what, ok=False, detail="; ".join(text for text, _ in faults), remedy=remedy, exit_code=faults[0][1])


def _digits(kind: str) -> tuple[int, int] | None:
    """Digits before and after the point that values of the type have."""
    if kind in WHOLE:
        return WHOLE[kind][0], 0
    match = re.fullmatch(r"numeric\((\d+),(\d+)\)", kind)
    return (int(match[1]) - int(match[2]), int(match[2])) if match else None
