"""Exact search by brute force, in blocks of items to bound memory."""

import tensorflow as tf

from trainer.indexes.base import NO_SCORE, BaseIndex

# Limits on the items and the scores (users x items) of a block: 32 MB of scores. The system's allocator keeps
# freed memory up to that size, but returns larger blocks to the kernel and faults them in again page by page.
BLOCK_ITEMS = 1 << 20
BLOCK_SCORES = 1 << 23
_SMALLEST_BLOCK = 1 << 10
# Consecutive items whose maximum score is examined before the single scores.
_CHUNK = 32


class Index(BaseIndex):
    """Exact; uses only TensorFlow operations."""

    def search(self, users, banned, k):
        return top_items(users, self._vectors, self._servable, banned, k)


def top_items(users, items, servable, banned, k, block_items: int = BLOCK_ITEMS, allowed=None):
    """For each user the k rows of `items` with the largest dot products; of equal scores, lower rows first.

    Args:
      users: float32 [batch, dim].
      items: float32 [rows, dim], tensor or variable.
      servable: only the first `servable` rows may be returned; an integer or int32 scalar.
      banned: (position in the batch, row of items), int64 [n] each: pairs that must not be returned.
      k: int32 scalar, at least 1.
      block_items: limit on the rows scored at once; large batches use fewer.
      allowed: bool [servable], rows that may be returned; None for all.

    Returns:
      (scores float32 [batch, k], rows int64 [batch, k]), best first. If fewer than k items remain, the other
      scores are NO_SCORE and their rows are arbitrary.
    """
    items = tf.convert_to_tensor(items)  # reads a variable once, not for every block
    search = _search if allowed is None else _search_allowed
    arguments = [users, items, tf.convert_to_tensor(servable), *banned, k, tf.constant(block_items)]
    return search(*arguments, *([] if allowed is None else [allowed]))


def _top_items(users, items, servable, banned_users, banned_rows, k, block_items, allowed=None):
    """As top_items, of tensors alone."""
    banned, batch = (banned_users, banned_rows), tf.shape(users)[0]
    block = tf.clip_by_value(BLOCK_SCORES // tf.maximum(batch, 1), _SMALLEST_BLOCK, BLOCK_ITEMS)
    block = tf.minimum(block, block_items)

    def step(start, scores, found):
        stop = tf.minimum(start + block, servable)
        # Items times users is twice as fast on CPUs as users times items, for 8 to 128 users.
        now = tf.matmul(items[start:stop], users, transpose_b=True)
        if allowed is not None:
            now = tf.where(allowed[start:stop, tf.newaxis], now, NO_SCORE)
        now, rows = _promising(_without(now, banned, start, stop), scores[:, -1:], k)
        # Earlier rows come first: top_k prefers the first of equal scores, so ties stay in row order.
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


_VECTORS, _PAIRS, _NUMBER = (
    tf.TensorSpec([None, None], tf.float32),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([], tf.int32),
)
_ARGUMENTS = [_VECTORS, _VECTORS, _NUMBER, _PAIRS, _PAIRS, _NUMBER, _NUMBER]
# Traced once for all graphs that call them, and not inlined: a served model does so in many branches, each of
# which would be optimized when it is first asked.
_ONCE = {"autograph": False, "experimental_attributes": {"_noinline": True}}
_search = tf.function(_top_items, _ARGUMENTS, **_ONCE)
_search_allowed = tf.function(_top_items, [*_ARGUMENTS, tf.TensorSpec([None], tf.bool)], **_ONCE)


def _without(scores, banned, start, stop):
    """`scores` [stop - start, batch] of rows start .. stop - 1, with NO_SCORE at banned pairs."""
    users, rows = banned
    start, stop = tf.cast(start, tf.int64), tf.cast(stop, tf.int64)
    here = (rows >= start) & (rows < stop)
    index = tf.stack([tf.boolean_mask(rows, here) - start, tf.boolean_mask(users, here)], axis=1)
    lowest = tf.fill(tf.shape(index)[:1], NO_SCORE)
    # The update copies all scores, which takes a tenth of a request's time.
    return tf.cond(
        tf.shape(index)[0] > 0, lambda: tf.tensor_scatter_nd_update(scores, index, lowest), lambda: scores
    )


def _promising(scores, least, k):
    """A subset of the scores that contains the k best of each user.

    The k best are in the k chunks with the largest maxima: an item outside them is preceded by the maxima of
    these k chunks. They are also in chunks whose maximum exceeds the k-th best score of earlier rows.

    Args:
      scores: float32 [rows, batch].
      least: float32 [batch, 1], the k-th best score of earlier rows.
      k: int32 scalar.

    Returns:
      (scores float32 [batch, n], their rows int32 [batch, n] in ascending order).
    """
    rows, batch = tf.shape(scores)[0], tf.shape(scores)[1]
    scores = tf.pad(scores, [[0, -rows % _CHUNK], [0, 0]], constant_values=NO_SCORE)
    chunked = tf.reshape(scores, tf.stack([tf.shape(scores)[0] // _CHUNK, _CHUNK, batch]))
    largest = tf.transpose(tf.reduce_max(chunked, axis=1))
    better = tf.math.count_nonzero(largest > least, axis=1, dtype=tf.int32)
    # The largest count of any user; for an empty batch reduce_max is the smallest integer.
    _, chunks = tf.math.top_k(largest, tf.clip_by_value(tf.reduce_max(better), 0, k))
    chunks = tf.sort(chunks, axis=1)
    places = tf.reshape(
        chunks[:, :, tf.newaxis] * _CHUNK + tf.range(_CHUNK), [batch, tf.shape(chunks)[1] * _CHUNK]
    )
    flat = tf.cast(places, tf.int64) * tf.cast(batch, tf.int64)
    flat += tf.range(tf.cast(batch, tf.int64))[:, tf.newaxis]
    return tf.gather(tf.reshape(scores, [-1]), flat), places
