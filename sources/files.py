"""Tables in files: CSV, Excel, JSON, JSON Lines and Parquet at a path, a glob or an https address."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, ClassVar, Final, Literal, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from babel import Locale, UnknownLocaleError
from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from connector.api import Entity, Finding, Location, Model, NetworkConfig, Page, Record, Since
from connector.errors import ConnectorError, SourceError, TransientError, nearest
from connector.http import LOST, Session, host
from connector.model import ENTITIES
from sources.csv_files import open_csv
from sources.excel_files import open_excel
from sources.json_files import looks_like_lines, open_json
from sources.parquet_files import open_parquet

Format = Literal["csv", "excel", "json", "jsonl", "parquet"]
EXTENSIONS: Final[dict[str, Format]] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".json": "json", ".geojson": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
#: a text in `fields` that is a column's name rather than an expression
NAME: Final = re.compile(r"(?!(?:null|true|false)$)[^\W\d][\w.]*", re.IGNORECASE)
ORDERS: Final = ("iso", "day-first", "month-first")
DOWNLOADS: Final = 3  # times an interrupted download is begun again


class FileTable(Model):
    """A table in one file, or in several of the same kind."""

    path: Location = Field(description="Path, glob or https address. A relative path is relative to this YAML file.")
    format: Format | None = Field(None, description="Known from the name's ending or the content unless given.")
    sheet: str | None = Field(None, description="Sheet of an Excel file; the first unless given.")
    table: str | None = Field(None, description="Named table of an Excel file, instead of a sheet.")
    fields: Mapping[str, str] = Field({}, description="Canonical column: source column, or a SQL expression over source columns.")
    dates: str | Mapping[str, str] | None = Field(
        None, description="How dates are written: iso, day-first, month-first or a pattern such as %m/%d/%Y; or column → one of these."
    )
    locale: str | None = Field(None, description="How numbers and month names are written, e.g. en_US (1,234.56) or de_DE (1.234,56).")
    status: dict[Literal["won", "lost"], tuple[str, ...]] = Field(
        {}, description="Words of the status (or stage) column that mean won and lost; everything else is open."
    )
    where: str | None = Field(None, description="SQL condition over source columns; other rows are left out.")
    on_bad_value: Literal["error", "null"] | None = Field(
        "error", description="`error`: a value that cannot be read stops the run; `null`: it is left empty and counted."
    )
    key: str | tuple[str, ...] = Field((), description="Source column(s) that name a row, where it is not the canonical id.")
    header: int = Field(1, ge=1, description="Row of the column names.")
    encoding: str | None = Field(None, description="Encoding of a CSV file, e.g. cp1252; found out unless given.")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="Between the values of a CSV file; found out unless given.")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("locale")
    @classmethod
    def _known_locale(cls, value: str | None) -> str | None:
        try:
            Locale.parse(value.replace("-", "_")) if value else None
        except (UnknownLocaleError, ValueError) as error:
            raise ValueError(f"there is no locale {value!r}; a language and a country, such as en_US or de_DE") from error
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            codecs.lookup(value) if value else None
        except LookupError as error:
            raise ValueError(f"there is no encoding {value!r}; such as utf-8, utf-16 or cp1252") from error
        return value

    @field_validator("dates")
    @classmethod
    def _known_dates(cls, value: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
        for written in value.values() if isinstance(value, Mapping) else [value] if value else []:
            if written not in ORDERS and not _is_pattern(written):
                raise ValueError(f"{written!r} is neither a pattern such as %m/%d/%Y nor one of {', '.join(ORDERS)}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> FileTable:
        if self.sheet is not None and self.table is not None:
            raise ValueError("`sheet` and `table` exclude each other; a named table is found in whatever sheet it is")
        return self


class _ShortForm:
    """Tells editors that a plain string, the path, will do for a table."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "description": "Path, glob or https address."}, handler(core)]}


class FilesConfig(NetworkConfig):
    """Tables in files: exports, finance sheets and anything without an API."""

    type: Literal["files"] = "files"
    tables: Mapping[str, Annotated[FileTable, _ShortForm()]] = Field(
        min_length=1, description="Table → where it is. A canonical name joins the canonical model."
    )

    @model_validator(mode="after")
    def _known_fields(self) -> FilesConfig:
        wrong = [
            f"{name}.fields: no column {column!r} in {name}; {nearest(column, ENTITIES[name].names)}"
            for name, table in self.tables.items()
            if name in ENTITIES
            for column in table.fields
            if column not in ENTITIES[name].names
        ]
        if wrong:
            raise ValueError(" · ".join(wrong))
        return self


