"""A flow over Tableau views whose rows come and go: the run succeeds, and the workbook follows."""

import pytest
import yaml
from openpyxl import load_workbook

from connector.sandbox.server import serve
from connector.sandbox.tableau import Column, Datasource, Project, Shown, Site, Tableau, View, Workbook

ERROR = b'<tsResponse xmlns="http://tableau.com/api"><error code="400130"><summary>s</summary><detail>d</detail></error></tsResponse>'
NOTHING = {"status": 400, "body": ERROR, "headers": {"Content-Type": "application/xml;charset=utf-8"}}
ROWS = [{"Region": name, "Day": "31/01/2026", "Deals": count} for name, count in (("EMEA", 2), ("APAC", 3))]


@pytest.fixture
def data():
    return list(ROWS)


@pytest.fixture
def running(data):
    project = Project("Sales")
    columns = (Column("Region"), Column("Day"), Column("Deals", "INTEGER", measure=True))
    source = Datasource("Made", project, columns, lambda: data)
    book = Workbook("Book", project)
    regions = book.add(View("Regions", source, (Shown("Region"), Shown("Day"), Shown("Deals", "SUM", "integer"))))
    book.add(View("Deals", source, (Shown("Region"), Shown("Day"), Shown("Deals", "SUM", "integer"))))
    with serve(Tableau(Site(projects=[project], workbooks=[book]), strict=True)) as running:
        running.regions = f"{regions.id}/(data|crosstab)"
        yield running
        assert running.violations == []


def configured(workplace, running, **view):
    deals = {
        "view": "Book/Deals",
        "table": "deals",
        "fields": {"deal_id": "Region", "amount": "Deals", "closed_at": "Day"},
        "where": "\"Region\" <> 'AMER'",
        "locale": "en_GB",
        "status": {"won": ["Won"]},
    }
    source = {
        "type": "tableau",
        "server": running.url("tableau"),
        "site": "sales",
        "token": {"name": "connector", "secret": "${TABLEAU_TOKEN}"},
        "views": [
            {"view": "Book/Regions", "table": "regions", "locale": "en_GB", **view},
            {**deals, "fields": {**deals["fields"], "status": "'open'"}},
        ],
    }
    tables = [{"from": "regions", "sheet": "Regions", "table": "Regions"}, {"from": "deals", "sheet": "Deals", "table": "Deals"}]
    sink = {"type": "excel", "drive": {"type": "local", "folder": "out"}, "path": "Book.xlsx", "tables": tables}
    flow = {"sources": {"tb": source}, "sinks": [sink], "gate": {"max_row_drop": 1.0}}
    workplace.write("connector.yaml", yaml.safe_dump({"flows": {"f": flow}}))


def run(workplace, *options):
    done = workplace.connector("run", "f", "--json", *options, TABLEAU_TOKEN="sandbox-secret")
    assert done.code == 0, done.err
    return done


def sheet(workplace, name="Regions"):
    """The rows of a table, below its header; the row that Excel wants in an empty one is none."""
    worksheet = load_workbook(workplace.folder / "out" / "Book.xlsx")[name]
    _, *rows = [[cell.value for cell in row] for row in worksheet[worksheet.tables[name].ref]]
    return [row for row in rows if any(value is not None for value in row)]


@pytest.mark.parametrize(
    ("mode", "nothing"),
    [
        ("view", {"status": 200, "body": b""}),
        ("crosstab", NOTHING),
    ],
    ids=["nothing", "crosstab"],
)
def test_a_view_that_is_empty_for_a_day(workplace, running, mode, nothing):
    configured(workplace, running, mode=mode)
    run(workplace)
    first = sheet(workplace)
    assert [row[0] for row in first] == ["EMEA", "APAC"]
    running.faults.add(running.regions, times=None, **nothing)
    done = run(workplace)
    assert "the view is empty" in done.err + done.out
    assert sheet(workplace) == []
    running.faults.clear()
    run(workplace)
    assert sheet(workplace) == first


def test_deals_that_are_empty_are_let_through_once_somebody_says_so(workplace, running):
    """They are not lost in silence, and what the configuration says of their columns stands in nobody's way."""
    configured(workplace, running)
    run(workplace)
    running.faults.add("/data", times=None, **NOTHING)
    done = workplace.connector("run", "f", TABLEAU_TOKEN="sandbox-secret")
    assert done.code == 5
    assert "deals is empty" in done.err
    run(workplace, "--accept")
    assert sheet(workplace, "Deals") == []
    running.faults.clear()
    run(workplace)
    assert len(sheet(workplace, "Deals")) == 2


def test_a_plain_table_that_is_empty_from_the_start(workplace, running):
    configured(workplace, running, mode="crosstab")
    running.faults.add(running.regions, times=None, **NOTHING)
    done = run(workplace)
    assert "the view is empty" in done.err + done.out
    running.faults.clear()
    run(workplace)
    assert len(sheet(workplace)) == 2


@pytest.mark.parametrize(
    "spec", [{"where": "Region <> 'AMER'"}, {"key": ["Region"]}, {"fields": {"Land": "Region"}, "dates": {"Land": "iso"}}]
)
def test_what_is_said_of_its_columns_does_not_matter_while_there_are_none(workplace, running, spec):
    configured(workplace, running, **spec)
    running.faults.add(running.regions, times=None, **NOTHING)
    run(workplace)


def test_a_locale_settles_the_dates_of_the_workbook(workplace, running):
    configured(workplace, running)
    run(workplace)
    assert {row[1].isoformat()[:10] for row in sheet(workplace)} == {"2026-01-31"}


def test_a_misspelt_filter_leaves_the_workbook_alone(workplace, running):
    configured(workplace, running)
    run(workplace)
    before = (workplace.folder / "out" / "Book.xlsx").read_bytes()
    configured(workplace, running, filters={"Regoin": "EMEA"})
    done = workplace.connector("run", "f", TABLEAU_TOKEN="sandbox-secret")
    assert done.code == 4
    assert "Regoin" in done.err
    assert (workplace.folder / "out" / "Book.xlsx").read_bytes() == before
