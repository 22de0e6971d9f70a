"""One company through Salesforce, HubSpot, Tableau and a CSV export: the same deals, the same stage entries; and what each cannot know."""

from zoneinfo import ZoneInfo

import pytest

from connector.api import Since
from connector.engine import DuckDB
from connector.http import Session
from connector.model import ENTITIES
from connector.normalise import normalise
from connector.sandbox.company import Company
from connector.sandbox.hubspot import HubSpotPortal
from connector.sandbox.salesforce import SalesforceOrg
from connector.sandbox.server import serve
from connector.sandbox.tableau import Tableau
from connector.sandbox.tableau.pipeline import DEALS, HISTORY, company_site
from sources.files import FilesSource
from sources.hubspot import HubSpotSource
from sources.salesforce import SalesforceSource
from sources.tableau import TableauSource

#: what an admin of this company would write into model.fields, because orgs keep it in fields of their own
FIELDS = {
    "salesforce": {
        "deals": {"lost_reason": "Loss_Reason__c"},
        "leads": {
            "budget": "Budget__c",
            "authority": "Authority__c",
            "need": "Need__c",
            "timing": "Timing__c",
            "score": "Score__c",
            "value": "Estimated_Value__c",
            "product": "Product_Interest__c",
        },
    },
    "hubspot": {
        "deals": {"lead_source": "lead_source"},
        "leads": {
            "budget": "budget",
            "authority": "authority",
            "need": "need",
            "timing": "timing",
            "score": "score",
            "value": "estimated_value",
            "product": "product_interest",
        },
        "products": {"product_category": "product_category"},
    },
}

#: columns of deals that a source does not fill, because it does not know or because they come from another table by id
UNKNOWN = {
    "salesforce": {
        "stage_order": "from stages",
        "rate": "from rates",
        "owner": "from owners",
        "team": "from owners",
        "manager": "from owners",
        "account": "from accounts",
        "segment": "from accounts",
        "region": "from accounts",
        "contact": "from contacts",
        "product": "from deal_products",
        "product_id": "from deal_products",
        "product_category": "from deal_products",
        "next_activity_at": "from activities",
    },
    "hubspot": {
        "stage_order": "from stages",
        "rate": "from rates",
        "owner": "from owners",
        "team": "from owners",
        "manager": "HubSpot's owners have no manager",
        "account": "from accounts",
        "segment": "from accounts",
        "region": "from accounts",
        "contact": "from contacts",
        "product": "from deal_products",
        "product_id": "from deal_products",
        "product_category": "from deal_products",
    },
    "tableau": {
        "rate": "from rates",
        "owner_id": "a view has names",
        "account_id": "a view has names",
        "contact_id": "a view has names",
        "product_id": "a view has names",
        "url": "a view has none",
    },
    "files": {
        "rate": "from rates",
        "owner_id": "an export has names",
        "team": "from owners",
        "manager": "from owners",
        "account_id": "an export has names",
        "segment": "from accounts",
        "region": "from accounts",
        "contact_id": "an export has names",
        "product_id": "an export has names",
        "product_category": "from products",
        "url": "an export has none",
    },
}
#: columns whose values differ between sources, and why
DIFFERENT = {
    "deal_id": "each system has ids of its own",
    "owner_id": "each system has ids of its own",
    "account_id": "each system has ids of its own",
    "contact_id": "each system has ids of its own",
    "url": "each system has addresses of its own",
    "last_activity_at": "Salesforce knows the day only",
    "expected_close_date": "HubSpot overwrites the plan when a deal closes; compared for open deals",
    "probability": "compared as a number",
}


def published(name, table, fields):
    """A published data source, by the VizQL Data Service. Its date-times name no zone."""
    columns = {column: caption for caption, (column, _, _) in fields.items()}
    return {"datasource": name, "table": table, "mode": "vds", "timezone": "UTC", "fields": columns}


@pytest.fixture(scope="module")
def company():
    """Without merged deals: HubSpot gives the winner both histories, which nobody else does."""
    made = Company.generate(seed=9, deals=300, days=420)
    for winner, losers in made.absorbed.items():
        made.delete(made.deals[winner])
        assert losers
    return made


