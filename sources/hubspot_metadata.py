"""What a HubSpot portal says of itself, asked once per run, and the tables small enough to be read whole every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from sources.hubspot_api import Forbidden, Portal, Record, Refused
from sources.hubspot_tables import Stage

FIRST_DAY: Final = "1900-01-01"


class Metadata:
    """Pipelines and exchange rates; stages, owners and rates as records."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    @cached_property
    def deal_stages(self) -> tuple[Stage, ...]:
        return self.stages_of("deals")

    def stages_of(self, kind: str) -> tuple[Stage, ...]:
        """Stages in order, those of archived pipelines last: old deals still stand in them."""
        path = self._portal.path("crm/pipelines", kind)
        found: dict[tuple[str, str], Stage] = {}
        for archived in ("false", "true"):
            for pipeline in sorted(self._portal.results(path, archived=archived), key=lambda one: one["displayOrder"]):
                stages = sorted(pipeline["stages"], key=lambda one: one["displayOrder"])
                for place, stage in enumerate(stages, start=1):
                    found.setdefault((pipeline["id"], stage["id"]), _stage(pipeline, stage, place))
        return tuple(found.values())

    @cached_property
    def exchange_rates(self) -> list[Record] | None:
        """The history of rates; None in a portal with one currency."""
        try:
            return list(self._portal.results(self._portal.path("settings/currencies", "exchange-rates"), limit="100"))
        except (Forbidden, Refused):
            return None

    def stages(self) -> Iterator[Record]:
        shown = set()
        for stage in self.deal_stages:
            if (stage.pipeline_label, stage.label) not in shown:
                shown.add((stage.pipeline_label, stage.label))
                yield {
                    "pipeline": stage.pipeline_label,
                    "stage": stage.label,
                    "place": stage.order,
                    "probability": stage.probability,
                    "is_won": int(stage.won),
                    "is_lost": int(stage.lost),
                }

    def owners(self) -> Iterator[Record]:
        """Also those who left: old deals name them."""
        for archived in ("false", "true"):
            for one in self._portal.results(self._portal.path("crm/owners"), limit="500", archived=archived):
                teams = one.get("teams") or []
                team = next((team["name"] for team in teams if team.get("primary")), teams[0]["name"] if teams else None)
                name = " ".join(part for part in (one.get("firstName"), one.get("lastName")) if part)
                yield {
                    "id": one["id"],
                    "name": name or one.get("email"),
                    "team": team,
                    "email": one.get("email"),
                    "updatedAt": one["updatedAt"],
                }

    def rates(self) -> Iterator[Record]:
        """Into the portal's currency. The first known rate of a currency also holds before."""
        company = str(self._portal.details.get("companyCurrency"))
        rates = [one for one in self.exchange_rates or () if one["toCurrencyCode"] == company]
        first: dict[str, str] = {}
        for one in rates:
            first[one["fromCurrencyCode"]] = min(one["effectiveAt"], first.get(one["fromCurrencyCode"], one["effectiveAt"]))
        yield {"fromCurrencyCode": company, "valid_from": FIRST_DAY, "rate": 1, "updatedAt": None}
        for one in rates:
            day = FIRST_DAY if one["effectiveAt"] == first[one["fromCurrencyCode"]] else one["effectiveAt"][:10]
            yield {**one, "valid_from": day, "rate": Decimal(str(one["conversionRate"]))}


def _stage(pipeline: Mapping[str, Any], stage: Mapping[str, Any], place: int) -> Stage:
    """Metadata values are text; `isClosed` may be missing, then the probability tells."""
    metadata = stage.get("metadata") or {}
    probability = float(metadata["probability"]) if metadata.get("probability") not in (None, "") else None
    closed = str(metadata["isClosed"]) == "true" if "isClosed" in metadata else probability in (0.0, 1.0)
    return Stage(str(pipeline["id"]), str(pipeline["label"]), str(stage["id"]), str(stage["label"]), place, probability, closed)
