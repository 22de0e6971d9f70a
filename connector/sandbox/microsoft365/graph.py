"""The sandbox's Microsoft Graph: who may do what, and every way to address a file. What is done to files is in `content`."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from connector.sandbox.microsoft365.answers import Downloads, drive_json, item_json, problem, refusal
from connector.sandbox.microsoft365.files import Drive, Item
from connector.sandbox.microsoft365.identity import Identity, User
from connector.sandbox.server import Clock, Refusal, Request, Response, Route, Service, reply

DRIVE: Final = r"/v1\.0/(?:(?P<me>me)/drive|users/(?P<user>[^/]+)/drive|drives/(?P<drive>[^/:]+)|sites/(?P<site>[^/:]+(?::/[^:]+:)?)/drive)"
SITE: Final = r"/v1\.0/sites/(?P<site>[^/:]+(?::/[^:]+:?)?)"
START: Final = r"/(?:(?P<root>root)|items/(?P<item>[^/:]+)|special/(?P<special>[^/:]+))"
#: an item, alone or with something after it; a path opens with `:/` and closes with `:` only if something follows
ITEM: Final = DRIVE + START + r"(?::/(?P<path>[^:]+):?/?)?"
ITEM_AND: Final = DRIVE + START + r"(?::/(?P<path>[^:]+):/?)?"  # some clients double the slash, and are understood

FORBIDDEN: Final = re.compile(r'["*:<>?\\|]|^\s|\s$|\.$|^~\$|_vti_|^(?:con|prn|aux|nul|com\d|lpt\d|desktop\.ini|\.lock)$', re.IGNORECASE)
WRITE_ALL: Final = frozenset({"Files.ReadWrite.All", "Sites.ReadWrite.All", "Sites.Manage.All", "Sites.FullControl.All"})
READ_ALL: Final = WRITE_ALL | {"Files.Read.All", "Sites.Read.All"}
SELECTED: Final = frozenset(
    {"Lists.SelectedOperations.Selected", "ListItems.SelectedOperations.Selected", "Files.SelectedOperations.Selected"}
)
WRITERS: Final = frozenset({"write", "owner", "fullcontrol"})
UNITS_PER_MINUTE: Final = 1250
AUDIENCES: Final = frozenset(
    f"https://{host}" for host in ("graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn")
)


@dataclass(slots=True)
class Site:
    """A SharePoint site. `grants` (app id → role) are what Sites.Selected goes by."""

    id: str
    host: str
    path: str
    name: str
    libraries: list[Drive] = field(default_factory=list)
    grants: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    request: Request
    claims: Mapping[str, Any]
    content: str  # base URL of the host that serves bytes

    @property
    def app_only(self) -> bool:
        return "upn" not in self.claims

    @property
    def who(self) -> dict[str, Any]:
        app = {"application": {"id": self.claims["appid"], "displayName": self.claims["app_displayname"]}}
        if self.app_only:
            return app
        return {"user": {"id": self.claims["oid"], "displayName": self.claims["name"], "email": self.claims["upn"]}, **app}

    def header(self, name: str) -> str | None:
        value = self.request.headers.get(name)
        return str(value) if value is not None else None

    def json(self) -> dict[str, Any]:
        try:
            value = self.request.json()
        except ValueError:
            raise refusal(400, "BadRequest", "Unable to read JSON request payload.") from None
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Place:
    """What an address means: the item if there is one, and where a new one would go."""

    drive: Drive
    item: Item | None
    parent: Item | None
    name: str


class Graph(Service):
    """Drives by user, id, site and share link; the files module's semantics behind them. Handlers of other modules come in through `add`."""

    name = "graph"

    def __init__(self, identity: Identity, clock: Clock) -> None:
        self.identity = identity
        self.clock = clock
        self.drives: dict[str, Drive] = {}
        self.personal: dict[str, Drive] = {}  # user id → drive
        self.sites: dict[str, Site] = {}
        self.shares: dict[str, Item] = {}
        self.downloads = Downloads(clock)
        self.lock = threading.RLock()
        self.challenge: str | None = None  # claims to ask for with the next answer, once
        self.decorated = re.compile(r"^(?:NON)?ISV\|[^|]+\|[^|/]+/\S+")
        self.on_access: Callable[[Item], None] = lambda _: None
        self._busy: Counter[str] = Counter()
        self._spent: deque[tuple[float, str, int]] = deque()
        self._more: list[tuple[str, str, Callable[[Call], Response], int]] = []

    def add(self, method: str, pattern: str, handler: Callable[[Call], Response], units: int = 1) -> None:
        """Another address; `units` is what a request costs (resource units)."""
        self._more.append((method, pattern, handler, units))

    def routes(self) -> Iterable[Route]:
        own: list[tuple[str, str, Callable[[Call], Response], int]] = [
            ("GET", r"/v1\.0/me", self.me, 1),
            ("GET", r"/v1\.0/users/(?P<user>[^/]+)", self.user, 1),
            ("GET", DRIVE, self.drive, 1),
            ("GET", r"/v1\.0/(?:(?P<me>me)|users/(?P<user>[^/]+)|sites/(?P<site>[^/:]+(?::/[^:]+:)?))/drives", self.list_drives, 2),
            ("GET", SITE, self.site, 1),
            ("POST", SITE + "/permissions", self.grant_site, 5),
            ("GET", r"/v1\.0/shares/(?P<share>u![^/]+)/(?:driveItem|root)", self.shared, 1),
            ("GET", ITEM, self.item, 1),
        ]
        for method, pattern, handler, units in [*self._more, *own]:
            yield method, pattern, self._authenticated(handler, units)

    def refuse(self, status: int, message: str) -> Response:
        codes = {
            400: "invalidRequest",
            401: "InvalidAuthenticationToken",
            403: "accessDenied",
            404: "itemNotFound",
            405: "methodNotAllowed",
            423: "resourceLocked",
            429: "activityLimitReached",
            503: "serviceNotAvailable",
            507: "quotaLimitReached",
        }
        return problem(status, codes.get(status, "generalException"), message)

    # ── who is asking ─────────────────────────────────────────────────────────────────────────────

    def _authenticated(self, handler: Callable[[Call], Response], units: int) -> Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            with self._one_at_a_time(request), self.lock:
                try:
                    call = self._call(request)
                    limits = self._meter(call, units)
                    response = handler(call)
                except Refusal as refused:
                    response, limits = refused.response, {}
            common = {
                "request-id": str(uuid4()),
                "client-request-id": request.headers.get("client-request-id") or str(uuid4()),
                "x-ms-ags-diagnostic": '{"ServerInfo":{"DataCenter":"Sandbox"}}',
                **limits,
            }
            kind = response.headers.get("Content-Type")
            if kind == "application/json":
                common["Content-Type"] = "application/json;odata.metadata=minimal;charset=utf-8"
            return Response(response.status, response.body, {**response.headers, **common})

        return handle

    @contextmanager
    def _one_at_a_time(self, request: Request) -> Iterator[None]:
        """A workbook takes one request at a time."""
        book = request.path.partition("/workbook/")
        if book[1]:
            self._busy[book[0]] += 1
            if self._busy[book[0]] > 1:
                request.violate("workbook requests in parallel")
        try:
            yield
        finally:
            if book[1]:
                self._busy[book[0]] -= 1

    def _call(self, request: Request) -> Call:
        if request.running.strict and not self.decorated.match(request.headers.get("User-Agent", "")):
            request.violate("User-Agent is not decorated (NONISV|company|app/version)")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = self.identity.claims(token) if scheme.casefold() == "bearer" else None
        if claims is None:
            raise refusal(
                401,
                "InvalidAuthenticationToken",
                "Access token has expired or is not yet valid." if token else "Access token is empty.",
                headers={"WWW-Authenticate": 'Bearer realm="", error="invalid_token", error_description="expired_token"'},
            )
        if claims["aud"] not in AUDIENCES | {request.base}:
            raise refusal(401, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.")
        if self.challenge:
            wanted, self.challenge = base64.b64encode(self.challenge.encode()).decode(), None
            header = f'Bearer realm="", error="insufficient_claims", claims="{wanted}"'
            raise refusal(401, "InvalidAuthenticationToken", "Continuous access evaluation failed.", headers={"WWW-Authenticate": header})
        return Call(request, claims, request.running.url("content"))

    def _meter(self, call: Call, units: int) -> dict[str, str]:
        """Resource units a minute, per app; says so from 80 % on, refuses beyond."""
        now, app = self.clock.now().timestamp(), call.claims["appid"]
        while self._spent and self._spent[0][0] <= now - 60:
            self._spent.popleft()
        spent = sum(cost for _, who, cost in self._spent if who == app) + units
        self._spent.append((now, app, units))
        reset = str(max(1, int(self._spent[0][0] + 60 - now) + 1))
        limits = {"RateLimit-Limit": str(UNITS_PER_MINUTE), "RateLimit-Reset": reset}
        if spent > UNITS_PER_MINUTE:
            raise refusal(429, "activityLimitReached", "The app has been throttled.", headers={"Retry-After": reset, **limits})
        if spent <= 0.8 * UNITS_PER_MINUTE:
            return {}
        return {**limits, "RateLimit-Remaining": str(UNITS_PER_MINUTE - spent)}

    # ── what they may ─────────────────────────────────────────────────────────────────────────────

    def authorise(self, call: Call, drive: Drive, item: Item | None, *, write: bool, app_folder: bool = False) -> None:
        """Raises the 403 a token without the permission deserves. `item` is what is touched (or the folder it would go to)."""
        if not self._may(call, drive, item, write, app_folder):
            raise refusal(403, "accessDenied", "Either scp or roles claim need to be present in the token, or a grant is missing.")

    def _may(self, call: Call, drive: Drive, item: Item | None, write: bool, app_folder: bool) -> bool:
        held = set(call.claims.get("roles", ())) | set(call.claims.get("scp", "").split())
        if held & (WRITE_ALL if write else READ_ALL):
            return True
        own = drive is self.personal.get(call.claims["oid"])
        if own and held & ({"Files.ReadWrite"} if write else {"Files.ReadWrite", "Files.Read"}):
            return True
        if app_folder and (own or call.app_only) and "Files.ReadWrite.AppFolder" in held:
            return True
        app = call.claims["appid"]
        roles = {entry.grants[app] for entry in (item or drive.root).ancestors() if app in entry.grants} if held & SELECTED else set()
        if "Sites.Selected" in held and drive.site and app in drive.site.grants:
            roles.add(drive.site.grants[app])
        return bool(roles & WRITERS if write else roles)

    # ── addresses ─────────────────────────────────────────────────────────────────────────────────

    def place(self, call: Call, *, write: bool) -> Place:
        """What the address of this request means. Raises the refusal when the caller may not, or there is no such start."""
        args = call.request.args
        drive = self.find_drive(call)
        special = args.get("special")
        start = self._start(call, drive, args.get("item"), special)
        path = args.get("path", "").strip("/")
        names = [name for name in path.split("/") if name]
        if any(FORBIDDEN.search(name) or len(name) > 255 for name in names):
            raise refusal(400, "invalidRequest", "The provided name cannot contain forbidden characters.", "invalidPath")
        if len(path) > 400:
            raise refusal(400, "invalidRequest", "The path is too long.", "pathIsTooLong")
        item = drive.find(path, start)
        if item is None and (above := drive.find("/".join(names[:-1]), start)) and not above.folder:
            raise refusal(404, "itemNotFound", "The resource could not be found.")
        parent = (drive.find("/".join(names[:-1]), start) if names else start.parent) if item is None else item.parent
        if item and not item.folder and "/workbook/" not in call.request.path:
            self.on_access(item)
        self.authorise(call, drive, item or parent or start, write=write, app_folder=self._in_app_folder(call, item or parent or start))
        return Place(drive, item, parent, names[-1] if names else start.name)

    def existing(self, call: Call, *, write: bool) -> Item:
        item = self.place(call, write=write).item
        if item is None:
            raise refusal(404, "itemNotFound", "The resource could not be found.")
        return item

    def find_drive(self, call: Call) -> Drive:
        args = call.request.args
        if "drive" in args:
            wanted = args["drive"].casefold()
            found = next((drive for key, drive in self.drives.items() if key.casefold() == wanted), None)
        elif "site" in args:
            found = self._site(args["site"]).libraries[0]
        else:
            found = self.personal.get(self._user(call).id)
            if found is None:
                raise refusal(404, "ResourceNotFound", "User's mysite not found.")
        if found is None:
            raise refusal(404, "itemNotFound", "The drive could not be found.")
        return found

    def _start(self, call: Call, drive: Drive, item: str | None, special: str | None) -> Item:
        if special is not None:
            if special != "approot":
                raise refusal(400, "invalidRequest", f"Unknown special folder {special}.")
            apps = drive.find("Apps") or drive.make_folder(drive.root, "Apps", call.who)
            name = call.claims["app_displayname"]
            return drive.find(name, apps) or drive.make_folder(apps, name, call.who)
        if item is None or item == "root":
            return drive.root
        if item not in drive.items:
            raise refusal(404, "itemNotFound", "The resource could not be found.")
        drive.look(drive.items[item])
        if item not in drive.items:
            raise refusal(404, "itemNotFound", "The resource could not be found.")
        return drive.items[item]

    def _in_app_folder(self, call: Call, item: Item) -> bool:
        return item.segments[:2] == ["Apps", call.claims["app_displayname"]]

    def _user(self, call: Call) -> User:
        args = call.request.args
        if "user" not in args:
            if call.app_only:
                raise refusal(400, "BadRequest", "/me request is only valid with delegated authentication flow.")
            return self.identity.users[call.claims["upn"]]
        for user in self.identity.users.values():
            if args["user"].casefold() in (user.upn.casefold(), user.id):
                return user
        raise refusal(404, "Request_ResourceNotFound", f"Resource '{args['user']}' does not exist.")

    def _site(self, name: str) -> Site:
        host, _, path = name.rstrip(":").partition(":")
        for site in self.sites.values():
            if name == site.id or (host.casefold() == site.host and unquote(path).strip("/").casefold() == site.path.casefold()):
                return site
        raise refusal(404, "itemNotFound", "Requested site could not be found.")

    # ── answers ───────────────────────────────────────────────────────────────────────────────────

    def shown(self, call: Call, item: Item, status: int = 200) -> Response:
        value = item_json(item, self.downloads, call.content)
        return reply(
            {"@odata.context": f"{call.request.base}/v1.0/$metadata#drives('{item.drive.id}')/items/$entity", **picked(call, value)}, status
        )

    def me(self, call: Call) -> Response:
        return self.user(call)

    def user(self, call: Call) -> Response:
        user = self._user(call)
        return reply({"id": user.id, "displayName": user.name, "userPrincipalName": user.upn, "mail": user.upn})

    def drive(self, call: Call) -> Response:
        drive = self.find_drive(call)
        self.authorise(call, drive, None, write=False, app_folder=True)
        return reply(picked(call, drive_json(drive)))

    def list_drives(self, call: Call) -> Response:
        args = call.request.args
        drives = self._site(args["site"]).libraries if "site" in args else [self.find_drive(call)]
        for drive in drives:
            self.authorise(call, drive, None, write=False)
        return reply({"value": [picked(call, drive_json(drive)) for drive in drives]})

    def site(self, call: Call) -> Response:
        site = self._site(call.request.args["site"])
        self.authorise(call, site.libraries[0], None, write=False)
        return reply(
            {
                "id": site.id,
                "name": site.path.rpartition("/")[2],
                "displayName": site.name,
                "webUrl": f"https://{site.host}/{site.path}",
                "siteCollection": {"hostname": site.host},
            }
        )

    def grant_site(self, call: Call) -> Response:
        """What an administrator does once for Sites.Selected."""
        if "Sites.FullControl.All" not in {*call.claims.get("roles", ()), *call.claims.get("scp", "").split()}:
            raise refusal(403, "accessDenied", "Access denied")
        site, body = self._site(call.request.args["site"]), call.json()
        given = body.get("grantedToIdentities") or [body.get("grantedTo") or {}]
        apps = [identity["application"] for identity in given if "application" in identity]
        if not apps or not body.get("roles"):
            raise refusal(400, "invalidRequest", "roles and grantedTo are required.")
        for app in apps:
            site.grants[app["id"]] = body["roles"][0]
        return reply({"id": str(uuid4()), "roles": body["roles"], "grantedToIdentitiesV2": [{"application": app} for app in apps]}, 201)

    def shared(self, call: Call) -> Response:
        """A share link: `u!` and the link's URL in base64url."""
        coded = call.request.args["share"][2:]
        try:
            url = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise refusal(400, "invalidRequest", "The sharing token is malformed.") from None
        parts = urlsplit(url)
        item = self.shares.get(f"{parts.scheme}://{parts.netloc}{parts.path}")
        if item is None or item.id not in item.drive.items:
            raise refusal(404, "itemNotFound", "The site for the sharing link could not be found.")
        item.drive.look(item)
        self.authorise(call, item.drive, item, write=False)
        return self.shown(call, item)

    def item(self, call: Call) -> Response:
        item = self.existing(call, write=False)
        if call.request.query.get("$expand", "").startswith("children"):
            value = item_json(item, self.downloads, call.content)
            value["children"] = [item_json(child, self.downloads, call.content) for child in list(item.children.values())]
            return reply(picked(call, value))
        return self.shown(call, item)


def picked(call: Call, value: dict[str, Any]) -> dict[str, Any]:
    """Only what `$select` asks for."""
    wanted = call.request.query.get("$select") or call.request.query.get("select")
    if not wanted:
        return value
    names = {name.strip() for name in wanted.split(",")} | {"id"}
    return {name: part for name, part in value.items() if name in names or name.startswith("@odata")}
