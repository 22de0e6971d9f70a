"""One run of one flow: read, normalise, measure, judge, deliver, remember — in this order, and remembered only when all is done.

Killed anywhere, the next run gives the same tables as an undisturbed one: what a run reads lies in a partial snapshot until it is
whole, a sink replaces its target in one step, and watermarks, receipts and history move in one transaction at the very end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pyarrow as pa

from connector import __version__
from connector.api import EachConfig, LeavesManifest, PluginConfig, Receipt
from connector.burst import Burst, Whole
from connector.config import AnyFlow
from connector.delivery import Tables
from connector.engine import DuckDB, SqlError, single_select
from connector.errors import BusyError, ConfigError, ConnectorError, TargetError, TransientError
from connector.gate import reasons, refusal
from connector.http import Network, Session
from connector.intake import Intake, Named, Taken
from connector.logs import LOG, REDACTION
from connector.measure import Computed, compute_tables, load_tables
from connector.notify import Notices
from connector.outbox import Outbox, Target
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
    outside: Callable[[Network], Session] = Session  # how notifiers reach theirs

    @property
    def notices(self) -> Notices:
        return Notices(self.name, self.config, self.state, self.now, self.outside)


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
            nth = [other.whereabouts() for other in config.sinks[: index + 1]].count(sink.whereabouts())
            targets.append(Target(f"flows.{name}.sinks[{index}]", f"{sink.type}:{_print_of(sink)}", made, sink, session, nth))
        yield OpenFlow(name, config, settings, tuple(sources), tuple(targets), state, store, progress, now)


def _source_configs(config: AnyFlow) -> dict[str, PluginConfig]:
    """The flow's sources; `model.rates: {path: …}` is one more, read by the files source."""
    sources = dict(config.sources)
    rates = config.model.rates
    if rates and "path" in rates:
        sources[RATES] = plugins("sources")["files"].cls.Config.model_validate({"type": "files", "tables": {"rates": dict(rates)}})
    return sources


def _session(config: PluginConfig, store: Store, label: str) -> Session:
    plugins_of_all = store.folder.parent.parent / "plugins"
    return Session(config.network(), folder=plugins_of_all / store.folder.name / label, shared=plugins_of_all / "_shared")


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
        "gate": {"accepted": options.accept, "reasons": []},
        "metrics": {},
        "warnings": [],
        "notified": [],
    }

    def finish(outcome: str, code: int) -> dict[str, Any]:
        now = flow.now()
        manifest.update(outcome=outcome, exit_code=code, finished_at=now.isoformat(), seconds=round(monotonic() - clock, 3))
        return REDACTION.clean_tree(manifest)  # type: ignore[no-any-return]

    with _lease(flow, options, run_id, at, started, manifest):
        try:
            outcome = _attempt(flow, options, run_id, at, manifest, finish)
        except BaseException as raw:
            error = _translated(raw)
            code = error.exit_code if isinstance(error, ConnectorError) else 130 if isinstance(error, KeyboardInterrupt) else 1
            message = REDACTION.clean(str(error) if isinstance(error, ConnectorError) else f"{type(error).__name__}: {error}")
            failed = finish("failed", code) | {"message": message, "remedy": REDACTION.clean(getattr(error, "remedy", None) or "")}
            _record_failure(flow, run_id, code, message, failed)
            if not options.dry_run:
                _tell(flow, failed, flow.notices.failed(run_id, error, message, code))
            error.manifest = failed  # type: ignore[attr-defined]
            if error is raw:
                raise
            raise error from raw
    return outcome


@contextmanager
def _lease(flow: OpenFlow, options: Options, run_id: str, at: datetime, started: datetime, manifest: dict[str, Any]) -> Iterator[None]:
    """Hold the flow; tell of a run before that was killed, and of one that never lets go."""
    try:
        with flow.state.lease(run_id, flow.name, at, started) as killed:
            if killed:
                manifest["notified"] += flow.notices.killed(killed)
            yield
    except BusyError as error:
        if not options.dry_run:
            flow.notices.failed(run_id, error, str(error), error.exit_code)
        raise


def _owe_manifests(flow: OpenFlow, receipts: Mapping[str, Receipt]) -> None:
    """Note, before the run is done, which targets are to get its manifest: one that is killed in between is made up for by the next."""
    for target in flow.targets:
        if isinstance(target.sink, LeavesManifest) and target.sink.wants_manifest() and receipts[target.identity].outcome == "written":
            flow.state.remember(flow.name, f"{target.memory}:manifest", {"owed": True})


def _leave_manifests(flow: OpenFlow, manifest: dict[str, Any]) -> None:
    """The manifest beside every target that has been written; what keeps it from there is a warning, and the next run's to mend."""
    for target in flow.targets:
        label = f"{target.memory}:manifest"
        if not isinstance(target.sink, LeavesManifest) or not flow.state.memory(flow.name, label).get("owed"):
            continue
        try:
            target.sink.leave_manifest(f"{json.dumps(manifest, indent=2, ensure_ascii=False, default=str)}\n".encode())
        except ConnectorError as error:
            LOG.warning("%s: no manifest: %s", target.place, error)
            manifest["warnings"] = [*manifest["warnings"], REDACTION.clean(f"{target.place}: no manifest: {error}")]
            flow.state.amend(manifest["run_id"], manifest)
        else:
            flow.state.remember(flow.name, label, {"owed": False})


