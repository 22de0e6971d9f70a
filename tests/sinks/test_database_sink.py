"""The database sink against a real PostgreSQL and a real SQLite: the old tables or the new ones, never half of either."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connector.api import Output, Run
from connector.errors import AuthError, ConfigError, ConflictError, ConnectorError, LockedError, SourceError, TargetError, TransientError
from connector.http import Session
from sinks.database import DatabaseSink, DatabaseSinkConfig, DatabaseTable
from sinks.database_connection import Connection
from sinks.database_sqlite import SQLite

needs_sqlite = pytest.mark.skipif(not find_spec("adbc_driver_sqlite"), reason="adbc-driver-sqlite is not installed")
AT = datetime(2026, 11, 20, 17, tzinfo=UTC)
DEALS = pa.table(
    {
        "deal_id": ["D1", "D2", "D3"],
        "name": ["Acme – renewal", "=danger(); drop table x; --", None],
        "amount": pa.array([Decimal("1234.5600"), None, Decimal("-0.0100")], pa.decimal128(18, 4)),
        "probability": [0.1, 0.25, None],
        "is_won": pa.array([1, 0, None], pa.int8()),
        "created_at": pa.array([AT, datetime(2025, 2, 3, 4, 5, 6, 789012, UTC), None], pa.timestamp("us", "UTC")),
        "expected_close_date": pa.array([date(2026, 1, 31), None, date(1999, 12, 31)]),
        "overdue": [True, False, None],
    }
)


def output(table, name="deals", key=("deal_id",), spec=None, title="", rows=None):
    def read():
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=2))

    return Output(name, table.schema, table.num_rows if rows is None else rows, read, spec, key, title)


def with_rows(*changes, without=()):
    """DEALS with some rows added or changed, and some left out."""
    table = {row["deal_id"]: row for row in DEALS.to_pylist() if row["deal_id"] not in without}
    for change in changes:
        table[change["deal_id"]] = {**dict.fromkeys(DEALS.column_names), **table.get(change["deal_id"], {}), **change}
    return pa.Table.from_pylist(list(table.values()), DEALS.schema)


class Warehouse:
    """A database, our sink with the receipts of its runs, and the eyes of somebody else."""

    def __init__(self, **config):
        self.config = config
        self.previous, self.runs = None, 0

    def sink(self, dialect=None, **config):
        return DatabaseSink(DatabaseSinkConfig.model_validate({**self.config, **config}), Session(), dialect)

    def write(self, *outputs, fresh=True, dry_run=False, dialect=None, flow="pipeline", run_id=None, **config):
        self.runs += 1
        run = Run(flow, run_id or f"run-{self.runs}", AT, fresh=fresh, dry_run=dry_run, previous=self.previous)
        receipt = self.sink(dialect, **config).write({each.name: each for each in outputs}, run)
        if not dry_run:
            self.previous = receipt
        return receipt

    def rows(self, name="deals"):
        return sorted(map(repr, self.read(name)))


class InSQLite(Warehouse):
    def __init__(self, folder):
        super().__init__(url=f"sqlite:///{folder / 'pipe line.db'}", lock_timeout=0.2)
        self.file = folder / "pipe line.db"

    def table(self, name):
        return f'"{name}"'

    def do(self, sql):
        with closing(sqlite3.connect(self.file)) as connection:
            connection.execute(sql)
            connection.commit()

    def ask(self, sql):
        with closing(sqlite3.connect(self.file)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]

    def read(self, name="deals"):
        return self.ask(f"select * from {self.table(name)}")

    def names(self):
        return {row["name"] for row in self.ask("select name from sqlite_master where type = 'table'")} if self.file.exists() else set()

    def expected(self, table):
        """As SQLite keeps it: money as a number, days and instants as text, booleans as 0 and 1."""
        return [
            {
                name: (int(value) if value == int(value) else float(value)) if isinstance(value, Decimal)
                else f"{value:%Y-%m-%d %H:%M:%S.%f}Z" if isinstance(value, datetime)
                else value.isoformat() if isinstance(value, date)
                else int(value) if isinstance(value, bool) else value
                for name, value in row.items()
            }
            for row in table.to_pylist()
        ]  # fmt: skip


class InPostgreSQL(Warehouse):
    def __init__(self, server):
        self.server, self.schema = server, server.schema()
        super().__init__(url=server.url(), schema=self.schema, lock_timeout=0.2)

    def table(self, name):
        return f'"{self.schema}"."{name}"'

    def do(self, sql):
        self.server.run(sql)

    def ask(self, sql):
        return self.server.arrow(sql).to_pylist()

    def read(self, name="deals"):
        (columns,) = self.server.rows(
            f"select coalesce(string_agg(format(case when data_type = 'numeric' then '%1$I::text as %1$I' else '%I' end, column_name), ', ' "
            f"order by ordinal_position), '') from information_schema.columns where table_schema = '{self.schema}' and table_name = '{name}'"
        )
        found = self.ask(f"select {columns[0]} from {self.table(name)}")
        kinds = self.types(name)
        return [
            {name: Decimal(value) if value is not None and kinds[name].startswith("numeric") else value for name, value in row.items()}
            for row in found
        ]

    def types(self, name="deals"):
        return dict(
            self.server.rows(
                f"select attname::text, format_type(atttypid, atttypmod) from pg_attribute "
                f"where attrelid = '{self.table(name)}'::regclass and attnum > 0 and not attisdropped"
            )
        )

    def names(self):
        return {name for (name,) in self.server.rows(f"select tablename::text from pg_tables where schemaname = '{self.schema}'")}

    def expected(self, table):
        return table.to_pylist()


@pytest.fixture
def in_postgres(postgres):
    return InPostgreSQL(postgres)


@pytest.fixture
def in_sqlite(tmp_path):
    return InSQLite(tmp_path)


@pytest.fixture(params=[pytest.param("sqlite", marks=needs_sqlite), "postgresql"])
def db(request):
    return request.getfixturevalue("in_sqlite" if request.param == "sqlite" else "in_postgres")


def same(db, table, name="deals"):
    return db.rows(name) == sorted(map(repr, db.expected(table)))


# ── replace ───────────────────────────────────────────────────────────────────────────────────────


class TestReplace:
    def test_every_value_comes_back(self, db):
        receipt = db.write(output(DEALS))
        assert (receipt.outcome, receipt.rows, receipt.parts_changed) == ("written", {"deals": 3}, ("deals",))
        assert receipt.bytes > 0
        assert receipt.version_before is None
        assert receipt.version_after
        assert same(db, DEALS)
        assert db.names() == {"deals", "_connector"}

    def test_types(self, in_postgres):
        in_postgres.write(output(DEALS))
        assert in_postgres.types() == {
            "deal_id": "text", "name": "text", "amount": "numeric(18,4)", "probability": "double precision", "is_won": "smallint",
            "created_at": "timestamp with time zone", "expected_close_date": "date", "overdue": "boolean",
        }  # fmt: skip

    def test_nothing_is_written_when_nothing_changed(self, db):
        first = db.write(output(DEALS))
        books = db.read("_connector")
        for fresh in (True, False):
            receipt = db.write(output(DEALS), fresh=fresh)
            assert (receipt.outcome, receipt.version_before, receipt.version_after) == ("unchanged", *[first.version_after] * 2)
        assert db.read("_connector") == books

    def test_other_order_is_no_change(self, db):
        db.write(output(DEALS))
        books = db.read("_connector")
        assert db.write(output(DEALS.take([2, 0, 1]))).outcome == "unchanged"
        assert db.read("_connector") == books

    @pytest.mark.parametrize(
        "change", ["delete from {}", "update {} set name = 'x' where deal_id = 'D1'", "insert into {} (deal_id) values ('D9')"]
    )
    @pytest.mark.parametrize("fresh", [True, False])
    def test_what_somebody_else_changed_is_set_right(self, db, change, fresh):
        db.write(output(DEALS))
        db.do(change.format(db.table("deals")))
        assert db.write(output(DEALS), fresh=fresh).outcome == "written"
        assert same(db, DEALS)
        assert db.write(output(DEALS), fresh=fresh).outcome == "unchanged"

    def test_a_table_that_somebody_dropped_comes_back(self, db):
        db.write(output(DEALS))
        db.do(f"drop table {db.table('deals')}")
        assert db.write(output(DEALS), fresh=False).outcome == "written"
        assert same(db, DEALS)

    def test_rows_come_change_go_and_repeat(self, db):
        db.write(output(DEALS))
        changed = pa.concat_tables([with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9"}, without=("D2",)), DEALS.slice(0, 1)])
        for _ in range(2):
            db.write(output(changed))
            assert same(db, changed)

    def test_only_the_table_that_changed_is_written(self, db):
        stages = pa.table({"stage": ["Won"]})
        db.write(output(DEALS), output(stages, "stages", ()))
        receipt = db.write(output(DEALS), output(pa.table({"stage": ["Lost"]}), "stages", ()))
        assert (receipt.parts_changed, receipt.parts_untouched) == (("stages",), 1)

    def test_no_rows(self, db):
        """A table that has lost its rows is emptied; one that never had any is not made unless it is asked for."""
        none = DEALS.slice(0, 0)
        assert db.write(output(none)).outcome == "unchanged"
        assert db.names() == set()
        db.write(output(DEALS))
        db.write(output(none))
        assert db.read() == []
        db.write(output(none, spec=DatabaseTable(**{"from": "deals", "name": "asked"})))
        assert db.read("asked") == []

    def test_headings_and_names(self, db):
        spec = DatabaseTable(**{"from": "deals", "name": 'Deals "2026"', "columns": {"deal_id": "select", "name": "Deal; name's"}})
        for table in (DEALS, with_rows({"deal_id": "D4", "name": "y"})):
            db.write(output(table.select(["deal_id", "name"]), spec=spec), mode="upsert")
        sql = f'select * from {"" if isinstance(db, InSQLite) else db.schema + "."}"Deals ""2026""" where "select" = \'D4\''
        assert db.ask(sql) == [{"select": "D4", "Deal; name's": "y"}]

    def test_a_dry_run_writes_nothing(self, db):
        assert db.write(output(DEALS), dry_run=True).outcome == "would write"
        assert db.names() == set()
        assert not isinstance(db, InSQLite) or not db.file.exists()
        db.write(output(DEALS))
        receipt = db.write(output(with_rows({"deal_id": "D4"})), dry_run=True)
        assert (receipt.outcome, receipt.parts_changed) == ("would write", ("deals",))
        assert same(db, DEALS)

    def test_progress_in_rows(self, db):
        seen = []
        run = Run("pipeline", "r", AT, progress=lambda *args: seen.append(args))
        db.sink().write({"deals": output(DEALS)}, run)
        assert seen == [("deals", 2, 3), ("deals", 3, 3)]

    def test_tables_of_one_run_change_together(self, db):
        db.write(output(DEALS), output(DEALS, "again"))
        with pytest.raises(SourceError, match="the engine stopped"):
            db.write(output(with_rows({"deal_id": "D4"})), breaking("again"))
        assert same(db, DEALS)
        assert same(db, DEALS, "again")

    @pytest.mark.parametrize("known", [True, False])
    def test_a_table_that_breaks_off_while_it_is_read(self, db, known):
        if known:
            db.write(output(DEALS))
        with pytest.raises(SourceError, match="the engine stopped"):
            db.write(breaking("deals"))
        with pytest.raises(TargetError, match="7 rows announced, 3 read"):
            db.write(output(DEALS, rows=7))
        assert same(db, DEALS) if known else db.names() == set()


