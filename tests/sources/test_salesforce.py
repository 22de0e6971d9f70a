"""The Salesforce source against the sandbox's org. Traps are those of the contract, by number."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from pydantic import ValidationError

from connector.api import Since
from connector.errors import AuthError, SourceError, TransientError
from connector.http import Network, Session
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.salesforce_objects import sf_id
from sources.salesforce import SalesforceSource

WON = "won"
SALESFORCE_AUTH = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
DOCS = Path(__file__).parents[2] / "docs" / "sources" / "salesforce.md"


def deal_ids(company):
    return {sf_id("006", deal.n) for deal in company.deals.values() if not deal.deleted_at}


def living(company, status=None):
    return [deal for deal in company.deals.values() if not deal.deleted_at and status in (None, company.status(deal))]


def by_id(rows, key="deal_id"):
    return {row[key]: row for row in rows}


def key_pair():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


class ToOrg(requests.adapters.HTTPAdapter):
    """Sends what is meant for Salesforce's hosts to the look-alike, as a hosts file would; `hosts` are those asked, with what for."""

    def __init__(self, base):
        super().__init__()
        self.base = urlsplit(base)
        self.hosts = []

    def send(self, request, **kwargs):
        parts = urlsplit(request.url)
        self.hosts.append((parts.netloc, parts.path.split("/")[2]))
        request.headers["Host"] = parts.netloc
        request.url = parts._replace(scheme=self.base.scheme, netloc=self.base.netloc).geturl()
        return super().send(request, **kwargs)


def by_domain(crm, domain, **config):
    """A source that knows only its domain, and the way its requests take."""
    session, way = crm.session(), ToOrg(crm.running.url("salesforce"))
    session.mount("https://", way)
    return crm.source(session=session, base_url=None, domain=domain, **config), way


