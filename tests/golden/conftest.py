"""Companies small enough to work out by hand, measured the way a run measures them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.assemble import Assembled, assemble
from connector.config import ModelConfig
from connector.engine import DuckDB
from connector.metrics import Tables, compute
from connector.model import DATE, ENTITIES, INSTANT, MONEY, RATE
from sinks.excel.pages import CODED
from sinks.excel.standard import words


def entity(table, rows):
    """Rows as a source's snapshot has them: only the columns somebody filled, days as dates, moments as instants."""
    used = {name for row in rows for name in row} or set(ENTITIES[table].names)
    unknown = used - set(ENTITIES[table].names)
    assert not unknown, f"{table} has no {unknown}"
    fields, columns = [], []
    for column in ENTITIES[table]:
        if column.name in used:
            values = [row.get(column.name) for row in rows]
            kind = column.type
            if kind == INSTANT and not any(isinstance(value, datetime) for value in values):
                kind = DATE
            if kind in (MONEY, RATE):
                values = [None if value is None else Decimal(str(value)) for value in values]
            fields.append(pa.field(column.name, kind))
            columns.append(pa.array(values, type=kind))
    return pa.table(columns, schema=pa.schema(fields))


@dataclass(frozen=True)
class Measured:
    engine: DuckDB
    folder: Path
    assembled: Assembled
    tables: Tables

    def rows(self, table, columns="*", where="true"):
        """Rows of a table. Whatever code is in them, the standard workbook must have a word for it."""
        found = self.engine.fetch(f"select {columns} from {table} where {where}").to_pylist()
        for column in set(CODED.get(table, ())) - {"forecast_category"}:  # beside our code it holds the CRM's own words
            assert {row[column] for row in found if row.get(column) is not None} <= words("en")["codes"][column].keys()
        return found

    def row(self, table, where="true", columns="*"):
        [row] = self.rows(table, columns, where)
        return row

    def kpi(self, metric, period="all"):
        return self.row("kpis", f"metric = '{metric}' and period = '{period}'")

    def value(self, metric, period="all"):
        return self.kpi(metric, period)["value"]

    def findings(self):
        return {row["code"]: row["rows"] for row in self.rows("data_quality")}

    def remember(self):
        """The Parquet file a flow keeps for the next run."""
        file = self.folder / "deal_memory.parquet"
        pq.write_table(self.engine.fetch("select * from deal_memory"), file)
        return file


@pytest.fixture(scope="session")
def measure(tmp_path_factory):
    """measure(deals=[…], leads=[…], …) → everything computed. `sources=` gives several sources instead."""
    numbers = count()

    def run(*, at=date(2026, 6, 15), model=None, timezone="UTC", memories=(), earlier=None, locale="en", sources=None, **tables):
        folder = tmp_path_factory.mktemp(f"company{next(numbers)}-")
        files = {}
        for source, given in (sources or {"crm": tables}).items():
            for table, rows in given.items():
                file = folder / f"{source}-{table}.parquet"
                pq.write_table(entity(table, rows), file)
                files.setdefault(table, {})[source] = [file]
        before = {}
        for moment, deals in (earlier or {}).items():
            file = folder / f"earlier-{moment:%Y%m%d%H%M}.parquet"
            pq.write_table(entity("deals", deals), file)
            before[moment] = {"crm": [file]}
        engine = DuckDB(folders=[folder, *(path.parent for path in memories)], threads=1)
        zone = ZoneInfo(timezone)
        moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day, 12, tzinfo=UTC)
        settings = ModelConfig.model_validate(model or {})
        assembled = assemble(engine, files, settings, at=moment, timezone=zone, earlier=before)
        return Measured(
            engine, folder, assembled, compute(engine, assembled, settings, memories=[[path] for path in memories], locale=locale)
        )

    return run
