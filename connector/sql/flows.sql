-- What happened within each window. One row per window. Reads windows, daily.
select
  w.kind,
  w.name,
  w.back,
  cast(coalesce(sum(d.created), 0) as bigint) as created,
  cast(coalesce(sum(d.created_won), 0) as bigint) as created_won,
  cast(coalesce(sum(d.won), 0) as bigint) as won,
  cast(coalesce(sum(d.lost), 0) as bigint) as lost,
  cast(coalesce(sum(d.won_valued), 0) as bigint) as won_valued,
  coalesce(sum(d.revenue), 0) as revenue,
  cast(coalesce(sum(d.lost_valued), 0) as bigint) as lost_valued,
  coalesce(sum(d.lost_value), 0) as lost_value,
  cast(coalesce(sum(d.cycle_deals), 0) as bigint) as cycle_deals,
  cast(coalesce(sum(d.cycle_days), 0) as bigint) as cycle_days,
  cast(coalesce(sum(d.won_incomplete), 0) as bigint) as won_incomplete,
  cast(coalesce(sum(d.existing_known), 0) as bigint) as existing_known,
  coalesce(sum(d.existing_revenue), 0) as existing_revenue,
  coalesce(sum(d.known_revenue), 0) as known_revenue,
  cast(coalesce(sum(d.won_with_account), 0) as bigint) as won_with_account,
  cast(coalesce(sum(d.new_customers), 0) as bigint) as new_customers,
  cast(coalesce(sum(d.expected_deals), 0) as bigint) as expected_deals,
  cast(coalesce(sum(d.expected_valued), 0) as bigint) as expected_valued,
  coalesce(sum(d.expected_value), 0) as expected_value,
  cast(coalesce(sum(d.leads), 0) as bigint) as leads,
  cast(coalesce(sum(d.leads_converted), 0) as bigint) as leads_converted,
  cast(coalesce(sum(d.leads_valued), 0) as bigint) as leads_valued,
  coalesce(sum(d.lead_value), 0) as lead_value
from windows w
left join daily d on d.day between w.start_day and w.end_day or (w.is_everything = 1 and d.day is null)
group by w.kind, w.name, w.back
