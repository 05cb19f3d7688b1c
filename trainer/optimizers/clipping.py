"""Clipping by the global norm, over dense gradients and the distinct rows of sparse ones."""

import numpy as np
import tensorflow as tf

from trainer.optimizers.standalone.variables import distinct


def clip_by_global_norm(gradients: list, clip_norm: float) -> list:
    """Scales all gradients by min(1, clip_norm / global norm) (Pascanu et al. 2013, algorithm 1).

    Values of tf.IndexedSlices with the same index are summed before they enter the norm, because the
    optimizer applies the sum (tf.clip_by_global_norm does not sum them). Rows without a gradient are not
    part of the norm or the result. The norm is computed in float32, or in float64 if a gradient is float64,
    after division by the largest value, so that squares do not overflow. If a value is not finite, all
    values become NaN, as in tf.clip_by_global_norm.

    Args:
      gradients: floating tensors of any dtype, tf.IndexedSlices or None.
      clip_norm: greater than 0.

    Returns:
      As `gradients`; the indices of tf.IndexedSlices are distinct.

    Raises:
      ValueError: clip_norm is not greater than 0.
      TypeError: a gradient is not floating.
    """
    if not tf.is_tensor(clip_norm) and not clip_norm > 0:
        raise ValueError(f"clip_norm must be greater than 0, found {clip_norm}")
    dtypes = [None if g is None else _values(g).dtype for g in gradients]
    if wrong := next((dtype for dtype in dtypes if dtype is not None and not dtype.is_floating), None):
        raise TypeError(f"clipping by norm requires floating gradients, found {wrong.name}")
    gradients = [distinct(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    found = [_values(g) for g in gradients if g is not None]
    if not found:
        return gradients
    wide = tf.float64 if tf.float64 in dtypes else tf.float32
    unit, norm = _unit_and_norm([tf.cast(value, wide) for value in found])
    clip_norm = tf.cast(clip_norm, wide)
    bad = ~(tf.math.is_finite(unit) & tf.math.is_finite(norm))
    # Divide by the unit first: clip_norm / (unit * norm) may underflow.
    factor = tf.where(bad, tf.constant(float("nan"), wide), clip_norm / norm)
    clips = bad | (norm > clip_norm / unit)
    unit, factor = tf.where(clips, unit, 1.0), tf.where(clips, factor, 1.0)

    def clipped(gradient, dtype):
        return _mapped(gradient, lambda value: tf.cast(tf.cast(value, wide) / unit * factor, dtype))

    return [clipped(g, dtype) for g, dtype in zip(gradients, dtypes, strict=True)]


def half_square(values: list):
    """Half the sum of squares over all elements of float32 tensors, float32 scalar."""
    return tf.reduce_sum(tf.stack([tf.nn.l2_loss(value) for value in values]))


def scale_to_norm(gradients: list, half_square, clip_norm: float) -> list:
    """As clip_by_global_norm, for float32 gradients with distinct indices and a finite `half_square`."""
    scale = clip_norm / tf.maximum(tf.sqrt(2.0 * half_square), clip_norm)
    return [_mapped(gradient, lambda value: value * scale) for gradient in gradients]


def _unit_and_norm(values: list):
    """(unit, global norm / unit) of tensors of one dtype, scalars.

    The unit is the largest absolute value rounded down to a power of two, so that dividing by it is exact. If
    a value is not finite, neither is one of the two results.
    """
    dtype = values[0].dtype
    sizes = [tf.reduce_max(tf.abs(value)) for value in values]  # -inf if empty
    largest = tf.reduce_max(tf.stack([tf.zeros([], dtype), *sizes]))
    exponent = tf.math.floor(tf.math.log(largest) / tf.math.log(tf.constant(2.0, dtype)))
    exponent = tf.maximum(exponent, float(np.finfo(dtype.as_numpy_dtype).minexp))
    unit = tf.pow(tf.constant(2.0, dtype), exponent)
    return unit, tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(value / unit)) for value in values]))


def _values(gradient):
    """The values of a gradient, a tensor."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else tf.convert_to_tensor(gradient)


def _mapped(gradient, function):
    """A gradient, or None, with a function applied to its values."""
    if gradient is None:
        return None
    values = function(_values(gradient))
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values
