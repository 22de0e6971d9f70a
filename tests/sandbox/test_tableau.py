"""The sandbox's Tableau as tableauserverclient's own plain use finds it, and as the published schema demands."""

import contextlib
import csv
import io
import os
import shutil
import subprocess
import venv
import zipfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

import pyarrow as pa
import pytest
import requests
import tableauserverclient as tsc
from lxml import etree

from connector.sandbox.company import Company
from connector.sandbox.server import serve
from connector.sandbox.tableau import App, JobPlan, Tableau, Workbook
from connector.sandbox.tableau.pipeline import company_site
from connector.sandbox.tableau.publish import hyper, read_hyper
from connector.sandbox.tableau.wire import view_filters

TABCMD = "tabcmd==2.0.21"
PAT = {"token_name": "connector", "personal_access_token": "sandbox-secret", "site_id": "sales"}


@pytest.fixture(scope="module")
def company():
    return Company.generate(deals=120, days=200)


@pytest.fixture
def tableau(company):
    return Tableau(company_site(company))


@pytest.fixture
def running(tableau):
    with serve(tableau) as running:
        yield running
        assert running.violations == []


@pytest.fixture(scope="session")
def schema(shared):
    """The published schema; tests that are about it alone skip where it is not."""
    return etree.XMLSchema(etree.parse(shared / "contracts" / "tableau" / "ts-api_3_29_subset.xsd"))


@pytest.fixture
def valid(request):
    """A session whose every XML answer must fit the schema where there is one: `test_every_answer_fits_the_schema` says whether."""
    schema = request.getfixturevalue("schema") if (request.config.rootpath.parent / "shared" / "data").is_dir() else None
    session = requests.Session()
    if schema:
        session.hooks["response"].append(fits(schema))
    return session


def fits(schema, seen=None):
    def check(response, **_):
        if response.headers.get("Content-Type", "").startswith("application/xml"):
            root = etree.fromstring(response.content)
            schema.assertValid(root)
            if seen is not None:
                seen.update(element.tag.partition("}")[2] for element in root)

    return check


@pytest.fixture
def server(running, valid):
    server = tsc.Server(running.url("tableau"), use_server_version=True, session_factory=lambda: valid)
    server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
    yield server
    with contextlib.suppress(tsc.FailedSignInError):  # some tests end the session in other ways
        server.version = "3.28"
        server.auth.sign_out()


def code(error):
    return error.value.code


