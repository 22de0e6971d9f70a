"""Salesforce ids: 15 characters in which case matters, or the same with three more that make it safe where case is lost.

The API gives 18 everywhere; formulas and text fields that people filled from a report or an address hold 15, and would match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

ID_TYPES: Final = frozenset({"id", "reference"})
#: ids of what our tables point to: accounts, contacts, users, opportunities, queues, leads, products
PREFIXES: Final = ("001", "003", "005", "006", "00G", "00Q", "01t")
IDS_PER_QUERY: Final = 200
#: fields that may hold ids, each with what makes its values long
Lengthening = tuple[tuple[str, Callable[[str], str]], ...]
_CHECK: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_SHORT: Final = re.compile(r"[0-9A-Za-z]{15}")
_NAMED_AS_ID: Final = re.compile(r"(?:Id|ID|15)__c$")


def long_id(value: str) -> str:
    """An id with 18 characters; anything else as it is."""
    if not _SHORT.fullmatch(value):
        return value
    parts = (value[:5], value[5:10], value[10:])
    return value + "".join(_CHECK[sum(1 << place for place, char in enumerate(part) if char.isupper())] for part in parts)


def long_id_in_text(value: str) -> str:
    """The same for text, which may be something else: an id begins like those our tables point to and is not all digits after that."""
    return long_id(value) if value.startswith(PREFIXES) and not value[3:].isdigit() else value


def lengthening(types: Mapping[str, str]) -> Lengthening:
    """Ids by their type, and text in fields named as ids."""
    ids = [(name, long_id) for name, kind in types.items() if kind in ID_TYPES]
    return *ids, *((name, long_id_in_text) for name, kind in types.items() if kind == "string" and _NAMED_AS_ID.search(name))


def lengthen(record: dict[str, Any], fields: Lengthening) -> None:
    for name, longer in fields:
        value = record.get(name)
        if value is not None and len(value) == 15:
            record[name] = longer(value)


def listed(ids: Sequence[str]) -> Iterator[str]:
    """Lists of ids for IN, each short enough for an address."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        yield ", ".join(f"'{one}'" for one in ids[start : start + IDS_PER_QUERY])
