"""What the YAML of a Tableau source may say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from connector import reading
from connector.api import Model, NetworkConfig
from connector.auth.tableau import Access
from connector.errors import ConfigError, nearest

Scalar = str | int | float | bool | date | datetime
Mode = Literal["view", "crosstab", "vds", "extract"]
SHOWN: Final = ("view", "crosstab")  # what the sheet shows, as people read it
#: keys that would do nothing in the other modes
ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    "max_age": SHOWN,
    "totals": SHOWN,
    "columns": ("vds",),
    "extract_table": ("extract",),
}
#: the VizQL Data Service has more; those give no column of a type we know
FUNCTIONS: Final = (
    *("SUM", "AVG", "MEDIAN", "COUNT", "COUNTD", "MIN", "MAX", "STDEV", "VAR", "YEAR", "QUARTER", "MONTH", "WEEK", "DAY"),
    *("TRUNC_YEAR", "TRUNC_QUARTER", "TRUNC_MONTH", "TRUNC_WEEK", "TRUNC_DAY"),
)


def _known_function(name: str) -> str:
    if name.upper() not in FUNCTIONS:
        raise ValueError(f"there is no function {name!r}; {nearest(name, FUNCTIONS)}")
    return name.upper()


Function = Annotated[str, AfterValidator(_known_function)]


class Computed(Model):
    """A column under a name of its own, so that one field may come several times."""

    field: str = Field(description="Field of the data source.")
    function: Function | None = Field(None, description="SUM, AVG, COUNTD …; the field as it is unless given.")


Columns = tuple[str, ...] | Mapping[str, Function | Computed | None]


def _computed(given: Any) -> Any:
    """`columns` in its long form: a name alone is a field as it is, a text beside one its function."""
    if isinstance(given, list | tuple):
        if not all(isinstance(name, str) for name in given):
            raise ValueError("a list of columns holds names of fields and nothing else")
        given = dict.fromkeys(given)
    if not isinstance(given, Mapping):
        return given
    return {name: {"field": name, "function": each} if each is None or isinstance(each, str) else each for name, each in given.items()}


class View(Model):
    """One view or published data source, and the table it becomes."""

    view: str | None = Field(None, description="Workbook/View (or Project/Workbook/View), the address of the view, or its id.")
    datasource: str | None = Field(None, description="Published data source for `vds` and `extract`: name, Project/Name or id.")
    table: str = Field(description="Name of the table: a canonical one (deals, leads …) or any other for a plain table.")
    mode: Mode = Field("view", description="Which way to the data.")
    filters: Mapping[str, Scalar | tuple[Scalar, ...]] = Field({}, description="Field: value or list of values to keep.")
    parameters: Mapping[str, Scalar] = Field({}, description="Parameter: value.")
    max_age: int = Field(1, ge=1, le=240, description="For `view` and `crosstab`: oldest cached result to accept, in minutes.")
    columns: Annotated[Mapping[str, Computed], BeforeValidator(_computed, json_schema_input_type=Columns)] = Field(
        {}, description="For `vds`: fields to ask for, or field: function (SUM …), or name: {field, function}."
    )
    extract_table: str | None = Field(None, description="For `extract`: the table, where the extract has several.")
    locale: str | None = Field(
        None,
        description="How numbers, month names and, unless `dates` says so, the order of day and month are written, e.g. en_US or de_DE.",
    )
    dates: str | Mapping[str, str] | None = Field(
        None, description="How dates are written: iso, day-first, month-first or a pattern such as %m/%d/%Y; or column → one of these."
    )
    timezone: str | None = Field(None, description="Zone of the view's date-times, which name none, e.g. UTC; the flow's unless given.")
    totals: Literal["keep", "drop"] | None = Field(
        None,
        description="For `view` and `crosstab`: keep total rows, or drop also those that no number proves; otherwise these are an error.",
    )
    null_text: bool = Field(False, description="Read the text Null as missing in text columns too.")
    fields: Mapping[str, str] = Field({}, description="Canonical column: column of the view, or a SQL expression over its columns.")
    status: dict[Literal["won", "lost"], tuple[str, ...]] = Field(
        {}, description="Words of the status (or stage) column that mean won and lost; everything else is open."
    )
    where: str | None = Field(None, description="SQL condition over the view's columns; other rows are left out.")
    on_bad_value: Literal["error", "null"] = Field("error", description="A value that cannot be read stops the run, or is left empty.")
    key: tuple[str, ...] = Field((), description="Column(s) that name a row, where it is not the canonical id.")

    @field_validator("locale")
    @classmethod
    def _known_locale(cls, value: str | None) -> str | None:
        try:
            reading.known_locale(value) if value else None
        except ConfigError as error:
            raise ValueError(f"{error}: {error.remedy}") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str | None) -> str | None:
        try:
            ZoneInfo(value) if value else None
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {value!r}; a name such as UTC or Europe/Berlin") from error
        return value

    @field_validator("filters")
    @classmethod
    def _filters_say_something(cls, value: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Mapping[str, Scalar | tuple[Scalar, ...]]:
        for name, values in value.items():
            each = values if isinstance(values, tuple) else (values,)
            if not each or any(isinstance(one, str) and not one.strip() for one in each):
                raise ValueError(f"{name!r} has no value: Tableau would give every row; name what to keep, or leave the filter out")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.view is None) == (self.datasource is None):
            raise ValueError("give either `view` or `datasource`")
        if self.datasource and self.mode in SHOWN:
            raise ValueError(f"`mode: {self.mode}` reads a `view`; for a data source use `mode: vds` or `mode: extract`")
        if self.mode == "extract" and (self.filters or self.parameters):
            raise ValueError("an extract is read whole: use `where` instead of `filters` and `parameters`")
        for name, modes in ONLY.items():
            if self.mode not in modes and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"`{name}` is for {' and '.join(f'`mode: {mode}`' for mode in modes)}; in `mode: {self.mode}` it does nothing"
                )
        return self

    @property
    def place(self) -> str:
        return f"view {self.view!r}" if self.view else f"data source {self.datasource!r}"

    @property
    def date_order(self) -> str | Mapping[str, str] | None:
        """How dates are written: as `dates` says, else in the locale's order where people wrote them."""
        return self.dates or (_order(self.locale) if self.locale and self.mode in SHOWN else None)

    def wanted(self) -> list[tuple[str, str, str | None]]:
        """The `columns`: name, field, function."""
        return [(name, each.field, each.function) for name, each in self.columns.items()]


class TableauConfig(NetworkConfig, Access):
    type: Literal["tableau"] = "tableau"
    timeout: float = Field(900, gt=0, description="Seconds to wait for an answer; large views take minutes to begin.")
    views: tuple[View, ...] = Field(min_length=1, description="What to read.")

    @model_validator(mode="after")
    def _tables_differ(self) -> Self:
        tables = [view.table for view in self.views]
        if twice := next((table for table in tables if tables.count(table) > 1), None):
            raise ValueError(f"table {twice!r} is given twice")
        return self


def _order(locale: str) -> reading.Order | None:
    """The order of day and month; None where the year comes first, and nothing is to be told apart."""
    pattern = reading.known_locale(locale).date_formats["short"].pattern
    year, month, day = (pattern.index(sign) for sign in "yMd")
    if year < min(month, day):
        return None
    return "day-first" if day < month else "month-first"
