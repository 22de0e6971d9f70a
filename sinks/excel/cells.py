"""Arrow columns to the XML of cells, a batch at a time, without a Python object per value.

A *tail* is what follows `<c r="B7" s="3"` in the sheet: ` t="inlineStr"><is><t>Acme</t></is></c>` or `><v>7</v></c>`; null where the cell is empty.
Texts are inline strings, so that sharedStrings.xml is never touched and nothing typed as text can become a formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from connector.errors import TargetError
from sinks.excel.references import letters
from sinks.excel.styles import Kind

MAX_TEXT: Final = 32_767  # UTF-16 units in a cell
MAX_DIGITS: Final = 10**15  # Excel keeps 15 significant digits
EPOCH_1900: Final = 25_569  # serial of 1970-01-01
EPOCH_1904: Final = 24_107
SPECIAL: Final = r"[&<>\x00-\x08\x0b-\x1f\x{FFFE}\x{FFFF}]|_x[0-9A-Fa-f]{4}_"
CONTROL: Final = r"[\x00-\x08\x0b-\x1f\x{FFFE}\x{FFFF}]"
CONTROLS: Final = (*range(9), *range(0x0B, 0x20), 0xFFFE, 0xFFFF)
SLICE_BYTES: Final = 8 << 20
SLICE_ROWS: Final = 8192


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ours: where its values come from, its heading, and what they mean. `unit_by` names the column with each row's unit."""

    name: str
    heading: str
    type: pa.DataType
    kind: Kind
    unit: str | None = None
    currency: str | None = None
    aliases: tuple[str, ...] = ()
    unit_by: str | None = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """What values need to become cells: the time zone people read, the workbook's epoch, and where warnings go."""

    timezone: ZoneInfo
    date1904: bool = False
    warn: Callable[[str], object] = print

    @property
    def epoch(self) -> int:
        return EPOCH_1904 if self.date1904 else EPOCH_1900


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns of a table as people will see them; headings are unique as Excel requires (regardless of case)."""
    taken: set[str] = set()
    columns = []
    for field in schema:
        meta = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        heading = _unique(_heading(meta.get("label") or field.name), taken)
        unit = meta.get("unit") or None
        kind = _kind(field.type, unit, field.name)
        columns.append(
            Column(field.name, heading, field.type, kind, unit, meta.get("currency") or None, (field.name,), meta.get("unit_by"))
        )
    return tuple(columns)


def _heading(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return plain[:255] or "Column"


def _unique(heading: str, taken: set[str]) -> str:
    name, count = heading, 1
    while name.casefold() in taken:
        count += 1
        name = f"{heading[:250]} {count}"
    taken.add(name.casefold())
    return name


def _kind(kind: pa.DataType, unit: str | None, name: str) -> Kind:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if unit in ("id", "text", "url"):
        return "text"
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "instant"
    if pa.types.is_time(kind):
        return "time"
    if pa.types.is_duration(kind):
        return "duration"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        raise TargetError(f"column {name!r} holds binary data, which a cell cannot", remedy="leave it out with `columns`")
    return "text"


def slices(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The rows in batches small enough that their XML stays within a few MB, whatever batches they come in."""
    for batch in reader:
        if not batch.num_rows:
            continue
        each = max(1, batch.nbytes // batch.num_rows)
        step = max(1, min(SLICE_ROWS, SLICE_BYTES // each))
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)


def tails(values: pa.Array, column: Column, rendering: Rendering, first_row: int) -> pa.Array:
    """The tails of one column's cells. `first_row` is the sheet row of the first value, for messages."""
    plain, textual = plain_values(values, column, rendering)
    if textual is True:
        return _text_tails(plain, column, first_row)
    typed = pc.binary_join_element_wise(' t="b"><v>' if column.kind == "flag" else "><v>", plain, "</v></c>", "")
    if textual is False:
        return typed
    return pc.if_else(textual, _text_tails(plain, column, first_row), typed)


def plain_values(values: pa.Array, column: Column, rendering: Rendering) -> tuple[pa.Array, pa.Array | bool]:
    """Each value as the sheet holds it, before escaping, and which of them are text (all, none or a mask)."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string()), True
    match column.kind:
        case "flag":
            return pc.if_else(values, "1", "0"), False
        case "number":
            return _numbers(values, column, rendering)
        case "date":
            return _days(values, column, rendering)
        case "instant":
            return _instants(values, column, rendering)
        case "time":
            parts = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}[values.type.unit]
            ticks = values.cast(pa.int32() if pa.types.is_time32(values.type) else pa.int64()).cast(pa.float64())
            return _decimal_text(pc.divide(ticks, float(parts))), False
        case "duration":
            parts = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}[values.type.unit]
            return _decimal_text(pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), float(parts))), False
        case "text":
            return _texts(values), True


def _texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_nested(kind):
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values.to_pylist()], pa.string())
    if pa.types.is_decimal(kind):
        return _trimmed(values.cast(pa.string()))
    if pa.types.is_boolean(kind):
        return pc.if_else(values, "TRUE", "FALSE")
    texts = values if pa.types.is_string(kind) else values.cast(pa.string())
    if pa.types.is_string(kind):
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:  # bytes that are not UTF-8, lone surrogates among them
            raw = texts.cast(pa.binary(), safe=False).to_pylist()
            texts = pa.array([None if value is None else _rescued(value) for value in raw], pa.string())
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def _rescued(value: bytes) -> str:
    """Text with lone surrogates spelled `_xD800_`, as Excel does; other stray bytes as U+FFFD."""
    try:
        text = value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace")
    return "".join(f"_x{ord(letter):04X}_" if 0xD800 <= ord(letter) < 0xE000 else letter for letter in text)


def _numbers(values: pa.Array, column: Column, rendering: Rendering) -> tuple[pa.Array, pa.Array | bool]:
    kind = values.type
    if pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        return pc.if_else(pc.is_finite(values), values.cast(pa.string()), pa.scalar(None, pa.string())), False
    if pa.types.is_decimal(kind):
        return _trimmed(values.cast(pa.string())), False
    span = pc.min_max(values).as_py()
    texts = values.cast(pa.string())
    if span["max"] is None or (span["max"] < MAX_DIGITS and span["min"] > -MAX_DIGITS):
        return texts, False
    rendering.warn(f"column {column.heading!r}: integers of more than 15 digits are written as text, because Excel would round them")
    return texts, pc.greater(pc.utf8_length(pc.utf8_ltrim(texts, "-")), 15)


def _trimmed(texts: pa.Array) -> pa.Array:
    """Decimal digits without the zeros that only the type's scale adds; exponents, which `cast` uses for tiny values, are legal in XML."""
    pattern = r"^(-?[0-9]+)(?:\.0+|(\.[0-9]*[1-9])0+)$"
    return pc.replace_substring_regex(texts, pattern, r"\1\2")


def _decimal_text(values: pa.Array) -> pa.Array:
    return values.cast(pa.string())


def _days(values: pa.Array, column: Column, rendering: Rendering) -> tuple[pa.Array, pa.Array | bool]:
    days = values.cast(pa.date32()).cast(pa.int32())
    return _serials(days, pc.strftime(values, format="%Y-%m-%d"), column, rendering)


def _instants(values: pa.Array, column: Column, rendering: Rendering) -> tuple[pa.Array, pa.Array | bool]:
    micros = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    if values.type.tz is not None:
        micros = pc.local_timestamp(micros.cast(pa.timestamp("us", rendering.timezone.key)))
    millis = pc.floor(pc.divide(pc.add(micros.cast(pa.int64()).cast(pa.float64(), safe=False), 500.0), 1000.0))
    return _serials(pc.divide(millis, 86_400_000.0), micros.cast(pa.string()), column, rendering)


def _serials(days: pa.Array, spelled: pa.Array, column: Column, rendering: Rendering) -> tuple[pa.Array, pa.Array | bool]:
    """Days since 1970 as Excel counts them. Its 1900 has a 29 February, and nothing precedes its epoch: earlier dates are text."""
    serial = pc.add(days, rendering.epoch)
    low = pc.min(serial).as_py()
    if low is None or (low >= 61 if not rendering.date1904 else low >= 0):
        return serial.cast(pa.string()), False
    if not rendering.date1904:
        serial = pc.if_else(pc.less(serial, 61), pc.subtract(serial, 1), serial)
    before = pc.less(serial, 0 if rendering.date1904 else 1)
    if pc.any(before).as_py():
        rendering.warn(f"column {column.heading!r}: dates before {'1904' if rendering.date1904 else '1900'} are written as text")
    return pc.if_else(before, spelled, serial.cast(pa.string())), before


def _text_tails(texts: pa.Array, column: Column, first_row: int) -> pa.Array:
    _check_length(texts, column, first_row)
    coded = texts.dictionary_encode()
    if len(coded.dictionary) * 4 < len(texts):
        return _wrapped(coded.dictionary).take(coded.indices)
    return _wrapped(texts)


def _wrapped(texts: pa.Array) -> pa.Array:
    spaced = pc.match_substring_regex(texts, r"^\s|\s$|[\n\t]|  ")
    start = ' t="inlineStr"><is><t>'
    opening = pc.if_else(spaced, ' t="inlineStr"><is><t xml:space="preserve">', start) if pc.any(spaced).as_py() else start
    return pc.binary_join_element_wise(opening, escaped(texts), "</t></is></c>", "")


def escaped(texts: pa.Array) -> pa.Array:
    """Text for XML; what XML cannot hold as `_xHHHH_`, and text that only looks like such an escape kept from being read as one."""
    if not pc.any(pc.match_substring_regex(texts, SPECIAL)).as_py():
        return texts
    if pc.any(pc.match_substring_regex(texts, r"_x[0-9A-Fa-f]{4}_")).as_py():
        # a surrogate can only stand here because _rescued spelled it; everything else that looks like an escape is protected
        texts = pc.replace_substring_regex(texts, r"_(x(?:[0-9A-CEFa-cef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2})_)", r"_x005F_\1")
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        texts = pc.replace_substring(texts, mark, entity)
    if pc.any(pc.match_substring_regex(texts, CONTROL)).as_py():
        for code in CONTROLS:
            texts = pc.replace_substring(texts, chr(code), f"_x{code:04X}_")
    return texts


def _check_length(texts: pa.Array, column: Column, first_row: int) -> None:
    lengths = pc.utf8_length(texts)
    longest = pc.max(lengths).as_py()
    if longest is None or longest * 2 <= MAX_TEXT:
        return
    for place in pc.indices_nonzero(pc.greater(pc.multiply(lengths, 2), MAX_TEXT)).to_pylist():
        units = len(texts[place].as_py().encode("utf-16-le")) // 2
        if units > MAX_TEXT:
            raise TargetError(
                f"row {first_row + place}, column {column.heading!r}: the text has {units:,} characters; a cell holds {MAX_TEXT:,}",
                remedy=f"shorten it with `sql: select left({column.name}, {MAX_TEXT}) …` or leave the column out",
            )


def joined(pieces: Sequence[pa.Array | str], count: int) -> pa.Array:
    """The pieces of each row put together; runs of constants are merged first. Nulls stand for nothing."""
    merged: list[pa.Array | str] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif not isinstance(piece, str) or piece:
            merged.append(piece)
    if not any(isinstance(piece, pa.Array) for piece in merged):
        return pa.array(["".join(str(piece) for piece in merged)] * count, pa.string())
    return pc.binary_join_element_wise(*merged, "", null_handling="replace", null_replacement="")


def cell_pieces(lead: str, column: int, style: int, rows: pa.Array, tail: pa.Array) -> list[pa.Array | str]:
    """The pieces of one column's cells in the sheet rows `rows` (as text), ready for `joined`."""
    start = f'<{lead}c r="{letters(column)}'
    if lead:
        tail = prefixed(tail, lead)
    if style:
        return [start, rows, f'" s="{style}"', tail if not tail.null_count else pc.fill_null(tail, "/>")]
    if not tail.null_count:
        return [start, rows, '"', tail]
    return [pc.binary_join_element_wise(start, rows, '"', tail, "")]


def prefixed(tail: pa.Array, lead: str) -> pa.Array:
    """Tails for a sheet whose elements carry a namespace prefix; only tags can hold a bare `<`."""
    return pc.replace_substring_regex(tail, r"<(/?)([a-z]+)", rf"<\1{lead}\2")


def xml_of(rows: pa.Array) -> memoryview:
    """The text of a whole array of rows, without copying."""
    if not len(rows):
        return memoryview(b"")
    offsets = memoryview(rows.buffers()[1]).cast("i")
    return memoryview(rows.buffers()[2]).cast("B")[offsets[rows.offset] : offsets[rows.offset + len(rows)]]
