"""Clipping by the global norm, over dense gradients and the distinct rows of sparse ones."""

import tensorflow as tf


def clip_by_global_norm(gradients: list, clip_norm: float) -> list:
    """Scales all gradients by min(1, clip_norm / global norm) (Pascanu et al. 2013, algorithm 1).

    A row that occurs twice in tf.IndexedSlices enters the norm once, with the sum of its parts: that is what
    the optimizer applies. (tf.clip_by_global_norm counts the parts.) Rows without a gradient count nothing
    and stay out of the result.

    Args:
      gradients: float32 tensors, tf.IndexedSlices or None.
      clip_norm: above 0.

    Returns:
      As `gradients`, with distinct indices in tf.IndexedSlices.
    """
    gradients = [_distinct(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients if g is not None]
    return scale_to_norm(gradients, half_square(values), clip_norm)


def half_square(values: list):
    """Half the sum of the squares of all elements of float32 tensors, float32 scalar."""
    return tf.reduce_sum(tf.stack([tf.nn.l2_loss(value) for value in values]))


def scale_to_norm(gradients: list, half_square, clip_norm: float) -> list:
    """As clip_by_global_norm, for gradients with distinct indices whose `half_square` is known."""
    scale = clip_norm / tf.maximum(tf.sqrt(2.0 * half_square), clip_norm)
    return [_scaled(g, scale) for g in gradients]


def _distinct(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    ids, where = tf.unique(slices.indices)
    summed = tf.math.unsorted_segment_sum(slices.values, where, tf.size(ids))
    return tf.IndexedSlices(summed, ids, slices.dense_shape)


def _scaled(gradient, scale):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * scale, gradient.indices, gradient.dense_shape)
    return None if gradient is None else gradient * scale
