"""What a portal does not show, and what it answers that is no answer: named by `check` with what to do, and never read as "nothing"."""

import json

import pytest
from pydantic import ValidationError

from connector.api import Since
from connector.errors import AuthError, ConnectorError, SourceError, TransientError
from connector.sandbox.hubspot_setup import SCHEMAS, SCOPES
from sources.hubspot import HubSpotSource

EVERY = frozenset([*SCOPES.values(), *SCHEMAS.values()])
NO_PLAN = json.dumps({"category": "NO_PERMISSION", "message": "This feature is not available on your plan."}).encode()
NO_SUCH_TYPE = json.dumps({"category": "VALIDATION_ERROR", "message": "Unable to infer object type from: leads"}).encode()
ALL = {"deals", "stages", "stage_entries", "owners", "leads", "accounts", "contacts", "products", "deal_products", "activities", "rates"}


def failed(crm, **config):
    return [finding for finding in crm.source(**config).check() if not finding.ok]


def said(crm, what, **config):
    (finding,) = [finding for finding in crm.source(**config).check() if finding.what.endswith(f" {what}")]
    return finding


def given(crm, **config):
    return {entity.name for entity in crm.source(**config).entities()}


def define(crm, kind, *names):
    """Take these properties out of the portal."""
    for name in names:
        del crm.service.portal.kinds[kind].properties[name]


class TestScopes:
    """The definitions of an object type may be open to a token that may not see one object."""

    @pytest.mark.parametrize(("kind", "table"), [("companies", "accounts"), ("line_items", "deal_products"), ("leads", "leads")])
    def test_a_lesser_object_is_left_out_and_named(self, hubspot, kind, table):
        crm = hubspot(scopes=EVERY - {SCOPES[kind]})
        assert given(crm) == ALL - {table}
        (finding,) = failed(crm)
        assert (finding.exit_code, finding.what.rpartition(" ")[2]) == (3, kind)
        assert SCOPES[kind] in finding.remedy
        assert [warning for warning in crm.read("deals").warnings if kind in warning and SCOPES[kind] in warning]

    def test_deals_end_the_run(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["deals"]})
        (finding,) = failed(crm)
        with pytest.raises(AuthError) as caught:
            crm.source().entities()
        assert finding.exit_code == caught.value.exit_code == 3
        assert SCOPES["deals"] in finding.detail
        assert SCOPES["deals"] in caught.value.remedy

    def test_owners_are_tried_too(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["owners"]})
        (finding,) = failed(crm)
        assert finding.what.endswith("owners")
        assert SCOPES["owners"] in finding.remedy

    def test_the_scope_of_objects_suffices(self, hubspot):
        crm = hubspot(scopes=frozenset(SCOPES.values()))
        assert failed(crm) == []
        assert given(crm) == ALL

    def test_a_refusal_that_is_not_hubspots_ends_the_run(self, hubspot):
        """A firewall's page must not make a table vanish."""
        crm = hubspot()
        crm.running.faults.add("/crm/objects/2026-09/companies", status=403, body=b"<html>blocked</html>", times=None)
        (finding,) = failed(crm)
        assert "firewall" in finding.remedy
        with pytest.raises(AuthError, match="GET /crm/objects/2026-09/companies"):
            crm.source().entities()


class TestCurrencies:
    def test_a_missing_scope_is_found_and_warned_of(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["currencies"]})
        (finding,) = failed(crm)
        assert (finding.exit_code, finding.what.endswith("exchange rates")) == (3, True)
        assert SCOPES["currencies"] in finding.remedy
        assert given(crm) == ALL - {"rates"}
        assert [warning for warning in crm.read("deals").warnings if "exchange rates" in warning and SCOPES["currencies"] in warning]

    def test_a_portal_that_says_it_has_one_currency_needs_none(self, hubspot):
        crm = hubspot(multi_currency=False, scopes=EVERY - {SCOPES["currencies"]})
        assert failed(crm) == []
        assert given(crm) == ALL - {"rates"}
        assert crm.read("deals").warnings == ()

    @pytest.mark.parametrize(("status", "body"), [(403, NO_PLAN), (404, b""), (404, b"<html>Not found</html>")])
    def test_a_portal_without_the_feature_has_no_rates(self, hubspot, status, body):
        crm = hubspot()
        crm.running.faults.add("exchange-rates", status=status, body=body, times=None)
        assert failed(crm) == []
        assert given(crm) == ALL - {"rates"}
        assert crm.read("deals").warnings == ()


