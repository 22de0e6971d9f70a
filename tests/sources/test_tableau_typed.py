"""The Tableau source's other ways to the data: crosstab, VizQL Data Service, extract."""

import io
import json
import sys
import zipfile
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from connector.api import Since
from connector.engine import DuckDB
from connector.errors import AuthError, ConfigError, SourceError, TransientError
from connector.http import Session
from connector.normalise import normalise
from connector.sandbox import export
from connector.sandbox.company import Company
from connector.sandbox.server import serve
from connector.sandbox.tableau import Column, Datasource, Project, Shown, Site, Tableau, View, Workbook
from connector.sandbox.tableau.pipeline import company_site
from sources.tableau import TableauConfig, TableauSource

PAT = {"name": "connector", "secret": "sandbox-secret"}
needs_pantab = pytest.mark.skipif(not __import__("importlib.util").util.find_spec("pantab"), reason="pantab is not installed")
FIELDS = {"deal_id": "Deal ID", "amount": "Amount", "created_at": "Created", "expected_close_date": "Close Date", "account": "Account"}


@pytest.fixture(scope="module")
def company():
    return Company.generate(deals=150, days=300)


@pytest.fixture
def tableau(company):
    return Tableau(company_site(company), strict=True)


@pytest.fixture
def running(tableau):
    with serve(tableau) as running:
        yield running
        assert running.violations == []
        assert tableau.sessions == {}


def source_of(running, **spec):
    config = TableauConfig(base_url=running.url("tableau"), site="sales", token=PAT, max_wait=60, views=[{"table": "t", **spec}])
    return TableauSource(config, Session(config.network(), sleep=running.clock.sleep, now=running.clock.now, jitter=lambda: 0))


def pages(running, **spec):
    source = source_of(running, **spec)
    return list(source.read(source.entities()[0], Since()))


def read(running, **spec):
    found = pages(running, **spec)
    return [row for page in found for row in (page.records.to_pylist() if isinstance(page.records, pa.RecordBatch) else page.records)]


def stored(running, folder, **spec):
    source = source_of(running, **spec)
    (entity,) = source.entities()
    with normalise(entity, source.read(entity, Since()), engine=DuckDB(folders=[folder]), scratch=folder) as result:
        return pa.Table.from_batches(result.batches(), result.schema)


def same_deals(table, company):
    expected = {
        row["deal_id"]: tuple(row[name] for name in FIELDS) for row in export.tables(company)["deals"]
    }  # fmt: skip
    got = {row["deal_id"]: tuple(row[name] for name in FIELDS) for row in table.to_pylist()}
    assert got == expected


# ── crosstab ──────────────────────────────────────────────────────────────────────────────────────


class TestCrosstab:
    def test_header_rows_and_merged_cells_become_columns(self, running, company):
        got = read(running, view="Sales Pipeline/Stage by Month", mode="crosstab")
        assert list(got[0])[:2] == ["Pipeline", "Stage"]
        assert "January 2026 / Amount" in got[0] or "October 2026 / Amount" in got[0]
        assert all(row["Pipeline"] for row in got)
        counted = sum(value for row in got for name, value in row.items() if name.endswith("Distinct count of Deal ID") and value)
        assert counted == len(list(export.tables(company)["deals"]))

    def test_numbers_are_not_rounded(self, running, company, tmp_path):
        table = stored(running, tmp_path, view="Sales Pipeline/Region Totals", mode="crosstab")
        total = sum(deal["amount"] for deal in export.tables(company)["deals"] if deal["amount"] is not None)
        assert sum(table["Amount"].to_pylist()) == total

    def test_an_empty_view_is_empty_and_no_error(self, running):
        (page,) = pages(running, view="Sales Pipeline/Region Totals", mode="crosstab", filters={"Region": "Atlantis"})
        assert len(page.records) == page.total == 0
        assert "is empty" in page.warnings[0]

    def test_an_empty_view_of_deals_has_the_mapped_columns(self, running, tmp_path):
        table = stored(
            running, tmp_path, view="Sales Pipeline/Deals", mode="crosstab", table="deals", filters={"Region": "-"}, fields=FIELDS
        )
        assert table.num_rows == 0

    def test_filters_are_proven(self, running):
        assert read(running, view="Sales Pipeline/Region Totals", mode="crosstab", filters={"Region": "Germany"})
        with pytest.raises(SourceError, match="ignores 'Regoin'"):
            read(running, view="Sales Pipeline/Region Totals", mode="crosstab", filters={"Regoin": "Germany"})

    @pytest.mark.parametrize("body", [b"no workbook", b""])
    def test_something_else_than_a_workbook(self, running, body):
        running.faults.add("crosstab", status=200, body=body)
        with pytest.raises(SourceError, match="does not read as a workbook"):
            read(running, view="Sales Pipeline/Region Totals", mode="crosstab")


