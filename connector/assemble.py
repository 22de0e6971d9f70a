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
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import pyarrow as pa

from connector.config import LeadScoring, ModelConfig
from connector.engine import Engine, SqlError, quoted, single_expression, unknown_column
from connector.errors import ConfigError
from connector.model import COUNT, DATE, DEALS, ENTITIES, FLAG, INSTANT, MONEY, NUMBER, RATE, TEXT
from connector.periods import day_number
from connector.stages import settle_stages

Files = Sequence[Path]
#: entities that several sources give, and those sources: their ids need the source's name
Shared = Mapping[str, frozenset[str]]
T = TypeVar("T")

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
}
SQL_TYPES: Final = {
    TEXT: "varchar",
    MONEY: "decimal(18, 4)",
    RATE: "decimal(18, 8)",
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


def text(value: str) -> str:
    """A SQL text constant."""
    return "'" + value.replace("'", "''") + "'"


def statement(name: str) -> str:
    """The SQL file `connector/sql/<name>.sql`."""
    return files("connector").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")


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
    days = _Days(timezone)
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
    money = _convert(engine, model, today)
    _customers(engine)
    _deals(engine, model, kinds, days, today, money, given)
    basis = _stage_entries(engine, entities, shared, kinds, days, at, earlier or {})
    _date_stages(engine, basis, deal_kinds["stage_entered_at"], days, today)
    _leads(engine, model, kinds["leads"], days, today, money)
    _others(engine, model, kinds, days, today, money)
    return Assembled(today, money.currency, basis, given, money.unconverted)


# ── gathering ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Days:
    """Which day a moment falls on."""

    timezone: ZoneInfo

    def local(self, column: str, kind: pa.DataType) -> str:
        """The local date of a column, as SQL."""
        return column if kind == DATE else f"cast(timezone({text(str(self.timezone))}, {column}) as date)"

    def instant(self, column: str) -> str:
        """Local midnight of a date column, as SQL."""
        return f"timezone({text(str(self.timezone))}, cast({column} as timestamp))"


def _gather(
    engine: Engine, table: str, sources: Mapping[str, Files], shared: Shared, days: _Days, prefix: str = "gathered_"
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
    """A `WHEN` is a date where every source that has it gives dates; what no source has is a date if we derive it."""
    if column.type != INSTANT:
        return column.type
    seen = {schema.field(column.name).type for schema in schemas if column.name in schema.names}
    return DATE if seen == {DATE} or (not seen and column.name == "stage_entered_at") else INSTANT


def _column(name: str, kind: pa.DataType, schema: pa.Schema, source: str, shared: Shared, days: _Days) -> str:
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


# ── money ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Money:
    """How amounts become reporting amounts.

    `rates` says that `rate_days` is to be joined, `mixed` that amounts cannot be added up, `today` has the rates of the run's date.
    """

    currency: str | None
    rates: bool = False
    mixed: bool = False
    unconverted: tuple[str, ...] = ()
    today: tuple[tuple[str, Decimal], ...] = ()


def _convert(engine: Engine, model: ModelConfig, today: date) -> _Money:
    """Settle the reporting currency, and `rate_days`: the rate valid on each day that a deal in a foreign currency needs."""
    _rates(engine, model)
    found = _texts(
        engine,
        "select currency from gathered_deals where currency is not null and amount is not null group by currency "
        "union select currency from gathered_leads where currency is not null and value is not null group by currency order by currency",
    )
    if model.currency is None:
        return _Money(found[0] if len(found) == 1 else None, mixed=len(found) > 1, unconverted=found if len(found) > 1 else ())
    if not set(found) - {model.currency}:
        return _Money(model.currency)
    home = text(model.currency)
    engine.store("rate_days", statement("assemble/rate_days").format(rate_day=_rate_day(today), home=home))
    missing = _texts(
        engine,
        f"select distinct d.currency from deal_dated d left join rate_days r on r.currency = d.currency and r.day = {_rate_day(today)} "
        f"where d.amount is not null and d.currency <> {home} and r.rate is null and d.rate is null order by d.currency",
    )
    current = engine.fetch(
        "select currency, rate from (select *, row_number() over (partition by currency order by first_day desc, rate) as place "
        f"from known_rates where first_day <= {day_number(today)}) where place = 1 order by currency"
    ).to_pylist()
    return _Money(model.currency, rates=True, unconverted=missing, today=tuple((row["currency"], row["rate"]) for row in current))


def _rates(engine: Engine, model: ModelConfig) -> None:
    """`known_rates`: rates into the reporting currency and the day each begins to hold."""
    fixed = {} if not model.rates or "path" in model.rates else model.rates
    always = day_number(date.min)
    constants = "".join(
        f" union all select {text(currency)}, {always}, cast({text(str(rate))} as decimal(18, 8))"
        for currency, rate in sorted(fixed.items())
    )
    engine.view(
        "known_rates",
        f"select currency, cast(coalesce(valid_from - date '1970-01-01', {always}) as integer) as first_day, rate "
        f"from gathered_rates where currency is not null and rate is not null{constants}",
    )


def _texts(engine: Engine, sql: str) -> tuple[str, ...]:
    return tuple(engine.fetch(sql).column(0).to_pylist())


def _rate_day(today: date) -> str:
    """Closed deals are converted on their close date, open ones on the run's date."""
    return f"case when settled_status = 'open' or any_closed_on is null then {day_number(today)} else any_closed_on - date '1970-01-01' end"


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
    days: _Days,
    today: date,
    money: _Money,
    given: frozenset[str],
) -> None:
    deal, activity = kinds["deals"], kinds["activities"]
    joins, when = [], dict(deal)
    columns = {column: f"d.{column}" for column in ("last_activity_at", "next_activity_at")}
    if "activities" in given:
        for column, source in (("last_activity_at", "done_at"), ("next_activity_at", "due_at")):
            when[column] = activity[source] if deal[column] == activity[source] else INSTANT
            known = _same(f"d.{column}", deal[column], when[column], days)
            columns[column] = f"coalesce({known}, {_same(f'acts.{source}', activity[source], when[column], days)})"
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
        **_conversion(model, money, today),
        at_day=day_number(today),
        at_date=f"date '{today}'",
        size_bucket=bucket,
        size_order=order,
    )
    engine.store("deal_core", sql)


