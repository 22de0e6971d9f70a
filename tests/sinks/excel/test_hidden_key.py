"""Tables that do not show their key: what teammates wrote still follows its row, or the refresh says that nobody can tell."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, replace

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openpyxl.comments import Comment
from openpyxl.styles import PatternFill

from connector.api import HiddenKey, Output
from connector.errors import TargetError
from sinks.excel.identity import Prints, Written, recognise
from sinks.excel.memory import settled
from sinks.excel.refresh import Options, TableJob, create, refresh

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def job(hidden):
    """Deals as `id: (name, stage, amount)`, in this order."""

    def make(rows, **more):
        columns = {
            "name": pa.array([row[0] for row in rows.values()], pa.string()),
            "stage": pa.array([row[1] for row in rows.values()], pa.string()),
            "amount": pa.array([row[2] for row in rows.values()], pa.float64()),
        }
        return TableJob(hidden(columns, {"deal_id": pa.array(list(rows), pa.string())}), table="Deals", **more)

    return make


@pytest.fixture
def hidden():
    """An output of these columns whose key is in none of them."""

    def make(columns, key):
        shown, whole = pa.table(columns), pa.table({**columns, **key})
        schema = pa.schema([whole.schema.field(name) for name in key])
        return Output("deals", shown.schema, shown.num_rows, shown.to_reader, hidden=HiddenKey(schema, whole.to_reader))

    return make


def deals(numbers, *, factor=1.0):
    """Every row different from every other."""
    return {f"D{n}": (f"Deal {n}", ("open", "won", "lost")[n % 3], n * factor) for n in numbers}


@dataclass
class Team:
    """A workbook refreshed again and again, and colleagues who work in it between the runs."""

    path: object
    job: object
    memory: dict

    def refresh(self, rows, **more):
        new = self.path.with_name("new.xlsx")
        changes = refresh(self.path, new, [self.job(rows, **more)], Options(at=AT, memory=self.memory))
        self.memory = settled(changes.memory)
        if not changes.unchanged:
            new.replace(self.path)
        return changes

    def rows(self):
        """What the table shows: name → note."""
        sheet = openpyxl.load_workbook(self.path)["Deals"]
        heading, *rows = sheet[sheet.tables["Deals"].ref]
        return [dict(zip([cell.value for cell in heading], [cell.value for cell in row], strict=True)) for row in rows]

    def notes(self):
        return {row["name"]: row["note"] for row in self.rows() if row["note"] is not None}

    def edit(self, change):
        """Change the rows of the table as lists, header first, then save as a spreadsheet program would."""
        book = openpyxl.load_workbook(self.path)
        sheet = book["Deals"]
        table = sheet.tables["Deals"]
        rows = [[cell.value for cell in row] for row in sheet[table.ref]]
        before = len(rows)
        rows = change(rows) or rows
        for at in range(max(before, len(rows))):
            for column in range(len(rows[0])):
                sheet.cell(at + 1, column + 1).value = rows[at][column] if at < len(rows) else None
        table.ref = f"A1:D{len(rows)}"
        table.autoFilter.ref = table.ref
        book.save(self.path)


@pytest.fixture
def team(tmp_path, job):
    """The table of so many deals, delivered once, to which somebody has added a column of notes, one for each deal."""

    def make(rows, notes=None):
        path = tmp_path / "Pipeline.xlsx"
        changes = create(path, [job(rows)], Options(at=AT))
        book = openpyxl.load_workbook(path)
        sheet = book["Deals"]
        table = sheet.tables["Deals"]
        table.ref = table.autoFilter.ref = f"A1:D{len(rows) + 1}"
        table.tableColumns.append(openpyxl.worksheet.table.TableColumn(id=4, name="note"))
        sheet["D1"] = "note"
        for at, key in enumerate(rows, 2):
            sheet.cell(at, 4).value = f"about {key}" if notes is None else notes.get(key)
        book.save(path)
        return Team(path, job, dict(changes.memory))

    return make


def test_notes_follow_when_rows_are_reordered_inserted_and_removed(team):
    ours = team(deals(range(5)))
    ours.refresh(deals([7, 4, 2, 0, 9], factor=3))
    assert ours.notes() == {"Deal 4": "about D4", "Deal 2": "about D2", "Deal 0": "about D0"}
    assert [row["amount"] for row in ours.rows()] == [21, 12, 6, 0, 27]


def test_the_key_is_not_written(team, parts):
    ours = team({"SECRET-1": ("Deal 1", "open", 1.0)}, {})
    ours.refresh({"SECRET-2": ("Deal 2", "open", 1.0)})
    assert not any(b"SECRET" in part for part in parts(ours.path).values())


def test_a_row_that_comes_back_finds_its_note(team):
    ours = team(deals(range(4)))
    ours.refresh(deals([0, 3]))
    ours.refresh(deals([3, 1, 0], factor=2))
    assert ours.notes() == {f"Deal {n}": f"about D{n}" for n in (3, 1, 0)}


def test_colours_heights_comments_and_hidden_rows_follow_too(team):
    ours = team(deals(range(4)))
    book = openpyxl.load_workbook(ours.path)
    sheet = book["Deals"]
    sheet["A3"].fill = PatternFill("solid", fgColor="FFFF00")
    sheet["B4"].comment = Comment("ask Anna about D2", "Ben")
    sheet.row_dimensions[5].hidden = True
    book.save(ours.path)
    ours.refresh(deals([3, 2, 1, 0], factor=2))
    sheet = openpyxl.load_workbook(ours.path)["Deals"]
    assert sheet["A4"].fill.fgColor.rgb == "00FFFF00"
    assert {cell.coordinate: cell.comment.text for row in sheet.iter_rows() for cell in row if cell.comment} == {"B3": "ask Anna about D2"}
    assert [row for row in range(1, 6) if sheet.row_dimensions[row].hidden] == [2]


def test_colleagues_may_sort_delete_insert_and_edit(team):
    ours = team(deals(range(12)))

    def work(rows):
        heading, *rest = rows
        random.Random(1).shuffle(rest)
        by_name = {row[0]: row for row in rest}
        by_name["Deal 5"][2] = 99.0  # one of our cells
        by_name["Deal 6"][0] = "Deal six"
        rest.remove(by_name["Deal 7"])
        rest.insert(3, ["Somebody's own", None, None, "not yet in the CRM"])
        return [heading, *rest]

    ours.edit(work)
    changes = ours.refresh(deals(range(12), factor=5))
    assert ours.notes() == {f"Deal {n}": f"about D{n}" for n in range(12) if n != 7}
    assert any("row 5 is none of ours and is gone; it said: note: not yet in the CRM" in warning for warning in changes.warnings)


def test_nothing_new_nothing_written_and_the_memory_stands_still(team):
    ours = team(deals(range(4)))
    before = ours.memory
    assert ours.refresh(deals(range(4))).unchanged
    assert ours.memory == before


# ── rows that look the same ───────────────────────────────────────────────────────────────────────

TWINS = {"D1": ("Renewal", "open", 5.0), "D2": ("Renewal", "open", 5.0), "D3": ("Upsell", "open", 7.0)}


def test_twins_are_told_apart_by_their_order_while_nobody_has_moved_anything(team):
    ours = team(TWINS)
    ours.refresh({"D2": ("Renewal", "won", 5.0), "D3": TWINS["D3"], "D1": TWINS["D1"]})
    assert [(row["stage"], row["note"]) for row in ours.rows()] == [("won", "about D2"), ("open", "about D3"), ("open", "about D1")]


def test_twins_somebody_sorted_are_not_guessed_at(team):
    ours = team(TWINS)
    ours.edit(lambda rows: [rows[0], *reversed(rows[1:])])
    before = ours.path.read_bytes()
    with pytest.raises(TargetError, match=r"table 'Deals' has something of a teammate's in row 3, 4, and nobody can tell") as error:
        ours.refresh({"D2": ("Renewal", "won", 5.0), "D3": TWINS["D3"], "D1": TWINS["D1"]})
    assert "`columns`" in error.value.remedy
    assert ours.path.read_bytes() == before


def test_twins_sorted_by_a_column_of_theirs_are_not_guessed_at(team, edit):
    """Excel notes in the table by what it was sorted, also where no row had to move past another that differs."""
    ours = team(TWINS)
    sort = b'<sortState ref="A2:D4"><sortCondition ref="D2:D4"/></sortState>'
    edit(ours.path, {"xl/tables/table1.xml": lambda data: data.replace(b"<tableColumns", sort + b"<tableColumns")})
    with pytest.raises(TargetError, match="nobody can tell"):
        ours.refresh(deals(range(3)))


def test_twins_that_say_the_same_need_no_telling_apart(team):
    ours = team(TWINS, {"D1": "EMEA", "D2": "EMEA"})
    ours.edit(lambda rows: [rows[0], *reversed(rows[1:])])
    ours.refresh({"D2": ("Renewal", "won", 5.0), "D1": TWINS["D1"]})
    assert [(row["stage"], row["note"]) for row in ours.rows()] == [("won", "EMEA"), ("open", "EMEA")]


def test_of_twins_one_of_which_somebody_deleted_the_other_is_not_guessed_at(team):
    ours = team(TWINS)
    ours.edit(lambda rows: [rows[0], *rows[2:]])
    with pytest.raises(TargetError, match="row 2, and nobody can tell"):
        ours.refresh(deals(range(3)))


# ── memories that are lost, old, or ahead of the file ─────────────────────────────────────────────


def test_without_a_memory_rows_that_have_not_changed_are_known_by_what_they_say(team):
    ours = team(deals(range(4)), {"D1": "mine"})
    ours.memory = {}
    ours.refresh(deals([3, 1, 0, 8]))
    assert ours.notes() == {"Deal 1": "mine"}


def test_without_a_memory_a_changed_row_is_not_guessed_at(team):
    ours = team(deals(range(4)), {"D1": "mine"})
    ours.memory = {}
    with pytest.raises(TargetError, match="row 3, and nobody can tell which of our rows that is: nothing is remembered"):
        ours.refresh(deals(range(4), factor=2))


def test_what_a_run_wrote_that_never_arrived_is_not_taken_for_what_stands_there(team):
    """The memory is kept before the file is replaced; a run that fails in between leaves a memory ahead of the file."""
    ours = team(deals(range(4)))
    for factor in (2, 3, 4):
        lost = refresh(
            ours.path, ours.path.with_name("lost.xlsx"), [ours.job(deals([3, 2, 1, 0], factor=factor))], Options(at=AT, memory=ours.memory)
        )
        ours.memory = lost.memory
    ours.refresh(deals([1, 3], factor=9))
    assert ours.notes() == {"Deal 1": "about D1", "Deal 3": "about D3"}


def test_columns_may_come_and_go_between_runs(team, hidden):
    ours = team(deals(range(4)))
    rows = deals([3, 0, 1])
    columns = {
        "amount": pa.array([row[2] * 2 for row in rows.values()]),
        "name": pa.array([row[0] for row in rows.values()]),
        "region": pa.array(["EMEA"] * 3),
    }
    ours.job = lambda _: TableJob(hidden(columns, {"deal_id": pa.array(list(rows))}), table="Deals")
    ours.refresh({})
    assert ours.notes() == {f"Deal {n}": f"about D{n}" for n in (3, 0, 1)}
    ours.refresh({})


def test_a_key_of_several_columns_one_of_which_is_shown(team, hidden, tmp_path):
    ours = team(deals(range(2)), {"D0": "first line", "D1": "second line"})

    def order(lines):
        columns = {
            "name": pa.array(["Order 7"] * len(lines)),
            "stage": pa.array(["x"] * len(lines)),
            "amount": pa.array([float(n) for n in lines]),
        }
        return TableJob(hidden(columns, {"line": pa.array(lines)}), table="Deals")

    whole = order([1, 2])
    schema = pa.schema([whole.output.schema.field("name"), *whole.output.hidden.schema])
    ours.memory = {}
    ours.edit(lambda rows: [rows[0], ["Order 7", "x", 1.0, "first line"], ["Order 7", "x", 2.0, "second line"]])
    ours.job = lambda lines: (
        (made := order(lines)) and replace(made, output=replace(made.output, hidden=replace(made.output.hidden, schema=schema)))
    )
    ours.refresh([2, 1])
    assert [row["note"] for row in ours.rows()] == ["second line", "first line"]


# ── whatever happens ──────────────────────────────────────────────────────────────────────────────

STAGES = ("open", "won", "lost")
deal_lists = st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=9)
work = st.lists(st.sampled_from(["sort", "delete", "insert", "edit"]), max_size=2)


@given(steps=st.lists(st.tuples(deal_lists, work, st.integers(0, 99)), min_size=2, max_size=6), twins=st.booleans())
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # each step is a workbook: making a failure smaller would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_steps(team, tmp_path, job, steps, twins):
    """Refreshes and colleagues take turns. No note ever stands beside another deal than its own; one that is gone was deleted."""

    def data(numbers, factor):
        return {f"D{n}": (f"Deal {n % 3 if twins else n}", STAGES[n % 2], float(factor if twins else n * factor)) for n in numbers}

    ours = team(data(range(6), 1))
    notes = {f"D{n}": f"about D{n}" for n in range(6)}
    standing = list(notes)
    for at, (numbers, doings, seed) in enumerate(steps, 2):
        rng = random.Random(seed)
        for doing in doings:
            gone = _colleague(ours, doing, rng)
            notes = {key: note for key, note in notes.items() if note not in gone}
        rows = data(numbers, at)
        if twins or doings:
            try:
                ours.refresh(rows)
            except TargetError:
                continue
        else:
            ours.refresh(rows)
        standing = list(rows)
        assert [row["note"] for row in ours.rows()] == [notes.get(key) for key in standing]


def _colleague(ours, doing, rng):
    """Something somebody does to the table; the notes they throw away."""
    gone = []

    def change(rows):
        heading, *rest = rows
        if doing == "sort":
            rng.shuffle(rest)
        elif doing == "delete" and len(rest) > 1:
            gone.append(rest.pop(rng.randrange(len(rest)))[3])
        elif doing == "insert":
            rest.insert(rng.randrange(len(rest) + 1), [f"own {rng.random()}", None, None, None])
        elif doing == "edit":
            rng.choice(rest)[rng.randrange(3)] = f"edited {rng.random()}"
        return [heading, *rest]

    ours.edit(change)
    return [note for note in gone if note]


cell = st.integers(0, 2)


@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_key_that_is_given_is_the_right_one(data):
    """Rows in any number of look-alikes; then some are deleted, edited, moved, and others come in between."""
    rows = data.draw(st.lists(st.tuples(cell, cell, cell), max_size=12))
    here = [(place, list(row)) for place, row in enumerate(rows)]
    ordered, moved = True, False
    for step in data.draw(st.lists(st.sampled_from(["move", "delete", "insert", "edit"]), max_size=5)):
        at = data.draw(st.integers(0, max(0, len(here) - 1)))
        fresh = f"new {data.draw(st.integers(0, 999))}"
        if step == "move":
            here, ordered = data.draw(st.permutations(here)), data.draw(st.booleans())
            moved = True
        elif step == "insert":
            here.insert(at, (None, [fresh, fresh, fresh]))
        elif here and step == "delete":
            del here[at]
        elif here:
            here[at][1][data.draw(st.integers(0, 2))] = fresh
    version = Written(len(rows), {str(c): _column(rows, c) for c in range(3)}, [f"K{place}" for place in range(len(rows))])
    known = recognise(
        Prints(len(here), {str(c): _column([row for _, row in here], c) for c in range(3)}),
        [Written.unpacked(version.packed())],
        range(len(here)),
        ordered=ordered,
    )
    for at, (place, _) in enumerate(here):
        assert known.keys[at] in (None, f"K{place}") or (moved and ordered), (
            "who moves rows by hand, and only past their twins, is not found out"
        )
        if place is not None and known.keys[at] is None and here[at][1] == list(rows[place]):
            assert at in known.doubtful, "a row that says what it said is never taken for a stranger's"


def _column(rows, at):
    return Prints.of(len(rows), {"c": [str(row[at]) for row in rows]}).columns["c"]


# ── from the command line ─────────────────────────────────────────────────────────────────────────

YAML = """
flows:
  sales:
    sources: {export: {type: files, tables: {deals: {path: deals.csv}}}}
    sinks:
      - type: excel
        drive: {type: local, folder: share}
        path: Pipeline.xlsx
        tables:
          - {from: deals, sheet: Deals, table: Deals, where: "is_open = 1", columns: [name, stage, amount]}
      - {type: files, folder: out, tables: [{from: deals, columns: [name, stage, amount]}]}
