"""The canonical tables of a run: what every source gave, joined, completed, converted and dated once.

`assemble` leaves in the engine, under the names of docs/metrics.md, every canonical table (always all of them, empty where no
source gives one) and, for the metrics alone, `deal_facts`, `lead_facts`, `activity_facts`, `spend_facts` and `quota_facts`: the same rows with days
counted from 1970-01-01 in the flow's time zone, so that metrics need no date functions.

Rules settled here:

* Ids get their source's name in front (`crm:123`) where several sources give the entity they name.
* A day stays the day it is; an instant falls on a day of the flow's time zone. Where sources of one column mix the two, days
  become instants at local midnight.
* `deals` is completed from accounts, owners, contacts and products by id, else by name (case and outer blanks aside); a region comes from
  the account first, then from the owner. A deal without a product whose line items all name one product takes that.
* Configured stages overrule the status a source gives; the source's status overrules its stage metadata.
* The close date of an open deal is an expectation: it becomes `expected_close_date` unless there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from connector.config import ModelConfig
from connector.engine import Engine, quoted
from connector.leads import score_leads
from connector.model import COUNT, DATE, DEALS, ENTITIES, FLAG, INSTANT, MONEY, NUMBER, RATE, TEXT
from connector.money import SQL_RATE, Money, conversion, converted, settle_money
from connector.periods import day_number
from connector.stages import settle_stages
from connector.statements import Days, statement, text

Files = Sequence[Path]
#: entities that several sources give, and those sources: their ids need the source's name
Shared = Mapping[str, frozenset[str]]

#: the entity an id column points to
POINTS_TO: Final = {
    "deal_id": "deals",
    "lead_id": "leads",
    "activity_id": "activities",
    "account_id": "accounts",
    "contact_id": "contacts",
    "owner_id": "owners",
    "product_id": "products",
    "deal_product_id": "deal_products",
    "deal_contact_id": "deal_contacts",
}
SQL_TYPES: Final = {
    TEXT: "varchar",
    MONEY: "decimal(18, 4)",
    RATE: SQL_RATE,
    NUMBER: "double",
    COUNT: "bigint",
    FLAG: "tinyint",
    DATE: "date",
    INSTANT: "timestamptz",
}
#: what the metrics need of a stay in a stage
VISITS: Final = ("deal_number", "stage_number", "weight", "is_won", "is_final", "stage_order", "entered_on", "days", "outcome")
#: upper bounds of deal sizes where none are configured
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Assembled:
    """What the metrics need to know of the tables in the engine.

    `currency` is the reporting currency: the configured one, else the only one there is, else None. `stage_basis` says where
    `stage_entries` comes from (history, snapshot, reached), `given` which tables some source has, `unconverted` which currencies have no
    rate or no reporting currency to go to.
    """

    at: date
    currency: str | None
    stage_basis: str
    given: frozenset[str]
    unconverted: tuple[str, ...] = ()


def assemble(
    engine: Engine,
    entities: Mapping[str, Mapping[str, Files]],
    model: ModelConfig,
    *,
    at: datetime,
    timezone: ZoneInfo,
    earlier: Mapping[datetime, Mapping[str, Files]] | None = None,
) -> Assembled:
    """Build every canonical table in `engine` from the snapshot files of `entities`: table → source name → Parquet files.

    `at` is the run's moment (aware); `earlier` are our own former snapshots of `deals` (moment → source name → files), from which stage entries are
    derived where no source gives a history.
    """
    days = Days(timezone)
    shared = {table: frozenset(sources) for table, sources in entities.items() if len(sources) > 1}
    kinds = {table: _gather(engine, table, entities.get(table, {}), shared, days) for table in ENTITIES}
    today = at.astimezone(timezone).date()
    given = frozenset(table for table, sources in entities.items() if sources)
    _look_up(engine)
    settle_stages(engine, model)
    deal_kinds = kinds["deals"]
    engine.view(
        "deal_dated",
        statement("assemble/deal_dated").format(
            created_on=days.local("d.created_at", deal_kinds["created_at"]),
            closed_on=days.local("d.closed_at", deal_kinds["closed_at"]),
        ),
    )
    money = settle_money(engine, model, today)
    _customers(engine)
    _deals(engine, model, kinds, days, today, money, given)
    basis = _stage_entries(engine, entities, shared, kinds, days, at, earlier or {})
    _date_stages(engine, basis, deal_kinds["stage_entered_at"], days, today)
    score_leads(engine, model.lead_scoring, kinds["leads"], days, money)
    _others(engine, model, kinds, days, today, money)
    return Assembled(today, money.currency, basis, given, money.unconverted)


# ── gathering ─────────────────────────────────────────────────────────────────────────────────────


def _gather(
    engine: Engine, table: str, sources: Mapping[str, Files], shared: Shared, days: Days, prefix: str = "gathered_"
) -> dict[str, pa.DataType]:
    """`gathered_<table>`: all sources' rows, every canonical column and `source`. Returns what each column's type came out as."""
    wanted = ENTITIES[table]
    schemas: dict[str, pa.Schema] = {}
    for source, paths in sorted(sources.items()):
        if paths:
            engine.parquet(f"{prefix}{table}@{source}", paths)
            schemas[source] = engine.schema(f"select * from {quoted(f'{prefix}{table}@{source}')}")
    kinds = {column.name: _kind(column, schemas.values()) for column in wanted}
    selects = [
        f"select {', '.join(_column(name, kind, schema, source, shared, days) for name, kind in kinds.items())}, "
        f"{text(source)} as source from {quoted(f'{prefix}{table}@{source}')}"
        for source, schema in schemas.items()
    ]
    nothing = ", ".join(f"cast(null as {SQL_TYPES[kind]}) as {name}" for name, kind in kinds.items())
    engine.view(f"{prefix}{table}", " union all ".join(selects) or f"select {nothing}, '' as source where 1 = 0")
    return kinds


def _kind(column: pa.Field, schemas: Iterable[pa.Schema]) -> pa.DataType:
    """A `WHEN` is an instant where any source gives instants, else a date."""
    if column.type != INSTANT:
        return column.type
    seen = {schema.field(column.name).type for schema in schemas if column.name in schema.names}
    return INSTANT if seen - {DATE} else DATE


def _column(name: str, kind: pa.DataType, schema: pa.Schema, source: str, shared: Shared, days: Days) -> str:
    if name not in schema.names:
        return f"cast(null as {SQL_TYPES[kind]}) as {name}"
    if kind == INSTANT and schema.field(name).type == DATE:
        return f"{days.instant(name)} as {name}"
    if source in shared.get(POINTS_TO.get(name, ""), ()):
        return f"{text(source + ':')} || {name} as {name}"
    return f"cast({name} as {SQL_TYPES[kind]}) as {name}"


def _look_up(engine: Engine) -> None:
    """`account_by_id`, `account_by_name`, …: one row per id and per name, the first by id and source where there are several."""
    for table, one in (("accounts", "account"), ("owners", "owner"), ("contacts", "contact"), ("products", "product")):
        for key, name in ((f"{one}_id", f"{one}_by_id"), (f"lower(trim({one}))", f"{one}_by_name")):
            engine.store(
                name,
                f"select * exclude (place) from (select *, {key} as name_key, "
                f"row_number() over (partition by {key} order by {one}_id nulls last, {one}, source) as place "
                f"from gathered_{table} where {key} is not null) where place = 1",
            )
    engine.store(
        "only_product",
        "select i.deal_id, min(coalesce(i.product, p.product)) as product, "
        "case when count(distinct coalesce(i.product_category, p.product_category)) = 1 "
        "then min(coalesce(i.product_category, p.product_category)) else null end as product_category "
        "from gathered_deal_products i left join product_by_id p on p.product_id = i.product_id "
        "group by i.deal_id having count(distinct coalesce(i.product, p.product)) = 1",
    )


# ── deals ─────────────────────────────────────────────────────────────────────────────────────────


def _customers(engine: Engine) -> None:
    engine.store(
        "first_won",
        "select account_key, cast(min(any_closed_on - date '1970-01-01') as integer) as first_won_day from deal_dated "
        "where settled_status = 'won' and account_key is not null and any_closed_on is not null group by account_key",
    )


def _deals(
    engine: Engine,
    model: ModelConfig,
    kinds: Mapping[str, Mapping[str, pa.DataType]],
    days: Days,
    today: date,
    money: Money,
    given: frozenset[str],
) -> None:
    deal, activity = kinds["deals"], kinds["activities"]
    joins, when = [], dict(deal)
    columns = {column: f"d.{column}" for column in ("last_activity_at", "next_activity_at")}
    if "activities" in given:
        for column, source in (("last_activity_at", "done_at"), ("next_activity_at", "due_at")):
            when[column] = activity[source] if deal[column] == activity[source] else INSTANT
            known = days.same(f"d.{column}", deal[column], when[column])
            columns[column] = f"coalesce({known}, {days.same(f'acts.{source}', activity[source], when[column])})"
        joins.append(
            "left join (select deal_id, max(done_at) as done_at, min(case when done_at is null then due_at else null end) as due_at "
            "from gathered_activities where deal_id is not null group by deal_id) acts on acts.deal_id = d.deal_id"
        )
    bucket, order = _sizes(model)
    sql = statement("assemble/deal_core").format(
        reporting=text(model.currency) if model.currency else "null",
        last_activity_at=columns["last_activity_at"],
        next_activity_at=columns["next_activity_at"],
        stage_entered_on=days.local("v.stage_entered_at", when["stage_entered_at"]),
        last_activity_on=days.local("known_last_activity_at", when["last_activity_at"]),
        next_activity_on=days.local("known_next_activity_at", when["next_activity_at"]),
        joins="\n  ".join(joins),
        **conversion(model, money, today),
        at_day=day_number(today),
        at_date=f"date '{today}'",
        size_bucket=bucket,
        size_order=order,
    )
    engine.keep("deal_core", sql)


def _sizes(model: ModelConfig) -> tuple[str, str]:
    """Label and place of a deal's size, as SQL over `reporting`; a bound belongs to the size above it."""
    bounds = model.size_buckets or SIZES
    names = [f"< {bounds[0]:,}", *(f"{low:,} – {high:,}" for low, high in pairwise(bounds)), f"≥ {bounds[-1]:,}"]
    tests = [f"when reporting < {bound}" for bound in bounds] + ["when reporting is not null"]
    label = "case " + " ".join(f"{test} then {text(name)}" for test, name in zip(tests, names, strict=True)) + " else null end"
    place = "case " + " ".join(f"{test} then {index}" for index, test in enumerate(tests, start=1)) + " else null end"
    return label, place


