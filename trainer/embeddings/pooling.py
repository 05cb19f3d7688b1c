"""From ids to pooled vectors: distinct ids are looked up once per step and table, whatever the features."""

import tensorflow as tf

from trainer.kernels.ops import gather_rows
from trainer.kernels.ops import unique as unique_ids

_SEGMENT = {
    "mean": tf.sparse.segment_mean,
    "sum": tf.sparse.segment_sum,
    "sqrtn": tf.sparse.segment_sqrt_n,
}


def distinct(ids: dict[str, tf.Tensor]):
    """Joins the features of one table.

    Args:
      ids: by feature, int64 [...]; negative ids are padding and are left out, so that no row is touched
        for them.

    Returns:
      (int64 [u] distinct ids, {feature: int32 [number of its ids that are not padding] positions in them}).
    """
    flat = {name: _without_padding(value) for name, value in ids.items()}
    unique, where = unique_ids(tf.concat(list(flat.values()), axis=0))
    sizes = [tf.size(value) for value in flat.values()]
    return unique, dict(zip(flat, tf.split(where, sizes, num=len(sizes)), strict=True))


def pooled(weight, where, ids, pooling: str | None):
    """The feature's vectors.

    Args:
      weight: float32 [u, dim], rows of the distinct ids.
      where: int32 positions from `distinct`.
      ids: the feature's int64 ids: [batch] or, unpooled, any shape without padding; [batch, length] padded
        with negative ids when pooled.
      pooling: mean, sum or sqrtn over the length (sum / sqrt(number of ids)); None for single ids.

    Returns:
      float32 [batch, dim], zero for an empty list; ids' shape + [dim] when not pooled.
    """
    if pooling is None:
        flat = gather_rows(weight, where)
        return tf.reshape(flat, tf.concat([tf.shape(ids), [weight.shape[-1]]], axis=0))
    row = tf.cast(tf.where(ids >= 0)[:, 0], tf.int32)
    return _SEGMENT[pooling](weight, where, row, num_segments=tf.shape(ids)[0])


def _without_padding(ids):
    flat = tf.reshape(ids, [-1])
    return flat if ids.shape.rank == 1 else tf.boolean_mask(flat, flat >= 0)
