-- What sources say about each deal, with its status, days and customer settled. One row per deal.
-- Reads gathered_deals, stage_facts, account_by_id, account_by_name.
select
  d.*,
  s.stage_order as known_stage_order,
  s.probability as known_probability,
  s.stalled_after_days,
  case
    when s.configured = 1 and s.is_won = 1 then 'won'
    when s.configured = 1 and s.is_lost = 1 then 'lost'
    when d.status in ('open', 'won', 'lost') then d.status
    when s.is_won = 1 then 'won'
    when s.is_lost = 1 then 'lost'
    else 'open'
  end as settled_status,
  case when d.status is null and s.stage is null then 1 else 0 end as status_unknown,
  {created_on} as created_on,
  {closed_on} as any_closed_on,
  coalesce(d.account, ai.account) as known_account,
  coalesce(ai.segment, an.segment) as account_segment,
  coalesce(ai.region, an.region) as account_region,
  case when (d.account is not null or d.account_id is not null) and ai.account_id is null and an.name_key is null then 1 else 0 end
    as account_unmatched,
  coalesce(ai.account_id, an.account_id, an.name_key, d.account_id, lower(trim(d.account))) as account_key
from gathered_deals d
left join stage_facts s on s.stage = d.stage and s.pipeline_key = coalesce(d.pipeline, '')
left join account_by_id ai on ai.account_id = d.account_id
left join account_by_name an on an.name_key = lower(trim(d.account)) and ai.account_id is null
