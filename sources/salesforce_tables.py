"""Which Salesforce objects and fields become which of our tables.

`columns` are SQL over the fields; a field the connected user may not see is null and reported. Facts: Object Reference for the
Salesforce Platform. Choices that are ours:

* A deal is closed when it entered its closed stage (`LastStageChangeDate`), not on its `CloseDate`, which for lost deals is the plan.
* A pipeline is a record type; an org without record types has one pipeline, "default".
* Owners, accounts, contacts and products are linked by id: a renamed one does not touch the deals, and must not be stale in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: fields that come and go with an org's edition, settings and version: their absence needs no report
OPTIONAL: Final = frozenset({"CurrencyIsoCode", "RecordTypeId", "ContactId", "IsArchived", "IsChild", "MasterRecordId", "TaskSubtype"})
CLOSED: Final = "coalesce(cast(IsClosed as boolean), false)"
WON: Final = "coalesce(cast(IsWon as boolean), false)"


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours read from one object. `needed` fields are those without which there is nothing to read."""

    entity: str
    object: str
    fields: tuple[str, ...]
    columns: Mapping[str, str]
    needed: tuple[str, ...] = ("Id",)
    where: str = ""
    archive: bool = False
    """Read also what Salesforce archived (activities older than a year)."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Fields of parent objects, with the type they have."""


DEALS: Final = Table(
    "deals",
    "Opportunity",
    (
        "Id", "Name", "RecordTypeId", "StageName", "Amount", "CurrencyIsoCode", "Probability", "ForecastCategoryName", "OwnerId",
        "AccountId", "ContactId", "LeadSource", "Type", "NextStep", "CreatedDate", "CloseDate", "LastStageChangeDate",
        "LastActivityDate", "IsClosed", "IsWon", "SystemModstamp",
    ),
    {
        "deal_id": "Id",
        "name": "Name",
        "status": f"case when {WON} then 'won' when {CLOSED} then 'lost' else 'open' end",
        "amount": "Amount",
        "probability": "cast(Probability as double) / 100",
        "forecast_category": "ForecastCategoryName",
        "owner_id": "OwnerId",
        "account_id": "AccountId",
        "contact_id": "ContactId",
        "lead_source": "LeadSource",
        "is_existing_customer": "case when Type ilike 'existing%' then 1 when Type ilike 'new%' then 0 else null end",
        "next_step": "NextStep",
        "created_at": "CreatedDate",
        "closed_at": f"case when {CLOSED} then coalesce(LastStageChangeDate, CloseDate) else null end",
        "expected_close_date": "CloseDate",
        "stage_entered_at": "coalesce(LastStageChangeDate, CreatedDate)",
        "last_activity_at": "LastActivityDate",
        "modified_at": "SystemModstamp",
    },
    ("Id", "StageName", "SystemModstamp"),
)  # fmt: skip

STAGE_ENTRIES: Final = Table(
    "stage_entries",
    "OpportunityHistory",
    ("Id", "OpportunityId", "StageName", "CreatedDate"),
    {"deal_id": "OpportunityId", "entered_at": "CreatedDate", "modified_at": "CreatedDate"},
    ("Id", "OpportunityId", "StageName", "CreatedDate"),
    parents={"Opportunity.RecordTypeId": "reference"},
)

