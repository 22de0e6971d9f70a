"""What a run takes from the runs before it."""

from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq

from connector.configfile import load
from connector.flow import Options, open_flow, run_flow
from connector.settings import Settings

FLOW = """
flows:
  f:
    sources: {crm: {type: files, tables: {deals: {path: deals.csv}}}}
    model: {stages: [{name: Talk}, {name: Offer}, {name: Won, won: true}, {name: Lost, lost: true}]}
    sinks: [{type: files, format: parquet, folder: out, tables: [{from: stage_conversion}]}]
"""


def test_stages_are_told_from_our_own_snapshots_once_they_reach_back_eight_weeks(tmp_path):
    (tmp_path / "connector.yaml").write_text(FLOW, "utf-8")
    config = load(tmp_path / "connector.yaml", {}).flow("f")
    found = []
    for day, lines in (
        (0, ("a,Talk,open", "b,Talk,open")),
        (21, ("a,Offer,open", "b,Talk,open")),
        (56, ("a,Won,won", "b,Lost,lost")),
    ):
        (tmp_path / "deals.csv").write_text("\n".join(["deal_id,stage,status", *lines]), "utf-8")
        now = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=day)
        with open_flow("f", config, Settings(data=tmp_path / "data", threads=1), now=lambda now=now: now) as flow:
            run_flow(flow, Options())
        rows = pq.read_table(tmp_path / "out" / "stage_conversion.parquet").to_pylist()
        found.append((rows[0]["basis"], {row["stage"]: (row["entered"], row["advanced"], row["lost"]) for row in rows}))
    assert [basis for basis, _ in found] == ["reached", "reached", "snapshot"]
    # a went from Talk to Offer to Won, b was lost from Talk: the stages of the day say nothing of that
    assert found[2][1] == {"Talk": (2, 1, 1), "Offer": (1, 1, 0)}
