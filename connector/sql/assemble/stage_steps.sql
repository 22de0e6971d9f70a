-- How long each deal stood where, and where it went. Reads entered_stages (deal_id, pipeline, stage, stage_order, entered_at),
-- stage_facts and deal_core. Entries that repeat the stage before them are one entry; entries of deals there are no longer are none.
with known as (
  select
    d.deal_number,
    e.deal_id,
    coalesce(e.pipeline, d.pipeline) as pipeline,
    e.stage,
    s.stage_number,
    s.stage_order,
    e.entered_at,
    {entered_on} as entered_on,
    e.modified_at,
    e.source,
    s.is_won as is_won_stage,
    s.is_lost as is_lost_stage,
    d.status,
    d.is_won,
    {closed_at} as closed_at,
    d.closed_day
  from entered_stages e
  inner join deal_core d on d.deal_id = e.deal_id
  inner join stage_facts s on s.stage = e.stage and s.pipeline_key = coalesce(e.pipeline, d.pipeline, '')
),
changes as (
  select
    *,
    lag(stage_number) over (partition by deal_number order by entered_at nulls first, is_won_stage + is_lost_stage, stage_order, stage) as stage_before
  from known
),
steps as (
  select
    *,
    lead(stage) over w as next_stage,
    lead(stage_order) over w as next_order,
    lead(is_won_stage) over w as next_won,
    lead(is_lost_stage) over w as next_lost,
    lead(entered_at) over w as next_entered_at,
    lead(entered_on) over w as next_entered_on
  from changes
  where stage_before is null or stage_before <> stage_number
  window w as (partition by deal_number order by entered_at nulls first, is_won_stage + is_lost_stage, stage_order, stage)
),
ended as (
  select
    *,
    is_won_stage + is_lost_stage as is_final,
    case
      when next_stage is not null then {next_entered_at}
      when is_won_stage = 1 or is_lost_stage = 1 or status = 'open' then null
      else closed_at
    end as left_at,
    cast(entered_on - date '1970-01-01' as integer) as entered_day,
    case
      when next_stage is not null then cast(next_entered_on - date '1970-01-01' as integer)
      when is_won_stage = 1 or is_lost_stage = 1 then null
      when status in ('won', 'lost') then closed_day
      else {at_day}
    end as left_day
  from steps
)
select
  deal_number,
  stage_number,
  1 as weight,
  is_won,
  is_final,
  deal_id,
  pipeline,
  stage,
  stage_order,
  entered_at,
  entered_on,
  left_at,
  case when left_day >= entered_day then left_day - entered_day else null end as days,
  next_stage,
  case
    when next_won = 1 then 'won'
    when next_lost = 1 then 'lost'
    when next_stage is not null and next_order < stage_order then 'moved_back'
    when next_stage is not null then 'advanced'
    when status in ('won', 'lost') then status
    else 'current'
  end as outcome,
  {basis} as basis,
  modified_at,
  source
from ended