@pytest.fixture(scope="module")
def read(company, tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    company.write_csv(folder / "export")
    engine = DuckDB(folders=[folder])

    def session():
        return Session(sleep=lambda _: None, now=lambda: company.now)

    with serve(SalesforceOrg(company), HubSpotPortal(company), Tableau(company_site(company))) as running:
        auth = {"type": "client_credentials", "client_id": "sandbox-client", "client_secret": "sandbox-secret"}
        names = {"deals": "deals", "stage_entries": "stage_history", "stages": "stages", "leads": "leads", "rates": "rates", "owners": "owners",
                 "deal_products": "deal_products", "products": "products", "activities": "activities", "accounts": "accounts"}  # fmt: skip
        sources = {
            "salesforce": SalesforceSource(
                SalesforceSource.Config.model_validate(
                    {"type": "salesforce", "base_url": running.url("salesforce"), "domain": "acme.my.salesforce.com", "auth": auth}
                ),
                session(),
            ),
            "hubspot": HubSpotSource(
                HubSpotSource.Config.model_validate({"type": "hubspot", "base_url": running.url("hubspot"), "token": "pat-sandbox"}),
                session(),
            ),
            "tableau": TableauSource(
                TableauSource.Config.model_validate(
                    {
                        "type": "tableau",
                        "base_url": running.url("tableau"),
                        "site": "sales",
                        "token": {"name": "connector", "secret": "sandbox-secret"},
                        "views": [published("Pipeline", "deals", DEALS), published("Stage History", "stage_entries", HISTORY)],
                    }
                ),
                session(),
            ),
            "files": FilesSource(
                FilesSource.Config.model_validate(
                    {"type": "files", "tables": {name: {"path": str(folder / "export" / f"{file}.csv")} for name, file in names.items()}}
                ),
                session(),
            ),
        }
        cache = {}

        def read(which, table):
            if (which, table) not in cache:
                source = sources[which]
                entity = next(entity for entity in source.entities() if entity.name == table)
                overrides = FIELDS.get(which, {}).get(table, {})
                scratch = folder / f"scratch-{which}"
                with normalise(
                    entity, source.read(entity, Since()), engine=engine, scratch=scratch, zone=ZoneInfo("UTC"), overrides=overrides
                ) as result:
                    cache[which, table] = [row for batch in result.batches() for row in batch.to_pylist()]
            return cache[which, table]

        yield read


def names(read, which):
    """Names of deals by id."""
    return {row["deal_id"]: row["name"] for row in read(which, "deals")}


CRMS = ("salesforce", "hubspot")


@pytest.mark.parametrize("which", [*CRMS, "tableau"])
def test_the_same_deals(read, which):
    theirs = {row["name"]: row for row in read(which, "deals")}
    ours = {row["name"]: row for row in read("files", "deals")}
    assert theirs.keys() == ours.keys()
    columns = [name for name in ENTITIES["deals"].names if name not in DIFFERENT | UNKNOWN[which] | UNKNOWN["files"]]
    assert len(columns) > 10
    for name, row in ours.items():
        assert {column: theirs[name][column] for column in columns} == {column: row[column] for column in columns}
        assert float(theirs[name]["probability"]) == float(row["probability"])
        if row["status"] == "open":
            assert theirs[name]["expected_close_date"] == row["expected_close_date"]


@pytest.mark.parametrize("which", [*CRMS, "tableau"])
def test_the_same_stage_entries(read, which):
    def entries(source):
        known = names(read, source)
        return sorted((known[row["deal_id"]], row["entered_at"], row["stage"]) for row in read(source, "stage_entries"))

    assert entries(which) == entries("files")


def test_the_pipeline_of_a_former_stage_is_known_where_a_stage_belongs_to_one(read):
    def entries(source):
        known = names(read, source)
        return {(known[row["deal_id"]], row["entered_at"]): row["pipeline"] for row in read(source, "stage_entries")}

    assert entries("hubspot") == entries("files")


@pytest.mark.parametrize("which", CRMS)
def test_the_same_stages(read, which):
    def stages(source):
        return {
            (row["pipeline"], row["stage"]): (row["stage_order"], row["probability"], row["is_won"], row["is_lost"])
            for row in read(source, "stages")
        }

    assert stages(which) == stages("files")


@pytest.mark.parametrize("which", CRMS)
def test_the_same_rates(read, which):
    """The first known rate holds for all time before, which the CRMs say with an early date."""

    def rates(source):
        return {(row["currency"], row["valid_from"]): row["rate"] for row in read(source, "rates") if row["valid_from"].year > 2000}

    assert rates(which) == rates("files")


@pytest.mark.parametrize("which", CRMS)
def test_money_is_the_same_to_the_cent(read, which):
    """Won revenue in the home currency, converted with each source's own rates."""

    def revenue(source):
        rates = sorted((row["currency"], row["valid_from"], row["rate"]) for row in read(source, "rates"))
        total = 0
        for row in read(source, "deals"):
            if row["status"] == "won" and row["amount"] is not None:
                known = [rate for currency, day, rate in rates if currency == row["currency"] and day <= row["closed_at"].date()]
                total += row["amount"] * (known[-1] if known else 1)
        return round(total, 2)

    assert revenue(which) == revenue("files") > 0


@pytest.mark.parametrize("which", CRMS)
def test_the_same_leads(read, which):
    columns = ("company", "lead_source", "product", "value", "budget", "authority", "need", "timing", "score", "created_at")

    def leads(source):
        return sorted(str([row["name"], *(row[column] for column in columns)]) for row in read(source, "leads"))

    assert leads(which) == leads("files")


@pytest.mark.parametrize("which", CRMS)
def test_the_same_lines(read, which):
    def lines(source):
        known = names(read, source)
        products = {row["product_id"]: row["product"] for row in read(source, "products")}
        return sorted(
            (known[row["deal_id"]], row["product"] or products[row["product_id"]], row["quantity"], row["amount"])
            for row in read(source, "deal_products")
        )

    assert lines(which) == lines("files")


@pytest.mark.parametrize("which", CRMS)
def test_the_same_owners(read, which):
    def people(source):
        return {row["owner"]: row["team"] for row in read(source, "owners") if row["team"]}

    assert people(which) == people("files")


@pytest.mark.parametrize("which", [*CRMS, "tableau", "files"])
def test_which_columns_of_deals_each_source_cannot_know(read, which):
    rows = read(which, "deals")
    empty = {name for name in ENTITIES["deals"].names if all(row[name] is None for row in rows)}
    assert empty == set(UNKNOWN[which])
