-- Each window's measures with what they are compared with and the constants of the run: what the formulas read.
-- Reads measures, constants.
select
  m.*,
  p.revenue as previous_revenue,
  p.won as previous_won,
  p.won_valued as previous_valued,
  p.customers as previous_customers,
  k.lifespan_years,
  k.margin,
  k.lead_value_per_day
from measures m
left join measures p
  on p.kind = m.kind
  and (m.kind = 'period' and p.name = m.name and p.back = m.back + 1 or m.kind <> 'period' and p.position = m.position - 1)
cross join constants k
