"""What a source, a sink and a drive are. Plugins import `api`, `http`, `pages`, `auth`, `model`, `errors`; nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self, TypeVar, runtime_checkable
from zoneinfo import ZoneInfo

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from connector.errors import nearest
from connector.http import Network, Session
from connector.model import DIMENSIONS, ENTITIES

Record = Mapping[str, Any]
Names = TypeVar("Names", Mapping[str, tuple[str, ...]], tuple[str, ...])
UTC: Final = ZoneInfo("UTC")


def _forget(memory: Mapping[str, Any]) -> None:
    """Memory that nobody keeps."""


def _quiet(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


# ── configuration ─────────────────────────────────────────────────────────────────────────────────


class Model(BaseModel):
    """A frozen value read from YAML. Unknown keys are errors; inputs never show in messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)
    #: the keys that tell this place from another; every key unless named
    placed: ClassVar[tuple[str, ...]] = ()

    def whereabouts(self) -> dict[str, Any]:
        """Where it is, whatever else is said of it: what is remembered of a target is remembered under this."""
        named = {name: getattr(self, name) for name in self.placed or type(self).model_fields}
        return {name: value.whereabouts() if isinstance(value, Model) else value for name, value in named.items()}


def _located(value: str, info: ValidationInfo) -> str:
    if "://" in value or Path(value).is_absolute():
        return value
    folder = (info.context or {}).get("folder")
    return str(Path(folder, value)) if folder else value


#: A path, a glob or a URL. A relative path is relative to the YAML file it stands in.
Location = Annotated[str, AfterValidator(_located)]


def _canonical(value: Names) -> Names:
    for name in value:
        if name not in ENTITIES:
            raise ValueError(f"no table {name!r}; {nearest(name, ENTITIES)}")
    return value


#: Fields to read beside those a CRM source reads anyway, by canonical table.
FurtherFields = Annotated[Mapping[str, tuple[str, ...]], AfterValidator(_canonical)]
#: The canonical tables to read of what a CRM source can give; empty means all.
WantedTables = Annotated[tuple[str, ...], AfterValidator(_canonical)]


class PluginConfig(Model):
    """What every plugin's configuration has: the `type` that names it."""

    type: str

    def network(self) -> Network:
        """How this plugin reaches the network; plugins that do override it."""
        return Network()


class NetworkConfig(PluginConfig):
    """For sources and drives behind HTTP: gateways, private endpoints, the sandbox."""

    base_url: str | None = Field(None, description="Address to use instead of the service's own, e.g. a gateway or the sandbox.")
    timeout: float = Field(120, gt=0, description="Seconds to wait for an answer.")
    max_wait: float = Field(300, ge=0, description="Longest wait, in seconds, for a server that asks for patience.")
    proxy: str | None = Field(None, description="Proxy address, e.g. http://proxy.example:8080.")
    ca_bundle: Location | None = Field(None, description="File with the certificate authorities to trust.")

    def network(self) -> Network:
        return Network(timeout=self.timeout, max_wait=self.max_wait, proxy=self.proxy, ca_bundle=self.ca_bundle)


def _dimension(name: str) -> str:
    if name not in DIMENSIONS:
        raise ValueError(f"deals cannot be divided by {name!r}; {nearest(name, DIMENSIONS)}")
    return name


class Each(Model):
    """One target for each value of a column of `deals`, with the rows of that value only."""

    by: Annotated[str, AfterValidator(_dimension)] = Field(description=f"Column of deals: {', '.join(DIMENSIONS)}.")
    empty: str | None = Field(
        None, min_length=1, description="Name of the target that rows without a value go to; without it they go to none."
    )


def _each(given: Any) -> Any:
    return {"by": given} if isinstance(given, str) else given


