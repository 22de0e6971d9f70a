"""The workbook as a zip of parts: what we do not change is copied compressed, byte for byte.

A workbook from a shared drive is hostile until proven otherwise: names, sizes, checksums and entity declarations are checked before a
part is used, and nothing is ever read without a limit. Every refusal is a TargetError and the original stays as it was.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Final, Self

from isal import isal_zlib
from isal.igzip_lib import IsalError

from connector.errors import TargetError

CHUNK: Final = 1 << 18
MAX_PARTS: Final = 20_000
MAX_DIRECTORY: Final = 8 << 20  # bytes of central directory; 20,000 parts need about 2 MB
MAX_WHOLE: Final = 96 << 20  # a part that is read into memory as a whole
MAX_STREAMED: Final = 8 << 30  # a part that is streamed; Excel's own limit of rows and columns stays below it
SUSPECT_SIZE: Final = 256 << 20
SUSPECT_RATIO: Final = 400  # honest sheets compress 8:1 to 60:1; deflate's limit is 1032:1
OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
BIG: Final = 0xFFFFFFFF
UNPACKING: Final[tuple[type[Exception], ...]] = (IsalError,)  # type: ignore[assignment]  # its stub declares an instance


@dataclass(frozen=True, slots=True)
class Stored:
    """A part as the original archive holds it."""

    info: zipfile.ZipInfo

    @property
    def size(self) -> int:
        return self.info.file_size

    @property
    def crc(self) -> int:
        return self.info.CRC


@dataclass(frozen=True, slots=True)
class Written:
    """A part of ours: deflated already, spooled to disk when large."""

    data: IO[bytes]
    size: int
    crc: int
    packed: int


class Deflater:
    """Takes the text of a part piece by piece and keeps it deflated, in memory up to 8 MB, then on disk."""

    def __init__(self) -> None:
        self._out: IO[bytes] = SpooledTemporaryFile(max_size=8 << 20)  # noqa: SIM115 - lives as long as the package
        self.close = self._out.close
        self._zip = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15)
        self._crc = 0
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._crc = isal_zlib.crc32(data, self._crc)
        self._size += len(data)
        self._out.write(self._zip.compress(data))

    def finish(self) -> Written:
        self._out.write(self._zip.flush())
        return Written(self._out, self._size, self._crc, self._out.tell())


class Package:
    """The parts of one workbook, by name, in the archive's order. Changes are kept beside the original until `save`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._bytes = path.stat().st_size
        try:
            self._archive = _directory(self._file)
            self._parts: dict[str, Stored | Written] = {}
            self._by_fold: dict[str, str] = {}
            for info in self._archive.infolist():
                self._register(info)
        except BaseException:
            self._file.close()
            raise
        self._original = dict(self._parts)
        self._spools: list[Deflater] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._archive.close()
        self._file.close()
        for spool in self._spools:
            spool.close()

    def _register(self, info: zipfile.ZipInfo) -> None:
        name = info.orig_filename
        if not 0 <= info.header_offset <= self._bytes - info.compress_size:
            raise _damaged(f"part {name[:80]!r} is said to stand outside the archive")
        if name.endswith("/") and not info.file_size:
            self._parts[name] = Stored(info)
            return
        if name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in name.split("/"):
            raise _damaged(f"it holds a part with the unsafe name {name[:80]!r}")
        if name.casefold() in self._by_fold:
            raise _damaged(f"it holds the part {name[:80]!r} twice")
        if info.flag_bits & 0x1:
            raise TargetError("the workbook's zip entries are encrypted", remedy="save it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(f"part {name!r} is compressed in a way Excel does not use")
        self._by_fold[name.casefold()] = name
        self._parts[name] = Stored(info)

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._by_fold

    def names(self) -> Iterator[str]:
        return iter(tuple(self._by_fold.values()))

    def proper(self, name: str) -> str:
        """The part's name as written in the archive; names differ from references by case at times (OPC §6.2.2.3)."""
        try:
            return self._by_fold[name.casefold()]
        except KeyError:
            raise _damaged(f"part {name!r} is missing") from None

    def read(self, name: str, limit: int = MAX_WHOLE) -> bytes:
        """A whole part. Raises TargetError when it is missing, damaged or larger than `limit`."""
        part = self._parts[self.proper(name)]
        if part.size > limit:
            raise TargetError(
                f"part {name} of the workbook is {part.size >> 20} MB; at most {limit >> 20} MB are expected",
                remedy="open the workbook in Excel and save it again",
            )
        return b"".join(self.stream(name))

    def stream(self, name: str) -> Iterator[bytes]:
        """A part's text in pieces of at most a few MB, checksum verified at the end."""
        part = self._parts[self.proper(name)]
        if isinstance(part, Written):
            yield from _inflate(_slice(part.data, 0, part.packed), part.size, part.crc, name)
            return
        info = part.info
        if info.file_size > MAX_STREAMED or (info.file_size > SUSPECT_SIZE and info.file_size > SUSPECT_RATIO * info.compress_size):
            raise TargetError(
                f"part {name} would unpack to {info.file_size >> 20} MB from {info.compress_size >> 10} KB: this looks like a zip bomb",
                remedy="if the workbook is genuine, remove formatted empty rows in Excel and save it again",
            )
        raw = _slice(self._file, self._data_offset(info), info.compress_size)
        if info.compress_type == zipfile.ZIP_STORED:
            yield from _verified(raw, info.file_size, info.CRC, name)
        else:
            yield from _inflate(raw, info.file_size, info.CRC, name)

    def writer(self) -> Deflater:
        """Where to write a new part's text; it lives as long as the package."""
        self._spools.append(Deflater())
        return self._spools[-1]

    def put(self, name: str, data: bytes | Written) -> None:
        """Replace or add a part; text equal to the original's leaves the original in place."""
        if isinstance(data, bytes):
            writer = self.writer()
            writer.write(data)
            data = writer.finish()
        name = self._by_fold.setdefault(name.casefold(), name)
        original = self._original.get(name)
        if isinstance(original, Stored) and self._same(name, original, data):
            self._parts[name] = original
        else:
            self._parts[name] = data

    def _same(self, name: str, original: Stored, new: Written) -> bool:
        if (original.size, original.crc) != (new.size, new.crc):
            return False
        self._parts[name] = original
        ours = _inflate(_slice(new.data, 0, new.packed), new.size, new.crc, name)
        return all(a == b for a, b in zip(_even(self.stream(name)), _even(ours), strict=True))

    def remove(self, name: str) -> None:
        del self._parts[self._by_fold.pop(name.casefold())]

    def changed(self) -> tuple[str, ...]:
        """Parts that differ from the original, and parts that were removed."""
        written = [name for name, part in self._parts.items() if isinstance(part, Written)]
        return (*written, *(name for name in self._original if name not in self._parts))

    def untouched(self) -> int:
        return sum(isinstance(part, Stored) for part in self._parts.values())

    def save(self, path: Path) -> None:
        """Write the archive: the original's order, then new parts. The same changes give the same bytes."""
        try:
            with path.open("wb") as out:
                directory: list[bytes] = []
                for name, part in self._parts.items():
                    if isinstance(part, Written):
                        directory.append(_copy_written(out, name, part))
                    else:
                        directory.append(self._copy_stored(out, part.info))
                _finish(out, directory, self._archive.comment)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _copy_stored(self, out: IO[bytes], info: zipfile.ZipInfo) -> bytes:
        year, month, day, hour, minute, second = info.date_time
        header = _Header(
            name=info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"),
            flags=info.flag_bits & ~0x8,  # sizes stand in the header: no data descriptor
            method=info.compress_type,
            time=hour << 11 | minute << 5 | second // 2,
            date=max(0, year - 1980) << 9 | month << 5 | day,
            crc=info.CRC,
            packed=info.compress_size,
            size=info.file_size,
            attributes=info.external_attr,
            system=info.create_system,
        )
        return _copy(out, header, _slice(self._file, self._data_offset(info), info.compress_size))

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise _damaged(f"part {info.orig_filename!r} has no header where the directory says")
        names, extra = struct.unpack("<HH", header[26:30])
        return int(info.header_offset + 30 + names + extra)


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    attributes: int = 0
    system: int = 0


def _damaged(why: str) -> TargetError:
    return TargetError(f"the workbook is damaged: {why}", remedy="restore an earlier version, or open and save it in Excel")


def _directory(file: IO[bytes]) -> zipfile.ZipFile:
    head = file.read(8)
    if head == OLE:
        file.seek(0)
        secret = "EncryptedPackage".encode("utf-16-le") in file.read(4 << 20)
        raise TargetError(
            "the workbook is encrypted with a password" if secret else "the file is a workbook in the old .xls format",
            remedy="remove the password in Excel (File → Info → Protect Workbook)" if secret else "save it as .xlsx in Excel",
        )
    end = file.seek(0, 2)
    file.seek(max(0, end - 65_557))
    found = (tail := file.read()).rfind(b"PK\5\6")
    if not head.startswith(b"PK") or found < 0 or len(tail) < found + 22:
        raise TargetError("the file is not an Excel workbook (not a zip archive)", remedy="name an .xlsx or .xlsm file in `path`")
    entries, size = struct.unpack("<HL", tail[found + 10 : found + 16])
    if entries > MAX_PARTS or size > MAX_DIRECTORY:
        raise TargetError(
            f"the workbook's archive lists {entries}+ parts; at most {MAX_PARTS} are expected", remedy="save it again in Excel"
        )
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError, OSError) as error:
        raise _damaged(f"its zip directory cannot be read ({error})") from error
    if len(archive.infolist()) > MAX_PARTS:
        raise TargetError(f"the workbook's archive lists more than {MAX_PARTS} parts", remedy="save it again in Excel")
    return archive


