"""Salesforce: opportunities with their stage history and everything that belongs to a pipeline, complete or said so.

Reads through REST and, where there are many rows, Bulk API 2.0; incrementally by `SystemModstamp` with an overlap, because records
become visible a little after their stamp. Deleted and merged records come as ids to remove: from the recycle bin (`queryAll`), and
from the list of purged ids; where the org no longer knows all of those, everything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from connector.api import Entity, Finding, FurtherFields, NetworkConfig, Page, Since, WantedTables
from connector.auth.oauth import Grant
from connector.errors import ConfigError, ConnectorError
from connector.http import Session
from connector.resume import PlaceLostError, Step, Unfinished, read_everything
from sources import salesforce_tables as tables
from sources.salesforce_api import Org, Record, known_domain, stamp
from sources.salesforce_changes import IN_ORDER, Changes, entered
from sources.salesforce_metadata import Metadata
from sources.salesforce_query import Queries, Query
from sources.salesforce_sight import Sight
from sources.salesforce_tables import Table


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
    timeout: float = Field(180, gt=0, description="Seconds to wait for an answer; a query may take two minutes before its first byte.")
    tables: WantedTables = Field(
        (), description="Tables to read, e.g. [deals, stage_entries, stages, owners]; all the org gives unless named."
    )
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
        self.sight = Sight(self.org, config.tables, config.fields)
        self.metadata = Metadata(self.org, self.sight)
        self.queries = Queries(self.org, config.bulk_from)
        self.changes = Changes(self.org, self.sight, self.queries, self._finished)
        self._whole: Mapping[str, Callable[[], Iterator[Record]]] = {
            "stages": self.metadata.stages,
            "owners": self.metadata.owners,
            "spend": self.metadata.spend,
            "quotas": self.metadata.quotas,
            "rates": self.metadata.rates,
        }

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def entities(self) -> tuple[Entity, ...]:
        """The tables this org can give; what its user may not see is left out, and named by `check` and by the first table's warnings."""
        self.sight.require()
        return tuple(self._entity(name) for name in self._names())

    def _names(self) -> list[str]:
        return list(dict.fromkeys(table.entity for table in self.sight.tables if self.sight.look(table).readable))

    def _entity(self, name: str) -> Entity:
        things = self.sight.of(name)
        table = things[0]
        reads = {field for thing in things for field in (*self.sight.look(thing).fields, *thing.made)}
        return Entity(
            name,
            " and ".join(thing.object for thing in things),
            {**table.columns, **self._columns(table)},
            key=table.key,
            incremental=table.incremental,
            reads=tuple(sorted(reads)),
        )

    def _columns(self, table: Table) -> dict[str, str]:
        """The columns that depend on what the org says of itself."""
        columns = {}
        if table.entity in tables.MONEY:
            known = "CurrencyIsoCode" in self.sight.look(table).fields
            columns["currency"] = "CurrencyIsoCode" if known else tables.text(self.metadata.home_currency)
        if table.entity in ("deals", "stage_entries"):
            link = "RecordTypeId" if table.entity == "deals" else '"Opportunity.RecordTypeId"'
            columns["pipeline"] = tables.pipeline(link, self.metadata.record_types)
            columns["stage"] = tables.labelled("StageName", self.metadata.stage_labels)
        if table.entity == "deals":
            columns |= tables.outcomes(self.metadata.stage_rows)
            if self.config.domain:
                columns["url"] = f"'https://{self.config.domain}/lightning/r/Opportunity/' || Id || '/view'"
        return columns

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Everything, or what changed since; the last page's watermark is safe to go on from."""
        if entity.name in self._whole:
            known = len(self.metadata.warnings)
            yield Page(list(self._whole[entity.name]()))
            found = self.metadata.warnings[known:]
        else:
            found = []
            pages = self.changes.since(entity.name, self.sight.of(entity.name), since.watermark) if since.watermark else None
            if pages is None:
                yield from self._read_all(entity.name, anew=bool(since.watermark))
            else:
                yield from pages
        yield Page(watermark=self.changes.watermark(entity.name), warnings=(*self._warnings(entity.name), *found))

    def _warnings(self, name: str) -> list[str]:
        return [*self.sight.hidden_fields(name), *(self.sight.left_out() if name == self._names()[0] else ())]

    def _read_all(self, name: str, *, anew: bool) -> Iterator[Page]:
        things = self.sight.of(name)
        identity = (name, self.org.place, self.config.api_version, [self._query(table).soql for table in things])
        unfinished = Unfinished(self.session.folder, name, identity, self.session.now())
        key = "OpportunityId" if name == "stage_entries" else "Id"

        def changed(started: str) -> Iterator[Page]:
            pages = self.changes.since(name, things, started)
            if pages is None:
                raise PlaceLostError(f"{self.org.place}: what was deleted since a read of {name} was interrupted is no longer known")
            return pages

        yield Page(full=anew)
        yield from read_everything(
            unfinished,
            stamp(self.org.started),
            steps=lambda place: self._steps(name, things, place),
            changes=changed,
            key=lambda record: str(record[key]),
        )

    def _query(self, table: Table) -> Query:
        order = IN_ORDER if table.entity == "stage_entries" else ""
        return self.sight.query(table, order=order, everything=table.archive)

    def _steps(self, name: str, things: tuple[Table, ...], place: Any) -> Iterator[Step]:
        """Every record of an entity; a place names the object it is in."""
        start = place["object"] if place else 0
        last = place.get("last") if place else None
        for index in range(start, len(things)):
            table = things[index]
            inner = place["at"] if place and index == start else None
            for step in self.queries.steps(self._query(table), inner):
                records = [self._finished(record, table) for record in step.records]
                if name == "stage_entries":
                    records, last = entered(records, last)
                following = {"object": index, "at": step.place} if step.place else {"object": index + 1, "at": None}
                ended = step.place is None and index + 1 == len(things)
                whole = step.total if len(things) == 1 else None
                total = whole if name != "stage_entries" else None  # of history rows, some are no entries
                yield Step(records, None if ended else following | {"last": last}, total, expected=whole)

    def _finished(self, record: Record, table: Table) -> Record:
        """With nulls for fields the user may not see, long ids, and one shape for tasks and events."""
        if "IsDeleted" not in self.sight.look(table).fields:
            record.pop("IsDeleted", None)
        self.sight.finish(record, table)
        if table.object == "Task":
            record["Kind"] = (record.get("TaskSubtype") or "task").lower()
            record["Due"] = record["ActivityDate"]
            record["Done"] = (record["CompletedDateTime"] or record["ActivityDate"]) if record["IsClosed"] else None
        elif table.object == "Event":
            past = record["EndDateTime"] is not None and datetime.fromisoformat(record["EndDateTime"]) <= self.org.started
            record["Kind"], record["Due"], record["Done"] = "meeting", record["StartDateTime"], record["EndDateTime"] if past else None
        return record

    # ── checking ──────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        """Speak the version, sign in so that data can be asked for, then see every object and field a run would read."""
        what = self.org.place
        try:
            self.org.require_version()
            seen = len(self.org.objects)
        except ConnectorError as error:
            yield Finding(what, False, str(error), error.remedy or "", error.exit_code)
            return
        yield Finding(what, True, f"signed in, API {self.config.api_version}, {seen:,} objects visible")
        yield from self.sight.findings()
