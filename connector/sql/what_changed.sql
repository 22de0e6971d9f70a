-- Deal by deal, what is different from the snapshot before. Reads before, after.
with changes as (
  select
    1 as place, 'won' as change, a.deal_id, a.name, a.account, a.owner, b.stage as was, a.stage as is_now, b.value as amount_before, a.value as amount_after, a.url
  from after a
  left join before b on b.deal_id = a.deal_id
  where a.status = 'won' and (b.deal_id is null or b.status <> 'won')
  union all
  select 2, 'lost', a.deal_id, a.name, a.account, a.owner, b.stage, a.stage, b.value, a.value, a.url
  from after a
  left join before b on b.deal_id = a.deal_id
  where a.status = 'lost' and (b.deal_id is null or b.status <> 'lost')
  union all
  select 3, 'new', a.deal_id, a.name, a.account, a.owner, null, a.stage, null, a.value, a.url
  from after a
  left join before b on b.deal_id = a.deal_id
  where b.deal_id is null and a.is_open = 1
  union all
  select 4, 'reopened', a.deal_id, a.name, a.account, a.owner, b.stage, a.stage, b.value, a.value, a.url
  from after a
  inner join before b on b.deal_id = a.deal_id
  where a.is_open = 1 and b.is_open = 0
  union all
  select 5, 'stage', a.deal_id, a.name, a.account, a.owner, b.stage, a.stage, b.value, a.value, a.url
  from after a
  inner join before b on b.deal_id = a.deal_id
  where a.is_open = 1 and b.is_open = 1 and (a.stage <> b.stage or a.pipeline_key <> b.pipeline_key)
  union all
  select 6, 'amount', a.deal_id, a.name, a.account, a.owner, null, null, b.value, a.value, a.url
  from after a
  inner join before b on b.deal_id = a.deal_id
  where coalesce(a.amount, -1) <> coalesce(b.amount, -1) or coalesce(a.currency, '') <> coalesce(b.currency, '')
  union all
  select 7, 'close_date', a.deal_id, a.name, a.account, a.owner, cast(b.expected_on as varchar), cast(a.expected_on as varchar), b.value, a.value, a.url
  from after a
  inner join before b on b.deal_id = a.deal_id
  where a.is_open = 1 and b.is_open = 1 and coalesce(cast(a.expected_on as varchar), '') <> coalesce(cast(b.expected_on as varchar), '')
  union all
  select 8, 'owner', a.deal_id, a.name, a.account, a.owner, b.owner, a.owner, b.value, a.value, a.url
  from after a
  inner join before b on b.deal_id = a.deal_id
  where coalesce(a.owner, '') <> coalesce(b.owner, '')
  union all
  select 9, 'removed', b.deal_id, b.name, b.account, b.owner, b.stage, null, b.value, null, b.url
  from before b
  left join after a on a.deal_id = b.deal_id
  where a.deal_id is null
)
select
  deal_id,
  name,
  account,
  owner,
  change,
  was as before,
  is_now as after,
  cast(amount_before as double) as amount_before,
  cast(amount_after as double) as amount_after,
  url
from changes
order by place, amount_after desc nulls last, amount_before desc nulls last, deal_id
