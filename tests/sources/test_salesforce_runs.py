"""Salesforce read run after run: what a later run must notice although no stamp says so, and what it must not lose."""

import json
from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from connector.api import Since
from connector.errors import TransientError
from connector.intake import Intake, Named
from connector.sandbox.salesforce_objects import sf_id


class Runs:
    """A source taken in as a flow does it: marks and snapshots of one run are the base of the next."""

    def __init__(self, crm, folder):
        self.crm, self.folder = crm, folder
        self.marks, self.previous, self.number = {}, None, 0

    def take(self, *names, keep=True, **config):
        """One run; rows by table, and in `modes` and `warnings` how it went. Without `keep` it is a full one on the side."""
        self.number += 1
        snapshot = self.folder / f"run{self.number}"
        named = Named("crm", self.crm.source(**config), self.crm.session(), "unchanged")
        intake = Intake(
            engine=self.crm.engine,
            folder=snapshot,
            name=f"run{self.number}",
            previous=self.marks if keep else {},
            previous_folder=self.previous if keep else None,
            zone=ZoneInfo("UTC"),
            fields={},
            full=False,
            full_refresh=timedelta(days=7_000),
            progress=lambda what, done, total: None,
            now=lambda: self.crm.company.now,
        )
        taken = {entity.name: intake.take(named, entity) for entity in named.source.entities() if entity.name in names}
        if keep:
            self.marks, self.previous = {("crm", name): one.mark for name, one in taken.items()}, snapshot
        self.modes = {name: one.report["mode"] for name, one in taken.items()}
        self.warnings = [warning for one in taken.values() for warning in one.warnings]
        return {name: pq.read_table(next(snapshot.rglob(f"crm/{name}.parquet"))).to_pylist() for name in taken}


@pytest.fixture
def runs(salesforce, bench):
    """Runs over a company; what they leave lies where the engine may read."""

    def start(**setup):
        crm = salesforce(**setup)
        return Runs(crm, bench[1] / f"runs-{id(crm)}")

    return start


def living(company):
    return [deal for deal in company.deals.values() if not deal.deleted_at]


def by_id(rows, key="deal_id"):
    return {row[key]: row for row in rows}


class TestPermissions:
    def test_a_field_that_may_be_seen_later_is_read_of_every_deal(self, runs):
        two = runs(hidden_fields={"Opportunity": frozenset({"Amount"})})
        assert {row["amount"] for row in two.take("deals")["deals"]} == {None}
        assert any("Amount" in warning for warning in two.warnings)
        two.crm.service.setup.hidden_fields = {}
        two.crm.company.tick(86_400)
        rows = by_id(two.take("deals")["deals"])
        assert two.modes == {"deals": "full"}
        assert {rows[sf_id("006", deal.n)]["amount"] for deal in living(two.crm.company)} == {
            deal.amount for deal in living(two.crm.company)
        }
        two.crm.company.tick(86_400)
        two.take("deals")
        assert two.modes == {"deals": "incremental"}

    def test_one_that_is_hidden_later_is_empty_in_every_deal(self, runs):
        two = runs()
        two.take("deals")
        two.crm.service.setup.hidden_fields = {"Opportunity": frozenset({"Amount"})}
        two.crm.company.tick(86_400)
        assert {row["amount"] for row in two.take("deals")["deals"]} == {None}

    @pytest.mark.parametrize("thing", ["Task", "Event"])
    def test_activities_are_read_anew_when_the_other_half_may_be_seen(self, runs, thing):
        two = runs(hidden_objects=frozenset({thing}))
        some = len(two.take("activities")["activities"])
        two.crm.service.setup.hidden_objects = frozenset()
        two.crm.company.tick(86_400)
        assert len(two.take("activities")["activities"]) > some


class TestAdmin:
    def test_a_stage_that_becomes_a_lost_one_makes_its_deals_lost(self, runs):
        two = runs()
        assert two.take("deals")
        two.crm.company.tick(86_400)
        stage = two.crm.company.stage("new", "negotiation")
        stage.lost = True
        rows = by_id(two.take("deals")["deals"])
        assert two.modes == {"deals": "full"}
        deals = [deal for deal in living(two.crm.company) if (deal.pipeline, deal.stage) == ("new", "negotiation")]
        assert deals
        assert {rows[sf_id("006", deal.n)]["status"] for deal in deals} == {"lost"}
        assert all(rows[sf_id("006", deal.n)]["closed_at"] for deal in deals)

    def test_stages_that_stay_what_they_are_keep_reads_incremental(self, runs):
        two = runs()
        two.take("deals", "stage_entries")
        two.crm.company.tick(86_400)
        two.take("deals", "stage_entries")
        assert two.modes == {"deals": "incremental", "stage_entries": "incremental"}