# ── the other tables ──────────────────────────────────────────────────────────────────────────────


def _stage_entries(
    engine: Engine,
    entities: Mapping[str, Mapping[str, Files]],
    shared: Shared,
    kinds: Mapping[str, Mapping[str, pa.DataType]],
    days: Days,
    at: datetime,
    earlier: Mapping[datetime, Mapping[str, Files]],
) -> str:
    """`stage_entries` and `visits`: from a source's history, else from our own earlier snapshots, else what a deal's stage implies."""
    entered = kinds["stage_entries"]["entered_at"]
    if entities.get("stage_entries"):
        basis = "history"
        engine.view("entered_stages", "select deal_id, pipeline, stage, entered_at, modified_at, source from gathered_stage_entries")
    elif earlier:
        basis, entered = "snapshot", INSTANT
        _watch(engine, {**earlier, at: entities.get("deals", {})}, shared, days)
    else:
        engine.store("stages_passed", statement("assemble/stages_passed"))
        engine.view("stage_entries", statement("assemble/stage_entries_reached"))
        engine.store("visits", f"select {', '.join(VISITS)} from stages_passed")
        return "reached"
    closed = kinds["deals"]["closed_at"]
    left = closed if entered == closed else INSTANT
    engine.view(
        "stage_steps",
        statement("assemble/stage_steps").format(
            basis=text(basis),
            entered_on=days.local("e.entered_at", entered),
            at_day=day_number(at.astimezone(days.timezone).date()),
            next_entered_at=days.same("next_entered_at", entered, left),
            closed_at=days.same("d.closed_at", closed, left),
        ),
    )
    columns = "deal_id, pipeline, stage, stage_order, entered_at, left_at, days, next_stage, outcome, basis, modified_at, source"
    engine.view(
        "stage_entries", f"select {columns} from stage_steps order by deal_id, entered_at nulls first, is_final, stage_order, stage"
    )
    engine.keep("visits", f"select {', '.join(VISITS)} from stage_steps")
    return basis


