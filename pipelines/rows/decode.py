"""The inverse of pipelines/rows/encode.py: columns of the blocks of a record file, decoded with NumPy."""

import zlib
from collections.abc import Collection, Iterator

import google_crc32c
import numpy as np

from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.system.storage import reading

Block = dict[str, np.ndarray | list[bytes]]
"""Columns of one block, each flat: int64, float32, or a list of bytes."""
_CHUNK_BYTES = 1 << 20
_ROW = "id"  # a column with one value a row, in catalogs; records have label
_FRAME = 12  # bytes of a record's length and its checksum; another 4 follow the data


def read_blocks(path: str, info: FileInfo, columns: Collection[str] | None = None) -> Iterator[Block]:
    """The blocks of a record file, one at a time.

    Args:
      path: of the file, local or gs://.
      info: what dataset.json says of it. That it is so is known after the last block, so nothing may be
        published before.
      columns: those to decode; None: all.

    Raises:
      DataError: the file is missing, or its size, checksum or rows differ from dataset.json.
    """
    rows = 0
    for data in read_records(path, info):
        block = decode(data, columns)
        rows += len(block[_ROW]) if _ROW in block else _rows_of(data)
        yield block
    if rows != info.rows:
        raise DataError(f"{path}: has {rows} rows, but dataset.json says {info.rows}; {_AGAIN}")


_AGAIN = "restore the file, or run `lazytower prepare` of this dataset again"


def read_records(path: str, info: FileInfo) -> Iterator[bytes]:
    """The serialized blocks of a record file, for `decode`; arguments and errors as of `read_blocks`."""
    checksum, size, buffer = google_crc32c.Checksum(), 0, bytearray()
    gzip = zlib.decompressobj(31)
    try:
        with reading(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                checksum.update(chunk)
                size += len(chunk)
                buffer += gzip.decompress(chunk)
                start = 0
                while len(buffer) - start >= _FRAME:
                    length = int.from_bytes(buffer[start : start + 8], "little")
                    end = start + _FRAME + length
                    if len(buffer) < end + 4:
                        break
                    yield bytes(buffer[start + _FRAME : end])
                    start = end + 4
                del buffer[:start]
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {_AGAIN}") from None
    except zlib.error:
        raise DataError(f"{path}: damaged; {_AGAIN}") from None
    if size != info.bytes or checksum.digest().hex() != info.crc32c.lower() or buffer:
        raise DataError(f"{path}: differs from dataset.json; {_AGAIN}")


def decode(data: bytes, columns: Collection[str] | None = None) -> Block:
    """Columns of one serialized tf.train.Example, as `encode.example` writes them."""
    found: Block = {}
    for name, begin, end in _features(memoryview(data)):
        if columns is None or name in columns:
            found[name] = _values(data, begin, end)
    return found


def _rows_of(data: bytes) -> int:
    """Rows of a block: the values of its first column that has one a row."""
    for name, begin, end in _features(memoryview(data)):
        if name in (_ROW, "label"):
            return len(_values(data, begin, end))
    return 0


def _features(view: memoryview) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of each feature's Feature message."""
    _, place = _size(view, 1)
    while place < len(view):
        length, place = _size(view, place + 1)
        end = place + length
        length, place = _size(view, place + 1)
        name = bytes(view[place : place + length]).decode()
        length, place = _size(view, place + length + 1)
        yield name, place, place + length
        place = end


def _size(view: memoryview, place: int) -> tuple[int, int]:
    """A varint at `place`, and the place after it."""
    value = shift = 0
    while True:
        byte = view[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _values(data: bytes, begin: int, end: int) -> np.ndarray | list[bytes]:
    """Values of a Feature message."""
    kind = data[begin]
    length, place = _size(memoryview(data), begin + 1)
    if kind == 0x0A:
        return _texts(data, place, place + length)
    length, place = _size(memoryview(data), place + 1)
    if kind == 0x12:
        return np.frombuffer(data, "<f4", length // 4, place).copy()
    return _integers(np.frombuffer(data, np.uint8, length, place))


def _texts(data: bytes, place: int, end: int) -> list[bytes]:
    found = []
    while place < end:
        length = data[place + 1]
        place += 2
        if length > 127:
            length, place = _size(memoryview(data), place - 1)
        found.append(data[place : place + length])
        place += length
    return found


def _integers(data: np.ndarray) -> np.ndarray:
    """int64 values of base-128 encoded integers >= 0."""
    ends = np.flatnonzero(data < 128)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.r_[0, ends[:-1] + 1]
    widths = ends - starts + 1
    values = (data[starts] & 127).astype(np.int64)
    longer = np.flatnonzero(widths > 1)
    for byte in range(1, int(widths.max())):
        values[longer] |= (data[starts[longer] + byte] & 127).astype(np.int64) << (7 * byte)
        longer = longer[widths[longer] > byte + 1]
    return values
