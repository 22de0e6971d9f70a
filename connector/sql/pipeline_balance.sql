-- How the open pipeline is spread over the stages, against how it should be: as configured, else as long as won deals take in each.
-- Reads open_deals, stage_facts, stage_percentiles, balance_targets, constants.
with held as (
  select
    coalesce(pipeline, '') as pipeline_key,
    stage,
    count(*) as deals,
    sum(case when amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when amount_reporting is not null then amount_reporting else 0 end) as value
  from open_deals
  where stage is not null
  group by coalesce(pipeline, ''), stage
),
whole as (
  select pipeline_key, sum(deals) as deals, sum(value) as value
  from held
  group by pipeline_key
),
known as (
  select s.pipeline_key, s.stage, s.stage_number, p.mean_days * p.visits as won_days
  from stage_facts s
  inner join stage_percentiles p on p.won_only = 1 and p.stage_number = s.stage_number
  where s.is_won = 0 and s.is_lost = 0
),
known_whole as (
  select pipeline_key, sum(won_days) as won_days
  from known
  group by pipeline_key
),
compared as (
  select
    s.pipeline,
    s.stage,
    s.stage_order,
    s.pipeline_key,
    coalesce(h.deals, 0) as deals,
    case when h.deals > 0 and h.valued = 0 then null else cast(coalesce(h.value, 0) as double) end as value,
    case when w.deals is null or w.deals = 0 then null else cast(coalesce(h.deals, 0) as double) / w.deals end as share,
    case when w.value is null or w.value = 0 then null else cast(coalesce(h.value, 0) as double) / cast(w.value as double) end as share_of_value,
    case
      when t.share is not null then t.share
      when n.won_days is null or n.won_days = 0 then null
      else k.won_days / n.won_days
    end as expected_share,
    case when t.share is not null then 'configured' when n.won_days > 0 then 'won_deals' else null end as basis
  from stage_facts s
  left join held h on h.pipeline_key = s.pipeline_key and h.stage = s.stage
  left join whole w on w.pipeline_key = s.pipeline_key
  left join known k on k.stage_number = s.stage_number
  left join known_whole n on n.pipeline_key = s.pipeline_key
  left join balance_targets t on t.stage = s.stage
  where s.is_won = 0 and s.is_lost = 0
)
select
  pipeline,
  stage,
  stage_order,
  cast(deals as bigint) as deals,
  value,
  share,
  share_of_value,
  expected_share,
  case
    when expected_share is null or share is null then null
    when share < 0.75 * expected_share then 'thin'
    when share > 1.25 * expected_share then 'crowded'
    else 'healthy'
  end as verdict,
  basis
from compared
order by pipeline_key, stage_order nulls last, stage