def _slice(file: IO[bytes], offset: int, length: int) -> Iterator[bytes]:
    """`length` bytes from `offset`; other readers may move the file's position in between."""
    while length > 0:
        file.seek(offset)
        data = file.read(min(CHUNK, length))
        if not data:
            raise _damaged("it ends in the middle of a part")
        offset += len(data)
        length -= len(data)
        yield data


def _inflate(raw: Iterable[bytes], size: int, crc: int, name: str) -> Iterator[bytes]:
    return _verified(_unpacked(raw, name), size, crc, name)


def _unpacked(raw: Iterable[bytes], name: str) -> Iterator[bytes]:
    unzip = isal_zlib.decompressobj(-15)
    try:
        for data in raw:
            piece = unzip.decompress(data, 4 * CHUNK)
            while piece:
                yield piece
                piece = unzip.decompress(unzip.unconsumed_tail, 4 * CHUNK) if unzip.unconsumed_tail else b""
        yield unzip.flush()
    except UNPACKING as error:
        raise _damaged(f"part {name} cannot be unpacked ({error})") from error


def _verified(pieces: Iterable[bytes], size: int, crc: int, name: str) -> Iterator[bytes]:
    seen, check = 0, 0
    for piece in pieces:
        seen += len(piece)
        if seen > size:
            raise _damaged(f"part {name} unpacks to more than the archive says")
        check = isal_zlib.crc32(piece, check)
        yield piece
    if seen != size or check != crc:
        raise _damaged(f"the checksum of part {name} is wrong")


