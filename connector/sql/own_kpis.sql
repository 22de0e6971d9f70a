-- The admin's own metrics in the shape of ours. Reads own_values, windows.
select
  1000 as place,
  o.metric,
  w.name as period,
  w.back,
  w.period_start,
  w.period_end,
  w.position,
  w.is_running,
  o.value,
  cast(null as double) as numerator,
  cast(null as double) as denominator,
  cast(coalesce(o.rows_used, 0) as bigint) as rows_used,
  cast(coalesce(o.rows_left_out, 0) as bigint) as rows_left_out,
  'no_value' as reason
from own_values o
inner join windows w on w.kind = 'period' and w.kind = o.kind and w.name = o.name and w.back = o.back
where w.back < 2
