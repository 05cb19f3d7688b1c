"""Exact search among allowed items, whatever index searches all items.

Three ways, by the number of allowed rows. A few are gathered and only they are scored, so a narrow
restriction is cheaper than none. If most rows are allowed, the best of all are searched, some more than k,
and those that are not allowed are dropped, which costs what an unrestricted search does. Otherwise, and where
fewer than k are left, all rows are scored and the others masked.
"""

import abc

import tensorflow as tf

from trainer.indexes.base import NO_SCORE, BaseIndex
from trainer.indexes.brute_force import top_items

# Rows are gathered if they are at most this fraction of all: copying the vectors of more costs more than
# scoring all.
_GATHERED_SHARE = 0.25
# From this fraction on, the best of all rows are searched first.
_MOST_SHARE = 0.6
# How many of them: k are allowed even at 4 standard deviations, if the allowed rows are a random share.
_DEVIATIONS = 4.0


class Allowed(abc.ABC):
    """The rows that a request allows, all of them below `servable`.

    Attributes:
      restricted: bool [1] for all users or [batch]: whether a row of the request restricts anything.
    """

    restricted: tf.Tensor

    @abc.abstractmethod
    def are_few(self, position) -> tf.Tensor:
        """Whether `rows` is the cheaper way to find the allowed rows; bool scalar."""

    @abc.abstractmethod
    def rows(self, position) -> tf.Tensor:
        """Allowed rows of the restricted row `position` (int32 scalar): int64 [n], rising and distinct."""

    @abc.abstractmethod
    def mask(self, position) -> tf.Tensor:
        """The same as bool [servable]."""


def search_among(index: BaseIndex, users, items, servable: int, allowed: Allowed, banned, k):
    """The k best allowed rows for each user; of equal scores, lower rows first.

    Args:
      index: searches all rows, for users without a restriction.
      users: float32 [batch, dim].
      items: float32 variable [rows, dim]; only the first `servable` may be returned.
      allowed: the restrictions.
      banned, k: as BaseIndex.search.

    Returns:
      (scores float32 [batch, k], rows int64 [batch, k]), as BaseIndex.search.
    """
    items = items.read_value()  # because TensorFlow copies a variable at every read after a gather from it

    pairs = tf.TensorSpec([None], tf.int64)
    user = tf.TensorSpec([None, items.shape[1]], users.dtype)

    # A function, so that the graph holds it once.
    @tf.function(input_signature=[user, tf.TensorSpec([], tf.int32), pairs, pairs], autograph=False)
    def among(users, position, *banned):
        return _among(users, items, servable, allowed, position, banned, k)

    def together():
        return tf.cond(
            allowed.restricted[0],
            lambda: among(users, 0, *banned),
            lambda: index.search(users, banned, k),
        )

    def one(position):
        user = users[position : position + 1]
        its = banned[0] == tf.cast(position, tf.int64)
        without = tf.zeros_like(banned[0])[its], banned[1][its]
        scores, found = tf.cond(
            allowed.restricted[position],
            lambda: among(user, position, *without),
            lambda: index.search(user, without, k),
        )
        return tf.ensure_shape(scores, [1, None])[0], tf.ensure_shape(found, [1, None])[0]

    def each():
        kinds = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int64)
        return tf.map_fn(one, tf.range(tf.shape(users)[0]), fn_output_signature=kinds, parallel_iterations=2)

    return tf.cond(tf.shape(allowed.restricted)[0] == 1, together, each)


def _among(users, items, servable: int, allowed: Allowed, position, banned, k):
    """As search_among, of the rows allowed at one position, for all users."""
    few = allowed.are_few(position)
    mask = tf.cond(few, lambda: tf.zeros([0], tf.bool), lambda: allowed.mask(position))
    share = tf.cast(tf.math.count_nonzero(mask), tf.float32) / max(servable, 1)

    def gathered():
        rows = tf.cond(few, lambda: allowed.rows(position), lambda: tf.where(mask)[:, 0])
        return _best_of_rows(users, items, rows, banned, k)

    return tf.cond(
        few | (share <= _GATHERED_SHARE),
        gathered,
        lambda: _best_of_most(users, items, servable, mask, share, banned, k),
    )


def _best_of_rows(users, items, rows, banned, k):
    """As search_among, of `rows` int64 [n], rising and distinct."""
    number = tf.size(rows)
    place = tf.searchsorted(rows, banned[1])
    padded = tf.concat([rows, [-1]], axis=0)  # so that it is never empty
    hit = tf.gather(padded, place) == banned[1]
    pairs = banned[0][hit], tf.cast(place[hit], tf.int64)
    scores, places = top_items(users, tf.gather(items, rows), number, pairs, k)
    return scores, tf.gather(padded, tf.minimum(places, tf.cast(number, tf.int64)))


def _best_of_most(users, items, servable: int, mask, share, banned, k):
    """As search_among, of the rows in `mask` bool [servable], of which `share` are allowed."""
    batch = tf.shape(users)[0]

    def dropped():
        number = tf.cast(k, tf.float32)
        spare = _DEVIATIONS * (tf.sqrt(number * (1 - share)) + 1)
        wanted = tf.cast(tf.math.ceil((number + spare) / share), tf.int32)
        scores, rows = top_items(users, items, servable, banned, wanted)
        fine = tf.gather(mask, rows) & (scores > NO_SCORE)
        # The first k of them, in order: of equal values top_k takes the first.
        found, place = tf.math.top_k(tf.cast(fine, tf.int32), k)
        first = tf.gather(scores, place, batch_dims=1), tf.gather(rows, place, batch_dims=1)
        return *first, tf.reduce_all(found > 0, axis=1)

    nothing = tf.fill([batch, k], NO_SCORE), tf.zeros([batch, k], tf.int64), tf.zeros([batch], tf.bool)
    scores, rows, done = tf.cond(share >= _MOST_SHARE, dropped, lambda: nothing)

    def masked():
        others = tf.where(~done)
        mine = ~tf.gather(done, banned[0])
        number = tf.cumsum(tf.cast(~done, tf.int64)) - 1
        left = tf.gather(number, banned[0][mine]), banned[1][mine]
        best = top_items(tf.gather_nd(users, others), items, servable, left, k, allowed=mask)
        return tuple(
            tf.tensor_scatter_nd_update(*pair)
            for pair in zip((scores, rows), (others,) * 2, best, strict=True)
        )

    return tf.cond(tf.reduce_all(done), lambda: (scores, rows), masked)
