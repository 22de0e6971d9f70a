-- Lost deals to look in on again, three and six months after: due in the last 30 days or the coming 14. Reads deal_facts.
select deal_id, months, due_on, cast(due_on - date '1970-01-01' as integer) as due_day
from (
  select deal_id, 3 as months, cast(closed_on + interval 3 month as date) as due_on from deal_facts where is_lost = 1
  union all
  select deal_id, 6, cast(closed_on + interval 6 month as date) from deal_facts where is_lost = 1
)
where due_on between {at_date} - 30 and {at_date} + 14
