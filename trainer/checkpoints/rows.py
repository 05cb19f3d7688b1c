"""Rows of one table, read from a full checkpoint on disk and its increments. Without TensorFlow.

Arrays are mapped into memory, so only requested rows occupy it, beside the page cache. Files of object stores
are copied to temporary files first, which are gone when the process ends.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from configs.system.threads import in_order
from trainer.checkpoints.files import in_flight
from trainer.checkpoints.reader import Checkpoint, map_array, read_copy, release

_Used = TypeVar("_Used")


def stream_rows(
    chain: list[Checkpoint], table: str, use: Callable[[int, np.ndarray], _Used]
) -> Iterator[_Used]:
    """use(start, records) of consecutive row ranges of a table, as of the last checkpoint of a chain.

    Threads read the full checkpoint's files, which are verified on the bytes that are used, lay the records
    of increments over them and call `use`. Increments are mapped into memory.

    Args:
      chain: a full checkpoint and increments in order.
      table: name.
      use: gets records float32 [n, width] of the rows from `start` on.

    Raises:
      DamagedCheckpoint: a file is not as it was written.
    """
    full, *increments = chain
    yield from _streamed(full, [_Layer(checkpoint, table) for checkpoint in increments], table, use)


def _streamed(
    full: Checkpoint, layers: "list[_Layer]", table: str, use: Callable[[int, np.ndarray], _Used]
) -> Iterator[_Used]:
    """As stream_rows; `layers`: of the increments, in order."""
    pieces = full.pieces(table)
    starts = np.cumsum([0] + [n for n, _, _ in pieces])

    def read(piece: tuple[int, str]) -> _Used:
        start, name = piece
        records = read_copy(full, name)
        for layer in layers:
            layer.lay_over(records, start)
        return use(start, records)

    files = [(int(start), name) for start, (_, name, _) in zip(starts, pieces, strict=False)]
    # What `use` makes of a piece may be in memory beside it.
    yield from in_order(read, files, in_flight(2 * full.manifest.tables[table].largest_piece_bytes))


class StoredRows:
    """The records of a table as of the last checkpoint of a chain: the newest record of each row.

    Args:
      chain: a full checkpoint and increments in order.
      table: name.

    Raises:
      DamagedCheckpoint: a file is not as it was written; all are verified here.
    """

    def __init__(self, chain: list[Checkpoint], table: str):
        full, *increments = (_Layer(checkpoint, table) for checkpoint in chain)
        self._layers = [*increments[::-1], full]
        self._full, self._table = chain[0], table
        self.width = chain[0].manifest.tables[table].width

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Records, float32 [n, width], of ids int64 [n] in any order."""
        records = np.empty([len(ids), self.width], np.float32)
        left = np.arange(len(ids))
        for layer in self._layers:
            found = layer.read_into(records, left, ids[left])
            left = left[~found]
        return records

    def stream(self, use: Callable[[int, np.ndarray], _Used]) -> Iterator[_Used]:
        """As stream_rows, of all rows: in threads, and faster than reading them by id."""
        yield from _streamed(self._full, self._layers[-2::-1], self._table, use)


class _Layer:
    """The rows in one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, table: str):
        pieces = checkpoint.pieces(table)
        names = [name for _, *files in pieces for name in files if name is not None]
        most = in_flight(checkpoint.manifest.tables[table].largest_piece_bytes)
        arrays = dict(
            zip(names, in_order(functools.partial(map_array, checkpoint), names, most), strict=True)
        )
        self._records = [arrays[name] for _, name, _ in pieces]
        self._ids = [arrays[name] for _, _, name in pieces if name is not None]
        starts = np.cumsum([0] + [n for n, _, _ in pieces])[:-1]
        self._first = np.array([ids[0] for ids in self._ids], np.int64) if self._ids else starts

    def read_into(self, records: np.ndarray, places: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Fills records[places] with the rows that this checkpoint holds; returns which, bool [n]."""
        held = np.zeros(len(ids), bool)
        piece = np.searchsorted(self._first, ids, side="right") - 1
        for i in np.unique(piece[piece >= 0]):
            asked = np.flatnonzero(piece == i)
            if not self._ids:
                row, here = ids[asked] - self._first[i], asked
            else:
                row = np.searchsorted(self._ids[i], ids[asked])
                there = row < len(self._ids[i])
                there[there] = self._ids[i][row[there]] == ids[asked][there]
                row, here = row[there], asked[there]
            records[places[here]] = self._records[i][row]
            held[here] = True
            release(self._records[i])
        return held

    def lay_over(self, records: np.ndarray, start: int) -> None:
        """Replaces those of the records of the rows from `start` on that this increment holds."""
        stop = start + len(records)
        first = max(int(np.searchsorted(self._first, start, side="right")) - 1, 0)
        for ids, rows in zip(self._ids[first:], self._records[first:], strict=True):
            if ids[0] >= stop:
                break
            low, high = np.searchsorted(ids, [start, stop])
            if low == high:
                continue
            records[ids[low:high] - start] = rows[low:high]
            release(rows)
