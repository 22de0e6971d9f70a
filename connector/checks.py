"""The commands that only try and sign in: what `connector check` looks at, and who `connector login` asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from connector.api import Finding, PluginConfig, SignsIn, Sink, Source
from connector.definitions import TABLES
from connector.errors import ConfigError, ConnectorError, nearest
from connector.flow import OpenFlow
from connector.intake import unreadable


def check_flow(flow: OpenFlow) -> Iterator[Finding]:
    """Try everything the flow names, read-only."""
    known, all_known = set(TABLES), True
    for named in flow.sources:
        fine = True
        for finding in _findings(f"source {named.name}", named.source.check):
            fine = fine and finding.ok
            yield finding
        try:
            entities = named.source.entities()
        except ConnectorError as error:
            all_known = False
            if fine:  # else what was found says why
                yield Finding(f"source {named.name}", ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)
            continue
        known.update(entity.name for entity in entities)
        for entity in entities:
            for sentence in unreadable(named.name, entity, flow.config.model.fields):
                remedy = "give the connected user read permission on it, or correct the name"
                yield Finding(f"source {named.name}", ok=False, detail=sentence, remedy=remedy, exit_code=4)
    for notifier in flow.config.notify:
        yield from _findings(f"notify: {notifier.type}", partial(flow.notices.check, notifier))
    for index, target in enumerate(flow.targets):
        for spec in target.specs or ():
            if all_known and spec.source is not None and spec.source not in known:
                detail = f"no table {spec.source!r}; {nearest(spec.source, sorted(known))}"
                yield Finding(f"{target.place}.tables", ok=False, detail=detail, remedy="correct `from`", exit_code=2)
        yield from _findings(f"sink {index + 1} ({target.identity.partition(':')[0]})", target.sink.check)


def drive_of(sink: PluginConfig) -> str | None:
    """What `connector login` may call the drive of a sink: its type."""
    return getattr(getattr(sink, "drive", None), "type", None)


def login_flow(flow: OpenFlow, prompt: Callable[[str], None], only: str | None = None) -> Iterator[str]:
    """Sign in whoever a plugin wants signed in; yields who it was. Raises ConfigError where no plugin does.

    `only` names a source, or a drive by its type; every one of the flow unless given.
    """
    plugs: list[tuple[str | None, Source | Sink]] = [(named.name, named.source) for named in flow.sources]
    plugs += [(drive_of(target.config), target.sink) for target in flow.targets]
    wanting = [plug for name, plug in plugs if only in (None, name) and isinstance(plug, SignsIn) and plug.wants_login()]
    if not wanting:
        what = f"{only} does not sign in" if only else "nothing in this flow signs in"
        raise ConfigError(f"{flow.name}: {what} as a person", remedy="set `device_code: true` on the drive or source that should")
    for plug in wanting:
        yield plug.login(prompt)


def _findings(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        for finding in check():
            yield replace(finding, what=f"{what}: {finding.what}")
    except ConnectorError as error:
        yield Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)
