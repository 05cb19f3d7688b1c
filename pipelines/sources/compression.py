"""Compressed source files: recognised by their first bytes, read decompressed.

Names do not matter, because they are often wrong either way; but a name that claims a compression which the
content lacks is an error.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import google_crc32c
import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.system.storage import is_remote, reading

HEAD_BYTES = 512  # enough to recognise every format below
_SUFFIXES = {
    ".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd", ".zip": "zip",
}  # fmt: skip
_MAGIC = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
]
_FOREIGN = [
    (b"PAR1", "Parquet; set source.kind: parquet"),
    (b"PARE", "encrypted Parquet; decrypt it first"),
    (b"ORC", "ORC; convert it to Parquet"),
    (b"Obj\x01", "Avro; convert it to Parquet"),
    (b"ARROW1", "Arrow or Feather; convert it to Parquet"),
    (b"\x04\x22\x4d\x18", "lz4; decompress it first"),
    (b"\xff\x06\0\0sNaPpY", "Snappy; decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip; extract it first"),
    (b"Rar!\x1a", "RAR; extract it first"),
    (b"\x1f\x9d", "compress (.Z); decompress it first"),
    (b"SQLite format 3\0", "an SQLite database; export the table"),
    (b"\x89HDF", "HDF5; convert it to Parquet"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
]
_PIECE_BYTES = 1 << 16


def compression_of(head: bytes) -> str | None:
    """Name of the compression that a file's first bytes indicate; None: none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head[1:4] == b"*M\x18" and 0x50 <= head[0] <= 0x5F:  # a skippable frame, with which pzstd files begin
        return "zstd"
    return None


def foreign_format(head: bytes) -> str | None:
    """A format other than text that the first bytes indicate, and what to do about it; None: none
    recognised."""
    if head[257:262] == b"ustar":
        return "a tar archive; extract it first"
    if has_record_length(head):
        return "a TFRecord file; set source.kind: tfrecord"
    return next((what for magic, what in _FOREIGN if head.startswith(magic)), None)


def has_record_length(head: bytes) -> bool:
    """Whether the first bytes are the length of a TFRecord and its checksum."""
    crc = np.array([google_crc32c.value(head[:8])], np.uint32)
    return len(head) >= 12 and masked(crc).astype("<u4").tobytes() == head[8:12]


def masked(crc: np.ndarray) -> np.ndarray:
    """CRC-32Cs (uint32) as TFRecord files store them: rotated, plus a constant."""
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


def open_file(path: str) -> BinaryIO:
    """Opens a file as stored. Local names are taken literally; fsspec would treat some as chains.

    Raises:
      DataError: it does not exist, or cannot be read.
    """
    try:
        return reading(path) if is_remote(path) else open(path, "rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check source.paths") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_head(path: str) -> bytes:
    """The first HEAD_BYTES bytes of a file as stored."""
    with open_file(path) as file:
        return file.read(HEAD_BYTES)


def can_cut(path: str) -> bool:
    """Whether a file can be read from any byte; a compressed one cannot.

    Raises:
      DataError: its name claims a compression that its content lacks.
    """
    return _checked_compression(path, read_head(path)) is None


@contextlib.contextmanager
def open_stream(path: str) -> Iterator[BinaryIO]:
    """Opens a file to be read from its beginning, decompressed if it is compressed.

    Raises:
      DataError: the compressed data is incomplete or broken; also raised when reading inside the block.
    """
    with open_file(path) as raw:
        name = _checked_compression(path, raw.read(HEAD_BYTES))
        raw.seek(0)
        if name is None:
            yield raw
            return
        try:
            with _OPENERS[name](raw) as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise _broken(path, name, error) from None
        except OSError as error:
            if error.errno is not None:  # of the disk or the network, not of the data
                raise
            raise _broken(path, name, error) from None


def _broken(path: str, name: str, error: Exception) -> DataError:
    return DataError(f"{path}: incomplete or broken {name} file ({error}); write it again")


def _checked_compression(path: str, head: bytes) -> str | None:
    name = compression_of(head)
    lower = path.lower()
    promised = next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)
    if name is None and promised and head:
        raise DataError(
            f"{path}: not a {promised} file despite its name, it begins with {head[:16]!r}; "
            "write it again, or rename it if it is not compressed"
        )
    return name


class _Streams(io.RawIOBase):
    """All streams of a bzip2 or xz file. Python's own readers stop silently at a broken later stream."""

    def __init__(self, raw: BinaryIO, decompressor: Callable[[], Any]):
        super().__init__()
        self._raw, self._rest, self._make, self._decompressor = raw, b"", decompressor, decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._decompressor.eof:
                self._rest = self._next_stream(self._decompressor.unused_data)
                if not self._rest:
                    return 0
                self._decompressor = self._make()
            if self._decompressor.needs_input and not self._rest:
                self._rest = self._raw.read(_PIECE_BYTES)
                if not self._rest:
                    raise EOFError("it ends before its end marker")
            data = self._decompressor.decompress(self._rest, len(buffer))
            self._rest = b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_stream(self, data: bytes) -> bytes:
        """The first bytes after padding at the end of a stream; empty at the end of the file."""
        while not (rest := data.lstrip(b"\0")):
            data = self._raw.read(_PIECE_BYTES)
            if not data:
                return b""
        return rest


@contextlib.contextmanager
def _open_zip(raw: BinaryIO) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(raw) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not _is_clutter(name)]
        if len(names) != 1:
            raise zipfile.BadZipFile(f"must contain one file, found {len(names)}; extract it")
        try:
            with archive.open(names[0]) as member:
                yield cast(BinaryIO, member)
        except (RuntimeError, NotImplementedError) as error:  # a password, or an unsupported method
            raise zipfile.BadZipFile(str(error)) from None


def _is_clutter(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def _open_zstd(raw: BinaryIO) -> BinaryIO:
    # Arrow's stream detects a truncated file, which the package zstandard reads without an error.
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


_OPENERS: dict[str, Callable[[BinaryIO], contextlib.AbstractContextManager[Any]]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
    "bzip2": lambda raw: io.BufferedReader(_Streams(raw, bz2.BZ2Decompressor)),
    "xz": lambda raw: io.BufferedReader(_Streams(raw, lzma.LZMADecompressor)),
    "zstd": _open_zstd,
    "zip": _open_zip,
}
