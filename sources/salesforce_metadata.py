"""What a Salesforce org says of itself, asked once per run, and the tables small enough to be read whole every time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from typing import Final

from connector.errors import AuthError, SourceError
from connector.resume import PlaceLostError
from sources import salesforce_tables as tables
from sources.salesforce_api import Org, Record, Refused
from sources.salesforce_sight import Sight, hidden
from sources.salesforce_tables import Table

log = logging.getLogger(__name__)

FIRST_DAY: Final = "1900-01-01"


class Metadata:
    """Stages, record types, currencies and rates; owners, campaign costs and quotas as records. `warnings` are what reading them found."""

    def __init__(self, org: Org, sight: Sight) -> None:
        self._org = org
        self._sight = sight
        self.warnings: list[str] = []

    # ── stages and pipelines ──────────────────────────────────────────────────────────────────────

    @cached_property
    def stage_rows(self) -> list[Record]:
        """Every stage, inactive ones included: old deals still stand in them."""
        try:
            return list(self._org.rows(self._sight.query(tables.STAGES, order="SortOrder").soql))
        except Refused as refused:
            raise hidden(self._org, "OpportunityStage") from refused

    @property
    def stage_labels(self) -> dict[str, str]:
        return {str(row["ApiName"]): str(row["MasterLabel"]) for row in self.stage_rows}

    @cached_property
    def record_types(self) -> dict[str, str]:
        """Names of the record types of opportunities, by 18-character id."""
        if not self._sight.record_types or "RecordType" not in self._org.objects:
            return {}
        rows = self._org.rows("SELECT Id, Name FROM RecordType WHERE SobjectType = 'Opportunity' ORDER BY Name, Id")
        try:
            return {str(row["Id"]): str(row["Name"]) for row in rows}
        except Refused as refused:
            raise hidden(self._org, "RecordType") from refused

    def stages(self) -> Iterator[Record]:
        """Stages by pipeline and place: those offered in it, then those its deals still stand in, and the inactive ones."""
        used = self._used
        for pipeline, offered in self._offered().items():
            others = [row for row in self.stage_rows if row["ApiName"] not in offered]
            still = [row for row in others if not row["IsActive"] or row["ApiName"] in used.get(pipeline, ())]
            shown: set[str] = set()
            for row in [*(row for row in self.stage_rows if row["ApiName"] in offered), *still]:
                if row["MasterLabel"] not in shown:
                    shown.add(row["MasterLabel"])
                    yield {**row, "Pipeline": pipeline, "Place": len(shown)}

    def _offered(self) -> dict[str, set[str]]:
        """The stages to choose from by pipeline: a record type's own picklist where the org tells it, else every active stage.

        Record types of one name are one pipeline. Deals may lack a record type.
        """
        active = {str(row["ApiName"]) for row in self.stage_rows if row["IsActive"]}
        found: dict[str, set[str]] = {}
        for identifier, name in self.record_types.items():
            found.setdefault(name, set()).update(self._picklist(identifier, name) or active)
        if not found or tables.DEFAULT in self._used:
            found.setdefault(tables.DEFAULT, set()).update(active)
        return found

    def _picklist(self, identifier: str, name: str) -> set[str] | None:
        """What the org offers for a record type; it tells active values only."""
        try:
            answer = self._org.get(f"/ui-api/object-info/Opportunity/picklist-values/{identifier}/StageName")
            with self._org.shaped("a picklist"):
                return {str(value["value"]) for value in answer["values"]}
        except (SourceError, AuthError) as error:
            log.info("%s: the stages of record type %s are not told (%s)", self._org.place, name, error)
            return None

    @cached_property
    def _used(self) -> dict[str, set[str]]:
        """The stages in which deals stand now, by pipeline."""
        if not self.record_types:
            return {}
        found: dict[str, set[str]] = {}
        try:
            for row in self._org.rows("SELECT RecordTypeId, StageName FROM Opportunity GROUP BY RecordTypeId, StageName"):
                pipeline = self.record_types.get(str(row["RecordTypeId"]), tables.DEFAULT)
                found.setdefault(pipeline, set()).add(str(row["StageName"]))
        except (Refused, PlaceLostError) as error:
            log.info("%s; deals are taken to be in any pipeline", error)
            return {tables.DEFAULT: set()}
        return found

    # ── owners ────────────────────────────────────────────────────────────────────────────────────

    def owners(self) -> Iterator[Record]:
        """Users of every kind and state, because old deals and automated tasks name them, and queues, which own leads."""
        for row in self._records(tables.OWNERS):
            manager, role = row.pop("Manager", None), row.pop("UserRole", None)
            yield {**row, "Manager": manager and manager["Name"], "Role": role and role["Name"]}
        if "Group" not in self._org.objects:
            return
        try:
            yield from self._org.rows("SELECT Id, Name FROM Group WHERE Type = 'Queue' ORDER BY Id")
        except Refused as refused:
            self.warnings.append(f"Group: queues have no name ({refused})")

    # ── costs and quotas ──────────────────────────────────────────────────────────────────────────

    def spend(self) -> Iterator[Record]:
        """What campaigns cost, on the day they began; of those without one, on the day they ended."""
        undated = 0
        for row in self._records(tables.SPEND, where="ActualCost > 0"):
            if day := row["StartDate"] or row["EndDate"]:
                yield {**row, "Period": day}
            else:
                undated += 1
        if undated:
            what = "campaign has" if undated == 1 else "campaigns have"
            self.warnings.append(f"Campaign: {undated:,} {what} a cost and neither start nor end date; left out")

    def quotas(self) -> Iterator[Record]:
        """Quotas of one forecast type: an org with several counts the same target more than once."""
        rows = list(self._records(tables.QUOTAS, where="QuotaAmount != null"))
        kinds = [row["ForecastingTypeId"] for row in rows]
        used = max(sorted(set(kinds), key=str), key=kinds.count, default=None)
        for row in rows:
            if row["ForecastingTypeId"] == used:
                owner = row.pop("QuotaOwner", None)
                yield {**row, "Owner": owner and owner["Name"]}

    def _records(self, table: Table, where: str = "") -> Iterator[Record]:
        for row in self._org.rows(self._sight.query(table, where=where, order="Id").soql):
            self._sight.finish(row, table)
            yield row

    # ── currencies ────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def currencies(self) -> list[Record]:
        """The currencies of a multi-currency org, as far as they may be seen; none in others."""
        if not self._sight.multi_currency or not self._sight.look(tables.RATES).readable:
            return []
        return list(self._org.rows(self._sight.query(tables.RATES, order="IsoCode").soql))

    @cached_property
    def home_currency(self) -> str:
        """The corporate currency, or the only one."""
        corporate = [str(row["IsoCode"]) for row in self.currencies if row["IsCorporate"]]
        if corporate:
            return corporate[0]
        try:
            row = next(self._org.rows("SELECT DefaultCurrencyIsoCode FROM Organization"), {})
        except Refused as refused:
            raise hidden(self._org, "Organization") from refused
        with self._org.shaped("the organization"):
            return str(row["DefaultCurrencyIsoCode"])

    def rates(self) -> Iterator[Record]:
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
                self.warnings.append(f"DatedConversionRate: cannot be read ({refused}); today's rates hold for all time")
        home = self.home_currency
        for row in rows:
            if row["ConversionRate"]:
                yield {**row, "Home": home, "Rate": (1 / Decimal(row["ConversionRate"])).quantize(Decimal("1e-12"))}
