"""The Tableau source against the sandbox's Tableau: finding views, reading what they show, and every refusal in words."""

import ast
import contextlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import tableauserverclient as tsc
from pydantic import ValidationError
from tableauserverclient.server.endpoint.endpoint import Endpoint
from tableauserverclient.server.query import QuerySet

from connector.api import Since
from connector.auth.tableau import Connection
from connector.engine import DuckDB
from connector.errors import AuthError, ConfigError, SourceError, TransientError
from connector.http import Session
from connector.normalise import normalise
from connector.sandbox import export
from connector.sandbox.company import Company
from connector.sandbox.server import serve
from connector.sandbox.tableau import App, Column, Datasource, Project, Shown, Site, Tableau, View, Workbook
from connector.sandbox.tableau.pipeline import company_site
from sources.tableau import TableauConfig, TableauSource

ROOT = Path(__file__).parents[2]
PAT = {"name": "connector", "secret": "sandbox-secret"}
MAPPED = {
    "deal_id": "Deal ID",
    "name": "Deal Name",
    "pipeline": "Pipeline",
    "stage": "Stage",
    "amount": "Amount",
    "currency": "Currency",
    "owner": "Owner",
    "account": "Account",
    "lost_reason": "Lost Reason",
    "created_at": "Created",
    "closed_at": "Closed",
    "expected_close_date": "Close Date",
    "modified_at": "Modified",
}
STATUS = {"won": ("Closed Won",), "lost": ("Closed Lost",)}


@pytest.fixture(scope="module")
def company():
    return Company.generate(deals=150, days=300)


@pytest.fixture
def tableau(company):
    return Tableau(company_site(company), strict=True)


class Desk:
    """A running sandbox, and sources made to read from it."""

    def __init__(self, tableau, running):
        self.tableau, self.running = tableau, running
        self.session = None

    def source(self, *views, **config):
        given = {"site": "sales", "base_url": self.running.url("tableau"), "max_wait": 60, **config}
        if "app" not in given:
            given.setdefault("token", PAT)
        config = TableauConfig(views=list(views), **given)
        self.session = Session(config.network(), sleep=self.running.clock.sleep, now=self.running.clock.now, jitter=lambda: 0)
        return TableauSource(config, self.session)

    def pages(self, view, table="t", **spec):
        config = spec.pop("config", {})
        source = self.source({"view": view, "table": table, **spec}, **config)
        (entity,) = source.entities()
        return list(source.read(entity, Since()))

    def read(self, view, table="t", **spec):
        """Every row as a mapping."""
        return [row for page in self.pages(view, table, **spec) for row in rows(page)]

    def typed(self, tmp_path, view, table="t", **spec):
        """The table as the flow stores it, and the warnings."""
        source = self.source({"view": view, "table": table, **spec})
        (entity,) = source.entities()
        engine = DuckDB(folders=[tmp_path])
        with normalise(entity, source.read(entity, Since()), engine=engine, scratch=tmp_path) as result:
            return pa.Table.from_batches(result.batches(), result.schema), result.warnings


def rows(page):
    return page.records.to_pylist() if isinstance(page.records, pa.RecordBatch) else list(page.records)


@pytest.fixture
def desk(tableau):
    with serve(tableau) as running:
        yield Desk(tableau, running)
        assert running.violations == []
        assert tableau.sessions == {}, "a session was left open"


@contextlib.contextmanager
def site_of(view, **how):
    """A desk over a site that holds one view."""
    project = Project("Sales")
    book = Workbook("Book", project)
    book.add(view)
    tableau = Tableau(Site(projects=[project], workbooks=[book]), **how)
    with serve(tableau) as running:
        yield Desk(tableau, running)
        assert running.violations == []


def made(columns, data, **how):
    """A view of a made-up data source; `columns` are captions with the way they are shown."""
    source = Datasource("Made", Project("Sales"), tuple(Column(shown.caption) for shown in columns), lambda: data)
    return View("View", source, tuple(columns), **how)


# ── reading a view ────────────────────────────────────────────────────────────────────────────────


