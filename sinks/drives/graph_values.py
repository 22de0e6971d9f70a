"""Cells as the Excel REST API has them: our values as JSON that Excel cannot take for anything else, and theirs as ours compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from connector.errors import TargetError
from sinks.excel.cells import MAX_TEXT, Column


def cell_value(text: str | None, is_text: bool, column: Column) -> Any:
    """A value that Excel cannot take for anything else: the apostrophe keeps text text, "" empties the cell."""
    if text is None:
        return ""
    if is_text:
        if len(text) * 2 > MAX_TEXT and len(text.encode("utf-16-le")) // 2 > MAX_TEXT:
            raise TargetError(
                f"column {column.heading!r}: a text of {len(text)} characters; a cell holds {MAX_TEXT}",
                remedy="shorten it with `sql` or `columns`",
            )
        return f"'{text}"
    if column.kind == "flag":
        return text == "1"
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def same_row(wanted: Sequence[Any], current: Sequence[Any]) -> bool:
    return all(new is None or _equal(new, old) for new, old in zip(wanted, current, strict=True))


def _equal(new: Any, old: Any) -> bool:
    if isinstance(new, str):
        return isinstance(old, str) and new.removeprefix("'") == old
    return not isinstance(old, str) and plain(new) == plain(old)


def plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_constant(formula: Any) -> bool:
    """Whether somebody typed a value into a cell, by what it says it is made of."""
    return formula != "" and not str(formula).startswith("=")


def value_of(value: Any) -> Any:
    """A value as the cell in the file holds it."""
    return None if value == "" else plain(value)


def runs(rows: Sequence[int], gap: int = 1) -> Iterator[tuple[int, int]]:
    """Ascending numbers as stretches: (first, how many); those less than `gap` apart go together."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] > rows[place - 1] + gap:
            yield rows[start], rows[place - 1] - rows[start] + 1
            start = place
