"""The live path where the table does not show its key, and where values are large."""

import datetime as dt
import io
import json

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.worksheet.table import Table

from connector.api import HiddenKey, Output, Run
from connector.errors import TargetError
from sinks.drives.graph_workbook import update_tables
from sinks.excel.cells import Rendering, columns_of
from sinks.excel.identity import written


def run():
    return Run("sales", "run-1", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def saved(world, item):
    """The table after everybody has closed the workbook: headings → values by row."""
    world.files.close_in_excel(item)
    world.cloud.clock.sleep(600)
    world.cloud.workbooks.look(item)
    sheet = openpyxl.load_workbook(item.path)["Sales Deals"]
    heading, *rows = [[cell.value for cell in row] for row in sheet[sheet.tables["Deals"].ref]]
    return [dict(zip(heading, row, strict=True)) for row in rows]


class Notes:
    """What a sink remembers."""

    def __init__(self):
        self.rows, self.kept = [], {}

    def keep(self, table, vanished):
        self.kept |= vanished

    def versions(self, table):
        return self.rows

    def wrote(self, table, rows):
        self.rows = [*self.rows, rows]


def output(rows):
    """`key: (name, stage)`; only name and stage are shown."""
    shown = pa.table({"Name": pa.array([row[0] for row in rows.values()]), "Stage": pa.array([row[1] for row in rows.values()])})
    key = pa.array(list(rows), pa.string())
    whole = shown.append_column("deal_id", key)
    return Output("deals", shown.schema, len(rows), shown.to_reader, hidden=HiddenKey(pa.schema([whole.field("deal_id")]), whole.to_reader))


def remembered(rows):
    made = output(rows)
    shown, key = columns_of(made.schema), columns_of(made.hidden.schema)
    return written(made.hidden.open(), shown, key, Rendering(run().timezone))


@pytest.fixture
def opened(world):
    """An open workbook with these rows, each with a note of a teammate's beside it, and a sink that remembers having written them."""

    def make(rows):
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.title = "Sales Deals"
        sheet.append(["Name", "Note", "Stage"])
        for key, (name, stage) in rows.items():
            sheet.append([name, f"about {key}", stage])
        sheet.add_table(Table(displayName="Deals", ref=f"A1:C{len(rows) + 1}"))
        stream = io.BytesIO()
        book.save(stream)
        item = world.put("Sales/Pipeline.xlsx", stream.getvalue())
        world.files.open_in_excel(item, "ann@acme.com", "web", minutes=600)
        notes = Notes()
        notes.rows = [remembered(rows)]
        return item, notes

    return make


FIRST = {f"D{n}": (f"Deal {n}", "open") for n in range(12)}


def expected(rows):
    return {name: f"about {key}" if key in FIRST else None for key, (name, _) in rows.items()}


def test_notes_stay_beside_their_rows(world, opened):
    item, notes = opened(FIRST)
    rows = {key: (name, "won") for key, (name, _) in reversed(FIRST.items()) if key not in ("D3", "D7")} | {"D99": ("New", "open")}
    update_tables(world.drive(), {"Deals": output(rows)}, run(), notes=notes)
    got = saved(world, item)
    assert {row["Name"]: row["Note"] for row in got} == expected(rows)
    assert {row["Stage"] for row in got} == {"won", "open"}
    assert notes.kept == {"D3": {"Note": "about D3"}, "D7": {"Note": "about D7"}}
    on_sheet = [row["Name"] for row in got]
    assert [rows[key][0] for key in notes.versions("Deals")[-1].keys] == on_sheet, "remembered as it stands there"


@pytest.mark.parametrize("step", [9, 11, 13, 14])
def test_a_run_that_broke_half_way_leaves_rows_the_next_one_knows(world, opened, step):
    item, notes = opened(FIRST)
    rows = {key: (f"{name} renamed", "won") for key, (name, _) in FIRST.items() if key not in ("D3", "D7")} | {"D99": ("New", "open")}
    drive = world.drive()
    send, sent = drive.session.request, []

    def killed(method, url, *args, **kwargs):
        sent.append(url)
        if "/workbook/" in url and len(sent) > step:
            raise KeyboardInterrupt
        return send(method, url, *args, **kwargs)

    drive.session.request = killed
    with pytest.raises(KeyboardInterrupt):
        update_tables(drive, {"Deals": output(rows)}, run(), notes=notes)
    update_tables(world.drive(), {"Deals": output(rows)}, run(), notes=notes)
    got = saved(world, item)
    assert {row["Name"]: row["Note"] for row in got} == {name: f"about {key}" if key in FIRST else None for key, (name, _) in rows.items()}


def test_a_row_nobody_can_tell_is_refused(world, opened):
    item, notes = opened({"D1": ("Renewal", "open"), "D2": ("Renewal", "open"), "D3": ("Upsell", "open")})
    with world.cloud.workbooks.editing(item) as live:
        sheet = live["Sales Deals"]
        for column, value in enumerate(("Renewal", "about D2", "open"), 1):
            sheet.cell(4, column).value = value
        for column, value in enumerate(("Upsell", "about D3", "open"), 1):
            sheet.cell(2, column).value = value
    with pytest.raises(TargetError, match="in row 3, and nobody can tell"):
        update_tables(world.drive(), {"Deals": output({"D2": ("Renewal", "won")})}, run(), notes=notes)
    assert not world.running.asked("^PATCH")


def test_without_any_key_a_teammates_values_are_refused(world, opened):
    _, notes = opened(FIRST)
    shown = output(FIRST)
    with pytest.raises(TargetError, match="no key to keep them beside their rows"):
        update_tables(world.drive(), {"Deals": Output("deals", shown.schema, shown.rows, shown.open)}, run(), notes=notes)
    assert not world.running.asked("^PATCH")


def test_large_texts_go_in_as_many_requests_as_their_size_takes(world, opened):
    """The service takes 5 MB; we send about one, whether rows are changed or added."""
    item, notes = opened({f"D{n}": (f"Deal {n}", "open") for n in range(100)})
    rows = {f"D{n}": (f"Deal {n}", f"{n:03} " + "x" * 30_000) for n in range(200)}
    update_tables(world.drive(), {"Deals": output(rows)}, run(), notes=notes)
    sizes = [len(entry.body) for entry in world.running.asked("^PATCH|rows/add")]
    assert max(sizes) < 1_100_000
    assert len(sizes) >= 6
    got = saved(world, item)
    assert [row["Stage"][:3] for row in got] == [f"{n:03}" for n in range(200)]


def test_changes_the_service_finds_too_large_are_made_smaller(world, opened):
    item, notes = opened(FIRST)
    body = json.dumps({"error": {"code": "x", "innerError": {"code": "RequestPayloadSizeLimitExceeded"}}}).encode()
    world.running.faults.add("^PATCH", status=413, body=body, times=2)
    rows = {key: (name, "won") for key, (name, _) in FIRST.items()}
    update_tables(world.drive(), {"Deals": output(rows)}, run(), notes=notes)
    assert [row["Stage"] for row in saved(world, item)] == ["won"] * 12
    assert [len(json.loads(entry.body)["values"]) for entry in world.running.asked("^PATCH")] == [12, 6, 3, 3, 6]
