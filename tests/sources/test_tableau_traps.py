"""One test for each trap of tableauserverclient 0.42 and of Tableau itself that other connectors fell into.

The tests of views, dashboards, filters, empty results, Measure Names, totals and repeated headers are in test_tableau.py.
"""

import contextlib
import subprocess
import sys
import tracemalloc
from datetime import timedelta

import pytest
import requests
import tableauserverclient as tsc

from connector.api import Since
from connector.auth.tableau import Connection
from connector.auth.tokens import SecretFile
from connector.errors import AuthError, ConfigError, SourceError, TransientError
from connector.http import Session
from connector.sandbox.server import serve
from connector.sandbox.tableau import App, Project, Site, Tableau, View, Workbook
from sources.tableau import TableauConfig, TableauSource

PAT = {"name": "connector", "secret": "sandbox-secret"}
CSV = b"Stage,Deals\r\nWon,3\r\nLost,4\r\n"
XML = {"Content-Type": "application/xml;charset=utf-8"}
DEAD = (
    b"<tsResponse xmlns='http://tableau.com/api'><error code='401002'><summary>s</summary><detail>d</detail></error></tsResponse>".replace(
        b"'", b'"'
    )
)


@pytest.fixture
def site():
    project = Project("Sales")
    book = Workbook("Book", project)
    for number in range(3):
        book.add(View(f"View {number}", raw=CSV))
    return Site(projects=[project], workbooks=[book])


@pytest.fixture
def running(site):
    with serve(Tableau(site, strict=True)) as running:
        yield running
        assert running.violations == []


def source_of(running, *views, **config):
    config = {"base_url": running.url("tableau"), "site": "sales", "max_wait": 60, **config}
    config = TableauConfig(**{"token": PAT, **config} if "app" not in config else config, views=views)
    session = Session(config.network(), sleep=running.clock.sleep, now=running.clock.now, jitter=lambda: 0)
    return TableauSource(config, session)


def read(running, view="Book/View 1", **spec):
    source = source_of(running, {"view": view, "table": "t", **spec.pop("view_spec", {})}, **spec)
    return [row for page in source.read(source.entities()[0], Since()) for row in page.records.to_pylist()]


def plain_client(running):
    server = tsc.Server(running.url("tableau"), use_server_version=True)
    server.auth.sign_in(tsc.PersonalAccessTokenAuth("connector", "sandbox-secret", site_id="sales"))
    return server


# ── tableauserverclient ───────────────────────────────────────────────────────────────────────────


def test_trap_1_a_refused_page_is_an_error_and_not_a_shorter_list(running, site):
    for number in range(3, 1005):
        site.workbooks[0].add(View(f"View {number}", raw=CSV))
    server = plain_client(running)
    running.faults.add("pageNumber=2", status=403, times=None)
    assert len(list(server.views.all(page_size=500))) == 500  # the trap: 500 of 1,005, and no word of it
    server.auth.sign_out()
    with pytest.raises(AuthError, match="not permitted"):
        read(running, "Book/missing")


def test_trap_1_a_list_shorter_than_announced_is_an_error(running):
    body = (
        b'<tsResponse xmlns="http://tableau.com/api"><pagination pageNumber="1" pageSize="1000" totalAvailable="5"/><views/></tsResponse>'
    )
    running.faults.add("/views", status=200, body=body, headers=XML)
    with pytest.raises(SourceError, match="5 announced, 0 sent"):
        read(running)


def test_trap_2_no_header_of_one_request_reaches_another(running):
    """TSC writes the token into the caller's headers and sends it with the next sign-in. Strict mode would list that."""
    source = source_of(running, {"view": "Book/View 0", "table": "a"}, {"view": "Book/View 1", "table": "b"})
    list(source.read(source.entities()[0], Since()))
    running.clock.sleep(121 * 60)
    list(source.read(source.entities()[1], Since()))
    first, second = running.asked("signin")
    assert "x-tableau-auth" not in {**first.headers, **second.headers}


