"""Bad input, each with the right exit code and a message with place and remedy; the old workbook untouched, never a traceback."""

import hashlib
import io
import random
import shutil
import subprocess
import sys
import zipfile

import pytest

FLOW = """
flows:
  pipeline:
    sources:
      export:
        type: files
        tables:
          deals:
            path: deals.csv
            fields: {{deal_id: Id, owner: Owner, status: Status, amount: Amount, created_at: Created, closed_at: Closed{more}}}
            {options}
    sinks:
      - type: excel
        drive: {{type: local, folder: out}}
        path: Pipeline.xlsx
        tables: [{{from: deals, sheet: Deals, table: Deals, columns: [deal_id, owner, amount]}}]
"""
HEAD = "Id,Owner,Status,Amount,Created,Closed\n"
GOOD = HEAD + "D-1,Ana,won,100.50,2026-01-02,2026-01-22\nD-2,Bo,open,70,2026-02-10,\n"


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, new_workplace):
    """A folder in which a flow has run once."""
    place = new_workplace(tmp_path_factory.mktemp("first"))
    configure(place)
    place.write("deals.csv", GOOD)
    done = place.connector("run", "pipeline", "--at", "2026-03-02")
    assert done.code == 0, done.err
    return place.folder


@pytest.fixture
def place(workplace, first_run):
    """The same, for one test alone: there is a workbook to leave alone."""
    shutil.copytree(first_run, workplace.folder, dirs_exist_ok=True)
    return workplace


def configure(place, options="", more=""):
    place.write("connector.yaml", FLOW.format(options=options, more=more))


def digest(place):
    return hashlib.sha256((place.folder / "out" / "Pipeline.xlsx").read_bytes()).hexdigest()


def refused(place, code, *said, arguments=("run", "pipeline")):
    before = digest(place)
    done = place.connector(*arguments)
    assert done.code == code, done.err
    for words in said:
        assert words in done.err, done.err
    assert "Traceback" not in done.err
    assert digest(place) == before
    return done.err


def test_a_missing_file(place):
    (place.folder / "deals.csv").unlink()
    refused(place, 4, "deals.csv", "no such file")


def test_an_empty_file(place):
    place.write("deals.csv", "")
    refused(place, 4, "deals.csv", "empty")


def test_a_missing_mapped_column_lists_the_columns_there_are(place):
    configure(place, more=", region: Regon")
    refused(place, 4, "'Regon'", "Owner", "Amount", "Created")


def test_ambiguous_dates_say_both_readings(place):
    place.write("deals.csv", HEAD + "D-1,Ana,won,1,03/04/2026,05/06/2026\n")
    error = refused(place, 4, "row 2", "day-first", "month-first")
    assert "3 April 2026" in error
    assert "4 March 2026" in error


def test_a_number_that_is_not_one_names_row_and_column(place):
    place.write("deals.csv", GOOD + "D-3,Cy,open,lots,2026-02-11,\n")
    refused(place, 4, "deals.csv", "row 4", "Amount", "lots", "on_bad_value")
    configure(place, "on_bad_value: 'null'")
    done = place.connector("run", "pipeline", "--json")
    assert done.code == 0, done.err
    assert any("row 4" in warning for warning in done.manifest["warnings"])


def test_duplicate_ids(place):
    place.write("deals.csv", GOOD + "D-1,Cy,open,5,2026-02-11,\n")
    refused(place, 4, "D-1", "2", "4")


def test_a_closed_date_before_the_created_date_is_kept_and_said(place):
    place.write("deals.csv", GOOD + "D-3,Cy,won,5,2026-02-11,2026-02-01\n")
    done = place.connector("run", "pipeline", "--json", "--at", "2026-03-02")
    assert done.code == 0
    assert any("before" in warning for warning in done.manifest["warnings"])
    (row,) = place.connector("query", "pipeline", "select cycle_days, amount from deals where deal_id = 'D-3'", "--format", "json").json()
    assert row == {"cycle_days": None, "amount": 5}


def test_a_file_of_one_40_mb_line(place):
    place.write("deals.csv", "x" * (40 << 20))
    refused(place, 4, "deals.csv")


def test_a_wrong_encoding(place):
    configure(place, "encoding: utf-8")
    place.write("deals.csv", (HEAD + "D-1,Müller,won,1,2026-01-02,2026-01-22\n").encode("cp1252"))
    refused(place, 4, "deals.csv", "utf-8")


