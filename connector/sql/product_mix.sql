-- Leads and deals per product category against their targets. A product without a category stands for itself.
-- Reads deal_facts, lead_facts, product_targets. A mix nobody fills has no rows.
with sold as (
  select
    coalesce(product_category, product) as category,
    count(*) as created,
    sum(is_won) as won,
    sum(is_lost) as lost,
    sum(case when is_won = 1 and amount_reporting is not null then 1 else 0 end) as valued,
    sum(case when is_won = 1 and amount_reporting is not null then amount_reporting else 0 end) as revenue
  from deal_facts
  group by coalesce(product_category, product)
),
asked as (
  select coalesce(product_category, product) as category, count(*) as leads
  from lead_facts
  group by coalesce(product_category, product)
),
named as (
  select category from sold where category is not null
  union
  select category from asked where category is not null
  union
  select category from product_targets
),
whole as (
  select sum(revenue) as revenue from sold
),
all_leads as (
  select sum(leads) as leads from asked
),
mixed as (
  select
    n.category,
    coalesce(a.leads, 0) as leads,
    coalesce(s.created, 0) as created,
    coalesce(s.won, 0) as won,
    coalesce(s.lost, 0) as lost,
    case when s.won > 0 and s.valued = 0 then null else cast(coalesce(s.revenue, 0) as double) end as revenue,
    case when s.won + s.lost > 0 then cast(s.won as double) / (s.won + s.lost) else null end as win_rate,
    t.win_rate as target_win_rate,
    case when w.revenue is null or w.revenue = 0 then null else cast(coalesce(s.revenue, 0) as double) / cast(w.revenue as double) end
      as revenue_share,
    t.revenue_share as target_revenue_share,
    case when l.leads is null or l.leads = 0 then null else cast(coalesce(a.leads, 0) as double) / l.leads end as lead_share,
    t.lead_share as target_lead_share
  from named n
  left join sold s on s.category = n.category
  left join asked a on a.category = n.category
  left join product_targets t on t.category = n.category
  cross join whole w
  cross join all_leads l
)
select
  category as product_category,
  cast(leads as bigint) as leads,
  cast(created as bigint) as created,
  cast(won as bigint) as won,
  cast(lost as bigint) as lost,
  revenue,
  win_rate,
  target_win_rate,
  win_rate - target_win_rate as win_rate_gap,
  revenue_share,
  target_revenue_share,
  revenue_share - target_revenue_share as revenue_share_gap,
  lead_share,
  target_lead_share,
  lead_share - target_lead_share as lead_share_gap
from mixed
order by revenue desc nulls last, category