def breaking(name):
    """Some rows, then an error."""

    def read():
        def batches():
            yield from with_rows({"deal_id": "D8"}).to_batches()
            raise SourceError("the engine stopped")

        return pa.RecordBatchReader.from_batches(DEALS.schema, batches())

    return Output(name, DEALS.schema, 99, read, None, ("deal_id",))


class TestOthersWork:
    """What other people hang on our tables."""

    def test_views_and_permissions_stay(self, in_postgres):
        db = in_postgres
        db.write(output(DEALS))
        db.server.run("drop role if exists reader", "create role reader login", f"grant usage on schema {db.schema} to reader")
        db.server.run(f"grant select on {db.table('deals')} to reader")
        db.server.run(f"create view {db.schema}.won as select name, amount from {db.table('deals')} where is_won = 1")
        for change in ({"deal_id": "D4", "is_won": 1, "name": "new"}, {"deal_id": "D5", "is_won": 1, "name": "newer"}):
            db.write(output(with_rows(change)))
            assert (change["name"],) in db.server.rows(f"select name from {db.schema}.won")
            assert len(db.server.rows(f"select * from {db.table('deals')}", user="reader")) == 4
        db.server.run(f"revoke all on {db.table('deals')} from reader", f"revoke all on schema {db.schema} from reader")

    def test_readers_neither_wait_nor_see_a_half(self, in_postgres):
        """Asked before every statement: by a reader of the moment, and by one whose transaction is as old as the old table."""
        db = in_postgres
        db.write(output(DEALS))
        before, seen = db.rows(), []
        with db.server.session(autocommit=False) as old:
            old.execute("set transaction isolation level repeatable read")
            old.execute(f"select deal_id from {db.table('deals')}")
            old.fetchall()

            def look(statement):
                db.server.run("set statement_timeout = 2000")
                seen.append(db.rows())
                old.execute(f"select count(*) from {db.table('deals')}")
                assert old.fetchall() == [(3,)]

            db.write(output(with_rows({"deal_id": "D4"})), dialect=Watched(db, look))
        assert seen[-1] != before
        assert len(seen) > 8
        assert all(rows == before for rows in seen[:-1])

    def test_a_column_of_somebody_else(self, db):
        db.write(output(DEALS), mode="upsert")
        db.do(f"alter table {db.table('deals')} add column note text")
        db.do(f"update {db.table('deals')} set note = 'call Ann' where deal_id = 'D1'")
        db.write(output(with_rows({"deal_id": "D1", "name": "renamed"})), mode="upsert")
        (row,) = [row for row in db.read() if row["deal_id"] == "D1"]
        assert (row["name"], row["note"]) == ("renamed", "call Ann")
        with pytest.raises(TargetError, match="somebody has added column 'note'") as error:
            db.write(output(DEALS))
        assert "upsert" in error.value.remedy
        with pytest.raises(TargetError, match="'note' is new here, and somebody has added one of that name"):
            db.write(output(DEALS.append_column("note", pa.array(["x"] * 3))), mode="upsert")

    def test_a_column_that_computes_itself(self, db):
        db.write(output(DEALS))
        db.do(f"alter table {db.table('deals')} add column double_amount {'numeric' if isinstance(db, InPostgreSQL) else 'real'} "
              f"generated always as (amount * 2) {'stored' if isinstance(db, InPostgreSQL) else 'virtual'}")  # fmt: skip
        db.write(output(with_rows({"deal_id": "D1", "amount": Decimal(2)})))
        assert [float(row["double_amount"]) for row in db.read() if row["deal_id"] == "D1"] == [4]

    def test_rows_that_others_refer_to(self, in_postgres):
        db = in_postgres
        db.write(output(DEALS), mode="upsert")
        db.do(f"create table {db.schema}.notes (deal text references {db.table('deals')}, note text)")
        db.do(f"insert into {db.schema}.notes values ('D1', 'x')")
        db.write(output(with_rows({"deal_id": "D1", "name": "renamed"}, without=("D2",))), mode="upsert")
        with pytest.raises(TargetError, match="foreign key") as error:
            db.write(output(DEALS), mode="replace")
        assert "upsert" in error.value.remedy

    def test_a_trigger_that_swallows_rows_is_noticed(self, in_postgres):
        db = in_postgres
        db.write(output(DEALS))
        db.do(f"create function {db.schema}.f() returns trigger language plpgsql as 'begin return null; end'")
        db.do(
            f"create trigger t before insert on {db.table('deals')} for each row when (new.deal_id = 'D9') execute function {db.schema}.f()"
        )
        with pytest.raises(TargetError, match="would hold 3 rows instead of 4"):
            db.write(output(with_rows({"deal_id": "D9"})))
        assert same(db, DEALS)

    def test_a_constraint_of_somebody_else(self, db):
        db.write(output(DEALS))
        db.do(f"create unique index odd on {db.table('deals') if isinstance(db, InPostgreSQL) else 'deals'} (name)")
        with pytest.raises(TargetError) as error:
            db.write(output(with_rows({"deal_id": "D1", "name": "same"}, {"deal_id": "D2", "name": "same"})))
        assert "constraint" in error.value.remedy
        assert same(db, DEALS)

    @pytest.mark.parametrize("thing", ["table deals (deal_id text)", "view deals as select 1 as one"])
    def test_a_table_of_somebody_else_is_left_alone(self, db, thing):
        db.write(output(DEALS, "other"))
        db.do(f"create {thing.replace('deals', db.table('deals'), 1)}")
        with pytest.raises(TargetError, match="not made by connector") as error:
            db.write(output(DEALS))
        assert "another `name:`" in error.value.remedy
        assert db.ask(f"select count(*) as n from {db.table('deals')}")[0]["n"] in (0, 1)
        (*_, last) = db.sink(tables=[{"from": "deals"}]).check()
        assert (last.ok, last.exit_code) == (False, 5)

    def test_a_table_of_another_flow(self, db):
        db.write(output(DEALS))
        with pytest.raises(TargetError, match="belongs to flow 'pipeline'"):
            db.write(output(with_rows({"deal_id": "D9"})), flow="other")


