"""What a portal does not show of what is wanted: each as a finding of `check`, and as a warning of a run where data is missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connector.api import Finding
from connector.errors import ConnectorError
from connector.pages import side_by_side
from sources.hubspot_api import Portal
from sources.hubspot_errors import Forbidden, Refused
from sources.hubspot_metadata import Metadata
from sources.hubspot_records import Records
from sources.hubspot_tables import CURRENT_STAGE, Table
from sources.hubspot_types import WORKERS, ObjectTypes


class Gaps:
    """`concerned` are the tables that the wanted ones are read from; owners and rates have none."""

    def __init__(
        self,
        portal: Portal,
        types: ObjectTypes,
        metadata: Metadata,
        records: Records,
        *,
        concerned: Sequence[Table],
        owners: bool,
        rates: bool,
    ) -> None:
        self._portal = portal
        self._types = types
        self._metadata = metadata
        self._records = records
        self._concerned = concerned
        self._owners = owners
        self._rates = rates

    # ── in a run ──────────────────────────────────────────────────────────────────────────────────

    def hidden(self) -> Iterator[tuple[str, Forbidden]]:
        """What the token may not see, and the refusal. What the portal does not have is no gap."""
        for table in self._concerned:
            if forbidden := self._types.seen(table.kind).forbidden:
                yield table.kind, forbidden
        if self._rates and isinstance(refused := self._metadata.exchange_rates, Forbidden):
            yield "exchange rates", refused

    def tables_left_out(self) -> list[str]:
        return [
            f"{what} are not visible to the token, their table is missing or incomplete: {error.lacks}" for what, error in self.hidden()
        ]

    def properties_left_out(self, table: Table) -> list[str]:
        """Without those that a portal in order may lack."""
        usual = table.optional if self._metadata.one_currency else table.optional - {"deal_currency_code"}
        missing = [name for name in self._records.missing(table) if name not in usual]
        found = [f"{table.kind}: not visible to the token, read as empty: {', '.join(missing)}"] if missing else []
        if table.kind == "leads" and CURRENT_STAGE in missing:
            found.append("leads: when one entered its stage is not told; its last change stands for when it became a deal")
        return found

    # ── in a check ────────────────────────────────────────────────────────────────────────────────

    def findings(self) -> Iterator[Finding]:
        """Every object type, with its properties, that a run would read; owners; exchange rates."""
        yield from side_by_side(self._type, self._concerned, WORKERS)
        if self._owners:
            yield self._people()
        if self._rates:
            yield self._exchange()

    def _type(self, table: Table) -> Finding:
        what = f"{self._portal.place} {table.kind}"
        try:
            kept_away = self._types.seen(table.kind).kept_away
        except ConnectorError as error:
            return failed(what, error)
        if isinstance(kept_away, Refused) and table.kind != "deals":
            return Finding(what, True, "there are none in this portal; left out")
        if kept_away:
            return failed(what, kept_away)
        missing = self._records.missing(table)
        if gone := [name for name in missing if name in table.needed or name == table.modified]:
            return Finding(what, False, f"not visible: {', '.join(gone)}", "grant the scopes of sensitive data to the token", 3)
        return Finding(what, True, f"readable; not there: {', '.join(missing)}" if missing else "readable")

    def _people(self) -> Finding:
        what = f"{self._portal.place} owners"
        try:
            next(self._portal.results(self._portal.path("crm/owners"), limit="1"), None)
        except ConnectorError as error:
            return failed(what, error)
        return Finding(what, True, "readable")

    def _exchange(self) -> Finding:
        what = f"{self._portal.place} exchange rates"
        try:
            rates = self._metadata.exchange_rates
        except ConnectorError as error:
            return failed(what, error)
        if isinstance(rates, Forbidden):
            return failed(what, rates)
        return Finding(what, True, "there are none in this portal" if rates is None else "readable")


def failed(what: str, error: ConnectorError) -> Finding:
    return Finding(what, False, str(error), error.remedy or "", error.exit_code)
