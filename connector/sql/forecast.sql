-- What is still expected, by month and forecast category, and what is already closed (category `closed`) against the quota.
-- The rows add up: value is won or expected once. Reads open_deals, deal_facts, quota_facts, windows, constants.
with expected as (
  select
    d.expected_month as month,
    d.forecast_category as category,
    1 as place,
    count(*) as deals,
    sum(case when d.amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when d.amount_reporting is not null then d.amount_reporting else 0 end) as value,
    sum(case when d.weighted_amount is not null then 1 else 0 end) as weighed,
    sum(case when d.weighted_amount is not null then d.weighted_amount else 0 end) as weighted_value
  from open_deals d
  group by d.expected_month, d.forecast_category
),
this_year as (
  select start_day, end_day from windows where kind = 'period' and name = 'this_year' and back = 0
),
won as (
  select
    d.closed_month as month,
    count(*) as deals,
    sum(case when d.amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when d.amount_reporting is not null then d.amount_reporting else 0 end) as value
  from deal_facts d
  inner join this_year y on d.closed_day between y.start_day and y.end_day
  where d.is_won = 1
  group by d.closed_month
),
wanted as (
  select q.month, sum(q.amount) as quota
  from quota_facts q
  inner join this_year y on q.start_day >= y.start_day
  group by q.month
),
months as (
  select month from won
  union
  select month from wanted
),
lines as (
  select month, category, place, deals, valued, value, weighed, weighted_value, null as quota from expected
  union all
  select
    m.month,
    'closed',
    0,
    coalesce(w.deals, 0),
    coalesce(w.valued, 0),
    coalesce(w.value, 0),
    coalesce(w.valued, 0),
    coalesce(w.value, 0),
    q.quota
  from months m
  left join won w on w.month = m.month
  left join wanted q on q.month = m.month
),
monthly as (
  select month, sum(weighted_value) as weighted_value, max(quota) as quota
  from lines
  group by month
)
select
  coalesce(l.month, k.none) as month,
  coalesce(l.category, k.none) as forecast_category,
  cast(l.deals as bigint) as deals,
  case when l.deals > 0 and l.valued = 0 then null else cast(l.value as double) end as value,
  case when l.deals > 0 and l.weighed = 0 then null else cast(l.weighted_value as double) end as weighted_value,
  cast(sum(l.weighted_value) over (
    partition by 1 order by l.month nulls last, l.place, l.category nulls last rows between unbounded preceding and current row
  ) as double) as cumulative_weighted,
  cast(l.quota as double) as quota,
  case when l.quota is null or l.quota = 0 then null else cast(m.weighted_value as double) / cast(l.quota as double) end as quota_coverage
from lines l
left join monthly m on m.month = l.month
cross join constants k
order by l.month nulls last, l.place, l.category nulls last
