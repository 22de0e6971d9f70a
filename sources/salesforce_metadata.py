"""What a Salesforce org says of itself, asked once per run, and the tables small enough to be read whole every time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from typing import Final

from connector.errors import AuthError
from sources.salesforce_api import Org, Record, Refused

log = logging.getLogger(__name__)

FIRST_DAY: Final = "1900-01-01"


class Metadata:
    """Stages, record types, currencies and rates; owners, campaign costs and quotas as records."""

    def __init__(self, org: Org) -> None:
        self._org = org
        self.warnings: list[str] = []

    @cached_property
    def stage_rows(self) -> list[Record]:
        """Every stage, inactive ones included: old deals still stand in them."""
        soql = "SELECT ApiName, MasterLabel, SortOrder, IsClosed, IsWon, DefaultProbability FROM OpportunityStage ORDER BY SortOrder"
        try:
            return list(self._org.rows(soql))
        except Refused as refused:
            raise hidden(self._org, "OpportunityStage") from refused

    @property
    def stage_labels(self) -> dict[str, str]:
        return {str(row["ApiName"]): str(row["MasterLabel"]) for row in self.stage_rows}

    @cached_property
    def record_types(self) -> dict[str, str]:
        """Names of the record types of opportunities, by 18-character id."""
        if "RecordTypeId" not in (self._org.describe("Opportunity") or {}):
            return {}
        try:
            rows = self._org.rows("SELECT Id, Name FROM RecordType WHERE SobjectType = 'Opportunity' ORDER BY Name, Id")
            return {row["Id"]: row["Name"] for row in rows}
        except Refused as refused:
            log.info("%s; without record types there is one pipeline", refused)
            return {}

    @cached_property
    def currencies(self) -> list[Record]:
        """The currencies of a multi-currency org; none in others."""
        if "CurrencyIsoCode" not in (self._org.describe("Opportunity") or {}):
            return []
        return list(self._org.rows("SELECT IsoCode, ConversionRate, IsCorporate, SystemModstamp FROM CurrencyType ORDER BY IsoCode"))

    @cached_property
    def home_currency(self) -> str:
        """The corporate currency, or the only one."""
        if self.currencies:
            return next(str(row["IsoCode"]) for row in self.currencies if row["IsCorporate"])
        return str(next(self._org.rows("SELECT DefaultCurrencyIsoCode FROM Organization"))["DefaultCurrencyIsoCode"])

    def stages(self) -> Iterator[Record]:
        """Stages by pipeline and place: a record type's own picklist where the org tells it, else the org's list for every pipeline."""
        for pipeline, names in self._processes().items():
            rows = [row for row in self.stage_rows if names is None or row["ApiName"] in names]
            shown: set[str] = set()
            for row in rows:
                if row["MasterLabel"] not in shown:
                    shown.add(row["MasterLabel"])
                    yield {**row, "Pipeline": pipeline, "Place": len(shown)}

    def _processes(self) -> dict[str, set[str] | None]:
        found: dict[str, set[str] | None] = {}
        for identifier, name in self.record_types.items():
            try:
                answer = self._org.get(f"/ui-api/object-info/Opportunity/picklist-values/{identifier}/StageName")
                found[name] = {value["value"] for value in answer["values"]}
            except (Refused, AuthError) as error:
                log.info("%s: the stages of record type %s are not told (%s)", self._org.place, name, error)
                found[name] = None
        return found or {"default": None}

    def owners(self) -> Iterator[Record]:
        """Users of every kind and state, because old deals name them, and queues, which own leads."""
        visible = self._org.describe("User")
        if visible is None:
            raise hidden(self._org, "User")
        names = [
            name for name in ("Id", "Name", "Email", "Department", "Division", "IsActive", "UserType", "SystemModstamp") if name in visible
        ]
        parents = [path for path, link in (("Manager.Name", "ManagerId"), ("UserRole.Name", "UserRoleId")) if link in visible]
        for row in self._org.rows(f"SELECT {', '.join([*names, *parents])} FROM User ORDER BY Id"):
            manager, role = row.pop("Manager", None), row.pop("UserRole", None)
            blank = dict.fromkeys(("Email", "Department", "Division"))
            yield {**blank, **row, "Manager": manager and manager["Name"], "Role": role and role["Name"]}
        if "Group" in self._org.objects:
            yield from self._org.rows("SELECT Id, Name FROM Group WHERE Type = 'Queue' ORDER BY Id")

    def spend(self) -> Iterator[Record]:
        """What campaigns cost, in the month they began, in the corporate currency."""
        visible = self._org.describe("Campaign") or {}
        names = [name for name in ("Id", "Name", "Type", "StartDate", "ActualCost", "CurrencyIsoCode", "SystemModstamp") if name in visible]
        for row in self._org.rows(f"SELECT {', '.join(names)} FROM Campaign WHERE ActualCost > 0 AND StartDate != null ORDER BY Id"):
            if (cost := self._in_home_currency("Campaign", row["ActualCost"], row)) is not None:
                yield {"Type": None, **row, "Cost": cost}

    def quotas(self) -> Iterator[Record]:
        """Quotas of one forecast type: an org with several counts the same target more than once."""
        visible = self._org.describe("ForecastingQuota") or {}
        names = [
            name for name in ("Id", "QuotaAmount", "StartDate", "CurrencyIsoCode", "ForecastingTypeId", "SystemModstamp") if name in visible
        ]
        soql = f"SELECT {', '.join([*names, 'QuotaOwner.Name'])} FROM ForecastingQuota WHERE QuotaAmount != null ORDER BY Id"
        rows = list(self._org.rows(soql))
        kinds = [row.get("ForecastingTypeId") for row in rows]
        used = max(sorted(set(kinds), key=str), key=kinds.count, default=None)
        for row in rows:
            quota = self._in_home_currency("ForecastingQuota", row["QuotaAmount"], row)
            if row.get("ForecastingTypeId") == used and quota is not None:
                owner = row.pop("QuotaOwner")
                yield {**row, "Owner": owner and owner["Name"], "Quota": quota}

    def _in_home_currency(self, thing: str, amount: Decimal, row: Record) -> Decimal | None:
        """By the rate of its start date; None, and a warning, where there is none."""
        currency = row.get("CurrencyIsoCode") or self.home_currency
        if currency == self.home_currency:
            return amount
        day = str(row["StartDate"])
        known = [rate for rate in self.rate_rows if rate["IsoCode"] == currency and rate["StartDate"] <= day]
        if known:
            converted: Decimal = amount * known[-1]["Rate"]
            return converted
        if (warning := f"{thing}: rows in {currency} are left out, the org has no rate for it") not in self.warnings:
            self.warnings.append(warning)
        return None

    def rates(self) -> Iterator[Record]:
        yield from self.rate_rows

    @cached_property
    def rate_rows(self) -> list[Record]:
        """Into the corporate currency. Salesforce counts units of the currency per corporate unit; dated rates where the org has them."""
        rows = [{**row, "StartDate": FIRST_DAY} for row in self.currencies]
        if "DatedConversionRate" in self._org.objects:
            try:
                soql = "SELECT IsoCode, StartDate, ConversionRate, SystemModstamp FROM DatedConversionRate ORDER BY IsoCode, StartDate"
                dated = list(self._org.rows(soql))
                first = {row["IsoCode"]: row["StartDate"] for row in reversed(dated)}
                open_ended = [{**row, "StartDate": FIRST_DAY} if row["StartDate"] == first[row["IsoCode"]] else row for row in dated]
                rows = [*(row for row in rows if row["IsoCode"] not in first), *open_ended]
            except Refused as refused:
                log.info("%s; the rates that are not dated hold", refused)
        return [{**row, "Rate": (1 / Decimal(row["ConversionRate"])).quantize(Decimal("1e-8"))} for row in rows if row["ConversionRate"]]


def hidden(org: Org, thing: str) -> AuthError:
    return AuthError(
        f"{org.place}: {thing} is not visible to the connected user",
        remedy=f"give the user's permission set Read on {thing} (and View All, so that totals are those of the team)",
    )
