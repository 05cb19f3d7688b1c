"""Where the rows of another run's table go in a table of this run."""

from collections.abc import Iterator

import numpy as np

from trainer.embeddings.base import Table

_RANGE = 1 << 20  # rows that are looked at at a time


def row_type(rows: int) -> type[np.integer]:
    """The integers that hold rows of a table of `rows` rows in the least memory."""
    return np.int32 if rows < 2**31 else np.int64


def ranges(rows: int) -> Iterator[slice]:
    """Consecutive ranges of a table's rows."""
    return (slice(start, min(start + _RANGE, rows)) for start in range(0, rows, _RANGE))


class Placement:
    """Rows of a table by rows of a source, so that these can be written in the order in which they are read.

    Args:
      rows: the source's row of each row, integers [rows of the table]; -1: none. None: all have the same
        number.
      source_size: rows of the source's table.
    """

    def __init__(self, rows: np.ndarray | None, source_size: int):
        self._rows = rows
        if rows is None:
            return
        self._own = np.full(source_size, -1, row_type(len(rows)))
        for part in ranges(len(rows)):  # the tables are in memory by now
            kept = part.start + np.flatnonzero(rows[part] >= 0)
            self._own[rows[kept]] = kept
        # One row of the source may continue in several: out-of-vocabulary rows.
        more = [np.zeros([2, 0], np.int64)]
        for part in ranges(len(rows)):
            kept = part.start + np.flatnonzero(rows[part] >= 0)
            further = kept[self._own[rows[kept]] != kept]
            more.append(np.stack([further, rows[further]]))
        self._more = np.concatenate(more, axis=1)

    def covers(self, start: int, stop: int) -> bool:
        """Whether all rows start .. stop of the table have a source."""
        return self._rows is None or bool((self._rows[start:stop] >= 0).all())

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The row of each of the source's rows start .. stop, int64; -1: none. Of several rows, one."""
        if self._rows is None:
            return np.arange(start, stop, dtype=np.int64)
        return self._own[start:stop].astype(np.int64)

    def further(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, their rows of the source), int64 each, that `rows` leaves out."""
        if self._rows is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        more, sources = self._more
        here = np.flatnonzero((sources >= start) & (sources < stop))
        return more[here], sources[here]

    def write(self, storage: Table, start: int, records: np.ndarray) -> None:
        """Writes records, float32 [n, width of the table], of the source's rows from `start` on."""
        if self._rows is None:
            storage.write_records(start, records)
            return
        stop = start + len(records)
        own = self.rows(start, stop)
        if (own >= 0).all() and (np.diff(own) == 1).all():
            storage.write_records(int(own[0]), records)
        elif (here := np.flatnonzero(own >= 0)).size:
            storage.write_rows(own[here], records[here])
        more, sources = self.further(start, stop)
        if more.size:
            storage.write_rows(more, records[sources - start])
