"""SQLite for the database sink: a file, in one transaction. It has no schemas, no comments, and no decimals of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import W_OK, access
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from connector.api import Finding
from connector.errors import ConnectorError, LockedError, TargetError
from sinks.database_connection import Column, Connection, Standing, adbc_driver, literal, quoted

STANDING: Final = """
select m.name, m.type = 'table', x.name, lower(x.type), x.hidden in (2, 3)
from sqlite_master m join pragma_table_xinfo(m.name) x
where m.type in ('table', 'view') and lower(m.name) in ({names}) order by m.name, x.cid
"""


@dataclass(frozen=True, slots=True)
class SQLite:
    """Days and instants are text in ISO 8601; money is a number of SQLite's, which keeps 15 digits: more of them are refused."""

    file: Path
    lock_timeout: float

    longest_name = 255
    schema = None

    @property
    def place(self) -> str:
        return f"sqlite://{self.file}"

    def connect(self, *, reading: bool) -> Connection:
        driver = adbc_driver("adbc_driver_sqlite", "sqlite")
        if not reading or self.file.is_file():
            uri = f"file:{quote(str(self.file.absolute()))}?mode={'ro' if reading else 'rwc'}"
        else:
            uri = ":memory:"  # there is nothing to read
        try:
            raw = driver.connect(uri)
        except driver.Error as error:
            raise self._no_file(str(error)) from None
        connection = Connection(raw, driver.Error, self._error)
        try:
            connection.rows(f"pragma busy_timeout = {round(self.lock_timeout * 1000)}")
            connection.rows("select 1 from sqlite_master limit 1")
        except ConnectorError:
            connection.close()
            raise
        return connection

    def _no_file(self, reason: str) -> ConnectorError:
        if not self.file.parent.is_dir():
            return TargetError(f"{self.place}: there is no folder {self.file.parent}", remedy="make it, or correct `url:`")
        return TargetError(f"{self.place}: cannot be opened", remedy="let this user read and write the file and its folder")

    def _error(self, error: Exception) -> ConnectorError:
        reason = str(error).splitlines()[0].partition(": ")[2][:300] or str(error)[:300]
        if "locked" in reason or "busy" in reason:
            return LockedError(f"{self.place}: {reason}", remedy="somebody is writing to it; run again, or raise `lock_timeout`")
        if "not a database" in reason:
            return TargetError(f"{self.place}: is no SQLite database", remedy="correct `url:`")
        if "readonly" in reason or "unable to open" in reason:
            return TargetError(f"{self.place}: {reason}", remedy="let this user read and write the file and its folder")
        if "full" in reason or "disk I/O" in reason:
            return TargetError(f"{self.place}: {reason}", remedy="free space on the disk")
        if "constraint" in reason:
            return TargetError(
                f"{self.place}: {reason}",
                remedy="a constraint that somebody put on the table refuses the rows; drop it, or correct the rows",
            )
        return TargetError(
            f"{self.place}: {reason}", remedy="nothing was changed; correct the table in the database or choose another `name:`"
        )

    # ── names and types ───────────────────────────────────────────────────────────────────────────

    def same_name(self, name: str) -> str:
        return "".join(sign.lower() if sign.isascii() else sign for sign in name)

    def refused_name(self, name: str, *, column: bool) -> str | None:
        if column:
            return None
        return "is kept by SQLite for itself" if self.same_name(name).startswith("sqlite_") else None

    def table(self, name: str) -> str:
        return f"main.{quoted(name)}"

    def type(self, kind: pa.DataType) -> str:
        if pa.types.is_decimal(kind):
            return "numeric"
        if pa.types.is_integer(kind):
            return "integer"
        if pa.types.is_floating(kind):
            return "real"
        if pa.types.is_timestamp(kind):
            return "timestamptz" if kind.tz else "timestamp"
        named = {pa.bool_(): "boolean", pa.date32(): "date", pa.time64("us"): "time", pa.binary(): "blob"}
        return named.get(kind, "text")

    def fit(self, column: pa.Array) -> pa.Array:
        kind = column.type
        if pa.types.is_decimal(kind):
            numbers = column.cast(pa.string()).cast(pa.float64())  # the direct cast is off by a digit: 1234.56 → 1234.5600000000002
            if not pc.all(pc.equal(numbers.cast(kind), column)).as_py() and column.null_count < len(column):
                raise pa.ArrowInvalid("more digits than a number of SQLite's keeps")
            return numbers
        if pa.types.is_boolean(kind):
            return column.cast(pa.int64())
        if pa.types.is_timestamp(kind):
            return pc.strftime(column, "%Y-%m-%d %H:%M:%S" + ("Z" if kind.tz else ""))
        return column.cast(pa.string()) if pa.types.is_temporal(kind) else column

    def widened(self, old: str, new: str) -> str | None:
        """Columns cannot be given another type here."""
        return old if old == new or (old, new) in (("numeric", "integer"), ("numeric", "real")) else None

    def temporary(self, name: str, columns: str) -> str:
        return f"create temporary table {quoted(name)} ({columns})"

    # ── what is there ─────────────────────────────────────────────────────────────────────────────

    def standing(self, connection: Connection, names: Sequence[str]) -> dict[str, Standing]:
        wanted = {self.same_name(name): name for name in names}
        found: dict[str, Standing] = {}
        for name, plain, column, kind, filled in connection.rows(STANDING.format(names=", ".join(map(literal, wanted)))):
            given = wanted[self.same_name(name)]
            columns = found[given].columns if given in found else ()
            found[given] = Standing(bool(plain), (*columns, Column(column, kind, bool(filled))))
        return found

    def count(self, connection: Connection, name: str) -> tuple[int, str | None]:
        """SQLite does not tell who wrote a row: every run compares."""
        ((rows,),) = connection.rows(f"select count(*) from {self.table(name)}")
        return rows, None

    def prepare(self, connection: Connection, books: str) -> None:
        connection.run(f"create table if not exists {self.table('_connector')} ({books})")

    def comments(self, name: str, table: str | None, columns: Mapping[str, str]) -> Iterator[str]:
        yield from ()  # SQLite has none; our books have them

    # ── check ─────────────────────────────────────────────────────────────────────────────────────

    def check(self, connection: Connection, names: Sequence[str]) -> Iterator[Finding]:
        ((version,),) = connection.rows("select sqlite_version()")
        folder = self.file.parent
        if self.file.is_dir():
            yield Finding(self.place, ok=False, detail="is a folder", remedy="name a file in `url:`", exit_code=5)
        elif not folder.is_dir():
            yield Finding(self.place, ok=False, detail=f"there is no folder {folder}", remedy="make it, or correct `url:`", exit_code=5)
        elif not access(self.file if self.file.exists() else folder, W_OK) or not access(folder, W_OK):
            yield Finding(
                self.place,
                ok=False,
                detail="may not be written",
                remedy="let this user read and write the file and its folder",
                exit_code=5,
            )
        else:
            yield Finding(self.place, ok=True, detail=f"SQLite {version}, {'is there' if self.file.exists() else 'will be made'}")