SIMPLE: Final = (
    Table(
        "leads",
        "Lead",
        (
            "Id", "Name", "Company", "OwnerId", "Status", "LeadSource", "IsConverted", "ConvertedDate", "ConvertedOpportunityId",
            "CurrencyIsoCode", "CreatedDate", "SystemModstamp", "MasterRecordId",
        ),
        {
            "lead_id": "Id",
            "name": "Name",
            "company": "Company",
            "owner_id": "OwnerId",
            "status": "Status",
            "lead_source": "LeadSource",
            "created_at": "CreatedDate",
            "converted_at": "case when cast(IsConverted as boolean) then ConvertedDate else null end",
            "deal_id": "ConvertedOpportunityId",
            "currency": "CurrencyIsoCode",
            "modified_at": "SystemModstamp",
        },
        ("Id", "SystemModstamp"),
    ),
    Table(
        "accounts",
        "Account",
        ("Id", "Name", "Industry", "BillingCountry", "SystemModstamp", "MasterRecordId"),
        {"account_id": "Id", "account": "Name", "segment": "Industry", "region": "BillingCountry", "modified_at": "SystemModstamp"},
        ("Id", "SystemModstamp"),
    ),
    Table(
        "contacts",
        "Contact",
        ("Id", "Name", "AccountId", "Email", "SystemModstamp", "MasterRecordId"),
        {"contact_id": "Id", "contact": "Name", "account_id": "AccountId", "email": "Email", "modified_at": "SystemModstamp"},
        ("Id", "SystemModstamp"),
    ),
    Table(
        "products",
        "Product2",
        ("Id", "Name", "Family", "SystemModstamp"),
        {"product_id": "Id", "product": "Name", "product_category": "Family", "modified_at": "SystemModstamp"},
        ("Id", "SystemModstamp"),
    ),
    Table(
        "deal_products",
        "OpportunityLineItem",
        ("Id", "OpportunityId", "Product2Id", "Quantity", "TotalPrice", "SystemModstamp"),
        {
            "deal_product_id": "Id",
            "deal_id": "OpportunityId",
            "product_id": "Product2Id",
            "quantity": "Quantity",
            "amount": "TotalPrice",
            "modified_at": "SystemModstamp",
        },
        ("Id", "OpportunityId", "SystemModstamp"),
    ),
    Table(
        "deal_contacts",
        "OpportunityContactRole",
        ("Id", "OpportunityId", "ContactId", "Role", "IsPrimary", "SystemModstamp"),
        {
            "deal_contact_id": "Id",
            "deal_id": "OpportunityId",
            "contact_id": "ContactId",
            "role": "Role",
            "is_primary": "case when cast(IsPrimary as boolean) then 1 else 0 end",
            "modified_at": "SystemModstamp",
        },
        ("Id", "OpportunityId", "SystemModstamp"),
    ),
)  # fmt: skip

#: tasks and events are one table of ours; Kind, Due and Done are made by the source
TASK: Final = Table(
    "activities",
    "Task",
    (
        "Id", "WhatId", "WhoId", "OwnerId", "Subject", "TaskSubtype", "IsClosed", "ActivityDate", "CompletedDateTime",
        "SystemModstamp",
    ),
    {
        "activity_id": "Id",
        "deal_id": "case when WhatId like '006%' then WhatId else null end",
        "lead_id": "case when WhoId like '00Q%' then WhoId else null end",
        "owner_id": "OwnerId",
        "kind": "Kind",
        "subject": "Subject",
        "due_at": "Due",
        "done_at": "Done",
        "modified_at": "SystemModstamp",
    },
    ("Id", "SystemModstamp"),
    archive=True,
)  # fmt: skip
EVENT: Final = Table(
    "activities",
    "Event",
    ("Id", "WhatId", "WhoId", "OwnerId", "Subject", "StartDateTime", "EndDateTime", "SystemModstamp"),
    TASK.columns,
    ("Id", "SystemModstamp"),
    archive=True,
)

#: tables read whole every time, in the words of the source
OWNERS: Final = {
    "owner_id": "Id",
    "owner": "Name",
    "team": "coalesce(Role, Department)",
    "manager": "Manager",
    "region": "Division",
    "email": "Email",
    "modified_at": "SystemModstamp",
}
STAGES: Final = {
    "pipeline": "Pipeline",
    "stage": "MasterLabel",
    "stage_order": "Place",
    "probability": "cast(DefaultProbability as double) / 100",
    "is_won": "case when cast(IsWon as boolean) then 1 else 0 end",
    "is_lost": "case when cast(IsClosed as boolean) and not cast(IsWon as boolean) then 1 else 0 end",
}
SPEND: Final = {"period": "StartDate", "category": "coalesce(Type, Name)", "amount": "Cost", "modified_at": "SystemModstamp"}
QUOTAS: Final = {"period": "StartDate", "owner": "Owner", "amount": "Quota", "modified_at": "SystemModstamp"}
RATES: Final = {"currency": "IsoCode", "valid_from": "StartDate", "rate": "Rate", "modified_at": "SystemModstamp"}


def labelled(field_name: str, labels: Mapping[str, str]) -> str:
    """SQL that shows API values by their labels. The labels are part of the field map, so that a renamed one makes the next read a full one."""
    different = {value: label for value, label in labels.items() if value != label}
    if not different:
        return field_name
    whens = " ".join(f"when {_text(value)} then {_text(label)}" for value, label in sorted(different.items()))
    return f"case {field_name} {whens} else {field_name} end"


def pipeline(field_name: str, names: Mapping[str, str]) -> str:
    """SQL that shows a record type's name; records without one are in the pipeline "default"."""
    if not names:
        return "'default'"
    whens = " ".join(f"when {_text(value)} then {_text(name)}" for value, name in sorted(names.items()))
    return f"case {field_name} {whens} else 'default' end"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
