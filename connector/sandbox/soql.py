"""A small reader of SOQL: what a client may ask of the sandbox's Salesforce, and nothing looser than the real one.

    SELECT a, b.c, COUNT() FROM X [WHERE …] [GROUP BY a, …] [ORDER BY a [ASC|DESC] [NULLS FIRST|LAST], …] [LIMIT n] [OFFSET n]

Conditions: comparisons, IN and NOT IN with values or a sub-select, LIKE, AND, OR, NOT and brackets. Values: text in single quotes,
numbers, dates, date-times, TRUE, FALSE, NULL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')"
    r"|(?P<instant>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d))"
    r"|(?P<date>\d{4}-\d\d-\d\d)"
    r"|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<word>[A-Za-z_][\w.]*)"
    r"|(?P<sign><=|>=|!=|<>|[=<>(),]))"
)
_KEYWORDS: Final = frozenset({"SELECT", "FROM", "WHERE", "GROUP", "ORDER", "BY", "LIMIT", "OFFSET", "AND", "OR", "NOT", "IN", "LIKE"})

#: What a condition may ask of a record: the value of a field by path
Field = Callable[[str], Any]
Condition = Callable[[Field], bool]


class SoqlError(Exception):
    """MALFORMED_QUERY, with the column where reading stopped."""


@dataclass(frozen=True, slots=True)
class Query:
    """`where` lists the paths it looks at in `asked`; `nested` are child sub-selects in SELECT; `count` is SELECT COUNT()."""

    fields: tuple[str, ...]
    object: str
    where: Condition | None = None
    asked: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None
    offset: int = 0
    count: bool = False
    nested: tuple[Query, ...] = ()
    bounds: tuple[tuple[str, str, Any], ...] = ()


#: Runs a sub-select and gives the values of its one field
SubSelect = Callable[[Query], set[Any]]


def parse(text: str, select: SubSelect) -> Query:
    """Read one query. Raises SoqlError."""
    reader = _Reader(list(_tokens(text)), select)
    query = reader.query()
    if reader.here[0] != "end":
        raise SoqlError(f"unexpected token: '{reader.here[1]}' at column {reader.here[2]}")
    return query


Token = tuple[str, Any, int]


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if not match:
            raise SoqlError(f"unexpected character at column {place + 1}")
        group = match.lastgroup
        assert group
        kind, raw = group, match[group]
        value: Any = raw
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", raw[1:-1])
        elif kind == "instant":
            value = datetime.fromisoformat(raw)
        elif kind == "date":
            value = date.fromisoformat(raw)
        elif kind == "number":
            value = Decimal(raw)
        elif kind == "word" and raw.upper() in _KEYWORDS:
            kind, value = "keyword", raw.upper()
        yield kind, value, match.start(group) + 1
        place = match.end()
    yield "end", "<EOF>", len(text) + 1


class _Reader:
    def __init__(self, tokens: list[Token], select: SubSelect) -> None:
        self.tokens = tokens
        self.place = 0
        self.select = select
        self.asked: list[str] = []
        self.bounds: list[tuple[str, str, Any]] = []

    @property
    def here(self) -> Token:
        return self.tokens[self.place]

    def take(self, *wanted: str) -> Any:
        kind, value, column = self.here
        if wanted and kind not in wanted and value not in wanted:
            raise SoqlError(f"unexpected token: '{value}' at column {column}, expected {' or '.join(wanted)}")
        self.place += 1
        return value

    def taken(self, value: str) -> bool:
        if self.here[0] in ("keyword", "sign") and self.here[1] == value:
            self.place += 1
            return True
        return False

    def word_is(self, word: str) -> bool:
        if self.here[0] == "word" and self.here[1].upper() == word:
            self.place += 1
            return True
        return False

    def query(self) -> Query:
        self.take("SELECT")
        fields, nested, count = [], [], False
        while True:
            if self.taken("("):
                inner = _Reader(self.tokens, self.select)
                inner.place = self.place
                nested.append(inner.query())
                self.place = inner.place
                self.take(")")
            else:
                name = self.take("word")
                if self.taken("("):
                    self.take(")")
                    if name.upper() != "COUNT":
                        raise SoqlError(f"unknown function {name}")
                    count = True
                else:
                    fields.append(name)
            if not self.taken(","):
                break
        self.take("FROM")
        name = self.take("word", "GROUP")  # an object may be called so
        where = self.any_of() if self.taken("WHERE") else None
        group = self.group() if self.taken("GROUP") else ()
        order = self.order() if self.taken("ORDER") else ()
        limit = int(self.take("number")) if self.taken("LIMIT") else None
        offset = int(self.take("number")) if self.taken("OFFSET") else 0
        asked, bounds = tuple(self.asked), tuple(self.bounds)
        return Query(tuple(fields), name, where, asked, group, order, limit, offset, count, tuple(nested), bounds)

    def group(self) -> tuple[str, ...]:
        self.take("BY")
        fields = [self.take("word")]
        while self.taken(","):
            fields.append(self.take("word"))
        return tuple(fields)

    def order(self) -> tuple[tuple[str, bool], ...]:
        self.take("BY")
        keys = []
        while True:
            field = self.take("word")
            self.asked.append(field)
            descending = self.word_is("DESC")
            if not descending:
                self.word_is("ASC")
            if self.word_is("NULLS"):
                self.take("word")
            keys.append((field, descending))
            if not self.taken(","):
                return tuple(keys)

    def any_of(self) -> Condition:
        parts = [self.all_of()]
        while self.taken("OR"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else lambda field: any(part(field) for part in parts)

    def all_of(self) -> Condition:
        parts = [self.one()]
        while self.taken("AND"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else lambda field: all(part(field) for part in parts)

    def one(self) -> Condition:
        if self.taken("NOT"):
            inner = self.one()
            return lambda field: not inner(field)
        if self.taken("("):
            condition = self.any_of()
            self.take(")")
            return condition
        name = self.take("word")
        self.asked.append(name)
        if self.taken("NOT"):
            self.take("IN")
            values = self.values()
            return lambda field: field(name) not in values
        if self.taken("IN"):
            values = self.values()
            return lambda field: field(name) in values
        if self.taken("LIKE"):
            pattern = re.compile(re.escape(self.take("text")).replace("%", ".*").replace("_", "."), re.IGNORECASE | re.DOTALL)
            return lambda field: bool(pattern.fullmatch(field(name) or ""))
        sign = self.take("sign")
        value = self.value()
        self.bounds.append((name, sign, value))
        return _comparison(name, sign, value)

    def values(self) -> set[Any]:
        self.take("(")
        if self.here[1] == "SELECT":
            inner = _Reader(self.tokens, self.select)
            inner.place = self.place
            found = self.select(inner.query())
            self.place = inner.place
        else:
            found = {self.value()}
            while self.taken(","):
                found.add(self.value())
        self.take(")")
        return found

    def value(self) -> Any:
        kind, value, column = self.here
        if kind == "word" and value.upper() in ("TRUE", "FALSE", "NULL"):
            self.place += 1
            return {"TRUE": True, "FALSE": False, "NULL": None}[value.upper()]
        if kind not in ("text", "instant", "date", "number"):
            raise SoqlError(f"unexpected token: '{value}' at column {column}, expected a value")
        self.place += 1
        return value


def _comparison(name: str, sign: str, value: Any) -> Condition:
    if sign == "=":
        return lambda field: _same(field(name), value)
    if sign in ("!=", "<>"):
        return lambda field: not _same(field(name), value)
    tests: dict[str, Callable[[Any], bool]] = {
        "<": lambda found: found < value,
        "<=": lambda found: found <= value,
        ">": lambda found: found > value,
        ">=": lambda found: found >= value,
    }
    if sign not in tests:
        raise SoqlError(f"unexpected token: '{sign}'")
    test = tests[sign]

    def compare(field: Field) -> bool:
        found = field(name)
        return found is not None and test(found)

    return compare


def _same(found: Any, value: Any) -> bool:
    """Text without regard to case, ids with it and in either length."""
    if isinstance(found, str) and isinstance(value, str) and found != value:
        if len(found) == 18 and len(value) in (15, 18):
            return found[:15] == value
        return found.casefold() == value.casefold()
    return bool(found == value)