def _same(column: str, kind: pa.DataType, wanted: pa.DataType, days: _Days) -> str:
    return days.instant(column) if kind == DATE and wanted == INSTANT else column


def _conversion(model: ModelConfig, money: _Money, today: date) -> dict[str, str]:
    """The columns `rate` and `amount_reporting`, and the join they need."""
    if money.mixed:
        return {"rate": "null", "amount_reporting": "cast(null as decimal(18, 4))", "rate_join": ""}
    if model.currency is None:
        return {"rate": "null", "amount_reporting": "c.amount", "rate_join": ""}
    home = f"c.known_currency = {text(model.currency)}"
    if not money.rates:
        return {"rate": "1", "amount_reporting": "c.amount", "rate_join": ""}
    rate = f"case when {home} then 1 else coalesce(r.rate, c.rate) end"
    return {
        "rate": rate,
        "amount_reporting": f"case when {home} then c.amount else round(c.amount * coalesce(r.rate, c.rate), 2) end",
        "rate_join": f"left join rate_days r on r.currency = c.currency and r.day = {_rate_day(today)}",
    }


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
    days: _Days,
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
            next_entered_at=_same("next_entered_at", entered, left, days),
            closed_at=_same("d.closed_at", closed, left, days),
        ),
    )
    columns = "deal_id, pipeline, stage, stage_order, entered_at, left_at, days, next_stage, outcome, basis, modified_at, source"
    engine.view("stage_entries", f"select {columns} from stage_steps")
    engine.store("visits", f"select {', '.join(VISITS)} from stage_steps")
    return basis


def _watch(engine: Engine, snapshots: Mapping[datetime, Mapping[str, Files]], shared: Shared, days: _Days) -> None:
    """`entered_stages` from snapshots: a stage was entered when the deal says so, else when a snapshot first found it there.

    What the first snapshot found, nobody knows since when, unless the deal says so.
    """
    looks = []
    for place, (moment, sources) in enumerate(sorted(snapshots.items())):
        kinds = _gather(engine, "deals", sources, shared, days, prefix=f"seen_{place}_")
        told = _same("stage_entered_at", kinds["stage_entered_at"], INSTANT, days)
        created = _same("created_at", kinds["created_at"], INSTANT, days)
        looks.append(
            f"select deal_id, pipeline, stage, source, {place} as place, timestamptz {text(moment.isoformat())} as moment, "
            f"{told} as told, {created} as created from seen_{place}_deals where stage is not null"
        )
    engine.view("seen_stages", " union all ".join(looks))
    engine.view("entered_stages", statement("assemble/stages_seen"))


