"""The generated company as Salesforce objects: which exist, their fields with types, and how a record gives each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from connector.sandbox import words
from connector.sandbox.company import HOME, Company
from connector.sandbox.records import Activity, Change, Deal, Rate, Stage

DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECK: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
ARCHIVED_AFTER: Final = timedelta(days=365)

Value = Callable[[Any], Any]


def sf_id(prefix: str, n: int) -> str:
    """An 18-character id: key prefix, instance, number in base 62, and the three characters that make it safe against case."""
    number = ""
    while n:
        n, digit = divmod(n, 62)
        number = DIGITS[digit] + number
    short = f"{prefix}Hs{number:0>10}"
    return short + _check(short[:5]) + _check(short[5:10]) + _check(short[10:])


@lru_cache(1 << 16)
def _check(part: str) -> str:
    """Says which of five characters are capitals."""
    return CHECK[sum(1 << place for place, char in enumerate(part) if char.isupper())]


def _always(value: Any) -> Value:
    return lambda _: value


def _never(_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Field:
    type: str
    value: Value


@dataclass(frozen=True, slots=True)
class SObject:
    """`parents` are relationships: name → object and the parent's record (None when there is none)."""

    name: str
    prefix: str
    rows: Callable[[], Iterable[Any]]
    fields: Mapping[str, Field]
    parents: Mapping[str, tuple[str, Value]] = field(default_factory=dict)
    archived: Callable[[Any], bool] = _never
    bulk: bool = True


def _typed(**columns: Mapping[str, Value]) -> dict[str, Field]:
    return {name: Field(kind, value) for kind, values in columns.items() for name, value in values.items()}


def _stamps(prefix: str) -> dict[str, Field]:
    """What every record of the company has."""
    return _typed(
        id={"Id": lambda one: sf_id(prefix, one.n)},
        datetime={
            "CreatedDate": lambda one: one.created_at,
            "SystemModstamp": lambda one: one.modified_at,
            "LastModifiedDate": lambda one: one.modified_at,
        },
        boolean={"IsDeleted": lambda one: getattr(one, "deleted_at", None) is not None},
    )


def objects(company: Company, *, multi_currency: bool = True, dated_rates: bool = True, record_types: bool = True) -> dict[str, SObject]:
    """Every object of the org, by name."""
    found = [
        _opportunity(company, record_types=record_types),
        _history(company),
        _line_item(company),
        _contact_role(company),
        _account(company),
        _contact(company),
        _lead(company),
        _task(company),
        _event(company),
        _user(company),
        _role(),
        _group(),
        _product(company),
        _campaign(company),
        _quota(company),
        _organization(),
        _stage(company),
    ]
    if record_types:
        found.append(_record_type(company))
    if multi_currency:
        found.append(_currency_type(company))
        if dated_rates:
            found.append(_dated_rate(company))
    else:
        found = [replace(one, fields={name: kind for name, kind in one.fields.items() if name != "CurrencyIsoCode"}) for one in found]
    return {one.name: one for one in found}


def stages(company: Company) -> list[Stage]:
    """The one stage list of the org: open stages of every pipeline, then the closed ones, each name once."""
    every = [stage for pipeline in company.pipelines for stage in pipeline.stages]
    ordered = sorted(every, key=lambda stage: stage.closed)
    return list({stage.name: stage for stage in reversed(ordered)}.values())[::-1]


def _user_id(n: int | None) -> str | None:
    return sf_id("005", n) if n else None


def _account_id(n: int | None) -> str | None:
    return sf_id("001", n) if n else None


def _deal_id(n: int | None) -> str | None:
    return sf_id("006", n) if n else None


def _lead_id(n: int | None) -> str | None:
    return sf_id("00Q", n) if n else None


def _contact_id(n: int | None) -> str | None:
    return sf_id("003", n) if n else None


