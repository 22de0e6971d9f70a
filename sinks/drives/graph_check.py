"""What `connector check` finds out about a OneDrive or SharePoint target. Read-only: nothing is written, nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from connector.api import Finding
from connector.auth.microsoft import IDLE_END, IDLE_WARNING, MicrosoftSignIn, claims_of
from connector.errors import AuthError, ConnectorError, LockedError
from connector.http import Session
from sinks.drives.graph_client import GraphClient
from sinks.drives.graph_config import MicrosoftConfig
from sinks.drives.graph_errors import translated
from sinks.drives.graph_names import encoded
from sinks.drives.graph_places import Item, Places
from sinks.drives.graph_upload import UploadSession

USEFUL: Final = ("Files.ReadWrite", "Files.ReadWrite.All", "Files.ReadWrite.AppFolder", "Sites.ReadWrite.All", "Sites.Manage.All")
SELECTED: Final = "Selected"


def findings(config: MicrosoftConfig, client: GraphClient, places: Places) -> Iterator[Finding]:
    """Sign-in, drive, target, write permission, lock, versions; ends at the first thing that nothing after it can do without."""
    name = places.description
    try:
        yield _signed_in(client, name)
        places.start()
        yield Finding(f"{name}: drive", ok=True, detail="found")
        item = places.find()
        yield _target(places, item, name)
        yield from _writable(client, client.session, places, item, name)
        if item:
            yield _versions(client, item, name)
    except ConnectorError as error:
        yield _failed(name, error)


def _failed(what: str, error: ConnectorError) -> Finding:
    return Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)


def _signed_in(client: GraphClient, name: str) -> Finding:
    sign_in = client.sign_in
    token = sign_in.token()
    if sign_in.app_only and sign_in.kept:  # good for a while yet, and silent on whether the secret still is
        token = sign_in.renew()
    claims = claims_of(token)
    held = [*claims.get("roles", ()), *str(claims.get("scp", "")).split()]
    who = claims.get("upn") or claims.get("preferred_username") or claims.get("app_displayname") or claims.get("appid") or "signed in"
    what = f"{name}: sign-in"
    if claims and not any(role in USEFUL or role.endswith(SELECTED) for role in held):
        kind = "application" if sign_in.app_only else "delegated"
        return Finding(
            what,
            ok=False,
            detail=f"{who} may not write files; it has: {', '.join(held) or 'no permission at all'}",
            remedy=f"add the {kind} permission Sites.Selected (with a grant) or Files.ReadWrite.All to the app and have an admin consent",
            exit_code=AuthError.exit_code,
        )
    idle = sign_in.idle() if isinstance(sign_in, MicrosoftSignIn) else None
    if idle and idle > IDLE_WARNING:
        return Finding(
            what,
            ok=False,
            detail=f"{who}'s sign-in was last renewed {idle.days} days ago and ends after {IDLE_END.days}",
            remedy="run `connector login` again",
            exit_code=AuthError.exit_code,
        )
    return Finding(what, ok=True, detail=f"{who}: {', '.join(held)}" if held else str(who))


def _target(places: Places, item: Item | None, name: str) -> Finding:
    what = f"{name}: target"
    if item:
        return Finding(what, ok=True, detail=f"{item.path}, {item.size} bytes, last changed {item.modified} by {item.modified_by}")
    folder = places.folder()
    return Finding(what, ok=True, detail="will be created" if folder else "will be created, with the folders that are missing")


def _writable(client: GraphClient, session: Session, places: Places, item: Item | None, name: str) -> Iterator[Finding]:
    """An upload session that is opened and closed again proves the permission, and shows a lock, without a byte being written."""
    if item:
        address = f"/drives/{item.drive_id}/items/{item.id}"
    else:
        folder, _ = places.nearest_folder()
        address = f"/drives/{folder.drive_id}/items/{folder.id}:/{encoded('connector-check.tmp')}:"
    may, lock = f"{name}: write permission", f"{name}: lock"
    try:
        answer = UploadSession(client, session, address, name).probe("replace")
    except ConnectorError as error:
        yield _failed(may, error)
        return
    yield Finding(may, ok=True, detail="proven without writing")
    if item is None:
        return
    if item.checked_out_by:
        yield _failed(lock, LockedError(f"checked out by {item.checked_out_by}", remedy="have it checked in, or discarded"))
    elif not answer.ok:
        yield _failed(lock, translated(answer, name))
    else:
        yield Finding(lock, ok=True, detail="not locked")


def _versions(client: GraphClient, item: Item, name: str) -> Finding:
    what = f"{name}: versions"
    answer = client.ask("GET", f"/drives/{item.drive_id}/items/{item.id}/versions", what, accept=range(400, 500))
    kept = answer.body.get("value") or ()
    if not answer.ok or not kept:
        return Finding(
            what, ok=True, detail="no version history", remedy="turn on versioning in the library's settings, to be able to go back"
        )
    return Finding(what, ok=True, detail="one version so far" if len(kept) == 1 else f"{len(kept)} versions kept")
