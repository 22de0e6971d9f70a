"""Long lists of a portal: read by ascending id, several id ranges at a time, each range in pieces that stay small."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import pairwise
from typing import Final

from connector.pages import Part, side_by_side
from connector.resume import PlaceLostError
from sources.hubspot_api import Portal, Record
from sources.hubspot_errors import Refused

log = logging.getLogger(__name__)

Range = tuple[int, int | None]  # ids beyond the first, up to and with the second
EVERYTHING: Final[Range] = (0, None)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is read of an object type: `parts` are its pages from beyond an id, `size` records each; `finished` makes records of ours."""

    kind: str
    size: int
    parts: Callable[[int], Iterator[Part]]
    finished: Callable[[list[Record]], list[Record]]


class Lists:
    """`pages` is how many pages a range has, about; `workers` read at the same time. `about` is how many objects of a type there seem to be."""

    def __init__(self, portal: Portal, *, pages: int, workers: int) -> None:
        self._portal = portal
        self._pages = pages
        self._workers = workers
        self.about: dict[str, int] = {}
        self._unsearchable: set[str] = set()
        self._any_cursor: bool | None = None

    def pieces(self, listing: Listing, ranges: list[Range]) -> Iterator[tuple[list[Record], list[Range]]]:
        """Records piece by piece, with the ranges still to come. The first page of a list tells whether there is more.

        Raises PlaceLostError when ranges kept from an earlier run are not accepted any more.
        """
        if ranges != [EVERYTHING]:
            try:
                yield from self._ranges(listing, ranges)
            except Refused as refused:
                if refused.status != HTTPStatus.BAD_REQUEST:
                    raise
                raise PlaceLostError(str(refused), remedy=refused.remedy) from refused
            return
        part = next(listing.parts(0))
        beyond = int(part.records[-1]["id"]) if part.records else 0
        ranges = self._cut(listing, (beyond, None), first=len(part.records)) if part.following else []
        yield listing.finished(part.records), ranges
        yield from self._ranges(listing, ranges)

    def _ranges(self, listing: Listing, ranges: list[Range]) -> Iterator[tuple[list[Record], list[Range]]]:
        while ranges:
            crowded: list[Range] = []
            for place, (records, rest) in enumerate(side_by_side(partial(self._piece, listing), ranges, self._workers), start=1):
                crowded += rest
                yield records, [*ranges[place:], *crowded]
            ranges = [piece for extent in crowded for piece in self._cut(listing, extent)]

    def _piece(self, listing: Listing, extent: Range) -> tuple[list[Record], list[Range]]:
        """The records of a range, and what is left of it where ids stand closer than its cut assumed."""
        after, last = extent
        records: list[Record] = []
        for number, part in enumerate(listing.parts(after), start=1):
            kept = [one for one in part.records if last is None or int(one["id"]) <= last]
            records += listing.finished(kept)
            if len(kept) < len(part.records):
                break
            if kept and part.following and number >= 2 * self._pages:
                return records, [(int(kept[-1]["id"]), last)]
        return records, []

    def _cut(self, listing: Listing, extent: Range, *, first: int | None = None) -> list[Range]:
        """A range in parts of about as many records each. One without an end keeps none, for what is created meanwhile.

        `first` is the size of a first page before it: the two are all there is.

        A range stays whole where the search does not know the type, or the portal takes no cursor but its own.
        """
        after, last = extent
        if listing.kind in self._unsearchable:
            return [extent]
        try:
            count, highest = self._portal.extent(listing.kind, after, last)
        except Refused as refused:
            if refused.status != HTTPStatus.BAD_REQUEST:
                raise
            log.info("%s; reading page after page", refused)
            self._unsearchable.add(listing.kind)
            return [extent]
        if first is not None:
            self.about[listing.kind] = first + count
        parts = max(1, -(-count // (listing.size * self._pages)))
        bounds = [after + (highest - after) * part // parts for part in range(parts)]
        if highest <= after or (parts > 1 and not self._takes(listing, bounds[1])):
            return [extent]
        return [*pairwise(bounds), (bounds[-1], last)]

    def _takes(self, listing: Listing, after: int) -> bool:
        """Whether the portal takes an id as a cursor that it never gave as one; asked once."""
        if self._any_cursor is None:
            try:
                next(self._portal.pages(listing.kind, (), after=after, limit=1))
            except Refused as refused:
                if refused.status != HTTPStatus.BAD_REQUEST:
                    raise
                log.info("%s; reading page after page", refused)
                self._any_cursor = False
            else:
                self._any_cursor = True
        return self._any_cursor
