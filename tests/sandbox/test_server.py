"""The kit the sandbox's services share: routing, faults, the log, violations."""

import threading
from collections.abc import Iterable, Iterator

import pytest
import requests

from connector.errors import ConfigError
from connector.sandbox.server import Refusal, Request, Response, Route, Running, Service, reply, serve


class Greeter(Service):
    name = "greeter"

    def __init__(self, folder=None):
        self.folder = folder
        self.greeted = 0

    def routes(self) -> Iterable[Route]:
        yield "GET", r"/hello/(?P<who>[^/]+)", self.hello
        yield "POST", r"/echo", lambda request: reply(request.json(), 201)
        yield "GET", r"/file", lambda request: Response(200, self.folder / "big")
        yield "GET", r"/crash", lambda request: 1 // 0
        yield "GET", r"/refuse", self.deep

    def hello(self, request: Request) -> Response:
        self.greeted += 1
        return reply({"hello": request.args["who"], "query": dict(request.query)})

    def deep(self, request: Request) -> Response:
        raise Refusal(reply({"no": "entry"}, 418))


@pytest.fixture
def running(tmp_path) -> Iterator[Running]:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 10_000)
    with serve(Greeter(tmp_path)) as running:
        yield running


def get(running, path, **kwargs):
    return requests.get(running.url("greeter") + path, timeout=5, **kwargs)


def test_routes_decode_their_groups_and_queries(running):
    assert get(running, "/hello/Ann%2FB%20c?x=1&x=2&y=").json() == {"hello": "Ann/B c", "query": {"x": "2", "y": ""}}
    assert requests.post(running.url("greeter") + "/echo", json={"a": [1]}, timeout=5).json() == {"a": [1]}
    assert get(running, "/refuse").status_code == 418


def test_unknown_addresses_and_methods_are_refused_in_the_services_words(running):
    assert (get(running, "/nowhere").status_code, get(running, "/echo").status_code) == (404, 405)
    assert running.violations == []


def test_a_crashing_handler_answers_500_and_fails_the_test(running):
    assert get(running, "/crash").status_code == 500
    assert "ZeroDivisionError" in running.violations[0]


def test_chunked_bodies_are_read_whole(running):
    body = (part for part in [b'{"a"', b": 1}"])
    assert requests.post(running.url("greeter") + "/echo", data=body, timeout=5).json() == {"a": 1}


def test_files_are_streamed(running):
    assert get(running, "/file").content == bytes(range(256)) * 10_000


def test_faults_hit_as_often_as_asked(running):
    fault = running.faults.add("GET /hello/Ann", status=503, headers={"Retry-After": "7"}, times=2, skip=1)
    answers = [get(running, "/hello/Ann") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 503, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert fault.hits == 2
    assert get(running, "/hello/Bob").status_code == 200


def test_a_share_of_requests_is_hit_and_the_same_ones_each_time():
    def campaign() -> list[int]:
        with serve(Greeter()) as running:
            running.faults.add("hello", status=500, share=0.3, times=None)
            return [get(running, "/hello/Ann").status_code for _ in range(40)]

    first = campaign()
    assert first == campaign()
    assert 3 < first.count(500) < 25


def test_dropped_connections_before_and_after_the_work_was_done():
    greeter = Greeter()
    with serve(greeter) as running:
        running.faults.add("hello", drop=True)
        running.faults.add("hello", drop=True, after=True)
        for expected in (0, 1):
            with pytest.raises(requests.ConnectionError):
                get(running, "/hello/Ann")
            assert greeter.greeted == expected
        running.faults.add("hello", status=504, after=True)
        assert get(running, "/hello/Ann").status_code == 504
        assert greeter.greeted == 2
        assert [logged.status for logged in running.requests] == [0, 0, 504]


def test_truncated_answers_end_early(running):
    running.faults.add("/file", truncate=1000)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(running, "/file")


def test_the_log_keeps_what_was_asked(running):
    requests.post(running.url("greeter") + "/echo", json={"a": 1}, headers={"X-One": "two"}, timeout=5)
    (logged,) = running.asked(r"^POST /echo$")
    assert (logged.service, logged.headers["x-one"], logged.body, logged.status) == ("greeter", "two", b'{"a": 1}', 201)


def test_a_taken_port_is_a_configuration_error(running):
    port = int(running.url("greeter").rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {port}"), serve(Greeter(), ports={"greeter": port}):
        pass


def test_nothing_is_left_behind(running):
    with requests.Session() as session:
        with serve(Greeter()) as other:
            session.get(other.url("greeter") + "/hello/Ann", timeout=5)
        with pytest.raises(requests.ConnectionError):
            session.get(other.url("greeter") + "/hello/Ann", timeout=5)
    assert not [thread for thread in threading.enumerate() if other.url("greeter") in thread.name]
