"""Answers that are not what was asked for: pages of a gateway, cut and garbled ones, refusals, and lines that break."""

import json
import time

import pyarrow as pa
import pytest
from pydantic import ValidationError

from connector.api import Since
from connector.errors import AuthError, ConfigError, SourceError, TransientError
from connector.http import Session
from connector.sandbox.server import serve
from connector.sandbox.tableau import App, Column, Datasource, Project, Site, Tableau, View, Workbook
from sources.tableau import TableauConfig, TableauSource

PAT = {"name": "connector", "secret": "sandbox-secret"}
CSV = b"Stage,Deals\r\nWon,3\r\nLost,4\r\n"
XML = {"Content-Type": "application/xml;charset=utf-8"}
EVENTS = {"Content-Type": "text/event-stream"}
PAGE = b"<!DOCTYPE html>\n<html><body>Sign in, please</body></html>\n"
FIELDS = (Column("Region"), Column("Amount", "REAL", measure=True), Column("N", "INTEGER"), Column("Day", "DATE"), Column("At", "DATETIME"))
GERMANY = {"Region": "Germany", "Amount": 1.5, "N": 1}


@pytest.fixture
def tableau():
    project = Project("Sales")
    source = Datasource("Pipeline", project, FIELDS, lambda: [GERMANY, {**GERMANY, "Region": "France", "Amount": 2.5}])
    book = Workbook("Book", project)
    book.add(View("View", source, raw=CSV))
    book.add(View("Win/Loss", source, raw=CSV))
    book.add(View("Overview", sheet_type="dashboard", sheets=("View",)))
    return Tableau(Site(projects=[project], workbooks=[book], datasources=[source]), strict=True)


@pytest.fixture
def running(tableau):
    with serve(tableau) as running:
        yield running
        assert running.violations == []
        assert tableau.sessions == {}


def source_of(running, view="Book/View", config=None, **spec):
    spec = {"view": view, "table": "t", **spec} if "datasource" not in spec else {"table": "t", **spec}
    given = {"base_url": running.url("tableau"), "site": "sales", "max_wait": 60, **(config or {"token": PAT})}
    config = TableauConfig(**given, views=[spec])
    return TableauSource(config, Session(config.network(), sleep=running.clock.sleep, now=running.clock.now, jitter=lambda: 0))


def read(running, *view, **spec):
    source = source_of(running, *view, **spec)
    found = [page.records for page in source.read(source.entities()[0], Since())]
    return [row for records in found for row in (records.to_pylist() if isinstance(records, pa.RecordBatch) else records)]


def vds(running, **spec):
    return read(running, datasource="Pipeline", mode="vds", **{"columns": ["Region"], **spec})


def events(*rows, announced=None):
    return b'event: METADATA\ndata: {"rowCount": %d}\n\nevent: DATA\ndata: %s\n\n' % (
        len(rows) if announced is None else announced,
        json.dumps(rows, ensure_ascii=False).encode(),
    )


def answered(running, body, **how):
    running.faults.add("query-datasource", status=200, body=body, times=None, **how)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────


