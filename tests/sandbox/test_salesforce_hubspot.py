"""The sandbox's Salesforce and HubSpot by themselves: wire shapes, caps, refusals; and other people's clients against them."""

import importlib.util
import json
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import requests

from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.hubspot import Setup as HubSpotSetup
from connector.sandbox.hubspot_objects import hs_id, number_of
from connector.sandbox.microsoft365.tls import certified
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.salesforce import Setup as SalesforceSetup
from connector.sandbox.salesforce_objects import sf_id
from connector.sandbox.server import serve
from connector.sandbox.soql import SoqlError, parse

CREDENTIALS = {"grant_type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}


@pytest.fixture(scope="module")
def company():
    return Company.generate(seed=2, deals=120, days=300)


class Org:
    """A signed-in client of the plainest kind."""

    def __init__(self, service, running):
        self.service, self.running = service, running
        self.url = running.url("salesforce")
        token = requests.post(f"{self.url}/services/oauth2/token", data=CREDENTIALS, timeout=9).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path, **params):
        return requests.get(f"{self.url}/services/data/v67.0{path}", params=params, headers=self.headers, timeout=9)

    def query(self, soql, path="/query"):
        return self.get(path, q=soql)

    def post(self, path, body):
        return requests.post(f"{self.url}/services/data/v67.0{path}", json=body, headers=self.headers, timeout=9)


@pytest.fixture
def org(company):
    with serve(service := SalesforceOrg(company, SalesforceSetup(page_size=25, bulk_page=40))) as running:
        yield Org(service, running)


@pytest.fixture
def portal(company):
    with serve(service := HubSpotPortal(company)) as running:
        session = requests.Session()
        session.headers["Authorization"] = "Bearer pat-sandbox"
        session.service, session.url, session.running = service, running.url("hubspot"), running
        yield session
        session.close()


def shape(value):
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "null" if value is None else type(value).__name__


