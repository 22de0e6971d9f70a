"""The canonical tables: what every source is normalised into and every metric reads.

Definitions are in docs/metrics.md. Two layers share these names:

* an *entity* is what one source gave for a table (`ENTITIES`): text, money, dates as the source has them;
* the *canonical table* of a run joins the entities of all sources and adds the columns
  derived once at the border (`DEALS`), so that metrics are plain SQL over columns.
"""

from typing import Final

import pyarrow as pa

TEXT: Final = pa.string()
MONEY: Final = pa.decimal128(18, 4)  # KWD has three decimals, rates need four
RATE: Final = pa.decimal128(18, 12)  # a yen or a đồng is a small part of a euro
NUMBER: Final = pa.float64()
COUNT: Final = pa.int64()
FLAG: Final = pa.int8()  # 0 or 1: SQLite, Spark and Excel agree on integers, not on booleans
DATE: Final = pa.date32()
INSTANT: Final = pa.timestamp("us", tz="UTC")

#: A date a person reads. A source may know the instant (CRM APIs) or only the day (exports);
#: the column is then `INSTANT` or `DATE`, and a date-only value is never shifted through a time zone.
WHEN: Final = INSTANT


def _table(**columns: pa.DataType) -> pa.schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


#: canonical table -> columns a source may fill, by canonical name
ENTITIES: Final[dict[str, pa.Schema]] = {
    "deals": _table(
        deal_id=TEXT,
        name=TEXT,
        pipeline=TEXT,
        stage=TEXT,
        stage_order=COUNT,
        status=TEXT,
        amount=MONEY,
        currency=TEXT,
        rate=RATE,
        probability=NUMBER,
        forecast_category=TEXT,
        owner=TEXT,
        owner_id=TEXT,
        team=TEXT,
        manager=TEXT,
        account=TEXT,
        account_id=TEXT,
        segment=TEXT,
        region=TEXT,
        contact=TEXT,
        contact_id=TEXT,
        product=TEXT,
        product_id=TEXT,
        product_category=TEXT,
        lead_source=TEXT,
        is_existing_customer=FLAG,
        lost_reason=TEXT,
        next_step=TEXT,
        created_at=WHEN,
        closed_at=WHEN,
        expected_close_date=DATE,
        stage_entered_at=WHEN,
        last_activity_at=WHEN,
        next_activity_at=WHEN,
        modified_at=WHEN,
        url=TEXT,
    ),
    "stages": _table(
        pipeline=TEXT,
        stage=TEXT,
        stage_order=COUNT,
        probability=NUMBER,
        is_won=FLAG,
        is_lost=FLAG,
        stalled_after_days=COUNT,
        modified_at=WHEN,
    ),
    "stage_entries": _table(
        deal_id=TEXT,
        pipeline=TEXT,
        stage=TEXT,
        stage_order=COUNT,
        entered_at=WHEN,
        modified_at=WHEN,
    ),
    "leads": _table(
        lead_id=TEXT,
        name=TEXT,
        company=TEXT,
        owner=TEXT,
        owner_id=TEXT,
        status=TEXT,
        lead_source=TEXT,
        product=TEXT,
        product_category=TEXT,
        created_at=WHEN,
        converted_at=WHEN,
        deal_id=TEXT,
        value=MONEY,
        currency=TEXT,
        budget=FLAG,
        authority=FLAG,
        need=FLAG,
        timing=FLAG,
        score=NUMBER,
        grade=TEXT,
        is_qualified=FLAG,
        modified_at=WHEN,
    ),
    "activities": _table(
        activity_id=TEXT,
        deal_id=TEXT,
        lead_id=TEXT,
        owner=TEXT,
        owner_id=TEXT,
        kind=TEXT,
        subject=TEXT,
        due_at=WHEN,
        done_at=WHEN,
        modified_at=WHEN,
    ),
    "accounts": _table(account_id=TEXT, account=TEXT, segment=TEXT, region=TEXT, owner=TEXT, modified_at=WHEN),
    "contacts": _table(contact_id=TEXT, contact=TEXT, account_id=TEXT, account=TEXT, email=TEXT, modified_at=WHEN),
    "owners": _table(owner_id=TEXT, owner=TEXT, team=TEXT, manager=TEXT, region=TEXT, email=TEXT, modified_at=WHEN),
    "products": _table(product_id=TEXT, product=TEXT, product_category=TEXT, price=MONEY, modified_at=WHEN),
    "deal_products": _table(
        deal_product_id=TEXT,
        deal_id=TEXT,
        product_id=TEXT,
        product=TEXT,
        product_category=TEXT,
        quantity=NUMBER,
        amount=MONEY,
        modified_at=WHEN,
    ),
    "deal_contacts": _table(
        deal_contact_id=TEXT,
        deal_id=TEXT,
        contact_id=TEXT,
        contact=TEXT,
        role=TEXT,
        is_primary=FLAG,
        modified_at=WHEN,
    ),
    "spend": _table(period=DATE, category=TEXT, amount=MONEY, currency=TEXT, modified_at=WHEN),
    "quotas": _table(period=DATE, owner=TEXT, amount=MONEY, currency=TEXT, modified_at=WHEN),
    "rates": _table(currency=TEXT, to_currency=TEXT, valid_from=DATE, rate=RATE, modified_at=WHEN),
}