class EachConfig(PluginConfig):
    """For sinks that can have one target for each value: `each: owner`, and `{owner}` in the key that names the target."""

    templated: ClassVar[str]
    manifest: bool = Field(False, description="Put the manifest of the run that wrote it beside the target, as a JSON file.")
    each: Annotated[Each | None, BeforeValidator(_each, json_schema_input_type=str | Each | None)] = Field(
        None,
        description="One target for each value of a dimension, e.g. owner, with only its rows; the dimension in braces stands in its path.",
    )

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        if self.each is None:
            return self
        if self.manifest:
            raise ValueError("manifest tells of the whole flow, `each` is for people who may not see the whole: leave one of them out")
        pattern, by = self.pattern(), self.each.by
        found = re.findall(r"\{([^{}]*)\}", pattern)
        if wrong := [name for name in found if name != by]:
            raise ValueError(f"{self.templated}: {{{wrong[0]}}} cannot be filled in with `each: {by}`; write {{{by}}}")
        if not found:
            raise ValueError(f"{self.templated}: `each: {by}` needs {{{by}}} in it, so that every {by} has a file of its own")
        return self

    def pattern(self) -> str:
        return str(getattr(self, self.templated))

    def target_of(self, name: str) -> str:
        """The target of the value that goes by this name."""
        return self.pattern().replace(f"{{{self.each.by}}}", name) if self.each else self.pattern()

    def only(self, name: str) -> Self:
        """The configuration of that value's target alone."""
        return self.model_copy(update={self.templated: self.target_of(name), "each": None})

    def hasty(self) -> Self:
        """The same without waiting for a target that somebody has open."""
        return self


