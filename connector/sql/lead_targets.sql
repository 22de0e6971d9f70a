-- Value of new leads per day, week and month against the target, and where it is heading. A running span is projected at its own pace so far, a coming month at the pace of the
-- last 30 days. Reads windows, flows, constants.
with pace as (
  select cast(f.lead_value as double) / w.days_so_far as per_day
  from flows f
  inner join windows w on w.kind = f.kind and w.name = f.name and w.back = f.back
  where f.kind = 'period' and f.name = 'trailing_30_days' and f.back = 0
),
any_leads as (
  select sum(leads) as leads
  from flows
  where kind = 'period' and name = 'all'
)
select
  substr(w.kind, 6) as span,
  w.name as start,
  w.period_start,
  w.period_end,
  f.leads,
  case when f.leads > 0 and f.leads_valued = 0 then null else cast(f.lead_value as double) end as value,
  cast(k.lead_value_per_day as double) * w.days as target,
  case
    when k.lead_value_per_day is null or k.lead_value_per_day = 0 or w.days_so_far = 0 then null
    else cast(f.lead_value as double) / (cast(k.lead_value_per_day as double) * w.days_so_far)
  end as attainment,
  case
    when w.days_so_far = 0 then p.per_day * w.days
    when w.is_running = 1 then cast(f.lead_value as double) / w.days_so_far * w.days
    else cast(f.lead_value as double)
  end as projected
from windows w
inner join flows f on f.kind = w.kind and f.name = w.name and f.back = w.back
cross join pace p
cross join any_leads s
cross join constants k
where w.kind in ('lead_day', 'lead_week', 'lead_month') and s.leads > 0
order by w.position
