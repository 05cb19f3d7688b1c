"""Ids along a chain of datasets, with the ids that follow no rule read once."""

import functools
from collections.abc import Sequence

import numpy as np

from configs.chain import LEFT, Moved, read_moved, translated, untranslated
from configs.dataset_parts import TableInfo
from configs.manifest import Dataset


class Translation:
    """Ids of the datasets of a chain as those of others.

    Args:
      datasets: newest first.
    """

    def __init__(self, datasets: Sequence[Dataset]):
        self._datasets = datasets
        self._moved = functools.cache(self._read_moved)

    def _read_moved(self, level: int, table: str) -> Moved:
        return read_moved(self._datasets[level], table)

    def to_top(self, level: int, table: str, ids: np.ndarray) -> np.ndarray:
        """int64 ids of the newest dataset, or LEFT, for catalog ids of dataset `level`; LEFT stays."""
        for above in reversed(range(level)):
            ids = translated(ids, self._datasets[above].tables[table], self._moved(above, table))
        return np.asarray(ids, np.int64)

    def rows_at_top(self, level: int, table: str, ids: np.ndarray) -> np.ndarray:
        """As `to_top`; ids whose key has left are those of the out-of-vocabulary row."""
        found = self.to_top(level, table, ids)
        oov = self._datasets[0].tables[table].oov
        return found if oov is None else np.where(found == LEFT, oov, found)

    def below(self, level: int, table: str, ids: np.ndarray) -> np.ndarray:
        """int64 ids in the base of dataset `level`, or LEFT where it has none, for ids of the dataset."""
        before: TableInfo = self._datasets[level + 1].tables[table]
        return untranslated(ids, self._datasets[level].tables[table], self._moved(level, table), before)