class TestReading:
    def test_gives_every_deal_with_its_values(self, salesforce):
        crm = salesforce()
        rows = by_id(crm.read("deals").rows)
        assert set(rows) == deal_ids(crm.company)
        for deal in living(crm.company):
            row = rows[sf_id("006", deal.n)]
            stage = crm.company.stage(deal.pipeline, deal.stage)
            assert row["name"] == deal.name
            assert row["amount"] == deal.amount
            assert row["currency"] == deal.currency
            assert row["stage"] == stage.label
            assert row["status"] == crm.company.status(deal)
            assert row["probability"] == float(stage.probability)
            assert row["expected_close_date"] == deal.close_date
            assert row["closed_at"] == deal.closed_at
            assert row["created_at"] == deal.created_at
            assert row["pipeline"] == crm.company.pipeline(deal.pipeline).label
            assert row["is_existing_customer"] == int(deal.existing)

    def test_pages_hold_every_row_once(self, salesforce):
        crm = salesforce(page_size=200)
        crm.company.advance(120, seed=5)
        source = crm.source()
        entity = crm.entity(source, "stage_entries")
        pages = list(source.read(entity, Since()))
        assert sum(bool(page.records) for page in pages) > 1
        entries = [(sf_id("006", deal.n), change.at) for deal in living(crm.company) for change in deal.entries()]
        assert sorted((row["deal_id"], row["entered_at"]) for row in crm.normalised(entity, pages).rows) == sorted(entries)

    def test_rest_and_bulk_give_the_same(self, salesforce):
        crm = salesforce(page_size=200)
        for name in ("deals", "stage_entries", "activities", "leads", "accounts", "deal_products"):
            rest, bulk = crm.read(name), crm.read(name, bulk_from=10)
            assert rest.rows == bulk.rows
        assert crm.asked(r"POST .*/jobs/query")
        assert crm.service.jobs == {}, "finished jobs are removed"

    def test_bulk_is_chosen_by_size(self, salesforce):
        crm = salesforce()
        crm.read("deals")
        assert not crm.asked("jobs/query")
        crm.read("deals", bulk_from=60)
        assert crm.asked("jobs/query")
        crm.read("products", bulk_from=60)
        assert len(crm.asked("POST .*jobs/query")) == 1

    def test_objects_bulk_does_not_know_are_read_by_rest(self, salesforce):
        crm = salesforce()
        real = crm.service.objects
        crm.service.objects = lambda: {
            name: one if name != "Lead" else type(one)(one.name, one.prefix, one.rows, one.fields, one.parents, one.archived, False)
            for name, one in real().items()
        }
        assert len(crm.read("leads", bulk_from=10).rows) == len(crm.company.leads)

    def test_owners_bring_team_manager_and_region(self, salesforce):
        crm = salesforce()
        rows = by_id(crm.read("owners").rows, "owner_id")
        for owner in crm.company.owners.values():
            row = rows[sf_id("005", owner.n)]
            assert (row["owner"], row["team"], row["region"]) == (owner.name, owner.team, owner.region)
            assert row["manager"] == (crm.company.owners[owner.manager].name if owner.manager else None)

    def test_owner_of_a_lead_may_be_a_queue(self, salesforce):
        assert "Inbound Leads" in {row["owner"] for row in salesforce().read("owners").rows}

    def test_activities_are_tasks_and_events(self, salesforce):
        crm = salesforce()
        rows = by_id(crm.read("activities").rows, "activity_id")
        assert len(rows) == sum(one.deleted_at is None for one in crm.company.activities.values())
        for one in crm.company.activities.values():
            if one.deleted_at:
                continue
            row = rows[sf_id("00U" if one.kind == "meeting" else "00T", one.n)]
            assert row["kind"] == one.kind
            assert row["deal_id"] == (sf_id("006", one.deal) if one.deal else None)
            assert row["lead_id"] == (sf_id("00Q", one.lead) if one.lead else None)
            if one.done_at:
                assert row["done_at"] == one.done_at

    def test_activities_older_than_a_year_are_archived_and_read_all_the_same(self, salesforce):
        crm = salesforce()
        crm.company.advance(400, seed=1)
        old = [one for one in crm.company.activities.values() if one.done_at and crm.company.now - one.done_at > timedelta(days=366)]
        rows = by_id(crm.read("activities").rows, "activity_id")
        assert old
        assert all(sf_id("00U" if one.kind == "meeting" else "00T", one.n) in rows for one in old if not one.deleted_at)

    def test_an_event_is_done_when_its_time_has_passed(self, salesforce):
        crm = salesforce()
        deal = living(crm.company, "open")[0]
        while (activity := crm.company.plan(deal, None, crm.company.now + timedelta(days=2))).kind != "meeting":
            pass
        first = crm.read("activities")
        assert by_id(first.rows, "activity_id")[sf_id("00U", activity.n)]["done_at"] is None
        crm.company.tick(3 * 86_400)
        later = crm.read("activities", first.watermark)
        assert by_id(later.rows, "activity_id")[sf_id("00U", activity.n)]["done_at"] is not None

    def test_leads_know_the_deal_they_became(self, salesforce):
        crm = salesforce()
        rows = by_id(crm.read("leads").rows, "lead_id")
        for lead in crm.company.leads.values():
            assert rows[sf_id("00Q", lead.n)]["deal_id"] == (sf_id("006", lead.deal) if lead.deal else None)
            assert rows[sf_id("00Q", lead.n)]["converted_at"] == (lead.converted_at.date() if lead.converted_at else None)

    def test_custom_fields_are_read_for_model_fields(self, salesforce):
        crm = salesforce()
        source = crm.source()
        entity = crm.entity(source, "deals")
        records = [record for page in source.read(entity, Since()) for record in page.records]
        reasons = {record["Loss_Reason__c"] for record in records}
        assert {deal.lost_reason for deal in living(crm.company)} == reasons

    def test_further_fields_are_read_when_named(self, salesforce):
        crm = salesforce()
        source = crm.source(fields={"deals": ["IsPrivate"]})
        records = [record for page in source.read(crm.entity(source, "deals"), Since()) for record in page.records]
        assert {record["IsPrivate"] for record in records} == {False}

    def test_spend_is_what_campaigns_cost(self, salesforce):
        crm = salesforce()
        rows = crm.read("spend").rows
        assert sorted((row["period"], row["category"], row["amount"]) for row in rows) == sorted(
            (one.month, one.category, one.amount) for one in crm.company.spend
        )

    def test_quotas_are_by_owner_and_month(self, salesforce):
        crm = salesforce()
        rows = crm.read("quotas").rows
        assert {(row["period"], row["owner"], row["amount"]) for row in rows} == {
            (one.month, crm.company.owners[one.owner].name, one.amount) for one in crm.company.quotas
        }

    def test_lines_bring_products(self, salesforce):
        crm = salesforce()
        rows = crm.read("deal_products").rows
        assert sum(row["amount"] for row in rows) == sum(
            line.amount for deal in living(crm.company) for line in deal.lines if not line.deleted_at
        )
        products = by_id(crm.read("products").rows, "product_id")
        assert {products[row["product_id"]]["product_category"] for row in rows} <= {one.category for one in crm.company.products.values()}

    def test_every_contact_of_a_deal_comes_with_the_role_and_the_primary_one_is_the_deals(self, salesforce):
        crm = salesforce()
        deals, rows = by_id(crm.read("deals").rows), crm.read("deal_contacts").rows
        assert {(row["deal_id"], row["contact_id"], row["role"], row["is_primary"]) for row in rows} == {
            (sf_id("006", deal.n), sf_id("003", role.contact), role.name, int(role.primary))
            for deal in living(crm.company)
            for role in deal.roles
        }
        assert len(rows) > len({row["deal_id"] for row in rows}), "some deals have several"
        assert all(deals[row["deal_id"]]["contact_id"] == row["contact_id"] for row in rows if row["is_primary"])


class TestStages:
    def test_order_probability_and_outcome_come_from_metadata(self, salesforce):
        crm = salesforce()
        rows = {(row["pipeline"], row["stage"]): row for row in crm.read("stages").rows}
        for pipeline in crm.company.pipelines:
            for stage in pipeline.stages:
                row = rows[pipeline.label, stage.label]
                assert (row["stage_order"], row["probability"]) == (stage.order, float(stage.probability))
                assert (row["is_won"], row["is_lost"]) == (int(stage.won), int(stage.lost))

    def test_without_picklists_by_record_type_every_pipeline_has_every_stage(self, salesforce):
        rows = salesforce(picklists_by_record_type=False).read("stages").rows
        assert len(rows) == 2 * 9

    def test_without_record_types_the_pipeline_is_default(self, salesforce):
        crm = salesforce(record_types=False)
        assert {row["pipeline"] for row in crm.read("stages").rows} == {"default"}
        assert {row["pipeline"] for row in crm.read("deals").rows} == {"default"}
        assert {row["pipeline"] for row in crm.read("stage_entries").rows} == {"default"}

    def test_a_renamed_stage_is_shown_by_its_new_label_and_asks_for_a_full_read(self, salesforce):
        crm = salesforce()
        before = crm.entity(crm.source(), "deals")
        crm.company.rename_stage("new", "proposal", "Offer's out")
        after = crm.entity(crm.source(), "deals")
        assert before != after, "the flow reads an entity anew when its map changes"
        stages = {row["stage"] for row in crm.read("deals").rows}
        assert "Offer's out" in stages
        assert "Proposal" not in stages

    def test_history_rows_without_a_change_of_stage_are_no_entries(self, salesforce):
        crm = salesforce()
        deal = living(crm.company, "open")[0]
        for _ in range(3):
            crm.company.tick()
            crm.company.edit(deal, close_date=date(2027, 1, 1))
        rows = [row for row in crm.read("stage_entries").rows if row["deal_id"] == sf_id("006", deal.n)]
        assert [row["entered_at"] for row in sorted(rows, key=lambda row: row["entered_at"])] == [one.at for one in deal.entries()]


