"""The standard workbook: what goes on which sheet when no tables are named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, Final

import pyarrow as pa

from connector.api import Output, Run
from connector.errors import ConfigError, nearest
from sinks.excel.figures import chart_tables, headlines, output
from sinks.excel.locate import TableJob
from sinks.excel.overview import Overview, chart_jobs
from sinks.excel.pages import NOTES, Page, readable

FIRST: Final = ("kpis",)
LAST: Final = ("definitions", "data_quality")


@cache
def words(locale: str) -> Mapping[str, Any]:
    """The words of the sheets that are not a table of the flow. Raises ConfigError for a language there is no file for."""
    language = locale.replace("_", "-").split("-")[0].lower()
    folder = files("sinks.excel").joinpath("locale")
    known = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if language not in known:
        raise ConfigError(f"no words for locale {locale!r}; {nearest(language, known)}")
    found: Mapping[str, Any] = json.loads(folder.joinpath(f"{language}.json").read_text(encoding="utf-8"))
    return found


def standard(tables: Mapping[str, Output], run: Run, locale: str | None = None) -> list[TableJob]:
    """The Overview, a sheet for each table, the tables under the charts, definitions and findings, and About at the end.

    Tables without rows get a sheet once they have some.
    """
    language = locale or run.locale
    said = words(language)
    overview = Overview(headlines(tables, said), run, said, language.replace("-", "_"))
    ordered = sorted(tables.items(), key=lambda item: (item[0] in LAST) - (item[0] in FIRST))
    jobs = {
        name: _table_job(name, replace(readable(table, said["codes"]), title=table.title or sheet_name(name)), said)
        for name, table in ordered
    }
    charts = chart_jobs(chart_tables(tables, run, said), said)
    front = [job for name, job in jobs.items() if name not in LAST]
    back = [jobs[name] for name in LAST if name in jobs]
    facts = _table_job("about", about(tables, run, said), said, volatile=True)
    return [*overview.jobs(), *front, *charts, *back, facts, overview.strip()]


def _table_job(name: str, table: Output, said: Mapping[str, Any], *, volatile: bool = False) -> TableJob:
    page = Page(name, table, said["page"], said["codes"])
    heights = page.heights if name in NOTES else None
    return TableJob(
        table,
        table=table_name(name),
        key=table.key,
        optional=not volatile,
        volatile=volatile,
        prepare=page.prepare,
        links=True,
        heights=heights,
    )


def about(tables: Mapping[str, Output], run: Run, said: Mapping[str, Any]) -> Output:
    """When the data was taken, from where, by which run, and how many rows each table has."""
    names = said["facts"]
    facts = [
        (names["flow"], run.flow),
        (names["as_of"], run.at.astimezone(run.timezone).strftime("%Y-%m-%d %H:%M %Z")),
        (names["run"], run.run_id),
        *([(names["currency"], run.currency)] if run.currency else []),
    ]
    sources: dict[str, list[str]] = {}
    for read in run.facts.get("sources", ()):
        sources.setdefault(read["source"], []).append(read["entity"])
    facts += [(names["source"].format(name=name), ", ".join(entities)) for name, entities in sources.items()]
    facts += [
        (names["rows"].format(name=table.title or sheet_name(name)), f"{table.rows:,}") for name, table in tables.items() if table.rows
    ]
    fields = [pa.field(name, pa.string(), metadata={"unit": "text", "label": said["columns"][name]}) for name in ("item", "about")]
    made = pa.table([pa.array(column, pa.string()) for column in zip(*facts, strict=True)], schema=pa.schema(fields))
    return replace(output("about", made, ("item",)), title=said["about"])


def sheet_name(name: str) -> str:
    """by_stage → By stage."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def table_name(name: str) -> str:
    """by_stage → ByStage, as people write table names."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
