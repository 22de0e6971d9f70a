"""Damaged and hostile workbooks: a correct refresh or a clear refusal, in bounded time and memory, and never a changed original."""

from __future__ import annotations

import io
import random
import resource
import time
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


MUTATIONS = (flipped, truncated, spliced, rezipped, rezipped, rezipped, rezipped)


def campaign(workbook: Path, job: TableJob, seeds: range, folder: Path) -> tuple[int, int]:
    """How many mutants were refreshed and how many refused; anything else is an error that names its seed."""
    refreshed = refused = 0
    data = workbook.read_bytes()
    mutant, result = folder / f"mutant{workbook.suffix}", folder / "result.xlsx"
    for seed in seeds:
        rng = random.Random(f"{workbook.name} {seed}")
        mutated = rng.choice(MUTATIONS)(rng, data)
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


@pytest.mark.soak
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/workbooks is not there")
def test_ten_thousand_mutants(small, teammates_book, tmp_path, deals):
    job = TableJob(deals(range(2, 14)), table="Deals", key=("deal_id",))
    campaign(small, job, range(1000, 5000), tmp_path)
    for workbook in sorted(SHARED.glob("*.xls?")):
        if workbook.stat().st_size < 120_000 and zipfile.is_zipfile(workbook):
            campaign(workbook, job, range(250), tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 512 << 10
