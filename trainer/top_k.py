"""The best items of a batch of users by brute force, in blocks of items so that memory is bounded."""

import numpy as np
import tensorflow as tf

# Score of a place that no item fills. Finite, because JSON has no infinity.
NO_SCORE = float(np.finfo(np.float32).min)
# Most items of a block, and most scores (users x items) that a block should hold: 64 MB.
BLOCK_ITEMS = 1 << 16
BLOCK_SCORES = 1 << 24
_SMALLEST_BLOCK = 1 << 10


def top_items(users, items, servable, banned, k, block_items: int = BLOCK_ITEMS):
    """The k rows of `items` with the largest dot products, for each user; equal scores by rising row.

    Args:
      users: float32 [batch, dim].
      items: float32 [rows, dim], tensor or variable.
      servable: bool [rows]; other rows are never returned.
      banned: (position in the batch, row of items), int64 [n] each: pairs not to be returned.
      k: int32 scalar of at least 1.
      block_items: most rows scored at once; fewer when the batch is large.

    Returns:
      (scores float32 [batch, k], rows int64 [batch, k]), best first. Where fewer than k items are left the
      score is NO_SCORE and the row means nothing.
    """
    batch, rows = tf.shape(users)[0], items.shape[0]
    block = tf.clip_by_value(BLOCK_SCORES // tf.maximum(batch, 1), _SMALLEST_BLOCK, BLOCK_ITEMS)
    block = tf.minimum(block, block_items)

    def step(start, scores, found):
        stop = tf.minimum(start + block, rows)
        now = tf.matmul(users, items[start:stop], transpose_b=True)
        now = _without(tf.where(servable[start:stop], now, NO_SCORE), banned, start, stop)
        now, place = tf.math.top_k(now, tf.minimum(k, stop - start))
        # What was found before stands first: top_k takes the first of equals, so ties stay in row order.
        scores = tf.concat([scores, now], axis=1)
        found = tf.concat([found, tf.cast(place + start, tf.int64)], axis=1)
        scores, place = tf.math.top_k(scores, k)
        return stop, scores, tf.gather(found, place, batch_dims=1)

    nothing = (tf.constant(0), tf.fill([batch, k], NO_SCORE), tf.zeros(tf.stack([batch, k]), tf.int64))
    any_shape = tf.TensorShape([None, None])
    _, scores, found = tf.while_loop(
        lambda start, *_: start < rows,
        step,
        nothing,
        shape_invariants=(tf.TensorShape([]), any_shape, any_shape),
        parallel_iterations=1,  # one block's scores in memory, not ten
    )
    return scores, found


def _without(scores, banned, start, stop):
    """`scores` [batch, stop - start] of rows start .. stop, with NO_SCORE at the banned pairs among them."""
    users, rows = banned
    start, stop = tf.cast(start, tf.int64), tf.cast(stop, tf.int64)
    here = (rows >= start) & (rows < stop)
    index = tf.stack([tf.boolean_mask(users, here), tf.boolean_mask(rows, here) - start], axis=1)
    return tf.tensor_scatter_nd_update(scores, index, tf.fill(tf.shape(index)[:1], NO_SCORE))
