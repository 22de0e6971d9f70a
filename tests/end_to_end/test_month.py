"""A flow's life with something going wrong every day: source, network, drive, disk, clock, kill. Never a wrong number, never a lost edit,
each failure told once, and well again by itself.
"""

import errno
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from openpyxl import load_workbook
from openpyxl.worksheet.table import Table

from connector.config import config_type
from connector.errors import ConnectorError
from connector.flow import Options, open_flow, preview_flow, run_flow
from connector.http import Session
from connector.sandbox.company import Company
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, Microsoft365
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import Clock, Service, reply, serve
from connector.settings import Settings

PATH = "Sales/Pipeline.xlsx"
COLUMNS = ["deal_id", "name", "stage", "amount", "currency"]
BANT = ("budget", "authority", "need", "timing")
EXPORT = {
    "deals": "deals", "stage_entries": "stage_history", "stages": "stages", "leads": "leads", "activities": "activities",
    "accounts": "accounts", "owners": "owners", "products": "products", "deal_products": "deal_products", "rates": "rates",
}  # fmt: skip

#: a run in a process of its own, to be killed: it prints nothing and sleeps for nobody
CHILD = """
import json, sys
from datetime import datetime
from connector.config import config_type
from connector.flow import Options, open_flow, run_flow
from connector.settings import Settings
given = json.load(sys.stdin)
at = datetime.fromisoformat(given["at"])
config = config_type().model_validate(given["config"]).flow("sales")
with open_flow("sales", config, Settings(data=given["data"]), now=lambda: at) as flow:
    for session in (*(one.session for one in flow.sources), *(one.session for one in flow.targets)):
        session.sleep, session.now = (lambda seconds: None), (lambda: at)
    run_flow(flow, Options(at=at))
"""


class CompanyClock(Clock):
    """The company's own time; to sleep is to let it pass."""

    def __init__(self, company: Company) -> None:
        super().__init__()
        self.company = company

    def now(self) -> datetime:
        return self.company.now

    def sleep(self, seconds: float) -> None:
        self.company.tick(seconds)


class Inbox(Service):
    """Where notices arrive."""

    name = "inbox"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.digests = 0

    def routes(self):
        yield "POST", "/hook-of-the-admin", self.take
        yield "POST", "/hook-of-the-team", self.digest

    def take(self, request):
        self.events.append(request.json()["event"])
        return reply({}, 202)

    def digest(self, request):
        self.digests += 1
        return reply({}, 202)