"""


def csv(*rows):
    return "deal_id,name,stage,status,amount,created_at\n" + "".join(f"{','.join(map(str, row))},2026-01-02\n" for row in rows)


def test_the_example_of_the_documentation(workplace):
    """`columns` without the key: deals come, go and come back, and notes stay with them; no other target learns the key either."""
    workplace.write("connector.yaml", YAML)
    first = [("K1", "Anvil", "new", "open", 10), ("K2", "Rocket", "new", "open", 20), ("K3", "Magnet", "offer", "open", 30)]
    run = ("run", "sales", "--accept", "--at")
    workplace.write("deals.csv", csv(*first))
    assert workplace.connector(*run, "2026-02-01T06:00:00Z").code == 0
    path = workplace.folder / "share" / "Pipeline.xlsx"
    book = openpyxl.load_workbook(path)
    sheet = book["Deals"]
    table = sheet.tables["Deals"]
    table.ref = table.autoFilter.ref = "A1:D4"
    table.tableColumns.append(openpyxl.worksheet.table.TableColumn(id=4, name="note"))
    for row, text in enumerate(("note", "call Wile", "send offer", "wait"), 1):
        sheet.cell(row, 4).value = text
    book.save(path)
    workplace.write(
        "deals.csv",
        csv(("K0", "Spring", "new", "open", 5), ("K3", "Magnet", "offer", "open", 33), ("K2", "Rocket", "won", "won", 20), first[0]),
    )
    done = workplace.connector(*run, "2026-02-02T06:00:00Z")
    assert done.code == 0, done.err
    workplace.write("deals.csv", csv(("K2", "Rocket", "new", "open", 25), first[0], ("K3", "Magnet", "offer", "open", 33)))
    done = workplace.connector(*run, "2026-02-03T06:00:00Z")
    assert done.code == 0, done.err
    rows = [[cell.value for cell in row] for row in openpyxl.load_workbook(path)["Deals"]["A1:D4"]]
    assert rows[0] == ["name", "stage", "amount", "note"]
    assert sorted(rows[1:]) == [
        ["Anvil", "new", 10, "call Wile"], ["Magnet", "offer", 33, "wait"], ["Rocket", "new", 25, "send offer"],
    ]  # fmt: skip
    delivered = next((workplace.folder / "out").rglob("deals.csv")).read_text()
    assert delivered.splitlines()[0] == "name,stage,amount"
    assert "K1" not in delivered