class TestMoney:
    def test_rates_multiply_into_the_corporate_currency(self, salesforce):
        crm = salesforce()
        rows = {(row["currency"], row["valid_from"]): row["rate"] for row in crm.read("rates").rows}
        for rate in crm.company.rates:
            day = date(1900, 1, 1) if rate.valid_from.year == 2000 else rate.valid_from
            assert rows[rate.currency, day] == rate.rate
        assert rows["EUR", date(1900, 1, 1)] == 1

    def test_without_dated_rates_the_static_ones_are_read(self, salesforce):
        crm = salesforce(dated_rates=False)
        assert sorted(row["currency"] for row in crm.read("rates").rows) == ["EUR", "GBP", "USD"]

    def test_a_single_currency_org_has_no_rates_and_one_currency(self, salesforce):
        crm = salesforce(multi_currency=False)
        assert "rates" not in {entity.name for entity in crm.source().entities()}
        assert {row["currency"] for row in crm.read("deals").rows} == {"EUR"}

    def test_amounts_are_never_converted(self, salesforce):
        crm = salesforce()
        foreign = next(deal for deal in living(crm.company) if deal.currency != "EUR" and deal.amount)
        assert by_id(crm.read("deals").rows)[sf_id("006", foreign.n)]["amount"] == foreign.amount
        assert not any("convertCurrency" in one.query.get("q", "") for one in crm.running.requests)


class TestIncremental:
    def test_reads_what_changed(self, salesforce):
        crm = salesforce()
        watermark = crm.mark()
        crm.company.tick(3_600)
        deal = living(crm.company, "open")[0]
        crm.company.edit(deal, amount=Decimal("77.70"))
        later = crm.read("deals", watermark)
        assert by_id(later.rows)[sf_id("006", deal.n)]["amount"] == Decimal("77.70")
        assert len(later.rows) < 10

    def test_deleted_deals_come_as_removed_from_deals_and_their_history(self, salesforce):
        crm = salesforce()
        watermark = crm.mark()
        crm.company.tick(3_600)
        deal = living(crm.company)[3]
        crm.company.delete(deal)
        crm.company.tick(3_600)
        assert sf_id("006", deal.n) in crm.removed("deals", watermark)
        assert sf_id("006", deal.n) in crm.removed("stage_entries", watermark)

    def test_purged_deals_come_as_removed(self, salesforce):
        crm = salesforce(recycle_bin_days=0)
        watermark = crm.mark()
        crm.company.tick(3_600)
        deal = living(crm.company)[3]
        crm.company.delete(deal)
        crm.company.tick(86_400)
        assert sf_id("006", deal.n) in crm.removed("deals", watermark)
        assert sf_id("006", deal.n) in crm.removed("stage_entries", watermark)

    def test_a_restored_deal_is_not_removed(self, salesforce):
        crm = salesforce()
        watermark = crm.mark()
        crm.company.tick(3_600)
        deal = living(crm.company)[3]
        crm.company.delete(deal)
        crm.company.tick(60)
        crm.company.restore(deal)
        later = crm.read("deals", watermark)
        assert sf_id("006", deal.n) in by_id(later.rows)
        assert later.removed == ()
        assert sf_id("006", deal.n) in {row["deal_id"] for row in crm.read("stage_entries", watermark).rows}

    def test_merged_accounts_go_and_their_deals_move(self, salesforce):
        crm = salesforce()
        watermark = crm.mark()
        crm.company.tick(3_600)
        loser, winner = (crm.company.accounts[deal.account] for deal in living(crm.company)[:2])
        crm.company.merge_accounts(winner, loser)
        assert crm.read("accounts", watermark).removed == (sf_id("001", loser.n),)
        moved = by_id(crm.read("deals", watermark).rows)
        assert {
            moved[sf_id("006", deal.n)]["account_id"]
            for deal in living(crm.company)
            if deal.account == winner.n and sf_id("006", deal.n) in moved
        } == {sf_id("001", winner.n)}

    def test_deletes_that_are_no_longer_known_make_a_full_read(self, salesforce):
        crm = salesforce()
        watermark = crm.mark()
        crm.company.advance(45, seed=2)
        later = crm.read("deals", watermark)
        assert later.full
        assert set(by_id(later.rows)) == deal_ids(crm.company)

    def test_the_watermark_is_the_orgs_clock_before_the_first_request(self, salesforce):
        crm = salesforce()
        session = crm.session()
        session.now = lambda: crm.company.now + timedelta(hours=5)  # a machine that is five hours ahead
        source = crm.source(session=session)
        entity = crm.entity(source, "deals")
        started = crm.company.now
        pages = source.read(entity, Since())
        first = next(pages)
        crm.company.tick(600)
        rest = list(pages)
        watermark = next(page.watermark for page in (first, *rest) if page.watermark)
        assert datetime.fromisoformat(watermark) == started

    def test_records_of_one_stamp_across_page_ends_all_arrive(self, salesforce):
        crm = salesforce(page_size=20)
        watermark = crm.mark()
        crm.company.tick(3_600)
        deals = living(crm.company)[:70]
        crm.company.touch_all(deals)
        assert {sf_id("006", deal.n) for deal in deals} <= set(by_id(crm.read("deals", watermark).rows))


