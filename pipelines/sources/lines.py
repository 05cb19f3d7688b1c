"""Text files cut at line ends."""

from collections.abc import Iterator

import fsspec

from configs.errors import DataError
from pipelines.sources.compression import foreign_format, open_stream


def read_lines(path: str, start: int, stop: int) -> bytes:
    """All lines that begin in bytes [start, stop) of an uncompressed file, the last one whole."""
    with fsspec.open(path, "rb") as file:
        file.seek(max(start - 1, 0))
        data = file.read(stop - max(start - 1, 0))
        if data and not data.endswith(b"\n"):
            data += file.readline()
    if start == 0:
        return data
    newline = data.find(b"\n")
    return data[newline + 1 :] if newline >= 0 else b""


def count_lines(path: str, start: int, stop: int) -> int:
    """Number of lines that begin in bytes [start, stop) of an uncompressed file."""
    with fsspec.open(path, "rb") as file:
        file.seek(max(start - 1, 0))
        data = file.read(stop - 1 - max(start - 1, 0))
    return data.count(b"\n") + int(start == 0)


def stream_lines(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """Whole lines of a compressed file, about `chunk_bytes` at a time. Raises DataError: it is torn."""
    rest = b""
    with open_stream(path) as file:
        while data := file.read(chunk_bytes):
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if end:
                yield data[:end]
    if rest:
        yield rest


def first_lines(path: str) -> list[str]:
    """Lines of the first 64 KiB of a text file, without their ends; the last may be cut.

    Raises:
      DataError: it is not UTF-8 text.
    """
    with open_stream(path) as file:
        data = file.read(1 << 16)
    if not data:
        raise DataError(f"{path}: the file is empty; remove it from source.paths or write it again")
    if what := foreign_format(data):
        raise DataError(f"{path}: holds {what}")
    if b"\0" in data:
        raise DataError(f"{path}: holds binary data, not text; check source.kind and source.paths")
    lines = data.splitlines()
    try:
        first = lines[0].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: the first line is not UTF-8 text; convert the file to UTF-8") from None
    return [first, *(line.decode("utf-8", "replace") for line in lines[1:])]