# ── VizQL Data Service ────────────────────────────────────────────────────────────────────────────


class TestVizQL:
    def test_every_row_typed_and_unrounded(self, running, company, tmp_path):
        same_deals(stored(running, tmp_path, datasource="Pipeline", mode="vds", table="deals", fields=FIELDS), company)

    def test_servers_without_events_answer_in_one_object(self, company, tmp_path):
        with serve(Tableau(company_site(company), api="3.25", strict=True)) as running:
            same_deals(stored(running, tmp_path, datasource="Pipeline", mode="vds", table="deals", fields=FIELDS), company)
            assert "returnServerSentEvents" not in running.asked("query-datasource")[0].body.decode()

    def test_the_data_source_of_a_view_is_found(self, running):
        got = read(running, view="Sales Pipeline/Stage Detail", mode="vds", columns=["Deal ID", "Stage"])
        assert list(got[0]) == ["Deal ID", "Stage"]

    def test_functions_aggregate(self, running, company):
        columns = {"Region": None, "Deal ID": "COUNTD", "Amount": "SUM", "Created": "MAX"}
        got = read(running, datasource="Sales/Pipeline", mode="vds", columns=columns)
        deals = list(export.tables(company)["deals"])
        assert sum(row["Deal ID"] for row in got) == len(deals)
        assert isinstance(got[0]["Deal ID"], int)
        assert isinstance(got[0]["Created"], datetime)
        assert round(sum(Decimal(repr(row["Amount"])) for row in got if row["Amount"]), 2) == sum(deal["amount"] or 0 for deal in deals)

    def test_filters_and_parameters(self, running):
        got = read(
            running, datasource="Pipeline", mode="vds", columns=["Region"], filters={"Region": ["Germany", "France"]}, parameters={"P": 3}
        )
        assert {row["Region"] for row in got} == {"Germany", "France"}
        assert json.loads(running.asked("query-datasource")[0].body)["query"]["parameters"] == [{"parameterCaption": "P", "value": 3}]

    def test_dates_in_filters(self, running, company):
        day = next(deal["expected_close_date"] for deal in export.tables(company)["deals"])
        got = read(running, datasource="Pipeline", mode="vds", columns=["Close Date"], filters={"Close Date": day})
        assert {row["Close Date"] for row in got} == {day}

    @pytest.mark.parametrize("spec", [{"columns": ["Amuont"]}, {"filters": {"Amuont": 1}}])
    def test_an_unknown_field_is_named_with_its_neighbour(self, running, spec):
        with pytest.raises(SourceError, match="did you mean 'Amount'"):
            read(running, datasource="Pipeline", mode="vds", **spec)

    def test_no_rows_keep_their_types(self, running):
        (page,) = pages(running, datasource="Pipeline", mode="vds", filters={"Region": "Atlantis"})
        assert page.records.num_rows == 0
        assert page.records.schema.field("Amount").type == pa.float64()
        assert page.records.schema.field("Close Date").type == pa.date32()

    def test_captions_that_repeat_are_told_apart(self, running, tableau):
        columns = (Column("Name", name="Accounts.Name"), Column("Name", name="Owners.Name"))
        data = [{"Accounts.Name": "Acme", "Owners.Name": "Ann"}]
        tableau.site.datasources.append(Datasource("Twice", tableau.site.projects[1], columns, lambda: data))
        assert read(running, datasource="Twice", mode="vds") == [{"Name": "Acme", "Name (2)": "Ann"}]

    def test_more_rows_than_one_page(self, running, tableau):
        data = [{"N": number, "Day": date(2026, 1, 31)} for number in range(45_000)]
        columns = (Column("N", "INTEGER"), Column("Day", "DATE"))
        tableau.site.datasources.append(Datasource("Long", tableau.site.projects[1], columns, lambda: data))
        found = pages(running, datasource="Long", mode="vds")
        assert [page.records.num_rows for page in found] == [20_000, 20_000, 5_000]
        assert found[-1].records.to_pylist()[-1] == data[-1]

    def test_rows_that_do_not_arrive_are_missed(self, running):
        body = b'event: METADATA\ndata: {"rowCount": 3}\n\nevent: DATA\ndata: [{"Region": "Germany"}]\n\n'
        running.faults.add("query-datasource", status=200, body=body, headers={"Content-Type": "text/event-stream"})
        with pytest.raises(SourceError, match="3 rows announced, 1 sent"):
            read(running, datasource="Pipeline", mode="vds", columns=["Region"])

    def test_whole_events_in_the_data(self, running):
        events = [{"event": "METADATA", "data": {"rowCount": 1}}, {"event": "DATA", "data": [{"Region": "Germany"}]}]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
        running.faults.add("query-datasource", status=200, body=body, headers={"Content-Type": "text/event-stream"})
        assert read(running, datasource="Pipeline", mode="vds", columns=["Region"]) == [{"Region": "Germany"}]

    def test_an_error_among_the_events(self, running):
        body = b'event: METADATA\ndata: {"rowCount": 3}\n\nevent: ERROR\ndata: {"errorCode": "500000", "message": "m"}\n\n'
        running.faults.add("query-datasource", status=200, body=body, headers={"Content-Type": "text/event-stream"})
        with pytest.raises(SourceError, match="broke off with error 500000"):
            read(running, datasource="Pipeline", mode="vds", columns=["Region"])

    @pytest.mark.parametrize("body", [b'{"data": [{"Region": "Germany"}, {"Reg', b'{"data": [{"Region": "Germany"}', b"{}"])
    def test_an_object_that_ends_early(self, running, body):
        running.faults.add("query-datasource", status=200, body=body)
        with pytest.raises(SourceError, match="not complete"):
            read(running, datasource="Pipeline", mode="vds", columns=["Region"])

    def test_an_error_behind_the_rows(self, running):
        running.faults.add("query-datasource", status=200, body=b'{"data": [{"Region": "Germany"}], "error": {"errorCode": "500000"}}')
        with pytest.raises(SourceError, match="broke off with an error"):
            read(running, datasource="Pipeline", mode="vds", columns=["Region"])

    def test_an_answer_that_breaks_off(self, running):
        running.faults.add("query-datasource", truncate=2000, times=None)
        with pytest.raises(TransientError, match="no answer"):
            read(running, datasource="Pipeline", mode="vds")

    def test_a_value_that_is_not_what_it_should_be(self, running):
        running.faults.add("query-datasource", status=200, body=b'{"data": [{"Amount": "much"}]}')
        with pytest.raises(SourceError, match="does not fit"):
            read(running, datasource="Pipeline", mode="vds", columns=["Amount"])

    def test_without_api_access(self, running, tableau):
        tableau.site.datasources[0].api_access = False
        with pytest.raises(AuthError, match="API Access") as error:
            read(running, datasource="Pipeline", mode="vds")
        assert "API Access" in error.value.remedy
        findings = list(source_of(running, datasource="Pipeline", mode="vds").check())
        assert [finding.exit_code for finding in findings] == [0, 3]

    @pytest.mark.parametrize(
        ("status", "code", "error", "words"),
        [
            (400, "400804", SourceError, "too large"),
            (400, "400803", SourceError, "refused"),
            (404, "", ConfigError, "no VizQL Data Service"),
            (404, "404950", AuthError, "not there"),
        ],
    )
    def test_refusals_have_a_remedy(self, running, status, code, error, words):
        running.faults.add("query-datasource", status=status, body=json.dumps({"errorCode": code, "message": "m"}).encode())
        with pytest.raises(error, match=words) as caught:
            read(running, datasource="Pipeline", mode="vds")
        assert caught.value.remedy

    def test_the_shapes_of_the_published_samples(self, shared, running):
        """Tableau's own example replies, read as they are."""
        folder = shared / "data/api/tableau/vds"
        metadata = json.loads((folder / "read_metadata_success.json").read_text())
        metadata["data"] += [{"fieldName": "Category", "fieldCaption": "Category", "dataType": "STRING", "columnClass": "COLUMN"}]
        metadata["data"] += [{"fieldName": "p", "fieldCaption": "Profit", "dataType": "REAL", "columnClass": "COLUMN"}]
        reply = (folder / "query_success_objects.json").read_text().replace("SUM(Profit)", "Profit").encode()
        running.faults.add("read-metadata", status=200, body=json.dumps(metadata).encode())
        running.faults.add("query-datasource", status=200, body=reply)
        got = read(running, datasource="Pipeline", mode="vds", columns={"Category": None, "Profit": "SUM"})
        assert got[0] == {"Category": "Technology", "Profit": 146543.37559999965}

    def test_views_without_a_published_data_source(self, running, tableau):
        tableau.site.workbooks[0].add(View("Embedded", raw=b"A\r\n1\r\n"))
        with pytest.raises(SourceError, match="no published data source") as error:
            read(running, view="Sales Pipeline/Embedded", mode="vds")
        assert "mode: view" in error.value.remedy

    @pytest.mark.parametrize("metadata", ["off", "backfilling"])
    def test_without_the_metadata_api(self, running, tableau, metadata):
        tableau.metadata = metadata
        with pytest.raises((ConfigError, SourceError), match="Metadata API") as error:
            read(running, view="Sales Pipeline/Deals", mode="vds")
        assert "datasource:" in error.value.remedy