class TestPages:
    """A gateway that wants a sign-in answers with a page and status 200."""

    @pytest.mark.parametrize("headers", [{"Content-Type": "text/html; charset=utf-8"}, {"Content-Type": "text/csv"}])
    @pytest.mark.parametrize("body", [PAGE, b"\xef\xbb\xbf \n" + PAGE, b"<?xml version='1.0'?><a/>"])
    @pytest.mark.parametrize(
        ("address", "spec"),
        [
            ("/data", {}),
            ("crosstab", {"mode": "crosstab"}),
            ("/content", {"mode": "extract"}),
            ("query-datasource", {"mode": "vds"}),
            ("read-metadata", {"mode": "vds"}),
            ("graphql", {"mode": "vds"}),
        ],
    )
    def test_is_never_data(self, running, address, spec, body, headers):
        running.faults.add(address, status=200, body=body, headers=headers, times=None)
        with pytest.raises(SourceError, match="not Tableau's") as error:
            read(running, **spec)
        assert "/api/" in error.value.remedy
        assert "Sign in, please" not in str(error.value)

    @pytest.mark.parametrize("mode", ["view", "crosstab", "extract"])
    def test_check_says_the_same(self, running, mode):
        running.faults.add("/(data|excel|content)", status=200, body=PAGE, headers={"Content-Type": "text/html"}, times=None)
        *_, finding = source_of(running, mode=mode).check()
        assert (finding.ok, finding.exit_code) == (False, 4)
        assert "not Tableau's" in finding.detail

    @pytest.mark.parametrize("address", ["serverInfo", "signin", "/views\\?", "/views/[0-9a-f-]+$"])
    def test_neither_is_it_a_list_or_a_session(self, running, tableau, address):
        running.faults.add(address, status=200, body=b"<html><body/></html>", headers={"Content-Type": "text/html"}, times=None)
        with pytest.raises(ConfigError, match="REST API"):
            read(running, tableau.site.views[0].id if "/views/" in address else "Book/View")

    def test_check_survives_a_line_that_breaks(self, running):
        running.faults.add("/data", truncate=5, times=None)
        *_, finding = source_of(running).check()
        assert (finding.ok, finding.exit_code) == (False, 75)

    def test_a_header_that_begins_with_a_sign_is_no_page(self, running, tableau):
        tableau.site.views[0].raw = b"<90 days,Deals\r\n1,3\r\n"
        assert read(running) == [{"<90 days": "1", "Deals": "3"}]


# ── the VizQL Data Service ────────────────────────────────────────────────────────────────────────


class TestEvents:
    @pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\x0bb", "a\rb", 'data: "x"'])
    def test_what_unicode_calls_the_end_of_a_line_is_none(self, running, text):
        answered(running, events({"Region": text}), headers=EVENTS)
        assert vds(running) == [{"Region": text}]

    def test_lines_may_end_as_in_windows(self, running):
        answered(running, events({"Region": "x"}).replace(b"\n", b"\r\n"), headers=EVENTS)
        assert vds(running) == [{"Region": "x"}]

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: [{"Reg\n\n', "does not read as JSON"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: [{"Region": "\xff"}]\n\n', "does not read as JSON"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: {"Region": "x"}\n\n', "holds no rows"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: ["x"]\n\n', "holds no rows"),
            (b'event: METADATA\ndata: null\n\nevent: DATA\ndata: [{"Region": "x"}]\n\n', "no rows announced, 1 sent"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: null\n\n', "1 rows announced, 0 sent"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: [{"Region": "x"}]\n', "1 rows announced, 0 sent"),
            (b"event: ERROR\ndata: null\n\n", "broke off with error unknown"),
            (b'event: METADATA\ndata: {"rowCount": 1}\n\nevent: DATA\ndata: [{"Other": "x"}]\n\n', "a row has no 'Region'"),
        ],
    )
    def test_cut_or_garbled_ones_are_errors_with_a_remedy(self, running, body, words):
        answered(running, body, headers=EVENTS)
        with pytest.raises(SourceError, match=words) as error:
            vds(running)
        assert "data source 'Pipeline'" in str(error.value)
        assert "run again" in error.value.remedy

    def test_a_large_one_takes_time_by_its_size_and_not_its_square(self, running):
        def seconds(count):
            answered(running, events(*({"Region": "x" * 200_000} for _ in range(count))), headers=EVENTS)
            started = time.perf_counter()
            assert len(vds(running)) == count
            running.faults.clear()
            return time.perf_counter() - started

        seconds(1)
        assert min(seconds(200), seconds(200)) < 9 * max(seconds(50), seconds(50))


