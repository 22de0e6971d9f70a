-- Rates into the reporting currency, also by way of the currency that a source's rates go to. Reads given_rates.
with based as (
  select currency, to_currency as base, first_day, rate
  from given_rates
  where to_currency <> {home}
),
mine as (
  select base, first_day, rate
  from based
  where currency = {home} and rate > 0
),
theirs as (
  select base, currency, first_day, rate
  from based
  where currency <> {home} and currency <> base
  union all
  select distinct base, base, cast({always} as integer), cast(1 as {rate})
  from based
),
days as (
  select base, currency, first_day from theirs
  union
  select t.base, t.currency, m.first_day from theirs t inner join mine m on m.base = t.base
),
crossed as (
  select
    d.currency,
    d.first_day,
    t.rate / m.rate as rate,
    row_number() over (partition by d.base, d.currency, d.first_day order by t.first_day desc, m.first_day desc, t.rate, m.rate) as place
  from days d
  inner join theirs t on t.base = d.base and t.currency = d.currency and t.first_day <= d.first_day
  inner join mine m on m.base = d.base and m.first_day <= d.first_day
)
select currency, first_day, rate
from given_rates
where to_currency is null or to_currency = {home}
union all
select currency, first_day, cast(rate as {rate}) as rate
from crossed
where place = 1
