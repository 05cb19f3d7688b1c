"""Columns of any length, cut into the blocks of a record file."""

from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.rows.encode import Column, RecordFile
from pipelines.rows.history import gather_ranges


class Lists(NamedTuple):
    """A column of lists."""

    values: np.ndarray
    """All lists one after the other."""
    offsets: np.ndarray
    """int64 [n + 1]: list i is values[offsets[i]:offsets[i + 1]]."""
    length_name: str | None
    """Column for the lengths; None: another column of lists has the same lengths."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> "Lists":
        offsets = self.offsets[start : min(stop, len(self)) + 1]
        return Lists(self.values[offsets[0] : offsets[-1]], offsets - offsets[0], self.length_name)

    def join(self, other: "Lists") -> "Lists":
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Lists(np.concatenate([self.values, other.values]), offsets, self.length_name)

    def take(self, order: np.ndarray) -> "Lists":
        first, last = self.offsets[:-1][order], self.offsets[1:][order]
        offsets = np.zeros(len(order) + 1, np.int64)
        np.cumsum(last - first, out=offsets[1:])
        return Lists(gather_ranges(self.values, first, last), offsets, self.length_name)


def lists(values: pa.LargeListArray, length_name: str | None) -> Lists:
    """A column of lists from an Arrow array."""
    return Lists(values.values.to_numpy(), values.offsets.to_numpy(), length_name)


Columns = dict[str, Any]
"""By name: an array, a list of bytes or Lists, all of one length."""


class BlockWriter:
    """Collects columns of any length and writes full blocks."""

    def __init__(self, file: BinaryIO, block_rows: int):
        self._records = RecordFile(file, block_rows)
        self._block_rows = block_rows
        self._rest: Columns | None = None

    def add(self, columns: Columns) -> None:
        """Appends rows: arrays, lists of bytes or Lists, all of one length."""
        columns = columns if self._rest is None else _join(self._rest, columns)
        rows = _num_rows(columns)
        whole = rows - rows % self._block_rows
        for start in range(0, whole, self._block_rows):
            self._write(slice_columns(columns, start, start + self._block_rows))
        self._rest = slice_columns(columns, whole, rows)

    def close(self) -> dict[str, Any]:
        """Writes the last block; returns rows, bytes and crc32c."""
        if self._rest is not None and _num_rows(self._rest):
            self._write(self._rest)
        return self._records.close()

    def _write(self, columns: Columns) -> None:
        block: dict[str, Column] = {}
        for name, values in columns.items():
            if isinstance(values, Lists):
                block[name] = values.values
                if values.length_name:
                    block[values.length_name] = np.diff(values.offsets)
            else:
                block[name] = values
        self._records.write_block(block, _num_rows(columns))


def _num_rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def slice_columns(columns: Columns, start: int, stop: int) -> Columns:
    """Some rows of columns; a stop beyond their end means their end."""
    return {
        name: values.slice(start, stop) if isinstance(values, Lists) else values[start:stop]
        for name, values in columns.items()
    }


def _join(first: Columns, second: Columns) -> Columns:
    joined: Columns = {}
    for name, values in second.items():
        if isinstance(values, Lists):
            joined[name] = first[name].join(values)
        elif isinstance(values, list):
            joined[name] = first[name] + values
        else:
            joined[name] = np.concatenate([first[name], values])
    return joined
