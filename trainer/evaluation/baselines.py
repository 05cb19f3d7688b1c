"""Scorers without training: the floor and, for planted data, the ceiling of every table of results."""

import numpy as np

from configs.errors import DataError
from configs.manifest import Dataset
from configs.planted.interactions import Planted, index_of_key, planted_source
from configs.splitmix import hash_ids
from trainer.data.catalog import Items
from trainer.evaluation.protocols import UserBatch


class Popularity:
    """Ranks items by their number of positive train rows, the same for all users."""

    name = "popularity"

    def __init__(self, items: Items):
        # Ranks of the counts instead of counts, which float32 cannot tell apart beyond 2^24.
        _, order = np.unique(items.counts, return_inverse=True)
        self._scores = order.astype(np.float32)

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, items.rows], or [n, m] for candidates int64 [n, m]."""
        if items is None:
            return np.tile(self._scores, (len(users), 1))
        return self._scores[items]


class Random:
    """Ranks items at random, for each user differently, and the same in every run: the floor where popularity
    is equal for all items.

    Args:
      items: the catalog.
      seed: of the order.
    """

    name = "random"

    def __init__(self, items: Items, seed: int):
        self._items, self._seed = np.arange(items.rows), seed

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, items.rows], or [n, m] for candidates int64 [n, m]."""
        keys = hash_ids(self._seed, users.ids)[:, None]
        hashed = hash_ids(keys, self._items[None] if items is None else items)
        return (hashed >> np.uint64(40)).astype(np.float32)


class BestReachable:
    """The log p(item | user) of the planted model itself: no ranking is better in expectation."""

    name = "best_reachable"

    def __init__(self, dataset: Dataset, items: Items):
        """Raises DataError if not `available`."""
        source = planted_source(dataset.source)
        if source is None or not self.available(dataset):
            raise DataError(
                f"{dataset.path}: the best ranking is known only for synthetic data with ids of kind vocab"
            )
        self._planted = Planted(source)
        index = np.zeros(items.rows, np.int64)
        index[items.ids] = index_of_key(items.keys[items.ids])
        self._cluster = index % self._planted.clusters
        # log p(item | user) = taste(user)[group] + a term of the item alone, the same for any user.
        anyone = np.zeros(1, np.int64)
        taste = self._planted.taste(anyone)[0, self._cluster]
        self._inside = (self._planted.scores(anyone, index)[0] - taste).astype(np.float32)

    @staticmethod
    def available(dataset: Dataset) -> bool:
        """Whether the data is synthetic and each id is one key (hashed ids merge items)."""
        exact = all(dataset.tables[name].ids == "vocab" for name in ("user", "item"))
        return exact and planted_source(dataset.source) is not None

    def scores(self, users: UserBatch, items: np.ndarray | None) -> np.ndarray:
        """float32 [n, items.rows], or [n, m] for candidates int64 [n, m]; any number outside the catalog."""
        taste = self._planted.taste(index_of_key(users.keys)).astype(np.float32)
        if items is None:
            scores = taste[:, self._cluster]
            scores += self._inside
            return scores
        return np.take_along_axis(taste, self._cluster[items], axis=1) + self._inside[items]
