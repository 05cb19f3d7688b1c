"""Text files, cut at line ends, in memory that does not depend on the length of lines.

Byte ranges of a file are read in any order. Compressed files, UTF-16 and UTF-32, and files whose lines end in
carriage returns are read from the beginning, as UTF-8 text with newlines as line ends.
"""

import codecs
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from configs.errors import DataError
from pipelines.sources import compression
from pipelines.sources.compression import foreign_format, open_file, open_stream

MAX_LINE_BYTES = 1 << 20  # longer lines are rejected; of one line no more than this and a chunk is in memory
BOM = codecs.BOM_UTF8
_HEAD_BYTES = 1 << 16
_STEP_BYTES = 1 << 16
_MARKS = [  # longer marks first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


def can_cut(path: str) -> bool:
    """Whether a file can be read from any byte. Raises DataError: its name wrongly claims a compression."""
    if not compression.can_cut(path):
        return False
    with open_file(path) as file:
        head = _read_head(file)
    return not _encoding(head) and not _has_only_returns(head)


def read_lines(path: str, start: int, stop: int) -> tuple[int, bytes]:
    """All lines that begin in bytes [start, stop) of a file that can be cut.

    Returns:
      place: position of the first byte of the first line.
      data: the lines. The last one is whole, or cut at more than MAX_LINE_BYTES.
    """
    before = max(start - 1, 0)
    with open_file(path) as file:
        file.seek(before)
        parts = [file.read(stop - before)]
        newline = parts[0].find(b"\n") if start else -1
        if start and newline < 0:
            return stop, b""
        if parts[0] and not parts[0].endswith(b"\n"):
            parts += _rest_of_line(file)
    data = b"".join(parts)
    return (before + newline + 1, data[newline + 1 :]) if start else (0, data)


def _rest_of_line(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a line with its newline, cut off once the line is certainly too long."""
    size = 0
    while size <= MAX_LINE_BYTES and (piece := file.read(_STEP_BYTES)):
        end = piece.find(b"\n") + 1
        if end:
            yield piece[:end]
            return
        yield piece
        size += len(piece)


def count_lines(path: str, start: int, stop: int) -> int:
    """Number of lines that begin in bytes [start, stop) of a file that can be cut."""
    before = max(start - 1, 0)
    with open_file(path) as file:
        file.seek(before)
        data = file.read(stop - 1 - before)
    return data.count(b"\n") + int(start == 0)


def stream_lines(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """All lines of a file from its beginning, about `chunk_bytes` of whole lines at a time.

    Lines longer than MAX_LINE_BYTES are cut at more than that, so that they are still rejected.

    Raises:
      DataError: the compressed data is incomplete, or the text contradicts its byte order mark.
    """
    rest: list[bytes] = []
    size = 0
    for piece in _stream_text(path, chunk_bytes):
        end = piece.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, piece[:end]])
            rest, size = [], 0
        if tail := piece[end : end + MAX_LINE_BYTES + 1 - size]:
            rest.append(tail)
            size += len(tail)
    if rest:
        yield b"".join(rest)


def first_lines(path: str) -> bytes:
    """About the first 64 KiB of a text file: whole lines, at least one, without a byte order mark.

    Raises:
      DataError: it is not UTF-8 text, or the first line is longer than MAX_LINE_BYTES.
    """
    data = next(stream_lines(path, _HEAD_BYTES), b"").removeprefix(BOM)
    first = data.split(b"\n", 1)[0].removesuffix(b"\r")
    if not data:
        raise DataError(f"{path}: the file is empty; remove it from source.paths or write it again")
    if what := foreign_format(data):
        raise DataError(f"{path}: contains {what}")
    if b"\0" in first:
        if first.count(b"\0") * 3 > len(first):
            raise DataError(f"{path}: looks like UTF-16 without a byte order mark; convert the file to UTF-8")
        raise DataError(f"{path}: contains binary data, not text; check source.kind and source.paths")
    if len(first) > MAX_LINE_BYTES:
        raise DataError(
            f"{path}: the first line is longer than {MAX_LINE_BYTES >> 20} MiB; "
            "check source.kind, and that lines end in newlines"
        )
    try:
        first.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: the first line is not UTF-8 text; convert the file to UTF-8") from None
    return data


def _stream_text(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in chunks, decompressed, as UTF-8 with newlines as line ends."""
    with open_stream(path) as file:
        head = _read_head(file)
        pieces: Iterator[bytes] = itertools.chain([head], iter(lambda: _read(file, chunk_bytes), b""))
        if encoding := _encoding(head):
            pieces = _transcode(path, pieces, encoding)
            head = next(pieces, b"")
            pieces = itertools.chain([head], pieces)
        if _has_only_returns(head):
            pieces = _with_newlines(pieces)
        for piece in pieces:
            for start in range(0, len(piece), chunk_bytes):
                yield piece[start : start + chunk_bytes]


def _read(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file; decompressors may return less per call."""
    parts, left = [], size
    while left and (data := file.read(left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def _read_head(file: BinaryIO) -> bytes:
    """The first bytes of a file: enough to determine its encoding and line ends."""
    head = _read(file, _HEAD_BYTES)
    if _has_only_returns(head):  # a newline may still follow: in a long line one return proves nothing
        head += _read(file, MAX_LINE_BYTES - len(head))
    return head


def _encoding(head: bytes) -> str | None:
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def _has_only_returns(head: bytes) -> bool:
    return b"\n" not in head and b"\r" in head.rstrip(b"\r\n\0")


def _transcode(path: str, pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Converts to UTF-8. Half a surrogate pair becomes bytes that are not UTF-8, so that its row is
    rejected."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not whole {encoding.upper()} text ({error.reason}); write it again"
        ) from None


def _with_newlines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Replaces every carriage return, with or without a newline after it, by a newline."""
    held = b""
    for piece in pieces:
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""
        piece = piece[: len(piece) - len(held)]
        yield piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield b"\n" * len(held)
