"""Tables as files: whole, typed, the same bytes for the same rows, and left alone when nothing changed."""

import csv
import errno
import json
import os
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connector.api import Output, Run
from connector.errors import ConfigError, TargetError, TransientError
from connector.http import Session
from sinks.files import FilesSink, FilesSinkConfig, write_file

AT = datetime(2024, 5, 1, 6, tzinfo=UTC)
DEALS = pa.table(
    {
        "deal_id": ["007", "8", None],
        "name": ['a "quoted", name', "two\nlines \\ back", "=1+1"],
        "amount": pa.array([Decimal("1054.5000"), Decimal(-3), None], pa.decimal128(18, 4)),
        "share": [0.5, float("nan"), None],
        "open": pa.array([1, 0, None], pa.int8()),
        "flag": [True, False, None],
        "day": [date(2024, 4, 30), None, date(1999, 1, 1)],
        "at": pa.array(
            [datetime(2024, 4, 30, 22, 5, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 120000, tzinfo=UTC), None], pa.timestamp("us", "UTC")
        ),
    }
)
OWNERS = pa.table({"owner": ["Ann", "Bob"]})


def output(table, name="deals", spec=None):
    return Output(name, table.schema, table.num_rows, lambda: table.to_reader(max_chunksize=2), spec)


class Target:
    """A sink on a folder, run after run, with what a flow remembers in between."""

    def __init__(self, folder):
        self.folder, self.receipt, self.memory = folder, None, {}

    def write(self, tables, /, *, fresh=True, dry_run=False, **config):
        parsed = FilesSinkConfig.model_validate({"folder": str(self.folder), **config})
        made, specs = FilesSink(parsed, Session()), dict(enumerate(parsed.tables or ()))
        outputs = {f"{name}#{index}": output(table, name, specs.get(index)) for index, (name, table) in enumerate(tables.items())}
        run = Run(
            "f",
            "r",
            AT,
            previous=self.receipt,
            fresh=fresh,
            dry_run=dry_run,
            memory=self.memory,
            remember=lambda memory: setattr(self, "memory", memory),
        )
        receipt = made.write(outputs, run)
        if not dry_run:
            self.receipt = receipt
        return receipt

    def files(self):
        return {path.name: path.read_bytes() for path in self.folder.iterdir()} if self.folder.is_dir() else {}


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "out" / "deep")


def test_csv_holds_every_value_as_a_program_reads_it(target):
    target.write({"deals": DEALS})
    with (target.folder / "deals.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["deal_id", "name", "amount", "share", "open", "flag", "day", "at"],
            ["007", 'a "quoted", name', "1054.5", "0.5", "1", "true", "2024-04-30", "2024-04-30T22:05:00Z"],
            ["8", "two\nlines \\ back", "-3", "", "0", "false", "", "2024-01-01T00:00:00.12Z"],
            ["", "=1+1", "", "", "", "", "1999-01-01", ""],
        ]


def test_json_lines_keep_numbers_exact_and_missing_values_null(target):
    target.write({"deals": DEALS}, format="jsonl")
    lines = (target.folder / "deals.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line, parse_float=str) for line in lines] == [
        {"deal_id": "007", "name": 'a "quoted", name', "amount": "1054.5", "share": "0.5", "open": 1, "flag": True, "day": "2024-04-30", "at": "2024-04-30T22:05:00Z"},
        {"deal_id": "8", "name": "two\nlines \\ back", "amount": -3, "share": None, "open": 0, "flag": False, "day": None, "at": "2024-01-01T00:00:00.12Z"},
        {"deal_id": None, "name": "=1+1", "amount": None, "share": None, "open": None, "flag": None, "day": "1999-01-01", "at": None},
    ]  # fmt: skip


