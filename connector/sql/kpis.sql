-- Headline metrics as people read them: one row per metric and period. Reads kpi_values, metric_words, note_words.
select
  v.metric,
  w.label,
  v.period,
  v.period_start,
  v.period_end,
  v.value,
  p.value as previous,
  v.value - p.value as change,
  case when p.value is null or p.value = 0 then null else (v.value - p.value) / p.value end as change_pct,
  w.unit,
  v.numerator,
  v.denominator,
  v.rows_used,
  v.rows_left_out,
  n.note
from kpi_values v
inner join metric_words w on w.metric = v.metric
left join kpi_values p on p.metric = v.metric and p.period = v.period and p.back = v.back + 1
left join note_words n on n.code = case when v.value is null then v.reason when v.is_running = 1 then 'running' else null end
where v.back = 0
order by v.place, v.metric, v.position
