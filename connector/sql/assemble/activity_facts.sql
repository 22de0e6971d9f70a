-- Activities with the owner's name completed by id and days beside dates. Reads gathered_activities, owner_by_id.
select
  a.* exclude (owner, owner_id),
  coalesce(a.owner, o.owner) as owner,
  {due_on} as due_on,
  {done_on} as done_on,
  cast({due_on} - date '1970-01-01' as integer) as due_day,
  cast({done_on} - date '1970-01-01' as integer) as done_day
from gathered_activities a
left join owner_by_id o on o.owner_id = a.owner_id