def _is_pattern(written: str) -> bool:
    if "%" not in written:
        return False
    try:
        datetime.strptime("", written)  # noqa: DTZ007 — only to learn whether the pattern is one
    except ValueError as error:
        return "bad directive" not in str(error) and "stray %" not in str(error)
    return True


class FilesSource:
    """Reads each table whole, unless no byte of its files has changed since the last run."""

    Config: ClassVar[type[FilesConfig]] = FilesConfig

    def __init__(self, config: FilesConfig, session: Session) -> None:
        self._config = config
        self._session = session

    def entities(self) -> tuple[Entity, ...]:
        return tuple(
            Entity(
                name=name,
                place=_name(table.path),
                fields=table.fields,
                key=(table.key,) if isinstance(table.key, str) else table.key,
                text=True,
                dates=table.dates,
                locale=table.locale,
                status={str(outcome): words for outcome, words in table.status.items()},
                where=table.where,
                on_bad_value=table.on_bad_value or "null",  # in YAML a bare null is no text
            )
            for name, table in self._config.tables.items()
        )

    def check(self) -> Iterator[Finding]:
        """One finding per table: its files are there and can be read, and hold the mapped columns."""
        for name, table in self._config.tables.items():
            what = f"{name}: {_name(table.path)}"
            try:
                with self._files(table) as (files, _):
                    columns = list(dict.fromkeys(column for file in files for column in _open(table, file).columns))
            except ConnectorError as error:
                yield Finding(what, ok=False, detail=str(error), remedy=error.remedy or "", exit_code=error.exit_code)
                continue
            folded = {column.casefold() for column in columns}
            missing = [written for written in table.fields.values() if NAME.fullmatch(written) and written.casefold() not in folded]
            if missing:
                detail = f"no column {', '.join(map(repr, missing))}; {nearest(missing[0], columns)}"
                remedy = "name the source's columns under `fields:`"
                yield Finding(what, ok=False, detail=detail, remedy=remedy, exit_code=SourceError.exit_code)
            else:
                yield Finding(what, ok=True, detail=f"{len(columns)} columns" + (f" in {len(files)} files" if len(files) > 1 else ""))

    def read(self, entity: Entity, since: Since) -> Iterator[Page]:
        """Every record, or one unchanged page when neither the files nor how they are read differ from `since`."""
        table = self._config.tables[entity.name]
        before = _Watermark.parse(since.watermark or "")
        options = _options(table)
        with self._files(table, before.tag if before.options == options else "") as (files, tag):
            states = [_state(file.path) for file in files]
            now = _Watermark(options, _content(files), tag) if files else before
            if (now.options, now.content) == (before.options, before.content):
                yield Page(unchanged=True, watermark=str(now))
                return
            readers = [_open(table, file) for file in files]
            total = sum(reader.rows for reader in readers if reader.rows is not None)
            yield Page(warnings=tuple(_notes(readers)), total=total if all(reader.rows is not None for reader in readers) else None)
            for reader in readers:
                for row, records in reader.batches():
                    yield Page(records=records, first_row=row, place=reader.name)
            if [_state(file.path) for file in files] != states:
                raise TransientError(f"{entity.place}: changed while it was read", remedy="the next run reads it again")
            yield Page(watermark=str(now))

    @contextmanager
    def _files(self, table: FileTable, tag: str = "") -> Iterator[tuple[list[_File], str]]:
        """The table's files on this machine, sorted by name, with the server's tag of a downloaded one.

        No files: what the server has is still what it was at `tag`.
        """
        if not _is_address(table.path):
            yield [_File(path, path.name) for path in _matching(Path(table.path))], ""
            return
        with TemporaryDirectory(prefix="connector-") as folder:
            target = Path(folder, "download")
            tag, changed = self._download(table.path, target, tag)
            yield [_File(target, _name(table.path))] if changed else [], tag

    def _download(self, address: str, target: Path, tag: str) -> tuple[str, bool]:
        """Bring the file unless the server says that it is as it was; returns its tag and whether it came."""
        kind, _, value = tag.partition("=")
        asked = {"etag": {"If-None-Match": value}, "date": {"If-Modified-Since": value}}.get(kind, {})
        where = f"{host(address)}/…/{_name(address)}"
        for attempt in range(1, DOWNLOADS + 1):
            with self._session.call("GET", address, where=where, headers=asked, stream=True) as answer:
                if answer.status_code == HTTPStatus.NOT_MODIFIED:
                    return tag, False
                try:
                    with target.open("wb") as file:
                        for chunk in answer.iter_content(1 << 20):
                            file.write(chunk)
                except LOST as error:
                    if attempt == DOWNLOADS:
                        raise TransientError(f"{where}: the download broke off", remedy="the next run tries again") from error
                    continue
                etag, date = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
                return (f"etag={etag}" if etag else f"date={date}" if date else ""), True
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class _File:
    """A file on this machine, and what people call it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class _Watermark:
    """What a read depended on: how the table is read, every byte of its files, and the server's word for a download."""

    options: str
    content: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> _Watermark:
        options, _, rest = text.partition(" ")
        content, _, tag = rest.partition(" ")
        return cls(options, content, tag)

    def __str__(self) -> str:
        return f"{self.options} {self.content} {self.tag}".rstrip()