# ── extract ───────────────────────────────────────────────────────────────────────────────────────


@needs_pantab
class TestExtract:
    def test_every_row_typed_and_counted(self, running, company, tmp_path):
        same_deals(stored(running, tmp_path, datasource="Pipeline", mode="extract", table="deals", fields=FIELDS), company)
        (page, *_) = pages(running, datasource="Pipeline", mode="extract")
        assert page.total == len(list(export.tables(company)["deals"]))

    def test_the_data_source_of_a_view(self, running):
        assert "Deal ID" in read(running, view="Sales Pipeline/Stage Detail", mode="extract")[0]

    def test_an_empty_extract_keeps_its_columns(self, running, tableau):
        tableau.site.datasources.append(Datasource("Empty", tableau.site.projects[1], (Column("A"), Column("N", "INTEGER"))))
        (page,) = pages(running, datasource="Empty", mode="extract")
        assert page.records.schema.names == ["A", "N"]
        assert page.total == 0

    def test_one_that_may_not_be_downloaded(self, running, tableau):
        tableau.site.datasources[0].downloadable = False
        with pytest.raises(AuthError, match="may not be downloaded"):
            read(running, datasource="Pipeline", mode="extract")
        findings = list(source_of(running, datasource="Pipeline", mode="extract").check())
        assert [finding.exit_code for finding in findings] == [0, 3]

    def test_a_live_connection_has_no_extract(self, running):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as package:
            package.writestr("live.tds", "<datasource/>")
        running.faults.add("/content", status=200, body=buffer.getvalue())
        with pytest.raises(SourceError, match="no extract") as error:
            read(running, datasource="Pipeline", mode="extract")
        assert "mode: vds" in error.value.remedy

    def test_a_file_that_is_no_extract(self, running):
        running.faults.add("/content", status=200, body=b"Hyper and then nothing")
        with pytest.raises(SourceError, match="does not read as an extract"):
            read(running, datasource="Pipeline", mode="extract")

    def test_several_tables_are_chosen_from_by_name(self, running, tableau, tmp_path):
        import pantab

        file = tmp_path / "two.hyper"
        tables = {("Extract", name): pa.table({"A": [name]}) for name in ("Deals", "Owners")}
        pantab.frames_to_hyper(tables, file)
        running.faults.add("/content", status=200, body=file.read_bytes(), times=None)
        with pytest.raises(ConfigError, match="has 2 tables") as error:
            read(running, datasource="Pipeline", mode="extract")
        assert "Extract.Deals, Extract.Owners" in error.value.remedy
        assert read(running, datasource="Pipeline", mode="extract", extract_table="Extract.Owners") == [{"A": "Owners"}]
        with pytest.raises(SourceError, match=r"did you mean 'Extract\.Owners'"):
            read(running, datasource="Pipeline", mode="extract", extract_table="Extract.Owner")


