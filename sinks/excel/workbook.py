"""The workbook's own parts: sheets, names, relationships, content types; and adding to them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from connector.errors import TargetError
from sinks.excel.markup import (
    DECLARATION,
    MAIN,
    PACKAGE_RELATIONS,
    RELATIONS,
    Edits,
    Element,
    attribute,
    damaged,
    parse,
    prefix,
    utf8,
)
from sinks.excel.package import Package, Written
from sinks.excel.table import Table

TYPES: Final = "[Content_Types].xml"
SHEET_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
TABLE_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.table+xml"
PLAIN_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
MACRO_TYPE: Final = "application/vnd.ms-excel.sheet.macroEnabled.main+xml"
MAIN_TYPES: Final = {
    PLAIN_TYPE,
    MACRO_TYPE,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.template.main+xml",
    "application/vnd.ms-excel.template.macroEnabled.main+xml",
}
SIGNATURE: Final = "http://schemas.openxmlformats.org/package/2006/relationships/digital-signature/origin"
MAX_SMALL: Final = 32 << 20
REMEMBERED: Final = 1 << 20  # relationships are as many as links on the sheet


@dataclass(frozen=True, slots=True)
class Relation:
    id: str
    type: str
    target: str
    external: bool = False

    @property
    def kind(self) -> str:
        """The last word of the type: `worksheet`, `table`, `calcChain`."""
        return self.type.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A worksheet of the workbook. `index` counts all sheets, as `localSheetId` does."""

    name: str
    part: str
    index: int


