"""HubSpot: deals with their stage history and everything that belongs to a pipeline, complete or said so.

Reads lists by object id, several id ranges at a time, as fast as the portal's call budget allows; later runs ask the search for what
changed. Deleted and merged records come as ids to remove, from the archive, which HubSpot keeps for 90 days.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from connector.api import Entity, Finding, FurtherFields, NetworkConfig, Page, Since, WantedTables
from connector.auth.oauth import OAuth, RefreshToken
from connector.errors import AuthError, ConfigError, ConnectorError, nearest
from connector.http import Session
from connector.pages import Part
from connector.resume import Step, Unfinished, read_everything
from sources import hubspot_history as histories
from sources import hubspot_tables as tables
from sources.hubspot_api import HISTORY_PAGE, HOME, LIST_PAGE, Filter, Portal, Record, compared
from sources.hubspot_errors import Refused
from sources.hubspot_gaps import Gaps, failed
from sources.hubspot_history import Histories, History, Stash
from sources.hubspot_lists import EVERYTHING, Listing, Lists
from sources.hubspot_metadata import Metadata
from sources.hubspot_records import Records
from sources.hubspot_tables import Table
from sources.hubspot_types import ObjectTypes

log = logging.getLogger(__name__)

WITH_HISTORY: Final = frozenset({"deals", "stage_entries"})
OF_DEALS: Final = frozenset({"deals", "stages", "stage_entries"})
OVERLAP: Final = timedelta(minutes=10)
ARCHIVE: Final = timedelta(days=85)  # of 90


class HubSpotConfig(NetworkConfig):
    """A HubSpot portal."""

    type: Literal["hubspot"] = "hubspot"
    token: SecretStr | None = Field(None, description="Access token of a private app or a service key.")
    auth: RefreshToken | None = Field(
        None, description="OAuth app instead of a token: {type: refresh_token, client_id, client_secret, refresh_token}."
    )
    api_version: str = Field("2026-09", pattern=r"^(20\d\d-\d\d|v3)$", description="Version in the paths; v3 for the old ones.")
    tables: WantedTables = Field(
        (), description="Tables to read, e.g. [deals, stage_entries, stages, owners]; all the portal gives unless named."
    )
    fields: FurtherFields = Field(
        {}, description="Further properties to read, by table: {deals: [hs_arr]}. Custom properties are read anyway."
    )

    @field_validator("token")
    @classmethod
    def _copied_whole(cls, token: SecretStr | None) -> SecretStr | None:
        """Without the white space that copying leaves around it. What no token holds is said without showing the token."""
        if token is None:
            return None
        text = token.get_secret_value().strip()
        if not text:
            raise ValueError("the token is empty")
        if odd := next((sign for sign in text if not " " <= sign <= "~"), None):
            raise ValueError(f"the token holds a sign that no token has (U+{ord(odd):04X}): copy it anew, as plain text")
        return SecretStr(text)

    @field_validator("tables")
    @classmethod
    def _given(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in tables.GIVEN:
                raise ValueError(f"HubSpot has no table {name!r}; {nearest(name, tables.GIVEN)}")
        return names

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
        self.types = ObjectTypes(self.portal)
        self.records = Records(self.portal, self.types, config.fields)
        self._stash: Stash | None = None
        self._special: dict[str, Callable[[], Iterator[Record]]] = {
            "stages": self.metadata.stages,
            "owners": self.metadata.owners,
            "rates": self.metadata.rates,
        }

    def _oauth(self, config: HubSpotConfig, session: Session) -> OAuth:
        assert config.auth is not None
        base = (config.base_url or HOME).rstrip("/")
        former = f"{base}/oauth/v1/token"
        url = former if config.api_version == "v3" else f"{base}/oauth/{config.api_version}/token"
        return OAuth(config.auth, url, session, place="HubSpot", explain=_explain, former=former, rotates=False)

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def entities(self) -> tuple[Entity, ...]:
        """The wanted tables this portal can give; what the token may not see is left out, and named by `check` and by a warning."""
        return self._entities

    @cached_property
    def _entities(self) -> tuple[Entity, ...]:
        log.debug("%s: portal %s", self.portal.place, self.portal.details["portalId"])  # asked first: it settles the paths' version
        self.types.look(kind for table in self._concerned for kind in (table.kind, *(to for _, to in table.links)))
        if self._wants(*OF_DEALS) and (kept_away := self.types.seen("deals").kept_away):
            raise kept_away
        found = {entity.name: entity for entity in self._readable()}
        if not found:
            raise next((error for _, error in self._gaps.hidden()), None) or ConfigError(
                f"{self.portal.place}: the portal has none of these tables: {', '.join(self.config.tables)}", remedy="correct `tables`"
            )
        return tuple(found[name] for name in tables.GIVEN if name in found)

    def _readable(self) -> Iterator[Entity]:
        if self._wants(*OF_DEALS):
            stages = Entity("stages", "pipelines", tables.STAGES)
            entries = Entity("stage_entries", "deal stage history", self._entry_columns(), incremental=True)
            deals = Entity("deals", "deals", self._deal_columns(), incremental=True, reads=self.records.reads(tables.DEALS))
            yield from (entity for entity in (deals, stages, entries) if self._wants(entity.name))
        if self._wants("owners"):
            yield Entity("owners", "owners", tables.OWNERS)
        for table in self._simple.values():
            yield Entity(table.entity, table.kind, self._columns(table), incremental=True, reads=self.records.reads(table))
        if self._activity_tables:
            reads = self.records.reads(*self._activity_tables)
            yield Entity("activities", "engagements", tables.ACTIVITY, incremental=True, reads=reads)
        if self._wants("rates") and isinstance(self.metadata.exchange_rates, list):
            yield Entity("rates", "exchange rates", tables.RATES)

    def _wants(self, *names: str) -> bool:
        return not self.config.tables or any(name in self.config.tables for name in names)

    @cached_property
    def _concerned(self) -> tuple[Table, ...]:
        """What the wanted tables are read from: from deals too where a record says little without its deal."""
        others = [table for table in (*tables.SIMPLE, *tables.ACTIVITIES) if self._wants(table.entity)]
        linked = any(to == "deals" for table in others for _, to in table.links)
        return (*([tables.DEALS] if linked or self._wants(*OF_DEALS) else []), *others)

    @cached_property
    def _simple(self) -> dict[str, Table]:
        """By name; the table of leads is this portal's own. A table without a use for records that have no deal needs to see deals."""
        readable = self.types.readable
        found = {
            table.entity: table
            for table in tables.SIMPLE
            if self._wants(table.entity) and readable(table.kind) and (table.parent is None or readable("deals"))
        }
        if leads := found.get("leads"):
            found["leads"] = tables.leads(leads, self.metadata.lead_stages, self.types.properties("leads"))
        return found

    @cached_property
    def _activity_tables(self) -> tuple[Table, ...]:
        return tuple(table for table in tables.ACTIVITIES if self._wants("activities") and self.types.readable(table.kind))

    def _deal_columns(self) -> dict[str, str]:
        stages, details = self.metadata.deal_stages, self.portal.details
        currency = details.get("companyCurrency")
        probability = tables.by_stage(stages, lambda stage: "null" if stage.probability is None else str(stage.probability), "null")
        closed = f"{tables.status(stages)} <> 'open'"
        zone = str(details.get("timeZone") or "UTC")
        where = f"https://{details.get('uiDomain', 'app.hubspot.com')}/contacts/{details.get('portalId')}/record/0-3/"
        return {
            **tables.DEALS.columns,
            "pipeline": tables.labelled("pipeline", {(stage.pipeline, stage.pipeline_label) for stage in stages}),
            "stage": tables.by_stage(stages, lambda stage: tables.text(stage.label), "dealstage"),
            "status": tables.status(stages),
            "currency": f"coalesce(deal_currency_code, {tables.text(str(currency))})" if currency else "deal_currency_code",
            "probability": f"coalesce(cast(hs_deal_stage_probability as double), cast({probability} as double))",
            "forecast_category": self._shown("deals", "hs_manual_forecast_category"),
            "lead_source": self._shown("deals", "hs_analytics_source"),
            "closed_at": f"case when {closed} then coalesce({tables.picked('closedate', zone)}, {tables.CURRENT_STAGE}) else null end",
            "expected_close_date": f"case when {closed} then null else {tables.local_day('closedate', zone)} end",
            "url": f"{tables.text(where)} || id",
        }

    def _entry_columns(self) -> dict[str, str]:
        """A stage belongs to one pipeline, so its history tells also which pipeline a deal was in."""
        stages = self.metadata.deal_stages
        return {
            **tables.STAGE_ENTRIES,
            "pipeline": tables.by_stage(stages, lambda stage: tables.text(stage.pipeline_label), "null"),
            "stage": tables.by_stage(stages, lambda stage: tables.text(stage.label), "dealstage"),
        }

    def _columns(self, table: Table) -> dict[str, str]:
        more = {"segment": self._shown("companies", "industry")} if table.entity == "accounts" else {}
        return {**table.columns, **more}

    def _shown(self, kind: str, name: str) -> str:
        """An enumeration by its labels."""
        options = (self.types.properties(kind).get(name) or {}).get("options") or ()
        return tables.labelled(name, {(str(one["value"]), str(one["label"])) for one in options})

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Everything, or what changed since; the last page's watermark is HubSpot's clock before the first request."""
        watermark = f"{self.portal.started:%Y-%m-%dT%H:%M:%SZ}"
        warnings = self._warnings(entity.name)
        if entity.name in self._special:
            yield Page(list(self._special[entity.name]()), watermark=watermark, warnings=warnings)
            return
        parent = next((table.parent for table in self._tables(entity.name)), None)
        left_out = 0
        for page in self._pages(entity.name, since, watermark):
            orphans = [record["id"] for record in page.records if parent and record[parent] is None]
            left_out += len(orphans)
            yield self._without(page, orphans, known=since.watermark is not None) if orphans else page
        if left_out:
            warnings = (
                *warnings,
                f"{entity.place}: {left_out:,} belong to no deal (but to a quote, a cart or a deleted deal) and are left out",
            )
        yield Page(watermark=watermark, warnings=warnings)

    def _without(self, page: Page, orphans: Sequence[str], *, known: bool) -> Page:
        """Orphans may have been `known` from an earlier read, when they still had a parent: they go like deleted ones."""
        gone = set(orphans)
        records = [record for record in page.records if record["id"] not in gone]
        return replace(page, records=records, removed=(*page.removed, *(orphans if known else ())))

    def _pages(self, name: str, since: Since, watermark: str) -> Iterator[Page]:
        before = datetime.fromisoformat(since.watermark) if since.watermark else None
        if before is not None and self.portal.started - before <= ARCHIVE:
            yield from self._changes(name, before - OVERLAP)
            return
        yield Page(full=before is not None)
        if name == "deals" and self._with_history(name):
            yield from self._stashing(self._read_all(name, watermark))
        elif name == "stage_entries" and self._stash:
            yield from (Page(self._entries(told)) for told in self._stash.pages())
        else:
            yield from self._read_all(name, watermark)

    def _with_history(self, name: str) -> bool:
        """Deals bring their history along where it is wanted: the list need not be read twice."""
        return name == "stage_entries" or (name == "deals" and self._wants("stage_entries"))

    def _read_all(self, name: str, started: str) -> Iterator[Page]:
        portal = self.portal.details.get("portalId")
        wanted = [self.records.wanted(table) for table in self._tables(name)]
        yield from read_everything(
            Unfinished(self.session.folder, name, (name, self.portal.place, portal, wanted, self._with_history(name)), self.session.now()),
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
            told = {one["id"]: History(one["pipeline"], one.pop("history")) for one in records if "history" in one}
            stash.keep({**told, **histories.fetch(self.portal, [one["id"] for one in records if one["id"] not in told])})
            yield replace(page, records=records)
        self._stash = stash

    def _entries(self, told: Histories) -> list[Record]:
        return histories.entries(self.portal, self.metadata.deal_stages, self.types.properties("deals"), told)

    def _tables(self, name: str) -> tuple[Table, ...]:
        if name == "activities":
            return self._activity_tables
        return (tables.DEALS,) if name in ("deals", "stage_entries") else (self._simple[name],)

    def _steps(self, name: str, place: Any) -> Iterator[Step]:
        """Every record by ascending id, object type by object type; ids beyond the first page are read in ranges, side by side."""
        things = self._tables(name)
        counted = len(things) == 1 and name != "stage_entries"
        about = place.get("about") if place else None
        for index, table in enumerate(things):
            if place and index < place["table"]:
                continue
            ranges = [(after, last) for after, last in place["ranges"]] if place and index == place["table"] else [EVERYTHING]
            for records, left in self._lists.pieces(self._listing(name, table), ranges):
                following = {"table": index, "ranges": left} if left else {"table": index + 1, "ranges": [EVERYTHING]}
                about = self._lists.about.get(table.kind, about) if counted else None
                ended = not left and index + 1 == len(things)
                yield Step(records, None if ended else following | {"about": about}, expected=about)

    @cached_property
    def _lists(self) -> Lists:
        return Lists(self.portal, pages=self.pages_per_range, workers=self.workers)

    def _listing(self, name: str, table: Table) -> Listing:
        past = "dealstage" if self._with_history(name) else None
        size = self.list_page or (HISTORY_PAGE if past else LIST_PAGE)
        if name == "stage_entries":
            properties: Sequence[str] = ("pipeline",)
            targets: Sequence[str] = ()
        else:
            properties, targets = self.records.wanted(table), self.records.targets(table)

        def parts(after: int) -> Iterator[Part]:
            return self.portal.pages(table.kind, properties, after=after, history=past, associations=targets, limit=size)

        def finished(found: list[Record]) -> list[Record]:
            return self._entries(histories.of(found)) if name == "stage_entries" else self.records.finished(table, found)

        return Listing(table.kind, size, parts, finished)

    def _changes(self, name: str, since: datetime) -> Iterator[Page]:
        """What changed or went, object type by object type."""
        for table in self._tables(name):
            seen: set[str] = set()
            merged: list[str] = []
            for found, records in self._changed(name, table, since):
                seen.update(one["id"] for one in found)
                merged += [loser for one in found for loser in (one["properties"].get("hs_merged_object_ids") or "").split(";") if loser]
                yield Page(records)
            gone = [*merged, *self._archived(table.kind, since)]
            yield Page(removed=tuple(one for one in dict.fromkeys(gone) if one not in seen))

    def _changed(self, name: str, table: Table, since: datetime) -> Iterator[tuple[list[Record], list[Record]]]:
        """Objects as HubSpot gives them, with our records: those that changed, or all where the search does not know the type."""
        properties = ("hs_merged_object_ids",) if name == "stage_entries" else self.records.wanted(table)
        try:
            for found in self.portal.search(table.kind, self._since(table, since), properties):
                if name == "stage_entries":
                    yield found, self._entries(histories.fetch(self.portal, [one["id"] for one in found]))
                else:
                    yield found, self.records.finished(table, found, searched=True)
        except Refused as refused:
            if refused.status != HTTPStatus.BAD_REQUEST:
                raise
            log.info("%s; reading all %s", refused, table.kind)
            listing = self._listing(name, table)
            for part in listing.parts(0):
                yield part.records, listing.finished(part.records)

    def _since(self, table: Table, since: datetime) -> list[list[Filter]]:
        changed = [compared(table.modified, "GTE", since)]
        if table.kind != "meetings":
            return [changed]
        # without an outcome, a meeting is done when its time has come, which moves no stamp
        return [changed, [compared("hs_timestamp", "GTE", since), compared("hs_timestamp", "LTE", self.portal.started)]]

    def _archived(self, kind: str, since: datetime) -> Iterator[str]:
        """Ids of what went since then; what does not say when, may have."""
        told = self._archived_deals if kind == "deals" else self._archive(kind)
        return (identifier for identifier, at in told if at is None or datetime.fromisoformat(at) >= since)

    @cached_property
    def _archived_deals(self) -> tuple[tuple[str, str | None], ...]:
        """Listed once: the stage entries go with their deals."""
        return tuple(self._archive("deals"))

    def _archive(self, kind: str) -> Iterator[tuple[str, str | None]]:
        for part in self.portal.pages(kind, (), archived=True):
            yield from ((one["id"], one.get("archivedAt")) for one in part.records)

    # ── what is missing ───────────────────────────────────────────────────────────────────────────

    @cached_property
    def _gaps(self) -> Gaps:
        return Gaps(
            self.portal,
            self.types,
            self.metadata,
            self.records,
            concerned=self._concerned,
            owners=self._wants("owners"),
            rates=self._wants("rates"),
        )

    def _warnings(self, name: str) -> tuple[str, ...]:
        """What is missing in an entity; what is missing altogether is said with the first one."""
        things = () if name in self._special else self._tables(name)
        found = [warning for table in things for warning in self._gaps.properties_left_out(table)]
        return (*found, *(self._gaps.tables_left_out() if name == self._entities[0].name else ()))

    def check(self) -> Iterator[Finding]:
        """Sign in, then every object type and property a run would read."""
        what = self.portal.place
        try:
            details = self.portal.details
        except ConnectorError as error:
            yield failed(what, error)
            return
        yield Finding(what, True, f"signed in to portal {details['portalId']}, paths {self.portal.version}")
        yield from self._gaps.findings()


def _explain(error: str, description: str) -> AuthError:
    said = f"{error}: {description}" if description else error
    return AuthError(
        f"HubSpot: signing in was refused ({said})", remedy="install the OAuth app anew and put the new refresh token into auth"
    )
