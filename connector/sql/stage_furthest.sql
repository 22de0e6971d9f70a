-- How far each deal came: the first and last place it had in its pipeline. Reads visits.
select deal_number, min(stage_order) as first_order, max(stage_order) as last_order
from visits
where is_final = 0 and stage_order is not null
group by deal_number
