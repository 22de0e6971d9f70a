"""The generated company as HubSpot objects: types, properties with definitions, associations, and what every value is as text."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

from connector.sandbox import words
from connector.sandbox.company import HOME, Company
from connector.sandbox.hubspot_setup import Setup
from connector.sandbox.hubspot_views import Lines, Only
from connector.sandbox.records import Activity, Change, Deal, Lead, Line, Pipeline, Stage

Value = Callable[[Any], str | None]


def deleted_at(record: Any) -> datetime | None:
    moment: datetime | None = getattr(record, "deleted_at", None)
    return moment


#: number of the object type, and where its ids begin
TYPES: Final = {
    "deals": ("0-3", 31_245_000_000),
    "companies": ("0-2", 9_871_000_000),
    "contacts": ("0-1", 501_000),
    "leads": ("0-136", 391_800_000_000),
    "line_items": ("0-8", 21_700_000_000),
    "products": ("0-7", 1_155_000_000),
    "calls": ("0-48", 46_100_000_000),
    "meetings": ("0-47", 47_200_000_000),
    "tasks": ("0-27", 48_300_000_000),
    "emails": ("0-49", 49_400_000_000),
}
STRIDE: Final = 13

SLUGS: Final = {
    "qualification": "appointmentscheduled",
    "discovery": "qualifiedtobuy",
    "proposal": "presentationscheduled",
    "negotiation": "contractsent",
    "won": "closedwon",
    "lost": "closedlost",
}
SOURCES: Final = {
    "Web": ("ORGANIC_SEARCH", "Organic Search"),
    "Referral": ("REFERRALS", "Referrals"),
    "Partner": ("OFFLINE", "Offline Sources"),
    "Trade Show": ("OTHER_CAMPAIGNS", "Other Campaigns"),
    "Outbound": ("DIRECT_TRAFFIC", "Direct Traffic"),
    "Advertisement": ("PAID_SEARCH", "Paid Search"),
}
LEAD_STAGES: Final = {
    "new": ("new-stage-id", "New"),
    "working": ("attempting-stage-id", "Attempting"),
    "converted": ("qualified-stage-id", "Qualified"),
    "unqualified": ("unqualified-stage-id", "Disqualified"),
}
FORECASTS: Final = {"Pipeline": "PIPELINE", "Best Case": "BEST_CASE", "Commit": "COMMIT", "Closed": "CLOSED", "Omitted": "OMIT"}


def hs_id(kind: str, n: int) -> str:
    """Ids grow with time and are not dense."""
    return str(TYPES[kind][1] + n * STRIDE + n % 7)


def number_of(kind: str, identifier: str) -> int | None:
    """The record's number behind an id, None when it is not one of this type."""
    if not identifier.isdigit() or int(identifier) < TYPES[kind][1]:
        return None
    n = (int(identifier) - TYPES[kind][1]) // STRIDE
    return n if hs_id(kind, n) == identifier else None


def owner_id(n: int) -> str:
    return str(88_842_000 + n)


def pipeline_id(pipeline: Pipeline) -> str:
    return "default" if pipeline.key == "new" else f"7420000{pipeline.n}"


def stage_id(pipeline: Pipeline, key: str) -> str:
    """Slugs in the default pipeline; numbers or UUIDs in others."""
    if pipeline.key == "new":
        return SLUGS[key]
    place = [stage.key for stage in pipeline.stages].index(key)
    if place == 1:
        digest = hashlib.sha256(f"{pipeline.key} {key}".encode()).hexdigest()
        return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    return str(1_090_700_000 + 100 * pipeline.n + place)


def entered(stage: str) -> str:
    """The property with the time a stage was last entered. An id with other signs than letters and digits has a number behind it."""
    plain = f"hs_v2_date_entered_{stage.replace('-', '_')}"
    return plain if stage.isalnum() else f"{plain}_{zlib.crc32(stage.encode())}"