def _tell(flow: OpenFlow, manifest: dict[str, Any], notified: list[dict[str, Any]]) -> None:
    """Add to the manifest, also in history, who was told and who could not be."""
    if notified:
        manifest["notified"] = [*manifest["notified"], *notified]
        manifest["warnings"] = [*manifest["warnings"], *(f"notify: {one['why']}" for one in notified if "why" in one)]
        try:
            flow.state.amend(manifest["run_id"], manifest)
        except sqlite3.Error as error:
            LOG.warning("who was told could not be written into the history: %s", error)


def _attempt(
    flow: OpenFlow, options: Options, run_id: str, at: datetime, manifest: dict[str, Any], finish: Callable[[str, int], dict[str, Any]]
) -> dict[str, Any]:
    flow.store.sweep(snapshot.name for snapshot in flow.state.snapshots(flow.name))
    with _prepared(flow, options, run_id, at) as prepared:
        manifest["sources"] = [taken.report for taken in prepared.taken]
        manifest["warnings"] = list(prepared.warnings)
        manifest["tables"] = prepared.computed.report
        manifest["metrics"] = dict(prepared.computed.headline)
        manifest["gate"] = {"accepted": options.accept, "reasons": _gate(flow, prepared)}
        if manifest["gate"]["reasons"] and not options.accept:
            raise refusal(flow.name, manifest["gate"]["reasons"])
        receipts = _deliver(flow, options, run_id, at, prepared, manifest)
        changed = any(receipt.outcome != "unchanged" for receipt in receipts.values())
        if options.dry_run:
            result = finish("dry run", 0)
            flow.state.fail(run_id, flow.now(), 0, "", result, outcome="dry run")
            return result
        snapshot = prepared.snapshot or Snapshot(flow.store.commit(prepared.folder), at, prepared.tables_key)
        result = finish("ok" if changed else "unchanged", 0)
        _owe_manifests(flow, receipts)
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
    _leave_manifests(flow, result)
    _tell(flow, result, flow.notices.succeeded(result))
    _let_go(flow)
    return result


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run has in hand before it delivers. `snapshot` is the previous one when this run's tables equal it.

    `tables` is the folder of the tables, `earlier` are the snapshots that what moved in them is told from.
    """

    folder: Path
    tables: Path
    earlier: tuple[tuple[datetime, Path], ...]
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
        until = same.at if same else at
        earlier = [(one.at, flow.store.path(one.name)) for one in snapshots if one.at < until and flow.store.path(one.name).is_dir()]
        if same is None:
            compute_tables(engine, flow.config, folder, at, earlier, flow.progress)
        engine.close()  # gives back what computing took
        engine = _engine(flow, spill)
        tables = (previous if same and previous else folder) / "tables"
        computed = load_tables(engine, tables, frozenset(one.entity for one in taken if not one.seen))
        warnings = tuple(warning for one in taken for warning in one.warnings)
        yield Prepared(folder, tables, tuple(earlier), same, previous, key, tuple(taken), computed, warnings)
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


def _gate(flow: OpenFlow, prepared: Prepared) -> list[str]:
    """What speaks against publishing. The first run and one with the same tables have nothing to be compared with."""
    if prepared.snapshot is not None or prepared.previous is None:
        return []
    before = flow.state.marks(flow.name)
    steady = {one.source for one in prepared.taken if (mark := before.get((one.source, one.entity))) and mark.config == one.mark.config}
    synced = {(one.source, one.entity) for one in prepared.taken if one.incremental}
    return reasons(flow.config.gate, prepared.computed.tables.engine, prepared.previous, prepared.folder, steady, synced)


def _deliver(
    flow: OpenFlow, options: Options, run_id: str, at: datetime, prepared: Prepared, manifest: dict[str, Any]
) -> dict[str, Receipt]:
    """Every target in turn. Raises the gravest error at the end."""
    box = Outbox(
        flow=flow.name,
        config=flow.config,
        state=flow.state,
        run_id=run_id,
        at=at,
        key=prepared.tables_key,
        dry_run=options.dry_run,
        manifest=manifest,
        progress=flow.progress,
        now=flow.now,
        fingerprint=_print_of,
    )
    for target in flow.targets:
        each = target.config.each if isinstance(target.config, EachConfig) else None
        if each is None:
            box.send(target, prepared.computed)
            continue
        whole = Whole(prepared.folder, prepared.tables, prepared.earlier, at)
        burst = Burst(flow.config, each, whole, prepared.folder.with_suffix(".spill") / "each", partial(_engine, flow))
        try:
            box.send_each(target, burst)
        finally:
            burst.close()
    return box.settle()


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