class TableSpec(Model):
    """Which table goes to a sink, and what of it. Sinks extend it with where it goes."""

    source: str | None = Field(None, alias="from", description="Table of the flow: canonical, metric or plain.")
    sql: str | None = Field(None, description="A select over every table of the flow, instead of `from`.")
    columns: tuple[str, ...] | Mapping[str, str] | None = Field(
        None, description="Columns in order: a list of names, or a mapping name → heading."
    )
    where: str | None = Field(None, description="SQL condition on the rows.")
    sort: str | tuple[str, ...] | None = Field(None, description="Columns to sort by; `-amount` or `amount desc` descends.")
    limit: int | None = Field(None, ge=0, description="At most so many rows.")
    key: str | tuple[str, ...] | None = Field(None, description="Column(s) that name a row; the canonical id unless given.")


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Entity:
    """One table a source can give, and how its records become ours.

    `fields` maps canonical columns to a source column or a SQL expression over source columns;
    empty means: by name for a canonical table, everything as it is for a plain one.
    `key` names the *source* columns that identify a record when pages are merged into the previous snapshot;
    empty means the canonical key. `where` is a SQL condition over source columns.
    `place` names the origin in messages ("sales_pipeline.csv", "Opportunity").
    `text` says that values are text as people wrote it, to be proven and read by `locale` and `dates`;
    otherwise they are typed by an API (numbers, ISO 8601, booleans). `timezone` is where date-times without a zone are; the flow's
    unless given. `reads` are the source columns that rows are read with, where a permission or an admin may change them: another set makes the
    next read a full one, because rows that did not change would lack them.
    """

    name: str
    place: str
    fields: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    incremental: bool = False
    text: bool = False
    dates: str | Mapping[str, str] | None = None
    locale: str | None = None
    status: Mapping[str, Sequence[str]] = field(default_factory=dict)
    where: str | None = None
    on_bad_value: Literal["error", "null"] = "error"
    timezone: str | None = None
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Since:
    """Where the last complete read ended. `watermark` is the source's own text, None means: read everything."""

    watermark: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a read, in the source's own words.

    `records` are plain mappings, or an Arrow batch where the source has one. `removed` are ids (the entity's key, as text)
    known to be deleted or merged away. `watermark` is safe to resume from once this page is stored.
    `unchanged` says that the whole entity is as it was at `Since.watermark`; `full` that this read is everything, although less
    was asked for: the source no longer knows what was removed since. `total` is what the source announced,
    for progress and to prove that nothing was cut off; `expected` is about how many there will be, for progress alone. `first_row` is the number a person would give the first record
    (2 in a CSV file with a header), `place` the file it stands in where an entity has several.
    """

    records: Sequence[Record] | pa.RecordBatch = ()
    removed: tuple[str, ...] = ()
    watermark: str | None = None
    unchanged: bool = False
    full: bool = False
    total: int | None = None
    expected: int | None = None
    first_row: int | None = None
    place: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `connector check`: what was looked at, how it stands, and what to do if it does not."""

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    exit_code: int = 0


class Source(Protocol):
    Config: ClassVar[type[PluginConfig]]

    def __init__(self, config: Any, session: Session) -> None: ...
    def check(self) -> Iterator[Finding]: ...
    def entities(self) -> tuple[Entity, ...]: ...
    def read(self, entity: Entity, since: Since) -> Iterator[Page]: ...


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class ArrowStream(Protocol):
    """Anything Arrow-shaped: pa.Table, RecordBatchReader, DuckDB relation, polars frame, Ibis table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


@dataclass(frozen=True, slots=True)
class HiddenKey:
    """A key that is not among the columns of an output, or not all of it. `open` gives the output's rows, in its order, with the
    key's missing columns behind them; `schema` is the whole key.
    """

    schema: pa.Schema
    open: Callable[[], pa.RecordBatchReader]


@dataclass(frozen=True, slots=True)
class Output:
    """A table on its way to a sink. Every `__arrow_c_stream__` runs it afresh, so a sink may read it again after a conflict.

    The schema's field metadata carries what a column means: `unit` (money, percent, days, count, ratio, id, url, text),
    `currency` (of a money column), `label` (heading for people) and `description`. `key` names columns of the schema;
    where the rows have a key that is not delivered with them, it is empty and `hidden` has it.
    """

    name: str
    schema: pa.Schema
    rows: int
    open: Callable[[], pa.RecordBatchReader]
    spec: TableSpec | None = None
    key: tuple[str, ...] = ()
    title: str = ""
    hidden: HiddenKey | None = None

    def reader(self) -> pa.RecordBatchReader:
        return self.open()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.open().__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sink did, as history and manifest keep it."""

    target: str
    outcome: Literal["written", "unchanged", "would write"]
    rows: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    bytes: int = 0
    version_before: str | None = None
    version_after: str | None = None
    parts_changed: tuple[str, ...] = ()
    parts_untouched: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What a sink may know of the run: for About sheets, placeholders and the decision to leave the target alone.

    `previous` is this sink's receipt of the last run that delivered. `fresh` is False when the tables are known to equal
    those delivered then; a sink whose target still stands at `previous.version_after` then has nothing to do.
    `memory` is the sink's own note to itself (JSON). `remember` replaces it, durably and at once: a sink calls it *before* it takes
    something out of a target that it may have to bring back, so that a killed run loses nothing.
    """

    flow: str
    run_id: str
    at: datetime
    timezone: ZoneInfo = UTC
    locale: str = "en"
    currency: str | None = None
    previous: Receipt | None = None
    fresh: bool = True
    dry_run: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    remember: Callable[[Mapping[str, Any]], None] = field(default=_forget)
    progress: Callable[[str, int, int | None], None] = field(default=_quiet)


class Sink(Protocol):
    Config: ClassVar[type[PluginConfig]]

    def __init__(self, config: Any, session: Session) -> None: ...
    def check(self) -> Iterator[Finding]: ...
    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt: ...


@runtime_checkable
class Stands(Protocol):
    """A sink that can tell, before any table is computed, that its target has nothing to gain from this run."""

    def standing(self, run: Run) -> Receipt | None: ...


@runtime_checkable
class LeavesManifest(Protocol):
    """A sink that, when its configuration asks for it, puts the manifest (JSON) of the run that wrote its target beside it."""

    def wants_manifest(self) -> bool: ...
    def leave_manifest(self, manifest: bytes) -> None: ...


@runtime_checkable
class SignsIn(Protocol):
    """A source or sink that may act for a person: `connector login` asks it to. `login` returns who signed in."""

    def wants_login(self) -> bool: ...
    def login(self, prompt: Callable[[str], None]) -> str: ...


class Drive(Protocol):
    """Where a workbook lives; files pass through a scratch folder, so that memory does not grow with them.

    `fetch` copies the target to `into` and returns its version, or None when there is no such file yet.
    `store` replaces the target in one step and returns the new version. With an `if_version` that no longer holds
    (None: there must be no file) it raises ConflictError and changes nothing; a target people hold open raises LockedError.
    """

    def name(self) -> str: ...
    def check(self) -> Iterator[Finding]: ...
    def version(self) -> str | None: ...
    def fetch(self, into: Path) -> str | None: ...
    def store(self, file: Path, if_version: str | None) -> str: ...
