"""What people read on the terminal: tables, histories, and the story of a run."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from connector.definitions import METRICS
from connector.delivery import Tables


def story(manifest: Mapping[str, Any]) -> str:
    """A run in a few lines, for the person who started it."""
    lines = [f"{manifest['flow']}: {manifest['outcome']} in {manifest['seconds']:.1f} s"]
    for read in manifest["sources"]:
        moved = ", ".join(f"{read[what]:,} {what}" for what in ("inserted", "updated", "deleted") if read.get(what))
        lines.append(
            f"  read   {read['source']}.{read['entity']}: {read['rows_read']:,} rows" + (f" ({moved})" if moved else f" ({read['mode']})")
        )
    for sink in manifest["sinks"]:
        rows = ", ".join(f"{name.partition('#')[0]} {count:,}" for name, count in list(sink["rows"].items())[:4])
        more = f" and {len(sink['rows']) - 4} more tables" if len(sink["rows"]) > 4 else ""
        parts = (
            f"; {len(sink['parts_changed'])} parts written, {sink['parts_untouched']} left as they were" if sink["parts_changed"] else ""
        )
        what = f"{sink['outcome']}: {sink['why']}" if sink["why"] else sink["outcome"]
        lines.append(f"  sink   {sink['target']}: {what}{f' ({rows}{more})' if rows else ''}{parts}")
    lines += [f"  warn   {warning}" for warning in manifest["warnings"]]
    return "\n".join(lines)


def show_tables(tables: Tables, style: str) -> None:
    """The list of tables with their row counts."""
    rows = [{"table": name, "rows": tables.rows(name), "title": info.title} for name, info in tables.info.items()]
    show(
        pa.Table.from_pylist(rows, schema=pa.schema([("table", pa.string()), ("rows", pa.int64()), ("title", pa.string())])).to_reader(),
        style,
        {},
    )


def show(reader: pa.RecordBatchReader, style: str, columns: Mapping[str, Any]) -> None:
    """Rows as a table for people, as CSV, or as one JSON array of objects, streamed."""
    if style == "json":
        _json(reader)
    elif style == "csv":
        _csv(reader)
    else:
        _table(reader, columns)


def _json(reader: pa.RecordBatchReader) -> None:
    out = sys.stdout
    out.write("[")
    first = True
    for batch in reader:
        for row in batch.to_pylist():
            out.write(("\n" if first else ",\n") + json.dumps({key: plain(value) for key, value in row.items()}, ensure_ascii=False))
            first = False
    out.write("\n]\n")


def plain(value: Any) -> Any:
    """A value as JSON knows it: numbers as numbers, instants as ISO 8601 in UTC, dates as YYYY-MM-DD, missing as null."""
    match value:
        case datetime():
            return value.isoformat(timespec="microseconds" if value.microsecond else "seconds").replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case _:
            return value


def _csv(reader: pa.RecordBatchReader) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(reader.schema.names)
    for batch in reader:
        for row in batch.to_pylist():
            writer.writerow("" if value is None else plain(value) for value in row.values())


def _table(reader: pa.RecordBatchReader, columns: Mapping[str, Any]) -> None:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for field in reader.schema:
        unit = getattr(columns.get(field.name), "unit", "")
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        heading = field.name if unit in ("", "text", "id", "date", "count", "url") else f"{field.name}\n({unit})"
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    count = 0
    for batch in reader:
        for row in batch.to_pylist():
            table.add_row(*(_cell(value, getattr(columns.get(name), "unit", "")) for name, value in row.items()))
            count += 1
    _print(table)
    click.echo(f"{count:,} row{'s' if count != 1 else ''}")


def _cell(value: Any, unit: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        if unit == "percent":
            return f"{float(value):.1%}"
        if unit.startswith("money"):
            return f"{value:,.2f}"
        return f"{value:,}" if isinstance(value, int) else f"{float(value):,.2f}".rstrip("0").rstrip(".")
    return str(plain(value))


def _print(table: Table) -> None:
    if sys.stdout.isatty():
        Console().print(table)
        return
    text = io.StringIO()
    Console(file=text, width=max(200, 30 * len(table.columns)), no_color=True).print(table)
    click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def show_history(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        click.echo("no runs yet")
        return
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for heading in ("started", "flow", "outcome", "rows read", "seconds", "targets", "message"):
        table.add_column(heading, justify="right" if heading in ("rows read", "seconds") else "left", overflow="fold")
    for run in runs:
        manifest = run["manifest"] or {}
        targets = "; ".join(f"{sink['target']} {sink['outcome']}" for sink in manifest.get("sinks", ()))
        rows = sum(read["rows_read"] for read in manifest.get("sources", ()))
        seconds = f"{manifest['seconds']:.1f}" if "seconds" in manifest else ""
        outcome = run["outcome"] if run["exit_code"] in (0, None) else f"{run['outcome']} ({run['exit_code']})"
        table.add_row(
            run["started_at"][:19].replace("T", " "),
            run["flow"],
            outcome,
            f"{rows:,}",
            seconds,
            targets,
            (run["message"] or "").split("\n")[0],
        )
    _print(table)


def metric_list() -> list[dict[str, str]]:
    return [
        {
            "name": metric.name,
            "label": metric.label,
            "unit": metric.unit,
            "formula": metric.formula,
            "definition": metric.definition,
            "example": metric.example,
        }
        for metric in METRICS
    ]


def show_metrics() -> None:
    for metric in metric_list():
        click.echo(f"{metric['name']} ({metric['unit']})\n  = {metric['formula']}\n  {metric['definition']}\n")
