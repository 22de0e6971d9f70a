"""Tableau views and published data sources, on Tableau Server and Cloud.

    - {view: Sales Pipeline/Stage Detail, table: stage_detail, filters: {Region: [EMEA]}, locale: en_US}

Four ways to the data (`mode`): `view`, what the sheet shows, as text; `crosstab`, the same laid out as on the sheet; `vds`, typed and
unrounded from the published data source behind it; `extract`, every row of a published extract. See docs/sources/tableau.md.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from connector import reading
from connector.api import Entity, Finding, Model, NetworkConfig, Page, PluginConfig, Since
from connector.auth.tableau import Access, Connection, Refused
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError
from connector.http import Session
from connector.model import ENTITIES
from sources import tableau_typed as typed
from sources.tableau_find import datasource_of, find_datasource, find_view, refuse_collections
from sources.tableau_text import Export, Table, one_row_per_mark, unproven, without_totals

Scalar = str | int | float | bool | date | datetime
PAGE_ROWS: Final = 20_000
EMPTY_CROSSTAB: Final = "400130"
SCOPES: Final[Mapping[str, str]] = {
    "view": "tableau:views:download",
    "crosstab": "tableau:views:download",
    "vds": "tableau:viz_data_service:read",
    "extract": "tableau:datasources:download",
}


class View(Model):
    """One view or published data source, and the table it becomes."""

    view: str | None = Field(None, description="Workbook/View (or Project/Workbook/View), the address of the view, or its id.")
    datasource: str | None = Field(None, description="Published data source for `vds` and `extract`: name, Project/Name or id.")
    table: str = Field(description="Name of the table: a canonical one (deals, leads …) or any other for a plain table.")
    mode: Literal["view", "crosstab", "vds", "extract"] = Field("view", description="Which way to the data.")
    filters: Mapping[str, Scalar | tuple[Scalar, ...]] = Field({}, description="Field: value or list of values to keep.")
    parameters: Mapping[str, Scalar] = Field({}, description="Parameter: value.")
    max_age: int = Field(1, ge=1, le=240, description="Oldest cached result to accept, in minutes.")
    columns: tuple[str, ...] | Mapping[str, str | None] = Field((), description="For `vds`: fields to ask for, or field: function (SUM …).")
    extract_table: str | None = Field(None, description="For `extract`: the table, where the extract has several.")
    locale: str | None = Field(None, description="How numbers and month names are written in the view, e.g. en_US or de_DE.")
    dates: str | Mapping[str, str] | None = Field(
        None, description="How dates are written: iso, day-first, month-first or a pattern such as %m/%d/%Y; or column → one of these."
    )
    timezone: str | None = Field(None, description="Zone of the view's date-times, which name none, e.g. UTC; the flow's unless given.")
    totals: Literal["keep", "drop"] | None = Field(None, description="What to do with rows that look like totals and do not prove it.")
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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.view is None) == (self.datasource is None):
            raise ValueError("give either `view` or `datasource`")
        if self.datasource and self.mode in ("view", "crosstab"):
            raise ValueError(f"`mode: {self.mode}` reads a `view`; for a data source use `mode: vds` or `mode: extract`")
        if self.mode == "extract" and (self.filters or self.parameters):
            raise ValueError("an extract is read whole: use `where` instead of `filters` and `parameters`")
        if self.columns and self.mode != "vds":
            raise ValueError("`columns` is for `mode: vds`; other modes give what the view has")
        return self

    @property
    def place(self) -> str:
        return f"view {self.view!r}" if self.view else f"data source {self.datasource!r}"


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


class TableauSource:
    """Reads views and published data sources whole; signed in from the first read until the last."""

    Config: ClassVar[type[PluginConfig]] = TableauConfig

    def __init__(self, config: TableauConfig, session: Session) -> None:
        self._views = {view.table: view for view in config.views}
        scopes = ["tableau:content:read", *sorted({SCOPES[view.mode] for view in config.views})]
        self._connection = Connection(config, session, scopes)
        self._unread = set(self._views)

    def entities(self) -> tuple[Entity, ...]:
        return tuple(
            Entity(
                view.table,
                f"Tableau {view.place}",
                fields=view.fields,
                text=view.mode in ("view", "crosstab"),
                dates=view.dates,
                locale=view.locale,
                status={str(outcome): words for outcome, words in view.status.items()},
                where=view.where,
                on_bad_value=view.on_bad_value,
                key=view.key,
                timezone=view.timezone,
            )
            for view in self._views.values()
        )

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """The whole table: Tableau knows no changes since. Raises our errors and nothing else."""
        view = self._views[entity.name]
        done = False
        try:
            yield from {"view": self._shown, "crosstab": self._crosstab, "vds": self._queried, "extract": self._extracted}[view.mode](view)
            done = True
        finally:
            self._unread.discard(entity.name)
            if not done or not self._unread:
                self._connection.sign_out()

    def check(self) -> Iterator[Finding]:
        """Signs in, then finds each view and asks for its data without reading it."""
        try:
            yield _finding(f"sign-in to {self._connection.place}", self._signed_in)
            if self._connection.signed_in:
                for view in self._views.values():
                    yield _finding(view.place, partial(self._reachable, view))
        finally:
            self._connection.sign_out()

    def _signed_in(self) -> str:
        server = self._connection.server()
        return f"site {self._connection.access.site or 'default'}, REST API {server.version}"

    def _reachable(self, view: View) -> str:
        connection = self._connection
        if view.mode in ("vds", "extract"):
            luid = self._datasource(view)
            if view.mode == "vds":
                return f"{len(typed.fields(connection, view.place, luid))} fields"
            typed.require_pantab()
            return self._opened(view, f"datasources/{luid}/content", {"includeExtract": "True"})
        assert view.view
        found = find_view(connection, view.view)
        refuse_collections(connection, view.view, found)
        return self._opened(view, _export(view, found.id), {"maxAge": "240"})

    def _opened(self, view: View, path: str, params: Mapping[str, str]) -> str:
        """Asks for the data and hangs up when it begins to come."""
        try:
            self._connection.fetch(view.place, "GET", path, params=params, stream=True).close()
        except Refused as refusal:
            if refusal.code != EMPTY_CROSSTAB:
                raise self._explained(view, refusal) from refusal
        return "readable"

    # ── what the sheet shows ──────────────────────────────────────────────────────────────────────

    def _shown(self, view: View) -> Iterator[Page]:
        with _folder() as folder, ExitStack() as until:
            path = self._export_path(view)
            file = folder / "view.csv"
            self._download(view, path, _params(view), file)
            place = f"Tableau {view.place}"
            export = Export(file, place)
            warnings = [f"{place}: column {name!r} has a header that comes more than once" for name in export.repeated]
            if not export.has_rows():
                yield _empty(view, export.names, f"{place}: the view is empty")
                return
            doubtful = unproven(export, {name: _wire(values) for name, values in view.filters.items()})
            self._prove(view, path, export.names, doubtful, folder)
            table = one_row_per_mark(export, place, folder / "marks.sqlite", view.locale, until)
            long = table is not export
            table = without_totals(table, place, view.totals, view.locale, warnings.append)
            yield from _pages(table, view, warnings, numbered=not long)

    def _prove(self, view: View, path: str, names: Sequence[str], doubtful: Sequence[str], folder: Path) -> None:
        """Make sure that Tableau applied a filter the rows do not prove: a misspelt field name it ignores in silence.

        With a value that nothing has, the answer must be empty.
        """
        for name in doubtful:
            params = {**_params(view), f"vf_{name}": f"no such value {uuid.uuid4()}"}
            if not self._is_empty(view, path, params, folder / "nothing"):
                raise SourceError(
                    f"Tableau {view.place}: filters: Tableau ignores {name!r}, so the data would not be filtered",
                    remedy=f"write the field as the workbook calls it, case and spaces included; on the sheet there is: {', '.join(names)}",
                )

    def _is_empty(self, view: View, path: str, params: Mapping[str, str], file: Path) -> bool:
        if not self._download(view, path, params, file):
            return True
        return view.mode == "view" and not Export(file, view.place).has_rows()

    def _crosstab(self, view: View) -> Iterator[Page]:
        place, path = f"Tableau {view.place}", self._export_path(view)
        with _folder() as folder:
            file = folder / "crosstab.xlsx"
            if not self._download(view, path, _params(view), file):
                yield _empty(view, (), f"{place}: the view is empty")
                return
            names, rows = typed.crosstab(file, place)
            self._prove(view, path, names, list(view.filters), folder)
            for start in range(0, len(rows), PAGE_ROWS):
                part = [dict(zip(names, row, strict=True)) for row in rows[start : start + PAGE_ROWS]]
                yield Page(part, total=len(rows))

    # ── what is behind it ─────────────────────────────────────────────────────────────────────────

    def _queried(self, view: View) -> Iterator[Page]:
        what, luid = view.place, self._datasource(view)
        known = typed.fields(self._connection, what, luid)
        columns = view.columns if isinstance(view.columns, Mapping) else dict.fromkeys(view.columns)
        filters = {name: values if isinstance(values, tuple) else (values,) for name, values in view.filters.items()}
        asked, schema = typed.query(known, what, columns, filters, view.parameters)
        left = sorted({each.caption for each in known} - set(schema.names)) if not columns else []
        warnings = (f"{what}: left out, as rows have no value of their own for them: {', '.join(left)}",) if left else ()
        for batch in typed.rows(self._connection, what, luid, asked, schema):
            yield Page(batch, warnings=warnings)

    def _extracted(self, view: View) -> Iterator[Page]:
        luid = self._datasource(view)
        with _folder() as folder:
            for batch, total in typed.extract(self._connection, view.place, luid, view.extract_table, folder):
                yield Page(batch, total=total)

    def _datasource(self, view: View) -> str:
        if view.datasource:
            return find_datasource(self._connection, view.datasource)
        assert view.view
        return datasource_of(self._connection, view.view)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _export_path(self, view: View) -> str:
        assert view.view
        found = find_view(self._connection, view.view)
        refuse_collections(self._connection, view.view, found)
        return _export(view, found.id)

    def _download(self, view: View, path: str, params: Mapping[str, str], into: Path) -> bool:
        """Save an export; False when Tableau says that there is nothing to export."""
        try:
            self._connection.download(view.place, path, into, params=params)
        except Refused as refusal:
            if refusal.code != EMPTY_CROSSTAB:
                raise self._explained(view, refusal) from refusal
            return False
        return True

    def _explained(self, view: View, refusal: Refused) -> ConnectorError:
        place = f"{self._connection.place}: {view.place}"
        if refusal.status == 403:
            return AuthError(f"{place}: its data may not be downloaded", remedy="give the user the Download Summary Data capability on it")
        if refusal.status == 400:
            return SourceError(
                f"{place}: Tableau cannot compute its data ({refusal})",
                remedy="open the view in Tableau: its data source may be broken or need credentials, or `parameters` may not fit",
            )
        return self._connection.error(view.place, refusal)


def _export(view: View, luid: str | None) -> str:
    return f"views/{luid}/{'data' if view.mode == 'view' else 'crosstab/excel'}"


def _params(view: View) -> dict[str, str]:
    """The query of an export. A comma separates values, so those inside a value are escaped."""
    params = {"maxAge": str(view.max_age)}
    for name, values in view.filters.items():
        params[f"vf_{name}"] = ",".join(text.replace("\\", "\\\\").replace(",", "\\,") for text in _wire(values))
    for name, value in view.parameters.items():
        params[f"vf_Parameters.{name}"] = _wire(value)[0]
    return params


def _wire(values: Scalar | Sequence[Scalar]) -> list[str]:
    """Values as filters name them: true and false in small letters, dates as ISO."""
    given = values if isinstance(values, tuple) else (values,)
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in given]


def _pages(table: Table, view: View, warnings: Sequence[str], *, numbered: bool) -> Iterator[Page]:
    row = 2  # the header is the first
    for batch in table.batches():
        page = (
            pa.RecordBatch.from_arrays([_without_null(column) for column in batch.columns], names=batch.schema.names)
            if view.null_text
            else batch
        )
        yield Page(page, first_row=row if numbered else None, warnings=tuple(warnings))
        row += batch.num_rows


def _without_null(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(column, "Null"), None, column)


def _empty(view: View, names: Sequence[str], warning: str) -> Page:
    """No rows, with the columns there are; where Tableau names none, with those that are mapped: no rows is no error."""
    known = names or tuple(dict.fromkeys(view.fields.values())) or tuple(ENTITIES.get(view.table, pa.schema([])).names)
    schema = pa.schema([pa.field(name, pa.string()) for name in known])
    return Page(pa.RecordBatch.from_pylist([], schema), total=0, warnings=(warning,))


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, ok=True, detail=look())
    except ConnectorError as error:
        return Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="connector-tableau-") as folder:
        yield Path(folder)
