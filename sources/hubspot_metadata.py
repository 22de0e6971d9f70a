"""What a HubSpot portal says of itself, asked once per run, and the tables small enough to be read whole every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from sources.hubspot_api import Portal, Record
from sources.hubspot_errors import Forbidden, Refused
from sources.hubspot_tables import Stage

FIRST_DAY: Final = "1900-01-01"
LIVING_AND_ARCHIVED: Final = ("false", "true")


class Metadata:
    """Pipelines and exchange rates; stages, owners and rates as records."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    @cached_property
    def deal_stages(self) -> tuple[Stage, ...]:
        return self.stages_of("deals")

    @cached_property
    def lead_stages(self) -> tuple[Stage, ...]:
        return self.stages_of("leads")

    def stages_of(self, kind: str) -> tuple[Stage, ...]:
        """Stages in order, archived ones last, in their pipeline and among pipelines: old deals still stand in them.

        An archived one with the label of a living one is told apart by its label, or what is read by labels would mix the two.
        """
        path = self._portal.path("crm/pipelines", kind)
        pipelines: dict[str, tuple[Record, dict[str, Record]]] = {}
        for archived in LIVING_AND_ARCHIVED:
            for pipeline in sorted(self._portal.results(path, "id", "label", "stages", archived=archived), key=_place):
                _, stages = pipelines.setdefault(str(pipeline["id"]), (pipeline, {}))
                for stage in sorted(pipeline["stages"], key=_place):
                    stages.setdefault(str(stage["id"]), stage)
        labels = _unlike(pipeline for pipeline, _ in pipelines.values())
        found: list[Stage] = []
        for identifier, (_, stages) in pipelines.items():
            shown = _unlike(stages.values())
            found += [
                _stage(identifier, labels[identifier], stage, shown[str(stage["id"])], place)
                for place, stage in enumerate(stages.values(), start=1)
            ]
        return tuple(found)

    @property
    def one_currency(self) -> bool:
        """Whether the portal says that it has one currency only."""
        return self._portal.details.get("additionalCurrencies") == []

    @cached_property
    def exchange_rates(self) -> list[Record] | Forbidden | None:
        """The history of rates, or what keeps it from us; None in a portal with one currency."""
        path = self._portal.path("settings/currencies", "exchange-rates")
        try:
            return list(self._portal.results(path, "fromCurrencyCode", "toCurrencyCode", "conversionRate", "effectiveAt", limit="100"))
        except Forbidden as forbidden:
            return forbidden if forbidden.of_scope and not self.one_currency else None
        except Refused:
            return None

    def stages(self) -> Iterator[Record]:
        for stage in self.deal_stages:
            yield {
                "pipeline": stage.pipeline_label,
                "stage": stage.label,
                "place": stage.order,
                "probability": stage.probability,
                "is_won": int(stage.won),
                "is_lost": int(stage.lost),
            }

    def owners(self) -> Iterator[Record]:
        """Also those who left: old deals name them. Whoever leaves while we read is in both lists, and counts as the active one."""
        told = set()
        for archived in LIVING_AND_ARCHIVED:
            for one in self._portal.results(self._portal.path("crm/owners"), "id", limit="500", archived=archived):
                if one["id"] not in told:
                    told.add(one["id"])
                    yield _owner(one)

    def rates(self) -> Iterator[Record]:
        """Into the portal's currency, the last one of a day. The first known rate of a currency also holds before."""
        company = self._portal.details.get("companyCurrency")
        given = self.exchange_rates if isinstance(self.exchange_rates, list) else []
        into = [one for one in given if one["toCurrencyCode"] == company and one["fromCurrencyCode"] != company]
        days: dict[tuple[str, str], Record] = {}
        begun: set[str] = set()
        for one in sorted(into, key=_effective):
            currency = str(one["fromCurrencyCode"])
            days[currency, str(one["effectiveAt"])[:10]] = one
        if company:
            yield {"fromCurrencyCode": company, "toCurrencyCode": company, "valid_from": FIRST_DAY, "rate": 1, "updatedAt": None}
        for (currency, day), one in days.items():
            first = currency not in begun
            begun.add(currency)
            yield {**one, "valid_from": FIRST_DAY if first else day, "rate": Decimal(str(one["conversionRate"]))}


def _stage(pipeline: str, pipeline_label: str, stage: Mapping[str, Any], label: str, place: int) -> Stage:
    """Metadata values are text, or not; `isClosed` may be missing, then the probability tells."""
    metadata = stage.get("metadata") or {}
    probability = float(metadata["probability"]) if metadata.get("probability") not in (None, "") else None
    closed = str(metadata["isClosed"]).lower() == "true" if "isClosed" in metadata else probability in (0.0, 1.0)
    state = str(metadata.get("leadState") or metadata.get("state") or "").upper()
    return Stage(pipeline, pipeline_label, str(stage["id"]), label, place, probability, closed, state)


def _place(one: Mapping[str, Any]) -> tuple[int, str]:
    return int(one.get("displayOrder") or 0), str(one["id"])


def _unlike(things: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """A label for each id, no two alike."""
    labels: dict[str, str] = {}
    for one in things:
        identifier, label = str(one["id"]), str(one["label"])
        choices = [label, *([f"{label} (archived)"] if one.get("archived") else [])]
        labels[identifier] = next((choice for choice in choices if choice not in labels.values()), f"{label} ({identifier})")
    return labels


def _owner(one: Mapping[str, Any]) -> Record:
    teams = one.get("teams") or []
    team = next((team["name"] for team in teams if team.get("primary")), teams[0]["name"] if teams else None)
    name = " ".join(part for part in (one.get("firstName"), one.get("lastName")) if part)
    return {
        "id": one["id"],
        "name": name or one.get("email"),
        "team": team,
        "email": one.get("email"),
        "updatedAt": one.get("updatedAt"),
    }


def _effective(rate: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """What a rate is sorted by; of two that begin at the same moment the one written later holds."""
    begins, written = (datetime.fromisoformat(str(rate.get(name) or rate["effectiveAt"])) for name in ("effectiveAt", "updatedAt"))
    return begins, written
