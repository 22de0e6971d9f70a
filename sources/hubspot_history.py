"""The history of a deal's stage: what HubSpot tells, what is missing in it, and where it waits until it is asked for."""

from __future__ import annotations

import gzip
import json
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from sources.hubspot_api import Portal, Record
from sources.hubspot_tables import Stage, entered

CUT_OFF: Final = frozenset({20, 45})  # rows that older portals stop at


@dataclass(frozen=True, slots=True)
class History:
    """Stage and instant of every change of a deal's stage, oldest first, and the pipeline the deal is in now."""

    pipeline: str | None
    rows: Sequence[tuple[str, str]]


Histories = Mapping[str, History]  # of each deal


def rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Oldest first; HubSpot tells the newest first."""
    told = (record.get("propertiesWithHistory") or {}).get("dealstage") or ()
    return [(str(row["value"]), str(row["timestamp"])) for row in reversed(told) if row.get("value")]


def of(records: Iterable[Mapping[str, Any]]) -> Histories:
    """The histories in records as HubSpot gives them."""
    return {one["id"]: History(one["properties"].get("pipeline"), rows(one)) for one in records}


def fetch(portal: Portal, ids: Sequence[str]) -> Histories:
    return of(portal.batch("deals", ids, ("pipeline",), history="dealstage")) if ids else {}


def entries(portal: Portal, stages: Iterable[Stage], known: Iterable[str], histories: Histories) -> list[Record]:
    """The stages each deal entered, oldest first. A stage written again is no entry; a history that was cut off is completed.

    `known` are the names of the properties of deals.
    """
    if short := [identifier for identifier, history in histories.items() if len(history.rows) in CUT_OFF]:
        names = {name: stage.id for stage in stages for name in entered(stage.id, known)}
        histories = {**histories, **_completed(portal, names, {identifier: histories[identifier] for identifier in short})}
    return [
        {"deal_id": identifier, "pipeline": history.pipeline, "dealstage": stage, "entered_at": at}
        for identifier, history in histories.items()
        for (before, _), (stage, at) in pairwise([("", ""), *history.rows])
        if stage != before
    ]


def _completed(portal: Portal, names: Mapping[str, str], histories: Histories) -> Histories:
    """With the stages entered before the oldest row told, as far as HubSpot computes when each was last entered."""
    found = {}
    for one in portal.batch("deals", list(histories), tuple(names)):
        history = histories[one["id"]]
        first = history.rows[0][1]
        earlier = sorted((at, names[name]) for name, at in one["properties"].items() if name in names and at and at < first)
        found[one["id"]] = replace(history, rows=[*((stage, at) for at, stage in earlier), *history.rows])
    return found


class Stash:
    """Histories that came with the deals, on disk until the stage entries are asked for: the list need not be read twice."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this value
        weakref.finalize(self, self._file.close)

    def keep(self, histories: Histories) -> None:
        told = {identifier: [history.pipeline, history.rows] for identifier, history in histories.items()}
        self._file.write(gzip.compress(f"{json.dumps(told)}\n".encode(), compresslevel=1))

    def pages(self) -> Iterator[Histories]:
        self._file.seek(0)
        with gzip.open(self._file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield {identifier: History(pipeline, told) for identifier, (pipeline, told) in json.loads(line).items()}