def fits(ours, theirs, path=""):
    """Every key of a recorded answer is in ours, with the same type where neither is null."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            wrong for key in theirs for wrong in ([f"{path}.{key}"] if key not in ours else fits(ours[key], theirs[key], f"{path}.{key}"))
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        return fits(ours[0], theirs[0], f"{path}[]") if ours and theirs else []
    return [] if "null" in (ours, theirs) or {ours, theirs} <= {"int", "float"} or ours == theirs else [f"{path}: {ours}, not {theirs}"]


class TestSoql:
    def rows(self, org, soql, **more):
        return org.query(soql, **more).json()["records"]

    def test_fields_parents_and_order(self, org):
        rows = self.rows(org, "SELECT Id, Name, Owner.Name, Account.Owner.Manager.Name FROM Opportunity ORDER BY Name DESC LIMIT 7")
        assert [row["Name"] for row in rows] == sorted((row["Name"] for row in rows), reverse=True)
        assert rows[0]["Owner"]["attributes"]["type"] == "User"
        assert len(rows) == 7

    @pytest.mark.parametrize(
        ("condition", "holds"),
        [
            ("IsClosed = false", lambda c, d: c.status(d) == "open"),
            ("IsWon = true AND Amount > 1000.5", lambda c, d: c.status(d) == "won" and (d.amount or 0) > 1000),
            (
                "(StageName = 'Closed Won' OR StageName = 'closed lost') AND CurrencyIsoCode IN ('USD', 'GBP')",
                lambda c, d: d.closed_at and d.currency != "EUR",
            ),
            ("NOT IsClosed = true", lambda c, d: c.status(d) == "open"),
            ("StageName NOT IN ('Closed Won', 'Closed Lost')", lambda c, d: c.status(d) == "open"),
            ("Name LIKE '%–%' AND Amount != null", lambda c, d: "–" in d.name and d.amount is not None),
            ("CreatedDate >= 2026-06-01T00:00:00Z", lambda c, d: d.created_at.isoformat() >= "2026-06-01"),
            ("CloseDate < 2026-06-01", lambda c, d: d.close_date.isoformat() < "2026-06-01"),
        ],
    )
    def test_conditions(self, org, company, condition, holds):
        found = org.query(f"SELECT COUNT() FROM Opportunity WHERE {condition}").json()
        alive = [deal for deal in company.deals.values() if not deal.deleted_at]
        assert found["totalSize"] == sum(bool(holds(company, deal)) for deal in alive) > 0
        assert found["records"] == []

    def test_a_sub_select(self, org):
        some = org.query(
            "SELECT COUNT() FROM OpportunityHistory WHERE OpportunityId IN (SELECT Id FROM Opportunity WHERE IsWon = true)"
        ).json()
        every = org.query("SELECT COUNT() FROM OpportunityHistory").json()
        assert 0 < some["totalSize"] < every["totalSize"]

    @pytest.mark.parametrize(
        ("soql", "code"),
        [
            ("SELECT Nothing FROM Opportunity", "INVALID_FIELD"),
            ("SELECT Id FROM Opportunities", "INVALID_TYPE"),
            ("SELECT Id FORM Opportunity", "MALFORMED_QUERY"),
            ("SELECT Id FROM Opportunity WHERE Name = ", "MALFORMED_QUERY"),
            ("SELECT Id FROM Opportunity WHERE CreatedDate > 2026-01-01", "INVALID_FIELD"),
            ("SELECT Id FROM Opportunity OFFSET 2001", "NUMBER_OUTSIDE_VALID_RANGE"),
            ("SELECT Id, Name, id FROM Opportunity", "INVALID_FIELD"),
            ("SELECT Id FROM Opportunity GROUP BY StageName", "MALFORMED_QUERY"),
        ],
    )
    def test_refusals_come_as_an_array(self, org, soql, code):
        answer = org.query(soql)
        assert answer.status_code == 400
        assert answer.json()[0]["errorCode"] == code

    def test_groups(self, org, company):
        rows = self.rows(org, "SELECT RecordTypeId, StageName FROM Opportunity GROUP BY RecordTypeId, StageName")
        alive = [deal for deal in company.deals.values() if not deal.deleted_at]
        assert len(rows) == len({(deal.pipeline, deal.stage) for deal in alive})
        assert rows[0]["attributes"] == {"type": "AggregateResult"}

    def test_quotes_in_text(self):
        query = parse(r"SELECT Id FROM Account WHERE Name = 'O\'Brien \\ Co'", lambda _: set())
        assert query.where(lambda _: "O'Brien \\ Co")
        with pytest.raises(SoqlError):
            parse("SELECT Id FROM Account WHERE Name = 'open", lambda _: set())

    def test_pages_hold_everything_once(self, org, company):
        answer = org.query("SELECT Id FROM Opportunity").json()
        ids = [row["Id"] for row in answer["records"]]
        assert answer["totalSize"] > len(ids) == 25
        while not answer["done"]:
            answer = requests.get(org.url + answer["nextRecordsUrl"], headers=org.headers, timeout=9).json()
            ids += [row["Id"] for row in answer["records"]]
        assert sorted(ids) == sorted(sf_id("006", deal.n) for deal in company.deals.values() if not deal.deleted_at)

    def test_a_cursor_lives_two_days(self, company):
        own = Company.generate(seed=2, deals=120, days=300)
        with serve(service := SalesforceOrg(own, SalesforceSetup(page_size=25, session_seconds=10**7))) as running:
            org = Org(service, running)
            following = org.query("SELECT Id FROM Opportunity").json()["nextRecordsUrl"]
            own.tick(timedelta(days=2, hours=1).total_seconds())
            answer = requests.get(org.url + following, headers=org.headers, timeout=9)
        assert answer.json()[0]["errorCode"] == "INVALID_QUERY_LOCATOR"

    def test_the_recycle_bin_is_seen_by_query_all_until_it_is_purged(self):
        own = Company.generate(seed=2, deals=120, days=300)
        with serve(service := SalesforceOrg(own, SalesforceSetup(session_seconds=10**7))) as running:
            org = Org(service, running)
            deal = next(deal for deal in own.deals.values() if not deal.deleted_at)
            own.delete(deal)
            soql = f"SELECT Id, IsDeleted FROM Opportunity WHERE Id = '{sf_id('006', deal.n)}'"
            assert self.rows(org, soql) == []
            assert self.rows(org, soql, path="/queryAll")[0]["IsDeleted"] is True
            own.tick(16 * 86_400)
            assert self.rows(org, soql, path="/queryAll") == []
            window = {"start": (own.now - timedelta(days=20)).isoformat(), "end": own.now.isoformat()}
            assert deal.n in {
                n["id"] == sf_id("006", deal.n) and deal.n
                for n in org.get("/sobjects/Opportunity/deleted", **window).json()["deletedRecords"]
            }


class TestSalesforceWire:
    def test_ids_are_safe_against_case(self):
        assert sf_id("006", 1)[15:] == "IAA"  # the check of 006Hs0000000001: one capital letter, in the first five characters
        ids = {sf_id("001", n) for n in range(1, 5_000)}
        assert len({one.casefold() for one in ids}) == len(ids)

    def test_answers_have_the_recorded_shapes(self, org, shared):
        folder = shared / "data" / "api" / "salesforce"

        def recorded(name):
            return shape(json.loads((folder / name).read_text()))

        page = org.query("SELECT Id, Name, AccountId, Amount, StageName FROM Opportunity").json()
        assert fits(shape(page), recorded("amp_read-opportunity-with-account.json")) == []
        assert fits(shape(org.query("SELECT Foo FROM Account").json()), recorded("amp_unknown-field.json")) == []
        assert fits(shape(org.query("SELECT Id FROM Accout").json()), recorded("amp_unknown-object.json")) == []
        token = requests.post(f"{org.url}/services/oauth2/token", data=CREDENTIALS, timeout=9).json()
        assert fits(shape(token), recorded("rf_auth_success_response.json")) == []
        refused = requests.post(f"{org.url}/services/oauth2/token", data=CREDENTIALS | {"client_secret": "no"}, timeout=9)
        assert refused.status_code == 401
        assert fits(shape(refused.json()), recorded("rf_auth_error_response.json")) == []
        job = org.post("/jobs/query", {"operation": "query", "query": "SELECT Id FROM Account", "contentType": "CSV"}).json()
        assert fits(shape(job), recorded("amp_bulk_read-launch-job-account.json")) == []
        window = {"start": (org.service.company.now - timedelta(days=9)).isoformat(), "end": org.service.company.now.isoformat()}
        assert (
            fits(shape(org.get("/sobjects/Opportunity/deleted", **window).json()), recorded("rf_get_deleted_success_response.json")) == []
        )
        expired = requests.get(f"{org.url}/services/data/v67.0/limits", headers={"Authorization": "Bearer no"}, timeout=9)
        assert expired.status_code == 401
        assert fits(shape(expired.json()), recorded("rf_expired_session_response.json")) == []

    def test_a_bulk_job_from_upload_to_null(self, org):
        job = org.post(
            "/jobs/query", {"operation": "queryAll", "query": "SELECT Id, Name, Amount FROM Opportunity", "contentType": "CSV"}
        ).json()
        states = [org.get(f"/jobs/query/{job['id']}").json() for _ in range(2)]
        assert [job["state"], *(one["state"] for one in states)] == ["UploadComplete", "InProgress", "JobComplete"]
        lines, locator, pages = [], "0", 0
        while locator != "null":
            answer = org.get(f"/jobs/query/{job['id']}/results", maxRecords=1_000, locator=locator)
            head, *body = answer.text.splitlines()
            assert head == '"Id","Name","Amount"'
            assert int(answer.headers["Sforce-NumberOfRecords"]) == len(body) <= 40
            lines += body
            locator = answer.headers["Sforce-Locator"]
            pages += 1
        assert pages > 1
        assert len(lines) == states[-1]["numberRecordsProcessed"]
        assert requests.delete(f"{org.url}/services/data/v67.0/jobs/query/{job['id']}", headers=org.headers, timeout=9).status_code == 204

    def test_what_bulk_does_not_know(self, org):
        answer = org.post("/jobs/query", {"operation": "query", "query": "SELECT Id FROM OpportunityStage", "contentType": "CSV"})
        assert "not supported by the Bulk API" in answer.json()[0]["message"]

    def test_the_day_has_so_many_calls(self, company):
        with serve(service := SalesforceOrg(company, SalesforceSetup(daily_calls=2))) as running:
            org = Org(service, running)
            answers = [org.get("/limits") for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 403]
        assert answers[0].headers["Sforce-Limit-Info"].startswith("api-usage=1/2")
        assert answers[2].json()[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"

    def test_a_rotated_refresh_token_used_twice_ends_the_grant(self, company):
        with serve(SalesforceOrg(company, SalesforceSetup(rotate_refresh_tokens=True))) as running:

            def refresh(token):
                form = {"grant_type": "refresh_token", "client_id": "sandbox-client", "refresh_token": token}
                return requests.post(f"{running.url('salesforce')}/services/oauth2/token", data=form, timeout=9)

            first = refresh("refresh-0").json()["refresh_token"]
            assert refresh("refresh-0").status_code == 400
            assert refresh(first).status_code == 400

    def test_client_credentials_need_my_domain(self, company):
        with serve(SalesforceOrg(company)) as running:

            def asked(host):
                return requests.post(
                    f"{running.url('salesforce')}/services/oauth2/token", data=CREDENTIALS, headers={"Host": host}, timeout=9
                ).json()

            assert asked("login.salesforce.com")["error_description"] == "request not supported on this domain"
            assert asked("acme.my.salesforce.com")["access_token"]

    def test_a_session_without_the_scope_api_reads_nothing(self, company):
        with serve(service := SalesforceOrg(company, SalesforceSetup(scope="openid"))) as running:
            answer = Org(service, running).get("/sobjects")
        assert (answer.status_code, answer.json()[0]["errorCode"]) == (401, "INVALID_SESSION_ID")
        assert "REST API" in answer.json()[0]["message"]

    def test_the_list_of_deletes_may_be_behind(self):
        own = Company.generate(seed=2, deals=120, days=300)
        with serve(service := SalesforceOrg(own, SalesforceSetup(deletes_lag_seconds=3_600))) as running:
            org = Org(service, running)
            own.delete(deal := next(deal for deal in own.deals.values() if not deal.deleted_at))
            window = {"start": (own.now - timedelta(days=1)).isoformat(), "end": (own.now + timedelta(minutes=1)).isoformat()}
            for seconds, known in ((1_800, False), (3_000, True)):
                own.tick(seconds)
                answer = org.get("/sobjects/Opportunity/deleted", **window).json()
                assert (sf_id("006", deal.n) in {one["id"] for one in answer["deletedRecords"]}) is known

    def test_users_that_nobody_is_and_copies_of_events(self, org):
        users = org.query("SELECT Name, UserType, UserRoleId FROM User WHERE UserType != 'Standard'").json()["records"]
        assert [(row["Name"], row["UserRoleId"]) for row in users] == [("Automated Process", None), ("Platform Integration User", None)]
        assert org.query("SELECT COUNT() FROM Event WHERE IsChild = true").json()["totalSize"] > 0


class TestHubSpotWire:
    def test_ids_lead_back_to_numbers(self):
        assert all(number_of("deals", hs_id("deals", n)) == n for n in range(1, 3_000))
        assert number_of("deals", str(int(hs_id("deals", 5)) + 1)) is None

    def test_answers_have_the_recorded_shapes(self, portal, shared):
        folder = shared / "data" / "api" / "hubspot"

        def recorded(name):
            return shape(json.loads((folder / name).read_text()))

        details = portal.get(f"{portal.url}/account-info/2026-09/details", timeout=9).json()
        assert fits(shape(details), recorded("amp_post-auth_account-info.json")) == []
        pipelines = portal.get(f"{portal.url}/crm/pipelines/2026-09/deals", timeout=9).json()
        assert fits(shape(pipelines), recorded("amp_metadata-deals-external-pipelines.json")) == []
        body = {"filterGroups": [], "limit": 1, "properties": ["email"]}
        found = portal.post(f"{portal.url}/crm/v3/objects/contacts/search", json=body, timeout=9).json()
        theirs = recorded("amp_search_contacts_1-first-page.json")
        theirs["results"][0]["properties"] = {"email": "str", "createdate": "str", "lastmodifieddate": "str", "hs_object_id": "str"}
        assert fits(shape(found), theirs) == []
        linked = portal.post(
            f"{portal.url}/crm/v4/associations/deals/companies/batch/read",
            json={"inputs": [{"id": hs_id("deals", 1)}, {"id": "7"}]},
            timeout=9,
        )
        assert linked.status_code == 207
        assert fits(shape(linked.json()), recorded("amp_search_contacts_contacts-to-companies.json")) == []

    def test_a_missing_scope_is_told(self, company, shared):
        with serve(HubSpotPortal(company, HubSpotSetup(scopes=frozenset()))) as running:
            answer = requests.get(
                f"{running.url('hubspot')}/crm/v3/objects/deals", headers={"Authorization": "Bearer pat-sandbox"}, timeout=9
            )
        assert answer.status_code == 403
        assert answer.json()["category"] == "MISSING_SCOPES"

    def test_a_list_goes_by_id_and_ends_without_paging(self, portal, company):
        ids, after = [], None
        while True:
            params = {"limit": 100, **({"after": after} if after else {})}
            answer = portal.get(f"{portal.url}/crm/objects/2026-09/deals", params=params, timeout=9).json()
            ids += [int(one["id"]) for one in answer["results"]]
            if "paging" not in answer:
                break
            after = answer["paging"]["next"]["after"]
        assert ids == sorted(ids)
        assert len(ids) == sum(not deal.deleted_at for deal in company.deals.values())

    @pytest.mark.parametrize(
        ("params", "status"),
        [
            ({"limit": 100}, 200),
            ({"limit": 101}, 400),
            ({"limit": 50, "propertiesWithHistory": "dealstage"}, 200),
            ({"limit": 51, "propertiesWithHistory": "dealstage"}, 400),
        ],
    )
    def test_page_limits(self, portal, params, status):
        assert portal.get(f"{portal.url}/crm/v3/objects/deals", params=params, timeout=9).status_code == status

    def test_unknown_properties_are_silently_left_out(self, portal):
        answer = portal.get(f"{portal.url}/crm/v3/objects/deals", params={"properties": "no_such,amount"}, timeout=9).json()
        assert "no_such" not in answer["results"][0]["properties"]

    def test_search_ends_at_its_cap(self, company):
        with serve(HubSpotPortal(company, HubSpotSetup(search_cap=60))) as running:
            url, headers = f"{running.url('hubspot')}/crm/v3/objects/deals/search", {"Authorization": "Bearer pat-sandbox"}
            first = requests.post(url, json={"limit": 30, "after": "30"}, headers=headers, timeout=9)
            beyond = requests.post(url, json={"limit": 30, "after": "60"}, headers=headers, timeout=9)
        assert first.status_code == 200
        assert "paging" not in first.json()
        assert beyond.status_code == 400

    def test_search_operators(self, portal, company):
        def total(*filters):
            body = {"filterGroups": [{"filters": [dict(zip(("propertyName", "operator", "value"), one, strict=False)) for one in filters]}]}
            return portal.post(f"{portal.url}/crm/v3/objects/deals/search", json=body, timeout=9).json()["total"]

        alive = [deal for deal in company.deals.values() if not deal.deleted_at]
        assert total(("amount", "GT", "10000")) == sum((deal.amount or 0) > 10_000 for deal in alive)
        assert total(("amount", "NOT_HAS_PROPERTY")) == sum(deal.amount is None for deal in alive)
        assert total(("dealstage", "EQ", "ClosedWon")) == sum(deal.pipeline == "new" and deal.stage == "won" for deal in alive)
        assert total(("hs_object_id", "GTE", hs_id("deals", 50))) == sum(deal.n >= 50 for deal in alive)

    def test_history_is_newest_first(self, portal, company):
        deal = next(deal for deal in company.deals.values() if len(deal.history) > 3 and not deal.deleted_at)
        body = {"inputs": [{"id": hs_id("deals", deal.n)}], "propertiesWithHistory": ["dealstage"], "properties": []}
        rows = portal.post(f"{portal.url}/crm/v3/objects/deals/batch/read", json=body, timeout=9).json()["results"][0]
        stamps = [row["timestamp"] for row in rows["propertiesWithHistory"]["dealstage"]]
        assert stamps == sorted(stamps, reverse=True)

    def test_deleted_objects_are_in_the_archive_for_90_days(self):
        own = Company.generate(seed=2, deals=120, days=300)
        with serve(HubSpotPortal(own)) as running:

            def archived():
                params = {"archived": "true", "limit": 100}
                answer = requests.get(
                    f"{running.url('hubspot')}/crm/v3/objects/deals",
                    params=params,
                    headers={"Authorization": "Bearer pat-sandbox"},
                    timeout=9,
                )
                return {one["id"] for one in answer.json()["results"]}

            deal = next(deal for deal in own.deals.values() if not deal.deleted_at)
            own.delete(deal)
            assert hs_id("deals", deal.n) in archived()
            own.tick(91 * 86_400)
            assert hs_id("deals", deal.n) not in archived()

    def test_too_many_calls_are_refused(self, company):
        with serve(HubSpotPortal(company, HubSpotSetup(calls_per_10_seconds=3, retry_after=True))) as running:
            headers = {"Authorization": "Bearer pat-sandbox"}
            answers = [requests.get(f"{running.url('hubspot')}/account-info/v3/details", headers=headers, timeout=9) for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert answers[3].json()["policyName"] == "TEN_SECONDLY_ROLLING"
        assert answers[3].headers["Retry-After"] == "10"

    @pytest.mark.parametrize(
        ("path", "params"),
        [
            ("crm/objects/2026-09/deals", {"limit": "abc"}),
            ("crm/objects/2026-09/deals", {"limit": "-1"}),
            ("crm/objects/2026-09/deals", {"after": "abc"}),
            ("crm/objects/2026-09/deals", {"associations": "unicorns"}),
            ("crm/objects/2026-09/unicorns", {}),
            ("crm/properties/2026-09/unicorns", {}),
            ("crm/pipelines/2026-09/unicorns", {}),
            ("crm/owners/2026-09", {"after": "x"}),
            ("crm/owners/2026-09", {"limit": "x"}),
            ("settings/currencies/2026-09/exchange-rates", {"after": "x"}),
            ("crm/v4/objects/deals/1/associations/unicorns", {}),
        ],
    )
    def test_what_makes_no_sense_is_refused_and_breaks_nothing(self, portal, path, params):
        answer = portal.get(f"{portal.url}/{path}", params=params, timeout=9)
        assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")
        assert portal.running.violations == []

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("crm/objects/2026-09/deals/search", {"limit": "x"}),
            ("crm/objects/2026-09/deals/search", {"limit": 201}),
            ("crm/objects/2026-09/deals/search", {"after": "x"}),
            ("crm/objects/2026-09/deals/search", {"filterGroups": 7}),
            ("crm/objects/2026-09/deals/search", {"filterGroups": [{}]}),
            ("crm/objects/2026-09/deals/search", {"sorts": ["no_such"]}),
            ("crm/objects/2026-09/deals/search", [1]),
            *(
                ("crm/objects/2026-09/deals/search", {"filterGroups": [{"filters": [one]}]})
                for one in (
                    {"propertyName": "createdate", "operator": "BETWEEN", "value": "1"},
                    {"propertyName": "hs_object_id", "operator": "GT", "value": "abc"},
                    {"propertyName": "createdate", "operator": "GTE", "value": "yesterday"},
                    {"propertyName": "createdate", "operator": "IN"},
                    {"propertyName": "createdate", "operator": "EQ"},
                    {"propertyName": "createdate", "operator": "IS", "value": "1"},
                    {"propertyName": "no_such", "operator": "HAS_PROPERTY"},
                    {"operator": "EQ", "value": "1"},
                )
            ),
            ("crm/objects/2026-09/deals/batch/read", {"x": 1}),
            ("crm/objects/2026-09/deals/batch/read", {"inputs": [{"name": "1"}]}),
            ("crm/objects/2026-09/deals/batch/read", {"inputs": [{"id": "1"}] * 101}),
            ("crm/associations/2026-09/deals/unicorns/batch/read", {"inputs": [{"id": "1"}]}),
            ("crm/associations/2026-09/deals/contacts/batch/read", {}),
        ],
    )
    def test_a_question_that_makes_no_sense_is_refused_and_breaks_nothing(self, portal, path, body):
        answer = portal.post(f"{portal.url}/{path}", json=body, timeout=9)
        assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")
        assert portal.running.violations == []

    def test_a_body_that_is_no_json_is_refused(self, portal):
        answer = portal.post(f"{portal.url}/crm/objects/2026-09/deals/batch/read", data=b"{", timeout=9)
        assert answer.status_code == 400

    @pytest.mark.parametrize(("path", "status"), [("properties", 200), ("objects", 403)])
    def test_definitions_are_open_with_the_scope_of_the_schema_objects_are_not(self, company, path, status):
        scopes = frozenset({"crm.schemas.deals.read"})
        with serve(HubSpotPortal(company, HubSpotSetup(scopes=scopes))) as running:
            headers = {"Authorization": "Bearer pat-sandbox"}
            answer = requests.get(f"{running.url('hubspot')}/crm/{path}/2026-09/deals", headers=headers, timeout=9)
        assert answer.status_code == status

    def test_associations_need_the_scope_of_both_ends(self, company):
        with serve(HubSpotPortal(company, HubSpotSetup(scopes=frozenset({"crm.objects.deals.read"})))) as running:
            url, headers = running.url("hubspot"), {"Authorization": "Bearer pat-sandbox"}
            body = {"inputs": [{"id": hs_id("deals", 1)}]}
            batch = requests.post(f"{url}/crm/associations/2026-09/deals/contacts/batch/read", json=body, headers=headers, timeout=9)
            inline = requests.get(f"{url}/crm/objects/2026-09/deals", params={"associations": "contacts"}, headers=headers, timeout=9)
        assert [batch.status_code, inline.status_code] == [403, 403]

    def test_every_answer_but_a_searchs_tells_what_is_left_of_the_calls(self, portal):
        listed = portal.get(f"{portal.url}/crm/objects/2026-09/deals", timeout=9).headers
        assert (listed["X-HubSpot-RateLimit-Max"], listed["X-HubSpot-RateLimit-Interval-Milliseconds"]) == ("190", "10000")
        assert int(listed["X-HubSpot-RateLimit-Daily-Remaining"]) < int(listed["X-HubSpot-RateLimit-Daily"]) == 650_000
        searched = portal.post(f"{portal.url}/crm/objects/2026-09/deals/search", json={"limit": 1}, timeout=9).headers
        assert not [name for name in searched if name.lower().startswith("x-hubspot-ratelimit")]

    def test_the_token_endpoint_has_the_versions_the_portal_knows(self, company):
        form = {
            "grant_type": "refresh_token",
            "client_id": "sandbox-client",
            "client_secret": "sandbox-secret",
            "refresh_token": "refresh-0",
        }
        with serve(HubSpotPortal(company, HubSpotSetup(versions=frozenset({"v3"})))) as running:
            url = running.url("hubspot")
            answers = [requests.post(f"{url}/oauth/{version}/token", data=form, timeout=9) for version in ("2026-09", "v1")]
        assert [one.status_code for one in answers] == [404, 200]

    def test_what_is_archived_comes_only_when_asked_for(self, company):
        with serve(HubSpotPortal(company, HubSpotSetup(archived=frozenset({"renewal", "new/discovery"})))) as running:

            def stages(archived):
                url, headers = f"{running.url('hubspot')}/crm/pipelines/2026-09/deals", {"Authorization": "Bearer pat-sandbox"}
                found = requests.get(url, params={"archived": archived}, headers=headers, timeout=9).json()["results"]
                return {one["label"]: (one["archived"], [stage["label"] for stage in one["stages"]]) for one in found}

            living, gone = stages("false"), stages("true")
        assert set(living) == {"New Business"}
        assert "Discovery" not in living["New Business"][1]
        assert gone["New Business"] == (False, ["Discovery"])
        assert (gone["Renewals"][0], len(gone["Renewals"][1])) == (True, 5)

    def test_line_items_outlive_their_deal_without_the_association(self):
        own = Company.generate(seed=2, deals=40, days=120)
        with serve(HubSpotPortal(own)) as running:
            deal = next(deal for deal in own.deals.values() if deal.lines and not deal.deleted_at)
            own.delete(deal)
            answer = requests.get(
                f"{running.url('hubspot')}/crm/objects/2026-09/line_items/{hs_id('line_items', deal.lines[0].n)}",
                params={"associations": "deals"},
                headers={"Authorization": "Bearer pat-sandbox"},
                timeout=9,
            )
        assert answer.status_code == 200
        assert (answer.json()["archived"], answer.json().get("associations")) == (False, None)

    @pytest.mark.parametrize(
        ("header", "status"), [({}, 401), ({"Authorization": "Bearer pat-other"}, 401), ({"Authorization": "Bearer a b"}, 530)]
    )
    def test_tokens(self, portal, header, status):
        assert requests.get(f"{portal.url}/crm/v3/objects/deals", headers=header, timeout=9).status_code == status


class ToSandbox(requests.adapters.HTTPAdapter):
    """Sends what is meant for My Domain to the sandbox, as a hosts file would."""

    def __init__(self, base):
        super().__init__()
        self.base = urlsplit(base)

    def send(self, request, **kwargs):
        parts = urlsplit(request.url)
        request.url = parts._replace(scheme=self.base.scheme, netloc=self.base.netloc).geturl()
        return super().send(request, **kwargs)


@pytest.mark.skipif(importlib.util.find_spec("simple_salesforce") is None, reason="simple-salesforce is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestSimpleSalesforce:
    """What its README shows of reading."""

    @pytest.fixture
    def sf(self, company, tmp_path):
        from simple_salesforce import Salesforce

        service = SalesforceOrg(company, SalesforceSetup(page_size=25, bulk_page=40, bulk_polls=0))
        service.tls = certified(tmp_path / "ca.pem")
        with serve(service) as running, requests.Session() as session:
            session.trust_env, session.verify = False, str(tmp_path / "ca.pem")
            session.mount("https://acme.my.salesforce.com/", ToSandbox(running.url("salesforce")))
            yield Salesforce(
                consumer_key="sandbox-client", consumer_secret="sandbox-secret", domain="acme.my", session=session, version="67.0"
            )
            assert running.violations == []

    def test_query_and_query_more(self, sf, company):
        first = sf.query("SELECT Id, Email, Name FROM Contact")
        alive = [one for one in company.contacts.values() if not one.deleted_at]
        assert first["totalSize"] == len(alive)
        assert not first["done"]
        second = sf.query_more(first["nextRecordsUrl"], True)
        assert len(second["records"]) == 25

    def test_query_all_and_its_iterator(self, sf, company):
        alive = {deal.name for deal in company.deals.values() if not deal.deleted_at}
        assert {row["Name"] for row in sf.query_all("SELECT Id, Name FROM Opportunity")["records"]} == alive
        assert {row["Name"] for row in sf.query_all_iter("SELECT Id, Name FROM Opportunity")} == alive

    def test_records_by_id_describe_and_limits(self, sf, company):
        contact = next(one for one in company.contacts.values() if not one.deleted_at)
        assert sf.Contact.get(sf_id("003", contact.n))["Email"] == contact.email
        assert {field["name"] for field in sf.Opportunity.describe()["fields"]} >= {"StageName", "Amount", "CloseDate"}
        assert "Opportunity" in {one["name"] for one in sf.describe()["sobjects"]}
        assert sf.limits()["DailyApiRequests"]["Max"] == 100_000

    def test_a_missing_record_is_not_found(self, sf):
        from simple_salesforce.exceptions import SalesforceResourceNotFound

        with pytest.raises(SalesforceResourceNotFound):
            sf.Contact.get(sf_id("003", 999_999))

    def test_deleted_and_updated(self, sf, company):
        end = company.now
        answer = sf.Opportunity.deleted(end - timedelta(days=10), end)
        assert set(answer) >= {"deletedRecords", "earliestDateAvailable", "latestDateCovered"}
        updated = sf.Opportunity.updated(end - timedelta(days=10), end)
        assert updated["ids"]

    def test_bulk2_query(self, sf, company):
        pages = list(sf.bulk2.Account.query("SELECT Id, Name FROM Account", wait=0))
        rows = [line for page in pages for line in page.splitlines()[1:]]
        assert len(pages) > 1
        assert len(rows) == sum(not one.deleted_at for one in company.accounts.values())

    def test_a_wrong_secret(self, company, tmp_path):
        from simple_salesforce import Salesforce
        from simple_salesforce.exceptions import SalesforceAuthenticationFailed

        with serve(SalesforceOrg(company)) as running, requests.Session() as session:
            session.mount("https://acme.my.salesforce.com/", ToSandbox(running.url("salesforce")))
            with pytest.raises(SalesforceAuthenticationFailed):
                Salesforce(consumer_key="sandbox-client", consumer_secret="no", domain="acme.my", session=session)


@pytest.mark.skipif(importlib.util.find_spec("hubspot") is None, reason="hubspot-api-client is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestHubSpotClient:
    """What its README shows of reading."""

    @pytest.fixture
    def pointed(self, company):
        from hubspot import HubSpot

        with serve(HubSpotPortal(company)) as running:

            def pointed(pick, token="pat-sandbox"):
                api = pick(HubSpot(access_token=token))
                api.api_client.configuration.host = running.url("hubspot")
                return api

            yield pointed
            assert running.violations == []

    def test_get_page_and_get_by_id(self, pointed, company):
        contacts = pointed(lambda client: client.crm.contacts.basic_api)
        page = contacts.get_page(limit=10, properties=["email", "firstname"])
        assert len(page.results) == 10
        one = contacts.get_by_id(page.results[0].id, properties=["email"])
        assert one.properties["email"] == page.results[0].properties["email"]

    def test_get_page_with_associations_and_history(self, pointed):
        deals = pointed(lambda client: client.crm.deals.basic_api)
        page = deals.get_page(
            limit=20, properties=["amount", "dealstage"], properties_with_history=["dealstage"], associations=["companies", "contacts"]
        )
        assert page.paging.next.after == page.results[-1].id
        assert page.results[0].properties_with_history["dealstage"][-1].value == "appointmentscheduled"
        assert any(one.associations and "companies" in one.associations for one in page.results)

    def test_get_all(self, pointed, company):
        from hubspot.utils.objects import fetch_all

        deals = fetch_all(pointed(lambda client: client.crm.deals.basic_api))
        assert len(deals) == sum(not deal.deleted_at for deal in company.deals.values())

    def test_search(self, pointed, company):
        from hubspot.crm.deals import PublicObjectSearchRequest

        request = PublicObjectSearchRequest(
            filter_groups=[{"filters": [{"propertyName": "dealstage", "operator": "EQ", "value": "closedwon"}]}],
            limit=5,
            sorts=["amount"],
            properties=["amount"],
            after="0",
        )
        found = pointed(lambda client: client.crm.deals.search_api).do_search(public_object_search_request=request)
        assert found.total == sum(not deal.deleted_at and (deal.pipeline, deal.stage) == ("new", "won") for deal in company.deals.values())
        amounts = [float(one.properties["amount"]) for one in found.results if one.properties["amount"]]
        assert amounts == sorted(amounts)

    def test_batch_read(self, pointed):
        from hubspot.crm.deals import BatchReadInputSimplePublicObjectId, SimplePublicObjectId

        wanted = BatchReadInputSimplePublicObjectId(
            inputs=[SimplePublicObjectId(id=hs_id("deals", n)) for n in (1, 2)], properties=["dealname"], properties_with_history=[]
        )
        found = pointed(lambda client: client.crm.deals.batch_api).read(wanted)
        assert found.status == "COMPLETE"

    def test_pipelines_owners_properties_and_associations(self, pointed, company):
        pipelines = pointed(lambda client: client.crm.pipelines.pipelines_api).get_all("deals")
        assert [one.label for one in pipelines.results] == [one.label for one in company.pipelines]
        owners = pointed(lambda client: client.crm.owners.owners_api).get_page(limit=100, archived=False)
        assert len(owners.results) == sum(one.active for one in company.owners.values())
        properties = pointed(lambda client: client.crm.properties.core_api).get_all("deals", archived=False)
        assert "dealstage" in {one.name for one in properties.results}
        deal = next(deal for deal in company.deals.values() if deal.account and not deal.deleted_at)
        linked = pointed(lambda client: client.crm.associations.v4.basic_api).get_page("deals", hs_id("deals", deal.n), "companies")
        assert str(linked.results[0].to_object_id) == hs_id("companies", deal.account)

    def test_oauth_tokens(self, pointed):
        tokens = pointed(lambda client: client.oauth.tokens_api)
        answer = tokens.create(
            grant_type="refresh_token", client_id="sandbox-client", client_secret="sandbox-secret", refresh_token="refresh-0"
        )
        assert answer.access_token
        assert pointed(lambda client: client.crm.deals.basic_api, token=answer.access_token).get_page(limit=1).results

    def test_a_wrong_token(self, pointed):
        from hubspot.crm.contacts.exceptions import ApiException

        with pytest.raises(ApiException) as caught:
            pointed(lambda client: client.crm.contacts.basic_api, token="pat-no").get_page()
        assert caught.value.status == 401


def test_a_portal_forgets_calls_by_the_clock_it_is_given(company):
    """A real client waits in real time, while the company's clock stands still."""
    portal = HubSpotPortal(company, HubSpotSetup(calls_per_10_seconds=2))
    seconds = iter((0, 1, 2, 20))
    moments = {}
    portal.now = lambda: company.now + timedelta(seconds=moments["now"])
    with serve(portal) as running:
        answers = []
        for moments["now"] in seconds:
            asked = requests.get(f"{running.url('hubspot')}/crm/owners/2026-09", headers={"Authorization": "Bearer pat-sandbox"}, timeout=9)
            answers.append(asked.status_code)
    assert answers == [200, 200, 429, 200]