class TestTypesThatAreNotThere:
    @pytest.mark.parametrize(("status", "body"), [(404, b""), (404, b"<html>Not found</html>"), (400, NO_SUCH_TYPE)])
    @pytest.mark.parametrize("place", ["properties", "objects"])
    def test_are_left_out_and_in_order(self, hubspot, status, body, place):
        crm = hubspot()
        crm.running.faults.add(f"/crm/{place}/2026-09/leads", status=status, body=body, times=None)
        assert given(crm) == ALL - {"leads"}
        assert failed(crm) == []
        assert "none in this portal" in said(crm, "leads").detail
        assert crm.read("deals").warnings == ()

    def test_deals_there_must_be(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("/crm/properties/2026-09/deals", status=404, body=b"", times=None)
        (finding,) = failed(crm)
        assert "GET /crm/properties/2026-09/deals: 404" in finding.detail
        assert "api_version" in finding.remedy
        with pytest.raises(SourceError, match="GET /crm/properties/2026-09/deals: 404"):
            crm.source().entities()

    def test_a_refusal_names_what_was_asked_and_hubspots_word_for_it(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("POST /crm/associations", status=400, body=NO_SUCH_TYPE, times=None)
        mark = crm.mark()
        crm.company.tick(3_600)
        crm.company.touch(crm.company.leads[1])
        crm.running.faults.add("GET /crm/objects/2026-09/leads.*associations", status=400, body=NO_SUCH_TYPE, times=None)
        with pytest.raises(SourceError) as caught:
            crm.read("leads", mark)
        assert "GET /crm/objects/2026-09/leads: 400 VALIDATION_ERROR" in str(caught.value)
        assert caught.value.remedy


class TestProperties:
    def test_those_of_several_currencies_a_portal_with_one_does_not_have(self, hubspot):
        crm = hubspot(multi_currency=False)
        define(crm, "deals", "deal_currency_code")
        assert failed(crm) == []
        assert "not there: deal_currency_code" in said(crm, "deals").detail
        reading = crm.read("deals")
        assert {row["currency"] for row in reading.rows} == {"EUR"}
        assert reading.warnings == ()

    def test_with_several_currencies_it_is_missed(self, hubspot):
        crm = hubspot()
        define(crm, "deals", "deal_currency_code")
        assert any("deal_currency_code" in warning for warning in crm.read("deals").warnings)

    def test_a_portal_without_lead_sources_is_in_order(self, hubspot):
        crm = hubspot()
        define(crm, "leads", "hs_lead_source")
        assert failed(crm) == []
        assert crm.read("leads").warnings == ()

    def test_one_that_is_hidden_is_told_but_no_failure(self, hubspot):
        crm = hubspot()
        define(crm, "deals", "closed_lost_reason", "hs_next_step")
        assert failed(crm) == []
        assert "not there: closed_lost_reason, hs_next_step" in said(crm, "deals").detail
        assert any("closed_lost_reason, hs_next_step" in warning for warning in crm.read("deals").warnings)

    @pytest.mark.parametrize(
        "name", ["dealstage", "pipeline", "closedate", "amount", "createdate", "hs_lastmodifieddate", "hubspot_owner_id"]
    )
    def test_without_these_deals_say_nothing(self, hubspot, name):
        crm = hubspot()
        define(crm, "deals", name)
        (finding,) = failed(crm)
        assert (finding.exit_code, name in finding.detail, bool(finding.remedy)) == (3, True, True)


class TestWantedTables:
    def test_only_these_are_given_and_asked_for(self, hubspot):
        crm = hubspot()
        assert given(crm, tables=["deals", "stages", "owners"]) == {"deals", "stages", "owners"}
        crm.running.requests.clear()
        list(crm.source(tables=["owners"]).entities())
        assert [one.path for one in crm.running.requests] == ["/account-info/2026-09/details"]

    def test_deals_alone_come_without_their_history_in_larger_pages(self, hubspot):
        crm = hubspot()
        rows = crm.read("deals", tables=["deals"]).rows
        asked = [one for one in crm.asked("GET /crm/objects/2026-09/deals") if "properties" in one.query]
        assert {one.query["limit"] for one in asked} == {"100"}
        assert not any("propertiesWithHistory" in one.query for one in asked)
        assert rows == crm.read("deals").rows

    def test_what_is_not_wanted_is_not_missed(self, hubspot):
        lacking = {SCOPES[name] for name in ("leads", "line_items", "products", "currencies", "owners")}
        crm = hubspot(scopes=EVERY - lacking)
        wanted = {"tables": ["deals", "stage_entries", "stages"]}
        assert failed(crm, **wanted) == []
        assert crm.read("deals", **wanted).warnings == ()
        assert len(failed(crm)) == 5

    def test_deals_that_nobody_wants_may_be_hidden(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["deals"]})
        assert given(crm, tables=["accounts", "owners"]) == {"accounts", "owners"}
        assert failed(crm, tables=["accounts", "owners"]) == []

    def test_leads_without_their_deals_are_warned_of_by_whatever_is_read_first(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["deals"]})
        wanted = {"tables": ["owners", "leads"]}
        assert given(crm, **wanted) == {"owners", "leads"}
        assert any("deals" in warning for warning in crm.read("owners", **wanted).warnings)
        assert {row["deal_id"] for row in crm.read("leads", **wanted).rows} == {None}

    def test_when_nothing_is_left_the_run_says_why(self, hubspot):
        crm = hubspot(scopes=EVERY - {SCOPES["products"]})
        with pytest.raises(AuthError, match="e-commerce"):
            crm.source(tables=["products"]).entities()
        crm = hubspot(multi_currency=False)
        with pytest.raises(ConnectorError, match="none of these tables: rates"):
            crm.source(tables=["rates"]).entities()

    @pytest.mark.parametrize(("name", "hint"), [("spend", "there is: deals"), ("deal", "did you mean")])
    def test_a_table_there_is_not_is_refused(self, name, hint):
        with pytest.raises(ValidationError, match=hint):
            HubSpotSource.Config.model_validate({"type": "hubspot", "token": "pat-x", "tables": [name]})

    def test_the_archive_is_listed_once_for_deals_and_their_stages(self, hubspot):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        source = crm.source()
        for name in ("deals", "stage_entries"):
            list(source.read(crm.entity(source, name), Since(mark)))
        assert len([one for one in crm.asked("GET /crm/objects/2026-09/deals") if one.query.get("archived") == "true"]) == 1


