"""The crosstab of a sheet: a workbook laid out as the sheet is, its numbers unrounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from python_calamine import CalamineError, CalamineWorkbook

from connector.errors import SourceError
from sources.tableau_text import TEXT, Tidy, unique

ROWS: Final = 20_000
Cells = list[list[Any]]
Area = tuple[tuple[int, int], tuple[int, int]]


@dataclass(slots=True)
class Crosstab:
    """Columns and rows of a crosstab: headers of several rows joined by ` / `, merged cells repeated, blank cells None.

    It is a Table of texts as well, for those who look at what is shown. `first_row` is the number of the first row on the sheet.
    """

    names: tuple[str, ...]
    rows: Cells
    first_row: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self.rows), ROWS):
            part = self.rows[start : start + ROWS]
            columns = [pa.array([_text(row[index]) for row in part], TEXT) for index in range(len(self.names))]
            yield pa.RecordBatch.from_arrays(columns, names=list(self.names))

    def has_rows(self) -> bool:
        return any(cell is not None for row in self.rows for cell in row)

    def without(self, gone: set[int]) -> Crosstab:
        return Crosstab(self.names, [row for place, row in enumerate(self.rows) if place not in gone], self.first_row)

    def tidied(self, tidy: Tidy) -> Crosstab:
        """With its texts as those of a view are read."""
        columns = []
        for index, name in enumerate(self.names):
            cells = [row[index] for row in self.rows]
            texts = tidy(name, pa.array([cell if isinstance(cell, str) else None for cell in cells], TEXT)).to_pylist()
            columns.append([text if isinstance(cell, str) else cell for cell, text in zip(cells, texts, strict=True)])
        return Crosstab(self.names, [list(row) for row in zip(*columns, strict=True)], self.first_row)


def crosstab(file: Path, what: str) -> Crosstab:
    """Read the workbook's first sheet; one without any cell has no columns. Raises SourceError when it is no workbook."""
    try:
        with CalamineWorkbook.from_path(file) as book:
            sheet = book.get_sheet_by_index(0)
            cells: Cells = sheet.to_python(skip_empty_area=False)
            merged: Sequence[Area] = sheet.merged_cell_ranges or ()
    except CalamineError as error:
        raise SourceError(f"{what}: the crosstab does not read as a workbook: {error}", remedy="run again, or use `mode: view`") from error
    width = max((len(row) for row in cells), default=0)
    if not any(cell != "" for row in cells for cell in row):
        return Crosstab((), [], 1)
    cells = [[*row, *[""] * (width - len(row))] for row in cells]
    _fill(cells, merged, width)
    heads = _heads(cells, merged, width)
    parts = [list(dict.fromkeys(_text(row[column]) for row in cells[:heads] if row[column] != "")) for column in range(width)]
    names = unique([" / ".join(text for text in part if text) for part in parts])
    return Crosstab(tuple(names), [[None if cell == "" else cell for cell in row] for row in cells[heads:]], heads + 1)


def _fill(cells: Cells, merged: Sequence[Area], width: int) -> None:
    """Repeat the value of merged cells in all of them, as far as the sheet has cells."""
    for (top, left), (bottom, right) in merged:
        for row in range(top, min(bottom, len(cells) - 1) + 1):
            for column in range(left, min(right, width - 1) + 1):
                cells[row][column] = cells[top][left]


def _heads(cells: Cells, merged: Sequence[Area], width: int) -> int:
    """How many rows are the header.

    The first always is. It goes on while the corner is blank or merged downwards, as it is above the names of the rows' fields, and below
    cells merged across, which name several columns. A number ends it; only in columns that have no name of their own yet is it one, such as
    a year above months.
    """
    corner = max((bottom + 1 for (top, left), (bottom, _) in merged if top == left == 0), default=1)
    across = {top for (top, left), (_, right) in merged if left < min(right, width - 1)}
    heads = 1
    while heads < len(cells):
        row = cells[heads]
        named = any(above[0] != "" for above in cells[:heads])
        if heads >= corner:
            if named and heads - 1 not in across:
                break
            if any(map(_is_value, row)) and (named or row[0] != "" or _told_apart(cells[:heads])):
                break
        heads += 1
    return heads


def _told_apart(heads: Cells) -> bool:
    """Whether these rows give every column but the blank ones at the left a name of its own."""
    names = [tuple(column) for column in zip(*heads, strict=True) if any(cell != "" for cell in column)]
    return bool(names) and len(set(names)) == len(names)


def _is_value(cell: Any) -> bool:
    return isinstance(cell, int | float | date) and not isinstance(cell, bool)


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    return str(cell)
