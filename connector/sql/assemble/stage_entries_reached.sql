-- The stages each deal must have passed, undated. Reads deal_core, stages_passed.
select
  d.deal_id,
  d.pipeline,
  p.passed_stage as stage,
  p.stage_order,
  cast(null as timestamptz) as entered_at,
  cast(null as timestamptz) as left_at,
  cast(null as integer) as days,
  p.next_stage,
  p.outcome,
  'reached' as basis,
  d.modified_at,
  d.source
from deal_core d
inner join stages_passed p on p.pipeline_key = coalesce(d.pipeline, '') and p.stage is not distinct from d.stage and p.status = d.status
order by d.deal_id, p.stage_order nulls last, p.passed_stage
