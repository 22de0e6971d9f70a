"""File names and paths as OneDrive and SharePoint allow them, and how they are written in addresses."""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import quote

from connector.errors import ConfigError

FORBIDDEN: Final = '"*:<>?|\\'
RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|\.lock|desktop\.ini)", re.IGNORECASE)
LONGEST_NAME: Final = 255
LONGEST_PATH: Final = 400


def names_of(path: str) -> tuple[str, ...]:
    """The names along a path like `Sales/Pipeline.xlsx`. Raises ConfigError for what the service would refuse."""
    names = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    for position, name in enumerate(names):
        if wrong := _wrong(name, at_root=position == 0 and len(names) > 1):
            raise ConfigError(f"path {path!r}: {name!r} {wrong}", remedy="rename it: OneDrive and SharePoint refuse such names")
    if len("/".join(names)) > LONGEST_PATH:
        raise ConfigError(f"path {path[:60]!r}…: longer than {LONGEST_PATH} characters", remedy="use shorter or fewer folder names")
    return names


def _wrong(name: str, *, at_root: bool) -> str | None:
    bad = sorted(set(name) & set(FORBIDDEN))
    if not name:
        return "is empty"
    if bad:
        return f"contains {' '.join(bad)}"
    if name != name.strip() or name.endswith("."):
        return "begins or ends with a space, or ends with a period"
    if name.startswith("~"):
        return "begins with ~"
    if "_vti_" in name.casefold():
        return "contains _vti_"
    if RESERVED.fullmatch(name) or (at_root and name.casefold() == "forms"):
        return "is a reserved name"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    return None


def encoded(*names: str) -> str:
    """Names as a path in an address: each percent-encoded by itself."""
    return "/".join(quote(name, safe="") for name in names)


def share_token(url: str) -> str:
    """A sharing link as the shares endpoint wants it."""
    return "u!" + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
