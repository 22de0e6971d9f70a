-- Pipeline movement as people read it. Reads movements, step_days, stage_facts, note_words.
select
  t.period_start,
  t.period_end,
  case when m.pipeline_key = '' then null else m.pipeline_key end as pipeline,
  case when m.stage = '' then {none} else m.stage end as stage,
  w.note as expected,
  cast(m.opening as double) as opening,
  cast(m.new as double) as new,
  cast(m.increased as double) as increased,
  cast(m.decreased as double) as decreased,
  cast(m.pulled_in as double) as pulled_in,
  cast(m.pushed_out as double) as pushed_out,
  cast(m.moved_stage as double) as moved_stage,
  cast(m.reopened as double) as reopened,
  cast(m.won as double) as won,
  cast(m.lost as double) as lost,
  cast(m.removed as double) as removed,
  cast(m.currency_effect as double) as currency_effect,
  cast(m.closing as double) as closing
from movements m
inner join step_days t on t.place = m.place
left join stage_facts s on s.pipeline_key = m.pipeline_key and s.stage = m.stage
left join note_words w on w.code = case when m.expected = 1 then 'by_quarter_end' when m.expected = 2 then 'later' else 'no_date' end
order by t.place, m.pipeline_key, s.stage_order nulls last, m.stage, m.expected