class TestMeanings:
    def described(self, db):
        return dict(
            db.server.rows(
                f"select coalesce(a.attname::text, ''), d.description from pg_description d left join pg_attribute a on a.attrelid = d.objoid "
                f"and a.attnum = d.objsubid and d.objsubid > 0 where d.objoid = '{db.table('deals')}'::regclass"
            )
        )

    def table(self, text="What the customer pays."):
        meta = {"description": text, "currency": "EUR"}
        return pa.table(
            {"deal_id": ["D1"], "amount": [1]}, schema=pa.schema([("deal_id", pa.string()), pa.field("amount", pa.int64(), metadata=meta)])
        )

    def test_definitions_are_comments(self, in_postgres):
        in_postgres.write(output(self.table(), title="Deals"))
        assert self.described(in_postgres) == {
            "": "Deals. Published by connector, flow pipeline.",
            "amount": "What the customer pays. In EUR.",
        }

    def test_a_new_definition_is_written_though_no_row_changed(self, in_postgres):
        in_postgres.write(output(self.table()))
        assert in_postgres.write(output(self.table("It's new."))).outcome == "written"
        assert self.described(in_postgres)["amount"] == "It's new. In EUR."
        assert in_postgres.write(output(self.table("It's new."))).outcome == "unchanged"

    def test_words_of_others_stay(self, in_postgres):
        in_postgres.write(output(self.table()))
        in_postgres.do(f"comment on column {in_postgres.table('deals')}.amount is 'Ask Ann.'")
        in_postgres.write(output(self.table("Other.")))
        assert self.described(in_postgres)["amount"] == "Ask Ann."

    def test_books_have_them_where_the_database_has_no_comments(self, in_sqlite):
        import json

        in_sqlite.write(output(self.table()))
        (row,) = in_sqlite.read("_connector")
        assert json.loads(row["columns"])["amount"]["meaning"] == "What the customer pays. In EUR."
        assert (row["flow"], row["run_id"], row["refreshed_at"], row["row_count"]) == ("pipeline", "run-1", AT.isoformat(), 1)