class TestView:
    def test_the_same_deals_as_the_company_has(self, desk, company, tmp_path):
        table, warnings = desk.typed(
            tmp_path, "Sales Pipeline/Deals", "deals", locale="en_US", null_text=True, fields=MAPPED, status=STATUS
        )
        expected = {row["deal_id"]: row for row in export.tables(company)["deals"]}
        got = {row["deal_id"]: row for row in table.to_pylist()}
        assert warnings == ()
        assert got.keys() == expected.keys()
        for deal, row in got.items():
            for name in (*MAPPED, "status"):
                want = expected[deal][name]
                assert row[name] == (want.replace(microsecond=0) if isinstance(want, datetime) else want), (deal, name)

    def test_a_plain_table_gets_types_from_its_text(self, desk, tmp_path):
        table, _ = desk.typed(tmp_path, "Sales Pipeline/Stage Detail", "stage_detail", locale="en_US")
        types = {field.name: field.type for field in table.schema}
        assert types["Stage"] == pa.string()
        assert types["Distinct count of Deal ID"] == pa.int64()
        assert pa.types.is_decimal(types["Amount"])

    def test_german_display(self, desk, company, tmp_path):
        desk.tableau.site.locale = "de_DE"
        table, _ = desk.typed(tmp_path, "Sales Pipeline/Deals", "deals", locale="de_DE", fields=MAPPED, status=STATUS, null_text=True)
        expected = {row["deal_id"]: row["amount"] for row in export.tables(company)["deals"]}
        assert dict(zip(table["deal_id"].to_pylist(), table["amount"].to_pylist(), strict=True)) == expected

    def test_date_times_are_in_the_zone_that_is_given(self, desk, tmp_path):
        """A view says 9:15 and not where; the same text is another instant in Berlin than in UTC."""
        spec = {"fields": MAPPED, "status": STATUS, "null_text": True, "locale": "en_US"}
        utc, _ = desk.typed(tmp_path, "Sales Pipeline/Deals", "deals", timezone="UTC", **spec)
        tokyo, _ = desk.typed(tmp_path, "Sales Pipeline/Deals", "deals", timezone="Asia/Tokyo", **spec)
        for first, second in zip(utc["created_at"].to_pylist(), tokyo["created_at"].to_pylist(), strict=True):
            assert first - second == timedelta(hours=9)

    @pytest.mark.parametrize(
        "name",
        [
            "Sales Pipeline/Stage Detail",
            "Sales/Sales Pipeline/Stage Detail",
            "SalesPipeline/StageDetail",
            "https://tableau.example.com/#/site/sales/views/SalesPipeline/StageDetail?:iid=1",
            "https://tableau.example.com/t/sales/views/SalesPipeline/StageDetail",
        ],
    )
    def test_views_are_found_by_path_and_by_pasted_address(self, desk, name):
        assert "Stage" in desk.read(name)[0]

    def test_views_are_found_by_id(self, desk):
        view = next(view for view in desk.tableau.site.views if view.name == "Stage Detail")
        assert "Stage" in desk.read(view.id)[0]

    def test_names_that_filters_cannot_say(self, company):
        """`,` `:` `&` `[` `]` cannot be escaped in list filters: ask with wildcards, compare to the letter."""
        site = company_site(company)
        for name in ("P&L, EMEA: [2026]", "P+L, EMEA: [2026]"):
            book = Workbook(name, site.projects[1])
            book.add(made([Shown("A")], [{"A": name}]))
            site.workbooks.append(book)
        with serve(Tableau(site, strict=True)) as running:
            assert Desk(None, running).read("P&L, EMEA: [2026]/View") == [{"A": "P&L, EMEA: [2026]"}]
            assert running.violations == []

    def test_two_workbooks_of_one_name_are_not_guessed(self, desk):
        site = desk.tableau.site
        twin = Workbook("Sales Pipeline", site.projects[3])
        twin.add(made([Shown("A")], [{"A": "other"}], sheet_type="worksheet")).name = "Deals"
        site.workbooks.append(twin)
        with pytest.raises(ConfigError, match="there are 2") as error:
            desk.read("Sales Pipeline/Deals")
        assert "Project/Workbook/View" in error.value.remedy
        assert desk.read("Finance/Sales Pipeline/Deals") == [{"A": "other"}]

    def test_a_long_list_is_paged_to_its_end(self, company):
        site = company_site(company)
        project = Project("Many")
        for number in range(1005):
            book = Workbook("Twin", project)
            book.add(View(f"V{number}", raw=b"A\r\n1\r\n"))
            site.workbooks.append(book)
        with serve(Tableau(site, strict=True)) as running:
            desk = Desk(None, running)
            with pytest.raises(AuthError, match="V1004"):
                desk.read("Twin/missing")
            assert [logged.query["pageNumber"] for logged in running.asked("/views$")][-2:] == ["1", "2"]

    def test_signs_in_once_for_all_views(self, desk):
        names = ("Deals", "Stage Detail", "Region Totals")
        source = desk.source(*({"view": f"Sales Pipeline/{name}", "table": name.lower()} for name in names))
        for entity in source.entities():
            list(source.read(entity, Since()))
        assert len(desk.running.asked("signin")) == len(desk.running.asked("signout")) == 1

    def test_an_abandoned_read_signs_out(self, desk):
        source = desk.source({"view": "Sales Pipeline/Deals", "table": "a"}, {"view": "Sales Pipeline/Deals", "table": "b"})
        reading = source.read(source.entities()[0], Since())
        next(reading)
        reading.close()
        assert desk.tableau.sessions == {}


