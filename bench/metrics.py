"""Time and memory of every table, from 100,000 deals to 10 million.

    python bench/metrics.py [--deals 100000 1000000] [--full] [--memory 1500MB]

Companies are generated as Parquet (3.5 stage entries per deal, leads, activities, spend, quotas, two currencies, a former run to compare with);
each size runs in a process of its own, so that its peak memory is its own. `--full` adds 10 million deals and 35 million entries.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

from connector.assemble import assemble
from connector.config import ModelConfig
from connector.engine import DuckDB
from connector.metrics import compute

AT = datetime(2026, 6, 15, 6, tzinfo=UTC)
STAGES = ("Prospecting", "Qualification", "Proposal", "Negotiation")

DEALS = """
with drawn as (
  select i, cast(hash(i) % 1000 as bigint) as a, cast(hash(i + 7919) % 1000 as bigint) as b, cast(hash(i + 104729) % 10000 as bigint) as c,
    timestamptz '2022-01-01' + to_hours(cast(i * 38000 / {deals} as bigint)) as created_at
  from range({deals}) t(i)
)
select printf('D%09d', i) as deal_id, 'Deal ' || i as name, 'New business' as pipeline,
  case when a < 350 then 'Won' when a < 700 then 'Lost' else (['Prospecting', 'Qualification', 'Proposal', 'Negotiation'])[1 + b % 4] end as stage,
  case when a < 350 then 'won' when a < 700 then 'lost' else 'open' end as status,
  case when b < 20 then null else cast(100 + c * 7.35 as decimal(18, 4)) end as amount,
  case when b % 10 = 0 then 'USD' else 'EUR' end as currency,
  'U' || (b % 200) as owner_id, 'A' || (hash(i + 3) % greatest(1, {deals} // 20)) as account_id, 'Product ' || (c % 50) as product,
  (['Web', 'Referral', 'Event', 'Partner'])[1 + c % 4] as lead_source, (['Commit', 'Best case', 'Pipeline'])[1 + b % 3] as forecast_category,
  created_at, case when a < 700 then created_at + to_days(cast(1 + c % 120 as int)) end as closed_at,
  case when a >= 700 then date '2026-05-01' + cast(c % 200 as int) end as expected_close_date,
  'https://crm.example/' || i as url
from drawn"""
ENTRIES = """
select d.deal_id, d.pipeline, s.stage, d.created_at + to_days(cast(s.n * 9 + hash(d.deal_id, s.n) % 5 as int)) as entered_at
from deals d, (values (0, 'Prospecting'), (1, 'Qualification'), (2, 'Proposal'), (3, 'Negotiation')) s(n, stage)
where s.n <= 2 or hash(d.deal_id) % 2 = 0"""
SMALL = {
    "stages": """select 'New business' as pipeline, stage, stage_order, probability, is_won, is_lost from (values
        ('Prospecting', 1, 0.1, 0, 0), ('Qualification', 2, 0.25, 0, 0), ('Proposal', 3, 0.5, 0, 0), ('Negotiation', 4, 0.75, 0, 0),
        ('Won', 5, 1.0, 1, 0), ('Lost', 6, 0.0, 0, 1)) t(stage, stage_order, probability, is_won, is_lost)""",
    "owners": "select 'U' || i as owner_id, 'Owner ' || i as owner, 'Team ' || (i % 12) as team, 'Region ' || (i % 5) as region from range(200) t(i)",
    "accounts": "select 'A' || i as account_id, 'Account ' || i as account, 'Segment ' || (i % 8) as segment from range(greatest(1, {deals} // 20)) t(i)",
    "products": "select 'Product ' || i as product, 'Category ' || (i % 6) as product_category from range(50) t(i)",
    "leads": """select 'L' || i as lead_id, 'Company ' || i as company, 'U' || (i % 200) as owner_id, cast(50 + hash(i) % 900 as decimal(18, 4)) as value,
        timestamptz '2025-01-01' + to_minutes(cast(i * 700000 / ({deals} // 5) as bigint)) as created_at,
        case when hash(i) % 8 = 0 then printf('D%09d', i * 5) end as deal_id, cast(hash(i) % 100 as double) as score
        from range({deals} // 5) t(i)""",
    "activities": """select 'T' || i as activity_id, printf('D%09d', i * 2) as deal_id, 'Call' as subject, timestamptz '2026-06-01' + to_hours(cast(hash(i) % 700 as bigint)) as due_at,
        case when hash(i) % 3 > 0 then timestamptz '2026-06-01' + to_hours(cast(hash(i) % 300 as bigint)) end as done_at from range({deals} // 2) t(i)""",
    "spend": "select cast(date '2022-01-01' + to_months(cast(i as int)) as date) as period, 'Ads' as category, cast(10000 as decimal(18, 4)) as amount from range(54) t(i)",
    "quotas": "select cast(date '2026-01-01' + to_months(cast(i as int)) as date) as period, cast(500000 as decimal(18, 4)) as amount from range(12) t(i)",
    "rates": "select 'USD' as currency, cast(date '2021-12-01' + to_months(cast(i as int)) as date) as valid_from, cast(0.9 + i / 1000.0 as decimal(18, 8)) as rate from range(60) t(i)",
}


class Stopwatch(DuckDB):
    """An engine that notes how long each relation took to build."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seconds = {}

    def store(self, name, sql):
        start = time.perf_counter()
        super().store(name, sql)
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def keep(self, name, sql):
        start = time.perf_counter()
        super().keep(name, sql)
        self.seconds[name] = round(time.perf_counter() - start, 2)


def generate(folder, deals):
    connection = duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(folder / "generate")})
    connection.execute("set timezone = 'UTC'")
    connection.execute("set preserve_insertion_order = false")
    for table, query in {"deals": DEALS, **SMALL}.items():
        connection.execute(f"copy ({query.format(deals=deals)}) to '{folder}/{table}.parquet' (format parquet)")
    connection.execute(f"create view deals as select * from '{folder}/deals.parquet'")
    connection.execute(f"copy ({ENTRIES}) to '{folder}/stage_entries.parquet' (format parquet)")
    connection.close()


def measure(folder, memory):
    (folder / "scratch").mkdir()
    engine = Stopwatch(folders=[folder], scratch=folder / "scratch", memory=memory)
    model = ModelConfig.model_validate({"currency": "EUR", "targets": {"lead_value_per_day": 250}})
    entities = {table: {"crm": [folder / f"{table}.parquet"]} for table in ("deals", "stage_entries", *SMALL)}
    started = time.perf_counter()
    assembled = assemble(engine, entities, model, at=AT, timezone=ZoneInfo("Europe/Berlin"))
    split = time.perf_counter()
    tables = compute(engine, assembled, model)
    done = time.perf_counter()
    rows = {name: engine.count(f"select * from {name}") for name in tables.tables}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"assemble": split - started, "compute": done - split, "peak_mb": peak, "seconds": engine.seconds, "rows": rows}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--deals", type=int, nargs="*", default=[100_000, 1_000_000])
    options.add_argument("--full", action="store_true", help="also 10 million deals")
    options.add_argument("--memory", default="1500MB", help="the engine's limit; the process needs some beside it")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen, _ = options.parse_known_args()  # beside the names `python -m bench` was given
    if chosen.folder:
        print(json.dumps(measure(chosen.folder, chosen.memory)))
        return
    results = {}
    for deals in [*chosen.deals, *([10_000_000] if chosen.full else [])]:
        with tempfile.TemporaryDirectory() as place:
            generate(Path(place), deals)
            command = [sys.executable, __file__, "--memory", chosen.memory, "--folder", place]
            results[deals] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        one = results[deals]
        print(
            f"{deals:>10,} deals: assemble {one['assemble']:.1f} s, metrics {one['compute']:.1f} s, peak {one['peak_mb']:.0f} MB",
            flush=True,
        )
    print("\nseconds per relation" + "".join(f"{deals:>14,}" for deals in results))
    slowest = max(results)
    for name, _ in sorted(results[slowest]["seconds"].items(), key=lambda item: -item[1]):
        print(f"{name:20}" + "".join(f"{one['seconds'].get(name, 0):>14.2f}" for one in results.values()))


if __name__ == "__main__":
    main()
