"""The publish gate: what looks broken is kept back with every reason at once; a legitimate run is not."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.config import Gate
from connector.engine import DuckDB
from connector.gate import reasons

STAGES = ("Qualification", "Proposal", "Negotiation")


def deals(count=60, stages=STAGES, amount=100, first=0, **columns):
    made = [
        {"deal_id": f"D-{n}", "stage": stages[n % len(stages)], "amount": amount, "next_step": "call" if n % 4 == 0 else None} | columns
        for n in range(first, first + count)
    ]
    return pa.Table.from_pylist(made, pa.schema([("deal_id", "string"), ("stage", "string"), ("amount", "int64"), ("next_step", "string")]))


def rows(count, **columns):
    return pa.table({name: pa.array([value] * count, pa.string()) for name, value in columns.items()})


class Gatekeeper:
    """Snapshots as a flow leaves them. `publish` one, or ask what `speaks_against` it."""

    def __init__(self, folder):
        self.folder, self.number, self.published = folder, 0, None
        self.engine = DuckDB(folders=[folder])

    def snapshot(self, **sources):
        """`a={"deals": table}`: what each source gave; the deals table is all of theirs."""
        self.number += 1
        made = self.folder / str(self.number)
        for source, entities in sources.items():
            for entity, table in entities.items():
                (made / "sources" / source).mkdir(parents=True, exist_ok=True)
                pq.write_table(table, made / "sources" / source / f"{entity}.parquet", row_group_size=17)
        everything = pa.concat_tables([entities["deals"] for entities in sources.values() if "deals" in entities])
        is_open = pa.array([1] * everything.num_rows, pa.int8())
        won = pa.array([0] * everything.num_rows, pa.int8())
        computed = everything.append_column("is_open", is_open).append_column("is_won", won)
        (made / "tables").mkdir()
        pq.write_table(computed.append_column("amount_reporting", everything["amount"]), made / "tables" / "deals.parquet")
        return made

    def publish(self, **sources):
        self.published = self.snapshot(**sources)

    def speaks_against(self, gate=None, steady=("a", "b"), synced=(), **sources):
        return reasons(Gate(**(gate or {})), self.engine, self.published, self.snapshot(**sources), steady, synced)


@pytest.fixture
def gate(tmp_path):
    made = Gatekeeper(tmp_path)
    yield made
    made.engine.close()


def test_a_life_without_accidents_is_never_kept_back(gate):
    gate.publish(a={"deals": deals(), "leads": rows(8, lead_id="L"), "view": rows(60, x="1")})
    half = {"deals": deals(30), "leads": rows(0, lead_id="L"), "view": rows(0, x="1")}
    assert gate.speaks_against(a=half) == [], "half of the deals without a limit, few leads, a view that is none of ours"
    gate.publish(a={"deals": deals(30)})
    assert gate.speaks_against(a={"deals": deals(300, stages=("Proposal",), amount=1_000)}) == [], "stages of ten deals have run empty"


def test_every_reason_at_once(gate):
    gate.publish(
        a={"deals": deals(), "leads": rows(40, lead_id="L", status="new"), "activities": rows(30, kind="call"), "view": rows(25, x="1")}
    )
    broken = {
        "deals": deals(30, stages=("Proposal",)),
        "leads": rows(40, lead_id="L", status=None),
        "activities": rows(0, kind="call"),
        "view": rows(5, x="1"),
    }
    assert gate.speaks_against({"max_row_drop": 0.3, "max_value_change": 0.4}, a=broken) == [
        "a: activities is empty (30 rows before)",
        "a: view fell from 25 to 5 (80%; max_row_drop is 30%)",
        "a: leads.status is empty in every row (100% were filled before)",
        "deals fell from 60 to 30 (50%; max_row_drop is 30%)",
        "open value went from 6,000.00 to 3,000.00 (50%; max_value_change is 40%)",
        "stage 'Negotiation' is gone (20 deals before)",
        "stage 'Qualification' is gone (20 deals before)",
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, ["a: deals is empty (3 rows before)"]),
        ({"emptied_sources": False}, []),
        ({"tables": {"deals": 1}}, []),
        ({"tables": {"deals": 0.9}}, ["deals fell from 3 to 0 (100%; max_row_drop is 90%)"]),
    ],
)
def test_deals_that_are_all_gone(gate, settings, told):
    gate.publish(a={"deals": deals(3)})
    assert gate.speaks_against(settings, a={"deals": deals(0)}) == told


def test_a_table_may_have_a_limit_of_its_own(gate):
    gate.publish(a={"deals": deals(), "view": rows(100, x="1")})
    settings = {"max_row_drop": 0.3, "tables": {"view": 0.6}}
    assert gate.speaks_against(settings, a={"deals": deals(), "view": rows(50, x="1")}) == []
    assert gate.speaks_against(settings, a={"deals": deals(), "view": rows(10, x="1")}) == [
        "a: view fell from 100 to 10 (90%; max_row_drop is 60%)"
    ]


def test_one_source_of_two_that_half_fails_is_named(gate):
    gate.publish(a={"deals": deals()}, b={"deals": deals(20, first=500)})
    assert gate.speaks_against(a={"deals": deals()}, b={"deals": deals(0)}) == ["b: deals is empty (20 rows before)"]
    few = {"a": {"deals": deals()}, "b": {"deals": deals(10, first=500)}}
    assert gate.speaks_against(**few) == []
    assert gate.speaks_against({"max_row_drop": 0.4}, **few) == ["b: deals fell from 20 to 10 (50%; max_row_drop is 40%)"]


def test_an_entity_that_is_missing_is_missed_unless_an_admin_took_it_out(gate):
    gate.publish(a={"deals": deals(), "leads": rows(40, lead_id="L")})
    assert gate.speaks_against(a={"deals": deals()}) == ["a no longer gives leads (40 rows before)"]
    assert gate.speaks_against(steady=(), a={"deals": deals()}) == []


def test_a_stage_renamed_in_the_crm_is_told_from_its_own_list(gate):
    def stages(*names):
        return pa.table({"stage": names})

    gate.publish(a={"deals": deals(9), "stages": stages(*STAGES, "Legal")})
    emptied = {"deals": deals(9, stages=("Proposal", "Negotiation")), "stages": stages(*STAGES, "Legal")}
    assert gate.speaks_against(a=emptied) == [], "a stage that is still listed may stand empty"
    renamed = {
        "deals": deals(9, stages=("Qualification", "Offer", "Negotiation")),
        "stages": stages("Qualification", "Offer", "Negotiation"),
    }
    assert gate.speaks_against(a=renamed) == ["stage 'Proposal' is gone (3 deals before)"], "Legal held no deal"
    assert gate.speaks_against({"lost_stages": False}, a=renamed) == []


def test_a_field_that_few_ever_filled_may_run_empty(gate):
    gate.publish(a={"deals": deals()})
    assert gate.speaks_against(a={"deals": deals(next_step=None)}) == ["a: deals.next_step is empty in every row (25% were filled before)"]
    assert gate.speaks_against({"emptied_fields": False}, a={"deals": deals(next_step=None)}) == []
    without = deals().drop_columns(["next_step"])
    assert gate.speaks_against(a={"deals": without}) == ["a: deals.next_step is empty in every row (25% were filled before)"]
    assert gate.speaks_against(steady=(), a={"deals": without}) == [], "its mapping was taken out"
    few = pa.concat_tables([deals(8), deals(92, first=8, next_step=None)])
    gate.publish(a={"deals": few})
    assert gate.speaks_against(a={"deals": deals(100, next_step=None)}) == [], "2 of 100"


YAML = """
flows:
  f:
    sources: {a: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks: [{type: files, folder: out, tables: [{from: deals}]}]
    gate: {max_row_drop: 0.3}
"""


def test_kept_back_twice_it_compares_with_what_was_published_and_accept_makes_a_new_baseline(workplace):
    def run(count, *options):
        workplace.write("deals.csv", "deal_id,status\n" + "".join(f"D-{n},open\n" for n in range(count)))
        return workplace.connector("run", "f", "--json", *options)

    workplace.write("connector.yaml", YAML)
    assert run(10).manifest["gate"] == {"accepted": False, "reasons": []}
    for count, told in (
        (5, "deals fell from 10 to 5 (50%; max_row_drop is 30%)"),
        (4, "deals fell from 10 to 4 (60%; max_row_drop is 30%)"),
    ):
        kept = run(count)
        assert kept.code == 5
        assert kept.manifest["gate"] == {"accepted": False, "reasons": [told]}
        assert "connector run f --accept" in kept.manifest["remedy"]
        assert (workplace.folder / "out" / "deals.csv").read_text().count("D-") == 10
    accepted = run(4, "--accept")
    assert accepted.manifest["gate"] == {"accepted": True, "reasons": [told]}
    history = workplace.connector("history", "f", "--json").json()
    assert [run["manifest"]["gate"]["accepted"] for run in history] == [True, False, False, False]
    kept = run(2)
    assert kept.manifest["gate"]["reasons"] == ["deals fell from 4 to 2 (50%; max_row_drop is 30%)"]


def test_a_crm_that_forgets_most_of_its_deals_is_not_believed(gate):
    gate.publish(a={"deals": deals(200)})
    synced = {("a", "deals")}
    assert gate.speaks_against(a={"deals": deals(80)}, synced=synced) == [
        "a: deals fell from 200 to 80 (60%; max_row_drop is 50%)",
    ]
    assert gate.speaks_against(a={"deals": deals(120)}, synced=synced) == []
    assert gate.speaks_against({"max_row_drop": 0.9}, a={"deals": deals(80)}, synced=synced) == []
    assert gate.speaks_against({"tables": {"deals": 1}}, a={"deals": deals(80)}, synced=synced) == []
    assert gate.speaks_against(a={"deals": deals(80)}) == [], "a file may be another file"


def test_a_small_crm_may_be_tidied(gate):
    gate.publish(a={"deals": deals(90)})
    assert gate.speaks_against(a={"deals": deals(30)}, synced={("a", "deals")}) == []
