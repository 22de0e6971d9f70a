"""The demo's flow with all its sinks: the workbook on OneDrive, Tableau, PostgreSQL and SQLite hold equal tables, value by value."""

import sqlite3
import zipfile
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from zoneinfo import ZoneInfo

import pytest
import tableauserverclient as tsc
import yaml
from openpyxl import load_workbook

from connector.api import Since
from connector.definitions import words
from connector.demo import CONFIG, DAYS, FLOW, PLACE, configuration
from connector.http import Session
from connector.sandbox.office import Office
from connector.sandbox.server import serve
from sinks.excel import standard
from sources.tableau import TableauConfig, TableauSource

pytestmark = [
    pytest.mark.skipif(not find_spec("pantab"), reason="pantab is not installed"),
    pytest.mark.skipif(not find_spec("adbc_driver_sqlite"), reason="adbc-driver-sqlite is not installed"),
]

KEYS = {"kpis": ("metric", "period"), "deals": ("deal_id",)}
CODED = {"kpis": "period", "deals": "status"}  # columns for which the workbook has words
ZONES = {"workbook": ZoneInfo("Europe/Berlin"), "source": UTC, "plain": UTC, "sqlite": UTC}  # of date-times that do not say theirs
SINKS = ("excel", "tableau", "database", "database")


@pytest.fixture(scope="module")
def delivered(postgres, new_workplace, tmp_path_factory):
    """The flow run as `connector demo` runs it, before and after two weeks, then once more; and what its targets hold."""
    place = new_workplace(tmp_path_factory.mktemp("three"))
    schema = postgres.schema()
    office = Office(place.folder)
    site = office.tableau.site
    token = {"name": "connector", "secret": site.tokens["connector"].secret}

    def run():
        done = place.connector("run", FLOW, "--json", "--at", office.now.isoformat())
        assert done.code == 0, done.err
        return done.manifest

    with serve(*office.services(), clock=office.cloud.clock) as running:
        url = running.url("tableau")
        config = yaml.safe_load(office.configuration(configuration(), running))
        tables = [{"from": name} for name in KEYS]
        config["flows"][FLOW]["sinks"] += [
            {"type": "tableau", "base_url": url, "site": "sales", "token": token, "project": site.projects[0].name, "tables": tables},
            {
                "type": "database",
                "url": postgres.url(),
                "schema": schema,
                "tables": [{"from": "kpis"}, {"from": "deals", "mode": "upsert"}],
            },
            {"type": "database", "url": "sqlite:///pipeline.db", "tables": tables},
        ]
        place.write(CONFIG, yaml.safe_dump(config))
        run()
        office.advance(DAYS)
        manifests, exact = (run(), run()), in_postgres(postgres, schema)
        yield {
            "manifests": manifests,
            "postgres": exact,
            "workbook": in_workbook(office.cloud.user_drive.folder / PLACE, {name: rows[0].keys() for name, rows in exact.items()}),
            "source": through_our_source(url, token),
            "plain": through_plain_clients(url, token, place.folder),
            "sqlite": in_sqlite(place.folder / "pipeline.db"),
        }


def in_workbook(path, columns):
    """The standard workbook's tables, in the flow's words again: names for headings, codes for their words."""
    book = load_workbook(path)
    found = {}
    for name, coded in CODED.items():
        sheet = next(sheet for sheet in book if name.capitalize() in sheet.tables)
        first, *rows = [[cell.value for cell in row] for row in sheet[sheet.tables[name.capitalize()].ref]]
        names = {words()["columns"][column]: column for column in columns[name]}
        codes = {word: code for code, word in standard.words("en")["codes"][coded].items()}
        found[name] = [dict(zip((names[heading] for heading in first), row, strict=True)) for row in rows]
        for row in found[name]:
            row[coded] = codes[row[coded]]
    return found


def through_our_source(url, token):
    views = [{"datasource": name, "table": name, "mode": "extract"} for name in KEYS]
    source = TableauSource(TableauConfig(base_url=url, site="sales", token=token, views=views), Session())
    return {entity.name: [row for page in source.read(entity, Since()) for row in page.records.to_pylist()] for entity in source.entities()}


