"""One run of one flow: read, normalise, measure, judge, deliver, remember — in this order, and remembered only when all is done.

Killed anywhere, the next run gives the same tables as an undisturbed one: what a run reads lies in a partial snapshot until it is
whole, a sink replaces its target in one step, and watermarks, receipts and history move in one transaction at the very end.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pyarrow as pa

from connector import __version__
from connector.api import Finding, PluginConfig, Receipt, Run, SignsIn, Sink, Source, TableSpec
from connector.config import AnyFlow
from connector.definitions import TABLES
from connector.delivery import Tables, outputs
from connector.engine import DuckDB, SqlError, single_select
from connector.errors import ConfigError, ConnectorError, TargetError, TransientError, nearest
from connector.gate import judge, totals
from connector.http import Session
from connector.intake import Intake, Named, Taken
from connector.logs import LOG, REDACTION
from connector.measure import Computed, compute_tables, load_tables
from connector.registry import plugins
from connector.settings import Settings
from connector.state import Snapshot, State
from connector.store import Store, expired

Progress = Callable[[str, int, int | None], None]
RATES: Final = "model.rates"


def _silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Options:
    """What `connector run` may be told."""

    at: datetime | None = None
    full: bool = False
    dry_run: bool = False
    accept: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A sink of the flow, its place in the YAML file, and the fingerprint under which its receipts are kept."""

    place: str
    identity: str
    sink: Sink
    specs: tuple[TableSpec, ...] | None


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """A flow with its plugins made and its state open."""

    name: str
    config: AnyFlow
    settings: Settings
    sources: tuple[Named, ...]
    targets: tuple[Target, ...]
    state: State
    store: Store
    progress: Progress
    now: Callable[[], datetime]


@contextmanager
def open_flow(
    name: str, config: AnyFlow, settings: Settings, progress: Progress = _silent, now: Callable[[], datetime] = _clock
) -> Iterator[OpenFlow]:
    """Make the flow's plugins and open its state. Raises ConfigError where the data folder or a plugin cannot be used."""
    store = Store(settings.data, name)
    with ExitStack() as stack:
        state = State(settings.data)
        stack.callback(state.close)
        sources = []
        for label, source in _source_configs(config).items():
            session = stack.enter_context(_session(source, store, label))
            sources.append(Named(label, plugins("sources")[source.type].cls(source, session), session, _print_of(source)))
        targets = []
        for index, sink in enumerate(config.sinks):
            session = stack.enter_context(_session(sink, store, f"sink-{index}"))
            made = plugins("sinks")[sink.type].cls(sink, session)
            targets.append(Target(f"flows.{name}.sinks[{index}]", f"{sink.type}:{_print_of(sink)}", made, getattr(sink, "tables", None)))
        yield OpenFlow(name, config, settings, tuple(sources), tuple(targets), state, store, progress, now)


def _source_configs(config: AnyFlow) -> dict[str, PluginConfig]:
    """The flow's sources; `model.rates: {path: …}` is one more, read by the files source."""
    sources = dict(config.sources)
    rates = config.model.rates
    if rates and "path" in rates:
        sources[RATES] = plugins("sources")["files"].cls.Config.model_validate({"type": "files", "tables": {"rates": dict(rates)}})
    return sources


def _session(config: PluginConfig, store: Store, label: str) -> Session:
    return Session(config.network(), folder=store.folder.parent.parent / "plugins" / store.folder.name / label)


def _print_of(config: PluginConfig, *more: object) -> str:
    """A fingerprint of configuration; secrets are masked in it, so that a renewed one changes nothing."""
    return hashlib.sha256(f"{config.model_dump_json()}{more!r}".encode()).hexdigest()[:16]


# ── run ───────────────────────────────────────────────────────────────────────────────────────────


