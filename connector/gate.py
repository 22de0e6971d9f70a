"""The publish gate: yesterday's file stands when today's data looks broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from connector.config import Gate
from connector.engine import Engine, quoted
from connector.errors import GateError


@dataclass(frozen=True, slots=True)
class Totals:
    """What the gate compares between two runs: counts and money of all deals."""

    deals: int
    open_value: float
    revenue: float


def totals(engine: Engine, deals: str | Path) -> Totals:
    """Of a table of the engine, or of the `deals` Parquet file of an earlier snapshot."""
    if isinstance(deals, Path):
        engine.parquet("earlier_deals", [deals])
        deals = "earlier_deals"
    row = engine.fetch(
        "select count(*) as deals, coalesce(sum(case when is_open = 1 then cast(amount_reporting as double) else 0 end), 0) as open_value, "
        f"coalesce(sum(case when is_won = 1 then cast(amount_reporting as double) else 0 end), 0) as revenue from {quoted(deals)}"
    ).to_pylist()[0]
    return Totals(**row)


def judge(gate: Gate, before: Totals, after: Totals) -> None:
    """Raises GateError with every limit passed."""
    reasons = []
    drop = 1 - after.deals / before.deals if before.deals else 0.0
    if gate.max_row_drop is not None and drop > gate.max_row_drop:
        reasons.append(f"deals fell from {before.deals:,} to {after.deals:,} ({drop:.0%}; max_row_drop is {gate.max_row_drop:.0%})")
    for what, old, new in (("open value", before.open_value, after.open_value), ("revenue won", before.revenue, after.revenue)):
        change = abs(new - old) / abs(old) if old else 0.0
        if gate.max_value_change is not None and change > gate.max_value_change:
            reasons.append(f"{what} went from {old:,.2f} to {new:,.2f} ({change:.0%}; max_value_change is {gate.max_value_change:.0%})")
    if reasons:
        raise GateError(
            f"not published: {'; '.join(reasons)}",
            remedy="look at the source; if the change is real, let it through once with `connector run FLOW --accept`",
        )
