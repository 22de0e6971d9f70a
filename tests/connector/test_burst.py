"""`each`: one target for each value of a dimension, with what is that value's and nothing of anybody else's."""

from __future__ import annotations

import csv
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from connector.burst_names import assign, safe_name
from connector.configfile import load
from connector.errors import ConfigError, LockedError
from connector.flow import Options, open_flow, run_flow
from connector.settings import Settings
from sinks.drives.graph_names import names_of

DAY = datetime(2026, 4, 1, 8, tzinfo=UTC)
PEOPLE = {"Ann": "North", "Bob": "North", "Cyd": "South"}
SOURCES = """
      crm:
        type: files
        tables:
          deals: {path: deals.csv}
          stage_entries: {path: stage_entries.csv}
          leads: {path: leads.csv}
          activities: {path: activities.csv}
          accounts: {path: accounts.csv}
          contacts: {path: contacts.csv}
          owners: {path: owners.csv}
          deal_products: {path: deal_products.csv}
          deal_contacts: {path: deal_contacts.csv}
          quotas: {path: quotas.csv}
          spend: {path: spend.csv}
          visits: {path: visits.csv}
          budget: {path: budget.csv}
      legacy:
        type: files
        tables:
          deals: {path: legacy.csv}"""
MODEL = """
      currency: EUR
      targets: {lead_value_per_day: 250}
      stages: [{name: Talk, probability: 0.2, stalled_after_days: 5}, {name: Offer, probability: 0.5}, {name: Won, won: true}, {name: Lost, lost: true}]"""


