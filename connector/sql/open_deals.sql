-- Open deals with the days they may stand in their stage. Reads deal_facts, stall_limits.
select d.*, l.stall_limit, l.basis as limit_basis
from deal_facts d
left join stall_limits l on l.stage = d.stage and l.pipeline_key = coalesce(d.pipeline, '')
where d.is_open = 1
