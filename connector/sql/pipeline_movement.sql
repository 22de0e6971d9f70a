-- From one snapshot's open pipeline to the next one's: what came, what went, what changed, by stage and by when deals are expected.
-- A deal that changes stage or expectation leaves one row and enters another, so that every row adds up by itself.
-- Reads before, after (deal_id, stage_key, pipeline_key, expected, is_open, status, amount, rate, value).
with both_open as (
  select
    b.pipeline_key,
    b.stage as old_stage,
    a.stage as new_stage,
    a.pipeline_key as new_pipeline_key,
    b.expected as old_expected,
    a.expected as new_expected,
    b.value as old_value,
    a.value as new_value,
    case
      when b.currency = a.currency and b.rate is not null and a.rate is not null and b.rate <> a.rate and b.amount is not null
        then cast(round(b.amount * cast(a.rate as decimal(24, 12)), 2) as decimal(18, 4)) - b.value
      else 0
    end as currency_effect
  from before b
  inner join after a on a.deal_id = b.deal_id
  where b.is_open = 1 and a.is_open = 1
),
postings as (
  select pipeline_key, stage, expected, 'opening' as kind, value from before where is_open = 1
  union all
  select pipeline_key, stage, expected, 'closing', value from after where is_open = 1
  union all
  select a.pipeline_key, a.stage, a.expected, case when b.deal_id is null then 'new' else 'reopened' end, a.value
  from after a
  left join before b on b.deal_id = a.deal_id
  where a.is_open = 1 and (b.deal_id is null or b.is_open = 0)
  union all
  select b.pipeline_key, b.stage, b.expected, case when a.deal_id is null then 'removed' else a.status end, -b.value
  from before b
  left join after a on a.deal_id = b.deal_id
  where b.is_open = 1 and (a.deal_id is null or a.is_open = 0)
  union all
  select pipeline_key, old_stage, old_expected, 'moved_stage', -old_value
  from both_open
  where old_stage <> new_stage or pipeline_key <> new_pipeline_key
  union all
  select new_pipeline_key, new_stage, old_expected, 'moved_stage', old_value
  from both_open
  where old_stage <> new_stage or pipeline_key <> new_pipeline_key
  union all
  select new_pipeline_key, new_stage, old_expected, case when new_expected < old_expected then 'pulled_in' else 'pushed_out' end, -old_value
  from both_open
  where old_expected <> new_expected
  union all
  select new_pipeline_key, new_stage, new_expected, case when new_expected < old_expected then 'pulled_in' else 'pushed_out' end, old_value
  from both_open
  where old_expected <> new_expected
  union all
  select new_pipeline_key, new_stage, new_expected, 'currency_effect', currency_effect
  from both_open
  union all
  select
    new_pipeline_key,
    new_stage,
    new_expected,
    case when new_value - old_value - currency_effect > 0 then 'increased' else 'decreased' end,
    new_value - old_value - currency_effect
  from both_open
)
select
  pipeline_key,
  stage,
  expected,
  sum(case when kind = 'opening' then value else 0 end) as opening,
  sum(case when kind = 'new' then value else 0 end) as new,
  sum(case when kind = 'increased' then value else 0 end) as increased,
  sum(case when kind = 'decreased' then value else 0 end) as decreased,
  sum(case when kind = 'pulled_in' then value else 0 end) as pulled_in,
  sum(case when kind = 'pushed_out' then value else 0 end) as pushed_out,
  sum(case when kind = 'moved_stage' then value else 0 end) as moved_stage,
  sum(case when kind = 'reopened' then value else 0 end) as reopened,
  sum(case when kind = 'won' then value else 0 end) as won,
  sum(case when kind = 'lost' then value else 0 end) as lost,
  sum(case when kind = 'removed' then value else 0 end) as removed,
  sum(case when kind = 'currency_effect' then value else 0 end) as currency_effect,
  sum(case when kind = 'closing' then value else 0 end) as closing
from postings
group by pipeline_key, stage, expected
