"""Records of TFRecord files: a length, the checksum of the length, the data, the checksum of the data.

A file has no index, and may be compressed as a whole (gzip or zlib), so it is read from its beginning.
"""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import google_crc32c
import numpy as np

from configs.errors import DataError
from pipelines.sources.compression import HEAD_BYTES, foreign_format, has_record_length, masked, open_file

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_PIECE_BYTES = 1 << 20
MAX_RECORD_BYTES = (1 << 31) - 1
"""Longest message that protocol buffers can have."""


class Records(NamedTuple):
    """Successive records of a file."""

    data: bytes
    starts: np.ndarray
    """int64 [n] first byte of each record in `data`."""
    ends: np.ndarray
    """int64 [n] ends."""
    first: int
    """Number in the file, from 1, of the first one."""


def stream_records(path: str, compression: str, max_bytes: int, max_records: int) -> Iterator[Records]:
    """All records of a file, up to about `max_bytes` and `max_records` at a time.

    Args:
      compression: auto, none, gzip or zlib.

    Raises:
      DataError: the file or its compressed data is damaged, or it is of another format.
    """
    with _decompressed(path, compression) as stream:
        data, number, more = b"", 1, True
        while more or data:
            while more and len(data) < max_bytes:
                piece = stream.read(min(_PIECE_BYTES, max_bytes))
                more = bool(piece)
                data += piece
            found, end = _cut(path, data, number, max_records)
            if len(found.starts):
                yield found
                number += len(found.starts)
                data = data[end:]
                continue
            if not data:
                return
            size = _size(path, data, number)
            if not more:
                raise DataError(
                    f"{path}: record {number:,} is cut off: {len(data):,} of its {size:,} bytes are there; "
                    "write the file again"
                )
            data += _read(stream, size - len(data))  # one record is longer than what has been read
            more = len(data) >= size


def count_records(path: str, compression: str, max_bytes: int) -> int:
    """Number of records; their data is not checked."""
    return sum(len(part.starts) for part in stream_records(path, compression, max_bytes, 1 << 62))


def _cut(path: str, data: bytes, number: int, max_records: int) -> tuple[Records, int]:
    """The whole records at the beginning of `data`, with their checksums compared, and where they end."""
    found: list[int] = []
    at = 0
    while len(found) < max_records and at + _HEADER_BYTES <= len(data):
        end = at + _HEADER_BYTES + int.from_bytes(data[at : at + 8], "little")
        if end + _FOOTER_BYTES > len(data):
            break
        found.append(end)
        at = end + _FOOTER_BYTES
    ends = np.array(found, np.int64)
    starts = np.r_[0, ends[:-1] + _FOOTER_BYTES][: len(ends)] + _HEADER_BYTES
    damaged = _other_checksums(data, starts - _HEADER_BYTES, starts - _FOOTER_BYTES)
    if len(first := np.flatnonzero(damaged | _other_checksums(data, starts, ends))):
        start = starts[first[0]]
        _check_length(path, data[start - _HEADER_BYTES : start], number + int(first[0]))
        raise DataError(
            f"{path}: record {number + first[0]:,} is damaged: its checksum does not fit its data; "
            "write the file again"
        )
    return Records(data, starts, ends, number), at


def _other_checksums(data: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Bool [n] of whether the checksum behind stretches of bytes is that of other bytes."""
    pieces = (data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
    found = masked(np.fromiter(map(google_crc32c.value, pieces), np.uint32, len(starts)))
    behind = np.frombuffer(data, np.uint8)[ends[:, None] + np.arange(_FOOTER_BYTES)]
    return found != behind.view("<u4")[:, 0] if len(starts) else np.zeros(0, bool)


def _size(path: str, data: bytes, number: int) -> int:
    """Bytes of the record at the beginning of `data`, with its header and footer; 12 if that is unknown."""
    if len(data) < _HEADER_BYTES:
        return _HEADER_BYTES
    _check_length(path, data[:_HEADER_BYTES], number)
    return _HEADER_BYTES + int.from_bytes(data[:8], "little") + _FOOTER_BYTES


def _check_length(path: str, header: bytes, number: int) -> None:
    if not has_record_length(header):
        if number == 1:
            raise DataError(
                f"{path}: record 1 has no valid header, so this is no TFRecord file or a damaged one; it "
                f"begins with {header!r}; check source.kind and source.compression"
            )
        raise DataError(
            f"{path}: record {number:,} is damaged: the checksum of its length does not fit; write the file "
            "again"
        )
    if (length := int.from_bytes(header[:8], "little")) > MAX_RECORD_BYTES:
        raise DataError(f"{path}: record {number:,} has {length:,} bytes; an Example has less than 2 GiB")


@contextlib.contextmanager
def _decompressed(path: str, compression: str) -> Iterator[BinaryIO]:
    with open_file(path) as raw:
        head = raw.read(HEAD_BYTES)
        raw.seek(0)
        name = _compression_of(path, head) if compression == "auto" else compression
        if name == "none":
            yield raw
            return
        try:
            with _OPENERS[name](raw) as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            hint = (
                "write it again" if compression == "auto" else "write it again, or remove source.compression"
            )
            raise DataError(f"{path}: incomplete or broken {name} file ({error}); {hint}") from None


def _compression_of(path: str, head: bytes) -> str:
    """Raises DataError: the first bytes are of another format."""
    if has_record_length(head) or not head:
        return "none"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if what := foreign_format(head):
        raise DataError(f"{path}: contains {what}")
    # RFC 1950: method 8, and the first two bytes as a number are a multiple of 31.
    if len(head) >= 2 and head[0] & 0x8F == 8 and (head[0] << 8 | head[1]) % 31 == 0:
        return "zlib"
    return "none"


class _Zlib:
    """A zlib stream as a file."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._decompressor = raw, zlib.decompressobj()

    def __enter__(self) -> "_Zlib":
        return self

    def __exit__(self, *unused: object) -> None:
        """The file is closed by its owner."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end of the stream. Raises EOFError: it ends too early."""
        while not self._decompressor.eof:
            rest = self._decompressor.unconsumed_tail or self._raw.read(_PIECE_BYTES)
            if not rest:
                raise EOFError("it ends before its end marker")
            if data := self._decompressor.decompress(rest, size):
                return data
        if self._decompressor.unused_data or self._raw.read(1):
            raise zlib.error("data after its end marker")
        return b""


def _read(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the stream."""
    parts = []
    while size > 0 and (piece := stream.read(min(size, _PIECE_BYTES))):
        parts.append(piece)
        size -= len(piece)
    return b"".join(parts)


_OPENERS: dict[str, Any] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
    "zlib": lambda raw: cast(BinaryIO, _Zlib(raw)),
}
