"""Salesforce's Bulk API where it does not do what it should, and queries that only it can take."""

import json

import pytest

from connector.api import Since
from connector.errors import SourceError, TransientError
from connector.sandbox.salesforce_objects import sf_id

POST = r"POST .*/jobs/query"
TIMEOUT = b'[{"message":"Your query request was running for too long.","errorCode":"QUERY_TIMEOUT"}]'


def deal_ids(company):
    return {sf_id("006", deal.n) for deal in company.deals.values() if not deal.deleted_at}


def refuse(crm, match, status, code, **how):
    return crm.running.faults.add(match, status=status, body=json.dumps([{"errorCode": code, "message": "x"}]).encode(), **how)


class TestJobs:
    @pytest.mark.parametrize("end", ["Aborted", "Failed"])
    def test_one_that_ended_badly_does_not_spoil_the_next_run(self, salesforce, tmp_path, end):
        crm = salesforce(bulk_end=end)
        with pytest.raises(SourceError, match=end) as caught:
            crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10))
        assert "bulk_from" in caught.value.remedy
        crm.service.setup.bulk_end = "JobComplete"
        crm.company.tick(3_600)
        assert crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10)) == deal_ids(crm.company)

    def test_one_that_ended_badly_is_made_once_more(self, salesforce):
        crm = salesforce(bulk_end="Aborted")
        source = crm.source(bulk_from=10)
        pages = source.read(crm.entity(source, "deals"), Since())
        while not crm.asked(r"GET .*/jobs/query/\w+$"):
            next(pages)
        crm.service.setup.bulk_end = "JobComplete"
        found = {record["Id"] for page in pages for record in page.records}
        assert found == deal_ids(crm.company)

    @pytest.mark.parametrize("reason", ["INVALIDENTITY: no such thing", "Entity 'Opportunity' is not supported by the Bulk API."])
    def test_one_that_fails_because_the_object_is_not_for_bulk_goes_on_by_rest(self, salesforce, reason):
        crm = salesforce(bulk_end="Failed", bulk_error=reason)
        assert crm.ids("deals", bulk_from=10) == deal_ids(crm.company)
        assert len(crm.asked(POST)) == 1

    @pytest.mark.parametrize(
        ("status", "code"),
        [(403, "FUNCTIONALITY_NOT_ENABLED"), (400, "FEATURENOTENABLED"), (403, "INSUFFICIENT_ACCESS"), (400, "EXCEEDEDQUOTA")],
    )
    def test_an_org_that_makes_none_is_read_by_rest(self, salesforce, status, code):
        crm = salesforce()
        refuse(crm, POST, status, code, times=None)
        assert crm.ids("deals", bulk_from=10) == deal_ids(crm.company)

    @pytest.mark.parametrize(("status", "code"), [(404, "NOT_FOUND"), (400, "INVALIDLOCATOR")])
    def test_a_page_that_is_no_longer_there_starts_over(self, salesforce, status, code):
        crm = salesforce(bulk_page=20)
        refuse(crm, r"/results.*locator=", status, code)
        assert crm.ids("deals", bulk_from=10) == deal_ids(crm.company)
        assert len(crm.asked(POST)) == 2

    def test_fewer_rows_than_announced_are_an_error_once_and_not_for_a_day(self, salesforce, tmp_path):
        crm = salesforce(bulk_polls=0)
        job = json.dumps({"id": "750x", "state": "JobComplete", "numberRecordsProcessed": 999_999}).encode()
        fault = crm.running.faults.add(r"GET .*/jobs/query/\w+$", status=200, body=job, times=None, after=True)
        with pytest.raises(SourceError, match="has 999,999 records and sent"):
            crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10))
        assert fault.hits
        crm.running.faults.clear()
        assert crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10)) == deal_ids(crm.company)

    def test_one_that_takes_too_long_is_left_to_the_next_run(self, salesforce, tmp_path):
        crm = salesforce(bulk_polls=500)
        with pytest.raises(TransientError, match="still InProgress") as caught:
            crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10))
        assert caught.value.exit_code == 75
        assert 1_800 <= sum(crm.slept) <= 2_200, "half an hour beyond max_wait"
        next(iter(crm.service.jobs.values())).polls = 0
        crm.company.tick(3_600)
        assert crm.ids("deals", source=crm.source(folder=tmp_path, bulk_from=10)) == deal_ids(crm.company)
        assert len(crm.asked(POST)) == 1, "the same job"

    def test_waiting_for_one_is_said(self, salesforce, caplog):
        caplog.set_level("INFO")
        crm = salesforce(bulk_polls=2)
        crm.ids("deals", bulk_from=10)
        assert sum("the Bulk job is InProgress" in line for line in caplog.messages) == 2


