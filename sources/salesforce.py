"""Salesforce: opportunities with their stage history and everything that belongs to a pipeline, complete or said so.

Reads through REST and, where there are many rows, Bulk API 2.0; incrementally by `SystemModstamp` with an overlap, because records
become visible a little after their stamp. Deleted and merged records come as ids to remove: from the recycle bin (`queryAll`), and
from the list of purged ids; where the org no longer knows all of those, everything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from connector.api import Entity, Finding, FurtherFields, NetworkConfig, Page, Since
from connector.auth.oauth import Grant
from connector.errors import AuthError, ConfigError, ConnectorError
from connector.http import Session
from connector.resume import PlaceLostError, Step, Unfinished, read_everything
from sources import salesforce_tables as tables
from sources.salesforce_api import Org, Record, known_domain, stamp
from sources.salesforce_metadata import Metadata, hidden
from sources.salesforce_tables import Table

OVERLAP: Final = timedelta(minutes=10)
UNREADABLE: Final = frozenset({"base64", "address", "location", "complexvalue"})
IDS_PER_QUERY: Final = 200
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
    fields: FurtherFields = Field(
        {}, description="Further fields to read, by table: {deals: [Territory2Id]}. Custom fields are read anyway."
    )

    @model_validator(mode="after")
    def _address(self) -> SalesforceConfig:
        if not self.domain and not self.base_url:
            raise ValueError("`domain` is missing: the org's My Domain, e.g. acme.my.salesforce.com")
        return self


class SalesforceSource:
    """Opportunities with their stage history, leads, activities, products, campaign costs, quotas and rates of a Salesforce org."""

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
        self.metadata = Metadata(self.org)
        self._known: dict[str, tuple[dict[str, str], list[str]]] = {}
        self._special: dict[str, Callable[[], Iterator[Record]]] = {
            "stages": self.metadata.stages,
            "owners": self.metadata.owners,
            "spend": self.metadata.spend,
            "quotas": self.metadata.quotas,
            "rates": self.metadata.rates,
        }

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def entities(self) -> tuple[Entity, ...]:
        """The tables this org can give; objects its user may not see are left out and named by `check` and by the deals' warnings."""
        if "Opportunity" not in self.org.objects:
            raise hidden(self.org, "Opportunity")
        found = [self._deals(), Entity("stages", "OpportunityStage", tables.STAGES)]
        if "OpportunityHistory" in self.org.objects:
            found.append(self._entity(self._stage_entries, key=("Id",)))
        found.append(Entity("owners", "User", tables.OWNERS))
        found += [self._entity(table) for table in tables.SIMPLE if table.object in self.org.objects]
        if self._activity_tables:
            found.append(self._entity(self._activity_tables[0], place=" and ".join(table.object for table in self._activity_tables)))
        optional = (("spend", "Campaign", tables.SPEND), ("quotas", "ForecastingQuota", tables.QUOTAS))
        found += [Entity(name, thing, columns) for name, thing, columns in optional if thing in self.org.objects]
        if self.metadata.currencies:
            found.append(Entity("rates", "CurrencyType", tables.RATES))
        return tuple(found)

    def _deals(self) -> Entity:
        columns = {
            **tables.DEALS.columns,
            "pipeline": tables.pipeline("RecordTypeId", self.metadata.record_types),
            "stage": tables.labelled("StageName", self.metadata.stage_labels),
            "currency": "CurrencyIsoCode" if self.metadata.currencies else f"'{self.metadata.home_currency}'",
        }
        if self.config.domain:
            columns["url"] = f"'https://{self.config.domain}/lightning/r/Opportunity/' || Id || '/view'"
        return self._entity(replace(tables.DEALS, columns=columns))

    @property
    def _stage_entries(self) -> Table:
        by_type = bool(self.metadata.record_types)
        return replace(
            tables.STAGE_ENTRIES,
            columns={
                **tables.STAGE_ENTRIES.columns,
                "pipeline": tables.pipeline('"Opportunity.RecordTypeId"', self.metadata.record_types),
                "stage": tables.labelled("StageName", self.metadata.stage_labels),
            },
            parents=tables.STAGE_ENTRIES.parents if by_type else {},
        )

    def _entity(self, table: Table, *, key: tuple[str, ...] = (), place: str | None = None) -> Entity:
        return Entity(table.entity, place or table.object, table.columns, key=key, incremental=True)

    @cached_property
    def _activity_tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (tables.TASK, tables.EVENT) if table.object in self.org.objects)

    def _table(self, entity: str) -> Table:
        if entity == "deals":
            return tables.DEALS
        return next(table for table in tables.SIMPLE if table.entity == entity)

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Everything, or what changed since; the last page's watermark is the org's clock before the first request."""
        watermark = stamp(self.org.started)
        if entity.name in self._special:
            records = list(self._special[entity.name]())
            yield Page(records, watermark=watermark, warnings=tuple(self.metadata.warnings))
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
        """Changed records, then what went: `gone` as the org lists it, and what the recycle bin holds. What was restored is alive."""
        if name == "stage_entries":
            yield from self._entry_changes(since, gone)
            return
        alive: set[str] = set()
        for table in things:
            for records in self._changed(table, since):
                kept = [self._finished(record, table) for record in records if not record["IsDeleted"]]
                alive.update(record["Id"] for record in kept)
                gone += [record["Id"] for record in records if record.get("IsDeleted")]
                yield Page(kept)
        yield Page(removed=tuple(one for one in dict.fromkeys(gone) if one not in alive))

    def _entry_changes(self, since: datetime, gone: list[str]) -> Iterator[Page]:
        """The whole history of every deal that changed: one row does not say whether the stage changed."""
        table = self._stage_entries
        changed = f"OpportunityId IN (SELECT Id FROM Opportunity WHERE SystemModstamp >= {stamp(since)})"
        last = None
        for records in self._twice(self._soql(table, where=changed) + IN_ORDER, table, everything=False):
            entries, last = _entries(records, last)
            yield Page(entries)
        bin_only = f"SELECT Id FROM Opportunity WHERE IsDeleted = true AND SystemModstamp >= {stamp(since)}"
        gone = list(dict.fromkeys([*gone, *(row["Id"] for row in self.org.rows(bin_only, everything=True))]))
        alive: set[str] = set()
        for start in range(0, len(gone), IDS_PER_QUERY):
            some = ", ".join(f"'{one}'" for one in gone[start : start + IDS_PER_QUERY])
            alive.update(row["Id"] for row in self.org.rows(f"SELECT Id FROM Opportunity WHERE Id IN ({some})"))
        yield Page(removed=tuple(one for one in gone if one not in alive))

    def _changed(self, table: Table, since: datetime) -> Iterator[list[Record]]:
        condition = f"SystemModstamp >= {stamp(since)}"
        if table.object == "Event":  # an event is done when its time has passed, which changes no stamp
            condition = f"({condition} OR (EndDateTime >= {stamp(since)} AND EndDateTime <= {stamp(self.org.started)}))"
        yield from self._twice(self._soql(table, "IsDeleted", where=condition), table, everything=True)

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
            raise hidden(self.org, table.object)
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
            unseen = [thing for thing in self._expected() if thing not in self.org.objects]
            found += [f"{thing} is not visible to the connected user; its table is missing" for thing in unseen]
        return tuple(found)

    def _expected(self) -> tuple[str, ...]:
        return "OpportunityHistory", "Task", "Event", *(table.object for table in tables.SIMPLE)

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