# ── upsert and append ─────────────────────────────────────────────────────────────────────────────


class TestUpsert:
    CONFIG: ClassVar = {"mode": "upsert"}

    def test_rows_come_change_and_go(self, db):
        db.write(output(DEALS), **self.CONFIG)
        changed = with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9", "name": "new"}, without=("D2",))
        assert db.write(output(changed), **self.CONFIG).outcome == "written"
        assert same(db, changed)

    def test_rows_that_did_not_change_are_not_written(self, in_postgres):
        in_postgres.write(output(DEALS), **self.CONFIG)
        before = dict(in_postgres.server.rows(f"select deal_id, xmin::text from {in_postgres.table('deals')}"))
        in_postgres.write(output(with_rows({"deal_id": "D1", "name": "renamed"})), **self.CONFIG)
        after = dict(in_postgres.server.rows(f"select deal_id, xmin::text from {in_postgres.table('deals')}"))
        assert [name for name in after if after[name] != before[name]] == ["D1"]

    def test_keys_of_several_columns(self, db):
        before = pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"], "v": [1, 2, 3]})
        after = pa.table({"a": [1, 2, 3], "b": ["x", "x", "z"], "v": [10, 3, 4]})
        for table in (before, after):
            db.write(output(table, key=("a", "b")), **self.CONFIG)
            assert same(db, table)

    def test_a_table_that_is_all_key(self, db):
        for ids in (["a", "b"], ["b", "c"]):
            db.write(output(pa.table({"deal_id": ids})), **self.CONFIG)
            assert same(db, pa.table({"deal_id": ids}))

    def test_from_replace_with_rows_that_share_a_key(self, db):
        db.write(output(pa.concat_tables([DEALS, DEALS])))
        db.write(output(DEALS), **self.CONFIG)
        assert same(db, DEALS)

    def test_a_table_without_a_key(self, db):
        with pytest.raises(ConfigError, match="which rows are the same"):
            db.write(output(DEALS, key=(), spec=DatabaseTable(**{"from": "deals"})), **self.CONFIG)
        db.write(output(DEALS, key=()), **self.CONFIG)  # of all tables, those without a key are replaced
        assert same(db, DEALS)

    @pytest.mark.parametrize("ids", [["D1", "D1"], ["D1", None], [None, None]])
    @pytest.mark.parametrize("mode", ["upsert", "append"])
    def test_keys_that_repeat_or_are_missing(self, db, ids, mode):
        with pytest.raises(TargetError, match="no key of their own: deal_id"):
            db.write(output(pa.table({"deal_id": pa.array(ids, pa.string())})), mode=mode)
        assert db.names() == set()