def run_flow(flow: OpenFlow, options: Options) -> dict[str, Any]:
    """Refresh every target of the flow once; returns the run manifest.

    Raises a ConnectorError with the manifest as its `manifest` attribute; nothing is remembered then except that it failed.
    """
    started, clock = flow.now(), monotonic()
    at = options.at or started
    run_id = f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    manifest: dict[str, Any] = {
        "flow": flow.name,
        "run_id": run_id,
        "at": at.isoformat(),
        "started_at": started.isoformat(),
        "outcome": "running",
        "exit_code": None,
        "version": __version__,
        "sources": [],
        "tables": [],
        "sinks": [],
        "metrics": {},
        "warnings": [],
    }

    def finish(outcome: str, code: int) -> dict[str, Any]:
        now = flow.now()
        manifest.update(outcome=outcome, exit_code=code, finished_at=now.isoformat(), seconds=round(monotonic() - clock, 3))
        return REDACTION.clean_tree(manifest)  # type: ignore[no-any-return]

    with flow.state.lease(run_id, flow.name, at, started):
        try:
            outcome = _attempt(flow, options, run_id, at, manifest, finish)
        except BaseException as raw:
            error = _translated(raw)
            code = error.exit_code if isinstance(error, ConnectorError) else 130 if isinstance(error, KeyboardInterrupt) else 1
            message = REDACTION.clean(str(error) if isinstance(error, ConnectorError) else f"{type(error).__name__}: {error}")
            failed = finish("failed", code) | {"message": message}
            _record_failure(flow, run_id, code, message, failed)
            error.manifest = failed  # type: ignore[attr-defined]
            if error is raw:
                raise
            raise error from raw
    return outcome


def _attempt(
    flow: OpenFlow, options: Options, run_id: str, at: datetime, manifest: dict[str, Any], finish: Callable[[str, int], dict[str, Any]]
) -> dict[str, Any]:
    flow.store.sweep(snapshot.name for snapshot in flow.state.snapshots(flow.name))
    with _prepared(flow, options, run_id, at) as prepared:
        manifest["sources"] = [taken.report for taken in prepared.taken]
        manifest["warnings"] = list(prepared.warnings)
        manifest["tables"] = prepared.computed.report
        manifest["metrics"] = dict(prepared.computed.headline)
        if not options.accept:
            _gate(flow, prepared)
        receipts = _deliver(flow, options, run_id, at, prepared, manifest)
        changed = any(receipt.outcome != "unchanged" for receipt in receipts.values())
        if options.dry_run:
            result = finish("dry run", 0)
            flow.state.fail(run_id, flow.now(), 0, "", result, outcome="dry run")
            return result
        snapshot = prepared.snapshot or Snapshot(flow.store.commit(prepared.folder), at, prepared.tables_key)
        result = finish("ok" if changed else "unchanged", 0)
        flow.state.succeed(
            run_id,
            flow.name,
            flow.now(),
            outcome=result["outcome"],
            manifest=result,
            marks={(taken.source, taken.entity): taken.mark for taken in prepared.taken},
            receipts=receipts,
            snapshot=snapshot,
        )
    _let_go(flow)
    return result


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run has in hand before it delivers. `snapshot` is the previous one when this run's tables equal it."""

    folder: Path
    snapshot: Snapshot | None
    previous: Path | None
    tables_key: str
    taken: tuple[Taken, ...]
    computed: Computed
    warnings: tuple[str, ...]


@contextmanager
def _prepared(flow: OpenFlow, options: Options, run_id: str, at: datetime, *, preview: bool = False) -> Iterator[Prepared]:
    """Read every entity and compute every table into a partial snapshot, which goes away unless it is committed."""
    snapshots = flow.state.snapshots(flow.name)
    last = snapshots[-1] if snapshots else None
    previous = flow.store.path(last.name) if last and flow.store.path(last.name).is_dir() else None
    folder = flow.store.begin(at, run_id, preview=preview)
    spill = folder.with_suffix(".spill")
    engine = _engine(flow, spill)
    try:
        intake = Intake(
            engine=engine,
            folder=folder,
            name=folder.name,
            previous=flow.state.marks(flow.name),
            previous_folder=previous,
            zone=flow.config.zone,
            fields=flow.config.model.fields,
            full=options.full,
            full_refresh=timedelta(days=flow.config.full_refresh_days),
            progress=flow.progress,
            now=flow.now,
        )
        taken = []
        for named in flow.sources:
            for entity in named.source.entities():
                taken.append(intake.take(named, entity))
                if not preview:
                    flow.state.renew(run_id, flow.now())
        key = _tables_key(flow, taken, at)
        same = last if last and previous and last.tables_key == key else None
        if same is None:
            earlier = [(one.at, flow.store.path(one.name)) for one in snapshots if one.at < at and flow.store.path(one.name).is_dir()]
            compute_tables(engine, flow.config, folder, at, earlier, flow.progress)
        engine.close()  # gives back what computing took
        engine = _engine(flow, spill)
        computed = load_tables(engine, (previous if same and previous else folder) / "tables")
        warnings = tuple(warning for one in taken for warning in one.warnings)
        yield Prepared(folder, same, previous, key, tuple(taken), computed, warnings)
    finally:
        engine.close()
        flow.store.discard(folder)
        flow.store.discard(spill)


