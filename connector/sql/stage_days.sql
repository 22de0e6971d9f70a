-- How many visits to each stage took how many days, ended visits only. Reads visits.
select stage_number, is_won, days, count(*) as visits
from visits
where is_final = 0 and days is not null and outcome <> 'current'
group by stage_number, is_won, days