#: the column(s) that name a record for good; several = together
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "deals": ("deal_id",),
    "stages": ("pipeline", "stage"),
    "stage_entries": ("deal_id", "stage", "entered_at"),
    "leads": ("lead_id",),
    "activities": ("activity_id",),
    "accounts": ("account_id", "account"),
    "contacts": ("contact_id", "contact"),
    "owners": ("owner_id", "owner"),
    "products": ("product_id", "product"),
    "deal_products": ("deal_product_id",),
    "deal_contacts": ("deal_contact_id",),
    "spend": (),
    "quotas": (),
    "rates": ("currency", "valid_from"),
}

#: columns without which a table has no meaning
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "deals": ("deal_id",),
    "stages": ("stage",),
    "stage_entries": ("deal_id", "stage", "entered_at"),
    "leads": ("lead_id",),
    "activities": ("activity_id",),
    "spend": ("period", "amount"),
    "quotas": ("period", "amount"),
    "rates": ("currency", "valid_from", "rate"),
    "deal_products": ("deal_id",),
    "deal_contacts": ("deal_id",),
}

#: `deals` as people see it (docs/metrics.md), in this order
DEALS: Final[tuple[str, ...]] = (
    "deal_id",
    "name",
    "pipeline",
    "stage",
    "stage_order",
    "status",
    "is_open",
    "is_won",
    "is_lost",
    "is_closed",
    "amount",
    "currency",
    "rate",
    "amount_reporting",
    "probability",
    "weighted_amount",
    "forecast_category",
    "owner",
    "team",
    "manager",
    "account",
    "segment",
    "region",
    "contact",
    "product",
    "product_category",
    "lead_source",
    "is_existing_customer",
    "lost_reason",
    "next_step",
    "created_at",
    "closed_at",
    "expected_close_date",
    "stage_entered_at",
    "last_activity_at",
    "next_activity_at",
    "modified_at",
    "age_days",
    "cycle_days",
    "days_in_stage",
    "size_bucket",
    "created_month",
    "closed_month",
    "url",
    "source",
)

#: columns of `deals` whose values deals can be divided by
DIMENSIONS: Final[tuple[str, ...]] = (
    "owner",
    "team",
    "manager",
    "region",
    "segment",
    "account",
    "product",
    "product_category",
    "lead_source",
    "pipeline",
    "stage",
    "forecast_category",
    "currency",
    "size_bucket",
    "source",
)
