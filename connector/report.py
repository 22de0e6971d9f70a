"""What people read on the terminal: tables, histories, and the story of a run."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import click
import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from connector.definitions import METRICS, Column
from connector.delivery import KPI_VALUES, Tables

#: columns of `kpis` that are counts or sums of whatever its row is about
KPI_PARTS: Final = ("numerator", "denominator")
WIDEST: Final = 48  # a wider text goes on in the next line
FEW: Final = 3
GAP: Final = 3  # what stands between two columns


def story(manifest: Mapping[str, Any]) -> str:
    """A run in a few lines, for the person who started it."""
    lines = [f"{manifest['flow']}: {manifest['outcome']} in {manifest['seconds']:.1f} s"]
    for read in manifest["sources"]:
        moved = ", ".join(f"{read[what]:,} {what}" for what in ("inserted", "updated", "deleted") if read.get(what))
        lines.append(
            f"  read   {read['source']}.{read['entity']}: {read['rows_read']:,} rows" + (f" ({moved})" if moved else f" ({read['mode']})")
        )
    for sink in _shown(manifest["sinks"]):
        rows = ", ".join(f"{name.partition('#')[0]} {count:,}" for name, count in list(sink["rows"].items())[:4])
        more = f" and {len(sink['rows']) - 4} more tables" if len(sink["rows"]) > 4 else ""
        parts = (
            f"; {len(sink['parts_changed'])} parts written, {sink['parts_untouched']} left as they were" if sink["parts_changed"] else ""
        )
        what = f"{sink['outcome']}: {sink['why']}" if sink["why"] else sink["outcome"]
        lines.append(f"  sink   {sink['target']}: {what}{f' ({rows}{more})' if rows else ''}{parts}")
    lines += [f"  warn   {warning}" for warning in manifest["warnings"]]
    return "\n".join(lines)


def _shown(sinks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Where one sink has a target for each of many values, those with nothing to tell are one line."""
    quiet = [sink for sink in sinks if "each" in sink and sink["outcome"] == "unchanged"]
    many = len(quiet) > FEW
    yield from (sink for sink in sinks if not (many and sink in quiet))
    if many:
        yield {"target": f"{len(quiet)} others", "outcome": "unchanged", "why": "", "rows": {}, "parts_changed": ()}


def show_tables(tables: Tables, style: str) -> None:
    """The list of tables with their row counts."""
    rows = [{"table": name, "rows": tables.rows(name), "title": info.title} for name, info in tables.info.items()]
    show(
        pa.Table.from_pylist(rows, schema=pa.schema([("table", pa.string()), ("rows", pa.int64()), ("title", pa.string())])).to_reader(),
        style,
        {},
    )


def show(reader: pa.RecordBatchReader, style: str, columns: Mapping[str, Column], currency: str | None = None) -> None:
    """Rows as a table for people, as CSV, or as one JSON array of objects, streamed.

    `columns` say what is measured in what, `currency` is that of money in the reporting currency.
    """
    if style == "json":
        _json(reader)
    elif style == "csv":
        _csv(reader)
    else:
        _table(reader, columns, currency)


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


# ── for people ────────────────────────────────────────────────────────────────────────────────────


def _table(reader: pa.RecordBatchReader, columns: Mapping[str, Column], currency: str | None) -> None:
    """Units in a second line of the heading, numbers at the right. What is wider than the terminal goes on below, after its first column."""
    units = {name: columns[name].unit if name in columns else "" for name in reader.schema.names}
    by_row = "unit" in columns and "metric" in columns  # kpis: each row has its unit
    said = [_unit(name, columns, currency, by_row=by_row) for name in reader.schema.names]
    headings = [f"{name}\n{unit}" if any(said) else name for name, unit in zip(reader.schema.names, said, strict=True)]
    rows = []
    for batch in reader:
        for row in batch.to_pylist():
            own = dict.fromkeys(KPI_VALUES, row["unit"]) if by_row else {}
            rows.append(
                [_measured(value, own[name], currency) if name in own else _cell(value, units[name]) for name, value in row.items()]
            )
    numeric = [(by_row and field.name in KPI_VALUES) or _is_number(field.type) for field in reader.schema]
    widths = [
        min(WIDEST, max(map(cell_len, (*heading.split("\n"), *(row[at] for row in rows))), default=0))
        for at, heading in enumerate(headings)
    ]
    for place, band in enumerate(_bands(widths, Console().width if sys.stdout.isatty() else sys.maxsize)):
        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        for at in band:
            table.add_column(Text(headings[at]), justify="right" if numeric[at] else "left", overflow="fold", max_width=WIDEST)
        for row in rows:
            table.add_row(*(Text(row[at]) for at in band))
        if place:
            click.echo()
        _print(table)
    click.echo(f"{len(rows):,} row{'s' if len(rows) != 1 else ''}")


def _bands(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns that fit side by side, each band led by the first column."""
    band, used = [0], widths[0] if widths else 0
    for at in range(1, len(widths)):
        if len(band) > 1 and used + GAP + widths[at] > room:
            yield band
            band, used = [0], widths[0]
        band.append(at)
        used += GAP + widths[at]
    yield band[: len(widths)]


def _unit(name: str, columns: Mapping[str, Column], currency: str | None, *, by_row: bool) -> str:
    """What a column is measured in, for its heading."""
    column = columns.get(name)
    if column is None or (by_row and name in (*KPI_VALUES, *KPI_PARTS)):
        return ""
    if column.unit.startswith("money"):
        where = "own currency" if column.foreign else currency or ""
        return f"{where} per day".strip() if column.unit == "money per day" else where
    return {"percent": "%", "days": "days", "ratio": "ratio"}.get(column.unit, "")


def _cell(value: Any, unit: str) -> str:
    """A value as people write it."""
    if value is None:
        return ""
    if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool):
        return str(plain(value))
    if unit == "percent":
        return f"{float(value):.1%}"
    if unit.startswith("money"):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else f"{float(value):,.2f}".rstrip("0").rstrip(".")


def _measured(value: Any, unit: str, currency: str | None) -> str:
    """A number with its unit, where every row has another."""
    with_unit = {"money": f" {currency}", "money per day": f" {currency}/day"} if currency else {}
    return f"{_cell(value, unit)}{(with_unit | {'days': ' d', 'ratio': ' ×'}).get(unit, '')}" if value is not None else ""


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _print(table: Table) -> None:
    if sys.stdout.isatty():
        Console().print(table)
        return
    text = io.StringIO()
    Console(file=text, width=max(200, 50 * len(table.columns)), no_color=True).print(table)
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
