-- Customers whose first won deal is at most {welcome_days} days old; the welcome ends on `due_on`. Reads deal_facts, first_won.
select min(d.deal_id) as deal_id, min(d.closed_on) + {welcome_days} as due_on, f.first_won_day + {welcome_days} as due_day
from first_won f
inner join deal_facts d on d.account_key = f.account_key and d.closed_day = f.first_won_day and d.is_won = 1
where f.first_won_day between {at_day} - {welcome_days} and {at_day}
group by f.account_key, f.first_won_day