class _Reader(Protocol):
    """A file understood. `batches` come with the row number a person gives the first record of each."""

    @property
    def name(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    def batches(self) -> Iterator[tuple[int, pa.RecordBatch | Sequence[Record]]]: ...


def _open(table: FileTable, file: _File) -> _Reader:
    kind = table.format or _format(file)
    if kind == "csv":
        return open_csv(file.path, file.name, encoding=table.encoding, delimiter=table.delimiter, header=table.header)
    if kind == "excel":
        return open_excel(file.path, file.name, sheet=table.sheet, table=table.table, header=table.header)
    if kind == "parquet":
        return open_parquet(file.path, file.name)
    return open_json(file.path, file.name, lines=kind == "jsonl")


def _format(file: _File) -> Format:
    """Binary formats by their first bytes, whatever they are called; text by its name's ending, else by how it begins."""
    with file.path.open("rb") as content:
        start = content.read(1 << 16)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return "excel"
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if text[:15].lower().startswith(("<!doctype html", "<html")):
        raise SourceError(
            f"{file.name}: is a web page, not a table",
            remedy="an address that needs a sign-in answers with its form: use one that gives the file",
        )
    if (known := EXTENSIONS.get(Path(file.name).suffix.lower())) is not None:
        return known
    if text.startswith("{") and looks_like_lines(text):
        return "jsonl"
    return "json" if text.startswith(("{", "[")) else "csv"


def _matching(path: Path) -> list[Path]:
    if path.is_dir():
        raise SourceError(f"{path}: is a folder", remedy=f"name a file in it, or a glob such as {path.name}/*.csv")
    if path.is_file():
        return [path]
    if not any(sign in str(path) for sign in "*?["):
        raise SourceError(f"{path}: no such file", remedy=_neighbours(path.parent, path.name))
    found = sorted(file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file())
    if not found:
        raise SourceError(f"{path}: no file matches", remedy=_neighbours(path.parent, path.name))
    return found


def _neighbours(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))[:20]
    return f"in {folder} {nearest(name, names)}"


def _is_address(path: str) -> bool:
    return path.startswith(("https://", "http://"))


def _name(path: str) -> str:
    """What people call a file: the last part of its path. The rest of an address may hold secrets."""
    return Path(unquote(urlsplit(path).path) if _is_address(path) else path).name


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _options(table: FileTable) -> str:
    return hashlib.sha256(table.model_dump_json(exclude={"path"}).encode()).hexdigest()[:16]


def _content(files: Sequence[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with file.path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _notes(readers: Sequence[_Reader]) -> Iterator[str]:
    """What the readers have to say, and which file of several lacks a column the others have."""
    everything = dict.fromkeys(column for reader in readers for column in reader.columns)
    for reader in readers:
        yield from reader.warnings
        if lacking := [column for column in everything if column not in reader.columns]:
            yield f"{reader.name}: no column {', '.join(map(repr, lacking))}; empty for its rows"
