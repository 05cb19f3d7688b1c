"""Nearest neighbours in the features of items, without training: what a model must exceed on cold items.

Each key of a list or categorical feature of items is a term. An item is the vector of its distinct terms,
weighted by log(items / items with the term), both counted over items with train rows, and scaled to length 1.
A user is the sum of the vectors of their earlier items, and a score is the dot product.
"""

import numpy as np
import tensorflow as tf

from trainer.data.catalog import Items
from trainer.data.features import ListColumn
from trainer.data.ragged import Ragged
from trainer.evaluation.protocols import UserBatch

_CELLS = 1 << 23  # of users' vectors at once: 64 MiB


class FeatureNeighbours:
    """Scores items without train rows; all others get 0.

    Args:
      items: the catalog, as of the evaluated split.
      names: the features to compare, from `comparable`.
    """

    name = "feature_neighbours"

    def __init__(self, items: Items, names: list[str]):
        terms, self._number = _terms(items, names)
        owners, known = terms.row_of_value, items.known
        frequency = np.bincount(terms.values[known[owners]], minlength=self._number)
        # A term of cold items alone is in no user's vector; the maximum only keeps its weight finite.
        weights = np.log(max(len(items.ids), 1) / np.maximum(frequency, 1))[terms.values]
        length = np.sqrt(np.bincount(owners, weights**2, minlength=items.rows))
        self._terms, self._weights = terms, weights / np.maximum(length, 1e-12)[owners]
        cold = items.counts[owners] == 0
        places = np.stack([owners[cold], terms.values[cold]], axis=1)
        values = self._weights[cold].astype(np.float32)
        self._cold = tf.SparseTensor(places, values, [items.rows, self._number])

    @staticmethod
    def comparable(items: Items) -> list[str]:
        """The features of items that have keys."""
        return [name for name, info in items.infos.items() if info.table and not info.is_numeric]

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, items.rows], or [n, m] for candidates int64 [n, m]."""
        size = max(1, _CELLS // self._number)
        parts = [self._scores(users.seen.take(rows)) for rows in _cut(len(users), size)]
        scores = np.concatenate(parts)
        return scores if items is None else np.take_along_axis(scores, items, axis=1)

    def _scores(self, seen: Ragged) -> np.ndarray:
        terms = self._terms.take(seen.values)
        weights = Ragged(self._weights, self._terms.lengths).take(seen.values).values
        cells = np.repeat(seen.row_of_value, terms.lengths) * self._number + terms.values
        vectors = np.bincount(cells, weights, minlength=len(seen) * self._number)
        vectors = vectors.reshape(len(seen), self._number).astype(np.float32)
        return tf.sparse.sparse_dense_matmul(self._cold, vectors, adjoint_b=True).numpy().T


def _cut(number: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, number)) for start in range(0, number, size)]


def _terms(items: Items, names: list[str]) -> tuple[Ragged, int]:
    """(distinct terms of each catalog id, number of terms); each feature has its own terms."""
    found, number = Ragged(np.zeros(0, np.int64), np.zeros(items.rows, np.int64)), 0
    for name in names:
        column = items.features[name]
        ones = np.ones(items.rows, np.int64)
        ids = column.ids if isinstance(column, ListColumn) else Ragged(column, ones)
        found = found.beside(Ragged(ids.values + number, ids.lengths))
        number += 1 + int(ids.values.max(initial=0))
    return found.distinct(number), number
