"""Names that values of a dimension have in paths: safe on every drive, and never one name for two values."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

FORBIDDEN: Final = frozenset('"*:<>?|\\/')
#: control and format characters (also those that turn the writing direction), surrogates, private and unassigned ones, line separators
UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
EDGES: Final = re.compile(r"^[\s.~]+|[\s.]+$")
#: what Windows and OneDrive keep for themselves, whatever follows the first dot
RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|desktop|forms)", re.IGNORECASE)
LONGEST: Final = 120  # bytes: what a template puts around it has room, too


def safe_name(value: str) -> str:
    """A value as a part of a file's or folder's name: no separators, nothing reserved, nothing that a drive would change.

    Different values may give the same name; `assign` tells them apart.
    """
    plain = unicodedata.normalize("NFC", value)
    plain = "".join("_" if letter in FORBIDDEN or unicodedata.category(letter) in UNSAFE else letter for letter in plain)
    plain = EDGES.sub("", re.sub("_vti_", "-vti-", plain, flags=re.IGNORECASE))
    if RESERVED.fullmatch(plain.partition(".")[0].rstrip()):
        plain = f"_{plain}"
    return EDGES.sub("", plain.encode()[:LONGEST].decode(errors="ignore")) or "_"


def assign(labels: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """A name for each key of `labels` (value → how people call it); `known` are names given before, which stay whoever comes later.

    A name that had to be changed to be safe, or that another value has already (also if only case or Unicode form differ), ends in a
    hash of its value: no two values ever share a file, in one run or over time.
    """
    names = dict(known)
    taken = {_folded(name) for name in names.values()}
    for value in sorted(labels.keys() - names.keys()):
        names[value] = next(name for name in _candidates(value, labels[value]) if _folded(name) not in taken)
        taken.add(_folded(names[value]))
    return names


def _candidates(value: str, label: str) -> Iterator[str]:
    plain = safe_name(label)
    if plain == unicodedata.normalize("NFC", label):
        yield plain
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    yield from (f"{plain}-{digest[:length]}" for length in (8, 16, 32, 64))


def _folded(name: str) -> str:
    """Names that any file system may take for the same one are the same here."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
