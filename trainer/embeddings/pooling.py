"""From ids to pooled vectors: a table is looked up once per step, for all features that share it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf

from trainer.embeddings.base import Embedding
from trainer.kernels.ops import gather_rows, sum_rows
from trainer.kernels.ops import unique as unique_ids

_SEGMENT = {
    "mean": tf.sparse.segment_mean,
    "sum": tf.sparse.segment_sum,
    "sqrtn": tf.sparse.segment_sqrt_n,
}
_DIVISOR = {"mean": tf.identity, "sum": tf.ones_like, "sqrtn": tf.sqrt}
_WEIGHTED_DIVISOR = {  # of the weights of each list, [batch, length]
    "mean": lambda weights: tf.reduce_sum(weights, axis=1, keepdims=True),
    "sum": lambda weights: tf.ones_like(weights[:, :1]),
    "sqrtn": lambda weights: tf.sqrt(tf.reduce_sum(tf.square(weights), axis=1, keepdims=True)),
}


class Fetched(NamedTuple):
    """Rows of a table for ids that may repeat."""

    weight: tf.Tensor
    """float32 [u, dim], a row for each distinct id; or [n, dim], a row for each id."""
    where: tf.Tensor | None
    """int32 [n], the place of each id in `weight`; None: there is a row for each id."""


class Fetch(Protocol):
    """Where the rows of tables come from: training, evaluation and serving each have their own."""

    def __call__(self, table: Embedding, ids: tf.Tensor, each: bool) -> Fetched:
        """Rows of a table.

        Args:
          table: one of the recommender's.
          ids: int64 [n], may repeat.
          each: whether a row for each id may be fetched; otherwise distinct ones are.
        """


def fetch_distinct(weights_of: Callable[[Embedding, tf.Tensor], tf.Tensor]) -> Fetch:
    """A Fetch of distinct rows; weights_of(table, distinct ids int64 [u]) gives them, float32 [u, dim]."""

    def fetch(table: Embedding, ids: tf.Tensor, each: bool) -> Fetched:
        return Fetched(*of_distinct(ids, lambda distinct: weights_of(table, distinct)))

    return fetch


def joined(ids: dict[str, tf.Tensor]):
    """Joins the features of one table.

    Args:
      ids: by feature, int64 [...]; negative ids are padding and are dropped, so they touch no row.

    Returns:
      (ids int64 [n], may repeat; {feature: number of its ids, int32 scalar}, in the same order).
    """
    flat = {name: _without_padding(value) for name, value in ids.items()}
    return tf.concat(list(flat.values()), axis=0), {name: tf.size(value) for name, value in flat.items()}


def of_distinct(ids, fetch: Callable):
    """(fetch(distinct ids), place of each id in them, int32 [n]) of ids int64 [n]."""
    unique, where = unique_ids(ids)
    return fetch(unique), where


def divided(values, sizes: dict) -> dict:
    """Splits values [n, ...] of joined ids by feature; `sizes` from `joined`."""
    if len(sizes) == 1:
        return dict.fromkeys(sizes, values)
    return dict(zip(sizes, tf.split(values, list(sizes.values()), num=len(sizes)), strict=True))


def pooled(weight, where, ids, pooling: str | None, trains: bool = True, parts=None):
    """The vectors of one feature, as tf.nn.embedding_lookup_sparse.

    Args:
      weight: float32 [u, dim], rows of distinct ids; or [number of ids, dim], a row for each id.
      where: int32, place of each of the feature's ids in `weight`; None: there is a row for each id.
      ids: int64; without pooling, any shape without padding; with pooling, [batch, length] padded with
        negative ids.
      pooling: mean, sum or sqrtn over the length (sum / sqrt(number of ids)); None for single ids.
      trains: whether gradients are needed. False for a served graph: TensorFlow warns whenever it loads a
        SavedModel without its custom gradients.
      parts: float32 [batch, length], the weight of each id, at least 0 and without a gradient; None: 1. mean
        divides by their sum, sqrtn by the root of the sum of their squares.

    Returns:
      float32 [batch, dim], zero for an empty list; without pooling, shape of `ids` + [dim].
    """
    if pooling is None:
        gather = gather_rows if trains else tf.gather
        flat = weight if where is None else gather(weight, where)
        return tf.reshape(flat, tf.concat([tf.shape(ids), [weight.shape[-1]]], axis=0))
    there = ids >= 0
    row = tf.cast(tf.where(there)[:, 0], tf.int32)
    if parts is not None:
        share = tf.where(there, parts, 0.0)
        share = tf.math.divide_no_nan(share, _WEIGHTED_DIVISOR[pooling](share))
        return _weighted(weight, where, row, tf.boolean_mask(share, there), tf.shape(ids)[0], trains)

    def of_lists(weight):
        return _SEGMENT[pooling](weight, where, row, num_segments=tf.shape(ids)[0])

    @tf.custom_gradient
    def with_gradient(weight):
        def gradient(above):  # TensorFlow's own is single-threaded and five times slower
            sizes = tf.reduce_sum(tf.cast(ids >= 0, tf.float32), axis=1)
            share = above / _DIVISOR[pooling](tf.maximum(sizes, 1.0))[:, None]
            return sum_rows(share, where, tf.shape(weight)[0], row)

        return of_lists(weight), gradient

    return with_gradient(weight) if trains else of_lists(weight)


def unpooled(weight, where, ids, trains: bool = True):
    """The vectors of all positions of lists.

    Args:
      weight, where, trains: as in `pooled`, of the ids without padding.
      ids: int64 [batch, length], padded with negative ids.

    Returns:
      float32 [batch, length, dim], zero at padding.
    """
    there = tf.reshape(ids >= 0, [-1])
    padding = tf.shape(weight)[0]  # a row of zeros, appended
    number = tf.math.cumsum(tf.cast(there, tf.int32), exclusive=True)
    if where is not None:
        number = tf.gather(tf.concat([where, [padding]], axis=0), number)
    rows = tf.pad(weight, [[0, 1], [0, 0]])
    found = (gather_rows if trains else tf.gather)(rows, tf.where(there, number, padding))
    return tf.reshape(found, tf.concat([tf.shape(ids), [weight.shape[-1]]], axis=0))


def _weighted(weight, where, row, share, batch, trains: bool):
    """Sums of rows times `share`.

    Args:
      weight, where, trains: as in `pooled`.
      row: int32 [n], the list of each id.
      share: float32 [n], the factor of each id.
      batch: number of lists, int32 scalar.

    Returns:
      float32 [batch, dim].
    """

    def of_lists(weight):
        return sum_rows(tf.gather(weight, where) * share[:, None], row, batch)

    @tf.custom_gradient
    def with_gradient(weight):
        def gradient(above):
            return sum_rows(tf.gather(above, row) * share[:, None], where, tf.shape(weight)[0])

        return of_lists(weight), gradient

    return with_gradient(weight) if trains else of_lists(weight)


def _without_padding(ids):
    flat = tf.reshape(ids, [-1])
    return flat if ids.shape.rank == 1 else tf.boolean_mask(flat, flat >= 0)
