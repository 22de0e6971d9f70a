"""The texts a workbook keeps in one place for all its cells; read, never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from xml.parsers import expat

from sinks.excel.markup import damaged, guard
from sinks.excel.table import unescaped


class SharedStrings(Mapping[str, str]):
    """The workbook's shared strings, read when first asked for."""

    def __init__(self, load: Callable[[], Iterator[bytes]] | None, part: str) -> None:
        self._load = load
        self._part = part
        self._texts: list[str] | None = None

    def __getitem__(self, index: str) -> str:
        if self._texts is None:
            self._texts = _read_strings(self._load(), self._part) if self._load else []
        if not index.strip().isdecimal() or int(index) >= len(self._texts):
            raise damaged(self._part, f"a cell refers to shared string {index[:20]}, and there are {len(self._texts)}")
        return self._texts[int(index)]

    def __iter__(self) -> Iterator[str]:
        return iter(map(str, range(len(self))))

    def __len__(self) -> int:
        return len(self._texts or ())


def _read_strings(pieces: Iterator[bytes], part: str) -> list[str]:
    texts: list[str] = []
    current: list[str] | None = None
    inside = phonetic = False
    parser = guard()
    parser.buffer_text = True

    def opened(name: str, _: dict[str, str]) -> None:
        nonlocal current, inside, phonetic
        local = name.rpartition(" ")[2]
        if local == "si":
            current = []
        elif local == "rPh":
            phonetic = True
        elif local == "t":
            inside = not phonetic

    def closed(name: str) -> None:
        nonlocal current, inside, phonetic
        local = name.rpartition(" ")[2]
        if local == "si" and current is not None:
            texts.append(unescaped("".join(current)))
            current = None
        elif local == "rPh":
            phonetic = False
        elif local == "t":
            inside = False

    def characters(text: str) -> None:
        if inside and current is not None:
            current.append(text)

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, characters
    try:
        for piece in pieces:
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise damaged(part, f"it is not well-formed XML ({error})") from error
    return texts
