-- Won deals by close day and cycle.
select closed_day as day, cycle_days, count(*) as deals
from deal_facts
where is_won = 1 and cycle_days is not null
group by closed_day, cycle_days
