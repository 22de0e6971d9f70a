-- Customers (accounts with a won deal) of each period, and how many of the period before bought again. Reads deal_facts, windows.
with bought as (
  select distinct account_key, closed_day
  from deal_facts
  where is_won = 1 and account_key is not null
),
present as (
  select distinct w.name, w.back, b.account_key
  from windows w
  inner join bought b on b.closed_day between w.start_day and w.end_day or (w.is_everything = 1 and b.closed_day is null)
  where w.kind = 'period'
)
select
  c.name,
  c.back,
  count(*) as customers,
  cast(sum(case when b.account_key is not null then 1 else 0 end) as bigint) as kept
from present c
left join present b on b.name = c.name and b.back = c.back + 1 and b.account_key = c.account_key
group by c.name, c.back
