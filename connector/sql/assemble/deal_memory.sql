-- What the next run needs to know of this one's deals to say what changed.
select
  deal_id,
  name,
  account,
  owner,
  coalesce(pipeline, '') as pipeline_key,
  coalesce(stage, '') as stage,
  status,
  is_open,
  amount,
  currency,
  rate,
  coalesce(amount_reporting, 0) as value,
  expected_close_date as expected_on,
  expected_day,
  url,
  {at_date} as as_of,
  {reporting} as reporting_currency
from deal_facts
