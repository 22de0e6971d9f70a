"""Walking through what an API gives page by page: pagers as frozen values, one iterator for all of them, and a budget of calls.

A pager looks at a request and its answer and says the next request, or None at the end. It is pure, so a walk can be stopped, kept
and taken up again at any request. `walk` adds what every API needs: a cursor that comes back is an error, not an endless loop; an
empty page is not the end; and what was announced must have been sent.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypeVar
from urllib.parse import urljoin

from connector.errors import SourceError

Json = Any
T = TypeVar("T")
R = TypeVar("R")
_LINK: Final = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as a value. `json` makes it a body; `url` may be relative to the service's address."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_params(self, **params: str) -> Ask:
        return replace(self, params={**self.params, **params})

    def with_json(self, **keys: Json) -> Ask:
        return replace(self, json={**(self.json or {}), **keys})

    @property
    def name(self) -> str:
        """The same text for the same question."""
        return json.dumps([self.method, self.url, dict(self.params), self.json, dict(self.headers)], sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the body as JSON, the headers."""

    body: Json
    headers: Mapping[str, str] = field(default_factory=dict)


class Pager(Protocol):
    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        """The request for the page after this one, which held `count` records; None at the end."""
        ...


@dataclass(frozen=True, slots=True)
class OnePage:
    """Everything comes at once."""

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        return None


@dataclass(frozen=True, slots=True)
class NextUrl:
    """The body names the next page's address, relative or absolute; it is followed unchanged, without our parameters."""

    path: str

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        address = dig(answer.body, self.path)
        return replace(ask, url=urljoin(ask.url, str(address)), params={}) if address else None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The body holds a cursor, which the next request repeats as parameter `param`, in the address or in the body."""

    param: str
    path: str
    place: Literal["params", "json"] = "params"

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        cursor = dig(answer.body, self.path)
        if cursor in (None, ""):
            return None
        return ask.with_json(**{self.param: cursor}) if self.place == "json" else ask.with_params(**{self.param: str(cursor)})


@dataclass(frozen=True, slots=True)
class HeaderCursor:
    """A header holds the cursor; `end` is what it says on the last page."""

    param: str
    header: str
    end: str = ""

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        cursor = answer.headers.get(self.header, self.end)
        return None if cursor in ("", self.end) else ask.with_params(**{self.param: cursor})


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """RFC 8288: `Link: <address>; rel="next"`."""

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        match = _LINK.search(answer.headers.get("Link", ""))
        return replace(ask, url=urljoin(ask.url, match[1]), params={}) if match else None


@dataclass(frozen=True, slots=True)
class Numbered:
    """Pages or records counted by the client: `param` grows by `step` until `more` says false, or, without `more`, a page is short.

    `step` is 1 for page numbers and the page's size for offsets; `size` is what a full page holds; `start` is the first number.
    """

    param: str
    size: int
    step: int = 1
    start: int = 1
    more: str | None = None

    def next(self, ask: Ask, answer: Answer, count: int) -> Ask | None:
        if not (dig(answer.body, self.more) if self.more else count >= self.size):
            return None
        return ask.with_params(**{self.param: str(int(ask.params.get(self.param, self.start)) + self.step)})


@dataclass(frozen=True, slots=True)
class Part:
    """One page of a walk, the request for the next one, and how many records the service announced for the whole walk."""

    records: list[dict[str, Any]]
    following: Ask | None
    total: int | None
    answer: Answer


def walk(
    fetch: Callable[[Ask], Answer], ask: Ask | None, pager: Pager, *, place: str, records: str, total: str | None = None
) -> Iterator[Part]:
    """Every page from `ask` on. `records` and `total` are paths in the body; with `total`, fewer records than announced are an error.

    Raises SourceError for a walk that goes in circles or ends early, and for an answer of another shape.
    """
    seen: set[str] = set()
    received, announced = 0, None
    before: list[dict[str, Any]] = []
    while ask is not None:
        if ask.name in seen:
            raise _circle(place)
        seen.add(ask.name)
        answer = fetch(ask)
        found = dig(answer.body, records) if records else answer.body
        if not isinstance(found, list):
            raise SourceError(f"{place}: the answer has no list of records ({records!r})", remedy="is this the address of the service?")
        if found and found == before:
            raise _circle(place)
        received += len(found)
        announced = dig(answer.body, total) if total else None
        ask = pager.next(ask, answer, len(found))
        yield Part(found, ask, announced, answer)
        before = found
    if announced is not None and received < int(announced):
        raise SourceError(
            f"{place}: {int(announced):,} records were announced and {received:,} sent", remedy="run again; nothing was taken over"
        )


def dig(body: Json, path: str) -> Json:
    """The value at `a.b.c`, None where the way ends. A key may hold spaces; numbers index lists."""
    for key in path.split("."):
        if isinstance(body, Mapping):
            body = body.get(key)
        elif isinstance(body, list) and key.isdigit() and int(key) < len(body):
            body = body[int(key)]
        else:
            return None
    return body


def _circle(place: str) -> SourceError:
    return SourceError(
        f"{place}: the service gave the same page twice; reading on would never end",
        remedy="run again; if it stays, report it to the service",
    )


def side_by_side(work: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """The results of independent tasks in their order, `workers` at a time and not far ahead of who reads them."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    waiting: deque[Future[R]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            while waiting and (waiting[0].done() or len(waiting) > 2 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Pace:
    """Keeps calls within a budget of so many per window: `with pace:` around each call. Threads may share it; `calls` may be changed.

    A service counts a call when it arrives, which is some time between its sending and its answer. So a call takes its place in the
    budget until a window after its answer: however slow the way, no window of the service ever holds more.
    """

    def __init__(self, calls: int, seconds: float, *, now: Callable[[], datetime], sleep: Callable[[float], None]) -> None:
        self.calls = calls
        self._window = timedelta(seconds=seconds)
        self._now = now
        self._sleep = sleep
        self._under_way = 0
        self._answered: deque[datetime] = deque()
        self._door = threading.Lock()  # one waits, the others wait behind
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._door:
            at = self._now()
            due = self._due(at)
            if due > at:
                self._sleep((due - at).total_seconds())
            with self._changed:
                self._forget(max(due, self._now()))
                self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._answered.append(self._now())
            self._under_way -= 1
            self._changed.notify()

    def _due(self, at: datetime) -> datetime:
        """When one more call is within the budget."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self.calls)
            self._forget(at)
            over = self._under_way + len(self._answered) - self.calls
            return self._answered[over] + self._window if over >= 0 else at

    def _forget(self, at: datetime) -> None:
        while self._answered and at - self._answered[0] >= self._window:
            self._answered.popleft()