def test_without_pantab_the_error_says_what_to_install(running, monkeypatch):
    monkeypatch.setitem(sys.modules, "pantab", None)
    with pytest.raises(ConfigError, match="pantab") as error:
        read(running, datasource="Pipeline", mode="extract")
    assert "pip install" in error.value.remedy
    findings = list(source_of(running, datasource="Pipeline", mode="extract").check())
    assert [finding.exit_code for finding in findings] == [0, 2]


@pytest.mark.parametrize(("name", "error"), [("Nothing", AuthError), ("Finance/Pipeline", AuthError), ("Pipeline", ConfigError)])
def test_data_sources_are_found_by_name_and_project(running, tableau, name, error):
    tableau.site.datasources.append(Datasource("Pipeline", tableau.site.projects[0]))
    with pytest.raises(error):
        read(running, datasource=name, mode="vds")
    assert read(running, datasource="Sales/Pipeline", mode="vds", columns=["Stage"])


def test_a_table_of_any_kind_of_sheet_is_the_same_in_every_mode(running, tmp_path):
    """One view through three doors: the same numbers."""
    columns = {"Region": None, "Deal ID": "COUNTD", "Amount": "SUM"}
    shown = stored(running, tmp_path, view="Sales Pipeline/Region Totals", locale="en_US")
    laid_out = stored(running, tmp_path, view="Sales Pipeline/Region Totals", mode="crosstab")
    asked = stored(running, tmp_path, view="Sales Pipeline/Region Totals", mode="vds", columns=columns)

    def numbers(table):
        return {
            row[0] or "Null": (row[1], round(float(row[2]), 2))
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
        }

    assert numbers(shown) == numbers(laid_out) == numbers(asked)