class Company:
    """Owners in two teams. Whatever is one owner's carries their name in capitals (ANN-…), and so do the amounts: Ann's end in .11."""

    def __init__(self, *people):
        chance, self.people, self.tables = Random(0), people, {name: [] for name in TABLES}
        for index, owner in enumerate(people):
            for number in range(14):
                self._deal(chance, owner, index, number)
            self._rest(chance, owner, index)
        self.tables["spend"] = [{"period": "2026-03-01", "amount": 98765}]
        self.tables["quotas"].append({"period": "2026-04-01", "owner": "", "amount": 543210})
        self.tables["budget"] = [{"what": "TEAM-BUDGET", "amount": 77}]

    def _deal(self, chance, owner, index, number):
        mark, table = owner.upper(), "legacy" if number % 7 == 6 else "deals"
        status = ["open", "won", "lost"][number % 3]
        created = date(2025, 9, 1) + timedelta(days=chance.randrange(180))
        closed = created + timedelta(days=chance.randrange(1, 40)) if status != "open" else None
        ident = f"{mark}-D{number:02}"
        self.tables[table].append(
            {
                "deal_id": ident,
                "name": f"{mark} deal {number}",
                "pipeline": "Business",
                "stage": {"won": "Won", "lost": "Lost"}.get(status) or chance.choice(["Talk", "Offer"]),
                "status": status,
                "amount": f"{chance.randrange(1000, 90000)}.{index + 1}{index + 1}",
                "owner_id": f"{mark}-U",
                "account_id": f"{mark}-A{number % 4}" if number % 5 else "SHARED-A",
                "contact_id": f"{mark}-C{number % 4}",
                "product": "Basic" if number % 2 else f"{mark} special",
                "created_at": created,
                "closed_at": closed,
                "expected_close_date": DAY.date() + timedelta(days=chance.randrange(60)),
                "url": f"https://crm.example/{ident}",
            }
        )
        if table == "deals":
            for stage, days in (("Talk", 0), ("Offer", 3)):
                self.tables["stage_entries"].append(
                    {"deal_id": ident, "pipeline": "Business", "stage": stage, "entered_at": created + timedelta(days=days)}
                )
            self.tables["deal_products"].append(
                {"deal_product_id": f"{mark}-I{number}", "deal_id": ident, "product": "Basic", "quantity": 2}
            )
            self.tables["deal_contacts"].append(
                {"deal_contact_id": f"{mark}-R{number}", "deal_id": ident, "contact_id": f"{mark}-C4", "role": f"{mark} buyer"}
            )

    def _rest(self, chance, owner, index):
        mark, other = owner.upper(), self.people[(index + 1) % len(self.people)].upper()
        add = lambda table, **row: self.tables[table].append(row)  # noqa: E731
        add("owners", owner_id=f"{mark}-U", owner=owner, team=PEOPLE[owner], email=f"{mark}@acme.example")
        for number in range(4):
            add("accounts", account_id=f"{mark}-A{number}", account=f"{mark} account {number}", owner=owner, segment="Small")
            add("contacts", contact_id=f"{mark}-C{number}", contact=f"{mark} contact {number}", account=f"{mark} account {number}")
        add("contacts", contact_id=f"{mark}-C4", contact=f"{mark} contact 4", account=f"{mark} account 0")  # only a role names it
        for number in range(5):
            add(
                "leads",
                lead_id=f"{mark}-L{number}",
                company=f"{mark} company {number}",
                owner=owner,
                created_at=DAY.date() - timedelta(days=number * 9),
                value=100 + number,
                deal_id=f"{mark}-D0{number}" if number < 2 else f"{other}-D03" if number == 2 else "",
            )
        add("activities", activity_id=f"{mark}-T1", deal_id=f"{mark}-D00", owner=owner, subject=f"{mark} call", due_at="2026-03-01")
        add("activities", activity_id=f"{mark}-T2", deal_id=f"{mark}-D03", owner="Help Desk", subject=f"{mark} help", due_at="2026-04-20")
        add(
            "activities",
            activity_id=f"{mark}-T3",
            deal_id=f"{mark}-D04",
            owner=other.title(),
            subject=f"{mark} favour",
            due_at="2026-03-20",
        )
        add(
            "activities",
            activity_id=f"{mark}-T4",
            deal_id="",
            lead_id=f"{mark}-L3",
            owner=owner,
            subject=f"{mark} chat",
            due_at="2026-03-20",
        )
        add("quotas", period="2026-04-01", owner=owner, amount=40000 + index)
        add("visits", owner=owner, place=f"{mark} fair")
        if index == 0:
            add("accounts", account_id="SHARED-A", account="Shared account", owner="Cyd", segment="Large")

    def of(self, *owners):
        """What a company with these owners alone would have: what `each` is to give them."""
        marks = [owner.upper() for owner in owners]
        mine = Company.__new__(Company)
        mine.tables = {
            name: [dict(row) for row in rows if any(str(row[OWNED[name]]).startswith(mark) for mark in marks)] if name in OWNED else []
            for name, rows in self.tables.items()
        }
        mine.tables["owners"] = [row for row in self.tables["owners"] if row["owner"] in owners]
        mine.tables["quotas"] = [row for row in self.tables["quotas"] if row["owner"] in owners]
        mine.tables["visits"] = [row for row in self.tables["visits"] if row["owner"] in owners]
        shared = next(row for row in self.tables["accounts"] if row["account_id"] == "SHARED-A")
        mine.tables["accounts"].append(shared | ({} if shared["owner"] in owners else {"owner": ""}))
        for row in mine.tables["activities"]:
            row["owner"] = row["owner"] if row["owner"] in owners else ""
        there = {row["deal_id"] for row in (*mine.tables["deals"], *mine.tables["legacy"])}
        for name in ("stage_entries", "deal_products", "deal_contacts", "activities"):
            mine.tables[name] = [row for row in mine.tables[name] if not row["deal_id"] or row["deal_id"] in there]
        for row in mine.tables["leads"]:
            row["deal_id"] = row["deal_id"] if not row["deal_id"] or row["deal_id"] in there else "…"
        return mine

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, columns in TABLES.items():
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns.split(), restval="")
                writer.writeheader()
                writer.writerows(self.tables[name])


DEALS = "deal_id name pipeline stage status amount owner_id account_id contact_id product created_at closed_at expected_close_date url"
TABLES = {
    "deals": DEALS,
    "legacy": DEALS,
    "stage_entries": "deal_id pipeline stage entered_at",
    "leads": "lead_id company owner created_at value deal_id",
    "activities": "activity_id deal_id lead_id owner subject due_at",
    "accounts": "account_id account owner segment",
    "contacts": "contact_id contact account",
    "owners": "owner_id owner team email",
    "deal_products": "deal_product_id deal_id product quantity",
    "deal_contacts": "deal_contact_id deal_id contact_id role",
    "quotas": "period owner amount",
    "spend": "period amount",
    "visits": "owner place",
    "budget": "what amount",
}
OWNED = {name: TABLES[name].split()[0] for name in TABLES if name not in ("owners", "quotas", "spend", "visits", "budget")}


