"""A sheet or a named table of a workbook, cells as Excel types them: dates are dates, numbers numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from python_calamine import (
    CalamineError,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
    TableNotFound,
    TablesNotSupported,
    WorksheetNotFound,
)

from connector.api import Record
from connector.errors import SourceError, nearest
from sources.csv_files import header_names

ROWS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ExcelFile:
    """A sheet or table opened. Columns without a heading at either edge of a sheet are not part of it."""

    name: str
    columns: tuple[str, ...]
    warnings: tuple[str, ...]
    _rows: Iterator[Sequence[Any]]
    _first: int
    _offset: int
    rows: None = None  # blank ones are among them

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch | list[Record]]]:
        """Records with the row number of the first, 10,000 at a time; an empty cell, and an error in one, is null."""
        yield self._first, pa.RecordBatch.from_arrays([pa.nulls(0)] * len(self.columns), names=self.columns)
        row, width = self._first, slice(self._offset, self._offset + len(self.columns))
        while cells := list(islice(self._rows, ROWS)):
            yield row, [dict(zip(self.columns, each[width], strict=False)) for each in cells]
            row += len(cells)


def open_excel(path: Path, name: str, *, sheet: str | None = None, table: str | None = None, header: int = 1) -> ExcelFile:
    """Open a workbook's first visible sheet, or the one or the table named. Raises SourceError."""
    try:
        book = CalamineWorkbook.from_path(path, load_tables=table is not None)
        if table is not None:
            found = book.get_table_by_name(table)
            first = found.start[0] + 1 if found.start else 2
            return ExcelFile(name, header_names(found.columns, name, first - 1), (), iter(found.to_python()), first, 0)
        place = f"{name}, sheet {sheet or _first_sheet(book, name)!r}"
        rows = book.get_sheet_by_name(sheet or _first_sheet(book, name)).iter_rows()
    except TableNotFound as error:
        raise SourceError(f"{name}: no table {table!r}; {nearest(str(table), book.table_names or ())}") from error
    except TablesNotSupported as error:
        raise SourceError(f"{name}: this kind of workbook has no named tables", remedy="name the `sheet:` instead") from error
    except WorksheetNotFound as error:
        raise SourceError(f"{name}: no sheet {sheet!r}; {nearest(str(sheet), book.sheet_names)}") from error
    except PasswordError as error:
        raise SourceError(f"{name}: the workbook is encrypted", remedy="save it without a password") from error
    except CalamineError as error:
        raise SourceError(f"{name}: not a readable workbook ({error})", remedy="open it in Excel and save it again") from error
    heading = next(islice(rows, header - 1, None), [])
    named = [index for index, cell in enumerate(heading) if str(cell).strip()]
    if not named:
        raise SourceError(f"{place}: row {header} has no column names", remedy="say in which row the header stands: `header: 3`")
    offset, end = named[0], named[-1] + 1
    return ExcelFile(name, header_names(heading[offset:end], place, header), (), rows, header + 1, offset)


def _first_sheet(book: CalamineWorkbook, name: str) -> str:
    sheets = [
        each.name for each in book.sheets_metadata if each.typ == SheetTypeEnum.WorkSheet and each.visible == SheetVisibleEnum.Visible
    ]
    if not sheets:
        raise SourceError(f"{name}: has no visible sheet", remedy="name the `sheet:`")
    return sheets[0]
