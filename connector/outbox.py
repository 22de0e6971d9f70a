"""What a run delivers, target by target, and how that went. One target that cannot be written does not keep the others from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Final

from connector.api import EachConfig, PluginConfig, Receipt, Run, Sink, Stands, TableSpec
from connector.burst import Burst
from connector.burst_names import assign
from connector.config import AnyFlow
from connector.delivery import outputs
from connector.errors import AuthError, ConfigError, ConnectorError, LockedError, TransientError
from connector.http import Session
from connector.logs import LOG
from connector.measure import Computed
from connector.registry import plugins
from connector.state import State

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Target:
    """A sink of the flow, its place in the YAML file, and the fingerprint under which its receipts are kept.

    `nth` counts the flow's sinks with the same target. `each` names the value it is the target of, where the flow's sink has one for each.
    """

    place: str
    identity: str
    sink: Sink
    config: PluginConfig
    session: Session
    nth: int = 1
    each: Mapping[str, str] = field(default_factory=dict)

    @property
    def specs(self) -> tuple[TableSpec, ...] | None:
        return getattr(self.config, "tables", None)

    @property
    def memory(self) -> str:
        """What its sink remembers is kept under this: whatever is configured anew, the same workbook holds the same notes."""
        place = hashlib.sha256(repr(self.config.whereabouts()).encode()).hexdigest()[:16]
        return f"{self.config.type}:{place}#{self.nth}"


@dataclass(slots=True)
class Outbox:
    """One run's deliveries. `key` is what the tables depend on; `fingerprint` tells configurations apart."""

    flow: str
    config: AnyFlow
    state: State
    run_id: str
    at: datetime
    key: str
    dry_run: bool
    manifest: dict[str, Any]
    progress: Callable[[str, int, int | None], None]
    now: Callable[[], datetime]
    fingerprint: Callable[..., str]
    receipts: dict[str, Receipt] = field(default_factory=dict)
    errors: list[ConnectorError] = field(default_factory=list)

    def send(self, target: Target, computed: Computed) -> None:
        """Deliver the flow's tables."""
        self._send(target, lambda: nullcontext(computed))

    def send_each(self, target: Target, burst: Burst) -> None:
        """Deliver each value's tables to its own target.

        A target that somebody has open is left for the end, and waited for then as its sink does; once one has stayed open for all that
        time, the others are not waited for any more.
        """
        config = target.config
        assert isinstance(config, EachConfig)
        names = self._names(target, config, burst)
        self.manifest["warnings"] += [f"{target.place}: {remark}" for remark in burst.remarks]
        held = []
        for done, value in enumerate(burst.values):
            self.progress(f"each {burst.by}", done, len(burst.values))
            self.state.renew(self.run_id, self.now())
            own = config.only(names[value])
            identity = f"{own.type}:{self.fingerprint(own, burst.by, value)}"
            each = {burst.by: burst.label(value)}
            one = replace(target, place=f"{target.place} ({burst.by} {burst.label(value)!r})", identity=identity, config=own, each=each)
            opened = partial(self._tables, target, burst, value)
            if not self._send(_made(one, own.hasty()), opened, last=False):
                held.append((one, own, opened))
            if self.errors and isinstance(self.errors[-1], AuthError):
                break
        waited = False
        for one, own, opened in held:
            waited = not self._send(_made(one, own.hasty() if waited else own), opened) or waited
        self.progress(f"each {burst.by}", len(burst.values), len(burst.values))
        if burst.left_out:
            left_out = "; ".join(f"{name} ({why})" for name, why in burst.left_out.items())
            self.manifest["warnings"].append(f"{target.place}: in no target for each {burst.by}: {left_out}")

    def settle(self) -> dict[str, Receipt]:
        """What every target's sink said. Raises the gravest error, if there was one."""
        if not self.errors:
            return self.receipts
        worst = next((error for error in self.errors if not isinstance(error, TransientError)), self.errors[0])
        for other in dict.fromkeys(str(error) for error in self.errors if error is not worst):
            LOG.error("%s", other)
        raise worst

    def _send(self, target: Target, opened: Callable[[], AbstractContextManager[Computed]], *, last: bool = True) -> bool:
        """Whether the target was not found open; unless it is the `last` try, an open one is passed over."""
        run, clock = self._run(target), monotonic()
        try:
            receipt = target.sink.standing(run) if target.each and isinstance(target.sink, Stands) else None
            if receipt is None:
                with opened() as computed:
                    receipt = self._written(target, run, computed)
        except ConnectorError as error:
            held = isinstance(error, LockedError)
            if not held or last:
                self.errors.append(error)
                self._report(target, Receipt(target.place, "unchanged", why=str(error)), monotonic() - clock, "failed")
            return not held
        self.receipts[target.identity] = receipt
        self.manifest["warnings"] += [f"{receipt.target}: {warning}" for warning in receipt.warnings]
        self._report(target, receipt, monotonic() - clock, receipt.outcome)
        return True

    def _run(self, target: Target) -> Run:
        earlier = self.state.receipt(self.flow, target.identity)
        return Run(
            flow=self.flow,
            run_id=self.run_id,
            at=self.at,
            timezone=self.config.zone,
            locale=self.config.locale,
            previous=earlier[1] if earlier else None,
            fresh=earlier is None or earlier[0] != self.key,
            dry_run=self.dry_run,
            memory=self.state.memory(self.flow, target.memory),
            remember=lambda memory: self.state.remember(self.flow, target.memory, memory),
            progress=self.progress,
        )

    def _written(self, target: Target, run: Run, computed: Computed) -> Receipt:
        """Of the sources, one value's target is told the names alone: how many rows they have is of all values."""
        sources = self.manifest["sources"]
        facts = {
            "refreshed_at": self.at.astimezone(self.config.zone),
            "flow": self.flow,
            "run_id": self.run_id,
            "kpi": computed.facts,
            "sources": [{"source": one["source"], "entity": one["entity"]} for one in sources] if target.each else sources,
        }
        empty = getattr(target.sink, "takes_empty", False)
        tables = dict(outputs(computed.tables, target.specs, computed.currency, target.place, empty=empty))
        return target.sink.write(tables, replace(run, currency=computed.currency, facts=facts))

    def _report(self, target: Target, receipt: Receipt, seconds: float, outcome: str) -> None:
        report = {name: value for name, value in asdict(receipt).items() if name != "warnings"}
        each = {"each": dict(target.each)} if target.each else {}
        sink = target.identity.partition(":")[0]
        self.manifest["sinks"].append({"sink": sink, **each, **report, "outcome": outcome, "seconds": round(seconds, 3)})

    # ── one target for each value ──

    def _names(self, target: Target, config: EachConfig, burst: Burst) -> Mapping[str, str]:
        """The name of each value in its path, the same as ever; warns of values that are gone."""
        kept = f"each:{config.type}:{burst.by}:{config.pattern()}"
        known = self.state.memory(self.flow, kept).get("names", {})
        names = assign({value: burst.label(value) for value in burst.values}, known)
        if names != known and not self.dry_run:
            self.state.remember(self.flow, kept, {"names": names})
        gone = [config.target_of(names[value]) for value in sorted(known.keys() - set(burst.values))]
        if gone:
            shown = f"{', '.join(gone[:SHOWN])}{f' and {len(gone) - SHOWN} more' if len(gone) > SHOWN else ''}"
            self.manifest["warnings"].append(f"{target.place}: no {burst.by} of theirs is left, so they stay as they were: {shown}")
        return names

    @contextmanager
    def _tables(self, target: Target, burst: Burst, value: str) -> Iterator[Computed]:
        burst.divide()
        for index, spec in enumerate(target.specs or ()):
            if spec.source is not None and spec.source in burst.left_out:
                raise ConfigError(
                    f"{target.place}.tables[{index}].from: {spec.source!r} cannot go to one target for each {burst.by}: {burst.left_out[spec.source]}",
                    remedy="deliver it with a sink without `each`, or give it that column",
                )
        with burst.tables(value) as computed:
            yield computed


def _made(target: Target, config: EachConfig) -> Target:
    """The target with a sink of this configuration."""
    return replace(target, sink=plugins("sinks")[config.type].cls(config, target.session))
