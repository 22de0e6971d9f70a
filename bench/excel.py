"""The Excel engine beside what one would use instead, each in a process of its own, in one run, as ratios.

    python -m bench.excel [--rows 200000] [--quick]

1. Writing mixed rows: ours, openpyxl write-only, XlsxWriter constant-memory, rustpy-xlsxwriter. Goal: 15 times openpyxl, faster than rustpy.
2. Peak memory of ours at 200,000 and 1,000,000 rows. Goal: flat, below 400 MB.
3. Refreshing a 10,000-row table in a 50 MB workbook against openpyxl load and save. Goal: 50 times faster, a tenth of the memory.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

COLUMNS = 20


def batches(rows: int, salt: int = 0) -> Iterator[pa.RecordBatch]:
    """Ids, low and high cardinality texts, amounts, counts, dates, instants, flags: 20 columns, from a fixed seed, without numpy."""
    words = [f"word {n} & more" for n in range(50)]
    for start in range(0, rows, 50_000):
        rng = random.Random(f"{salt} {start}")
        count = min(50_000, rows - start)
        columns: list[pa.Array] = [pa.array([f"D{start + at:08}" for at in range(count)])]
        columns += [pa.array([words[rng.randrange(50)] for _ in range(count)]) for _ in range(5)]
        columns += [pa.array([f"free text {salt} {column} {start + at}" for at in range(count)]) for column in range(3)]
        columns += [pa.array([rng.random() * 1e5 for _ in range(count)]) for _ in range(4)]
        columns += [pa.array([rng.randrange(10**7) for _ in range(count)]) for _ in range(3)]
        columns += [pa.array([rng.randrange(18_000, 21_000) for _ in range(count)], pa.int32()).cast(pa.date32())]
        columns += [pa.array([rng.randrange(1_600_000_000, 1_800_000_000) for _ in range(count)]).cast(pa.timestamp("s"))]
        columns += [pa.array([rng.random() < 0.5 for _ in range(count)])]
        columns += [pa.array([None if rng.random() < 0.1 else rng.randrange(1000) for _ in range(count)])]
        yield pa.record_batch(columns, names=[f"column_{at:02}" for at in range(COLUMNS)])


def write_rows(path: Path, rows: int, salt: int = 0) -> None:
    written = batches(rows, salt)
    first = next(written)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as stream:
        stream.write(first)
        for batch in written:
            stream.write(batch)


# ── what is measured: each runs alone in a process ──


def ours(data: Path, out: Path) -> None:
    from connector.api import Output
    from sinks.excel.refresh import TableJob, create

    with pa.ipc.open_stream(data) as stream:
        schema, rows = stream.schema, sum(batch.num_rows for batch in stream)

    def reader() -> pa.RecordBatchReader:
        stream = pa.ipc.open_stream(pa.OSFile(str(data)))
        return pa.RecordBatchReader.from_batches(schema, (stream.read_next_batch() for _ in range(-(-rows // 50_000))))

    create(out, [TableJob(Output("data", schema, rows, reader), table="Data")])


def openpyxl_write_only(data: Path, out: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Data")
    with pa.ipc.open_stream(data) as stream:
        sheet.append(stream.schema.names)
        for batch in stream:
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                sheet.append(row)
    book.save(out)


def xlsxwriter_constant(data: Path, out: Path) -> None:
    import xlsxwriter

    book = xlsxwriter.Workbook(str(out), {"constant_memory": True, "default_date_format": "yyyy-mm-dd", "strings_to_formulas": False})
    sheet = book.add_worksheet("Data")
    line = 0
    with pa.ipc.open_stream(data) as stream:
        sheet.write_row(0, 0, stream.schema.names)
        for batch in stream:
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                line += 1
                sheet.write_row(line, 0, row)
    book.close()


def rustpy(data: Path, out: Path) -> None:
    from rustpy_xlsxwriter import FastExcel

    with pa.ipc.open_stream(data) as stream:
        FastExcel(str(out)).sheet("Data", stream.read_all().to_pylist()).save()


def refresh_ours(book: Path, out: Path) -> None:
    from connector.api import Output
    from sinks.excel.refresh import TableJob, refresh

    with pa.ipc.open_stream(book.with_suffix(".arrow")) as stream:
        table = stream.read_all()
    refresh(book, out, [TableJob(Output("data", table.schema, table.num_rows, table.to_reader), table="Deals")])


def refresh_openpyxl(book: Path, out: Path) -> None:
    import openpyxl

    with pa.ipc.open_stream(book.with_suffix(".arrow")) as stream:
        table = stream.read_all()
    loaded = openpyxl.load_workbook(book)
    sheet = loaded["Deals"]
    for line, row in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True), 2):
        for column, value in enumerate(row, 1):
            sheet.cell(line, column, value)
    loaded.save(out)


def imports(data: Path, out: Path) -> None:
    """The imports of ours, for comparison."""
    import sinks.excel.refresh  # noqa: F401


def make_rows(rows: Path, out: Path) -> None:
    write_rows(out, int(rows.name))


def make_workbook(history: Path, out: Path) -> None:
    big_workbook(out, int(history.name))


#: preparing also runs apart: a process starts with the peak of the one that started it
TASKS = {
    task.__name__: task
    for task in (ours, openpyxl_write_only, xlsxwriter_constant, rustpy, refresh_ours, refresh_openpyxl, imports, make_rows, make_workbook)
}


def measure(name: str, source: Path, out: Path) -> tuple[float, float]:
    """Seconds of processor time and peak megabytes."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.excel", "--one", name, str(source), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["megabytes"]


