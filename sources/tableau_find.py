"""Finding things on a Tableau site by what people have: a path, a pasted address, an id."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import tableauserverclient as tsc

from connector.auth.tableau import UNFILTERABLE, Connection, Refused
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, nearest
from sources.tableau_answers import as_object

log = logging.getLogger(__name__)

LUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
URL_NAMES: Final = re.compile(r"[\w-]+/[\w-]+")
SHEETS: Final = "query($luid: String) { dashboards(filter: {luid: $luid}) { sheets { name luid } } }"
ABOVE: Final = "query($luid: String) { sheets(filter: {luid: $luid}) { upstreamDatasources { name ... on PublishedDatasource { luid } } } }"


def find_view(connection: Connection, wanted: str) -> tsc.ViewItem:
    """The view by id, address, `Workbook/View` or `Project/Workbook/View`; names may have slashes of their own.

    Raises AuthError when there is none the user may see, ConfigError when there are several.
    """
    what = f"view {wanted!r}"
    if LUID.fullmatch(wanted):
        return _view_by_id(connection, what, wanted)
    if "://" in wanted:
        path = _address(connection, wanted)
        found = _views(connection, what, {"contentUrl": path})
        siblings = {"contentUrl": f"{path.split('/')[0]}/*"}
    else:
        readings = list(_readings(wanted))
        if not readings:
            raise ConfigError(f"{what}: expected Workbook/View, an address or an id", remedy="e.g. Sales Pipeline/Stage Detail")
        project, workbook, view = readings[0]
        found = _named(connection, what, project, workbook, view)
        if not found and URL_NAMES.fullmatch(f"{workbook}/{view}"):
            found = _views(connection, what, {"contentUrl": f"{workbook}/sheets/{view}"})
        for other in readings[1:]:
            found = found or _named(connection, what, *other)
        siblings = {"workbookName": workbook}
    if not found:
        there = nearest(wanted, sorted({str(item.name) for item in _views(connection, what, siblings)}))
        raise _hidden(connection, what, there)
    if len(found) > 1:
        listed = ", ".join(f"{item.id} ({item.content_url})" for item in found)
        raise ConfigError(
            f"{what}: there are {len(found)}: {listed}", remedy="name the one you mean by its id, or as Project/Workbook/View"
        )
    return found[0]


def _view_by_id(connection: Connection, what: str, luid: str) -> tsc.ViewItem:
    """A view by its id; with its sheet type, which some servers say only in lists."""
    try:
        view = connection.put(what, lambda server: server.views.get_by_id(luid))
    except Refused as refusal:
        if refusal.status != 404:
            raise connection.error(what, refusal) from refusal
        raise _hidden(connection, what, "") from refusal
    if view.sheet_type is None and view.content_url:
        listed = _views(connection, what, {"contentUrl": view.content_url})
        return next((each for each in listed if each.id == view.id), view)
    return view


def _readings(wanted: str) -> Iterator[tuple[str, str, str]]:
    """Project, workbook and view that a path may mean, the plainest first: a slash may be part of a name."""
    pieces = wanted.strip().strip("/").split("/")
    for view in range(1, len(pieces)):
        for workbook in range(1, len(pieces) - view + 1):
            above, books, last = pieces[: -view - workbook], pieces[-view - workbook : -view], pieces[-view:]
            yield (above[-1] if above else "").strip(), "/".join(books).strip(), "/".join(last).strip()


def _named(connection: Connection, what: str, project: str, workbook: str, view: str) -> list[tsc.ViewItem]:
    return _views(connection, what, {"name": view, "workbookName": workbook, "projectName": project}, view)


def refuse_collections(connection: Connection, wanted: str, view: tsc.ViewItem) -> tuple[str, ...]:
    """A dashboard would silently give the first of its sheets, a story nothing. Raises ConfigError with the sheets to name instead.

    Returns a warning where Tableau does not say what the view is.
    """
    if view.sheet_type is None:
        return (f"Tableau does not say whether view {wanted!r} is a sheet: of a dashboard this would be the data of its first sheet only",)
    if view.sheet_type not in ("dashboard", "story"):
        return ()
    raise ConfigError(
        f"view {wanted!r} is a {view.sheet_type}: Tableau would give the data of one of its sheets only", remedy=_members(connection, view)
    )


def find_datasource(connection: Connection, wanted: str) -> str:
    """The id of a published data source, by id, name or `Project/Name`. Raises AuthError or ConfigError."""
    what = f"data source {wanted!r}"
    if LUID.fullmatch(wanted):
        return wanted
    pieces = wanted.strip().strip("/").split("/")
    found: list[Any] = []
    for length in range(1, len(pieces) + 1):  # a slash may be part of the name
        project, name = (pieces[-length - 1].strip() if length < len(pieces) else ""), "/".join(pieces[-length:]).strip()
        listed = connection.all(what, lambda server: server.datasources, {"name": name, "projectName": project})
        found = [item for item in listed if item.name == name and (not project or item.project_name == project)]
        if found:
            break
    if not found:
        raise _hidden(connection, what, "", "a data source inside a workbook cannot be read: publish it on its own")
    if len(found) > 1:
        listing = ", ".join(f"{item.id} (project {item.project_name})" for item in found)
        raise ConfigError(f"{what}: there are {len(found)}: {listing}", remedy="name the one you mean by its id, or as Project/Name")
    return str(found[0].id)


def datasource_of(connection: Connection, wanted: str) -> str:
    """The id of the published data source a view draws from. Raises SourceError when there is none, or more than one."""
    view = find_view(connection, wanted)
    sheets = _graph(connection, f"view {wanted!r}", ABOVE, view, "sheets")
    sources = [source for sheet in sheets for source in sheet.get("upstreamDatasources") or ()]
    above = {source["luid"]: str(source.get("name")) for source in sources if source.get("luid")}
    if len(above) == 1:
        return str(next(iter(above)))
    raise SourceError(
        f"view {wanted!r} draws from {len(above) or 'no'} published data source{'s' if len(above) != 1 else ''}"
        + (f": {', '.join(sorted(above.values()))}" if above else ""),
        remedy="name one with `datasource:`, or use `mode: view`",
    )


def _address(connection: Connection, wanted: str) -> str:
    """`Workbook/sheets/View` from an address as a browser shows it."""
    parts = urlsplit(wanted)
    path = parts.fragment if parts.fragment.startswith("/") else parts.path  # #1 counts how often the page was opened
    match = re.fullmatch(r"/?(?:site|t)/([^/]+)(/.*)", path)
    site, path = (unquote(match[1]), match[2]) if match else ("", path)
    own = connection.access.site
    if site.casefold() != own.casefold():
        raise ConfigError(f"view {wanted!r} is on site {site!r}, and `site` is {own!r}")
    pieces = unquote(path).split("?")[0].strip("/").split("/")
    if pieces[0] != "views" or len(pieces) < 3:
        raise ConfigError(f"view {wanted!r}: not the address of a view", remedy="it looks like …/#/site/acme/views/Workbook/View")
    if len(pieces) > 3:
        raise ConfigError(f"view {wanted!r} is a custom view", remedy="give the address of the view itself, and its filters as `filters:`")
    return f"{pieces[1]}/sheets/{pieces[2]}"


def _views(connection: Connection, what: str, filters: Mapping[str, str], name: str | None = None) -> list[tsc.ViewItem]:
    """The visible views that pass the filters, and are called `name` to the letter."""
    found = [item for item in connection.all(what, lambda server: server.views, filters) if name in (None, item.name)]
    workbook = filters.get("workbookName", "")
    if UNFILTERABLE.search(workbook):
        names = {item.workbook_id: _workbook_name(connection, what, item.workbook_id) for item in found}
        found = [item for item in found if names[item.workbook_id] == workbook]
    return found


def _workbook_name(connection: Connection, what: str, luid: str | None) -> str | None:
    return connection.ask(what, lambda server: server.workbooks.get_by_id(luid or "")).name


def _members(connection: Connection, view: tsc.ViewItem) -> str:
    """Which sheets to name instead of a dashboard: its own; those of its whole workbook where the Metadata API does not say."""
    try:
        nodes = _graph(connection, "sheets of the dashboard", SHEETS, view, "dashboards")
        if names := sorted(str(sheet["name"]) for node in nodes for sheet in node.get("sheets") or () if sheet.get("luid")):
            return f"name one of its sheets: {', '.join(names)}"
        why = "the Metadata API lists none"
    except ConnectorError as error:
        why = "the Metadata API does not say which it has"
        log.info("%s", error)
    try:
        others = _views(connection, "sheets of the workbook", {"contentUrl": f"{str(view.content_url).split('/')[0]}/*"})
    except ConnectorError as error:
        log.info("%s", error)
        return "name one of its sheets; each must be published, not hidden"
    names = sorted(str(item.name) for item in others if item.sheet_type == "worksheet")
    return (
        f"name one of its sheets; {why}, its workbook has: {', '.join(names)}" if names else "publish its sheets, not hidden, and name one"
    )


def _graph(connection: Connection, what: str, query: str, view: tsc.ViewItem, wanted: str) -> list[dict[str, Any]]:
    """The nodes of an answer of the Metadata API; it may come with errors and yet with status 200."""
    place = f"{connection.place}: {what}"
    body = {"query": query, "variables": {"luid": view.id}}
    try:
        response = connection.fetch(what, "POST", "/api/metadata/graphql", json=body, repeatable=True)
    except Refused as refusal:
        if refusal.status not in (404, 405):
            raise connection.error(what, refusal) from refusal
        raise ConfigError(
            f"{place}: the Metadata API is switched off",
            remedy="name the data source with `datasource:`, or ask the server's admin for the Metadata API",
        ) from refusal
    answer = as_object(place, response)
    data = answer.get("data")
    if answer.get("errors") or not isinstance(data, dict):
        raise SourceError(f"{place}: the Metadata API cannot say yet", remedy="run again later, or use `datasource:`")
    nodes = data.get(wanted) or []
    return [node for node in nodes if isinstance(node, dict)]


def _hidden(connection: Connection, what: str, there: str, also: str = "") -> AuthError:
    return AuthError(
        f"{connection.place}: {what}: not there, or not visible to the user who signs in{f'; {there}' if there else ''}",
        remedy=also
        or "check the name, or use the view's id; give the user the View and Download Summary Data capabilities; unhide the sheet in its workbook",
    )
