"""Many deals: no row is lost at any cap, an interrupted read goes on, memory stays flat, and time is what the call budget allows.

The normal suite has few deals and caps so low that every boundary is crossed; the soak has a quarter of a million and the real caps.
"""

import json
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connector.api import Since
from connector.errors import TransientError
from connector.http import Network, Session
from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.hubspot import Setup as HubSpotSetup
from connector.sandbox.hubspot_objects import hs_id
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.salesforce import Setup as SalesforceSetup
from connector.sandbox.salesforce_objects import sf_id
from connector.sandbox.server import serve
from connector.sandbox.tableau import Tableau
from connector.sandbox.tableau.pipeline import DEALS, company_site

SALESFORCE = {
    "type": "salesforce",
    "domain": "acme.my.salesforce.com",
    "auth": {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"},
}
HUBSPOT = {"type": "hubspot", "token": "pat-sandbox"}
TABLEAU = {"type": "tableau", "site": "sales", "token": {"name": "connector", "secret": "sandbox-secret"}}
READ = {
    "table": "deals",
    "locale": "en_US",
    "timezone": "UTC",
    "null_text": True,
    "fields": {column: caption for caption, (column, _, _) in DEALS.items()},
}
#: what is read through a large child → its configuration and tables
READS = {
    "salesforce": (SALESFORCE, ["deals", "stage_entries"]),
    "hubspot": (HUBSPOT, ["deals", "stage_entries"]),
    "tableau-view": ({**TABLEAU, "views": [{"view": "Sales Pipeline/Deals", **READ}]}, ["deals"]),
    "tableau-vds": ({**TABLEAU, "views": [{"datasource": "Pipeline", "mode": "vds", **READ}]}, ["deals"]),
    "tableau-extract": ({**TABLEAU, "views": [{"datasource": "Pipeline", "mode": "extract", **READ}]}, ["deals"]),
}
IDS = {"salesforce": lambda n: sf_id("006", n), "hubspot": lambda n: hs_id("deals", n)}

CHILD = """
import json, sys, tempfile, time
from pathlib import Path
from connector.api import Since
from connector.engine import DuckDB
from connector.http import Session
from connector.normalise import normalise
from connector.registry import plugins
kind, config, names = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3].split(",")
cls = plugins("sources")[kind].cls
session = Session()
source = cls(cls.Config.model_validate(config), session)
folder = Path(tempfile.mkdtemp())
engine = DuckDB(folders=[folder], memory="500MB")
entities = {entity.name: entity for entity in source.entities()}
started, rows = time.monotonic(), {}
for name in names:
    with normalise(entities[name], source.read(entities[name], Since()), engine=engine, scratch=folder) as result:
        rows[name] = sum(batch.num_rows for batch in result.batches())
seconds = time.monotonic() - started
status = Path("/proc/self/status")  # ru_maxrss would be the parent's
peak = next((int(line.split()[1]) for line in (status.open() if status.exists() else ()) if line.startswith("VmHWM")), 0)
print(json.dumps({"rows": rows, "seconds": seconds, "requests": session.requests_sent, "megabytes": peak / 1024}))
"""


def source(which, url, session, *, page=None, **config):
    from connector.registry import plugins

    cls = plugins("sources")[which].cls
    made = cls(cls.Config.model_validate({**(SALESFORCE if which == "salesforce" else HUBSPOT), "base_url": url, **config}), session)
    if which == "hubspot" and page:
        made.list_page, made.pages_per_range = page, 2
    return made


def living(company):
    return {deal.n for deal in company.deals.values() if not deal.deleted_at}


def interrupted(which, service, company, folder, *, page, seed, breaks, span, **config):
    """Read deals and stage entries, broken off at random and taken up again; ids found and requests sent, beside an undisturbed read's."""
    draw = random.Random(seed)

    def session(memory):
        return Session(Network(max_wait=0), attempts=1, folder=memory, sleep=lambda _: None, now=lambda: company.now, jitter=lambda: 0.0)

    found = {}
    with serve(service) as running:
        url = running.url(which)
        undisturbed = session(None)
        for name in ("deals", "stage_entries"):  # each by itself: together, HubSpot's come from one list
            whole = source(which, url, undisturbed, page=page, **config)
            entity = next(entity for entity in whole.entities() if entity.name == name)
            found[name] = {record_id(record) for part in whole.read(entity, Since()) for record in part.records}
        sent, again = 0, {}
        for name in found:
            for _ in range(breaks):
                running.faults.add(r"(query|results|objects/2026-09/deals)", drop=True, times=None, skip=draw.randrange(span // 3, span))
                mine = session(folder)
                try:
                    broken = source(which, url, mine, page=page, **config)
                    entity = next(entity for entity in broken.entities() if entity.name == name)
                    again[name] = {record_id(record) for part in broken.read(entity, Since()) for record in part.records}
                    break
                except TransientError:
                    continue
                finally:
                    running.faults.clear()
                    sent += mine.requests_sent
            else:
                mine = session(folder)
                last = source(which, url, mine, page=page, **config)
                entity = next(entity for entity in last.entities() if entity.name == name)
                again[name] = {record_id(record) for part in last.read(entity, Since()) for record in part.records}
                sent += mine.requests_sent
        assert running.violations == []
    return found, again, sent, undisturbed.requests_sent


def record_id(record):
    if "entered_at" in record:
        return record["deal_id"], record["dealstage"], record["entered_at"]
    return record.get("Id") or record["id"]


def services(which, company, **caps):
    if which == "salesforce":
        return SalesforceOrg(company, SalesforceSetup(**caps))
    if which == "hubspot":
        return HubSpotPortal(company, HubSpotSetup(**caps))
    return Tableau(company_site(company))


def portal_with_budget(company, calls):
    """A portal that allows so many calls in ten seconds of real time, and says so: nobody waits longer than that asks for."""
    portal = services("hubspot", company, calls_per_10_seconds=calls, searches_per_second=5)
    portal.now = lambda: datetime.now(UTC)
    return portal


@pytest.mark.parametrize(
    ("which", "caps", "config"),
    [
        ("salesforce", {"page_size": 11}, {}),
        ("salesforce", {"page_size": 11, "bulk_page": 13}, {"bulk_from": 50}),
        ("hubspot", {"page_size": 7, "history_page_size": 5, "search_cap": 40, "search_page_size": 9}, {}),
    ],
    ids=["salesforce-rest", "salesforce-bulk", "hubspot"],
)
def test_no_row_is_lost_at_low_caps_however_often_it_breaks(tmp_path, which, caps, config):
    company = Company.generate(seed=4, deals=240, days=300)
    found, again, _, _ = interrupted(
        which, services(which, company, **caps), company, tmp_path, page=3, seed=1, breaks=6, span=30, **config
    )
    assert found["deals"] == {IDS[which](n) for n in living(company)}
    assert again == found


@pytest.fixture(scope="module")
def quarter_million():
    return Company.generate(seed=1, deals=270_000)


@pytest.mark.soak
@pytest.mark.parametrize("which", ["salesforce", "hubspot"])
def test_a_quarter_million_deals_interrupted_at_random(tmp_path, quarter_million, which):
    assert len(living(quarter_million)) >= 250_000
    span = 30 if which == "salesforce" else 2_500
    found, again, sent, undisturbed = interrupted(
        which, services(which, quarter_million), quarter_million, tmp_path, page=None, seed=2, breaks=4, span=span
    )
    assert found["deals"] == {IDS[which](n) for n in living(quarter_million)}
    assert again == found
    assert sent < 2 * undisturbed, "what was read before a break is not read again"


def child(which, running):
    """A read in a process of its own, so that its memory is its own."""
    config, names = READS[which]
    kind = config["type"]
    argument = json.dumps({**config, "base_url": running.url(kind)})
    done = subprocess.run([sys.executable, "-c", CHILD, kind, argument, ",".join(names)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory of a process is read from /proc")
@pytest.mark.parametrize("which", READS)
def test_memory_is_flat(quarter_million, which):
    """Buffers are full at a hundred thousand deals."""
    fewer = Company.generate(seed=1, deals=108_000)
    taken = {}
    for company in (fewer, quarter_million):
        with serve(portal_with_budget(company, 5_000) if which == "hubspot" else services(which, company)) as running:
            done = child(which, running)
            assert done["rows"]["deals"] == len(living(company))
            taken[len(living(company))] = done["megabytes"]
    print(f"{which}: " + ", ".join(f"{size:,} deals {megabytes:.0f} MB" for size, megabytes in taken.items()))
    least, most = (taken[size] for size in sorted(taken))
    assert most < least + 40, taken


@pytest.mark.soak
def test_hubspot_takes_what_its_call_budget_allows(quarter_million):
    """A professional portal: 190 calls in ten seconds, each 100 ms away."""
    with serve(portal_with_budget(quarter_million, 190)) as running:
        running.faults.add("", latency=0.1, times=None)
        done = child("hubspot", running)
        best = done["requests"] / 19
        refused = sum(one.status == 429 for one in running.requests)
        print(f"hubspot: {done['requests']} requests in {done['seconds']:.0f} s, best {best:.0f} s, {refused} refused")
        assert done["rows"]["deals"] == len(living(quarter_million))
        assert done["seconds"] < 1.3 * best
        assert refused < done["requests"] / 100


@pytest.mark.soak
@pytest.mark.parametrize("which", ["salesforce", "tableau-view", "tableau-vds", "tableau-extract"])
def test_100_ms_of_latency_cost_less_than_a_third(quarter_million, which):
    """Where no limit is put on calls in a time, the best is the same read from next door."""
    with serve(services(which, quarter_million)) as running:
        near = child(which, running)
        running.faults.add("", latency=0.1, times=None)
        far = child(which, running)
        print(f"{which}: {near['requests']} requests, {near['seconds']:.0f} s near, {far['seconds']:.0f} s far")
        assert far["rows"] == near["rows"]
        assert far["seconds"] < 1.3 * near["seconds"] + 1
