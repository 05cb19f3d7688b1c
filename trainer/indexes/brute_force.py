"""The best items of a batch of users by brute force, in blocks of items so that memory is bounded."""

import tensorflow as tf

from trainer.indexes.base import NO_SCORE, BaseIndex

# Most items of a block, and most scores (users x items) that a block should hold: 32 MB. The system's
# allocator keeps blocks up to that size; larger ones it would return and get back page by page.
BLOCK_ITEMS = 1 << 20
BLOCK_SCORES = 1 << 23
_SMALLEST_BLOCK = 1 << 10
# Consecutive items of which the largest score is looked at before the others are.
_CHUNK = 32


class Index(BaseIndex):
    """Exact, and TensorFlow's operations alone."""

    def search(self, users, banned, k):
        return top_items(users, self._vectors, self._servable, banned, k)


def top_items(users, items, servable, banned, k, block_items: int = BLOCK_ITEMS, allowed=None):
    """The k rows of `items` with the largest dot products, for each user; equal scores by rising row.

    Args:
      users: float32 [batch, dim].
      items: float32 [rows, dim], tensor or variable.
      servable: so many first rows may be returned; an integer or int32 scalar.
      banned: (position in the batch, row of items), int64 [n] each: pairs not to be returned.
      k: int32 scalar of at least 1.
      block_items: most rows scored at once; fewer when the batch is large.
      allowed: bool [servable], rows that may be returned; None: all of them.

    Returns:
      (scores float32 [batch, k], rows int64 [batch, k]), best first. Where fewer than k items are left the
      score is NO_SCORE and the row means nothing.
    """
    items = tf.convert_to_tensor(items)  # a variable is read once, not at every block
    batch = tf.shape(users)[0]
    block = tf.clip_by_value(BLOCK_SCORES // tf.maximum(batch, 1), _SMALLEST_BLOCK, BLOCK_ITEMS)
    block = tf.minimum(block, block_items)

    def step(start, scores, found):
        stop = tf.minimum(start + block, servable)
        # Items times users, not users times items: twice as fast on CPUs, for 8 to 128 users.
        now = tf.matmul(items[start:stop], users, transpose_b=True)
        if allowed is not None:
            now = tf.where(allowed[start:stop, tf.newaxis], now, NO_SCORE)
        now, rows = _promising(_without(now, banned, start, stop), scores[:, -1:], k)
        # What was found before stands first: top_k takes the first of equals, so ties stay in row order.
        now, rows = tf.concat([scores, now], axis=1), tf.concat([found, rows + start], axis=1)
        scores, place = tf.math.top_k(now, k)
        return stop, scores, tf.gather(rows, place, batch_dims=1)

    nothing = (tf.constant(0), tf.fill([batch, k], NO_SCORE), tf.zeros(tf.stack([batch, k]), tf.int32))
    any_shape = tf.TensorShape([None, None])
    _, scores, found = tf.while_loop(
        lambda start, *_: start < servable,
        step,
        nothing,
        shape_invariants=(tf.TensorShape([]), any_shape, any_shape),
        parallel_iterations=1,  # one block's scores in memory, not ten
    )
    return scores, tf.cast(found, tf.int64)


def _without(scores, banned, start, stop):
    """`scores` [stop - start, batch] of rows start .. stop, with NO_SCORE at the banned pairs among them."""
    users, rows = banned
    start, stop = tf.cast(start, tf.int64), tf.cast(stop, tf.int64)
    here = (rows >= start) & (rows < stop)
    index = tf.stack([tf.boolean_mask(rows, here) - start, tf.boolean_mask(users, here)], axis=1)
    lowest = tf.fill(tf.shape(index)[:1], NO_SCORE)
    # The update copies all scores, a tenth of a request's time.
    return tf.cond(
        tf.shape(index)[0] > 0, lambda: tf.tensor_scatter_nd_update(scores, index, lowest), lambda: scores
    )


def _promising(scores, least, k):
    """Scores among which are all that belong to a user's k best.

    The k best lie in the k chunks with the largest maxima, since each of these holds an item that is better
    or, as good, stands before; and in chunks whose maximum exceeds the k-th best score of the rows before.

    Args:
      scores: float32 [rows, batch].
      least: float32 [batch, 1], the k-th best score of earlier rows.
      k: int32 scalar.

    Returns:
      (scores float32 [batch, n], their rows int32 [batch, n], rising).
    """
    rows, batch = tf.shape(scores)[0], tf.shape(scores)[1]
    scores = tf.pad(scores, [[0, -rows % _CHUNK], [0, 0]], constant_values=NO_SCORE)
    chunked = tf.reshape(scores, tf.stack([tf.shape(scores)[0] // _CHUNK, _CHUNK, batch]))
    largest = tf.transpose(tf.reduce_max(chunked, axis=1))
    better = tf.math.count_nonzero(largest > least, axis=1, dtype=tf.int32)
    # The largest number of any user. reduce_max of nothing is the smallest integer.
    _, chunks = tf.math.top_k(largest, tf.clip_by_value(tf.reduce_max(better), 0, k))
    chunks = tf.sort(chunks, axis=1)
    places = tf.reshape(
        chunks[:, :, tf.newaxis] * _CHUNK + tf.range(_CHUNK), [batch, tf.shape(chunks)[1] * _CHUNK]
    )
    flat = tf.cast(places, tf.int64) * tf.cast(batch, tf.int64)
    flat += tf.range(tf.cast(batch, tf.int64))[:, tf.newaxis]
    return tf.gather(tf.reshape(scores, [-1]), flat), places