class TestPlainUse:
    """What tableauserverclient's samples do."""

    def test_sign_in_finds_the_version_and_sign_out_ends_the_session(self, server, tableau):
        assert server.version == "3.28"
        assert server.server_info.get().product_version == "2026.1.0"
        assert len(tableau.sessions) == 1
        server.auth.sign_out()
        assert tableau.sessions == {}

    def test_lists_views_workbooks_projects_datasources(self, server):
        assert [view.name for view in tsc.Pager(server.views, tsc.RequestOptions(pagesize=2))] == [
            "Deals", "Stage History", "Stage Detail", "Team Measures", "Stage by Month", "Region Totals", "Overview",
        ]  # fmt: skip
        (book,) = tsc.Pager(server.workbooks)
        server.workbooks.populate_views(book)
        assert len(book.views) == 7
        assert server.workbooks.get_by_id(book.id).name == "Sales Pipeline"
        assert server.projects.get_by_path("Sales/Published").name == "Published"
        assert {item.name for item in tsc.Pager(server.datasources)} == {"Pipeline", "Stage History"}

    def test_view_as_csv_and_crosstab(self, server, company):
        (view,) = [each for each in tsc.Pager(server.views) if each.name == "Deals"]
        server.views.populate_csv(view)
        rows = list(csv.DictReader(io.StringIO(b"".join(view.csv).decode())))
        alive = [deal for deal in company.deals.values() if not deal.deleted_at]
        assert len(rows) == len(alive)
        assert {row["Deal ID"] for row in rows} == {f"D{deal.n:06}" for deal in alive}
        server.views.populate_excel(view)
        assert "xl/worksheets/sheet1.xml" in zipfile.ZipFile(io.BytesIO(b"".join(view.excel))).namelist()

    def test_pictures_and_pages_of_a_view(self, server):
        (view,) = [each for each in tsc.Pager(server.views) if each.name == "Deals"]
        server.views.populate_image(view)
        assert view.image.startswith(b"\x89PNG")
        server.views.populate_pdf(view)
        assert view.pdf.startswith(b"%PDF")

    def test_refreshes_are_jobs(self, server, tableau):
        tableau.publishing.plans += [JobPlan(polls=1), JobPlan(polls=1)]  # tableauserverclient sleeps between polls
        (book,) = tsc.Pager(server.workbooks)
        source, *_ = tsc.Pager(server.datasources)
        for job, name in ((server.datasources.refresh(source), source.name), (server.workbooks.refresh(book.id), book.name)):
            assert job.type == "RefreshExtract"
            done = server.jobs.wait_for_job(job)
            assert (done.finish_code, done.datasource_name or done.workbook_name) == (0, name)

    def test_workbooks_by_pages_and_by_owner(self, tableau, server):
        """What tableauserverclient's sample of pagination does."""
        tableau.site.workbooks += [Workbook(f"Book {number}", tableau.site.projects[0]) for number in range(6)]
        assert len(list(tsc.Pager(server.workbooks, tsc.RequestOptions(1, 5)))) == 7
        assert len(list(tsc.Pager(server.workbooks, tsc.RequestOptions(2, 3)))) == 4
        for owner, count in (("connector@example.com", 7), ("nobody@example.com", 0)):
            assert len(list(server.workbooks.filter(ownerEmail=owner, page_size=3))) == count

    def test_one_view_by_id_knows_its_sheet_type(self, server):
        (dashboard,) = [each for each in tsc.Pager(server.views) if each.name == "Overview"]
        assert server.views.get_by_id(dashboard.id).sheet_type == "dashboard"
        options = tsc.CSVRequestOptions(maxage=1)
        server.views.populate_csv(dashboard, options)
        assert b"".join(dashboard.csv).startswith(b"Pipeline,Stage,Region")  # the first of its sheets by name

    def test_the_user_who_signed_in(self, running):
        """Without the schema, whose subset knows no users."""
        server = tsc.Server(running.url("tableau"), use_server_version=True)
        with server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT)):
            assert server.users.get_by_id(server.user_id).name == "connector@example.com"
            with pytest.raises(tsc.ServerResponseError) as error:
                server.users.get_by_id("0" * 36)
            assert code(error) == "404002"

    def test_metadata_api(self, server):
        (view,) = [each for each in tsc.Pager(server.views) if each.name == "Overview"]
        query = "query($luid: String) { dashboards(filter: {luid: $luid}) { sheets { name luid } } }"
        (node,) = server.metadata.query(query, {"luid": view.id})["data"]["dashboards"]
        assert [sheet["name"] for sheet in node["sheets"]] == ["Stage Detail", "Team Measures"]


def test_every_answer_fits_the_schema(running, schema):
    """Also the refusals. Skipped, not passed, where there is no schema."""
    session, seen = requests.Session(), set()
    session.hooks["response"].append(fits(schema, seen))
    server = tsc.Server(running.url("tableau"), use_server_version=True, session_factory=lambda: session)
    with server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT)):
        options = tsc.RequestOptions()
        options.all_fields = True
        view, *_ = tsc.Pager(server.views, options)
        (book,) = tsc.Pager(server.workbooks)
        assert server.views.get_by_id(view.id).name == view.name
        assert server.workbooks.get_by_id(book.id).name == book.name
        server.workbooks.populate_views(book)
        source, *_ = tsc.Pager(server.datasources)
        list(tsc.Pager(server.projects))
        server.jobs.get_by_id(server.datasources.refresh(source).id)
        with pytest.raises(tsc.ServerResponseError):
            server.views.get_by_id("0" * 36)
    assert seen >= {
        "pagination",
        "views",
        "view",
        "workbooks",
        "workbook",
        "datasources",
        "projects",
        "job",
        "credentials",
        "serverInfo",
        "error",
    }


