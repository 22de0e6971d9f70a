"""Which HubSpot objects and properties become which of our tables.

`columns` are SQL over the properties. Choices that are ours:

* A deal's outcome comes from its stage's metadata; for a stage that no longer exists, from `hs_is_closed` and `hs_is_closed_won`.
* `closedate` is the plan while a deal is open, and the closing moment afterwards: HubSpot overwrites the one with the other.
* A date a person picks is midnight of the portal's time zone; it is turned back into that day.
* Owners, companies, contacts and products are linked by id: a renamed one does not touch the deals, and must not be stale in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: ids, whatever type HubSpot says they have: a number would lose digits
IDS: Final = frozenset({"hs_primary_associated_company", "associatedcompanyid", "hs_object_id", "hs_product_id", "hubspot_owner_id"})


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours read from one object type. `links` are associations a record gets as `<name>_id`: column → object type."""

    entity: str
    kind: str
    properties: tuple[str, ...]
    columns: Mapping[str, str]
    links: tuple[tuple[str, str], ...] = ()
    modified: str = "hs_lastmodifieddate"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as a pipeline's metadata has it."""

    pipeline: str
    pipeline_label: str
    id: str
    label: str
    order: int
    probability: float | None
    closed: bool

    @property
    def won(self) -> bool:
        return self.closed and self.probability == 1.0

    @property
    def lost(self) -> bool:
        return self.closed and not self.won


DEALS: Final = Table(
    "deals",
    "deals",
    (
        "dealname", "amount", "deal_currency_code", "dealstage", "pipeline", "closedate", "createdate", "hs_lastmodifieddate",
        "hubspot_owner_id", "hs_is_closed", "hs_is_closed_won", "hs_deal_stage_probability", "hs_manual_forecast_category", "dealtype",
        "closed_lost_reason", "hs_analytics_source", "hs_next_step", "notes_last_updated", "notes_next_activity_date",
        "hs_primary_associated_company", "hs_merged_object_ids", "hs_v2_date_entered_current_stage",
    ),
    {
        "deal_id": "id",
        "name": "dealname",
        "amount": "amount",
        "owner_id": "hubspot_owner_id",
        "account_id": "hs_primary_associated_company",
        "contact_id": "contact_id",
        "is_existing_customer": "case dealtype when 'existingbusiness' then 1 when 'newbusiness' then 0 else null end",
        "lost_reason": "closed_lost_reason",
        "next_step": "hs_next_step",
        "created_at": "createdate",
        "stage_entered_at": "hs_v2_date_entered_current_stage",
        "last_activity_at": "notes_last_updated",
        "next_activity_at": "notes_next_activity_date",
        "modified_at": "hs_lastmodifieddate",
    },
    links=(("contact_id", "contacts"),),
)  # fmt: skip

SIMPLE: Final = (
    Table(
        "leads",
        "leads",
        (
            "hs_lead_name", "hs_associated_company_name", "hubspot_owner_id", "hs_pipeline_stage", "hs_lead_source", "hs_createdate",
            "hs_v2_date_entered_current_stage", "hs_lastmodifieddate",
        ),
        {
            "lead_id": "id",
            "name": "hs_lead_name",
            "company": "hs_associated_company_name",
            "owner_id": "hubspot_owner_id",
            "lead_source": "hs_lead_source",
            "created_at": "hs_createdate",
            "converted_at": "case when (deal_id is not null) then hs_v2_date_entered_current_stage else null end",
            "deal_id": "deal_id",
            "modified_at": "hs_lastmodifieddate",
        },
        links=(("deal_id", "deals"),),
    ),
    Table(
        "accounts",
        "companies",
        ("name", "industry", "country", "hs_lastmodifieddate"),
        {"account_id": "id", "account": "name", "region": "country", "modified_at": "hs_lastmodifieddate"},
    ),
    Table(
        "contacts",
        "contacts",
        ("firstname", "lastname", "email", "associatedcompanyid", "lastmodifieddate"),
        {
            "contact_id": "id",
            "contact": "coalesce(nullif(concat_ws(' ', firstname, lastname), ''), email)",
            "account_id": "associatedcompanyid",
            "email": "email",
            "modified_at": "lastmodifieddate",
        },
        modified="lastmodifieddate",
    ),
    Table(
        "products",
        "products",
        ("name", "price", "hs_lastmodifieddate"),
        {"product_id": "id", "product": "name", "price": "price", "modified_at": "hs_lastmodifieddate"},
    ),
    Table(
        "deal_products",
        "line_items",
        ("name", "quantity", "amount", "hs_product_id", "hs_lastmodifieddate"),
        {
            "deal_product_id": "id",
            "deal_id": "deal_id",
            "product_id": "hs_product_id",
            "product": "name",
            "quantity": "quantity",
            "amount": "amount",
            "modified_at": "hs_lastmodifieddate",
        },
        links=(("deal_id", "deals"),),
    ),
)  # fmt: skip

