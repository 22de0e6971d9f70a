"""The same SQL text on a second engine: every table computed by SQLite equals the one computed by DuckDB."""

from __future__ import annotations

import re
import sqlite3
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random

import pyarrow as pa
import pytest

from connector.config import ModelConfig
from connector.metrics import compute

AT = date(2026, 3, 17)
STAGES = ("Talk", "Offer", "Sign")


def plain(value):
    """What SQLite knows: numbers and text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date):  # datetimes are dates too
        return value.isoformat()
    return value


def dated(value):
    """ISO text as the date it stands for."""
    return date.fromisoformat(value) if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) else value


class SQLite:
    """An engine on the standard library's SQLite: dates are ISO text, money is floating."""

    def __init__(self):
        self.connection = sqlite3.connect(":memory:")

    def table(self, name, data):
        self.drop(name)
        kinds = ", ".join(f'"{column.name}" {_affinity(column.type)}' for column in data.schema)
        self.connection.execute(f'create table "{name}" ({kinds})')
        places = ", ".join("?" for _ in data.schema)
        rows = ([plain(value) for value in row.values()] for row in data.to_pylist())
        self.connection.executemany(f'insert into "{name}" values ({places})', rows)

    def view(self, name, sql):
        self.drop(name)
        self.connection.execute(f'create view "{name}" as {sql}')

    def store(self, name, sql):
        self.drop(name)
        self.connection.execute(f'create table "{name}" as {sql}')

    keep = store

    def drop(self, name):
        for kind, found in self.connection.execute("select type, name from sqlite_master where name = ?", [name]).fetchall():
            self.connection.execute(f'drop {kind} "{found}"')

    def tables(self):
        return tuple(row[0] for row in self.connection.execute("select name from sqlite_master"))

    def fetch(self, sql):
        cursor = self.connection.execute(sql)
        names = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
        return pa.table({name: pa.array([dated(row[place]) for row in rows]) for place, name in enumerate(names)})

    def schema(self, sql):
        return self.fetch(f"select * from ({sql}) limit 1").schema

    def parquet(self, name, files):
        raise NotImplementedError

    stream = count = close = parquet


def _affinity(kind):
    if pa.types.is_integer(kind):
        return "integer"
    return "real" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "text"


def company(seed):
    """A few hundred deals of every kind, with amounts that floating point holds exactly."""
    random = Random(seed)

    def day(after, before):
        return AT - timedelta(days=random.randint(before, after)) if random.random() > 0.05 else None

    deals, entries = [], []
    for number in range(250):
        status = random.choice(["won", "won", "lost", "open"])
        created = day(700, 30)
        reached = random.randint(1, 3)
        closed = created + timedelta(days=random.randint(-2, 120)) if created else day(300, 1)
        deals.append(
            {
                "deal_id": f"d{number:03}",
                "name": f"Deal {number}",
                "status": status,
                "stage": {"won": "Won", "lost": "Lost"}.get(status, STAGES[reached - 1]),
                "amount": random.choice([None, 0, *[random.randint(1, 900) * 4 for _ in range(6)]]),
                "currency": random.choice(["EUR", "EUR", "USD"]),
                "created_at": created,
                "closed_at": closed if status != "open" and closed and closed <= AT else None,
                "expected_close_date": AT + timedelta(days=random.randint(-20, 150)) if status == "open" else None,
                "probability": random.choice([None, 0.25, 0.5]),
                "forecast_category": random.choice(["Commit", "Pipeline", None]),
                "owner": random.choice(["Ann", "Bob", "Cid", None]),
                "account": random.choice([*"ABCDEFGH", None]),
                "product": random.choice(["P", "Q", None]),
                "lead_source": random.choice(["Web", "Event"]),
                "next_activity_at": random.choice([None, AT + timedelta(days=3)]),
            }
        )
        if created:
            entries += [
                {"deal_id": f"d{number:03}", "stage": STAGES[place], "entered_at": created + timedelta(days=place * random.randint(1, 15))}
                for place in range(reached)
            ]
    leads = [
        {
            "lead_id": f"l{number:02}",
            "created_at": day(300, 0),
            "value": random.choice([None, 100, 200]),
            "deal_id": random.choice([None, None, "d001"]),
            "product": random.choice(["P", "Q"]),
            "score": random.choice([None, 20.0, 80.0]),
            "budget": random.choice([None, 0, 1]),
            "need": random.choice([None, 0, 1]),
        }
        for number in range(60)
    ]
    activities = [
        {
            "activity_id": f"a{number:02}",
            "deal_id": f"d{random.randint(0, 249):03}",
            "subject": "Call",
            "due_at": day(30, -10),
            "done_at": random.choice([None, AT]),
        }
        for number in range(60)
    ]
    months = [date(2025, month, 1) for month in range(1, 13)] + [date(2026, month, 1) for month in range(1, 7)]
    return {
        "deals": deals,
        "stage_entries": entries,
        "leads": leads,
        "activities": activities,
        "spend": [{"period": month, "amount": 3100} for month in months],
        "quotas": [{"period": month, "amount": 40_000} for month in months],
        "rates": [{"currency": "USD", "valid_from": date(2020, 1, 1), "rate": 0.5}],
        "products": [{"product": "P", "product_category": "Things"}],
    }


MODEL = {
    "currency": "EUR",
    "stages": [{"name": "Talk", "stalled_after_days": 40}, *({"name": name} for name in STAGES[1:])],
    "targets": {"lead_value_per_day": 50},
    "product_targets": {"Things": {"win_rate": 0.5}},
    "fiscal_year_start": 4,
}


@pytest.fixture(scope="module")
def both(measure):
    former = company(1)
    before = measure(at=AT - timedelta(days=40), model=MODEL, **former)
    duck = measure(at=AT, model=MODEL, memories=[before.remember()], **{**company(2), "leads": former["leads"]})
    lite = SQLite()
    inputs = (
        "deal_facts lead_facts activity_facts spend_facts quota_facts stage_facts visits first_won check_ins welcomes deal_memory "
        "gathered_stage_entries deal_products spend quotas"
    )
    for name in inputs.split():
        lite.table(name, duck.engine.fetch(f"select * from {name}"))
    lite.parquet = lambda name, files: lite.table(name, before.engine.fetch("select * from deal_memory"))
    compute(lite, duck.assembled, ModelConfig.model_validate(MODEL), memories=[["memory"]])
    return duck, lite


COMPUTED = (
    "kpis by_stage by_owner by_team by_product by_product_category by_segment by_lead_source by_size by_month by_quarter stage_conversion "
    "pipeline_movement what_changed stalled_deals follow_ups pipeline_balance lead_quality lead_targets product_mix forecast customers "
    "data_quality definitions"
)


@pytest.mark.parametrize("table", COMPUTED.split())
def test_sqlite_agrees(both, table):
    duck, lite = both
    expected = [[plain(value) for value in row.values()] for row in duck.rows(table)]
    found = lite.connection.execute(f"select * from {table}").fetchall()
    assert len(found) == len(expected)
    if table not in ("by_team", "by_segment"):
        assert expected, "an empty table proves nothing"
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            if isinstance(other, float):
                assert mine == pytest.approx(other, rel=1e-9, abs=1e-9), (ours, theirs)
            else:
                assert mine == other, (ours, theirs)


def test_instants_are_not_needed(both):
    """Metrics read days; no instant reaches their SQL."""
    duck, _ = both
    for table in COMPUTED.split():
        for row in duck.rows(table):
            assert not any(isinstance(value, datetime) for value in row.values()), table
