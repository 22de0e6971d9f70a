"""HubSpot: deals with their stage history and everything that belongs to a pipeline, complete or said so.

Reads lists by object id, several id ranges at a time, as fast as the portal's call budget allows; later runs ask the search for what
changed. Deleted and merged records come as ids to remove, from the archive, which HubSpot keeps for 90 days.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from http import HTTPStatus
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, SecretStr, model_validator

from connector.api import Entity, Finding, FurtherFields, NetworkConfig, Page, Since
from connector.auth.oauth import OAuth, RefreshToken
from connector.errors import AuthError, ConnectorError
from connector.http import Session
from connector.pages import Part, side_by_side
from connector.resume import Step, Unfinished, read_everything
from sources import hubspot_history as histories
from sources import hubspot_tables as tables
from sources.hubspot_api import HISTORY_PAGE, HOME, LIST_PAGE, Forbidden, Portal, Record, Refused, linked, typed
from sources.hubspot_history import Histories, Stash
from sources.hubspot_metadata import Metadata
from sources.hubspot_tables import Table

log = logging.getLogger(__name__)

WITH_HISTORY: Final = frozenset({"deals", "stage_entries"})
OVERLAP: Final = timedelta(minutes=10)
ARCHIVE: Final = timedelta(days=85)  # of 90
Range = tuple[int, int | None]  # ids beyond the first, up to and with the second
EVERYTHING: Final[Range] = (0, None)


class HubSpotConfig(NetworkConfig):
    """A HubSpot portal."""

    type: Literal["hubspot"] = "hubspot"
    token: SecretStr | None = Field(None, description="Access token of a private app or a service key.")
    auth: RefreshToken | None = Field(
        None, description="OAuth app instead of a token: {type: refresh_token, client_id, client_secret, refresh_token}."
    )
    api_version: str = Field("2026-09", pattern=r"^(20\d\d-\d\d|v3)$", description="Version in the paths; v3 for the old ones.")
    fields: FurtherFields = Field(
        {}, description="Further properties to read, by table: {deals: [hs_arr]}. Custom properties are read anyway."
    )

    @model_validator(mode="after")
    def _credential(self) -> HubSpotConfig:
        if (self.token is None) == (self.auth is None):
            raise ValueError("give either `token` or `auth: {type: refresh_token, client_id, client_secret, refresh_token}`")
        return self


class HubSpotSource:
    """Deals with their stage history, leads, activities, companies, contacts, line items and rates of a HubSpot portal."""

    Config: ClassVar[type[HubSpotConfig]] = HubSpotConfig
    list_page: ClassVar[int | None] = None
    pages_per_range: ClassVar[int] = 20
    workers: ClassVar[int] = 6

    def __init__(self, config: HubSpotConfig, session: Session) -> None:
        self.config = config
        self.session = session
        token = config.token.get_secret_value() if config.token else self._oauth(config, session)
        self.portal = Portal(session, base_url=config.base_url, token=token, version=config.api_version)
        self.metadata = Metadata(self.portal)
        self._stash: Stash | None = None
        self._one_by_one = False
        self._special: dict[str, Callable[[], Iterator[Record]]] = {
            "stages": self.metadata.stages,
            "owners": self.metadata.owners,
            "rates": self.metadata.rates,
        }

    def _oauth(self, config: HubSpotConfig, session: Session) -> OAuth:
        assert config.auth is not None
        base = (config.base_url or HOME).rstrip("/")
        path = "/oauth/v1/token" if config.api_version == "v3" else f"/oauth/{config.api_version}/token"
        return OAuth(config.auth, base + path, session, place="HubSpot", explain=_explain)

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def entities(self) -> tuple[Entity, ...]:
        """The tables this portal can give; object types the token may not see are left out and named by `check` and by the deals' warnings."""
        if self.portal.details and self.portal.properties("deals") is None:
            raise self._hidden("deals")
        found = [
            Entity("deals", "deals", self._deal_columns(), incremental=True),
            Entity("stages", "pipelines", tables.STAGES),
            Entity("stage_entries", "deal stage history", self._entry_columns(), incremental=True),
            Entity("owners", "owners", tables.OWNERS),
        ]
        simple = [table for table in tables.SIMPLE if self.portal.properties(table.kind) is not None]
        found += [Entity(table.entity, table.kind, self._columns(table), incremental=True) for table in simple]
        if self._activity_tables:
            found.append(Entity("activities", "engagements", tables.ACTIVITY, incremental=True))
        if self.metadata.exchange_rates is not None:
            found.append(Entity("rates", "exchange rates", tables.RATES))
        return tuple(found)

    def _deal_columns(self) -> dict[str, str]:
        stages, details = self.metadata.deal_stages, self.portal.details
        currency = details.get("companyCurrency")
        probabilities = [(stage.id, str(stage.probability)) for stage in stages if stage.probability is not None]
        closed = f"{tables.status(stages)} <> 'open'"
        zone = str(details.get("timeZone") or "UTC")
        where = f"https://{details.get('uiDomain', 'app.hubspot.com')}/contacts/{details.get('portalId')}/record/0-3/"
        return {
            **tables.DEALS.columns,
            "pipeline": tables.labelled("pipeline", {(stage.pipeline, stage.pipeline_label) for stage in stages}),
            "stage": tables.labelled("dealstage", {(stage.id, stage.label) for stage in stages}),
            "status": tables.status(stages),
            "currency": f"coalesce(deal_currency_code, {tables.text(str(currency))})" if currency else "deal_currency_code",
            "probability": "coalesce(cast(hs_deal_stage_probability as double), "
            f"cast({tables.labelled('dealstage', probabilities, 'null')} as double))",
            "forecast_category": self._shown("deals", "hs_manual_forecast_category"),
            "lead_source": self._shown("deals", "hs_analytics_source"),
            "closed_at": f"case when {closed} then coalesce(closedate, hs_v2_date_entered_current_stage) else null end",
            "expected_close_date": f"case when {closed} then null else {tables.local_day('closedate', zone)} end",
            "url": f"{tables.text(where)} || id",
        }

    def _entry_columns(self) -> dict[str, str]:
        """A stage belongs to one pipeline, so its history tells also which pipeline a deal was in."""
        return {
            **tables.STAGE_ENTRIES,
            "pipeline": tables.labelled("dealstage", {(stage.id, stage.pipeline_label) for stage in self.metadata.deal_stages}, "null"),
            "stage": tables.labelled("dealstage", {(stage.id, stage.label) for stage in self.metadata.deal_stages}),
        }

    def _columns(self, table: Table) -> dict[str, str]:
        if table.entity == "leads":
            stages = self.metadata.stages_of("leads")
            return {**table.columns, "status": tables.labelled("hs_pipeline_stage", {(stage.id, stage.label) for stage in stages})}
        if table.entity == "accounts":
            return {**table.columns, "segment": self._shown("companies", "industry")}
        return dict(table.columns)

    def _shown(self, kind: str, name: str) -> str:
        """An enumeration by its labels."""
        options = ((self.portal.properties(kind) or {}).get(name) or {}).get("options") or ()
        return tables.labelled(name, {(str(one["value"]), str(one["label"])) for one in options})

    @cached_property
    def _activity_tables(self) -> tuple[Table, ...]:
        return tuple(table for table in tables.ACTIVITIES if self.portal.properties(table.kind) is not None)

    def _hidden(self, kind: str) -> ConnectorError:
        """The refusal itself, which names the scope."""
        try:
            self.portal.fetch_properties(kind)
        except Forbidden as error:
            return error
        return AuthError(f"{self.portal.place}: {kind} cannot be read", remedy="check the token's scopes")

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Everything, or what changed since; the last page's watermark is HubSpot's clock before the first request."""
        watermark = f"{self.portal.started:%Y-%m-%dT%H:%M:%SZ}"
        if entity.name in self._special:
            yield Page(list(self._special[entity.name]()), watermark=watermark)
            return
        warnings = self._warnings(entity.name)
        before = datetime.fromisoformat(since.watermark) if since.watermark else None
        if before is None or self.portal.started - before > ARCHIVE:
            yield Page(full=before is not None)
            if entity.name == "deals":
                yield from self._stashing(self._read_all("deals", watermark))
            elif entity.name == "stage_entries" and self._stash:
                yield from (Page(self._entries(told)) for told in self._stash.pages())
            else:
                yield from self._read_all(entity.name, watermark)
        else:
            yield from self._changes(entity.name, before - OVERLAP)
        yield Page(watermark=watermark, warnings=warnings)

    def _read_all(self, name: str, started: str) -> Iterator[Page]:
        identity = (name, self.portal.place, self.portal.details.get("portalId"), [self._wanted(table) for table in self._tables(name)])
        yield from read_everything(
            Unfinished(self.session.folder, name, identity, self.session.now()),
            started,
            steps=lambda place: self._steps(name, place),
            changes=lambda since: self._changes(name, datetime.fromisoformat(since) - OVERLAP),
            key=lambda record: str(record["deal_id" if name == "stage_entries" else "id"]),
        )

    def _stashing(self, pages: Iterator[Page]) -> Iterator[Page]:
        """Pages of deals, with their histories taken out and put by for the stage entries."""
        stash = Stash()
        for page in pages:
            records = [dict(record) for record in page.records]
            told: Histories = {record["id"]: record.pop("history") for record in records if "history" in record}
            stash.keep(told | histories.fetch(self.portal, [record["id"] for record in records if record["id"] not in told]))
            yield replace(page, records=records)
        self._stash = stash

    def _entries(self, told: Histories) -> list[Record]:
        return histories.entries(self.portal, self.metadata.deal_stages, told)

    def _tables(self, name: str) -> tuple[Table, ...]:
        if name == "activities":
            return self._activity_tables
        if name in ("deals", "stage_entries"):
            return (tables.DEALS,)
        return tuple(table for table in tables.SIMPLE if table.entity == name)

    def _steps(self, name: str, place: Any) -> Iterator[Step]:
        """Every record by ascending id, object type by object type; ids beyond the first page are read in ranges, side by side."""
        things = self._tables(name)
        for index, table in enumerate(things):
            if place and index < place["table"]:
                continue
            ranges = [(after, last) for after, last in place["ranges"]] if place and index == place["table"] else [EVERYTHING]
            for records, left in self._pieces(name, table, ranges):
                following = {"table": index, "ranges": left} if left else {"table": index + 1, "ranges": [EVERYTHING]}
                yield Step(records, None if not left and index + 1 == len(things) else following)

    def _pieces(self, name: str, table: Table, ranges: list[Range]) -> Iterator[tuple[list[Record], list[Range]]]:
        """Records piece by piece, with the ranges still to come. The first page of a list tells whether there is more."""
        if ranges == [EVERYTHING]:
            part = next(self._list(name, table, 0))
            beyond = int(part.records[-1]["id"]) if part.records else 0
            ranges = self._cut(name, table.kind, (beyond, None)) if part.following else []
            yield self._finished(name, table, part.records), ranges
        try:
            while ranges:
                crowded: list[Range] = []
                for place, (records, rest) in enumerate(side_by_side(partial(self._piece, name, table), ranges, self.workers), start=1):
                    crowded += rest
                    yield records, [*ranges[place:], *crowded]
                ranges = [piece for extent in crowded for piece in self._cut(name, table.kind, extent)]
        except Refused as refused:  # a portal that wants no cursor but its own
            if refused.status != HTTPStatus.BAD_REQUEST or self._one_by_one:
                raise
            log.info("%s; reading page after page", refused)
            self._one_by_one = True
            yield from self._pieces(name, table, [EVERYTHING])

    def _piece(self, name: str, table: Table, extent: Range) -> tuple[list[Record], list[Range]]:
        """The records of a range, and what is left of it where ids stand closer than its cut assumed."""
        after, last = extent
        records: list[Record] = []
        for number, part in enumerate(self._list(name, table, after), start=1):
            kept = [one for one in part.records if last is None or int(one["id"]) <= last]
            records += self._finished(name, table, kept)
            if len(kept) < len(part.records):
                break
            if kept and part.following and number >= 2 * self.pages_per_range:
                return records, [(int(kept[-1]["id"]), last)]
        return records, []

    def _cut(self, name: str, kind: str, extent: Range) -> list[Range]:
        """A range in parts of about as many records each. One without an end keeps none, for what is created meanwhile."""
        if self._one_by_one:
            return [extent]
        after, last = extent
        count, highest = self.portal.extent(kind, after, last)
        parts = max(1, -(-count // (self._size(name) * self.pages_per_range)))
        bounds = [after + (highest - after) * part // parts for part in range(parts)]
        return [*pairwise(bounds), (bounds[-1], last)] if highest > after else [extent]

    def _size(self, name: str) -> int:
        return self.list_page or (HISTORY_PAGE if name in WITH_HISTORY else LIST_PAGE)

    def _list(self, name: str, table: Table, after: int) -> Iterator[Part]:
        if name == "stage_entries":
            return self.portal.pages("deals", (), after=after, history="dealstage", limit=self._size(name))
        targets = [to for _, to in table.links if self.portal.properties(to) is not None]
        past = "dealstage" if name in WITH_HISTORY else None
        return self.portal.pages(table.kind, self._wanted(table), after=after, history=past, associations=targets, limit=self._size(name))

    def _changes(self, name: str, since: datetime) -> Iterator[Page]:
        """What changed or went, object type by object type."""
        for table in self._tables(name):
            seen: set[str] = set()
            merged: list[str] = []
            properties = ("hs_merged_object_ids",) if name == "stage_entries" else self._wanted(table)
            for found in self.portal.search(table.kind, table.modified, since, properties):
                ids = [one["id"] for one in found]
                seen.update(ids)
                merged += [loser for one in found for loser in (one["properties"].get("hs_merged_object_ids") or "").split(";") if loser]
                if name == "stage_entries":
                    yield Page(self._entries(histories.fetch(self.portal, ids)))
                else:
                    yield Page(self._finished(name, table, found, ids))
            gone = [*merged, *self._archived(table.kind, since)]
            yield Page(removed=tuple(one for one in dict.fromkeys(gone) if one not in seen))

    def _archived(self, kind: str, since: datetime) -> Iterator[str]:
        for part in self.portal.pages(kind, (), archived=True):
            yield from (one["id"] for one in part.records if datetime.fromisoformat(one["archivedAt"]) >= since)

    # ── records ───────────────────────────────────────────────────────────────────────────────────

    def _wanted(self, table: Table) -> tuple[str, ...]:
        """Properties to ask for: ours, those of the portal's own, and those named in the configuration."""
        known = self.portal.properties(table.kind) or {}
        own = [name for name, about in known.items() if not about.get("hubspotDefined") and not about.get("archived")]
        return tuple(
            dict.fromkeys([*(name for name in table.properties if name in known), *own, *self.config.fields.get(table.entity, ())])
        )

    def _finished(self, name: str, table: Table, found: Sequence[Record], searched: Sequence[str] = ()) -> list[Record]:
        """Records with typed values, nulls for properties that are not visible, and the ids they are associated with."""
        if name == "stage_entries":
            return self._entries({one["id"]: histories.history(one) for one in found})
        known = self.portal.properties(table.kind) or {}
        names = dict.fromkeys((*table.properties, *self._wanted(table)))
        kinds = {one: str(known[one]["type"]) if one in known and one not in tables.IDS else "string" for one in names}
        records = []
        for one in found:
            values = one["properties"]
            record = {"id": one["id"], **{each: typed(values.get(each), kind) for each, kind in kinds.items()}}
            if name == "activities":
                record |= tables.activity(record, table.kind)
            elif "propertiesWithHistory" in one:
                record["history"] = histories.history(one)
            records.append(record)
        for column, to in table.links:
            links = self._links(table.kind, to, found, searched)
            for record in records:
                record[column] = next(iter(links.get(record["id"], ())), None)
        return records

    def _links(self, kind: str, to: str, found: Sequence[Record], searched: Sequence[str]) -> dict[str, list[str]]:
        """Associated ids: from the list as far as it has all of them, else asked for."""
        if self.portal.properties(to) is None:
            return {}
        if searched:
            return self.portal.associated(kind, to, searched)
        inline = {one["id"]: linked(one, to) for one in found}
        partial = [identifier for identifier, (_, whole) in inline.items() if not whole]
        return {identifier: ids for identifier, (ids, _) in inline.items()} | (self.portal.associated(kind, to, partial) if partial else {})

    def _warnings(self, name: str) -> tuple[str, ...]:
        found = [
            f"{table.kind}: not visible to the token, read as empty: {', '.join(missing)}"
            for table in self._tables(name)
            if (missing := self._missing(table))
        ]
        if name == "deals":
            hidden = [table.kind for table in (*tables.SIMPLE, *tables.ACTIVITIES) if self.portal.properties(table.kind) is None]
            found += [f"{kind} are not visible to the token; their table is missing or incomplete" for kind in hidden]
        return tuple(found)

    def _missing(self, table: Table) -> list[str]:
        known = self.portal.properties(table.kind) or {}
        return [name for name in (*table.properties, *self.config.fields.get(table.entity, ())) if name not in known]

    # ── checking ──────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        """Sign in, then every object type and property a run would read."""
        what = self.portal.place
        try:
            details = self.portal.details
        except ConnectorError as error:
            yield Finding(what, False, str(error), error.remedy or "", error.exit_code)
            return
        yield Finding(what, True, f"signed in to portal {details.get('portalId')}, paths {self.portal.version}")
        for table in (tables.DEALS, *tables.SIMPLE, *tables.ACTIVITIES):
            yield self._checked(f"{what} {table.kind}", table)
        try:
            next(self.portal.results(self.portal.path("crm/owners"), limit="1"), None)
        except ConnectorError as error:
            yield Finding(f"{what} owners", False, str(error), error.remedy or "", error.exit_code)

    def _checked(self, what: str, table: Table) -> Finding:
        try:
            if self.portal.properties(table.kind) is None:
                error = self._hidden(table.kind)
                return Finding(what, False, str(error), error.remedy or "", error.exit_code)
        except ConnectorError as error:
            return Finding(what, False, str(error), error.remedy or "", error.exit_code)
        if missing := self._missing(table):
            return Finding(what, False, f"not visible: {', '.join(missing)}", "grant the scopes of sensitive data, or ignore this", 3)
        return Finding(what, True, "readable")


def _explain(error: str, description: str) -> AuthError:
    said = f"{error}: {description}" if description else error
    return AuthError(
        f"HubSpot: signing in was refused ({said})", remedy="install the OAuth app anew and put the new refresh token into auth"
    )