class Workbook:
    """A package seen as a workbook. Raises TargetError for what is not one, and for what we must not touch."""

    def __init__(self, package: Package, *, break_signature: bool = False) -> None:
        self.package = package
        self._tables: list[tuple[Sheet, Table]] | None = None
        self._relations: dict[str, tuple[bytes, list[Relation]]] = {}  # what was read of small parts that are asked for again and again
        self._read: dict[str, tuple[bytes, Table]] = {}
        if TYPES not in package:
            raise TargetError("the file is not an Excel workbook (it has no content types)", remedy="name an .xlsx or .xlsm file in `path`")
        self.part = self._main()
        self._check_signature(break_signature)
        self.folder = posixpath.dirname(self.part)
        root = self.read(self.part)
        if root.space != MAIN or root.name != "workbook":
            raise damaged(self.part, "it does not describe a workbook")
        properties = root.find("workbookPr")
        self.date1904 = bool(properties) and properties is not None and properties.get("date1904") in ("1", "true")
        protection = root.find("workbookProtection")
        self.locked = bool(protection) and protection is not None and protection.get("lockStructure") in ("1", "true")
        self.sheets = list(self._sheets(root))

    # ── reading ──

    def data(self, part: str, limit: int = MAX_SMALL) -> bytes:
        return utf8(self.package.read(part, limit), part)

    def read(self, part: str) -> Element:
        return parse(self.data(part), part)

    def relations(self, part: str) -> list[Relation]:
        """What a part refers to; parts within the package by their full name."""
        holder = relations_part(part)
        if holder not in self.package:
            return []
        data = self.data(holder)
        known = self._relations.get(holder)
        if known is None or known[0] != data:
            known = (data, self._related(part, parse(data, holder)))
            if len(data) <= REMEMBERED:
                self._relations[holder] = known
        return known[1]

    def _related(self, part: str, root: Element) -> list[Relation]:
        base = posixpath.dirname(part)
        relations = []
        for element in root.children:
            external = element.get("TargetMode") == "External"
            target = element.get("Target")
            if not external:
                target = posixpath.normpath(posixpath.join("/", base, target)).lstrip("/")
            relations.append(Relation(element.get("Id"), element.get("Type"), target, external))
        return relations

    def _main(self) -> str:
        found = [relation for relation in self.relations("") if relation.kind == "officeDocument"]
        if any(relation.type.startswith("http://purl.oclc.org/") for relation in found):
            raise TargetError(
                "the workbook is saved in the Strict Open XML format",
                remedy="save it in Excel as “Excel Workbook (*.xlsx)” instead of Strict",
            )
        if not found or found[0].target not in self.package:
            raise TargetError("the file is not an Excel workbook (it has no main part)", remedy="name an .xlsx or .xlsm file in `path`")
        part = self.package.proper(found[0].target)
        kind = self.content_type(part)
        if kind not in MAIN_TYPES:
            binary = "an .xlsb workbook" if "binary" in kind else "not an Excel workbook"
            raise TargetError(f"the file is {binary}", remedy="save it as .xlsx or .xlsm in Excel")
        return part

    def content_type(self, part: str) -> str:
        root = self.read(TYPES)
        for element in root.all("Override"):
            if element.get("PartName").lstrip("/").casefold() == part.casefold():
                return element.get("ContentType")
        extension = part.rpartition(".")[2].casefold()
        return next((e.get("ContentType") for e in root.all("Default") if e.get("Extension").casefold() == extension), "")

    def _sheets(self, root: Element) -> Iterator[Sheet]:
        relations = {relation.id: relation for relation in self.relations(self.part)}
        holder = root.find("sheets")
        for index, element in enumerate(holder.all("sheet") if holder else []):
            relation = relations.get(element.get(f"{{{RELATIONS}}}id"))
            if relation is None:
                raise damaged(self.part, f"sheet {element.get('name')!r} refers to nothing")
            if relation.kind == "worksheet":
                if relation.target not in self.package:
                    raise damaged(self.part, f"the part of sheet {element.get('name')!r} is missing")
                yield Sheet(element.get("name"), self.package.proper(relation.target), index)

    def sheet(self, name: str) -> Sheet | None:
        return next((sheet for sheet in self.sheets if sheet.name.casefold() == name.casefold()), None)

    def tables(self) -> list[tuple[Sheet, Table]]:
        """Every table of the workbook with its sheet."""
        if self._tables is None:
            self._tables = [
                (sheet, self._table(part))
                for sheet in self.sheets
                for relation in self.relations(sheet.part)
                if relation.kind == "table" and not relation.external and (part := self.package.proper(relation.target))
            ]
        return self._tables

    def _table(self, part: str) -> Table:
        data = self.data(part)
        known = self._read.get(part)
        if known is None or known[0] != data:
            known = self._read[part] = (data, Table(data, part))
        return known[1]

    def names(self) -> list[tuple[str, str, int | None]]:
        """Defined names: name, formula, index of the sheet they belong to."""
        holder = self.read(self.part).find("definedNames")
        return [
            (element.get("name"), element.text, int(local) if (local := element.get("localSheetId")).isdecimal() else None)
            for element in (holder.children if holder else [])
        ]

    # ── changing ──

    def put(self, part: str, data: bytes | Written) -> None:
        self.package.put(part, data)
        if self._tables is not None and (part.endswith(".rels") or any(table.part == part for _, table in self._tables)):
            self._tables = None

    def add_type(self, part: str, kind: str) -> None:
        data = self.data(TYPES)
        root, edits = parse(data, TYPES), Edits(data)
        edits.append(root, b"<%sOverride PartName=%s ContentType=%s/>" % (prefix(data, root), attribute("/" + part), attribute(kind)))
        self.put(TYPES, edits.result())

    def add_relation(self, part: str, kind: str, target: str) -> str:
        """Relate `part` to the part `target`; the new relationship's id."""
        holder = relations_part(part)
        path = posixpath.relpath("/" + target, posixpath.join("/", posixpath.dirname(part)))
        kind = f"{RELATIONS}/{kind}"
        if holder not in self.package:
            data = DECLARATION + b'<Relationships xmlns="%s"></Relationships>' % PACKAGE_RELATIONS.encode()
        else:
            data = self.data(holder)
        root, edits = parse(data, holder), Edits(data)
        taken = {element.get("Id") for element in root.children}
        new = next(f"rId{n}" for n in range(1, len(taken) + 2) if f"rId{n}" not in taken)
        entry = b"<%sRelationship Id=%s Type=%s Target=%s/>" % (prefix(data, root), attribute(new), attribute(kind), attribute(path))
        edits.append(root, entry)
        self.put(holder, edits.result())
        return new

    def become(self, kind: str) -> None:
        """Say in the content types what the workbook is (`PLAIN_TYPE`, `MACRO_TYPE`): Excel opens no file whose name says otherwise."""
        data = self.data(TYPES)
        edits = Edits(data)
        for element in parse(data, TYPES).all("Override"):
            if element.get("PartName").lstrip("/").casefold() == self.part.casefold():
                edits.set(element, "ContentType", kind)
        if edits:
            self.put(TYPES, edits.result())

    def remove_part(self, owner: str, part: str) -> None:
        """Remove a part, its entry in the content types and the owner's relationship to it."""
        holder = relations_part(owner)
        base = posixpath.dirname(owner)
        data = self.data(holder)
        edits = Edits(data)
        for element in parse(data, holder).children:
            if posixpath.normpath(posixpath.join("/", base, element.get("Target"))).lstrip("/").casefold() == part.casefold():
                edits.remove(element)
        self.put(holder, edits.result())
        data = self.data(TYPES)
        edits = Edits(data)
        for element in parse(data, TYPES).all("Override"):
            if element.get("PartName").lstrip("/").casefold() == part.casefold():
                edits.remove(element)
        self.put(TYPES, edits.result())
        self.package.remove(part)

    def add_sheet(self, wanted: str, data: bytes) -> Sheet:
        """A worksheet at the end of the workbook, under `wanted` or the nearest name that is free."""
        if self.locked:
            raise TargetError(
                f"the workbook's structure is protected, so sheet {wanted!r} cannot be added",
                remedy="unprotect it in Excel (Review → Protect Workbook), or add the sheet by hand",
            )
        name = self._free_sheet_name(wanted)
        part = self.free_part(f"{self.folder}/worksheets/sheet%d.xml".lstrip("/"))
        self.package.put(part, data)
        self.add_type(part, SHEET_TYPE)
        relation = self.add_relation(self.part, "worksheet", part)
        book = self.data(self.part)
        root, edits = parse(book, self.part), Edits(book)
        holder = root.find("sheets")
        assert holder is not None, "a workbook has sheets"
        ids = [int(element.get("sheetId")) for element in holder.children if element.get("sheetId").isdecimal()]
        entry = b'<%ssheet xmlns:r="%s" name=%s sheetId="%d" r:id=%s/>' % (
            prefix(book, root),
            RELATIONS.encode(),
            attribute(name),
            max(ids, default=0) + 1,
            attribute(relation),
        )
        if re.search(rb'xmlns:r\s*=\s*["\']' + RELATIONS.encode(), book[root.start : root.inner]):
            entry = entry.replace(b' xmlns:r="%s"' % RELATIONS.encode(), b"")
        edits.append(holder, entry)
        self.put(self.part, edits.result())
        sheet = Sheet(name, part, len(holder.children))
        self.sheets.append(sheet)
        return sheet

    def free_table_name(self, wanted: str) -> str:
        taken = {table.name.casefold() for _, table in self.tables()} | {name.casefold() for name, _, _ in self.names()}
        name, count = wanted, 1
        while name.casefold() in taken:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def free_table_part(self) -> tuple[str, int]:
        """A part name and an id no other table has."""
        number = max((table.id for _, table in self.tables()), default=0) + 1
        return self.free_part(f"{self.folder}/tables/table%d.xml".lstrip("/")), number

    def free_part(self, pattern: str) -> str:
        number = 1
        while pattern % number in self.package:
            number += 1
        return pattern % number

    def _free_sheet_name(self, wanted: str) -> str:
        root = self.read(self.part).find("sheets")
        taken = {element.get("name").casefold() for element in (root.children if root else [])}
        plain = re.sub(r"[\\/?*\[\]:]", " ", wanted).strip().strip("'") or "Sheet"
        name, count = plain[:31], 1
        while name.casefold() in taken:
            count += 1
            name = f"{plain[: 30 - len(str(count))]} {count}"
        return name

    def recalculate(self) -> None:
        """Have Excel calculate everything when it opens the file."""
        data = self.data(self.part)
        root, edits = parse(data, self.part), Edits(data)
        calculation = root.find("calcPr")
        if calculation:
            edits.set(calculation, "fullCalcOnLoad", "1")
        else:
            following = {"oleSize", "customWorkbookViews", "pivotCaches", "smartTagPr", "smartTagTypes", "webPublishing", "fileRecoveryPr",
                         "webPublishObjects", "extLst"}  # fmt: skip
            after = [element for element in root.children if element.name not in following and element.space == MAIN]
            edits.after(after[-1], b'<%scalcPr fullCalcOnLoad="1"/>' % prefix(data, root))
        self.put(self.part, edits.result())

    def drop_calculation_chain(self) -> None:
        """The chain lists cells with formulas; one that no longer has any makes Excel repair the file. Excel builds it anew."""
        for relation in self.relations(self.part):
            if relation.kind == "calcChain" and relation.target in self.package:
                self.remove_part(self.part, self.package.proper(relation.target))

    def _check_signature(self, break_signature: bool) -> None:
        signed = [relation for relation in self.relations("") if relation.type == SIGNATURE]
        if not signed:
            return
        if not break_signature:
            raise TargetError(
                "the workbook is digitally signed; any change would break the signature",
                remedy="set `break_signature: true` to drop the signature, or deliver to an unsigned copy",
            )
        for relation in signed:
            for inner in self.relations(relation.target):
                if not inner.external and inner.target in self.package:
                    self.remove_part(relation.target, self.package.proper(inner.target))
            holder = relations_part(relation.target)
            if holder in self.package:
                self.package.remove(holder)
            self.remove_part("", self.package.proper(relation.target))


def relations_part(part: str) -> str:
    folder, name = posixpath.split(part)
    return posixpath.join(folder, "_rels", f"{name}.rels")
