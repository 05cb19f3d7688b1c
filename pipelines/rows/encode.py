"""Columnar tf.train.Example blocks in TFRecord frames, encoded with NumPy.

TensorFlow would cost every worker half a gigabyte, and building messages value by value would take most of
the time.
"""

import zlib
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

Column = np.ndarray | list[bytes]
"""int64/int32 values >= 0, float32 values, or a list of bytes."""


def varints(values: np.ndarray) -> bytes:
    """Base-128 encoding of integers [n] >= 0, one after the other."""
    if not len(values):
        return b""
    width = _varint_bytes(values.max())
    if width == 1:
        return values.astype(np.uint8).tobytes()
    if width <= 4:
        values = values.astype(np.uint32, copy=False)
    else:
        values = values.astype(np.uint64, copy=False)
    groups = np.empty((len(values), width), np.uint8)
    keep = np.empty((len(values), width), bool)  # bytes that belong to their number
    keep[:, 0] = True
    rest = values
    for i in range(width):
        groups[:, i] = rest
        rest = rest >> rest.dtype.type(7)
        if i + 1 < width:
            np.not_equal(rest, 0, out=keep[:, i + 1])
    groups[:, :-1] &= 127
    groups[:, :-1] |= keep[:, 1:].view(np.uint8) << 7
    if _varint_bytes(values.min()) == width:  # all equally long, as timestamps are
        return groups.tobytes()
    return groups[keep].tobytes()


def _varint_bytes(value: int) -> int:
    return max(1, (int(value).bit_length() + 6) // 7)


def example(columns: dict[str, Column]) -> bytes:
    """Serialized tf.train.Example, features by name in sorted order.

    Args:
      columns: values of each feature; integers become int64_list, float32 float_list, bytes bytes_list.
    """
    entries = []
    for name in sorted(columns):
        key = _field(0x0A, name.encode())
        entries.append(_field(0x0A, key + _field(0x12, _feature(columns[name]))))
    return _field(0x0A, b"".join(entries))


def record(data: bytes) -> bytes:
    """A TFRecord frame: length, its checksum, the data, its checksum."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


class RecordFile:
    """GZIP TFRecords of columnar blocks, written to a binary file, with row count, size and checksum.

    The bytes depend only on the rows: the gzip header has no time and no name.
    """

    def __init__(self, file: BinaryIO, block_rows: int):
        self._file = file
        self._block_rows = block_rows
        self._gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        self.rows = 0
        self.bytes = 0
        self._crc = 0

    def write_block(self, columns: dict[str, Column], rows: int) -> None:
        """Appends one block of `rows` rows."""
        self.rows += rows
        self._write(self._gzip.compress(record(example(columns))))

    def close(self) -> dict[str, Any]:
        """Ends the stream; returns rows, bytes and crc32c as stored in dataset.json."""
        self._write(self._gzip.flush())
        return {"rows": self.rows, "bytes": self.bytes, "crc32c": f"{self._crc:08x}"}

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self.bytes += len(data)


def _feature(values: Column) -> bytes:
    if isinstance(values, list):
        return _field(0x0A, _byte_fields(values))
    if values.dtype == np.float32:
        return _field(0x12, _field(0x0A, np.ascontiguousarray(values, "<f4").tobytes()))
    return _field(0x1A, _field(0x0A, varints(values)))


def _byte_fields(values: list[bytes]) -> bytes:
    """The length-delimited protobuf fields, number 1, of values."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    if not len(values) or lengths.max() > 127:  # a length of several bytes
        return b"".join(_field(0x0A, value) for value in values)
    ends = np.cumsum(lengths + 2)
    starts = ends - lengths - 2
    fields = np.empty(ends[-1], np.uint8)
    is_data = np.ones(len(fields), bool)
    is_data[starts] = is_data[starts + 1] = False
    fields[starts], fields[starts + 1] = 0x0A, lengths
    fields[is_data] = np.frombuffer(b"".join(values), np.uint8)
    return fields.tobytes()


def _field(tag: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([tag]) + length + bytes([size]) + data


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
