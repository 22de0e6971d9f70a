-- The rate valid on each day that a deal in a foreign currency is converted on. Reads deal_dated, known_rates.
with needed as (
  select distinct currency, {rate_day} as day
  from deal_dated
  where amount is not null and currency is not null and currency <> {home}
),
dated as (
  select n.currency, n.day, k.rate, row_number() over (partition by n.currency, n.day order by k.first_day desc, k.rate) as place
  from needed n
  inner join known_rates k on k.currency = n.currency and k.first_day <= n.day
)
select currency, day, rate
from dated
where place = 1
