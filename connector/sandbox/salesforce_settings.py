"""What a test may turn on the sandbox's Salesforce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from connector.sandbox.company import HOME


@dataclass(slots=True)
class App:
    """The app that may sign in, and how."""

    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"  # noqa: S105  everybody may enter the sandbox
    username: str = "integration@sandbox.example"
    public_key: str | None = None
    refresh_token: str = "refresh-0"  # noqa: S105
    rotate_refresh_tokens: bool = False
    run_as_user: bool = True
    scope: str = "api"
    my_domain: str = "acme.my.salesforce.com"
    instance_url: str | None = None
    """What the token answer names, if not the address it was asked at."""


@dataclass(slots=True)
class Setup(App):
    """How this org is set up and how far its limits go."""

    session_seconds: int = 7_200
    multi_currency: bool = True
    dated_rates: bool = True
    record_types: bool = True
    picklists_by_record_type: bool = True
    inactive_stages: frozenset[str] = frozenset()
    """Names of stages nobody may choose any more; deals may still stand in them."""
    untyped_deals: frozenset[int] = frozenset()
    """Deals without a record type, as some are from before there were any."""
    campaign_currencies: tuple[str, ...] = (HOME,)
    quota_currencies: tuple[str, ...] = (HOME,)
    forecast_types: int = 1
    """Each further one has a quota for every second of the first."""
    hidden_objects: frozenset[str] = frozenset()
    hidden_fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    custom_fields: int = 0
    page_size: int = 2_000
    cursor_days: float = 2
    bulk_page: int = 50_000
    bulk_polls: int = 1
    bulk_end: Literal["JobComplete", "Failed", "Aborted"] = "JobComplete"
    bulk_error: str = "BULK_API_ERROR: the sandbox was told to fail this job"
    bulk_utc: Literal["Z", "+0000"] = "Z"
    nul_bytes: bool = False
    daily_calls: int = 100_000
    recycle_bin_days: int = 15
    deletes_known_days: int = 30
    deletes_lag_seconds: int = 0
    """How far the list of deletes is behind."""
