-- How deals pass through each stage. Every deal that entered is in exactly one of: advanced, lost, still_here, moved_back.
-- Reads stage_facts, stage_reach, stage_furthest, stage_percentiles, constants.
with first_stage as (
  select pipeline_key, min(stage_order) as first_order
  from stage_facts
  where is_won = 0 and is_lost = 0 and stage_order is not null and stage_number in (select stage_number from stage_reach)
  group by pipeline_key
),
judged as (
  select
    r.weight,
    r.stage_number,
    r.is_won,
    case when r.is_won = 1 or f.last_order > s.stage_order then 1 else 0 end as advanced,
    r.lost_here,
    r.still_here
  from stage_reach r
  inner join stage_facts s on s.stage_number = r.stage_number
  left join stage_furthest f on f.deal_number = r.deal_number
),
counted as (
  select
    stage_number,
    cast(sum(weight) as bigint) as entered,
    cast(sum(weight * is_won) as bigint) as won,
    cast(sum(weight * advanced) as bigint) as advanced,
    cast(sum(case when advanced = 0 and lost_here = 1 then weight else 0 end) as bigint) as lost,
    cast(sum(case when advanced = 0 and lost_here = 0 and still_here = 1 then weight else 0 end) as bigint) as still_here
  from judged
  group by stage_number
),
started as (
  select s.pipeline_key, f.last_order, r.is_won, sum(r.weight) as deals
  from stage_reach r
  inner join stage_facts s on s.stage_number = r.stage_number
  inner join first_stage i on i.pipeline_key = s.pipeline_key and i.first_order = s.stage_order
  inner join stage_furthest f on f.deal_number = r.deal_number
  group by s.pipeline_key, f.last_order, r.is_won
),
passed as (
  select
    s.stage_number,
    cast(sum(t.deals) as bigint) as started,
    cast(sum(case when t.is_won = 1 or t.last_order >= s.stage_order then t.deals else 0 end) as bigint) as arrived
  from stage_facts s
  inner join started t on t.pipeline_key = s.pipeline_key
  where s.stage_order is not null
  group by s.stage_number
)
select
  s.pipeline,
  s.stage,
  s.stage_order,
  c.entered,
  c.advanced,
  c.lost,
  c.still_here,
  c.entered - c.advanced - c.lost - c.still_here as moved_back,
  c.won,
  cast(c.advanced as double) / c.entered as conversion,
  case when c.advanced + c.lost = 0 then null else cast(c.advanced as double) / (c.advanced + c.lost) end as conversion_of_decided,
  case when p.started is null or p.started = 0 then null else cast(p.arrived as double) / p.started end as cumulative_conversion,
  d.median_days,
  d.ninety_days as p90_days,
  k.stage_basis as basis
from stage_facts s
inner join counted c on c.stage_number = s.stage_number
left join passed p on p.stage_number = s.stage_number
left join stage_percentiles d on d.won_only = 0 and d.stage_number = s.stage_number
cross join constants k
order by s.pipeline_key, s.stage_order nulls last, s.stage
