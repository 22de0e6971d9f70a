-- Activities with days beside dates.
select
  *,
  {due_on} as due_on,
  {done_on} as done_on,
  cast({due_on} - date '1970-01-01' as integer) as due_day,
  cast({done_on} - date '1970-01-01' as integer) as done_day
from activities
