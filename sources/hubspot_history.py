"""The history of a deal's stage: what HubSpot tells, what is missing in it, and where it waits until it is asked for."""

from __future__ import annotations

import gzip
import json
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from sources.hubspot_api import Portal, Record
from sources.hubspot_tables import Stage

#: of each deal: stage and instant of every change, oldest first
Histories = dict[str, list[tuple[str, str]]]
CUT_OFF: Final = frozenset({20, 45})  # rows that older portals stop at


def history(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Stage and instant, oldest first; HubSpot tells the newest first."""
    rows = (record.get("propertiesWithHistory") or {}).get("dealstage") or ()
    return [(str(row["value"]), str(row["timestamp"])) for row in reversed(rows) if row.get("value")]


def fetch(portal: Portal, ids: Sequence[str]) -> Histories:
    return {one["id"]: history(one) for one in portal.batch("deals", ids, (), history="dealstage")} if ids else {}


def entries(portal: Portal, stages: Iterable[Stage], histories: Histories) -> list[Record]:
    """The stages each deal entered, oldest first. A stage written again is no entry; a history that was cut off is completed."""
    if short := [identifier for identifier, rows in histories.items() if len(rows) in CUT_OFF]:
        histories = histories | _completed(portal, stages, {identifier: histories[identifier] for identifier in short})
    return [
        {"deal_id": identifier, "dealstage": stage, "entered_at": at}
        for identifier, rows in histories.items()
        for (before, _), (stage, at) in pairwise([("", ""), *rows])
        if stage != before
    ]


def _completed(portal: Portal, stages: Iterable[Stage], histories: Histories) -> Histories:
    """With the stages entered before the oldest row told, as far as HubSpot computes when each was last entered."""
    names = {f"hs_v2_date_entered_{stage.id.replace('-', '_')}": stage.id for stage in stages}
    found = {}
    for one in portal.batch("deals", list(histories), tuple(names)):
        rows = histories[one["id"]]
        earlier = sorted((at, names[name]) for name, at in one["properties"].items() if name in names and at and at < rows[0][1])
        found[one["id"]] = [*((stage, at) for at, stage in earlier), *rows]
    return found


class Stash:
    """Histories that came with the deals, on disk until the stage entries are asked for: the list need not be read twice."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this value
        weakref.finalize(self, self._file.close)

    def keep(self, histories: Histories) -> None:
        self._file.write(gzip.compress(f"{json.dumps(histories)}\n".encode(), compresslevel=1))

    def pages(self) -> Iterator[Histories]:
        self._file.seek(0)
        with gzip.open(self._file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield {identifier: [(stage, at) for stage, at in rows] for identifier, rows in json.loads(line).items()}
