"""JSON and JSON Lines, a record at a time: a file of any size on one line is read in the memory of a few records."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from connector.api import Record
from connector.errors import SourceError

RECORDS: Final = 5_000
PEEKED: Final = 1_000
LONGEST_LINE: Final = 16 << 20
CHUNK: Final = 1 << 16
_WHITE: Final = " \t\r\n\ufeff"


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A list of objects. `columns` are those of the first 1,000; later records may have more."""

    path: Path
    name: str
    lines: bool
    columns: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    rows: None = None  # known when it is read

    def batches(self) -> Iterator[tuple[int, list[Record]]]:
        """Records with the number of the first (in JSON Lines its line)."""
        row, records = 1, _records(self.path, self.name, lines=self.lines)
        while batch := list(islice(records, RECORDS)):
            yield row, batch
            row += len(batch)


def open_json(path: Path, name: str, *, lines: bool) -> JsonFile:
    """Raises SourceError when the file does not begin as a list of objects."""
    with closing(_records(path, name, lines=lines)) as records:
        columns = dict.fromkeys(column for record in islice(records, PEEKED) for column in _columns(record))
    return JsonFile(path, name, lines, tuple(columns))


def _columns(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _columns(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _records(path: Path, name: str, *, lines: bool) -> Generator[Record, None, None]:
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4))
    with path.open(encoding=encoding, newline="\n") as text:
        try:
            yield from _line_records(text, name) if lines else _Text(text, name).records()
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}: not {encoding}, as JSON must be", remedy="save it as UTF-8") from error


def _line_records(file: TextIO, name: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(file, name), 1):
        if not line.strip():
            yield {}
            continue
        try:
            record = json.loads(line, parse_float=Decimal)
        except ValueError as error:
            raise SourceError(
                f"{name}: line {number:,} is not JSON: {error}", remedy="JSON Lines has one whole object on each line"
            ) from error
        if not isinstance(record, dict):
            raise SourceError(f"{name}: line {number:,} is not an object", remedy="JSON Lines has one object on each line")
        yield record


def _lines(file: TextIO, name: str) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) >= LONGEST_LINE and not line.endswith("\n"):
            raise SourceError(
                f"{name}: line {number:,} is longer than {LONGEST_LINE >> 20} MB",
                remedy="is it JSON rather than JSON Lines? say `format: json`",
            )
        yield line


class _Text:
    """JSON text of any length; only what is being decoded is in memory."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decoder = json.JSONDecoder(parse_float=Decimal)
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._found: str | None = None
        self._empty = False

    def records(self) -> Iterator[Record]:
        """The objects of the only list of objects in the text, wherever in it that is."""
        if not self._peek():
            raise SourceError(f"{self._name}: the file is empty", remedy="export it again")
        yield from self._walk("")
        if self._found is None and not self._empty:
            raise SourceError(f"{self._name}: holds no list of objects", remedy="expected [{…}, {…}], alone or under a key")
        if self._peek():
            raise self._wrong("the end of the file", "say `format: jsonl` if each line is an object of its own")

    def _walk(self, path: str) -> Iterator[Record]:
        sign = self._peek()
        if sign == "[":
            yield from self._list(path)
        elif sign == "{":
            for key in self._items():
                yield from self._walk(f"{path}.{key}".lstrip("."))
        else:
            self._value()

    def _items(self) -> Iterator[str]:
        """The keys of an object, one at a time; the caller reads the value in between."""
        self._take("{")
        if self._peek() != "}":
            while True:
                key = self._value()
                if not isinstance(key, str):
                    raise self._wrong("a key")
                self._take(":")
                yield key
                if self._peek() != ",":
                    break
                self._take(",")
        self._take("}")

    def _list(self, path: str) -> Iterator[Record]:
        self._take("[")
        self._empty = self._empty or self._peek() == "]"
        if self._peek() == "{":
            if self._found is not None:
                raise SourceError(
                    f"{self._name}: lists of objects under both {self._found!r} and {path!r}", remedy="keep one list in a file"
                )
            self._found = path
        objects = self._found == path
        if self._peek() != "]":
            while True:
                value = self._value()
                if objects:
                    if not isinstance(value, dict):
                        raise self._wrong("an object in the list")
                    yield value
                if self._peek() != ",":
                    break
                self._take(",")
        self._take("]")

    def _value(self) -> Any:
        self._peek()
        wanted = CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except ValueError as error:
                if self._ended:
                    raise self._wrong("a value") from error
            else:
                if end < len(self._buffer) or self._ended:  # a number may go on in what is not read yet
                    self._at = end
                    return value
            self._more(wanted)
            wanted *= 2

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _WHITE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._more(CHUNK)

    def _take(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._wrong(repr(sign))
        self._at += 1

    def _more(self, characters: int) -> None:
        text = self._file.read(characters)
        self._ended = not text
        self._buffer = self._buffer[self._at :] + text
        self._at = 0

    def _wrong(self, expected: str, remedy: str = "export it again; it may have been cut off") -> SourceError:
        found = self._buffer[self._at : self._at + 20]
        return SourceError(
            f"{self._name}: not JSON: expected {expected}, found {found!r}" if found else f"{self._name}: ends within a value",
            remedy=remedy,
        )


def looks_like_lines(start: str) -> bool:
    """Whether a text that begins with an object is JSON Lines: its first line is an object of its own and another follows."""
    first, _, rest = start.lstrip(_WHITE).partition("\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith("{")
    except ValueError:
        return False