class TestFilters:
    def test_only_matching_rows(self, desk):
        got = desk.read("Sales Pipeline/Stage Detail", filters={"Region": ["Germany", "France"]})
        assert {row["Region"] for row in got} == {"Germany", "France"}
        assert len(desk.running.asked("/data$")) == 1  # the rows prove the filter; nothing more was asked

    def test_commas_and_backslashes_are_escaped(self):
        data = [{"A": name, "N": 1} for name in ("Rock, Paper", r"C:\temp", "Rock", "Paper")]
        with site_of(made([Shown("A"), Shown("N", "SUM")], data)) as desk:
            assert [row["A"] for row in desk.read("Book/View", filters={"A": "Rock, Paper"})] == ["Rock, Paper"]
            assert [row["A"] for row in desk.read("Book/View", filters={"A": ["Rock", r"C:\temp"]})] == [r"C:\temp", "Rock"]

    def test_a_backslash_at_the_end_of_a_value_does_not_join_it_to_the_next(self):
        data = [{"A": name, "N": 1} for name in ("a\\", "b", "a\\,b")]
        with site_of(made([Shown("A"), Shown("N", "SUM")], data)) as desk:
            assert [row["A"] for row in desk.read("Book/View", filters={"A": ["a\\", "b"]})] == ["a\\", "b"]

    def test_a_misspelt_filter_is_an_error_and_not_all_the_data(self, desk):
        with pytest.raises(SourceError, match="Tableau ignores 'Regoin'") as error:
            desk.read("Sales Pipeline/Stage Detail", filters={"Regoin": "Germany"})
        assert "Region" in error.value.remedy

    def test_a_filter_on_a_field_that_is_not_shown_is_proven_by_a_second_question(self, desk, company):
        got = desk.read("Sales Pipeline/Region Totals", filters={"Currency": "USD"})
        assert {row["Region"] for row in got} <= {"United States", "Canada", "Japan", "Australia"}
        assert [logged.query.get("vf_Currency", "")[:13] for logged in desk.running.asked("/data$")] == ["USD", "no such value"]

    def test_a_server_that_ignores_filters_is_found_out(self, desk):
        desk.tableau.ignore_filters = True
        with pytest.raises(SourceError, match=r"a row has Region '\w+', which is not among Germany"):
            desk.read("Sales Pipeline/Stage Detail", filters={"Region": "Germany"})
        with pytest.raises(SourceError, match="ignores 'Currency'"):
            desk.read("Sales Pipeline/Stage Detail", filters={"Currency": "USD"})

    def test_booleans_and_dates_as_tableau_names_them(self, desk):
        desk.read("Sales Pipeline/Deals", filters={"Existing Customer": True}, parameters={"As Of": date(2026, 1, 31), "Net": False})
        query = desk.running.asked("/data$")[0].query
        assert (query["vf_Existing Customer"], query["vf_Parameters.As Of"], query["vf_Parameters.Net"]) == ("true", "2026-01-31", "false")

    def test_no_row_left_is_empty(self, desk):
        (page,) = desk.pages("Sales Pipeline/Stage Detail", filters={"Region": "Atlantis"})
        assert (rows(page), page.total) == ([], 0)
        assert page.records.schema.names[:3] == ["Pipeline", "Stage", "Region"]
        assert "is empty" in page.warnings[0]


