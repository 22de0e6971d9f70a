"""The one session: what it repeats, how long it waits, what it says when it gives up."""

from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
import responses
from urllib3.exceptions import InvalidHeader

from connector.errors import AuthError, SourceError, TransientError
from connector.http import Network, Session, host, retry_after

URL = "https://crm.test/deals?token=s3cr3t"
NOW = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)


@pytest.fixture
def api():
    with responses.RequestsMock() as mock:
        yield mock


def session(slept, **network):
    return Session(Network(**network), sleep=slept.append, now=lambda: NOW, jitter=lambda: 0.0)


def test_a_server_error_is_repeated_with_growing_waits(api):
    for status in (500, 502):
        api.get(URL, status=status)
    api.get(URL, json={})
    slept = []
    one = session(slept)
    assert one.call("GET", URL).ok
    assert slept == [1.0, 2.0]
    assert (one.requests_sent, one.retries) == (3, 2)


@pytest.mark.parametrize(("status", "times"), [(429, 2), (503, 2), (500, 1), (504, 1)])
def test_a_post_is_repeated_only_when_the_server_says_it_did_nothing(api, status, times):
    api.post(URL, status=status)
    if times == 2:
        api.post(URL, json={})
    one = session([])
    one.request("POST", URL)
    assert one.requests_sent == times


def test_the_server_says_how_long(api):
    api.get(URL, status=429, headers={"Retry-After": "7"})
    api.get(URL, json={})
    slept = []
    session(slept).call("GET", URL)
    assert slept == [7.0]


def test_patience_ends_at_max_wait(api):
    api.get(URL, status=429, headers={"Retry-After": "21600"})
    slept = []
    with pytest.raises(TransientError, match=r"crm\.test: still 429"):
        session(slept, max_wait=300).call("GET", URL)
    assert slept == []


def test_a_request_that_takes_too_long_is_asked_once_more(api):
    """At a timeout of 900 seconds, six times were an hour and a half."""
    api.get(URL, body=requests.ReadTimeout())
    one = session([])
    with pytest.raises(TransientError, match="no answer"):
        one.call("GET", URL)
    assert one.requests_sent == 2


def test_a_server_that_gave_up_waiting_is_asked_again(api):
    api.get(URL, status=408)
    api.get(URL, json={})
    assert session([]).call("GET", URL).ok


@pytest.mark.parametrize("token", ["pat‑na1", "pat-na1\n"])
def test_a_credential_that_cannot_be_sent_is_named_and_not_shown(token):
    """Whether a header can be sent shows only on a connection."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server, pytest.raises(AuthError, match="the credential holds") as caught:
        session([]).call("GET", f"http://127.0.0.1:{server.server_port}", headers={"Authorization": f"Bearer {token}"})
    assert "na1" not in f"{caught.value} {caught.value.remedy}"


def test_contradictory_headers_of_an_answer_are_not_blamed_on_the_credential(api):
    api.get(URL, body=requests.exceptions.InvalidHeader(InvalidHeader("Content-Length contained multiple unmatching values")))
    with pytest.raises(TransientError, match="the answer has contradictory headers"):
        session([]).call("GET", URL)


def test_a_lost_connection_is_repeated_for_get_and_not_for_post(api):
    api.get(URL, body=requests.ConnectionError())
    api.get(URL, json={})
    api.post(URL, body=requests.ConnectionError())
    assert session([]).call("GET", URL).ok
    with pytest.raises(TransientError, match="no answer"):
        session([]).call("POST", URL)


@pytest.mark.parametrize(("status", "error"), [(401, AuthError), (403, AuthError), (404, SourceError), (400, SourceError)])
def test_a_refusal_is_named_by_its_remedy_and_never_shows_the_address(api, status, error):
    api.get(URL, status=status, body="s3cr3t body")
    with pytest.raises(error) as caught:
        session([]).call("GET", URL)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("1.5", 1.5), ("Mon, 02 Mar 2026 06:00:09 GMT", 9.0), ("Mon, 02 Mar 2026 05:00:00 GMT", 0.0), ("soon", None), ("", None)],
)
def test_retry_after_in_both_forms(header, seconds):
    assert retry_after({"Retry-After": header}, NOW) == seconds


def test_a_host_without_its_credentials():
    assert host("https://user:secret@crm.test:8443/a?b=c") == "crm.test:8443"