class Place:
    """A folder with a flow over a company's files."""

    def __init__(self, folder, sinks, sources=SOURCES, model=MODEL):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        text = f"flows:\n  f:\n    sources:{sources}\n    model:{model}\n    sinks:\n"
        (folder / "connector.yaml").write_text(text + "".join(f"      - {sink}\n" for sink in sinks), "utf-8")

    def run(self, day=0, **options):
        config = load(self.folder / "connector.yaml", {}).flow("f")
        now = DAY + timedelta(days=day)
        settings = Settings(data=self.folder / "data", threads=1)
        with open_flow("f", config, settings, now=lambda: now) as flow:
            return run_flow(flow, Options(**options))

    def rows(self, path, table):
        return pq.read_table(self.folder / path / f"{table}.parquet").to_pylist()


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv")) if path.stem not in ("data_quality", "definitions")}


def moved(company):
    """The company a week later: deals won, grown, gone; one went from Ann to Cyd, and so to the other team."""
    for row in company.tables["deals"]:
        if row["deal_id"].endswith("D03"):
            row |= {"amount": f"12345.{row['amount'][-2:]}"}
        if row["deal_id"].endswith("D00"):
            row |= {"status": "won", "stage": "Won", "closed_at": DAY.date() + timedelta(days=3)}
        if row["deal_id"] == "ANN-D09":
            row |= {"owner_id": "CYD-U"}
    company.tables["deals"] = [row for row in company.tables["deals"] if not row["deal_id"].endswith("D01")]
    return company


# ── nothing of anybody else's ─────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def teams(tmp_path_factory):
    """Every table as CSV for each team, a week after a first run."""
    place = Place(tmp_path_factory.mktemp("teams"), ["{type: files, folder: 'out/{team}', each: team}"])
    Company(*PEOPLE).write(place.folder)
    place.run()
    moved(Company(*PEOPLE)).write(place.folder)
    place.manifest = place.run(day=7)
    return place


@pytest.fixture(scope="module")
def owners(tmp_path_factory):
    """The standard workbook of each of two owners."""
    sink = "{type: excel, drive: {type: local, folder: books}, path: 'Sales/{owner}/Pipeline.xlsx', each: owner}"
    place = Place(tmp_path_factory.mktemp("owners"), [sink])
    Company("Ann", "Cyd").write(place.folder)
    place.manifest = place.run()
    return place


def alone(folder, *companies):
    """Every table as CSV of a flow on a company alone, a week between its states."""
    sources = SOURCES.replace("          spend: {path: spend.csv}\n", "").replace("          budget: {path: budget.csv}\n", "")
    model = MODEL.replace("      targets: {lead_value_per_day: 250}\n", "")
    place = Place(folder, ["{type: files, folder: out}"], sources, model)
    for week, company in enumerate(companies):
        company.write(folder)
        place.run(day=7 * week)
    return files(folder / "out")


def test_each_team_gets_what_a_flow_on_its_records_alone_gives(teams, tmp_path):
    mine = moved(Company(*PEOPLE))
    mine.tables["deals"] = [row for row in mine.tables["deals"] if row["owner_id"] != "CYD-U"]
    found = files(teams.folder / "out" / "North")
    wanted = alone(tmp_path, Company(*PEOPLE).of("Ann", "Bob"), mine.of("Ann", "Bob"))
    assert found.keys() == wanted.keys() - {"visits.csv"}, "visits have owners, and no teams"
    assert {name for name in found if found[name] != wanted[name]} == set()


def test_no_part_of_a_workbook_knows_of_anybody_else(owners):
    texts = {}
    for owner in ("Ann", "Cyd"):
        with zipfile.ZipFile(owners.folder / "books" / "Sales" / owner / "Pipeline.xlsx") as book:
            texts[owner] = b"\n".join(book.read(name) for name in book.namelist()).decode("utf-8", "replace")
    amounts = {owner: [f">{row['amount']}<" for row in Company("Ann", "Cyd").of(owner).tables["deals"]] for owner in texts}
    for owner, other in (("Ann", "Cyd"), ("Cyd", "Ann")):
        mark = other.upper()
        theirs = [
            f"{mark}-D",
            f"{mark} account",
            f"{mark} company",
            f"{mark} call",
            f"{mark} fair",
            f">{other}<",
            f"{mark}@acme",
            *amounts[other],
        ]
        assert [word for word in theirs if word in texts[owner]] == []
        assert [word for word in theirs if word not in texts[other]] == [], "each of these would have been found"
        assert [word for word in (mark, "TEAM-BUDGET", "98765", "543210", "Help Desk") if word in texts[owner]] == []


