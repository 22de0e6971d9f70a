-- Spend with its month as first and last day.
select
  category,
  amount,
  cast(date_trunc('month', period) as date) as month_start,
  cast(cast(date_trunc('month', period) as date) - date '1970-01-01' as integer) as start_day,
  cast(last_day(period) - date '1970-01-01' as integer) as end_day
from spend
where amount is not null and period is not null