class TestCsv:
    def read(self, crm, body):
        crm.running.faults.add(r"/results", status=200, body=body, times=None)
        return crm.ids("products", bulk_from=1, source=crm.source(bulk_from=1))

    @pytest.mark.parametrize(
        "body",
        [
            b'"Id","Name"\n"01t1","a","b"\n',
            b'"Id","Name"\n"01t1"\n',
            b'"Id","SystemModstamp"\n"01t1","' + b"x" * (1 << 25) + b'"\n',
        ],
        ids=["too long", "too short", "endless"],
    )
    def test_that_is_not_what_it_should_be_is_an_error_with_a_remedy(self, salesforce, body):
        with pytest.raises(SourceError, match="not the CSV it should be") as caught:
            self.read(salesforce(page_size=3), body)
        assert caught.value.remedy

    def test_a_number_that_is_none_is_an_error(self, salesforce):
        crm = salesforce(page_size=20)
        crm.running.faults.add(r"/results", status=200, body=b'"Id","Amount"\n"0061","much"\n', times=None)
        with pytest.raises(SourceError, match="not the CSV it should be"):
            crm.ids("deals", bulk_from=10)

    def test_a_long_text_area_has_room(self, salesforce):
        crm = salesforce(page_size=3)
        crm.company.products[1].name = "x" * 131_073
        source = crm.source(bulk_from=1)
        records = [record for page in source.read(crm.entity(source, "products"), Since()) for record in page.records]
        assert crm.asked(POST)
        assert "x" * 131_073 in {record["Name"] for record in records}

    def test_an_instant_may_end_in_an_offset(self, salesforce):
        crm = salesforce(bulk_utc="+0000")
        source = crm.source(bulk_from=10)
        records = [record for page in source.read(crm.entity(source, "deals"), Since()) for record in page.records]
        assert crm.asked(POST)
        assert all(record["CreatedDate"].endswith("Z") for record in records), "as by REST"


class TestSlowQueries:
    @pytest.mark.parametrize("status", [400, 500])
    def test_one_too_slow_for_rest_becomes_a_job(self, salesforce, status):
        crm = salesforce()
        crm.running.faults.add(r"/query\?.*FROM.Opportunity(?!\w)(?!.*GROUP)", status=status, body=TIMEOUT, times=None)
        assert crm.ids("deals") == deal_ids(crm.company)
        assert len(crm.asked(POST)) == 1
        assert crm.slept == [1.0], "one poll of the job; the query is not asked again"

    def test_one_too_slow_for_rest_and_not_for_bulk_is_an_error(self, salesforce):
        crm = salesforce()
        crm.running.faults.add(r"/query\?.*FROM.Opportunity(?!\w)(?!.*GROUP)", status=400, body=TIMEOUT, times=None)
        refuse(crm, POST, 400, "FEATURENOTENABLED", times=None)
        with pytest.raises(SourceError, match="longer than Salesforce allows") as caught:
            crm.ids("deals")
        assert caught.value.remedy

    def test_one_that_gets_too_slow_under_way_starts_over(self, salesforce):
        crm = salesforce(page_size=20)
        crm.running.faults.add(r"/query/0r8", status=400, body=TIMEOUT, skip=1)
        assert crm.ids("deals") == deal_ids(crm.company)

    def test_so_do_changes(self, salesforce):
        crm = salesforce()
        mark = crm.mark()
        crm.company.tick(3_600)
        deal = next(deal for deal in crm.company.deals.values() if not deal.deleted_at)
        crm.company.touch(deal)
        crm.running.faults.add(r"/queryAll\?.*FROM.Opportunity(?!\w)", status=400, body=TIMEOUT, times=None)
        assert sf_id("006", deal.n) in crm.ids("deals", mark)
        assert crm.asked(POST)


