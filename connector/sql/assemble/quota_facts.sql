-- One quota per day a period begins on: the team's where it has one, else the sum of its owners'.
select
  cast(period - date '1970-01-01' as integer) as start_day,
  strftime(period, '%Y-%m') as month,
  case
    when sum(case when owner is null or owner = '' then 1 else 0 end) > 0
      then sum(case when owner is null or owner = '' then amount else 0 end)
    else sum(amount)
  end as amount
from quotas
where amount is not null and period is not null
group by period
