"""The best items of a batch of users by ScaNN (Guo et al. 2020): approximate, for catalogs of millions.

The tree and the quantized items are variables of the SavedModel. ScaNN hands over candidates; they are scored
again here with the vectors themselves, so scores are those of brute force and no second copy of the vectors
is kept.
"""

import math

import numpy as np
import tensorflow as tf

from configs.errors import ExportError
from configs.sections.export import ScannIndexConfig
from trainer.indexes.base import NO_SCORE, BaseIndex
from trainer.indexes.packages import load_operations

_LEAST_ITEMS = 16  # as many as a quantized pair of columns has values
# The loss that weighs errors along the vector more than across it; the value of ScaNN's own examples.
_ANISOTROPIC_THRESHOLD = 0.2


class Index(BaseIndex):
    """See the module's docstring."""

    def __init__(self, config: ScannIndexConfig, vectors: tf.Variable, servable: int):
        super().__init__(config, vectors, servable)
        self._ops = load_operations("scann", "export.index.kind: scann")
        if servable < _LEAST_ITEMS:
            raise ExportError(
                f"export.index.kind: scann needs {_LEAST_ITEMS} items, there are {servable}; use brute_force"
            )
        self._leaves = config.leaves or round(math.sqrt(servable))
        if self._leaves > servable:
            raise ExportError(f"export.index.leaves: {self._leaves} exceeds the number of items, {servable}")
        wanted = config.leaves_to_search or max(10, round(self._leaves / 10))
        self._leaves_to_search = min(wanted, self._leaves)
        self._state = self._build().serialize_to_module()

    def _build(self):
        builder = self._ops.builder(self._vectors[: self._servable], 10, "dot_product")
        # ScaNN's default where leaves are large: without it recall fell from 0.81 to 0.69 on 200,000 items.
        least = min(50, max(1, self._servable // (2 * self._leaves)))
        builder = builder.tree(self._leaves, self._leaves_to_search, min_partition_size=least)
        return builder.score_ah(2, anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD).build()

    def search(self, users, banned, k):
        keep = tf.maximum(self._config.reorder, 2 * k)
        rows = self._candidates(users, banned, keep)
        # Nothing, k times, so that there are k; rising, so that equal scores stay in row order.
        nothing = tf.fill(tf.stack([tf.shape(users)[0], k]), self._servable)
        rows = tf.sort(tf.concat([rows, nothing], axis=1), axis=1)
        vectors = tf.gather(self._vectors.read_value(), tf.minimum(rows, self._servable - 1))
        scores = tf.squeeze(tf.matmul(vectors, users[:, :, tf.newaxis]), axis=2)
        scores, place = tf.math.top_k(tf.where(rows < self._servable, scores, NO_SCORE), k)
        return scores, tf.cast(tf.gather(rows, place, batch_dims=1), tf.int64)

    def _candidates(self, users, banned, keep):
        """Rows int32 [batch, at most keep] that are allowed, best guesses first; `servable`: none."""
        batch = tf.shape(users)[0]
        most_banned = tf.reduce_max(
            tf.math.unsorted_segment_sum(tf.ones_like(banned[0], tf.int32), banned[0], batch)
        )
        fetch = tf.minimum(keep + tf.maximum(most_banned, 0), self._servable)
        # So many leaves that they hold twice what is fetched, if all are of one size.
        share = 2.0 * tf.cast(fetch, tf.float32) / self._servable
        needed = tf.cast(tf.math.ceil(self._leaves * tf.minimum(share, 1.0)), tf.int32)
        searcher = self._ops.searcher_from_module(self._state)
        rows, guesses = searcher.search_batched_parallel(
            users,
            final_num_neighbors=fetch,
            pre_reorder_num_neighbors=fetch,
            leaves_to_search=tf.maximum(needed, self._leaves_to_search),
        )
        # ScaNN fills lists up with row 0 and a NaN score.
        missing = tf.math.is_nan(guesses) | _among(banned, rows, self._vectors.shape[0])
        rows, guesses = tf.where(missing, self._servable, rows), tf.where(missing, NO_SCORE, guesses)
        _, place = tf.math.top_k(guesses, tf.minimum(keep, tf.shape(guesses)[1]))
        return tf.gather(rows, place, batch_dims=1)

    def facts(self) -> dict:
        return {
            **super().facts(),
            "leaves": self._leaves,
            "leaves_to_search": self._leaves_to_search,
            "reorder": self._config.reorder,
        }

    def num_bytes(self) -> int:
        numbers = [v.numpy() for v in self._state.variables if v.dtype != tf.string]
        strings = [v.numpy() for v in self._state.variables if v.dtype == tf.string]
        return sum(n.nbytes for n in numbers) + sum(len(text) for s in strings for text in np.ravel(s))


def _among(banned, rows, num_rows: int):
    """Whether (position in the batch, row) is banned, for each of rows int32 [batch, n]."""
    users, items = banned
    known = tf.sort(tf.concat([[-1], users * num_rows + items], axis=0))  # -1: there is always one to look at
    position = tf.range(tf.shape(rows, tf.int64)[0])[:, tf.newaxis]
    wanted = tf.reshape(position * num_rows + tf.cast(rows, tf.int64), [-1])
    place = tf.minimum(tf.searchsorted(known, wanted), tf.size(known) - 1)
    return tf.reshape(tf.gather(known, place) == wanted, tf.shape(rows))