class TestEmpty:
    @pytest.mark.parametrize("body", [b"", b"\r\n", b"Deal ID,Stage\r\n", b"\xef\xbb\xbfDeal ID,Stage\r\n"])
    def test_an_empty_answer_is_an_empty_table_and_says_so(self, body, tmp_path):
        """Header only, or nothing at all: no error, no invented row."""
        with site_of(View("View", raw=body)) as desk:
            table, warnings = desk.typed(tmp_path, "Book/View", "deals", fields={"deal_id": "Deal ID", "stage": "Stage"})
            assert table.num_rows == 0
            assert any("is empty" in warning for warning in warnings)

    def test_an_empty_cell_in_the_only_column_is_a_row(self):
        with site_of(View("View", raw=b'Stage\r\nWon\r\n""\r\nLost\r\n')) as desk:
            assert [row["Stage"] for row in desk.read("Book/View")] == ["Won", "", "Lost"]


class TestText:
    def test_repeated_headers_keep_both_columns(self):
        with site_of(View("View", raw=b"Stage,Amount,Amount,amount\r\nWon,1,2,3\r\n")) as desk:
            (page,) = desk.pages("Book/View")
            assert rows(page) == [{"Stage": "Won", "Amount": "1", "Amount (2)": "2", "amount (3)": "3"}]
            assert sum("comes more than once" in warning for warning in page.warnings) == 2

    def test_display_texts_are_read_back_and_periods_stay_what_they_are(self, tmp_path):
        """A day is a date however it is shown; a month or a quarter is no day."""
        raw = (
            b"Month of Close Date,Quarter of Close Date,Day of Close Date,Close Date,Entered,Amount,Share\r\n"
            b'January 2026,2026 Q1,"January 3, 2026",1/31/2026,1/31/2026 9:15:00 AM,"($1,200)",14.4%\r\n'
            b'May 2026,2026 Q2,"March 14, 2026",2/1/2026,2/1/2026 1:00:00 PM,-$7.50,Null\r\n'
        )
        with site_of(View("View", raw=raw)) as desk:
            table, _ = desk.typed(tmp_path, "Book/View", locale="en_US")
        first, second = (tuple(row.values()) for row in table.to_pylist())
        assert first[:4] == ("January 2026", "2026 Q1", date(2026, 1, 3), date(2026, 1, 31))
        assert first[4:] == (datetime(2026, 1, 31, 9, 15, tzinfo=UTC), Decimal(-1_200), Decimal("0.144"))
        assert second[4:] == (datetime(2026, 2, 1, 13, tzinfo=UTC), Decimal("-7.5"), None)

    def test_quotes_line_breaks_and_a_byte_order_mark(self):
        raw = b'\xef\xbb\xbfName,"Next\r\nStep"\r\n"Acme ""EU"", Ltd","call\r\nback"\r\n'
        with site_of(View("View", raw=raw)) as desk:
            assert desk.read("Book/View") == [{"Name": 'Acme "EU", Ltd', "Next\r\nStep": "call\r\nback"}]

    @pytest.mark.parametrize("raw", [b"A,B\r\n1,2\r\n3\r\n", b"A\r\n\xff\xfe\r\n", b"\xff\r\n1\r\n"])
    def test_a_garbled_answer_is_an_error(self, raw):
        with site_of(View("View", raw=raw)) as desk, pytest.raises(SourceError, match="does not read as CSV"):
            desk.read("Book/View")

    def test_a_wide_header_of_one_block_and_many_rows(self):
        raw = b"Id,Name\r\n" + b"".join(b"%d,%s\r\n" % (number, b"x" * 200) for number in range(60_000))
        with site_of(View("View", raw=raw)) as desk:
            pages = desk.pages("Book/View")
        assert len(pages) > 1
        assert sum(page.records.num_rows for page in pages) == 60_000
        assert [page.first_row for page in pages[:2]] == [2, 2 + pages[0].records.num_rows]


