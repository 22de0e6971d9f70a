"""Which HubSpot objects and properties become which of our tables.

`columns` are SQL over the properties. Choices that are ours:

* A deal's outcome comes from its stage's metadata; for a stage that no longer exists, from `hs_is_closed` and `hs_is_closed_won`.
* `closedate` is the plan while a deal is open, and the closing moment afterwards: HubSpot overwrites the one with the other.
* A date a person picks is midnight of the portal's time zone; it is turned back into that day, which it stays in every other zone.
* A lead has become a deal when it is associated with one and does not stand in a stage for disqualified leads.
* An activity that will not take place is neither due nor done; a call that nobody answered was made.
* What the source itself puts into a record keeps its name; a property of the portal's that has the same one is `properties.<name>`.
* Owners, companies, contacts and products are linked by id: a renamed one does not touch the deals, and must not be stale in them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

#: ids, whatever type HubSpot says they have: a number would lose digits
IDS: Final = frozenset({"hs_primary_associated_company", "associatedcompanyid", "hs_object_id", "hs_product_id", "hubspot_owner_id"})
#: keys of a record that are the source's own, in lower case
OWN: Final = frozenset({"id", "createdat", "history", "contact_id", "deal_id", "lead_id", "kind", "subject", "due", "done"})


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours read from one object type. `links` are associations a record gets as `<name>_id`: column → object type.

    Records without the link `parent` are left out. Without the properties in `needed` the table makes no sense; those in `optional`
    a portal in order may lack.
    """

    entity: str
    kind: str
    properties: tuple[str, ...]
    columns: Mapping[str, str]
    links: tuple[tuple[str, str], ...] = ()
    modified: str = "hs_lastmodifieddate"
    parent: str | None = None
    needed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as a pipeline's metadata has it. Labels are unlike: of pipelines in the portal, of stages in their pipeline."""

    pipeline: str
    pipeline_label: str
    id: str
    label: str
    order: int
    probability: float | None
    closed: bool
    state: str = ""

    @property
    def won(self) -> bool:
        return self.closed and self.probability == 1.0

    @property
    def lost(self) -> bool:
        return self.closed and not self.won

    @property
    def outcome(self) -> str:
        return "won" if self.won else "lost" if self.closed else "open"

    @property
    def qualified(self) -> bool:
        """Of leads: by the state in the metadata, else the end with a probability of 1, else the id every portal begins with."""
        return self.state == "QUALIFIED" if self.state else self.won or self.id == "qualified-stage-id"

    @property
    def disqualified(self) -> bool:
        """Of leads, told in the same way."""
        if self.state:
            return self.state in ("UNQUALIFIED", "DISQUALIFIED")
        return (self.closed and self.probability == 0.0) or self.id == "unqualified-stage-id"


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
        "created_at": "coalesce(createdate, createdAt)",
        "stage_entered_at": "hs_v2_date_entered_current_stage",
        "last_activity_at": "notes_last_updated",
        "next_activity_at": "notes_next_activity_date",
        "modified_at": "hs_lastmodifieddate",
    },
    links=(("contact_id", "contacts"),),
    needed=frozenset({"dealstage", "pipeline", "closedate", "amount", "createdate", "hs_lastmodifieddate", "hubspot_owner_id"}),
    optional=frozenset({"deal_currency_code"}),
)  # fmt: skip

