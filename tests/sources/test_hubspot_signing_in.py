"""Signing in by OAuth when the way to the token endpoint is bad: what is asked again, and what must not be."""

from datetime import UTC, datetime

import pytest
import responses

from connector.auth.oauth import ClientCredentials, OAuth, RefreshToken
from connector.errors import AuthError, TransientError
from connector.http import Network, Session
from connector.sandbox.hubspot_objects import hs_id

HUBSPOT = {"type": "refresh_token", "client_id": "sandbox-client", "client_secret": "sandbox-secret", "refresh_token": "refresh-0"}
URL = "https://login.test/token"
REFRESH = RefreshToken(client_id="app", refresh_token="first")
APP = ClientCredentials(client_id="app", client_secret="hidden")


def deal_ids(company):
    return {hs_id("deals", one.n) for one in company.deals.values() if not one.deleted_at}


class TestHubSpot:
    """Its refresh tokens do not change: asking twice does no harm."""

    @pytest.mark.parametrize("fault", [{"status": 502, "body": b""}, {"drop": True}, {"drop": True, "after": True}])
    def test_one_bad_answer_is_no_end(self, hubspot, fault):
        crm = hubspot()
        crm.running.faults.add("POST /oauth", times=2, **fault)
        assert crm.ids("deals", auth=HUBSPOT) == deal_ids(crm.company)

    def test_a_portal_without_the_version_has_its_token_endpoint_at_the_old_address(self, hubspot):
        crm = hubspot(versions=frozenset({"v3"}))
        assert crm.ids("deals", auth=HUBSPOT) == deal_ids(crm.company)
        assert [one.path for one in crm.asked("POST /oauth")] == ["/oauth/2026-09/token", "/oauth/v1/token"]

    def test_the_old_address_is_remembered(self, hubspot):
        crm = hubspot(versions=frozenset({"v3"}))
        source = crm.source(auth=HUBSPOT)
        source.entities()
        crm.service.expire_tokens()
        source.portal.properties("deals")
        assert [one.path for one in crm.asked("POST /oauth")].count("/oauth/2026-09/token") == 1

    def test_the_sandbox_knows_its_versions(self, hubspot):
        crm = hubspot(versions=frozenset({"2026-09"}))
        assert crm.ids("deals", auth=HUBSPOT) == deal_ids(crm.company)
        with pytest.raises(Exception, match="404"):
            crm.ids("deals", auth=HUBSPOT, api_version="v3")


def oauth(grant, **how):
    session = Session(Network(), sleep=lambda _: None, now=lambda: datetime(2026, 3, 2, tzinfo=UTC), jitter=lambda: 0.0)
    return OAuth(grant, URL, session, place="CRM", explain=lambda error, description: AuthError(error), **how)


@responses.activate
@pytest.mark.parametrize(("grant", "how"), [(APP, {}), (REFRESH, {"rotates": False})])
def test_what_may_be_asked_twice_is(grant, how):
    responses.post(URL, status=502)
    responses.post(URL, json={"access_token": "good"})
    assert oauth(grant, **how).token().text == "good"


@responses.activate
def test_a_refresh_token_that_may_be_spent_is_not_sent_again():
    """The answer that got lost may have held its successor; a second use ends the grant."""
    responses.post(URL, status=502)
    with pytest.raises(TransientError):
        oauth(REFRESH).token()
    assert len(responses.calls) == 1


@responses.activate
@pytest.mark.parametrize("grant", [APP, REFRESH])
def test_what_the_service_says_it_did_not_do_is_asked_again(grant):
    responses.post(URL, status=503)
    responses.post(URL, json={"access_token": "good"})
    assert oauth(grant).token().text == "good"
