"""Random items as negatives, determined by the seed and the step alone."""

import numpy as np
import tensorflow as tf


class Pool:
    """Samples items with positive train rows, uniformly and with replacement.

    Args:
      item_counts: [item table rows], positive train rows of each item.
      seed: of the run.

    Attributes:
      items: those that can be sampled, int64 [size].
      size: their number.
    """

    def __init__(self, item_counts, seed: int):
        items = np.flatnonzero(np.asarray(item_counts) > 0)
        self.items, self._seed = tf.constant(items, tf.int64), seed
        self.size = len(items)

    def draw(self, shape, step):
        """Random item ids, int64 of this shape, for a step (int64 scalar)."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), step])
        drawn = tf.random.stateless_uniform(shape, seed=seed, maxval=self.size, dtype=tf.int32)
        return tf.gather(self.items, drawn)