CURRENT_STAGE: Final = "hs_v2_date_entered_current_stage"
SIMPLE: Final = (
    Table(
        "leads",
        "leads",
        (
            "hs_lead_name", "hs_associated_company_name", "hubspot_owner_id", "hs_pipeline", "hs_pipeline_stage", "hs_lead_source",
            "hs_createdate", CURRENT_STAGE, "hs_lastmodifieddate",
        ),
        {
            "lead_id": "id",
            "name": "hs_lead_name",
            "company": "hs_associated_company_name",
            "owner_id": "hubspot_owner_id",
            "lead_source": "hs_lead_source",
            "created_at": "coalesce(hs_createdate, createdAt)",
            "deal_id": "deal_id",
            "modified_at": "hs_lastmodifieddate",
        },
        links=(("deal_id", "deals"),),
        optional=frozenset({"hs_lead_source", "hs_pipeline"}),
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
        parent="deal_id",  # there are those of quotes and carts, and those that outlived their deal
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
RATES: Final = {
    "currency": "fromCurrencyCode",
    "to_currency": "toCurrencyCode",
    "valid_from": "valid_from",
    "rate": "rate",
    "modified_at": "updatedAt",
}
#: every table this source can give, in its order
GIVEN: Final = (
    "deals", "stages", "stage_entries", "owners", "leads", "accounts", "contacts", "products", "deal_products", "activities", "rates",
)  # fmt: skip


def kept_as(name: str) -> str:
    """The key of a record under which a property is found."""
    return f"properties.{name}" if name.lower() in OWN else name


def leads(table: Table, stages: Sequence[Stage], known: Iterable[str]) -> Table:
    """The table of leads in a portal with these stages and properties: it knows when a lead became a deal.

    That is when it entered a stage for qualified leads, else its present stage, else, where the portal tells neither, its last change.
    """
    known = sorted(known)
    dates = list(dict.fromkeys(name for stage in stages if stage.qualified for name in entered(stage.id, known)))
    otherwise = CURRENT_STAGE if CURRENT_STAGE in known else table.modified
    moment = f"coalesce(least({', '.join(dates)}), {otherwise})" if dates else otherwise
    out = sorted({text(stage.id) for stage in stages if stage.disqualified})
    still = f" and coalesce(hs_pipeline_stage not in ({', '.join(out)}), true)" if out else ""
    status = by_stage(stages, lambda stage: text(stage.label), "hs_pipeline_stage", columns=("hs_pipeline", "hs_pipeline_stage"))
    converted = f"case when deal_id is not null{still} then {moment} else null end"
    columns = {**table.columns, "status": status, "converted_at": converted}
    return replace(table, properties=(*table.properties, *dates), columns=columns)


def entered(stage: str, known: Iterable[str]) -> list[str]:
    """The properties that tell when a stage was last entered. What is no letter or digit is `_`, and a number of HubSpot's follows."""
    plain = re.escape(f"hs_v2_date_entered_{re.sub(r'[^0-9A-Za-z]', '_', stage)}")
    pattern = re.compile(plain if stage.isalnum() else rf"{plain}(?:_\d+)?", re.IGNORECASE)
    return [name for name in known if pattern.fullmatch(name)]


def labelled(name: str, labels: Iterable[tuple[str, str]], otherwise: str | None = None) -> str:
    """SQL that shows values by their labels. Labels are part of the field map, so that a renamed one makes the next read a full one."""
    pairs = sorted(labels)
    if not pairs:
        return otherwise or name
    whens = " ".join(f"when {text(value)} then {text(label)}" for value, label in pairs)
    return f"case {name} {whens} else {otherwise or name} end"


def by_stage(
    stages: Sequence[Stage], shown: Callable[[Stage], str], otherwise: str, *, columns: tuple[str, str] = ("pipeline", "dealstage")
) -> str:
    """SQL for something of the stage a record is in. An id that several pipelines have is told apart by the pipeline."""
    pipeline, name = columns
    homes = Counter(stage.id for stage in stages)
    first: dict[str, Stage] = {}
    for stage in stages:
        first.setdefault(stage.id, stage)
    shared = sorted((stage for stage in stages if homes[stage.id] > 1), key=lambda stage: (stage.id, stage.pipeline))
    whens = [
        *(f"when {pipeline} = {text(one.pipeline)} and {name} = {text(one.id)} then {shown(one)}" for one in shared),
        *(f"when {name} = {text(one.id)} then {shown(one)}" for one in sorted(first.values(), key=lambda stage: stage.id)),
    ]
    return f"case {' '.join(whens)} else {otherwise} end" if whens else otherwise


def status(stages: Sequence[Stage]) -> str:
    """SQL for open, won or lost: by the stage, else by what the deal says of itself."""
    own = "when cast(hs_is_closed_won as boolean) then 'won' when cast(hs_is_closed as boolean) then 'lost'"
    return by_stage(stages, lambda stage: text(stage.outcome), f"case {own} else 'open' end")


def local_day(name: str, zone: str) -> str:
    """SQL for the day an instant falls on in the portal's time zone."""
    return f"cast(timezone({text(zone)}, cast({name} as timestamptz)) as date)"


def picked(name: str, zone: str) -> str:
    """SQL for a moment that may be a day somebody picked: the portal's midnight is that day's midnight everywhere, so it loses its zone."""
    midnight = f"cast({local_day(name, zone)} as timestamp)"
    is_one = f"timezone({text(zone)}, {midnight}) = cast({name} as timestamptz)"
    return f"case when {is_one} then strftime({midnight}, '%Y-%m-%dT%H:%M:%S') else {name} end"


def activity(record: Mapping[str, Any], kind: str, now: datetime) -> dict[str, Any]:
    """Kind, subject, due and done of an engagement."""
    at = record.get("hs_timestamp")
    never = {"due": None, "done": None}
    if kind == "tasks":
        what = {"CALL": "call", "EMAIL": "email"}.get(str(record.get("hs_task_type") or ""), "task")
        done = record.get("hs_task_completion_date") or at if record.get("hs_task_status") == "COMPLETED" else None
        return {"kind": what, "subject": record.get("hs_task_subject"), "due": at, "done": done}
    if kind == "calls":
        status = record.get("hs_call_status")
        times = never if status == "CANCELED" else {"due": at, "done": None if status in ("SCHEDULED", "QUEUED") else at}
        return {"kind": "call", "subject": record.get("hs_call_title"), **times}
    if kind == "meetings":
        outcome = record.get("hs_meeting_outcome")
        over = outcome == "COMPLETED" or (outcome != "SCHEDULED" and at is not None and datetime.fromisoformat(at) <= now)
        times = never if outcome in ("CANCELED", "RESCHEDULED", "NO_SHOW") else {"due": at, "done": at if over else None}
        return {"kind": "meeting", "subject": record.get("hs_meeting_title"), **times}
    status = record.get("hs_email_status")
    times = never if status in ("FAILED", "BOUNCED") else {"due": at, "done": at if status in ("SENT", None) else None}
    return {"kind": "email", "subject": record.get("hs_email_subject"), **times}


def text(value: str) -> str:
    """A SQL text constant."""
    return "'" + value.replace("'", "''") + "'"
