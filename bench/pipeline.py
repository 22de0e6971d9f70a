"""A whole run on 1,000,000 deals: time, processor time and peak memory of the process; then the same run with nothing changed."""

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

YAML = """
flows:
  big:
    sources:
      export: {type: files, tables: {deals: {path: deals.csv}}}
    sinks:
      - type: excel
        drive: {type: local, folder: out}
        path: Big.xlsx
        tables:
          - {from: deals, sheet: Deals, table: Deals, columns: [deal_id, name, owner, stage, amount, created_at, closed_at, cycle_days]}
          - {from: kpis, sheet: Numbers, table: Numbers}
          - {from: by_owner, sheet: Owners, table: Owners}
"""


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    peak_mb: float


def measured(arguments: list[str], folder: Path) -> Cost:
    """A command as a whole process, by the operating system's own accounting."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_deals(path: Path, rows: int) -> None:
    draw = random.Random(7)
    owners = [f"Owner {number:02}" for number in range(40)]
    with path.open("w", encoding="utf-8") as file:
        file.write("deal_id,name,account,owner,region,product,stage,status,amount,created_at,closed_at\n")
        for number in range(rows):
            status = ("won", "lost", "open")[number % 3]
            created, length = number % 900, draw.randint(1, 120)
            closed = "" if status == "open" else day(created + length)
            file.write(
                f"D-{number:07},Deal {number},Account {number % 9000},{owners[number % 40]},Region {number % 5},Product {number % 12},"
                f"{('Qualification', 'Proposal', 'Negotiation')[number % 3]},{status},{draw.randint(100, 99_999)}.{number % 100:02},{day(created)},{closed}\n"
            )


def day(number: int) -> str:
    year, rest = divmod(number, 336)
    return f"{2023 + year}-{rest // 28 + 1:02}-{rest % 28 + 1:02}"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "connector.yaml").write_text(YAML)
        imports = measured(
            [
                "-c",
                "import connector.flow, connector.configfile; from connector.registry import plugins; plugins('sources'); plugins('sinks')",
            ],
            folder,
        )
        print("| run | wall s | processor s | peak MB |\n| --- | --- | --- | --- |")
        for rows in (100_000, 1_000_000):
            write_deals(folder / "deals.csv", rows)
            at = ["--at", "2026-03-02"]
            cost = measured(["-m", "connector", "run", "big", *at], folder)
            print(f"| {rows:,} deals to three Excel tables | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.peak_mb:,.0f} |", flush=True)
        same = measured(["-m", "connector", "run", "big", *at], folder)
        print(f"| the same again, nothing changed | {same.wall:.1f} | {same.cpu:.1f} | {same.peak_mb:,.0f} |")
        print(f"\nunchanged run beyond imports: {same.cpu - imports.cpu:.2f} s of processor time (goal: under 2)")


if __name__ == "__main__":
    main()
