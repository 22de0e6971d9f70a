"""Everything the sandbox has, composed: a sales team in two firms, the four services they work with, and their finance department.

Acme sells from Salesforce, plans in Tableau and keeps its files in Microsoft 365. Brightpath, which it took over, still sells from HubSpot.
Both share the price list and the exchange rates; no deal is in two systems.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from connector.sandbox.company import NOW, Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.microsoft365 import CLIENT_ID, CLIENT_SECRET, TENANT, USER, Microsoft365
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.salesforce import Setup as SalesforceSetup
from connector.sandbox.server import Running, Service
from connector.sandbox.tableau import Column, Datasource, Shown, Site, Tableau, View, Workbook
from connector.sandbox.tableau.content import Row
from connector.sandbox.tableau.pipeline import company_site

SEED: Final = 13  # in whose two weeks after NOW deals are won, lost, deleted and merged
#: deals of Acme and of Brightpath
SIZES: Final = (900, 300)
FINANCE: Final = "finance"
PLACEHOLDER: Final = re.compile(r"\$\{(\w+)\}")


class Office:
    """Two companies and their services. `folder` holds the drives' files and the finance department's sheets."""

    def __init__(self, folder: Path, *, seed: int = SEED, now: datetime = NOW, sizes: tuple[int, int] = SIZES) -> None:
        self.folder = folder
        self.acme = Company.generate(seed, now=now, deals=sizes[0])
        self.brightpath = Company.generate(seed + 1, now=now, deals=sizes[1])
        self._close_the_books()
        self.cloud = Microsoft365(folder)
        self.salesforce = SalesforceOrg(self.acme, SalesforceSetup(hidden_objects=frozenset({"Campaign", "ForecastingQuota"})))
        self.hubspot = HubSpotPortal(self.brightpath)
        self.tableau = Tableau(_site(self.acme))

    @property
    def now(self) -> datetime:
        return self.acme.now

    def services(self) -> tuple[Service, ...]:
        """To be served together, with the cloud's clock."""
        return self.salesforce, self.hubspot, self.tableau, *self.cloud.services()

    def advance(self, days: int) -> None:
        """Let days pass in both firms."""
        for company in (self.acme, self.brightpath):
            company.advance(days, company.seed)
        self._close_the_books()

    def _close_the_books(self) -> None:
        """Finance publishes one list of exchange rates for both firms, and its sheets."""
        self.brightpath.rates = list(self.acme.rates)
        folder = self.folder / FINANCE
        folder.mkdir(parents=True, exist_ok=True)
        bills: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for one in (*self.acme.spend, *self.brightpath.spend):
            bills[one.month.isoformat(), one.category] += one.amount
        _write(folder / "spend.csv", ("period", "category", "amount"), ((*place, amount) for place, amount in sorted(bills.items())))
        _write(folder / "quotas.csv", ("period", "owner", "amount"), _quotas(self.brightpath))

    def addresses(self, running: Running) -> Mapping[str, str]:
        """What a configuration must know to reach the services, by the names that config/demo.yaml gives them."""
        return {
            "SALESFORCE_URL": running.url("salesforce"),
            "HUBSPOT_URL": running.url("hubspot"),
            "TABLEAU_URL": running.url("tableau"),
            "GRAPH_URL": running.url("graph"),
            "LOGIN_URL": running.url("identity"),
            "LOGIN_AUTHORITY": self.cloud.authority.relative_to(self.folder).as_posix(),
            "SALESFORCE_ID": self.salesforce.setup.client_id,
            "SALESFORCE_SECRET": self.salesforce.setup.client_secret,
            "HUBSPOT_TOKEN": self.hubspot.setup.token,
            "TABLEAU_TOKEN": self.tableau.site.tokens["connector"].secret,
            "TENANT": TENANT,
            "APP_ID": CLIENT_ID,
            "APP_SECRET": CLIENT_SECRET,
            "OWNER": USER,
        }

    def configuration(self, template: str, running: Running) -> str:
        """A configuration with every `${NAME}` filled in. Raises KeyError for a name that is not among `addresses`."""
        known = self.addresses(running)
        return PLACEHOLDER.sub(lambda match: known[match[1]], template)


def _site(company: Company) -> Site:
    """The company's dashboards, and the workbook in which sales is planned."""
    site = company_site(company)
    project = site.workbooks[0].project
    columns = (Column("Month", "DATE"), Column("Rep"), Column("Quota", "REAL", measure=True))
    plan = Datasource("Sales Plan", project, columns, lambda: _planned(company))
    site.datasources.append(plan)
    book = Workbook("Sales Plan", project)
    site.workbooks.append(book)
    book.add(View("Quotas", plan, (Shown("Month", None, "date"), Shown("Rep"), Shown("Quota", "SUM", "number"))))
    return site


def _planned(company: Company) -> Iterator[Row]:
    for period, owner, amount in _quotas(company):
        yield {"Month": period, "Rep": owner, "Quota": amount}


def _quotas(company: Company) -> Iterator[tuple[date, str, Decimal]]:
    for one in company.quotas:
        yield one.month, company.owners[one.owner].name, one.amount


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
