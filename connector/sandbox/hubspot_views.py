"""The company's records as the sandbox's HubSpot numbers them, without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connector.sandbox.company import Company
from connector.sandbox.records import Activity


class Only(Mapping[int, Activity]):
    """Activities of some kinds, without a copy. Of the e-mails (`email`) every other is a logged one, the others are tasks to write one."""

    def __init__(self, every: dict[int, Activity], *kinds: str, email: bool | None = None) -> None:
        self._every = every
        self._kinds = kinds
        self._email = email

    def _has(self, one: Activity) -> bool:
        return one.kind in self._kinds or (one.kind == "email" and self._email is not None and (one.n % 2 == 0) == self._email)

    def __getitem__(self, n: int) -> Activity:
        one = self._every[n]
        if not self._has(one):
            raise KeyError(n)
        return one

    def __iter__(self) -> Iterator[int]:
        return (n for n, one in self._every.items() if self._has(one))

    def __reversed__(self) -> Iterator[int]:
        return (n for n in reversed(self._every) if self._has(self._every[n]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Lines(Mapping[int, Any]):
    """Line items by number; built anew when the company has changed."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._version = -1
        self._lines: dict[int, Any] = {}

    def _now(self) -> dict[int, Any]:
        if self._version != self._company.version:
            self._lines = {line.n: line for deal in self._company.deals.values() for line in deal.lines}
            self._lines = dict(sorted(self._lines.items()))
            self._version = self._company.version
        return self._lines

    def __getitem__(self, n: int) -> Any:
        return self._now()[n]

    def __iter__(self) -> Iterator[int]:
        return iter(self._now())

    def __reversed__(self) -> Iterator[int]:
        yield from reversed(self._now())

    def __len__(self) -> int:
        return len(self._now())