class TestMerges:
    def merged(self, two, count=1):
        """Accounts merged so that no deal and no contact is touched, as Salesforce does it; the deals that moved."""
        company = two.crm.company
        with_deals = list(dict.fromkeys(deal.account for deal in living(company) if deal.account))
        winner, *losers = (company.accounts[n] for n in with_deals[: count + 1])
        stamps = [(one, one.modified_at) for one in (*company.deals.values(), *company.contacts.values())]
        moved = [deal for deal in living(company) if deal.account in {one.n for one in losers}]
        for loser in losers:
            company.merge_accounts(winner, loser)
        for one, stamp in stamps:
            one.modified_at = stamp
        return moved, winner

    @pytest.mark.parametrize("count", [1, 3])
    def test_deals_and_contacts_of_a_merged_account_follow_it(self, runs, count):
        two = runs()
        two.take("deals", "accounts", "contacts")
        two.crm.company.tick(86_400)
        moved, winner = self.merged(two, count)
        two.crm.company.tick(600)
        later = two.take("deals", "accounts", "contacts")
        assert set(two.modes.values()) == {"incremental"}
        deals, known = by_id(later["deals"]), {row["account_id"] for row in later["accounts"]}
        assert {deals[sf_id("006", deal.n)]["account_id"] for deal in moved} == {sf_id("001", winner.n)}
        assert {row["account_id"] for row in (*later["deals"], *later["contacts"])} - {None} <= known

    def test_nothing_is_asked_again_where_nothing_was_merged(self, runs):
        two = runs()
        two.take("deals")
        two.crm.company.tick(86_400)
        two.crm.running.requests.clear()
        two.take("deals")
        assert not [one for one in two.crm.running.requests if "AccountId IN" in one.query.get("q", "")]


class TestDeletes:
    def test_one_the_org_did_not_know_of_yet_is_asked_for_again(self, runs):
        """It was purged within the hour that the org's list was behind: nothing else tells of it."""
        two = runs(recycle_bin_days=0)
        two.take("deals", "stage_entries")
        two.crm.company.tick(7_200)
        deal = living(two.crm.company)[3]
        two.crm.company.delete(deal)
        two.crm.company.tick(1_800)
        two.crm.service.setup.deletes_lag_seconds = 3_600
        two.take("deals", "stage_entries")
        two.crm.service.setup.deletes_lag_seconds = 0
        two.crm.company.tick(86_400)
        later = two.take("deals", "stage_entries")
        assert set(two.modes.values()) == {"incremental"}
        assert sf_id("006", deal.n) not in {row["deal_id"] for rows in later.values() for row in rows}

    def test_a_list_that_is_minutes_behind_holds_no_mark_back(self, salesforce):
        crm = salesforce(deletes_lag_seconds=300)
        mark = crm.mark()
        crm.company.tick(86_400)
        assert crm.read("deals", mark).watermark == crm.mark()

    def test_more_than_the_org_lists_make_a_full_read(self, salesforce):
        crm = salesforce()
        mark = crm.mark()
        crm.company.tick(3_600)
        crm.running.faults.add(r"/deleted", status=400, body=b'[{"errorCode":"EXCEEDED_ID_LIMIT","message":"x"}]', times=None)
        reading = crm.read("deals", mark)
        assert reading.full
        assert len(reading.rows) == len(living(crm.company))

    @pytest.mark.parametrize("name", ["deals", "stage_entries"])
    def test_a_deal_that_is_listed_as_deleted_and_was_restored_stays(self, salesforce, name):
        crm = salesforce()
        mark = crm.mark()
        crm.company.tick(3_600)
        deal = living(crm.company)[0]
        crm.company.touch(deal)
        ids = (sf_id("006", deal.n), sf_id("006", 9_999))
        body = {
            "deletedRecords": [{"id": one, "deletedDate": "2026-11-20T16:00:00.000+0000"} for one in ids],
            "earliestDateAvailable": "2026-11-01T00:00:00.000+0000",
            "latestDateCovered": f"{crm.company.now:%Y-%m-%dT%H:%M:%S.000+0000}",
        }
        crm.running.faults.add("Opportunity/deleted", status=200, body=json.dumps(body).encode(), times=None)
        assert crm.removed(name, mark) == {sf_id("006", 9_999)}


class TestInterrupted:
    @pytest.mark.parametrize("name", ["deals", "stage_entries"])
    def test_a_read_that_cannot_learn_what_went_meanwhile_begins_anew(self, salesforce, tmp_path, name):
        crm = salesforce(page_size=20)
        source = crm.source(folder=tmp_path)
        crm.running.faults.add(r"/query/0r8", status=500, times=None, skip=2)
        with pytest.raises(TransientError):
            list(source.read(crm.entity(source, name), Since()))
        crm.running.faults.clear()
        crm.company.tick(7_200)
        first = living(crm.company)[0]
        crm.company.move(first, "negotiation" if first.pipeline == "new" else "offer")
        crm.company.edit(first, amount=Decimal("1.23"))
        crm.service.setup.deletes_known_days = 0
        reading = crm.read(name, source=crm.source(folder=tmp_path))
        assert sorted(map(str, reading.rows)) == sorted(map(str, crm.read(name).rows))
        assert reading.watermark == crm.mark()
