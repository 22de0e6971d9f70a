-- What happened on each day: the facts that add up over any span. Null days gather what has no date.
-- Reads deal_facts, lead_facts, first_won. One row per day.
with happened as (
  select
    created_day as day,
    1 as created,
    is_won as created_won,
    0 as won,
    0 as lost,
    0 as won_valued,
    0 as revenue,
    0 as lost_valued,
    0 as lost_value,
    0 as cycle_deals,
    0 as cycle_days,
    0 as won_incomplete,
    0 as existing_known,
    0 as existing_revenue,
    0 as known_revenue,
    0 as won_with_account,
    0 as new_customers,
    0 as expected_deals,
    0 as expected_valued,
    0 as expected_value,
    0 as leads,
    0 as leads_converted,
    0 as leads_valued,
    0 as lead_value
  from deal_facts
  union all
  select
    closed_day, 0, 0,
    is_won,
    is_lost,
    case when is_won = 1 and amount_reporting is not null then 1 else 0 end,
    case when is_won = 1 and amount_reporting is not null then amount_reporting else 0 end,
    case when is_lost = 1 and amount_reporting <> 0 then 1 else 0 end,
    case when is_lost = 1 and amount_reporting <> 0 then amount_reporting else 0 end,
    case when is_won = 1 and cycle_days is not null then 1 else 0 end,
    case when is_won = 1 and cycle_days is not null then cycle_days else 0 end,
    case when is_won = 1 and (amount_reporting is null or cycle_days is null) then 1 else 0 end,
    case when is_won = 1 and amount_reporting is not null and is_existing_customer is not null then 1 else 0 end,
    case when is_won = 1 and amount_reporting is not null and is_existing_customer = 1 then amount_reporting else 0 end,
    case when is_won = 1 and amount_reporting is not null and is_existing_customer is not null then amount_reporting else 0 end,
    case when is_won = 1 and account_key is not null then 1 else 0 end,
    0, 0, 0, 0, 0, 0, 0, 0
  from deal_facts
  where is_closed = 1
  union all
  select first_won_day, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0
  from first_won
  union all
  select
    expected_day, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1,
    case when amount_reporting is not null then 1 else 0 end,
    case when amount_reporting is not null then amount_reporting else 0 end,
    0, 0, 0, 0
  from deal_facts
  where is_open = 1
  union all
  select
    created_day, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1,
    is_converted,
    case when value_reporting is not null then 1 else 0 end,
    case when value_reporting is not null then value_reporting else 0 end
  from lead_facts
)
select
  day,
  cast(sum(created) as bigint) as created,
  cast(sum(created_won) as bigint) as created_won,
  cast(sum(won) as bigint) as won,
  cast(sum(lost) as bigint) as lost,
  cast(sum(won_valued) as bigint) as won_valued,
  sum(revenue) as revenue,
  cast(sum(lost_valued) as bigint) as lost_valued,
  sum(lost_value) as lost_value,
  cast(sum(cycle_deals) as bigint) as cycle_deals,
  cast(sum(cycle_days) as bigint) as cycle_days,
  cast(sum(won_incomplete) as bigint) as won_incomplete,
  cast(sum(existing_known) as bigint) as existing_known,
  sum(existing_revenue) as existing_revenue,
  sum(known_revenue) as known_revenue,
  cast(sum(won_with_account) as bigint) as won_with_account,
  cast(sum(new_customers) as bigint) as new_customers,
  cast(sum(expected_deals) as bigint) as expected_deals,
  cast(sum(expected_valued) as bigint) as expected_valued,
  sum(expected_value) as expected_value,
  cast(sum(leads) as bigint) as leads,
  cast(sum(leads_converted) as bigint) as leads_converted,
  cast(sum(leads_valued) as bigint) as leads_valued,
  sum(lead_value) as lead_value
from happened
group by day