def instant(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z" if moment else None


def money(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:.2f}"


@dataclass(frozen=True, slots=True)
class Property:
    """`given` properties come without being asked for."""

    type: str
    value: Value
    options: tuple[tuple[str, str], ...] = ()
    custom: bool = False
    given: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """An object type: its records by number, properties, what it is associated with (type → numbers), histories, and when one went."""

    name: str
    records: Mapping[int, Any]
    properties: Mapping[str, Property]
    associated: Mapping[str, Callable[[Any], Iterable[int]]] = field(default_factory=dict)
    history: Mapping[str, Callable[[Any], list[tuple[str, datetime]]]] = field(default_factory=dict)
    modified: str = "hs_lastmodifieddate"
    gone: Callable[[Any], datetime | None] = deleted_at

    def get(self, n: int | None) -> Any:
        return self.records.get(n) if n is not None else None


class Portal:
    """The company as one portal sees it, in its time zone."""

    def __init__(self, company: Company, setup: Setup) -> None:
        self.company = company
        self.setup = setup
        self.zone = ZoneInfo(setup.time_zone)
        lines = Lines(company)
        activities = company.activities
        self.kinds: dict[str, Kind] = {
            "deals": self._deals(),
            "companies": self._companies(),
            "contacts": self._contacts(),
            "leads": self._leads(),
            "line_items": self._line_items(lines),
            "products": self._products(),
            "calls": self._engagement("calls", Only(activities, "call")),
            "meetings": self._engagement("meetings", Only(activities, "meeting")),
            "tasks": self._engagement("tasks", Only(activities, "task", email=False)),
            "emails": self._engagement("emails", Only(activities, email=True)),
        }

    # ── deals ─────────────────────────────────────────────────────────────────────────────────────

    def stage(self, deal: Deal) -> Stage:
        return self.company.stage(deal.pipeline, deal.stage)

    def stage_id(self, pipeline: str, stage: str) -> str:
        return stage_id(self.company.pipeline(pipeline), stage)

    def midnight(self, day: date) -> datetime:
        """The portal's midnight: what HubSpot makes of a date a person picks."""
        return datetime.combine(day, time(), self.zone)

    def _stage_history(self, deal: Deal) -> list[tuple[str, datetime]]:
        """Oldest first. Every third change that is no change of stage writes the stage once more, as workflows do."""
        rows: list[Change] = list(deal.history)
        if losers := self._losers(deal):  # a merged deal has the rows of both
            rows += [change for loser in losers for change in loser.history if change.at < deal.history[-1].at]
            rows.sort(key=lambda change: (change.at, change.n))
        found: list[tuple[str, datetime]] = []
        for change in rows:
            value = self.stage_id(change.pipeline, change.stage)
            if not found or found[-1][0] != value or change.n % 3 == 0:
                found.append((value, change.at))
        return found

    def _last_entered(self, stage: str, deal: Deal) -> str | None:
        last = [at for value, at in self._stage_history(deal) if value == stage]
        return instant(last[-1]) if last else None

    def _losers(self, deal: Deal) -> list[Deal]:
        return [self.company.deals[n] for n in self.company.absorbed.get(deal.n, ())]

    def _deals(self) -> Kind:
        company = self.company
        pipelines = company.pipelines
        properties = {
            "dealname": Property("string", lambda deal: deal.name, given=True),
            "amount": Property("number", lambda deal: money(deal.amount), given=True),
            "deal_currency_code": Property("enumeration", lambda deal: deal.currency),
            "amount_in_home_currency": Property("number", self._home_amount),
            "dealstage": Property(
                "enumeration",
                lambda deal: self.stage_id(deal.pipeline, deal.stage),
                tuple((stage_id(pipeline, stage.key), stage.label) for pipeline in pipelines for stage in pipeline.stages),
                given=True,
            ),
            "pipeline": Property(
                "enumeration",
                lambda deal: pipeline_id(company.pipeline(deal.pipeline)),
                tuple((pipeline_id(pipeline), pipeline.label) for pipeline in pipelines),
                given=True,
            ),
            "closedate": Property("datetime", self._close_date, given=True),
            "hubspot_owner_id": Property("enumeration", lambda deal: owner_id(deal.owner)),
            "hs_is_closed": Property("bool", lambda deal: _bool(self.stage(deal).closed)),
            "hs_is_closed_won": Property("bool", lambda deal: _bool(self.stage(deal).won)),
            "hs_is_closed_lost": Property("bool", lambda deal: _bool(self.stage(deal).lost)),
            "hs_deal_stage_probability": Property("number", lambda deal: str(self.stage(deal).probability)),
            "hs_manual_forecast_category": Property(
                "enumeration", lambda deal: FORECASTS[deal.forecast], tuple((value, label) for label, value in FORECASTS.items())
            ),
            "dealtype": Property(
                "enumeration",
                lambda deal: "existingbusiness" if deal.existing else "newbusiness",
                (("newbusiness", "New Business"), ("existingbusiness", "Existing Business")),
            ),
            "closed_lost_reason": Property("string", lambda deal: deal.lost_reason),
            "hs_analytics_source": Property("enumeration", lambda deal: SOURCES[deal.lead_source][0], tuple(SOURCES.values())),
            "hs_next_step": Property("string", lambda deal: deal.next_step),
            "notes_last_updated": Property("datetime", lambda deal: instant(deal.last_activity_at)),
            "notes_next_activity_date": Property("datetime", lambda deal: instant(company.next_activity_at(deal))),
            "hs_primary_associated_company": Property("number", lambda deal: hs_id("companies", deal.account) if deal.account else None),
            "hs_merged_object_ids": Property("enumeration", self._merged_ids),
            "hs_v2_date_entered_current_stage": Property("datetime", lambda deal: instant(deal.stage_entered_at)),
            "lead_source": Property("string", lambda deal: deal.lead_source, custom=True),
        }
        for pipeline in pipelines:
            for stage in pipeline.stages:
                identifier = stage_id(pipeline, stage.key)
                properties[entered(identifier)] = Property("datetime", partial(self._last_entered, identifier))
        return Kind(
            "deals",
            company.deals,
            _stamped("deals", "createdate", properties),
            {
                "companies": lambda deal: [deal.account] if deal.account else [],
                "contacts": lambda deal: [deal.contact] if deal.contact else [],
                "line_items": lambda deal: [line.n for line in deal.lines if not line.deleted_at],
            },
            {"dealstage": self._stage_history},
        )

    def _close_date(self, deal: Deal) -> str | None:
        """The plan, then the moment of closing; or the day of it, where somebody picked it afterwards."""
        if deal.closed_at is None:
            return instant(self.midnight(deal.close_date))
        every = self.setup.picked_close_dates
        by_hand = every is not None and deal.n % every == 0
        return instant(self.midnight(deal.closed_at.astimezone(self.zone).date()) if by_hand else deal.closed_at)

    def _home_amount(self, deal: Deal) -> str | None:
        if deal.amount is None:
            return None
        day = deal.closed_at.date() if deal.closed_at else self.company.now.date()
        return money(deal.amount * self.company.rate(deal.currency, day))

    def _merged_ids(self, deal: Deal) -> str | None:
        return ";".join(hs_id("deals", loser.n) for loser in self._losers(deal)) or None

    # ── the rest ──────────────────────────────────────────────────────────────────────────────────

    def _companies(self) -> Kind:
        industries = tuple((_upper(segment), segment) for segment in words.SEGMENTS)
        return Kind(
            "companies",
            self.company.accounts,
            _stamped(
                "companies",
                "createdate",
                {
                    "name": Property("string", lambda one: one.name, given=True),
                    "domain": Property("string", lambda one: f"customer{one.n}.example", given=True),
                    "industry": Property("enumeration", lambda one: _upper(one.segment), industries),
                    "country": Property("string", lambda one: one.country),
                    "hubspot_owner_id": Property("enumeration", lambda one: owner_id(one.owner)),
                },
            ),
        )

    def _contacts(self) -> Kind:
        return Kind(
            "contacts",
            self.company.contacts,
            _stamped(
                "contacts",
                "createdate",
                {
                    "firstname": Property("string", lambda one: one.first, given=True),
                    "lastname": Property("string", lambda one: one.last, given=True),
                    "email": Property("string", lambda one: one.email, given=True),
                    "associatedcompanyid": Property("number", lambda one: hs_id("companies", one.account)),
                },
                modified="lastmodifieddate",
            ),
            modified="lastmodifieddate",
        )

    def _leads(self) -> Kind:
        def bant(name: str) -> Property:
            return Property("bool", lambda one: _bool(getattr(one, name)), custom=True)

        def converted(lead: Lead) -> str | None:
            return instant(lead.converted_at or lead.modified_at)

        return Kind(
            "leads",
            self.company.leads,
            _stamped(
                "leads",
                "hs_createdate",
                {
                    "hs_lead_name": Property("string", lambda one: one.name, given=True),
                    "hs_associated_company_name": Property("string", lambda one: one.company, given=True),
                    "hs_pipeline": Property("enumeration", lambda _: "lead-pipeline-id"),
                    "hs_pipeline_stage": Property(
                        "enumeration", lambda one: LEAD_STAGES[one.status][0], tuple(LEAD_STAGES.values())
                    ),
                    "hs_v2_date_entered_current_stage": Property("datetime", converted),
                    entered(LEAD_STAGES["converted"][0]): Property("datetime", lambda one: instant(one.converted_at)),
                    "hs_lead_source": Property("string", lambda one: one.lead_source),
                    "hubspot_owner_id": Property("enumeration", lambda one: owner_id(one.owner)),
                    "budget": bant("budget"),
                    "authority": bant("authority"),
                    "need": bant("need"),
                    "timing": bant("timing"),
                    "score": Property("number", lambda one: str(one.score), custom=True),
                    "estimated_value": Property("number", lambda one: money(one.value), custom=True),
                    "product_interest": Property("string", lambda one: self.company.products[one.product].name, custom=True),
                },
            ),
            {
                "deals": lambda one: [one.deal] if one.deal else [],
                "contacts": lambda one: [one.contact] if one.contact else [],
            },
        )  # fmt: skip

    def _line_items(self, lines: Mapping[int, Any]) -> Kind:
        products = self.company.products
        return Kind(
            "line_items",
            lines,
            _stamped(
                "line_items",
                "createdate",
                {
                    "name": Property("string", lambda line: products[line.product].name, given=True),
                    "quantity": Property("number", lambda line: str(line.quantity), given=True),
                    "amount": Property("number", lambda line: money(line.amount), given=True),
                    "price": Property("number", lambda line: money(line.amount / line.quantity)),
                    "hs_product_id": Property("string", lambda line: hs_id("products", line.product)),
                    "hs_line_item_currency_code": Property("string", lambda line: self.company.deals[line.deal].currency),
                },
            ),
            {"deals": self._deals_of_line},
            gone=self._line_gone,
        )

    def _deals_of_line(self, line: Line) -> list[int]:
        """None for lines of quotes and carts."""
        every = self.setup.lines_without_deal
        return [] if every is not None and line.n % every == 0 else [line.deal]

    def _line_gone(self, line: Line) -> datetime | None:
        """A line item outlives its deal: it loses the association and stays."""
        deal = self.company.deals.get(line.deal)
        return None if deal is None or deal.deleted_at == line.deleted_at else line.deleted_at

    def _products(self) -> Kind:
        return Kind(
            "products",
            self.company.products,
            _stamped(
                "products",
                "createdate",
                {
                    "name": Property("string", lambda one: one.name, given=True),
                    "price": Property("number", lambda one: money(one.price), given=True),
                    "product_category": Property("string", lambda one: one.category, custom=True),
                },
            ),
        )

    def _engagement(self, name: str, records: Mapping[int, Activity]) -> Kind:
        properties = {
            "hs_timestamp": Property("datetime", lambda one: instant(one.done_at if name != "tasks" and one.done_at else one.due_at)),
            "hubspot_owner_id": Property("enumeration", lambda one: owner_id(one.owner)),
        }
        if name == "tasks":
            properties |= {
                "hs_task_subject": Property("string", lambda one: one.subject, given=True),
                "hs_task_status": Property("enumeration", lambda one: "COMPLETED" if one.done_at else "NOT_STARTED", given=True),
                "hs_task_type": Property("enumeration", lambda one: "EMAIL" if one.kind == "email" else "TODO"),
                "hs_task_completion_date": Property("datetime", lambda one: instant(one.done_at or one.due_at)),
            }
        elif name == "calls":
            properties |= {
                "hs_call_title": Property("string", lambda one: one.subject, given=True),
                "hs_call_status": Property("enumeration", lambda one: "COMPLETED" if one.done_at else "SCHEDULED"),
            }
        elif name == "meetings":
            properties |= {
                "hs_meeting_title": Property("string", lambda one: one.subject, given=True),
                "hs_meeting_outcome": Property("enumeration", lambda one: "COMPLETED" if one.done_at else "SCHEDULED"),
                "hs_meeting_end_time": Property("datetime", lambda one: instant(one.done_at or one.due_at)),
            }
        else:
            properties |= {
                "hs_email_subject": Property("string", lambda one: one.subject, given=True),
                "hs_email_status": Property("enumeration", lambda one: "SENT" if one.done_at else "SCHEDULED"),
            }
        return Kind(
            name,
            records,
            _stamped(name, "hs_createdate", properties),
            {
                "deals": lambda one: [one.deal] if one.deal else [],
                "leads": lambda one: [one.lead] if one.lead else [],
            },
        )


def _stamped(kind: str, created: str, properties: Mapping[str, Property], modified: str = "hs_lastmodifieddate") -> dict[str, Property]:
    """With the id and the stamps every object has."""
    return {
        **properties,
        created: Property("datetime", lambda one: instant(one.created_at), given=True),
        modified: Property("datetime", lambda one: instant(one.modified_at), given=True),
        "hs_object_id": Property("number", lambda one: hs_id(kind, one.n), given=True),
    }


def exchange_rates(company: Company) -> list[dict[str, Any]]:
    return [
        {
            "id": str(rate.n),
            "fromCurrencyCode": rate.currency,
            "toCurrencyCode": HOME,
            "conversionRate": float(rate.rate),
            "effectiveAt": f"{rate.valid_from.isoformat()}T00:00:00Z",
            "createdAt": instant(rate.modified_at),
            "updatedAt": instant(rate.modified_at),
            "visibleInUI": True,
        }
        for rate in company.rates
    ]


def _bool(value: bool | None) -> str | None:
    return None if value is None else "true" if value else "false"


def _upper(text: str) -> str:
    return text.upper().replace(" ", "_")
