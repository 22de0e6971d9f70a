"""The REST API's words: XML answers and errors, pages, filters, multipart bodies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from connector.sandbox.server import Refusal, Request, Response

NAMESPACE: Final = "http://tableau.com/api"
XML: Final = "application/xml;charset=utf-8"

Item = TypeVar("Item")


def E(tag: str, attributes: Mapping[str, object] | None = None, *children: Element, text: str | None = None) -> Element:  # noqa: N802
    """An element; attributes that are None are left out, times are written as Tableau writes them."""
    element = Element(tag, {name: _text(value) for name, value in (attributes or {}).items() if value is not None})
    element.text = text
    element.extend(children)
    return element


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else str(value)


def answer(*children: Element, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    root = E("tsResponse", {"xmlns": NAMESPACE}, *children)
    return Response(status, ET.tostring(root, "utf-8", xml_declaration=True), {"Content-Type": XML, **(headers or {})})


def problem(code: int, summary: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error; the first three digits of its code are the status."""
    error = E("error", {"code": code}, E("summary", text=summary), E("detail", text=detail))
    return answer(error, status=code // 1000, headers=headers)


def refused(code: int, summary: str, detail: str, headers: Mapping[str, str] | None = None) -> Refusal:
    return Refusal(problem(code, summary, detail, headers))


def payload(body: bytes) -> Element:
    """The tsRequest a client sent."""
    try:
        root = ET.fromstring(body)  # noqa: S314 — loopback, from our own tests
    except ET.ParseError as error:
        raise refused(400000, "Bad Request", "Payload is either malformed or incomplete.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def parts(request: Request) -> dict[str, bytes]:
    """The named parts of a multipart/mixed body."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("Content-Type", ""))
    if boundary is None:
        raise refused(400000, "Bad Request", "The request is not multipart/mixed.")
    found = {}
    for part in request.body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name:
            found[name[1].decode()] = content.removesuffix(b"\r\n")
    return found


def page(items: Sequence[Item], request: Request) -> tuple[Element, Sequence[Item]]:
    """One page and what is said of it. A page past the last is refused with 400006, which clients take for the end."""
    size, number = _whole(request, "pageSize", 100, 400007), _whole(request, "pageNumber", 1, 400006)
    if not 1 <= size <= 1000:
        raise refused(400007, "Bad Request", f"Page size '{size}' is not between 1 and 1000.")
    if not 1 <= number <= max(1, -(-len(items) // size)):
        raise refused(400006, "Bad Request", f"Invalid page number '{number}'.")
    said = E("pagination", {"pageNumber": number, "pageSize": size, "totalAvailable": len(items)})
    return said, items[(number - 1) * size : number * size]


def _whole(request: Request, name: str, default: int, code: int) -> int:
    try:
        return int(request.query.get(name, default))
    except ValueError as error:
        raise refused(code, "Bad Request", f"{name} is not a number.") from error


def filtered(items: Iterable[Item], request: Request, fields: Mapping[str, Callable[[Item], object]]) -> list[Item]:
    """`filter=field:op:value,…`: commas inside brackets belong to an `in` list, `*` in an `eq` is a wildcard, case does not matter."""
    found = list(items)
    for clause in re.split(r",(?![^\[]*\])", request.query.get("filter", "")):
        if not clause:
            continue
        name, _, rest = clause.partition(":")
        operator, _, wanted = rest.partition(":")
        if name not in fields or operator not in ("eq", "in", "gt", "gte", "lt", "lte"):
            raise refused(400000, "Bad Request", f"Invalid filter expression '{clause}'.")
        get = fields[name]
        found = [item for item in found if _matches(str(get(item)), operator, wanted)]
    return found


def _matches(value: str, operator: str, wanted: str) -> bool:
    if operator == "eq":
        pattern = ".*".join(re.escape(piece) for piece in wanted.split("*"))
        return re.fullmatch(pattern, value, re.IGNORECASE) is not None
    if operator == "in":
        return value.casefold() in {each.strip().casefold() for each in wanted.strip("[]").split(",")}
    return {"gt": value > wanted, "gte": value >= wanted, "lt": value < wanted, "lte": value <= wanted}[operator]


def view_filters(query: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The `vf_` filters of an export: caption → values. A comma separates unless a backslash stands before it; an empty value clears."""
    return {
        name[3:]: frozenset(_split(raw))
        for name, raw in query.items()
        if name.startswith("vf_") and not name.startswith("vf_Parameters.") and raw
    }


def _split(raw: str) -> list[str]:
    values, literal = [""], False
    for position, sign in enumerate(raw):
        if literal:
            values[-1] += sign
            literal = False
        elif sign == "\\" and raw[position + 1 : position + 2] in ("\\", ","):
            literal = True
        elif sign == ",":
            values.append("")
        else:
            values[-1] += sign
    return values
