-- After how many days in its stage an open deal counts as stalled: as configured, else the 90th percentile of the visits of won deals,
-- from ten visits on. Reads stage_facts, stage_percentiles.
select
  s.stage_number,
  s.pipeline_key,
  s.stage,
  cast(coalesce(s.stalled_after_days, p.ninety_days) as double) as stall_limit,
  case when s.stalled_after_days is not null then 'configured' when p.ninety_days is not null then 'won_deals' else null end as basis
from stage_facts s
left join stage_percentiles p on p.won_only = 1 and p.stage_number = s.stage_number and p.visits >= 10