class TestAppend:
    CONFIG: ClassVar = {"mode": "append"}

    def test_rows_are_added(self, db):
        for day in (1, 2, 3):
            db.write(output(pa.table({"day": [day], "open": [day * 10]}), "history", ()), **self.CONFIG)
        assert sorted(row["day"] for row in db.read("history")) == [1, 2, 3]

    def test_the_same_rows_are_not_added_twice(self, db):
        for _ in range(2):
            db.write(output(pa.table({"day": [1]}), "history", ()), **self.CONFIG)
        assert db.read("history") == [{"day": 1}]

    def test_a_run_is_applied_once(self, db):
        """The same run again, whatever its rows: it was cut off after its transaction ended."""
        for day in (1, 2):
            db.write(output(pa.table({"day": [day]}), "history", ()), run_id="the-run", **self.CONFIG)
        assert db.read("history") == [{"day": 1}]

    def test_a_row_whose_key_is_there_is_left_alone(self, db):
        db.write(output(DEALS), **self.CONFIG)
        db.write(output(with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9"})), **self.CONFIG)
        assert db.write(output(with_rows({"deal_id": "D1", "name": "again"})), **self.CONFIG).outcome == "unchanged"
        db.write(output(with_rows({"deal_id": "D10"}, without=("D1", "D2", "D3"))), **self.CONFIG)
        got = {row["deal_id"]: row["name"] for row in db.read()}
        assert got == {"D1": "Acme – renewal", "D2": "=danger(); drop table x; --", "D3": None, "D9": None, "D10": None}

    def test_no_rows_add_none(self, db):
        db.write(output(pa.table({"day": [1]}), "history", ()), **self.CONFIG)
        assert db.write(output(pa.table({"day": pa.array([], pa.int64())}), "history", ()), **self.CONFIG).outcome == "unchanged"


# ── columns ───────────────────────────────────────────────────────────────────────────────────────


class TestColumns:
    def grown(self, db, old, new, **config):
        table = {"a": old} if isinstance(old, pa.Array) else old
        db.write(output(pa.table(table), "t", ()), **config)
        db.write(output(pa.table({"a": new} if isinstance(new, pa.Array) else new), "t", ()), **config)

    def test_new_columns_come(self, db):
        self.grown(db, pa.array([1]), {"a": [1], "b": ["x"]})
        assert db.read("t") == [{"a": 1, "b": "x"}]
        with pytest.raises(TargetError, match="column 'c' is new") as error:
            db.write(output(pa.table({"a": [1], "b": ["x"], "c": [1]}), "t", ()), schema_changes="freeze")
        assert "schema_changes: evolve" in error.value.remedy

    @pytest.mark.parametrize("changes", ["evolve", "freeze"])
    def test_a_column_dropped_upstream(self, db, changes):
        db.write(output(DEALS))
        with pytest.raises(TargetError, match="column 'amount' is gone") as error:
            db.write(output(DEALS.drop_columns(["amount"])), schema_changes=changes)
        assert same(db, DEALS)
        db.do(error.value.remedy.partition("for good: ")[2].partition(";")[0].replace("main.", ""))
        db.write(output(DEALS.drop_columns(["amount"])), schema_changes=changes)
        assert same(db, DEALS.drop_columns(["amount"]))

    @pytest.mark.parametrize(
        ("old", "new", "kind"),
        [
            (pa.array([1], pa.int8()), pa.array([40000], pa.int32()), "integer"),
            (pa.array([1], pa.int32()), pa.array([2**40]), "bigint"),
            (pa.array([1], pa.int64()), pa.array([1], pa.int16()), "bigint"),
            (pa.array([1], pa.int64()), pa.array([Decimal("0.1")], pa.decimal128(18, 4)), "numeric(23,4)"),
            (pa.array([Decimal(1)], pa.decimal128(18, 4)), pa.array([Decimal("1e20")], pa.decimal128(38, 4)), "numeric(38,4)"),
            (pa.array([Decimal(1)], pa.decimal128(18, 4)), pa.array([Decimal("1e-8")], pa.decimal128(18, 8)), "numeric(22,8)"),
            (pa.array([Decimal(1)], pa.decimal128(18, 8)), pa.array([Decimal(7)], pa.decimal128(9, 4)), "numeric(18,8)"),
            (pa.array([1.5], pa.float32()), pa.array([0.1], pa.float64()), "double precision"),
            (pa.array([1], pa.int16()), pa.array([0.1], pa.float64()), "double precision"),
        ],
    )
    def test_types_grow(self, in_postgres, old, new, kind):
        self.grown(in_postgres, old, new)
        assert in_postgres.types("t") == {"a": kind}
        assert in_postgres.read("t") == [{"a": new[0].as_py()}]

    def test_frozen_types_do_not(self, in_postgres):
        with pytest.raises(TargetError, match=r"'a' was numeric\(18,4\) and is numeric\(38,4\)"):
            self.grown(in_postgres, pa.array([Decimal(1)], pa.decimal128(18, 4)), pa.array([Decimal("1e20")], pa.decimal128(38, 4)),
                       schema_changes="freeze")  # fmt: skip
        assert in_postgres.read("t") == [{"a": Decimal(1)}]
        in_postgres.write(output(pa.table({"a": pa.array([2], pa.int16())}), "t", ()), schema_changes="freeze")  # it fits
        assert in_postgres.read("t") == [{"a": Decimal(2)}]

    def test_a_type_that_cannot_grow_into_the_other(self, db):
        with pytest.raises(TargetError, match="column 'a' was date and is timestamp"):
            self.grown(db, pa.array([date(2026, 1, 1)]), pa.array([AT], pa.timestamp("us", "UTC")))
        assert len(db.read("t")) == 1

    def test_a_type_that_a_view_holds(self, in_postgres):
        in_postgres.write(output(pa.table({"a": [1]}), "t", ()))
        in_postgres.do(f"create view {in_postgres.schema}.v as select a from {in_postgres.table('t')}")
        with pytest.raises(TargetError, match="used by a view") as error:
            in_postgres.write(output(pa.table({"a": pa.array([Decimal("0.1")], pa.decimal128(18, 4))}), "t", ()))
        assert "drop the view" in error.value.remedy
        assert in_postgres.read("t") == [{"a": 1}]

    def test_columns_without_values(self, db):
        """They never had a type of their own: they take one when the first value comes, and lose none when the last has gone."""
        nothing, something = pa.table({"k": ["a"], "a": pa.nulls(1)}), pa.table({"k": ["a"], "a": [AT]})
        for _ in range(2):
            db.write(output(nothing, "t", ()))
            assert db.read("t") == [{"k": "a", "a": None}]
            db.write(output(something, "t", ()))
            assert same(db, something, "t")
        for mode, key in (("upsert", ("k",)), ("append", ())):
            db.write(output(nothing, "t2", key), mode=mode)
            db.write(output(something, "t2", key), mode=mode)
            db.write(output(nothing, "t2", key), mode=mode)
            assert [row["a"] for row in db.read("t2")] == ([None] if mode == "upsert" else [None, db.expected(something)[0]["a"], None])
            db.do(f"drop table {db.table('t2')}")


# ── cut off anywhere ──────────────────────────────────────────────────────────────────────────────


class Watched:
    """A dialect whose connection calls `look` with every statement before it goes to the database."""

    def __init__(self, db, look):
        self._dialect, self._look = db.sink()._dialect, look

    def __getattr__(self, name):
        return getattr(self._dialect, name)

    def connect(self, *, reading):
        look, inner = self._look, self._dialect.connect(reading=reading)

        class Looking(Connection):
            def __init__(self):
                super().__init__(inner._raw, inner._errors, inner._explain)

            def run(self, sql):
                look(sql)
                super().run(sql)

            def rows(self, sql):
                look(sql)
                return super().rows(sql)

            def load(self, table, batches, schema, *, temporary):
                look(f"load {table}")
                super().load(table, batches, schema, temporary=temporary)

            def commit(self):
                look("commit")
                super().commit()
                look("after the commit")

        return Looking()


OLD, NEW = DEALS, with_rows({"deal_id": "D1", "name": "renamed"}, {"deal_id": "D9"}, without=("D2",))
WIDE = NEW.append_column("region", pa.array(["EMEA"] * NEW.num_rows))


class CutError(ConnectorError):
    """Injected."""


@pytest.mark.parametrize("mode", ["replace", "upsert", pytest.param("append", marks=pytest.mark.soak)])
def test_cut_off_at_every_statement_the_tables_are_whole_and_the_next_run_completes(db, mode):
    """One table grows a column, one is new; a cut before each statement in turn, and once after the last."""
    db.write(output(OLD), mode=mode)
    old = db.rows()
    for cut in range(100):
        count = 0

        def look(statement, cut=cut):
            nonlocal count
            if count == cut:
                raise CutError(statement)
            count += 1

        try:
            db.write(output(WIDE), output(OLD, "fresh"), mode=mode, dialect=Watched(db, look))
        except CutError as error:
            done = str(error) == "after the commit"
            assert db.names() == ({"deals", "fresh", "_connector"} if done else {"deals", "_connector"})
            assert (db.rows() == old) is not done
            if done:
                break
    assert cut > 12
    again = db.write(output(WIDE), output(OLD, "fresh"), mode=mode)
    assert again.outcome == "unchanged"  # the last cut came after the transaction had ended
    assert len(db.read()) == (4 if mode == "append" else 3)
    assert mode == "append" or same(db, WIDE)
    assert same(db, OLD, "fresh")


KILLED = """
    import os, runpy, signal, sys
    tests = runpy.run_path({tests!r})
    db = tests["Warehouse"](**{config!r})
    def look(statement):
        if statement.startswith({at!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    db.write(tests["output"](tests["NEW"]), mode="upsert", dialect=tests["Watched"](db, look), run_id="killed")
"""


@pytest.mark.parametrize(
    "at", ["insert", pytest.param("load", marks=pytest.mark.soak), "commit", pytest.param("after", marks=pytest.mark.soak)]
)
def test_killed(db, at):
    db.write(output(OLD), mode="upsert")
    program = textwrap.dedent(KILLED.format(tests=__file__, config=db.config, at=at))
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert same(db, NEW if at == "after" else OLD)
    db.write(output(NEW), mode="upsert", lock_timeout=30)
    assert same(db, NEW)
    assert db.names() == {"deals", "_connector"}
    if isinstance(db, InPostgreSQL):
        assert db.server.rows("select 1 from pg_class where relname like E'\\\\_connector\\\\_%' and relpersistence = 't'") == []


class TestTwoAtOnce:
    def test_what_another_run_wrote_meanwhile_is_not_overwritten(self, in_postgres):
        db = in_postgres
        db.write(output(OLD))

        other = Warehouse(**db.config)

        def meanwhile(statement):
            if statement.startswith("lock table"):
                other.write(output(NEW), run_id="other")

        with pytest.raises(ConflictError, match="changed while its rows were loaded"):
            db.write(output(WIDE), dialect=Watched(db, meanwhile))
        assert same(db, NEW)

    def test_one_waits_for_the_other(self, in_postgres):
        db = in_postgres
        db.write(output(OLD))
        with db.server.session(autocommit=False) as cursor:
            cursor.execute(f"lock table {db.table('_connector')} in share row exclusive mode")
            with pytest.raises(LockedError) as error:
                db.write(output(NEW))
        assert error.value.exit_code == 75
        assert same(db, OLD)

    def test_a_table_that_somebody_holds(self, in_postgres):
        db = in_postgres
        db.write(output(OLD))
        with db.server.session(autocommit=False) as cursor:
            cursor.execute(f"lock table {db.table('deals')} in access exclusive mode")
            with pytest.raises(LockedError, match="lock timeout"):
                db.write(output(NEW))

    @needs_sqlite
    def test_a_file_that_somebody_writes(self, in_sqlite):
        in_sqlite.write(output(OLD))
        program = f"import sqlite3, sys; c = sqlite3.connect({str(in_sqlite.file)!r}, isolation_level=None); c.execute('begin immediate'); print(1, flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            with pytest.raises(LockedError) as error:
                in_sqlite.write(output(NEW))
            process.communicate()
        assert error.value.exit_code == 75
        assert same(in_sqlite, OLD)
        in_sqlite.write(output(NEW))
        assert same(in_sqlite, NEW)


# ── what is refused before anything is touched ────────────────────────────────────────────────────


class TestRefusals:
    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (pa.table({"a": [[1, 2]]}), "'a' holds list"),
            (pa.table({"a": [timedelta(1)]}), "'a' holds duration"),
            (pa.table({"a": pa.array([Decimal(1)], pa.decimal256(50, 4))}), "'a' holds decimal256"),
            (pa.table({"a": ["x\0y"]}), "'a': a text holds the character NUL"),
            (pa.table({"": [1]}), "is not a name"),
            (pa.table({"a\nb": [1]}), "is not a name"),
            (pa.table({"a" * 256: [1]}), "256 bytes"),
            (pa.table({}), "no columns"),
        ],
    )
    def test_tables_that_no_database_can_hold(self, db, table, message):
        db.write(output(DEALS))
        with pytest.raises(TargetError, match=message) as error:
            db.write(output(with_rows({"deal_id": "D4"})), output(table, "odd", (), DatabaseTable(**{"from": "odd"})))
        assert error.value.remedy
        assert same(db, DEALS)

    @pytest.mark.parametrize(
        ("column", "message"),
        [("ü" * 32, "has 64 bytes, 63 fit"), ("ctid", "kept by PostgreSQL for itself"), ("xmin", "kept by PostgreSQL for itself")],
    )
    def test_columns_that_postgresql_does_not_have(self, in_postgres, column, message):
        """PostgreSQL itself would cut a long name off, and take two for one."""
        with pytest.raises(TargetError, match=message) as error:
            in_postgres.write(output(pa.table({column: [1]}), "t", ()))
        assert "columns:" in error.value.remedy
        in_postgres.write(output(pa.table({column: [1]}), "t", (), DatabaseTable(**{"from": "t", "columns": {column: "fine"}})))
        assert in_postgres.read("t") == [{"fine": 1}]

    def test_names_in_sqlite_differ_in_more_than_case(self, in_sqlite):
        with pytest.raises(TargetError, match="columns 'a' and 'A' have one name"):
            in_sqlite.write(output(pa.table({"a": [1], "A": [2]}), "t", ()))

    @pytest.mark.parametrize("name", ["_connector", "_Connector_x", "ü" * 32, " ", "a\tb"])
    def test_table_names(self, in_postgres, name):
        with pytest.raises(ConfigError, match="table name") as error:
            in_postgres.write(output(DEALS, name))
        assert "`name:`" in error.value.remedy
        assert in_postgres.names() == set()

    def test_sqlites_own_names(self, in_sqlite):
        with pytest.raises(ConfigError, match="kept by SQLite"):
            in_sqlite.write(output(DEALS, "sqlite_stat1"))

    @pytest.mark.parametrize(("value", "fits"), [("12345678901.2345", True), ("99999999999999.9999", False), ("50000000000000.0000", True)])
    def test_sqlite_keeps_15_digits_and_no_fewer_silently(self, in_sqlite, value, fits):
        table = pa.table({"a": pa.array([Decimal(value), None], pa.decimal128(18, 4))})
        if fits:
            in_sqlite.write(output(table, "t", ()))
            assert [row["a"] for row in in_sqlite.read("t")] == [float(value), None]
        else:
            with pytest.raises(TargetError, match="column 'a': a value does not fit numeric exactly"):
                in_sqlite.write(output(table, "t", ()))

    def test_tables_that_only_look_difficult(self, in_postgres):
        table = pa.table(
            {
                "nothing": pa.nulls(2),
                "wide": pa.array([Decimal("9" * 38), Decimal(-1)], pa.decimal128(38, 0)),
                "big": pa.array([2**64 - 1, 0], pa.uint64()),
                "round": pa.array([Decimal(1200), None], pa.decimal128(5, -2)),
                "half": pa.array([1.5, float("nan")], pa.float32()),
                "odd": [float("-inf"), 1e300],
                'a"b.c[d]%s$1': pa.array(["é\\'\"", "日本"]).dictionary_encode(),
                "select": [True, None],
                "naive": pa.array([datetime(2026, 1, 1), None], pa.timestamp("ns")),
                "at": pa.array([time(1, 2, 3), None], pa.time32("s")),
                "raw": [b"\0\xff", None],
                "view": pa.array(["x", None], pa.string_view()),
            }
        )
        in_postgres.write(output(table, "t", ()))
        first, second = in_postgres.read("t")
        assert first == {
            "nothing": None, "wide": Decimal("9" * 38), "big": Decimal(2**64 - 1), "round": Decimal(1200), "half": 1.5, "odd": None,
            'a"b.c[d]%s$1': "é\\'\"", "select": True, "naive": datetime(2026, 1, 1), "at": time(1, 2, 3), "raw": b"\0\xff", "view": "x",
        }  # fmt: skip
        assert (second["half"], second["odd"], second['a"b.c[d]%s$1']) == (None, 1e300, "日本")