class TestAnswersThatAreNone:
    """A gateway's page, half an answer: nothing changed because nothing was said, so no watermark may move."""

    @pytest.mark.parametrize(
        "body", [b"{}", b"[]", b"null", b'{"results": null}', b'{"results": [1]}', b"<html>", b"", b'{"results": [{}]}']
    )
    @pytest.mark.parametrize(
        ("asked", "name"),
        [
            ("GET /crm/properties/2026-09/deals", "deals"),
            ("POST /crm/objects/2026-09/deals/search", "deals"),
            ("GET /crm/objects/2026-09/deals", "deals"),
            ("GET /crm/owners/2026-09", "owners"),
            ("GET /crm/pipelines/2026-09/deals", "stages"),
            ("POST /crm/associations/2026-09/deals/contacts/batch/read", "deals"),
            ("GET /account-info/2026-09/details", "deals"),
        ],
    )
    def test_are_errors_that_name_the_path(self, hubspot, asked, name, body):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        crm.company.touch_all(list(crm.company.deals.values())[:3])
        crm.running.faults.add(asked, status=200, body=body, times=None)
        source, pages = crm.source(), []
        with pytest.raises(SourceError) as caught:
            pages.extend(source.read(crm.entity(source, name), Since(mark)))
        assert asked in str(caught.value)
        assert caught.value.remedy
        assert all(page.watermark is None for page in pages)

    def test_histories_by_batch(self, hubspot):
        crm = hubspot()
        mark = crm.mark()
        crm.company.tick(3_600)
        crm.company.touch_all(list(crm.company.deals.values())[:3])
        crm.running.faults.add("deals/batch/read", status=200, body=b'{"results": null}', times=None)
        with pytest.raises(SourceError, match="POST /crm/objects/2026-09/deals/batch/read"):
            crm.read("stage_entries", mark)

    def test_a_search_that_does_not_say_how_many_there_are(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("deals/search", status=200, body=b'{"results": []}', times=None)
        with pytest.raises(SourceError, match="no total"):
            crm.read("deals", crm.mark())

    def test_a_list_that_took_too_long_is_for_the_next_run(self, hubspot):
        crm = hubspot()
        crm.running.faults.add("GET /crm/objects/2026-09/contacts", status=408, body=b"", times=None)
        with pytest.raises(TransientError) as caught:
            crm.read("contacts")
        assert caught.value.exit_code == 75


class TestTokens:
    @pytest.mark.parametrize("token", ["pat-sandbox\n", "  pat-sandbox", "pat-sandbox\r\n", "\tpat-sandbox "])
    def test_white_space_from_copying_does_no_harm(self, hubspot, token):
        assert failed(hubspot(), token=token) == []

    @pytest.mark.parametrize(
        ("token", "sign"), [("pat\u2011sandbox", "U\\+2011"), ("pat-sand\nbox", "U\\+000A"), ("pat-\u200bsandbox", "U\\+200B")]
    )
    def test_what_no_token_holds_is_named_without_the_token(self, token, sign):
        with pytest.raises(ValidationError, match=sign) as caught:
            HubSpotSource.Config.model_validate({"type": "hubspot", "token": token})
        assert "sand" not in str(caught.value)

    def test_an_empty_one_is_none(self):
        with pytest.raises(ValidationError, match="empty"):
            HubSpotSource.Config.model_validate({"type": "hubspot", "token": " \n"})
