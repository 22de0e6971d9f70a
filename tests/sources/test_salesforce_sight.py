"""What a Salesforce user may not see: every table, field and setting that is missing is said by each run and found by `check`."""

import pytest
from pydantic import ValidationError

from connector.api import Since
from connector.errors import AuthError
from connector.sandbox.salesforce_objects import sf_id
from sources.salesforce import SalesforceSource


def hiding(*objects, **fields):
    return {"hidden_objects": frozenset(objects), "hidden_fields": {name: frozenset(names) for name, names in fields.items()}}


def read_everything(crm, **config):
    """Names of the tables, and every warning of a run, as a flow would see them."""
    source = crm.source(**config)
    entities = source.entities()
    said = [warning for entity in entities for page in source.read(entity, Since()) for warning in page.warnings]
    return [entity.name for entity in entities], said


def failed(crm, **config):
    return [finding for finding in crm.source(**config).check() if not finding.ok]


class TestHidden:
    @pytest.mark.parametrize(
        ("hidden", "word"),
        [
            (hiding("RecordType"), "RecordType"),
            (hiding("CurrencyType"), "CurrencyType"),
            (hiding("Task"), "Task"),
            (hiding("OpportunityContactRole"), "OpportunityContactRole"),
            (hiding("UserRole"), "UserRole.Name"),
            (hiding(User=["Department"]), "Department"),
            (hiding(User=["Division"]), "Division"),
            (hiding(User=["ManagerId"]), "ManagerId"),
            (hiding(User=["UserRoleId"]), "UserRoleId"),
            (hiding(Campaign=["Type"]), "Type"),
            (hiding(Campaign=["StartDate"]), "StartDate"),
            (hiding(Campaign=["ActualCost"]), "ActualCost"),
            (hiding(ForecastingQuota=["QuotaOwnerId"]), "QuotaOwnerId"),
            (hiding(ForecastingQuota=["QuotaAmount"]), "QuotaAmount"),
            (hiding(Event=["EndDateTime"]), "EndDateTime"),
            (hiding(Lead=["Status"]), "Status"),
        ],
    )
    def test_is_said_by_each_run_and_found_by_check(self, salesforce, hidden, word):
        crm = salesforce(**hidden)
        _, said = read_everything(crm)
        assert [warning for warning in said if word in warning]
        findings = failed(crm)
        assert [finding.exit_code for finding in findings] == [3]
        assert word in f"{findings[0].what} {findings[0].detail}"
        assert findings[0].remedy

    def test_nothing_is_said_when_nothing_is_hidden(self, salesforce):
        crm = salesforce()
        assert read_everything(crm)[1] == []
        assert failed(crm) == []

    @pytest.mark.parametrize("thing", ["Opportunity", "OpportunityStage", "User"])
    def test_without_deals_their_stages_or_people_there_is_no_run(self, salesforce, thing):
        crm = salesforce(**hiding(thing))
        with pytest.raises(AuthError, match=thing):
            crm.source().entities()
        assert {finding.exit_code for finding in failed(crm)} == {3}

    @pytest.mark.parametrize(("thing", "table"), [("Campaign", "spend"), ("ForecastingQuota", "quotas")])
    def test_what_an_edition_may_lack_is_a_note(self, salesforce, thing, table):
        crm = salesforce(**hiding(thing))
        names, said = read_everything(crm)
        assert table not in names
        assert said == []
        assert failed(crm) == []
        note = next(finding for finding in crm.source().check() if thing in finding.what)
        assert note.detail == f"not visible, or not there in this edition: no table {table}"

    @pytest.mark.parametrize(("thing", "table"), [("Campaign", "spend"), ("ForecastingQuota", "quotas")])
    def test_unless_its_table_is_wanted_by_name(self, salesforce, thing, table):
        crm = salesforce(**hiding(thing))
        names, said = read_everything(crm, tables=["deals", table])
        assert names == ["deals"]
        assert said == [f"{thing} is not visible to the connected user; table {table} is missing"]
        assert [finding.exit_code for finding in failed(crm, tables=["deals", table])] == [3]

    def test_dated_rates_that_cannot_be_seen_are_a_note(self, salesforce):
        crm = salesforce(**hiding("DatedConversionRate"))
        assert failed(crm) == []
        assert any("DatedConversionRate" in finding.what and "today's rates" in finding.detail for finding in crm.source().check())
        assert sorted(row["currency"] for row in crm.read("rates").rows) == ["EUR", "GBP", "USD"]

    def test_queues_that_cannot_be_seen_are_a_note(self, salesforce):
        crm = salesforce(**hiding("Group"))
        assert failed(crm) == []
        assert crm.read("owners").rows

    def test_queues_that_are_refused_leave_the_users(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("FROM.Group", status=400, body=b'[{"errorCode":"INVALID_FIELD","message":"x"}]')
        reading = crm.read("owners")
        assert len(reading.rows) >= len(crm.company.owners)
        assert any("queues have no name" in warning for warning in reading.warnings)

    def test_dated_rates_that_are_refused_are_said(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("FROM.DatedConversionRate", status=400, body=b'[{"errorCode":"INVALID_TYPE","message":"x"}]')
        assert any("today's rates hold" in warning for warning in crm.read("rates").warnings)

    def test_record_types_that_are_refused_are_not_taken_for_none(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("FROM.RecordType", status=400, body=b'[{"errorCode":"INVALID_TYPE","message":"x"}]', times=None)
        with pytest.raises(AuthError, match="RecordType"):
            crm.source().entities()

    def test_without_record_types_one_pipeline_holds_all(self, salesforce):
        crm = salesforce(**hiding("RecordType"))
        assert {row["pipeline"] for row in crm.read("deals").rows} == {"default"}
        assert {row["pipeline"] for row in crm.read("stages").rows} == {"default"}
        assert {row["pipeline"] for row in crm.read("stage_entries").rows} == {"default"}

    def test_a_currency_is_known_without_the_rates(self, salesforce):
        crm = salesforce(**hiding("CurrencyType"))
        assert {row["currency"] for row in crm.read("deals").rows} == {deal.currency for deal in crm.company.deals.values()}

    def test_what_is_hidden_of_users_is_empty(self, salesforce):
        rows = salesforce(**hiding(User=["ManagerId", "Department", "UserRoleId", "Division"])).read("owners").rows
        assert {(row["team"], row["manager"], row["region"]) for row in rows} == {(None, None, None)}

    def test_events_whose_end_is_hidden_are_read_and_never_done(self, salesforce):
        crm = salesforce(**hiding(Event=["EndDateTime"]))
        mark = crm.mark()
        crm.company.tick(3_600)
        meeting = next(one for one in crm.company.activities.values() if one.kind == "meeting" and not one.deleted_at)
        crm.company.touch(meeting)
        rows = {row["activity_id"]: row for row in crm.read("activities", mark).rows}
        assert rows[sf_id("00U", meeting.n)]["done_at"] is None


class TestWantedTables:
    def test_only_they_are_given_asked_for_and_checked(self, salesforce):
        crm = salesforce(**hiding("Lead", "Account"))
        wanted = ["stages", "deals", "owners"]
        names, said = read_everything(crm, tables=wanted)
        assert names == ["deals", "stages", "owners"]
        assert said == []
        asked = " ".join(one.query.get("q", "") for one in crm.running.requests)
        assert not any(f"FROM {thing}" in asked for thing in ("Task", "Contact", "OpportunityHistory", "Campaign"))
        assert failed(crm, tables=wanted) == []

    def test_one_that_is_wanted_and_hidden_is_missed(self, salesforce):
        crm = salesforce(**hiding("Lead"))
        assert any("Lead" in warning for warning in read_everything(crm, tables=["owners", "leads"])[1])
        assert [finding.exit_code for finding in failed(crm, tables=["owners", "leads"])] == [3]

    def test_deals_need_not_be_wanted(self, salesforce):
        crm = salesforce(**hiding("Opportunity", "OpportunityStage"))
        assert read_everything(crm, tables=["leads", "accounts"]) == (["leads", "accounts"], [])
        assert failed(crm, tables=["leads", "accounts"]) == []

    def test_deals_need_the_stages_whoever_wants_them(self, salesforce):
        crm = salesforce(**hiding("OpportunityStage"))
        assert [finding.exit_code for finding in failed(crm, tables=["deals"])] == [3]
        with pytest.raises(AuthError, match="OpportunityStage"):
            crm.source(tables=["deals"]).entities()

    def test_a_name_that_is_no_table_is_refused(self):
        config = {"domain": "acme.my.salesforce.com", "auth": {"type": "client_credentials", "client_id": "a", "client_secret": "b"}}
        with pytest.raises(ValidationError, match="did you mean 'deals'"):
            SalesforceSource.Config.model_validate({**config, "tables": ["deal"]})


class TestReads:
    """What an entity is read with: the flow reads everything anew when that changes, and misses what `model.fields` names beside it."""

    def test_are_the_fields_the_user_may_see(self, salesforce):
        reads = {entity.name: entity.reads for entity in salesforce(**hiding(Opportunity=["Amount"])).source().entities()}
        assert all(reads.values())
        assert "Amount" not in reads["deals"]
        assert {"Id", "StageName", "Loss_Reason__c"} <= set(reads["deals"])
        assert list(reads["deals"]) == sorted(reads["deals"])

    def test_of_activities_are_those_of_tasks_and_of_events(self, salesforce):
        reads = salesforce().entity(salesforce().source(), "activities").reads
        assert {"CompletedDateTime", "EndDateTime", "Kind", "Due", "Done"} <= set(reads)

    @pytest.mark.parametrize(
        ("name", "field"), [("owners", "Division"), ("spend", "ActualCost"), ("quotas", "QuotaAmount"), ("stage_entries", "StageName")]
    )
    def test_change_with_permissions(self, salesforce, name, field):
        things = {"owners": "User", "spend": "Campaign", "quotas": "ForecastingQuota", "stage_entries": "OpportunityHistory"}
        crm = salesforce()
        assert field in crm.entity(crm.source(), name).reads
        crm.service.setup.hidden_fields = {things[name]: frozenset({field})}
        assert field not in {field for entity in crm.source().entities() if entity.name == name for field in entity.reads}

    def test_further_and_custom_fields_of_people_and_campaigns_are_read_too(self, salesforce):
        crm = salesforce()
        source = crm.source(fields={"owners": ["Username"], "spend": ["BudgetedCost"]})
        for name, field in (("owners", "Username"), ("spend", "BudgetedCost")):
            entity = crm.entity(source, name)
            assert field in entity.reads
            records = [record for page in source.read(entity, Since()) for record in page.records]
            assert any(record.get(field) for record in records)
