"""Damaged and hostile workbooks: a correct refresh or a clear refusal, in bounded time and memory, and never a changed original."""

from __future__ import annotations

import io
import random
import re
import resource
import struct
import time
import warnings
import zipfile
from pathlib import Path

import openpyxl
import pytest

from connector.errors import TargetError
from sinks.excel.refresh import TableJob, create, refresh

SHARED = Path(__file__).parents[4] / "shared" / "data" / "workbooks"


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bits of the archive itself."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def spliced(rng: random.Random, data: bytes) -> bytes:
    """A stretch of the archive moved or doubled."""
    start, length, to = rng.randrange(len(data)), rng.randrange(1, 2000), rng.randrange(len(data))
    return data[:to] + data[start : start + length] + data[to + rng.choice((0, length)) :]


def rezipped(rng: random.Random, data: bytes) -> bytes:
    """A sound archive whose parts are swapped, cut, doubled or changed, so that damage reaches every reader."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names = list(parts)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(names)
        content = bytearray(parts[name])
        match rng.randrange(7):
            case 0:
                other = rng.choice(names)
                parts[name], parts[other] = parts[other], parts[name]
                continue
            case 1:
                del parts[name]
                names = list(parts)
                if not names:
                    break
                continue
            case 2:
                content = content[: rng.randrange(len(content) + 1)]
            case 3 if content:
                for _ in range(rng.choice((1, 5))):
                    content[rng.randrange(len(content))] = rng.choice(b"<>/\"'=0123456789ABZ &;-:\x00\xff")
            case 4 if content:
                start = rng.randrange(len(content))
                piece = content[start : start + rng.randrange(1, 300)]
                content[start:start] = piece
            case 5:
                content = bytearray(_tokens(rng, bytes(content)))
            case _:
                content = bytearray(_numbers(rng, bytes(content)))
        parts[name] = bytes(content)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(content))
    return out.getvalue()


def _tokens(rng: random.Random, xml: bytes) -> bytes:
    """Elements swapped, dropped or doubled."""
    tokens = xml.split(b"<")
    if len(tokens) > 3:
        a, b = rng.randrange(1, len(tokens)), rng.randrange(1, len(tokens))
        match rng.randrange(3):
            case 0:
                tokens[a], tokens[b] = tokens[b], tokens[a]
            case 1:
                del tokens[a]
            case _:
                tokens.insert(a, tokens[b])
    return b"<".join(tokens)


def _numbers(rng: random.Random, xml: bytes) -> bytes:
    """Numbers blown up, negated or emptied."""
    places = [at for at, byte in enumerate(xml) if 48 <= byte <= 57]
    if not places:
        return xml
    at = rng.choice(places)
    return xml[:at] + rng.choice((b"", b"-1", b"0", b"99999999999", b"1048577", b"4294967296", b"1e309", b"NaN")) + xml[at + 1 :]


def _entries(data: bytes, mark: bytes) -> list[int]:
    """Where the archive's local headers (PK34) or directory entries (PK12) begin."""
    return [found.start() for found in re.finditer(re.escape(mark), data)]


def contradicted(rng: random.Random, data: bytes) -> bytes:
    """A local header that says something else than the directory, or the other way round: name, sizes, method, flags, checksum."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2))):
        local = rng.random() < 0.5
        at = rng.choice(_entries(data, b"PK\3\4" if local else b"PK\1\2"))
        field, width = rng.choice(((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 6)))
        at += field + (0 if local else 2 if field < 26 else 16 if field == 30 else 2)
        value = rng.choice((bytes(width), b"\xff" * width, rng.randbytes(width), b"\x08" + bytes(width - 1), b"\x01" + bytes(width - 1)))
        out[at : at + width] = value
    return bytes(out)


def doubled(rng: random.Random, data: bytes) -> bytes:
    """A part twice in the archive, under the same name or one that differs by case."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says that the name is there already
        name, other = rng.choice(archive.namelist()), rng.choice(archive.namelist())
        archive.writestr(rng.choice((name, name.upper(), name.replace("/", "//", 1), f"./{name}")), archive.read(other))
    return out.getvalue()


