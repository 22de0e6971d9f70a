"""Which Salesforce objects and fields become which of our tables.

`columns` are SQL over the fields; a field the connected user may not see is null and reported. Facts: Object Reference for the
Salesforce Platform. Choices that are ours:

* A deal is closed when it entered its closed stage (`LastStageChangeDate`), not on its `CloseDate`, which for lost deals is the plan.
* A pipeline is a record type; deals without one are in the pipeline "default".
* What the org says of stages and record types (labels, names, outcomes) is part of the field map: it moves no deal's stamp, and another
  map makes the next read a full one.
* Owners, accounts, contacts and products are linked by id: a renamed one does not touch the deals, and must not be stale in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

#: fields that come and go with an org's edition, settings and version: their absence needs no report
OPTIONAL: Final = frozenset({"CurrencyIsoCode", "RecordTypeId", "ContactId", "IsArchived", "IsChild", "MasterRecordId", "TaskSubtype"})
DEFAULT: Final = "default"
CLOSED: Final = "coalesce(cast(IsClosed as boolean), false)"
WON: Final = "coalesce(cast(IsWon as boolean), false)"


@dataclass(frozen=True, slots=True)
class Parent:
    """A field of a parent object: its type, the field that links to the parent, and the parent's object."""

    type: str
    link: str
    object: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours read from one object. `needed` fields are those without which there is nothing to read."""

    entity: str
    object: str
    fields: tuple[str, ...]
    columns: Mapping[str, str]
    needed: tuple[str, ...] = ("Id", "SystemModstamp")
    archive: bool = False
    """Read also what Salesforce archived (activities older than a year)."""
    parents: Mapping[str, Parent] = field(default_factory=dict)
    follows: Mapping[str, str] = field(default_factory=dict)
    """Fields that point to objects whose records may be merged: a merge gives them another value and moves no stamp."""
    made: tuple[str, ...] = ()
    """Columns the source makes from others."""
    key: tuple[str, ...] = ()
    incremental: bool = True
    optional: bool = False
    """Not every edition has the object: that it cannot be seen need not be a mistake."""
    setup: bool = False
    """A setup object: it has no field-level security, and not every one of them is described."""


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
        "expected_close_date": "CloseDate",
        "stage_entered_at": "coalesce(LastStageChangeDate, CreatedDate)",
        "last_activity_at": "LastActivityDate",
        "modified_at": "SystemModstamp",
    },
    ("Id", "StageName", "SystemModstamp"),
    follows={"AccountId": "Account", "ContactId": "Contact"},
)  # fmt: skip

STAGE_ENTRIES: Final = Table(
    "stage_entries",
    "OpportunityHistory",
    ("Id", "OpportunityId", "StageName", "CreatedDate"),
    {"deal_id": "OpportunityId", "entered_at": "CreatedDate", "modified_at": "CreatedDate"},
    ("Id", "OpportunityId", "StageName", "CreatedDate"),
    parents={"Opportunity.RecordTypeId": Parent("reference", "OpportunityId", "Opportunity")},
    key=("Id",),
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
            "modified_at": "SystemModstamp",
        },
    ),
    Table(
        "accounts",
        "Account",
        ("Id", "Name", "Industry", "BillingCountry", "SystemModstamp", "MasterRecordId"),
        {"account_id": "Id", "account": "Name", "segment": "Industry", "region": "BillingCountry", "modified_at": "SystemModstamp"},
    ),
    Table(
        "contacts",
        "Contact",
        ("Id", "Name", "AccountId", "Email", "SystemModstamp", "MasterRecordId"),
        {"contact_id": "Id", "contact": "Name", "account_id": "AccountId", "email": "Email", "modified_at": "SystemModstamp"},
        follows={"AccountId": "Account"},
    ),
    Table(
        "products",
        "Product2",
        ("Id", "Name", "Family", "SystemModstamp"),
        {"product_id": "Id", "product": "Name", "product_category": "Family", "modified_at": "SystemModstamp"},
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
        follows={"ContactId": "Contact"},
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
    archive=True,
    follows={"WhoId": "Lead"},
    made=("Kind", "Due", "Done"),
)  # fmt: skip
EVENT: Final = replace(
    TASK,
    object="Event",
    fields=("Id", "WhatId", "WhoId", "OwnerId", "Subject", "StartDateTime", "EndDateTime", "SystemModstamp"),
)

# ── read whole every time ─────────────────────────────────────────────────────────────────────────

STAGES: Final = Table(
    "stages",
    "OpportunityStage",
    ("ApiName", "MasterLabel", "SortOrder", "IsActive", "IsClosed", "IsWon", "DefaultProbability"),
    {
        "pipeline": "Pipeline",
        "stage": "MasterLabel",
        "stage_order": "Place",
        "probability": "cast(DefaultProbability as double) / 100",
        "is_won": "case when cast(IsWon as boolean) then 1 else 0 end",
        "is_lost": "case when cast(IsClosed as boolean) and not cast(IsWon as boolean) then 1 else 0 end",
    },
    made=("Pipeline", "Place"),
    incremental=False,
    setup=True,
)
OWNERS: Final = Table(
    "owners",
    "User",
    ("Id", "Name", "Email", "Department", "Division", "ManagerId", "UserRoleId", "IsActive", "UserType", "SystemModstamp"),
    {
        "owner_id": "Id",
        "owner": "Name",
        "team": "coalesce(Role, Department)",
        "manager": "Manager",
        "region": "Division",
        "email": "Email",
        "modified_at": "SystemModstamp",
    },
    ("Id", "Name"),
    parents={"Manager.Name": Parent("string", "ManagerId", "User"), "UserRole.Name": Parent("string", "UserRoleId", "UserRole")},
    made=("Manager", "Role"),
    incremental=False,
)
SPEND: Final = Table(
    "spend",
    "Campaign",
    ("Id", "Name", "Type", "StartDate", "EndDate", "ActualCost", "CurrencyIsoCode", "SystemModstamp"),
    {"period": "Period", "category": "coalesce(Type, Name)", "amount": "ActualCost", "modified_at": "SystemModstamp"},
    ("Id", "ActualCost"),
    made=("Period",),
    incremental=False,
    optional=True,
)
QUOTAS: Final = Table(
    "quotas",
    "ForecastingQuota",
    ("Id", "QuotaAmount", "StartDate", "QuotaOwnerId", "ForecastingTypeId", "CurrencyIsoCode", "SystemModstamp"),
    {"period": "StartDate", "owner": "Owner", "amount": "QuotaAmount", "modified_at": "SystemModstamp"},
    ("Id", "QuotaAmount", "StartDate"),
    parents={"QuotaOwner.Name": Parent("string", "QuotaOwnerId", "User")},
    made=("Owner",),
    incremental=False,
    optional=True,
)
RATES: Final = Table(
    "rates",
    "CurrencyType",
    ("IsoCode", "ConversionRate", "IsCorporate", "SystemModstamp"),
    {"currency": "IsoCode", "to_currency": "Home", "valid_from": "StartDate", "rate": "Rate", "modified_at": "SystemModstamp"},
    made=("Home", "StartDate", "Rate"),
    incremental=False,
    setup=True,
)

#: every object with a table of ours, in the order of reading
TABLES: Final = (DEALS, STAGES, STAGE_ENTRIES, OWNERS, *SIMPLE, TASK, EVENT, SPEND, QUOTAS, RATES)
#: tables with a currency of their own
MONEY: Final = frozenset({"deals", "leads", "spend", "quotas"})


def outcomes(stages: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`status` and `closed_at` of deals, by what the org says of their stage; of a stage it does not know, by what the deal says."""
    known = {str(row["ApiName"]): "won" if row["IsWon"] else "lost" if row["IsClosed"] else "open" for row in stages}
    whens = "".join(f"when StageName = {text(name)} then '{outcome}' " for name, outcome in sorted(known.items()))
    status = f"case {whens}when {WON} then 'won' when {CLOSED} then 'lost' else 'open' end"
    return {"status": status, "closed_at": f"case when {status} = 'open' then null else coalesce(LastStageChangeDate, CloseDate) end"}


def labelled(field_name: str, labels: Mapping[str, str]) -> str:
    """SQL that shows API values by their labels."""
    different = {value: label for value, label in labels.items() if value != label}
    if not different:
        return field_name
    whens = " ".join(f"when {text(value)} then {text(label)}" for value, label in sorted(different.items()))
    return f"case {field_name} {whens} else {field_name} end"


def pipeline(field_name: str, names: Mapping[str, str]) -> str:
    """SQL that shows a record type's name; records without one are in the pipeline "default"."""
    if not names:
        return text(DEFAULT)
    whens = " ".join(f"when {text(value)} then {text(name)}" for value, name in sorted(names.items()))
    return f"case {field_name} {whens} else {text(DEFAULT)} end"


def text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
