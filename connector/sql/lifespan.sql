-- How long a customer stays, in years: as configured, else 1 ÷ the share of the customers of the twelve months before last
-- who did not buy in the last twelve. Reads window_customers, params.
select
  case
    when p.configured_lifespan is not null then p.configured_lifespan
    when b.customers > coalesce(n.kept, 0) then cast(b.customers as double) / (b.customers - coalesce(n.kept, 0))
    else null
  end as lifespan_years
from params p
left join window_customers b on b.name = 'trailing_12_months' and b.back = 1
left join window_customers n on n.name = 'trailing_12_months' and n.back = 0
