-- The people of each deal with their roles, names completed by id, the primary one first.
select
  r.deal_contact_id,
  r.deal_id,
  coalesce(r.contact, c.contact) as contact,
  r.role,
  r.is_primary,
  r.modified_at,
  r.source
from gathered_deal_contacts r
left join contact_by_id c on c.contact_id = r.contact_id
order by r.deal_id, r.is_primary desc nulls last, contact, r.deal_contact_id