class TestInterrupted:
    """A full read that broke off goes on where it was, and is still right."""

    def broken(self, crm, tmp_path, name, match, skip, **config):
        source = crm.source(folder=tmp_path / "memory", **config)
        entity = crm.entity(source, name)
        fault = crm.running.faults.add(match, status=500, times=None, skip=skip)
        with pytest.raises(TransientError):
            list(source.read(entity, Since()))
        crm.running.faults.clear()
        assert fault.hits
        crm.running.requests.clear()

    @pytest.mark.parametrize("name", ["deals", "stage_entries", "activities"])
    def test_over_rest(self, salesforce, tmp_path, name):
        crm = salesforce(page_size=20)
        things = {"deals": "Opportunity", "stage_entries": "OpportunityHistory", "activities": "Task"}
        self.broken(crm, tmp_path, name, r"/(query|queryAll)/0r8", 2)
        again = crm.read(name, source=crm.source(folder=tmp_path / "memory"))
        whole = [
            one for one in crm.running.requests if re.search(rf"FROM {things[name]}\b(?!.* WHERE .*SystemModstamp)", one.query.get("q", ""))
        ]
        assert whole == [], "the query was not begun again"
        assert sorted(map(str, again.rows)) == sorted(map(str, crm.read(name).rows))

    def test_over_bulk(self, salesforce, tmp_path):
        crm = salesforce(page_size=20, bulk_page=60)
        self.broken(crm, tmp_path, "stage_entries", r"/results", 2, bulk_from=50)
        again = crm.read("stage_entries", source=crm.source(folder=tmp_path / "memory", bulk_from=50))
        assert not crm.asked("POST .*/jobs/query")
        assert sorted(map(str, again.rows)) == sorted(map(str, crm.read("stage_entries").rows))

    def test_what_changed_meanwhile_is_taken_over(self, salesforce, tmp_path):
        crm = salesforce(page_size=20)
        self.broken(crm, tmp_path, "deals", r"/query/0r8", 2)
        crm.company.tick(3_600)
        early = living(crm.company)[:3]
        crm.company.delete(early[0])
        crm.company.edit(early[1], amount=Decimal("1.23"))
        again = crm.read("deals", source=crm.source(folder=tmp_path / "memory"))
        assert set(by_id(again.rows)) == deal_ids(crm.company)
        assert by_id(again.rows)[sf_id("006", early[1].n)]["amount"] == Decimal("1.23")
        assert not (tmp_path / "memory" / "unfinished").exists() or not any((tmp_path / "memory" / "unfinished").iterdir())

    def test_a_place_the_org_has_forgotten_starts_over(self, salesforce, tmp_path):
        crm = salesforce(page_size=20)
        self.broken(crm, tmp_path, "deals", r"/query/0r8", 2)
        crm.service.expire_cursors()
        again = crm.read("deals", source=crm.source(folder=tmp_path / "memory"))
        assert set(by_id(again.rows)) == deal_ids(crm.company)

    def test_another_configuration_does_not_take_up_its_pages(self, salesforce, tmp_path):
        crm = salesforce(page_size=20)
        self.broken(crm, tmp_path, "deals", r"/query/0r8", 2)
        source = crm.source(folder=tmp_path / "memory", fields={"deals": ["IsPrivate"]})
        records = [record for page in source.read(crm.entity(source, "deals"), Since()) for record in page.records]
        assert all("IsPrivate" in record for record in records)


