"""A colleague who works in the workbook: notes beside deals, a pivot and a chart of their own, and the file open for hours.

What they do is done to the file in the OneDrive folder, part by part, as their Excel would save it: nothing of it goes through the product.
"""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from connector.sandbox import colleague_parts as parts
from connector.sandbox.microsoft365.files import Drive, Item

MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATIONSHIPS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
ROW: Final = re.compile(r'(<row r="(\d+)"[^>]*?)(/>|>(.*?)</row>)', re.DOTALL)
STAMP: Final = (2026, 1, 1, 0, 0, 0)
NOTE: Final = "Note"
AMOUNT: Final = "Amount (reporting currency)"
OPEN: Final = "Open?"

Row = Mapping[str, str]


class Package:
    """The parts of a workbook, to look into and to add to."""

    def __init__(self, file: Path) -> None:
        with zipfile.ZipFile(file) as package:
            self.parts = {name: package.read(name) for name in package.namelist()}

    def save(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
            for name, data in self.parts.items():
                package.writestr(zipfile.ZipInfo(name, STAMP), data, zipfile.ZIP_DEFLATED)

    def text(self, part: str) -> str:
        return self.parts[part].decode()

    def edit(self, part: str, pattern: str, new: str | Callable[[re.Match[str]], str]) -> None:
        """Replace the first match. Raises LookupError where there is none: the workbook is not what it was thought to be."""
        text, count = re.subn(pattern, new, self.text(part), count=1, flags=re.DOTALL)
        if not count:
            raise LookupError(f"{part}: nothing matches {pattern}")
        self.parts[part] = text.encode()

    def add(self, part: str, text: str, content_type: str) -> None:
        self.parts[part] = text.encode()
        override = f'<Override PartName="/{part}" ContentType="{content_type}"/></Types>'
        self.edit("[Content_Types].xml", "</Types>", lambda _: override)

    def relate(self, part: str, kind: str, target: str) -> str:
        """A relationship from one part to another; its id."""
        path = PurePosixPath(part)
        rels = f"{path.parent}/_rels/{path.name}.rels"
        if rels not in self.parts:
            self.parts[rels] = parts.NO_RELATIONSHIPS.encode()
        known = [int(number) for number in re.findall(r'Id="rId(\d+)"', self.text(rels))]
        identifier = f"rId{max(known, default=0) + 1}"
        line = f'<Relationship Id="{identifier}" Type="{RELATIONSHIPS}/{kind}" Target="{relpath(target, str(path.parent))}"/>'
        self.edit(rels, "</Relationships>", lambda _: f"{line}</Relationships>")
        return identifier

    def table(self, name: str) -> tuple[str, str]:
        """The part of the table of that name, and of the sheet it is on."""
        part = next(part for part in self.parts if "/tables/" in part and f'displayName="{name}"' in self.text(part))
        tail = f"/{PurePosixPath(part).name}"
        rels = next(rels for rels in self.parts if "/worksheets/_rels/" in rels and f'{tail}"' in self.text(rels))
        return part, "xl/worksheets/" + PurePosixPath(rels).name.removesuffix(".rels")

    def free(self, pattern: str) -> str:
        """The first name of a pattern (`xl/charts/chart{}.xml`) that no part has."""
        number = 1
        while pattern.format(number) in self.parts:
            number += 1
        return pattern.format(number)


class Colleague:
    """One person with write access to one workbook of a drive."""

    def __init__(self, name: str, email: str, drive: Drive, path: str) -> None:
        self.made: dict[str, bytes] = {}  # parts that were not there before
        self.name = name
        self.email = email
        self.drive = drive
        self.path = path
        self.first_name = name.partition(" ")[0]
        self.sheet = f"Review by {self.first_name}"

    @property
    def item(self) -> Item:
        item = self.drive.find(self.path)
        if item is None:
            raise LookupError(f"there is no {self.path}")
        return item

    def open(self) -> None:
        """Excel locks the file for others until it is closed."""
        self.drive.open_in_excel(self.item, self.email, minutes=8 * 60)

    @property
    def has_it_open(self) -> bool:
        return self.drive.lock(self.item) is not None

    def close(self) -> None:
        self.drive.close_in_excel(self.item)

    def deals(self) -> list[Row]:
        """The rows of the table Deals by heading."""
        return rows_of(self.item.path, "Deals")

    def note(self, notes: Mapping[str, str]) -> None:
        """Write beside deals, by their id, in a column of their own at the right end of the table."""

        def write(package: Package) -> None:
            table, sheet = package.table("Deals")
            headings = _headings(package, table)
            if NOTE not in headings:
                _add_column(package, table, sheet, headings)
            first = _letters(headings.index("Deal ID") + 1)
            cell = rf'<c r="{first}(\d+)"[^>]*><is><t>([^<]*)</t>'
            ids = {deal: int(number) for number, deal in re.findall(cell, package.text(sheet))}
            place = _letters(_headings(package, table).index(NOTE) + 1)
            _write_cells(package, sheet, place, {ids[deal]: text for deal, text in notes.items()})

        self._save(write)

    def review(self, goals: Mapping[str, int]) -> None:
        """Make a sheet of their own: a pivot over the table Deals, a table of goals by team beside what is open, and a chart of the two."""
        self._save(lambda package: _add_review(package, self.sheet, goals))

    def _save(self, change: Callable[[Package], None]) -> None:
        """One new version of the file, in the colleague's name."""
        item = self.item
        package = Package(item.path)
        before = set(package.parts)
        change(package)
        self.made |= {name: data for name, data in package.parts.items() if name not in before}
        file = self.drive.history / f"{self.name}.xlsx"
        file.parent.mkdir(parents=True, exist_ok=True)
        package.save(file)
        self.drive.put(item, file, {"user": {"displayName": self.name, "email": self.email}})


def rows_of(workbook: Path, table: str) -> list[Row]:
    """The rows of a table by heading, every value as the file spells it; missing ones are left out."""
    package = Package(workbook)
    return _rows(package, *package.table(table))


def _rows(package: Package, table: str, sheet: str) -> list[Row]:
    headings = _headings(package, table)
    places = {_letters(number): heading for number, heading in enumerate(headings, start=1)}
    found: list[Row] = []
    for row in ET.fromstring(package.parts[sheet]).iterfind(f"{MAIN}sheetData/{MAIN}row"):  # noqa: S314  our own file
        cells = {}
        for cell in row:
            heading = places.get(cell.get("r", "").rstrip("0123456789"))
            text = "".join(cell.itertext())
            if heading and text:
                cells[heading] = text
        found.append(cells)
    return found[1:]


def _headings(package: Package, table: str) -> list[str]:
    columns = ET.fromstring(package.parts[table]).iterfind(f".//{MAIN}tableColumn")  # noqa: S314  our own file
    return [column.get("name", "") for column in columns]


def _letters(number: int) -> str:
    """The letters of a column: 1 is A, 27 is AA."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


# ── the note column ───────────────────────────────────────────────────────────────────────────────


def _add_column(package: Package, table: str, sheet: str, headings: Sequence[str]) -> None:
    last, place = _letters(len(headings)), _letters(len(headings) + 1)
    wider = package.text(table).replace(f":{last}", f":{place}")
    wider = wider.replace(f'<tableColumns count="{len(headings)}">', f'<tableColumns count="{len(headings) + 1}">')
    column = f'<tableColumn id="{len(headings) + 1}" name="{NOTE}"/></tableColumns>'
    package.parts[table] = wider.replace("</tableColumns>", column).encode()
    package.edit(sheet, f'(<dimension ref="A1:){last}', rf"\g<1>{place}")
    package.edit(sheet, "</cols>", f'<col min="{len(headings) + 1}" max="{len(headings) + 1}" width="46" customWidth="1"/></cols>')
    _write_cells(package, sheet, place, {1: NOTE})


def _write_cells(package: Package, sheet: str, place: str, texts: Mapping[int, str]) -> None:
    """Texts into cells of the last column, formatted as the cell beside them."""

    def written(match: re.Match[str]) -> str:
        number = int(match[2])
        if number not in texts:
            return match[0]
        cells = re.sub(rf'<c r="{place}{number}"[^>]*?(/>|>.*?</c>)', "", match[4] or "", flags=re.DOTALL)
        beside = re.findall(r'<c r="[A-Z]+\d+"(?: s="(\d+)")?', cells)
        cell = f'<c r="{place}{number}" s="{beside[-1] or 0}" t="inlineStr"><is><t>{escape(texts[number])}</t></is></c>'
        return f"{match[1]}>{cells}{cell}</row>"

    package.parts[sheet] = ROW.sub(written, package.text(sheet)).encode()


# ── a sheet of their own ──────────────────────────────────────────────────────────────────────────


def _add_review(package: Package, name: str, goals: Mapping[str, int]) -> None:
    table, deals = package.table("Deals")
    headings = _headings(package, table)
    rows = _rows(package, table, deals)
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        sums[row["Team"], row["Status"]] += float(row.get(AMOUNT, 0))
    teams, statuses = (sorted({key[place] for key in sums}) for place in (0, 1))
    formats = _formats(package, deals, headings)

    sheet = package.free("xl/worksheets/sheet{}.xml")
    chart = package.free("xl/charts/chart{}.xml")
    drawing = package.free("xl/drawings/drawing{}.xml")
    pivot = package.free("xl/pivotTables/pivotTable{}.xml")
    cache = package.free("xl/pivotCache/pivotCacheDefinition{}.xml")
    still_open = {team: sum(float(row.get(AMOUNT, 0)) for row in rows if row["Team"] == team and row[OPEN] == "1") for team in teams}
    goal_rows = [(team, still_open[team], goals[team]) for team in teams]
    package.add(chart, parts.chart(name, goal_rows), parts.CHART_TYPE)
    package.add(drawing, parts.drawing(package.relate(drawing, "chart", chart)), parts.DRAWING_TYPE)
    package.add(cache, parts.pivot_cache("Deals", headings, {"Team": teams, "Status": statuses}, AMOUNT, rows), parts.CACHE_TYPE)
    package.add(pivot, parts.pivot_table(headings, "Team", "Status", AMOUNT, teams, statuses), parts.PIVOT_TYPE)
    package.relate(pivot, "pivotCacheDefinition", cache)
    drawn = package.relate(sheet, "drawing", drawing)
    package.relate(sheet, "pivotTable", pivot)
    package.add(sheet, parts.sheet(name, formats, teams, statuses, sums, goal_rows, drawn), parts.SHEET_TYPE)

    book = "xl/workbook.xml"
    number = max(map(int, re.findall(r'sheetId="(\d+)"', package.text(book)))) + 1
    entry = f'<sheet name="{escape(name)}" sheetId="{number}" r:id="{package.relate(book, "worksheet", sheet)}"/></sheets>'
    package.edit(book, "</sheets>", entry)
    caches = f'<pivotCaches><pivotCache cacheId="1" r:id="{package.relate(book, "pivotCacheDefinition", cache)}"/></pivotCaches>'
    package.edit(book, "(<calcPr[^>]*/>)", rf"\g<1>{caches}")


def _formats(package: Package, deals: str, headings: Sequence[str]) -> parts.Formats:
    """The formats that other sheets of the workbook use, taken over with the format painter."""
    _, overview = package.table("AsOf")

    def style(sheet: str, cell: str) -> str:
        found = re.search(rf'<c r="{cell}" s="(\d+)"', package.text(sheet))
        return found[1] if found else "0"

    money = _letters(headings.index(AMOUNT) + 1)
    return parts.Formats(
        title=style(overview, "B2"), small=style(overview, "B3"), heading=style(deals, "A1"), text=style(deals, "A2"),
        money=style(deals, f"{money}2"),
    )  # fmt: skip
