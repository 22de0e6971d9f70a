"""One company through the command line from Salesforce, HubSpot, Tableau and an export, finance's files beside them: the same figures."""

import json
from collections import defaultdict

import pytest
import yaml

from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import serve
from connector.sandbox.tableau import Tableau
from connector.sandbox.tableau.pipeline import DEALS, HISTORY, company_site

AUTH = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
BANT = ("budget", "authority", "need", "timing")
FLOWS = ("salesforce", "hubspot", "tableau")
FILES = {
    "deals": "deals", "stage_entries": "stage_history", "stages": "stages", "leads": "leads", "activities": "activities",
    "accounts": "accounts", "owners": "owners", "products": "products", "deal_products": "deal_products", "rates": "rates",
    "spend": "spend", "quotas": "quotas",
}  # fmt: skip
#: what finance or somebody else has to give beside a source, because it does not know it
BESIDE = {
    "salesforce": (),
    "hubspot": ("spend", "quotas"),
    "tableau": ("leads", "stages", "rates", "owners", "activities", "spend", "quotas"),
}
#: columns of the finished deals that stay empty, and why
UNKNOWN = {
    "salesforce": {},
    "hubspot": {"manager": "HubSpot's owners have none"},
    "tableau": {"url": "the view shows none"},
    "export": {"url": "the export has none"},
}
#: columns of the finished deals that are not those of the export, and why
DIFFERENT = {
    "salesforce": {
        "deal_id": "each system has ids of its own",
        "url": "the export has none",
        "product": "known from the lines: a deal of several products has none of its own",
        "product_category": "as product",
        "last_activity_at": "Salesforce knows the day only, and takes a meeting for held when its time has passed",
        "next_activity_at": "as last_activity_at",
    },
    "hubspot": {
        "deal_id": "each system has ids of its own",
        "url": "the export has none",
        "manager": "HubSpot's owners have none",
        "region": "that of the company; HubSpot's owners have none, who stand in where a deal has no company",
        "product": "known from the lines: a deal of several products has none of its own",
        "product_category": "as product",
        "expected_close_date": "HubSpot overwrites the plan when a deal closes",
    },
    "tableau": {},
}


@pytest.fixture(scope="module")
def company():
    """Without merged deals, whose histories HubSpot mixes, and without leads whose deal is gone, which HubSpot forgets."""
    made = Company.generate(seed=21, deals=120, days=450)
    for winner in list(made.absorbed):
        made.delete(made.deals[winner])
    for lead in made.leads.values():
        if lead.deal and made.deals[lead.deal].deleted_at:
            made.delete(lead)
    return made


def files(*tables):
    return {"type": "files", "tables": {name: f"export/{FILES[name]}.csv" for name in tables}}


def tableau(url):
    """Views as people have them: text, to be read back. A site's date-times name no zone."""

    def view(name, table, fields, **more):
        columns = {column: caption for caption, (column, _, _) in fields.items()}
        return {
            "view": f"Sales Pipeline/{name}",
            "table": table,
            "locale": "en_US",
            "timezone": "UTC",
            "null_text": True,
            "fields": columns,
            **more,
        }

    return {
        "type": "tableau",
        "base_url": url,
        "site": "sales",
        "token": {"name": "connector", "secret": "sandbox-secret"},
        "views": [view("Deals", "deals", DEALS), view("Stage History", "stage_entries", HISTORY)],
    }


@pytest.fixture(scope="module")
def place(company, tmp_path_factory, new_workplace):
    folder = tmp_path_factory.mktemp("kpis")
    company.write_csv(folder / "export")
    with serve(SalesforceOrg(company), HubSpotPortal(company), Tableau(company_site(company))) as running:
        sources = {
            "salesforce": {"type": "salesforce", "base_url": running.url("salesforce"), "domain": "acme.my.salesforce.com", "auth": AUTH},
            "hubspot": {"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox"},
            "tableau": tableau(running.url("tableau")),
            "export": files(*FILES),
        }
        fields = {
            "salesforce": {
                "lost_reason": "Loss_Reason__c",
                "leads.value": "Estimated_Value__c",
                **{f"leads.{one}": f"{one.capitalize()}__c" for one in BANT},
            },
            "hubspot": {
                "lead_source": "lead_source",
                "products.product_category": "product_category",
                "leads.value": "estimated_value",
                **{f"leads.{one}": one for one in BANT},
            },
        }
        place = new_workplace(folder)
        config = {
            name: {
                "sources": {"crm": source, **({"beside": files(*BESIDE[name])} if BESIDE.get(name) else {})},
                "model": {"currency": "EUR", "fields": fields.get(name, {})},
                "sinks": [{"type": "files", "folder": f"out/{name}", "format": "jsonl"}],
            }
            for name, source in sources.items()
        }
        place.write("connector.yaml", yaml.safe_dump({"flows": config}))
        yield place


