"""What Salesforce, or a proxy before it, may answer instead of data: each is one of our errors, with what to do about it."""

import json

import pytest

from connector.api import Since
from connector.errors import AuthError, ConfigError, ConnectorError, SourceError, TransientError
from connector.http import Network, Session


def said(code, message="x"):
    return json.dumps([{"errorCode": code, "message": message}]).encode()


def refused(crm, match, status, body, *, source=None, since=None, name="deals", **config):
    """The error of a read whose requests are answered so."""
    crm.running.faults.add(match, status=status, body=body, times=None)
    with pytest.raises(ConnectorError) as caught:
        crm.read(name, since, source=source, **config)
    return caught.value


class TestOtherShapes:
    @pytest.mark.parametrize(
        ("match", "body"),
        [
            (r"/sobjects$", b'{"message":"hi"}'),
            (r"/sobjects$", b"[]"),
            (r"/sobjects$", b'{"sobjects":["x"]}'),
            (r"/sobjects$", b"<html>proxy</html>"),
            (r"/describe", b"{}"),
            (r"/describe", b'{"fields":[{"name":"Id"}]}'),
            (r"/query\b.*FROM.Opportunity\b", b'["x"]'),
            (r"/query\b.*FROM.Opportunity\b", b'{"records":["x"],"totalSize":1,"done":true}'),
            (r"FROM.Organization", b'{"records":[],"totalSize":0,"done":true}'),
            (r"POST .*jobs/query$", b"{}"),
            (r"GET .*jobs/query/\w+$", b"{}"),
            (r"GET .*jobs/query/\w+$", b"[]"),
            (r"/deleted", b"{}"),
            (r"/deleted", b"[]"),
            (r"/deleted", b'{"deletedRecords":[],"latestDateCovered":"yesterday"}'),
        ],
    )
    def test_are_errors_of_the_source(self, salesforce, match, body):
        crm = salesforce(multi_currency=False)
        since = None
        if "deleted" in match:
            since = crm.mark()
            crm.company.tick(3_600)
        error = refused(crm, match, 200, body, since=since, bulk_from=10)
        assert isinstance(error, SourceError)
        assert "Salesforce 127.0.0.1" in str(error)
        assert error.remedy

    @pytest.mark.parametrize("body", [b'{"message":"hi"}', b"[]", b'["x"]', b"<html>proxy</html>"])
    def test_are_found_by_check(self, salesforce, body):
        crm = salesforce()
        crm.running.faults.add(r"GET /services/data$", status=200, body=body, times=None)
        assert [(finding.ok, finding.exit_code, bool(finding.remedy)) for finding in crm.source().check()] == [(False, 4, True)]

    @pytest.mark.parametrize("body", [b'["bad"]', b"[]", b'"bad"', b"null", b"", b"<html>no</html>"])
    def test_so_are_refusals(self, salesforce, body):
        error = refused(salesforce(), r"/sobjects$", 400, body)
        assert (type(error).__name__, error.exit_code) == ("Refused", 4)
        assert error.remedy

    def test_a_picklist_is_done_without(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("picklist-values", status=200, body=b'{"values":7}', times=None)
        assert len(crm.read("stages").rows) == 2 * 9

    def test_a_sign_in_without_an_address_is_told(self, salesforce):
        crm = salesforce()
        source = crm.source()
        source.org._fixed = None
        error = refused(crm, "oauth2/token", 200, b'{"access_token":"x"}', source=source)
        assert isinstance(error, SourceError)
        assert "instance_url" in str(error)
        assert "My Domain" in error.remedy


class TestPatience:
    def test_one_patience_for_a_service_that_is_not_there(self, salesforce):
        """The session repeats a 503; nothing repeats that again."""
        crm = salesforce()
        session = Session(Network(max_wait=300), sleep=crm.slept.append, now=lambda: crm.company.now, jitter=lambda: 0.0)
        error = refused(crm, r"FROM.Opportunity\b", 503, said("SERVER_UNAVAILABLE"), source=crm.source(session=session))
        assert isinstance(error, TransientError)
        assert sum(crm.slept) <= 300
        assert crm.slept == [1, 2, 4, 8, 16]

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded."),
            (400, "UNABLE_TO_LOCK_ROW", "x"),
            (403, "TXN_SECURITY_METERING_ERROR", "x"),
        ],
    )
    def test_nor_longer_for_what_is_busy(self, salesforce, status, code, message):
        crm = salesforce()
        error = refused(crm, r"FROM.Opportunity\b", status, said(code, message))
        assert isinstance(error, TransientError)
        assert 200 < sum(crm.slept) <= 300

    def test_an_org_that_is_being_moved_is_waited_for(self, salesforce):
        crm = salesforce()
        crm.running.faults.add("/sobjects$", status=420, body=b"<html>setting things up</html>", times=2)
        assert crm.read("products").rows
        assert crm.slept == [1.0, 2.0]


