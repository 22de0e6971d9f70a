"""What the Overview shows, worked out of the flow's tables: headline figures, and the small tables its charts stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import pyarrow as pa

from connector.api import Output, Run
from sinks.excel.charts import Chart, Series
from sinks.excel.look import AMBER, GREEN, NAVY, PALE, RED, SLATE, TEAL, brief_money, short_money

Row = Mapping[str, Any]
Words = Mapping[str, Any]

#: metrics of the two bands, the ones people ask for first; a band shows the first of them that have a value
RESULTS: Final = (
    "revenue",
    "win_rate",
    "average_deal_size",
    "sales_cycle_days",
    "sales_velocity",
    "lead_conversion_rate",
    "pipeline_conversion",
    "customer_acquisition_cost",
    "repeat_revenue_share",
)
PIPELINE: Final = (
    "open_value",
    "weighted_value",
    "open_deals",
    "coverage",
    "stalled_share",
    "lead_value_attainment",
    "retention_rate",
    "customer_lifetime_value",
)
LESS_IS_BETTER: Final = frozenset({"sales_cycle_days", "stalled_share", "customer_acquisition_cost"})
PERIODS: Final = ("trailing_90_days", "trailing_12_months", "all")
MONTHS: Final = 13
AHEAD: Final = (2, 3)  # months before and after this one that the forecast shows
OWNERS: Final = 10
WINDOW: Final = 90  # days of pipeline movement
MOVEMENTS: Final = (
    "new",
    "reopened",
    "increased",
    "decreased",
    "pulled_in",
    "pushed_out",
    "won",
    "lost",
    "removed",
    "currency_effect",
)
CLOSED: Final = "closed"  # forecast_category of what is won already


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure. `change` is relative, or in points for percentages."""

    metric: str
    label: str
    unit: str
    value: float | None
    change: float | None
    previous: float | None


@dataclass(frozen=True, slots=True)
class Headlines:
    """The figures of both bands in the period they stand for."""

    start: date | None
    end: date | None
    before: tuple[date, date] | None
    results: tuple[Figure, ...]
    pipeline: tuple[Figure, ...]

    @property
    def known(self) -> bool:
        return any(figure.value for figure in (*self.results, *self.pipeline))


@dataclass(frozen=True, slots=True)
class ChartTable:
    """A chart and the table it stands on."""

    name: str
    table: Output
    chart: Chart


def rows_of(tables: Mapping[str, Output], name: str) -> list[dict[str, Any]]:
    """A table of a few rows as Python values; a table that is not there has none."""
    if name not in tables:
        return []
    rows: list[dict[str, Any]] = tables[name].open().read_all().to_pylist()
    return rows


def headlines(tables: Mapping[str, Output], words: Words) -> Headlines:
    """The headline figures of the shortest period in which deals were closed."""
    by_period: dict[str, dict[str, Row]] = {}
    for row in rows_of(tables, "kpis"):
        by_period.setdefault(row["period"], {})[row["metric"]] = row
    period = next((name for name in PERIODS if by_period.get(name, {}).get("win_rate", {}).get("value") is not None), PERIODS[0])
    rows = by_period.get(period, {})
    rows = {**rows, "coverage": by_period.get("this_quarter", {}).get("coverage", {})}
    any_row: Row = next(iter(rows.values()), {})
    start, end = any_row.get("period_start"), any_row.get("period_end")
    before = _span_before(start, end, period) if start and end else None
    return Headlines(
        start,
        end,
        before,
        tuple(_figure(rows[name], words) for name in RESULTS if rows.get(name)),
        tuple(_figure(rows[name], words) for name in PIPELINE if rows.get(name)),
    )


def _span_before(start: date, end: date, period: str) -> tuple[date, date]:
    last = start - timedelta(days=1)
    if period == "trailing_12_months":
        return (
            last.replace(year=last.year - 1, day=min(last.day, 28)) if last.day == 29 else last.replace(year=last.year - 1)
        ) + timedelta(days=1), last
    return start - (end - start) - timedelta(days=1), last


def _figure(row: Row, words: Words) -> Figure:
    percent = row["unit"] == "percent"
    change = row["change"] and row["change"] * 100 if percent else row["change_pct"]
    label = words["metrics"].get(row["metric"]) or row["label"]
    return Figure(row["metric"], label, row["unit"], row["value"], change, row["previous"])


def band(name: str, figures: Sequence[Figure]) -> Output:
    """A band as a table: a column for each figure; value, change and previous value as rows."""
    columns = [pa.array([figure.value, figure.change, figure.previous], pa.float64()) for figure in figures]
    fields = [pa.field(figure.metric, pa.float64(), metadata={"label": figure.label}) for figure in figures]
    return output(name, pa.table(columns, schema=pa.schema(fields)))


