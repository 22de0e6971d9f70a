"""Parquet: columns as they are typed, nested ones by dotted name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from connector.errors import SourceError

ROWS: Final = 50_000


@dataclass(frozen=True, slots=True)
class ParquetFile:
    path: Path
    name: str
    columns: tuple[str, ...]
    rows: int
    warnings: tuple[str, ...] = ()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        row = 1
        try:
            with pq.ParquetFile(self.path) as file:
                yield row, pa.RecordBatch.from_pylist([], schema=file.schema_arrow)
                for batch in file.iter_batches(ROWS):
                    yield row, batch
                    row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.name, error) from error


def open_parquet(path: Path, name: str) -> ParquetFile:
    """Raises SourceError when it is not Parquet."""
    try:
        with pq.ParquetFile(path) as file:
            return ParquetFile(path, name, tuple(_leaves(file.schema_arrow)), file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, error) from error


def _leaves(schema: pa.Schema, prefix: str = "") -> Iterator[str]:
    for field in schema:
        if pa.types.is_struct(field.type):
            yield from _leaves(pa.schema(list(field.type)), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _damaged(name: str, error: Exception) -> SourceError:
    return SourceError(f"{name}: not a readable Parquet file ({type(error).__name__})", remedy="export it again")