class TestWideQueries:
    """More fields than an address holds, where there is no Bulk API."""

    def wide(self, salesforce, **setup):
        crm = salesforce(custom_fields=800, **setup)
        refuse(crm, POST, 403, "FUNCTIONALITY_NOT_ENABLED", times=None)
        return crm

    def records(self, crm, since=None, **how):
        source = crm.source(**how)
        return [record for page in source.read(crm.entity(source, "deals"), Since(since)) for record in page.records]

    def test_are_read_in_groups_of_fields_and_joined(self, salesforce):
        crm = self.wide(salesforce, page_size=60)
        found = {record["Id"]: record for record in self.records(crm)}
        assert found.keys() == deal_ids(crm.company)
        for deal in crm.company.deals.values():
            if not deal.deleted_at:
                record = found[sf_id("006", deal.n)]
                extras = {name: value for name, value in record.items() if name.startswith("Extra_")}
                assert len(extras) == 800
                assert set(extras.values()) == {deal.name} == {record["Name"]}

    def test_are_taken_up_where_they_broke_off(self, salesforce, tmp_path):
        crm = self.wide(salesforce, page_size=30)
        fault = crm.running.faults.add(r"/query/0r8", drop=True, times=None, skip=1)
        with pytest.raises(TransientError):
            self.records(crm, folder=tmp_path)
        fault.times = 0
        again = self.records(crm, folder=tmp_path)
        assert {record["Id"] for record in again} == deal_ids(crm.company)
        assert all(len(record) > 800 for record in again)

    def test_leave_out_what_went_between_two_groups(self, salesforce):
        crm = self.wide(salesforce)
        gone = next(deal for deal in crm.company.deals.values() if not deal.deleted_at)
        real = crm.service.rows.parsed

        def parsed(text):
            if "Id IN (" in text and not gone.deleted_at:
                crm.company.delete(gone)
            return real(text)

        crm.service.rows.parsed = parsed
        assert {row["deal_id"] for row in crm.read("deals").rows} == deal_ids(crm.company)
        assert gone.deleted_at

    def test_so_are_changes(self, salesforce):
        crm = self.wide(salesforce)
        mark = crm.mark()
        crm.company.tick(3_600)
        deal = next(deal for deal in crm.company.deals.values() if not deal.deleted_at)
        crm.company.edit(deal, next_step="call")
        found = {record["Id"]: record for record in self.records(crm, mark)}
        assert found[sf_id("006", deal.n)]["NextStep"] == "call"
        assert found[sf_id("006", deal.n)]["Extra_800__c"] == deal.name


class TestRest:
    def test_rows_that_were_announced_are_missed_also_by_the_run_that_goes_on(self, salesforce, tmp_path):
        crm = salesforce(page_size=20)
        last = len(deal_ids(crm.company)) // 20 * 20
        page = crm.service._page

        def short(key, start, request):
            response = page(key, start, request)
            body = json.loads(response.body)
            body["records"] = body["records"][:-1] if body["done"] and start >= last else body["records"]
            return type(response)(response.status, json.dumps(body).encode(), response.headers)

        crm.service._page = short
        for _ in range(2):
            with pytest.raises(SourceError, match="announced"):
                crm.ids("deals", source=crm.source(folder=tmp_path))
        crm.service._page = page
        assert crm.ids("deals", source=crm.source(folder=tmp_path)) == deal_ids(crm.company)
