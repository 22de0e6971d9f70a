"""The service itself: sign-in and sessions, the site's content, view exports, the Metadata API."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from xml.etree.ElementTree import Element

from connector.sandbox.server import Handler, Request, Response, Route, Service, reply
from connector.sandbox.tableau.content import SCOPES, Datasource, Project, Site, View, Workbook
from connector.sandbox.tableau.display import crosstab, csv_bytes, table
from connector.sandbox.tableau.publish import JobPlan, Publishing
from connector.sandbox.tableau.vizql import VizQL
from connector.sandbox.tableau.wire import E, answer, filtered, page, payload, problem, refused, view_filters

__all__ = ["JobPlan", "Tableau"]

#: one white pixel, one empty page
SMALLEST: Final[Mapping[str, bytes]] = {
    "image/png": base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="),
    "application/pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
}
PAGED: Final = frozenset({"pageSize", "pageNumber", "filter", "sort", "fields"})


@dataclass(slots=True)
class Session:
    """A signed-in client: which token it came by (None: a JWT), until when, and what it may do."""

    token: str | None
    until: datetime
    scopes: frozenset[str] = SCOPES


@dataclass(slots=True)
class Tableau(Service):
    """One Tableau with one site. `strict` lists what a careful client would not send; `ignore_filters` stops honouring `vf_`."""

    site: Site
    api: str = "3.28"
    strict: bool = False
    metadata: Literal["on", "off", "backfilling"] = "on"
    csv_type: str = "text/csv;charset=utf-8"
    bom: bool = False
    ignore_filters: bool = False
    sessions: dict[str, Session] = field(default_factory=dict)
    publishing: Publishing = field(init=False)
    name: str = "tableau"
    _seen: set[str] = field(default_factory=set)
    exports_at_once: int = 20
    _slots: threading.Semaphore = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.publishing = Publishing(self.site)
        self._slots = threading.Semaphore(self.exports_at_once)

    def routes(self) -> Iterable[Route]:
        root, site = r"/api/(?P<api>[\d.]+)", r"/api/(?P<api>[\d.]+)/sites/(?P<site>[0-9a-f-]{36})"
        vizql = VizQL(self.site)
        yield "GET", root + "/serverInfo", self.open(self.server_info)
        yield "POST", root + "/auth/signin", self.open(self.sign_in)
        yield "POST", root + "/auth/signout", self.guarded(self.sign_out)
        yield "GET", root + "/sites", self.guarded(self.list_sites)
        yield "GET", site, self.guarded(self.describe_site)
        read, load = "tableau:content:read", "tableau:views:download"
        yield "GET", site + "/views", self.guarded(self.list_views, read, {*PAGED, "includeUsageStatistics"})
        yield "GET", site + r"/views/(?P<view>[^/]+)", self.guarded(lambda request: answer(self._view(self.view(request))), read)
        yield "GET", site + r"/views/(?P<view>[^/]+)/data", self.guarded(self.view_data, load, {"maxAge", "language"})
        yield "GET", site + r"/views/(?P<view>[^/]+)/crosstab/excel", self.guarded(self.view_crosstab, load, {"maxAge", "language"})
        yield "GET", site + r"/views/(?P<view>[^/]+)/image", self.guarded(self.view_picture, load, {"maxAge", "resolution"})
        yield "GET", site + r"/views/(?P<view>[^/]+)/pdf", self.guarded(self.view_picture, load, {"maxAge", "type", "orientation"})
        yield "GET", site + "/workbooks", self.guarded(self.list_workbooks, read, PAGED)
        yield "GET", site + r"/workbooks/(?P<workbook>[^/]+)", self.guarded(self.describe_workbook, read)
        yield "GET", site + r"/workbooks/(?P<workbook>[^/]+)/views", self.guarded(self.workbook_views, read)
        yield "GET", site + r"/users/(?P<user>[^/]+)", self.guarded(self.describe_user, read)
        yield "GET", site + "/projects", self.guarded(self.list_projects, read, PAGED)
        yield "GET", site + "/datasources", self.guarded(self.list_datasources, read, PAGED)
        for method, pattern, handler, scope, allowed in self.publishing.routes():
            yield method, site + pattern, self.guarded(handler, scope, allowed)
        yield "POST", "/api/metadata/graphql", self.guarded(self.graphql, read)
        for operation, handler in vizql.operations():
            yield "POST", f"/api/v1/vizql-data-service/{operation}", self.guarded(handler, "tableau:viz_data_service:read")

    def refuse(self, status: int, message: str) -> Response:
        known = {404: (404003, "Resource Not Found"), 405: (405000, "Invalid request method"), 429: (429000, "Too Many Requests")}
        code, summary = known.get(status, (status * 1000, "Error"))
        return problem(code, summary, message)

    # ── who is asking ─────────────────────────────────────────────────────────────────────────────

    def open(self, handler: Handler) -> Handler:
        """A handler for anybody."""

        def check(request: Request) -> Response:
            self._known_version(request)
            if self.strict and request.headers.get("X-Tableau-Auth"):
                request.violate("a session's token was sent where none is needed")
            return handler(request)

        return check

    def _known_version(self, request: Request) -> None:
        wanted = request.args.get("api", self.api)
        major, _, minor = wanted.partition(".")
        if wanted != "2.4" and not (major == "3" and minor.isdigit() and int(minor) <= int(self.api.split(".")[1])):
            raise refused(404001, "Resource Not Found", f"Unknown API version '{wanted}'.")

    def guarded(self, handler: Handler, scope: str | None = None, allowed: Iterable[str] = ()) -> Handler:
        """A handler behind the session check; a missing scope looks like a dead session, as with the real one."""
        known = frozenset(allowed)

        def check(request: Request) -> Response:
            self._known_version(request)
            session = self._session(request)
            if scope and scope not in session.scopes:
                raise refused(401002, "Unauthorized Access", "Invalid authentication credentials were provided.")
            if request.args.get("site", self.site.id) != self.site.id:
                raise refused(403004, "Forbidden", "The site in the address is not the one of the session.")
            if self.strict:
                for name in sorted(request.query):
                    if name not in known and not (name.startswith("vf_") and "maxAge" in known):
                        request.violate(f"the query parameter {name} is not documented here")
            return handler(request)

        return check

    def _session(self, request: Request) -> Session:
        token = request.headers.get("X-Tableau-Auth")
        if not token:
            raise refused(401000, "Unauthorized Access", "No authentication credentials were provided.")
        with self._lock:
            session = self.sessions.get(token)
            if session is None or session.until <= request.running.clock.now():
                self.sessions.pop(token, None)
                raise refused(401002, "Unauthorized Access", "Invalid authentication credentials were provided.")
            return session

    def sign_in(self, request: Request) -> Response:
        """Whatever is wrong — name, secret, expiry, revocation, site — the answer is the same 401001."""
        credentials = payload(request.body).find("credentials")
        site = credentials.find("site") if credentials is not None else None
        now = request.running.clock.now()
        if credentials is None or site is None:
            raise refused(400000, "Bad Request", "Payload is either malformed or incomplete.")
        failed = refused(401001, "Signin Error", "Error signing in to Tableau Server")
        if site.get("contentUrl") != self.site.content_url:
            raise failed
        name = credentials.get("personalAccessTokenName")
        scopes: frozenset[str] | None
        if name is not None:
            token = self.site.tokens.get(name)
            good = token and token.secret == credentials.get("personalAccessTokenSecret") and not token.revoked
            scopes = SCOPES if token and good and not (token.expires and token.expires <= now) else None
        else:
            scopes = self._claims(credentials.get("jwt", ""), now)
        if scopes is None:
            raise failed
        with self._lock:
            for other in [key for key, session in self.sessions.items() if name and session.token == name]:
                del self.sessions[other]  # one live session per personal access token
            key = f"{secrets.token_urlsafe(16)}|{secrets.token_hex(16)}|{self.site.id}"
            self.sessions[key] = Session(name, now + self.site.session, scopes)
        left = int(self.site.session.total_seconds())
        until = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        site_element = E("site", {"id": self.site.id, "contentUrl": self.site.content_url})
        return answer(
            E("credentials", {"token": key, "estimatedTimeToExpiration": until}, site_element, E("user", {"id": self.site.user_id}))
        )

    def _claims(self, jwt: str, now: datetime) -> frozenset[str] | None:
        """The scopes a connected app's token asks for, None when it is not good (HS256, ten minutes at most, each only once)."""
        try:
            head, body, signature = jwt.split(".")
            header, claims = (json.loads(base64.urlsafe_b64decode(piece + "==")) for piece in (head, body))
            app = self.site.apps[claims["iss"]]
            good = hmac.new(app.secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
            whole = hmac.compare_digest(base64.urlsafe_b64decode(signature + "=="), good)
            expires = datetime.fromtimestamp(claims["exp"], UTC)
            fits = header["alg"] == "HS256" and header["kid"] == app.secret_id and claims["aud"] == "tableau" and claims["sub"] in app.users
            in_time = 0 < (expires - now).total_seconds() <= 600
            if not (whole and fits and in_time) or claims["jti"] in self._seen:
                return None
            self._seen.add(claims["jti"])
            return frozenset(claims["scp"])
        except (ValueError, KeyError, TypeError):
            return None

    def sign_out(self, request: Request) -> Response:
        with self._lock:
            del self.sessions[request.headers["X-Tableau-Auth"]]
        return Response(204)

    # ── what there is ─────────────────────────────────────────────────────────────────────────────

    def server_info(self, request: Request) -> Response:
        build = "20261.26.0203.1155"
        settings = E("serverSettings", {}, E("oAuthEnabled", text="true"), E("sheetImageMaxAgeFloor", text="1"))
        version = E("productVersion", {"build": build}, text="2026.1.0")
        return answer(E("serverInfo", {}, version, E("restApiVersion", text=self.api), E("platform", text="Linux"), settings))

    def list_sites(self, request: Request) -> Response:
        raise refused(403069, "Forbidden", "Querying sites is not permitted for this user.")

    def describe_site(self, request: Request) -> Response:
        return answer(E("site", {"id": self.site.id, "name": self.site.name, "contentUrl": self.site.content_url, "state": "Active"}))

    def describe_user(self, request: Request) -> Response:
        if request.args["user"] != self.site.user_id:
            raise refused(404002, "Resource Not Found", f"User '{request.args['user']}' could not be found.")
        return answer(E("user", {"id": self.site.user_id, "name": "connector@example.com", "siteRole": "Explorer"}))

    def visible(self) -> list[View]:
        return [view for view in self.site.views if view.visible]

    def view(self, request: Request) -> View:
        """The view of the address, if there is one this user may see. Raises the refusal otherwise."""
        for view in self.visible():
            if view.id == request.args["view"]:
                return view
        raise refused(404011, "Resource Not Found", f"View '{request.args['view']}' could not be found.")

    def list_views(self, request: Request) -> Response:
        fields: Mapping[str, Callable[[View], object]] = {
            "name": lambda view: view.name,
            "contentUrl": lambda view: view.content_url,
            "viewUrlName": lambda view: view.url_name,
            "workbookName": lambda view: view.home.name,
            "projectName": lambda view: view.home.project.name,
            "sheetType": lambda view: view.sheet_type,
        }
        said, views = page(filtered(self.visible(), request, fields), request)
        whole = request.query.get("fields") == "_all_"
        return answer(said, E("views", {}, *(self._view(view, whole=whole) for view in views)))

    def list_workbooks(self, request: Request) -> Response:
        fields: Mapping[str, Callable[[Workbook], object]] = {
            "name": lambda book: book.name,
            "contentUrl": lambda book: book.content_url,
            "projectName": lambda book: book.project.name,
            "ownerEmail": lambda _: self.site.user,
        }
        said, books = page(filtered(self.site.workbooks, request, fields), request)
        return answer(said, E("workbooks", {}, *(self._workbook(book) for book in books)))

    def workbook(self, request: Request) -> Workbook:
        for book in self.site.workbooks:
            if book.id == request.args["workbook"]:
                return book
        raise refused(404006, "Resource Not Found", f"Workbook '{request.args['workbook']}' could not be found.")

    def describe_workbook(self, request: Request) -> Response:
        return answer(self._workbook(self.workbook(request)))

    def workbook_views(self, request: Request) -> Response:
        book = self.workbook(request)
        return answer(E("views", {}, *(self._view(view, inside=True) for view in self.visible() if view.home is book)))

    def list_projects(self, request: Request) -> Response:
        fields: Mapping[str, Callable[[Project], object]] = {
            "name": lambda project: project.name,
            "parentProjectId": lambda project: project.parent.id if project.parent else "",
        }
        said, projects = page(filtered(self.site.projects, request, fields), request)
        return answer(said, E("projects", {}, *(self._project(project) for project in projects)))

    def list_datasources(self, request: Request) -> Response:
        fields: Mapping[str, Callable[[Datasource], object]] = {
            "name": lambda source: source.name,
            "contentUrl": lambda source: source.content_url,
            "projectName": lambda source: source.project.name,
        }
        said, sources = page(filtered(self.site.datasources, request, fields), request)
        return answer(said, E("datasources", {}, *(self.publishing.element(source) for source in sources)))

    def _view(self, view: View, *, whole: bool = True, inside: bool = False) -> Element:
        attributes = {
            "id": view.id,
            "name": view.name,
            "contentUrl": view.content_url,
            "createdAt": view.updated_at,
            "updatedAt": view.updated_at,
            "viewUrlName": view.url_name,
            "sheetType": view.sheet_type if whole else None,
        }
        home = [] if inside else [E("workbook", {"id": view.home.id})]
        owner, project = E("owner", {"id": self.site.user_id}), E("project", {"id": view.home.project.id})
        return E("view", attributes, *home, owner, project, E("tags"))

    def _workbook(self, book: Workbook) -> Element:
        attributes = {"id": book.id, "name": book.name, "contentUrl": book.content_url, "showTabs": True, "size": 1}
        project = E("project", {"id": book.project.id, "name": book.project.name})
        return E("workbook", attributes, project, E("owner", {"id": self.site.user_id}), E("tags"))

    def _project(self, project: Project) -> Element:
        parent = project.parent.id if project.parent else None
        attributes = {"id": project.id, "name": project.name, "parentProjectId": parent, "writeable": project.writable}
        return E("project", attributes, E("owner", {"id": self.site.user_id}))

    # ── exports ───────────────────────────────────────────────────────────────────────────────────

    def view_data(self, request: Request) -> Response:
        view = self._exported(request)
        with self._slot():
            body = view.raw if view.raw is not None else csv_bytes(table(view, self._filters(request), self._locale(request)))
        return Response(200, (b"\xef\xbb\xbf" if self.bom else b"") + body, {"Content-Type": self.csv_type})

    def view_crosstab(self, request: Request) -> Response:
        view = self._exported(request)
        with self._slot():
            body = crosstab(view, self._filters(request), self._locale(request))
        if body is None:
            raise refused(400130, "Bad Request", f"There was a problem querying the crosstab for view '{view.id}'.")
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
        return Response(200, body, {"Content-Type": kind})

    def view_picture(self, request: Request) -> Response:
        """The smallest picture, or page, there is: what a view looks like is not for a connector to know."""
        self._exported(request)
        kind = "image/png" if request.path.endswith("/image") else "application/pdf"
        return Response(200, SMALLEST[kind], {"Content-Type": kind})

    def _filters(self, request: Request) -> dict[str, frozenset[str]]:
        return {} if self.ignore_filters else view_filters(request.query)

    def _locale(self, request: Request) -> str:
        return request.query.get("language", self.site.locale)

    def _exported(self, request: Request) -> View:
        """The sheet whose data is asked for: of a dashboard, the first of its sheets by name."""
        view = self.view(request)
        if not view.downloadable:
            raise refused(403004, "Forbidden", "The user does not have permission to download this view's data.")
        if view.sheet_type == "worksheet":
            return view
        members = sorted((each for each in view.home.views if each.name in view.sheets), key=lambda each: each.name)
        if view.sheet_type == "story" or not members:
            raise refused(400081, "Bad Request", f"There was a problem querying the data for view '{view.id}'.")
        return members[0]

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the exports that may run at the same time on a site."""
        if not self._slots.acquire(blocking=False):
            raise refused(429000, "Too Many Requests", "Too many exports at the same time.", {"Retry-After": "1"})
        try:
            yield
        finally:
            self._slots.release()

    # ── the Metadata API ──────────────────────────────────────────────────────────────────────────

    def graphql(self, request: Request) -> Response:
        """Answers two questions: the sheets of a dashboard and the data sources above a sheet, both by the view's id."""
        if self.metadata == "off":
            return reply({"error": "the Metadata API is not enabled"}, 404)
        asked = request.json()
        wanted = asked.get("variables", {}).get("luid")
        view = next((view for view in self.visible() if view.id == wanted), None)
        nodes: dict[str, list[dict[str, Any]]] = {}
        if "dashboards(" in asked["query"]:
            members = [{"name": name, "luid": self._published(view, name)} for name in view.sheets] if view else []
            nodes["dashboards"] = [{"sheets": members}] if view and view.sheet_type == "dashboard" else []
        if "sheets(filter" in asked["query"]:
            above = view.datasource if view else None
            nodes["sheets"] = [{"upstreamDatasources": [{"name": above.name, "luid": above.id}] if above else []}] if view else []
        body: dict[str, Any] = {"data": nodes}
        if self.metadata == "backfilling":
            body["errors"] = [{"message": "Still creating the metadata store.", "extensions": {"code": "BACKFILL_RUNNING"}}]
        return reply(body)

    def _published(self, view: View, sheet: str) -> str:
        return next((each.id for each in self.visible() if each.home is view.home and each.name == sheet), "")
