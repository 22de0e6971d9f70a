"""The generated company as the CSV files a CRM's export would give: one column per canonical column it knows, ISO dates, UTC."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connector.sandbox.company import Company

Row = dict[str, Any]


def write_csv(company: Company, folder: Path) -> dict[str, int]:
    """Write every table into `folder` as `<name>.csv`; rows per file."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for name, rows in tables(company).items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer: csv.DictWriter[str] | None = None
            for row in rows:
                if writer is None:
                    writer = csv.DictWriter(file, list(row), lineterminator="\n")
                    writer.writeheader()
                writer.writerow({key: _text(value) for key, value in row.items()})
                counts[f"{name}.csv"] = counts.get(f"{name}.csv", 0) + 1
    return counts


def tables(company: Company) -> dict[str, Iterator[Row]]:
    """Every table of the export: name → rows with Python values."""
    return {
        "deals": _deals(company),
        "stage_history": _stage_history(company),
        "stages": _stages(company),
        "leads": _leads(company),
        "activities": _activities(company),
        "accounts": _accounts(company),
        "contacts": _contacts(company),
        "owners": _owners(company),
        "products": _products(company),
        "deal_products": _deal_products(company),
        "deal_contacts": _deal_contacts(company),
        "spend": ({"period": one.month, "category": one.category, "amount": one.amount} for one in company.spend),
        "quotas": ({"period": one.month, "owner": company.owners[one.owner].name, "amount": one.amount} for one in company.quotas),
        "rates": ({"currency": one.currency, "valid_from": one.valid_from, "rate": one.rate} for one in company.rates),
    }


def _deals(company: Company) -> Iterator[Row]:
    for deal in company.deals.values():
        if deal.deleted_at:
            continue
        stage = company.stage(deal.pipeline, deal.stage)
        account = company.accounts[deal.account] if deal.account else None
        contact = company.contacts[deal.contact] if deal.contact else None
        yield {
            "deal_id": f"D{deal.n:06}",
            "name": deal.name,
            "pipeline": company.pipeline(deal.pipeline).label,
            "stage": stage.label,
            "stage_order": stage.order,
            "status": company.status(deal),
            "amount": deal.amount,
            "currency": deal.currency,
            "probability": deal.probability,
            "forecast_category": deal.forecast,
            "owner": company.owners[deal.owner].name,
            "account": account.name if account else None,
            "contact": contact.name if contact else None,
            "product": company.products[deal.product].name,
            "lead_source": deal.lead_source,
            "is_existing_customer": int(deal.existing),
            "lost_reason": deal.lost_reason,
            "next_step": deal.next_step,
            "created_at": deal.created_at,
            "closed_at": deal.closed_at,
            "expected_close_date": deal.close_date,
            "stage_entered_at": deal.stage_entered_at,
            "last_activity_at": deal.last_activity_at,
            "next_activity_at": company.next_activity_at(deal),
            "modified_at": deal.modified_at,
        }


def _stage_history(company: Company) -> Iterator[Row]:
    for deal in company.deals.values():
        if deal.deleted_at:
            continue
        for change in deal.entries():
            stage = company.stage(change.pipeline, change.stage)
            yield {
                "deal_id": f"D{deal.n:06}",
                "pipeline": company.pipeline(change.pipeline).label,
                "stage": stage.label,
                "stage_order": stage.order,
                "entered_at": change.at,
            }


def _stages(company: Company) -> Iterator[Row]:
    for pipeline in company.pipelines:
        for stage in pipeline.stages:
            yield {
                "pipeline": pipeline.label,
                "stage": stage.label,
                "stage_order": stage.order,
                "probability": stage.probability,
                "is_won": int(stage.won),
                "is_lost": int(stage.lost),
            }


def _leads(company: Company) -> Iterator[Row]:
    for lead in company.leads.values():
        if lead.deleted_at:
            continue
        product = company.products[lead.product]
        yield {
            "lead_id": f"L{lead.n:06}",
            "name": lead.name,
            "company": lead.company,
            "owner": company.owners[lead.owner].name,
            "status": lead.status.capitalize(),
            "lead_source": lead.lead_source,
            "product": product.name,
            "product_category": product.category,
            "created_at": lead.created_at,
            "converted_at": lead.converted_at,
            "deal_id": f"D{lead.deal:06}" if lead.deal else None,
            "value": lead.value,
            "currency": "EUR",
            "budget": _flag(lead.budget),
            "authority": _flag(lead.authority),
            "need": _flag(lead.need),
            "timing": _flag(lead.timing),
            "score": lead.score,
            "modified_at": lead.modified_at,
        }


def _activities(company: Company) -> Iterator[Row]:
    for activity in company.activities.values():
        if activity.deleted_at is None:
            yield {
                "activity_id": f"A{activity.n:06}",
                "deal_id": f"D{activity.deal:06}" if activity.deal else None,
                "lead_id": f"L{activity.lead:06}" if activity.lead else None,
                "owner": company.owners[activity.owner].name,
                "kind": activity.kind,
                "subject": activity.subject,
                "due_at": activity.due_at,
                "done_at": activity.done_at,
                "modified_at": activity.modified_at,
            }


def _accounts(company: Company) -> Iterator[Row]:
    for account in company.accounts.values():
        if account.deleted_at is None:
            yield {
                "account_id": f"C{account.n:06}",
                "account": account.name,
                "segment": account.segment,
                "region": account.country,
                "owner": company.owners[account.owner].name,
            }


def _contacts(company: Company) -> Iterator[Row]:
    for contact in company.contacts.values():
        if contact.deleted_at is None:
            account = company.accounts[contact.account].name
            yield {"contact_id": f"P{contact.n:06}", "contact": contact.name, "account": account, "email": contact.email}


def _owners(company: Company) -> Iterator[Row]:
    for owner in company.owners.values():
        manager = company.owners[owner.manager].name if owner.manager else None
        yield {
            "owner_id": f"U{owner.n:03}",
            "owner": owner.name,
            "team": owner.team,
            "manager": manager,
            "region": owner.region,
            "email": owner.email,
        }


def _products(company: Company) -> Iterator[Row]:
    for product in company.products.values():
        yield {"product_id": f"R{product.n:03}", "product": product.name, "product_category": product.category, "price": product.price}


def _deal_products(company: Company) -> Iterator[Row]:
    for deal in company.deals.values():
        for line in deal.lines if deal.deleted_at is None else ():
            if line.deleted_at is None:
                product = company.products[line.product]
                yield {
                    "deal_product_id": f"N{line.n:06}",
                    "deal_id": f"D{deal.n:06}",
                    "product": product.name,
                    "product_category": product.category,
                    "quantity": line.quantity,
                    "amount": line.amount,
                }


def _deal_contacts(company: Company) -> Iterator[Row]:
    for deal in company.deals.values():
        for role in deal.roles if deal.deleted_at is None else ():
            if role.deleted_at is None:
                yield {
                    "deal_contact_id": f"K{role.n:06}",
                    "deal_id": f"D{deal.n:06}",
                    "contact_id": f"P{role.contact:06}",
                    "contact": company.contacts[role.contact].name,
                    "role": role.name,
                    "is_primary": int(role.primary),
                }


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, date):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)
