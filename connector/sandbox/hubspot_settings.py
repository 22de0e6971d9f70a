"""Pipelines, owners and property definitions as HubSpot gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from connector.sandbox.hubspot_objects import LEAD_STAGES, Kind, instant, owner_id, pipeline_id, stage_id
from connector.sandbox.records import Owner, Pipeline
from connector.sandbox.words import TEAMS


def pipeline(one: Pipeline) -> dict[str, Any]:
    stamps = {"createdAt": "1970-01-01T00:00:00Z", "updatedAt": instant(one.modified_at), "archived": False}
    stages = [
        {
            "label": stage.label,
            "displayOrder": stage.order - 1,
            "metadata": {"isClosed": "true" if stage.closed else "false", "probability": f"{float(stage.probability)}"},
            "id": stage_id(one, stage.key),
            "writePermissions": "CRM_PERMISSIONS_ENFORCEMENT",
            **stamps,
        }
        for stage in one.stages
    ]
    return {"label": one.label, "displayOrder": one.n - 1, "id": pipeline_id(one), "stages": stages, **stamps}


def pipelines(given: Iterable[dict[str, Any]], ours: Sequence[Pipeline], keys: frozenset[str], *, archived: bool) -> list[dict[str, Any]]:
    """The living ones, or what `keys` (`renewal`, `new/discovery`) archive: whole pipelines, and living ones with archived stages only."""
    ids = {pipeline_id(one): one.key for one in ours}
    stages = {stage_id(one, stage.key) for one in ours for stage in one.stages if f"{one.key}/{stage.key}" in keys}
    found = []
    for one in given:
        whole = ids.get(one["id"]) in keys
        kept = [{**stage, "archived": archived} for stage in one["stages"] if whole or (stage["id"] in stages) == archived]
        if archived == whole or (archived and kept):
            found.append({**one, "stages": kept, "archived": whole})
    return found


def lead_pipeline() -> dict[str, Any]:
    stages = [
        {"label": label, "displayOrder": place, "metadata": {"isClosed": "false"}, "id": name, "archived": False}
        for place, (name, label) in enumerate(LEAD_STAGES.values())
    ]
    return {"label": "Lead pipeline", "displayOrder": 0, "id": "lead-pipeline-id", "stages": stages, "archived": False}


def owner(one: Owner) -> dict[str, Any]:
    user = 8_884_200 + one.n
    teams = [*TEAMS, "Management"]
    return {
        "id": owner_id(one.n),
        "email": one.email,
        "type": "PERSON",
        "firstName": one.first,
        "lastName": one.last,
        "userId": user if one.active else None,
        "userIdIncludingInactive": user,
        "createdAt": instant(one.created_at),
        "updatedAt": instant(one.modified_at),
        "archived": not one.active,
        "teams": [{"id": str(101 + teams.index(one.team)), "name": one.team, "primary": True}],
    }


def properties(kind: Kind) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "type": one.type,
            "fieldType": "text",
            "options": [
                {"label": label, "value": value, "displayOrder": place, "hidden": False} for place, (value, label) in enumerate(one.options)
            ],
            "calculated": False,
            "archived": False,
            "hubspotDefined": not one.custom,
        }
        for name, one in kind.properties.items()
    ]
