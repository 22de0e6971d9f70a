"""Tableau views and published data sources, on Tableau Server and Cloud.

    - {view: Sales Pipeline/Stage Detail, table: stage_detail, filters: {Region: [EMEA]}, locale: en_US}

Four ways to the data (`mode`): `view`, what the sheet shows, as text; `crosstab`, the same laid out as on the sheet; `vds`, typed and
unrounded from the published data source behind it; `extract`, every row of a published extract. See docs/sources/tableau.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

import pyarrow as pa

from connector.api import Entity, Finding, Page, PluginConfig, Since
from connector.auth.tableau import BLOCK, Connection, Refused
from connector.errors import AuthError, ConnectorError, SourceError
from connector.http import LOST, Session, unanswered
from connector.model import ENTITIES
from sources import tableau_filters as filters
from sources import tableau_vizql as vizql
from sources.tableau_answers import refuse_page, refuse_saved_page
from sources.tableau_config import SHOWN, TableauConfig, View
from sources.tableau_crosstab import crosstab
from sources.tableau_extract import extract, require_pantab
from sources.tableau_find import datasource_of, find_datasource, find_view, refuse_collections
from sources.tableau_measures import one_row_per_mark
from sources.tableau_text import Export, Table, Tidy, is_id, tidier, without_null
from sources.tableau_totals import Guard

__all__ = ["TableauConfig", "TableauSource"]

PAGE_ROWS: Final = 20_000
EMPTY_CROSSTAB: Final = "400130"
SCOPES: Final[Mapping[str, str]] = {
    "view": "tableau:views:download",
    "crosstab": "tableau:views:download",
    "vds": "tableau:viz_data_service:read",
    "extract": "tableau:datasources:download",
}
#: the names in a SQL condition, and a few other words
WORDS: Final = re.compile(r'"((?:[^"]|"")+)"|([^\W\d]\w*)')


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
                text=view.mode in SHOWN,
                dates=view.date_order,
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

    # ── check ─────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Iterator[Finding]:
        """Signs in, then finds each view and asks for its data, of which it reads no more than it needs to know filters and columns."""
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
        if view.mode == "vds":
            known, _, _ = self._question(view, self._datasource(view))
            return f"{len(known)} fields"
        if view.mode == "extract":
            require_pantab()
            self._begun(view, f"datasources/{self._datasource(view)}/content", {"includeExtract": "True"})
            return "readable"
        path, warnings = self._export_path(view)
        head = self._begun(view, path, {"maxAge": "240"})
        with _folder() as folder:
            names: tuple[str, ...] = ()
            if view.mode == "view":
                (folder / "head.csv").write_bytes(head[: head.rfind(b"\n") + 1] or head)
                names = Export(folder / "head.csv", f"Tableau {view.place}").names
            self._prove(view, path, names, [name for name in view.filters if name not in names], folder)
        return "; ".join(("readable", *warnings))

    def _begun(self, view: View, path: str, params: Mapping[str, str]) -> bytes:
        """Asks for the data and hangs up when it begins to come."""
        try:
            with self._connection.fetch(view.place, "GET", path, params=params, stream=True) as response:
                head: bytes = next(response.iter_content(BLOCK), b"")
        except Refused as refusal:
            if refusal.code != EMPTY_CROSSTAB:
                raise self._explained(view, refusal) from refusal
            return b""
        except LOST as error:
            raise unanswered(f"{self._connection.place}: {view.place}", error) from error
        refuse_page(f"{self._connection.place}: {view.place}", response.headers.get("Content-Type", ""), head)
        return head

    # ── what the sheet shows ──────────────────────────────────────────────────────────────────────

    def _shown(self, view: View) -> Iterator[Page]:
        place = f"Tableau {view.place}"
        with _folder() as folder, ExitStack() as until:
            path, warned = self._export_path(view)
            warnings = list(warned)
            file = folder / "view.csv"
            export = Export(file, place) if self._download(view, path, filters.query(view), file) else None
            if export is None or not export.has_rows():
                yield _empty(view, export.names if export else (), [*warnings, f"{place}: the view is empty"])
                return
            warnings += [f"{place}: column {name!r} has a header that comes more than once" for name in export.repeated]
            self._prove(view, path, export.names, self._unproven(view, export), folder)
            table = one_row_per_mark(export, place, folder / "marks.sqlite", view.locale, until)
            first_row = 2 if table is export else None
            guard = Guard(place, view.totals, view.locale, warnings.append, _keys(view), first_row)
            yield from _pages(guard.without(table), view, warnings, first_row)

    def _crosstab(self, view: View) -> Iterator[Page]:
        place = f"Tableau {view.place}"
        with _folder() as folder:
            path, warned = self._export_path(view)
            warnings, file = list(warned), folder / "crosstab.xlsx"
            shown = crosstab(file, place) if self._download(view, path, filters.query(view), file) else None
            if shown is None or not shown.has_rows():
                yield _empty(view, shown.names if shown else (), [*warnings, f"{place}: the view is empty"])
                return
            self._prove(view, path, shown.names, self._unproven(view, shown), folder)
            guard = Guard(place, view.totals, "en_US", warnings.append, _keys(view), shown.first_row, exact=True)
            shown = shown.without(guard.gone(shown)).tidied(_tidy(view))
            if not shown.rows:
                yield _empty(view, shown.names, warnings)
            for start in range(0, len(shown.rows), PAGE_ROWS):
                part = [dict(zip(shown.names, row, strict=True)) for row in shown.rows[start : start + PAGE_ROWS]]
                yield Page(part, total=len(shown.rows), warnings=tuple(warnings))

    def _unproven(self, view: View, table: Table) -> list[str]:
        wanted = {name: filters.each(values) for name, values in view.filters.items()}
        return filters.unproven(table, wanted, f"Tableau {view.place}", view.locale)

    def _prove(self, view: View, path: str, names: Sequence[str], doubtful: Sequence[str], folder: Path) -> None:
        """Make sure that Tableau applied a filter the rows do not prove: a misspelt field name it ignores in silence.

        With a value that nothing has, the answer must be empty.
        """
        place = f"Tableau {view.place}: filters"
        for name in doubtful:
            params = {**filters.query(view), f"vf_{name}": filters.nobodys(filters.each(view.filters[name]))}
            try:
                ignored = self._has_rows(view, path, params, folder / "nothing")
            except Refused as refusal:
                raise SourceError(
                    f"{place}: nothing proves that Tableau applies {name!r}: asked for a value that nothing has, it fails ({refusal})",
                    remedy=f"put {name!r} on the sheet, on Detail for instance, so that the rows show it; or use `where`",
                ) from refusal
            if ignored:
                raise SourceError(
                    f"{place}: Tableau ignores {name!r}, so the data would not be filtered",
                    remedy="write the field as the workbook calls it, case and spaces included"
                    + (f"; on the sheet there is: {', '.join(names)}" if names else ""),
                )

    def _has_rows(self, view: View, path: str, params: Mapping[str, str], file: Path) -> bool:
        """Whether an export has rows. Raises `Refused` where Tableau cannot compute it."""
        place = f"Tableau {view.place}"
        try:
            kind = self._connection.download(view.place, path, file, params=params)
        except Refused as refusal:
            if refusal.code == EMPTY_CROSSTAB:
                return False
            if refusal.status == 400:
                raise
            raise self._explained(view, refusal) from refusal
        refuse_saved_page(place, kind, file)
        return Export(file, place).has_rows() if view.mode == "view" else crosstab(file, place).has_rows()

    # ── what is behind it ─────────────────────────────────────────────────────────────────────────

    def _queried(self, view: View) -> Iterator[Page]:
        what, luid = view.place, self._datasource(view)
        known, asked, schema = self._question(view, luid)
        left = sorted({each.caption for each in known} - set(schema.names)) if not view.columns else []
        warnings = (f"{what}: left out, as rows have no value of a known type for them: {', '.join(left)}",) if left else ()
        with _folder() as folder:
            for batch in vizql.rows(self._connection, what, luid, asked, schema, folder / "answer"):
                yield Page(without_null(batch) if view.null_text else batch, warnings=warnings)

    def _question(self, view: View, luid: str) -> tuple[list[vizql.Field], vizql.Query, pa.Schema]:
        known = vizql.fields(self._connection, view.place, luid)
        wanted = {name: filters.each(values) for name, values in view.filters.items()}
        return known, *vizql.query(known, view.place, view.wanted(), wanted, view.parameters)

    def _extracted(self, view: View) -> Iterator[Page]:
        luid = self._datasource(view)
        with _folder() as folder:
            for batch, total in extract(self._connection, view.place, luid, view.extract_table, folder):
                yield Page(without_null(batch) if view.null_text else batch, total=total)

    def _datasource(self, view: View) -> str:
        if view.datasource:
            return find_datasource(self._connection, view.datasource)
        assert view.view
        return datasource_of(self._connection, view.view)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────

    def _export_path(self, view: View) -> tuple[str, tuple[str, ...]]:
        """The address of a view's data, and what is to be said of the view."""
        assert view.view
        found = find_view(self._connection, view.view)
        warnings = refuse_collections(self._connection, view.view, found)
        return f"views/{found.id}/{'data' if view.mode == 'view' else 'crosstab/excel'}", warnings

    def _download(self, view: View, path: str, params: Mapping[str, str], into: Path) -> bool:
        """Save an export; False when Tableau says that there is nothing to export."""
        try:
            kind = self._connection.download(view.place, path, into, params=params)
        except Refused as refusal:
            if refusal.code != EMPTY_CROSSTAB:
                raise self._explained(view, refusal) from refusal
            return False
        refuse_saved_page(f"{self._connection.place}: {view.place}", kind, into)
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