class TestMeasureNames:
    def test_one_column_per_measure(self, desk, company):
        got = {row["Team"]: row for row in desk.read("Sales Pipeline/Team Measures")}
        deals = list(export.tables(company)["deals"])
        assert sum(int(row["Number of Deals"]) for row in got.values()) == len(deals)
        total = sum(Decimal(row["Amount"].replace(",", "")) for row in got.values())
        assert total == sum(deal["amount"] for deal in deals if deal["amount"] is not None)
        assert next(iter(got.values())).keys() == {"Team", "Number of Deals", "Amount", "Avg. Amount", "Avg. Probability"}

    def test_the_published_sample_adds_up_once(self, shared):
        """Adding up the repeated Sales column gives six times the truth."""
        raw = (shared / "data/api/tableau/tsc_assets/populate_csv.csv").read_bytes()
        with site_of(View("View", raw=raw)) as desk:
            got = desk.read("Book/View")
        assert [row["Region"] for row in got] == ["South", "Central", "East", "West"]
        assert list(got[0]) == ["Region", "Count of Customers", "Sales", "Quantity", "Sales per Customer", "Profit", "Profit Ratio"]
        assert sum(Decimal(row["Sales"].replace(",", "")) for row in got) == Decimal("1820894.837300003")
        assert got[0]["Profit Ratio"] == "0.144482316"

    def test_a_number_that_is_a_dimension_stays(self):
        raw = b"Measure Names,Year,Measure Values,Sales\r\nSales,2025,10,$10\r\nCost,2025,4,$10\r\nSales,2026,20,$20\r\nCost,2026,5,$20\r\n"
        with site_of(View("View", raw=raw)) as desk:
            assert desk.read("Book/View") == [{"Year": "2025", "Sales": "10", "Cost": "4"}, {"Year": "2026", "Sales": "20", "Cost": "5"}]

    def test_marks_need_not_stand_together(self):
        raw = b"Measure Names,Stage,Measure Values\r\nN,Won,1\r\nN,Lost,2\r\nV,Won,10\r\nV,Lost,20\r\nN,Open,3\r\n"
        with site_of(View("View", raw=raw)) as desk:
            assert desk.read("Book/View") == [
                {"Stage": "Won", "N": "1", "V": "10"}, {"Stage": "Lost", "N": "2", "V": "20"}, {"Stage": "Open", "N": "3", "V": None},
            ]  # fmt: skip

    def test_marks_that_cannot_be_told_apart_are_refused(self):
        raw = b"Measure Names,Stage,Measure Values\r\nN,Won,1\r\nN,Won,2\r\n"
        with site_of(View("View", raw=raw)) as desk, pytest.raises(SourceError, match="comes twice for one mark") as error:
            desk.read("Book/View")
        assert "Detail" in error.value.remedy

    def test_a_shown_number_that_contradicts_its_measure_is_refused(self):
        raw = b"Measure Names,Stage,Measure Values,Sales\r\nSales,Won,100,$1\r\n"
        with site_of(View("View", raw=raw)) as desk, pytest.raises(SourceError, match="says '\\$1' where Measure Values says '100'"):
            desk.read("Book/View")

    def test_measure_names_alone_are_dropped(self):
        raw = b"Measure Names,Stage,Sales\r\nSales,Won,5\r\nCost,Won,5\r\nSales,Lost,7\r\nCost,Lost,7\r\n"
        with site_of(View("View", raw=raw)) as desk:
            assert desk.read("Book/View") == [{"Stage": "Won", "Sales": "5"}, {"Stage": "Lost", "Sales": "7"}]

    def test_measure_names_alone_that_do_not_repeat_evenly_are_refused(self):
        raw = b"Measure Names,Stage,Sales\r\nSales,Won,5\r\nCost,Won,5\r\nSales,Lost,7\r\n"
        with site_of(View("View", raw=raw)) as desk, pytest.raises(SourceError, match="do not repeat evenly"):
            desk.read("Book/View")

    def test_other_languages(self):
        raw = b'Kennzahlnamen,Phase,Kennzahlwerte\r\nUmsatz,Gewonnen,"1.234,5"\r\nAnzahl,Gewonnen,3\r\n'
        with site_of(View("View", raw=raw)) as desk:
            assert desk.read("Book/View", locale="de_DE") == [{"Phase": "Gewonnen", "Umsatz": "1.234,5", "Anzahl": "3"}]


