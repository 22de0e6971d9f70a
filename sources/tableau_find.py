"""Finding things on a Tableau site by what people have: a path, a pasted address, an id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import tableauserverclient as tsc

from connector.auth.tableau import UNFILTERABLE, Connection, Refused
from connector.errors import AuthError, ConfigError, SourceError, nearest

LUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
URL_NAMES: Final = re.compile(r"[\w-]+/[\w-]+")
SHEETS: Final = "query($luid: String) { dashboards(filter: {luid: $luid}) { sheets { name luid } } }"
ABOVE: Final = "query($luid: String) { sheets(filter: {luid: $luid}) { upstreamDatasources { name ... on PublishedDatasource { luid } } } }"


def find_view(connection: Connection, wanted: str) -> tsc.ViewItem:
    """The view by id, address, `Workbook/View` or `Project/Workbook/View`.

    Raises AuthError when there is none the user may see, ConfigError when there are several.
    """
    what = f"view {wanted!r}"
    if LUID.fullmatch(wanted):
        try:
            return connection.put(what, lambda server: server.views.get_by_id(wanted))
        except Refused as refusal:
            if refusal.status != 404:
                raise connection.error(what, refusal) from refusal
            raise _hidden(connection, what, "") from refusal
    path = _address(connection, wanted) if "://" in wanted else None
    if path is None:
        *project, workbook, view = ["", "", *(part.strip() for part in wanted.strip("/").split("/"))][-3:]
        if not workbook:
            raise ConfigError(f"{what}: expected Workbook/View, an address or an id", remedy="e.g. Sales Pipeline/Stage Detail")
        found = _views(connection, what, {"name": view, "workbookName": workbook, "projectName": project[0]}, view)
        if not found and URL_NAMES.fullmatch(f"{workbook}/{view}"):
            found = _views(connection, what, {"contentUrl": f"{workbook}/sheets/{view}"})
        siblings = {"workbookName": workbook}
    else:
        found = _views(connection, what, {"contentUrl": path})
        siblings = {"contentUrl": f"{path.split('/')[0]}/*"}
    if not found:
        raise _hidden(connection, what, nearest(wanted, sorted({str(item.name) for item in _views(connection, what, siblings)})))
    if len(found) > 1:
        listed = ", ".join(f"{item.id} ({item.content_url})" for item in found)
        raise ConfigError(
            f"{what}: there are {len(found)}: {listed}", remedy="name the one you mean by its id, or as Project/Workbook/View"
        )
    return found[0]


def refuse_collections(connection: Connection, wanted: str, view: tsc.ViewItem) -> None:
    """A dashboard would silently give the first of its sheets, a story nothing. Raises ConfigError with the sheets to name instead."""
    if view.sheet_type not in ("dashboard", "story"):
        return
    names = _members(connection, view)
    raise ConfigError(
        f"view {wanted!r} is a {view.sheet_type}: Tableau would give the data of one of its sheets only",
        remedy=f"name one of its sheets: {', '.join(names)}" if names else "name one of its sheets; each must be published, not hidden",
    )


def find_datasource(connection: Connection, wanted: str) -> str:
    """The id of a published data source, by id, name or `Project/Name`. Raises AuthError or ConfigError."""
    what = f"data source {wanted!r}"
    if LUID.fullmatch(wanted):
        return wanted
    *projects, name = (part.strip() for part in wanted.strip("/").split("/"))
    filters = {"name": name, "projectName": projects[-1] if projects else ""}
    listed = connection.all(what, lambda server: server.datasources, filters)
    found = [item for item in listed if item.name == name and (not projects or item.project_name == projects[-1])]
    if not found:
        raise _hidden(connection, what, "", "a data source inside a workbook cannot be read: publish it on its own")
    if len(found) > 1:
        listing = ", ".join(f"{item.id} (project {item.project_name})" for item in found)
        raise ConfigError(f"{what}: there are {len(found)}: {listing}", remedy="name the one you mean by its id, or as Project/Name")
    return str(found[0].id)


def datasource_of(connection: Connection, wanted: str) -> str:
    """The id of the published data source a view draws from. Raises SourceError when there is none, or more than one."""
    view = find_view(connection, wanted)
    sheets = _graph(connection, f"view {wanted!r}", ABOVE, view).get("sheets", [])
    above = {source["luid"]: source["name"] for sheet in sheets for source in sheet["upstreamDatasources"] if source.get("luid")}
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
    path = parts.fragment or parts.path
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


def _members(connection: Connection, view: tsc.ViewItem) -> list[str]:
    """The published sheets of a dashboard; of its whole workbook where the Metadata API does not say."""
    try:
        nodes = _graph(connection, "sheets of the dashboard", SHEETS, view).get("dashboards", [])
    except (SourceError, ConfigError):
        nodes = []
    names = [str(sheet["name"]) for node in nodes for sheet in node["sheets"] if sheet.get("luid")]
    if names:
        return sorted(names)
    workbook = str(view.content_url).split("/")[0]
    others = _views(connection, "sheets of the dashboard", {"contentUrl": f"{workbook}/*"})
    return sorted(str(item.name) for item in others if item.sheet_type == "worksheet")


def _graph(connection: Connection, what: str, query: str, view: tsc.ViewItem) -> dict[str, Any]:
    """An answer of the Metadata API; it may come with errors and yet with status 200."""
    try:
        response = connection.fetch(what, "POST", "/api/metadata/graphql", json={"query": query, "variables": {"luid": view.id}})
    except Refused as refusal:
        if refusal.status not in (404, 405):
            raise connection.error(what, refusal) from refusal
        raise ConfigError(
            f"{connection.place}: {what}: the Metadata API is switched off",
            remedy="name the data source with `datasource:`, or ask the server's admin for the Metadata API",
        ) from refusal
    answer = response.json()
    if answer.get("errors"):
        raise SourceError(f"{connection.place}: {what}: the Metadata API cannot say yet", remedy="run again later, or use `datasource:`")
    data: dict[str, Any] = answer["data"]
    return data


def _hidden(connection: Connection, what: str, there: str, also: str = "") -> AuthError:
    return AuthError(
        f"{connection.place}: {what}: not there, or not visible to the user who signs in{f'; {there}' if there else ''}",
        remedy=also or "check the name; give the user the View and Download Summary Data capabilities; unhide the sheet in its workbook",
    )
