"""What a Tableau site holds: projects, workbooks with views, published data sources, and who may sign in.

A data source gives typed rows; a view shows some of its fields, aggregated to the marks of the sheet, as Tableau does.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

Value = str | int | float | Decimal | bool | date | datetime | None
Row = Mapping[str, Value]
Kind = Literal["STRING", "INTEGER", "REAL", "DATE", "DATETIME", "BOOLEAN"]
Function = Literal["SUM", "AVG", "COUNT", "COUNTD", "MIN", "MAX", "TRUNC_MONTH"]
Format = Literal["text", "number", "integer", "money", "percent", "date", "month", "datetime"]

#: what Tableau writes before a field's caption in a header; sums carry the caption alone
PREFIXES: Final[Mapping[Function, str]] = {
    "SUM": "",
    "AVG": "Avg. ",
    "COUNT": "Count of ",
    "COUNTD": "Distinct count of ",
    "MIN": "Min. ",
    "MAX": "Max. ",
    "TRUNC_MONTH": "Month of ",
}
SCOPES: Final = frozenset(
    {
        "tableau:content:read",
        "tableau:views:download",
        "tableau:viz_data_service:read",
        "tableau:datasources:create",
        "tableau:datasources:update",
        "tableau:datasources:download",
        "tableau:file_uploads:create",
        "tableau:jobs:read",
        "tableau:tasks:run",
    }
)


def luid(*words: str) -> str:
    """An id that is the same for the same content in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("tableau-sandbox", *words))))


@dataclass(slots=True)
class Token:
    """A personal access token. Only one session of it lives at a time."""

    secret: str
    expires: datetime | None = None
    revoked: bool = False


@dataclass(slots=True)
class App:
    """A connected app with direct trust: its client id is the key it stands under."""

    secret_id: str
    secret: str
    users: frozenset[str] = frozenset({"connector@example.com"})


@dataclass(slots=True)
class Project:
    name: str
    parent: Project | None = None
    writable: bool = True

    @property
    def id(self) -> str:
        return luid("project", self.path)

    @property
    def path(self) -> str:
        return f"{self.parent.path}/{self.name}" if self.parent else self.name


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a data source; rows hold it under its `name`, which is the caption unless given."""

    caption: str
    kind: Kind = "STRING"
    measure: bool = False
    name: str = ""

    @property
    def key(self) -> str:
        return self.name or self.caption


@dataclass(slots=True)
class Datasource:
    """A published data source. `rows` is asked anew at every read; `blob` is the published .hyper when a client published one."""

    name: str
    project: Project
    columns: tuple[Column, ...] = ()
    rows: Callable[[], Iterable[Row]] = tuple
    id: str = ""
    description: str = ""
    certified: bool = False
    api_access: bool = True
    downloadable: bool = True
    blob: bytes | None = None
    created_at: datetime = datetime(2026, 1, 5, 9, tzinfo=UTC)
    updated_at: datetime = datetime(2026, 1, 5, 9, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.id = self.id or luid("datasource", self.project.path, self.name)

    @property
    def content_url(self) -> str:
        return self.name.replace(" ", "")


@dataclass(frozen=True, slots=True)
class Shown:
    """A field on a sheet: the caption, how it is aggregated (None: as a dimension), how it is formatted, its alias in Measure Names."""

    caption: str
    function: Function | None = None
    format: Format = "text"
    alias: str | None = None

    @property
    def measure(self) -> bool:
        return self.function not in (None, "TRUNC_MONTH")

    @property
    def header(self) -> str:
        return (PREFIXES[self.function] if self.function else "") + self.caption

    @property
    def name(self) -> str:
        """What Measure Names calls it."""
        return self.alias or self.header


@dataclass(slots=True)
class Workbook:
    name: str
    project: Project
    views: list[View] = field(default_factory=list)

    @property
    def id(self) -> str:
        return luid("workbook", self.project.path, self.name)

    @property
    def content_url(self) -> str:
        return re.sub(r"[^\w-]", "", self.name)

    def add(self, view: View) -> View:
        view.workbook = self
        self.views.append(view)
        return view


@dataclass(slots=True)
class View:
    """A sheet, dashboard or story.

    `measure_names` puts Measure Names and Measure Values on the sheet: one row per measure and mark, the measures repeated on each.
    `totals` adds a grand total row. `across` is the field on the Columns shelf of the crosstab. `raw` answers with these bytes
    instead. `visible` False hides it from the signed-in user; `hidden` takes it out of the published sheets.
    `downloadable` is the Download Summary Data capability.
    """

    name: str
    datasource: Datasource | None = None
    shown: tuple[Shown, ...] = ()
    sheet_type: Literal["worksheet", "dashboard", "story"] = "worksheet"
    sheets: tuple[str, ...] = ()
    measure_names: bool = False
    totals: bool = False
    across: str | None = None
    visible: bool = True
    hidden: bool = False
    downloadable: bool = True
    raw: bytes | None = None
    workbook: Workbook | None = None
    updated_at: datetime = datetime(2026, 1, 5, 9, tzinfo=UTC)

    @property
    def home(self) -> Workbook:
        assert self.workbook is not None
        return self.workbook

    @property
    def id(self) -> str:
        return luid("view", self.home.project.path, self.home.name, self.name)

    @property
    def content_url(self) -> str:
        return f"{self.home.content_url}/sheets/{self.url_name}"

    @property
    def url_name(self) -> str:
        return re.sub(r"[^\w-]", "", self.name)

    def marks(self, filters: Mapping[str, frozenset[str]]) -> Iterator[tuple[Value, ...]]:
        """The sheet's marks in order of appearance, one value per shown field. Filters on fields that do not exist are ignored."""
        assert self.datasource is not None
        rows = (row for row in self.datasource.rows() if _passes(row, filters))
        if not any(shown.measure for shown in self.shown):
            yield from (tuple(_plain(row, shown) for shown in self.shown) for row in rows)
            return
        groups: dict[tuple[Value, ...], list[_Aggregate]] = {}
        dimensions = [shown for shown in self.shown if not shown.measure]
        for row in rows:
            key = tuple(_plain(row, shown) for shown in dimensions)
            group = groups.setdefault(key, [_Aggregate(shown.function) for shown in self.shown if shown.measure])
            for aggregate, shown in zip(group, (shown for shown in self.shown if shown.measure), strict=True):
                aggregate.add(row.get(shown.caption))
        for key, group in groups.items():
            values, results = iter(key), iter(group)
            yield tuple(next(results).result() if shown.measure else next(values) for shown in self.shown)

    def grand_total(self, filters: Mapping[str, frozenset[str]]) -> tuple[Value, ...]:
        """The row Tableau adds under the marks: `Grand Total` in the first dimension, nothing in the others."""
        assert self.datasource is not None
        aggregates = [_Aggregate(shown.function) if shown.measure else None for shown in self.shown]
        for row in self.datasource.rows():
            if _passes(row, filters):
                for shown, aggregate in zip(self.shown, aggregates, strict=True):
                    if aggregate:
                        aggregate.add(row.get(shown.caption))
        first = next(index for index, shown in enumerate(self.shown) if not shown.measure)
        return tuple(
            aggregate.result() if aggregate else ("Grand Total" if index == first else None) for index, aggregate in enumerate(aggregates)
        )


