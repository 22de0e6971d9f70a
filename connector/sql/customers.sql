-- Accounts with a won deal. Reads deal_facts, windows, constants.
with bought as (
  select
    d.account_key,
    min(d.account) as account,
    min(d.segment) as segment,
    min(d.region) as region,
    min(d.closed_on) as first_won,
    max(d.closed_on) as last_won,
    max(d.closed_day) as last_day,
    count(*) as won,
    sum(case when d.amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when d.amount_reporting is not null then d.amount_reporting else 0 end) as revenue,
    sum(case when d.amount_reporting is not null and d.closed_day >= w.start_day then d.amount_reporting else 0 end) as revenue_12_months
  from deal_facts d
  inner join windows w on w.kind = 'period' and w.name = 'trailing_12_months' and w.back = 0
  where d.is_won = 1 and d.account_key is not null
  group by d.account_key
),
pending as (
  select
    account_key,
    count(*) as open_deals,
    sum(case when amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when amount_reporting is not null then amount_reporting else 0 end) as open_value
  from deal_facts
  where is_open = 1 and account_key is not null
  group by account_key
)
select
  coalesce(b.account, b.account_key) as account,
  b.segment,
  b.region,
  b.first_won,
  b.last_won,
  b.won,
  case when b.valued = 0 then null else cast(b.revenue as double) end as revenue,
  case when b.valued = 0 then null else cast(b.revenue_12_months as double) end as revenue_12_months,
  cast(coalesce(p.open_deals, 0) as bigint) as open_deals,
  case when p.open_deals > 0 and p.valued = 0 then null else cast(coalesce(p.open_value, 0) as double) end as open_value,
  k.at_day - b.last_day as days_since_won,
  case when b.last_day is null then null when k.at_day - b.last_day > k.at_risk_days then 1 else 0 end as is_at_risk
from bought b
left join pending p on p.account_key = b.account_key
cross join constants k
order by b.revenue desc, b.account, b.account_key
