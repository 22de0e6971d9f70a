"""CSV as programs and people write it: encoding, delimiter and line ends found out, every column read as text.

The file is surveyed once for what would spoil a read half-way (bytes that are not of the encoding, NUL bytes, a line without end),
then streamed in blocks by Arrow, so that memory does not depend on the file's size.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pc
from charset_normalizer import from_bytes

from connector.errors import ConfigError, SourceError

BLOCK: Final = 1 << 20
LONGEST_LINE: Final = 1 << 20
DELIMITERS: Final = (",", ";", "\t", "|")
_NAMES: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
#: what exports are written in; told apart on a sample of the lines that are not ASCII
_LEGACY: Final = ["cp1252", "cp1250", "cp1251", "gb18030", "big5", "shift_jis", "euc_kr", "cp1253", "cp1254", "cp1255", "cp1256"]
_LATIN: Final = frozenset({"cp1252", "cp1250", "cp1254", "latin_1"})


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file understood: how it is written, and the columns its header (row `header`, from 1) names."""

    path: Path
    name: str
    encoding: str
    delimiter: str
    header: int
    columns: tuple[str, ...]
    warnings: tuple[str, ...]
    _header_lines: int
    _more: bool  # something follows the header
    rows: None = None  # known when it is read

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of text columns, each with the row number a spreadsheet shows for its first record. Raises SourceError."""
        refused: list[pc.InvalidRow] = []

        def refuse(row: pc.InvalidRow) -> str:
            refused.append(row)
            return "error"

        schema = pa.schema([pa.field(name, pa.string()) for name in self.columns])
        yield self.header + 1, pa.RecordBatch.from_pylist([], schema=schema)
        if not self._more:
            return
        row = self.header + 1
        try:
            reader = pc.open_csv(
                self.path,
                pc.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    skip_rows=self._header_lines,
                    column_names=self.columns,
                    encoding="utf8" if self.encoding == "utf-8-sig" else self.encoding,  # the mark stands in the header, which is skipped
                ),
                pc.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=refuse),
                pc.ConvertOptions(column_types=schema, strings_can_be_null=False, check_utf8=False),
            )
            for batch in reader:
                yield row, batch
                row += batch.num_rows
        except pa.ArrowInvalid as error:
            if refused:
                wrong = refused[0]
                raise SourceError(
                    f"{self.name}: row {wrong.number} has {wrong.actual_columns} values, the header has {wrong.expected_columns}",
                    remedy=f"put quotes around values that hold {_NAMES.get(self.delimiter, self.delimiter)}, or say `delimiter:`",
                ) from error
            raise SourceError(
                f"{self.name}: after row {row - 1} comes a row longer than {BLOCK >> 20} MB",
                remedy="close the quotes that a value opens; end rows with a line end",
            ) from error


def open_csv(path: Path, name: str, *, encoding: str | None = None, delimiter: str | None = None, header: int = 1) -> CsvFile:
    """Find out how a CSV file is written. Raises SourceError when it is not a table of text, ConfigError for an unknown encoding."""
    survey = _Survey(path, name, encoding)
    try:
        with path.open(encoding=survey.encoding, newline="") as file:
            sample = file.read(1 << 16)
            if not sample.strip():
                raise SourceError(f"{name}: the file is empty", remedy="export it again")
            found = delimiter or _delimiter(sample)
            file.seek(0)
            rows = csv.reader(file, delimiter=found)
            names: list[str] = []
            for _ in range(header):
                names = next(rows, [])
            lines = rows.line_num
            more = next(rows, None) is not None
        if survey.odd_quotes:
            _refuse_open_quote(path, name, survey.encoding, found)
    except csv.Error as error:
        raise SourceError(f"{name}: the header cannot be read: {error}", remedy="is it a CSV file?") from error
    return CsvFile(path, name, survey.encoding, found, header, header_names(names, name, header), survey.warnings, lines, more)


def header_names(names: Sequence[object], place: str, row: int) -> tuple[str, ...]:
    """Column names of a header row, trimmed; one without a name is `column_3` after its place. Raises SourceError for a name given twice."""
    trimmed = [str(name if name is not None else "").strip() or f"column_{index}" for index, name in enumerate(names, 1)]
    if all(name is None or not str(name).strip() for name in names):
        raise SourceError(f"{place}: row {row} has no column names", remedy="say in which row the header stands: `header: 3`")
    first: dict[str, int] = {}
    for index, name in enumerate(trimmed, 1):
        if first.setdefault(name, index) != index:
            raise SourceError(
                f"{place}: columns {first[name]} and {index} have the same name {name!r}", remedy="give each column a name of its own"
            )
    return tuple(trimmed)


class _Survey:
    """One pass over the bytes: the encoding, and what no reader could make sense of. Raises SourceError."""

    def __init__(self, path: Path, name: str, declared: str | None) -> None:
        self.warnings: tuple[str, ...] = ()
        self.odd_quotes = False
        self._path = path
        self._name = name
        with path.open("rb") as file:
            start = file.read(1 << 12)
        self.encoding = declared or _marked(start) or "utf-8"
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ConfigError(f"encoding: there is no encoding {self.encoding!r}", remedy="such as utf-8, utf-16 or cp1252") from error
        wrong = self._read()
        if wrong is None:
            return
        if declared or self.encoding != "utf-8":
            raise SourceError(
                f"{name}: byte {wrong:,} (line {self._line(wrong)}) is not {self.encoding}",
                remedy="leave `encoding:` out to have it found, or name the right one, such as utf-8 or cp1252",
            )
        self.encoding = _legacy(path, wrong)
        self.warnings = (f"{name}: not UTF-8 (byte {wrong:,}); read as {self.encoding}; `encoding:` says it for certain",)
        if (wrong := self._read()) is not None:
            raise SourceError(f"{name}: byte {wrong:,} (line {self._line(wrong)}) is in no known encoding", remedy="set `encoding:`")

    def _read(self) -> int | None:
        """The offset of the first byte that is not of the encoding, or None."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        single = not self.encoding.replace("_", "-").lower().startswith(("utf-16", "utf-32"))
        offset = quotes = line = 0
        with self._path.open("rb") as file:
            while True:
                chunk = file.read(1 << 20)
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    return offset - pending + error.start
                if single and (nul := chunk.find(0)) >= 0:
                    raise SourceError(
                        f"{self._name}: byte {offset + nul:,} (line {self._line(offset + nul)}) is NUL: a damaged or a binary file",
                        remedy="export it again; say `format:` if it is not CSV, `encoding: utf-16` if it is",
                    )
                if not chunk:
                    break
                line = 0 if ("\n" in text or "\r" in text) else line + len(text)
                if line >= LONGEST_LINE:
                    raise SourceError(
                        f"{self._name}: a line of more than {LONGEST_LINE >> 20} MB ends at no line end: not a CSV file",
                        remedy="export it again with line ends, or say `format:` if it is not CSV",
                    )
                quotes += text.count('"')
                offset += len(chunk)
        self.odd_quotes = quotes % 2 == 1
        return None

    def _line(self, offset: int) -> str:
        lines = 1
        with self._path.open("rb") as file:
            while offset > 0 and (chunk := file.read(min(offset, 1 << 20))):
                lines += chunk.count(b"\n")
                offset -= len(chunk)
        return f"{lines:,}"