def test_the_same_stage_entries_as_the_company_has(running, company, tmp_path):
    fields = {"deal_id": "Deal ID", "pipeline": "Pipeline", "stage": "Stage", "stage_order": "Stage Order", "entered_at": "Entered"}
    expected = sorted(tuple(row[name] for name in fields) for row in export.tables(company)["stage_history"])
    for spec in ({"view": "Sales Pipeline/Stage History", "locale": "en_US"}, {"datasource": "Stage History", "mode": "vds"}):
        table = stored(running, tmp_path, table="stage_entries", fields=fields, timezone="UTC", **spec)
        assert sorted(tuple(row[name] for name in fields) for row in table.to_pylist()) == expected


@pytest.mark.parametrize("count", [3_000, pytest.param(250_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("spec", [{"view": "Book/View"}, {"datasource": "Many", "mode": "vds"}], ids=lambda spec: spec.get("mode", "view"))
def test_no_row_is_lost_over_a_line_that_breaks(tmp_path, spec, count):
    data = [{"Deal ID": f"D{number:07}", "Amount": Decimal(number) / 100, "Stage": "Won"} for number in range(count)]
    project = Project("Sales")
    columns = (Column("Deal ID"), Column("Amount", "REAL", measure=True), Column("Stage"))
    source = Datasource("Many", project, columns, lambda: data)
    book = Workbook("Book", project)
    book.add(View("View", source, (Shown("Deal ID"), Shown("Amount", "SUM", "number"), Shown("Stage"))))
    tableau = Tableau(Site(projects=[project], workbooks=[book], datasources=[source]), strict=True)
    with serve(tableau) as running:
        running.faults.add("", drop=True, share=0.2, times=None)
        running.faults.add("", truncate=500, share=0.2, times=None)
        for _ in range(40):
            try:
                table = stored(
                    running, tmp_path, table="deals", fields={"deal_id": "Deal ID", "amount": "Amount", "stage": "Stage"}, **spec
                )
                break
            except TransientError:
                continue
        assert [(row["deal_id"], row["amount"]) for row in table.to_pylist()] == [(row["Deal ID"], row["Amount"]) for row in data]


def test_made_up_site_has_what_it_says():
    """The control of this module: the sandbox's rows come from its own data, not from the source."""
    source = Datasource("Made", Project("Sales"), (Column("A"),), lambda: [{"A": "x"}])
    book = Workbook("Book", Project("Sales"))
    book.add(View("View", source, (Shown("A"),)))
    with serve(Tableau(Site(projects=[Project("Sales")], workbooks=[book], datasources=[source]))) as running:
        assert read(running, datasource="Made", mode="vds") == [{"A": "x"}]