def test_trap_3_text_is_streamed_and_not_held(running, site):
    line = b"Qualification," + b"x" * 985 + b"\r\n"
    site.workbooks[0].views[1].raw = b"Stage,Note\r\n" + line * 40_000  # 40 MB
    source = source_of(running, {"view": "Book/View 1", "table": "t"})
    tracemalloc.start()
    rows = sum(page.records.num_rows for page in source.read(source.entities()[0], Since()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 40_000
    assert peak < 20 << 20


def test_trap_4_a_hidden_version_is_an_error_and_not_version_2_4(running):
    running.faults.add("serverInfo", status=404, times=None)
    with pytest.raises(ConfigError, match="does not tell its version") as error:
        read(running)
    assert "api_version" in error.value.remedy
    assert read(running, api_version="3.21")
    assert running.asked("/api/3.21/sites/.*/data")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_trap_4_a_version_that_cannot_be_had_now_is_had_later(running, status):
    running.faults.add("serverInfo", status=status, times=None)
    with pytest.raises(TransientError):
        read(running)


def test_trap_4_an_old_server_is_refused(site):
    with serve(Tableau(site, api="3.7")) as running, pytest.raises(ConfigError, match=r"REST API 3\.7; 3\.8"):
        read(running)


def test_trap_5_letters_on_the_edge_of_a_block_stay_whole_and_the_view_is_asked_once(running, site):
    names = ["é" * 65_535, "日本" * 40_000]
    site.workbooks[0].views[1].raw = b"Name,N\r\n" + "".join(f"{name},1\r\n" for name in names).encode()
    assert [row["Name"] for row in read(running)] == names
    assert len(running.asked("/data$")) == 1


@pytest.mark.parametrize("how", [{"status": 401}, {"status": 500}, {"drop": True}])
def test_trap_6_a_failed_sign_out_does_not_hide_the_error(running, site, how):
    site.workbooks[0].views[1].raw = b"A,B\r\n1\r\n"
    running.faults.add("signout", times=None, **how)
    with pytest.raises(SourceError, match="does not read as CSV"):
        read(running)
    assert read(running, "Book/View 0")  # nor does it spoil a read that went well


def test_trap_7_the_site_of_a_connected_app_is_not_taken_for_is_uat(running, site):
    site.apps["client"] = App("key", "app-secret")
    app = {"client_id": "client", "secret_id": "key", "secret": "app-secret", "user": "connector@example.com"}
    assert read(running, app=app)
    body = running.asked("signin")[0].body
    assert b'isUat="false"' in body
    assert b'contentUrl="sales"' in body


def test_trap_9_several_values_of_a_filter_are_one_parameter(running):
    read(running, view_spec={"filters": {"Stage": ["Won", "Lost"]}})
    assert running.asked("/data$")[0].query["vf_Stage"] == "Won,Lost"


@pytest.mark.parametrize(("given", "sent"), [({}, "1"), ({"max_age": 30}, "30")])
def test_trap_10_the_age_of_cached_results_is_always_said(running, given, sent):
    read(running, view_spec=given)
    assert running.asked("/data$")[0].query["maxAge"] == sent


def test_trap_11_nothing_is_printed_and_no_request_is_wasted(running, capsys):
    read(running)
    list(source_of(running, {"view": "Book/View 1", "table": "t"}).check())
    assert capsys.readouterr().out == ""
    assert [logged.line.rsplit("/", 1)[1] for logged in running.requests[:5]] == ["serverInfo", "signin", "views", "data", "signout"]


def test_trap_13_closing_is_not_signing_out(site):
    tableau = Tableau(site)
    with serve(tableau) as running:
        read(running)
        assert tableau.sessions == {}


@pytest.mark.parametrize("how", [{"status": 429, "headers": {"Retry-After": "2"}}, {"status": 503}, {"status": 502}, {"drop": True}])
def test_trap_14_requests_are_repeated_below_the_client(running, how):
    for address in ("serverInfo", "/views\\?", "/data"):
        running.faults.add(address, **how)
    assert len(read(running)) == 2


def test_trap_14_patience_ends(running):
    running.faults.add("/data", status=429, headers={"Retry-After": "3600"}, times=None)
    with pytest.raises(TransientError, match="429"):
        read(running)


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────


def test_a_session_that_ends_between_views_is_renewed_once(running):
    source = source_of(running, {"view": "Book/View 0", "table": "a"}, {"view": "Book/View 1", "table": "b"})
    entities = source.entities()
    assert list(source.read(entities[0], Since()))
    running.clock.sleep(timedelta(hours=3).total_seconds())
    assert list(source.read(entities[1], Since()))
    assert len(running.asked("signin")) == 2


def test_a_token_that_somebody_else_uses_is_said_and_tried_later(running):
    running.faults.add("/data", status=401, body=DEAD, headers=XML, times=None)
    with pytest.raises(TransientError, match="another process is using token 'connector'") as error:
        read(running)
    assert "token of its own" in error.value.remedy
    assert len(running.asked("signin")) == 2


ANOTHER = """
import sys
from pathlib import Path
from connector.api import Since
from connector.http import Session
from sources.tableau import TableauConfig, TableauSource
url, folder = sys.argv[1:]
views = [{"view": f"Book/View {number}", "table": f"t{number}"} for number in range(3)]
config = TableauConfig(base_url=url, site="sales", token={"name": "connector", "secret": "sandbox-secret"}, views=views)
source = TableauSource(config, Session(folder=Path(folder)))
for entity in source.entities():
    assert list(source.read(entity, Since()))
"""


def test_runs_that_share_a_token_take_turns(running, tmp_path):
    """Without turns they end each other's sessions, and a third of their reads fail."""
    running.faults.add("", latency=0.02, times=None)
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ANOTHER, running.url("tableau"), str(tmp_path / "plugins" / name / "source-0")]
        )
        for name in ("first", "second", "third")
    ]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert len(running.asked("signin")) == len(running.asked("signout")) == 3


