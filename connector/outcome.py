"""Which words of a source mean won and lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import pyarrow as pa

from connector.errors import ConfigError, SourceError, nearest
from connector.model import TEXT

OUTCOMES: Final = ("won", "lost")
#: what a status says without any mapping (compared without case)
UNDERSTOOD: Final = {
    "open": "open", "in progress": "open", "won": "won", "closed won": "won", "closedwon": "won",
    "lost": "lost", "closed lost": "lost", "closedlost": "lost",
}  # fmt: skip


def listed(status: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Word → outcome from `status: {won: […], lost: […]}`. Raises ConfigError."""
    words: dict[str, str] = {}
    for outcome, names in status.items():
        if outcome not in OUTCOMES:
            raise ConfigError(f"status: no outcome {outcome!r}; {nearest(outcome, OUTCOMES)}", remedy="everything not listed is open")
        for name in names:
            if words.setdefault(folded(name), outcome) != outcome:
                raise ConfigError(f"status: {name!r} is listed as won and as lost")
    return words


def unused(status: Mapping[str, Sequence[str]], found: Collection[str]) -> list[str]:
    """A sentence for each listed word that no deal has."""
    have = {folded(word) for word in found}
    return [
        f"status.{outcome}: no deal has {name!r}; {nearest(name, found)}"
        for outcome, names in status.items()
        for name in names
        if found and folded(name) not in have
    ]


def understood(found: Collection[str]) -> dict[str, str]:
    """Word → outcome where nothing is listed. Raises SourceError for a word that may mean anything."""
    unknown = [word for word in found if folded(word) not in UNDERSTOOD]
    if unknown:
        raise SourceError(
            f"not open, won or lost: {', '.join(map(repr, unknown[:10]))}{' …' if len(unknown) > 10 else ''}",
            remedy="say which words mean what: `status: {won: […], lost: […]}`; everything else is open",
        )
    return dict(UNDERSTOOD)


def outcomes(texts: pa.Array, words: Mapping[str, str], *, otherwise: str | None) -> pa.Array:
    """Each word's outcome; missing ones are `otherwise`, and so are words that are not there."""
    encoded = texts.dictionary_encode()
    known = [words.get(folded(text), otherwise) for text in encoded.dictionary.to_pylist()]
    result = pa.array(known, TEXT).take(encoded.indices)
    return result if otherwise is None else result.fill_null(otherwise)


def folded(word: str) -> str:
    return str(word).strip().casefold()
