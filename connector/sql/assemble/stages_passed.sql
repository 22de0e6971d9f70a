-- Without any history: a deal in a stage, or won, passed every stage before it; a lost deal only what its stage says.
-- One row per pipeline, stage and status that deals have, and stage these deals passed; `weight` is the number of deals.
-- Reads deal_core, stage_facts.
with alike as (
  select coalesce(pipeline, '') as pipeline_key, stage, status, is_won, is_lost, count(*) as weight, min(deal_number) as deal_number
  from deal_core
  group by coalesce(pipeline, ''), stage, status, is_won, is_lost
),
passed as (
  select a.*, s.stage as passed_stage, s.stage_number, s.stage_order
  from alike a
  left join stage_facts here on here.stage = a.stage and here.pipeline_key = a.pipeline_key
  inner join stage_facts s
    on s.pipeline_key = a.pipeline_key and s.is_won = 0 and s.is_lost = 0
    and (
      s.stage = a.stage
      or s.stage_order < here.stage_order and (a.is_lost = 0 or here.is_lost = 0)
      or a.is_won = 1 and s.stage_order is not null and (here.is_won = 1 or here.stage is null)
    )
)
select
  deal_number,
  stage_number,
  weight,
  is_won,
  0 as is_final,
  pipeline_key,
  stage,
  status,
  passed_stage,
  stage_order,
  cast(null as date) as entered_on,
  cast(null as integer) as days,
  next_stage,
  case when next_stage is not null then 'advanced' when is_won = 1 then 'won' when is_lost = 1 then 'lost' else 'current' end as outcome
from (
  select *, lead(passed_stage) over (partition by deal_number order by stage_order, passed_stage) as next_stage
  from passed
)