def widened(rng: random.Random, data: bytes) -> bytes:
    """Sizes and places of more than 4 GB, as zip64 records would have them: all lies."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in parts:
            new = zipfile.ZipInfo(info.filename)
            if rng.random() < 0.3:
                numbers = [rng.choice((len(content), 0, 1 << 33, (1 << 64) - 1)) for _ in range(rng.randrange(4))]
                new.extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)
            archive.writestr(new, content, zipfile.ZIP_DEFLATED)
    raw = bytearray(out.getvalue())
    at = rng.choice(_entries(raw, b"PK\1\2"))
    for field in rng.sample((20, 24, 42), rng.randrange(1, 4)):
        raw[at + field : at + field + 4] = b"\xff\xff\xff\xff"
    if rng.random() < 0.5:
        end = raw.rfind(b"PK\5\6")
        record = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, *(rng.choice((0, 9, 1 << 40)) for _ in range(4)))
        raw[end:end] = record + b"PK\6\7" + struct.pack("<LQL", 0, rng.choice((end, 0, 1 << 50)), 1)
    return bytes(raw)


def entities(rng: random.Random, data: bytes) -> bytes:
    """A part in which entities unfold to billions of letters, or reach for a file."""
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(12))
    kind = rng.choice((levels, '<!ENTITY e11 SYSTEM "file:///etc/passwd">', '<!ENTITY % e11 "x">', ""))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([name for name in parts if name.endswith((".xml", ".rels"))])
    head, _, body = parts[name].partition(b"?>") if parts[name].startswith(b"<?xml") else (b'<?xml version="1.0"', b"", parts[name])
    encoded = rng.choice(("utf-8", "utf-16"))
    text = f"{head.decode()}?><!DOCTYPE lolz [{kind}]>{body.decode()}".replace("</", "&e11;</", rng.randrange(2))
    parts[name] = text.replace("UTF-8", encoded).encode(encoded)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return out.getvalue()


MUTATIONS = (flipped, truncated, spliced, contradicted, doubled, widened, entities, rezipped, rezipped, rezipped, rezipped)


def campaign(workbook: Path, job: TableJob, seeds: range, folder: Path, mutations: tuple = MUTATIONS) -> tuple[int, int]:
    """How many mutants were refreshed and how many refused; anything else is an error that names its seed."""
    refreshed = refused = 0
    data = workbook.read_bytes()
    mutant, result = folder / f"mutant{workbook.suffix}", folder / "result.xlsx"
    for seed in seeds:
        rng = random.Random(f"{workbook.name} {seed}")
        mutated = rng.choice(mutations)(rng, data)
        mutant.write_bytes(mutated)
        result.unlink(missing_ok=True)
        began = time.process_time()
        try:
            changes = refresh(mutant, result, [job])
        except TargetError as error:
            refused += bool(error.remedy)
        except Exception as error:
            raise AssertionError(f"{workbook.name}, seed {seed}: {type(error).__name__}: {error}") from error
        else:
            refreshed += 1
            if not changes.unchanged:
                with zipfile.ZipFile(result) as archive:
                    for name in changes.parts_changed:
                        if name in archive.namelist():
                            archive.read(name)  # checks the sum
                again = refresh(result, folder / "again.xlsx", [job])
                assert again.unchanged, f"{workbook.name}, seed {seed}: a second refresh changed {again.parts_changed}"
        assert time.process_time() - began < 10, f"{workbook.name}, seed {seed}: too slow"
        assert mutant.read_bytes() == mutated, f"seed {seed}: the original was changed"
    assert refreshed + refused == len(seeds), "every refusal has a remedy"
    return refreshed, refused


@pytest.fixture
def small(tmp_path, deals):
    path = tmp_path / "small.xlsx"
    create(path, [TableJob(deals(range(8)), table="Deals"), TableJob(deals(range(3)), table="Other")])
    book = openpyxl.load_workbook(path)
    book["Other"]["J1"] = "=SUM(Deals!C2:C9)"
    book["Deals"]["A20"] = "below"
    book.save(path)
    return path


@pytest.mark.parametrize("start", [0, 100])
def test_mutants_of_a_small_workbook(small, tmp_path, deals, start):
    refreshed, refused = campaign(
        small, TableJob(deals(range(2, 14)), table="Deals", key=("deal_id",)), range(start, start + 100), tmp_path
    )
    assert refreshed > 5
    assert refused > 30


def test_mutants_of_a_teammates_workbook(teammates_book, tmp_path, table):
    rows = table({"Deal": [f"D{n}" for n in range(9)], "Amount": list(range(9)), "Name": ["x"] * 9}, key=("Deal",))
    job = TableJob(rows, table="Deals", key=("Deal",), on_blocked="shift")
    refreshed, refused = campaign(teammates_book, job, range(100), tmp_path)
    assert refreshed > 5
    assert refused > 30


@pytest.mark.parametrize("mutation", [contradicted, doubled, widened, entities])
def test_archives_that_lie(small, tmp_path, deals, mutation):
    _, refused = campaign(small, TableJob(deals(range(2, 14)), table="Deals", key=("deal_id",)), range(30), tmp_path, (mutation,))
    assert refused > 5


@pytest.mark.soak
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/workbooks is not there")
def test_ten_thousand_mutants(small, teammates_book, tmp_path, deals):
    job = TableJob(deals(range(2, 14)), table="Deals", key=("deal_id",))
    campaign(small, job, range(1000, 5000), tmp_path)
    for workbook in sorted(SHARED.glob("*.xls?")):
        if workbook.stat().st_size < 120_000 and zipfile.is_zipfile(workbook):
            campaign(workbook, job, range(250), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 512 << 10