def _engine(flow: OpenFlow, spill: Path | None = None) -> DuckDB:
    return DuckDB(folders=[flow.settings.data], scratch=spill, memory=flow.settings.memory, threads=flow.settings.threads)


def _tables_key(flow: OpenFlow, taken: list[Taken], at: datetime) -> str:
    """What the tables depend on. The same key gives the same tables."""
    content = sorted((one.source, one.entity, one.mark.content) for one in taken)
    day = at.astimezone(flow.config.zone).date()
    parts = (__version__, content, flow.config.model.model_dump_json(), flow.config.zone.key, flow.config.locale, day.isoformat())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _gate(flow: OpenFlow, prepared: Prepared) -> None:
    before = prepared.previous / "tables" / "deals.parquet" if prepared.previous else None
    if prepared.snapshot is None and before is not None and before.is_file():
        engine = prepared.computed.tables.engine
        judge(flow.config.gate, totals(engine, before), totals(engine, "deals"))


def _deliver(
    flow: OpenFlow, options: Options, run_id: str, at: datetime, prepared: Prepared, manifest: dict[str, Any]
) -> dict[str, Receipt]:
    """Every target in turn; one that cannot be written does not keep the others from it. Raises the gravest error at the end."""
    receipts: dict[str, Receipt] = {}
    errors: list[ConnectorError] = []
    for target in flow.targets:
        earlier = flow.state.receipt(flow.name, target.identity)
        facts = {"refreshed_at": at.astimezone(flow.config.zone), "flow": flow.name, "run_id": run_id, "kpi": prepared.computed.facts}
        facts["sources"] = manifest["sources"]
        run = Run(
            flow=flow.name,
            run_id=run_id,
            at=at,
            timezone=flow.config.zone,
            locale=flow.config.locale,
            currency=prepared.computed.currency,
            previous=earlier[1] if earlier else None,
            fresh=earlier is None or earlier[0] != prepared.tables_key,
            dry_run=options.dry_run,
            facts=facts,
            memory=flow.state.memory(flow.name, target.identity),
            remember=lambda memory, target=target: flow.state.remember(flow.name, target.identity, memory),  # type: ignore[misc]
            progress=flow.progress,
        )
        clock = monotonic()
        try:
            empty = getattr(target.sink, "takes_empty", False)
            tables = dict(outputs(prepared.computed.tables, target.specs, prepared.computed.currency, target.place, empty=empty))
            receipt = target.sink.write(tables, run)
        except ConnectorError as error:
            errors.append(error)
            failed = Receipt(target.place, "unchanged", why=str(error))
            manifest["sinks"].append(_sink_report(target, failed, monotonic() - clock) | {"outcome": "failed"})
            continue
        receipts[target.identity] = receipt
        manifest["warnings"] += [f"{receipt.target}: {warning}" for warning in receipt.warnings]
        manifest["sinks"].append(_sink_report(target, receipt, monotonic() - clock))
    if errors:
        for other in errors[1:]:
            LOG.error("%s", other)
        raise next((error for error in errors if not isinstance(error, TransientError)), errors[0])
    return receipts


def _sink_report(target: Target, receipt: Receipt, seconds: float) -> dict[str, Any]:
    report = {name: value for name, value in asdict(receipt).items() if name != "warnings"}
    return {"sink": target.identity.partition(":")[0], **report, "seconds": round(seconds, 3)}


