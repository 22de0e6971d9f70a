"""The summary data of a view, as Tableau exports it: a CSV of texts for people.

Typing is not done here: numbers, dates and `Null` are read column by column by the same rules as any text. What only Tableau does
is undone here: repeated headers, ids shown as numbers, halves of the day; in tableau_measures and tableau_totals the rest.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from babel.numbers import get_group_symbol

from connector.errors import SourceError
from connector.model import ENTITIES

BLOCK: Final = 1 << 20  # the reader keeps some thirty of them ahead; a row must fit in one
TEXT: Final = pa.string()
#: `2026/1/31 上午9:15:00`, as Chinese, Japanese and Korean locales write the morning and the afternoon
_HALVES: Final = {"AM": "上午|午前|오전", "PM": "下午|午後|오후"}
_HALVED: Final = r"^(\d{4}\D{1,3}\d{1,2}\D{1,3}\d{1,2}\D{0,2}?)\s*(?:%s)\s*(\d{1,2}:\d{2}(?::\d{2})?)$"


class Table(Protocol):
    """Columns of text that can be read again from the start."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def batches(self) -> Iterator[pa.RecordBatch]: ...


@dataclass(slots=True)
class Export:
    """A CSV file from Tableau: UTF-8 with or without BOM, CRLF, quotes by RFC 4180. Repeated headers get a number."""

    file: Path
    place: str
    names: tuple[str, ...] = field(init=False)
    repeated: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        with self.file.open(encoding="utf-8-sig", newline="") as lines:
            try:
                header = next(csv.reader(lines), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise self._broken(error) from error
        names = unique([name.strip() for name in header])
        self.names = tuple(names)
        self.repeated = tuple(name for name, given in zip(names, header, strict=True) if name != given.strip())

    def batches(self) -> Iterator[pa.RecordBatch]:
        if not self.has_rows():
            return
        try:
            reader = pacsv.open_csv(
                self.file,
                read_options=pacsv.ReadOptions(column_names=self.names, skip_rows_after_names=1, block_size=BLOCK, use_threads=False),
                parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(self.names) > 1),
                convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(self.names, TEXT)),
            )
            yield from reader
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise SourceError(
                    f"{self.place}: a row is longer than {BLOCK >> 20} MB",
                    remedy="take the field with the long texts off the view, also off Detail and Tooltip, or use `mode: vds`",
                ) from error
            raise self._broken(error) from error

    def has_rows(self) -> bool:
        """Whether any cell below the header has something in it. Raises SourceError for cells without a header."""
        with self.file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            rows = csv.reader(lines)
            try:
                next(rows, None)
                found = any(cell.strip() for row in rows for cell in row)
            except csv.Error:  # a very long cell is something
                found = True
        if found and not self.names:
            raise SourceError(f"{self.place}: the first line has no column names", remedy="run again; nothing was taken over")
        return found

    def _broken(self, error: Exception) -> SourceError:
        reason = str(error).split("\n")[0][:200]
        return SourceError(f"{self.place}: the data does not read as CSV: {reason}", remedy="run again; nothing was taken over")


def unique(names: Sequence[str]) -> list[str]:
    """Every name different from the others, also without regard to case; empty ones are numbered by position."""
    taken: set[str] = set()
    given = []
    for position, name in enumerate(names, 1):
        plain = name or f"column {position}"
        candidate, number = plain, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{plain} ({number})"
        taken.add(candidate.casefold())
        given.append(candidate)
    return given


# ── cells ─────────────────────────────────────────────────────────────────────────────────────────

Tidy = Callable[[str, pa.Array], pa.Array]


def tidier(table: str, fields: Mapping[str, str], locale: str | None, *, null_text: bool) -> Tidy:
    """What is done to the cells of a column, by its name, before they are read as any text.

    Ids of a canonical table lose the separators of the locale that a sheet shows them with: 7,100,001 is 7100001.
    """
    separators = _separators(locale) if locale else ""
    halves = locale is not None and locale[:2] in ("zh", "ja", "ko")

    def tidy(name: str, cells: pa.Array) -> pa.Array:
        if null_text:
            cells = _without_null(cells)
        if halves:
            for half, words in _HALVES.items():
                cells = pc.replace_substring_regex(cells, _HALVED % words, rf"\1 \2 {half}")
        if separators and is_id(name, table, fields):
            grouped = pc.match_substring_regex(cells, rf"^\d{{1,3}}(?:[{separators}]\d{{3}})+$")
            cells = pc.if_else(grouped, pc.replace_substring_regex(cells, rf"[{separators}]", ""), cells)
        return cells

    return tidy


def without_null(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With the text Null of text columns as missing."""
    columns = [_without_null(column) if pa.types.is_string(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _without_null(cells: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(cells, "Null"), None, cells)


def is_id(name: str, table: str, fields: Mapping[str, str]) -> bool:
    """Whether a column of the view is an id of a canonical table: mapped to one, or of its name where nothing is mapped."""
    ids = {field.name for field in ENTITIES.get(table, ()) if field.name.endswith("_id")}
    if fields:
        return any(column in ids and name.casefold() == source.casefold() for column, source in fields.items())
    return re.sub(r"[\s_-]", "", name).casefold() in {column.replace("_", "") for column in ids}


def _separators(locale: str) -> str:
    """What stands between thousands, for a character class."""
    own = get_group_symbol(locale.replace("-", "_"))
    spaces = "\u00a0\u202f " if not own.strip() else ""
    quotes = "'’" if own in "'’" else ""
    return re.escape(own) + spaces + quotes
