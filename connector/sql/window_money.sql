-- Spend and quota of each window. A month's spend is spread evenly over its days, so that a window takes its share.
-- Reads windows, spend_facts, quota_facts. One row per window.
with spent as (
  select
    w.kind,
    w.name,
    w.back,
    sum(
      cast(s.amount as double)
      * (case when s.end_day < w.end_day then s.end_day else w.end_day end
        - case when s.start_day > w.start_day then s.start_day else w.start_day end + 1)
      / (s.end_day - s.start_day + 1)
    ) as spend,
    count(*) as spend_rows
  from windows w
  inner join spend_facts s on s.start_day <= w.end_day and s.end_day >= w.start_day
  group by w.kind, w.name, w.back
),
wanted as (
  select w.kind, w.name, w.back, sum(q.amount) as quota, count(*) as quota_rows
  from windows w
  inner join quota_facts q on q.start_day between w.start_day and w.end_day
  group by w.kind, w.name, w.back
)
select w.kind, w.name, w.back, round(s.spend, 2) as spend, s.spend_rows, q.quota, q.quota_rows
from windows w
left join spent s on s.kind = w.kind and s.name = w.name and s.back = w.back
left join wanted q on q.kind = w.kind and q.name = w.name and q.back = w.back