@pytest.fixture(scope="module")
def tabcmd_program(request):
    """Tableau's own command line; where it is not installed, in an environment of its own, which it needs, made once."""
    if found := shutil.which("tabcmd"):
        return found
    folder = request.config.rootpath / "build" / TABCMD
    program = folder / ("Scripts" if os.name == "nt" else "bin") / "tabcmd"
    if not program.exists():
        try:
            venv.create(folder, with_pip=True, clear=True)
            install = [program.with_name("python"), "-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "5", TABCMD]
            subprocess.run(install, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"tabcmd is not installed, and cannot be: {type(error).__name__}")
    return program


def test_tabcmd_signs_in_lists_and_exports(running, company, tmp_path, tabcmd_program):
    """Tableau's own command line, as its README shows it."""

    def tabcmd(*arguments):
        done = subprocess.run(
            [tabcmd_program, *arguments],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    credential = ("--token-name", "connector", "--token-value", "sandbox-secret")
    assert "Succeeded" in tabcmd("login", "--server", running.url("tableau"), "--site", "sales", *credential, "--no-certcheck")
    assert "2 total datasources" in tabcmd("list", "datasources")
    tabcmd("export", "SalesPipeline/Deals", "--csv", "-f", str(tmp_path / "exported.csv"))
    tabcmd("get", "/views/SalesPipeline/Deals.csv", "-f", str(tmp_path / "got.csv"))
    assert (tmp_path / "exported.csv").read_bytes() == (tmp_path / "got.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "got.csv").read_text(encoding="utf-8"))))
    assert len(rows) == sum(deal.deleted_at is None for deal in company.deals.values())
    assert "Signed out" in tabcmd("logout")


class TestSessions:
    @pytest.mark.parametrize("wrong", [{"site_id": "other"}, {"personal_access_token": "old"}, {"token_name": "nobody"}])
    def test_whatever_is_wrong_at_sign_in_is_401001(self, running, wrong):
        server = tsc.Server(running.url("tableau"))
        with pytest.raises(tsc.FailedSignInError) as error:
            server.auth.sign_in(tsc.PersonalAccessTokenAuth(**{**PAT, **wrong}))
        assert code(error) == "401001"

    def test_expired_and_revoked_tokens(self, running, tableau):
        token = tableau.site.tokens["connector"]
        token.expires = datetime.now(UTC) + timedelta(days=1)
        server = tsc.Server(running.url("tableau"))
        server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
        running.clock.sleep(2 * 86_400)
        with pytest.raises(tsc.FailedSignInError):
            server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
        token.expires, token.revoked = None, True
        with pytest.raises(tsc.FailedSignInError):
            server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))

    def test_one_session_per_token(self, server, running):
        other = tsc.Server(running.url("tableau"), use_server_version=True)
        other.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
        with pytest.raises(tsc.FailedSignInError) as error:
            server.views.get()
        assert code(error) == "401002"
        other.auth.sign_out()

    def test_sessions_end_by_themselves(self, server, running):
        running.clock.sleep(121 * 60)
        with pytest.raises(tsc.FailedSignInError) as error:
            server.views.get()
        assert code(error) == "401002"

    def test_no_token_at_all(self, server):
        answer = requests.get(f"{server.baseurl}/sites/{server.site_id}/views", timeout=5)
        assert answer.status_code == 401
        assert b"401000" in answer.content

    def test_connected_apps_must_be_known(self, running, tableau):
        tableau.site.apps["app"] = App("key", "secret")
        with pytest.raises(tsc.FailedSignInError):
            tsc.Server(running.url("tableau")).auth.sign_in(tsc.JWTAuth(jwt="a.b.c", site_id="sales"))


class TestQueries:
    def test_page_past_the_last_is_400006(self, server):
        with pytest.raises(tsc.ServerResponseError) as error:
            server.views.get(tsc.RequestOptions(pagenumber=2))
        assert code(error) == "400006"

    def test_filters_of_lists(self, server):
        def names(field, operator, value):
            options = tsc.RequestOptions()
            options.filter.add(tsc.Filter(field, operator, value))
            return [view.name for view in server.views.get(options)[0]]

        eq, within = tsc.RequestOptions.Operator.Equals, tsc.RequestOptions.Operator.In
        assert names("name", eq, "deals") == ["Deals"]
        assert names("name", eq, "Stage*") == ["Stage History", "Stage Detail", "Stage by Month"]
        assert names("name", within, ["Deals", "Overview"]) == ["Deals", "Overview"]
        assert names("sheetType", eq, "dashboard") == ["Overview"]
        with pytest.raises(tsc.ServerResponseError):
            names("colour", eq, "red")

    def test_unknown_version_and_address(self, server):
        server.version = "3.99"
        with pytest.raises(tsc.ServerResponseError) as error:
            server.views.get()
        assert code(error) == "404001"

    def test_site_list_is_not_for_everybody(self, server):
        with pytest.raises(tsc.ServerResponseError) as error:
            server.sites.get()
        assert code(error) == "403069"

    @pytest.mark.parametrize(
        ("raw", "values"),
        [
            ("East", {"East"}),
            ("East,West", {"East", "West"}),
            (r"Rock\, Paper", {"Rock, Paper"}),
            (r"C:\\temp\file", {r"C:\temp\file"}),
            ("Widget*", {"Widget*"}),
            ("a,,b", {"a", "", "b"}),
        ],
    )
    def test_values_of_view_filters(self, raw, values):
        assert view_filters({"vf_Region": raw, "vf_Parameters.P": "x", "maxAge": "1"}) == {"Region": values}

    def test_an_empty_view_filter_clears_and_an_unknown_one_is_ignored(self, server):
        (view,) = [each for each in tsc.Pager(server.views) if each.name == "Stage Detail"]

        def count(name, value):
            options = tsc.CSVRequestOptions(maxage=1)
            options.vf(name, value)
            server.views.populate_csv(view, options)
            return b"".join(view.csv).count(b"\r\n") - 1

        everything = count("Region", "")
        assert count("Region", "Germany") < everything
        assert count("Regoin", "Germany") == everything
        assert count("Region", "Atlantis") == 0

    def test_twenty_exports_at_the_same_time(self, company):
        with serve(Tableau(company_site(company), exports_at_once=0)) as running:
            server = tsc.Server(running.url("tableau"), use_server_version=True)
            server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
            view = server.views.get()[0][0]
            answer = requests.get(f"{server.views.baseurl}/{view.id}/data", headers={"X-Tableau-Auth": server.auth_token}, timeout=5)
            assert answer.status_code == 429
            assert answer.headers["Retry-After"] == "1"
            server.auth.sign_out()

    def test_injected_faults_speak_xml(self, server, running):
        running.faults.add("views", status=429)
        with pytest.raises(tsc.ServerResponseError) as error:
            server.views.get()
        assert code(error) == "429000"


def test_the_display_follows_the_locale(company):
    site = company_site(company)
    site.locale = "de_DE"
    with serve(Tableau(site)) as running:
        server = tsc.Server(running.url("tableau"), use_server_version=True)
        server.auth.sign_in(tsc.PersonalAccessTokenAuth(**PAT))
        (view,) = [each for each in tsc.Pager(server.views) if each.name == "Deals"]
        server.views.populate_csv(view)
        rows = list(csv.DictReader(io.StringIO(b"".join(view.csv).decode())))
        server.auth.sign_out()
    amounts = [row["Amount"] for row in rows if "," in row["Amount"]]
    assert any("." in amount and amount.index(".") < amount.index(",") for amount in amounts)
    assert rows[0]["Close Date"].count(".") == 2


@pytest.mark.skipif(not find_spec("pantab"), reason="pantab is not installed")
class TestPublishing:
    """What tableauserverclient's samples for publishing and for the update of live-to-Hyper data do."""

    @pytest.fixture
    def write(self, tmp_path):
        def write(name, columns):
            (tmp_path / name).write_bytes(hyper(pa.table(columns)))
            return tmp_path / name

        return write

    @pytest.fixture
    def item(self, server):
        return tsc.DatasourceItem(server.projects.get_by_path("Finance").id, name="Targets")

    def test_publish_at_once_and_give_back(self, server, item, write, tmp_path):
        published = server.datasources.publish(item, write("a.hyper", {"n": [1, 2]}), "CreateNew")
        path = server.datasources.download(published.id, str(tmp_path / "back"), include_extract=True)
        with zipfile.ZipFile(path) as package:
            (inside,) = [name for name in package.namelist() if name.endswith(".hyper")]
            assert read_hyper(package.read(inside)).to_pylist() == [{"n": 1}, {"n": 2}]
        without = server.datasources.download(published.id, str(tmp_path / "without"), include_extract=False)
        assert [name for name in zipfile.ZipFile(without).namelist() if name.endswith(".hyper")] == []

    def test_a_name_that_is_taken_needs_overwrite_and_keeps_its_id(self, server, item, write):
        first = server.datasources.publish(item, write("a.hyper", {"n": [1]}), "CreateNew")
        with pytest.raises(tsc.ServerResponseError) as error:
            server.datasources.publish(item, write("b.hyper", {"n": [2]}), "CreateNew")
        assert code(error) == "403007"
        assert server.datasources.publish(item, write("b.hyper", {"n": [2]}), "Overwrite").id == first.id

    def test_readers_see_the_old_table_until_the_job_is_done(self, server, item, write, tableau, running):
        server.datasources.publish(item, write("a.hyper", {"n": [1]}), "Overwrite")
        tableau.publishing.plans.append(JobPlan(polls=2))
        job = server.datasources.publish(item, write("b.hyper", {"n": [2]}), "Overwrite", as_job=True)
        source = tableau.site.datasources[-1]
        assert server.jobs.get_by_id(job.id).completed_at is None
        assert read_hyper(source.blob).to_pylist() == [{"n": 1}]
        assert server.jobs.wait_for_job(job.id).finish_code == 0
        assert read_hyper(source.blob).to_pylist() == [{"n": 2}]

    def test_jobs_that_fail_and_are_cancelled(self, server, item, write, tableau):
        tableau.publishing.plans += [JobPlan(polls=1, finish=1, notes="no space"), JobPlan(polls=1, finish=2)]
        for error in (tsc.JobFailedException, tsc.JobCancelledException):
            job = server.datasources.publish(item, write("a.hyper", {"n": [1]}), "Overwrite", as_job=True)
            with pytest.raises(error):
                server.jobs.wait_for_job(job.id)
        assert all(source.name != "Targets" for source in tableau.site.datasources)

    def test_rows_change_once_per_request_id(self, server, item, write, tableau):
        tableau.publishing.plans += [JobPlan(polls=1) for _ in range(5)]  # tableauserverclient sleeps between polls
        published = server.datasources.publish(item, write("a.hyper", {"n": [1, 2, 3], "v": ["a", "b", "c"]}), "Overwrite")
        target = {"source-schema": "Extract", "source-table": "Extract", "target-schema": "Extract", "target-table": "Extract"}
        match = {"op": "eq", "source-col": "n", "target-col": "n"}

        def update(request, action, rows, **more):
            actions = [{"action": action, **target, **more}]
            payload = write("p.hyper", rows)
            return server.datasources.update_hyper_data(published.id, request_id=request, actions=actions, payload=payload)

        def rows():
            return sorted((row["n"], row["v"]) for row in read_hyper(tableau.site.datasources[-1].blob).to_pylist())

        server.jobs.wait_for_job(update("1", "upsert", {"n": [2, 4], "v": ["B", "d"]}, condition=match))
        assert rows() == [(1, "a"), (2, "B"), (3, "c"), (4, "d")]
        server.jobs.wait_for_job(update("2", "insert", {"n": [5], "v": ["e"]}))
        again = update("2", "insert", {"n": [5], "v": ["e"]})
        server.jobs.wait_for_job(again)
        assert rows()[-1] == (5, "e")
        assert len(rows()) == 5
        server.jobs.wait_for_job(update("3", "delete", {"n": [1, 5]}, condition={"op": "and", "args": [match]}))
        assert rows() == [(2, "B"), (3, "c"), (4, "d")]
        with pytest.raises(tsc.JobFailedException):
            server.jobs.wait_for_job(update("4", "insert", {"other": [1]}))
        server.jobs.wait_for_job(update("5", "replace", {"n": [9], "v": ["z"]}))
        assert rows() == [(9, "z")]

    def test_a_file_that_is_none_is_refused(self, server, item, tmp_path):
        (tmp_path / "x.hyper").write_bytes(b"nothing")
        with pytest.raises(tsc.ServerResponseError) as error:
            server.datasources.publish(item, tmp_path / "x.hyper", "Overwrite")
        assert code(error) == "400011"