class TestPermissions:
    def both(self, crm, **config):
        """What a read and what `check` say."""
        with pytest.raises(ConnectorError) as caught:
            crm.read("deals", **config)
        findings = list(crm.source(**config).check())
        assert [(finding.ok, finding.exit_code) for finding in findings] == [(False, caught.value.exit_code)], "and never: signed in"
        assert findings[0].remedy == caught.value.remedy
        return caught.value

    def test_a_session_without_the_scope_names_it(self, salesforce):
        error = self.both(salesforce(scope="id openid"))
        assert error.exit_code == 3
        assert "scope `api`" in error.remedy

    def test_a_403_that_is_not_salesforces_points_to_what_is_in_between(self, salesforce):
        crm = salesforce()
        crm.running.faults.add(r"/v67.0/", status=403, body=b"<html>forbidden</html>", times=None)
        error = self.both(crm)
        assert error.exit_code == 3
        assert "proxy or firewall" in error.remedy

    def test_a_403_in_its_words_asks_for_permission(self, salesforce):
        crm = salesforce()
        crm.running.faults.add(r"/v67.0/", status=403, body=said("INSUFFICIENT_ACCESS"), times=None)
        assert "read permission" in self.both(crm).remedy

    @pytest.mark.parametrize("version", ["v25.0", "v99.0"])
    def test_a_version_that_is_retired_or_not_yet_there_names_those_that_are(self, salesforce, version):
        error = self.both(salesforce(), api_version=version)
        assert isinstance(error, ConfigError)
        assert error.exit_code == 2
        assert error.remedy == "set api_version to one of v31.0 … v68.0"

    @pytest.mark.parametrize("word", ["login rate exceeded", "retry your request"])
    def test_a_sign_in_put_off_is_tried_by_the_next_run(self, salesforce, word):
        crm = salesforce()
        body = json.dumps({"error": "invalid_grant", "error_description": word}).encode()
        crm.running.faults.add("oauth2/token", status=400, body=body, times=None)
        error = self.both(crm)
        assert error.exit_code == 75
        assert "run later" in error.remedy

    def test_what_a_refused_query_leaves_to_find_out_is_named(self, salesforce):
        error = refused(salesforce(), r"/query\b.*FROM.Opportunity\b", 400, said("INVALID_FIELD"))
        assert (error.exit_code, "connector check" in error.remedy) == (4, True)

    def test_a_session_refused_twice_is_not_asked_for_a_third_time(self, salesforce):
        crm = salesforce()
        error = refused(crm, r"/v67.0/", 401, said("INVALID_SESSION_ID", "Session expired or invalid"))
        assert isinstance(error, AuthError)
        assert crm.service.logins == 2


def test_a_further_field_that_is_asked_for_anyway_is_asked_for_once(salesforce):
    """Salesforce refuses a query that names a field twice."""
    crm = salesforce()
    source = crm.source(fields={"deals": ["IsDeleted", "Amount", "Loss_Reason__c"]})
    for since in (None, crm.mark()):
        pages = list(source.read(crm.entity(source, "deals"), Since(since)))
        assert {record["IsDeleted"] for page in pages for record in page.records} <= {False}
