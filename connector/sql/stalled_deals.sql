-- Open deals that have been in their stage for longer than its limit, worst first. Reads open_deals.
select
  deal_id,
  name,
  account,
  owner,
  team,
  pipeline,
  stage,
  amount_reporting,
  days_in_stage,
  stall_limit as limit_days,
  days_in_stage - stall_limit as days_over,
  limit_basis as basis,
  stage_entered_on,
  last_activity_on,
  next_activity_on,
  expected_close_date,
  url
from open_deals
where days_in_stage > stall_limit
order by days_in_stage - stall_limit desc, amount_reporting desc nulls last, deal_id
