"""What becomes of Salesforce's stages, campaigns, quotas, events, users and ids where an org is not as tidy as a new one."""

from collections import Counter
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from connector.api import Since
from connector.sandbox.records import Stage
from connector.sandbox.salesforce_objects import Field, sf_id
from sources.salesforce_ids import long_id


def living(company):
    return [deal for deal in company.deals.values() if not deal.deleted_at]


def records(crm, name, **config):
    source = crm.source(**config)
    return [record for page in source.read(crm.entity(source, name), Since()) for record in page.records]


def with_fields(crm, thing, **fields):
    """The org has these fields too, or instead."""
    real = crm.service.objects

    def objects():
        found = real()
        return found | {thing: replace(found[thing], fields={**found[thing].fields, **fields})}

    crm.service.objects = objects


class TestStages:
    def stages(self, crm):
        found = {}
        for row in sorted(crm.read("stages").rows, key=lambda row: (row["pipeline"], row["stage_order"])):
            found.setdefault(row["pipeline"], []).append(row["stage"])
        return found

    def test_an_inactive_stage_stands_behind_those_that_may_be_chosen(self, salesforce):
        crm = salesforce(inactive_stages=frozenset({"Discovery"}))
        assert "Discovery" in {row["stage"] for row in crm.read("deals").rows}
        new = self.stages(crm)["New Business"]
        assert new == ["Qualification", "Proposal", "Negotiation", "Closed Won", "Closed Lost", "Discovery"]

    def test_so_does_one_in_which_no_deal_stands_any_more_because_histories_name_it(self, salesforce):
        crm = salesforce(inactive_stages=frozenset({"Legacy"}))
        crm.company.pipelines[0].stages.insert(0, Stage("legacy", "Legacy", "Legacy", 0, Decimal("0.1")))
        assert [stages[-1] for stages in self.stages(crm).values()] == ["Legacy", "Legacy"]

    def test_a_stage_taken_out_of_a_process_is_told_while_deals_stand_in_it(self, salesforce):
        crm = salesforce()
        deal = next(deal for deal in living(crm.company) if deal.pipeline == "new" and crm.company.status(deal) == "open")

        def record_type(one):
            return sf_id("012", 2 if one.n == deal.n else crm.company.pipeline(one.pipeline).n)

        assert self.stages(crm)["Renewals"] == ["Renewal Review", "Renewal Offer", "Verbal Commitment", "Closed Won", "Closed Lost"]
        with_fields(crm, "Opportunity", RecordTypeId=Field("reference", record_type))
        assert self.stages(crm)["Renewals"][5:] == [crm.company.stage(deal.pipeline, deal.stage).label]

    def test_deals_without_a_record_type_have_stages_in_the_pipeline_default(self, salesforce):
        crm = salesforce()
        crm.service.setup.untyped_deals = frozenset(deal.n for deal in living(crm.company)[:3])
        rows = [row for row in crm.read("deals").rows if row["pipeline"] == "default"]
        assert {row["deal_id"] for row in rows} == {sf_id("006", n) for n in crm.service.setup.untyped_deals}
        stages = self.stages(crm)
        assert {row["stage"] for row in rows} <= set(stages["default"])
        assert len(stages["default"]) == len({stage.name for pipeline in crm.company.pipelines for stage in pipeline.stages})

    def test_without_such_deals_there_is_no_such_pipeline(self, salesforce):
        assert set(self.stages(salesforce())) == {"New Business", "Renewals"}

    def test_an_org_that_cannot_count_its_deals_by_stage_has_it_to_be_safe(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("GROUP.BY", status=400, body=b'[{"errorCode":"QUERY_TIMEOUT","message":"x"}]')
        assert set(self.stages(crm)) == {"New Business", "Renewals", "default"}

    def test_record_types_of_one_name_are_one_pipeline_with_the_stages_of_both(self, salesforce):
        crm = salesforce()
        for pipeline in crm.company.pipelines:
            pipeline.label = "Sales"
            pipeline.stages.append(Stage(f"unused-{pipeline.n}", *[f"Unused {pipeline.n}"] * 2, 9, Decimal("0.2")))
        stages = self.stages(crm)
        assert set(stages) == {"Sales"}
        assert {row["stage"] for row in crm.read("deals").rows} <= set(stages["Sales"])
        assert {"Unused 1", "Unused 2"} <= set(stages["Sales"])
        assert len(stages["Sales"]) == len(set(stages["Sales"]))


class TestMoney:
    def test_costs_and_quotas_keep_their_own_currency(self, salesforce):
        crm = salesforce(campaign_currencies=("EUR", "USD", "CHF"), quota_currencies=("GBP", "EUR"))
        currencies = ("EUR", "USD", "CHF")
        spend = Counter((row["period"], row["category"], row["amount"], row["currency"]) for row in crm.read("spend").rows)
        assert spend == Counter((one.month, one.category, one.amount, currencies[one.n % 3]) for one in crm.company.spend)
        quotas = Counter((row["period"], row["amount"], row["currency"]) for row in crm.read("quotas").rows)
        assert quotas == Counter((one.month, one.amount, ("GBP", "EUR")[one.n % 2]) for one in crm.company.quotas)

    def test_an_org_of_one_currency_says_which(self, salesforce):
        crm = salesforce(multi_currency=False)
        for name in ("deals", "leads", "spend", "quotas"):
            assert {row["currency"] for row in crm.read(name).rows} == {"EUR"}, name

    def test_rates_name_the_corporate_currency(self, salesforce):
        assert {row["to_currency"] for row in salesforce().read("rates").rows} == {"EUR"}

    def test_quotas_of_a_further_forecast_type_are_not_counted_on_top(self, salesforce):
        crm = salesforce(forecast_types=3)
        assert Counter((row["period"], row["owner"], row["amount"]) for row in crm.read("quotas").rows) == Counter(
            (one.month, crm.company.owners[one.owner].name, one.amount) for one in crm.company.quotas
        )


class TestSpend:
    def test_a_campaign_without_a_start_counts_on_the_day_it_ended(self, salesforce):
        crm = salesforce()
        with_fields(crm, "Campaign", StartDate=Field("date", lambda one: one.month if one.n > 2 else None))
        reading = crm.read("spend")
        assert len(reading.rows) == len(crm.company.spend)
        assert reading.warnings == ()
        assert {row["period"] for row in reading.rows if row["period"].day != 1} == {date(one.month.year, one.month.month, 28) for one in crm.company.spend[:2]}  # fmt: skip

    @pytest.mark.parametrize(("count", "words"), [(1, "1 campaign has a cost"), (3, "3 campaigns have a cost")])
    def test_one_without_any_date_is_left_out_and_counted(self, salesforce, count, words):
        crm = salesforce()
        dated = {name: Field("date", lambda one: one.month if one.n > count else None) for name in ("StartDate", "EndDate")}
        with_fields(crm, "Campaign", **dated)
        reading = crm.read("spend")
        assert len(reading.rows) == len(crm.company.spend) - count
        assert any(words in warning for warning in reading.warnings)


class TestEvents:
    def test_the_copies_of_attendees_are_no_events_of_their_own(self, salesforce):
        crm = salesforce()
        held = [one for one in crm.company.activities.values() if one.kind == "meeting"]
        assert len(list(crm.service.objects()["Event"].rows())) > len(held)
        mark = crm.mark()
        assert Counter(row["kind"] for row in crm.read("activities").rows)["meeting"] == sum(one.deleted_at is None for one in held)
        crm.company.tick(3_600)
        crm.company.touch(next(one for one in held if one.n % 5 == 0 and not one.deleted_at))
        assert [row["kind"] for row in crm.read("activities", mark).rows].count("meeting") == 1


class TestUsers:
    def test_those_nobody_is_are_there_by_name_and_in_no_team(self, salesforce):
        rows = {row["owner"]: row for row in salesforce().read("owners").rows}
        for name in ("Automated Process", "Platform Integration User"):
            assert (rows[name]["team"], rows[name]["manager"]) == (None, None)


class TestIds:
    def test_the_long_form_is_salesforces_own(self):
        assert all(long_id(sf_id("006", n)[:15]) == sf_id("006", n) for n in range(1, 5_000))
        assert long_id(sf_id("001", 5)) == sf_id("001", 5)

    def test_a_short_id_in_a_text_or_reference_field_becomes_long(self, salesforce):
        crm = salesforce()
        with_fields(
            crm,
            "Opportunity",
            Owner15__c=Field("string", lambda deal: sf_id("005", deal.owner)[:15]),
            Reseller_Id__c=Field("string", lambda deal: sf_id("001", deal.owner)),
            Partner__c=Field("reference", lambda deal: sf_id("001", deal.owner)[:15]),
        )
        owner = crm.company.deals[1].owner
        for bulk_from in (10, 10_000):
            record = next(record for record in records(crm, "deals", bulk_from=bulk_from) if record["Id"] == sf_id("006", 1))
            assert record["Owner15__c"] == sf_id("005", owner)
            assert record["Reseller_Id__c"] == record["Partner__c"] == sf_id("001", owner)

    @pytest.mark.parametrize("value", ["005000000000017", "A05Hs0000000001", "005Hs-000000001", "short", "005Hs0000000001X"])
    def test_a_number_of_another_system_stays_what_it_is(self, salesforce, value):
        crm = salesforce()
        with_fields(
            crm, "Opportunity", Erp_Id__c=Field("string", lambda deal: value), Note__c=Field("string", lambda deal: "005Hs0000000001")
        )
        rows = records(crm, "deals")
        assert {row["Erp_Id__c"] for row in rows} == {value}
        assert {row["Note__c"] for row in rows} == {"005Hs0000000001"}, "a text field that is not named as an id"