@pytest.fixture(scope="module")
def tables(place, company):
    """What each flow delivered: table(flow, name) gives its rows."""
    outcome = place.connector("run", "--all", "--at", company.now.isoformat())
    assert outcome.code == 0, outcome.err

    def table(flow, name):
        return [json.loads(line) for line in (place.folder / "out" / flow / f"{name}.jsonl").read_text().splitlines()]

    return table


def differences(theirs, ours, columns):
    """The values of one flow beside those of the export where they differ, by row and column."""
    assert theirs.keys() == ours.keys()
    return {
        (key, column): (theirs[key][column], row[column])
        for key, row in ours.items()
        for column in columns
        if not alike(theirs[key][column], row[column])
    }


def alike(one, other):
    """Equal; floats but for what adding up in another order leaves, which is far below a cent."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-9 * max(1, abs(other))
    return one == other


def by_name(tables, flow):
    return {row["name"]: row for row in tables(flow, "deals")}


@pytest.mark.parametrize("flow", FLOWS)
def test_the_same_kpis_to_the_cent(tables, flow):
    theirs, ours = ({(row["metric"], row["period"]): row for row in tables(which, "kpis")} for which in (flow, "export"))
    assert differences(theirs, ours, ("value", "previous", "change", "numerator", "denominator", "rows_used", "rows_left_out")) == {}
    assert sum(row["value"] is not None for row in ours.values()) > 50


@pytest.mark.parametrize("flow", FLOWS)
def test_the_same_deals(tables, flow):
    theirs, ours = by_name(tables, flow), by_name(tables, "export")
    columns = next(iter(ours.values())).keys() - {"source"}
    assert {column for _, column in differences(theirs, ours, columns)} == DIFFERENT[flow].keys()


@pytest.mark.parametrize("flow", ["salesforce", "hubspot"])
def test_products_are_known_where_a_deal_has_one(tables, flow):
    ours, products = by_name(tables, "export"), defaultdict(set)
    for line in tables("export", "deal_products"):
        products[line["deal_id"]].add(line["product"])
    for name, row in by_name(tables, flow).items():
        single = len(products[ours[name]["deal_id"]]) == 1
        assert (row["product"], row["product_category"]) == (
            (ours[name]["product"], ours[name]["product_category"]) if single else (None, None)
        )


def test_salesforce_knows_the_days_of_activities(tables, company):
    """And takes a meeting for held when its time has passed."""
    ours = by_name(tables, "export")
    unsure = {
        row["deal_id"]
        for row in tables("export", "activities")
        if row["kind"] == "meeting" and row["done_at"] is None and row["due_at"] < company.now.isoformat()
    }
    known = {name: row for name, row in by_name(tables, "salesforce").items() if ours[name]["deal_id"] not in unsure}
    assert len(known) > len(ours) / 2
    for name, row in known.items():
        for column in ("last_activity_at", "next_activity_at"):
            assert (row[column] or "")[:10] == (ours[name][column] or "")[:10]


def test_hubspot_keeps_the_plan_of_open_deals_and_the_region_of_companies(tables):
    ours = by_name(tables, "export")
    for name, row in by_name(tables, "hubspot").items():
        assert row["expected_close_date"] == (ours[name]["expected_close_date"] if row["status"] == "open" else None)
        assert row["region"] == (ours[name]["region"] if row["account"] else None)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_same_stage_entries(tables, flow):
    def entries(which):
        names = {row["deal_id"]: row["name"] for row in tables(which, "deals")}
        return {(names[row["deal_id"]], row["entered_at"], row["stage"]): row for row in tables(which, "stage_entries")}

    assert differences(entries(flow), entries("export"), ("stage_order", "left_at", "days", "next_stage", "outcome", "basis")) == {}


@pytest.mark.parametrize("flow", [*FLOWS, "export"])
def test_which_columns_of_deals_each_flow_cannot_know(tables, flow):
    rows = tables(flow, "deals")
    assert {name for name in rows[0] if all(row[name] is None for row in rows)} == UNKNOWN[flow].keys()


def test_check_finds_everything_in_order(place):
    outcome = place.connector("check")
    assert outcome.code == 0, outcome.out + outcome.err