class TestConfig:
    def test_the_password_is_nowhere_but_in_its_place(self, tmp_path):
        for keys in (
            {"url": "postgresql://u:p%40ss-word/#?@db.example.com:5433/sales?sslmode=require"},
            {"url": "postgresql://u@db.example.com:5433/sales?sslmode=require&password=p%40ss-word%2F%23%3F"},
            {"url": "postgresql://u@db.example.com:5433/sales?sslmode=require", "password": "p@ss-word/#?"},
        ):
            config = DatabaseSinkConfig.model_validate(keys)
            assert config.password.get_secret_value() == "p@ss-word/#?"
            assert config.url == "postgresql://u@db.example.com:5433/sales?sslmode=require"
            dialect = config.dialect()
            assert (dialect.user, dialect.server, dialect.options) == ("u", "db.example.com:5433/sales", {"sslmode": "require"})
            for text in (repr(config), config.model_dump_json(), str(config), repr(dialect), DatabaseSink(config, Session()).target):
                assert "ss-word" not in text

    def test_files_are_relative_to_the_configuration(self, tmp_path):
        config = DatabaseSinkConfig.model_validate({"url": "sqlite:///out/pipeline.db"}, context={"folder": tmp_path})
        assert config.dialect() == SQLite(tmp_path / "out/pipeline.db", 60)
        config = DatabaseSinkConfig.model_validate({"url": f"sqlite:///{tmp_path}/a@b.db"}, context={"folder": "/elsewhere"})
        assert config.dialect().file == tmp_path / "a@b.db"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"url": "mysql://h/db"}, "no database 'mysql'; .*there is: postgresql, postgres, sqlite"),
            ({"url": "h/db"}, "no address of a database"),
            ({"url": "sqlite:///"}, "names no file"),
            ({"url": "sqlite:///a.db", "schema": "x"}, "SQLite has no schemas"),
            ({"url": "postgresql://h/db", "schema": "pg_mine"}, "cannot be a schema of yours"),
            ({"url": "postgresql://h/db", "schema": "ü" * 32}, "cannot be a schema of yours"),
            ({"url": "postgresql://h/db?sslpassword=secret"}, "sslpassword is not taken"),
            ({"url": "postgresql://h/db", "tables": [{"from": "a"}, {"from": "b", "name": "a"}]}, "two tables go to the table 'a'"),
            ({"url": "sqlite:///a.db", "tables": [{"from": "a"}, {"from": "b", "name": "A"}]}, "two tables go to the table 'a'"),
            ({"url": "postgresql://h/db", "tables": [{"sql": "select 1"}]}, "needs a `name`"),
            ({"url": "postgresql://h/db", "schema_changes": "any"}, "evolve"),
        ],
    )
    def test_bad_keys(self, given, message):
        with pytest.raises(ValidationError, match=message) as error:
            DatabaseSinkConfig.model_validate(given)
        assert "secret" not in str(error.value).replace("secret'", "") or "sslpassword" in message

    @pytest.mark.parametrize(
        ("url", "module", "extra"), [("postgresql://h/db", "postgresql", "postgres"), ("sqlite:///x.db", "sqlite", "sqlite")]
    )
    def test_without_the_driver(self, monkeypatch, url, module, extra):
        monkeypatch.setitem(sys.modules, f"adbc_driver_{module}.dbapi", None)
        sink = DatabaseSink(DatabaseSinkConfig(url=url), Session())
        with pytest.raises(ConfigError, match=f"adbc_driver_{module}") as error:
            sink.write({}, Run("f", "r", AT))
        assert error.value.remedy == f'pip install "pipeline-connector[{extra}]"'
        assert [(finding.ok, finding.exit_code) for finding in sink.check()] == [(False, 2)]