def output(name: str, table: pa.Table, key: tuple[str, ...] = ()) -> Output:
    """A table made on the spot, as the engine takes it."""
    return Output(name, table.schema, table.num_rows, table.to_reader, key=key)


# ── charts ──


def chart_tables(tables: Mapping[str, Output], run: Run, words: Words) -> list[ChartTable]:
    """Every chart of the Overview in its order; those without rows too."""
    today = run.at.astimezone(run.timezone).date()
    shape = _Shapes(tables, today, run.currency, words)
    return [shape.funnel(), shape.revenue(), shape.win_rate(), shape.forecast(), shape.stalled(), shape.movement()]


@dataclass(frozen=True, slots=True)
class _Shapes:
    tables: Mapping[str, Output]
    today: date
    currency: str | None
    words: Words

    def _made(self, name: str, columns: Mapping[str, tuple[str, pa.DataType]], rows: Sequence[Row], chart: Mapping[str, Any]) -> ChartTable:
        fields = []
        for column, (unit, kind) in columns.items():
            meta = {"unit": unit, "label": self.words["columns"][column]}
            if unit == "money" and self.currency:
                meta["currency"] = self.currency
            fields.append(pa.field(column, kind, metadata=meta))
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(fields))
        said = self.words["charts"][name]
        return ChartTable(
            name, output(f"chart_{name}", table, key=(next(iter(columns)),)), Chart(title=said["title"], alt=said["alt"], **chart)
        )

    @property
    def _money(self) -> str:
        return short_money(self.currency)

    def _valued(self, name: str, value: float, *, signed: bool = False) -> str:
        """A name with its value, for bars too short to carry one."""
        return f"{name} · {'+' if signed and value > 0 else ''}{brief_money(value, self.currency)}" if value else name

    def _stages(self) -> list[tuple[tuple[str | None, str], str, float, int]]:
        """Open stages in order: (pipeline, stage), label, value, deals; the pipeline that is worth most first."""
        rows = rows_of(self.tables, "pipeline_balance")
        worth: dict[str | None, float] = {}
        for row in rows:
            worth[row["pipeline"]] = worth.get(row["pipeline"], 0) + (row["value"] or 0)
        order = sorted(worth, key=lambda name: (-worth[name], name or ""))
        rows.sort(key=lambda row: order.index(row["pipeline"]))
        names = [row["stage"] for row in rows]
        return [
            (
                (row["pipeline"], row["stage"]),
                f"{row['stage']} ({row['pipeline']})" if names.count(row["stage"]) > 1 else row["stage"],
                row["value"] or 0.0,
                row["deals"],
            )
            for row in rows
        ]

    def funnel(self) -> ChartTable:
        stages = self._stages()
        valued = any(value for _, _, value, _ in stages)
        rows = [{"stage": f"{label} · {deals:,}" if valued else label, "value": value, "deals": deals} for _, label, value, deals in stages]
        series = Series(1, NAVY, labels=self._money) if valued else Series(2, NAVY, labels="#,##0")
        columns = {"stage": ("text", pa.string()), "value": ("money", pa.float64()), "deals": ("count", pa.int64())}
        return self._made("funnel", columns, rows, {"series": (series,), "across": True, "gap": 35})

    def revenue(self) -> ChartTable:
        rows = [row for row in rows_of(self.tables, "by_month") if row["period_start"] <= self.today]
        recent = rows[-MONTHS:]
        if not any(row["revenue"] for row in recent):
            last = max((at for at, row in enumerate(rows) if row["revenue"]), default=-1)
            recent = rows[max(0, last + 1 - MONTHS) : last + 1]
        recent = recent[next((at for at, row in enumerate(recent) if row["revenue"]), len(recent)) :]
        shown = [
            {
                "month": row["period_start"],
                "revenue": row["revenue"] or 0.0,
                "growth": None if _same_month(row["period_start"], self.today) else row["revenue_growth"],
            }
            for row in recent
        ]
        columns = {"month": ("date", pa.date32()), "revenue": ("money", pa.float64()), "growth": ("percent", pa.float64())}
        series = (Series(1, NAVY), Series(2, AMBER, line=True, secondary=True))
        look = {"series": series, "number": self._money, "second": "0%", "months": self.words["months"], "legend": True, "every": 2}
        return self._made("revenue", columns, shown, look)

    def win_rate(self) -> ChartTable:
        rows = [row for row in rows_of(self.tables, "by_owner") if row["win_rate"] is not None]
        busiest = sorted(rows, key=lambda row: (-(row["won"] + row["lost"]), row["owner"]))[:OWNERS]
        busiest.sort(key=lambda row: (-row["win_rate"], row["owner"]))
        shown = [{"owner": row["owner"], "win_rate": row["win_rate"], "closed": row["won"] + row["lost"]} for row in busiest]
        columns = {"owner": ("text", pa.string()), "win_rate": ("percent", pa.float64()), "closed": ("count", pa.int64())}
        return self._made("win_rate", columns, shown, {"series": (Series(1, TEAL, labels="0%"),), "across": True, "gap": 35})

    def forecast(self) -> ChartTable:
        months: dict[date, dict[str, Any]] = {}
        here = self.today.year * 12 + self.today.month - 1
        for row in rows_of(self.tables, "forecast"):
            month = _month(row["month"])
            if month is None or not -AHEAD[0] <= month.year * 12 + month.month - 1 - here <= AHEAD[1]:
                continue
            line = months.setdefault(month, {"month": month, "won": 0.0, "weighted": 0.0, "quota": None})
            if row["forecast_category"] == CLOSED:
                line["won"] += row["value"] or 0.0
            else:
                line["weighted"] += row["weighted_value"] or 0.0
            line["quota"] = line["quota"] if row["quota"] is None else row["quota"]
        shown = [months[month] for month in sorted(months)]
        if not any(row["quota"] for row in shown):
            shown = []
        columns = {name: ("money", pa.float64()) for name in ("won", "weighted", "quota")}
        series = (Series(1, NAVY), Series(2, "9DB4CC"), Series(3, AMBER, line=True))
        look = {"series": series, "stacked": True, "number": self._money, "months": self.words["months"], "legend": True}
        return self._made("forecast", {"month": ("date", pa.date32()), **columns}, shown, look)

    def stalled(self) -> ChartTable:
        value: dict[tuple[str | None, str], float] = {}
        if "stalled_deals" in self.tables:
            for batch in self.tables["stalled_deals"].open():
                for row in batch.select(["pipeline", "stage", "amount_reporting"]).to_pylist():
                    place = (row["pipeline"], row["stage"])
                    value[place] = value.get(place, 0.0) + float(row["amount_reporting"] or 0)
        stages = self._stages() if any(value.values()) else []
        shown = [
            {
                "stage": self._valued(label, value.get(place, 0.0)),
                "stalled": value.get(place, 0.0),
                "moving": max(0.0, open_value - value.get(place, 0.0)),
            }
            for place, label, open_value, _ in stages
        ]
        columns = {"stage": ("text", pa.string()), "stalled": ("money", pa.float64()), "moving": ("money", pa.float64())}
        look = {
            "series": (Series(1, AMBER), Series(2, PALE)),
            "across": True,
            "stacked": True,
            "legend": True,
            "gap": 35,
        }
        return self._made("stalled", columns, shown, look)

    def movement(self) -> ChartTable:
        """A waterfall: each movement stands on an invisible bar."""
        rows = rows_of(self.tables, "pipeline_movement")
        recent = [row for row in rows if (self.today - row["period_end"]).days < WINDOW]
        first = min((row["period_start"] for row in recent), default=None)
        last = max((row["period_end"] for row in recent), default=None)
        said, shown = self.words["movement"], []
        if recent:
            level = sum(row["opening"] for row in recent if row["period_start"] == first)
            shown.append({"step": self._valued(said["opening"], level), "total": level})
            for name in MOVEMENTS:
                by = sum(row[name] for row in recent)
                if abs(by) < 0.5:
                    continue
                step = {
                    "step": self._valued(said[name], by, signed=True),
                    "base": min(level, level + by),
                    "up": by if by > 0 else None,
                    "down": -by if by < 0 else None,
                }
                level += by
                shown.append(step)
            level = sum(row["closing"] for row in recent if row["period_end"] == last)
            shown.append({"step": self._valued(said["closing"], level), "total": level})
        columns = {"step": ("text", pa.string()), **{name: ("money", pa.float64()) for name in ("base", "total", "up", "down")}}
        series = (Series(1, ""), Series(2, SLATE), Series(3, GREEN), Series(4, RED))
        look = {"series": series, "across": True, "stacked": True, "gap": 25}
        return self._made("movement", columns, shown, look)


def _same_month(day: date, other: date) -> bool:
    return (day.year, day.month) == (other.year, other.month)


def _month(text: str | None) -> date | None:
    """2026-11 as its first day; what is no month gives None."""
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        return None
