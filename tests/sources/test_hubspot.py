"""The HubSpot source against the sandbox's portal. Traps are those of the contract, by number."""

import json
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
import responses
from pydantic import ValidationError

from connector.api import Since
from connector.errors import AuthError, SourceError, TransientError
from connector.http import Session
from connector.sandbox import hubspot as hubspot_sandbox
from connector.sandbox.hubspot_door import LONGEST_ADDRESS
from connector.sandbox.hubspot_objects import hs_id, owner_id, stage_id
from connector.sandbox.hubspot_setup import SCHEMAS, SCOPES
from sources.hubspot import HubSpotSource

OAUTH = {"type": "refresh_token", "client_id": "sandbox-client", "client_secret": "sandbox-secret", "refresh_token": "refresh-0"}


def deal(n):
    return hs_id("deals", n)


def living(company, status=None):
    return [one for one in company.deals.values() if not one.deleted_at and status in (None, company.status(one))]


def deal_ids(company):
    return {deal(one.n) for one in living(company)}


def by_id(rows, key="deal_id"):
    return {row[key]: row for row in rows}


def without(*names):
    return frozenset([*SCOPES.values(), *SCHEMAS.values()]) - {SCOPES[name] for name in names} - {SCHEMAS.get(name) for name in names}


class TestReading:
    def test_gives_every_deal_with_its_values(self, hubspot):
        crm = hubspot()
        rows = by_id(crm.read("deals").rows)
        assert set(rows) == deal_ids(crm.company)
        for one in living(crm.company):
            row = rows[deal(one.n)]
            stage = crm.company.stage(one.pipeline, one.stage)
            assert row["name"] == one.name
            assert row["amount"] == one.amount
            assert row["currency"] == one.currency
            assert row["pipeline"] == crm.company.pipeline(one.pipeline).label
            assert row["stage"] == stage.label
            assert row["status"] == crm.company.status(one)
            assert row["probability"] == float(stage.probability)
            assert row["created_at"] == one.created_at
            assert row["closed_at"] == one.closed_at
            assert row["expected_close_date"] == (None if one.closed_at else one.close_date)
            assert row["owner_id"] == owner_id(one.owner)
            assert row["account_id"] == (hs_id("companies", one.account) if one.account else None)
            assert row["contact_id"] == (hs_id("contacts", one.contact) if one.contact else None)
            assert row["lost_reason"] == one.lost_reason
            assert row["stage_entered_at"] == one.stage_entered_at
            assert row["next_activity_at"] == crm.company.next_activity_at(one)

    def test_stage_entries_are_the_history_without_repeats(self, hubspot):
        crm = hubspot()
        entries = [(deal(one.n), change.at) for one in living(crm.company) if one.n not in crm.company.absorbed for change in one.entries()]
        merged = {deal(n) for n in crm.company.absorbed}
        rows = [row for row in crm.read("stage_entries").rows if row["deal_id"] not in merged]
        assert sorted((row["deal_id"], row["entered_at"]) for row in rows) == sorted(entries)

    @pytest.mark.parametrize("name", ["deals", "stage_entries", "activities"])
    def test_ranges_read_side_by_side_give_every_row_once_and_in_order(self, hubspot, name):
        crm = hubspot()
        rows = crm.read(name, list_page=5).rows
        assert rows == crm.read(name).rows
        assert len({json.dumps(row, default=str) for row in rows}) == len(rows)

    def test_ids_that_stand_close_in_one_place_are_still_read_in_small_pieces(self, hubspot, small):
        """Ids of old portals are anything but evenly spread: here all but one lie in the last hundredth."""
        first, *others = sorted(small.deals)
        small.deals = {n if n == first else n + 5_000: replace(one, n=n if n == first else n + 5_000) for n, one in small.deals.items()}
        crm = hubspot(small)
        source = crm.source(list_page=2)
        pages = list(source.read(crm.entity(source, "deals"), Since()))
        ids = [record["id"] for page in pages for record in page.records]
        assert sorted(ids) == sorted(deal_ids(small))
        assert max(len(page.records) for page in pages) <= 2 * source.pages_per_range * source.list_page
        assert len(crm.asked("GET /crm/objects/2026-09/deals")) < 2 * len(others)

    def test_a_portal_that_takes_only_its_own_cursors_is_read_page_after_page(self, hubspot):
        crm = hubspot(own_cursors_only=True)
        assert crm.ids("deals", list_page=5) == deal_ids(crm.company)
        assert any(one.status == 400 for one in crm.running.requests)

    def test_the_old_paths_are_used_where_the_version_is_unknown(self, hubspot):
        crm = hubspot(versions=frozenset({"v3"}))
        assert len(crm.read("deals").rows) == len(deal_ids(crm.company))
        assert crm.asked("GET /crm/v3/objects/deals")
        assert len(crm.asked("2026-09")) == 1

    def test_old_paths_can_be_configured(self, hubspot):
        crm = hubspot()
        assert crm.read("deals", api_version="v3").rows == crm.read("deals").rows
        assert not [one for one in crm.running.requests[:5] if "2026" in one.path]

    def test_owners_include_those_who_left(self, hubspot):
        crm = hubspot()
        leaver = crm.company.owners[7]
        leaver.active = False
        rows = by_id(crm.read("owners").rows, "owner_id")
        assert len(rows) == len(crm.company.owners)
        assert rows[owner_id(7)]["owner"] == leaver.name
        assert rows[owner_id(7)]["team"] == leaver.team

    def test_activities_are_calls_meetings_tasks_and_emails(self, hubspot):
        crm = hubspot()
        rows = by_id(crm.read("activities").rows, "activity_id")
        kinds = {"call": "calls", "meeting": "meetings", "task": "tasks", "email": "emails"}
        alive = [one for one in crm.company.activities.values() if not one.deleted_at]
        assert len(rows) == len(alive)
        assert {one.kind for one in alive} == set(kinds)
        for one in alive:
            to_write = one.kind == "email" and one.n % 2
            row = rows[hs_id("tasks" if to_write else kinds[one.kind], one.n)]
            assert row["kind"] == one.kind
            assert row["subject"] == one.subject
            assert row["done_at"] == one.done_at
            assert row["lead_id"] == (hs_id("leads", one.lead) if one.lead else None)
            if one.deal and not crm.company.deals[one.deal].deleted_at:
                assert row["deal_id"] == deal(one.deal)

    def test_leads_know_the_deal_they_became(self, hubspot):
        crm = hubspot()
        rows = by_id(crm.read("leads").rows, "lead_id")
        for lead in crm.company.leads.values():
            known = lead.deal and not crm.company.deals[lead.deal].deleted_at
            assert rows[hs_id("leads", lead.n)]["deal_id"] == (deal(lead.deal) if known else None)
            assert rows[hs_id("leads", lead.n)]["converted_at"] == (lead.converted_at if known else None)

    def test_lines_know_their_deal_and_product(self, hubspot):
        crm = hubspot()
        rows = by_id(crm.read("deal_products").rows, "deal_product_id")
        for one in living(crm.company):
            for line in one.lines:
                if not line.deleted_at:
                    row = rows[hs_id("line_items", line.n)]
                    assert (row["deal_id"], row["amount"]) == (deal(one.n), line.amount)
                    assert row["product_id"] == hs_id("products", line.product)

    def test_custom_properties_are_read_for_model_fields(self, hubspot):
        crm = hubspot()
        source = crm.source()
        records = [record for page in source.read(crm.entity(source, "deals"), Since()) for record in page.records]
        assert {record["lead_source"] for record in records} == {one.lead_source for one in living(crm.company)}

    def test_further_properties_are_read_when_named(self, hubspot):
        crm = hubspot()
        source = crm.source(fields={"deals": ["amount_in_home_currency"]})
        records = [record for page in source.read(crm.entity(source, "deals"), Since()) for record in page.records]
        assert any(record["amount_in_home_currency"] for record in records)

    def test_rates_multiply_into_the_portals_currency(self, hubspot):
        crm = hubspot()
        rows = {(row["currency"], row["valid_from"]): row["rate"] for row in crm.read("rates").rows}
        for rate in crm.company.rates:
            if rate.valid_from.year > 2000:
                assert rows[rate.currency, rate.valid_from] == rate.rate

    def test_a_portal_with_one_currency_has_no_rates(self, hubspot):
        crm = hubspot(multi_currency=False)
        assert "rates" not in {entity.name for entity in crm.source().entities()}

    def test_more_properties_than_an_address_holds_come_by_batch(self, hubspot):
        crm = hubspot()
        names = [f"property_with_a_name_of_nearly_a_hundred_characters_as_no_sensible_person_would_{number:04}" for number in range(160)]
        rows = crm.read("deals", fields={"deals": names}).rows
        assert rows == crm.read("deals").rows
        assert crm.asked("batch/read")

    def test_enumerations_are_shown_by_their_labels(self, hubspot):
        crm = hubspot()
        assert {row["segment"] for row in crm.read("accounts").rows} <= {one.segment for one in crm.company.accounts.values()}
        assert {"Best Case", "Commit"} & {row["forecast_category"] for row in crm.read("deals").rows}

    def test_a_renamed_stage_is_shown_by_its_new_label_and_asks_for_a_full_read(self, hubspot):
        crm = hubspot()
        before = crm.entity(crm.source(), "stage_entries")
        crm.company.move(living(crm.company, "open")[0], "offer", pipeline="renewal")
        crm.company.rename_stage("renewal", "offer", "Offer's out")
        assert crm.entity(crm.source(), "stage_entries") != before
        assert "Offer's out" in {row["stage"] for row in crm.read("stage_entries").rows}