def test_a_deal_handed_over_is_gone_for_one_and_new_for_the_other(teams):
    def changes(team):
        with (teams.folder / "out" / team / "what_changed.csv").open(encoding="utf-8") as file:
            return {(row["deal_id"], row["change"]) for row in csv.DictReader(file)}

    assert ("crm:ANN-D09", "removed") in changes("North")
    assert ("crm:ANN-D09", "new") in changes("South")
    assert not [change for _, change in changes("North") | changes("South") if change == "owner"]


def test_the_manifest_lists_every_target_and_what_went_nowhere(owners):
    assert [sink["each"] for sink in owners.manifest["sinks"]] == [{"owner": "Ann"}, {"owner": "Cyd"}]
    assert {sink["outcome"] for sink in owners.manifest["sinks"]} == {"written"}
    [note] = [warning for warning in owners.manifest["warnings"] if "in no target" in warning]
    assert "budget (it has no column 'owner')" in note
    assert "spend (it is the company's)" in note


def test_what_has_not_changed_is_not_even_computed(owners, monkeypatch):
    monkeypatch.setattr("connector.burst.Division", None)
    assert owners.run()["outcome"] == "unchanged"


# ── rows without a value, values that go, targets that are open ───────────────────────────────────

SMALL = "deal_id owner stage status amount"


@pytest.fixture
def small(tmp_path):
    """A flow with deals alone, and a way to say whose they are."""

    def make(*sinks, **model):
        place = Place(tmp_path, sinks, "\n      crm: {type: files, tables: {deals: {path: deals.csv}}}", " {currency: EUR}")

        def deals(**owned):
            lines = [f"{ident},{owner},Talk,open,10" for owner, idents in owned.items() for ident in idents.split()]
            (tmp_path / "deals.csv").write_text("\n".join([SMALL.replace(" ", ","), *lines]), "utf-8")
            return place

        place.deals = deals
        return place

    return make


BOOKS = "{type: excel, drive: {type: local, folder: out}, path: '{owner}/P.xlsx', each: %s, wait_seconds: 0, tables: [{from: deals, table: Deals}]}"
FILES = "{type: files, format: parquet, folder: 'out/{owner}', each: %s, tables: [{from: deals}]}"


def test_deals_without_a_value_go_nowhere_unless_a_target_is_named(small):
    place = small(FILES % "owner", FILES.replace("out/", "all/") % "{by: owner, empty: Unassigned}")
    place.deals(Ann="1 2")
    with (place.folder / "deals.csv").open("a") as file:
        file.write("\n3,,Talk,open,10\n4, ,Talk,open,10")
    manifest = place.run()
    assert sorted(path.name for path in (place.folder / "out").iterdir()) == ["Ann"]
    assert [row["deal_id"] for row in place.rows("all/Unassigned", "deals")] == ["3", "4"]
    assert [warning for warning in manifest["warnings"] if "2 deals without owner go to no target" in warning]


def test_one_that_is_open_keeps_nobody_waiting_and_one_that_goes_stays_as_it_was(small):
    place = small(BOOKS % "owner").deals(Ann="1", Bob="2")
    lock = place.folder / "out" / "Ann" / "~$P.xlsx"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(LockedError, match=r"Ann/P.xlsx: somebody has it open") as locked:
        place.run()
    assert {sink["each"]["owner"]: sink["outcome"] for sink in locked.value.manifest["sinks"]} == {"Ann": "failed", "Bob": "written"}
    lock.unlink()
    before = (place.folder / "out" / "Bob" / "P.xlsx").read_bytes()
    place.deals(Ann="1 2")
    manifest = place.run(day=1)
    assert {sink["each"]["owner"]: sink["outcome"] for sink in manifest["sinks"]} == {"Ann": "written"}
    assert (place.folder / "out" / "Bob" / "P.xlsx").read_bytes() == before
    assert [warning for warning in manifest["warnings"] if "stay as they were: Bob/P.xlsx" in warning]


def test_no_two_share_a_file_in_one_run_or_over_time(small):
    """Not two values whose names are one on some drives, nor a value and the whole flow that was delivered there before."""
    small("{type: files, format: parquet, folder: out/ANN, tables: [{from: deals}]}").deals(Ann="1", ANN="2").run()
    place = small(FILES % "owner").deals(Ann="1", ANN="2")
    targets = {sink["each"]["owner"]: Path(sink["target"]).name for sink in place.run()["sinks"]}
    assert targets["ANN"] == "ANN"
    assert targets["Ann"].startswith("Ann-")
    assert [row["deal_id"] for row in place.rows("out/ANN", "deals")] == ["2"], "although neither path nor data have changed"
    place.deals(Ann="1")
    [alone] = place.run(day=1)["sinks"]
    assert Path(alone["target"]).name == targets["Ann"], "whoever is left keeps the name they had"


