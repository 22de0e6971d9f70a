"""Pagers, walks, work side by side, and budgets of calls."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import SourceError
from connector.pages import (
    Answer,
    Ask,
    Cursor,
    HeaderCursor,
    LinkHeader,
    NextUrl,
    Numbered,
    OnePage,
    Pace,
    dig,
    side_by_side,
    walk,
)

ROWS = [{"id": number} for number in range(10)]


def pages_of(size, answer):
    """A service that gives ROWS in pages; `answer(start, rows, more)` says how."""

    def fetch(ask):
        fetch.asked.append(ask)
        start = fetch.place(ask)
        rows = ROWS[start : start + size]
        return answer(start, rows, start + size < len(ROWS))

    fetch.asked = []
    return fetch


def collect(fetch, ask, pager, **how):
    return [row for part in walk(fetch, ask, pager, place="Service", records="rows", **how) for row in part.records]


class TestPagers:
    def test_one_page(self):
        assert collect(lambda ask: Answer({"rows": ROWS}), Ask("/a"), OnePage()) == ROWS

    @pytest.mark.parametrize("where", ["params", "json"])
    def test_a_cursor_in_the_body(self, where):
        fetch = pages_of(3, lambda start, rows, more: Answer({"rows": rows, "paging": {"next": {"after": start + 3}} if more else {}}))
        fetch.place = lambda ask: int((ask.json or {} if where == "json" else ask.params).get("after", 0))
        assert collect(fetch, Ask("/a", {"limit": "3"}), Cursor("after", "paging.next.after", where)) == ROWS
        assert all(ask.params["limit"] == "3" for ask in fetch.asked)

    def test_a_next_address_is_followed_as_it_is(self):
        fetch = pages_of(4, lambda start, rows, more: Answer({"rows": rows, "next": f"/more/{start + 4}" if more else None}))
        fetch.place = lambda ask: int(ask.url.rpartition("/")[2]) if "more" in ask.url else 0
        assert collect(fetch, Ask("https://service.example/start", {"q": "x"}), NextUrl("next")) == ROWS
        assert [ask.url for ask in fetch.asked[1:]] == ["https://service.example/more/4", "https://service.example/more/8"]
        assert all(ask.params == {} for ask in fetch.asked[1:])

    def test_a_cursor_in_a_header_ends_with_its_word(self):
        fetch = pages_of(5, lambda start, rows, more: Answer({"rows": rows}, {"Sforce-Locator": str(start + 5) if more else "null"}))
        fetch.place = lambda ask: int(ask.params.get("locator", 0))
        assert collect(fetch, Ask("/a"), HeaderCursor("locator", "Sforce-Locator", "null")) == ROWS

    def test_a_link_header(self):
        fetch = pages_of(
            5,
            lambda start, rows, more: Answer(
                {"rows": rows}, {"Link": f'<https://s.example/0>; rel="first", <https://s.example/{start + 5}>; rel="next"'} if more else {}
            ),
        )
        fetch.place = lambda ask: int(ask.url.rpartition("/")[2])
        assert collect(fetch, Ask("https://s.example/0"), LinkHeader()) == ROWS

    def test_page_numbers_until_a_short_page(self):
        fetch = pages_of(4, lambda start, rows, more: Answer({"rows": rows}))
        fetch.place = lambda ask: (int(ask.params.get("page", 1)) - 1) * 4
        assert collect(fetch, Ask("/a"), Numbered("page", size=4)) == ROWS

    def test_offsets_until_more_says_no(self):
        fetch = pages_of(5, lambda start, rows, more: Answer({"rows": rows, "info": {"more": more}}))
        fetch.place = lambda ask: int(ask.params.get("start", 0))
        assert collect(fetch, Ask("/a"), Numbered("start", size=5, step=5, start=0, more="info.more")) == ROWS
        assert len(fetch.asked) == 2

    def test_pagers_are_values(self):
        assert Cursor("after", "paging.next.after") == Cursor("after", "paging.next.after")
        assert len({NextUrl("a"), NextUrl("a"), OnePage()}) == 2


class TestWalk:
    def test_the_same_page_twice_is_an_error(self):
        with pytest.raises(SourceError, match="same page twice"):
            collect(lambda ask: Answer({"rows": ROWS, "next": "3"}), Ask("/a"), Cursor("after", "next"))

    def test_a_new_cursor_with_the_same_records_is_an_error_too(self):
        numbers = iter(range(100))
        with pytest.raises(SourceError, match="same page twice"):
            collect(lambda ask: Answer({"rows": ROWS, "next": str(next(numbers))}), Ask("/a"), Cursor("after", "next"))

    def test_an_empty_page_is_not_the_end(self):
        answers = iter([Answer({"rows": ROWS[:3], "next": "1"}), Answer({"rows": [], "next": "2"}), Answer({"rows": ROWS[3:]})])
        assert collect(lambda ask: next(answers), Ask("/a"), Cursor("after", "next")) == ROWS

    def test_fewer_than_announced_is_an_error(self):
        with pytest.raises(SourceError, match="11 records were announced and 10 sent"):
            collect(lambda ask: Answer({"rows": ROWS, "total": 11}), Ask("/a"), OnePage(), total="total")

    def test_an_answer_of_another_shape_is_an_error(self):
        with pytest.raises(SourceError, match="no list"):
            collect(lambda ask: Answer({"error": "html"}), Ask("/a"), OnePage())

    def test_can_be_taken_up_at_any_page(self):
        fetch = pages_of(3, lambda start, rows, more: Answer({"rows": rows, "next": start + 3 if more else None}))
        fetch.place = lambda ask: int(ask.params.get("after", 0))
        parts = list(walk(fetch, Ask("/a"), Cursor("after", "next"), place="Service", records="rows"))
        rest = list(walk(fetch, parts[1].following, Cursor("after", "next"), place="Service", records="rows"))
        assert [part.records for part in rest] == [part.records for part in parts[2:]]

    @given(st.integers(0, 40), st.integers(1, 9))
    def test_every_record_comes_once(self, count, size):
        rows = [{"id": number} for number in range(count)]

        def fetch(ask):
            start = int(ask.params.get("after", 0))
            more = start + size < count
            return Answer({"rows": rows[start : start + size], "total": count, "next": start + size if more else None})

        assert collect(fetch, Ask("/a"), Cursor("after", "next"), total="total") == rows


def test_dig():
    body = {"a": {"line items": [{"b": 1}, {"b": 2}]}}
    assert dig(body, "a.line items.1.b") == 2
    assert dig(body, "a.none.b") is None
    assert dig(body, "a.line items.7") is None


class TestSideBySide:
    def test_results_come_in_order(self):
        def work(number):
            time.sleep(0.01 * (number % 3))
            return number

        assert list(side_by_side(work, range(20), 4)) == list(range(20))

    def test_runs_at_the_same_time_but_not_more_than_told(self):
        busy, most, lock = 0, 0, threading.Lock()

        def work(_):
            nonlocal busy, most
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.02)
            with lock:
                busy -= 1

        list(side_by_side(work, range(12), 3))
        assert 1 < most <= 3

    def test_does_not_run_far_ahead(self):
        begun = []
        results = side_by_side(lambda number: begun.append(number) or number, iter(range(1_000)), 2)
        next(results)
        time.sleep(0.05)
        assert len(begun) < 20
        results.close()

    def test_a_failure_comes_in_its_place(self):
        def work(number):
            if number == 3:
                raise SourceError("three")
            return number

        results = side_by_side(work, range(10), 2)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match="three"):
            next(results)


class TestPace:
    def test_keeps_within_the_budget_of_every_window(self):
        now = [datetime(2026, 1, 1, tzinfo=UTC)]
        stamps = []

        def sleep(seconds):
            now[0] += timedelta(seconds=seconds)

        pace = Pace(5, 10, now=lambda: now[0], sleep=sleep)
        for _ in range(33):
            with pace:
                stamps.append(now[0])
        for stamp in stamps:
            assert sum(stamp <= other < stamp + timedelta(seconds=10) for other in stamps) <= 5
        assert stamps[-1] - stamps[0] == timedelta(seconds=60), "no slower than the budget allows"

    def test_a_call_that_arrives_late_counts_from_its_answer(self):
        now = [datetime(2026, 1, 1, tzinfo=UTC)]
        slept = []
        pace = Pace(2, 10, now=lambda: now[0], sleep=slept.append)
        with pace:
            now[0] += timedelta(seconds=8)  # on its way all the time
        with pace:
            now[0] += timedelta(seconds=4)
        with pace:
            assert slept == [6]

    def test_a_smaller_budget_holds_at_once(self):
        slept = []
        pace = Pace(10, 10, now=lambda: datetime(2026, 1, 1, tzinfo=UTC), sleep=slept.append)
        for _ in range(4):
            with pace:
                pass
        pace.calls = 4
        with pace:
            assert slept == [10]

    def test_no_more_calls_are_under_way_than_the_budget_has(self):
        pace = Pace(3, 10, now=lambda: datetime(2026, 1, 1, tzinfo=UTC), sleep=lambda _: None)
        lock, here, most = threading.Lock(), [0], [0]

        def call(_):
            with pace:
                with lock:
                    here[0] += 1
                    most[0] = max(most[0], here[0])
                with lock:
                    here[0] -= 1

        assert len(list(side_by_side(call, range(200), 8))) == 200
        assert most[0] <= 3
