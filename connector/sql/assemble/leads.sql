-- Leads with names completed by id, scored, with value in the reporting currency and days. Reads gathered_leads and the lookups.
with named as (
  select
      l.* exclude (owner, product_category),
    coalesce(l.owner, o.owner) as owner,
    coalesce(l.product_category, p.product_category) as product_category
  from gathered_leads l
  left join owner_by_id o on o.owner_id = l.owner_id
  left join product_by_name p on p.name_key = lower(trim(l.product))
),
pointed as (
  select
    *,
    {profile} as profile_points,
    {behaviour} as behaviour_points,
    {engagement} as engagement_points
  from named
),
scored as (
  select
    * exclude (score),
    coalesce(score, case
      when profile_points is null and behaviour_points is null and engagement_points is null then null
      else coalesce(profile_points, 0) + coalesce(behaviour_points, 0) + coalesce(engagement_points, 0)
    end) as score,
    coalesce(budget, 0) + coalesce(authority, 0) + coalesce(need, 0) + coalesce(timing, 0) as bant,
    case when budget is null and authority is null and need is null and timing is null then 0 else 1 end as bant_known
  from pointed
)
select
  lead_id,
  name,
  company,
  owner,
  status,
  lead_source,
  product,
  product_category,
  created_at,
  converted_at,
  deal_id,
  value,
  currency,
  budget,
  authority,
  need,
  timing,
  score,
  coalesce(grade, {grade}) as grade,
  cast(coalesce(is_qualified, {qualified}) as tinyint) as is_qualified,
  modified_at,
  source,
  profile_points,
  behaviour_points,
  engagement_points,
  {value_reporting} as value_reporting,
  {created_on} as created_on,
  cast({created_on} - date '1970-01-01' as integer) as created_day,
  case when converted_at is not null or deal_id is not null then 1 else 0 end as is_converted
from scored l
