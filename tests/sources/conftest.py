"""The sandbox's CRMs, a source in front of each, and what normalise makes of what it reads."""

import pickle
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from connector.api import Since
from connector.engine import DuckDB
from connector.http import Network, Session
from connector.normalise import normalise
from connector.sandbox import hubspot as hubspot_sandbox
from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.salesforce import SalesforceOrg, Setup
from connector.sandbox.server import serve

SALESFORCE_AUTH = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}


@dataclass
class Reading:
    """One entity as normalise gives it."""

    rows: list[dict[str, Any]]
    removed: tuple[str, ...]
    watermark: str | None
    warnings: tuple[str, ...]
    full: bool


@dataclass
class Crm:
    """A look-alike that listens, and sources that talk to it. `slept` are the waits a source asked for; nobody waits."""

    service: Any
    running: Any
    make: Any
    engine: Any
    scratch: Any
    slept: list[float] = field(default_factory=list)

    @property
    def company(self) -> Company:
        return self.service.company

    def session(self, folder=None, max_wait=300, attempts=4) -> Session:
        return Session(
            Network(max_wait=max_wait),
            attempts=attempts,
            folder=folder,
            sleep=self.slept.append,
            now=lambda: self.company.now,
            jitter=lambda: 0.0,
        )

    def source(self, *, folder=None, session=None, **config):
        return self.make(self.running.url(self.service.name), session or self.session(folder), config)

    def entity(self, source, name):
        return next(entity for entity in source.entities() if entity.name == name)

    def read(self, name, since=None, *, source=None, zone="UTC", **config) -> Reading:
        source = source or self.source(**config)
        entity = self.entity(source, name)
        return self.normalised(entity, source.read(entity, Since(since)), zone)

    def normalised(self, entity, pages, zone="UTC") -> Reading:
        with normalise(entity, pages, engine=self.engine, scratch=self.scratch, zone=ZoneInfo(zone)) as result:
            rows = [row for batch in result.batches() for row in batch.to_pylist()]
            return Reading(rows, result.removed, result.watermark, result.warnings, result.full)

    def mark(self) -> str:
        """The watermark of a read that began just now."""
        return f"{self.company.now:%Y-%m-%dT%H:%M:%SZ}"

    def ids(self, name, since=None, *, source=None, **config) -> set[str]:
        """Ids a read gives, without the trouble of normalising them."""
        source = source or self.source(**config)
        pages = list(source.read(self.entity(source, name), Since(since)))
        return {record.get("Id") or record["id"] for page in pages for record in page.records}

    def removed(self, name, since) -> set[str]:
        source = self.source()
        return {one for page in source.read(self.entity(source, name), Since(since)) for one in page.removed}

    def asked(self, pattern):
        return self.running.asked(pattern)


def salesforce_source(url, session, config):
    from sources.salesforce import SalesforceSource

    values = {"type": "salesforce", "base_url": url, "domain": "acme.my.salesforce.com", "auth": SALESFORCE_AUTH, **config}
    return SalesforceSource(SalesforceSource.Config.model_validate(values), session)


def hubspot_source(url, session, config):
    from sources.hubspot import HubSpotSource

    page, workers = config.pop("list_page", None), config.pop("workers", None)
    credential = {} if "auth" in config else {"token": "pat-sandbox"}
    source = HubSpotSource(HubSpotSource.Config.model_validate({"type": "hubspot", "base_url": url, **credential, **config}), session)
    source.list_page = page
    source.pages_per_range = 2 if page else source.pages_per_range
    source.workers = workers or source.workers
    return source


@pytest.fixture(scope="session")
def young_company():
    """A young company with a bit of everything, as bytes: quicker to copy than to make."""
    return pickle.dumps(Company.generate(seed=11, deals=90, days=420))


@pytest.fixture
def small(young_company):
    """A copy of the young company."""
    return pickle.loads(young_company)


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """An engine, and the folder it may use."""
    folder = tmp_path_factory.mktemp("engine")
    return DuckDB(folders=[folder]), folder


@pytest.fixture
def crm(bench):
    """Starts look-alikes; ends with the test, which fails when a client misbehaved."""
    with ExitStack() as stack:
        started = []

        def start(service, make) -> Crm:
            running = stack.enter_context(serve(service))
            made = Crm(service, running, make, *bench)
            started.append(made)
            return made

        yield start
        for made in started:
            assert made.running.violations == []


@pytest.fixture
def salesforce(crm, small):
    def start(company=None, **setup):
        return crm(SalesforceOrg(company or small, Setup(**{"page_size": 50, **setup})), salesforce_source)

    return start


@pytest.fixture
def hubspot(crm, small):
    def start(company=None, **setup):
        return crm(HubSpotPortal(company or small, hubspot_sandbox.Setup(**setup)), hubspot_source)

    return start