def one(name: str, source: Path, out: Path) -> None:
    import resource

    began = time.process_time()
    TASKS[name](source, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(json.dumps({"seconds": time.process_time() - began, "megabytes": peak}))


# ── a teammate's workbook of 50 MB ──


def big_workbook(path: Path, history: int) -> None:
    """A sheet of history, pictures, a pivot with its records, and a table of ours with 10,000 rows."""
    import xlsxwriter

    book = xlsxwriter.Workbook(str(path), {"constant_memory": False, "default_date_format": "yyyy-mm-dd"})
    sheet = book.add_worksheet("History")
    rng = random.Random(3)
    sheet.write_row(0, 0, [f"h{at}" for at in range(12)])
    for line in range(1, history + 1):
        sheet.write_row(
            line, 0, [f"customer {rng.randrange(40_000)}", *(rng.random() * 1000 for _ in range(8)), rng.randrange(10**6), line, "closed"]
        )
    deals = book.add_worksheet("Deals")
    first = next(batches(10_000, 1))
    for line, row in enumerate(zip(*(column.to_pylist() for column in first.columns), strict=True), 1):
        deals.write_row(line, 0, row)
    deals.add_table(0, 0, 10_000, COLUMNS - 1, {"name": "Deals", "columns": [{"header": name} for name in first.schema.names]})
    front = book.add_worksheet("Front")
    front.write_formula(0, 0, "=SUM(Deals[column_09])")
    for at in range(6):
        picture = path.with_name(f"picture{at}.png")
        picture.write_bytes(_png(rng, 900, 700))
        front.insert_image(5 + 40 * at, 2, str(picture))
    book.close()
    _add_pivot(path, rng)
    write_rows(path.with_suffix(".arrow"), 10_000, 2)


def _png(rng: random.Random, width: int, height: int) -> bytes:
    """A picture of noise, which does not compress."""
    lines = b"".join(b"\0" + rng.randbytes(3 * width) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


def _add_pivot(path: Path, rng: random.Random) -> None:
    """A pivot cache over the history with its records, as Excel keeps one."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    records = 100_000
    fields = "".join(f'<cacheField name="h{at}" numFmtId="0"><sharedItems/></cacheField>' for at in range(12))
    lines = "".join("<r>" + "".join(f'<n v="{rng.randrange(10**6)}"/>' for _ in range(12)) + "</r>" for _ in range(records))
    parts = {
        "xl/pivotCache/pivotCacheDefinition1.xml": f'<pivotCacheDefinition xmlns="{main}" xmlns:r="{office}" r:id="rId1" recordCount="{records}">'
        f'<cacheSource type="worksheet"><worksheetSource ref="A1:L{records + 1}" sheet="History"/></cacheSource><cacheFields count="12">{fields}</cacheFields>'
        "</pivotCacheDefinition>",
        "xl/pivotCache/pivotCacheRecords1.xml": f'<pivotCacheRecords xmlns="{main}" count="{records}">{lines}</pivotCacheRecords>',
        "xl/pivotCache/_rels/pivotCacheDefinition1.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="rId1" '
        f'Type="{office}/pivotCacheRecords" Target="pivotCacheRecords1.xml"/></Relationships>',
    }
    with zipfile.ZipFile(path) as archive:
        others = {name: archive.read(name) for name in archive.namelist()}
    relations = others["xl/_rels/workbook.xml.rels"].decode()
    entry = f'<Relationship Id="rIdP" Type="{office}/pivotCacheDefinition" Target="pivotCache/pivotCacheDefinition1.xml"/></Relationships>'
    others["xl/_rels/workbook.xml.rels"] = relations.replace("</Relationships>", entry).encode()
    book = others["xl/workbook.xml"].decode()
    others["xl/workbook.xml"] = book.replace(
        "</workbook>", '<pivotCaches><pivotCache cacheId="1" r:id="rIdP"/></pivotCaches></workbook>'
    ).encode()
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml.pivotCache"
    types = "".join(
        f'<Override PartName="/xl/pivotCache/pivotCache{kind}1.xml" ContentType="{kinds}{kind}+xml"/>' for kind in ("Definition", "Records")
    )
    others["[Content_Types].xml"] = others["[Content_Types].xml"].decode().replace("</Types>", types + "</Types>").encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (others | {name: text.encode() for name, text in parts.items()}).items():
            archive.writestr(name, data)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it works")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args([] if arguments is None else arguments)
    if options.one:
        name, source, out = options.one
        one(name, Path(source), Path(out))
        return
    share = 10 if options.quick else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        idle = measure("imports", folder, folder)[1]
        _writing(folder, options.rows // share)
        _memory(folder, idle, (200_000 // share, 1_000_000 // share))
        _refreshing(folder, 300_000 // share)


def _writing(folder: Path, rows: int) -> None:
    data = folder / "rows.arrow"
    measure("make_rows", Path(str(rows)), data)
    print(f"writing {rows:,} rows × {COLUMNS} mixed columns (processor seconds, peak MB)")
    base = 0.0
    for name in ("ours", "rustpy", "xlsxwriter_constant", "openpyxl_write_only"):
        seconds, megabytes = measure(name, data, folder / f"{name}.xlsx")
        base = base or seconds
        print(f"  {name:22} {seconds:7.2f} s  {megabytes:6.0f} MB   ours is {seconds / base:5.1f} × as fast", flush=True)


def _memory(folder: Path, idle: float, sizes: tuple[int, int]) -> None:
    print(f"memory of ours (with its imports alone: {idle:.0f} MB)")
    for rows in sizes:
        data = folder / "more.arrow"
        measure("make_rows", Path(str(rows)), data)
        seconds, megabytes = measure("ours", data, folder / "more.xlsx")
        print(f"  {rows:9,} rows  {megabytes:6.0f} MB  {seconds:7.2f} s", flush=True)


def _refreshing(folder: Path, history: int) -> None:
    book = folder / "teammates.xlsx"
    measure("make_workbook", Path(str(history)), book)
    print(
        f"refreshing a 10,000-row table in a teammate's workbook of {book.stat().st_size / 1e6:.0f} MB, {history:,} rows of history in it"
    )
    ours_seconds, ours_megabytes = measure("refresh_ours", book, folder / "refreshed.xlsx")
    their_seconds, their_megabytes = measure("refresh_openpyxl", book, folder / "saved.xlsx")
    print(f"  ours                 {ours_seconds:7.2f} s  {ours_megabytes:6.0f} MB")
    print(f"  openpyxl load, save  {their_seconds:7.2f} s  {their_megabytes:6.0f} MB")
    print(f"  ours is {their_seconds / ours_seconds:.0f} × as fast with {their_megabytes / ours_megabytes:.1f} × less memory", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
