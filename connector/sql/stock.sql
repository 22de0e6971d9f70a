-- Deals that were open at the end of each window, with today's amounts. One row per window.
-- A window that reaches the run's date has the deals open now, dated or not; an earlier one those created by its end
-- and not closed by then. Reads deal_facts, windows, params.
with moves as (
  select
    created_day as day,
    1 as deals,
    case when amount_reporting <> 0 or amount_reporting = 0 and is_lost = 0 then 1 else 0 end as valued,
    case when amount_reporting is not null then amount_reporting else 0 end as value
  from deal_facts
  where created_day is not null and (is_open = 1 or closed_day is not null)
  union all
  select
    case when closed_day > created_day then closed_day else created_day end,
    -1,
    case when amount_reporting <> 0 or amount_reporting = 0 and is_lost = 0 then -1 else 0 end,
    case when amount_reporting is not null then -amount_reporting else 0 end
  from deal_facts
  where created_day is not null and is_closed = 1 and closed_day is not null
),
moved as (
  select day, cast(sum(deals) as bigint) as deals, cast(sum(valued) as bigint) as valued, sum(value) as value
  from moves
  group by day
),
past as (
  select w.kind, w.name, w.back, cast(sum(m.deals) as bigint) as deals, cast(sum(m.valued) as bigint) as valued, sum(m.value) as value
  from windows w
  inner join moved m on m.day <= w.end_day
  where w.is_current = 0
  group by w.kind, w.name, w.back
),
today as (
  select
    count(*) as deals,
    cast(sum(case when amount_reporting is not null then 1 else 0 end) as bigint) as valued,
    sum(amount_reporting) as value,
    cast(sum(case when weighted_amount is not null then 1 else 0 end) as bigint) as weighted_deals,
    sum(weighted_amount) as weighted_value,
    cast(sum(case when days_in_stage is not null and stall_limit is not null then 1 else 0 end) as bigint) as judged,
    cast(sum(case when days_in_stage > stall_limit then 1 else 0 end) as bigint) as stalled
  from open_deals
)
select
  w.kind,
  w.name,
  w.back,
  case when w.is_current = 1 then t.deals else coalesce(p.deals, 0) end as open_deals,
  case when w.is_current = 1 then coalesce(t.valued, 0) else coalesce(p.valued, 0) end as open_valued,
  case when w.is_current = 1 then coalesce(t.value, 0) else coalesce(p.value, 0) end as open_value,
  case when w.is_current = 1 then coalesce(t.weighted_deals, 0) else null end as weighted_deals,
  case when w.is_current = 1 then coalesce(t.weighted_value, 0) else null end as weighted_value,
  case when w.is_current = 1 then coalesce(t.judged, 0) else null end as judged,
  case when w.is_current = 1 then coalesce(t.stalled, 0) else null end as stalled
from windows w
cross join today t
left join past p on p.kind = w.kind and p.name = w.name and p.back = w.back
