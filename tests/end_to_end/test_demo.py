"""`connector demo` as a stranger plays it, once for all of these tests; and what it leaves in the workbook, looked up from outside."""

import csv
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from connector.demo import DAYS
from connector.sandbox.colleague import NOTE, rows_of
from connector.sandbox.office import Office

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, new_workplace):
    """A folder in which the demo was played and its stage kept; `played` is what the terminal showed."""
    place = new_workplace(tmp_path_factory.mktemp("demo"))
    place.played = place.connector("demo", "--out", "out", "--keep")
    assert place.played.code == 0, place.played.err
    place.out = place.folder / "out"
    place.workbook = place.out / "Pipeline.xlsx"
    return place


@pytest.fixture(scope="module")
def parts(stage):
    with zipfile.ZipFile(stage.workbook) as package:
        return {name: package.read(name) for name in package.namelist()}


@pytest.fixture(scope="module")
def left_open(stage):
    """The parts of the workbook as the colleague had saved it when the refresh began."""
    (newest, *_) = sorted((stage.out / ".versions").glob("*-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    with zipfile.ZipFile(newest) as package:
        return {name: package.read(name) for name in package.namelist()}


def query(stage, sql):
    outcome = stage.connector("query", "demo", sql, "--format", "json", "--config", "out/connector.yaml", "--data", "out/data")
    assert outcome.code == 0, outcome.err
    return outcome.json()


# ── what a person sees ────────────────────────────────────────────────────────────────────────────


def test_the_terminal_tells_a_story_a_salesperson_can_follow(stage):
    told = stage.played.out
    scenes = ["1  First load", "2  ", "3  Two weeks pass", "4  Refresh", "What changed", "What was left alone", "Open out/Pipeline.xlsx"]
    places = [told.index(scene) for scene in scenes]
    assert places == sorted(places)
    assert re.search(r"Salesforce +[\d,]+ rows in \d+ requests: \d+ new, \d+ changed, \d+ gone", told)
    for happened in ("new", "won", "lost", "merged", "deleted"):
        assert re.search(rf"\d+ {happened}", told[places[2] : places[3]])
    assert "423 Locked" in told
    assert "has a newer version by then" in told
    assert stage.played.err == ""
    assert max(map(len, told.splitlines()[:-2])) <= 120


def test_the_refresh_reads_a_part_of_what_the_first_load_read(stage):
    first, second = (
        [int(rows.replace(",", "")) for rows in re.findall(r"(?:Salesforce|HubSpot) +([\d,]+) rows", scene)]
        for scene in stage.played.out.split("3  Two weeks pass")
    )
    assert len(first) == len(second) == 2
    assert all(after * 8 < before for before, after in zip(first, second, strict=True))


def test_what_it_keeps_can_be_played_with_when_the_services_are_gone(stage):
    runs = stage.connector("history", "demo", "--json", "--config", "out/connector.yaml", "--data", "out/data").json()
    assert [run["outcome"] for run in runs] == ["ok", "ok"]
    assert query(stage, "select count(*) as deals from deals")[0]["deals"] > 1_000


def test_nothing_of_somebody_elses_is_taken_for_an_earlier_demo(workplace):
    workplace.write("mine/data/state.db", "precious")
    refused = workplace.connector("demo", "--out", "mine", "--keep")
    assert refused.code == 5
    assert "mine/data" in refused.err
    assert "--out" in refused.err
    assert (workplace.folder / "mine/data/state.db").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_said(workplace):
    workplace.write("taken", "a file")
    refused = workplace.connector("demo", "--out", "taken/demo")
    assert refused.code == 5
    assert "cannot be written" in refused.err


def test_a_field_of_a_source_that_is_not_there_is_refused(workplace):
    """The demo's configuration says of each CRM by itself which fields are its own."""
    flow = {
        "sources": {"crm": {"type": "files", "tables": {"leads": "leads.csv"}}},
        "model": {"fields": {"crn.leads.value": "estimate"}},
    }
    workplace.write("connector.yaml", yaml.safe_dump({"flows": {"pipeline": flow}}))
    refused = workplace.connector("check")
    assert refused.code == 2
    assert "crn.leads.value" in refused.err
    assert "did you mean 'crm'?" in refused.err


# ── the colleague's work ──────────────────────────────────────────────────────────────────────────


def test_the_notes_stand_beside_their_deals_and_elsewhere_than_before(stage, left_open, tmp_path):
    before = tmp_path / "before.xlsx"
    with zipfile.ZipFile(before, "w") as package:
        for name, data in left_open.items():
            package.writestr(name, data)
    then, now = (
        [(row["Deal ID"], row[NOTE]) if NOTE in row else None for row in rows_of(file, "Deals")] for file in (before, stage.workbook)
    )
    notes = {note for note in then if note}
    assert len(notes) == 9
    assert notes == {note for note in now if note}
    assert any(then.index(note) != now.index(note) for note in notes), "no row moved: the demo shows nothing"


def test_the_pivot_is_there_and_takes_the_new_data_when_opened(parts, left_open):
    (pivot,) = [name for name in parts if "pivotTables/" in name and name.endswith(".xml")]
    assert parts[pivot] == left_open[pivot]
    (cache,) = [name for name in parts if "pivotCacheDefinition" in name and name.endswith(".xml")]
    assert b'<worksheetSource name="Deals"/>' in parts[cache]
    assert parts[cache].replace(b' refreshOnLoad="1"', b"") == left_open[cache]
    assert b'refreshOnLoad="1"' in parts[cache]
    assert b"<pivotCaches>" in parts["xl/workbook.xml"]


def test_the_sheet_and_the_chart_of_the_colleague_are_byte_identical(parts, left_open, stage):
    with zipfile.ZipFile(stage.workbook) as package:
        book = package.read("xl/workbook.xml").decode()
    name, relation = re.search(r'<sheet name="(Review by \w+)" sheetId="\d+" r:id="(\w+)"', book).groups()
    assert name in stage.played.out
    sheet = re.search(rf'Id="{relation}"[^>]*Target="([^"]+)"', parts["xl/_rels/workbook.xml.rels"].decode())[1]
    rels = f"xl/worksheets/_rels/{Path(sheet).name}.rels"
    drawing = "xl/" + re.search(r'Target="\.\./(drawings/[^"]+)"', parts[rels].decode())[1]
    drawn = f"xl/drawings/_rels/{Path(drawing).name}.rels"
    chart = "xl/" + re.search(r'Target="\.\./(charts/[^"]+)"', parts[drawn].decode())[1]
    assert name in parts[chart].decode()
    for part in (f"xl/{sheet}", rels, drawing, drawn, chart):
        assert parts[part] == left_open[part], part


def test_the_workbook_is_valid(stage, shared):
    tool = shared / "tools" / "validate_xlsx.py"
    checked = subprocess.run([sys.executable, tool, stage.workbook], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "errors=0" in checked.stdout


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_opened_in_a_program_pivot_and_formulas_show_the_new_numbers(stage, tmp_path):
    with zipfile.ZipFile(stage.workbook) as package:
        names = re.findall(r'<sheet name="([^"]+)"', package.read("xl/workbook.xml").decode())
    sheet = next(number for number, name in enumerate(names, start=1) if name.startswith("Review by"))
    export = f"csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,{sheet}"
    home = f"-env:UserInstallation={(tmp_path / 'office').as_uri()}"
    command = ["soffice", home, "--headless", "--convert-to", export, "--outdir", str(tmp_path), str(stage.workbook)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.csv")
    shown = [row for row in csv.reader(file.read_text("utf-8").splitlines()) if row[0]]
    sums = query(
        stage,
        "select team, sum(amount_reporting) as every, sum(case when is_open = 1 then amount_reporting else 0 end) as still_open "
        "from deals group by team order by team",
    )
    for team in sums:
        summed, goal = (row for row in shown if row[0] == team["team"])
        assert float(summed[4]) == pytest.approx(team["every"])
        assert float(goal[1]) == pytest.approx(team["still_open"])


# ── the numbers ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def truth(stage):
    """The kpis of the same two companies from their own books: exports instead of APIs, and no drive in between."""
    office = Office(stage.folder / "truth")
    office.advance(DAYS)
    forgotten = [lead for lead in office.brightpath.leads.values() if lead.deal and office.brightpath.deals[lead.deal].deleted_at]
    for lead in forgotten:  # HubSpot knows a lead's conversion by the deal it is linked with
        lead.deal = lead.converted_at = None
    exported = {
        "deals": "deals", "stage_entries": "stage_history", "stages": "stages", "leads": "leads", "activities": "activities",
        "accounts": "accounts", "contacts": "contacts", "owners": "owners", "products": "products", "deal_products": "deal_products",
        "quotas": "quotas", "rates": "rates",
    }  # fmt: skip
    sources = {"finance": {"type": "files", "tables": {"spend": "truth/finance/spend.csv"}}}
    for name, company in (("acme", office.acme), ("brightpath", office.brightpath)):
        company.write_csv(stage.folder / name)
        sources[name] = {"type": "files", "tables": {table: f"{name}/{file}.csv" for table, file in exported.items()}}
    model = {
        "currency": "EUR",
        "targets": {"lead_value_per_day": 20_000},
        # an export has no ids: a customer of both firms would be one, in two CRMs it is two
        "fields": {f"brightpath.{table}.account": "account || ' (Brightpath)'" for table in ("deals", "accounts", "contacts")},
    }
    flow = {"timezone": "Europe/Berlin", "sources": sources, "model": model}
    stage.write("truth.yaml", yaml.safe_dump({"flows": {"truth": flow}}))
    shown = stage.connector(
        "preview", "truth", "--table", "kpis", "--format", "json", "--config", "truth.yaml", "--at", office.now.isoformat()
    )  # fmt: skip
    assert shown.code == 0, shown.err
    return {(row["metric"], row["period"]): row for row in shown.json()}


def differing(ours, theirs):
    """Keys under which two sets of figures differ by more than a hundredth of a cent of a million."""
    return {
        key: (ours[key], value)
        for key, value in theirs.items()
        if (value is None) != (ours[key] is None) or (value is not None and ours[key] != pytest.approx(value, rel=1e-9, abs=1e-6))
    }


def labelled(period):
    """A period as the workbook calls it: `trailing_90_days` is "Last 90 days"."""
    return "All time" if period == "all" else period.replace("trailing", "last").replace("_", " ").capitalize()


def test_the_workbook_shows_what_query_says(stage):
    rows = rows_of(stage.workbook, "Kpis")
    shown = {(row["Metric"], row["Period"]): float(row["Value"]) if "Value" in row else None for row in rows}
    said = {(row["metric"], labelled(row["period"])): row["value"] for row in query(stage, "select metric, period, value from kpis")}
    assert shown.keys() == said.keys()
    assert differing(shown, said) == {}


def test_query_says_what_the_sandboxs_own_books_say(stage, truth):
    said = {(row["metric"], row["period"]): row["value"] for row in query(stage, "select metric, period, value from kpis")}
    assert said.keys() == truth.keys()
    assert differing(said, {key: row["value"] for key, row in truth.items()}) == {}
    assert sum(value is not None for value in said.values()) > 150


def test_each_deal_is_there_once_and_only_the_living_ones(stage):
    office = Office(stage.folder / "counted")
    office.advance(DAYS)
    living = {
        name: sum(deal.deleted_at is None for deal in company.deals.values())
        for name, company in (("salesforce", office.acme), ("hubspot", office.brightpath))
    }
    found = query(
        stage, "select source, count(*) as deals, count(distinct deal_id) as ids, count(distinct name) as names from deals group by source"
    )
    assert {row["source"]: row["deals"] for row in found} == living
    assert all(row["deals"] == row["ids"] for row in found)
    assert len({row["Deal ID"] for row in rows_of(stage.workbook, "Deals")}) == sum(living.values())
