"""`connector demo`: two weeks of a sales team, played on the sandbox.

A first load; a colleague at work in the workbook; two weeks of deals; and the refresh after them, which meets the workbook open.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any, Final

from connector.config import AnyFlow
from connector.configfile import load
from connector.errors import TargetError
from connector.flow import Options, open_flow, run_flow
from connector.progress import watching
from connector.sandbox.colleague import AMOUNT, NOTE, OPEN, Colleague, Package, Row
from connector.sandbox.office import Office
from connector.sandbox.server import Running, serve
from connector.settings import Settings
from connector.templates import shipped

FLOW: Final = "demo"
CONFIG: Final = "connector.yaml"
WORKBOOK: Final = "Pipeline.xlsx"
PLACE: Final = f"Sales/{WORKBOOK}"
DAYS: Final = 14
SERVICES: Final = {"salesforce": "Salesforce", "hubspot": "HubSpot", "tableau": "Tableau", "finance": "finance's files"}
FIGURES: Final = {
    "open_value": ("Open pipeline", "€{:,.0f}"),
    "open_deals": ("Open deals", "{:,.0f}"),
    "weighted_value": ("Weighted", "€{:,.0f}"),
    "revenue": ("Won so far", "€{:,.0f}"),
    "win_rate": ("Win rate", "{:.1%}"),
}
NOTES: Final = (
    "Budget is confirmed, legal has the contract", "Their CFO joins on Thursday", "No further discount", "Champion is away until Monday",
    "Competitor is in: send the comparison", "Bundle it with a training day", "Ask for a reference afterwards", "Call on Friday",
)  # fmt: skip
LATE_NOTE: Final = "Signature promised for next week"

Say = Callable[[str], Any]
Manifest = Mapping[str, Any]


def play(out: Path, *, keep: bool, say: Say) -> Path:
    """Leave the refreshed workbook in `out`; returns its path. `keep` leaves configuration, files and state there too.

    Raises TargetError when `out` cannot be written, or holds what no demo has put there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = out if keep else Path(tempfile.mkdtemp(prefix="connector-demo-"))
    except OSError as error:
        raise TargetError(f"{out}: cannot be written: {error.strerror}", remedy="name another folder with --out") from error
    try:
        clear(stage)
        office = Office(stage)
        with serve(*office.services(), clock=office.cloud.clock) as running:
            colleague = Play(office, running, stage, say).perform()
        shutil.copyfile(office.cloud.user_drive.folder / PLACE, out / WORKBOOK)
    except OSError as error:
        raise TargetError(
            f"{stage}: cannot be written: {error.strerror}", remedy="free space, or name another folder with --out"
        ) from error
    finally:
        if not keep:
            shutil.rmtree(stage, ignore_errors=True)
    say(f'\nOpen {out / WORKBOOK}: Overview first, then Deals with its last column, then "{colleague.sheet}".')
    if keep:
        say(
            f"Play on:  connector --config {out / CONFIG} --data {out / 'data'} query {FLOW} "
            '"select owner, sum(amount_reporting) as won from deals where is_won = 1 group by owner order by won desc"\n'
            "          and `history` in place of `query …`. The services are gone; for ones that stay: connector sandbox"
        )
    return out / WORKBOOK


def clear(stage: Path, *, drives: bool = True) -> None:
    """Begin from nothing, also where an earlier demo has been. Raises TargetError where something is that no demo has left."""
    config = stage / CONFIG
    kept = [stage / name for name in ("OneDrive sales@acme.com", "Sales - Documents")]
    there = [stage / name for name in ("data", "finance", ".versions", ".arriving")]
    ours = config.is_file() and config.read_text("utf-8", "replace").partition("\n")[0] == configuration().partition("\n")[0]
    if not ours and (taken := [path for path in (config, *there, *kept) if path.exists()]):
        raise TargetError(f"{taken[0]} is there, and no demo has put it there", remedy="name another folder with --out")
    for path in (*there, *kept) if drives else there:
        shutil.rmtree(path, ignore_errors=True)


