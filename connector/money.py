"""The reporting currency, and the rate by which each amount becomes a reporting amount."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from connector.config import ModelConfig
from connector.engine import Engine
from connector.periods import day_number
from connector.statements import statement, text

SQL_RATE: Final = "decimal(18, 12)"
FACTOR: Final = "decimal(24, 12)"  # DuckDB multiplies decimals of up to 18 digits in 18 digits: a million times a rate would not fit


@dataclass(frozen=True, slots=True)
class Money:
    """How amounts become reporting amounts.

    `rates` says that `rate_days` is to be joined, `mixed` that amounts cannot be added up, `today` has the rates of the run's date.
    """

    currency: str | None
    rates: bool = False
    mixed: bool = False
    unconverted: tuple[str, ...] = ()
    today: tuple[tuple[str, Decimal], ...] = ()


def settle_money(engine: Engine, model: ModelConfig, today: date) -> Money:
    """Settle the reporting currency, and `rate_days`: the rate valid on each day that a deal in a foreign currency needs."""
    _rates(engine, model)
    found = _texts(
        engine,
        "select currency from gathered_deals where currency is not null and amount is not null group by currency "
        "union select currency from gathered_leads where currency is not null and value is not null group by currency order by currency",
    )
    if model.currency is None:
        return Money(found[0] if len(found) == 1 else None, mixed=len(found) > 1, unconverted=found if len(found) > 1 else ())
    if not set(found) - {model.currency}:
        return Money(model.currency)
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
    return Money(model.currency, rates=True, unconverted=missing, today=tuple((row["currency"], row["rate"]) for row in current))


def _rates(engine: Engine, model: ModelConfig) -> None:
    """`known_rates`: rates into the reporting currency and the day each begins to hold.

    A CRM's rates go to its own currency. Where that is another one, an amount goes there first and from there, by the rate of the same day,
    to the reporting currency; without a rate of the reporting currency there is none.
    """
    fixed = {} if not model.rates or "path" in model.rates else model.rates
    always = day_number(date.min)
    constants = "".join(
        f" union all select {text(currency)}, cast(null as varchar), {always}, cast({text(str(rate))} as {SQL_RATE})"
        for currency, rate in sorted(fixed.items())
    )
    engine.view(
        "given_rates",
        f"select currency, to_currency, cast(coalesce(valid_from - date '1970-01-01', {always}) as integer) as first_day, rate "
        f"from gathered_rates where currency is not null and rate is not null{constants}",
    )
    home = text(model.currency or "")
    engine.view("known_rates", statement("assemble/known_rates").format(home=home, always=always, rate=SQL_RATE))


def _texts(engine: Engine, sql: str) -> tuple[str, ...]:
    return tuple(engine.fetch(sql).column(0).to_pylist())


def _rate_day(today: date) -> str:
    """Closed deals are converted on their close date, open ones on the run's date."""
    return f"case when settled_status = 'open' or any_closed_on is null then {day_number(today)} else any_closed_on - date '1970-01-01' end"


def conversion(model: ModelConfig, money: Money, today: date) -> dict[str, str]:
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
        "amount_reporting": f"case when {home} then c.amount else {converted('c.amount', 'coalesce(r.rate, c.rate)')} end",
        "rate_join": f"left join rate_days r on r.currency = c.currency and r.day = {_rate_day(today)}",
    }


def converted(amount: str, rate: str) -> str:
    """SQL for an amount in another currency, to the cent."""
    return f"cast(round({amount} * cast({rate} as {FACTOR}), 2) as decimal(18, 4))"


def lead_value(money: Money) -> str:
    """Leads are worth what they are worth today: a foreign currency is converted with the rate valid on the run's date."""
    if money.currency is None:
        return "cast(null as decimal(18, 4))" if money.mixed else "value"
    home = f"coalesce(currency, {text(money.currency)}) = {text(money.currency)}"
    foreign = " ".join(f"when currency = {text(currency)} then {converted('value', str(rate))}" for currency, rate in money.today)
    return f"case when {home} then value {foreign} else null end"
