"""Files as they come: however a table was written down, its values arrive as they are, or the error says where it went wrong."""

import os
import random
import resource
import threading
import tracemalloc
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl.worksheet.table import Table
from pydantic import ValidationError

from connector.api import Since
from connector.engine import DuckDB
from connector.errors import SourceError, TransientError
from connector.http import Network, Session
from connector.normalise import normalise
from sources.files import FilesConfig, FilesSource


@pytest.fixture
def source(tmp_path):
    def make(session=None, **tables):
        config = FilesConfig.model_validate({"type": "files", "tables": tables}, context={"folder": tmp_path})
        return FilesSource(config, session or Session())

    return make


@pytest.fixture
def raw(source):
    """Every record of the table `t` as dicts, in the source's words."""

    def read(path, **options):
        made = source(t={"path": str(path), **options})
        rows = []
        for page in made.read(made.entities()[0], Since()):
            rows += page.records.to_pylist() if isinstance(page.records, pa.RecordBatch) else page.records
        return rows

    return read


@pytest.fixture
def table(source, tmp_path):
    """The table `t` after normalisation."""

    def read(path, name="t", **options):
        made = source(**{name: {"path": str(path), **options}})
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        with normalise(entity := made.entities()[0], made.read(entity, Since()), engine=DuckDB(scratch=scratch), scratch=scratch) as result:
            return pa.Table.from_batches(result.batches(), result.schema), result.warnings

    return read


@pytest.fixture
def refused(raw):
    def read(path, **options):
        with pytest.raises(SourceError) as caught:
            raw(path, **options)
        return f"{caught.value} | {caught.value.remedy}"

    return read