def _date_stages(engine: Engine, basis: str, kind: pa.DataType, days: _Days, today: date) -> None:
    """`deal_facts` and `deals`: since when a deal is in its stage comes from the stage entries where the deal does not say."""
    if basis == "reached":
        engine.view("deal_facts", "select * from deal_core")
    else:
        engine.store("current_visits", "select deal_number, stage_number, entered_on from visits where outcome = 'current'")
        entered_at = days.instant("v.entered_on") if kind == INSTANT else "v.entered_on"
        engine.view(
            "deal_facts", statement("assemble/deal_stages").format(entered_at=entered_at, at_date=f"date '{today}'", at_day=day_number(today))
        )
    engine.view("deals", f"select {', '.join(DEALS)} from deal_facts")


def _leads(engine: Engine, model: ModelConfig, kinds: Mapping[str, pa.DataType], days: _Days, today: date, money: _Money) -> None:
    """`lead_facts` and `leads`, scored by the rules of `model.lead_scoring` where the source has no score of its own."""
    scoring = model.lead_scoring
    best_first = sorted(scoring.grades.items(), key=lambda item: -item[1])
    grades = " ".join(f"when score >= {least} then {text(grade)}" for grade, least in best_first)
    bant = f"case when bant_known = 0 then null when bant >= {scoring.bant_needed} then 1 else 0 end"
    by_score = f"case when score is null then null when score >= {scoring.qualified_score} then 1 else 0 end"
    engine.view(
        "lead_facts",
        statement("assemble/leads").format(
            **{kind: _points(scoring, kind) for kind in ("profile", "behaviour", "engagement")},
            grade=f"case when score is null then null {grades} else 'D' end",
            qualified=bant if scoring.qualified_score is None else by_score,
            created_on=days.local("created_at", kinds["created_at"]),
            value_reporting=_lead_value(engine, money, today),
        ),
    )
    try:
        columns = engine.schema("select * from lead_facts").names
    except SqlError as error:
        raise _bad_rule(engine, scoring, error) from error
    hidden = ("profile_points", "behaviour_points", "engagement_points", "value_reporting", "created_on", "created_day", "is_converted")
    engine.view("leads", f"select {', '.join(name for name in columns if name not in hidden)} from lead_facts")


def _points(scoring: LeadScoring, kind: str) -> str:
    rules = [rule for rule in scoring.rules if rule.kind == kind]
    return " + ".join(f"case when ({rule.when}) then {float(rule.points)} else 0.0 end" for rule in rules) or "cast(null as double)"


def _bad_rule(engine: Engine, scoring: LeadScoring, error: SqlError) -> ConfigError:
    """Which scoring rule does not fit the columns of `leads`."""
    for index, rule in enumerate(scoring.rules):
        try:
            single_expression(rule.when)
            engine.schema(f"select ({rule.when}) as fits from gathered_leads")
        except SqlError as reason:
            said = unknown_column(reason, ENTITIES["leads"].names) or str(reason)
            return ConfigError(f"model.lead_scoring.rules[{index}].when: {said}", remedy="write a SQL condition over the columns of leads")
    return error


def _lead_value(engine: Engine, money: _Money, today: date) -> str:
    """Leads are worth what they are worth today: a foreign currency is converted with the rate valid on the run's date."""
    if money.currency is None:
        return "cast(null as decimal(18, 4))" if money.mixed else "value"
    home = f"coalesce(currency, {text(money.currency)}) = {text(money.currency)}"
    rates = money.today
    foreign = " ".join(
        f"when currency = {text(currency)} then cast(round(value * {rate}, 2) as decimal(18, 4))" for currency, rate in rates
    )
    return f"case when {home} then value {foreign} else null end"


def _others(
    engine: Engine, model: ModelConfig, kinds: Mapping[str, Mapping[str, pa.DataType]], days: _Days, today: date, money: _Money
) -> None:
    """The tables that need little: names completed by id, and for the metrics days beside dates."""
    for table in ("accounts", "contacts", "owners", "products", "spend", "quotas", "rates"):
        engine.view(table, f"select * from gathered_{table}")
    for table in ("activities", "deal_products", "spend_facts", "quota_facts"):
        engine.view(table, statement(f"assemble/{table}"))
    activity = kinds["activities"]
    engine.view(
        "activity_facts",
        statement("assemble/activity_facts").format(
            due_on=days.local("due_at", activity["due_at"]), done_on=days.local("done_at", activity["done_at"])
        ),
    )
    constants = {
        "at_day": day_number(today),
        "at_date": f"date '{today}'",
        "welcome_days": model.welcome_days,
        "reporting": f"cast({text(money.currency) if money.currency else 'null'} as varchar)",
    }
    for name in ("check_ins", "welcomes", "deal_memory"):
        engine.view(name, statement(f"assemble/{name}").format(**constants))