def configuration() -> str:
    """The flow that the demo and the sandbox come with; its addresses are still to be filled in."""
    return shipped("demo.yaml").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Play:
    """The demo's four scenes, on services that are running."""

    office: Office
    running: Running
    stage: Path
    say: Say

    def perform(self) -> Colleague:
        """Returns who worked in the workbook."""
        office, say = self.office, self.say
        path = self.stage / CONFIG
        path.write_text(office.configuration(configuration(), self.running), "utf-8")
        flow = load(path, {}).flow(FLOW)
        head = office.acme.owners[1]
        colleague = Colleague(head.name, head.email, office.cloud.user_drive, PLACE)

        say("A sales team is made up, behind look-alikes of the services it works with. All of it runs on this machine.")
        for name, what in (
            ("Salesforce", f"{len(office.acme.deals):,} deals of Acme"),
            ("HubSpot", f"{len(office.brightpath.deals):,} deals of Brightpath, which Acme took over"),
            ("Tableau", "Acme's dashboards, and its sales plan"),
            ("OneDrive", "of sales@acme.com, empty"),
        ):
            self._tell(name, what)

        say(f"\n1  First load, {_day(office.now)}")
        first = self._refresh(flow)

        say(f"\n2  {colleague.name}, head of sales, works with it")
        notes = self._at_work(colleague)

        say(f"\n3  Two weeks pass\n   {self._live()}")

        say(f"\n4  Refresh, {_day(office.now)}, while {colleague.first_name} has the workbook open")
        second = self._refresh(flow, Interruption(colleague, self.running, notes))
        self._compare(first, second)
        self._inspect(colleague, second, notes)
        return colleague

    def _tell(self, who: str, what: str) -> None:
        self.say(f"   {who:17}{what}")

    def _refresh(self, flow: AnyFlow, interruption: Interruption | None = None) -> Manifest:
        """One run of the flow, told by its manifest."""
        settings = Settings(config=self.stage / CONFIG, data=self.stage / "data")
        before = len(self.running.requests)
        with watching() as progress:

            def watch(what: str, done: int, total: int | None) -> None:
                progress(what, done, total)
                if interruption:
                    interruption()

            with open_flow(FLOW, flow, settings, watch, now=lambda: self.office.now) as opened:
                manifest = run_flow(opened, Options(at=self.office.now))
        for name, label in SERVICES.items():
            self._tell(label, _read([read for read in manifest["sources"] if read["source"] == name]))
        for who, what in interruption.events if interruption else ():
            self._tell(who, what)
        requests = self.running.requests[before:]
        if sum(logged.service == "content" for logged in requests) > 1:
            self._tell("OneDrive", "has a newer version by then: it is fetched and refreshed instead")
        asked = sum(logged.service in ("graph", "identity", "content") for logged in requests)
        sink = manifest["sinks"][0]
        self._tell(
            "OneDrive", f"{PLACE} {sink['outcome']}: {len(sink['rows'])} tables, in {asked} requests. {manifest['seconds']:.1f} s in all"
        )
        return manifest

    def _at_work(self, colleague: Colleague) -> dict[str, str]:
        """Notes on the largest open deals, a sheet of their own, and the workbook stays open. Returns the notes by deal."""
        rows = colleague.deals()
        largest = sorted((row for row in rows if row[OPEN] == "1"), key=_amount, reverse=True)
        notes = {row["Deal ID"]: text for row, text in zip(largest, NOTES, strict=False)}
        goals: dict[str, float] = dict.fromkeys(sorted({row["Team"] for row in rows}), 0)
        for row in largest:
            goals[row["Team"]] += _amount(row)
        colleague.note(notes)
        colleague.review({team: ceil(value * 1.3 / 50_000) * 50_000 for team, value in goals.items()})
        colleague.open()
        self.say(f'   adds a column "{NOTE}" to the table Deals, and writes beside {len(notes)} deals')
        self.say(f'   adds the sheet "{colleague.sheet}": a pivot over Deals, goals for each team, a chart of them')
        self.say("   and leaves it open in Excel, which locks the file")
        return notes

    def _live(self) -> str:
        """What happens to the deals of both firms."""
        since, companies = self.office.now, (self.office.acme, self.office.brightpath)
        self.office.advance(DAYS)
        deals = [(company, deal) for company in companies for deal in company.deals.values()]
        closed = [company.status(deal) for company, deal in deals if deal.closed_at and deal.closed_at > since and not deal.deleted_at]
        gone = [deal for _, deal in deals if deal.deleted_at and deal.deleted_at > since]
        counts = {
            "new": sum(deal.created_at > since for _, deal in deals),
            "won": closed.count("won"),
            "lost": closed.count("lost"),
            "merged": sum(deal.merged_into is not None for deal in gone),
            "deleted": sum(deal.merged_into is None for deal in gone),
        }
        touched = sum(deal.modified_at > since for _, deal in deals)
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"{touched} of {len(deals):,} deals are touched: {told}, the others moved or edited"

    def _compare(self, first: Manifest, second: Manifest) -> None:
        self.say("\nWhat changed")
        for metric, (label, style) in FIGURES.items():
            before, after = (style.format(manifest["metrics"][metric]) for manifest in (first, second))
            self._tell(label, f"{before:>12}  →  {after}")

    def _inspect(self, colleague: Colleague, manifest: Manifest, notes: Mapping[str, str]) -> None:
        """What was left as it was, looked up in the file itself."""
        sink = manifest["sinks"][0]
        there = {row["Deal ID"]: row.get(NOTE) for row in colleague.deals()}
        kept = sum(there.get(deal) == text for deal, text in notes.items())
        gone = [deal for deal in notes if deal not in there]
        parts = Package(colleague.item.path).parts
        same = sum(parts.get(name) == data for name, data in colleague.made.items())
        remembered = f"; {len(gone)} beside a deal that is gone, remembered in case it returns" if gone else ""
        saved = [version.by.get("user", {}).get("displayName") == colleague.name for version in colleague.item.versions]
        self.say("\nWhat was left alone")
        self._tell("Notes", f"{kept} of {len(notes)} stand beside their deals{remembered}")
        self._tell(
            colleague.sheet, f"{same} of {len(colleague.made)} parts byte for byte; the pivot is told to take the new data when opened"
        )
        self._tell("The whole file", f"{sink['parts_untouched']} of {len(parts)} parts byte for byte")
        self._tell("OneDrive", f"keeps {len(saved)} versions: {sum(saved)} by {colleague.name}, {len(saved) - sum(saved)} by connector")


