"""The documentation page on tables and metrics, written from the definitions."""

from __future__ import annotations

from connector.definitions import TABLES, metrics, words
from connector.formulas import FORMULAS
from connector.quality import CHECKS


def metrics_page(locale: str = "en") -> str:
    """docs/metrics.md: every metric, table, period and data-quality finding in words."""
    said = words(locale)
    units = {formula.name: formula for formula in FORMULAS}
    lines = [
        "# Tables and metrics",
        "",
        "<!-- generated from connector/definitions.py and connector/locale; `make docs` writes it, `make check` compares it -->",
        "",
        "One definition each. A number that cannot be computed is empty with a reason, never 0. Every number says how many rows it left out.",
        "",
        "## Headline metrics",
        "",
        "Table `kpis` has one row per metric and period: "
        + ", ".join(f"`{period}`" for period in said["periods"])
        + ". `this_…` and `last_…` are whole calendar (or fiscal) spans; `trailing_…` end with the day of the run.",
        "",
        "| metric | unit | formula | definition | worked example | rows and dates |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for metric in metrics(locale):
        basis = said["bases"][units[metric.name].basis]
        lines.append(
            f"| `{metric.name}`<br>{metric.label} | {metric.unit} | {metric.formula} | {metric.definition} | {metric.example} | {basis} |"
        )
    lines += ["", "## Tables", "", "| table | key | content |", "| --- | --- | --- |"]
    for name, key in TABLES.items():
        table = said["tables"][name]
        lines.append(f"| `{name}`<br>{table['title']} | {', '.join(f'`{column}`' for column in key)} | {table['description']} |")
    lines += ["", "Stage entries and stage conversion rest on:", ""]
    lines += [f"* `{basis}`: {text}" for basis, text in said["stage_bases"].items()]
    lines += ["", "## Why a number is empty", ""]
    lines += [f"* {note}" for code, note in said["notes"].items() if any(code == reason for f in FORMULAS for _, reason in f.reasons)]
    lines += ["", "## Data quality", "", "| finding | severity | table | what it does |", "| --- | --- | --- | --- |"]
    for check in CHECKS:
        found = said["findings"][check.code]
        what = found["finding"].split(": {")[0]
        lines.append(f"| `{check.code}`<br>{what} | {said['severities'][check.severity]} | `{check.table}` | {found['effect']} |")
    return "\n".join(lines) + "\n"
