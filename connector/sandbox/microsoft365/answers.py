"""How Graph says things: items, drives and refusals as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

from connector.sandbox.microsoft365.files import Drive, Item, Version
from connector.sandbox.server import Clock, Refusal, Response, reply

XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def problem(status: int, code: str, message: str, *inner: str, headers: Mapping[str, str] | None = None) -> Response:
    """The error envelope; `inner` are the codes of the nested innerErrors, outermost first."""
    nested: dict[str, Any] = {"date": "2026-01-01T00:00:00", "request-id": str(uuid4()), "client-request-id": str(uuid4())}
    for name in reversed(inner):
        nested = {"code": name, "innerError": nested}
    return reply({"error": {"code": code, "message": message, "innerError": nested}}, status, headers)


def refusal(status: int, code: str, message: str, *inner: str, headers: Mapping[str, str] | None = None) -> Refusal:
    return Refusal(problem(status, code, message, *inner, headers=headers))


class Downloads:
    """Pre-authenticated addresses: good for an hour, for anyone who has one."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens: dict[str, tuple[Item, Version | None, datetime]] = {}

    def address(self, content: str, item: Item, version: Version | None = None) -> str:
        token = secrets.token_urlsafe(32)
        self.tokens[token] = (item, version, self.clock.now())
        return f"{content}/_layouts/15/download.aspx?UniqueId={item.guid.lower()}&tempauth={token}"


def item_json(item: Item, downloads: Downloads, content: str) -> dict[str, Any]:
    """A driveItem; `content` is the base URL of the host that serves bytes."""
    drive = item.drive
    value: dict[str, Any] = {
        "id": item.id,
        "name": item.name,
        "createdDateTime": instant(item.created),
        "lastModifiedDateTime": instant(item.modified),
        "webUrl": f"https://sandbox.sharepoint.com/{quote('/'.join([drive.name, *item.segments]))}",
        "eTag": item.etag,
        "createdBy": dict(item.by),
        "lastModifiedBy": dict(item.by),
        "fileSystemInfo": {"createdDateTime": instant(item.created), "lastModifiedDateTime": item.dated or instant(item.modified)},
        "parentReference": {"driveType": drive.kind, "driveId": drive.id},
    }
    if item.parent:
        path = "/".join(quote(name) for name in item.parent.segments)
        value["parentReference"] |= {
            "id": item.parent.id,
            "name": item.parent.name,
            "path": f"/drives/{drive.id}/root:" + (f"/{path}" if path else ""),
        }
    if item.folder:
        value["folder"] = {"childCount": len(item.children)}
        value["size"] = sum(child.current.size for child in item.children.values() if not child.folder)
        if item.parent is None:
            value["root"] = {}
        return value
    value |= {
        "@microsoft.graph.downloadUrl": downloads.address(content, item),
        "cTag": item.ctag,
        "size": item.current.size,
        "file": {
            "mimeType": XLSX if item.name.casefold().endswith(".xlsx") else "application/octet-stream",
            "hashes": {"quickXorHash": item.current.hash},
        },
    }
    if drive.kind != "personal":
        out = item.checked_out
        value["publication"] = {"level": "checkout" if out else "published", "versionId": item.current.id}
        if out:
            value["publication"]["checkedOutBy"] = dict(out)
    return value


def version_json(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "lastModifiedDateTime": instant(version.modified),
        "size": version.size,
        "lastModifiedBy": dict(version.by),
    }


def drive_json(drive: Drive) -> dict[str, Any]:
    total, used = drive.behaviour.quota, drive.used
    return {
        "id": drive.id,
        "driveType": drive.kind,
        "name": drive.name,
        "webUrl": f"https://sandbox.sharepoint.com/{quote(drive.name)}",
        "owner": dict(drive.owner),
        "quota": {
            "total": total,
            "used": used,
            "remaining": max(0, total - used),
            "deleted": 0,
            "state": "normal" if used < total else "exceeded",
        },
    }
