"""One flow, three sinks: what the workbook, Tableau and PostgreSQL hold is equal value by value."""

import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec

import pytest
import tableauserverclient as tsc
import yaml
from openpyxl import load_workbook

from connector.api import Since
from connector.http import Session
from connector.sandbox.company import Company
from connector.sandbox.server import serve
from connector.sandbox.tableau import Project, Site, Tableau
from sources.tableau import TableauConfig, TableauSource

pytestmark = pytest.mark.skipif(not find_spec("pantab"), reason="pantab is not installed")

NAMES = ("kpis", "deals")
PAT = {"name": "connector", "secret": "sandbox-secret"}
SOURCES = {"deals": "deals", "stage_entries": "stage_history", "stages": "stages", "owners": "owners", "rates": "rates"}


@pytest.fixture(scope="module")
def delivered(postgres, new_workplace, tmp_path_factory):
    """The flow run twice: a first load, then a refresh after two weeks; and everything it was delivered to."""
    folder = tmp_path_factory.mktemp("three")
    schema = postgres.schema()
    company = Company.generate(seed=5, deals=150, days=400)
    sales = Project("Sales")
    tableau = Tableau(Site(projects=[sales, Project("Published", parent=sales)]), strict=True)
    with serve(tableau) as running:
        place = new_workplace(folder)
        tables = [{"from": name} for name in NAMES]
        config = {
            "sources": {"crm": {"type": "files", "tables": {name: f"export/{file}.csv" for name, file in SOURCES.items()}}},
            "model": {"currency": "EUR"},
            "gate": {"max_row_drop": None, "max_value_change": None},
            "sinks": [
                {"type": "excel", "drive": {"type": "local", "folder": "."}, "path": "Pipeline.xlsx",
                 "tables": [{"from": name, "sheet": name, "table": name} for name in NAMES]},
                {"type": "tableau", "base_url": running.url("tableau"), "site": "sales", "token": PAT, "project": "Sales/Published", "tables": tables},
                {"type": "database", "url": postgres.url(), "schema": schema, "tables": [{"from": "kpis"}, {"from": "deals", "mode": "upsert"}]},
            ],
        }  # fmt: skip
        place.write("connector.yaml", yaml.safe_dump({"flows": {"pipeline": config}}))
        for days in (0, 14):
            if days:
                company.advance(days, seed=5)
            company.write_csv(folder / "export")
            done = place.connector("run", "pipeline", "--json", "--at", company.now.isoformat())
            assert done.code == 0, done.err
        again = place.connector("run", "pipeline", "--json", "--at", company.now.isoformat())
        yield {
            "manifest": done.manifest,
            "again": again.manifest,
            "workbook": in_workbook(folder / "Pipeline.xlsx"),
            "source": through_our_source(running.url("tableau")),
            "plain": through_plain_clients(running.url("tableau"), folder),
            "postgres": in_postgres(postgres, schema),
        }


def in_workbook(path):
    book = load_workbook(path)
    found = {}
    for name in NAMES:
        first, *rows = book[name].iter_rows(values_only=True)
        found[name] = [dict(zip(first, row, strict=True)) for row in rows]
    return found


def through_our_source(url):
    views = [{"datasource": name, "table": name, "mode": "extract"} for name in NAMES]
    source = TableauSource(TableauConfig(base_url=url, site="sales", token=PAT, views=views), Session())
    return {entity.name: [row for page in source.read(entity, Since()) for row in page.records.to_pylist()] for entity in source.entities()}


def through_plain_clients(url, folder):
    import pantab

    server = tsc.Server(url, use_server_version=True)
    found = {}
    with server.auth.sign_in(tsc.PersonalAccessTokenAuth(PAT["name"], PAT["secret"], site_id="sales")):
        for item in tsc.Pager(server.datasources):
            with zipfile.ZipFile(server.datasources.download(item.id, folder, include_extract=True)) as package:
                (inside,) = [name for name in package.namelist() if name.endswith(".hyper")]
                package.extract(inside, folder / item.name)
            (table,) = pantab.frames_from_hyper(folder / item.name / inside, return_type="pyarrow").values()
            found[item.name] = table.to_pylist()
    return found


def in_postgres(postgres, schema):
    found = {}
    for name in NAMES:
        table = postgres.arrow(f"select * from {schema}.{name}")
        kinds = dict(
            postgres.rows(
                f"select column_name::text, data_type::text from information_schema.columns where table_schema = '{schema}' and table_name = '{name}'"
            )
        )
        found[name] = [
            {key: Decimal(value) if kinds[key] == "numeric" and value is not None else value for key, value in row.items()}
            for row in table.to_pylist()
        ]
        assert {kinds[key] for key in ("amount", "created_at", "expected_close_date") if key in kinds} <= {
            "numeric",
            "date",
            "timestamp with time zone",
        }
    return found


def common(value):
    """A value as all three can say it.

    PostgreSQL says it exactly. Tableau has no zones: its date-times are UTC without saying so. Excel has one kind of number, a double, and its
    date-times are in the flow's time zone (UTC here), to the millisecond, a date being one at midnight; a number that is whole is whole.
    """
    if isinstance(value, datetime):
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return ("at", round((utc - datetime(1970, 1, 1)).total_seconds(), 3))
    if isinstance(value, date):
        return ("at", (value - date(1970, 1, 1)).days * 86400.0)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float | Decimal):
        return float(value)
    return None if value == "" else value


def comparable(rows):
    return sorted(tuple(repr(common(value)) for value in row.values()) for row in rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", ["workbook", "source", "plain"])
def test_equal_value_by_value(delivered, name, reader):
    ours, theirs = delivered["postgres"][name], delivered[reader][name]
    assert list(theirs[0]) == list(ours[0])
    assert len(ours) > 50
    assert comparable(theirs) == comparable(ours)


@pytest.mark.parametrize("name", NAMES)
def test_money_is_exact_where_the_target_has_decimals(delivered, name):
    """No conversion at all between PostgreSQL and .hyper: decimals are decimals in both."""
    exact = [{key: value for key, value in row.items() if isinstance(value, Decimal)} for row in delivered["postgres"][name]]
    theirs = [{key: value for key, value in row.items() if isinstance(value, Decimal)} for row in delivered["plain"][name]]
    assert sorted(map(repr, theirs)) == sorted(map(repr, exact))
    assert name == "kpis" or any(exact)


def test_the_manifest_has_all_three_and_the_same_again_writes_nothing(delivered):
    first, second = delivered["manifest"], delivered["again"]
    assert [(sink["sink"], sink["outcome"]) for sink in first["sinks"]] == [(kind, "written") for kind in ("excel", "tableau", "database")]
    assert [sink["outcome"] for sink in second["sinks"]] == ["unchanged"] * 3
    assert len({tuple(sorted((key.partition("#")[0], rows) for key, rows in sink["rows"].items())) for sink in first["sinks"]}) == 1
