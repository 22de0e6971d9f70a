"""Raw pages in, canonical Arrow out: the only place where a source's words become ours.

    with normalise(entity, source.read(entity, since), engine=engine, scratch=folder, zone=zone) as result:
        if not result.unchanged:
            for batch in result.batches():      # of result.schema; may be run again
                writer.write_batch(batch)
        result.removed, result.watermark, result.rows, result.warnings

`normalise` reads every page into a spool in `scratch` (which the engine must be allowed to read), resolves the field map, lets every
column prove how it reads and checks keys: whatever is wrong with the read as a whole is raised there. A single value that cannot be
read is raised by `batches`, or counted, as `entity.on_bad_value` says; `warnings` is complete when `batches` has ended.

For a canonical table `result.schema` is all of `ENTITIES[entity.name]`, columns nobody fills being null; a `WHEN` column is `DATE` when
every value is date-only and `INSTANT` otherwise (also without any value). A plain table has the columns as read, their types inferred.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from connector import outcome
from connector.api import UTC, Entity, Page
from connector.column import Column, Context
from connector.columns import Text, column
from connector.date_columns import Dates
from connector.engine import Engine, quoted
from connector.errors import ConfigError, ConnectorError, SourceError, nearest
from connector.model import DATE, ENTITIES, KEYS, REQUIRED, TEXT, WHEN
from connector.number_columns import Numbers
from connector.raw import Raw
from connector.spool import ROW, Kind, Spool, as_text, trimmed

SHARES: Final = frozenset({"probability"})  # counted to 1 or to 100
EXAMPLES: Final = 3
_ROW: Final = quoted(ROW)


class Normalised:
    """The outcome of one read. A context manager: leaving it removes the spool."""

    def __init__(self, entity: Entity, spool: Spool) -> None:
        self.schema = ENTITIES.get(entity.name, pa.schema([]))
        self.watermark: str | None = None
        self.unchanged = False
        self.full = False
        self.removed: tuple[str, ...] = ()
        self.counts = _Counts(entity.place, spool.row)
        self._spool = spool
        self._raw: Raw | None = None
        self._table: _Table | None = None
        self._facts: dict[str, None] = {}

    @property
    def rows(self) -> int:
        """Records read from the source, before `where`."""
        return self._spool.rows

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self._facts, *self.counts.sentences())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in the source's order."""
        self.counts.clear()
        if self._table:
            yield from self._table.read()

    def warn(self, facts: Iterable[str]) -> None:
        self._facts.update(dict.fromkeys(facts))

    def close(self) -> None:
        self._spool.close()
        if self._raw:
            self._raw.drop()
        self._spool.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def normalise(
    entity: Entity,
    pages: Iterable[Page],
    *,
    engine: Engine,
    scratch: Path,
    zone: ZoneInfo = UTC,
    overrides: Mapping[str, str] | None = None,
    like: pa.Schema | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Normalised:
    """Read `pages` to their end and make them ready to be written.

    `overrides` (`model.fields`) win over `entity.fields`, and over columns found by name. `like` is the schema of the last read: a date
    column without any value keeps its type. `progress` is told rows read and announced.
    Raises SourceError for data that cannot be used as it is, ConfigError for a field map or condition that does not fit.
    """
    spool = Spool(scratch, entity.name, entity.place)
    result = Normalised(entity, spool)
    try:
        removed = _receive(pages, spool, result, progress)
        spool.close()
        if not result.unchanged:
            result._raw = raw = Raw(entity, spool, engine)  # noqa: SLF001 — the two are one
            result._table = table = _Table(entity, raw, result, zone, like)  # noqa: SLF001
            table.map({**_fields(entity, raw, overrides or {}), **(overrides or {})})
            table.choose(removed)
            table.prove()
            result.schema = table.schema
            result.warn(f"{entity.place}: no record has {name!r}; {nearest(name, raw.columns)}" for name in raw.lacking)
    except BaseException:
        result.close()
        raise
    return result


def _receive(pages: Iterable[Page], spool: Spool, result: Normalised, progress: Callable[[int, int | None], None] | None) -> dict[str, int]:
    """Spool every page; returns the removed ids, each with the number of records that had come by then."""
    removed: dict[str, int] = {}
    total = expected = None
    for page in pages:
        spool.add(page)
        expected = page.expected or expected
        total = page.total if page.total is not None else total
        result.watermark = page.watermark if page.watermark is not None else result.watermark
        result.unchanged = result.unchanged or page.unchanged
        result.full = result.full or page.full
        result.warn(page.warnings)
        removed.update(dict.fromkeys(page.removed, spool.rows))
        if progress:
            guess = expected if expected is not None and expected >= spool.rows else None
            progress(spool.rows, guess if total is None else total)
    if total is not None and spool.rows < total and not result.unchanged:
        raise SourceError(
            f"{spool.place}: the source announced {total:,} records and sent {spool.rows:,}", remedy="run again; nothing was taken over"
        )
    return removed


def _fields(entity: Entity, raw: Raw, overrides: Mapping[str, str]) -> dict[str, str]:
    """Column → source column or expression: as mapped, else by name for a canonical table, else everything."""
    schema = ENTITIES.get(entity.name)
    for name in (*entity.fields, *overrides):
        if schema is not None and name not in schema.names:
            raise ConfigError(f"{entity.name}: fields: no column {name!r} in {entity.name}; {nearest(name, schema.names)}")
    if entity.fields:
        fields = dict(entity.fields)
    elif schema is None:
        fields = {name: name for name in raw.columns}
    else:
        by_fold = {_fold(name): name for name in reversed(list(raw.columns))}
        fields = {name: by_fold[_fold(name)] for name in schema.names if _fold(name) in by_fold}
    for name in REQUIRED.get(entity.name, ()):
        if name not in fields and name not in overrides:
            error: type[ConnectorError] = ConfigError if entity.fields else SourceError
            raise error(
                f"{entity.place}: {entity.name} needs {name}, and no column is mapped to it",
                remedy=f"name it under `fields:`; there is: {', '.join(raw.columns)}",
            )
    return fields


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Mapped:
    """A column on its way: the SQL that gives it, what people call it, the kinds of the source column it is, its reader."""

    sql: str
    shown: str
    kinds: frozenset[Kind] | None = None  # None: an expression
    reader: Column | None = None

    def texts(self, values: pa.Array) -> pa.Array:
        """As text; what an expression made is trimmed as the spool trims."""
        texts, _ = as_text(values)
        return trimmed(texts) if self.kinds is None else texts


class _Table:
    """`map` columns, `choose` rows, let columns `prove` how they read, then `read`."""

    def __init__(self, entity: Entity, raw: Raw, result: Normalised, zone: ZoneInfo, like: pa.Schema | None) -> None:
        self.entity = entity
        self.raw = raw
        self.result = result
        self.zone = zone
        self.canonical = ENTITIES.get(entity.name)
        self.types = {field.name: field.type for field in like or ()}
        self.columns: dict[str, _Mapped] = {}
        self.condition = "true"
        self.words: dict[str, str] = {}
        self.currency_of: str | None = None

    @property
    def schema(self) -> pa.Schema:
        types = {name: mapped.reader.type for name, mapped in self.columns.items() if mapped.reader}
        if self.canonical is None:
            return pa.schema([pa.field(name, kind) for name, kind in types.items()])
        return pa.schema([pa.field(each.name, types.get(each.name) or self._unseen(each.name) or each.type) for each in self.canonical])

    def _unseen(self, name: str) -> pa.DataType | None:
        """The type an instant or a date had in the last read."""
        kind = self.types.get(name)
        return kind if kind in (DATE, WHEN) and (self.canonical is None or self.canonical.field(name).type == WHEN) else None

    def map(self, fields: Mapping[str, str]) -> None:
        for name, written in fields.items():
            source = self.raw.find(written)
            if source is None:
                self.columns[name] = _Mapped(self.raw.expression(f"fields.{name}", written), name)
            else:
                self.columns[name] = _Mapped(self.raw.text(source), source, frozenset(self.raw.columns[source]))
        if self.entity.name == "deals" and self.entity.status and "status" not in self.columns:
            if "stage" not in self.columns:
                raise ConfigError("deals: status: no column is mapped to `status` or `stage`", remedy="name one under `fields:`")
            stage = self.columns["stage"]
            self.columns["status"] = _Mapped(stage.sql, stage.shown, stage.kinds)

        if isinstance(self.entity.dates, Mapping) and self.columns:
            known = [*self.columns, *(mapped.shown for mapped in self.columns.values())]
            for name in self.entity.dates:
                if name not in known:
                    raise ConfigError(f"{self.entity.name}: dates: no column {name!r}; {nearest(name, dict.fromkeys(known))}")

    # ── rows ──────────────────────────────────────────────────────────────────────────────────────

    def choose(self, removed: Mapping[str, int]) -> None:
        """Which rows stay: those of `where`, each id once, without those removed later on. No id, or one twice, is an error."""
        entity, keys = self.entity, self._keys()
        wanted = f"cast({self.raw.expression('where', entity.where)} as boolean)" if entity.where else "true"
        if entity.incremental and keys:
            latest = self._latest(keys)
            self.condition = f"{latest} and {wanted}"
            self._remove(removed, keys, latest, wanted)
        else:
            self.condition = wanted
            self.result.removed = tuple(removed)
            self._refuse_twice(keys)
        self._refuse_missing(keys)

    def _keys(self) -> dict[str, str]:
        """What names a record, column → SQL: the entity's own key in source columns, else the canonical one as far as it is mapped."""
        keys = {}
        for written in self.entity.key:
            source = self.raw.find(written)
            keys[source or written] = self.raw.text(source) if source else self.raw.expression("key", written)
        return keys or {name: self.columns[name].sql for name in KEYS.get(self.entity.name, ()) if name in self.columns}

    def _refuse_missing(self, keys: Mapping[str, str]) -> None:
        ids = keys if len(keys) == 1 else {}
        for name, sql in {**ids, **{name: self.columns[name].sql for name in REQUIRED.get(self.entity.name, ())}}.items():
            first = self.raw.rows(f"min({_ROW}) as first", f"{self.condition} and {sql} is null")[0]["first"]
            if first is not None:
                raise SourceError(
                    f"{self.entity.place}: {self.result.counts.row(first)} has no {self._shown(name)}",
                    remedy=f"fill it in, or leave such rows out: `where: {quoted(self._shown(name))} is not null`",
                )

    def _refuse_twice(self, keys: Mapping[str, str]) -> None:
        columns = ", ".join(keys.values())
        if not keys or not self.raw.rows("1 as twice", self.condition, f"group by hash({columns}) having count(*) > 1 limit 1"):
            return  # hashes take a tenth of the memory; only if two are equal the ids themselves are compared
        named = ", ".join(f"{sql} as k{index}" for index, sql in enumerate(keys.values()))
        twice = self.raw.rows(
            f"{named}, min({_ROW}) as first, max({_ROW}) as last",
            self.condition,
            f"group by {columns} having count(*) > 1 order by first limit 1",
        )
        for row in twice:
            shown = ", ".join(f"{self._shown(name)} {row[f'k{index}']!r}" for index, name in enumerate(keys))
            raise SourceError(
                f"{self.entity.place}: {shown} is in {self.result.counts.row(row['first'])} and again in {self.result.counts.row(row['last'])}",
                remedy="remove one, leave rows out with `where:`, or name the columns that tell the rows apart in `key:`",
            )

    def _latest(self, keys: Mapping[str, str]) -> str:
        """Pages of an API may overlap: the last record of an id is the one that holds."""
        columns = ", ".join(keys.values())
        if not self.raw.rows("1 as twice", "true", f"group by hash({columns}) having count(*) > 1 limit 1"):
            return "true"
        return f"{_ROW} in (select max({_ROW}) from {self.raw.table} group by {columns})"

    def _remove(self, removed: Mapping[str, int], keys: Mapping[str, str], latest: str, wanted: str) -> None:
        """An id stays removed unless a record came after that; a record that no longer meets `where` is as good as removed."""
        gone = dict.fromkeys(removed)
        if len(keys) != 1:
            self.result.removed = tuple(gone)
            return
        key = next(iter(keys.values()))
        if removed:
            ids = pa.table({"id": pa.array(removed, TEXT), "at": pa.array(removed.values(), pa.int64())})
            name = self.raw.helper("removed", ids)
            at = f"(select r.at from {name} r where r.id = {key})"
            for row in self.raw.rows(f"{key} as id", f"{latest} and {_ROW} >= {at}"):
                del gone[row["id"]]
            self.condition += f" and coalesce({_ROW} >= {at}, true)"
        if wanted != "true":
            gone.update(
                (row["id"], None)
                for row in self.raw.rows(f"{key} as id", f"{latest} and not coalesce({wanted}, false)", f"order by {_ROW}")
            )
        self.result.removed = tuple(gone)

    def _shown(self, name: str) -> str:
        return self.columns[name].shown if name in self.columns else name

    # ── columns ───────────────────────────────────────────────────────────────────────────────────

    def prove(self) -> None:
        """See every value that has more than one reading, and settle how each column reads."""
        self._prove_status()
        computed = self.raw.types({name: mapped.sql for name, mapped in self.columns.items() if mapped.kinds is None})
        for name, mapped in self.columns.items():
            if name != "status" or self.entity.name != "deals":
                mapped.reader = self._reader(name, mapped, computed.get(name))
        seen = {name: mapped for name, mapped in self.columns.items() if mapped.reader and not isinstance(mapped.reader, Text)}
        if seen:
            for batch in self._stream(seen):
                for name, mapped in seen.items():
                    assert mapped.reader
                    mapped.reader.see(mapped.texts(batch.column(name)), batch.column(ROW))
        for mapped in seen.values():
            assert mapped.reader
            mapped.reader.settle()
        if self.canonical and "currency" in self.canonical.names and "currency" not in self.columns:
            amounts = (name for name in ("amount", "value") if name in seen)
            self.currency_of = next((name for name in amounts if _has_currency(seen[name].reader)), None)

    def _prove_status(self) -> None:
        if self.entity.name != "deals" or "status" not in self.columns:
            return
        mapped, listed = self.columns["status"], self.entity.status
        rows = self.raw.rows(
            f"cast({mapped.sql} as varchar) as word",
            f"{self.condition} and {mapped.sql} is not null",
            "group by word order by word limit 1000",
        )
        found = [str(row["word"]) for row in rows]
        try:
            self.words = outcome.listed(listed) if listed else outcome.understood(found)
        except SourceError as error:
            raise SourceError(f"{self.entity.place}: column {mapped.shown!r}: {error}", remedy=error.remedy) from error
        if not self.entity.incremental:
            self.result.warn(f"{self.entity.place}: {sentence}" for sentence in outcome.unused(listed, found))

    def _reader(self, name: str, mapped: _Mapped, computed: pa.DataType | None) -> Column:
        kinds = mapped.kinds if computed is None else frozenset(as_text(pa.nulls(0, computed))[1])
        assert kinds is not None
        kind = self.canonical.field(name).type if self.canonical else None
        if kind is None and kinds == {"text"} and not self.entity.text:
            kind = TEXT  # what an API calls text is text
        dates = self.entity.dates
        context = Context(
            name=mapped.shown,
            source=self.entity.place,
            row=self.result.counts.row,
            zone=ZoneInfo(self.entity.timezone) if self.entity.timezone else self.zone,
            text=self.entity.text and "text" in kinds,
            counted=bool(kinds) and kinds <= {"whole", "number"},
            locale=self.entity.locale,
            unseen=self._unseen(name),
            dates=dates if dates is None or isinstance(dates, str) else dates.get(name, dates.get(mapped.shown)),
        )
        return column(kind, context, when=kind == WHEN, share=name in SHARES)

    def _stream(self, columns: Mapping[str, _Mapped]) -> Iterator[pa.RecordBatch]:
        return self.raw.stream({ROW: _ROW, **{name: mapped.sql for name, mapped in columns.items()}}, self.condition)

    def read(self) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        for batch in self._stream(self.columns):
            rows = batch.column(ROW)
            texts = {name: mapped.texts(batch.column(name)) for name, mapped in self.columns.items()}
            values = {name: self._values(self.columns[name], text, rows) for name, text in texts.items()}
            if self.currency_of:
                reader = self.columns[self.currency_of].reader
                assert isinstance(reader, Numbers)
                values["currency"] = reader.currency(texts[self.currency_of])
            if self.entity.name == "deals" and "created_at" in values and "closed_at" in values:
                early = _before(values["closed_at"], values["created_at"], self.zone)
                self.result.counts.add("closed before created", rows.filter(early), "; left out of sales cycles")
            arrays = [values[each.name] if each.name in values else pa.nulls(batch.num_rows, each.type) for each in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _values(self, mapped: _Mapped, texts: pa.Array, rows: pa.Array) -> pa.Array:
        if mapped.reader is None:
            return outcome.outcomes(texts, self.words, otherwise="open" if self.entity.status else None)
        values, bad = mapped.reader.read(texts)
        if bad is None:
            return values
        if self.entity.on_bad_value == "error":
            value = texts.filter(bad)[0].as_py()
            order = ", set `dates:` to how the column is written" if isinstance(mapped.reader, Dates) else ""
            raise SourceError(
                f"{self.entity.place}: {self.result.counts.row(rows.filter(bad)[0].as_py())}, column {mapped.shown!r}: "
                f"{_short(value)!r} {mapped.reader.why(value)}",
                remedy=f"correct the value{order}, or set `on_bad_value: null` to leave such values empty",
            )
        self.result.counts.add(f"unreadable value in column {mapped.shown!r}", rows.filter(bad), "; left empty")
        return values


class _Counts:
    """Findings that do not stop a read: how many rows, and a few of them by name."""

    def __init__(self, place: str, row: Callable[[int], str]) -> None:
        self.row = row
        self._place = place
        self._found: dict[tuple[str, str], tuple[int, list[str]]] = {}

    def clear(self) -> None:
        self._found.clear()

    def add(self, what: str, rows: pa.Array, then: str) -> None:
        if len(rows):
            count, examples = self._found.get((what, then), (0, []))
            examples += [self.row(row) for row in rows[: EXAMPLES - len(examples)].to_pylist()]
            self._found[what, then] = (count + len(rows), examples)

    def sentences(self) -> Iterator[str]:
        for (what, then), (count, examples) in self._found.items():
            more = " …" if count > len(examples) else ""
            yield f"{self._place}: {what}: {count:,} {'row' if count == 1 else 'rows'} ({', '.join(examples)}{more}){then}"


def _has_currency(reader: Column | None) -> bool:
    return isinstance(reader, Numbers) and reader.currencies


def _before(first: pa.Array, second: pa.Array, zone: ZoneInfo) -> pa.Array:
    """Where the first moment is certainly before the second; by local day where one of them is only a date."""
    if DATE in (first.type, second.type):
        first, second = (_day(moments, zone) for moments in (first, second))
    return pc.fill_null(pc.less(first, second), False)


def _day(moments: pa.Array, zone: ZoneInfo) -> pa.Array:
    if moments.type == DATE:
        return moments
    return pc.local_timestamp(moments.cast(pa.timestamp("us", zone.key))).cast(DATE, safe=False)


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:39]}…"