class TestObjects:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"data":[{"Region":"\xff"}]}', "not in UTF-8"),
            (b'{"data":[{"Region":"x"} garbage {"Region":"y"}]}', "something else than rows"),
            (b'{"data":[["x"]]}', "something else than rows"),
            (b'{"data":null}', "not complete"),
        ],
    )
    def test_garbled_ones_are_errors_with_a_remedy(self, running, body, words):
        answered(running, body)
        with pytest.raises(SourceError, match=words) as error:
            vds(running)
        assert "run again" in error.value.remedy

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b'{"data": null}', b'{"data": ["x"]}', b'{"data": [{}]}', b"\xff", b'{"data": [{"dataT']
    )
    def test_a_description_that_is_none(self, running, body):
        running.faults.add("read-metadata", status=200, body=body, times=None)
        with pytest.raises(SourceError) as error:
            vds(running)
        assert "data source 'Pipeline'" in str(error.value)
        assert error.value.remedy

    def test_a_field_of_no_known_type_is_left_out_and_named(self, running):
        described = [{"fieldName": "Region", "fieldCaption": "Region", "dataType": "STRING"}, {"fieldCaption": "Odd"}]
        running.faults.add("read-metadata", status=200, body=json.dumps({"data": described}).encode(), times=None)
        source = source_of(running, datasource="Pipeline", mode="vds")
        (page,) = source.read(source.entities()[0], Since())
        assert page.records.schema.names == ["Region"]
        assert "Odd" in page.warnings[0]
        with pytest.raises(SourceError, match="'Odd' is unknown"):
            vds(running, columns=["Odd"])


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("N", 1.75),
            ("N", True),
            ("N", 1e20),
            ("N", "1.5"),
            ("Day", "2026-01-31T10:00:00"),
            ("Day", "soon"),
            ("At", "noon"),
            ("Amount", "much"),
            ("Region", 5),
        ],
    )
    def test_none_is_changed_to_fit(self, running, name, value):
        answered(running, events({name: value}), headers=EVENTS)
        with pytest.raises(SourceError, match=f"field {name!r}: .* does not fit") as error:
            vds(running, columns=[name])
        assert "mode: extract" in error.value.remedy

    def test_whole_numbers_may_be_written_with_a_point(self, running):
        answered(running, events({"N": 2.0}, {"N": None}, {"N": 9_007_199_254_740_993}), headers=EVENTS)
        assert [row["N"] for row in vds(running, columns=["N"])] == [2, None, 9_007_199_254_740_993]

    def test_a_time_with_an_offset_is_that_instant(self, running):
        answered(running, events({"At": "2026-01-31T09:00:00+02:00"}, {"At": None}), headers=EVENTS)
        first, _ = vds(running, columns=["At"])
        assert first["At"].isoformat() == "2026-01-31T07:00:00+00:00"

    def test_a_time_without_one_is_in_the_zone_of_the_view(self, running):
        answered(running, events({"At": "2026-01-31T09:00:00"}), headers=EVENTS)
        assert vds(running, columns=["At"])[0]["At"].isoformat() == "2026-01-31T09:00:00"

    def test_some_with_and_some_without_are_not_guessed_at(self, running):
        answered(running, events({"At": "2026-01-31T09:00:00+02:00"}, {"At": "2026-01-31T09:00:00"}), headers=EVENTS)
        with pytest.raises(SourceError, match="some times have an offset"):
            vds(running, columns=["At"])


