"""`connector demo`: a generated sales team, a first load, two weeks of its life, and the refresh after them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from connector.configfile import load
from connector.errors import TargetError
from connector.flow import Options, open_flow, run_flow
from connector.report import story
from connector.sandbox.company import Company
from connector.sandbox.export import write_csv
from connector.settings import Settings
from connector.templates import shipped

SEED: Final = 7
FLOW: Final = "demo"
WORKBOOK: Final = "Pipeline.xlsx"
DAYS: Final = 14


def play(out: Path, *, keep: bool, say: Callable[[str], Any]) -> Path:
    """Leave the refreshed workbook in `out`; returns its path. `keep` leaves configuration, exports and state there too.

    Raises TargetError when `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = out if keep else Path(tempfile.mkdtemp(prefix="connector-demo-"))
    except OSError as error:
        raise TargetError(f"{out}: cannot be written: {error.strerror}", remedy="name another folder with --out") from error
    try:
        _clear(stage)
        _perform(stage, say)
        if not keep:
            shutil.copyfile(stage / WORKBOOK, out / WORKBOOK)
    finally:
        if not keep:
            shutil.rmtree(stage, ignore_errors=True)
    say(f"\nopen {out / WORKBOOK}")
    if keep:
        say(f"play on: connector --config {out / 'connector.yaml'} --data {out / 'data'} preview {FLOW} --table kpis")
    return out / WORKBOOK


def _clear(stage: Path) -> None:
    """A demo starts from nothing, also in a folder that an earlier one has left."""
    for name in ("export", "data"):
        shutil.rmtree(stage / name, ignore_errors=True)
    (stage / WORKBOOK).unlink(missing_ok=True)


def _perform(stage: Path, say: Callable[[str], Any]) -> None:
    say("A sales team is generated: two years and more of deals, leads, activities, spend and quotas.")
    company = Company.generate(SEED)
    write_csv(company, stage / "export")
    (stage / "connector.yaml").write_text(shipped("demo.yaml").read_text("utf-8"), "utf-8")
    config = load(stage / "connector.yaml", {})
    settings = Settings(config=stage / "connector.yaml", data=stage / "data")
    for step in ("First load", "Refresh, two weeks later"):
        if step != "First load":
            company.advance(DAYS, seed=SEED)
            write_csv(company, stage / "export")
        say(f"\n{step} ({company.now:%d %B %Y})")
        with open_flow(FLOW, config.flow(FLOW), settings) as flow:
            say(story(run_flow(flow, Options(at=company.now))))
