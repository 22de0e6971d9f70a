"""Published extracts: every row, from the .hyper file inside the packaged data source."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from connector.auth.tableau import Connection, Refused
from connector.errors import AuthError, ConfigError, SourceError, nearest
from sources.tableau_answers import refuse_saved_page

ROWS: Final = 20_000
BLOCK: Final = 1 << 20
MEMORY: Final = {"memory_limit": "300m"}  # Hyper sorts on disk beyond that
DAMAGED: Final = "run again; if it stays, refresh the extract in Tableau, or use `mode: vds`"


def require_pantab() -> Any:
    """The library that reads .hyper files. Raises ConfigError when it is not installed."""
    try:
        import pantab  # noqa: PLC0415 — an extra, and a large one
    except ImportError as error:
        raise ConfigError(
            "`mode: extract` reads .hyper files with pantab, which is not installed", remedy='pip install "pipeline-connector[tableau]"'
        ) from error
    return pantab


def extract(connection: Connection, what: str, luid: str, wanted: str | None, folder: Path) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The rows of a data source's extract in the order they were put in, each batch with the number of all rows.

    Hyper writes them to disk itself: handing over its results keeps all of them in memory, and in another order every time.
    """
    pantab = require_pantab()
    file = _hyper(_downloaded(connection, what, luid, folder), what, folder)
    out = folder / "rows.arrows"
    with _readable(what):
        names = pantab.libpantab.get_table_names(str(file))
    table = ".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in _one_table(names, wanted, what))
    target = str(out).replace("'", "''")
    with _readable(what):
        total = pantab.frame_from_hyper_query(file, f"select count(*) from {table}", return_type="pyarrow").column(0)[0].as_py()
        copy = f"copy (select * from {table} order by ctid) to '{target}' with (format => 'arrowstream')"
        pantab.frame_from_hyper_query(file, copy, return_type="pyarrow", process_params=MEMORY)
    file.unlink()
    with _readable(what), pa.OSFile(str(out)) as raw, pa.ipc.open_stream(raw) as reader:
        empty = True
        for batch in reader:
            for start in range(0, batch.num_rows, ROWS):
                yield _usual(batch.slice(start, ROWS)), total
                empty = False
        if empty:
            yield _usual(pa.RecordBatch.from_pylist([], reader.schema)), total


def _downloaded(connection: Connection, what: str, luid: str, folder: Path) -> Path:
    package = folder / "source.tdsx"
    try:
        kind = connection.download(what, f"datasources/{luid}/content", package, params={"includeExtract": "True"})
    except Refused as refusal:
        if refusal.status == 403:
            raise AuthError(
                f"{connection.place}: {what}: may not be downloaded", remedy="give the user the Download Data Source capability on it"
            ) from refusal
        raise connection.error(what, refusal) from refusal
    refuse_saved_page(f"{connection.place}: {what}", kind, package)
    return package


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0][:200]
        raise SourceError(
            f"{what}: does not read as an extract: {reason}", remedy="refresh the extract in Tableau, or use `mode: vds`"
        ) from error


def _usual(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Hyper's own stream counts days in milliseconds and calls UTC Utc."""
    arrays = []
    for array in batch.columns:
        kind = array.type
        if pa.types.is_date(kind):
            kind = pa.date32()
        elif pa.types.is_timestamp(kind) and kind.tz:
            kind = pa.timestamp(kind.unit, "UTC")
        arrays.append(array.cast(kind))
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _hyper(package: Path, what: str, folder: Path) -> Path:
    """The .hyper file of a packaged data source, which then goes. Raises SourceError for one that cannot be unpacked."""
    with package.open("rb") as head:
        if head.read(2) != b"PK":
            return package.rename(package.with_suffix(".hyper"))
    file = folder / "source.hyper"
    try:
        with zipfile.ZipFile(package) as contents:
            inside = [name for name in contents.namelist() if name.endswith(".hyper")]
            if len(inside) != 1:
                raise SourceError(
                    f"{what}: {'no extract' if not inside else f'{len(inside)} extracts'} in the data source",
                    remedy="use `mode: vds`, which also reads live connections",
                )
            with contents.open(inside[0]) as packed, file.open("wb") as plain:
                while block := packed.read(BLOCK):
                    plain.write(block)
    except (zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{what}: the packaged data source is cut off or damaged", remedy=DAMAGED) from error
    except zlib.error as error:
        raise SourceError(f"{what}: the extract inside the packaged data source is damaged", remedy=DAMAGED) from error
    except NotImplementedError as error:
        raise SourceError(f"{what}: the data source is packed in a way that cannot be read here", remedy="use `mode: vds`") from error
    except RuntimeError as error:  # what zipfile raises for a password
        raise SourceError(
            f"{what}: the packaged data source is encrypted", remedy="publish it without a password, or use `mode: vds`"
        ) from error
    package.unlink()
    return file


def _one_table(names: Iterable[Any], wanted: str | None, what: str) -> tuple[str, ...]:
    there = {".".join(parts): parts for name in names if (parts := name if isinstance(name, tuple) else (name,))}
    if wanted is None and len(there) == 1:
        return next(iter(there.values()))
    if wanted is None:
        raise ConfigError(
            f"{what}: the extract has {len(there)} tables", remedy=f"set `extract_table` to one of: {', '.join(sorted(there))}"
        )
    if wanted not in there:
        raise SourceError(f"{what}: no table {wanted!r} in the extract; {nearest(wanted, sorted(there))}")
    return there[wanted]
