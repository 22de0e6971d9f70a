"""Credentials that do not work, through the command line: `check` finds each before a run does, and a run ends with 3 and the same remedy.

One configuration holds a flow for every way in which each of the three systems may refuse us.
"""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from connector.sandbox.company import Company
from connector.sandbox.hubspot import SCOPES, HubSpotPortal
from connector.sandbox.hubspot import Setup as Portal
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.salesforce import Setup as Org
from connector.sandbox.server import serve
from connector.sandbox.tableau import Column, Datasource, Project, Shown, Site, Tableau, View, Workbook

APP = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
DEAD = {"type": "refresh_token", "client_id": "sandbox-client", "client_secret": "sandbox-secret", "refresh_token": "refresh-spent"}
TOKEN = {"name": "connector", "secret": "sandbox-secret"}
NO_PLAN = {"status": "error", "category": "NO_PERMISSION", "message": "This feature is not available on your plan."}
EXPIRED = {"status": "error", "category": "EXPIRED_AUTHENTICATION", "message": "The OAuth token used to make this call expired."}
NO_API = [{"errorCode": "API_DISABLED_FOR_ORG", "message": "API is not enabled for this Organization or Partner"}]

#: what is wrong → how the org is set up, what our configuration says, a fault (address, status, body), a word of the remedy
SALESFORCE = {
    "expired": ({}, {"auth": DEAD}, None, "sign in again"),
    "revoked": ({"client_secret": "rolled"}, {}, None, "check client_id and client_secret"),
    "wrong-site": ({"client_id": "app-of-this-org"}, {}, None, "consumer key"),
    "no-scope": ({"scope": "openid"}, {}, None, "scope `api`"),
    "no-api": ({}, {}, ("GET /services/data", 403, NO_API), "API Enabled"),
    "hidden": ({"hidden_objects": frozenset({"Opportunity"})}, {}, None, "Read on Opportunity"),
    "hidden-key-field": ({"hidden_fields": {"Opportunity": frozenset({"StageName"})}}, {}, None, "Read on StageName"),
}
HUBSPOT = {
    "expired": ({}, {}, ("GET /", 401, EXPIRED), "copy the access token"),
    "expired-grant": ({}, {"token": None, "auth": DEAD}, None, "refresh token"),
    "revoked": ({"token": "pat-rotated-meanwhile"}, {}, None, "rotated or deleted"),
    "wrong-site": ({}, {"token": "a token of something else"}, None, "begins with pat-"),
    "no-scope": ({"scopes": frozenset(SCOPES.values()) - {SCOPES["deals"]}}, {}, None, "crm.objects.deals.read"),
    "schema-only": ({"scopes": Portal().scopes - {SCOPES["deals"]}}, {}, None, "crm.objects.deals.read"),
    "hidden": ({}, {}, ("GET /crm/properties/[^/]+/deals", 403, NO_PLAN), "higher HubSpot plan"),
    "objects-hidden": ({}, {}, ("GET /crm/objects/[^/]+/deals", 403, NO_PLAN), "higher HubSpot plan"),
    "firewall": ({}, {}, ("GET /crm/objects/[^/]+/companies", 403, ""), "firewall or proxy"),
}
#: what is wrong → what is done to the site, what our configuration says, a word of the remedy
TABLEAU = {
    "expired": (lambda site: setattr(site.tokens["connector"], "expires", datetime.now(UTC) - timedelta(days=1)), {}, "expired"),
    "revoked": (lambda site: setattr(site.tokens["connector"], "revoked", True), {}, "revoked"),
    "wrong-site": (lambda site: None, {"site": "marketing"}, "new token"),
    "no-permission": (lambda site: setattr(site.views[0], "downloadable", False), {}, "Download Summary Data"),
    "hidden": (lambda site: setattr(site.views[0], "visible", False), {}, "unhide the sheet"),
}
CASES = [*(f"salesforce-{case}" for case in SALESFORCE), *(f"hubspot-{case}" for case in HUBSPOT), *(f"tableau-{case}" for case in TABLEAU)]


def tableau_site():
    project = Project("Sales")
    source = Datasource("Deals", project, (Column("Deal ID"),), lambda: [{"Deal ID": "D1"}])
    book = Workbook("Pipeline", project)
    book.add(View("Deals", source, (Shown("Deal ID"),)))
    return Site(projects=[project], workbooks=[book], datasources=[source])


def prepared():
    """Each case's service, its configuration without the address, and its fault."""
    company = Company.generate(seed=2, deals=5, days=30)
    for case, (setup, config, fault, _) in SALESFORCE.items():
        yield (
            f"salesforce-{case}",
            SalesforceOrg(company, Org(**setup)),
            {"type": "salesforce", "domain": "acme.my.salesforce.com", "auth": APP, **config},
            fault,
        )
    for case, (setup, config, fault, _) in HUBSPOT.items():
        given = {"type": "hubspot", "token": "pat-sandbox", **config}
        yield f"hubspot-{case}", HubSpotPortal(company, Portal(**setup)), {k: v for k, v in given.items() if v is not None}, fault
    for case, (spoil, config, _) in TABLEAU.items():
        site = tableau_site()
        spoil(site)
        view = {"view": "Pipeline/Deals", "table": "t"}
        yield f"tableau-{case}", Tableau(site), {"type": "tableau", "site": "sales", "token": TOKEN, "views": [view], **config}, None


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, new_workplace):
    """What `check` and then `run --all --json` say of all of it."""
    place = new_workplace(tmp_path_factory.mktemp("credentials"))
    services, flows, faults = [], {}, []
    for name, service, config, fault in prepared():
        service.name = name
        services.append(service)
        flows[name] = {"sources": {"crm": config}, "sinks": [{"type": "files", "folder": f"out/{name}"}]}
        faults += [(name, *fault)] if fault else []
    with serve(*services) as running:
        for name, address, status, body in faults:
            running.faults.add(address, service=name, status=status, body=json.dumps(body).encode(), times=None)
        for name, flow in flows.items():
            flow["sources"]["crm"]["base_url"] = running.url(name)
        place.write("connector.yaml", yaml.safe_dump({"flows": flows}))
        yield place.connector("check"), place.connector("run", "--all", "--json")


def remedy(case):
    system, _, what = case.partition("-")
    return {"salesforce": SALESFORCE, "hubspot": HUBSPOT, "tableau": TABLEAU}[system][what][-1]


@pytest.mark.parametrize("case", CASES)
def test_check_finds_it_with_its_remedy(outcomes, case):
    check, _ = outcomes
    assert check.code == 3, check.err
    lines = check.out.splitlines()
    failed = [place for place, line in enumerate(lines) if line.startswith(f"FAIL  {case}: source crm")]
    assert failed, check.out
    assert any(remedy(case) in lines[place + 1] for place in failed)


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_with_3_and_the_same_remedy(outcomes, case):
    _, run = outcomes
    assert run.code == 3, run.err
    manifest = next(one for one in map(json.loads, run.out.splitlines()) if one["flow"] == case)
    assert (manifest["outcome"], manifest["exit_code"]) == ("failed", 3)
    lines = run.err.splitlines()
    said = next(place for place, line in enumerate(lines) if line.startswith(f"error: {case}: "))
    assert remedy(case) in lines[said + 1]


def test_no_secret_is_said_on_the_way(outcomes):
    for outcome in outcomes:
        said = outcome.out + outcome.err
        assert "Traceback" not in said
        assert not any(secret in said for secret in ("sandbox-secret", "pat-sandbox", "refresh-spent", "a token of something else"))
