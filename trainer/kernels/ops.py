"""The kernels as functions of tensors; each falls back to TensorFlow's ops where there are none."""

import tensorflow as tf

from trainer.averages import Exponential
from trainer.kernels.build import kernels


def unique(ids):
    """As tf.unique of int64 [n]: (distinct values in order of first occurrence, int32 [n] places in them)."""
    if kernels() is None:
        return tf.unique(ids)
    return tuple(kernels().lazytower_distinct(ids=ids))


def sum_rows(values, where, segments, source=None):
    """Sums of rows.

    Args:
      values: float32 [m, dim].
      where: int32 [n], the segment of each part.
      segments: their number, int32 scalar.
      source: int32 [n], which of the values each part is; None: part i is value i.

    Returns:
      float32 [segments, dim].
    """
    if kernels() is None:
        parts = values if source is None else tf.gather(values, source)
        return tf.math.unsorted_segment_sum(parts, where, segments)
    source = tf.zeros([0], tf.int32) if source is None else source
    return kernels().lazytower_sum_rows(values=values, where=where, segments=segments, source=source)


def gather_rows(values, where):
    """tf.gather(values [u, dim], where int32 [n]); its gradient is the sum of each row's parts, [u, dim]."""
    if kernels() is None:
        return tf.gather(values, where)

    @tf.custom_gradient
    def gathered(values):
        def gradient(parts):
            return sum_rows(parts, where, tf.shape(values)[0])

        return tf.gather(values, where), gradient

    return gathered(values)


def softmax_blocks(user, item, item_ids, log_q, part, scale: float, mask_hits: bool, first):
    """Loss and its gradients to user and item, as trainer.models.losses._blocks; kernels must be there."""
    return kernels().lazytower_softmax(
        user=user,
        item=item,
        item_ids=tf.cast(item_ids, tf.int64),
        log_q=log_q,
        part=part,
        first=first,
        scale=scale,
        mask_hits=mask_hits,
    )


def allocate(records: tf.Variable, rows: int, width: int) -> None:
    """Gives a variable of shape [None, width] its rows, zeros on huge pages."""
    kernels().lazytower_allocate(records=records.handle, rows=rows, width=width)


def address(records: tf.Variable) -> int:
    """Where the values of records from `allocate` lie in memory, while their variable lives."""
    return int(kernels().lazytower_address(records=records.handle))


def lookup(records: tf.Variable, ids, dim: int):
    """The first `dim` values, float32 [n, dim], of the records of ids int64 [n]."""
    return kernels().lazytower_lookup(records=records.handle, ids=ids, dim=dim)


def update(records: tf.Variable, shared: list, ids, gradient, where, step, rate, optimizer, average) -> None:
    """One optimizer step on the records of distinct ids, in place, averages included.

    Args:
      records: variable, float32 [rows, width].
      shared: variables of what all rows share, as RowOptimizer.shared_names.
      ids: int64 [n].
      gradient: float32 [n, dim]; with `where`, [m, dim] of parts, which are summed.
      where: int32 [m], the row among `ids` of each part; None: there is one each.
      step: float32 scalar from 1.
      rate: float32 scalar, learning rate of this step.
      optimizer: RowOptimizer with `native`.
      average: polyak rule or None.
    """
    config = optimizer.config
    kernels().lazytower_update(
        records=records.handle,
        shared=[variable.handle for variable in shared],
        ids=ids,
        gradient=gradient,
        where=tf.zeros([0], tf.int32) if where is None else where,
        step=step,
        rate=rate,
        kind=config.kind,
        hyper=optimizer.native,
        clip=getattr(config, "clip_value", None) or 0.0,
        weight_decay=getattr(config, "weight_decay", 0.0),
        average=0 if average is None else 1 if isinstance(average, Exponential) else 2,
        average_decay=getattr(average, "decay", 0.0),
        average_start=float(getattr(average, "start_step", 0)),
    )
