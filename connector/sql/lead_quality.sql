-- Leads by grade. Reads lead_facts, deal_facts, constants.
with judged as (
  select l.*, case when d.is_open = 1 then 1 else 0 end as in_pipeline
  from lead_facts l
  left join deal_facts d on d.deal_id = l.deal_id
)
select
  coalesce(j.grade, k.none) as grade,
  count(*) as leads,
  avg(j.score) as average_score,
  avg(j.profile_points) as profile_points,
  avg(j.behaviour_points) as behaviour_points,
  avg(j.engagement_points) as engagement_points,
  cast(sum(case when j.is_qualified = 1 then 1 else 0 end) as bigint) as qualified,
  cast(sum(case when j.is_qualified = 0 then 1 else 0 end) as bigint) as unqualified,
  cast(sum(case when j.is_qualified is null then 1 else 0 end) as bigint) as not_judged,
  cast(sum(case when j.is_qualified = 0 and j.in_pipeline = 1 then 1 else 0 end) as bigint) as unqualified_in_pipeline,
  cast(sum(case when j.budget = 1 then 1 else 0 end) as bigint) as with_budget,
  cast(sum(case when j.authority = 1 then 1 else 0 end) as bigint) as with_authority,
  cast(sum(case when j.need = 1 then 1 else 0 end) as bigint) as with_need,
  cast(sum(case when j.timing = 1 then 1 else 0 end) as bigint) as with_timing,
  cast(sum(j.is_converted) as bigint) as converted,
  cast(sum(j.is_converted) as double) / count(*) as lead_conversion_rate,
  cast(sum(j.value_reporting) as double) as value
from judged j
cross join constants k
group by j.grade, k.none
order by j.grade nulls last
