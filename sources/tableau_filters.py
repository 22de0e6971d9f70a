"""The filters of an export: as Tableau takes them, and whether the rows prove that it did."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

import pyarrow.compute as pc

from connector import reading
from connector.errors import SourceError
from sources.tableau_config import Scalar, View
from sources.tableau_text import Table
from sources.tableau_totals import label


def query(view: View) -> dict[str, str]:
    """The query of an export. A comma separates values, so those inside a value are escaped."""
    params = {"maxAge": str(view.max_age)}
    for name, values in view.filters.items():
        params[f"vf_{name}"] = ",".join(wire(value).replace("\\", "\\\\").replace(",", "\\,") for value in each(values))
    for name, value in view.parameters.items():
        params[f"vf_Parameters.{name}"] = wire(value)
    return params


def each(values: Scalar | Sequence[Scalar]) -> tuple[Scalar, ...]:
    return values if isinstance(values, tuple) else (values,)


def wire(value: Scalar) -> str:
    """A value as filters name it: true and false in small letters, dates as ISO."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def nobodys(values: Sequence[Scalar]) -> str:
    """A value of the same kind that no row has."""
    kinds = {_kind(value) for value in values}
    if kinds == {"number"}:
        return str(-(uuid.uuid4().int % 10**9 + 10**9))
    return "1066-10-14" if kinds == {"date"} else f"no such value {uuid.uuid4()}"


def unproven(table: Table, filters: Mapping[str, Sequence[Scalar]], place: str, locale: str | None) -> list[str]:
    """The filters the rows do not prove: there is no such column, or it shows numbers or dates otherwise than they were given.

    Raises SourceError for a row with another text: Tableau did not apply the filter.
    """
    doubtful = {name for name in filters if name not in table.names}
    there = [name for name in filters if name in table.names]
    for batch in table.batches() if there else ():
        for name in there:
            for cell in pc.unique(batch[name]).to_pylist():
                if any(_is(cell or "", value, locale) for value in filters[name]):
                    continue
                if _is_other_text(cell or "", filters[name]):
                    listed = ", ".join(wire(value) for value in filters[name])
                    raise SourceError(
                        f"{place}: filters: a row has {name} {cell!r}, which is not among {listed}: Tableau did not apply the filter",
                        remedy="write the values as the data source has them, not an alias of the workbook, or use `where`",
                    )
                doubtful.add(name)
    return [name for name in filters if name in doubtful]


def _is(cell: str, value: Scalar, locale: str | None) -> bool:
    """Whether a cell shows this value."""
    cell, text = cell.strip(), wire(value).strip()
    if cell.casefold() == text.casefold():
        return True
    if isinstance(value, bool):
        return reading.flag(cell) == value
    kind = _kind(value)
    if kind == "number":
        written = reading.number(cell)
        marks: tuple[reading.Mark, ...] = (reading.decimal_mark(locale),) if locale else (".", ",")
        return written is not None and Decimal(text) in {written.value(mark) for mark in marks}
    if kind == "date":
        when = reading.when(cell, locale)
        return when is not None and _day(text) in {moment.isoformat()[:10] for moment in (when.day_first, when.month_first) if moment}
    return False


def _is_other_text(cell: str, values: Sequence[Scalar]) -> bool:
    """Whether a cell is plainly another text than these: blanks, totals, numbers and dates may be the same thing shown otherwise."""
    blank = not cell.strip() or cell.strip().casefold() in reading.NULL_WORDS
    return not blank and label(cell) is None and {_kind(value) for value in (cell, *values)} == {"text"}


def _kind(value: Scalar) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, date):
        return "date"
    text = value.strip()
    if _decimal(text) is not None:
        return "number"
    if reading.when(text) is not None:
        return "date"
    return "text" if reading.flag(text) is None and reading.number(text) is None else "other"


def _decimal(text: str) -> Decimal | None:
    written = reading.number(text)
    return Decimal(text) if written and text.lstrip("+-").replace(".", "", 1).isdecimal() else None


def _day(text: str) -> str:
    when = reading.when(text)
    moment: date | datetime | None = when.day_first or when.month_first if when else None
    return moment.isoformat()[:10] if moment else ""
