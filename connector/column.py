"""What every column of text goes through: first all of it is seen, then it is settled how it reads, then it is read.

Most values are read by Arrow in one go; the odd ones once per distinct value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from connector import reading
from connector.errors import SourceError

REMEMBERED: Final = 100_000  # distinct values kept per column, so that memory stays flat
BAD: Final = object()  # what a value becomes that cannot be read


@dataclass(frozen=True, slots=True)
class Context:
    """What a column needs to know to speak of itself: its name, and the words for a row ("deals.csv, row 5")."""

    name: str
    source: str
    row: Callable[[int], str]
    zone: ZoneInfo
    text: bool = True  # written by people, to be proven; False: typed by an API or a file format
    counted: bool = False  # typed numbers may stand for dates (Excel serials, milliseconds)
    locale: str | None = None
    dates: str | None = None
    unseen: pa.DataType | None = None  # of a date column without any value

    def error(self, message: str, *, remedy: str | None = None) -> SourceError:
        return SourceError(f"{self.source}: column {self.name!r}: {message}", remedy=remedy)


class Column(Protocol):
    """`see` every batch, `settle` once, then `read` every batch: the values, and where a value could not be read (or None)."""

    type: pa.DataType

    def see(self, values: pa.Array, rows: pa.Array) -> None: ...
    def settle(self) -> None: ...
    def read(self, values: pa.Array) -> tuple[pa.Array, pa.Array | None]: ...
    def why(self, value: str) -> str: ...


@dataclass(slots=True)
class Sample:
    """A value and the row it stands in, for messages."""

    value: str
    row: int


def any_like(values: pa.Array, pattern: str) -> bool:
    return pc.any(pc.match_substring_regex(values, pattern)).as_py() is True


def unlike(values: pa.Array, pattern: str) -> pa.Array:
    return values.filter(pc.invert(pc.match_substring_regex(values, pattern)))


def distinct(values: pa.Array, memory: dict[str, Any]) -> Iterator[str]:
    """Values not met before, as far as `memory` reaches."""
    for text in values.unique().to_pylist():
        if text is not None and text not in memory:
            if len(memory) < REMEMBERED:
                memory[text] = None
            yield text


def prove(proofs: dict[Any, Sample], proven: reading.Mark | reading.Order, text: str, values: pa.Array, rows: pa.Array) -> None:
    """Keep the first value that proves something."""
    if proven not in proofs:
        proofs[proven] = sample(text, values, rows)


def sample(text: str, values: pa.Array, rows: pa.Array) -> Sample:
    return Sample(text, rows[pc.index(values, text).as_py()].as_py())


def by_value(values: pa.Array, kind: pa.DataType, read: Callable[[str], Any], memory: dict[str, Any]) -> tuple[pa.Array, pa.Array | None]:
    """Read each distinct value once. The second array marks the values that could not be read."""
    encoded = values.dictionary_encode()
    results: list[Any] = []
    for text in encoded.dictionary.to_pylist():
        if text in memory:
            results.append(memory[text])
            continue
        result = None if text is None or text.casefold() in reading.NULL_WORDS else read(text)
        if len(memory) < REMEMBERED:
            memory[text] = result
        results.append(result)
    good = [None if result is BAD else result for result in results]
    bad = [result is BAD for result in results]
    marked = pa.array(bad, pa.bool_()).take(encoded.indices).fill_null(False) if any(bad) else None
    return pa.array(good, kind).take(encoded.indices), marked


def by_pattern(
    values: pa.Array,
    pattern: str,
    cast: Callable[[pa.Array], pa.Array | None],
    kind: pa.DataType,
    read: Callable[[str], Any],
    memory: dict[str, Any],
) -> tuple[pa.Array, pa.Array | None]:
    """Values of the usual form all at once by `cast`, the others by value."""
    usual = pc.fill_null(pc.match_substring_regex(values, pattern), True)
    if pc.all(usual).as_py() is not False and (done := cast(values)) is not None:
        return done, None
    done = cast(pc.if_else(usual, values, None))
    if done is None:
        return by_value(values, kind, read, memory)
    odd = pc.invert(usual)
    results, bad = by_value(values.filter(odd), kind, read, memory)
    marked = None if bad is None else pc.replace_with_mask(pa.array([False] * len(values)), odd, bad)
    return pc.replace_with_mask(done, odd, results), marked


def cast_or_none(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:  # a 30 February among them: the slow way finds it
        return None
