"""The Tableau sink against the sandbox's Tableau: whole tables or none, rows applied once, nothing published when nothing changed."""

import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import ClassVar

import pyarrow as pa
import pytest
import tableauserverclient as tsc
from pydantic import ValidationError

from connector.api import Output, Run, Since
from connector.errors import AuthError, ConfigError, SourceError, TargetError, TransientError
from connector.http import Session
from connector.sandbox.server import serve
from connector.sandbox.tableau import Datasource, JobPlan, Project, Site, Tableau
from connector.sandbox.tableau.publish import EXTRACT, read_hyper
from sinks.tableau import OURS, TableauSink, TableauSinkConfig, TableauTable
from sources.tableau import TableauConfig, TableauSource

pytestmark = pytest.mark.skipif(not find_spec("pantab"), reason="pantab is not installed")

PAT = {"name": "connector", "secret": "sandbox-secret"}
AT = datetime(2026, 11, 20, 17, tzinfo=UTC)
DEALS = pa.table(
    {
        "deal_id": ["D1", "D2", "D3"],
        "name": ["Acme – renewal", "=danger()", None],
        "amount": pa.array([Decimal("1234.5600"), None, Decimal("-0.0100")], pa.decimal128(18, 4)),
        "probability": [0.1, 0.25, None],
        "is_won": pa.array([1, 0, None], pa.int8()),
        "created_at": pa.array([AT, datetime(2025, 2, 3, 4, 5, 6, 789000, UTC), None], pa.timestamp("us", "UTC")),
        "expected_close_date": pa.array([date(2026, 1, 31), None, date(1999, 12, 31)]),
    }
)


def output(table, name="deals", key=(), spec=None, title=""):
    def read():
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=2))

    return Output(name, table.schema, table.num_rows, read, spec, key, title)


class Office:
    """A running sandbox and one sink whose memory lasts from run to run."""

    def __init__(self, tableau, running, folder):
        self.tableau, self.running, self.folder = tableau, running, folder
        self.memory, self.previous, self.runs = {}, None, 0

    def sink(self, **config):
        given = {
            "base_url": self.running.url("tableau"),
            "site": "sales",
            "token": PAT,
            "project": "Sales/Published",
            "max_wait": 60,
            **config,
        }
        config = TableauSinkConfig(**given)
        session = Session(
            config.network(), folder=self.folder, sleep=self.running.clock.sleep, now=self.running.clock.now, jitter=lambda: 0
        )
        return TableauSink(config, session)

    def write(self, *outputs, fresh=True, dry_run=False, **config):
        self.runs += 1
        self.running.clock.sleep(60)  # stamps are whole seconds
        run = Run(
            "pipeline",
            f"run-{self.runs}",
            AT,
            fresh=fresh,
            dry_run=dry_run,
            memory=self.memory,
            remember=self.remember,
            previous=self.previous,
        )
        receipt = self.sink(**config).write({each.name: each for each in outputs}, run)
        if not dry_run:
            self.previous = receipt
        return receipt

    def remember(self, memory):
        self.memory = memory

    def published(self, name="deals"):
        found = [source for source in self.tableau.site.datasources if source.name == name]
        return read_hyper(found[0].blob) if found else None

    def asked(self, pattern):
        return len(self.running.asked(pattern))


@pytest.fixture
def tableau():
    sales = Project("Sales")
    return Tableau(
        Site(projects=[Project("Default"), sales, Project("Published", parent=sales), Project("Locked", writable=False)]), strict=True
    )


@pytest.fixture
def office(tableau, tmp_path):
    with serve(tableau) as running:
        yield Office(tableau, running, tmp_path / "kept")
        assert running.violations == []


def rows(table):
    return sorted(map(repr, table.to_pylist()))


def with_rows(*changes, without=()):
    """DEALS with some rows added or changed, and some left out."""
    table = {row["deal_id"]: row for row in DEALS.to_pylist() if row["deal_id"] not in without}
    for change in changes:
        table[change["deal_id"]] = {**dict.fromkeys(DEALS.column_names), **table.get(change["deal_id"], {}), **change}
    return pa.Table.from_pylist(list(table.values()), DEALS.schema)