class TestIncremental:
    def test_reads_what_changed(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        one = living(crm.company, "open")[0]
        crm.company.edit(one, amount=Decimal("77.70"))
        later = crm.read("deals", watermark)
        row = by_id(later.rows)[deal(one.n)]
        assert row["amount"] == Decimal("77.70")
        assert row["contact_id"] == (hs_id("contacts", one.contact) if one.contact else None)
        assert len(later.rows) < 10

    def test_a_changed_deal_brings_its_whole_history(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        one = living(crm.company, "open")[0]
        crm.company.move(one, "lost")
        rows = [row for row in crm.read("stage_entries", watermark).rows if row["deal_id"] == deal(one.n)]
        assert len(rows) == len(list(one.entries()))

    def test_archived_deals_come_as_removed(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        one = living(crm.company)[3]
        crm.company.delete(one)
        crm.company.tick(3_600)
        for name in ("deals", "stage_entries"):
            assert deal(one.n) in crm.removed(name, watermark)

    def test_a_restored_deal_is_not_removed(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        one = living(crm.company)[3]
        crm.company.delete(one)
        crm.company.tick(60)
        crm.company.restore(one)
        later = crm.read("deals", watermark)
        assert deal(one.n) in by_id(later.rows)
        assert deal(one.n) not in later.removed

    def test_a_merged_deal_removes_its_loser_and_has_both_histories(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        winner, loser = [one for one in living(crm.company, "open") if len(one.history) > 1][:2]
        crm.company.merge_deals(winner, loser)
        assert deal(loser.n) in crm.read("deals", watermark).removed
        later = crm.read("stage_entries", watermark)
        assert deal(loser.n) in later.removed
        stages = [row["stage"] for row in sorted(later.rows, key=lambda row: row["entered_at"]) if row["deal_id"] == deal(winner.n)]
        assert all(before != after for before, after in pairwise(stages))

    def test_after_the_archives_90_days_everything_is_read(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.advance(95, seed=2)
        later = crm.read("deals", watermark)
        assert later.full
        assert set(by_id(later.rows)) == deal_ids(crm.company)

    def test_the_watermark_is_hubspots_clock_before_the_first_request(self, hubspot):
        crm = hubspot()
        session = crm.session()
        session.now = lambda: crm.company.now + timedelta(hours=5)
        source = crm.source(session=session)
        entity = crm.entity(source, "deals")
        started = crm.company.now
        pages = source.read(entity, Since())
        first = next(pages)
        crm.company.tick(600)
        watermark = next(page.watermark for page in (first, *pages) if page.watermark)
        assert datetime.fromisoformat(watermark) == started


class TestInterrupted:
    @pytest.mark.parametrize("name", ["deals", "stage_entries", "activities"])
    def test_goes_on_where_it_was(self, hubspot, tmp_path, name):
        crm = hubspot()
        lists = f"GET /crm/objects/2026-09/{'calls' if name == 'activities' else 'deals'}"
        whole = crm.read(name, list_page=2)
        undisturbed = len(crm.asked(lists))
        source = crm.source(folder=tmp_path / "memory", list_page=2, workers=2)  # few enough that what is under way does not count
        crm.running.faults.add(lists, status=500, times=None, skip=undisturbed * 3 // 4)
        with pytest.raises(TransientError):
            list(source.read(crm.entity(source, name), Since()))
        crm.running.faults.clear()
        crm.running.requests.clear()
        again = crm.read(name, source=crm.source(folder=tmp_path / "memory", list_page=2))
        assert sorted(map(str, again.rows)) == sorted(map(str, whole.rows))
        assert sum(one.query["archived"] == "false" for one in crm.asked(lists)) < undisturbed * 0.9

    def test_histories_that_came_with_interrupted_deals_are_whole(self, hubspot, tmp_path):
        crm = hubspot()
        source = crm.source(folder=tmp_path / "memory", list_page=2)
        crm.running.faults.add("GET /crm/objects/2026-09/deals", status=500, times=None, skip=30)
        with pytest.raises(TransientError):
            list(source.read(crm.entity(source, "deals"), Since()))
        crm.running.faults.clear()
        crm.company.tick(3_600)
        crm.company.move(living(crm.company, "open")[0], "lost")
        crm.company.delete(living(crm.company)[1])
        again = crm.source(folder=tmp_path / "memory", list_page=2)
        deals = {row["deal_id"] for row in crm.read("deals", source=again).rows}
        entries = crm.read("stage_entries", source=again).rows
        assert {row["deal_id"] for row in entries} == deals
        assert sorted(map(str, entries)) == sorted(map(str, crm.read("stage_entries").rows))

    def test_what_changed_meanwhile_is_taken_over(self, hubspot, tmp_path):
        crm = hubspot()
        source = crm.source(folder=tmp_path / "memory", list_page=2)
        crm.running.faults.add("GET /crm/objects/2026-09/deals", status=500, times=None, skip=40)
        with pytest.raises(TransientError):
            list(source.read(crm.entity(source, "deals"), Since()))
        crm.running.faults.clear()
        crm.company.tick(3_600)
        early = living(crm.company)[:2]
        crm.company.delete(early[0])
        crm.company.edit(early[1], amount=Decimal("1.23"))
        again = crm.read("deals", source=crm.source(folder=tmp_path / "memory", list_page=2))
        assert set(by_id(again.rows)) == deal_ids(crm.company)
        assert by_id(again.rows)[deal(early[1].n)]["amount"] == Decimal("1.23")


class TestSigningIn:
    def test_with_oauth_and_renews_an_expired_token(self, hubspot):
        crm = hubspot()
        source = crm.source(auth=OAUTH, list_page=5)
        entity = crm.entity(source, "deals")
        pages = source.read(entity, Since())
        first = [next(pages), next(pages)]
        crm.service.expire_tokens()
        assert set(by_id(crm.normalised(entity, [*first, *pages]).rows)) == deal_ids(crm.company)

    def test_an_oauth_token_is_replaced_before_it_expires(self, hubspot):
        crm = hubspot(oauth_seconds=1_800)
        source = crm.source(auth=OAUTH)
        source.entities()
        crm.company.tick(1_790)
        source.portal.properties("deals")
        assert all(one.status == 200 for one in crm.running.requests)

    @pytest.mark.parametrize(("token", "remedy"), [("pat-rotated", "anew"), ("pat with spaces", "no spaces")])
    def test_a_refused_token_is_found_by_check_and_gives_exit_3(self, hubspot, token, remedy):
        crm = hubspot()
        finding = next(iter(crm.source(token=token).check()))
        assert (finding.ok, finding.exit_code) == (False, 3)
        assert remedy in finding.remedy
        with pytest.raises(AuthError) as caught:
            crm.read("deals", token=token)
        assert token not in str(caught.value)

    def test_a_refused_refresh_token_says_what_to_do(self, hubspot):
        crm = hubspot()
        with pytest.raises(AuthError) as caught:
            crm.read("deals", auth=OAUTH | {"refresh_token": "dead"})
        assert "refresh token" in caught.value.remedy

    def test_a_missing_scope_is_named_by_check_and_by_the_run(self, hubspot):
        crm = hubspot(scopes=without("deals"))
        failed = [finding for finding in crm.source().check() if not finding.ok]
        assert [finding.exit_code for finding in failed] == [3]
        assert "crm.objects.deals.read" in failed[0].remedy
        with pytest.raises(AuthError) as caught:
            crm.source().entities()
        assert "crm.objects.deals.read" in str(caught.value)

    def test_a_lesser_object_without_scope_is_left_out_and_said_so(self, hubspot):
        crm = hubspot(scopes=without("leads", "line_items"))
        assert not {"leads", "deal_products"} & {entity.name for entity in crm.source().entities()}
        assert any("leads" in warning for warning in crm.read("deals").warnings)
        assert {finding.exit_code for finding in crm.source().check() if not finding.ok} == {3}
        assert len(crm.read("activities").rows) > 0

    def test_either_a_token_or_oauth(self):
        with pytest.raises(ValidationError, match="either"):
            HubSpotSource.Config.model_validate({"type": "hubspot"})


class TestLimits:
    def ticking(self, crm, **config):
        """A source whose waits move the portal's clock."""
        session, lock = crm.session(attempts=6), threading.Lock()

        def sleep(seconds):
            with lock:
                crm.slept.append(seconds)
                crm.company.tick(seconds)

        session.sleep = sleep
        return crm.source(session=session, **config)

    def test_the_budget_of_calls_is_kept_without_a_refusal(self, hubspot):
        crm = hubspot(calls_per_10_seconds=40)
        source = self.ticking(crm, list_page=2)
        for name in ("deals", "stage_entries"):
            crm.read(name, source=source)
        assert {one.status for one in crm.running.requests} == {200}
        assert crm.slept

    def test_search_has_a_budget_of_its_own(self, hubspot):
        crm = hubspot(searches_per_second=5, search_page_size=3)
        watermark = crm.mark()
        crm.company.tick(3_600)
        crm.company.touch_all(living(crm.company)[:60])
        later = crm.read("deals", watermark, source=self.ticking(crm))
        assert len(later.rows) >= 60
        assert {one.status for one in crm.asked("search")} == {200}

    @pytest.mark.parametrize("retry_after", [True, False])
    def test_a_refused_call_is_repeated(self, hubspot, retry_after):
        """Somebody else uses the same budget, which nobody can see in advance."""
        crm = hubspot(calls_per_10_seconds=40, retry_after=retry_after)
        source = self.ticking(crm, list_page=5)
        crm.source().entities()
        assert crm.ids("deals", source=source) == deal_ids(crm.company)
        assert 429 in {one.status for one in crm.running.requests}
        assert not retry_after or 10 in crm.slept

    def test_a_used_up_day_ends_the_run_and_is_not_waited_for(self, hubspot):
        crm = hubspot(daily_calls=5)
        with pytest.raises(TransientError) as caught:
            crm.source().entities()
        assert caught.value.exit_code == 75
        assert "midnight" in caught.value.remedy
        assert crm.slept == []

    def test_a_portal_that_is_being_moved_ends_the_run(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("properties/2026-09/deals", status=477, headers={"Retry-After": "86400"})
        with pytest.raises(TransientError, match="moved"):
            crm.source().entities()
        assert crm.slept == []


class TestTrap:
    """§2.10 of the contract, by number."""

    def test_01_search_beyond_10000_results(self, hubspot):
        crm = hubspot(search_cap=20, search_page_size=10)
        watermark = crm.mark()
        crm.company.tick(3_600)
        touched = living(crm.company)[:75]
        crm.company.touch_all(touched)  # one stamp for all, as an import does
        later = crm.read("deals", watermark)
        assert {deal(one.n) for one in touched} <= set(by_id(later.rows))

    def test_01_a_search_that_goes_in_circles_is_an_error(self, hubspot):
        crm = hubspot(search_page_size=5)
        watermark = crm.mark()
        crm.company.tick(3_600)
        crm.company.touch_all(living(crm.company)[:30])
        real = crm.service._matching
        crm.service._matching = lambda kind, groups, sorts: real(kind, [groups[0][:1]], sorts)
        with pytest.raises(SourceError, match="backwards"):
            crm.read("deals", watermark)

    def test_02_a_record_the_index_does_not_know_yet_comes_with_the_next_run(self, hubspot):
        crm = hubspot(index_lag=240)
        watermark = crm.mark()
        crm.company.tick(1_200)
        one = living(crm.company, "open")[0]
        crm.company.edit(one, amount=Decimal("5.55"))
        crm.company.tick(60)
        later = crm.read("deals", watermark)
        assert deal(one.n) not in by_id(later.rows)
        crm.company.tick(1_200)
        assert by_id(crm.read("deals", later.watermark).rows)[deal(one.n)]["amount"] == Decimal("5.55")

    def test_03_many_trivial_changes_are_many_rows_and_no_harm(self, hubspot):
        crm = hubspot()
        first = crm.read("deals")
        crm.company.tick(3_600)
        crm.company.touch_all(living(crm.company))
        later = crm.read("deals", first.watermark)
        unstamped = [{**row, "modified_at": None} for row in first.rows]
        assert [{**row, "modified_at": None} for row in later.rows] == unstamped

    def test_04_the_modified_property_of_contacts_has_another_name(self, hubspot):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        contact = crm.company.contacts[2]
        contact.first, contact.modified_at = "Renamed", crm.company.now
        rows = by_id(crm.read("contacts", watermark).rows, "contact_id")
        assert rows[hs_id("contacts", 2)]["contact"].startswith("Renamed")

    def test_05_addresses_stay_short(self, hubspot):
        """These names alone would be 17,600 characters; the portal takes 16,000."""
        crm = hubspot()
        names = [f"custom_property_with_a_long_long_name_{number:05}" for number in range(400)]
        assert len(",".join(names)) > LONGEST_ADDRESS
        assert crm.read("deals", fields={"deals": names}).rows == crm.read("deals").rows
        assert {one.status for one in crm.running.requests} <= {200, 207}

    def test_06_a_page_with_history_holds_fifty(self, hubspot):
        crm = hubspot()
        crm.read("stage_entries")
        crm.read("deals")
        asked = [one for one in crm.asked("GET .*objects.*deals") if "propertiesWithHistory" in one.query]
        assert {one.query["limit"] for one in asked} == {"50"}

    def test_06_the_list_is_read_once_for_deals_and_their_history(self, hubspot):
        crm = hubspot()
        alone = crm.read("stage_entries").rows
        crm.running.requests.clear()
        source = crm.source()
        crm.read("deals", source=source)
        lists = len(crm.asked("GET /crm/objects/2026-09/deals"))
        assert crm.read("stage_entries", source=source).rows == alone
        assert len(crm.asked("GET /crm/objects/2026-09/deals")) == lists

    def test_07_no_amount_is_not_zero(self, hubspot):
        crm = hubspot()
        none, zero = living(crm.company, "open")[:2]
        none.amount, zero.amount = None, Decimal(0)
        rows = by_id(crm.read("deals").rows)
        assert rows[deal(none.n)]["amount"] is None
        assert rows[deal(zero.n)]["amount"] == 0

    def test_08_a_deal_in_a_stage_that_is_gone_keeps_its_stage_and_outcome(self, hubspot, monkeypatch):
        crm = hubspot()
        real = hubspot_sandbox.pipeline

        def without_lost(pipeline):
            found = real(pipeline)
            return {**found, "stages": [stage for stage in found["stages"] if stage["label"] != "Closed Lost"]}

        monkeypatch.setattr(hubspot_sandbox, "pipeline", without_lost)
        lost = next(one for one in living(crm.company, "lost") if one.pipeline == "new")
        row = by_id(crm.read("deals").rows)[deal(lost.n)]
        assert (row["stage"], row["status"]) == ("closedlost", "lost")

    def test_09_a_deal_may_have_no_owner(self, hubspot):
        crm = hubspot()
        one = living(crm.company)[0]
        real = crm.service._json

        def ownerless(kind, record, asked):
            found = real(kind, record, asked)
            if record is one:
                found["properties"]["hubspot_owner_id"] = ""
            return found

        crm.service._json = ownerless
        assert by_id(crm.read("deals").rows)[deal(one.n)]["owner_id"] is None

    @pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/Berlin", "Asia/Tokyo", "UTC"])
    def test_10_a_close_date_is_the_day_picked_in_the_portals_time_zone(self, hubspot, zone):
        crm = hubspot(time_zone=zone)
        rows = by_id(crm.read("deals", zone="America/New_York").rows)
        for one in living(crm.company, "open"):
            assert rows[deal(one.n)]["expected_close_date"] == one.close_date

    def test_10_a_closing_moment_is_an_instant(self, hubspot):
        crm = hubspot(time_zone="America/Los_Angeles")
        won = living(crm.company, "won")[0]
        assert by_id(crm.read("deals").rows)[deal(won.n)]["closed_at"] == won.closed_at

    def test_11_a_back_dated_creation_counts(self, hubspot):
        crm = hubspot()
        one = living(crm.company)[0]
        real = crm.service._json

        def back_dated(kind, record, asked):
            found = real(kind, record, asked)
            if record is one:
                found["properties"]["createdate"] = "2020-02-03T04:05:06.789Z"
            return found

        crm.service._json = back_dated
        created = by_id(crm.read("deals").rows)[deal(one.n)]["created_at"]
        assert created == datetime(2020, 2, 3, 4, 5, 6, 789_000, ZoneInfo("UTC"))

    def test_12_associations_beyond_the_inline_page_are_all_found(self, hubspot):
        crm = hubspot(associations_inline=1, association_page=3)
        one = next(one for one in living(crm.company) if one.lines)
        for _ in range(9):
            crm.company._add_line(one, crm.company.products[1], 1)
        found = crm.source().portal.associated("deals", "line_items", [deal(one.n)])
        assert len(found[deal(one.n)]) == len([line for line in one.lines if not line.deleted_at])

    def test_12_a_list_with_cut_off_associations_is_completed(self, hubspot):
        crm = hubspot(associations_inline=1)
        kind = crm.service.portal.kinds["deals"]
        contacts = list(crm.company.contacts)
        kind.associated["contacts"] = lambda _: contacts[:5][::-1]
        rows = crm.read("deals").rows
        assert {row["contact_id"] for row in rows} == {hs_id("contacts", contacts[0])}
        assert crm.asked("POST /crm/associations")

    @pytest.mark.parametrize("version", ["2026-09", "v3"])
    def test_12_ids_in_associations_may_be_numbers_or_text(self, hubspot, version):
        crm = hubspot()
        watermark = crm.mark()
        crm.company.tick(3_600)
        lead = next(one for one in crm.company.leads.values() if one.deal and not crm.company.deals[one.deal].deleted_at)
        crm.company.touch(lead)
        rows = by_id(crm.read("leads", watermark, api_version=version).rows, "lead_id")
        assert rows[hs_id("leads", lead.n)]["deal_id"] == deal(lead.deal)

    def test_13_nothing_is_written(self, hubspot):
        crm = hubspot()
        source = crm.source()
        for entity in source.entities():
            list(source.read(entity, Since(crm.mark())))
        posts = [one.path for one in crm.running.requests if one.method != "GET"]
        assert posts
        assert all(path.endswith(("/search", "/batch/read")) for path in posts)

    @responses.activate
    def test_14_without_an_address_every_portal_is_asked_at_the_same_host(self):
        """HubSpot's own sandbox portals, and those whose users work on app-eu1, too: the token tells them apart."""
        responses.get(re.compile(".*"), json={"category": "EXPIRED_AUTHENTICATION"}, status=401)
        for token in ("pat-na1-1", "pat-eu1-2"):
            list(HubSpotSource(HubSpotSource.Config.model_validate({"type": "hubspot", "token": token}), Session()).check())
        asked = [(urlsplit(call.request.url).hostname, call.request.headers["Authorization"]) for call in responses.calls]
        assert asked == [("api.hubapi.com", "Bearer pat-na1-1"), ("api.hubapi.com", "Bearer pat-eu1-2")]

    def test_15_won_is_per_pipeline(self, hubspot):
        crm = hubspot()
        rows = crm.read("stages").rows
        assert {row["pipeline"] for row in rows if row["is_won"]} == {"New Business", "Renewals"}
        assert {(row["pipeline"], row["stage"]): row["stage_order"] for row in rows} == {
            (pipeline.label, stage.label): stage.order for pipeline in crm.company.pipelines for stage in pipeline.stages
        }

    def test_16_sensitive_properties_are_reported_when_they_are_missing(self, hubspot):
        crm = hubspot()
        del crm.service.portal.kinds["deals"].properties["closed_lost_reason"]
        reading = crm.read("deals")
        assert {row["lost_reason"] for row in reading.rows} == {None}
        assert any("closed_lost_reason" in warning for warning in reading.warnings)
        assert any("closed_lost_reason" in finding.detail for finding in crm.source().check())

    def test_17_duplicate_associations_are_one(self, hubspot):
        from sources.hubspot_api import linked

        twice = {"associations": {"companies": {"results": [{"id": "7", "type": "a"}, {"id": "7", "type": "b"}]}}}
        assert linked(twice, "companies") == (["7"], True)
        spaced = {"associations": {"line items": {"results": [{"id": "9"}, {"id": "8"}]}}}
        assert linked(spaced, "line_items") == (["8", "9"], True)

    def test_18_a_page_token_goes_with_one_page_size(self, hubspot):
        crm = hubspot()
        crm.read("contacts")
        assert {one.query["limit"] for one in crm.asked("GET .*objects/.*/contacts") if "properties" in one.query} == {"100"}

    def test_19_ids_are_compared_as_numbers(self, hubspot):
        crm = hubspot(search_page_size=4)
        watermark = crm.mark()
        crm.company.tick(3_600)
        for contact in crm.company.contacts.values():
            contact.modified_at = crm.company.now
        crm.company.version += 1
        assert len(crm.read("contacts", watermark).rows) == len(crm.company.contacts)

    def test_20_without_a_deal_currency_the_portals_holds(self, hubspot):
        crm = hubspot()
        one = living(crm.company)[0]
        one.currency = ""
        assert by_id(crm.read("deals").rows)[deal(one.n)]["currency"] == "EUR"


class TestHistory:
    """§0.3 and §2.7: where a history is cut off."""

    @pytest.mark.parametrize("rows", [20, 45])
    def test_exactly_so_many_rows_are_taken_for_cut_off_and_completed(self, hubspot, rows):
        crm = hubspot(history_rows=rows)
        one = next(one for one in living(crm.company, "open") if one.pipeline == "new")
        keys = [stage.key for stage in crm.company.pipeline("new").open_stages()]
        for step in range(60):
            crm.company.tick()
            crm.company.move(one, keys[step % 2 + 2])
        entries = [row for row in crm.read("stage_entries").rows if row["deal_id"] == deal(one.n)]
        assert entries[0]["stage"] == "Qualification"
        assert len(entries) > rows

    def test_stage_ids_may_be_uuids(self, hubspot):
        crm = hubspot()
        pipeline = crm.company.pipeline("renewal")
        assert "-" in stage_id(pipeline, "offer")
        crm.company.move(living(crm.company, "open")[0], "offer", pipeline="renewal")
        assert "Renewal Offer" in {row["stage"] for row in crm.read("stage_entries").rows}


class TestRule:
    """§0 of the contract, by number, as far as it is about this source."""

    def test_02_the_lower_bound_is_inclusive_and_overlaps(self, hubspot):
        crm = hubspot()
        crm.ids("deals", "2026-11-20T12:00:00Z")
        (asked,) = {one.body for one in crm.asked("POST .*/search")}
        bound = json.loads(asked)["filterGroups"][0]["filters"][0]
        assert (bound["operator"], int(bound["value"])) == ("GTE", int(datetime(2026, 11, 20, 11, 50, tzinfo=UTC).timestamp() * 1000))

    def test_03_what_moves_no_stamp_is_not_stale_in_deals(self, hubspot):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        one = next(one for one in living(crm.company) if one.account and one.modified_at < crm.company.now - timedelta(hours=3))
        crm.company.rename_account(crm.company.accounts[one.account], "Another Name")
        assert deal(one.n) not in crm.ids("deals", mark), "its stamp did not move"
        assert all(row["account"] is None for row in crm.read("deals").rows), "so the deal does not hold the name"
        assert "Another Name" in {row["account"] for row in crm.read("accounts", mark).rows}

    @pytest.mark.parametrize("name", ["deals", "leads", "activities", "deal_products", "contacts"])
    def test_04_deletes_come_by_themselves(self, hubspot, name):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        holder = next(one for one in living(crm.company) if one.lines and one.activities)
        kind, one = {
            "deals": ("deals", holder),
            "leads": ("leads", crm.company.leads[1]),
            "activities": (None, crm.company.activities[holder.activities[0]]),
            "deal_products": ("line_items", holder.lines[0]),
            "contacts": ("contacts", crm.company.contacts[1]),
        }[name]
        crm.company.delete(one)
        assert {hs_id(each, one.n) for each in ([kind] if kind else ["calls", "meetings", "tasks"])} & crm.removed(name, mark)

    def test_05_history_is_read_beside_the_record(self, hubspot):
        crm = hubspot()
        one = next(one for one in living(crm.company) if len(list(one.entries())) > 2 and one.n not in crm.company.absorbed)
        rows = [row for row in crm.read("stage_entries").rows if row["deal_id"] == deal(one.n)]
        assert [row["entered_at"] for row in rows] == [entry.at for entry in one.entries()]

    def test_06_the_outcome_does_not_come_from_the_stages_name(self, hubspot):
        crm = hubspot()
        crm.company.rename_stage("new", "won", "Lost and found")
        rows = crm.read("deals").rows
        assert {row["status"] for row in rows if row["stage"] == "Lost and found"} == {"won"}

    def test_07_money_stays_in_the_deals_currency(self, hubspot):
        crm = hubspot()
        rows = by_id(crm.read("deals").rows)
        assert {(rows[deal(one.n)]["amount"], rows[deal(one.n)]["currency"]) for one in living(crm.company)} == {
            (one.amount, one.currency) for one in living(crm.company)
        }

    def test_08_a_close_date_is_not_shifted_through_a_time_zone(self, hubspot):
        crm = hubspot(time_zone="Pacific/Auckland")
        one = living(crm.company, "open")[0]
        assert by_id(crm.read("deals", zone="America/Los_Angeles").rows)[deal(one.n)]["expected_close_date"] == one.close_date

    def test_09_a_cursor_that_comes_back_is_an_error(self, hubspot):
        crm = hubspot()
        source = crm.source()
        entity = crm.entity(source, "deals")
        again = {"results": [{"id": "31245000014", "properties": {}}], "paging": {"next": {"after": "31245000014"}}}
        crm.running.faults.add("GET /crm/objects/2026-09/deals", status=200, body=json.dumps(again).encode(), times=None)
        with pytest.raises(SourceError, match="same page twice"):
            list(source.read(entity, Since()))

    def test_01_ids_are_text(self, hubspot):
        row = hubspot().read("deals").rows[0]
        assert all(isinstance(row[name], str) and row[name].isdigit() for name in ("deal_id", "owner_id", "account_id", "contact_id"))

    @pytest.mark.parametrize("status", [502, 524])
    def test_10_server_errors_are_repeated_also_for_reads_by_post(self, hubspot, status):
        crm = hubspot()
        watermark = crm.mark()
        crm.running.faults.add("search", status=status, body=b"<html>cloud</html>", times=2)
        crm.read("deals", watermark)
        assert len(crm.asked("search")) > 2

    def test_10_a_lost_connection_is_repeated(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("objects/2026-09/deals", drop=True, times=2)
        assert crm.ids("deals") == deal_ids(crm.company)

    def test_11_no_secret_is_in_a_message(self, hubspot):
        crm = hubspot(token="other")
        with pytest.raises(AuthError) as caught:
            crm.read("deals")
        assert "pat-sandbox" not in f"{caught.value} {caught.value.remedy} {crm.source().config!r}"

    def test_12_a_short_page_is_not_the_end(self, hubspot):
        crm = hubspot(page_size=7)
        assert crm.ids("deals") == deal_ids(crm.company)

    def test_13_answers_are_asked_for_compressed(self, hubspot):
        crm = hubspot()
        crm.read("products")
        assert all("gzip" in one.headers["accept-encoding"] for one in crm.running.requests)

    def test_14_a_refusal_may_have_no_body_at_all(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("exchange-rates", status=404, body=b"")
        assert "rates" not in {entity.name for entity in crm.source().entities()}