class TestTotals:
    def test_a_grand_total_is_left_out_and_said(self, desk, company):
        (page, *_) = pages = desk.pages("Sales Pipeline/Region Totals")
        got = [row for page in pages for row in rows(page)]
        assert "Grand Total" not in {row["Region"] for row in got}
        assert sum(int(row["Distinct count of Deal ID"]) for row in got) == len(list(export.tables(company)["deals"]))
        assert any("1 total row left out" in warning for warning in page.warnings)

    def test_totals_can_be_kept(self, desk):
        assert "Grand Total" in {row["Region"] for row in desk.read("Sales Pipeline/Region Totals", totals="keep")}

    def test_subtotals_at_every_level(self):
        raw = b'Team,Stage,Amount\r\nEast,Won,"$1,000"\r\nEast,Lost,$500\r\nEast,Total,"$1,500"\r\nWest,Won,$70\r\nWest,Total,$70\r\nGrand Total,,"$1,570"\r\n'
        with site_of(View("View", raw=raw)) as desk:
            got = desk.read("Book/View")
        assert [(row["Team"], row["Stage"]) for row in got] == [("East", "Won"), ("East", "Lost"), ("West", "Won")]

    def test_rounded_totals_are_recognised(self):
        raw = b"Stage,Amount\r\nA,$33\r\nB,$33\r\nC,$33\r\nAll,$100\r\n"
        with site_of(View("View", raw=raw)) as desk:
            assert len(desk.read("Book/View")) == 3

    def test_a_total_that_is_no_sum_is_refused_until_somebody_decides(self):
        raw = b"Stage,Avg. Amount\r\nA,10\r\nB,20\r\nTotal,15\r\n"
        with site_of(View("View", raw=raw)) as desk:
            with pytest.raises(SourceError, match=r"row 4 \(Stage 'Total', Avg. Amount '15'\) looks like a total") as error:
                desk.read("Book/View")
            assert "totals: drop" in error.value.remedy
            assert len(desk.read("Book/View", totals="drop")) == 2
            assert len(desk.read("Book/View", totals="keep")) == 3

    def test_a_customer_called_total_is_a_customer(self):
        raw = b"Deal ID,Account,Amount\r\nD1,Total,10\r\nD2,Acme,20\r\nD3,All,5\r\n"
        with site_of(View("View", raw=raw)) as desk:
            assert len(desk.read("Book/View")) == 3


class TestDashboards:
    def test_refused_with_the_list_of_their_sheets(self, desk):
        with pytest.raises(ConfigError, match="is a dashboard") as error:
            desk.read("Sales Pipeline/Overview")
        assert "Stage Detail, Team Measures" in error.value.remedy

    @pytest.mark.parametrize("metadata", ["off", "backfilling"])
    def test_without_the_metadata_api_the_sheets_of_the_workbook(self, desk, metadata):
        desk.tableau.metadata = metadata
        with pytest.raises(ConfigError, match="is a dashboard") as error:
            desk.read("Sales Pipeline/Overview")
        assert "Deals, Region Totals" in error.value.remedy

    def test_stories_too(self):
        with site_of(View("View", sheet_type="story")) as desk, pytest.raises(ConfigError, match="is a story"):
            desk.read("Book/View")