# ── signing in, permissions, check ────────────────────────────────────────────────────────────────


class TestReaching:
    def test_a_password_with_every_odd_sign(self, in_postgres):
        secret = "owner's s3cret/#%"
        in_postgres.write(output(DEALS), url=in_postgres.server.url(password=secret))
        in_postgres.write(output(NEW), url=in_postgres.server.url(password="").replace(":@", "@"), password=secret)
        assert same(in_postgres, NEW)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"password": "wrong-secret"}, AuthError, "password authentication failed"),
            ({"user": "nobody", "password": "wrong-secret"}, AuthError, "password authentication failed"),
            ({"database": "nowhere"}, ConfigError, 'database "nowhere" does not exist'),
            ({"sslmode": "require"}, ConfigError, "does not support SSL"),
            ({"sslmode": "perhaps"}, ConfigError, "sslmode"),
        ],
    )
    def test_refused(self, in_postgres, change, error, message):
        url = in_postgres.server.url(**{"password": "owner's s3cret/#%", **change})
        with pytest.raises(error, match=message) as raised:
            in_postgres.write(output(DEALS), url=url)
        assert raised.value.remedy
        assert "s3cret" not in str(raised.value)
        assert "wrong-secret" not in f"{raised.value}{raised.value.__cause__}{raised.value.__context__}".replace("wrong-secret", "", 0)
        (finding,) = in_postgres.sink(url=url).check()
        assert (finding.ok, finding.exit_code) == (False, error.exit_code)

    @pytest.mark.parametrize("url", ["postgresql://u:secret-word@127.0.0.1:1/db", "postgresql://u:secret-word@no-such-host.invalid/db"])
    def test_not_reachable(self, postgres, url):
        with pytest.raises(TransientError, match="cannot be reached") as error:
            InPostgreSQL(postgres).write(output(DEALS), url=url)
        assert "secret-word" not in str(error.value)

    def test_a_server_that_goes_away(self, in_postgres):
        in_postgres.write(output(DEALS))

        def look(statement):
            if statement.startswith("delete"):
                in_postgres.do("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'connector'")

        with pytest.raises(TransientError):
            in_postgres.write(output(NEW), dialect=Watched(in_postgres, look))
        assert same(in_postgres, DEALS)

    def test_the_least_permissions_of_the_docs_are_enough(self, postgres):
        text = (Path(__file__).parents[2] / "docs/sinks/database.md").read_text("utf-8")
        grants = text.partition("```sql\n")[2].partition("```")[0].strip().split(";\n")
        postgres.run("drop database if exists sales", "drop role if exists connector", "drop role if exists analyst")
        postgres.run("create database sales", "create role analyst login", "revoke all on database sales from public")
        postgres.run(*(grant.strip().rstrip(";") for grant in grants if grant.strip()), database="sales")
        db = Warehouse(url=postgres.url("connector", database="sales"))
        for table in (OLD, NEW):
            db.write(output(table), mode="upsert")
        db.write(output(WIDE))
        assert all(finding.ok for finding in db.sink(tables=[{"from": "deals"}]).check())
        with pytest.raises(AuthError, match="permission denied"):
            db.write(output(OLD), schema="elsewhere")
        assert postgres.rows("select count(*) from pipeline.deals", "analyst", "sales") == [(3,)]

    def test_what_check_finds_without_permissions(self, in_postgres):
        db = in_postgres
        db.write(output(DEALS))
        db.server.run("drop role if exists weak", "create role weak login")
        config = {"url": db.server.url("weak"), "tables": [{"from": "deals"}]}
        findings = list(db.sink(**config).check())
        assert [(finding.what, finding.ok, finding.exit_code) for finding in findings] == [
            ("postgresql:///postgres", True, 0),
            (f"schema {db.schema}", False, 3),
            ("table _connector", False, 3),
            ("table deals", False, 3),
        ]  # fmt: skip
        assert "create schema" in findings[1].remedy
        with pytest.raises(AuthError, match="permission denied"):
            db.write(output(NEW), url=db.server.url("weak"))
        missing = list(db.sink(url=db.server.url("weak"), schema="not_yet").check())
        assert (missing[-1].ok, missing[-1].exit_code, missing[-1].detail) == (False, 3, "it is not there and may not be made")

    def test_check_writes_nothing_and_is_content(self, db):
        config = {"tables": [{"from": "deals", "columns": ["deal_id", "name"]}]}
        assert all(finding.ok for finding in db.sink(**config).check())
        assert db.names() == set()
        db.write(output(DEALS))
        (*fine, last) = db.sink(**config).check()
        assert all(finding.ok for finding in fine)
        assert "has the column 'amount', which `columns` no longer names" in last.detail

    @needs_sqlite
    def test_sqlite_files_that_cannot_be(self, tmp_path):
        (tmp_path / "text.db").write_text("this is no database" * 100)
        for name, message in (("text.db", "no SQLite database"), ("no/folder.db", "no folder"), (".", "opened|folder")):
            db = Warehouse(url=f"sqlite:///{tmp_path}/{name}")
            with pytest.raises(TargetError, match=message) as error:
                db.write(output(DEALS))
            assert error.value.remedy
            assert [(finding.ok, finding.exit_code) for finding in db.sink().check()][-1] == (False, 5)


