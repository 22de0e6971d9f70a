"""SQL as text: constants, the files of `connector/sql`, and which day a moment falls on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from zoneinfo import ZoneInfo

import pyarrow as pa

from connector.model import DATE, INSTANT


def text(value: str) -> str:
    """A SQL text constant."""
    return "'" + value.replace("'", "''") + "'"


def statement(name: str) -> str:
    """The SQL file `connector/sql/<name>.sql`."""
    return files("connector").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Days:
    """Which day a moment falls on."""

    timezone: ZoneInfo

    def local(self, column: str, kind: pa.DataType) -> str:
        """The local date of a column, as SQL."""
        return column if kind == DATE else f"cast(timezone({text(str(self.timezone))}, {column}) as date)"

    def instant(self, column: str) -> str:
        """Local midnight of a date column, as SQL."""
        return f"timezone({text(str(self.timezone))}, cast({column} as timestamp))"

    def same(self, column: str, kind: pa.DataType, wanted: pa.DataType) -> str:
        """A column of one kind as the other: a date becomes the instant its day begins, as SQL."""
        return self.instant(column) if kind == DATE and wanted == INSTANT else column
