"""The rest of the generated company as Salesforce objects: users, products, costs and quotas, currencies, and the org's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Final

from connector.sandbox import salesforce_deals as deals
from connector.sandbox import words
from connector.sandbox.company import HOME, Company
from connector.sandbox.records import Owner, Quota, Rate, Spend, Stage
from connector.sandbox.salesforce_objects import SObject, always, sf_id, stamps, typed, user_id
from connector.sandbox.salesforce_settings import Setup

#: users that nobody is: they own what automation makes
AUTOMATED: Final = (("Automated", "Process", "AutomatedProcess"), ("Platform Integration", "User", "CloudIntegrationUser"))
FIRST_AUTOMATED: Final = 900
#: numbers of a further forecast type's quotas begin here
FURTHER_TYPE: Final = 1_000_000


def objects(company: Company, setup: Setup) -> dict[str, SObject]:
    """Every object of the org, by name."""
    found = [
        deals.opportunity(company, setup),
        deals.history(company),
        deals.line_item(company),
        deals.contact_role(company),
        deals.account(company),
        deals.contact(company),
        deals.lead(company),
        deals.task(company),
        deals.event(company),
        _user(company),
        _role(),
        _group(),
        _product(company),
        _campaign(company, setup),
        _quota(company, setup),
        _organization(),
        _stage(company, setup),
        _record_type(company, setup),
    ]
    if setup.multi_currency:
        found.append(_currency_type(company))
        if setup.dated_rates:
            found.append(_dated_rate(company))
    else:
        found = [replace(one, fields={name: kind for name, kind in one.fields.items() if name != "CurrencyIsoCode"}) for one in found]
    return {one.name: one for one in found}


def stages(company: Company) -> list[Stage]:
    """The one stage list of the org: open stages of every pipeline, then the closed ones, each name once."""
    every = [stage for pipeline in company.pipelines for stage in pipeline.stages]
    ordered = sorted(every, key=lambda stage: stage.closed)
    return list({stage.name: stage for stage in reversed(ordered)}.values())[::-1]


def _automated(company: Company) -> list[Owner]:
    return [
        Owner(number, first, last, "", "", None, 0, True, company.start, company.start)
        for number, (first, last, _) in enumerate(AUTOMATED, start=FIRST_AUTOMATED)
    ]


def _user(company: Company) -> SObject:
    def kind(one: Owner) -> str:
        return AUTOMATED[one.n - FIRST_AUTOMATED][2] if one.n >= FIRST_AUTOMATED else "Standard"

    return SObject(
        "User",
        "005",
        lambda: [*company.owners.values(), *_automated(company)],
        stamps("005")
        | typed(
            string={
                "Name": lambda one: one.name,
                "Username": lambda one: one.email,
                "Department": lambda one: one.team or None,
                "Division": lambda one: one.region or None,
            },
            email={"Email": lambda one: one.email},
            boolean={"IsActive": lambda one: one.active},
            picklist={"UserType": kind, "TimeZoneSidKey": always("Europe/Berlin")},
            reference={
                "ManagerId": lambda one: user_id(one.manager),
                "UserRoleId": lambda one: sf_id("00E", _role_number(one.team)) if one.team else None,
            },
        ),
        {
            "Manager": ("User", lambda one: company.owners[one.manager] if one.manager else None),
            "UserRole": ("UserRole", lambda one: one.team or None),
        },
    )


def _role_number(team: str) -> int:
    return [*words.TEAMS, "Management"].index(team) + 1


def _role() -> SObject:
    return SObject(
        "UserRole",
        "00E",
        lambda: [*words.TEAMS, "Management"],
        typed(id={"Id": lambda team: sf_id("00E", _role_number(team))}, string={"Name": lambda team: team}),
    )


def _group() -> SObject:
    return SObject(
        "Group",
        "00G",
        lambda: ["Inbound Leads"],
        typed(
            id={"Id": always(sf_id("00G", 1))}, string={"Name": lambda name: name}, picklist={"Type": always("Queue")}
        ),
    )  # fmt: skip


def _product(company: Company) -> SObject:
    return SObject(
        "Product2",
        "01t",
        company.products.values,
        stamps("01t")
        | typed(
            string={"Name": lambda one: one.name, "ProductCode": lambda one: f"P-{one.n:03}"},
            picklist={"Family": lambda one: one.category},
            boolean={"IsActive": always(True)},
        ),
    )


def _campaign(company: Company, setup: Setup) -> SObject:
    def currency(one: Spend) -> str:
        return setup.campaign_currencies[one.n % len(setup.campaign_currencies)]

    return SObject(
        "Campaign",
        "701",
        lambda: company.spend,
        {name: kind for name, kind in stamps("701").items() if name != "CreatedDate"}
        | typed(
            string={"Name": lambda one: f"{one.category} {one.month:%B %Y}"},
            picklist={"Type": lambda one: one.category, "Status": always("Completed"), "CurrencyIsoCode": currency},
            date={"StartDate": lambda one: one.month, "EndDate": lambda one: one.month + timedelta(days=27)},
            currency={"ActualCost": lambda one: one.amount, "BudgetedCost": lambda one: one.amount},
            reference={"ParentId": always(None)},
        ),
    )


def _quota(company: Company, setup: Setup) -> SObject:
    def rows() -> Iterator[Quota]:
        yield from company.quotas
        for kind in range(1, setup.forecast_types):
            yield from (replace(one, n=one.n + kind * FURTHER_TYPE) for one in company.quotas[::2])

    return SObject(
        "ForecastingQuota",
        "0J9",
        rows,
        {name: kind for name, kind in stamps("0J9").items() if name not in ("CreatedDate", "IsDeleted")}
        | typed(
            reference={
                "QuotaOwnerId": lambda one: user_id(one.owner),
                "ForecastingTypeId": lambda one: sf_id("0Db", 1 + one.n // FURTHER_TYPE),
            },
            currency={"QuotaAmount": lambda one: one.amount},
            date={"StartDate": lambda one: one.month},
            picklist={"CurrencyIsoCode": lambda one: setup.quota_currencies[one.n % len(setup.quota_currencies)]},
        ),
        {"QuotaOwner": ("User", lambda one: company.owners[one.owner])},
        bulk=False,
    )


def _organization() -> SObject:
    return SObject(
        "Organization",
        "00D",
        lambda: [HOME],
        typed(
            id={"Id": always(sf_id("00D", 1))},
            string={"Name": always("Sandbox Sales GmbH")},
            boolean={"IsSandbox": always(False)},
            picklist={"DefaultCurrencyIsoCode": lambda currency: currency, "TimeZoneSidKey": always("Europe/Berlin")},
        ),
        bulk=False,
    )


def _stage(company: Company, setup: Setup) -> SObject:
    def place(stage: Stage) -> int:
        return [one.name for one in stages(company)].index(stage.name) + 1

    return SObject(
        "OpportunityStage",
        "01J",
        lambda: stages(company),
        typed(
            id={"Id": lambda stage: sf_id("01J", place(stage))},
            string={"ApiName": lambda stage: stage.name, "MasterLabel": lambda stage: stage.label},
            int={"SortOrder": place},
            boolean={
                "IsActive": lambda stage: stage.name not in setup.inactive_stages,
                "IsClosed": lambda stage: stage.closed,
                "IsWon": lambda stage: stage.won,
            },
            percent={"DefaultProbability": lambda stage: stage.probability * 100},
            picklist={"ForecastCategoryName": lambda stage: stage.forecast},
            datetime={"SystemModstamp": lambda _: max(pipeline.modified_at for pipeline in company.pipelines)},
        ),
        bulk=False,
    )


def _record_type(company: Company, setup: Setup) -> SObject:
    return SObject(
        "RecordType",
        "012",
        lambda: company.pipelines if setup.record_types else [],
        typed(
            id={"Id": lambda one: sf_id("012", one.n)},
            string={"Name": lambda one: one.label, "DeveloperName": lambda one: one.label.replace(" ", "_")},
            picklist={"SobjectType": always("Opportunity")},
            boolean={"IsActive": always(True)},
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
        typed(
            id={"Id": lambda rate: sf_id("01L", rate.n)},
            string={"IsoCode": lambda rate: rate.currency},
            double={"ConversionRate": lambda rate: rate.units},
            int={"DecimalPlaces": always(2)},
            boolean={"IsActive": always(True), "IsCorporate": lambda rate: rate.currency == HOME},
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
        typed(
            id={"Id": lambda row: sf_id("04w", row[0].n)},
            string={"IsoCode": lambda row: row[0].currency},
            double={"ConversionRate": lambda row: row[0].units},
            date={"StartDate": lambda row: row[0].valid_from, "NextStartDate": lambda row: row[1]},
            datetime={"SystemModstamp": lambda row: row[0].modified_at},
        ),
        bulk=False,
    )
