"""The live path: our tables are refreshed inside a workbook that people have open, and nothing of theirs is touched."""

import datetime as dt
import io
import json
from decimal import Decimal

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.worksheet.table import Table, TableFormula

from connector.api import Output, Run
from connector.errors import AuthError, ConfigError, LockedError, TargetError, TransientError
from connector.sandbox.microsoft365 import USER
from sinks.drives.graph import GraphDrive, login
from sinks.drives.graph_workbook import update_tables

HEADINGS = ["Deal ID", "Name", "Amount", "Comment", "Closed", "Twice"]
SCHEMA = pa.schema(
    [
        pa.field("deal_id", pa.string(), metadata={"unit": "id", "label": "Deal ID"}),
        pa.field("name", pa.string(), metadata={"label": "Name"}),
        pa.field("amount", pa.decimal128(18, 4), metadata={"label": "Amount", "unit": "money"}),
        pa.field("closed", pa.date32(), metadata={"label": "Closed"}),
    ]
)


def deals(numbers, *, name="Deal {}", key=("deal_id",)):
    rows = [
        {"deal_id": f"{number:05}", "name": name.format(number), "amount": Decimal(number) / 2, "closed": dt.date(2026, 1, 1)}
        for number in numbers
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return {"Deals": Output("deals", SCHEMA, len(rows), table.to_reader, key=key)}


def book(count, *, theirs=True):
    """The workbook a team has: the table, their columns in it, and notes below and beside it."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sales Deals"
    headings = HEADINGS if theirs else ["Deal ID", "Name", "Amount", "Closed"]
    sheet.append(headings)
    for number in range(count):
        row = number + 2
        cells = {"Deal ID": f"{number:05}", "Name": f"Deal {number}", "Amount": number / 2, "Comment": f"note {number}"}
        cells |= {"Closed": dt.date(2026, 1, 1), "Twice": f"=C{row}*2"}
        sheet.append([cells[heading] for heading in headings])
    table = Table(displayName="Deals", ref=f"A1:{'F' if theirs else 'D'}{count + 1}")
    table._initialise_columns()
    for column, heading in zip(table.tableColumns, headings, strict=True):
        column.name = heading
        if heading == "Twice":
            column.calculatedColumnFormula = TableFormula(attr_text="C2*2")
    sheet.add_table(table)
    sheet.cell(count + 4, 1, "signed: the team")
    sheet["H2"] = "beside"
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


@pytest.fixture
def opened(world):
    """A workbook of so many deals that Ann has open."""

    def make(count=100, **more):
        item = world.put("Sales/Pipeline.xlsx", book(count, **more))
        world.files.open_in_excel(item, "ann@acme.com", "web", minutes=600)
        return item

    return make


def run(**more):
    return Run("sales", "run-1", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), **more)


def saved(world, item):
    """The workbook after everybody has closed it: headings → values by row."""
    world.files.close_in_excel(item)
    world.cloud.clock.sleep(600)
    world.cloud.workbooks.look(item)
    sheet = openpyxl.load_workbook(item.path)["Sales Deals"]
    area = sheet.tables["Deals"].ref
    heading, *rows = [[cell.value for cell in row] for row in sheet[area]]
    return sheet, [dict(zip(heading, row, strict=True)) for row in rows]


def test_a_locked_workbook_is_updated_live(world, opened):
    item = opened()
    drive = world.drive()
    with pytest.raises(LockedError):
        drive.store(world.local(b"x"), drive.version())
    changes = update_tables(drive, deals(range(100), name="Neu {}"), run())
    assert (changes.rows, changes.added, changes.deleted, changes.written, changes.completed) == ({"Deals": 100}, 0, 0, 100, False)
    sheet, rows = saved(world, item)
    assert rows[7] == {
        "Deal ID": "00007", "Name": "Neu 7", "Amount": 3.5, "Comment": "note 7", "Closed": dt.datetime(2026, 1, 1), "Twice": "=C9*2",
    }  # fmt: skip
    assert (sheet["H2"].value, sheet["A104"].value) == ("beside", "signed: the team")
    assert len(item.versions) == 2


def test_it_grows_from_100_to_1000_rows_and_back(world, opened):
    item = opened()
    changes = update_tables(world.drive(), deals(range(1000)), run())
    assert (changes.added, changes.deleted, changes.written) == (900, 0, 0)
    sheet, rows = saved(world, item)
    assert [row["Deal ID"] for row in rows] == [f"{number:05}" for number in range(1000)]
    assert rows[999]["Twice"] == "=C1001*2"
    assert (rows[99]["Comment"], rows[100]["Comment"]) == ("note 99", None)
    assert sheet["A1004"].value == "signed: the team"
    assert sheet.cell(1001, 5).number_format == sheet["E2"].number_format

    world.files.open_in_excel(item, "ann@acme.com", "web")
    changes = update_tables(world.drive(), deals(range(100)), run())
    assert (changes.added, changes.deleted) == (0, 900)
    sheet, rows = saved(world, item)
    assert len(rows) == 100
    assert [row["Comment"] for row in rows] == [f"note {number}" for number in range(100)]
    assert sheet["A104"].value == "signed: the team"


def test_a_teammates_columns_follow_their_rows(world, opened):
    item = opened(20)
    kept = [number for number in range(20) if number not in (3, 4, 11)]
    changes = update_tables(world.drive(), deals([25, *reversed(kept), 30]), run())
    assert (changes.added, changes.deleted, changes.written) == (2, 3, 0)
    _, rows = saved(world, item)
    assert [row["Deal ID"] for row in rows] == [f"{number:05}" for number in [*kept, 25, 30]]
    assert [row["Comment"] for row in rows] == [*(f"note {number}" for number in kept), None, None]
    assert [row["Twice"] for row in rows] == [f"=C{place + 2}*2" for place in range(19)]
    assert changes.vanished == {"Deals": {f"{number:05}": {"Comment": f"note {number}"} for number in (3, 4, 11)}}
    assert "3 rows with teammates' entries" in changes.warnings[0]


def test_without_columns_of_theirs_the_order_is_ours(world, opened):
    item = opened(20, theirs=False)
    update_tables(world.drive(), deals([9, 8, 7, 40]), run())
    sheet, rows = saved(world, item)
    assert [row["Deal ID"] for row in rows] == ["00009", "00008", "00007", "00040"]
    assert sheet["A8"].value == "signed: the team"


def test_an_edit_of_a_colleague_in_the_middle_of_it_stays(world, opened):
    item = opened()
    drive = world.drive()
    ask = drive.client.ask
    edited = []

    def ask_and_edit(method, path, *args, **kwargs):
        answer = ask(method, path, *args, **kwargs)
        if method == "PATCH":
            with world.cloud.workbooks.editing(item) as live:
                live["Sales Deals"]["D50"] = f"edit {len(edited)}"
                live["Sales Deals"]["H2"] = "edited beside"
            edited.append(path)
        return answer

    drive.client.ask = ask_and_edit
    update_tables(drive, deals(range(100), name="Neu {}"), run())
    sheet, rows = saved(world, item)
    assert edited
    assert (rows[48]["Comment"], rows[48]["Name"], sheet["H2"].value) == (f"edit {len(edited) - 1}", "Neu 48", "edited beside")


@pytest.mark.parametrize(
    "text", ["=1+1", "+49 30 1234", "-x", "@home", "'quoted'", "00123", "1E5", "15-Feb", "TRUE", "29.96", "#N/A", " padded ", "50%", "名前"]
)
def test_text_stays_text(world, opened, text):
    item = opened(3)
    update_tables(world.drive(), deals(range(3), name=text.replace("{", "{{")), run())
    cell = saved(world, item)[0]["B2"]
    assert (cell.value, cell.data_type) == (text, "s")


def test_a_colleague_who_sorts_the_table_meanwhile_keeps_their_notes(world, opened):
    """Rows are looked at again right before they are written: what is no longer the row we took it for is left alone."""
    item = opened(20)
    drive = world.drive()
    ask = drive.client.ask
    state = {"sorted": False}

    def ask_and_sort(method, path, *args, **kwargs):
        answer = ask(method, path, *args, **kwargs)
        if "range(address='A2:A21')" in path and not state["sorted"]:
            with world.cloud.workbooks.editing(item) as live:
                sheet = live["Sales Deals"]
                rows = [[cell.value for cell in row] for row in sheet["A2:E21"]]
                for at, row in enumerate(reversed(rows), 2):
                    for column, value in enumerate(row, 1):
                        sheet.cell(at, column).value = value
            state["sorted"] = True
        return answer

    drive.client.ask = ask_and_sort
    with pytest.raises(TransientError, match="moving its rows about"):
        update_tables(drive, deals(range(2, 20), name="Neu {}"), run())
    update_tables(world.drive(), deals(range(2, 20), name="Neu {}"), run())
    _, rows = saved(world, item)
    assert {row["Deal ID"]: row["Comment"] for row in rows} == {f"{number:05}": f"note {number}" for number in range(2, 20)}


def test_a_text_that_no_cell_holds(world, opened):
    opened(1)
    with pytest.raises(TargetError, match="a cell holds 32767"):
        update_tables(world.drive(), deals([0], name="x" * 40_000), run())


def test_missing_values_empty_the_cell(world, opened):
    item = opened(2)
    table = pa.Table.from_pylist([{"deal_id": "00000", "name": None, "amount": None, "closed": None}], schema=SCHEMA)
    update_tables(world.drive(), {"deals": Output("deals", SCHEMA, 1, table.to_reader, key=("deal_id",))}, run())
    _, (row,) = saved(world, item)
    assert (row["Name"], row["Amount"], row["Closed"], row["Comment"]) == (None, None, None, "note 0")


def test_no_rows_at_all_leave_one_empty_row(world, opened):
    item = opened(5)
    update_tables(world.drive(), deals([]), run())
    _, rows = saved(world, item)
    assert [row["Deal ID"] for row in rows] == [None]
    world.files.open_in_excel(item, "ann@acme.com", "web")
    update_tables(world.drive(), deals([1, 2]), run())
    assert [row["Deal ID"] for row in saved(world, item)[1]] == ["00001", "00002"]


def test_what_is_already_there_is_not_written(world, opened):
    item = opened()
    assert update_tables(world.drive(), deals(range(100)), run()).unchanged
    assert not world.running.asked("^PATCH")
    saved(world, item)
    assert len(item.versions) == 1


def test_dates_follow_the_workbooks_calendar(world, opened):
    item = opened(1)
    update_tables(world.drive(), deals([0]), run(), date1904=True)
    assert saved(world, item)[1][0]["Closed"] == dt.datetime(2026, 1, 1) - dt.timedelta(days=1462)


def test_a_column_of_ours_that_is_missing_comes_at_the_end(world, opened):
    item = opened(3)
    schema = SCHEMA.append(pa.field("region", pa.string(), metadata={"label": "Region"}))
    rows = [{"deal_id": f"{number:05}", "region": "EMEA"} for number in range(3)]
    table = pa.Table.from_pylist(rows, schema=schema)
    update_tables(world.drive(), {"Deals": Output("deals", schema, 3, table.to_reader, key=("deal_id",))}, run())
    assert [row["Region"] for row in saved(world, item)[1]] == ["EMEA"] * 3


def test_pivots_are_refreshed(world, opened):
    item = opened(3)
    with world.cloud.workbooks.editing(item) as live:
        live["Sales Deals"]._pivots.append(type("Pivot", (), {"name": "PivotTable1"})())
        live.create_sheet("Other")
    update_tables(world.drive(), deals(range(4)), run())
    assert world.cloud.workbooks.refreshed_pivots == ["Sales Deals"]
    with world.cloud.workbooks.editing(item) as live:
        live["Sales Deals"]._pivots.clear()


# ── breaks ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [2, 10, 12, 13, 14, 15, 17, 19])
def test_a_run_that_broke_half_way_is_completed_by_the_next(world, opened, step, caplog):
    """Killed at whatever request: the next run leaves exactly the right rows."""
    item = opened(30)
    drive = world.drive()
    send = drive.session.request
    sent = []

    def killed(method, url, *args, **kwargs):
        if "/workbook/" in url:
            sent.append(url)
            if len(sent) > step:
                raise KeyboardInterrupt
        return send(method, url, *args, **kwargs)

    drive.session.request = killed
    wanted = [number for number in range(40) if number not in (2, 3, 17)]
    with pytest.raises(KeyboardInterrupt):
        update_tables(drive, deals(wanted, name="Neu {}"), run())
    had_written = bool(list((world.folder / "state").glob("live-*")))
    assert had_written == (step > 10)
    changes = update_tables(world.drive(), deals(wanted, name="Neu {}"), run())
    assert changes.completed == had_written == ("broke off half-way" in caplog.text)
    _, rows = saved(world, item)
    assert sorted((row["Deal ID"], row["Name"]) for row in rows) == [(f"{number:05}", f"Neu {number}") for number in wanted]
    assert {row["Deal ID"]: row["Comment"] for row in rows if row["Comment"]} == {
        f"{number:05}": f"note {number}" for number in range(30) if number in wanted
    }
    assert list((world.folder / "state").glob("live-*")) == []


@pytest.mark.parametrize("how", [{"status": 504, "after": True}, {"status": 504}, {"drop": True, "after": True}, {"drop": True}])
def test_rows_are_not_added_twice(world, opened, how):
    item = opened(10)
    world.running.faults.add("rows/add", **how)
    changes = update_tables(world.drive(), deals(range(1800)), run())
    assert changes.added == 1790
    assert [row["Deal ID"] for row in saved(world, item)[1]] == [f"{number:05}" for number in range(1800)]


def test_requests_that_are_too_large_are_made_smaller(world, opened):
    item = opened(10)
    body = json.dumps({"error": {"code": "x", "innerError": {"code": "RequestPayloadSizeLimitExceeded"}}}).encode()
    world.running.faults.add("rows/add", status=413, body=body, times=3)
    update_tables(world.drive(), deals(range(2000)), run())
    assert len(saved(world, item)[1]) == 2000
    asked = [len(json.loads(entry.body)["values"]) for entry in world.running.asked("rows/add")]
    assert asked[:4] == [1666, 833, 416, 208]


def test_a_session_that_is_made_in_the_background(world, opened):
    item = opened(3)
    world.cloud.workbooks.slow = True
    update_tables(world.drive(), deals(range(5)), run())
    assert len(saved(world, item)[1]) == 5


def test_a_session_that_was_lost_is_made_anew(world, opened):
    item = opened(3)
    body = json.dumps({"error": {"code": "itemNotFound", "innerError": {"code": "invalidSessionReCreatable"}}}).encode()
    world.running.faults.add("GET .*/tables", status=404, body=body)
    update_tables(world.drive(), deals(range(5)), run())
    assert len(world.running.asked("createSession")) == 2
    assert len(saved(world, item)[1]) == 5


def test_a_session_is_kept_alive_while_we_think(world, opened):
    item = opened(3)

    def slow():
        world.cloud.clock.sleep(270)
        return deals(range(5))["Deals"].open()

    update_tables(world.drive(), {"Deals": Output("deals", SCHEMA, 5, slow, key=("deal_id",))}, run())
    assert world.running.asked("refreshSession")
    assert len(world.running.asked("createSession")) == 1
    assert len(saved(world, item)[1]) == 5


def test_the_session_is_closed_whatever_happens(world, opened):
    opened(3)
    with pytest.raises(TargetError, match="did you mean 'Deals'"):
        update_tables(world.drive(), {"Deal": deals(range(3))["Deals"]}, run())
    assert world.running.asked("closeSession")


def test_a_session_that_does_not_open_in_time(world, opened):
    opened(3)
    world.running.faults.add("createSession", status=504, times=None)
    before = world.cloud.clock.now()
    with pytest.raises(TransientError, match="in time"):
        update_tables(world.drive(), deals(range(3)), run())
    assert (world.cloud.clock.now() - before).total_seconds() >= 120  # a minute between the tries


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def test_after_a_live_edit_the_file_is_not_replaced_in_the_same_run(world, opened):
    item = opened(3)
    drive = world.drive()
    update_tables(drive, deals(range(3), name="Neu {}"), run())
    world.files.close_in_excel(item)
    with pytest.raises(LockedError, match="just edited live"):
        drive.store(world.local(b"x"), drive.version())


def test_an_app_that_may_not_edit_live_is_told_what_to_do(world, opened):
    opened(3)
    world.cloud.workbooks.app_only = False
    with pytest.raises(AuthError, match="does not let an app edit it live") as refused:
        update_tables(world.drive(), deals(range(3)), run())
    assert (refused.value.exit_code, "device_code" in refused.value.remedy) == (3, True)
    config = world.config(device_code=True, user=USER)
    login(config, world.session(), lambda message: world.cloud.identity.approve(message.split("code ")[1].rstrip("."), USER))
    assert update_tables(GraphDrive(config, "Sales/Pipeline.xlsx", world.session()), deals(range(4)), run()).added == 1


def test_a_workbook_that_excel_holds_alone(world, opened):
    item = opened(3)
    world.files.open_in_excel(item, "ann@acme.com", "exclusive")
    with pytest.raises(LockedError, match="held by somebody's Excel by ann"):
        update_tables(world.drive(), deals(range(3)), run())


def test_what_has_no_live_editing_is_refused_before_anything_is_asked(world):
    personal = world.cloud.add_user("me@outlook.com", "Me", "personal")
    world.put("P.xlsx", book(1), personal)
    with pytest.raises(ConfigError, match="personal OneDrive has no live editing"):
        update_tables(world.drive("P.xlsx", drive_id=personal.id), deals([]), run())
    world.put("P.xlsm", book(1))
    with pytest.raises(ConfigError, match=r"\.xlsx files only"):
        update_tables(world.drive("P.xlsm"), deals([]), run())
    world.put("P.xlsx", book(1))
    with pytest.raises(ConfigError, match="cloud has no live editing"):
        update_tables(world.drive("P.xlsx", cloud="china"), deals([]), run())
    with pytest.raises(TargetError, match="does not exist"):
        update_tables(world.drive("None.xlsx"), deals([]), run())
    assert not world.running.asked("/workbook")


def test_what_is_in_the_way_is_named(world, opened):
    item = opened(3)
    with world.cloud.workbooks.editing(item) as live:
        live["Sales Deals"].protection.sheet = True
    with pytest.raises(TargetError, match="protected sheet"):
        update_tables(world.drive(), deals(range(4)), run())
    with world.cloud.workbooks.editing(item) as live:
        live["Sales Deals"].protection.sheet = False
        other = Table(displayName="Wide", ref="E6:J8")
        live["Sales Deals"].add_table(other)
    with pytest.raises(TargetError, match="something below the table"):
        update_tables(world.drive(), deals(range(9)), run())
    with world.cloud.workbooks.editing(item) as live:
        del live["Sales Deals"].tables["Wide"]
        from openpyxl.worksheet.filters import AutoFilter, FilterColumn

        live["Sales Deals"].tables["Deals"].autoFilter = AutoFilter(ref="A1:F4", filterColumn=[FilterColumn(colId=0)])
    with pytest.raises(TargetError, match="filter on the table"):
        update_tables(world.drive(), deals(range(9)), run())


def test_not_an_excel_file(world):
    item = world.put("Sales/Pipeline.xlsx", b"not a package")
    world.files.open_in_excel(item, "ann@acme.com", "web")
    with pytest.raises(TargetError, match="cannot be opened by Excel for the web"):
        update_tables(world.drive(), deals(range(3)), run())
