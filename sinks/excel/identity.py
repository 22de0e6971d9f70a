"""Which row is which when the key is not among the table's columns: rows are known again by what was written into them.

What a refresh writes is remembered as a list of keys and a fingerprint of every cell. The next one looks at what stands on the sheet. A
row that equals one remembered row and no other is that row, wherever it stands. For rows that equal each other, and for rows somebody
has edited, the order decides — but only while everything else still stands in the order it was written in; otherwise such a row is
doubtful, and the caller must not guess.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final, Self

import pyarrow as pa

from sinks.excel.cells import Column, Rendering, plain_values
from sinks.excel.region import key_text
from sinks.excel.rows import keys_of

SIZE: Final = 6  # bytes of a cell's fingerprint: among 100,000 different values, two are alike once in 50,000 tables
NOTHING: Final = bytes(SIZE)
MOST: Final = 2_000_000  # comparisons of edited rows with rows they may be

Value = float | str | bool | None


@dataclass(frozen=True, slots=True)
class Prints:
    """The fingerprints of a table's cells: for each column of ours, by its name, `SIZE` bytes for every row."""

    count: int
    columns: Mapping[str, bytes]

    @classmethod
    def of(cls, count: int, columns: Mapping[str, Iterable[Value]]) -> Self:
        """From values as the cells of a sheet hold them."""
        return cls(count, {name: _prints(values) for name, values in columns.items()})

    def rows(self, names: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Each row's fingerprints in these columns."""
        return list(zip(*(_cut(self.columns[name]) for name in names), strict=True)) if names else [()] * self.count


@dataclass(frozen=True, slots=True)
class Written(Prints):
    """The rows of a table as a refresh wrote them, in order."""

    keys: Sequence[str] = ()

    def packed(self) -> dict[str, Any]:
        """As JSON: the cells column by column, so that what repeats takes little room, and then the keys."""
        raw = b"".join(self.columns.values()) + json.dumps(list(self.keys), ensure_ascii=False).encode()
        return {"columns": list(self.columns), "count": self.count, "rows": base64.b64encode(zlib.compress(raw)).decode()}

    @classmethod
    def unpacked(cls, stored: Mapping[str, Any]) -> Self:
        raw, count, names = zlib.decompress(base64.b64decode(stored["rows"])), int(stored["count"]), list(stored["columns"])
        ends = [place * count * SIZE for place in range(len(names) + 1)]
        columns = {name: raw[start:end] for name, (start, end) in zip(names, pairwise(ends), strict=True)}
        return cls(count, columns, json.loads(raw[ends[-1] :]))


@dataclass(frozen=True, slots=True)
class Recognised:
    """The key of each row on the sheet, None where it is none of ours; `doubtful` are rows that may be ours, nobody can tell which."""

    keys: Sequence[str | None]
    doubtful: frozenset[int]


def written(batches: Iterable[pa.RecordBatch], columns: Sequence[Column], key: Sequence[Column], rendering: Rendering) -> Written:
    """What a refresh writes: the rows of `batches`, which also hold the key."""
    cells: dict[str, list[bytes]] = {column.name: [] for column in columns}
    keys: list[str] = []
    for batch in batches:
        keys += keys_of(batch, key, rendering)
        for column in columns:
            cells[column.name].append(_prints(_values(batch.column(column.name), column, rendering)))
    return Written(len(keys), {name: b"".join(pieces) for name, pieces in cells.items()}, keys)


def _values(values: pa.Array, column: Column, rendering: Rendering) -> Iterator[Value]:
    plain, textual = plain_values(values, column, rendering)
    if textual is True:
        yield from plain.to_pylist()
    elif column.kind == "flag":
        yield from (None if text is None else text == "1" for text in plain.to_pylist())
    else:
        masks = [textual] * len(plain) if isinstance(textual, bool) else textual.to_pylist()
        yield from (text if is_text or text is None else float(text) for text, is_text in zip(plain.to_pylist(), masks, strict=True))


def _prints(values: Iterable[Value]) -> bytes:
    known: dict[Value | tuple[bool], bytes] = {}
    pieces = []
    for value in values:
        name = (value,) if isinstance(value, bool) else value  # True is 1 to a dict
        found = known.get(name)
        if found is None:
            found = known[name] = _print(value)
        pieces.append(found)
    return b"".join(pieces)


def _print(value: Value) -> bytes:
    """Alike for everything Excel takes for the same value, or makes of it when it saves."""
    text = format(value, ".13g") if isinstance(value, float) and not value.is_integer() else key_text(value)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest() if text else NOTHING


def _cut(prints: bytes) -> list[bytes]:
    return [prints[at : at + SIZE] for at in range(0, len(prints), SIZE)]


def compared(here: Prints, rows: Written, carrying: Collection[int]) -> Recognised:
    """Without a memory: rows on the sheet that already say exactly what one of the new rows says. All others are doubtful."""
    sighting = _Sighting(here, rows)
    sighting.exactly()
    keys = sighting.keys()
    return Recognised(keys, frozenset(row for row in carrying if keys[row] is None))


# ── recognising ───────────────────────────────────────────────────────────────────────────────────


def recognise(
    here: Prints,
    versions: Sequence[Written],
    carrying: Collection[int],
    *,
    ordered: bool,
    alike: Callable[[Sequence[int]], bool] = lambda _: False,
) -> Recognised:
    """The keys of the sheet's rows.

    `versions` are what the sheet may hold: what was delivered last, and what a later run wrote that may not have got there; only one of
    them, or a mix where an edit of the open workbook broke off. `carrying` are the rows that matter, because they hold something of a
    teammate's. `ordered` says that nobody sorted the rows by a column that is not ours; `alike` whether rows carry the very same.
    """
    sightings = [_Sighting(here, version) for version in versions if here.columns.keys() & version.columns.keys()]
    if not sightings:
        return Recognised([None] * here.count, frozenset(carrying))
    for sighting in sightings:
        sighting.exactly()
    best = max(reversed(sightings), key=lambda sighting: (len(sighting.found), sighting.in_order))
    best.look_closer(ordered=ordered, alike=alike)
    keys = best.keys()
    claimed = {key for key in keys if key is not None}
    disputed: set[int] = set()
    for other in (one for one in sightings if one is not best):
        for row, place in other.found.items():
            key = other.version.keys[place]
            if keys[row] is None and key not in claimed:
                keys[row] = key
                claimed.add(key)
            elif keys[row] not in (None, key) and len(other.found) == best.exact:
                disputed.add(row)
    unknown = [row for row in carrying if keys[row] is None]
    doubtful = (disputed & set(carrying)) | best.doubtful(unknown, claimed, ordered=ordered)
    return Recognised([None if row in doubtful else key for row, key in enumerate(keys)], frozenset(doubtful))


class _Sighting:
    """The sheet's rows beside one remembered version. `found`: row on the sheet → place among the remembered rows."""

    def __init__(self, here: Prints, version: Written) -> None:
        self.version = version
        self.found: dict[int, int] = {}
        self.exact = 0
        names = [name for name in version.columns if name in here.columns]
        self._here, self._there = here.rows(names), version.rows(names)
        self._taken: set[int] = set()

    def keys(self) -> list[str | None]:
        found = self.found
        return [self.version.keys[found[row]] if row in found else None for row in range(len(self._here))]

    def exactly(self) -> None:
        """Rows that equal one another and nothing else."""
        self._match_unique(range(len(self._here)), range(len(self._there)), lambda cells: cells)
        self.exact = len(self.found)

    def look_closer(self, *, ordered: bool, alike: Callable[[Sequence[int]], bool]) -> None:
        """Rows that equal each other, then rows somebody edited."""
        in_order = ordered and self.in_order
        if in_order:
            for rows, places in self._gaps():
                self._match_equals(rows, places)
        here, there = _grouped(self._missing(), self._here), _grouped(self._spare(), self._there)
        for cells, rows in here.items():
            if len(rows) == len(there.get(cells, ())) and alike(rows):
                self._take(zip(rows, there[cells], strict=True))
        for left_out in range(len(self._here[0]) if self._here and len(self._here[0]) > 2 else 0):
            self._match_unique(self._missing(), self._spare(), lambda cells, at=left_out: _without(cells, at))  # type: ignore[misc]
        if in_order and self.in_order:
            for rows, places in self._gaps():
                if len(rows) == len(places) and all(_similar(self._here[a], self._there[b]) for a, b in zip(rows, places, strict=True)):
                    self._take(zip(rows, places, strict=True))

    def doubtful(self, unknown: Sequence[int], claimed: Collection[str], *, ordered: bool) -> set[int]:
        """Of rows nobody knows, those that may be a remembered row. The others are a teammate's own."""
        spare = [place for place in self._spare() if self.version.keys[place] not in claimed]
        if not unknown or not spare:
            return set()
        if len(unknown) * len(spare) > MOST:
            return set(unknown)
        alike = {row for row in unknown if any(_similar(self._here[row], self._there[place]) for place in spare)}
        if ordered and self.in_order:
            free = set(spare)
            return alike | {row for rows, places in self._gaps() if free & set(places) for row in rows} & set(unknown)
        return alike if len(self._here[0]) > 2 else set(unknown)

    def _take(self, pairs: Iterable[tuple[int, int]]) -> None:
        for row, place in pairs:
            self.found[row] = place
            self._taken.add(place)

    def _missing(self) -> list[int]:
        return [row for row in range(len(self._here)) if row not in self.found]

    def _spare(self) -> list[int]:
        return [place for place in range(len(self._there)) if place not in self._taken]

    def _match_unique(self, rows: Iterable[int], places: Iterable[int], of: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
        here, there = _grouped(rows, self._here, of), _grouped(places, self._there, of)
        self._take(
            (found[0], there[cells][0])
            for cells, found in here.items()
            if len(found) == 1 and len(there.get(cells, ())) == 1 and any(cells)
        )

    @property
    def in_order(self) -> bool:
        """Whether the rows that are known still stand as they were written."""
        places = [self.found[row] for row in sorted(self.found)]
        return all(a < b for a, b in pairwise(places))

    def _gaps(self) -> list[tuple[list[int], list[int]]]:
        """Between rows that are known, in order: the rows that are not, and the remembered rows that are nowhere."""
        fixed = [(-1, -1), *sorted(self.found.items()), (len(self._here), len(self._there))]
        return [(list(range(a + 1, b)), list(range(p + 1, q))) for (a, p), (b, q) in pairwise(fixed) if b - a > 1]

    def _match_equals(self, rows: Sequence[int], places: Sequence[int]) -> None:
        here, there = _grouped(rows, self._here), _grouped(places, self._there)
        for cells, found in here.items():
            if len(found) == len(there.get(cells, ())):
                self._take(zip(found, there[cells], strict=True))


def _same(cells: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return cells


def _grouped(
    places: Iterable[int], rows: Sequence[tuple[bytes, ...]], of: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] = _same
) -> dict[tuple[bytes, ...], list[int]]:
    groups: defaultdict[tuple[bytes, ...], list[int]] = defaultdict(list)
    for place in places:
        groups[of(rows[place])].append(place)
    return groups


def _without(cells: tuple[bytes, ...], at: int) -> tuple[bytes, ...]:
    """The other cells; nothing at all unless two of them say something."""
    rest = cells[:at] + cells[at + 1 :]
    return rest if sum(cell != NOTHING for cell in rest) >= 2 else ()


def _similar(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> bool:
    """Whether half of what they say is the same."""
    said = [(a, b) for a, b in zip(one, other, strict=True) if a != NOTHING or b != NOTHING]
    return bool(said) and 2 * sum(a == b for a, b in said) >= len(said)
