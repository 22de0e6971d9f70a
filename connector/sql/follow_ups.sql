-- What to do next, most urgent first. Reads open_deals, deal_facts, activity_facts, check_ins, first_won, constants.
with known as (
  select sum(case when next_activity_on is not null then 1 else 0 end) as planned
  from open_deals
),
tasks as (
  select
    1 as place,
    'overdue_activity' as reason,
    a.due_on as due_date,
    a.due_day,
    a.deal_id,
    a.lead_id,
    d.name,
    coalesce(d.account, l.company) as account,
    coalesce(a.owner, d.owner) as owner,
    d.amount_reporting,
    coalesce(a.subject, a.kind) as subject,
    d.url
  from activity_facts a
  left join deal_facts d on d.deal_id = a.deal_id
  left join lead_facts l on l.lead_id = a.lead_id
  cross join constants k
  where a.done_at is null and a.due_day < k.at_day and (d.is_open = 1 or a.deal_id is null)
  union all
  select 2, 'close_date_past', expected_close_date, expected_day, deal_id, null, name, account, owner, amount_reporting, stage, url
  from open_deals
  cross join constants k
  where expected_day < k.at_day
  union all
  select 3, 'no_next_activity', k.at_date, k.at_day, deal_id, null, name, account, owner, amount_reporting, stage, url
  from open_deals
  cross join constants k
  cross join known
  where next_activity_on is null and known.planned > 0
  union all
  select
    4,
    case when c.months = 3 then 'check_in_3_months' else 'check_in_6_months' end,
    c.due_on,
    c.due_day,
    d.deal_id,
    null,
    d.name,
    d.account,
    d.owner,
    d.amount_reporting,
    d.lost_reason,
    d.url
  from check_ins c
  inner join deal_facts d on d.deal_id = c.deal_id
  union all
  select 5, 'welcome', w.due_on, w.due_day, d.deal_id, null, d.name, d.account, d.owner, d.amount_reporting, d.product, d.url
  from welcomes w
  inner join deal_facts d on d.deal_id = w.deal_id
)
select
  reason,
  due_date,
  case when k.at_day > t.due_day then k.at_day - t.due_day else 0 end as days_overdue,
  owner,
  account,
  name,
  amount_reporting,
  subject,
  deal_id,
  lead_id,
  url
from tasks t
cross join constants k
order by place, due_day, amount_reporting desc nulls last, deal_id, lead_id, subject