def _marked(start: bytes) -> str | None:
    """The encoding a byte order mark gives away, or the zeros of UTF-16 without one."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    if len(start) >= 4 and start[1::2].count(0) > len(start) // 4 and not start[::2].count(0):
        return "utf-16-le"
    if len(start) >= 4 and start[::2].count(0) > len(start) // 4 and not start[1::2].count(0):
        return "utf-16-be"
    return None


def _legacy(path: Path, wrong: int) -> str:
    """The likeliest encoding of a file that is not UTF-8, judged by its lines from the first odd byte on that are not ASCII."""
    with path.open("rb") as file:
        file.seek(max(0, wrong - 200))
        sample = b"\n".join(line for line in file.read(1 << 18).splitlines() if not line.isascii())[: 1 << 14]
    best = from_bytes(sample, cp_isolation=_LEGACY).best()
    return "cp1252" if best is None or best.encoding in _LATIN else best.encoding


def _delimiter(sample: str) -> str:
    """The delimiter under which the most rows are as wide as the first, the wider the better; a comma for a single column."""

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        whole = widths[:-1] or widths  # the sample may end within a row
        alike = sum(width == whole[0] for width in whole) / len(whole)
        return (alike if whole[0] > 1 else 0, whole[0])

    best = max(DELIMITERS, key=fit)
    return best if fit(best)[0] else ","


def _refuse_open_quote(path: Path, name: str, encoding: str, delimiter: str) -> None:
    """A quote that is never closed swallows the rest of the file as one value; an odd quote within a value does not."""
    row = 0
    with path.open(encoding=encoding, newline="") as file:
        try:
            for row, _ in enumerate(csv.reader(file, delimiter=delimiter, strict=True), 1):  # noqa: B007
                pass
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise SourceError(f"{name}: row {row + 1} opens a quote that is never closed", remedy="close it") from error
