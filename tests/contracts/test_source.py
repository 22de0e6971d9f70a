"""What every source promises, as one body over every registered source. A source without a case fails.

A case is a world in which the source works, a way to change that world, and a way to break it.
"""

import csv
import inspect
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connector.api import Entity, Finding, Page, PluginConfig, Since
from connector.engine import DuckDB
from connector.errors import ConnectorError
from connector.http import Network, Session
from connector.model import ENTITIES, REQUIRED
from connector.normalise import normalise
from connector.registry import plugins
from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import serve
from connector.sandbox.tableau import Tableau
from connector.sandbox.tableau.pipeline import company_site

SECRET = "a-secret-nobody-may-see"


@dataclass
class Case:
    """`config` is the YAML of a working source, `secret` puts another secret into it; `change` edits one deal and returns its name."""

    config: dict[str, Any]
    secret: Callable[[], dict[str, Any]]
    change: Callable[[], str]
    breakdown: Callable[[], None]
    network: bool = True
    now: Callable[[], Any] | None = None
    exit_codes: frozenset[int] = frozenset({75})
    slept: list[float] = field(default_factory=list)

    def session(self, folder: Path | None = None) -> Session:
        more = {"now": self.now} if self.now else {}
        return Session(Network(max_wait=1), attempts=2, folder=folder, sleep=self.slept.append, jitter=lambda: 0.0, **more)


@cache
def company_as_bytes() -> bytes:
    return pickle.dumps(Company.generate(seed=5, deals=40, days=200))


def a_company() -> Company:
    """Always the same one, quicker to copy than to make."""
    company: Company = pickle.loads(company_as_bytes())
    return company


def edit(company: Company) -> str:
    """One open deal gets a new next step, an hour later; its name."""
    company.tick(3_600)
    deal = next(deal for deal in company.deals.values() if company.status(deal) == "open" and not deal.deleted_at)
    company.rename_account(company.accounts[deal.account or 1], "Renamed Ltd")
    deal.name = "A renamed deal"
    company.touch(deal)
    company.tick(3_600)
    return deal.name


@contextmanager
def files(folder: Path) -> Iterator[Case]:
    company = a_company()
    company.write_csv(folder / "export")
    tables = {name: {"path": str(folder / "export" / f"{name}.csv")} for name in ("deals", "leads", "activities", "accounts", "owners")}

    def change() -> str:
        name = edit(company)
        company.write_csv(folder / "export")
        return name

    def breakdown() -> None:
        (folder / "export" / "deals.csv").unlink()

    yield Case({"type": "files", "tables": tables}, dict, change, breakdown, network=False, exit_codes=frozenset({4}))


@contextmanager
def salesforce(folder: Path) -> Iterator[Case]:
    company = a_company()
    with serve(SalesforceOrg(company)) as running:
        auth = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
        config = {"type": "salesforce", "base_url": running.url("salesforce"), "domain": "acme.my.salesforce.com", "auth": auth}
        yield Case(
            config,
            lambda: {"auth": auth | {"client_secret": SECRET}},
            lambda: edit(company),
            lambda: running.faults.add("", drop=True, times=None) and None,
            now=lambda: company.now,
        )
        assert running.violations == []


@contextmanager
def hubspot(folder: Path) -> Iterator[Case]:
    company = a_company()
    with serve(HubSpotPortal(company)) as running:
        yield Case(
            {"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox"},
            lambda: {"token": SECRET},
            lambda: edit(company),
            lambda: running.faults.add("", drop=True, times=None) and None,
            now=lambda: company.now,
        )
        assert running.violations == []


