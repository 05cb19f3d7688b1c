"""Recall of an index: the fraction of the exact best items that it finds."""

import numpy as np
import tensorflow as tf

from trainer.indexes import brute_force
from trainer.indexes.base import NO_SCORE, BaseIndex

_BATCH = 32


def measure_recall(index: BaseIndex, users, vectors: tf.Variable, servable: int, ks: list[int]) -> dict:
    """Mean fraction of the exact best k rows that the index finds among its k, without banned pairs.

    Args:
      index: built from `vectors` and `servable`.
      users: float32 [n, dim], n at least 1.
      vectors: float32 [rows, dim].
      servable: only the first `servable` rows may be returned; at least 1.
      ks: values of k.

    Returns:
      {k: recall}, 0 to 1.
    """
    none = (tf.zeros([0], tf.int64), tf.zeros([0], tf.int64))

    @tf.function(reduce_retracing=True)
    def both(batch, k):
        return index.search(batch, none, k), brute_force.top_items(batch, vectors, servable, none, k)

    found = {}
    for k in ks:
        shares = []
        for start in range(0, len(users), _BATCH):
            lists = tf.nest.map_structure(
                lambda t: t.numpy(), both(users[start : start + _BATCH], tf.constant(k))
            )
            shares += [_share(a, b) for a, b in zip(*(_rows(*pair) for pair in lists), strict=True)]
        found[k] = float(np.mean(shares))
    return found


def _rows(scores: np.ndarray, rows: np.ndarray) -> list[set]:
    return [set(r[s > NO_SCORE].tolist()) for s, r in zip(scores, rows, strict=True)]


def _share(found: set, exact: set) -> float:
    return len(found & exact) / len(exact)
