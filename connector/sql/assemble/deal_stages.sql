-- Deals with the day they came to their stage, where only the stage entries know it. Reads deal_core, current_visits, stage_facts.
select
  d.* exclude (stage_entered_at, stage_entered_on, stage_entered_day, days_in_stage),
  coalesce(d.stage_entered_at, {entered_at}) as stage_entered_at,
  coalesce(d.stage_entered_on, v.entered_on) as stage_entered_on,
  coalesce(d.stage_entered_day, cast(v.entered_on - date '1970-01-01' as integer)) as stage_entered_day,
  coalesce(
    d.days_in_stage,
    case when d.is_open = 1 and v.entered_on <= {at_date} then {at_day} - cast(v.entered_on - date '1970-01-01' as integer) else null end
  ) as days_in_stage
from deal_core d
left join (
  select v.deal_number, v.entered_on, s.stage
  from current_visits v
  inner join stage_facts s on s.stage_number = v.stage_number
) v on v.deal_number = d.deal_number and v.stage = d.stage