@contextmanager
def tableau(folder: Path) -> Iterator[Case]:
    company = a_company()
    site = company_site(company)
    with serve(Tableau(site, strict=True)) as running:
        fields = {"deal_id": "Deal ID", "name": "Deal Name", "stage": "Stage", "amount": "Amount"}
        view = {"view": "Sales Pipeline/Deals", "table": "deals", "locale": "en_US", "fields": fields, "status": {"won": ["Closed Won"]}}
        yield Case(
            {
                "type": "tableau",
                "base_url": running.url("tableau"),
                "site": "sales",
                "token": {"name": "connector", "secret": "sandbox-secret"},
                "views": [view],
            },
            lambda: {"token": {"name": "connector", "secret": SECRET}},
            lambda: edit(company),
            lambda: running.faults.add("", drop=True, times=None) and None,
            now=running.clock.now,
        )
        assert running.violations == []


CASES = {case.__name__: case for case in (files, hubspot, salesforce, tableau)}


@pytest.mark.parametrize("name", sorted(plugins("sources")))
def test_every_registered_source_has_a_case(name):
    assert name in CASES, f"add a case for {name} to {Path(__file__).name}"


@pytest.fixture(params=sorted(CASES))
def case(request, tmp_path):
    if request.param not in plugins("sources"):
        pytest.skip(f"{request.param} is not registered")
    with ExitStack() as stack:
        made = stack.enter_context(CASES[request.param](tmp_path))
        made.cls = plugins("sources")[request.param].cls
        made.name = request.param
        yield made


@dataclass
class Read:
    rows: list[dict[str, Any]]
    removed: tuple[str, ...]
    watermark: str | None
    unchanged: bool
    full: bool


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    return DuckDB(folders=[folder]), folder


@pytest.fixture
def read(case, bench):
    engine, folder = bench

    def read(source: Any, entity: Entity, since: str | None = None) -> Read:
        with normalise(entity, source.read(entity, Since(since)), engine=engine, scratch=folder) as result:
            rows = [row for batch in result.batches() for row in batch.to_pylist()]
            return Read(rows, result.removed, result.watermark, result.unchanged, result.full)

    return read


def build(case: Any, **changes: Any) -> Any:
    return case.cls(case.cls.Config.model_validate({**case.config, **changes}), case.session())


def read_all(source: Any) -> None:
    for entity in source.entities():
        list(source.read(entity, Since()))


class TestConfiguration:
    def test_is_a_frozen_value_that_names_its_type(self, case):
        config = case.cls.Config.model_validate(case.config)
        assert isinstance(config, PluginConfig)
        assert config.type == case.name
        with pytest.raises(ValidationError):
            config.type = "other"

    def test_refuses_keys_it_does_not_know(self, case):
        with pytest.raises(ValidationError) as caught:
            case.cls.Config.model_validate({**case.config, "colour": "blue"})
        assert "colour" in str(caught.value)

    def test_describes_every_key(self, case):
        schema = case.cls.Config.model_json_schema()
        undescribed = [name for name, about in schema["properties"].items() if "description" not in about and name != "type"]
        assert undescribed == []

    def test_shows_no_secret(self, case):
        secret = case.secret()
        config = case.cls.Config.model_validate({**case.config, **secret})
        assert SECRET not in repr(config)

    def test_reaches_the_network_as_told(self, case):
        if not case.network:
            pytest.skip("a source without a network of its own")
        config = case.cls.Config.model_validate({**case.config, "timeout": 7, "max_wait": 9, "proxy": "http://proxy.example:1"})
        assert (config.network().timeout, config.network().max_wait, config.network().proxy) == (7, 9, "http://proxy.example:1")


class TestEntities:
    def test_are_the_same_each_time(self, case):
        source = build(case)
        assert source.entities() == source.entities() == build(case).entities()

    def test_have_names_of_their_own_and_map_what_exists(self, case):
        entities = build(case).entities()
        assert entities
        assert len({entity.name for entity in entities}) == len(entities)
        for entity in entities:
            if entity.name in ENTITIES:
                assert set(entity.fields) <= set(ENTITIES[entity.name].names)
                if entity.fields:
                    assert set(REQUIRED.get(entity.name, ())) <= set(entity.fields)

    def test_say_where_they_come_from(self, case):
        assert all(entity.place for entity in build(case).entities())


