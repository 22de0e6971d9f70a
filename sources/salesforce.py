"""Salesforce: opportunities with their stage history and everything that belongs to a pipeline, complete or said so.

Reads through REST and, where there are many rows, Bulk API 2.0; incrementally by `SystemModstamp` with an overlap, because records
become visible a little after their stamp. Deleted and merged records come as ids to remove: from the recycle bin (`queryAll`), and
from the list of purged ids; where the org no longer knows all of those, everything is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from connector.api import Entity, Finding, NetworkConfig, Page, Since
from connector.auth.oauth import Grant
from connector.errors import AuthError, ConfigError, ConnectorError
from connector.http import Session
from connector.resume import PlaceLostError, Step, Unfinished, read_everything
from sources import salesforce_tables as tables
from sources.salesforce_api import Org, Record, Refused, known_domain, stamp
from sources.salesforce_tables import Table

log = logging.getLogger(__name__)

OVERLAP: Final = timedelta(minutes=10)
UNREADABLE: Final = frozenset({"base64", "address", "location", "complexvalue"})
FIRST_DAY: Final = "1900-01-01"
IN_ORDER: Final = " ORDER BY OpportunityId, CreatedDate, Id"


def _domain(value: str) -> str:
    try:
        return known_domain(value)
    except ConfigError as error:
        raise ValueError(f"{error}; {error.remedy}") from error


class SalesforceConfig(NetworkConfig):
    """A Salesforce org."""

    type: Literal["salesforce"] = "salesforce"
    domain: Annotated[str, AfterValidator(_domain)] | None = Field(None, description="My Domain, e.g. acme.my.salesforce.com.")
    auth: Grant = Field(description="How the app signs in: client_credentials, jwt_bearer or refresh_token.")
    api_version: str = Field("v67.0", pattern=r"^v\d\d\.0$", description="REST API version.")
    api_budget: float = Field(0.9, gt=0, le=1, description="Share of the day's API calls after which reading stops until later.")
    bulk_from: int = Field(20_000, ge=1, description="Rows from which a Bulk API job is used.")
    fields: Mapping[str, tuple[str, ...]] = Field(
        {}, description="Further fields to read, by table: {deals: [Territory2Id]}. Custom fields are read anyway."
    )

    @model_validator(mode="after")
    def _address(self) -> SalesforceConfig:
        if not self.domain and not self.base_url:
            raise ValueError("`domain` is missing: the org's My Domain, e.g. acme.my.salesforce.com")
        return self


class SalesforceSource:
    """One org. Whatever is asked once about it (sign-in, objects, labels) is remembered for the run."""

    Config: ClassVar[type[SalesforceConfig]] = SalesforceConfig

    def __init__(self, config: SalesforceConfig, session: Session) -> None:
        self.config = config
        self.session = session
        self.org = Org(
            session,
            domain=config.domain or "",
            base_url=config.base_url,
            auth=config.auth,
            version=config.api_version,
            budget=config.api_budget,
        )
        self._known: dict[str, tuple[dict[str, str], list[str]]] = {}
        self._special: dict[str, Callable[[], Iterator[Record]]] = {
            "stages": self._stages,
            "owners": self._owners,
            "spend": self._spend,
            "quotas": self._quotas,
            "rates": self._rates,
        }

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def entities(self) -> tuple[Entity, ...]:
        """The tables this org can give; objects its user may not see are left out and named by `check` and by the deals' warnings."""
        if self.org.describe("Opportunity") is None:
            raise self._hidden("Opportunity")
        found = [self._deals(), Entity("stages", "OpportunityStage", tables.STAGES)]
        if self.org.describe("OpportunityHistory") is not None:
            found.append(self._entity(self._stage_entries, key=("Id",)))
        found.append(Entity("owners", "User", tables.OWNERS))
        found += [self._entity(table) for table in tables.SIMPLE if self.org.describe(table.object) is not None]
        if self._activity_tables:
            found.append(self._entity(self._activity_tables[0], place=" and ".join(table.object for table in self._activity_tables)))
        optional = (("spend", "Campaign", tables.SPEND), ("quotas", "ForecastingQuota", tables.QUOTAS))
        found += [Entity(name, thing, columns) for name, thing, columns in optional if self.org.describe(thing) is not None]
        if self._currencies:
            found.append(Entity("rates", "CurrencyType", tables.RATES))
        return tuple(found)

    def _deals(self) -> Entity:
        columns = {
            **tables.DEALS.columns,
            "pipeline": tables.pipeline("RecordTypeId", self._record_types),
            "stage": tables.labelled("StageName", self._stage_labels),
            "currency": "CurrencyIsoCode" if self._currencies else f"'{self._home_currency}'",
        }
        if self.config.domain:
            columns["url"] = f"'https://{self.config.domain}/lightning/r/Opportunity/' || Id || '/view'"
        return self._entity(replace(tables.DEALS, columns=columns))

    @property
    def _stage_entries(self) -> Table:
        by_type = bool(self._record_types)
        return replace(
            tables.STAGE_ENTRIES,
            columns={
                **tables.STAGE_ENTRIES.columns,
                "pipeline": tables.pipeline('"Opportunity.RecordTypeId"', self._record_types),
                "stage": tables.labelled("StageName", self._stage_labels),
            },
            parents=tables.STAGE_ENTRIES.parents if by_type else {},
        )

    def _entity(self, table: Table, *, key: tuple[str, ...] = (), place: str | None = None) -> Entity:
        return Entity(table.entity, place or table.object, table.columns, key=key, incremental=True)

    @cached_property
    def _activity_tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (tables.TASK, tables.EVENT) if self.org.describe(table.object) is not None)

    def _table(self, entity: str) -> Table:
        if entity == "deals":
            return tables.DEALS
        return next(table for table in tables.SIMPLE if table.entity == entity)

    def _hidden(self, thing: str) -> AuthError:
        return AuthError(
            f"{self.org.place}: {thing} is not visible to the connected user",
            remedy=f"give the user's permission set Read on {thing} (and View All, so that totals are those of the team)",
        )

    # ── metadata ──────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _stage_rows(self) -> list[Record]:
        """Every stage, inactive ones included: old deals still stand in them."""
        soql = "SELECT ApiName, MasterLabel, SortOrder, IsClosed, IsWon, DefaultProbability FROM OpportunityStage ORDER BY SortOrder"
        try:
            return list(self.org.rows(soql))
        except Refused as refused:
            raise self._hidden("OpportunityStage") from refused

    @property
    def _stage_labels(self) -> dict[str, str]:
        return {str(row["ApiName"]): str(row["MasterLabel"]) for row in self._stage_rows}

    @cached_property
    def _record_types(self) -> dict[str, str]:
        """Names of the record types of opportunities, by 18-character id."""
        if "RecordTypeId" not in (self.org.describe("Opportunity") or {}):
            return {}
        try:
            rows = self.org.rows("SELECT Id, Name FROM RecordType WHERE SobjectType = 'Opportunity' ORDER BY Name, Id")
            return {row["Id"]: row["Name"] for row in rows}
        except Refused:
            return {}

    @cached_property
    def _currencies(self) -> list[Record]:
        """The currencies of a multi-currency org; none in others."""
        if "CurrencyIsoCode" not in (self.org.describe("Opportunity") or {}):
            return []
        return list(self.org.rows("SELECT IsoCode, ConversionRate, IsCorporate, SystemModstamp FROM CurrencyType ORDER BY IsoCode"))

    @cached_property
    def _home_currency(self) -> str:
        """The corporate currency, or the only one."""
        if self._currencies:
            return next(str(row["IsoCode"]) for row in self._currencies if row["IsCorporate"])
        return str(next(self.org.rows("SELECT DefaultCurrencyIsoCode FROM Organization"))["DefaultCurrencyIsoCode"])

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Everything, or what changed since; the last page's watermark is the org's clock before the first request."""
        watermark = stamp(self.org.started)
        if entity.name in self._special:
            yield Page(list(self._special[entity.name]()), watermark=watermark)
            return
        warnings = self._warnings(entity.name)
        pages = self._read_since(entity.name, since.watermark) if since.watermark else None
        if pages is None:
            yield from self._read_all(entity.name, anew=bool(since.watermark))
        else:
            yield from pages
        yield Page(watermark=watermark, warnings=warnings)

    def _read_all(self, name: str, *, anew: bool) -> Iterator[Page]:
        identity = (name, self.org.place, self.config.api_version, [self._soql(table) for table in self._tables(name)])
        unfinished = Unfinished(self.session.folder, name, identity, self.session.now())
        key = "OpportunityId" if name == "stage_entries" else "Id"
        yield Page(full=anew)
        yield from read_everything(
            unfinished,
            stamp(self.org.started),
            steps=lambda place: self._steps(name, place),
            changes=lambda started: self._read_since(name, started) or (),
            key=lambda record: str(record[key]),
        )

    def _tables(self, name: str) -> tuple[Table, ...]:
        if name == "activities":
            return self._activity_tables
        return (self._stage_entries,) if name == "stage_entries" else (self._table(name),)

    def _steps(self, name: str, place: Any) -> Iterator[Step]:
        """Every record of an entity; a place names the object it is in."""
        things = self._tables(name)
        start = place["object"] if place else 0
        entered = place.get("last") if place else None
        for index in range(start, len(things)):
            table = things[index]
            order = IN_ORDER if name == "stage_entries" else ""
            inner = place["at"] if place and index == start else None
            for step in self.org.steps(
                self._soql(table) + order,
                self._types(table),
                inner,
                everything=table.archive,
                bulk_from=self.config.bulk_from,
            ):
                records = [self._finished(record, table) for record in step.records]
                if name == "stage_entries":
                    records, entered = _entries(records, entered)
                following = {"object": index, "at": step.place} if step.place else {"object": index + 1, "at": None}
                ended = step.place is None and index + 1 == len(things)
                total = step.total if len(things) == 1 and name != "stage_entries" else None
                yield Step(records, None if ended else following | {"last": entered}, total)

    def _read_since(self, name: str, watermark: str) -> Iterator[Page] | None:
        """What changed or went; None when the org no longer knows all that went."""
        since = datetime.fromisoformat(watermark) - OVERLAP
        things = self._tables(name)
        gone: list[str] = []
        for thing in ("Opportunity",) if name == "stage_entries" else tuple(table.object for table in things):
            ids = self.org.deleted(thing, since)
            if ids is None:
                return None
            gone += ids
        return self._changes(name, things, since, gone)

    def _changes(self, name: str, things: tuple[Table, ...], since: datetime, gone: list[str]) -> Iterator[Page]:
        seen: set[str] = set()
        if name == "stage_entries":
            soql = f"SELECT Id FROM Opportunity WHERE IsDeleted = true AND SystemModstamp >= {stamp(since)}"
            gone = [*gone, *(row["Id"] for row in self.org.rows(soql, everything=True))]
            yield from self._changed_entries(since)
        for table in things if name != "stage_entries" else ():
            for records in self._changed(table, since):
                removed = [record["Id"] for record in records if record["IsDeleted"]]
                kept = [self._finished(record, table) for record in records if not record["IsDeleted"]]
                seen.update(record["Id"] for record in kept)
                gone += removed
                yield Page(kept)
        alive = set(self._alive(things[0].object, gone, seen)) if gone else seen
        yield Page(removed=tuple(one for one in dict.fromkeys(gone) if one not in alive))

    def _alive(self, thing: str, gone: list[str], seen: set[str]) -> set[str]:
        """Records that were deleted and restored: the list of deletes still names them, the query has them again."""
        if thing != "OpportunityHistory":
            return seen
        ids = list(dict.fromkeys(gone))
        found: set[str] = set()
        for start in range(0, len(ids), 200):
            some = ", ".join(f"'{one}'" for one in ids[start : start + 200])
            found.update(row["Id"] for row in self.org.rows(f"SELECT Id FROM Opportunity WHERE Id IN ({some})"))
        return found

    def _changed(self, table: Table, since: datetime) -> Iterator[list[Record]]:
        condition = f"SystemModstamp >= {stamp(since)}"
        if table.object == "Event":  # an event is done when its time has passed, which changes no stamp
            condition = f"({condition} OR (EndDateTime >= {stamp(since)} AND EndDateTime <= {stamp(self.org.started)}))"
        yield from self._twice(self._soql(table, "IsDeleted", where=condition), table, everything=True)

    def _changed_entries(self, since: datetime) -> Iterator[Page]:
        """The whole history of every deal that changed: one row does not say whether the stage changed."""
        table = self._stage_entries
        changed = f"OpportunityId IN (SELECT Id FROM Opportunity WHERE SystemModstamp >= {stamp(since)})"
        soql = self._soql(table, where=changed) + IN_ORDER
        entered = None
        for records in self._twice(soql, table, everything=False):
            entries, entered = _entries(records, entered)
            yield Page(entries)

    def _twice(self, soql: str, table: Table, *, everything: bool) -> Iterator[list[Record]]:
        """The records of a query, asked once more from the start when its cursor dies under way; later pages win over earlier ones."""
        for last in (False, True):
            try:
                for step in self.org.steps(soql, self._types(table), None, everything=everything, bulk_from=self.config.bulk_from):
                    yield step.records
            except PlaceLostError:
                if last:
                    raise
            else:
                return

    # ── queries and records ───────────────────────────────────────────────────────────────────────

    def _seen(self, table: Table) -> tuple[dict[str, str], list[str]]:
        """Fields to read with their types, and the standard ones that are not visible."""
        if table.object not in self._known:
            self._known[table.object] = self._look(table)
        return self._known[table.object]

    def _look(self, table: Table) -> tuple[dict[str, str], list[str]]:
        visible = self.org.describe(table.object)
        if visible is None:
            raise self._hidden(table.object)
        wanted = (*table.fields, *self.config.fields.get(table.entity, ()))
        missing = [name for name in wanted if name not in visible]
        if lost := [name for name in table.needed if name in missing]:
            raise AuthError(
                f"{self.org.place}: {table.object}.{lost[0]} is not visible to the connected user",
                remedy=f"grant Read on {', '.join(lost)} in the user's permission set",
            )
        custom = [name for name, kind in visible.items() if name.endswith("__c") and kind not in UNREADABLE]
        names = dict.fromkeys([*(name for name in wanted if name in visible), *custom])
        return {name: visible[name] for name in names}, missing

    def _types(self, table: Table) -> dict[str, str]:
        return {**self._seen(table)[0], **table.parents, "IsDeleted": "boolean"}

    def _soql(self, table: Table, *more: str, where: str = "") -> str:
        names = [*self._seen(table)[0], *table.parents, *more]
        conditions = [where] if where else []
        if "IsChild" in (self.org.describe(table.object) or {}):  # an event has a copy for each attendee
            conditions.append("IsChild = false")
        if table.archive and not where:  # queryAll has the archive, but also the recycle bin
            conditions.append("IsDeleted = false")
        return f"SELECT {', '.join(names)} FROM {table.object}" + (f" WHERE {' AND '.join(conditions)}" if conditions else "")

    def _finished(self, record: Record, table: Table) -> Record:
        """With nulls for fields the user may not see, and one shape for tasks and events."""
        record.pop("IsDeleted", None)
        for name in self._seen(table)[1]:
            record[name] = None
        if table.object == "Task":
            record["Kind"] = (record.get("TaskSubtype") or "task").lower()
            record["Due"] = record["ActivityDate"]
            record["Done"] = (record["CompletedDateTime"] or record["ActivityDate"]) if record["IsClosed"] else None
        elif table.object == "Event":
            past = record["EndDateTime"] is not None and datetime.fromisoformat(record["EndDateTime"]) <= self.org.started
            record["Kind"], record["Due"], record["Done"] = "meeting", record["StartDateTime"], record["EndDateTime"] if past else None
        return record

    def _warnings(self, name: str) -> tuple[str, ...]:
        found = []
        for table in self._tables(name):
            unexpected = [field for field in self._seen(table)[1] if field not in tables.OPTIONAL]
            if unexpected:
                found.append(
                    f"{table.object}: hidden from the connected user (field-level security), read as empty: {', '.join(unexpected)}"
                )
        if name == "deals":
            hidden = [thing for thing in self._expected() if self.org.describe(thing) is None]
            found += [f"{thing} is not visible to the connected user; its table is missing" for thing in hidden]
        return tuple(found)

    def _expected(self) -> tuple[str, ...]:
        return "OpportunityHistory", "Task", "Event", *(table.object for table in tables.SIMPLE)

    # ── small tables, read whole ──────────────────────────────────────────────────────────────────

    def _stages(self) -> Iterator[Record]:
        """Stages by pipeline and place: a record type's own picklist where the org tells it, else the org's list for every pipeline."""
        for pipeline, names in self._processes().items():
            rows = [row for row in self._stage_rows if names is None or row["ApiName"] in names]
            shown: set[str] = set()
            for row in rows:
                if row["MasterLabel"] not in shown:
                    shown.add(row["MasterLabel"])
                    yield {**row, "Pipeline": pipeline, "Place": len(shown)}

    def _processes(self) -> dict[str, set[str] | None]:
        found: dict[str, set[str] | None] = {}
        for identifier, name in self._record_types.items():
            try:
                answer = self.org.get(f"/ui-api/object-info/Opportunity/picklist-values/{identifier}/StageName")
                found[name] = {value["value"] for value in answer["values"]}
            except (Refused, AuthError) as error:
                log.info("%s: the stages of record type %s are not told (%s)", self.org.place, name, error)
                found[name] = None
        return found or {"default": None}

    def _owners(self) -> Iterator[Record]:
        """Users of every kind and state, because old deals name them, and queues, which own leads."""
        visible = self.org.describe("User")
        if visible is None:
            raise self._hidden("User")
        names = [
            name for name in ("Id", "Name", "Email", "Department", "Division", "IsActive", "UserType", "SystemModstamp") if name in visible
        ]
        parents = [path for path, link in (("Manager.Name", "ManagerId"), ("UserRole.Name", "UserRoleId")) if link in visible]
        for row in self.org.rows(f"SELECT {', '.join([*names, *parents])} FROM User ORDER BY Id"):
            manager, role = row.pop("Manager", None), row.pop("UserRole", None)
            blank = dict.fromkeys(("Email", "Department", "Division"))
            yield {**blank, **row, "Manager": manager and manager["Name"], "Role": role and role["Name"]}
        if self.org.describe("Group") is not None:
            yield from self.org.rows("SELECT Id, Name FROM Group WHERE Type = 'Queue' ORDER BY Id")

    def _spend(self) -> Iterator[Record]:
        """What campaigns cost, in the month they began, in the corporate currency."""
        visible = self.org.describe("Campaign") or {}
        names = [name for name in ("Id", "Name", "Type", "StartDate", "ActualCost", "CurrencyIsoCode", "SystemModstamp") if name in visible]
        for row in self.org.rows(f"SELECT {', '.join(names)} FROM Campaign WHERE ActualCost > 0 AND StartDate != null ORDER BY Id"):
            yield {"Type": None, **row, "Cost": self._in_home_currency(row["ActualCost"], row)}

    def _quotas(self) -> Iterator[Record]:
        """Quotas of one forecast type: an org with several counts the same target more than once."""
        visible = self.org.describe("ForecastingQuota") or {}
        names = [
            name for name in ("Id", "QuotaAmount", "StartDate", "CurrencyIsoCode", "ForecastingTypeId", "SystemModstamp") if name in visible
        ]
        soql = f"SELECT {', '.join([*names, 'QuotaOwner.Name'])} FROM ForecastingQuota WHERE QuotaAmount != null ORDER BY Id"
        rows = list(self.org.rows(soql))
        kinds = [row.get("ForecastingTypeId") for row in rows]
        used = max(sorted(set(kinds), key=str), key=kinds.count, default=None)
        for row in rows:
            if row.get("ForecastingTypeId") == used:
                owner = row.pop("QuotaOwner")
                yield {**row, "Owner": owner and owner["Name"], "Quota": self._in_home_currency(row["QuotaAmount"], row)}

    def _in_home_currency(self, amount: Decimal, row: Record) -> Decimal:
        currency = row.get("CurrencyIsoCode") or self._home_currency
        if currency == self._home_currency:
            return amount
        day = str(row["StartDate"])
        known = [rate for rate in self._rate_rows if rate["IsoCode"] == currency and rate["StartDate"] <= day]
        return amount * known[-1]["Rate"] if known else amount

    def _rates(self) -> Iterator[Record]:
        yield from self._rate_rows

    @cached_property
    def _rate_rows(self) -> list[Record]:
        """Into the corporate currency. Salesforce counts units of the currency per corporate unit; dated rates where the org has them."""
        rows = [{**row, "StartDate": FIRST_DAY} for row in self._currencies]
        if self.org.describe("DatedConversionRate") is not None:
            with suppress(Refused):
                soql = "SELECT IsoCode, StartDate, ConversionRate, SystemModstamp FROM DatedConversionRate ORDER BY IsoCode, StartDate"
                dated = list(self.org.rows(soql))
                first = {row["IsoCode"]: row["StartDate"] for row in reversed(dated)}
                open_ended = [{**row, "StartDate": FIRST_DAY} if row["StartDate"] == first[row["IsoCode"]] else row for row in dated]
                rows = [*(row for row in rows if row["IsoCode"] not in first), *open_ended]
        return [{**row, "Rate": (1 / Decimal(row["ConversionRate"])).quantize(Decimal("1e-8"))} for row in rows if row["ConversionRate"]]

    # ── checking ──────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        """Sign in, see the version, then every object and field a run would read."""
        what = self.org.place
        try:
            known = self.org.versions()
        except ConnectorError as error:
            yield Finding(what, False, str(error), error.remedy or "", error.exit_code)
            return
        if self.config.api_version not in known:
            yield Finding(what, False, f"no API {self.config.api_version}", f"set api_version to one of {known[0]} … {known[-1]}", 2)
            return
        yield Finding(what, True, f"signed in, API {self.config.api_version}")
        yield from self._check_objects()

    def _check_objects(self) -> Iterator[Finding]:
        for table in (tables.DEALS, tables.STAGE_ENTRIES, tables.TASK, tables.EVENT, *tables.SIMPLE):
            what = f"{self.org.place} {table.object}"
            try:
                missing = [name for name in self._seen(table)[1] if name not in tables.OPTIONAL]
            except ConnectorError as error:
                yield Finding(what, False, str(error), error.remedy or "", error.exit_code)
                continue
            if missing:
                yield Finding(what, False, f"hidden fields: {', '.join(missing)}", "grant Read on them in the user's permission set", 3)
            else:
                yield Finding(what, True, "readable")


def _entries(records: list[Record], last: list[str] | None) -> tuple[list[Record], list[str] | None]:
    """History rows that entered a stage. `last` is the deal and stage of the row before: rows also follow changes of amount or date."""
    entries = []
    for record in records:
        here = [record["OpportunityId"], record["StageName"]]
        if here != last:
            entries.append(record)
        last = here
    return entries, last
