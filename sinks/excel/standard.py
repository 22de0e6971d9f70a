"""The standard workbook: what goes on which sheet when no tables are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from connector.api import Output, Run
from sinks.excel.refresh import TableJob

FIRST: Final = ("kpis",)


def standard(tables: Mapping[str, Output], run: Run) -> list[TableJob]:
    """One sheet for each table, the headline figures first, and About at the end. Tables without rows get a sheet once they have some."""
    ordered = sorted(tables.items(), key=lambda item: FIRST.index(item[0]) if item[0] in FIRST else len(FIRST))
    jobs = [
        TableJob(output, table=table_name(name), title=output.title or sheet_name(name), key=output.key, optional=True)
        for name, output in ordered
    ]
    return [*jobs, TableJob(about(tables, run), table="About", title="About", volatile=True)]


def about(tables: Mapping[str, Output], run: Run) -> Output:
    """When the data was taken, by which run, and how many rows each table has."""
    facts = [
        ("Flow", run.flow),
        ("Run", run.run_id),
        ("Data as of", run.at.astimezone(run.timezone).strftime("%Y-%m-%d %H:%M %Z")),
        *((f"Rows in {output.title or sheet_name(name)}", f"{output.rows:,}") for name, output in tables.items()),
    ]
    return text_table("about", ("Item", "Value"), facts)


def text_table(name: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Output:
    """A small table of texts, made on the spot."""
    schema = pa.schema([pa.field(heading, pa.string(), metadata={"unit": "text"}) for heading in headings])
    columns = [pa.array([row[at] for row in rows], pa.string()) for at in range(len(headings))]
    table = pa.table(columns, schema=schema)
    return Output(name, schema, table.num_rows, table.to_reader, key=tuple(headings[:1]))


def sheet_name(name: str) -> str:
    """by_stage → By stage."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def table_name(name: str) -> str:
    """by_stage → ByStage, as people write table names."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
