-- One row per month or quarter, without gaps. Reads spans.
select
  m.name as {name},
  m.period_start,
  {columns}
from spans m
where m.kind = '{name}'
order by m.position
