"""`data_quality`: what was missing or odd, in how many rows, and what that does to which number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from connector.assemble import Assembled
from connector.engine import Engine

EXAMPLES: Final = 5
#: a date further from the run's is a slip of the pen; months and quarters do not reach that far
PLAUSIBLE_DAYS: Final = 50 * 366
SEVERITIES: Final = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Check:
    """A condition no row of `relation` should meet. `given` names the table without which it says nothing."""

    code: str
    severity: Literal["error", "warning", "info"]
    table: str
    condition: str
    given: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """Where the rows of a table are looked at, how a row is named and where it can be opened."""

    relation: str
    key: str
    url: str = "null"


TABLES: Final = {
    "deals": Checked("deal_facts cross join constants k", "deal_id", "url"),
    "leads": Checked("lead_facts", "lead_id"),
    "stages": Checked("stage_facts", "stage"),
    "stage_entries": Checked(
        "(select e.deal_id, d.deal_id as known_id from gathered_stage_entries e left join deal_facts d on d.deal_id = e.deal_id) rows_found",
        "deal_id",
    ),
    "activities": Checked(
        "(select a.activity_id, a.deal_id, d.deal_id as known_id from activity_facts a left join deal_facts d on d.deal_id = a.deal_id) rows_found",
        "activity_id",
    ),
    "deal_products": Checked(
        "(select i.deal_id, d.deal_id as known_id from deal_products i left join deal_facts d on d.deal_id = i.deal_id) rows_found",
        "deal_id",
    ),
    "spend": Checked("spend", "category"),
    "quotas": Checked("quotas", "owner"),
}

CHECKS: Final = (
    Check("no_rate", "error", "deals", "amount is not null and amount_reporting is null"),
    Check("spend_without_rate", "error", "spend", "amount is null", given="spend"),
    Check("quota_without_rate", "error", "quotas", "amount is null", given="quotas"),
    Check("status_unknown", "error", "deals", "status_unknown = 1"),
    Check("closed_before_created", "warning", "deals", "is_closed = 1 and closed_day < created_day"),
    Check(
        "date_implausible",
        "warning",
        "deals",
        f"abs(created_day - k.at_day) > {PLAUSIBLE_DAYS} or is_closed = 1 and abs(closed_day - k.at_day) > {PLAUSIBLE_DAYS}",
    ),
    Check("closed_without_date", "warning", "deals", "is_closed = 1 and closed_day is null"),
    Check("closed_in_future", "warning", "deals", "is_closed = 1 and closed_day > k.at_day"),
    Check("created_in_future", "warning", "deals", "created_day > k.at_day"),
    Check("created_missing", "warning", "deals", "created_day is null"),
    Check("won_without_amount", "warning", "deals", "is_won = 1 and amount is null"),
    Check("negative_amount", "warning", "deals", "amount < 0"),
    Check("probability_refused", "warning", "deals", "probability_refused = 1"),
    Check("account_unmatched", "warning", "deals", "account_unmatched = 1", given="accounts"),
    Check("owner_unmatched", "warning", "deals", "owner_unmatched = 1", given="owners"),
    Check("product_unmatched", "warning", "deals", "product_unmatched = 1", given="products"),
    Check("open_without_amount", "warning", "deals", "is_open = 1 and amount is null"),
    Check("stage_missing", "warning", "deals", "is_open = 1 and stage is null"),
    Check("owner_missing", "info", "deals", "owner is null"),
    Check("won_without_account", "info", "deals", "is_won = 1 and account_key is null"),
    Check("open_without_close_date", "info", "deals", "is_open = 1 and expected_day is null"),
    Check("open_without_probability", "info", "deals", "is_open = 1 and probability is null"),
    Check("lost_at_zero", "info", "deals", "is_lost = 1 and amount = 0"),
    Check("stage_without_order", "info", "stages", "stage_order is null and is_won = 0 and is_lost = 0"),
    Check("entry_without_deal", "warning", "stage_entries", "known_id is null", given="stage_entries"),
    Check("activity_without_deal", "info", "activities", "deal_id is not null and known_id is null", given="activities"),
    Check("item_without_deal", "warning", "deal_products", "known_id is null", given="deal_products"),
    Check("lead_without_date", "warning", "leads", "created_day is null", given="leads"),
    Check("lead_without_value", "info", "leads", "value_reporting is null", given="leads"),
)


def findings(engine: Engine, assembled: Assembled, said: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Rows of `data_quality`, gravest first: finding, severity, table, rows, example ids, the first one's address, effect, code."""
    rows = []
    for table, checked in TABLES.items():
        checks = [check for check in CHECKS if check.table == table and (check.given is None or check.given in assembled.given)]
        for check, count in zip(checks, _count(engine, checked, checks), strict=True):
            if count:
                rows.append((check, count, *_examples(engine, checked, check)))
    rows.sort(key=lambda row: (SEVERITIES.index(row[0].severity), CHECKS.index(row[0])))
    return [
        (
            said["findings"][check.code]["finding"].format(currencies=", ".join(assembled.unconverted)),
            check.severity,
            check.table,
            count,
            ids,
            url,
            said["findings"][check.code]["effect"],
            check.code,
        )
        for check, count, ids, url in rows
    ]


def _count(engine: Engine, checked: Checked, checks: Iterable[Check]) -> list[int]:
    """How many rows meet each condition, in one pass."""
    sums = ", ".join(f"sum(case when {check.condition} then 1 else 0 end) as {check.code}" for check in checks)
    if not sums:
        return []
    [row] = engine.fetch(f"select {sums} from {checked.relation}").to_pylist()
    return [int(count or 0) for count in row.values()]


def _examples(engine: Engine, checked: Checked, check: Check) -> tuple[str, str | None]:
    rows = engine.fetch(
        f"select {checked.key} as id, min({checked.url}) as url from {checked.relation} where {check.condition} "
        f"group by {checked.key} order by {checked.key} limit {EXAMPLES}"
    ).to_pylist()
    return ", ".join(str(row["id"]) for row in rows), rows[0]["url"]
