"""What HubSpot's records become where they are not as one would like: line items without a deal, activities that never took place, custom
properties with our names, leads that came to nothing, owners who are leaving, stages and rates that are told twice.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from connector.api import Since
from connector.errors import TransientError
from connector.normalise import normalise
from connector.sandbox import hubspot as hubspot_sandbox
from connector.sandbox.hubspot_objects import Property, hs_id, owner_id, stage_id

OURS = ["id", "history", "contact_id", "deal_id", "lead_id", "kind", "subject", "due", "done"]
REFUSED = json.dumps({"status": "error", "category": "VALIDATION_ERROR", "message": "no"}).encode()


def living(company, status=None):
    return [one for one in company.deals.values() if not one.deleted_at and status in (None, company.status(one))]


def by_id(rows, key="deal_id"):
    return {row[key]: row for row in rows}


def override(crm, kind, name, value, what="string", **more):
    """Another value for a property of every record of an object type."""
    crm.service.portal.kinds[kind].properties[name] = Property(what, value, **more)


def reworded(crm, change):
    """Let the portal say something else of each object."""
    real = crm.service._json

    def other(kind, record, asked):
        found = real(kind, record, asked)
        change(kind, record, found)
        return found

    crm.service._json = other


class TestLineItems:
    def alive(self, crm):
        kind = crm.service.portal.kinds["line_items"]
        return {hs_id("line_items", one.n): one for one in kind.records.values() if kind.gone(one) is None}

    def test_those_without_a_deal_are_left_out_and_counted(self, hubspot):
        crm = hubspot(lines_without_deal=4)
        reading = crm.read("deal_products", list_page=5)
        rows = by_id(reading.rows, "deal_product_id")
        living_deals = {one.n for one in living(crm.company)}
        assert set(rows) == {name for name, one in self.alive(crm).items() if one.n % 4 and one.deal in living_deals}
        assert all(row["deal_id"] for row in rows.values())
        left_out = len(self.alive(crm)) - len(rows)
        assert left_out > 10
        assert [warning for warning in reading.warnings if f"{left_out:,} belong to no deal" in warning]

    def test_one_that_outlives_its_deal_goes_with_it(self, hubspot):
        crm = hubspot()
        first = crm.read("deal_products")
        crm.company.tick(3_600)
        holder = next(one for one in living(crm.company) if len(one.lines) > 1)
        crm.company.delete(holder)
        crm.company.tick(3_600)
        lines = {hs_id("line_items", line.n) for line in holder.lines}
        assert lines <= set(self.alive(crm)), "HubSpot keeps them"
        later = crm.read("deal_products", first.watermark)
        assert lines <= set(later.removed)
        after = by_id([*first.rows, *later.rows], "deal_product_id")
        assert {name for name in after if name not in later.removed} == set(by_id(crm.read("deal_products").rows, "deal_product_id"))

    def test_nothing_changed_is_no_error(self, hubspot):
        crm = hubspot(lines_without_deal=4)
        crm.company.tick(3_600)
        later = crm.read("deal_products", crm.mark())
        assert (later.rows, later.removed) == ([], ())

    def test_one_that_moved_to_another_deal_comes_when_its_stamp_moved(self, hubspot):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        one, other = [each for each in living(crm.company) if each.lines][:2]
        line = one.lines[0]
        line.deal = other.n
        crm.company.touch(line)
        assert by_id(crm.read("deal_products", mark).rows, "deal_product_id")[hs_id("line_items", line.n)]["deal_id"] == hs_id(
            "deals", other.n
        )

    def test_without_deals_in_sight_there_are_none(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("/crm/objects/2026-09/deals", status=403, body=b'{"category": "MISSING_SCOPES"}', times=None)
        names = {entity.name for entity in crm.source(tables=["deal_products", "owners"]).entities()}
        assert names == {"owners"}


class TestRates:
    def told(self, monkeypatch, *rates):
        """What the portal tells: from, to, effective from, rate, written at."""
        names = ("fromCurrencyCode", "toCurrencyCode", "effectiveAt", "conversionRate", "updatedAt")
        monkeypatch.setattr(hubspot_sandbox, "exchange_rates", lambda _: [dict(zip(names, one, strict=True)) for one in rates])

    def test_the_last_of_a_day_holds_and_the_first_known_holds_before(self, hubspot, monkeypatch):
        self.told(
            monkeypatch,
            ("USD", "EUR", "2026-03-02T15:30:00Z", 0.95, "2026-03-02T15:30:00Z"),
            ("USD", "EUR", "2026-03-02T00:00:00Z", 0.90, "2026-03-02T00:00:00Z"),
            ("USD", "EUR", "2026-05-04T00:00:00.000Z", 0.85, "2026-05-04T10:00:00.500Z"),
            ("USD", "EUR", "2026-05-04T00:00:00Z", 0.80, "2026-05-04T09:00:00Z"),
        )
        rows = {(row["currency"], str(row["valid_from"])): row["rate"] for row in hubspot().read("rates").rows}
        assert rows == {("EUR", "1900-01-01"): 1, ("USD", "1900-01-01"): Decimal("0.95"), ("USD", "2026-05-04"): Decimal("0.85")}

    def test_rates_into_other_currencies_are_none_of_ours(self, hubspot, monkeypatch):
        self.told(
            monkeypatch,
            ("USD", "GBP", "2026-01-02T00:00:00Z", 0.75, "2026-03-02T00:00:00Z"),
            ("USD", "EUR", "2026-03-02T00:00:00Z", 0.90, "2026-03-02T00:00:00Z"),
            ("USD", "GBP", "2026-05-02T00:00:00Z", 0.70, "2026-05-02T00:00:00Z"),
        )
        rows = hubspot().read("rates").rows
        assert [(row["currency"], row["to_currency"], row["rate"]) for row in rows] == [("EUR", "EUR", 1), ("USD", "EUR", Decimal("0.9"))]


class TestNames:
    @pytest.mark.parametrize("name", OURS)
    def test_a_custom_property_with_a_name_of_ours_harms_nothing(self, hubspot, name):
        crm = hubspot()
        undisturbed = {table: crm.read(table).rows for table in ("deals", "stage_entries", "activities")}
        for kind in ("deals", "tasks"):
            override(crm, kind, name, lambda one: f"theirs {one.n}", custom=True)
        source = crm.source()
        assert {table: crm.read(table, source=source).rows for table in undisturbed} == undisturbed

    def test_it_is_there_for_the_model_under_a_name_of_its_own(self, hubspot):
        crm = hubspot()
        override(crm, "deals", "id", lambda deal: f"ERP-{deal.n}", custom=True)
        source = crm.source()
        entity = crm.entity(source, "deals")
        assert "properties.id" in entity.reads
        with normalise(
            entity, source.read(entity, Since()), engine=crm.engine, scratch=crm.scratch, overrides={"next_step": "properties.id"}
        ) as result:
            rows = by_id([row for batch in result.batches() for row in batch.to_pylist()])
        assert {name: row["next_step"] for name, row in rows.items()} == {
            hs_id("deals", one.n): f"ERP-{one.n}" for one in living(crm.company)
        }

    def test_an_interrupted_read_does_not_take_a_custom_history_for_one(self, hubspot, tmp_path):
        crm = hubspot()
        undisturbed = crm.read("stage_entries").rows
        override(crm, "deals", "history", lambda deal: f"long, {deal.n}", custom=True)
        source = crm.source(folder=tmp_path / "memory", list_page=2)
        crm.running.faults.add("GET /crm/objects/2026-09/deals", status=500, times=None, skip=30)
        with pytest.raises(TransientError):
            list(source.read(crm.entity(source, "deals"), Since()))
        crm.running.faults.clear()
        again = crm.source(folder=tmp_path / "memory", list_page=2)
        crm.read("deals", source=again)
        assert sorted(map(str, crm.read("stage_entries", source=again).rows)) == sorted(map(str, undisturbed))

    def test_a_new_custom_property_makes_the_next_read_a_full_one(self, hubspot):
        crm = hubspot()
        before = crm.entity(crm.source(), "deals")
        override(crm, "deals", "region_of_sales", lambda deal: "north", custom=True)
        assert crm.entity(crm.source(), "deals") != before


class TestActivities:
    """What is planned is due; what took place is done; what will never take place is neither."""

    def of(self, crm, kind):
        kinds = crm.service.portal.kinds[kind]
        alive = [one for one in kinds.records.values() if not one.deleted_at]
        rows = by_id(crm.read("activities").rows, "activity_id")
        assert alive
        return [(one, rows[hs_id(kind, one.n)]) for one in alive]

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("meetings", "hs_meeting_outcome", "CANCELED"),
            ("meetings", "hs_meeting_outcome", "RESCHEDULED"),
            ("meetings", "hs_meeting_outcome", "NO_SHOW"),
            ("emails", "hs_email_status", "FAILED"),
            ("emails", "hs_email_status", "BOUNCED"),
            ("calls", "hs_call_status", "CANCELED"),
        ],
    )
    def test_never(self, hubspot, kind, name, value):
        crm = hubspot()
        override(crm, kind, name, lambda _: value)
        assert {(row["due_at"], row["done_at"]) for _, row in self.of(crm, kind)} == {(None, None)}

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("meetings", "hs_meeting_outcome", "SCHEDULED"),
            ("emails", "hs_email_status", "SCHEDULED"),
            ("emails", "hs_email_status", "SENDING"),
            ("calls", "hs_call_status", "SCHEDULED"),
            ("calls", "hs_call_status", "QUEUED"),
            ("tasks", "hs_task_status", "DEFERRED"),
        ],
    )
    def test_planned(self, hubspot, kind, name, value):
        crm = hubspot()
        override(crm, kind, name, lambda _: value)
        assert all(row["due_at"] and row["done_at"] is None for _, row in self.of(crm, kind))

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("meetings", "hs_meeting_outcome", "COMPLETED"),
            ("emails", "hs_email_status", "SENT"),
            ("emails", "hs_email_status", None),
            ("calls", "hs_call_status", "COMPLETED"),
            ("calls", "hs_call_status", "NO_ANSWER"),
            ("calls", "hs_call_status", "BUSY"),
            ("calls", "hs_call_status", "FAILED"),
        ],
    )
    def test_done(self, hubspot, kind, name, value):
        """A call nobody answered was made."""
        crm = hubspot()
        override(crm, kind, name, lambda _: value)
        assert all(row["done_at"] == row["due_at"] for _, row in self.of(crm, kind))

    @pytest.mark.parametrize("value", [None, "", "OUR_OWN_OUTCOME"])
    def test_a_meeting_without_an_outcome_is_done_when_its_time_has_come(self, hubspot, value):
        crm = hubspot()
        override(crm, "meetings", "hs_meeting_outcome", lambda _: value)
        found = {(row["due_at"] <= crm.company.now, row["done_at"] is not None) for _, row in self.of(crm, "meetings")}
        assert found == {(True, True), (False, False)}

    def test_that_its_time_has_come_is_read_although_no_stamp_moved(self, hubspot):
        crm = hubspot()
        override(crm, "meetings", "hs_meeting_outcome", lambda _: None)
        first = crm.read("activities")
        crm.company.now = max(one.due_at for one in crm.company.activities.values() if one.kind == "meeting") + timedelta(hours=1)
        changed = by_id(first.rows, "activity_id") | by_id(crm.read("activities", first.watermark).rows, "activity_id")
        assert changed == by_id(crm.read("activities").rows, "activity_id")
        assert any(row != changed[row["activity_id"]] for row in first.rows)


class TestDates:
    def test_without_a_creation_date_the_records_own_counts(self, hubspot):
        """An import may leave it empty."""
        crm = hubspot()
        override(crm, "deals", "createdate", lambda _: None, "datetime")
        override(crm, "leads", "hs_createdate", lambda _: "", "datetime")
        deals, leads = by_id(crm.read("deals").rows), by_id(crm.read("leads").rows, "lead_id")
        assert all(deals[hs_id("deals", one.n)]["created_at"] == one.created_at for one in living(crm.company))
        assert all(leads[hs_id("leads", one.n)]["created_at"] == one.created_at for one in crm.company.leads.values())

    def test_a_closed_deal_without_a_close_date_closed_when_it_entered_its_stage(self, hubspot):
        crm = hubspot()
        override(crm, "deals", "closedate", lambda _: None, "datetime")
        rows = by_id(crm.read("deals").rows)
        for one in living(crm.company):
            assert rows[hs_id("deals", one.n)]["closed_at"] == (one.stage_entered_at if one.closed_at else None)

    def test_what_is_archived_without_a_date_is_gone_now(self, hubspot):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        one = living(crm.company)[0]
        crm.company.delete(one)
        reworded(crm, lambda kind, record, found: found.pop("archivedAt", None))
        assert hs_id("deals", one.n) in crm.read("deals", mark).removed

    def test_what_went_before_the_last_read_is_not_told_again(self, hubspot):
        crm = hubspot()
        one, other = living(crm.company)[:2]
        crm.company.delete(one)
        crm.company.tick(3_600)
        mark = crm.mark()
        crm.company.tick(3_600)
        crm.company.delete(other)
        removed = crm.read("deals", mark).removed
        assert hs_id("deals", other.n) in removed
        assert hs_id("deals", one.n) not in removed

    def test_a_merged_deal_goes_although_the_archive_does_not_tell_it(self, hubspot):
        crm = hubspot(archived_days=0)
        mark = crm.mark()
        crm.company.tick(3_600)
        winner, loser = living(crm.company, "open")[:2]
        crm.company.merge_deals(winner, loser)
        crm.company.tick(60)
        assert hs_id("deals", loser.n) in crm.read("deals", mark).removed
        assert hs_id("deals", loser.n) in crm.read("stage_entries", mark).removed


class TestLeads:
    def converted(self, crm):
        return next(one for one in crm.company.leads.values() if one.deal and not crm.company.deals[one.deal].deleted_at)

    def row(self, crm, lead):
        return by_id(crm.read("leads").rows, "lead_id")[hs_id("leads", lead.n)]

    def test_a_disqualified_one_with_a_deal_has_not_become_it(self, hubspot):
        crm = hubspot()
        lead = self.converted(crm)
        lead.status = "unqualified"
        row = self.row(crm, lead)
        assert (row["status"], row["converted_at"]) == ("Disqualified", None)
        assert row["deal_id"] == hs_id("deals", lead.deal)

    def test_a_later_stage_does_not_move_the_day_it_became_a_deal(self, hubspot):
        crm = hubspot()
        lead = self.converted(crm)
        override(crm, "leads", "hs_v2_date_entered_current_stage", lambda _: "2026-11-19T00:00:00Z", "datetime")
        assert self.row(crm, lead)["converted_at"] == lead.converted_at

    def test_a_portal_that_does_not_tell_when_a_lead_was_qualified_tells_its_present_stage(self, hubspot):
        crm = hubspot()
        properties = crm.service.portal.kinds["leads"].properties
        for name in [name for name in properties if "qualified" in name]:
            del properties[name]
        override(crm, "leads", "hs_v2_date_entered_current_stage", lambda _: "2026-11-19T00:00:00Z", "datetime")
        assert self.row(crm, self.converted(crm))["converted_at"] == datetime(2026, 11, 19, tzinfo=UTC)

    def test_a_portal_that_tells_neither_is_warned_of(self, hubspot):
        crm = hubspot()
        properties = crm.service.portal.kinds["leads"].properties
        for name in [name for name in properties if name.startswith("hs_v2_date_entered")]:
            del properties[name]
        lead = self.converted(crm)
        assert self.row(crm, lead)["converted_at"] == lead.modified_at
        assert any("its last change stands" in warning for warning in crm.read("leads").warnings)

    @pytest.mark.parametrize(
        ("out", "qualified"),
        [
            ({"leadState": "UNQUALIFIED"}, {"leadState": "QUALIFIED"}),
            ({"isClosed": "true", "probability": "0.0"}, {"isClosed": True, "probability": "1.0"}),
        ],
    )
    def test_in_a_pipeline_of_ones_own_the_metadata_tell_the_outcome(self, hubspot, monkeypatch, out, qualified):
        crm = hubspot()
        ids = {"unqualified-stage-id": ("1320255567", out), "qualified-stage-id": ("1325789260", qualified)}
        real = hubspot_sandbox.lead_pipeline()
        stages = [
            {**stage, "id": ids.get(stage["id"], (stage["id"],))[0], "metadata": ids.get(stage["id"], (0, stage["metadata"]))[1]}
            for stage in real["stages"]
        ]
        monkeypatch.setattr(hubspot_sandbox, "lead_pipeline", lambda: {**real, "id": "806", "stages": stages})
        stage = crm.service.portal.kinds["leads"].properties["hs_pipeline_stage"].value
        override(crm, "leads", "hs_pipeline_stage", lambda one: ids.get(stage(one), (stage(one),))[0], "enumeration")
        override(crm, "leads", "hs_v2_date_entered_1325789260", lambda one: "2026-01-02T00:00:00Z", "datetime")
        one, *_ = [each for each in crm.company.leads.values() if each.deal and not crm.company.deals[each.deal].deleted_at]
        assert self.row(crm, one)["converted_at"] == datetime(2026, 1, 2, tzinfo=UTC)
        one.status = "unqualified"
        assert self.row(crm, one)["converted_at"] is None


class TestOwners:
    def test_whoever_leaves_between_the_two_lists_is_there_once_and_active(self, hubspot):
        crm = hubspot()
        leaver = hubspot_sandbox.owner(crm.company.owners[3])
        body = json.dumps({"results": [{**leaver, "teams": [], "archived": True}]}).encode()
        crm.running.faults.add("/crm/owners/2026-09.*archived=true", status=200, body=body)
        rows = [row for row in crm.read("owners").rows if row["owner_id"] == owner_id(3)]
        assert [row["team"] for row in rows] == [crm.company.owners[3].team]

    def test_the_team_is_the_primary_one(self, hubspot):
        crm = hubspot()
        person = {
            **hubspot_sandbox.owner(crm.company.owners[3]),
            "teams": [{"id": "1", "name": "Guests"}, {"id": "2", "name": "EMEA", "primary": True}],
        }
        body = json.dumps({"results": [person]}).encode()
        crm.running.faults.add("/crm/owners/2026-09.*archived=false", status=200, body=body)
        assert by_id(crm.read("owners").rows, "owner_id")[owner_id(3)]["team"] == "EMEA"


def renewing(crm):
    """A company with deals in both pipelines, one of each outcome in the second."""
    for one, stage in zip(living(crm.company, "open"), ("review", "won", "lost"), strict=False):
        crm.company.tick(60)
        crm.company.move(one, stage, pipeline="renewal")
    return crm


class TestStages:
    def test_those_that_are_archived_still_have_their_labels_and_outcomes(self, hubspot):
        crm = renewing(hubspot(archived=frozenset({"renewal", "new/discovery"})))
        rows = by_id(crm.read("deals").rows)
        for one in living(crm.company):
            row = rows[hs_id("deals", one.n)]
            assert (row["pipeline"], row["stage"], row["status"]) == (
                crm.company.pipeline(one.pipeline).label,
                crm.company.stage(one.pipeline, one.stage).label,
                crm.company.status(one),
            )
        stages = {(row["pipeline"], row["stage"]): row["stage_order"] for row in crm.read("stages").rows}
        assert stages["New Business", "Discovery"] == len(crm.company.pipeline("new").stages), "after the living ones"
        assert len(stages) == sum(len(pipeline.stages) for pipeline in crm.company.pipelines)

    def test_an_archived_pipeline_is_not_mixed_into_a_living_one_of_the_same_name(self, hubspot):
        crm = renewing(hubspot(archived=frozenset({"renewal"})))
        crm.company.pipeline("renewal").label = "New Business"
        rows = by_id(crm.read("deals").rows)
        names = {"new": "New Business", "renewal": "New Business (archived)"}
        assert {one.pipeline for one in living(crm.company)} == set(names)
        assert all(rows[hs_id("deals", one.n)]["pipeline"] == names[one.pipeline] for one in living(crm.company))
        won = {(row["pipeline"], row["stage"]) for row in crm.read("stages").rows if row["is_won"]}
        assert won == {(name, "Closed Won") for name in names.values()}
        assert {row["pipeline"] for row in crm.read("stage_entries").rows} == set(names.values())

    @pytest.mark.parametrize("closed", [True, "true", "True"])
    def test_closed_may_be_text_or_not(self, hubspot, monkeypatch, closed):
        real = hubspot_sandbox.pipeline

        def told(pipeline):
            found = real(pipeline)
            for stage in found["stages"]:
                stage["metadata"]["isClosed"] = closed if stage["metadata"]["isClosed"] == "true" else False
            return found

        monkeypatch.setattr(hubspot_sandbox, "pipeline", told)
        crm = hubspot()
        rows = by_id(crm.read("deals").rows)
        assert all(rows[hs_id("deals", one.n)]["status"] == crm.company.status(one) for one in living(crm.company))

    def test_without_closed_the_probability_tells(self, hubspot, monkeypatch):
        real = hubspot_sandbox.pipeline

        def told(pipeline):
            found = real(pipeline)
            for stage in found["stages"]:
                del stage["metadata"]["isClosed"]
            return found

        monkeypatch.setattr(hubspot_sandbox, "pipeline", told)
        crm = hubspot()
        rows = crm.read("stages").rows
        assert {row["stage"] for row in rows if row["is_won"]} == {"Closed Won"}
        assert {row["stage"] for row in rows if row["is_lost"]} == {"Closed Lost"}

    def test_one_id_in_two_pipelines_is_two_stages(self, hubspot, monkeypatch):
        """`closed` is lost in the one and won in the other."""
        crm = renewing(hubspot())
        meant = {("new", "lost"), ("renewal", "won")}
        taken = {stage_id(crm.company.pipeline(pipeline), stage) for pipeline, stage in meant}
        real = hubspot_sandbox.pipeline

        def told(pipeline):
            found = real(pipeline)
            return {**found, "stages": [{**stage, "id": "closed" if stage["id"] in taken else stage["id"]} for stage in found["stages"]]}

        monkeypatch.setattr(hubspot_sandbox, "pipeline", told)
        deals = crm.service.portal.kinds["deals"]
        value, history = deals.properties["dealstage"].value, deals.history["dealstage"]
        deals.properties["dealstage"] = replace(
            deals.properties["dealstage"], value=lambda deal: "closed" if (deal.pipeline, deal.stage) in meant else value(deal)
        )
        deals.history["dealstage"] = lambda deal: [("closed" if stage in taken else stage, at) for stage, at in history(deal)]
        rows = by_id(crm.read("deals").rows)
        closed = [one for one in living(crm.company) if (one.pipeline, one.stage) in meant]
        assert {one.pipeline for one in closed} == {"new", "renewal"}
        for one in closed:
            row = rows[hs_id("deals", one.n)]
            assert (row["status"], row["stage"]) == (crm.company.status(one), crm.company.stage(one.pipeline, one.stage).label)
        last = {row["deal_id"]: row for row in sorted(crm.read("stage_entries").rows, key=lambda row: row["entered_at"])}
        for one in closed:
            row = last[hs_id("deals", one.n)]
            assert (row["pipeline"], row["stage"]) == (
                crm.company.pipeline(one.pipeline).label,
                crm.company.stage(one.pipeline, one.stage).label,
            )

    @pytest.mark.parametrize("status", ["won", "lost"])
    def test_in_a_stage_that_is_gone_the_deal_tells_its_own_outcome(self, hubspot, monkeypatch, status):
        real = hubspot_sandbox.pipeline
        monkeypatch.setattr(
            hubspot_sandbox,
            "pipeline",
            lambda one: {**real(one), "stages": [stage for stage in real(one)["stages"] if not stage["label"].startswith("Closed")]},
        )
        crm = hubspot()
        rows = by_id(crm.read("deals").rows)
        assert {rows[hs_id("deals", one.n)]["status"] for one in living(crm.company, status)} == {status}


class TestSearchRefused:
    """A type that the search does not know is read page by page; the others are read as ever."""

    def test_in_a_first_read(self, hubspot):
        crm = hubspot()
        whole = crm.read("activities", list_page=2).rows
        crm.running.faults.add("POST /crm/objects/2026-09/calls/search", status=400, body=REFUSED, times=None)
        assert crm.read("activities", list_page=2).rows == whole
        assert crm.asked("POST /crm/objects/2026-09/tasks/search")

    @pytest.mark.parametrize(("name", "kind"), [("activities", "calls"), ("deals", "deals"), ("stage_entries", "deals")])
    def test_in_a_later_one(self, hubspot, name, kind):
        crm = hubspot()
        first = crm.read(name)
        crm.company.tick(3_600)
        crm.company.move(living(crm.company, "open")[0], "lost")
        gone = living(crm.company, "open")[1]
        crm.company.delete(gone)
        crm.running.faults.add(f"POST /crm/objects/2026-09/{kind}/search", status=400, body=REFUSED, times=None)
        later = crm.read(name, first.watermark)
        whole = crm.read(name).rows
        assert not later.full
        if name == "activities":
            calls = {hs_id("calls", one.n) for one in crm.company.activities.values() if one.kind == "call" and not one.deleted_at}
            assert calls <= set(by_id(later.rows, "activity_id"))
        else:
            assert sorted(map(str, later.rows)) == sorted(map(str, whole))
            assert hs_id("deals", gone.n) in later.removed


def test_a_read_that_was_cut_up_and_is_not_accepted_any_more_starts_anew(hubspot, tmp_path):
    """Ranges kept from yesterday's interrupted read, and a portal that takes only its own cursors today."""
    crm = hubspot()
    source = crm.source(folder=tmp_path / "memory", list_page=2, workers=2)
    crm.running.faults.add("GET /crm/objects/2026-09/deals", status=500, times=None, skip=30)
    with pytest.raises(TransientError):
        list(source.read(crm.entity(source, "deals"), Since()))
    crm.running.faults.clear()
    crm.service.setup.own_cursors_only = True
    rows = crm.read("deals", source=crm.source(folder=tmp_path / "memory", list_page=2)).rows
    assert {row["deal_id"] for row in rows} == {hs_id("deals", one.n) for one in living(crm.company)}


def test_progress_knows_about_how_many_deals_there_are(hubspot):
    crm = hubspot(history_page_size=5)
    source = crm.source()
    source.list_page = 5
    entity = crm.entity(source, "deals")
    told = [page.expected for page in source.read(entity, Since()) if page.records]
    assert told[1:] == [len(living(crm.company))] * (len(told) - 1)