def test_a_table_that_cannot_be_told_apart_is_refused(small):
    place = small(FILES.replace("{from: deals}", "{from: quotas}") % "owner").deals(Ann="1")
    place.yaml = place.folder / "connector.yaml"
    place.yaml.write_text(
        place.yaml.read_text("utf-8")
        .replace("{path: deals.csv}", "{path: deals.csv}, spend: {path: spend.csv}")
        .replace("quotas", "spend"),
        "utf-8",
    )
    (place.folder / "spend.csv").write_text("period,amount\n2026-01-01,5\n", "utf-8")
    with pytest.raises(ConfigError, match=r"tables\[0\].from: 'spend' cannot go to one target for each owner: it is the company's"):
        place.run()


@pytest.mark.parametrize(
    ("sink", "says"),
    [
        ("{type: files, folder: out, each: owner}", "folder: `each: owner` needs {owner} in it"),
        ("{type: files, folder: 'out/{team}', each: owner}", "folder: {team} cannot be filled in with `each: owner`; write {owner}"),
        ("{type: files, folder: 'out/{onwer}', each: onwer}", "did you mean 'owner'?"),
        ("{type: excel, drive: {type: local, folder: o}, path: P.xlsx, each: {by: team}}", "path: `each: team` needs {team} in it"),
        ("{type: tableau, server: x, each: owner}", "`each` does not go with type 'tableau'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(tmp_path, sink, says):
    place = Place(tmp_path, [sink], "\n      crm: {type: files, tables: {deals: {path: deals.csv}}}", " {}")
    with pytest.raises(ConfigError) as refused:
        load(place.folder / "connector.yaml", {})
    assert says in str(refused.value)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = [
    "../../etc/passwd",
    "..",
    ".",
    "/",
    "a/b",
    "a\\b",
    "C:\\x",
    "nul",
    "CON.report",
    "con .x",
    "LPT1",
    "desktop.ini",
    ".lock",
    "Forms",
    "_vti_cnf",
    "~$Pipeline",
    "  Ann  ",
    "Ann.",
    ". Ann .",
    "Ann\n",
    "A\x00nn",
    "A\u202enn",
    'a:b|c?d*e<f>g"h',
    "{team}",
    "x" * 5000,
    "名" * 300,
    "👩‍💻" * 100,
    "Ann",
    "ann",
    "ANN",
    "Mu\u0308ller",
    "M\u00fcller",
    "STRASSE",
    "Straße",
    "a_b",
    "O'Brien & Co",
    "=cmd()",
    "%2e%2e",
    "${HOME}",
]  # fmt: skip


def test_every_name_is_safe_everywhere_and_no_two_are_one():
    names = assign({value: value for value in HOSTILE}, {})
    folded = {name.casefold() for name in names.values()}
    assert len(folded) == len(HOSTILE)
    for value, name in names.items():
        assert Path("Sales", name).parent == Path("Sales"), value
        assert names_of(f"{name}/Pipeline.xlsx") == (name, "Pipeline.xlsx"), "OneDrive takes it, also at the root"
        assert len(f"Pipeline {name}.xlsx".encode()) <= 255
        assert name.isprintable()
    assert names["Ann"] != "Ann"
    assert names["ANN"] == "ANN", "the first in order keeps its name, the others get a hash"
    assert names["O'Brien & Co"] == "O'Brien & Co"


def test_names_do_not_depend_on_who_comes_later():
    first = assign({"a/b": "a/b", "Zoe": "Zoe"}, {})
    later = assign({"ZOE": "ZOE", "a_b": "a_b", "a/b": "a/b", "Zoe": "Zoe"}, first)
    assert {value: later[value] for value in first} == first
    assert later["a_b"] == "a_b"
    assert later["ZOE"] not in ("ZOE", "Zoe")
    crafted = first["a/b"]
    assert assign({crafted: crafted}, first)[crafted] != crafted, "a value that is another's name gets one of its own"


@pytest.mark.parametrize("value", ["Ann Smith", "Müller", "王小明", "O’Neill", "R&D (EMEA) #1"])
def test_ordinary_names_stay_as_they_are(value):
    assert safe_name(value) == value