def _passes(row: Row, filters: Mapping[str, frozenset[str]]) -> bool:
    return all(caption not in row or wire(row[caption]) in wanted for caption, wanted in filters.items())


def wire(value: Value) -> str:
    """A value as filters in a URL name it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "Null" if value is None else str(value)


def _plain(row: Row, shown: Shown) -> Value:
    value = row.get(shown.caption)
    if shown.function == "TRUNC_MONTH" and isinstance(value, date):
        return date(value.year, value.month, 1)
    return value


class _Aggregate:
    """One measure of one mark; nulls do not count."""

    def __init__(self, function: Function | None) -> None:
        self.function = function
        self.count = 0
        self.total: int | float | Decimal = 0
        self.values: set[Value] = set()

    def add(self, value: Value) -> None:
        if value is None:
            return
        self.count += 1
        if self.function in ("COUNTD", "MIN", "MAX"):
            self.values.add(value)
        elif self.function in ("SUM", "AVG"):
            assert isinstance(value, int | float | Decimal)
            self.total += value  # type: ignore[operator]  # one column holds one type of number

    def result(self) -> Value:
        if self.function == "COUNT":
            return self.count
        if self.function == "COUNTD":
            return len(self.values)
        if not self.count:
            return None
        if self.function == "SUM":
            return self.total
        if self.function == "AVG":
            return self.total / self.count
        pick = min if self.function == "MIN" else max
        return pick(self.values)  # type: ignore[type-var]


@dataclass(slots=True)
class Site:
    """One site of the server and who may sign in to it. `patience` is how long a session lives."""

    content_url: str = "sales"
    name: str = "Sales"
    user: str = "connector@example.com"
    tokens: dict[str, Token] = field(default_factory=lambda: {"connector": Token("sandbox-secret")})
    apps: dict[str, App] = field(default_factory=dict)
    projects: list[Project] = field(default_factory=list)
    workbooks: list[Workbook] = field(default_factory=list)
    datasources: list[Datasource] = field(default_factory=list)
    session: timedelta = timedelta(minutes=120)
    locale: str = "en_US"

    @property
    def id(self) -> str:
        return luid("site", self.content_url)

    @property
    def user_id(self) -> str:
        return luid("user", self.user)

    @property
    def views(self) -> list[View]:
        """Every published view, whoever may see it."""
        return [view for workbook in self.workbooks for view in workbook.views if not view.hidden]
