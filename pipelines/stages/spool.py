"""Spool files: Arrow tables wait on disk between two stages, and Beam shuffles only references to them.

Shuffling the tables themselves would hold them in the runner's memory (twice, while they are encoded).
A spool file is written under a new name by one bundle and never changed, so a bundle that is rerun at worst
leaves an orphan.
"""

import os
import uuid
from collections.abc import Iterable
from typing import BinaryIO

import fsspec
import numpy as np
import pyarrow as pa

from configs.system.storage import naming

Ref = tuple[str, int, int]
"""(path, offset, length) of one table in a spool file."""


class SpoolWriter:
    """Writes tables into one new file of the spool directory.

    The file's name reports progress: <stage>-<rows>-<random>.
    """

    def __init__(self, directory: str, stage: str, rows: int = 0):
        self._path = f"{directory}/{stage}-{rows}-{uuid.uuid4().hex}"
        self._file: BinaryIO | None = None
        self._offset = 0

    def add(self, table: pa.Table) -> Ref:
        """Appends a table; its reference is valid once the writer is closed."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return self.add_bytes(sink.getvalue())

    def add_bytes(self, data: bytes | pa.Buffer) -> Ref:
        """Appends plain bytes."""
        if self._file is None:
            self._file = _open_new(self._path)
        with naming(self._path):
            self._file.write(data)
        length = memoryview(data).nbytes
        self._offset += length
        return (self._path, self._offset - length, length)

    def __enter__(self) -> "SpoolWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with naming(self._path):
                self._file.close()


def read_bytes(ref: Ref) -> bytes:
    """The bytes behind a reference."""
    path, offset, length = ref
    if "://" not in path:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with naming(path):
                return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
    with fsspec.open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def read_table(ref: Ref) -> pa.Table:
    """The table behind a reference."""
    return pa.ipc.open_stream(pa.py_buffer(read_bytes(ref))).read_all()


def read_tables(refs: Iterable[Ref]) -> pa.Table:
    """The tables behind references, one after the other, in one chunk, with shared dictionaries."""
    table = pa.concat_tables([read_table(ref) for ref in refs])
    return table.unify_dictionaries().combine_chunks()


def column(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-width column of a table of one chunk as NumPy, without a copy."""
    return array(table[name]).to_numpy(zero_copy_only=False)


def array(chunked: pa.ChunkedArray) -> pa.Array:
    """The only chunk of a column, or an empty array."""
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    return chunked.combine_chunks() if chunked.num_chunks else pa.array([], chunked.type)


def partition(parts: np.ndarray, num_parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows ordered by part.

    Args:
      parts: int [n], part of each row, below num_parts.

    Returns:
      order int64 [n], stable, and bounds int64 [num_parts + 1]: rows order[bounds[p]:bounds[p + 1]] are
      of part p.
    """
    order = stable_order(parts)
    bounds = np.zeros(num_parts + 1, np.int64)
    np.cumsum(np.bincount(parts, minlength=num_parts), out=bounds[1:])
    return order, bounds


def stable_order(values: np.ndarray) -> np.ndarray:
    """Stable order int64 [n] of integers >= 0, by radix sort if they are small."""
    largest = int(values.max(initial=0))
    if largest < 1 << 16:
        return np.argsort(values.astype(np.uint16), kind="stable")  # for 16 bits NumPy uses radix sort
    if largest < 1 << 32:
        low = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
        high = np.argsort((values >> 16).astype(np.uint16)[low], kind="stable")
        return low[high]
    return np.argsort(values, kind="stable")


def _open_new(path: str) -> BinaryIO:
    if "://" in path:
        return fsspec.open(path, "wb").open()
    return open(path, "xb")
