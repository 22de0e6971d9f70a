-- Which stages each deal was in, won and lost aside: one row per deal and stage. Where there is no history one row stands for
-- all deals alike (`weight`). Reads visits.
select
  deal_number,
  stage_number,
  max(weight) as weight,
  max(is_won) as is_won,
  max(case when outcome = 'lost' then 1 else 0 end) as lost_here,
  max(case when outcome = 'current' then 1 else 0 end) as still_here
from visits
where is_final = 0
group by deal_number, stage_number
