-- Stages as our snapshots found them, each with the moment it was entered. Reads seen_stages.
with changes as (
  select
    *,
    lag(stage) over (partition by deal_id order by place) as stage_before,
    lag(pipeline) over (partition by deal_id order by place) as pipeline_before
  from seen_stages
)
select
  deal_id,
  pipeline,
  stage,
  case
    when told is not null then told
    when stage_before is null and place = 0 then null
    when stage_before is null and created is not null then created
    else moment
  end as entered_at,
  moment as modified_at,
  source
from changes
where stage_before is null or stage_before <> stage or pipeline_before is distinct from pipeline
