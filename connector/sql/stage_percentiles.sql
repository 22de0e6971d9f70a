-- Median and 90th percentile of the days a visit took, for all deals (won_only = 0) and for won deals (won_only = 1).
-- Between two values the percentile lies on the line between them. Reads stage_days.
with counted as (
  select 0 as won_only, stage_number, days, cast(sum(visits) as bigint) as visits
  from stage_days
  group by stage_number, days
  union all
  select 1, stage_number, days, cast(sum(visits) as bigint)
  from stage_days
  where is_won = 1
  group by stage_number, days
),
placed as (
  select
    won_only,
    stage_number,
    days,
    sum(visits) over (partition by won_only, stage_number order by days rows between unbounded preceding and current row) as reached,
    sum(visits) over (partition by won_only, stage_number) as total,
    sum(days * visits) over (partition by won_only, stage_number) as all_days
  from counted
),
found as (
  select
    won_only,
    stage_number,
    max(total) as visits,
    max(all_days) as all_days,
    min(case when 2 * reached >= total then days else null end) as median_low,
    min(case when 2 * reached > total then days else null end) as median_high,
    min(case when 10 * reached > 9 * (total - 1) - (9 * (total - 1)) % 10 then days else null end) as ninety_low,
    min(case when 10 * reached > 9 * (total - 1) - (9 * (total - 1)) % 10 + 10 or reached = total then days else null end) as ninety_high,
    max((9 * (total - 1)) % 10) as tenths
  from placed
  group by won_only, stage_number
)
select
  won_only,
  stage_number,
  visits,
  cast(all_days as double) / visits as mean_days,
  (median_low + median_high) / 2.0 as median_days,
  ninety_low + (ninety_high - ninety_low) * tenths / 10.0 as ninety_days
from found
