-- One row per month or quarter, without gaps. Reads measures.
select
  m.name as {name},
  m.period_start,
  {columns}
from measures m
left join measures p on p.kind = m.kind and p.position = m.position - 1
where m.kind = '{name}'
order by m.position