@pytest.fixture
def write(tmp_path):
    def save(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return save


@contextmanager
def little_memory():
    """No more than 16 MB at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# ── CSV: how it is written ────────────────────────────────────────────────────────────────────────

NAMES = [{"id": "1", "name": "Müller – Söhne"}, {"id": "2", "name": "Zoë"}]
CONTENT = "id,name\n1,Müller – Söhne\n2,Zoë\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_the_encoding_is_found_out(raw, write, encoding):
    assert raw(write("a.csv", CONTENT, encoding)) == NAMES


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Иванов и сыновья, Москва. Продажи за квартал"),
        ("gb18030", "上海有限公司销售部门季度报告"),
        ("shift_jis", "株式会社の売上報告書をご覧ください"),
    ],
)
def test_the_encoding_of_other_scripts_is_found_out(raw, write, encoding, text):
    lines = "".join(f'{n},"{text}"\n' for n in range(20))
    assert raw(write("a.csv", f"id,name\n{lines}", encoding))[7]["name"] == text


def test_a_guessed_encoding_is_said(source, write):
    write("a.csv", CONTENT, "cp1252")
    made = source(t="a.csv")
    warnings = [warning for page in made.read(made.entities()[0], Since()) for warning in page.warnings]
    assert warnings == ["a.csv: not UTF-8 (byte 11); read as cp1252; `encoding:` says it for certain"]


def test_odd_bytes_far_into_the_file_are_found(raw, write):
    lines = "".join(f"{n},plain\n" for n in range(200_000))
    assert raw(write("a.csv", f"id,name\n{lines}x,Zoë\n", "cp1252"))[-1] == {"id": "x", "name": "Zoë"}


def test_a_wrong_encoding_names_byte_and_line(refused, write):
    assert "a.csv: byte 11 (line 2) is not utf-8 | leave `encoding:` out" in refused(write("a.csv", CONTENT, "cp1252"), encoding="utf-8")
    assert "(line 2) is not ascii" in refused(write("b.csv", CONTENT), encoding="ascii")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_ends_are_found_out(raw, write, delimiter, end):
    rows = [["id", "text"], ["1", "a"], ["2", 'say "hi", | ; \t ok'], ["3", ""]]
    text = "".join(delimiter.join('"' + value.replace('"', '""') + '"' if " " in value else value for value in row) + end for row in rows)
    assert raw(write("a.csv", text)) == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_decimal_commas_do_not_pass_for_delimiters(raw, write):
    assert raw(write("a.csv", "id;amount\n1;1,5\n2;2,75\n")) == [{"id": "1", "amount": "1,5"}, {"id": "2", "amount": "2,75"}]


def test_a_single_column_needs_no_delimiter(raw, write):
    assert raw(write("a.csv", "name\nx\ny\n")) == [{"name": "x"}, {"name": "y"}]


def test_a_line_end_within_quotes_is_part_of_the_value(raw, write):
    assert raw(write("a.csv", 'id,note\n1,"two\r\nlines"\n2,x')) == [{"id": "1", "note": "two\r\nlines"}, {"id": "2", "note": "x"}]


def test_the_header_may_stand_further_down(raw, write):
    assert raw(write("a.csv", 'Report of today\n\n"id\n(text)",b\n1,2\n'), header=3) == [{"id\n(text)": "1", "b": "2"}]


def test_columns_without_a_name_are_named_after_their_place(raw, write):
    assert raw(write("a.csv", "id,,b,\n1,2,3,\n")) == [{"id": "1", "column_2": "2", "b": "3", "column_4": ""}]


def test_a_header_alone_is_no_rows_but_has_its_columns(table, write):
    found, _ = table(write("a.csv", "id,name"), name="deals", fields={"deal_id": "id", "name": "name"})
    assert found.num_rows == 0


def test_blank_lines_are_no_rows_but_count_as_lines(table, write):
    with pytest.raises(SourceError, match=r"a\.csv: row 5, column 'b': 'x'"):
        table(write("a.csv", "id,b\n1,5\n\n,\n2,x\n"), name="deals", fields={"deal_id": "id", "amount": "b"})


# ── CSV: what cannot be read ──────────────────────────────────────────────────────────────────────


def test_a_row_of_another_width_is_named_with_both_widths(refused, write):
    assert "a.csv: row 3 has 3 values, the header has 2 | put quotes around values that hold a comma" in refused(
        write("a.csv", "a,b\n1,2\n3,4,5\n")
    )
    assert "row 2 has 1 values" in refused(write("b.csv", "a,b\n1\n"))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_an_error(refused, write, content):
    assert "a.csv: the file is empty" in refused(write("a.csv", content))


def test_two_columns_of_one_name_are_an_error_naming_both(refused, write):
    assert "columns 1 and 3 have the same name 'id'" in refused(write("a.csv", "id,b, id \n1,2,3\n"))


def test_nul_bytes_are_named_with_their_line(refused, write):
    assert "a.csv: byte 10 (line 3) is NUL" in refused(write("a.csv", b"a,b\n1,2\n3,\x004\n"))


def test_a_quote_that_is_never_closed_is_an_error_rather_than_one_long_value(refused, raw, write):
    assert "row 3 opens a quote that is never closed" in refused(write("a.csv", 'a,b\n1,2\n3,"4\n5,6\n7,8\n'))
    assert raw(write("b.csv", 'a,b\n1,5" pipe\n3,4\n'))[0]["b"] == '5" pipe'


def test_forty_megabytes_on_one_line_are_refused_at_once_in_little_memory(refused, tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        for _ in range(40):
            file.write(b"x," * (1 << 19))
    with little_memory():
        assert "a line of more than 1 MB ends at no line end" in refused(path)


def test_a_row_too_long_in_the_middle_is_refused(refused, write):
    assert "a.csv: a" in refused(write("a.csv", b"a,b\n1,2\n3," + b"x" * (3 << 20) + b"\n"))


def test_a_web_page_is_no_table(refused, write):
    assert "is a web page, not a table" in refused(write("a.csv", "\n<!DOCTYPE html><html><body>Sign in</body></html>"))


def test_a_missing_file_lists_what_is_there(refused, write, tmp_path):
    write("pipeline.csv", "a\n1\n")
    message = refused(tmp_path / "pipelines.csv")
    assert f"{tmp_path}/pipelines.csv: no such file | in {tmp_path} did you mean 'pipeline.csv'?" in message
    assert "is a folder" in refused(tmp_path)
    assert "there is no folder" in refused(tmp_path / "nowhere" / "a.csv")


# ── several files ─────────────────────────────────────────────────────────────────────────────────


def test_a_glob_is_all_its_files_by_name_united_by_column(table, write, tmp_path):
    write("q/2024-02.csv", "id,amount,note\n3,30,x\n")
    write("q/2024-01.csv", "amount,id\n10,1\n20,2\n")
    found, warnings = table(tmp_path / "q" / "*.csv")
    assert found.to_pylist() == [
        {"amount": 10, "id": 1, "note": None},
        {"amount": 20, "id": 2, "note": None},
        {"amount": 30, "id": 3, "note": "x"},
    ]
    assert warnings == ("2024-01.csv: no column 'note'; empty for its rows",)


def test_a_glob_without_a_file_says_what_is_there(refused, write, tmp_path):
    write("q/a.tsv", "a\n1\n")
    assert f"no file matches | in {tmp_path / 'q'} " in refused(tmp_path / "q" / "*.csv")


def test_a_bad_value_is_named_with_its_file(table, write, tmp_path):
    write("a.csv", "deal_id,amount\n1,1\n")
    write("b.csv", "deal_id,amount\n2,1\n3,x\n")
    with pytest.raises(SourceError, match=r"\*\.csv: b\.csv, row 3, column 'amount': 'x'"):
        table(tmp_path / "*.csv", name="deals")


# ── Excel ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def workbook(tmp_path):
    book = openpyxl.Workbook()
    hidden = book.active
    hidden.title, hidden.sheet_state = "Secret", "hidden"
    hidden.append(["no"])
    sheet = book.create_sheet("Deals")
    sheet["B3"] = "All deals"
    for cells in [
        ["Id", "Day", "At", "Amount", "Won", "Note", None, "Time"],
        [123, date(2022, 4, 6), datetime(2022, 4, 6, 10, 5), 12.5, True, "x", None, time(10, 5)],
        ["007", date(2022, 4, 7), datetime(2022, 4, 7), 1.234, False, "=1/0", None, None],
        [None] * 8,
        [19, None, None, "n/a", None, None, None, None],
    ]:
        sheet.append([None, *cells])
    sheet.add_table(Table(displayName="Sales", ref="B4:G6"))
    path = tmp_path / "book.xlsx"
    book.save(path)
    return path


def test_cells_keep_their_types(table, workbook):
    found, _ = table(workbook, header=4)
    assert [str(field.type) for field in found.schema] == [
        "string", "date32[day]", "timestamp[us, tz=UTC]", "decimal128(18, 4)", "bool", "string", "string", "string",
    ]  # fmt: skip
    assert found.column("Id").to_pylist() == ["123", "007", "19"]
    assert found.column("Day").to_pylist() == [date(2022, 4, 6), date(2022, 4, 7), None]
    assert found.column("Amount").to_pylist() == [Decimal("12.5"), Decimal("1.234"), None]
    assert found.column("Time").to_pylist() == ["10:05:00", None, None]


def test_a_named_table_is_found_wherever_it_is(raw, workbook):
    assert [row["Id"] for row in raw(workbook, table="Sales")] == [123, "007"]


def test_typed_numbers_and_serials_need_neither_locale_nor_dates(table, tmp_path):
    book = openpyxl.Workbook()
    for cells in (["deal_id", "amount", "created_at"], [1, 1.234, 44657], [2, 2.345, 44658.5]):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    found, _ = table(tmp_path / "a.xlsx", name="deals")
    assert found.column("deal_id").to_pylist() == ["1", "2"]
    assert found.column("amount").to_pylist() == [Decimal("1.234"), Decimal("2.345")]
    assert [moment.isoformat() for moment in found.column("created_at").to_pylist()] == [
        "2022-04-06T00:00:00+00:00",
        "2022-04-07T12:00:00+00:00",
    ]


def test_a_bad_cell_is_named_with_the_row_of_the_sheet(table, workbook):
    with pytest.raises(SourceError, match=r"book\.xlsx: row 6, column 'Note': '=1/0'|book\.xlsx: row 5, column 'Note': 'x'"):
        table(workbook, name="deals", header=4, where='"Day" is not null', fields={"deal_id": "Id", "amount": "Note"})


def test_what_is_not_in_the_workbook_lists_what_is(refused, workbook, write):
    assert "no sheet 'Deal'; did you mean 'Deals'? there is: Secret, Deals" in refused(workbook, sheet="Deal")
    assert "no table 'Sale'; did you mean 'Sales'?" in refused(workbook, table="Sale")
    assert "sheet 'Deals': row 1 has no column names | say in which row the header stands" in refused(workbook)
    assert "not a readable workbook" in refused(write("a.xlsx", b"PK\x03\x04 nothing"))


def test_a_csv_file_that_is_called_a_workbook_is_read_as_what_it_is(raw, write):
    assert raw(write("export.xls", "a;b\n1;2\n")) == [{"a": "1", "b": "2"}]


# ── JSON, JSON Lines, Parquet ─────────────────────────────────────────────────────────────────────

OBJECTS = [{"Id": 1, "Account": {"Name": "Acme", "Tags": ["a"]}, "Amount": Decimal("19.99")}, {"Id": "02", "Account": None, "Extra": True}]
TEXT = '[{"Id": 1, "Account": {"Name": "Acme", "Tags": ["a"]}, "Amount": 19.99},\n {"Id": "02", "Account": null, "Extra": true}]'


@pytest.mark.parametrize(
    "content",
    [TEXT, f'{{"total": 2, "tags": ["x"], "data": {{"deals": {TEXT}}}, "next": null}}', f"\ufeff {TEXT} \n"],
)
def test_the_only_list_of_objects_in_a_json_text_is_the_table(raw, write, content):
    assert raw(write("a.json", content)) == OBJECTS


def test_json_in_utf_16_and_without_an_ending_in_its_name(raw, write):
    assert raw(write("a.json", TEXT, "utf-16")) == OBJECTS
    assert raw(write("export", TEXT)) == OBJECTS


def test_nested_values_have_dotted_names_and_money_is_exact(table, write):
    found, _ = table(write("a.json", TEXT), name="deals", fields={"deal_id": "Id", "account": "Account.Name", "amount": "Amount"})
    assert found.column("account").to_pylist() == ["Acme", None]
    assert found.column("amount").to_pylist() == [Decimal("19.9900"), None]
    assert found.column("deal_id").to_pylist() == ["1", "02"]


def test_json_of_any_length_on_one_line_is_read_in_little_memory(source, tmp_path):
    path = tmp_path / "big.json"
    with path.open("w") as file:
        file.write("[")
        for number in range(40_000):
            file.write(f'{"," if number else ""}{{"id":{number},"text":"{"x" * 1_000}"}}')
        file.write("]")
    assert path.stat().st_size > 40_000_000
    made, rows = source(t="big.json"), 0
    with little_memory():
        for page in made.read(made.entities()[0], Since()):
            rows += len(page.records)
    assert rows == 40_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "holds no list of objects"),
        ('{"a": 1}', "holds no list of objects"),
        ('{"a": [{}], "b": [{}]}', "lists of objects under both 'a' and 'b'"),
        ('[{"a": 1}, 5]', "not JSON: expected an object in the list"),
        ('[{"a": 1}, {"a": ', "ends within a value|not JSON: expected a value"),
        ('[{"a": 1}] x', "expected the end of the file, found 'x'"),
        ("[{'a': 1}]", "not JSON: expected a value"),
        ("  ", "the file is empty"),
    ],
)
def test_what_is_no_table_in_json(raw, write, content, message):
    with pytest.raises(SourceError, match=message):
        raw(write("a.json", content))


def test_an_empty_list_is_no_rows(table, write):
    found, _ = table(write("a.json", '{"items": []}'), name="deals", fields={"deal_id": "Id"})
    assert found.num_rows == 0


def test_json_lines(raw, write, refused):
    assert raw(write("a.jsonl", '{"a": 1}\n{"a": 2.50}\n')) == [{"a": 1}, {"a": Decimal("2.50")}]
    assert raw(write("export", '{"a": 1}\n{"a": 2}\n')) == [{"a": 1}, {"a": 2}]
    assert "line 2 is not JSON" in refused(write("b.jsonl", '{"a": 1}\n{"a": \n'))
    assert "line 1 is not an object" in refused(write("c.jsonl", "[1]\n"))


def test_parquet_keeps_its_types(table, tmp_path):
    original = pa.table(
        {
            "id": pa.array(["007", "8"]).dictionary_encode(),
            "n": pa.array([1, None], pa.int32()),
            "amount": pa.array([Decimal("19.99"), None], pa.decimal128(10, 2)),
            "x": pa.array([0.1, float("nan")]),
            "day": pa.array([date(2022, 4, 6), None]),
            "at": pa.array([datetime(2022, 4, 6, 10), None], pa.timestamp("ms", "Europe/Berlin")),
            "who": pa.array([{"name": "Acme"}, None], pa.struct([("name", pa.string())])),
            "tags": pa.array([["a"], None], pa.list_(pa.string())),
        }
    )
    pq.write_table(original, tmp_path / "a.parquet")
    found, _ = table(tmp_path / "a.parquet")
    assert found.to_pylist()[0] == {
        "id": "007", "n": 1, "amount": Decimal("19.9900"), "x": Decimal("0.1000"), "day": date(2022, 4, 6),
        "at": original["at"][0].as_py(), "who.name": "Acme", "tags": '["a"]',
    }  # fmt: skip
    assert set(found.to_pylist()[1].values()) == {"8", None}


def test_a_damaged_parquet_file_is_an_error(refused, write):
    assert "not a readable Parquet file" in refused(write("a.parquet", b"PAR1 nothing PAR1"))


# ── unchanged ─────────────────────────────────────────────────────────────────────────────────────


def watermark(source, since=None):
    pages = list(source.read(source.entities()[0], Since(since)))
    return pages[-1].watermark, pages[-1].unchanged


def test_a_file_is_read_again_only_when_a_byte_or_how_to_read_it_changes(source, write):
    path = write("a.csv", "a,b\n1,2\n")
    first, unchanged = watermark(source(t="a.csv"))
    assert not unchanged
    os.utime(path, (1, 1))
    assert watermark(source(t="a.csv"), first) == (first, True)
    assert not watermark(source(t={"path": "a.csv", "locale": "de_DE"}), first)[1]
    write("a.csv", "a,b\n1,3\n")
    second, unchanged = watermark(source(t="a.csv"), first)
    assert not unchanged
    assert second != first


def test_a_new_file_of_a_glob_is_a_change(source, write):
    write("a.csv", "a\n1\n")
    first, _ = watermark(source(t="*.csv"))
    assert watermark(source(t="*.csv"), first) == (first, True)
    write("b.csv", "a\n1\n")
    assert not watermark(source(t="*.csv"), first)[1]


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run(source, write):
    write("a.csv", "a\n1\n")
    made = source(t="a.csv")
    pages = made.read(made.entities()[0], Since())
    next(pages)
    write("a.csv", "a\n1\n2\n")
    with pytest.raises(TransientError, match="changed while it was read"):
        list(pages)


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server():
    """A web server on loopback that counts requests, knows an ETag, and breaks off the answers it is told to."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        content, etag, broken, asked = b"a,b\n1,2\n", '"v1"', 0, []

        def do_GET(self):
            self.asked.append(self.path)
            status = (
                404
                if "missing" in self.path
                else 403
                if "secret" in self.path
                else 304
                if self.headers["If-None-Match"] == self.etag
                else 200
            )
            body = self.content if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", self.etag)
            self.end_headers()
            if Handler.broken and body:
                Handler.broken -= 1
                self.wfile.write(body[:3])
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Handler, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def session():
    with Session(Network(max_wait=0), sleep=lambda seconds: None) as made:
        yield made


def test_an_address_is_downloaded_and_left_alone_while_the_server_says_so(source, session, server):
    handler, base = server
    made = source(session, t=f"{base}/export/deals.csv?token=hidden")
    first, unchanged = watermark(made)
    assert not unchanged
    assert made.entities()[0].place == "deals.csv"
    assert watermark(made, first) == (first, True)
    handler.etag = '"v2"'
    second, unchanged = watermark(made, first)
    assert unchanged
    assert second != first
    handler.content, handler.etag = b"a,b\n1,3\n", '"v3"'
    assert not watermark(made, second)[1]


def test_a_download_that_breaks_off_is_begun_again_and_given_up_in_the_end(source, session, server):
    handler, base = server
    made = source(session, t=f"{base}/deals.csv")
    handler.broken = 2
    assert [page.records.num_rows for page in made.read(made.entities()[0], Since()) if isinstance(page.records, pa.RecordBatch)][-1] == 1
    handler.broken = 3
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:\d+/…/deals\.csv: the download broke off"):
        list(made.read(made.entities()[0], Since()))


def test_errors_of_a_server_never_show_the_address_in_full(source, session, server):
    _, base = server
    made = source(session, t=f"{base}/missing/deals.csv?sig=hidden")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+/…/deals\.csv: 404") as caught:
        list(made.read(made.entities()[0], Since()))
    assert "hidden" not in str(caught.value)


# ── configuration and check ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"path": "a.csv", "locale": "xx_YY"}, "there is no locale 'xx_YY'"),
        ({"path": "a.csv", "encoding": "utf-9"}, "there is no encoding 'utf-9'"),
        ({"path": "a.csv", "dates": "dayfirst"}, "'dayfirst' is neither a pattern such as"),
        ({"path": "a.csv", "dates": {"a": "%Q"}}, "'%Q' is neither a pattern such as"),
        ({"path": "a.xlsx", "sheet": "S", "table": "T"}, "exclude each other"),
        ({"path": "a.csv", "fields": {"ammount": "x"}}, "deals.fields: no column 'ammount' in deals; did you mean 'amount'"),
        ({"path": "a.csv", "status": {"win": ["x"]}}, "status"),
        ({"path": "a.csv", "heder": 2}, "heder"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_read(source, table, message):
    with pytest.raises(ValidationError, match=message):
        source(deals=table)


@pytest.mark.parametrize(("given", "meant"), [("error", "error"), ("null", "null"), (None, "null")])
def test_null_is_understood_with_and_without_quotes(source, given, meant):
    assert source(t={"path": "a.csv", "on_bad_value": given}).entities()[0].on_bad_value == meant


def test_check_says_for_each_table_whether_it_can_be_read(source, write):
    write("a.csv", "Id,Amount\n1,2\n")
    findings = list(
        source(
            good={"path": "a.csv", "fields": {"x": "id", "y": "upper(Id)"}},
            lacking={"path": "a.csv", "fields": {"x": "Ammount", "y": "Other"}},
            missing="b.csv",
        ).check()
    )
    assert [(finding.what, finding.ok, finding.exit_code) for finding in findings] == [
        ("good: a.csv", True, 0), ("lacking: a.csv", False, 4), ("missing: b.csv", False, 4),
    ]  # fmt: skip
    assert findings[0].detail == "2 columns"
    assert findings[1].detail == "no column 'Ammount', 'Other'; did you mean 'Amount'? there is: Id, Amount"
    assert "no such file" in findings[2].detail


# ── real exports ──────────────────────────────────────────────────────────────────────────────────


def outcome(found):
    return {
        row["status"]: (row["deal_id_count"], row["amount_sum"])
        for row in found.group_by("status").aggregate([("deal_id", "count"), ("amount", "sum")]).to_pylist()
    }


def test_the_maven_sample_reads_to_the_cent(table, shared):
    fields = {
        "deal_id": "opportunity_id", "owner": "sales_agent", "product": "case when product = 'GTXPro' then 'GTX Pro' else product end",
        "account": "account", "stage": "deal_stage", "created_at": "engage_date", "closed_at": "close_date", "amount": "close_value",
    }  # fmt: skip
    path = shared / "data/crm/maven_crm/sales_pipeline.csv"
    found, warnings = table(path, name="deals", fields=fields, dates="%m/%d/%Y", status={"won": ["Won"], "lost": ["Lost"]})
    assert outcome(found) == {"won": (4238, Decimal(10005534)), "lost": (2473, Decimal(0)), "open": (2089, None)}
    assert "GTXPro" not in found.column("product").to_pylist()
    assert warnings == ()
    proven, _ = table(path, name="deals", fields=fields, status={"won": ["Won"], "lost": ["Lost"]})
    assert proven.equals(found)


def test_the_salesforce_sample_proves_its_own_dates(table, shared):
    fields = {
        "deal_id": "Id",
        "stage": "StageName",
        "amount": "Amount",
        "created_at": "CreatedDate",
        "closed_at": "CloseDate",
        "modified_at": "LastModifiedDate",
    }
    found, _ = table(
        shared / "data/crm/salesforce_preppin_2022w23/Opportunity.csv",
        name="deals",
        fields=fields,
        status={"won": ["Closed Won"], "lost": ["Closed Lost"]},
    )
    assert {name: count for name, (count, _) in outcome(found).items()} == {"won": 89, "lost": 57, "open": 73}
    first = found.to_pylist()[0]
    assert (first["created_at"], first["closed_at"]) == (date(2022, 3, 14), date(2022, 3, 24))
    assert first["modified_at"].isoformat() == "2022-03-02T16:11:00+00:00"


@pytest.mark.soak
def test_a_million_deals_are_read_in_seconds_and_memory_stays_flat(table, tmp_path):
    chance = random.Random(1)
    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write("deal_id,name,owner,account,stage,created_at,closed_at,amount,probability,lead_source,product,modified_at\n")
        for number in range(1_000_000):
            file.write(
                f"{number:012d},Deal {number},Owner {chance.randrange(50)},Account {chance.randrange(5000)},Won,{chance.randrange(1, 28):02d}/07/2022,"
                f'30/12/2022,"${chance.randrange(10**6):,}.00",{chance.randrange(100)}%,Web,P,2024-01-01T00:00:00Z\n'
            )
    before = resource.getrusage(resource.RUSAGE_SELF)
    found, _ = table(path, name="deals")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert found.num_rows == 1_000_000
    assert after.ru_utime - before.ru_utime < 30