# ── any tables, any order of runs ─────────────────────────────────────────────────────────────────

VALUES = st.none() | st.integers(0, 3)
TABLES = st.dictionaries(st.integers(0, 5), st.tuples(VALUES, st.sampled_from([None, "a", "b'\\"])), max_size=5)
RUNS = st.lists(st.tuples(TABLES, st.sampled_from(["replace", "upsert"])), min_size=1, max_size=5)


def any_runs(db, runs):
    for number, (rows, mode) in enumerate(runs):
        table = pa.table(
            {"deal_id": list(rows), "v": [v for v, _ in rows.values()], "t": [t for _, t in rows.values()]},
            pa.schema([("deal_id", pa.int64()), ("v", pa.decimal128(18, 4)), ("t", pa.string())]),
        )
        before = sorted(map(repr, db.read("t"))) if number else None
        receipt = db.write(output(table, "t", spec=DatabaseTable(**{"from": "t"})), mode=mode)
        assert same(db, table, "t")
        assert receipt.outcome == ("unchanged" if before == sorted(map(repr, db.read("t"))) else "written")


@pytest.mark.parametrize("examples", [3, pytest.param(300, marks=pytest.mark.soak)])
def test_whatever_came_before_the_table_is_what_the_flow_says(postgres, tmp_path, examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(RUNS)
    def prove(runs):
        any_runs(InPostgreSQL(postgres), runs)
        file = tmp_path / "x"
        file.mkdir(exist_ok=True)
        db = InSQLite(file)
        db.file.unlink(missing_ok=True)
        any_runs(db, runs)

    prove()
