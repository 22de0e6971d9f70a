"""The object types of one portal: which of them the token may read, with which properties, and why the others stay away."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from connector.pages import side_by_side
from sources.hubspot_api import Portal
from sources.hubspot_errors import Forbidden, Refused

log = logging.getLogger(__name__)

WORKERS: Final = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """An object type as the token sees it: its properties by name, or what keeps it away. `Refused`: this portal has no such type."""

    properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kept_away: Forbidden | Refused | None = None

    @property
    def readable(self) -> bool:
        return self.kept_away is None

    @property
    def forbidden(self) -> Forbidden | None:
        return self.kept_away if isinstance(self.kept_away, Forbidden) else None


class ObjectTypes:
    """Asked once per run."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._seen: dict[str, Seen] = {}

    def look(self, kinds: Iterable[str]) -> None:
        """Ask about several at once. Raises whatever is neither a missing permission nor a missing type."""
        asked = [kind for kind in dict.fromkeys(kinds) if kind not in self._seen]
        self._seen.update(zip(asked, side_by_side(self._look, asked, WORKERS), strict=True))

    def seen(self, kind: str) -> Seen:
        if kind not in self._seen:
            self._seen[kind] = self._look(kind)
        return self._seen[kind]

    def readable(self, kind: str) -> bool:
        return self.seen(kind).readable

    def properties(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        return self.seen(kind).properties

    def _look(self, kind: str) -> Seen:
        """The definitions and one object: a token may see the ones and not the other."""
        try:
            properties = self._portal.properties(kind)
            next(self._portal.pages(kind, (), limit=1))
        except Forbidden as forbidden:
            return Seen(kept_away=forbidden)
        except Refused as refused:
            if refused.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
                raise
            log.info("%s: there are no %s in this portal", refused, kind)
            return Seen(kept_away=refused)
        return Seen(properties)
