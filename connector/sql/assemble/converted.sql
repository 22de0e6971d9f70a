-- Spend or quotas in the reporting currency, by the rate of the day the period begins; without a currency they are in it. Reads gathered_{table}, known_rates.
with needed as (
  select distinct currency, period, cast(period - date '1970-01-01' as integer) as day
  from gathered_{table}
  where currency <> {home}
),
dated as (
  select n.currency, n.period, k.rate, row_number() over (partition by n.currency, n.period order by k.first_day desc, k.rate) as place
  from needed n
  inner join known_rates k on k.currency = n.currency and k.first_day <= n.day
)
select
  g.period,
  g.{name},
  case when g.currency is null or g.currency = {home} or {home} = '' then g.amount else {amount} end as amount,
  g.modified_at,
  g.source
from gathered_{table} g
left join dated r on r.currency = g.currency and r.period = g.period and r.place = 1
order by g.period, g.{name}, amount, g.source
