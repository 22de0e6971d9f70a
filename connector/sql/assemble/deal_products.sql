-- Line items with product and category completed by id, else by name.
select
  i.deal_product_id,
  i.deal_id,
  coalesce(i.product, pi.product) as product,
  coalesce(i.product_category, pi.product_category, pn.product_category) as product_category,
  i.quantity,
  i.amount,
  i.modified_at,
  i.source
from gathered_deal_products i
left join product_by_id pi on pi.product_id = i.product_id
left join product_by_name pn on pn.name_key = lower(trim(i.product)) and pi.product_id is null
order by i.deal_id, i.deal_product_id, product
