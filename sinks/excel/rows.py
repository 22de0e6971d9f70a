"""The rows of a refreshed table: our values, a teammate's cells carried along by key, and what stands beside the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from sinks.excel.cells import Column, Rendering, cell_pieces, joined, plain_values, slices, tails
from sinks.excel.markup import escaped
from sinks.excel.references import Move, carried, letters
from sinks.excel.region import Beside, Carried, Region, Slot, key_text
from sinks.excel.sheet import Cell, expanded

NOTHING: Final = Carried(0)
_FORMULA: Final = re.compile(rb"""<(?:[\w.-]+:)?f(?:\s(?:[^>"']|"[^"]*"|'[^']*')*?)?(?:/>|>.*?</(?:[\w.-]+:)?f\s*>)""", re.DOTALL)
_REFERENCE: Final = re.compile(rb"""(\sref\s*=\s*["'])([A-Z0-9:$]+)""")


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows on their way to the sheet: our values and where they go.

    For `upsert`, `old` is what stood in each row before (None: a new row), and `fresh` says which rows have new values.
    """

    first: int
    values: pa.RecordBatch
    old: Sequence[Carried | None] = ()
    fresh: Sequence[bool] = ()


class Composer:
    """Composes the text of the table's rows, a batch at a time."""

    def __init__(
        self,
        region: Region,
        styles: Mapping[int, int],
        rendering: Rendering,
        move: Move,
        recall: Callable[[str], Carried | None] | None,
        by_unit: Mapping[int, Mapping[str, int]] = {},
        heights: Callable[[pa.RecordBatch], Sequence[float]] | None = None,
        hidden: Sequence[Column] = (),
    ) -> None:
        self._region = region
        self._place = region.place
        self._styles = styles
        self._rendering = rendering
        self._move = move
        self._lead = region.lead
        self._recall = recall
        self._by_unit = by_unit
        self._heights = heights
        self._orphaning = region.orphaning
        self._used: dict[str, int] = {}
        #: old row → new row of every row that has something to carry
        self.went: dict[int, int] = {}
        #: the new row of every key of which something was remembered
        self.back: dict[str, int] = {}
        shown = [slot.ours for at in region.key_places for slot in region.place.slots if slot.place == at and slot.ours]
        self._key_columns = list(hidden) or shown

    def rows(self, batches: Iterator[Batch]) -> Iterator[tuple[int, pa.Array]]:
        """The first sheet row and the text of each row, batch by batch."""
        self._used, self.went, self.back = {}, {}, {}
        for batch in batches:
            yield batch.first, self._compose(batch)

    @property
    def seen(self) -> Collection[str]:
        """The keys of the rows that were composed, where anything was to go by them."""
        return self._used.keys()

    def left_behind(self) -> Iterator[tuple[str, Carried]]:
        """What belonged to rows that are no longer there, by key; once all rows are composed."""
        for key, known in self._region.carried.items():
            for row in list(known)[self._used.get(key, 0) :]:
                yield key, row

    def _compose(self, batch: Batch) -> pa.Array:
        count = batch.values.num_rows
        numbers = pa.array(range(batch.first, batch.first + count), pa.int32()).cast(pa.string())
        carried_rows = self._carried(batch)
        attributes: pa.Array | str = ""
        if self._heights:
            usual = [f' ht="{height:g}" customHeight="1"' for height in self._heights(batch.values)]
            own = [row.attributes.decode() for row in carried_rows] or usual
            attributes = pa.array([known or height for known, height in zip(own, usual, strict=True)], pa.string())
        elif carried_rows and any(row.attributes for row in carried_rows):
            attributes = pa.array([row.attributes.decode() for row in carried_rows], pa.string())
        attributes = self._grouped(attributes, batch.first, count)
        pieces: list[pa.Array | str] = [f'<{self._lead}row r="', numbers, '"', attributes, ">"]
        beside = [self._region.beside.get(row) for row in range(batch.first, batch.first + count)] if self._region.beside else []
        pieces.append(self._beside(beside, batch.first, left=True))
        for slot in self._place.slots:
            if slot.ours is not None:
                pieces += self._our_cells(slot, slot.ours, batch, numbers, carried_rows)
            else:
                pieces += self._their_cells(slot, batch.first, numbers, carried_rows)
        pieces.append(self._beside(beside, batch.first, left=False))
        pieces.append(f"</{self._lead}row>")
        return joined(pieces, count)

    def _grouped(self, attributes: pa.Array | str, first: int, count: int) -> pa.Array | str:
        """The rows' attributes, with the outline level of the rows they now stand in where they have brought none along."""
        levels = [self._region.grouped.get(row, "") for row in range(first, first + count)] if self._region.grouped else []
        if not any(levels):
            return attributes
        known = [attributes] * count if isinstance(attributes, str) else attributes.to_pylist()
        return pa.array([own if "outlineLevel" in own else own + level for own, level in zip(known, levels, strict=True)], pa.string())

    def _carried(self, batch: Batch) -> list[Carried]:
        """For each row what goes along with it; empty when nothing in the table does."""
        if batch.old:
            return [row or NOTHING for row in batch.old]
        if not self._region.carried and self._recall is None:
            return []
        rows = []
        for place, key in enumerate(self._keys(batch), batch.first):
            at = self._used.get(key, 0)
            self._used[key] = at + 1
            known = self._region.carried.get(key, ())
            if at < len(known):
                self.went[known[at].row] = place
                rows.append(known[at])
                continue
            remembered = self._recall(key) if self._recall and not at else None
            if remembered:
                self.back[key] = place
            rows.append(remembered or NOTHING)
        return rows

    def _keys(self, batch: Batch) -> list[str]:
        if not self._key_columns:
            start = batch.first - self._place.first
            return [str(start + place) for place in range(batch.values.num_rows)]
        return keys_of(batch.values, self._key_columns, self._rendering)

    def _our_cells(self, slot: Slot, ours: Column, batch: Batch, numbers: pa.Array, rows: list[Carried]) -> list[pa.Array | str]:
        style = self._styles.get(slot.place, 0)
        tail = tails(batch.values.column(ours.name), ours, self._rendering, batch.first)
        if batch.old:
            return [self._merged(slot, batch, numbers, tail, rows)]
        usual = self._usual_styles(slot, ours, batch.values) or [style] * (len(rows) and len(numbers))
        if not ours.unit_by and not any(slot.place in row.styles for row in rows):
            return cell_pieces(self._lead, slot.place, style, numbers, tail)
        if rows:
            usual = [row.styles.get(slot.place, known) for row, known in zip(rows, usual, strict=True)]
        own = pa.array([str(known) for known in usual], pa.string())
        start = f'<{self._lead}c r="{letters(slot.place)}'
        return [start, numbers, '" s="', own, '"', pc.fill_null(tail, "/>")]

    def _usual_styles(self, slot: Slot, ours: Column, values: pa.RecordBatch) -> list[int]:
        """For a column whose unit stands in another column: each row's format."""
        if not ours.unit_by:
            return []
        style, known = self._styles.get(slot.place, 0), self._by_unit.get(slot.place, {})
        return [known.get(unit, style) for unit in values.column(ours.unit_by).to_pylist()]

    def _merged(self, slot: Slot, batch: Batch, numbers: pa.Array, tail: pa.Array, rows: list[Carried]) -> pa.Array:
        """Our cells where the row has new values, the old cells where it stays whole."""
        style = self._styles.get(slot.place, 0)
        old = [
            None if fresh else self._cell(row, slot.place, batch.first + at)
            for at, (row, fresh) in enumerate(zip(rows, batch.fresh, strict=True))
        ]
        ours = joined(cell_pieces(self._lead, slot.place, style, numbers, tail), len(numbers))
        return pc.if_else(pa.array(batch.fresh, pa.bool_()), ours, pa.array(old, pa.string()))

    def _their_cells(self, slot: Slot, first: int, numbers: pa.Array, rows: list[Carried]) -> list[pa.Array | str]:
        formula = self._region.formulas.get(slot.place)
        style = self._styles.get(slot.place, 0)
        if formula is not None:
            formula = self._move.own(formula)
        array = self._region.arrays.get(slot.place)
        fixed = formula is None or (array is None and carried(formula, 1, self._place.first, self._place.new_last) == formula)
        usual = pa.nulls(len(numbers), pa.string())
        if formula is not None and fixed:
            usual = pa.array([self._formula_tail(formula)] * len(numbers), pa.string())
        elif formula is not None:
            start, last = self._place.first, self._place.new_last
            texts = [carried(formula, row - start, start, last) for row in range(first, first + len(numbers))]
            if array is None:
                usual = pa.array([self._formula_tail(text) for text in texts], pa.string())
            else:
                lead = array.decode()
                name = letters(slot.place)
                marks = (f' t="array" ref="{name}{row}"' for row in range(first, first + len(numbers)))
                usual = pa.array([lead + self._formula_tail(text, mark) for text, mark in zip(texts, marks, strict=True)], pa.string())
        pieces = cell_pieces(self._lead, slot.place, style, numbers, usual)
        if not any(slot.place in row.cells for row in rows):
            return pieces
        own = pa.array([self._cell(row, slot.place, first + at) if slot.place in row.cells else None for at, row in enumerate(rows)])
        return [pc.coalesce(own.cast(pa.string()), joined(pieces, len(numbers)))]

    def _formula_tail(self, formula: str, attributes: str = "") -> str:
        text = escaped(formula).decode()
        return f"><{self._lead}f{attributes}>{text}</{self._lead}f></{self._lead}c>"

    def _cell(self, row: Carried, place: int, new_row: int) -> str:
        """A carried cell in its new row; a formula goes along without the value it had."""
        cell = row.cells.get(place)
        if cell is None:
            return ""
        return moved_cell(cell, row.row, new_row, self._region, self._move).decode()

    def _beside(self, rows: Sequence[Beside | None], first: int, *, left: bool) -> pa.Array | str:
        if not any(rows):
            return ""
        texts = []
        for at, row in enumerate(rows):
            cells = () if row is None else row.left if left else row.right
            texts.append(b"".join(standing_cell(cell, first + at, self._move, self._orphaning) for cell in cells).decode())
        return pa.array(texts, pa.string())


def moved_cell(cell: Cell, row: int, new_row: int, region: Region, move: Move) -> bytes:
    """A cell of the table's data in another row. Its formula follows; shared formulas become plain ones."""
    formula = cell.formula
    if formula is None:
        return cell.at(new_row)
    place = region.place
    text = expanded(formula, region.masters, row, cell.column)
    text = move.own(text)
    text = carried(text, new_row - row, place.first, max(place.last, place.new_last), place.new_last)
    lead = cell.lead
    opening = b"<" + lead + b"f>"
    if formula.kind == "array":
        opening = b"<" + lead + b'f t="array" ref="%s%d">' % (letters(cell.column).encode(), new_row)
    style = b' s="%d"' % cell.style if cell.style else b""
    style += cell.dynamic if formula.kind == "array" else b""
    return Cell(cell.column, style, opening + escaped(text) + b"</" + lead + b"f>", lead).at(new_row)


def standing_cell(
    cell: Cell, row: int, move: Move, orphaning: Mapping[int, tuple[int, int, str]] = {}, *, was: int = 0, own: bool = False
) -> bytes:
    """A cell outside the rows of data; its formula's references follow the table. `own` cells are its header and total row."""
    formula = cell.formula
    if formula is None or not (move or formula.group in orphaning):
        return cell.at(row)
    orphan = formula.kind == "shared" and not formula.text and formula.group in orphaning
    before = expanded(formula, orphaning, was or row, cell.column) if orphan else formula.text
    after = move.own(before) if own else move.formula(before, move.sheet)
    if after == before and not orphan and not move.shift_by:
        return cell.at(row)
    attributes = b"" if orphan else _REFERENCE.sub(lambda found: found[1] + move.areas(found[2].decode()).encode(), formula.attributes)
    tag = b"<" + cell.lead + b"f" + attributes
    new = tag + b">" + escaped(after) + b"</" + cell.lead + b"f>" if after else tag + b"/>"
    return Cell(cell.column, cell.attributes, _FORMULA.sub(lambda _: new, cell.content, count=1), cell.lead).at(row)


def keys_of(values: pa.RecordBatch, columns: Sequence[Column], rendering: Rendering) -> list[str]:
    """The key of each row, spelled as the sheet's cells would spell it."""
    texts = []
    for column in columns:
        plain, textual = plain_values(values.column(column.name), column, rendering)
        known = plain.to_pylist()
        if textual is True:
            texts.append([key_text(text) for text in known])
        else:
            texts.append([key_text(_number(text)) for text in known])
    return ["\x1f".join(parts) for parts in zip(*texts, strict=True)]


def _number(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def numbered(reader: pa.RecordBatchReader, first: int) -> Iterator[Batch]:
    """A stream of values as batches that know their place on the sheet."""
    for batch in slices(reader):
        yield Batch(first, batch)
        first += batch.num_rows
