"""A close date that somebody picked is a day, not a moment: it stays that day and month, wherever the flow is."""

import json
import pickle
from collections import Counter
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import yaml

from connector.sandbox.hubspot import HubSpotPortal, Setup
from connector.sandbox.hubspot_objects import hs_id
from connector.sandbox.server import serve

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/Los_Angeles"]


def closed(company):
    return [one for one in company.deals.values() if one.closed_at and not one.deleted_at]


@pytest.mark.parametrize("zone", ZONES)
def test_it_stays_the_day_and_a_moment_stays_the_moment(hubspot, zone):
    crm = hubspot(picked_close_dates=2)
    rows = {row["deal_id"]: row["closed_at"] for row in crm.read("deals", zone=zone).rows}
    picked = [one for one in closed(crm.company) if one.n % 2 == 0]
    assert len(picked) > 5
    for one in picked:
        assert rows[hs_id("deals", one.n)] == datetime.combine(one.closed_at.astimezone(BERLIN).date(), datetime.min.time(), ZoneInfo(zone))
    for one in closed(crm.company):
        if one.n % 2:
            assert rows[hs_id("deals", one.n)] == one.closed_at


def test_midnight_is_the_portals(hubspot):
    """Midnight in London is a moment to a portal in Berlin."""
    crm = hubspot()
    one = closed(crm.company)[0]
    one.closed_at = datetime(2026, 11, 2, tzinfo=ZoneInfo("UTC"))
    rows = {row["deal_id"]: row["closed_at"] for row in crm.read("deals", zone="America/Los_Angeles").rows}
    assert rows[hs_id("deals", one.n)] == one.closed_at


def test_the_months_of_a_report_are_the_same_in_every_zone(workplace, small):
    """Every closed deal's date was picked, all of them on the first of a month."""
    company = pickle.loads(pickle.dumps(small))
    for one in closed(company):
        day = one.closed_at.astimezone(BERLIN)
        one.closed_at = datetime(day.year, day.month, 1, tzinfo=BERLIN)
    expected = Counter(f"{one.closed_at:%Y-%m}" for one in closed(company) if company.status(one) == "won")
    with serve(HubSpotPortal(company, Setup(picked_close_dates=1))) as running:
        source = {"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox", "tables": ["deals", "stages", "rates"]}
        flows = {
            zone.replace("/", "-"): {
                "sources": {"crm": source},
                "timezone": zone,
                "model": {"currency": "EUR"},
                "sinks": [{"type": "files", "folder": f"out/{zone}", "format": "jsonl", "tables": [{"from": "by_month"}]}],
            }
            for zone in ZONES
        }
        workplace.write("connector.yaml", yaml.safe_dump({"flows": flows}))
        outcome = workplace.connector("run", "--all", "--at", company.now.isoformat())
    assert outcome.code == 0, outcome.err
    for zone in ZONES:
        rows = [json.loads(line) for line in (workplace.folder / "out" / zone / "by_month.jsonl").read_text().splitlines()]
        assert {str(row["month"])[:7]: row["won"] for row in rows if row["won"]} == expected
