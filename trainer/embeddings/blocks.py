"""Gathers and sums blocks: runs of Z consecutive values that start anywhere in a flat array.

TensorFlow cannot gather overlapping windows; `tf.gather` with computed places copies value by value. XLA has
Gather and Scatter with a window, and compiles them for CPUs too: one copy, or one sum, per block (figures in
docs/decisions.md). XLA compiles once for each shape, and the number of distinct rows differs from step to
step, so sizes are padded to one of eight per power of two.
"""

import functools
import math

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.compiler.xla import xla_data_pb2


def gather_blocks(values, starts, block: int):
    """Blocks of an array.

    Args:
      values: float32 [size].
      starts: int32 [n], 0 <= start <= size - block.
      block: Z.

    Returns:
      float32 [n, block].
    """
    number = tf.size(starts)
    return _compiled(block)[0](_padded(values), _padded(starts))[:number]


def sum_blocks(blocks, starts, size):
    """The transpose of gather_blocks: adds every block, in order, to an array of zeros.

    Args:
      blocks: float32 [n, block].
      starts: int32 [n], 0 <= start <= size - block.
      size: of the array, int or int32 scalar.

    Returns:
      float32 [size].
    """
    zeros = tf.zeros([size if isinstance(size, int) else padded_size(size)])
    # Padded blocks add zeros at the start of the array.
    return _compiled(blocks.shape[1])[1](zeros, _padded(blocks), _padded(starts))[:size]


@functools.cache
def _compiled(block: int):
    """(gather, sum) for blocks of this size."""

    @tf.function(jit_compile=True)
    def gather(values, starts):
        numbers = xla_data_pb2.GatherDimensionNumbers(
            offset_dims=[1], start_index_map=[0], index_vector_dim=1
        )
        found = xla.gather(values, starts[:, None], numbers, [block])
        return tf.ensure_shape(found, [None, block])

    @tf.function(jit_compile=True)
    def add(values, blocks, starts):
        numbers = xla_data_pb2.ScatterDimensionNumbers(
            update_window_dims=[1], scatter_dims_to_operand_dims=[0], index_vector_dim=1
        )
        found = xla.scatter(values, starts[:, None], blocks, _plus(), numbers)
        return tf.ensure_shape(found, [None])

    return gather, add


@functools.cache
def _plus():
    scalar = tf.TensorSpec([], tf.float32)
    return tf.function(lambda a, b: a + b).get_concrete_function(scalar, scalar)


def _padded(tensor):
    """The tensor with zero rows appended up to padded_size; unchanged if its size is static."""
    if tensor.shape[0] is not None:
        return tensor
    number = tf.shape(tensor)[0]
    return tf.pad(tensor, [[0, padded_size(number) - number]] + [[0, 0]] * (tensor.shape.rank - 1))


def padded_size(number):
    """The smallest 2^a (8 + b), b = 0 .. 7, at or above `number`, int32 scalar; at least 8."""
    number = tf.maximum(number, 8)
    # In float64, log2 of neighbouring integers below 2^31 differ; 1e-12 stops powers of two rounding down.
    log_2 = tf.math.log(tf.cast(number, tf.float64)) / math.log(2)
    unit = tf.bitwise.left_shift(1, tf.cast(tf.floor(log_2 + 1e-12), tf.int32) - 3)
    return (number + unit - 1) // unit * unit
