-- Activities with the owner's name completed by id.
select a.activity_id, a.deal_id, a.lead_id, coalesce(a.owner, o.owner) as owner, a.kind, a.subject, a.due_at, a.done_at, a.modified_at, a.source
from gathered_activities a
left join owner_by_id o on o.owner_id = a.owner_id