def _keys(view: View) -> Callable[[str], bool]:
    """Which columns are known to tell rows apart: ids of a canonical table, and the `key`."""
    key = {name.casefold() for name in view.key}
    return lambda name: name.casefold() in key or is_id(name, view.table, view.fields)


def _tidy(view: View) -> Tidy:
    return tidier(view.table, view.fields, view.locale, null_text=view.null_text)


def _pages(table: Table, view: View, warnings: Sequence[str], first_row: int | None) -> Iterator[Page]:
    tidy, row = _tidy(view), first_row
    for batch in table.batches():
        names = batch.schema.names
        cells = [tidy(name, column) for name, column in zip(names, batch.columns, strict=True)]
        yield Page(pa.RecordBatch.from_arrays(cells, names=names), first_row=row, warnings=tuple(warnings))
        row = None if row is None else row + batch.num_rows


def _empty(view: View, names: Sequence[str], warnings: Sequence[str]) -> Page:
    """No rows, with the columns there are. Where Tableau names none, a table whose columns are mapped or canonical has those: no rows is no
    error. Of other tables nobody knows any.
    """
    known = tuple(names)
    if not known and (view.fields or view.table in ENTITIES):
        spoken = [match[1].replace('""', '"') if match[1] else match[2] for match in WORDS.finditer(view.where or "")]
        dates = view.dates if isinstance(view.dates, Mapping) else ()
        known = tuple(
            dict.fromkeys((*view.fields.values(), *(() if view.fields else ENTITIES[view.table].names), *view.key, *dates, *spoken))
        )
    if not known:
        return Page((), total=0, warnings=tuple(warnings))
    schema = pa.schema([pa.field(name, pa.string()) for name in known])
    return Page(pa.RecordBatch.from_pylist([], schema), total=0, warnings=tuple(warnings))


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, ok=True, detail=look())
    except ConnectorError as error:
        return Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="connector-tableau-") as folder:
        yield Path(folder)