# ── who may, and who may not ──────────────────────────────────────────────────────────────────────


class TestAccess:
    def refused(self, desk, **config):
        """The same refusal from a run and from check."""
        spec = {"view": "Sales Pipeline/Deals", "table": "t"}
        source = desk.source(spec, **config)
        with pytest.raises(AuthError) as error:
            list(source.read(source.entities()[0], Since()))
        findings = list(desk.source(spec, **config).check())
        assert [finding.exit_code for finding in findings if not finding.ok] == [3]
        assert error.value.exit_code == 3
        assert findings[-1].remedy == error.value.remedy
        assert "sandbox-secret" not in f"{error.value} {error.value.remedy} {findings}"
        return error.value

    @pytest.mark.parametrize("config", [{"site": "other"}, {"token": {"name": "connector", "secret": "wrong"}}])
    def test_wrong_site_and_wrong_secret(self, desk, config):
        assert "new token" in self.refused(desk, **config).remedy

    def test_revoked_token(self, desk):
        desk.tableau.site.tokens["connector"].revoked = True
        assert "revoked" in self.refused(desk).remedy

    def test_expired_token(self, desk):
        desk.tableau.site.tokens["connector"].expires = datetime.now(UTC) - timedelta(days=1)
        assert "expired" in self.refused(desk).remedy

    def test_hidden_view(self, desk):
        next(view for view in desk.tableau.site.views if view.name == "Deals").visible = False
        error = self.refused(desk)
        assert "not visible" in str(error)
        assert "Stage Detail" in str(error)

    def test_view_that_may_not_be_downloaded(self, desk):
        next(view for view in desk.tableau.site.views if view.name == "Deals").downloadable = False
        assert "Download Summary Data" in self.refused(desk).remedy

    def test_connected_app(self, desk):
        desk.tableau.site.apps["client"] = App("key", "app-secret")
        app = {"client_id": "client", "secret_id": "key", "secret": "app-secret", "user": "connector@example.com"}
        assert desk.read("Sales Pipeline/Deals", config={"app": app})

    def test_connected_app_with_a_wrong_secret(self, desk):
        desk.tableau.site.apps["client"] = App("key", "app-secret")
        app = {"client_id": "client", "secret_id": "key", "secret": "other", "user": "connector@example.com"}
        assert "connected app" in self.refused(desk, app=app).remedy

    def test_connected_app_without_the_scope(self, desk, monkeypatch):
        desk.tableau.site.apps["client"] = App("key", "app-secret")
        app = {"client_id": "client", "secret_id": "key", "secret": "app-secret", "user": "connector@example.com"}
        monkeypatch.setitem(__import__("sources.tableau", fromlist=["SCOPES"]).SCOPES, "view", "tableau:other")
        assert "scopes" in self.refused(desk, app=app).remedy

    def test_check_says_what_is_fine(self, desk):
        views = [
            {"view": "Sales Pipeline/Deals", "table": "deals"},
            {"view": "Sales Pipeline/Stage by Month", "table": "m", "mode": "crosstab"},
        ]
        assert [(finding.ok, finding.detail) for finding in desk.source(*views).check()] == [
            (True, "site sales, REST API 3.28"), (True, "readable"), (True, "readable"),
        ]  # fmt: skip

    def test_check_finds_a_dashboard(self, desk):
        *_, finding = desk.source({"view": "Sales Pipeline/Overview", "table": "t"}).check()
        assert (finding.ok, finding.exit_code) == (False, 2)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"token": None}, "either `token"),
            ({"server": None}, "`server` is missing"),
            ({"views": [{"view": "a/b", "table": "t"}, {"view": "a/c", "table": "t"}]}, "given twice"),
            ({"views": [{"table": "t"}]}, "either `view` or `datasource`"),
            ({"views": [{"datasource": "d", "table": "t"}]}, "reads a `view`"),
            ({"views": [{"datasource": "d", "table": "t", "mode": "extract", "filters": {"a": "b"}}]}, "use `where`"),
            ({"views": [{"view": "a/b", "table": "t", "columns": ["x"]}]}, "`columns` is for"),
            ({"views": [{"datasource": "d", "table": "t", "mode": "vds", "columns": [["x"]]}]}, "names of fields"),
            ({"views": []}, "at least 1"),
            ({"views": [{"view": "a/b", "table": "t", "max_age": 0}]}, "greater than or equal to 1"),
            ({"colour": "red"}, "not permitted"),
            ({"views": [{"view": "a/b", "table": "t", "locale": "xx_YY"}]}, "no locale"),
            ({"views": [{"view": "a/b", "table": "t", "timezone": "Mars"}]}, "no time zone"),
        ],
    )
    def test_mistakes_are_named(self, change, message):
        good = {"server": "https://t.example.com", "token": PAT, "views": [{"view": "a/b", "table": "t"}]}
        TableauConfig(**good)
        with pytest.raises(ValidationError, match=message):
            TableauConfig(**{**good, **change})

    @pytest.mark.parametrize(
        ("view", "message"),
        [
            ("Deals", "expected Workbook/View"),
            ("https://t.example.com/#/site/other/views/A/B", "on site 'other'"),
            ("https://t.example.com/#/site/sales/workbooks/12", "not the address of a view"),
            ("https://t.example.com/#/site/sales/views/A/B/2b7a/mine", "custom view"),
        ],
    )
    def test_views_that_cannot_be_meant(self, desk, view, message):
        with pytest.raises(ConfigError, match=message):
            desk.read(view)

    @pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
    def test_nobody_there(self, desk, address):
        with pytest.raises(TransientError, match="no answer"):
            desk.read("Sales Pipeline/Deals", config={"base_url": address})

    def test_something_else_there(self, desk):
        desk.running.faults.add("serverInfo", status=200, body=b"<html>sign in</html>", headers={"Content-Type": "text/html"})
        with pytest.raises(ConfigError):
            desk.read("Sales Pipeline/Deals")


