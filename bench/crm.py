"""Reading CRMs beside what one would write instead, each in a process of its own against the same sandbox, as ratios.

    python -m bench.crm [--deals 20000] [--latency 0.02]

Deals with the fields a pipeline needs, and their stage history in order: our sources; simple-salesforce's `query_all_iter` and `bulk2.query`;
hubspot-api-client's `get_page` with the retries of its README. Rows per second of wall time, and requests per thousand rows. The loops read
what they are told and no more: they neither check totals nor see deletes. The portal allows 190 calls in ten seconds, as a professional one does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal, Setup
from connector.sandbox.microsoft365.tls import certified
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import Running, serve

ROUNDS = 3
DEAL = (
    "Id, Name, RecordTypeId, StageName, Amount, CurrencyIsoCode, Probability, ForecastCategoryName, OwnerId, AccountId, ContactId, LeadSource, Type, "
    "NextStep, CreatedDate, CloseDate, LastStageChangeDate, LastActivityDate, IsClosed, IsWon, SystemModstamp"
)
HISTORY = "Id, OpportunityId, StageName, CreatedDate, Opportunity.RecordTypeId"
PROPERTIES = [
    "dealname", "amount", "deal_currency_code", "dealstage", "pipeline", "closedate", "createdate", "hs_lastmodifieddate", "hubspot_owner_id",
    "hs_is_closed", "hs_is_closed_won", "hs_deal_stage_probability", "hs_manual_forecast_category", "dealtype", "closed_lost_reason",
    "hs_analytics_source", "hs_next_step", "notes_last_updated", "notes_next_activity_date", "hs_primary_associated_company",
]  # fmt: skip

CHILDREN = {
    "ours": """
from connector.api import Since
from connector.http import Session
from connector.registry import plugins
config = json.loads(argument)
cls = plugins("sources")[config["type"]].cls
validated = cls.Config.model_validate(config)
source = cls(validated, Session(validated.network()))
entities = {entity.name: entity for entity in source.entities()}
rows = sum(len(page.records) for name in ("deals", "stage_entries") for page in source.read(entities[name], Since()))
""",
    "simple-salesforce query_all_iter": """
from simple_salesforce import Salesforce
sf = Salesforce(instance_url=argument["url"], session_id=argument["token"], version="67.0")
rows = sum(1 for soql in argument["queries"] for _ in sf.query_all_iter(soql))
""",
    "simple-salesforce bulk2": """
import csv, io
from simple_salesforce import Salesforce
sf = Salesforce(instance_url=argument["url"], session_id=argument["token"], version="67.0")
rows = 0
for name, soql in zip(("Opportunity", "OpportunityHistory"), argument["queries"]):
    for page in getattr(sf.bulk2, name).query(soql, wait=1):
        rows += sum(1 for _ in csv.DictReader(io.StringIO(page)))
""",
    "hubspot-api-client get_page": """
from hubspot import HubSpot
from urllib3.util.retry import Retry
patient = Retry(total=10, backoff_factor=0.3, status_forcelist=(429, 500, 502, 504))
deals = HubSpot(access_token="pat-sandbox", retry=patient).crm.deals.basic_api
deals.api_client.configuration.host = argument["url"]
rows, after = 0, None
while True:
    page = deals.get_page(limit=50, after=after, properties=argument["properties"], properties_with_history=["dealstage"], associations=["contacts"])
    rows += sum(1 + len(one.properties_with_history["dealstage"]) for one in page.results)
    if page.paging is None:
        break
    after = page.paging.next.after