def same(published, table):
    naive = table.set_column(
        table.column_names.index("created_at"), "created_at", table["created_at"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    )
    return rows(published) == rows(naive)


# ── replace ───────────────────────────────────────────────────────────────────────────────────────


class TestReplace:
    def test_every_value_comes_back_through_our_source_and_through_plain_clients(self, office, tmp_path):
        receipt = office.write(output(DEALS))
        assert (receipt.outcome, receipt.rows, receipt.parts_changed) == ("written", {"deals": 3}, ("deals",))
        assert receipt.bytes > 0
        assert receipt.version_after
        assert receipt.target.endswith("project Sales/Published")
        assert same(office.published(), DEALS)

        config = TableauConfig(
            base_url=office.running.url("tableau"),
            site="sales",
            token=PAT,
            views=[{"datasource": "deals", "table": "t", "mode": "extract"}],
        )
        source = TableauSource(config, Session())
        got = [row for page in source.read(source.entities()[0], Since()) for row in page.records.to_pylist()]
        assert [row["amount"] for row in got] == DEALS["amount"].to_pylist()
        assert [row["name"] for row in got] == DEALS["name"].to_pylist()

        import pantab

        server = tsc.Server(office.running.url("tableau"), use_server_version=True)
        server.auth.sign_in(tsc.PersonalAccessTokenAuth("connector", "sandbox-secret", site_id="sales"))
        (item,) = tsc.Pager(server.datasources)
        path = server.datasources.download(item.id, tmp_path, include_extract=True)
        server.auth.sign_out()
        import zipfile

        with zipfile.ZipFile(path) as package:
            (inside,) = [name for name in package.namelist() if name.endswith(".hyper")]
            package.extract(inside, tmp_path)
        assert same(pantab.frame_from_hyper(tmp_path / inside, table=EXTRACT, return_type="pyarrow"), DEALS)

    def test_nothing_is_published_when_nothing_changed(self, office):
        first = office.write(output(DEALS))
        for fresh in (True, False):
            receipt = office.write(output(DEALS), fresh=fresh)
            assert (receipt.outcome, receipt.version_after) == ("unchanged", first.version_after)
        assert office.asked("POST .*/datasources$") == 1

    def test_what_somebody_else_changed_is_set_right(self, office):
        office.write(output(DEALS))
        (source,) = office.tableau.site.datasources
        source.updated_at = datetime(2030, 1, 1, tzinfo=UTC)
        assert office.write(output(DEALS), fresh=False).outcome == "written"

    def test_only_the_table_that_changed_is_published(self, office):
        stages = pa.table({"stage": ["Won"]})
        office.write(output(DEALS), output(stages, "stages"))
        receipt = office.write(output(DEALS), output(pa.table({"stage": ["Lost"]}), "stages"))
        assert (receipt.parts_changed, receipt.parts_untouched) == (("stages",), 1)

    def test_the_id_the_certification_and_the_words_of_others_stay(self, office):
        office.write(output(DEALS))
        (source,) = office.tableau.site.datasources
        luid = source.id
        source.certified = True
        source.description = f"Ask Ann.\n{source.description}\nReviewed in May."
        office.write(output(with_rows({"deal_id": "D4"})))
        assert (source.id, source.certified) == (luid, True)
        assert source.description.startswith("Ask Ann.\n")
        assert source.description.endswith("\nReviewed in May.")
        assert source.description.count(OURS) == 1

    def test_a_description_that_somebody_emptied_does_not_make_it_a_strangers(self, office):
        office.write(output(DEALS))
        office.tableau.site.datasources[0].description = ""
        assert office.write(output(with_rows({"deal_id": "D4"}))).outcome == "written"

    def test_columns_come_with_their_definitions_and_headings(self, office):
        schema = pa.schema([pa.field("amount", pa.int64(), metadata={"description": "What the customer pays."})])
        spec = TableauTable(**{"from": "deals", "name": "Deals", "columns": {"amount": "Amount"}})
        office.write(output(pa.table({"amount": [1]}, schema=schema), spec=spec, title="All deals"))
        (source,) = office.tableau.site.datasources
        assert source.name == "Deals"
        assert office.published("Deals").column_names == ["Amount"]
        assert "Amount: What the customer pays." in source.description
        assert "All deals" in source.description

    def test_large_tables_go_up_in_chunks(self, office, monkeypatch):
        monkeypatch.setenv("TSC_FILESIZE_LIMIT_MB", "0")
        monkeypatch.setenv("TSC_CHUNK_SIZE_MB", "1")
        import random

        draw = random.Random(1)
        table = pa.table({"deal_id": [f"{draw.getrandbits(256):064x}" for _ in range(60_000)]})
        office.write(output(table))
        assert office.asked("PUT .*/fileUploads/") > 1
        assert sorted(office.published()["deal_id"].to_pylist()) == sorted(table["deal_id"].to_pylist())

    def test_a_dry_run_publishes_nothing(self, office):
        assert office.write(output(DEALS), dry_run=True).outcome == "would write"
        assert office.asked("POST .*/datasources") == 0
        assert office.memory == {}

    def test_a_table_that_never_had_rows_is_not_published_unless_it_is_named(self, office):
        assert office.write(output(DEALS.slice(0, 0))).outcome == "unchanged"
        assert office.published() is None
        office.write(output(DEALS.slice(0, 0), spec=TableauTable(**{"from": "deals"})))
        assert office.published().num_rows == 0

    def test_no_rows_are_a_table_without_rows(self, office):
        office.write(output(DEALS))
        office.write(output(DEALS.slice(0, 0)))
        assert office.published().num_rows == 0
        assert office.published().column_names == DEALS.column_names


class TestJobs:
    def test_a_failed_job_leaves_the_old_table(self, office):
        office.write(output(DEALS))
        office.tableau.publishing.plans.append(JobPlan(finish=1, notes="out of disk"))
        with pytest.raises(TargetError, match="job failed: out of disk"):
            office.write(output(with_rows({"deal_id": "D4"})))
        assert same(office.published(), DEALS)
        office.write(output(with_rows({"deal_id": "D4"})))
        assert office.published().num_rows == 4

    def test_a_cancelled_job(self, office):
        office.tableau.publishing.plans.append(JobPlan(finish=2))
        with pytest.raises(TargetError, match="cancelled"):
            office.write(output(DEALS))

    def test_a_job_that_takes_too_long_is_waited_for_by_the_next_run(self, office):
        office.tableau.publishing.plans.append(JobPlan(polls=12))
        with pytest.raises(TransientError, match="still working") as error:
            office.write(output(DEALS), job_timeout=5)
        assert "next run" in error.value.remedy
        before = len(office.running.requests)
        office.write(output(with_rows({"deal_id": "D4"})))
        later = [logged.line.split("/sites/")[-1].split("/", 1)[-1] for logged in office.running.requests[before:]]
        assert later.index("datasources") > max(index for index, line in enumerate(later[:-4]) if line.startswith("jobs/")) - 12
        assert office.published().num_rows == 4

    def test_the_code_of_an_unfinished_job_means_nothing(self, office):
        office.tableau.publishing.plans.append(JobPlan(polls=4))
        office.write(output(DEALS))
        assert office.asked("GET .*/jobs/") == 4


# ── upsert and append ─────────────────────────────────────────────────────────────────────────────


class TestUpsert:
    CONFIG: ClassVar = {"mode": "upsert"}

    def actions(self, office):
        import json

        return [[action["action"] for action in json.loads(logged.body)["actions"]] for logged in office.running.asked("PATCH")]

    def test_rows_come_change_and_go(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        changed = with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9", "name": "new"}, without=("D2",))
        receipt = office.write(output(changed, key=("deal_id",)), **self.CONFIG)
        assert receipt.outcome == "written"
        assert same(office.published(), changed)
        assert self.actions(office) == [["delete", "upsert"]]
        assert office.asked("POST .*/datasources$") == 1

    def test_only_the_rows_that_differ_are_sent(self, office):
        table = pa.table({"id": range(5000), "v": ["x" * 50] * 5000})
        office.write(output(table, key=("id",)), **self.CONFIG)
        office.write(output(table.set_column(1, "v", pa.array(["y", *["x" * 50] * 4999])), key=("id",)), **self.CONFIG)
        (sent,) = [upload for upload in office.running.asked("PUT .*/fileUploads") if upload.body]
        rows_sent = read_hyper(sent.body[sent.body.index(b"Hyper") :], ("Extract", "Changed"))
        assert rows_sent.to_pylist() == [{"id": 0, "v": "y"}]

    def test_the_same_again_sends_nothing(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        assert office.write(output(DEALS, key=("deal_id",)), **self.CONFIG).outcome == "unchanged"
        assert self.actions(office) == []

    def test_keys_of_several_columns(self, office):
        table = pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"], "v": [1, 2, 3]})
        office.write(output(table, key=("a", "b")), **self.CONFIG)
        after = pa.table({"a": [1, 2, 3], "b": ["x", "x", "z"], "v": [10, 3, 4]})
        office.write(output(after, key=("a", "b")), **self.CONFIG)
        assert rows(office.published()) == rows(after)

    @pytest.mark.parametrize("kept", [True, False])
    def test_without_what_was_kept_the_whole_table_is_published(self, office, kept):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        if kept:
            (source,) = office.tableau.site.datasources
            source.updated_at = datetime(2030, 1, 1, tzinfo=UTC)  # somebody changed it
        else:
            for file in office.folder.iterdir():
                file.unlink()
        office.write(output(with_rows({"deal_id": "D7"}), key=("deal_id",)), **self.CONFIG)
        assert same(office.published(), with_rows({"deal_id": "D7"}))
        assert office.asked("POST .*/datasources$") == 2

    def test_a_new_column_publishes_the_whole_table(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        office.write(output(DEALS.append_column("region", pa.array(["EMEA"] * 3)), key=("deal_id",)), **self.CONFIG)
        assert "region" in office.published().column_names

    def test_a_table_without_a_key_is_refused(self, office):
        with pytest.raises(ConfigError, match="which rows are the same"):
            office.write(output(DEALS), **self.CONFIG)

    @pytest.mark.parametrize("ids", [["D1", "D1"], ["D1", None]])
    def test_keys_that_repeat_or_are_empty_are_refused(self, office, ids):
        with pytest.raises(TargetError, match="no key of their own"):
            office.write(output(pa.table({"deal_id": ids}), key=("deal_id",)), **self.CONFIG)
        assert office.tableau.site.datasources == []

    def test_a_run_cut_off_after_sending_is_applied_once(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        changed = with_rows({"deal_id": "D9", "name": "new"}, without=("D2",))
        office.running.faults.add("PATCH", drop=True, after=True)
        with pytest.raises(TransientError):
            office.write(output(changed, key=("deal_id",)), **self.CONFIG)
        office.write(output(changed, key=("deal_id",)), **self.CONFIG)
        assert same(office.published(), changed)
        first, second, *_ = (logged.headers["requestid"] for logged in office.running.asked("PATCH"))
        assert first == second

    def test_a_batch_that_failed_is_forgotten_and_sent_anew(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        changed = with_rows({"deal_id": "D9", "name": "new"}, without=("D2",))
        office.tableau.publishing.plans.append(JobPlan(finish=1, notes="no space"))
        with pytest.raises(TargetError, match="job failed: no space"):
            office.write(output(changed, key=("deal_id",)), **self.CONFIG)
        assert same(office.published(), DEALS)
        office.write(output(changed, key=("deal_id",)), **self.CONFIG)
        assert same(office.published(), changed)


class TestAppend:
    CONFIG: ClassVar = {"mode": "append"}

    def test_rows_are_added(self, office):
        for day in (1, 2, 3):
            office.write(output(pa.table({"day": [day], "open": [day * 10]}), "history"), **self.CONFIG)
        assert office.published("history").to_pylist() == [{"day": day, "open": day * 10} for day in (1, 2, 3)]

    def test_the_same_rows_are_not_added_twice(self, office):
        for _ in range(2):
            office.write(output(pa.table({"day": [1]}), "history"), **self.CONFIG)
        assert office.published("history").num_rows == 1

    def test_a_row_whose_key_is_there_is_left_alone(self, office):
        office.write(output(DEALS, key=("deal_id",)), **self.CONFIG)
        office.write(output(with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9"}), key=("deal_id",)), **self.CONFIG)
        office.write(output(with_rows({"deal_id": "D10"}, without=("D1", "D2", "D3")), key=("deal_id",)), **self.CONFIG)
        got = {row["deal_id"]: row["name"] for row in office.published().to_pylist()}
        assert got == {"D1": "Acme – renewal", "D2": "=danger()", "D3": None, "D9": None, "D10": None}

    @pytest.mark.parametrize("after", [True, False])
    def test_a_run_cut_off_while_sending_adds_its_rows_once(self, office, after):
        office.write(output(pa.table({"day": [1]}), "history"), **self.CONFIG)
        office.running.faults.add("PATCH", drop=True, after=after)
        with pytest.raises(TransientError):
            office.write(output(pa.table({"day": [2]}), "history"), **self.CONFIG)
        office.write(output(pa.table({"day": [2]}), "history"), **self.CONFIG)
        office.write(output(pa.table({"day": [3]}), "history"), **self.CONFIG)
        assert sorted(office.published("history")["day"].to_pylist()) == [1, 2, 3]

    def test_rows_with_other_columns_cannot_be_added(self, office):
        office.write(output(pa.table({"day": [1]}), "history"), **self.CONFIG)
        with pytest.raises(TargetError, match="other columns"):
            office.write(output(pa.table({"day": [1], "more": [2]}), "history"), **self.CONFIG)

    def test_when_what_was_sent_is_lost_that_is_said(self, office):
        office.write(output(pa.table({"day": [1]}), "history"), **self.CONFIG)
        office.running.faults.add("PATCH", drop=True)
        with pytest.raises(TransientError):
            office.write(output(pa.table({"day": [2]}), "history"), **self.CONFIG)
        for file in office.folder.iterdir():
            file.unlink()
        receipt = office.write(output(pa.table({"day": [2]}), "history"), **self.CONFIG)
        assert "may be missing or doubled" in receipt.warnings[0]


# ── cut off anywhere ──────────────────────────────────────────────────────────────────────────────

STEPS = {
    "replace": ("serverInfo", "signin", "/projects", "POST .*/fileUploads", "PUT .*/fileUploads", "POST .*/datasources", "/jobs/"),
    "upsert": ("POST .*/fileUploads", "PUT .*/fileUploads", "PATCH", "/jobs/", "GET .*/datasources/"),
}
HOW = ({"drop": True}, {"drop": True, "after": True}, {"status": 500}, {"status": 403})
CUTS = [(mode, step, how) for mode, steps in STEPS.items() for step in steps for how in HOW]
USUAL = {("replace", "POST .*/datasources", 1), ("replace", "/jobs/", 2), ("upsert", "PATCH", 3), ("upsert", "GET .*/datasources/", 0)}


@pytest.mark.parametrize(
    ("mode", "step", "how"),
    [pytest.param(*cut, id=repr(cut), marks=[] if (*cut[:2], HOW.index(cut[2])) in USUAL else pytest.mark.soak) for cut in CUTS],
)
def test_cut_off_or_refused_at_any_step_the_table_is_whole_and_the_next_run_completes(office, monkeypatch, mode, step, how):
    monkeypatch.setenv("TSC_FILESIZE_LIMIT_MB", "0")
    old, new = DEALS, with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9"}, without=("D2",))
    office.write(output(old, key=("deal_id",)), mode=mode)
    fault = office.running.faults.add(step, times=None, **how)
    try:
        office.write(output(new, key=("deal_id",)), mode=mode)
    except (TransientError, TargetError, AuthError, ConfigError, SourceError):
        assert fault.hits
        assert same(office.published(), old) or same(office.published(), new)
    office.running.faults.clear()
    office.write(output(new, key=("deal_id",)), mode=mode)
    assert same(office.published(), new)


# ── what is refused before anything is touched ────────────────────────────────────────────────────


class TestRefusals:
    @pytest.mark.parametrize(
        ("project", "message"),
        [("Sales/Nowhere", "no project 'Nowhere' in Sales"), ("Sale", "did you mean 'Sales'"), ("Published", "no project 'Published'")],
    )
    def test_projects_are_found_by_path_and_never_made(self, office, project, message):
        with pytest.raises(ConfigError, match=message):
            office.write(output(DEALS), project=project)
        assert len(office.tableau.site.projects) == 4

    def test_two_projects_of_one_name(self, office):
        office.tableau.site.projects.append(Project("Sales"))
        with pytest.raises(ConfigError, match="more than one project 'Sales'"):
            office.write(output(DEALS))

    def test_a_project_that_may_not_be_published_to(self, office):
        with pytest.raises(AuthError, match="may not be published to"):
            office.write(output(DEALS), project="Locked")

    def test_a_user_who_may_not_publish(self, office):
        office.running.faults.add("POST .*/datasources", status=403)
        with pytest.raises(AuthError, match="may not be published") as error:
            office.write(output(DEALS))
        assert "Explorer (can publish)" in error.value.remedy

    def test_a_data_source_of_somebody_else_is_left_alone(self, office):
        project = office.tableau.site.projects[2]
        theirs = Datasource("deals", project, description="Ann's own", blob=b"Hyper")
        office.tableau.site.datasources.append(theirs)
        with pytest.raises(TargetError, match="not published by connector"):
            office.write(output(DEALS))
        assert theirs.blob == b"Hyper"

    def test_a_column_that_vanishes_or_turns(self, office):
        office.write(output(DEALS))
        with pytest.raises(TargetError, match="column 'amount' is gone"):
            office.write(output(DEALS.drop_columns(["amount"])))
        with pytest.raises(TargetError, match="'is_won' was int64 and is string"):
            office.write(output(DEALS.set_column(4, "is_won", pa.array(["a", "b", "c"]))))
        assert same(office.published(), DEALS)
        with pytest.raises(TargetError, match="column 'region' is new"):
            office.write(output(DEALS.append_column("region", pa.array(["x"] * 3))), schema_changes="freeze")
        office.write(output(DEALS.drop_columns(["amount"])), schema_changes="any")
        assert "amount" not in office.published().column_names

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (pa.table({"a": pa.array([Decimal("1e20")], pa.decimal128(38, 4))}), "'a': a value does not fit"),
            (pa.table({"a": pa.array([2**63], pa.uint64())}), "'a': a value does not fit"),
            (pa.table({"a": [[1, 2]]}), "'a' holds list"),
            (pa.table({"a": [b"x"]}), "'a' holds binary"),
            (pa.table({"ctid": [1]}), "system column"),
            (pa.table({"": [1]}), "is not a name"),
            (pa.table({"a\nb": [1]}), "is not a name"),
            (pa.table({"a" * 256: [1]}), "256 letters, 255 fit"),
            (pa.table({"a": [1], "A": [2]}), "have one name in Tableau"),
            (pa.table({}), "no columns"),
        ],
    )
    def test_tables_that_tableau_cannot_hold(self, office, table, message):
        office.write(output(DEALS))
        with pytest.raises(TargetError, match=message) as error:
            office.write(output(with_rows({"deal_id": "D4"})), output(table, "odd", spec=TableauTable(**{"from": "odd"})))
        assert error.value.remedy
        assert same(office.published(), DEALS)  # also the table before it was not published

    def test_tables_that_only_look_difficult(self, office):
        table = pa.table(
            {
                "nothing": pa.nulls(2),
                "wide": pa.array([Decimal("12345678901234.5678"), None], pa.decimal128(38, 4)),
                "small": pa.array([255, None], pa.uint8()),
                "half": pa.array([1.5, None], pa.float32()),
                "odd": [float("nan"), float("inf")],
                'a"b.c[d]': pa.array(["é", "日本"]).dictionary_encode(),
                "select": [True, None],
                "naive": pa.array([datetime(2026, 1, 1), None], pa.timestamp("ns")),
            }
        )
        office.write(output(table))
        first, second = office.published().to_pylist()
        assert first == {
            "nothing": None, "wide": Decimal("12345678901234.5678"), "small": 255, "half": 1.5, "odd": None, 'a"b.c[d]': "é",
            "select": True, "naive": datetime(2026, 1, 1),
        }  # fmt: skip
        assert second['a"b.c[d]'] == "日本"

    def test_a_table_that_breaks_off_while_it_is_read_is_not_published(self, office):
        """pantab would leave the rows that came and say nothing."""

        def read():
            def batches():
                yield from DEALS.to_batches()
                raise SourceError("the engine stopped")

            return pa.RecordBatchReader.from_batches(DEALS.schema, batches())

        with pytest.raises(SourceError, match="the engine stopped"):
            office.write(Output("deals", DEALS.schema, 3, read))
        with pytest.raises(TargetError, match="4 rows announced, 3 read"):
            office.write(Output("deals", DEALS.schema, 4, DEALS.to_reader))
        assert office.tableau.site.datasources == []

    def test_without_pantab(self, office, monkeypatch):
        monkeypatch.setitem(sys.modules, "pantab", None)
        with pytest.raises(ConfigError, match="pantab") as error:
            office.write(output(DEALS))
        assert "pip install" in error.value.remedy
        findings = list(office.sink().check())
        assert [finding.exit_code for finding in findings] == [2, 0, 0]

    def test_check(self, office):
        office.write(output(DEALS))
        assert all(finding.ok for finding in office.sink(tables=[{"from": "deals"}]).check())
        office.tableau.site.datasources[0].description = ""
        (*fine, last) = office.sink(tables=[{"from": "deals"}]).check()
        assert all(finding.ok for finding in fine)
        assert (last.ok, last.exit_code) == (False, 5)
        office.tableau.site.tokens["connector"].revoked = True
        assert [finding.exit_code for finding in office.sink().check()] == [0, 3]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"project": ""}, "at least 1"),
            ({"mode": "merge"}, "replace"),
            ({"tables": [{"sql": "select 1"}]}, "needs a `name`"),
            ({"tables": [{"from": "deals"}, {"from": "kpis", "name": "Deals"}]}, "two tables go to"),
            ({"tables": [{"from": "deals", "name": "x" * 256}]}, "at most 255"),
        ],
    )
    def test_mistakes_in_the_configuration(self, change, message):
        good = {"server": "https://t.example.com", "token": PAT, "project": "Sales"}
        TableauSinkConfig(**good)
        with pytest.raises(ValidationError, match=message):
            TableauSinkConfig(**{**good, **change})


def test_trap_8_files_are_published_by_path(office):
    """A file object would be refused by tableauserverclient, whose check of file types knows no new .hyper."""
    office.write(output(DEALS))
    (sent,) = office.running.asked("POST .*/datasources$")
    assert sent.query["datasourceType"] == "hyper"
    assert sent.query["asJob"] == "true"


def test_trap_12_a_time_with_fractions_of_seconds_ends_the_wait(office):
    """tableauserverclient reads such a time as none and waits for ever."""
    done = b'<tsResponse xmlns="http://tableau.com/api"><job id="x" completedAt="2026-01-01T00:00:00.123Z" finishCode="1"/></tsResponse>'
    office.running.faults.add("/jobs/", status=200, body=done, headers={"Content-Type": "application/xml"}, times=None)
    with pytest.raises(TargetError, match="job failed"):
        office.write(output(DEALS))
