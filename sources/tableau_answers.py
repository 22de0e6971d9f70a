"""Answers with status 200 that are not Tableau's: a gateway or a single sign-on page says so in HTML, and CSV readers take it for a table."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, Final

import requests

from connector.errors import SourceError

#: how HTML begins, and XML; a header such as <90 days does not
MARKUP: Final = re.compile(rb"\s*<[!?a-zA-Z]")


def refuse_page(place: str, kind: str, head: bytes) -> None:
    """Raises SourceError when the content type or the first bytes are those of a page."""
    if "text/html" in kind.lower() or MARKUP.match(head.removeprefix(codecs.BOM_UTF8)):
        raise SourceError(
            f"{place}: the answer is not Tableau's (a gateway or single sign-on page?)",
            remedy="open the server's address from this machine; let what stands before Tableau pass addresses that begin with /api/",
        )


def refuse_saved_page(place: str, kind: str, file: Path) -> None:
    with file.open("rb") as answer:
        refuse_page(place, kind, answer.read(256))


def as_object(place: str, response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises SourceError when it is none."""
    refuse_page(place, response.headers.get("Content-Type", ""), response.content[:256])
    try:
        answer = response.json()
    except requests.exceptions.JSONDecodeError as error:
        raise SourceError(f"{place}: the answer does not read as JSON", remedy="run again; nothing was taken over") from error
    if not isinstance(answer, dict):
        raise SourceError(f"{place}: the answer is JSON, but no object", remedy="run again; nothing was taken over")
    return answer