def test_parquet_keeps_the_types(target):
    target.write({"deals": DEALS}, format="parquet")
    assert pq.read_table(target.folder / "deals.parquet").schema.equals(DEALS.schema)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_comes_back_from_json_lines_and_csv(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("t")
    made = output(pa.table({"a": pa.array(texts, pa.string()), "b": pa.array(range(len(texts)))}))
    write_file(folder / "t.jsonl", made, "jsonl")
    assert [json.loads(line)["a"] for line in (folder / "t.jsonl").read_text(encoding="utf-8").split("\n")[:-1]] == texts
    write_file(folder / "t.csv", made, "csv")
    with (folder / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [text or "" for text in texts]


def test_the_receipt_says_what_was_done(target):
    receipt = target.write({"deals": DEALS, "owners": OWNERS})
    assert (receipt.outcome, receipt.rows, receipt.parts_changed) == ("written", {"deals#0": 3, "owners#1": 2}, ("deals.csv", "owners.csv"))
    assert receipt.bytes == sum(map(len, target.files().values()))
    assert receipt.version_before is None
    assert set(target.files()) == {"deals.csv", "owners.csv"}


def test_nothing_is_written_when_nothing_changed(target):
    first = target.write({"deals": DEALS})
    os.utime(target.folder / "deals.csv", (1, 1))
    again = target.write({"deals": DEALS})
    assert (again.outcome, again.version_after, again.parts_changed, again.parts_untouched) == ("unchanged", first.version_after, (), 1)
    assert (target.folder / "deals.csv").stat().st_mtime == 1


def test_only_files_whose_table_changed_are_replaced(target):
    target.write({"deals": DEALS, "owners": OWNERS})
    os.utime(target.folder / "owners.csv", (1, 1))
    receipt = target.write({"deals": DEALS.slice(0, 1), "owners": OWNERS})
    assert (receipt.parts_changed, receipt.parts_untouched) == (("deals.csv",), 1)
    assert (target.folder / "owners.csv").stat().st_mtime == 1


def test_tables_known_to_be_the_same_are_not_even_computed(target):
    target.write({"deals": DEALS})

    class Unread(dict):
        def values(self):
            raise AssertionError("nobody may read the tables")

    sink = FilesSink(FilesSinkConfig(folder=str(target.folder)), Session())
    run = Run("f", "r", AT, previous=target.receipt, fresh=False, memory=target.memory)
    assert sink.write(Unread(), run).outcome == "unchanged"
    (target.folder / "deals.csv").write_text("edited")
    assert target.write({"deals": DEALS}, fresh=False).outcome == "written"


def test_a_file_of_a_table_that_is_gone_goes_too_unless_somebody_changed_it(target):
    target.write({"deals": DEALS, "owners": OWNERS, "more": OWNERS})
    (target.folder / "more.csv").write_text("mine now")
    (target.folder / "theirs.csv").write_text("never ours")
    receipt = target.write({"deals": DEALS})
    assert receipt.parts_changed == ("owners.csv",)
    assert sorted(target.files()) == ["deals.csv", "more.csv", "theirs.csv"]


def test_a_dry_run_writes_nothing(target):
    receipt = target.write({"deals": DEALS}, dry_run=True)
    assert (receipt.outcome, receipt.parts_changed) == ("would write", ("deals.csv",))
    assert not target.folder.exists()


def test_headings_and_file_names_are_the_admins(target):
    target.write(
        {"deals": DEALS}, tables=[{"from": "deals", "file": "Open deals", "columns": {name: name.title() for name in DEALS.schema.names}}]
    )
    assert target.files()["Open deals.csv"].splitlines()[0] == b"Deal_Id,Name,Amount,Share,Open,Flag,Day,At"


def test_two_tables_of_one_file_are_a_configuration_error(target):
    with pytest.raises(ValidationError, match="two tables go to the file 'deals'"):
        FilesSinkConfig.model_validate({"folder": "x", "tables": [{"from": "deals"}, {"from": "deals"}]})
    with pytest.raises(ValidationError, match="file"):
        FilesSinkConfig.model_validate({"folder": "x", "tables": [{"from": "deals", "file": "../up"}]})
    with pytest.raises(ConfigError, match="cannot name a file"):
        target.write({"a/b": DEALS})


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission to write"), (errno.EIO, "as the system says")]
)
def test_a_failure_leaves_the_old_files_in_place(target, number, message):
    target.write({"deals": DEALS})
    before = target.files()

    def broken():
        raise OSError(number, "as the system says")

    bad = replace(output(DEALS.slice(0, 1)), open=broken)
    with pytest.raises((TargetError, TransientError), match=message):
        FilesSink(FilesSinkConfig(folder=str(target.folder)), Session()).write({"deals": bad}, Run("f", "r", AT))
    assert target.files() == before


def test_what_a_killed_run_left_behind_is_swept_away_after_a_day(target):
    target.write({"deals": DEALS})
    left, recent = target.folder / ".connector-killed", target.folder / ".connector-running"
    left.mkdir()
    recent.mkdir()
    os.utime(left, (AT.timestamp() - 90_000,) * 2)
    os.utime(recent, (AT.timestamp() - 60,) * 2)
    target.write({"deals": DEALS.slice(0, 2)})
    assert sorted(path.name for path in target.folder.iterdir()) == [".connector-running", "deals.csv"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_read_only_folder_is_a_target_error(target):
    target.folder.mkdir(parents=True)
    target.folder.chmod(0o500)
    with pytest.raises(TargetError, match="no permission to write"):
        target.write({"deals": DEALS})


def test_check_says_whether_the_folder_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")

    def check(folder):
        return next(FilesSink(FilesSinkConfig(folder=str(folder)), Session()).check())

    assert (check(tmp_path).ok, check(tmp_path).detail) == (True, "there")
    assert check(tmp_path / "new" / "deep").detail == "will be created"
    assert (check(tmp_path / "file").ok, check(tmp_path / "file" / "x").exit_code) == (False, 5)
    with pytest.raises(TargetError, match="is not a folder"):
        Target(tmp_path / "file").write({"deals": DEALS})


def test_half_a_million_rows_are_written_in_batches(tmp_path):
    batch = pa.record_batch({"id": pa.array(range(50_000)), "name": pa.array([f"Deal {n}" for n in range(50_000)])})
    made = Output("t", batch.schema, 500_000, lambda: pa.RecordBatchReader.from_batches(batch.schema, [batch] * 10))
    before, started = pa.total_allocated_bytes(), time.monotonic()
    write_file(tmp_path / "t.csv", made, "csv")
    assert time.monotonic() - started < 20
    assert pa.total_allocated_bytes() - before < 50_000_000
    assert (tmp_path / "t.csv").read_bytes().count(b"\n") == 500_001