class TestReading:
    def test_every_entity_can_be_normalised(self, case, read):
        source = build(case)
        for entity in source.entities():
            assert read(source, entity).rows, entity.name

    def test_pages_come_one_by_one(self, case):
        source = build(case)
        entity = source.entities()[0]
        pages = source.read(entity, Since())
        assert inspect.isgenerator(pages)
        assert isinstance(next(pages), Page)
        pages.close()

    def test_twice_gives_the_same(self, case, read):
        source, other = build(case), build(case)
        for entity in source.entities():
            assert read(source, entity).rows == read(other, entity).rows, entity.name

    def test_announces_no_more_than_it_sends(self, case):
        source = build(case)
        for entity in source.entities():
            pages = list(source.read(entity, Since()))
            totals = [page.total for page in pages if page.total is not None]
            received = sum(page.records.num_rows if hasattr(page.records, "num_rows") else len(page.records) for page in pages)
            assert not totals or received >= totals[-1], entity.name

    def test_an_incremental_entity_ends_with_a_watermark(self, case, read):
        source = build(case)
        for entity in source.entities():
            if entity.incremental:
                assert read(source, entity).watermark

    def test_nothing_new_is_nothing_new(self, case, read):
        source = build(case)
        for entity in source.entities():
            first = read(source, entity)
            again = read(build(case), entity, first.watermark)
            if not again.unchanged:
                every = {str(row) for row in first.rows}
                assert {str(row) for row in again.rows} <= every, entity.name
                assert again.removed == ()

    def test_a_change_is_seen(self, case, read):
        source = build(case)
        entity = next(entity for entity in source.entities() if entity.name == "deals")
        first = read(source, entity)
        changed = case.change()
        later = read(build(case), entity, first.watermark)
        assert changed not in {row["name"] for row in first.rows}
        assert changed in {row["name"] for row in later.rows}
        assert not later.unchanged

    def test_waits_for_nothing_when_all_is_well(self, case, read):
        source = build(case)
        for entity in source.entities():
            read(source, entity)
        assert case.slept == []


class TestChecking:
    def test_finds_nothing_when_all_is_well(self, case):
        findings = list(build(case).check())
        assert findings
        assert all(isinstance(finding, Finding) and finding.ok for finding in findings)
        assert all(finding.what for finding in findings)

    def test_finds_what_a_run_would_stumble_over(self, case):
        case.breakdown()
        failed = [finding for finding in build(case).check() if not finding.ok]
        assert failed
        assert all(finding.exit_code in case.exit_codes and finding.detail and finding.remedy for finding in failed)

    def test_finds_a_wrong_secret_and_does_not_tell_it(self, case):
        if not case.secret():
            pytest.skip("a source without secrets")
        failed = [finding for finding in build(case, **case.secret()).check() if not finding.ok]
        assert {finding.exit_code for finding in failed} == {3}
        assert all(finding.remedy and SECRET not in f"{finding.detail} {finding.remedy}" for finding in failed)


class TestFailing:
    def test_a_breakdown_is_one_of_our_errors_with_its_exit_code(self, case):
        case.breakdown()
        with pytest.raises(ConnectorError) as caught:
            read_all(build(case))
        assert caught.value.exit_code in case.exit_codes
        assert caught.value.remedy

    def test_a_wrong_secret_gives_exit_3_and_is_not_told(self, case):
        if not case.secret():
            pytest.skip("a source without secrets")
        with pytest.raises(ConnectorError) as caught:
            read_all(build(case, **case.secret()))
        assert caught.value.exit_code == 3
        assert SECRET not in f"{caught.value} {caught.value.remedy}"


def test_the_cases_change_what_they_say(tmp_path):
    """The export case is what it claims to be: another deal name in another file."""
    with files(tmp_path) as made:
        name = made.change()
        with (tmp_path / "export" / "deals.csv").open(encoding="utf-8", newline="") as file:
            assert name in {row["name"] for row in csv.DictReader(file)}
