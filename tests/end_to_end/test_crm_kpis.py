"""One company through the command line from Salesforce, from HubSpot with finance's files beside it, and from an export: the same figures."""

import json

import pytest
import yaml

from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import serve

AUTH = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
BANT = ("budget", "authority", "need", "timing")


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


@pytest.fixture(scope="module")
def place(company, tmp_path_factory, new_workplace):
    folder = tmp_path_factory.mktemp("kpis")
    company.write_csv(folder / "export")

    def files(**tables):
        return {"type": "files", "tables": {name: f"export/{file}.csv" for name, file in tables.items()}}

    finance = files(spend="spend", quotas="quotas")
    whole = files(deals="deals", stage_entries="stage_history", stages="stages", leads="leads", activities="activities", accounts="accounts",
                  owners="owners", products="products", deal_products="deal_products", rates="rates")  # fmt: skip
    with serve(SalesforceOrg(company), HubSpotPortal(company)) as running:
        salesforce = {"type": "salesforce", "base_url": running.url("salesforce"), "domain": "acme.my.salesforce.com", "auth": AUTH}
        hubspot = {"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox"}
        flows = {
            "salesforce": (
                {"crm": salesforce},
                {"lost_reason": "Loss_Reason__c", **{f"leads.{one}": f"{one.capitalize()}__c" for one in BANT}},
            ),
            "hubspot": ({"crm": hubspot, "finance": finance}, {f"leads.{one}": one for one in BANT}),
            "export": ({"export": whole, "finance": finance}, {}),
        }
        place = new_workplace(folder)
        config = {
            name: {
                "sources": sources,
                "model": {"currency": "EUR", "fields": fields},
                "sinks": [{"type": "files", "folder": f"out/{name}", "format": "jsonl"}],
            }
            for name, (sources, fields) in flows.items()
        }
        place.write("connector.yaml", yaml.safe_dump({"flows": config}))
        yield place


@pytest.fixture(scope="module")
def kpis(place, company):
    found = {}
    for flow in ("salesforce", "hubspot", "export"):
        outcome = place.connector("preview", flow, "--table", "kpis", "--format", "json", "--at", company.now.isoformat())
        assert outcome.code == 0, outcome.err
        found[flow] = {(row["metric"], row["period"]): row for row in json.loads(outcome.out)}
    return found


@pytest.mark.parametrize("flow", ["salesforce", "hubspot"])
def test_the_same_kpis_to_the_cent(kpis, flow):
    theirs, ours = kpis[flow], kpis["export"]
    assert theirs.keys() == ours.keys()
    different = {
        key: (theirs[key]["value"], row["value"])
        for key, row in ours.items()
        if (row["value"] is None) != (theirs[key]["value"] is None)
        or (row["value"] is not None and abs(theirs[key]["value"] - row["value"]) > (0.005 if row["unit"] == "money" else 1e-6))
    }
    assert different == {}
    assert sum(row["value"] is not None for row in ours.values()) > 50


def test_check_finds_everything_in_order(place):
    outcome = place.connector("check")
    assert outcome.code == 0, outcome.out + outcome.err