@dataclass
class Life:
    """The company, the services around it, the flow, and what ought to have come of it all."""

    folder: Any
    company: Company
    cloud: Microsoft365
    running: Any
    inbox: Inbox
    draw: random.Random
    skew: timedelta = timedelta()
    notes: dict[str, str] = field(default_factory=dict)
    stories: list[tuple[str, int | None]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    weeks: set[str] = field(default_factory=set)
    published: Any = None
    compared: int = 0
    killed: int = 0

    @property
    def config(self):
        hook = self.running.url("inbox") + "/hook-of-the-"
        salesforce = {
            "type": "salesforce", "base_url": self.running.url("salesforce"), "domain": "acme.my.salesforce.com",
            "auth": {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"},
        }  # fmt: skip
        drive = {
            "type": "onedrive", "tenant": TENANT, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "user": USER,
            "base_url": self.running.url("graph"), "authority": self.running.url("identity"), "ca_bundle": str(self.cloud.authority),
        }  # fmt: skip
        tables = [
            {"from": "deals", "sheet": "Deals", "table": "Deals", "columns": COLUMNS},
            {"from": "kpis", "sheet": "Figures", "table": "Figures", "columns": ["metric", "period", "unit", "value"]},
        ]
        flow = {
            "sources": {"crm": salesforce},
            "model": {
                "currency": "EUR",
                "fields": {"lost_reason": "Loss_Reason__c", **{f"leads.{one}": f"{one.capitalize()}__c" for one in BANT}},
            },
            "sinks": [{"type": "excel", "drive": drive, "path": PATH, "tables": tables, "wait_seconds": 60, "manifest": True}],
            "gate": {"max_row_drop": 0.3},
            "notify": [
                {"type": "webhook", "url": f"{hook}admin", "on": ["failure", "recovery", "gate"]},
                {"type": "webhook", "url": f"{hook}team", "on": ["digest"]},
            ],
        }
        return {"flows": {"sales": flow}}

    def now(self):
        return self.company.now + self.skew

    @property
    def item(self):
        return self.cloud.user_drive.find(PATH)

    @property
    def file(self):
        return self.cloud.folder / f"OneDrive {USER}" / PATH

    # ── a run ──

    @contextmanager
    def opened(self):
        config = config_type().model_validate(self.config).flow("sales")
        with open_flow("sales", config, Settings(data=self.folder / "data"), now=self.now) as flow:
            for session in (*(one.session for one in flow.sources), *(one.session for one in flow.targets)):
                session.sleep, session.now = self.cloud.clock.sleep, self.now
            object.__setattr__(flow, "outside", lambda network: Session(network, sleep=self.cloud.clock.sleep))
            yield flow

    def run(self):
        """One run; its exit code."""
        with self.opened() as flow:
            try:
                manifest = run_flow(flow, Options(at=self.company.now))
            except ConnectorError as error:
                manifest = error.manifest
        self.stories.append((manifest["outcome"], manifest["exit_code"]))
        self.look(must_be_new=manifest["exit_code"] == 0)
        if manifest["exit_code"] == 0:
            self.weeks.add(f"{self.now():%G-W%V}")
        return manifest["exit_code"]

    def run_and_kill(self):
        """A run that is killed after so many requests; whether it was."""
        given = {"at": self.now().isoformat(), "config": self.config, "data": str(self.folder / "data")}
        until = len(self.running.requests) + self.draw.randint(2, 60)
        process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, text=True)
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        while process.poll() is None and len(self.running.requests) < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            self.weeks.add(f"{self.now():%G-W%V}")
            self.stories.append(("ok", 0))
            self.look(must_be_new=True)
            return False
        self.stories.append(("killed", None))
        self.look(must_be_new=False)
        self.killed += 1
        return True

    # ── what people see ──

    def look(self, *, must_be_new):
        """The workbook shows the company as it is, or, when a run did not get through, as it was at the last publication."""
        rows, notes, figures = self.workbook()
        new = self.truth()
        if must_be_new or rows == new:
            assert rows == new
            self.published = rows
            self.figures = figures
        else:
            assert rows == self.published
        assert notes == {deal: note for deal, note in self.notes.items() if deal in notes}
        assert {deal for deal in self.notes if deal in self.ids} <= notes.keys()

    def workbook(self):
        book = load_workbook(io.BytesIO(self.file.read_bytes()))
        heading, *deals = list(book["Deals"].iter_rows(values_only=True))
        at = {name: place for place, name in enumerate(heading)}
        self.ids = {row[at["deal_id"]] for row in deals}
        notes = {row[at["deal_id"]]: row[at["Note"]] for row in deals if "Note" in at and row[at["Note"]] is not None}
        rows = Counter(tuple(row[at[name]] if name != "amount" else _money(row[at[name]]) for name in COLUMNS[1:]) for row in deals)
        figures = {(row[0], row[1]): (row[2], row[3]) for row in list(book["Figures"].iter_rows(values_only=True))[1:]}
        return rows, notes, figures

    def truth(self):
        """The company's own books."""
        living = [deal for deal in self.company.deals.values() if deal.deleted_at is None]
        stage = {(pipeline.key, one.key): one.label for pipeline in self.company.pipelines for one in pipeline.stages}
        return Counter((deal.name, stage[deal.pipeline, deal.stage], _money(deal.amount), deal.currency) for deal in living)

    def compare_figures(self):
        """Every key figure of the workbook against those computed from an export of the company's books, in one go, by nobody's memory."""
        folder = self.folder / f"export-{self.compared}"
        self.company.write_csv(folder)
        sources = {
            "export": {"type": "files", "tables": {name: {"path": str(folder / f"{file}.csv")} for name, file in EXPORT.items()}},
            "finance": {"type": "files", "tables": {name: {"path": str(folder / f"{name}.csv")} for name in ("spend", "quotas")}},
        }
        config = config_type().model_validate({"flows": {"books": {"sources": sources, "model": {"currency": "EUR"}}}}).flow("books")
        with (
            open_flow("books", config, Settings(data=folder / "data")) as flow,
            preview_flow(flow, Options(at=self.company.now)) as tables,
        ):
            ours = {(row["metric"], row["period"]): row["value"] for row in tables.reader("kpis").read_all().to_pylist()}
        assert ours.keys() == self.figures.keys()
        wrong = {}
        for key, value in ours.items():
            unit, shown = self.figures[key]
            if (value is None) != (shown is None) or (value is not None and abs(value - shown) > (0.005 if unit == "money" else 1e-6)):
                wrong[key] = (value, shown)
        assert wrong == {}
        self.compared += 1

    # ── what happens ──

    def business(self, hours=8):
        """Some hours of the company's life, in which something changes."""
        if self.draw.random() < hours / 24:
            self.company.advance(1, seed=self.draw.randrange(1_000_000))
        else:
            self.company.tick(hours * 3_600)
        living = [deal for deal in self.company.deals.values() if deal.deleted_at is None]
        for deal in self.draw.sample(living, 2):
            self.company.edit(deal, amount=(deal.amount or 0) + self.draw.randint(1, 500))
        self.company.tick(60)

    def jot(self, text):
        """The colleague writes a note beside a deal and saves."""
        book = load_workbook(io.BytesIO(self.file.read_bytes()))
        sheet = book["Deals"]
        heading = [cell.value for cell in sheet[1]]
        if "Note" not in heading:
            sheet.cell(1, len(heading) + 1, "Note")
            del sheet.tables["Deals"]
            sheet.add_table(Table(displayName="Deals", ref=f"A1:{sheet.cell(sheet.max_row, len(heading) + 1).coordinate}"))
        place = [cell.value for cell in sheet[1]].index("Note") + 1
        row = self.draw.randint(2, sheet.max_row)
        sheet.cell(row, place, text)
        saved = io.BytesIO()
        book.save(saved)
        self.file.write_bytes(saved.getvalue())
        self.notes[sheet.cell(row, 1).value] = text


def _money(value):
    return None if value is None else round(float(value), 2)


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Trouble:
    """`begin` breaks something (its context mends it); a run meanwhile ends with `code`, and `event` is told of it."""

    begin: Any
    code: int = 0
    event: str | None = None


@contextmanager
def faults(life, *each):
    for match, how in each:
        life.running.faults.add(match, **how)
    try:
        yield
    finally:
        life.running.faults.clear()


def broken(*each):
    return lambda life: faults(life, *each)


@contextmanager
def opened_by_a_colleague(life):
    life.cloud.user_drive.open_in_excel(life.item, "ann@acme.com", minutes=1e6)
    yield
    life.cloud.user_drive.close_in_excel(life.item)


@contextmanager
def disk_full(life):
    with mock.patch("connector.measure.write_parquet", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        yield


@contextmanager
def purged(life):
    """Somebody deletes half of the deals, and an administrator brings them back."""
    living = [deal for deal in life.company.deals.values() if deal.deleted_at is None]
    gone = life.draw.sample(living, len(living) // 2)
    for deal in gone:
        life.company.delete(deal)
    life.company.tick(60)
    yield
    for deal in gone:
        life.company.restore(deal)
    life.company.tick(60)


@contextmanager
def clock_set_back(life):
    life.skew = timedelta(hours=-5)
    yield
    life.skew = timedelta()


@contextmanager
def edited_during_the_run(life):
    """The colleague saves between our download and our upload."""
    send, life.edits = Session.request, 0

    def request(self, method, url, *args, **kwargs):
        if method == "PUT" and "/content" in url and "manifest" not in url and not life.edits:
            life.edits += 1
            life.jot(f"while you were at it, {life.company.now:%d %B}")
        return send(self, method, url, *args, **kwargs)

    with mock.patch.object(Session, "request", request):
        yield
    assert life.edits == 1


CONTENT = r"^PUT .*/content"
TROUBLES = {
    "the source has hiccups": Trouble(broken(("/query", {"service": "salesforce", "status": 503, "times": 2}))),
    "the source breaks off": Trouble(broken(("/query", {"service": "salesforce", "drop": True, "times": 3, "skip": 2}))),
    "the source is cut short": Trouble(broken(("/query", {"service": "salesforce", "truncate": 200, "times": 2}))),
    "the source is away": Trouble(broken(("", {"service": "salesforce", "drop": True, "times": None})), 75),
    "the credential is revoked": Trouble(
        broken(
            ("/oauth2/token", {"service": "salesforce", "status": 400, "times": None, "body": b'{"error":"invalid_client"}'}),
            ("", {"service": "salesforce", "status": 401, "times": None}),
        ),
        3,
        "failure",
    ),
    "the drive is busy": Trouble(broken(("", {"service": "graph", "status": 503, "times": 2, "headers": {"Retry-After": "30"}}))),
    "an upload succeeds in secret": Trouble(broken((CONTENT, {"service": "graph", "status": 504, "after": True}))),
    "an upload breaks off": Trouble(broken((CONTENT, {"service": "graph", "drop": True}))),
    "the drive is full": Trouble(broken((CONTENT, {"service": "graph", "status": 507, "times": None})), 5, "failure"),
    "the permission is gone": Trouble(broken((CONTENT, {"service": "graph", "status": 403, "times": None})), 3, "failure"),
    "somebody has it open": Trouble(opened_by_a_colleague, 75),
    "the disk is full": Trouble(disk_full, 5, "failure"),
    "half of the deals are purged": Trouble(purged, 5, "gate"),
    "the clock is set back": Trouble(clock_set_back),
    "a colleague saves meanwhile": Trouble(edited_during_the_run),
}


def go_through(life, name, runs, *, deaf=False):
    """Trouble, so many runs in it, and one after it; `deaf`: nobody can be told before it is over."""
    trouble = TROUBLES[name]
    with trouble.begin(life):
        if deaf:
            life.running.faults.add("/hook", service="inbox", status=500, times=None)
        for number in range(runs):
            if number:
                life.company.tick(8 * 3_600)
            assert life.run() == trouble.code, name
    life.running.faults.clear()
    event = trouble.event or ("failure" if trouble.code == 75 and runs >= 3 else None)
    if trouble.code:
        life.company.tick(600)
        assert life.run() == 0, f"after {name}"
    if event:
        life.told += [event, "recovery"]
    assert life.inbox.events == life.told, name


def be_killed(life):
    if life.run_and_kill():
        life.told += ["failure", "recovery"]
    life.company.tick(600)
    assert life.run() == 0
    assert life.inbox.events == life.told


@pytest.fixture
def begin(tmp_path):
    with ExitStack() as stack:

        def begin(seed, **size):
            company = Company.generate(seed=seed, **size)
            clock = CompanyClock(company)
            cloud, inbox = Microsoft365(tmp_path / "cloud", clock), Inbox()
            running = stack.enter_context(serve(SalesforceOrg(company), *cloud.services(), inbox, clock=clock))
            life = Life(tmp_path, company, cloud, running, inbox, random.Random(seed))
            assert life.cloud.user_drive.find(PATH) is None
            with life.opened() as flow:
                life.stories.append((run_flow(flow, Options(at=company.now))["outcome"], 0))
            life.weeks.add(f"{life.now():%G-W%V}")
            life.look(must_be_new=True)
            return life

        yield begin


def tells_the_story(life):
    """History has every run as it went, the newest first, with a reason for each that failed."""
    with life.opened() as flow:
        runs = flow.state.history("sales", 10_000)
    assert Counter((run["outcome"], run["exit_code"]) for run in runs) == Counter(life.stories)
    assert all(run["message"] for run in runs if run["outcome"] in ("failed", "killed"))
    assert life.inbox.digests == len(life.weeks)
    folders = [path.name for path in (life.folder / "data" / "flows" / "sales").iterdir()]
    assert not [name for name in folders if name.endswith((".partial", ".spill"))]


def test_a_few_days(begin):
    life = begin(41, deals=25, days=120)
    life.jot("call on Friday")
    life.business()
    go_through(life, "the credential is revoked", 1, deaf=True)
    life.business()
    go_through(life, "a colleague saves meanwhile", 1)
    life.compare_figures()
    tells_the_story(life)
    assert len(life.notes) == 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", [7, 8])
def test_a_month(begin, seed):
    life = begin(seed, deals=160, days=400)
    deck, until = [], life.company.now + timedelta(days=30)
    while life.company.now < until:
        life.business()
        if life.draw.random() < 0.4:
            life.jot(f"note {len(life.notes)} of {life.company.now:%d %B}")
        if not deck:
            deck = [*TROUBLES, "killed", "killed", "killed"]
            life.draw.shuffle(deck)
        name = deck.pop()
        if name == "killed":
            be_killed(life)
        else:
            go_through(life, name, life.draw.choice([1, 1, 2, 3, 4]) if TROUBLES[name].code else 1, deaf=life.draw.random() < 0.2)
        life.compare_figures()
    tells_the_story(life)
    story = Counter(life.stories)
    print(
        f"{sum(story.values())} runs {dict(story)}, {life.killed} killed, {life.compared} times every figure, {len(life.notes)} notes, told {Counter(life.told)}"
    )
    assert life.killed >= 3
