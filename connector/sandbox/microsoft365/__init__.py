"""The sandbox's Microsoft 365: sign-in, OneDrive and SharePoint, upload sessions, versions, locks, and the workbook API.

Files lie in `folder`, one folder for each drive, under their real names: open them, edit them, put new ones there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid5

from connector.sandbox.microsoft365.content import Content
from connector.sandbox.microsoft365.files import SPACE, Behaviour, Drive, Item, Kind
from connector.sandbox.microsoft365.graph import Graph, Site
from connector.sandbox.microsoft365.identity import App, Identity, ManagedIdentity, User
from connector.sandbox.microsoft365.tls import certified
from connector.sandbox.microsoft365.uploads import ContentHost, Uploads
from connector.sandbox.microsoft365.workbook import Workbooks
from connector.sandbox.server import Clock, Running, Service, serve

TENANT: Final = "0d7a1e5c-8f43-4c0a-9a0e-5b1f3f1c2a10"
DOMAIN: Final = "acme.onmicrosoft.com"
CLIENT_ID: Final = "7f2b9d30-1c55-4e0f-8d2a-3f6a0c4b9e11"
CLIENT_SECRET: Final = "sandbox~secret~7Qx"  # noqa: S105 — opens nothing but the sandbox
USER: Final = "sales@acme.com"
SITE_HOST: Final = "acme.sharepoint.com"


class Microsoft365:
    """A tenant with one app registration (`CLIENT_ID`, `CLIENT_SECRET`), one user with a OneDrive, one site with a library.

    `app`, `user_drive`, `library` are those; tests add more with `add_app`, `add_user`, `add_site`, `add_personal`. `authority` is the
    file with the certificate authority that vouches for the identity host.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        folder.mkdir(parents=True, exist_ok=True)
        self._scratch = folder / ".arriving"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        self.authority = folder / ".authority.pem"
        self.identity = Identity(TENANT, DOMAIN, self.clock)
        self.identity.tls = certified(self.authority, ("localhost", "login.microsoftonline.com", "graph.microsoft.com"))
        self.managed_identity = ManagedIdentity(self.identity)
        self.graph = Graph(self.identity, self.clock)
        self.content = Content(self.graph, self._scratch)
        self.uploads = Uploads(self.content)
        self.workbooks = Workbooks(self.graph, self._scratch)
        self.content.held_by_workbook = self.workbooks.in_use
        self.graph.on_access = self.workbooks.look
        self.app = self.add_app(CLIENT_ID, CLIENT_SECRET, roles=("Files.ReadWrite.All",), scopes=("Files.ReadWrite", "Files.ReadWrite.All"))
        self.app.public = True
        self.user_drive = self.add_user(USER, "Sales")
        self.site = self.add_site("sites/Sales", "Sales", "Documents")
        self.library = self.site.libraries[0]

    def services(self) -> tuple[Service, ...]:
        """To be served together: identity (https), managed-identity, graph, content."""
        return self.identity, self.managed_identity, self.graph, ContentHost(self.uploads)

    def add_app(self, client_id: str, secret: str | None, *, roles: tuple[str, ...] = (), scopes: tuple[str, ...] = ()) -> App:
        app = self.identity.apps[client_id] = App(client_id, secret=secret, roles=roles, scopes=scopes)
        return app

    def add_user(self, upn: str, name: str, kind: Kind = "business") -> Drive:
        """A person and their OneDrive (work or school; or `personal`)."""
        user = self.identity.users[upn] = User(upn, name, str(uuid5(SPACE, upn)))
        owner = {"user": {"id": user.id, "displayName": name, "email": upn}}
        drive_id = uuid5(SPACE, f"drive {upn}").hex[:16] if kind == "personal" else f"b!{uuid5(SPACE, f'drive {upn}').hex}"
        drive = self._add_drive(Drive(drive_id, kind, f"OneDrive {upn}", self.folder / f"OneDrive {upn}", self._history, owner, self.clock))
        self.graph.personal[user.id] = drive
        return drive

    def add_site(self, path: str, name: str, *libraries: str) -> Site:
        """A SharePoint site with document libraries, the first of them the default one."""
        site_id = f"{SITE_HOST},{uuid5(SPACE, f'site {path}')},{uuid5(SPACE, f'web {path}')}"
        site = self.graph.sites[site_id] = Site(site_id, SITE_HOST, path, name)
        for library in libraries or ("Documents",):
            drive_id = f"b!{uuid5(SPACE, f'{path}/{library}').hex}"
            folder = self.folder / f"{name} - {library}"
            owner = {"group": {"displayName": name}}
            drive = self._add_drive(Drive(drive_id, "documentLibrary", library, folder, self._history, owner, self.clock))
            drive.site = site
            site.libraries.append(drive)
        return site

    @property
    def _history(self) -> Path:
        return self.folder / ".versions"

    def _add_drive(self, drive: Drive) -> Drive:
        self.graph.drives[drive.id] = drive
        return drive


@contextmanager
def microsoft365(folder: Path | None = None, *, strict: bool = False) -> Iterator[tuple[Microsoft365, Running]]:
    """Start one on free ports; in a folder of its own unless given one."""
    with tempfile.TemporaryDirectory() as scratch:
        cloud = Microsoft365(folder or Path(scratch))
        with serve(*cloud.services(), clock=cloud.clock, strict=strict) as running:
            yield cloud, running


__all__ = ["CLIENT_ID", "CLIENT_SECRET", "DOMAIN", "TENANT", "USER", "App", "Behaviour", "Drive", "Item", "Microsoft365", "microsoft365"]
