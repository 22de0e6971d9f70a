-- Facts without a date: they count in the period `all` and in no other.
select
  cast(coalesce(sum(created), 0) as bigint) as created,
  cast(coalesce(sum(won), 0) as bigint) as won,
  cast(coalesce(sum(lost), 0) as bigint) as lost,
  cast(coalesce(sum(expected_deals), 0) as bigint) as expected,
  cast(coalesce(sum(leads), 0) as bigint) as leads
from daily
where day is null