#: engagements of every kind are one table of ours; kind, subject, due and done are made by the source
ACTIVITY: Final = {
    "activity_id": "id",
    "deal_id": "deal_id",
    "lead_id": "lead_id",
    "owner_id": "hubspot_owner_id",
    "kind": "kind",
    "subject": "subject",
    "due_at": "due",
    "done_at": "done",
    "modified_at": "hs_lastmodifieddate",
}
_LINKS: Final = (("deal_id", "deals"), ("lead_id", "leads"))
_COMMON: Final = ("hs_timestamp", "hubspot_owner_id", "hs_lastmodifieddate")
ACTIVITIES: Final = (
    Table("activities", "calls", (*_COMMON, "hs_call_title", "hs_call_status"), ACTIVITY, _LINKS),
    Table("activities", "meetings", (*_COMMON, "hs_meeting_title", "hs_meeting_outcome"), ACTIVITY, _LINKS),
    Table(
        "activities", "tasks", (*_COMMON, "hs_task_subject", "hs_task_status", "hs_task_type", "hs_task_completion_date"), ACTIVITY, _LINKS
    ),
    Table("activities", "emails", (*_COMMON, "hs_email_subject", "hs_email_status"), ACTIVITY, _LINKS),
)

STAGE_ENTRIES: Final = {"deal_id": "deal_id", "entered_at": "entered_at", "modified_at": "entered_at"}
OWNERS: Final = {"owner_id": "id", "owner": "name", "team": "team", "email": "email", "modified_at": "updatedAt"}
STAGES: Final = {
    "pipeline": "pipeline",
    "stage": "stage",
    "stage_order": "place",
    "probability": "probability",
    "is_won": "is_won",
    "is_lost": "is_lost",
}
RATES: Final = {"currency": "fromCurrencyCode", "valid_from": "valid_from", "rate": "rate", "modified_at": "updatedAt"}


def labelled(name: str, labels: Iterable[tuple[str, str]], otherwise: str | None = None) -> str:
    """SQL that shows values by their labels. Labels are part of the field map, so that a renamed one makes the next read a full one."""
    pairs = sorted(labels)
    if not pairs:
        return otherwise or name
    whens = " ".join(f"when {text(value)} then {text(label)}" for value, label in pairs)
    return f"case {name} {whens} else {otherwise or name} end"


def status(stages: Iterable[Stage]) -> str:
    """SQL for open, won or lost: by the stage, else by what the deal says of itself."""
    known = {outcome: [stage.id for stage in stages if getattr(stage, outcome)] for outcome in ("won", "lost")}
    open_ones = [stage.id for stage in stages if not stage.closed]
    whens = [
        f"when dealstage in ({', '.join(map(text, sorted(ids)))}) then {text(word)}"
        for word, ids in (*known.items(), ("open", open_ones))
        if ids
    ]
    own = "when cast(hs_is_closed_won as boolean) then 'won' when cast(hs_is_closed as boolean) then 'lost'"
    return f"case {' '.join([*whens, own])} else 'open' end"


def local_day(name: str, zone: str) -> str:
    """SQL for the day an instant falls on in the portal's time zone."""
    return f"cast(timezone({text(zone)}, cast({name} as timestamptz)) as date)"


def activity(record: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Kind, subject, due and done of an engagement."""
    at = record.get("hs_timestamp")
    if kind == "tasks":
        what = {"CALL": "call", "EMAIL": "email"}.get(str(record.get("hs_task_type") or ""), "task")
        done = record.get("hs_task_completion_date") or at if record.get("hs_task_status") == "COMPLETED" else None
        return {"kind": what, "subject": record.get("hs_task_subject"), "due": at, "done": done}
    if kind == "calls":
        planned = record.get("hs_call_status") in ("SCHEDULED", "QUEUED")
        return {"kind": "call", "subject": record.get("hs_call_title"), "due": at, "done": None if planned else at}
    if kind == "meetings":
        held = record.get("hs_meeting_outcome") == "COMPLETED"
        return {"kind": "meeting", "subject": record.get("hs_meeting_title"), "due": at, "done": at if held else None}
    sent = record.get("hs_email_status") in ("SENT", None)
    return {"kind": "email", "subject": record.get("hs_email_subject"), "due": at, "done": at if sent else None}


def text(value: str) -> str:
    """A SQL text constant."""
    return "'" + value.replace("'", "''") + "'"
