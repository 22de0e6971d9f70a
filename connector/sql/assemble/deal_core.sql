-- One row per deal with every column metrics read: the columns of `deals`, plus days counted from 1970-01-01.
-- Reads deal_dated, the lookups by id and by name, rate_days, first_won. Factors of money are wider than they need be: DuckDB multiplies
-- decimals of up to 18 digits in 18 digits.
with completed as (
  select
    d.*,
    case when settled_status = 'open' then 1 else 0 end as is_open,
    case when settled_status = 'won' then 1 else 0 end as is_won,
    case when settled_status = 'lost' then 1 else 0 end as is_lost,
    case when settled_status = 'open' then null else any_closed_on end as closed_on,
    coalesce(d.owner, oi.owner) as known_owner,
    coalesce(d.team, oi.team, own.team) as known_team,
    coalesce(d.manager, oi.manager, own.manager) as known_manager,
    coalesce(d.region, d.account_region, oi.region, own.region) as known_region,
    coalesce(d.segment, d.account_segment) as known_segment,
    coalesce(d.contact, ci.contact) as known_contact,
    coalesce(d.product, pi.product, items.product) as known_product,
    coalesce(d.product_category, pi.product_category, pn.product_category, items.product_category) as known_category,
    case when (d.owner is not null or d.owner_id is not null) and oi.owner_id is null and own.name_key is null then 1 else 0 end
      as owner_unmatched,
    case when (d.product is not null or d.product_id is not null) and pi.product_id is null and pn.name_key is null then 1 else 0 end
      as product_unmatched,
    coalesce(d.currency, {reporting}) as known_currency,
    case
      when settled_status = 'won' then 1.0
      when settled_status = 'lost' then 0.0
      when coalesce(d.probability, d.known_probability) between 0 and 1 then coalesce(d.probability, d.known_probability)
      else null
    end as known_probability_now,
    {last_activity_at} as known_last_activity_at,
    {next_activity_at} as known_next_activity_at
  from deal_dated d
  left join owner_by_id oi on oi.owner_id = d.owner_id
  left join owner_by_name own on own.name_key = lower(trim(d.owner)) and oi.owner_id is null
  left join contact_by_id ci on ci.contact_id = d.contact_id
  left join product_by_id pi on pi.product_id = d.product_id
  left join product_by_name pn on pn.name_key = lower(trim(d.product)) and pi.product_id is null
  left join only_product items on items.deal_id = d.deal_id
  {joins}
),
converted as (
  select
    c.*,
    {rate} as rate_used,
    {amount_reporting} as reporting
  from completed c
  {rate_join}
),
dated as (
  select
    v.*,
    cast(v.created_on - date '1970-01-01' as integer) as created_day,
    cast(v.closed_on - date '1970-01-01' as integer) as closed_day,
    coalesce(
      v.expected_close_date, case when v.is_open = 1 then v.any_closed_on else null end
    ) as expected_on,
    {stage_entered_on} as stage_entered_on,
    first_won.first_won_day
  from converted v
  left join first_won on first_won.account_key = v.account_key
)
select
  row_number() over () as deal_number,
  deal_id,
  name,
  pipeline,
  stage,
  coalesce(known_stage_order, stage_order) as stage_order,
  settled_status as status,
  cast(is_open as tinyint) as is_open,
  cast(is_won as tinyint) as is_won,
  cast(is_lost as tinyint) as is_lost,
  cast(is_won + is_lost as tinyint) as is_closed,
  amount,
  known_currency as currency,
  cast(rate_used as decimal(18, 12)) as rate,
  cast(reporting as decimal(18, 4)) as amount_reporting,
  known_probability_now as probability,
  cast(round(reporting * cast(known_probability_now as decimal(20, 6)), 2) as decimal(18, 4)) as weighted_amount,
  forecast_category,
  known_owner as owner,
  known_team as team,
  known_manager as manager,
  known_account as account,
  known_segment as segment,
  known_region as region,
  known_contact as contact,
  known_product as product,
  known_category as product_category,
  lead_source,
  cast(coalesce(
    is_existing_customer,
    case
      when account_key is null then null
      when first_won_day < coalesce(closed_day, {at_day}) then 1
      else 0
    end
  ) as tinyint) as is_existing_customer,
  lost_reason,
  next_step,
  created_at,
  case when is_open = 1 then null else closed_at end as closed_at,
  expected_on as expected_close_date,
  stage_entered_at,
  known_last_activity_at as last_activity_at,
  known_next_activity_at as next_activity_at,
  modified_at,
  case when is_open = 1 and created_day <= {at_day} then {at_day} - created_day else null end as age_days,
  case when is_open = 0 and closed_day >= created_day then closed_day - created_day else null end as cycle_days,
  case
    when is_open = 1 and stage_entered_on <= {at_date} then {at_day} - cast(stage_entered_on - date '1970-01-01' as integer)
    else null
  end as days_in_stage,
  {size_bucket} as size_bucket,
  strftime(created_on, '%Y-%m') as created_month,
  strftime(closed_on, '%Y-%m') as closed_month,
  url,
  source,
  created_on,
  closed_on,
  stage_entered_on,
  created_day,
  closed_day,
  cast(expected_on - date '1970-01-01' as integer) as expected_day,
  strftime(expected_on, '%Y-%m') as expected_month,
  cast(stage_entered_on - date '1970-01-01' as integer) as stage_entered_day,
  {last_activity_on} as last_activity_on,
  {next_activity_on} as next_activity_on,
  {size_order} as size_order,
  account_key,
  stalled_after_days,
  status_unknown,
  cast(case when probability is not null and (probability < 0 or probability > 1) then 1 else 0 end as tinyint) as probability_refused,
  cast(account_unmatched as tinyint) as account_unmatched,
  cast(owner_unmatched as tinyint) as owner_unmatched,
  cast(product_unmatched as tinyint) as product_unmatched
from dated
order by deal_id
