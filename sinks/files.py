"""Tables as files of a folder: CSV, JSON Lines or Parquet, for whatever reads files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, ClassVar, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from connector.api import EachConfig, Finding, Location, Output, PluginConfig, Receipt, Run, TableSpec
from connector.errors import ConfigError, TargetError, TransientError
from connector.http import Session

Format = Literal["csv", "jsonl", "parquet"]
SPECIAL: Final = r'[",\r\n]'  # what CSV puts quotes around
CONTROL: Final = r"[\x00-\x1f\x7f]"
PARTIAL: Final = ".connector-"  # folders of runs that are writing, or were killed while they did
STALE: Final = 24 * 3600.0  # seconds after which such a folder was left behind


class FileSpec(TableSpec):
    """A table and the file it goes to."""

    file: str | None = Field(
        None, pattern=r"^[^./\\][^/\\]*$", description="Name of the file without its ending; the table's unless given."
    )


class FilesSinkConfig(EachConfig):
    """A folder of files, one for each table."""

    templated: ClassVar[str] = "folder"
    placed: ClassVar[tuple[str, ...]] = ("type", "folder", "format")
    type: Literal["files"] = "files"
    folder: Location = Field(description="Folder the files are in; made when it is missing.")
    format: Format = Field("csv", description="csv, jsonl (JSON Lines) or parquet.")
    tables: tuple[FileSpec, ...] | None = Field(None, min_length=1, description="Tables to deliver; omitted: every table that has rows.")

    @model_validator(mode="after")
    def _one_file_each(self) -> FilesSinkConfig:
        names = [spec.file or spec.source for spec in self.tables or () if spec.file or spec.source]
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise ValueError(f"two tables go to the file {twice[0]!r}; name them apart with `file:`")
        return self


class FilesSink:
    """Writes every table beside the old files first, then puts those that differ in their place, one rename each.

    Files of tables that are no longer delivered are removed if they are as we left them. The version of the target is the
    hash of its files' hashes.
    """

    Config: ClassVar[type[PluginConfig]] = FilesSinkConfig

    def __init__(self, config: FilesSinkConfig, session: Session) -> None:
        self._format: Format = config.format
        self._folder = Path(config.folder)
        self._manifest = config.manifest

    def check(self) -> Iterator[Finding]:
        there = next(folder for folder in (self._folder, *self._folder.absolute().parents) if folder.exists())
        if not there.is_dir():
            yield Finding(str(self._folder), ok=False, detail=f"{there} is not a folder", remedy="name a folder", exit_code=5)
        elif not os.access(there, os.W_OK | os.X_OK):
            yield Finding(
                str(self._folder),
                ok=False,
                detail=f"no permission to write in {there}",
                remedy="grant it, or name another folder",
                exit_code=5,
            )
        else:
            yield Finding(str(self._folder), ok=True, detail="there" if there == self._folder else "will be created")

    def standing(self, run: Run) -> Receipt | None:
        """The receipt, if neither tables nor files have changed since the last run; else None."""
        before = self._hashes(run.memory.get("files", {}))
        if not run.previous or run.fresh or _version(before) != run.previous.version_after:
            return None
        made = self._receipt("unchanged", {}, before, before, "neither the data nor the files have changed since the last run")
        return replace(made, rows=run.previous.rows)

    def write(self, tables: Mapping[str, Output], run: Run) -> Receipt:
        """Raises TargetError with the old files in place when the new ones cannot be written."""
        if standing := self.standing(run):
            return standing
        ours: dict[str, str] = dict(run.memory.get("files", {}))
        with self._explained(), self._partial(run) as partial:
            after = {}
            for done, (file, output) in enumerate(self._named(tables).items()):
                run.progress(file, done, len(tables))
                write_file(partial / file, output, self._format)
                after[file] = _hash(partial / file)
            before = self._hashes([*ours, *after])
            stale = [file for file, left in ours.items() if file not in after and before.get(file) == left]
            changed = [file for file in after if before.get(file) != after[file]]
            if not changed and not stale:
                return self._receipt("unchanged", tables, before, after, "every file already holds its table")
            if run.dry_run:
                return self._receipt("would write", tables, before, after, "dry run", changed)
            run.remember({"files": {**ours, **after}})
            size = sum((partial / file).stat().st_size for file in changed)
            for file in changed:
                (partial / file).replace(self._folder / file)
            for file in stale:
                (self._folder / file).unlink(missing_ok=True)
            run.remember({"files": after})
        return self._receipt("written", tables, before, after, "", [*changed, *stale], size)

    def wants_manifest(self) -> bool:
        return self._manifest

    def leave_manifest(self, manifest: bytes) -> None:
        """`manifest.json` in the folder. Raises TargetError or TransientError; the files stand."""
        with self._explained(), TemporaryDirectory(prefix=PARTIAL, dir=self._folder) as partial:
            file = Path(partial, "manifest.json")
            file.write_bytes(manifest)
            file.replace(self._folder / file.name)

    def _named(self, tables: Mapping[str, Output]) -> dict[str, Output]:
        files: dict[str, Output] = {}
        for output in tables.values():
            named = output.spec.file if isinstance(output.spec, FileSpec) else None
            file = f"{named or output.name}.{self._format}"
            if "/" in file or "\\" in file or file.startswith("."):
                raise ConfigError(f"files: table {output.name!r} cannot name a file", remedy="name one with `file:`")
            if file.casefold() in (other.casefold() for other in files):
                raise ConfigError(f"files: two tables go to the file {file!r}", remedy="name them apart with `file:`")
            files[file] = output
        return files

    def _hashes(self, files: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
        with self._explained():
            return {file: _hash(self._folder / file) for file in files if (self._folder / file).is_file()}

    @contextmanager
    def _partial(self, run: Run) -> Iterator[Path]:
        """A folder to write in: beside the files, so that a rename is enough; elsewhere in a dry run."""
        if run.dry_run:
            with TemporaryDirectory(prefix=PARTIAL) as folder:
                yield Path(folder)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(f"{PARTIAL}*"):
            if run.at.timestamp() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(prefix=PARTIAL, dir=self._folder) as folder:
            yield Path(folder)

    def _receipt(
        self,
        outcome: Literal["written", "unchanged", "would write"],
        tables: Mapping[str, Output],
        before: Mapping[str, str],
        after: Mapping[str, str],
        why: str,
        changed: Sequence[str] = (),
        size: int = 0,
    ) -> Receipt:
        return Receipt(
            target=str(self._folder),
            outcome=outcome,
            rows={key: output.rows for key, output in tables.items()},
            why=why,
            bytes=size,
            version_before=_version(before),
            version_after=_version(before if outcome == "would write" else after),
            parts_changed=tuple(changed),
            parts_untouched=len([file for file in after if file not in changed]),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise TargetError(f"{self._folder}: the disk is full", remedy="free space, or name another folder") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise TargetError(f"{self._folder}: no permission to write", remedy="grant it, or name another folder") from error
            if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
                raise TargetError(f"{self._folder}: is not a folder of files", remedy="name a folder") from error
            raise TransientError(f"{self._folder}: {error.strerror}", remedy="the next run tries again") from error


def _version(hashes: Mapping[str, str]) -> str | None:
    return hashlib.sha256("".join(f"{file} {hashes[file]}\n" for file in sorted(hashes)).encode()).hexdigest()[:32] if hashes else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ── formats ───────────────────────────────────────────────────────────────────────────────────────


def write_file(path: Path, output: Output, kind: Format) -> None:
    """The same rows give the same bytes. Instants are ISO 8601 in UTC, days YYYY-MM-DD; a missing value is empty in CSV, else null."""
    named = output.spec.columns if output.spec else None
    headings = [named.get(name, name) for name in output.schema.names] if isinstance(named, Mapping) else output.schema.names
    with path.open("wb") as file:
        if kind == "parquet":
            schema = pa.schema([field.with_name(name) for field, name in zip(output.schema, headings, strict=True)])
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in output.reader():
                    writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        else:
            _write_lines(file, output, headings, kind)
        file.flush()
        os.fsync(file.fileno())


def _write_lines(file: BinaryIO, output: Output, headings: Sequence[str], kind: Format) -> None:
    line: Callable[[pa.RecordBatch], pa.Array] = _csv
    if kind == "csv":
        file.write((",".join(_csv_text(pa.array(headings)).to_pylist()) + "\n").encode())
    else:
        keys = [json.dumps(name, ensure_ascii=False) for name in headings]
        line = lambda batch: _json(batch, keys)  # noqa: E731
    for batch in output.reader():
        if batch.num_rows:
            file.write("\n".join([*line(batch).to_pylist(), ""]).encode())


def _csv(batch: pa.RecordBatch) -> pa.Array:
    columns = [_plain(column) for column in batch.columns]
    texts = [_csv_text(column) if column is not None else _csv_text(batch.column(index)) for index, column in enumerate(columns)]
    return pc.binary_join_element_wise(*texts, ",", null_handling="replace", null_replacement="")


def _csv_text(texts: pa.Array) -> pa.Array:
    texts = texts.cast(pa.string())
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(pc.match_substring_regex(texts, SPECIAL), quoted, texts)


def _json(batch: pa.RecordBatch, keys: Sequence[str]) -> pa.Array:
    parts = []
    for key, column in zip(keys, batch.columns, strict=True):
        bare = _plain(column)
        value = _json_text(column) if bare is None else _quoted(bare) if pa.types.is_temporal(column.type) else bare
        parts.append(pc.binary_join_element_wise(f"{key}:", pc.fill_null(value, "null"), ""))
    return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*parts, ","), "}", "")


def _json_text(texts: pa.Array) -> pa.Array:
    texts = texts.cast(pa.string())
    if pc.any(pc.match_substring_regex(texts, CONTROL)).as_py():
        return pa.array([None if text is None else json.dumps(text, ensure_ascii=False) for text in texts.to_pylist()], pa.string())
    return _quoted(pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"'))


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _plain(column: pa.Array) -> pa.Array | None:
    """Numbers, flags, days and instants as text without quotes; None for text."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        text = pc.strftime(column.cast(pa.timestamp("us", kind.tz and "UTC")), "%Y-%m-%dT%H:%M:%S" + ("Z" if kind.tz else ""))
        return pc.replace_substring_regex(pc.replace_substring_regex(text, r"\.0+(Z?)$", r"\1"), r"(\.\d*[1-9])0+(Z?)$", r"\1\2")
    if pa.types.is_decimal(kind) and kind.scale > 0:
        return pc.utf8_rtrim(pc.utf8_rtrim(column.cast(pa.string()), "0"), ".")
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.string())
    if pa.types.is_primitive(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    return None