def test_a_configuration_with_five_faults(place):
    text = (place.folder / "connector.yaml").read_text().replace("sinks:", "timezone: Mars\n    gat: {}\n    sinks:")
    text = text.replace("type: files", "type: fils").replace("path: Pipeline.xlsx", "pth: Pipeline.xlsx")
    place.write("connector.yaml", text)
    error = refused(
        place,
        2,
        "5 faults",
        "no time zone 'Mars'",
        "did you mean 'gate'?",
        "did you mean 'files'?",
        "did you mean 'path'?",
        "this key is needed",
    )
    assert error.count("connector.yaml:") == 5


def test_an_unset_variable(place):
    configure(place, 'where: "${CONDITION}"')
    refused(place, 2, "connector.yaml:11", "CONDITION")


def test_an_unknown_plugin(place):
    place.write("connector.yaml", (place.folder / "connector.yaml").read_text().replace("type: excel", "type: exel"))
    refused(place, 2, "unknown type 'exel'; did you mean 'excel'?")


def replace_workbook(place, content):
    (place.folder / "out" / "Pipeline.xlsx").write_bytes(content)
    place.write("deals.csv", GOOD.replace("70", "71"))


def rewritten(place, change):
    """The workbook with the text of its parts changed."""
    source = zipfile.ZipFile(place.folder / "out" / "Pipeline.xlsx")
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return result.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Not a workbook", "zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 4096 + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (b"", "not an Excel workbook"),
    ],
    ids=["no zip", "encrypted", "empty"],
)
def test_a_target_that_is_no_workbook(place, content, said):
    replace_workbook(place, content)
    refused(place, 5, "Pipeline.xlsx", said)


def test_a_strict_workbook(place):
    strict = {
        b"http://schemas.openxmlformats.org/spreadsheetml/2006/main": b"http://purl.oclc.org/ooxml/spreadsheetml/main",
        b"http://schemas.openxmlformats.org/officeDocument/2006/relationships": b"http://purl.oclc.org/ooxml/officeDocument/relationships",
    }

    def change(_, data):
        for old, new in strict.items():
            data = data.replace(old, new)
        return data

    replace_workbook(place, rewritten(place, change))
    refused(place, 5, "Pipeline.xlsx", "trict")


def test_a_protected_sheet(place):
    replace_workbook(place, rewritten(place, lambda name, data: data.replace(b"</sheetData>", b'</sheetData><sheetProtection sheet="1"/>')))
    refused(place, 5, "Deals", "protected")


def test_something_below_the_table(place):
    from openpyxl import load_workbook

    book = load_workbook(place.folder / "out" / "Pipeline.xlsx")
    book["Deals"]["A5"] = "a colleague's total"
    book.save(place.folder / "out" / "Pipeline.xlsx")
    place.write("deals.csv", GOOD + "".join(f"D-{n},Cy,open,{n},2026-02-11,\n" for n in range(3, 9)))
    refused(place, 5, "A5", "on_blocked")


def contained(place, mount, *arguments):
    """The command line with something mounted over a folder, in a name space of its own."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        pytest.skip("needs Linux and unshare")
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no name spaces for this user")
    command = " ".join([sys.executable, "-m", "connector", *arguments])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {command}"], check=False, cwd=place.folder, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def test_a_read_only_folder(place):
    place.write("deals.csv", GOOD.replace("70", "71"))
    before = digest(place)
    done = contained(place, "mount --bind out out && mount -o remount,ro,bind out", "run", "pipeline")
    assert done.returncode == 5, done.stderr
    assert "out" in done.stderr
    assert "→" in done.stderr
    assert digest(place) == before


def test_a_full_disk_under_the_workbook(place):
    draw = random.Random(1)
    lines = [f"D-{n},{draw.random()}{draw.random()}{draw.random()},open,{n},2026-02-11,\n" for n in range(20_000)]
    place.write("deals.csv", HEAD + "".join(lines))
    done = contained(
        place,
        "cp out/Pipeline.xlsx kept && mount -t tmpfs -o size=256k tmpfs out && cp kept out/Pipeline.xlsx",
        "run", "pipeline; code=$?; cmp kept out/Pipeline.xlsx && ls -A out; exit $code",
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "space" in done.stderr
    assert done.stdout.split() == ["Pipeline.xlsx"]


def test_a_full_disk_under_the_data(place):
    place.write("deals.csv", HEAD + "".join(f"D-{n},{random.Random(n).random()},open,{n},2026-02-11,\n" for n in range(60_000)))
    before = digest(place)
    done = contained(place, "cp -r data kept && mount -t tmpfs -o size=1500k tmpfs data && cp -r kept/* data", "run", "pipeline")
    assert done.returncode == 5, done.stderr
    assert "space" in done.stderr or "full" in done.stderr
    assert digest(place) == before
