"""The generated company as a Tableau site: published data sources over its deals, and the views a sales team would have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from connector.sandbox import export
from connector.sandbox.company import Company
from connector.sandbox.tableau.content import Column, Datasource, Format, Kind, Project, Row, Shown, Site, Value, View, Workbook

#: caption -> the export's column, its type, whether Tableau would take it for a measure
DEALS: Final[Mapping[str, tuple[str, Kind, bool]]] = {
    "Deal ID": ("deal_id", "STRING", False),
    "Deal Name": ("name", "STRING", False),
    "Pipeline": ("pipeline", "STRING", False),
    "Stage": ("stage", "STRING", False),
    "Stage Order": ("stage_order", "INTEGER", False),
    "Status": ("status", "STRING", False),
    "Amount": ("amount", "REAL", True),
    "Currency": ("currency", "STRING", False),
    "Probability": ("probability", "REAL", True),
    "Forecast Category": ("forecast_category", "STRING", False),
    "Owner": ("owner", "STRING", False),
    "Team": ("team", "STRING", False),
    "Manager": ("manager", "STRING", False),
    "Account": ("account", "STRING", False),
    "Segment": ("segment", "STRING", False),
    "Region": ("region", "STRING", False),
    "Contact": ("contact", "STRING", False),
    "Product": ("product", "STRING", False),
    "Product Category": ("product_category", "STRING", False),
    "Lead Source": ("lead_source", "STRING", False),
    "Existing Customer": ("is_existing_customer", "BOOLEAN", False),
    "Lost Reason": ("lost_reason", "STRING", False),
    "Next Step": ("next_step", "STRING", False),
    "Created": ("created_at", "DATETIME", False),
    "Closed": ("closed_at", "DATETIME", False),
    "Close Date": ("expected_close_date", "DATE", False),
    "Stage Entered": ("stage_entered_at", "DATETIME", False),
    "Last Activity": ("last_activity_at", "DATETIME", False),
    "Next Activity": ("next_activity_at", "DATETIME", False),
    "Modified": ("modified_at", "DATETIME", False),
}
HISTORY: Final[Mapping[str, tuple[str, Kind, bool]]] = {
    "Deal ID": ("deal_id", "STRING", False),
    "Pipeline": ("pipeline", "STRING", False),
    "Stage": ("stage", "STRING", False),
    "Stage Order": ("stage_order", "INTEGER", False),
    "Entered": ("entered_at", "DATETIME", False),
}
FORMATS: Final[Mapping[Kind, Format]] = {
    "STRING": "text",
    "INTEGER": "integer",
    "REAL": "number",
    "DATE": "date",
    "DATETIME": "datetime",
    "BOOLEAN": "text",
}


def company_site(company: Company) -> Site:
    """A site whose content follows the company: what happens to it shows at the next read."""
    sales = Project("Sales")
    site = Site(projects=[Project("Default"), sales, Project("Published", parent=sales), Project("Finance")])
    deals = Datasource("Pipeline", sales, _columns(DEALS), lambda: _deals(company))
    history = Datasource("Stage History", sales, _columns(HISTORY), lambda: _rows(export.tables(company)["stage_history"], HISTORY))
    site.datasources += [deals, history]
    book = Workbook("Sales Pipeline", sales)
    site.workbooks.append(book)
    book.add(View("Deals", deals, _text_table(DEALS)))
    book.add(View("Stage History", history, _text_table(HISTORY)))
    counted = Shown("Deal ID", "COUNTD", "integer", alias="Number of Deals")
    amount = Shown("Amount", "SUM", "money")
    book.add(View("Stage Detail", deals, (Shown("Pipeline"), Shown("Stage"), Shown("Region"), counted, Shown("Amount", "SUM", "number"))))
    team = (Shown("Team"), counted, amount, Shown("Amount", "AVG", "money"), Shown("Probability", "AVG", "percent"))
    book.add(View("Team Measures", deals, team, measure_names=True))
    month = Shown("Created", "TRUNC_MONTH", "month")
    book.add(View("Stage by Month", deals, (Shown("Pipeline"), Shown("Stage"), month, counted, amount), across="Created"))
    book.add(View("Region Totals", deals, (Shown("Region"), counted, Shown("Amount", "SUM", "number")), totals=True))
    book.add(View("Overview", sheet_type="dashboard", sheets=("Stage Detail", "Team Measures")))
    return site


def _columns(fields: Mapping[str, tuple[str, Kind, bool]]) -> tuple[Column, ...]:
    return tuple(Column(caption, kind, measure) for caption, (_, kind, measure) in fields.items())


def _text_table(fields: Mapping[str, tuple[str, Kind, bool]]) -> tuple[Shown, ...]:
    """One mark per row: measures as sums, the rest as dimensions, every digit shown."""
    return tuple(Shown(caption, "SUM" if measure else None, FORMATS[kind]) for caption, (_, kind, measure) in fields.items())


def _deals(company: Company) -> Iterator[Row]:
    tables = export.tables(company)
    accounts = {row["account"]: row for row in tables["accounts"]}
    owners = {row["owner"]: row for row in tables["owners"]}
    products = {row["product"]: row for row in tables["products"]}
    whole = (
        {
            **row,
            **{name: owners.get(row["owner"], {}).get(name) for name in ("team", "manager")},
            **{name: accounts.get(row["account"], {}).get(name) for name in ("segment", "region")},
            "product_category": products.get(row["product"], {}).get("product_category"),
        }
        for row in tables["deals"]
    )
    yield from _rows(whole, DEALS)


def _rows(rows: Iterable[Mapping[str, object]], fields: Mapping[str, tuple[str, Kind, bool]]) -> Iterator[Row]:
    for row in rows:
        yield {caption: _value(row[column], kind) for caption, (column, kind, _) in fields.items()}


def _value(value: object, kind: Kind) -> Value:
    if isinstance(value, datetime):  # Tableau's date-times have no zone; this company's are in UTC
        return value.astimezone(UTC).replace(tzinfo=None)
    if kind == "BOOLEAN" and value is not None:
        return bool(value)
    assert value is None or isinstance(value, Value)
    return value