ENDPOINTS = {name for name, each in vars(tsc.Server("http://t.example.com")).items() if isinstance(each, Endpoint)}


def is_endpoint(node):
    if isinstance(node, ast.Attribute):
        return node.attr in ENDPOINTS and ast.unparse(node.value).rstrip("()").endswith("server")
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "endpoint"


def iterates(node):
    """Whether a piece of code loops over an endpoint of tableauserverclient, or asks it for a query set."""
    if isinstance(node, ast.For | ast.comprehension):
        return is_endpoint(node.iter)
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr in {"all", *dir(QuerySet)}:
        return is_endpoint(node.func.value)
    return ast.unparse(node.func) in ("list", "len", "tuple", "sorted") and any(map(is_endpoint, node.args))


@pytest.mark.parametrize(
    "code",
    [
        "server.views.all()",
        "for v in server.views: pass",
        "[v for v in it.server().jobs]",
        "endpoint(server).filter(a=1)",
        "list(server.views)",
    ],
)
def test_query_sets_are_recognised(code):
    assert any(map(iterates, ast.walk(ast.parse(code))))


def test_nothing_iterates_query_sets():
    """QuerySet ends quietly when a page is refused: Pager is used everywhere, an endpoint's own query set nowhere."""
    for file in (*ROOT.glob("sources/tableau*.py"), *ROOT.glob("sinks/tableau*.py"), ROOT / "connector/auth/tableau.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not iterates(node), f"{file.name}: {ast.unparse(node)}"


def test_the_connection_says_where():
    config = TableauConfig(server="https://t.example.com/", token=PAT, views=[{"view": "a/b", "table": "t"}])
    assert Connection(config, Session(), ()).place == "Tableau t.example.com"