class TestSigningIn:
    def test_with_client_credentials(self, salesforce):
        crm = salesforce()
        crm.read("products")
        assert crm.service.logins == 1

    def test_with_a_jwt(self, salesforce):
        private, public = key_pair()
        crm = salesforce(public_key=public)
        auth = {"type": "jwt_bearer", "client_id": "sandbox-client", "username": "integration@sandbox.example", "private_key": private}
        assert crm.read("products", auth=auth).rows

    @pytest.mark.parametrize(
        ("change", "remedy"),
        [
            ({"username": "somebody@else.example"}, "authorise the app"),
            ({"audience": "https://elsewhere.example"}, "auth.audience"),
            ({"private_key": key_pair()[0]}, "private key"),
        ],
    )
    def test_a_refused_jwt_says_what_to_do(self, salesforce, change, remedy):
        private, public = key_pair()
        crm = salesforce(public_key=public)
        auth = {
            "type": "jwt_bearer",
            "client_id": "sandbox-client",
            "username": "integration@sandbox.example",
            "private_key": private,
        } | change
        with pytest.raises(AuthError) as caught:
            crm.read("products", auth=auth)
        assert remedy in caught.value.remedy

    def test_a_wrong_clock_is_told_from_a_wrong_key(self, salesforce):
        private, public = key_pair()
        crm = salesforce(public_key=public)
        session = crm.session()
        session.now = lambda: crm.company.now - timedelta(hours=1)
        auth = {"type": "jwt_bearer", "client_id": "sandbox-client", "username": "integration@sandbox.example", "private_key": private}
        with pytest.raises(AuthError) as caught:
            crm.read("products", source=crm.source(session=session, auth=auth))
        assert "clock" in caught.value.remedy

    def test_a_rotated_refresh_token_is_kept_before_it_is_needed(self, salesforce, tmp_path):
        crm = salesforce(rotate_refresh_tokens=True)
        auth = {"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "refresh-0"}
        for expected in ("refresh-1", "refresh-2"):
            assert crm.read("products", source=crm.source(folder=tmp_path, auth=auth)).rows
            kept = [json.loads(file.read_text()) for file in tmp_path.glob("refresh-*.json")]
            assert kept == [{"refresh_token": expected}]

    def test_a_rotated_refresh_token_is_kept_before_the_session_is_used(self, salesforce, tmp_path):
        """Killed right after signing in, the next run has the token that lives."""
        crm = salesforce(rotate_refresh_tokens=True)
        auth = {"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "refresh-0"}
        crm.source(folder=tmp_path, auth=auth).org._oauth.token()
        assert [json.loads(file.read_text()) for file in tmp_path.rglob("refresh-*.json")] == [{"refresh_token": "refresh-1"}]

    def test_data_is_asked_for_where_the_token_says(self, salesforce):
        crm = salesforce(instance_url="https://na139.salesforce.com")
        source, way = by_domain(crm, "acme.my.salesforce.com")
        assert crm.read("products", source=source).rows
        assert set(way.hosts) == {("acme.my.salesforce.com", "oauth2"), ("na139.salesforce.com", "data")}

    def test_the_audience_of_a_jwt_may_be_my_domain(self, salesforce):
        private, public = key_pair()
        crm = salesforce(public_key=public)
        auth = {"type": "jwt_bearer", "client_id": "sandbox-client", "username": "integration@sandbox.example", "private_key": private}
        assert crm.read("products", auth=auth | {"audience": "https://acme.my.salesforce.com"}).rows

    def test_a_new_refresh_token_in_yaml_wins_over_a_kept_one(self, salesforce, tmp_path):
        crm = salesforce(rotate_refresh_tokens=True)
        crm.read(
            "products",
            source=crm.source(folder=tmp_path, auth={"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "refresh-0"}),
        )
        crm.service.grants.tokens.add("brand-new")
        auth = {"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "brand-new"}
        assert crm.read("products", source=crm.source(folder=tmp_path, auth=auth)).rows

    def test_an_expired_session_is_renewed_once_under_way(self, salesforce):
        crm = salesforce(page_size=20)
        source = crm.source()
        entity = crm.entity(source, "deals")
        pages = source.read(entity, Since())
        first = [next(pages), next(pages)]
        crm.service.expire_sessions()
        reading = crm.normalised(entity, [*first, *pages])
        assert set(by_id(reading.rows)) == deal_ids(crm.company)
        assert crm.service.logins == 2

    @pytest.mark.parametrize(
        ("setup", "auth", "remedy"),
        [
            ({"client_secret": "rolled"}, {}, "client_secret"),
            ({"client_id": "other"}, {}, "client_id"),
            ({"run_as_user": False}, {}, "run-as user"),
            ({}, {"type": "refresh_token", "client_id": "sandbox-client", "refresh_token": "dead"}, "sign in again"),
        ],
    )
    def test_a_refused_credential_is_found_by_check_and_gives_exit_3(self, salesforce, setup, auth, remedy):
        crm = salesforce(**setup)
        config = {"auth": auth} if auth else {}
        finding = next(iter(crm.source(**config).check()))
        assert (finding.ok, finding.exit_code) == (False, 3)
        assert remedy in finding.remedy
        with pytest.raises(AuthError) as caught:
            crm.read("deals", **config)
        assert caught.value.exit_code == 3
        assert "sandbox-secret" not in str(caught.value)

    def test_revoked_while_reading_gives_exit_3(self, salesforce):
        crm = salesforce(page_size=20)
        source = crm.source()
        pages = source.read(crm.entity(source, "deals"), Since())
        next(pages), next(pages)
        crm.service.expire_sessions()
        crm.service.setup.client_secret = "rolled"
        with pytest.raises(AuthError):
            list(pages)


class TestHiddenThings:
    def test_a_hidden_object_is_found_by_check_and_gives_exit_3(self, salesforce):
        crm = salesforce(hidden_objects=frozenset({"Opportunity"}))
        failed = [finding for finding in crm.source().check() if not finding.ok]
        assert [finding.exit_code for finding in failed] == [3]
        assert "Opportunity" in failed[0].what
        with pytest.raises(AuthError) as caught:
            crm.source().entities()
        assert "Read on Opportunity" in caught.value.remedy

    def test_a_hidden_lesser_object_is_left_out_and_said_so(self, salesforce):
        crm = salesforce(hidden_objects=frozenset({"Lead", "Event"}))
        assert "leads" not in {entity.name for entity in crm.source().entities()}
        warnings = crm.read("deals").warnings
        assert any("Lead" in warning for warning in warnings)
        assert [finding.exit_code for finding in crm.source().check() if not finding.ok] == [3, 3]

    def test_everything_is_fine_is_said_too(self, salesforce):
        assert all(finding.ok for finding in salesforce().source().check())

    def test_an_unknown_version_is_a_configuration_error(self, salesforce):
        findings = list(salesforce().source(api_version="v99.0").check())
        assert [(finding.ok, finding.exit_code) for finding in findings] == [(False, 2)]


class TestTrap:
    """§1.11 of the contract, by number."""

    def test_01_the_limit_header_may_hold_more_than_one_figure(self, salesforce):
        crm = salesforce(daily_calls=8)
        with pytest.raises(TransientError) as caught:
            crm.source(api_budget=0.5).entities()
        assert caught.value.exit_code == 75
        assert crm.service.used < 8, "the rest of the day's calls is left to others"

    def test_01_a_used_up_day_ends_the_run_and_is_not_waited_for(self, salesforce):
        crm = salesforce(daily_calls=3)
        with pytest.raises(TransientError) as caught:
            crm.source(api_budget=1).entities()
        assert "24 hours" in str(caught.value)
        assert crm.slept == []

    @pytest.mark.parametrize("end", ["Aborted", "Failed"])
    def test_02_an_aborted_or_failed_bulk_job_ends_the_read(self, salesforce, end):
        crm = salesforce(bulk_end=end)
        with pytest.raises(SourceError, match=end):
            crm.read("deals", bulk_from=10)

    def test_03_an_auth_error_may_lack_its_description(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("oauth2/token", status=400, body=b'{"error":"invalid_grant"}')
        with pytest.raises(AuthError, match="invalid_grant"):
            crm.read("products")

    @pytest.mark.parametrize("name", ["NA", "None", "NULL", "N/A", "nan", 'He said "hi",\nand left'])
    @pytest.mark.parametrize("bulk_from", [10, 10_000])
    def test_04_a_name_may_look_like_nothing(self, salesforce, name, bulk_from):
        crm = salesforce()
        account = crm.company.accounts[1]
        crm.company.rename_account(account, name)
        assert by_id(crm.read("accounts", bulk_from=bulk_from).rows, "account_id")[sf_id("001", 1)]["account"] == name

    def test_05_nul_bytes_do_not_break_the_csv(self, salesforce):
        crm = salesforce(nul_bytes=True)
        rows = crm.read("accounts", bulk_from=10).rows
        assert {row["account"] for row in rows} == {one.name for one in crm.company.accounts.values() if not one.deleted_at}

    def test_06_a_hidden_field_is_reported_not_silently_empty(self, salesforce):
        crm = salesforce(hidden_fields={"Opportunity": frozenset({"Amount"})})
        reading = crm.read("deals")
        assert set(by_id(reading.rows)) == deal_ids(crm.company)
        assert {row["amount"] for row in reading.rows} == {None}
        assert any("Amount" in warning for warning in reading.warnings)
        failed = [finding for finding in crm.source().check() if not finding.ok]
        assert "Amount" in failed[0].detail
        assert failed[0].exit_code == 3

    def test_06_a_hidden_key_field_is_an_error(self, salesforce):
        crm = salesforce(hidden_fields={"Opportunity": frozenset({"StageName"})})
        with pytest.raises(AuthError, match="StageName"):
            crm.read("deals")

    def test_07_more_fields_than_an_address_holds(self, salesforce):
        crm = salesforce(custom_fields=800)
        source = crm.source()
        pages = list(source.read(crm.entity(source, "deals"), Since()))
        records = [record for page in pages for record in page.records]
        assert len(records) == len(deal_ids(crm.company))
        assert all(len([name for name in record if name.startswith("Extra_")]) == 800 for record in records)

    def test_08_many_refusals_make_one_sign_in(self, salesforce):
        from concurrent.futures import ThreadPoolExecutor

        crm = salesforce()
        org = crm.source().org
        org.versions()
        org.get("/limits")
        crm.service.expire_sessions()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: org.get("/limits"), range(24)))
        assert crm.service.logins == 2

    def test_09_records_become_visible_late(self, salesforce):
        crm = salesforce()
        deal = living(crm.company, "open")[0]
        crm.company.edit(deal, next_step="was not to be seen yet")
        crm.company.tick(300)
        watermark = crm.mark()
        crm.company.tick(300)
        assert sf_id("006", deal.n) in by_id(crm.read("deals", watermark).rows), "read again: ten minutes of overlap"

    @pytest.mark.parametrize("domain", ["acme--sbx.sandbox.my.salesforce.com", "https://acme.my.salesforce.com/"])
    def test_10_sandbox_orgs_sign_in_at_domains_of_their_own(self, salesforce, domain):
        host = domain.removeprefix("https://").rstrip("/")
        crm = salesforce(my_domain=host, instance_url=f"https://{host}")
        source, way = by_domain(crm, domain)
        assert crm.read("products", source=source).rows
        assert {asked for asked, _ in way.hosts} == {host}

    def test_10_another_orgs_domain_does_not_let_us_in(self, salesforce):
        source, _ = by_domain(salesforce(), "acme--sbx.sandbox.my.salesforce.com")
        with pytest.raises(AuthError) as caught:
            source.entities()
        assert "name your My Domain" in caught.value.remedy

    @pytest.mark.parametrize("domain", ["login.salesforce.com", "test.salesforce.com", "https://login.salesforce.com"])
    def test_10_login_hosts_are_refused(self, domain):
        with pytest.raises(ValidationError, match="My Domain"):
            SalesforceSource.Config.model_validate(
                {"domain": domain, "auth": {"type": "client_credentials", "client_id": "a", "client_secret": "b"}}
            )

    def test_11_12_what_sharing_and_privacy_hide_is_documented(self):
        text = DOCS.read_text(encoding="utf-8")
        assert "View All" in text
        assert "IsPrivate" in text

    def test_13_probability_is_the_deals_own(self, salesforce):
        crm = salesforce()
        deal = living(crm.company, "open")[0]
        deal.probability = Decimal("0.33")
        assert by_id(crm.read("deals").rows)[sf_id("006", deal.n)]["probability"] == 0.33

    def test_14_a_lost_deal_closed_when_it_was_lost_not_when_it_was_planned(self, salesforce):
        crm = salesforce()
        deal = next(deal for deal in living(crm.company, "lost") if deal.close_date != deal.closed_at.date())
        row = by_id(crm.read("deals").rows)[sf_id("006", deal.n)]
        assert row["closed_at"] == deal.closed_at
        assert row["expected_close_date"] == deal.close_date

    def test_14_without_history_the_close_date_stands_in_and_stays_a_day(self, salesforce):
        crm = salesforce(hidden_fields={"Opportunity": frozenset({"LastStageChangeDate"})})
        deal = living(crm.company, WON)[0]
        assert by_id(crm.read("deals").rows)[sf_id("006", deal.n)]["closed_at"] in (
            deal.close_date,
            datetime(deal.close_date.year, deal.close_date.month, deal.close_date.day, tzinfo=UTC),
        )

    def test_15_ids_have_18_characters(self, salesforce):
        crm = salesforce()
        for name, key in (("deals", "deal_id"), ("deals", "owner_id"), ("leads", "lead_id"), ("stage_entries", "deal_id")):
            assert {len(row[key]) for row in crm.read(name).rows} == {18}

    def test_16_the_orgs_fiscal_year_is_not_used(self, salesforce):
        crm = salesforce()
        crm.read("deals")
        assert not any("Fiscal" in one.query.get("q", "") for one in crm.running.requests)


class TestRule:
    """§0 of the contract, by number, as far as it is about this source."""

    def test_01_ids_are_text(self, salesforce):
        row = salesforce().read("deals").rows[0]
        assert all(isinstance(row[name], str) for name in ("deal_id", "owner_id"))

    def test_02_the_lower_bound_is_inclusive_and_overlaps(self, salesforce):
        crm = salesforce()
        crm.ids("deals", "2026-11-20T12:00:00Z")
        asked = [one.query["q"] for one in crm.running.requests if "FROM Opportunity " in one.query.get("q", "")]
        assert any("SystemModstamp >= 2026-11-20T11:50:00Z" in soql for soql in asked)

    def test_03_what_moves_no_stamp_is_not_stale_in_deals(self, salesforce):
        crm = salesforce()
        mark = crm.mark()
        crm.company.tick(3_600)
        deal = next(deal for deal in living(crm.company) if deal.account and deal.modified_at < crm.company.now - timedelta(hours=3))
        crm.company.rename_account(crm.company.accounts[deal.account], "Another Name")
        assert sf_id("006", deal.n) not in crm.ids("deals", mark), "its stamp did not move"
        assert all(row["account"] is None for row in crm.read("deals").rows), "so the deal does not hold the name"
        assert "Another Name" in {row["account"] for row in crm.read("accounts", mark).rows}

    @pytest.mark.parametrize("name", ["deals", "leads", "activities", "deal_products", "deal_contacts", "contacts"])
    def test_04_deletes_come_by_themselves(self, salesforce, name):
        crm = salesforce()
        mark = crm.mark()
        crm.company.tick(3_600)
        deal = next(deal for deal in living(crm.company) if deal.lines and deal.roles and deal.activities)
        one = {
            "deals": deal,
            "leads": crm.company.leads[1],
            "activities": crm.company.activities[deal.activities[0]],
            "deal_products": deal.lines[0],
            "deal_contacts": deal.roles[0],
            "contacts": crm.company.contacts[1],
        }[name]
        prefixes = {"deals": ("006",), "leads": ("00Q",), "activities": ("00T", "00U"), "deal_products": ("00k",), "contacts": ("003",),
                    "deal_contacts": ("00K",)}  # fmt: skip
        crm.company.delete(one)
        assert {sf_id(prefix, one.n) for prefix in prefixes[name]} & crm.removed(name, mark)

    def test_05_history_is_read_beside_the_record(self, salesforce):
        crm = salesforce()
        deal = next(deal for deal in living(crm.company) if len(list(deal.entries())) > 2)
        rows = [row for row in crm.read("stage_entries").rows if row["deal_id"] == sf_id("006", deal.n)]
        assert [row["entered_at"] for row in rows] == [one.at for one in deal.entries()]

    def test_06_the_outcome_does_not_come_from_the_stages_name(self, salesforce):
        crm = salesforce()
        crm.company.rename_stage("new", "won", "Lost and found")
        crm.company.rename_stage("renewal", "won", "Lost and found")
        rows = crm.read("deals").rows
        assert {row["status"] for row in rows if row["stage"] == "Lost and found"} == {"won"}

    def test_07_money_stays_in_the_deals_currency(self, salesforce):
        crm = salesforce()
        rows = by_id(crm.read("deals").rows)
        assert {(rows[sf_id("006", deal.n)]["amount"], rows[sf_id("006", deal.n)]["currency"]) for deal in living(crm.company)} == {
            (deal.amount, deal.currency) for deal in living(crm.company)
        }

    def test_08_a_close_date_is_not_shifted_through_a_time_zone(self, salesforce):
        crm = salesforce()
        deal = living(crm.company, "open")[0]
        row = by_id(crm.read("deals", zone="America/Los_Angeles").rows)[sf_id("006", deal.n)]
        assert row["expected_close_date"] == deal.close_date

    def test_09_a_locator_that_comes_back_is_an_error(self, salesforce):
        crm = salesforce(page_size=20)
        real = SalesforceOrg._page
        crm.service._page = lambda key, start, request: real(crm.service, key, 0, request)
        with pytest.raises(SourceError, match="same page twice"):
            crm.read("deals")

    def test_09_fewer_rows_than_announced_are_an_error(self, salesforce):
        crm = salesforce(page_size=20)
        page = SalesforceOrg._page

        def short(key, start, request):
            response = page(crm.service, key, start, request)
            body = json.loads(response.body)
            body["records"] = body["records"][:-1] if body["done"] else body["records"]
            return type(response)(response.status, json.dumps(body).encode(), response.headers)

        crm.service._page = short
        with pytest.raises(SourceError, match="announced"):
            crm.read("deals")

    def test_10_too_many_at_once_is_waited_for(self, salesforce):
        crm = salesforce()
        body = b'[{"message":"ConcurrentRequests (Concurrent API Requests) Limit exceeded.","errorCode":"REQUEST_LIMIT_EXCEEDED"}]'
        crm.running.faults.add("FROM.Opportunity", status=403, body=body, times=2)
        assert crm.read("deals").rows
        assert crm.slept == [1.0, 2.0]

    @pytest.mark.parametrize("status", [500, 503])
    def test_10_server_errors_are_repeated(self, salesforce, status):
        crm = salesforce()
        crm.running.faults.add(r"/query\b", status=status, body=b"<html>oops</html>", times=2)
        assert crm.read("deals").rows

    def test_10_setting_things_up_means_later(self, salesforce):
        crm = salesforce()
        crm.running.faults.add(r"/describe", status=420, body=b"<html>setting things up</html>", times=None)
        with pytest.raises(TransientError):
            crm.source().entities()

    def test_10_a_dead_cursor_under_way_is_taken_up_from_the_start(self, salesforce):
        crm = salesforce(page_size=20)
        body = b'[{"message":"invalid query locator","errorCode":"INVALID_QUERY_LOCATOR"}]'
        crm.running.faults.add(r"/query/0r8", status=400, body=body, times=1, skip=1)
        assert crm.ids("deals") == deal_ids(crm.company)

    def test_11_no_secret_is_in_a_message(self, salesforce):
        crm = salesforce(client_secret="right")
        with pytest.raises(AuthError) as caught:
            crm.read("deals")
        assert "sandbox-secret" not in f"{caught.value} {caught.value.remedy}"
        assert "sandbox-secret" not in repr(crm.source().config)

    def test_12_an_empty_page_is_not_the_end(self, salesforce):
        crm = salesforce(page_size=20)
        page = SalesforceOrg._page

        def late(key, start, request):
            response = page(crm.service, key, start, request)
            if start != 20 or request.path.endswith("-020"):
                return response
            body = {**json.loads(response.body), "records": [], "done": False, "nextRecordsUrl": request.path.replace("-20", "-020")}
            return type(response)(200, json.dumps(body).encode(), response.headers)

        crm.service._page = late
        assert crm.ids("deals") == deal_ids(crm.company)
        assert crm.asked("-020")

    def test_13_answers_are_asked_for_compressed(self, salesforce):
        crm = salesforce()
        crm.read("products")
        assert all("gzip" in one.headers["accept-encoding"] for one in crm.running.requests)

    def test_13_a_slow_first_byte_is_waited_for(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("FROM.Product2", latency=0.3)
        assert crm.read("products").rows
        assert crm.source().config.network().timeout > 120, "two minutes in, Salesforce itself says that a query takes too long"

    def test_13_an_answer_that_never_comes_is_not(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("FROM.Product2", latency=0.5, times=None)
        session = Session(Network(timeout=0.1), sleep=crm.slept.append, now=lambda: crm.company.now)
        with pytest.raises(TransientError, match="no answer"):
            crm.read("products", source=crm.source(session=session))

    def test_14_a_result_of_only_a_header_is_no_rows(self, salesforce):
        queries = salesforce().source().queries
        pages = queries._jobs.steps("SELECT Id FROM Opportunity WHERE Name = 'nobody'", {"Id": "id"}, None, everything=False)
        assert [record for page in pages for record in page.records] == []


class TestConfiguration:
    def test_further_fields_belong_to_a_table(self):
        with pytest.raises(ValidationError, match="did you mean 'deals'"):
            SalesforceSource.Config.model_validate(
                {"domain": "acme.my.salesforce.com", "auth": SALESFORCE_AUTH, "fields": {"deal": ["IsPrivate"]}}
            )

    def test_a_field_named_there_and_not_visible_is_reported(self, salesforce):
        crm = salesforce()
        assert any("Territory2Id" in warning for warning in crm.read("deals", fields={"deals": ["Territory2Id"]}).warnings)
