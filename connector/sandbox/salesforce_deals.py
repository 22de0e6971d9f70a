"""The generated company's deals and all that hangs on them as Salesforce objects: accounts, contacts, leads, tasks and events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from connector.sandbox import words
from connector.sandbox.company import HOME, Company
from connector.sandbox.records import Activity, Change, Deal, Stage
from connector.sandbox.salesforce_objects import (
    Field,
    SObject,
    account_id,
    always,
    contact_id,
    day,
    deal_id,
    lead_id,
    sf_id,
    stamps,
    typed,
    user_id,
    yes,
)
from connector.sandbox.salesforce_settings import Setup

ARCHIVED_AFTER: Final = timedelta(days=365)
#: an event that several attend has copies; their numbers begin here
COPIES: Final = 1_000_000


def opportunity(company: Company, setup: Setup) -> SObject:
    def stage(deal: Deal) -> Stage:
        return company.stage(deal.pipeline, deal.stage)

    def pipeline_id(deal: Deal) -> str | None:
        return None if deal.n in setup.untyped_deals else sf_id("012", company.pipeline(deal.pipeline).n)

    return SObject(
        "Opportunity",
        "006",
        company.deals.values,
        stamps("006")
        | typed(
            string={"Name": lambda deal: deal.name, "NextStep": lambda deal: deal.next_step},
            reference={
                **({"RecordTypeId": pipeline_id} if setup.record_types else {}),
                "OwnerId": lambda deal: user_id(deal.owner),
                "AccountId": lambda deal: account_id(deal.account),
                "ContactId": lambda deal: contact_id(deal.contact),
                "CampaignId": always(None),
            },
            picklist={
                "StageName": lambda deal: stage(deal).name,
                "ForecastCategoryName": lambda deal: deal.forecast,
                "LeadSource": lambda deal: deal.lead_source,
                "Type": lambda deal: "Existing Customer - Upgrade" if deal.existing else "New Customer",
                "CurrencyIsoCode": lambda deal: deal.currency,
                "Loss_Reason__c": lambda deal: deal.lost_reason,
            },
            currency={"Amount": lambda deal: deal.amount},
            percent={"Probability": lambda deal: deal.probability * 100},
            date={"CloseDate": lambda deal: deal.close_date, "LastActivityDate": lambda deal: day(deal.last_activity_at)},
            datetime={"LastStageChangeDate": lambda deal: deal.stage_entered_at if len(deal.history) > 1 else None},
            boolean={
                "IsClosed": lambda deal: stage(deal).closed,
                "IsWon": lambda deal: stage(deal).won,
                "HasOpportunityLineItem": lambda deal: bool(deal.lines),
                "IsPrivate": always(False),
            },
        ),
        {
            "Owner": ("User", lambda deal: company.owners[deal.owner]),
            "Account": ("Account", lambda deal: company.accounts[deal.account] if deal.account else None),
            "RecordType": ("RecordType", lambda deal: None if deal.n in setup.untyped_deals else company.pipeline(deal.pipeline)),
        },
    )


def history(company: Company) -> SObject:
    """A row at creation and at every change of stage, amount or close date."""

    def rows() -> Iterator[tuple[Deal, Change]]:
        for deal in company.deals.values():
            for change in deal.history:
                yield deal, change

    def stage(row: tuple[Deal, Change]) -> Stage:
        return company.stage(row[1].pipeline, row[1].stage)

    return SObject(
        "OpportunityHistory",
        "008",
        rows,
        typed(
            id={"Id": lambda row: sf_id("008", row[1].n)},
            reference={
                "OpportunityId": lambda row: deal_id(row[0].n),
                "CreatedById": lambda row: user_id(row[1].by),
            },
            picklist={
                "StageName": lambda row: stage(row).name,
                "ForecastCategory": lambda row: stage(row).forecast,
                "CurrencyIsoCode": lambda row: row[0].currency,
            },
            currency={"Amount": lambda row: row[1].amount},
            percent={"Probability": lambda row: stage(row).probability * 100},
            date={"CloseDate": lambda row: row[1].close_date},
            datetime={"CreatedDate": lambda row: row[1].at, "SystemModstamp": lambda row: row[1].at},
            boolean={"IsDeleted": lambda row: row[0].deleted_at is not None},
        ),
        {"Opportunity": ("Opportunity", lambda row: row[0])},
    )


def line_item(company: Company) -> SObject:
    return SObject(
        "OpportunityLineItem",
        "00k",
        lambda: (line for deal in company.deals.values() for line in deal.lines),
        stamps("00k")
        | typed(
            string={"Name": lambda line: company.products[line.product].name},
            reference={
                "OpportunityId": lambda line: deal_id(line.deal),
                "Product2Id": lambda line: sf_id("01t", line.product),
            },
            picklist={"CurrencyIsoCode": lambda line: company.deals[line.deal].currency},
            double={"Quantity": lambda line: Decimal(line.quantity)},
            currency={
                "UnitPrice": lambda line: (line.amount / line.quantity).quantize(Decimal("0.01")),
                "TotalPrice": lambda line: line.amount,
            },
        ),
        {
            "Opportunity": ("Opportunity", lambda line: company.deals[line.deal]),
            "Product2": ("Product2", lambda line: company.products[line.product]),
        },
    )


def contact_role(company: Company) -> SObject:
    return SObject(
        "OpportunityContactRole",
        "00K",
        lambda: (role for deal in company.deals.values() for role in deal.roles),
        stamps("00K")
        | typed(
            reference={"OpportunityId": lambda role: deal_id(role.deal), "ContactId": lambda role: contact_id(role.contact)},
            picklist={"Role": lambda role: role.name, "CurrencyIsoCode": lambda role: company.deals[role.deal].currency},
            boolean={"IsPrimary": lambda role: role.primary},
        ),
        {
            "Opportunity": ("Opportunity", lambda role: company.deals[role.deal]),
            "Contact": ("Contact", lambda role: company.contacts[role.contact]),
        },
    )


def account(company: Company) -> SObject:
    return SObject(
        "Account",
        "001",
        company.accounts.values,
        stamps("001")
        | typed(
            string={"Name": lambda one: one.name, "BillingCountry": lambda one: one.country},
            picklist={"Industry": lambda one: one.segment, "CurrencyIsoCode": lambda one: words.COUNTRIES[one.country][0]},
            reference={"OwnerId": lambda one: user_id(one.owner), "MasterRecordId": lambda one: account_id(one.merged_into)},
        ),
        {"Owner": ("User", lambda one: company.owners[one.owner])},
    )


def contact(company: Company) -> SObject:
    return SObject(
        "Contact",
        "003",
        company.contacts.values,
        stamps("003")
        | typed(
            string={"Name": lambda one: one.name, "FirstName": lambda one: one.first, "LastName": lambda one: one.last},
            email={"Email": lambda one: one.email},
            reference={"AccountId": lambda one: account_id(one.account), "MasterRecordId": always(None)},
        ),
        {"Account": ("Account", lambda one: company.accounts[one.account])},
    )


def lead(company: Company) -> SObject:
    return SObject(
        "Lead",
        "00Q",
        company.leads.values,
        stamps("00Q")
        | typed(
            string={"Name": lambda one: one.name, "Company": lambda one: one.company, "Country": lambda one: one.country},
            picklist={
                "Status": lambda one: one.status.capitalize(),
                "LeadSource": lambda one: one.lead_source,
                "CurrencyIsoCode": always(HOME),
                "Budget__c": lambda one: yes(one.budget),
                "Authority__c": lambda one: yes(one.authority),
                "Need__c": lambda one: yes(one.need),
                "Timing__c": lambda one: yes(one.timing),
                "Product_Interest__c": lambda one: company.products[one.product].name,
            },
            reference={
                "OwnerId": lambda one: user_id(one.owner),
                "ConvertedAccountId": lambda one: account_id(one.account),
                "ConvertedContactId": lambda one: contact_id(one.contact),
                "ConvertedOpportunityId": lambda one: deal_id(one.deal),
                "MasterRecordId": always(None),
            },
            boolean={"IsConverted": lambda one: one.status == "converted"},
            date={"ConvertedDate": lambda one: day(one.converted_at)},
            currency={"Estimated_Value__c": lambda one: one.value},
            double={"Score__c": lambda one: Decimal(one.score)},
        ),
        {"Owner": ("User", lambda one: company.owners[one.owner])},
    )


def _activity_fields(prefix: str) -> dict[str, Field]:
    return stamps(prefix) | typed(
        string={"Subject": lambda one: one.subject},
        reference={
            "WhatId": lambda one: deal_id(one.deal),
            "WhoId": lambda one: lead_id(one.lead),
            "OwnerId": lambda one: user_id(one.owner),
        },
    )


def task(company: Company) -> SObject:
    def archived(one: Activity) -> bool:
        return one.done_at is not None and company.now - one.done_at > ARCHIVED_AFTER

    return SObject(
        "Task",
        "00T",
        lambda: (one for one in company.activities.values() if one.kind != "meeting"),
        _activity_fields("00T")
        | typed(
            picklist={
                "TaskSubtype": lambda one: one.kind.capitalize(),
                "Status": lambda one: "Completed" if one.done_at else "Not Started",
            },
            boolean={"IsClosed": lambda one: one.done_at is not None, "IsArchived": archived},
            date={"ActivityDate": lambda one: one.due_at.date()},
            datetime={"CompletedDateTime": lambda one: one.done_at},
        ),
        archived=archived,
    )


def event(company: Company) -> SObject:
    def start(one: Activity) -> datetime:
        return one.done_at - timedelta(hours=1) if one.done_at else one.due_at

    def archived(one: Activity) -> bool:
        return company.now - start(one) > ARCHIVED_AFTER

    def rows() -> Iterator[Activity]:
        """Every fifth has an attendee, and so a copy."""
        for one in company.activities.values():
            if one.kind == "meeting":
                yield one
                if one.n % 5 == 0:
                    yield replace(one, n=one.n + COPIES, owner=1)

    return SObject(
        "Event",
        "00U",
        rows,
        _activity_fields("00U")
        | typed(
            datetime={
                "ActivityDateTime": start,
                "StartDateTime": start,
                "EndDateTime": lambda one: start(one) + timedelta(hours=1),
            },
            date={"ActivityDate": lambda one: start(one).date()},
            boolean={"IsChild": lambda one: one.n > COPIES, "IsRecurrence": always(False), "IsArchived": archived},
        ),
        archived=archived,
    )