def _watch(engine: Engine, snapshots: Mapping[datetime, Mapping[str, Files]], shared: Shared, days: Days) -> None:
    """`entered_stages` from snapshots: a stage was entered when the deal says so, else when a snapshot first found it there.

    What the first snapshot found, nobody knows since when, unless the deal says so.
    """
    looks = []
    for place, (moment, sources) in enumerate(sorted(snapshots.items())):
        kinds = _gather(engine, "deals", sources, shared, days, prefix=f"seen_{place}_")
        told = days.same("stage_entered_at", kinds["stage_entered_at"], INSTANT)
        created = days.same("created_at", kinds["created_at"], INSTANT)
        looks.append(
            f"select deal_id, pipeline, stage, source, {place} as place, timestamptz {text(moment.isoformat())} as moment, "
            f"{told} as told, {created} as created from seen_{place}_deals where stage is not null"
        )
    engine.view("seen_stages", " union all ".join(looks))
    engine.view("entered_stages", statement("assemble/stages_seen"))


def _date_stages(engine: Engine, basis: str, kind: pa.DataType, days: Days, today: date) -> None:
    """`deal_facts` and `deals`: since when a deal is in its stage comes from the stage entries where the deal does not say."""
    if basis == "reached":
        engine.view("deal_facts", "select * from deal_core")
    else:
        engine.store("current_visits", "select deal_number, stage_number, entered_on from visits where outcome = 'current'")
        entered_at = days.instant("v.entered_on") if kind == INSTANT else "v.entered_on"
        engine.view(
            "deal_facts",
            statement("assemble/deal_stages").format(entered_at=entered_at, at_date=f"date '{today}'", at_day=day_number(today)),
        )
    engine.view("deals", f"select {', '.join(DEALS)} from deal_facts")


