"""What the sandbox's Salesforce objects are made of: ids, fields with types and values, relationships."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final

DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECK: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"

Value = Callable[[Any], Any]


def sf_id(prefix: str, n: int) -> str:
    """An 18-character id: key prefix, instance, number in base 62, and the three characters that make it safe against case."""
    number = ""
    while n:
        n, digit = divmod(n, 62)
        number = DIGITS[digit] + number
    short = f"{prefix}Hs{number:0>10}"
    return short + _check(short[:5]) + _check(short[5:10]) + _check(short[10:])


@lru_cache(1 << 16)
def _check(part: str) -> str:
    """Says which of five characters are capitals."""
    return CHECK[sum(1 << place for place, char in enumerate(part) if char.isupper())]


def always(value: Any) -> Value:
    return lambda _: value


def never(_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Field:
    type: str
    value: Value


@dataclass(frozen=True, slots=True)
class SObject:
    """`parents` are relationships: name → object and the parent's record (None when there is none)."""

    name: str
    prefix: str
    rows: Callable[[], Iterable[Any]]
    fields: Mapping[str, Field]
    parents: Mapping[str, tuple[str, Value]] = field(default_factory=dict)
    archived: Callable[[Any], bool] = never
    bulk: bool = True


def typed(**columns: Mapping[str, Value]) -> dict[str, Field]:
    return {name: Field(kind, value) for kind, values in columns.items() for name, value in values.items()}


def stamps(prefix: str) -> dict[str, Field]:
    """What every record of the company has."""
    return typed(
        id={"Id": lambda one: sf_id(prefix, one.n)},
        datetime={
            "CreatedDate": lambda one: one.created_at,
            "SystemModstamp": lambda one: one.modified_at,
            "LastModifiedDate": lambda one: one.modified_at,
        },
        boolean={"IsDeleted": lambda one: getattr(one, "deleted_at", None) is not None},
    )


def user_id(n: int | None) -> str | None:
    return sf_id("005", n) if n else None


def account_id(n: int | None) -> str | None:
    return sf_id("001", n) if n else None


def deal_id(n: int | None) -> str | None:
    return sf_id("006", n) if n else None


def lead_id(n: int | None) -> str | None:
    return sf_id("00Q", n) if n else None


def contact_id(n: int | None) -> str | None:
    return sf_id("003", n) if n else None


def yes(value: bool | None) -> str | None:
    return None if value is None else "Yes" if value else "No"


def day(moment: datetime | None) -> date | None:
    return moment.date() if moment else None


def instant(value: datetime) -> str:
    """2026-05-01T07:25:37.000+0000: no colon in the offset."""
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000+0000"