""",
}
FRAME = """
import json, sys, time
argument = sys.stdin.read()
began = time.monotonic()
{body}
assert rows > 0
print(json.dumps({{"seconds": time.monotonic() - began}}))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--deals", type=int, default=20_000)
    arguments.add_argument("--latency", type=float, default=0.02, help="seconds before each answer")
    asked = arguments.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    company = Company.generate(seed=1, deals=asked.deals)
    deals = [deal for deal in company.deals.values() if not deal.deleted_at]
    rows = len(deals) + sum(len(deal.history) for deal in deals)
    print(f"{len(deals):,} deals, {rows - len(deals):,} history rows, {asked.latency * 1000:.0f} ms latency\n")
    with tempfile.TemporaryDirectory() as folder:
        salesforce(company, rows, asked.latency, Path(folder) / "ca.pem")
    hubspot(company, rows, asked.latency)


def salesforce(company: Company, rows: int, latency: float, ca_file: Path) -> None:
    """Over TLS, because simple-salesforce speaks nothing else."""
    org = SalesforceOrg(company)
    org.tls = certified(ca_file)
    auth = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
    with serve(org) as running:
        url = running.url("salesforce")
        running.faults.add("", latency=latency, times=None)
        token = org.sign_in()
        queries = [f"SELECT {DEAL} FROM Opportunity", f"SELECT {HISTORY} FROM OpportunityHistory ORDER BY OpportunityId, CreatedDate, Id"]
        loop = {"url": url, "token": token, "queries": queries}
        config = {"type": "salesforce", "base_url": url, "ca_bundle": str(ca_file), "auth": auth}
        contest(
            running,
            {
                "ours": ("ours", config),
                "ours by REST": ("ours", config | {"bulk_from": 10**9}),
                "simple-salesforce query_all_iter": ("simple-salesforce query_all_iter", loop),
                "simple-salesforce bulk2": ("simple-salesforce bulk2", loop),
            },
            rows=rows,
            needs="simple_salesforce",
            environment={"REQUESTS_CA_BUNDLE": str(ca_file)},
        )


def hubspot(company: Company, rows: int, latency: float) -> None:
    portal = HubSpotPortal(company, Setup(calls_per_10_seconds=190, searches_per_second=5))
    portal.now = lambda: datetime.now(UTC)
    with serve(portal) as running:
        running.faults.add("", latency=latency, times=None)
        contest(
            running,
            {
                "ours": ("ours", {"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox"}),
                "hubspot-api-client get_page": ("hubspot-api-client get_page", {"url": running.url("hubspot"), "properties": PROPERTIES}),
            },
            rows=rows,
            needs="hubspot",
            pause=10,  # the window of the call budget
        )


def contest(
    running: Running,
    contestants: Mapping[str, tuple[str, object]],
    *,
    rows: int,
    needs: str,
    pause: float = 0,
    environment: Mapping[str, str] | None = None,
) -> None:
    """One line each, the best of three rounds; the ratio is our rate over theirs. All do the same job of `rows` deals and history rows."""
    present = {name: how for name, how in contestants.items() if how[0] == "ours" or importlib.util.find_spec(needs)}
    best: dict[str, tuple[float, int]] = {}
    for name, (child, argument) in list(present.items()) * ROUNDS:
        running.requests.clear()
        time.sleep(pause)
        taken = run(CHILDREN[child], argument, environment or {})["seconds"], len(running.requests)
        best[name] = min(best.get(name, taken), taken)
    for name in contestants:
        if name not in present:
            print(f"  {name:36} not installed")
            continue
        seconds, requests = best[name]
        per_thousand, ratio = requests * 1_000 / rows, seconds / best["ours"][0]
        print(f"  {name:36} {rows / seconds:>9,.0f} rows/s {per_thousand:>7.2f} requests per thousand rows   ours ÷ this {ratio:5.2f}")
    print()


def run(body: str, argument: object, environment: Mapping[str, str]) -> dict[str, float]:
    """A contestant in a process of its own; imports count, as they do for a user."""
    parsed = body if "json.loads(argument)" in body else "argument = json.loads(argument)\n" + body
    done = subprocess.run(
        [sys.executable, "-c", FRAME.format(body=parsed)],
        input=json.dumps(argument),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


if __name__ == "__main__":
    main()