def _others(
    engine: Engine, model: ModelConfig, kinds: Mapping[str, Mapping[str, pa.DataType]], days: Days, today: date, money: Money
) -> None:
    """The tables that need little: names completed by id, and for the metrics days beside dates."""
    for table, order in (
        ("accounts", "account, account_id"),
        ("contacts", "contact, contact_id"),
        ("owners", "owner, owner_id"),
        ("products", "product, product_id"),
        ("rates", "currency, valid_from"),
    ):
        engine.view(table, f"select * from gathered_{table} order by {order}, source")
    for table, name in (("spend", "category"), ("quotas", "owner")):
        engine.view(
            table,
            statement("assemble/converted").format(
                table=table, name=name, home=text(money.currency or ""), amount=converted("g.amount", "r.rate")
            ),
        )
    for table in ("deal_products", "deal_contacts", "spend_facts", "quota_facts"):
        engine.view(table, statement(f"assemble/{table}"))
    activity = kinds["activities"]
    engine.view(
        "activity_facts",
        statement("assemble/activity_facts").format(
            due_on=days.local("a.due_at", activity["due_at"]), done_on=days.local("a.done_at", activity["done_at"])
        ),
    )
    engine.view(
        "activities",
        "select activity_id, deal_id, lead_id, owner, kind, subject, due_at, done_at, modified_at, source from activity_facts order by activity_id",
    )
    constants = {
        "at_day": day_number(today),
        "at_date": f"date '{today}'",
        "welcome_days": model.welcome_days,
        "reporting": f"cast({text(money.currency) if money.currency else 'null'} as varchar)",
    }
    for name in ("check_ins", "welcomes", "deal_memory"):
        engine.view(name, statement(f"assemble/{name}").format(**constants))