def _opportunity(company: Company, *, record_types: bool) -> SObject:
    def stage(deal: Deal) -> Stage:
        return company.stage(deal.pipeline, deal.stage)

    def pipeline_id(deal: Deal) -> str | None:
        return sf_id("012", company.pipeline(deal.pipeline).n) if record_types else None

    return SObject(
        "Opportunity",
        "006",
        company.deals.values,
        _stamps("006")
        | _typed(
            string={"Name": lambda deal: deal.name, "NextStep": lambda deal: deal.next_step},
            reference={
                "RecordTypeId": pipeline_id,
                "OwnerId": lambda deal: _user_id(deal.owner),
                "AccountId": lambda deal: _account_id(deal.account),
                "ContactId": lambda deal: _contact_id(deal.contact),
                "CampaignId": _always(None),
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
            date={"CloseDate": lambda deal: deal.close_date, "LastActivityDate": lambda deal: _day(deal.last_activity_at)},
            datetime={"LastStageChangeDate": lambda deal: deal.stage_entered_at if len(deal.history) > 1 else None},
            boolean={
                "IsClosed": lambda deal: stage(deal).closed,
                "IsWon": lambda deal: stage(deal).won,
                "HasOpportunityLineItem": lambda deal: bool(deal.lines),
                "IsPrivate": _always(False),
            },
        ),
        {
            "Owner": ("User", lambda deal: company.owners[deal.owner]),
            "Account": ("Account", lambda deal: company.accounts[deal.account] if deal.account else None),
            "RecordType": ("RecordType", lambda deal: company.pipeline(deal.pipeline)),
        },
    )


def _history(company: Company) -> SObject:
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
        _typed(
            id={"Id": lambda row: sf_id("008", row[1].n)},
            reference={
                "OpportunityId": lambda row: _deal_id(row[0].n),
                "CreatedById": lambda row: _user_id(row[1].by),
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


def _line_item(company: Company) -> SObject:
    return SObject(
        "OpportunityLineItem",
        "00k",
        lambda: (line for deal in company.deals.values() for line in deal.lines),
        _stamps("00k")
        | _typed(
            string={"Name": lambda line: company.products[line.product].name},
            reference={
                "OpportunityId": lambda line: _deal_id(line.deal),
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


def _contact_role(company: Company) -> SObject:
    return SObject(
        "OpportunityContactRole",
        "00K",
        lambda: (role for deal in company.deals.values() for role in deal.roles),
        _stamps("00K")
        | _typed(
            reference={"OpportunityId": lambda role: _deal_id(role.deal), "ContactId": lambda role: _contact_id(role.contact)},
            picklist={"Role": lambda role: role.name, "CurrencyIsoCode": lambda role: company.deals[role.deal].currency},
            boolean={"IsPrimary": lambda role: role.primary},
        ),
        {
            "Opportunity": ("Opportunity", lambda role: company.deals[role.deal]),
            "Contact": ("Contact", lambda role: company.contacts[role.contact]),
        },
    )


def _account(company: Company) -> SObject:
    return SObject(
        "Account",
        "001",
        company.accounts.values,
        _stamps("001")
        | _typed(
            string={"Name": lambda one: one.name, "BillingCountry": lambda one: one.country},
            picklist={"Industry": lambda one: one.segment, "CurrencyIsoCode": lambda one: words.COUNTRIES[one.country][0]},
            reference={"OwnerId": lambda one: _user_id(one.owner), "MasterRecordId": lambda one: _account_id(one.merged_into)},
        ),
        {"Owner": ("User", lambda one: company.owners[one.owner])},
    )


def _contact(company: Company) -> SObject:
    return SObject(
        "Contact",
        "003",
        company.contacts.values,
        _stamps("003")
        | _typed(
            string={"Name": lambda one: one.name, "FirstName": lambda one: one.first, "LastName": lambda one: one.last},
            email={"Email": lambda one: one.email},
            reference={"AccountId": lambda one: _account_id(one.account)},
        ),
        {"Account": ("Account", lambda one: company.accounts[one.account])},
    )


def _lead(company: Company) -> SObject:
    return SObject(
        "Lead",
        "00Q",
        company.leads.values,
        _stamps("00Q")
        | _typed(
            string={"Name": lambda one: one.name, "Company": lambda one: one.company, "Country": lambda one: one.country},
            picklist={
                "Status": lambda one: one.status.capitalize(),
                "LeadSource": lambda one: one.lead_source,
                "CurrencyIsoCode": _always(HOME),
                "Budget__c": lambda one: _yes(one.budget),
                "Authority__c": lambda one: _yes(one.authority),
                "Need__c": lambda one: _yes(one.need),
                "Timing__c": lambda one: _yes(one.timing),
                "Product_Interest__c": lambda one: company.products[one.product].name,
            },
            reference={
                "OwnerId": lambda one: _user_id(one.owner),
                "ConvertedAccountId": lambda one: _account_id(one.account),
                "ConvertedContactId": lambda one: _contact_id(one.contact),
                "ConvertedOpportunityId": lambda one: _deal_id(one.deal),
                "MasterRecordId": _always(None),
            },
            boolean={"IsConverted": lambda one: one.status == "converted"},
            date={"ConvertedDate": lambda one: _day(one.converted_at)},
            currency={"Estimated_Value__c": lambda one: one.value},
            double={"Score__c": lambda one: Decimal(one.score)},
        ),
        {"Owner": ("User", lambda one: company.owners[one.owner])},
    )


def _activity_fields(prefix: str) -> dict[str, Field]:
    return _stamps(prefix) | _typed(
        string={"Subject": lambda one: one.subject},
        reference={
            "WhatId": lambda one: _deal_id(one.deal),
            "WhoId": lambda one: _lead_id(one.lead),
            "OwnerId": lambda one: _user_id(one.owner),
        },
    )


def _task(company: Company) -> SObject:
    def archived(one: Activity) -> bool:
        return one.done_at is not None and company.now - one.done_at > ARCHIVED_AFTER

    return SObject(
        "Task",
        "00T",
        lambda: (one for one in company.activities.values() if one.kind != "meeting"),
        _activity_fields("00T")
        | _typed(
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


def _event(company: Company) -> SObject:
    def start(one: Activity) -> datetime:
        return one.done_at - timedelta(hours=1) if one.done_at else one.due_at

    def archived(one: Activity) -> bool:
        return company.now - start(one) > ARCHIVED_AFTER

    return SObject(
        "Event",
        "00U",
        lambda: (one for one in company.activities.values() if one.kind == "meeting"),
        _activity_fields("00U")
        | _typed(
            datetime={
                "ActivityDateTime": start,
                "StartDateTime": start,
                "EndDateTime": lambda one: start(one) + timedelta(hours=1),
            },
            date={"ActivityDate": lambda one: start(one).date()},
            boolean={"IsChild": _always(False), "IsRecurrence": _always(False), "IsArchived": archived},
        ),
        archived=archived,
    )


def _user(company: Company) -> SObject:
    return SObject(
        "User",
        "005",
        company.owners.values,
        _stamps("005")
        | _typed(
            string={
                "Name": lambda one: one.name,
                "Username": lambda one: one.email,
                "Department": lambda one: one.team,
                "Division": lambda one: one.region,
            },
            email={"Email": lambda one: one.email},
            boolean={"IsActive": lambda one: one.active},
            picklist={"UserType": _always("Standard"), "TimeZoneSidKey": _always("Europe/Berlin")},
            reference={"ManagerId": lambda one: _user_id(one.manager), "UserRoleId": lambda one: sf_id("00E", _role_number(one.team))},
        ),
        {
            "Manager": ("User", lambda one: company.owners[one.manager] if one.manager else None),
            "UserRole": ("UserRole", lambda one: one.team),
        },
    )


def _role_number(team: str) -> int:
    return [*words.TEAMS, "Management"].index(team) + 1


def _role() -> SObject:
    return SObject(
        "UserRole",
        "00E",
        lambda: [*words.TEAMS, "Management"],
        _typed(id={"Id": lambda team: sf_id("00E", _role_number(team))}, string={"Name": lambda team: team}),
    )


def _group() -> SObject:
    return SObject(
        "Group",
        "00G",
        lambda: ["Inbound Leads"],
        _typed(
            id={"Id": _always(sf_id("00G", 1))}, string={"Name": lambda name: name}, picklist={"Type": _always("Queue")}
        ),
    )  # fmt: skip


def _product(company: Company) -> SObject:
    return SObject(
        "Product2",
        "01t",
        company.products.values,
        _stamps("01t")
        | _typed(
            string={"Name": lambda one: one.name, "ProductCode": lambda one: f"P-{one.n:03}"},
            picklist={"Family": lambda one: one.category},
            boolean={"IsActive": _always(True)},
        ),
    )


def _campaign(company: Company) -> SObject:
    return SObject(
        "Campaign",
        "701",
        lambda: company.spend,
        {name: kind for name, kind in _stamps("701").items() if name != "CreatedDate"}
        | _typed(
            string={"Name": lambda one: f"{one.category} {one.month:%B %Y}"},
            picklist={"Type": lambda one: one.category, "Status": _always("Completed"), "CurrencyIsoCode": _always(HOME)},
            date={"StartDate": lambda one: one.month, "EndDate": lambda one: one.month + timedelta(days=27)},
            currency={"ActualCost": lambda one: one.amount, "BudgetedCost": lambda one: one.amount},
            reference={"ParentId": _always(None)},
        ),
    )


def _quota(company: Company) -> SObject:
    return SObject(
        "ForecastingQuota",
        "0J9",
        lambda: company.quotas,
        {name: kind for name, kind in _stamps("0J9").items() if name not in ("CreatedDate", "IsDeleted")}
        | _typed(
            reference={"QuotaOwnerId": lambda one: _user_id(one.owner), "ForecastingTypeId": _always(sf_id("0Db", 1))},
            currency={"QuotaAmount": lambda one: one.amount},
            date={"StartDate": lambda one: one.month},
            picklist={"CurrencyIsoCode": _always(HOME)},
        ),
        {"QuotaOwner": ("User", lambda one: company.owners[one.owner])},
        bulk=False,
    )


def _organization() -> SObject:
    return SObject(
        "Organization",
        "00D",
        lambda: [HOME],
        _typed(
            id={"Id": _always(sf_id("00D", 1))},
            string={"Name": _always("Sandbox Sales GmbH")},
            boolean={"IsSandbox": _always(False)},
            picklist={"DefaultCurrencyIsoCode": lambda currency: currency, "TimeZoneSidKey": _always("Europe/Berlin")},
        ),
        bulk=False,
    )


def _stage(company: Company) -> SObject:
    def place(stage: Stage) -> int:
        return [one.name for one in stages(company)].index(stage.name) + 1

    return SObject(
        "OpportunityStage",
        "01J",
        lambda: stages(company),
        _typed(
            id={"Id": lambda stage: sf_id("01J", place(stage))},
            string={"ApiName": lambda stage: stage.name, "MasterLabel": lambda stage: stage.label},
            int={"SortOrder": place},
            boolean={"IsActive": _always(True), "IsClosed": lambda stage: stage.closed, "IsWon": lambda stage: stage.won},
            percent={"DefaultProbability": lambda stage: stage.probability * 100},
            picklist={"ForecastCategoryName": lambda stage: stage.forecast},
            datetime={"SystemModstamp": lambda _: max(pipeline.modified_at for pipeline in company.pipelines)},
        ),
        bulk=False,
    )


def _record_type(company: Company) -> SObject:
    return SObject(
        "RecordType",
        "012",
        lambda: company.pipelines,
        _typed(
            id={"Id": lambda one: sf_id("012", one.n)},
            string={"Name": lambda one: one.label, "DeveloperName": lambda one: one.label.replace(" ", "_")},
            picklist={"SobjectType": _always("Opportunity")},
            boolean={"IsActive": _always(True)},
            reference={"BusinessProcessId": lambda one: sf_id("019", one.n)},
            datetime={"SystemModstamp": lambda one: one.modified_at},
        ),
        bulk=False,
    )


def _currency_type(company: Company) -> SObject:
    def rows() -> list[Rate]:
        """The latest rate of each currency; the home currency is corporate."""
        latest = {rate.currency: rate for rate in company.rates}
        return [Rate(0, HOME, company.start.date(), Decimal(1), company.start), *latest.values()]

    return SObject(
        "CurrencyType",
        "01L",
        rows,
        _typed(
            id={"Id": lambda rate: sf_id("01L", rate.n)},
            string={"IsoCode": lambda rate: rate.currency},
            double={"ConversionRate": lambda rate: rate.units},
            int={"DecimalPlaces": _always(2)},
            boolean={"IsActive": _always(True), "IsCorporate": lambda rate: rate.currency == HOME},
            datetime={"SystemModstamp": lambda rate: rate.modified_at},
        ),
        bulk=False,
    )


def _dated_rate(company: Company) -> SObject:
    def rows() -> Iterator[tuple[Rate, date]]:
        for _, group in groupby(sorted(company.rates, key=lambda rate: rate.currency), key=lambda rate: rate.currency):
            rates = sorted(group, key=lambda rate: rate.valid_from)
            ends = [rate.valid_from for rate in rates[1:]]
            yield from zip(rates, [*ends, date(9999, 12, 31)], strict=True)

    return SObject(
        "DatedConversionRate",
        "04w",
        rows,
        _typed(
            id={"Id": lambda row: sf_id("04w", row[0].n)},
            string={"IsoCode": lambda row: row[0].currency},
            double={"ConversionRate": lambda row: row[0].units},
            date={"StartDate": lambda row: row[0].valid_from, "NextStartDate": lambda row: row[1]},
            datetime={"SystemModstamp": lambda row: row[0].modified_at},
        ),
        bulk=False,
    )


def _yes(value: bool | None) -> str | None:
    return None if value is None else "Yes" if value else "No"


def _day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def instant(value: datetime) -> str:
    """2026-05-01T07:25:37.000+0000: no colon in the offset."""
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000+0000"
