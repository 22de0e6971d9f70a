"""XML by byte ranges: a tree that knows where each element stands in the text, and edits that leave everything else as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from connector.errors import TargetError

MAX_ELEMENTS: Final = 1_500_000
MAX_DEPTH: Final = 256

MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CONTENT_TYPES: Final = "http://schemas.openxmlformats.org/package/2006/content-types"
PACKAGE_RELATIONS: Final = "http://schemas.openxmlformats.org/package/2006/relationships"
DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'

_TAG: Final = re.compile(rb"""<[^\s/>]+(?:[^>"']|"[^"]*"|'[^']*')*>""")
_ENCODING: Final = re.compile(rb"""^(?:\xef\xbb\xbf)?<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(slots=True, eq=False)
class Element:
    """One element: `data[start:inner]` is its opening tag, `data[inner:close]` its content, `data[close:end]` its closing tag.

    Of an empty element (`<a/>`) `inner`, `close` and `end` are equal. Names are local names; attributes with a
    namespace are `{namespace}name`.
    """

    name: str
    space: str
    attributes: dict[str, str]
    start: int
    inner: int
    close: int = 0
    end: int = 0
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def get(self, name: str, default: str = "") -> str:
        return self.attributes.get(name, default)

    def find(self, name: str) -> Element | None:
        return next((child for child in self.children if child.name == name), None)

    def all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def walk(self) -> Iterator[Element]:
        """Every element below this one, in document order."""
        stack = list(reversed(self.children))
        while stack:
            element = stack.pop()
            yield element
            stack.extend(reversed(element.children))


def damaged(part: str, why: str) -> TargetError:
    return TargetError(f"part {part} of the workbook cannot be read: {why}", remedy="open the workbook in Excel and save it again")


def utf8(data: bytes, part: str) -> bytes:
    """The part in UTF-8; OPC also allows UTF-16."""
    declared = _ENCODING.match(data)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif declared and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii", b"ascii"):
        encoding = declared[1].decode("ascii")
    else:
        return data
    try:
        text = data.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise damaged(part, f"its text is not {encoding}") from error
    return DECLARATION + re.sub(r"^\ufeff?<\?xml[^>]*\?>\s*", "", text).encode()


def guard() -> expat.XMLParserType:
    """A parser that accepts well-formed XML without document types, and nothing else."""
    parser = expat.ParserCreate(namespace_separator=" ")

    def refuse(*_: object) -> None:
        raise expat.ExpatError("a document type is declared")

    parser.StartDoctypeDeclHandler = refuse
    return parser


def parse(data: bytes, part: str) -> Element:
    """The tree of a part in UTF-8. Raises TargetError when it is not well-formed, too large, or declares entities."""
    root: Element | None = None
    current: Element | None = None
    count = depth = 0
    parser = guard()
    parser.buffer_text = True

    def opened(name: str, attributes: dict[str, str]) -> None:
        nonlocal root, current, count, depth
        count += 1
        depth += 1
        if count > MAX_ELEMENTS or depth > MAX_DEPTH:
            raise expat.ExpatError("it has too many elements")
        start = parser.CurrentByteIndex
        tag = _TAG.match(data, start)
        assert tag is not None, "expat accepted it"
        space, _, local = name.rpartition(" ")
        own = {key if " " not in key else f"{{{key.replace(' ', '}')}": value for key, value in attributes.items()}
        element = Element(local, space, own, start, tag.end(), parent=current)
        if current is not None:
            current.children.append(element)
        else:
            root = element
        current = element

    def closed(_: str) -> None:
        nonlocal current, depth
        depth -= 1
        assert current is not None
        if data[current.inner - 2 : current.inner] == b"/>":
            current.close = current.end = current.inner
        else:
            current.close = parser.CurrentByteIndex
            current.end = data.index(b">", current.close) + 1
        current = current.parent

    def characters(text: str) -> None:
        if current is not None:
            current.text += text

    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise damaged(part, f"it is not well-formed XML ({error})") from error
    assert root is not None
    return root


class Edits:
    """Changes to one part by byte range. What no edit touches stays as it was."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._edits: list[tuple[int, int, int, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._edits)

    def replace(self, start: int, end: int, new: bytes) -> None:
        if self.data[start:end] != new:
            self._edits.append((start, end, len(self._edits), new))

    def remove(self, element: Element) -> None:
        self.replace(element.start, element.end, b"")

    def set(self, element: Element, name: str, value: str | None) -> None:
        """Set, add or (None) remove an attribute without a namespace; each attribute once per round of edits."""
        tag = self.data[element.start : element.inner]
        found = re.search(rb"""\s(%s)\s*=\s*("[^"]*"|'[^']*')""" % re.escape(name.encode()), tag)
        if found and value is None:
            self.replace(element.start + found.start(), element.start + found.end(), b"")
        elif found and value is not None:
            if element.attributes.get(name) != value:
                self.replace(element.start + found.start(2), element.start + found.end(2), attribute(value))
        elif value is not None:
            end = element.inner - (2 if tag.endswith(b"/>") else 1)
            self.replace(end, end, b" " + name.encode() + b"=" + attribute(value))

    def text(self, element: Element, value: str) -> None:
        if value != element.text:
            self.replace(element.inner, element.close, escaped(value))

    def before(self, element: Element, new: bytes) -> None:
        self.replace(element.start, element.start, new)

    def after(self, element: Element, new: bytes) -> None:
        self.replace(element.end, element.end, new)

    def append(self, element: Element, new: bytes) -> None:
        """Add content at the end of an element, opening it when it was empty."""
        if element.inner == element.end:
            name = self.data[element.start + 1 : element.inner]
            name = re.split(rb"[\s/>]", name, maxsplit=1)[0]
            self.replace(element.inner - 2, element.inner, b">" + new + b"</" + name + b">")
        else:
            self.replace(element.close, element.close, new)

    def result(self, first: int = 0, last: int | None = None) -> bytes:
        """The edited text, or the part of it that stood between two places."""
        last = len(self.data) if last is None else last
        pieces: list[bytes] = []
        at = first
        for start, end, _, new in sorted(self._edits):
            if first <= start < last or (start == last == len(self.data)):
                assert start >= at, "edits overlap"
                pieces += (self.data[at:start], new)
                at = end
        pieces.append(self.data[at:last])
        return b"".join(pieces)


def prefix(data: bytes, element: Element) -> bytes:
    """The namespace prefix of an element as written, with its colon: b"" or b"x:"."""
    name = re.split(rb"[\s/>]", data[element.start + 1 : element.inner], maxsplit=1)[0]
    return name.rpartition(b":")[0] + b":" if b":" in name else b""


def escaped(text: str) -> bytes:
    return escape(text).encode()


def attribute(value: str) -> bytes:
    """A value quoted for an attribute."""
    return quoteattr(value, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}).encode()
