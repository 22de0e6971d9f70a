"""How a portal of the sandbox is set up: who may enter, what may be read, how far its limits go, and which oddities it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCOPES: Final = {
    "deals": "crm.objects.deals.read",
    "companies": "crm.objects.companies.read",
    "contacts": "crm.objects.contacts.read",
    "leads": "crm.objects.leads.read",
    "line_items": "crm.objects.line_items.read",
    "products": "e-commerce",
    "calls": "crm.objects.contacts.read",
    "meetings": "crm.objects.contacts.read",
    "tasks": "crm.objects.contacts.read",
    "emails": "crm.objects.contacts.read",
    "owners": "crm.objects.owners.read",
    "currencies": "settings.currencies.read",
}
#: definitions of properties are open with these, or with the scope of the objects
SCHEMAS: Final = {
    "deals": "crm.schemas.deals.read",
    "companies": "crm.schemas.companies.read",
    "contacts": "crm.schemas.contacts.read",
    "leads": "crm.schemas.leads.read",
    "line_items": "crm.schemas.line_items.read",
}


@dataclass(slots=True)
class Setup:
    """Limits of calls hold by the company's clock; None: there is none.

    What a portal may have and the generated company has not: line items that belong to no deal (every so-manieth one), closing dates
    that somebody picked instead of the moment of closing (of every so-manieth closed deal), and archived pipelines (`renewal`) or stages
    (`new/discovery`).
    """

    token: str = "pat-sandbox"  # noqa: S105  everybody may enter the sandbox
    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"  # noqa: S105
    refresh_token: str = "refresh-0"  # noqa: S105
    oauth_seconds: int = 1_800
    scopes: frozenset[str] = frozenset(SCOPES.values()) | frozenset(SCHEMAS.values())
    versions: frozenset[str] = frozenset({"2026-03", "2026-09", "v3"})
    time_zone: str = "Europe/Berlin"
    portal: int = 147_893_286
    multi_currency: bool = True
    page_size: int = 100
    history_page_size: int = 50
    history_rows: int = 1_000
    search_page_size: int = 200
    search_cap: int = 10_000
    index_lag: float = 0
    own_cursors_only: bool = False
    associations_inline: int = 100
    association_page: int = 500
    archived_days: int = 90
    calls_per_10_seconds: int | None = None
    searches_per_second: int | None = None
    daily_calls: int | None = None
    retry_after: bool = False
    lines_without_deal: int | None = None
    picked_close_dates: int | None = None
    archived: frozenset[str] = frozenset()
