-- One row per value of a dimension, over everything. Reads open_deals by way of deal_facts. A dimension nobody fills has no rows.
with summed as (
  select
    {dimension} as value,
    min({order}) as place,
    count(*) as deals,
    cast(sum(is_open) as bigint) as open_deals,
    cast(sum(case when is_open = 1 and amount_reporting is not null then 1 else 0 end) as bigint) as open_valued,
    sum(case when is_open = 1 and amount_reporting is not null then amount_reporting else 0 end) as open_value,
    cast(sum(case when is_open = 1 and weighted_amount is not null then 1 else 0 end) as bigint) as weighted_deals,
    sum(case when is_open = 1 and weighted_amount is not null then weighted_amount else 0 end) as weighted_value,
    count(*) as created,
    cast(sum(is_won) as bigint) as won,
    cast(sum(is_lost) as bigint) as lost,
    cast(sum(case when is_won = 1 and amount_reporting is not null then 1 else 0 end) as bigint) as won_valued,
    sum(case when is_won = 1 and amount_reporting is not null then amount_reporting else 0 end) as revenue,
    cast(sum(case when is_won = 1 and cycle_days is not null then 1 else 0 end) as bigint) as cycle_deals,
    cast(sum(case when is_won = 1 and cycle_days is not null then cycle_days else 0 end) as bigint) as cycle_days,
    count(*) as opportunities
  from deal_facts
  group by {dimension}
)
select
  coalesce(m.value, {none}) as {name},
  {columns}
from summed m
where (select count(value) from summed) > 0
order by case when m.value is null then 1 else 0 end, {sort}
