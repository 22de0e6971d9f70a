"""Extracts: every row in the file's own order, with its types, in flat memory; and packages that do not open."""

import io
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connector.api import Since
from connector.errors import SourceError
from connector.http import Session
from connector.sandbox.server import serve
from connector.sandbox.tableau import Datasource, Project, Site, Tableau
from connector.sandbox.tableau.publish import hyper
from sources.tableau import TableauConfig, TableauSource

pytestmark = pytest.mark.skipif(not find_spec("pantab"), reason="pantab is not installed")
VIEW = {"datasource": "Deals", "table": "t", "mode": "extract"}
PAT = {"name": "connector", "secret": "sandbox-secret"}


@pytest.fixture
def running():
    project = Project("Sales")
    with serve(Tableau(Site(projects=[project], datasources=[Datasource("Deals", project)]), strict=True)) as running:
        yield running
        assert running.violations == []


def pages(running, body):
    running.faults.add("/content", status=200, body=body, times=None)
    source = TableauSource(TableauConfig(base_url=running.url("tableau"), site="sales", token=PAT, views=[VIEW]), Session())
    return list(source.read(source.entities()[0], Since()))


def table(running, body):
    return pa.Table.from_batches([page.records for page in pages(running, body)])


def package(content, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        made.writestr("deals.tds", "<datasource/>")
        made.writestr("Data/Extracts/deals.hyper", content)
    return bytearray(buffer.getvalue())


def test_many_rows_come_in_the_files_order_every_time(running):
    numbers = list(range(45_000))
    body = hyper(pa.table({"N": numbers, "Deal": [f"D{number}" for number in numbers]}))
    found = pages(running, body)
    assert max(page.records.num_rows for page in found) <= 20_000
    assert {page.total for page in found} == {45_000}
    assert [number for page in found for number in page.records["N"].to_pylist()] == numbers
    assert table(running, body).equals(pa.Table.from_batches([page.records for page in found]))


def test_types_are_the_extracts_own(running):
    given = pa.table(
        {
            "Text": ["ü日本\u2028", None],
            "Amount": pa.array([Decimal("12.5000"), None], pa.decimal128(18, 4)),
            "Day": pa.array([date(2026, 1, 31), None]),
            "Local": pa.array([datetime(2026, 1, 31, 9, 15, 0, 123456), None], pa.timestamp("us")),
            "Instant": pa.array([datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "Flag": [True, None],
            "Whole": pa.array([9_007_199_254_740_993, None], pa.int64()),
            "Small": pa.array([7, None], pa.int16()),
            "Number": [0.1, None],
        }
    )
    got = table(running, hyper(given))
    assert got.to_pylist() == given.to_pylist()
    assert got.schema.types == given.schema.types


def test_no_rows_keep_their_types(running):
    given = pa.schema([("Text", pa.string()), ("Day", pa.date32()), ("Instant", pa.timestamp("us", "UTC"))]).empty_table()
    (page,) = pages(running, hyper(given))
    assert (page.total, page.records.schema.types) == (0, given.schema.types)


def test_folders_may_have_a_quote_in_their_names(running, tmp_path, monkeypatch):
    (tmp_path / "it's").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "it's"))
    assert table(running, hyper(pa.table({"N": [1]}))).to_pylist() == [{"N": 1}]
    assert list((tmp_path / "it's").iterdir()) == []


def cut(body):
    return body[:-200]


def damaged(body):
    body[len(body) // 2] ^= 0xFF
    return body


def garbled(body):
    """Bytes that are no deflated data where those of the extract begin."""
    at = body.index(b"deals.hyper") + len(b"deals.hyper")
    body[at : at + 40] = b"\xff" * 40
    return body


def flagged(body, offset, value):
    """A field of the extract's two headers set to something else."""
    name = b"Data/Extracts/deals.hyper"
    for signature, size in ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46)):
        at = body.rindex(name, 0, body.index(b"PK\x01\x02") if size == 30 else len(body)) - size
        assert body[at : at + 4] == signature
        struct.pack_into("<H", body, at + offset + (2 if size == 46 else 0), value)
    return body


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "cut off or damaged"),
        (damaged, "damaged"),
        (garbled, "damaged"),
        (lambda body: bytearray(b"PK\x03\x04garbage"), "cut off or damaged"),
        (lambda body: flagged(body, 6, 1), "encrypted"),
        (lambda body: flagged(body, 8, 98), "packed in a way that cannot be read"),
    ],
    ids=["cut", "damaged", "garbled", "garbage", "encrypted", "unknown packing"],
)
def test_a_package_that_does_not_open_says_why(running, spoil, words):
    body = spoil(package(hyper(pa.table({"N": list(range(2_000))}))))
    with pytest.raises(SourceError, match=words) as error:
        pages(running, bytes(body))
    assert "data source 'Deals'" in str(error.value)
    assert error.value.remedy


CHILD = """
import hashlib, json, sys, time
from connector.api import Since
from connector.http import Session
from sources.tableau import TableauConfig, TableauSource
config = TableauConfig(**json.loads(sys.argv[1]))
source = TableauSource(config, Session())
rows, order = 0, hashlib.sha256()
for page in source.read(source.entities()[0], Since()):
    rows += page.records.num_rows
    order.update(repr(page.records["Deal"].to_pylist()[::100]).encode())
    time.sleep(0.05)  # as a flow has other things to do with each page
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([rows, order.hexdigest(), peak >> 10]))
"""


def reads(running, rows, times=1):
    """What processes of their own find in an extract of so many rows: a digest of its order, and the megabytes they needed at most."""
    numbers = pa.array(range(rows))
    columns = {name: pc.binary_join_element_wise(name, numbers.cast(pa.string()), " ") for name in ("Deal", "Account", "Owner")}
    columns |= {f"N{column}": pc.multiply(numbers, column + 0.1) for column in range(9)}
    running.faults.clear()
    running.faults.add("/content", status=200, body=hyper(pa.table(columns)), times=None)
    config = {"base_url": running.url("tableau"), "site": "sales", "token": PAT, "views": [VIEW]}
    for _ in range(times):
        done = subprocess.run([sys.executable, "-W", "error", "-c", CHILD, json.dumps(config)], check=True, capture_output=True, text=True)
        read, order, megabytes = json.loads(done.stdout)
        assert read == rows
        yield order, megabytes


@pytest.mark.soak
def test_many_rows_need_no_more_memory_and_keep_their_order(running):
    """Hyper hands over its results in several threads, and faster than anybody takes them."""
    ((_, few),) = reads(running, 25_000)
    (first, many), (again, _) = reads(running, 300_000, times=2)
    assert first == again
    assert many - few < 40