class TestColumns:
    def test_one_field_several_times(self, running):
        columns = {
            "Total": {"field": "Amount", "function": "sum"},
            "Mean": {"field": "Amount", "function": "AVG"},
            "Deals": {"field": "Region", "function": "countd"},
        }
        assert vds(running, columns=columns) == [{"Total": 4.0, "Mean": 2.0, "Deals": 2}]

    def test_a_field_under_another_name(self, running):
        assert vds(running, columns={"Land": {"field": "Region"}}) == [{"Land": "Germany"}, {"Land": "France"}]

    def test_a_measure_without_a_function_keeps_its_name_beside_one_with(self, running):
        """Tableau would call it SUM(Amount)."""
        assert vds(running, columns={"Region": "COUNT", "Amount": None}) == [{"Region": 2, "Amount": 4.0}]

    @pytest.mark.parametrize("columns", [{"Amount": "SUMM"}, {"Total": {"field": "Amount", "function": "SUMM"}}])
    def test_a_function_there_is_not_is_named_with_its_neighbour(self, running, columns):
        with pytest.raises(ValidationError, match="there is no function 'SUMM'; did you mean 'SUM'"):
            vds(running, columns=columns)

    def test_a_function_the_data_service_does_not_know(self, running):
        """Not one of ours: the sandbox refuses it as the real one does."""
        with pytest.raises(SourceError, match="refused"):
            vds(running, columns={"Amount": "STDEV"})

    @pytest.mark.parametrize("spec", [{"columns": ["Nope"]}, {"filters": {"Nope": "x"}}, {"columns": {"A": {"field": "Nope"}}}])
    def test_check_finds_what_is_not_there(self, running, spec):
        *_, finding = source_of(running, datasource="Pipeline", mode="vds", **spec).check()
        assert (finding.ok, finding.exit_code) == (False, 4)
        assert "no field 'Nope'" in finding.detail


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "error", "words"),
        [
            (404934, SourceError, "no such field: 'Region'"),
            (404935, SourceError, "several fields go by one name: 'Region'"),
            (400803, SourceError, "refused .*: 'Region'"),
            (408000, TransientError, "too long"),
            (403157, ConfigError, "switched off"),
            (504000, TransientError, "504"),
        ],
    )
    def test_of_the_data_service_end_as_their_kind_asks(self, running, code, error, words):
        body = json.dumps({"errorCode": str(code), "message": "Unknown Field: Region of somebody's data."}).encode()
        running.faults.add("query-datasource", status=code // 1000, body=body, times=None)
        with pytest.raises(error, match=words) as caught:
            vds(running)
        assert caught.value.remedy
        assert "somebody" not in str(caught.value)

    @pytest.mark.parametrize(
        "spec", [{}, {"mode": "crosstab"}, {"mode": "extract", "datasource": "Pipeline"}, {"mode": "vds", "datasource": "Pipeline"}]
    )
    def test_in_a_packing_that_does_not_open_keep_their_status(self, running, spec):
        running.faults.add(
            r"/(data|excel|content|query-datasource)(\?|$)", status=403, body=b"no gzip", headers={"Content-Encoding": "gzip"}, times=None
        )
        with pytest.raises(AuthError) as error:
            read(running, **spec)
        assert error.value.remedy

    def test_a_dead_end_that_only_says_401_is_one_second_sign_in(self, running):
        running.faults.add("/data", status=401, body=b"")
        assert len(read(running)) == 2
        assert len(running.asked("signin")) == 2

    @pytest.mark.parametrize("address", ["/data", "/views\\?"])
    def test_one_that_stays_is_the_gateways(self, running, address):
        running.faults.add(address, status=401, body=b"", times=None)
        with pytest.raises(AuthError, match="401") as error:
            read(running)
        assert "gateway" in error.value.remedy
        assert len(running.asked("signin")) == 2


class TestLines:
    @pytest.mark.parametrize("how", [{"status": 500}, {"status": 502}, {"status": 504}, {"status": 408}, {"drop": True}])
    @pytest.mark.parametrize("address", ["read-metadata", "query-datasource", "graphql", "signin"])
    def test_what_only_reads_is_asked_again(self, running, address, how):
        running.faults.add(address, **how)
        assert len(read(running, mode="vds", columns=["Region"])) == 2

    def test_a_sign_in_of_an_app_is_made_anew_and_not_repeated(self, tableau):
        """Tableau takes each of its tokens once; the session of the answer that was lost ends by itself."""
        tableau.site.apps["client"] = App("key", "app-secret")
        app = {"client_id": "client", "secret_id": "key", "secret": "app-secret", "user": "connector@example.com"}
        with serve(tableau) as running:
            running.faults.add("signin", drop=True, after=True)
            assert len(read(running, config={"app": app})) == 2

    def test_a_sign_in_that_never_works_is_tried_later(self, running):
        running.faults.add("signin", status=502, times=None)
        with pytest.raises(TransientError, match="sign-in"):
            read(running)

    @pytest.mark.parametrize("kind", ["3.28", "3.25"])
    def test_rows_that_break_off_are_asked_for_again(self, tableau, kind):
        tableau.api = kind
        tableau.site.datasources[0].rows = lambda: [{"Region": f"R{number}"} for number in range(30_000)]
        with serve(tableau) as running:
            running.faults.add("query-datasource", truncate=100_000)
            assert [row["Region"] for row in vds(running)][-1] == "R29999"
            assert len(running.asked("query-datasource")) == 2


# ── finding ───────────────────────────────────────────────────────────────────────────────────────


class TestFinding:
    @pytest.mark.parametrize(
        "how", [{"status": 403}, {"status": 500}, {"status": 200, "body": PAGE}, {"status": 200, "body": b'{"data": null}'}, {"drop": True}]
    )
    def test_a_dashboard_is_called_one_whatever_the_metadata_api_says(self, running, how):
        running.faults.add("graphql", times=None, **how)
        with pytest.raises(ConfigError, match="is a dashboard") as error:
            read(running, "Book/Overview")
        assert "its workbook has: View, Win/Loss" in error.value.remedy

    def test_and_when_nothing_can_be_listed(self, running):
        running.faults.add("graphql", status=500, times=None)
        running.faults.add("/views\\?", status=403, skip=1, times=None)
        with pytest.raises(ConfigError, match="is a dashboard") as error:
            read(running, "Book/Overview")
        assert "name one of its sheets" in error.value.remedy

    @pytest.mark.parametrize("listed", [True, False])
    def test_by_its_id_where_the_server_does_not_say_what_it_is(self, running, tableau, listed):
        """Older servers tell the type in lists; where none does, the reader is told."""
        view = tableau.site.views[2]
        element = f'<view id="{view.id}" name="Overview" contentUrl="{view.content_url}"><workbook id="{view.home.id}"/></view>'
        answer = '<tsResponse xmlns="http://tableau.com/api">%s</tsResponse>'
        running.faults.add(f"/views/{view.id}$", status=200, body=(answer % element).encode(), headers=XML, times=None)
        if listed:
            with pytest.raises(ConfigError, match="is a dashboard"):
                read(running, view.id)
            return
        page = f'<pagination pageNumber="1" pageSize="1000" totalAvailable="1"/><views>{element}</views>'
        running.faults.add("/views\\?", status=200, body=(answer % page).encode(), headers=XML, times=None)
        source = source_of(running, view.id)
        (found,) = source.read(source.entities()[0], Since())
        assert "does not say whether" in found.warnings[0]
        *_, finding = source_of(running, view.id).check()
        assert "does not say whether" in finding.detail

    @pytest.mark.parametrize(
        "address",
        ["https://t.example.com/t/sales/views/Book/View#1", "https://t.example.com/t/sales/views/Book/View?:iframeSizedToWindow=true#3"],
    )
    def test_by_an_address_with_a_counter_behind_it(self, running, address):
        assert len(read(running, address)) == 2

    @pytest.mark.parametrize("name", ["Book/Win/Loss", "Sales/Book/Win/Loss"])
    def test_by_a_name_with_a_slash(self, running, name):
        assert len(read(running, name)) == 2

    def test_a_data_source_with_a_slash_in_its_name(self, running, tableau):
        tableau.site.datasources[0].name = "Win/Loss"
        for name in ("Win/Loss", "Sales/Win/Loss"):
            assert len(read(running, datasource=name, mode="vds")) == 2

    def test_what_is_not_there_may_be_named_by_its_id(self, running):
        with pytest.raises(AuthError) as error:
            read(running, "Book/Nothing")
        assert "id" in error.value.remedy


@pytest.mark.parametrize(
    ("mode", "key", "value"),
    [
        ("vds", "max_age", 30), ("vds", "totals", "drop"), ("vds", "extract_table", "x"), ("extract", "max_age", 30),
        ("extract", "totals", "keep"), ("extract", "columns", ["x"]), ("view", "columns", ["x"]), ("view", "extract_table", "x"),
        ("crosstab", "extract_table", "x"), ("crosstab", "columns", ["x"]),
    ],
)  # fmt: skip
def test_a_key_that_would_do_nothing_is_refused(mode, key, value):
    with pytest.raises(ValidationError, match=f"`{key}` is for .*; in `mode: {mode}` it does nothing"):
        TableauConfig(server="https://t.example.com", token=PAT, views=[{"view": "a/b", "table": "t", "mode": mode, key: value}])