@dataclass(slots=True)
class Interruption:
    """The colleague closes the workbook only when the refresh is waiting for it, and saves one more note first."""

    colleague: Colleague
    running: Running
    notes: dict[str, str]
    events: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self) -> None:
        if self.running.requests[-1].status != HTTPStatus.LOCKED or not self.colleague.has_it_open:
            return
        deal = next(row["Deal ID"] for row in self.colleague.deals() if row[OPEN] == "1" and row["Deal ID"] not in self.notes)
        self.notes[deal] = LATE_NOTE
        self.colleague.note({deal: LATE_NOTE})
        self.colleague.close()
        self.events += [
            ("OneDrive", "refuses the new version, the workbook is open (423 Locked): connector waits"),
            (self.colleague.first_name, "writes one more note, saves and closes"),
        ]


def _read(reads: list[Manifest]) -> str:
    """What one source gave, in words."""
    rows, requests = (sum(read[key] for read in reads) for key in ("rows_read", "requests"))
    moved = {key: sum(read[key] for read in reads) for key in ("inserted", "updated", "deleted")}
    told = f"{rows:,} rows" + (f" in {requests} requests" if requests else "")
    if any(read["mode"] == "incremental" for read in reads):
        told += ": " + ", ".join(f"{count:,} {what}" for what, count in zip(("new", "changed", "gone"), moved.values(), strict=True))
    return told


def _amount(row: Row) -> float:
    return float(row.get(AMOUNT, 0))


def _day(moment: datetime) -> str:
    return f"{moment:%A} {moment.day} {moment:%B %Y}"
