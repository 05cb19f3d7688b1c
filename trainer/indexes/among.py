"""The best items among allowed ones: exact, whatever index finds them among all.

Few allowed rows are gathered and scored alone, so a narrow filter is cheaper than none; where most rows are
allowed, all are scored and the others left out, because copying their vectors would cost more.
"""

import tensorflow as tf

from trainer.indexes.base import BaseIndex
from trainer.indexes.brute_force import top_items

# Rows are gathered up to this share of all.
_GATHERED_SHARE = 0.25


def search_among(index: BaseIndex, users, items, servable: int, restricted, allowed, banned, k):
    """The k best allowed rows for each user; equal scores by rising row.

    Args:
      index: finds the rows of users without a restriction.
      users: float32 [batch, dim].
      items: float32 variable [rows, dim]; the first `servable` may be returned.
      restricted: bool [1] for all users or [batch].
      allowed: RaggedTensor int64 [1 or batch, None]: rows below servable, ascending and distinct, that may be
        returned to restricted users.
      banned, k: as BaseIndex.search.

    Returns:
      (scores float32 [batch, k], rows int64 [batch, k]), as BaseIndex.search.
    """
    items = items.read_value()  # not gathered from: TensorFlow copies a variable at every read after a gather

    def together():
        return tf.cond(
            restricted[0],
            lambda: _among(users, items, servable, allowed.values, banned, k),
            lambda: index.search(users, banned, k),
        )

    def one(position):
        user = users[position : position + 1]
        its = banned[0] == tf.cast(position, tf.int64)
        without = tf.zeros_like(banned[0])[its], banned[1][its]
        rows = allowed.values[allowed.row_splits[position] : allowed.row_splits[position + 1]]
        scores, found = tf.cond(
            restricted[position],
            lambda: _among(user, items, servable, rows, without, k),
            lambda: index.search(user, without, k),
        )
        return tf.ensure_shape(scores, [1, None])[0], tf.ensure_shape(found, [1, None])[0]

    def each():
        kinds = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int64)
        return tf.map_fn(one, tf.range(tf.shape(users)[0]), fn_output_signature=kinds, parallel_iterations=2)

    return tf.cond(tf.shape(restricted)[0] == 1, together, each)


def _among(users, items, servable: int, rows, banned, k):
    """As search_among, of `rows` int64 [n], for all users."""
    number = tf.size(rows)
    few = tf.cast(number, tf.float32) <= _GATHERED_SHARE * servable

    def gathered():
        place = tf.searchsorted(rows, banned[1])
        padded = tf.concat([rows, [-1]], axis=0)  # there is always a row to look at
        hit = tf.gather(padded, place) == banned[1]
        pairs = banned[0][hit], tf.cast(place[hit], tf.int64)
        scores, places = top_items(users, tf.gather(items, rows), number, pairs, k)
        return scores, tf.gather(padded, tf.minimum(places, tf.cast(number, tf.int64)))

    def masked():
        ones = tf.ones_like(rows, tf.bool)
        mask = tf.scatter_nd(rows[:, tf.newaxis], ones, tf.constant([servable], tf.int64))
        return top_items(users, items, servable, banned, k, allowed=mask)

    return tf.cond(few, gathered, masked)
