"""The canonical tables of a run, from one source and from several."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.assemble import assemble
from connector.config import ModelConfig
from connector.engine import DuckDB
from connector.model import DATE, DEALS, ENTITIES, INSTANT

AT = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def assembled(tmp_path):
    """assembled(source={table: rows}, …) → the engine with every canonical table."""

    def run(model=None, timezone="Europe/Berlin", **sources):
        files = {}
        for source, tables in sources.items():
            for table, rows in tables.items():
                names = [column for column in ENTITIES[table] if any(column.name in row for row in rows)]
                kinds = {
                    column.name: DATE
                    if column.type == INSTANT and not any(isinstance(row.get(column.name), datetime) for row in rows)
                    else column.type
                    for column in names
                }
                file = tmp_path / f"{source}-{table}.parquet"
                pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items()))), file)
                files.setdefault(table, {})[source] = [file]
        engine = DuckDB(folders=[tmp_path], threads=1)
        assemble(engine, files, ModelConfig.model_validate(model or {}), at=AT, timezone=ZoneInfo(timezone))
        return engine

    return run


def rows(engine, table, columns="*"):
    return engine.fetch(f"select {columns} from {table}").to_pylist()


def test_every_canonical_table_is_there_even_when_nobody_gives_it(assembled):
    engine = assembled(crm={"deals": [{"deal_id": "1"}]})
    for table in ENTITIES:
        names = engine.schema(f"select * from {table}").names
        assert "source" in names, table
        assert "modified_at" in names, table
    assert tuple(engine.schema("select * from deals").names) == DEALS


def test_ids_get_their_source_only_where_several_sources_have_the_entity(assembled):
    one = assembled(crm={"deals": [{"deal_id": "1"}], "stage_entries": [{"deal_id": "1", "stage": "Talk", "entered_at": date(2026, 6, 1)}]})
    assert rows(one, "deals", "deal_id, source") == [{"deal_id": "1", "source": "crm"}]
    two = assembled(
        crm={
            "deals": [{"deal_id": "1", "owner_id": "7"}],
            "owners": [{"owner_id": "7", "owner": "Ann"}],
            "stage_entries": [{"deal_id": "1", "stage": "Talk", "entered_at": date(2026, 6, 1)}],
            "activities": [{"activity_id": "a", "deal_id": "1", "owner_id": "7"}],
        },
        old={"deals": [{"deal_id": "1"}]},
    )
    assert rows(two, "deals", "deal_id, owner") == [{"deal_id": "crm:1", "owner": "Ann"}, {"deal_id": "old:1", "owner": None}]
    assert rows(two, "stage_entries", "deal_id") == [{"deal_id": "crm:1"}]
    assert rows(two, "activities", "activity_id, deal_id, owner") == [{"activity_id": "a", "deal_id": "crm:1", "owner": "Ann"}]


def test_deals_are_completed_by_id_then_by_name(assembled):
    engine = assembled(
        crm={
            "deals": [
                {"deal_id": "1", "account_id": "a1", "owner_id": "o1", "product_id": "p1", "contact_id": "c1"},
                {"deal_id": "2", "account": " ACME ", "owner": "ann", "product": "desk"},
                {"deal_id": "3", "account": "Acme", "segment": "own", "region": "own", "team": "own"},
                {"deal_id": "4", "account": "Nobody", "owner": "Nobody"},
            ],
            "accounts": [{"account_id": "a1", "account": "Acme", "segment": "retail", "region": "North"}],
            "owners": [{"owner_id": "o1", "owner": "Ann", "team": "East", "manager": "Max", "region": "South"}],
            "products": [{"product_id": "p1", "product": "Desk", "product_category": "Furniture"}],
            "contacts": [{"contact_id": "c1", "contact": "Carl"}],
        }
    )
    first, second, third, fourth = rows(
        engine, "deals", "account, segment, region, owner, team, manager, product, product_category, contact"
    )
    assert list(first.values()) == ["Acme", "retail", "North", "Ann", "East", "Max", "Desk", "Furniture", "Carl"]
    assert [second[name] for name in ("segment", "region", "team", "product_category")] == ["retail", "North", "East", "Furniture"]
    assert [third[name] for name in ("segment", "region", "team")] == ["own", "own", "own"]
    assert [fourth[name] for name in ("segment", "region", "team")] == [None, None, None]


def test_region_comes_from_the_account_then_from_the_owner(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1", "account": "Acme", "owner": "Ann"}, {"deal_id": "2", "account": "Beta", "owner": "Ann"}],
            "accounts": [{"account": "Acme", "region": "North"}, {"account": "Beta"}],
            "owners": [{"owner": "Ann", "region": "South"}],
        }
    )
    assert [row["region"] for row in rows(engine, "deals")] == ["North", "South"]


def test_a_name_that_occurs_twice_does_not_double_deals(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1", "account": "Acme", "amount": 5}],
            "accounts": [
                {"account_id": "b", "account": "Acme", "segment": "second"},
                {"account_id": "a", "account": "acme", "segment": "first"},
            ],
        }
    )
    assert [row["segment"] for row in rows(engine, "deals")] == ["first"]


def test_the_product_of_line_items_that_agree(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1"}, {"deal_id": "2"}],
            "products": [{"product_id": "p", "product": "Desk", "product_category": "Furniture"}],
            "deal_products": [
                {"deal_product_id": "a", "deal_id": "1", "product_id": "p"},
                {"deal_product_id": "b", "deal_id": "1", "product_id": "p"},
                {"deal_product_id": "c", "deal_id": "2", "product_id": "p"},
                {"deal_product_id": "d", "deal_id": "2", "product": "Lamp"},
            ],
        }
    )
    assert rows(engine, "deals", "product, product_category") == [
        {"product": "Desk", "product_category": "Furniture"},
        {"product": None, "product_category": None},
    ]
    assert [row["product"] for row in rows(engine, "deal_products")] == ["Desk", "Desk", "Desk", "Lamp"]


def test_roles_name_their_contacts_the_primary_one_first(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1"}],
            "contacts": [{"contact_id": "x", "contact": "Ada"}, {"contact_id": "y", "contact": "Bob"}],
            "deal_contacts": [
                {"deal_contact_id": "a", "deal_id": "1", "contact_id": "x", "role": "Influencer", "is_primary": 0},
                {"deal_contact_id": "b", "deal_id": "1", "contact_id": "y", "role": "Decision Maker", "is_primary": 1},
                {"deal_contact_id": "c", "deal_id": "1", "contact": "Eve", "role": None},
            ],
        }
    )
    shown = rows(engine, "deal_contacts")
    assert [(row["contact"], row["role"], row["is_primary"]) for row in shown] == [
        ("Bob", "Decision Maker", 1),
        ("Ada", "Influencer", 0),
        ("Eve", None, None),
    ]


def test_dates_become_local_midnight_where_another_source_has_instants(assembled):
    engine = assembled(
        crm={"deals": [{"deal_id": "1", "created_at": datetime(2026, 5, 31, 23, 30, tzinfo=UTC)}]},
        sheet={"deals": [{"deal_id": "1", "created_at": date(2026, 5, 31)}]},
    )
    by_id = {row["deal_id"]: row for row in rows(engine, "deals", "deal_id, created_at, created_month, age_days")}
    # half past eleven in London is already June in Berlin; the sheet's last of May stays May
    assert (by_id["crm:1"]["created_month"], by_id["sheet:1"]["created_month"]) == ("2026-06", "2026-05")
    assert by_id["sheet:1"]["created_at"] == datetime(2026, 5, 30, 22, tzinfo=UTC)
    assert (by_id["crm:1"]["age_days"], by_id["sheet:1"]["age_days"]) == (14, 15)


def test_activities_give_last_and_next(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1"}, {"deal_id": "2", "last_activity_at": date(2026, 1, 1)}],
            "activities": [
                {"activity_id": "a", "deal_id": "1", "due_at": date(2026, 6, 1), "done_at": date(2026, 6, 2)},
                {"activity_id": "b", "deal_id": "1", "due_at": date(2026, 6, 20)},
                {"activity_id": "c", "deal_id": "1", "due_at": date(2026, 6, 18)},
                {"activity_id": "d", "deal_id": "2", "done_at": date(2026, 6, 2)},
            ],
        }
    )
    found = rows(engine, "deals", "last_activity_at, next_activity_at")
    assert found == [
        {"last_activity_at": date(2026, 6, 2), "next_activity_at": date(2026, 6, 18)},
        {"last_activity_at": date(2026, 1, 1), "next_activity_at": None},
    ]


def test_stages_from_metadata_configuration_and_deals(assembled):
    engine = assembled(
        crm={
            "deals": [
                {"deal_id": "1", "pipeline": "New", "stage": "Talk", "status": "open"},
                {"deal_id": "2", "pipeline": "New", "stage": "Sold", "status": "open"},
                {"deal_id": "3", "pipeline": "Renewal", "stage": "Improvised", "status": "open"},
            ],
            "stages": [
                {"pipeline": "New", "stage": "Talk", "stage_order": 3, "probability": 0.3},
                {"pipeline": "New", "stage": "Sold", "stage_order": 9, "is_won": 0, "is_lost": 0},
            ],
        },
        model={
            "stages": [
                {"name": "Talk", "pipeline": "New", "stalled_after_days": 5},
                {"name": "Sold", "won": True, "pipeline": "New"},
            ]
        },
    )
    found = rows(engine, "stages", "pipeline, stage, stage_order, probability, is_won, stalled_after_days")
    assert [list(row.values()) for row in found] == [
        ["New", "Talk", 1, 0.3, 0, 5],
        ["New", "Sold", 2, None, 1, None],
        ["Renewal", "Improvised", None, None, 0, None],
    ]
    assert [row["status"] for row in rows(engine, "deals")] == ["open", "won", "open"]


def test_status_follows_stage_metadata_where_the_source_has_none(assembled):
    engine = assembled(
        crm={
            "deals": [{"deal_id": "1", "stage": "Won"}, {"deal_id": "2", "stage": "Gone"}, {"deal_id": "3", "stage": "Talk"}],
            "stages": [{"stage": "Won", "is_won": 1}, {"stage": "Gone", "is_lost": 1}, {"stage": "Talk"}],
        }
    )
    flags = rows(engine, "deals", "status, is_open, is_won, is_lost, is_closed")
    assert [list(row.values()) for row in flags] == [["won", 0, 1, 0, 1], ["lost", 0, 0, 1, 1], ["open", 1, 0, 0, 0]]


def test_awkward_names_are_only_names(assembled):
    engine = assembled(**{'it\'s "crm"': {"deals": [{"deal_id": "1"}]}, "b": {"deals": [{"deal_id": "1"}]}})
    assert [row["deal_id"] for row in rows(engine, "deals")] == ["b:1", 'it\'s "crm":1']