def _even(pieces: Iterable[bytes], size: int = CHUNK) -> Iterator[bytes]:
    """The same bytes in pieces of equal size, for comparison."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        whole = len(rest) // size * size
        for start in range(0, whole, size):
            yield bytes(rest[start : start + size])
        del rest[:whole]
    yield bytes(rest)


def _copy_written(out: IO[bytes], name: str, part: Written) -> bytes:
    flags = 0 if name.isascii() else 0x800
    header = _Header(name.encode(), flags, zipfile.ZIP_DEFLATED, 0, 1 << 5 | 1, part.crc, part.packed, part.size)
    return _copy(out, header, _slice(part.data, 0, part.packed))


def _copy(out: IO[bytes], header: _Header, data: Iterable[bytes]) -> bytes:
    """Write a local header and its data; give the entry for the central directory."""
    offset = out.tell()
    wide = header.size >= BIG or header.packed >= BIG
    extra = struct.pack("<HHQQ", 1, 16, header.size, header.packed) if wide else b""
    sizes = (BIG, BIG) if wide else (header.packed, header.size)
    common = struct.pack("<HHHHHLLLHH", 45 if wide else 20, header.flags, header.method, header.time, header.date, header.crc, *sizes,
                         len(header.name), len(extra))  # fmt: skip
    out.write(b"PK\3\4" + common + header.name + extra)
    for piece in data:
        out.write(piece)
    numbers = ((header.size, header.packed) if wide else ()) + ((offset,) if offset >= BIG else ())
    extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    common = struct.pack("<HHHHHLLLHH", 45 if numbers else 20, header.flags, header.method, header.time, header.date, header.crc, *sizes,
                         len(header.name), len(extra))  # fmt: skip
    made_by = struct.pack("<BB", 45 if numbers else 20, header.system)
    place = struct.pack("<HHHLL", 0, 0, 0, header.attributes, min(offset, BIG))
    return b"PK\1\2" + made_by + common + place + header.name + extra


def _finish(out: IO[bytes], directory: list[bytes], comment: bytes) -> None:
    start = out.tell()
    for entry in directory:
        out.write(entry)
    size, count = out.tell() - start, len(directory)
    if start >= BIG or size >= BIG:
        end = out.tell()
        out.write(b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, size, start))
        out.write(b"PK\6\7" + struct.pack("<LQL", 0, end, 1))
    out.write(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count, count, min(size, BIG), min(start, BIG), len(comment)) + comment)