def through_plain_clients(url, token, folder):
    import pantab

    server = tsc.Server(url, use_server_version=True)
    found = {}
    with server.auth.sign_in(tsc.PersonalAccessTokenAuth(token["name"], token["secret"], site_id="sales")):
        for item in tsc.Pager(server.datasources):
            if item.name not in KEYS:
                continue
            with zipfile.ZipFile(server.datasources.download(item.id, folder, include_extract=True)) as package:
                (inside,) = [name for name in package.namelist() if name.endswith(".hyper")]
                package.extract(inside, folder / item.name)
            (table,) = pantab.frames_from_hyper(folder / item.name / inside, return_type="pyarrow").values()
            found[item.name] = table.to_pylist()
    return found


def in_postgres(postgres, schema):
    """The driver gives decimals as text; the catalogue knows better."""
    found = {}
    for name in KEYS:
        columns = f"from information_schema.columns where table_schema = '{schema}' and table_name = '{name}'"
        kinds = dict(postgres.rows(f"select column_name::text, data_type::text {columns}"))
        found[name] = [
            {key: Decimal(value) if kinds[key] == "numeric" and value is not None else value for key, value in row.items()}
            for row in postgres.arrow(f"select * from {schema}.{name}").to_pylist()
        ]
    return found


def in_sqlite(path):
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return {name: [dict(row) for row in database.execute(f"select * from {name}")] for name in KEYS}


def comparable(rows, name, zone, like=None):
    """Rows by key, each value as every target can say it.

    PostgreSQL says it exactly. Elsewhere date-times are in a zone that they do not name. Excel has one kind of number, a double, and date-times
    to the millisecond, a date being one at midnight. SQLite has text for days and date-times, told apart here by the type they have in `like`.
    """

    def plain(value, kind):
        if isinstance(value, str) and issubclass(kind, date):
            value = kind.fromisoformat(value)
        if isinstance(value, datetime):
            there = value.astimezone(zone).replace(tzinfo=None) if value.tzinfo else value
            return round((there - datetime(1970, 1, 1)).total_seconds(), 3)
        if isinstance(value, date):
            return plain(datetime.combine(value, time()), datetime)
        if isinstance(value, bool | int | float | Decimal):
            return float(value)
        return value or None

    kinds = {key: type(value) for row in like or rows for key, value in row.items() if value is not None}
    found = {tuple(row[key] for key in KEYS[name]): {key: plain(value, kinds.get(key, str)) for key, value in row.items()} for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("reader", ZONES)
def test_equal_value_by_value(delivered, name, reader):
    ours, theirs, zone = delivered["postgres"][name], delivered[reader][name], ZONES[reader]
    assert len(ours) > {"kpis": 150, "deals": 1_000}[name]
    assert comparable(theirs, name, zone, ours) == comparable(ours, name, zone)


def test_money_is_exact_where_the_target_has_decimals(delivered):
    """No conversion at all between PostgreSQL and .hyper: decimals are decimals in both."""
    exact, theirs = (
        {(row["deal_id"], key): value for row in delivered[reader]["deals"] for key, value in row.items() if isinstance(value, Decimal)}
        for reader in ("postgres", "plain")
    )
    assert theirs == exact
    assert {key for _, key in exact} >= {"amount", "amount_reporting"}


def test_the_types_of_postgresql_say_what_a_value_is(delivered):
    kinds = {key: type(value) for row in delivered["postgres"]["deals"] for key, value in row.items() if value is not None}
    assert (kinds["created_at"], kinds["expected_close_date"], kinds["amount"], kinds["is_open"]) == (datetime, date, Decimal, int)


def test_the_manifest_has_them_all_and_the_same_again_writes_nothing(delivered):
    refresh, again = delivered["manifests"]
    assert [(sink["sink"], sink["outcome"]) for sink in refresh["sinks"]] == [(kind, "written") for kind in SINKS]
    assert [sink["outcome"] for sink in again["sinks"]] == ["unchanged"] * len(SINKS)
    for name in KEYS:
        rows = [{key.partition("#")[0].rpartition("/")[2]: count for key, count in sink["rows"].items()}[name] for sink in refresh["sinks"]]
        assert rows == [len(delivered["postgres"][name])] * len(SINKS)