def test_a_turn_that_does_not_come_is_tried_later(running, tmp_path):
    folder = tmp_path / "plugins" / "flow" / "source-0"
    config = TableauConfig(
        base_url=running.url("tableau"), site="sales", token=PAT, max_wait=5, views=[{"view": "Book/View 1", "table": "t"}]
    )
    slept = []

    def read():
        source = TableauSource(config, Session(config.network(), folder=folder, sleep=slept.append))
        return list(source.read(source.entities()[0], Since()))

    assert read()
    (lock,) = (tmp_path / "plugins").glob("*.lock")
    with SecretFile(lock.with_suffix("")).locked(), pytest.raises(TransientError, match="another process is using token"):
        read()
    assert 5 <= sum(slept) < 6
    assert read()


def test_an_answer_that_breaks_off_is_asked_for_again(running, site):
    site.workbooks[0].views[1].raw = b"A,B\r\n" + b"1,2\r\n" * 50_000
    running.faults.add("/data", truncate=100_000)
    assert len(read(running)) == 50_000


def test_an_answer_that_keeps_breaking_off_is_nothing_and_not_half_a_table(running, site):
    site.workbooks[0].views[1].raw = b"A,B\r\n" + b"1,2\r\n" * 50_000
    running.faults.add("/data", truncate=100_000, times=None)
    with pytest.raises(TransientError, match="no answer"):
        read(running)


@pytest.mark.parametrize(
    ("code", "error"), [("400081", SourceError), ("403004", AuthError), ("404011", AuthError), ("400000", SourceError)]
)
def test_refusals_of_a_view_have_a_remedy(running, code, error):
    body = DEAD.replace(b"401002", code.encode())
    running.faults.add("/data", status=int(code[:3]), body=body, headers=XML, times=None)
    with pytest.raises(error) as caught:
        read(running)
    assert caught.value.remedy
    assert "View 1" in str(caught.value)


def test_the_secret_never_shows(running):
    running.faults.add("signin", status=401, body=b"sandbox-secret", headers={"Content-Type": "text/plain"})
    with pytest.raises((AuthError, ConfigError)) as error:
        read(running)
    assert "sandbox-secret" not in f"{error.value!r} {error.value.remedy}"
    config = TableauConfig(server="https://t.example.com", token=PAT, views=[{"view": "a/b", "table": "t"}])
    assert "sandbox-secret" not in repr(Connection(config, Session(), ()))


@pytest.mark.parametrize("step", ["serverInfo", "signin", "/views\\?", "/data", "signout"])
def test_the_session_token_does_not_follow_a_redirect_elsewhere(running, site, step):
    """tableauserverclient would take it to any host."""
    with serve(Tableau(site)) as other:
        running.faults.add(step, status=302, headers={"Location": f"{other.url('tableau')}/api/3.28/elsewhere"}, times=None)
        with contextlib.nullcontext() if step == "signout" else pytest.raises(ConfigError, match="redirects to 127"):
            read(running)
        assert other.requests == []


def test_the_sandbox_is_really_asked(running):
    """The control of this module: a wrong address fails."""
    with pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:9/", timeout=1)
    assert read(running) == [{"Stage": "Won", "Deals": "3"}, {"Stage": "Lost", "Deals": "4"}]