def _translated(error: BaseException) -> BaseException:
    """A full disk under the state or the snapshots is no bug."""
    full = isinstance(error, OSError) and (error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error))
    if full or (isinstance(error, sqlite3.OperationalError) and "full" in str(error)):
        return TargetError(
            "no space left on the disk of the data folder or of temporary files", remedy="free space, or name another folder with --data"
        )
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return TransientError("the state database is busy", remedy="run again")
    return error


def _record_failure(flow: OpenFlow, run_id: str, code: int, message: str, manifest: Mapping[str, Any]) -> None:
    try:
        flow.state.fail(run_id, flow.now(), code, message, manifest)
    except sqlite3.Error as error:  # the disk is full, say: the failure itself is reported all the same
        LOG.warning("the failure could not be written into the history: %s", error)


def _let_go(flow: OpenFlow) -> None:
    """Let the retention ladder's expired snapshots go."""
    names = [(snapshot.name, snapshot.at) for snapshot in flow.state.snapshots(flow.name)]
    gone = expired(names, flow.config.retention, flow.now())
    if gone:
        flow.state.forget(flow.name, gone)
        flow.store.remove(gone)


# ── the other commands ────────────────────────────────────────────────────────────────────────────


@contextmanager
def preview_flow(flow: OpenFlow, options: Options) -> Iterator[Tables]:
    """Read and compute as a run would; nothing is delivered and nothing remembered."""
    at = options.at or flow.now()
    with _prepared(flow, options, f"preview-{secrets.token_hex(3)}", at, preview=True) as prepared:
        for warning in prepared.warnings:
            LOG.warning("%s", warning)
        yield prepared.computed.tables


@contextmanager
def query_flow(flow: OpenFlow, sql: str, limit: int | None) -> Iterator[pa.RecordBatchReader]:
    """SQL over the last snapshot. Raises ConfigError where there is none or the SQL does not fit."""
    snapshots = flow.state.snapshots(flow.name)
    if not snapshots or not flow.store.path(snapshots[-1].name).is_dir():
        raise ConfigError(f"{flow.name}: there is no snapshot yet", remedy=f"run it first: connector run {flow.name}")
    engine = _engine(flow)
    try:
        computed = load_tables(engine, flow.store.path(snapshots[-1].name) / "tables")
        try:
            single_select(sql)
            text = sql.strip().rstrip(";")
            engine.store("_query", text if limit is None else f"select * from ({text}\n) limit {limit}")
        except SqlError as error:
            raise ConfigError(f"the query does not fit: {error}", remedy=f"tables: {', '.join(computed.tables.info)}") from error
        yield engine.stream("select * from _query")
    finally:
        engine.close()


def check_flow(flow: OpenFlow) -> Iterator[Finding]:
    """Try everything the flow names, read-only."""
    for named in flow.sources:
        yield from _findings(f"source {named.name}", named.source.check)
    known = {*TABLES, *(entity.name for named in flow.sources for entity in named.source.entities())}
    for index, target in enumerate(flow.targets):
        for spec in target.specs or ():
            if spec.source is not None and spec.source not in known:
                detail = f"no table {spec.source!r}; {nearest(spec.source, sorted(known))}"
                yield Finding(f"{target.place}.tables", ok=False, detail=detail, remedy="correct `from`", exit_code=2)
        yield from _findings(f"sink {index + 1} ({target.identity.partition(':')[0]})", target.sink.check)


def login_flow(flow: OpenFlow, prompt: Callable[[str], None]) -> Iterator[str]:
    """Sign in whoever a plugin wants signed in; yields who it was. Raises ConfigError where no plugin does."""
    plugs: list[Source | Sink] = [*(named.source for named in flow.sources), *(target.sink for target in flow.targets)]
    wanting = [plug for plug in plugs if isinstance(plug, SignsIn) and plug.wants_login()]
    if not wanting:
        raise ConfigError(
            f"{flow.name}: nothing in this flow signs in as a person", remedy="set `device_code: true` on the drive or source that should"
        )
    for plug in wanting:
        yield plug.login(prompt)


def _findings(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        for finding in check():
            yield replace(finding, what=f"{what}: {finding.what}")
    except ConnectorError as error:
        yield Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)
