-- The median cycle of won deals in each period, from a count of deals by day and cycle. Reads windows, cycle_counts.
with counted as (
  select w.name, w.back, c.cycle_days, cast(sum(c.deals) as bigint) as deals
  from windows w
  inner join cycle_counts c on c.day between w.start_day and w.end_day or (w.is_everything = 1 and c.day is null)
  where w.kind = 'period'
  group by w.name, w.back, c.cycle_days
),
placed as (
  select
    name,
    back,
    cycle_days,
    sum(deals) over (partition by name, back order by cycle_days rows between unbounded preceding and current row) as reached,
    sum(deals) over (partition by name, back) as total
  from counted
)
select
  name,
  back,
  (min(case when 2 * reached >= total then cycle_days else null end) + min(case when 2 * reached > total then cycle_days else null end)) / 2.0
    as median_days
from placed
group by name, back
