"""Tableau beside what one would write instead, each in a process of its own against the same sandbox, as ratios.

    python -m bench.tableau [--rows 250000] [--published 1000000]

1. Reading a view: our source; tableauserverclient's `populate_csv` with `csv.DictReader`. Rows per second and peak memory.
2. Reading an extract: our source; tableauserverclient's download with `pantab.frames_from_hyper`.
3. Writing a table of 20 columns to .hyper: our sink's way; a `tableauhyperapi` Inserter loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from bench.excel import batches, write_rows
from connector.sandbox.server import serve
from connector.sandbox.tableau import Datasource, Project, Site, Tableau, View, Workbook
from connector.sandbox.tableau.publish import hyper

SETUP = """
import json, sys, time
argument = json.loads(sys.argv[1])
started = time.perf_counter()
"""
REPORT = """
seconds = time.perf_counter() - started
with open("/proc/self/status") as status:  # ru_maxrss would be that of the process this one was forked from
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak}))
"""
OURS = """
from connector.api import Since
from connector.http import Session
from sources.tableau import TableauConfig, TableauSource
config = TableauConfig(base_url=argument["url"], site="sales", token={"name": "connector", "secret": "sandbox-secret"}, views=[argument["view"]])
source = TableauSource(config, Session())
rows = sum(page.records.num_rows for page in source.read(source.entities()[0], Since()))
"""
SIGN_IN = """
import tableauserverclient as tsc
server = tsc.Server(argument["url"], use_server_version=True)
server.auth.sign_in(tsc.PersonalAccessTokenAuth("connector", "sandbox-secret", site_id="sales"))
"""
PLAIN_VIEW = (
    SIGN_IN
    + """
import csv, io
view = next(iter(tsc.Pager(server.views)))
server.views.populate_csv(view)
rows = len(list(csv.DictReader(io.StringIO(b"".join(view.csv).decode()))))
server.auth.sign_out()
"""
)
PLAIN_EXTRACT = (
    SIGN_IN
    + """
import tempfile, zipfile, pantab
source = next(iter(tsc.Pager(server.datasources)))
with tempfile.TemporaryDirectory() as folder:
    path = server.datasources.download(source.id, folder + "/source", include_extract=True)
    with zipfile.ZipFile(path) as package:
        inside = [name for name in package.namelist() if name.endswith(".hyper")][0]
        package.extract(inside, folder)
    rows = sum(table.num_rows for table in pantab.frames_from_hyper(folder + "/" + inside, return_type="pyarrow").values())
server.auth.sign_out()
"""
)
OUR_HYPER = """
import pyarrow as pa, pyarrow.ipc
from pathlib import Path
from connector.api import Output
from sinks import tableau_hyper
def read():
    return pa.ipc.open_stream(pa.OSFile(argument["file"]))
with read() as reader:
    schema = reader.schema
written = tableau_hyper.write(Output("t", schema, argument["rows"], read), "t", Path(argument["folder"], "t.parquet"))
tableau_hyper.extract(written, "t", Path(argument["folder"], "t.hyper"))
rows = written.rows
"""
INSERTER = """
import pyarrow as pa, pyarrow.ipc
from tableauhyperapi import Connection, CreateMode, HyperProcess, Inserter, SqlType, TableDefinition, TableName, Telemetry
reader = pa.ipc.open_stream(pa.OSFile(argument["file"]))
def kind(type):
    if pa.types.is_integer(type): return SqlType.big_int()
    if pa.types.is_floating(type): return SqlType.double()
    if pa.types.is_date(type): return SqlType.date()
    if pa.types.is_timestamp(type): return SqlType.timestamp()
    return SqlType.bool() if pa.types.is_boolean(type) else SqlType.text()
table = TableDefinition(TableName("Extract", "Extract"), [TableDefinition.Column(f.name, kind(f.type)) for f in reader.schema])
rows = 0
with HyperProcess(Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters={"log_config": ""}) as process:
    with Connection(process.endpoint, argument["folder"] + "/i.hyper", CreateMode.CREATE_AND_REPLACE) as connection:
        connection.catalog.create_schema("Extract")
        connection.catalog.create_table(table)
        with Inserter(connection, table) as inserter:
            for batch in reader:
                for row in zip(*(column.to_pylist() for column in batch.columns)):
                    inserter.add_row(row)
                rows += batch.num_rows
            inserter.execute()
"""


def measure(name: str, code: str, argument: dict[str, object], floor: float | None = None) -> float:
    """Run the code alone, print a line; rows per second."""
    done = subprocess.run([sys.executable, "-c", SETUP + code + REPORT, json.dumps(argument)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name:34} failed: {done.stderr.strip().splitlines()[-1]}")
        return 0.0
    found = json.loads(done.stdout.splitlines()[-1])
    speed = found["rows"] / found["seconds"]
    beside = f"   {speed / floor:5.1f} ×" if floor else ""
    print(
        f"{name:34} {found['rows']:>9,} rows {found['seconds']:8.1f} s {speed:>10,.0f} rows/s {found['peak']:7.0f} MB peak{beside}",
        flush=True,
    )
    return float(speed)


def csv_of(rows: int) -> bytes:
    """A view of 20 columns as Tableau would show it."""
    lines = ["Deal ID,Stage,Amount,Close Date," + ",".join(f"Field {number}" for number in range(16))]
    texts = ",".join(f"some text of field {number}" for number in range(16))
    lines += [f'D{row:08},Negotiation,"$1,{row % 1000:03}",{row % 12 + 1}/{row % 28 + 1}/2026,{texts}' for row in range(rows)]
    return ("\r\n".join(lines) + "\r\n").encode()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=250_000)
    options.add_argument("--published", type=int, default=1_000_000)
    given, _ = options.parse_known_args()
    project = Project("Sales")
    book = Workbook("Book", project)
    book.add(View("View", raw=csv_of(given.rows)))
    site = Site(projects=[project], workbooks=[book])
    with tempfile.TemporaryDirectory() as folder:
        pantab = importlib.util.find_spec("pantab")
        if pantab:
            site.datasources.append(Datasource("Extract", project, blob=hyper(pa.Table.from_batches(batches(given.rows)))))
        with serve(Tableau(site)) as running:
            url = running.url("tableau")
            plain = measure("tableauserverclient + csv", PLAIN_VIEW, {"url": url})
            measure("ours, mode: view", OURS, {"url": url, "view": {"view": "Book/View", "table": "t"}}, plain)
            if pantab:
                plain = measure("tableauserverclient + pantab", PLAIN_EXTRACT, {"url": url})
                measure(
                    "ours, mode: extract", OURS, {"url": url, "view": {"datasource": "Extract", "table": "t", "mode": "extract"}}, plain
                )
        if pantab:
            file = Path(folder, "rows.arrow")
            write_rows(file, given.published)
            where = {"file": str(file), "folder": folder, "rows": given.published}
            loop = measure("tableauhyperapi Inserter", INSERTER, where) if importlib.util.find_spec("tableauhyperapi") else None
            measure("ours, to .hyper", OUR_HYPER, where, loop)


if __name__ == "__main__":
    main()
