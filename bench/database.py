"""Loading a table of 20 columns into PostgreSQL beside pandas' `to_sql`, each in a process of its own against a server of its own, as ratios.

    python -m bench.database [--rows 1000000] [--small 200000] [--pandas 100000]

1. Our sink: a first load, the same again, every row changed while people read; rows per second and peak memory, at two sizes.
2. `to_sql` with SQLAlchemy and whichever driver is installed: as it is, and with `method="multi"`, on fewer rows, as it is slow.

It takes Debian's package `postgresql`, as tests/kit/postgres.py starts the server.
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
from importlib.util import find_spec
from pathlib import Path

from bench.excel import write_rows
from bench.tableau import measure

SERVER = Path(__file__).parents[1] / "tests" / "kit" / "postgres.py"
OURS = """
from datetime import datetime, timezone
import pyarrow as pa, pyarrow.ipc
from connector.api import Output, Run
from connector.http import Session
from sinks.database import DatabaseSink, DatabaseSinkConfig
def read():
    return pa.ipc.open_stream(pa.OSFile(argument["file"]))
with read() as source:
    schema = source.schema
rows = argument["rows"]
output = Output("t", schema, rows, read)
sink = DatabaseSink(DatabaseSinkConfig(url=argument["url"], schema=argument["schema"]), Session())
receipt = sink.write({"t": output}, Run("bench", argument["run"], datetime.now(timezone.utc)))
assert receipt.outcome == argument["outcome"], receipt
"""
PANDAS = """
import pyarrow as pa, pyarrow.ipc, sqlalchemy
frame = pa.ipc.open_stream(pa.OSFile(argument["file"])).read_all().to_pandas()
engine = sqlalchemy.create_engine(argument["url"])
frame.to_sql("p", engine, schema="public", if_exists="replace", index=False, method=argument["method"], chunksize=argument["chunk"])
rows = len(frame)
"""


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--small", type=int, default=200_000)
    options.add_argument("--pandas", type=int, default=100_000)
    given, _ = options.parse_known_args()
    parts = runpy.run_path(str(SERVER))
    try:
        with parts["cluster"]() as server, tempfile.TemporaryDirectory() as folder:
            compare(server, Path(folder), given, parts["PASSWORD"])
    except parts["MissingError"] as reason:
        print(f"skipped: {reason}")


def compare(server, folder: Path, given: argparse.Namespace, password: str) -> None:
    floor = None
    driver = next((name for name in ("psycopg2", "psycopg", "pg8000") if find_spec(name)), None)
    if driver and find_spec("pandas") and find_spec("sqlalchemy"):
        file = folder / "pandas.arrow"
        write_rows(file, given.pandas)
        url = server.url(password=password).replace("postgresql:", f"postgresql+{driver}:")
        for name, method, chunk in (("default", None, 10_000), ("multi", "multi", 1_000)):
            speed = measure(f"to_sql, {driver}, {name}", PANDAS, {"file": str(file), "url": url, "method": method, "chunk": chunk})
            floor = max(floor or 0.0, speed)
    else:
        print("pandas, SQLAlchemy or a driver is not installed: no comparison")
    for rows in (given.small, given.rows):
        file = folder / f"{rows}.arrow"
        write_rows(file, rows)
        where = {"file": str(file), "rows": rows, "url": server.url(), "schema": server.schema()}
        measure("ours, first load", OURS, {**where, "run": "1", "outcome": "written"}, floor)
        measure("ours, the same again", OURS, {**where, "run": "2", "outcome": "unchanged"}, floor)
        write_rows(file, rows, salt=1)
        measure("ours, every row changed", OURS, {**where, "run": "3", "outcome": "written"}, floor)


if __name__ == "__main__":
    main()
