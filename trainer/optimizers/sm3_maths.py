"""SM3-II: Anil, Gupta, Koren, Singer, "Memory-Efficient Adaptive Optimization", NeurIPS 2019, section 3.

Adagrad keeps a sum of squared gradients for every value. SM3 keeps one accumulator for every slice of a
cover of the tensor, here (section 4) all slices of codimension one: rows and columns of a matrix, n + m
floats instead of n m. With a_k[i_k] the accumulator of the slice that fixes index k, a step is

  nu[i]    = min_k a_k[i_k] + g[i]^2
  w[i]    -= rate * g[i] / sqrt(nu[i])                    0 where nu is 0
  a_k[i_k] = max of nu over the slice

A vector or scalar is covered by its single values: exactly Adagrad. Options, after the authors' own
implementation and its note (google-research/sm3):

  momentum: m = momentum m + (1 - momentum) g / sqrt(nu); w -= rate * m.
  beta (for any rank, the note's two tables): nu = beta min_k a_k + (1 - beta) g^2, a moving average.

Sparse rows. A gradient that is zero outside some rows (axis 0) needs those rows only, and the result is that
of the dense algorithm. From zero, max a_0 = max a_1 = ..., for each is the maximum of nu over the whole
tensor. Hence on an untouched row r, where nu = beta min_k a_k (beta = 1 when accumulating):
  a_0[r] becomes beta min(a_0[r], max a_1, ...) = beta a_0[r], and
  a_k[j], k > 0, becomes max(beta min(max a_0, a_k[j], ...), touched nu) = max(beta a_k[j], touched nu).
  - Accumulating: row accumulators of untouched rows stay, and equality holds to the last bit
    of the summed gradient.
  - beta: they decay by beta a step; a row keeps its last step and is caught up by beta^missed when touched
    again, so equality holds to rounding, for one more float a row.
  - momentum: NOT equal. Densely, untouched rows go on moving by their decaying momentum; here, as in lazy
    Adam, neither they nor their momentum move. Accumulators are still equal for equal gradients. (The
    authors' sparse path drops momentum, and the column accumulators too, so that it steps less far.)
"""

import math

import tensorflow as tf


def sm3_accumulators(shape, dtype=tf.float32) -> list[tf.Tensor]:
    """Zero accumulators of a tensor: [n_k] for every axis; one scalar for a scalar."""
    return [tf.zeros([n], dtype) for n in shape] or [tf.zeros([], dtype)]


def sm3_update(weight, accumulators, trace, gradient, learning_rate, momentum=0.0, beta=None):
    """One dense step; the module's docstring has the formula.

    Args:
      weight: float [n_0, .., n_r], any rank.
      accumulators: as sm3_accumulators(weight.shape), all of one float type.
      trace: momentum, as weight; None and untouched when momentum is 0.
      gradient: as weight.
      learning_rate: scalar of this step.
      momentum: in [0, 1).
      beta: in (0, 1); None accumulates.

    Returns:
      (weight, accumulators, trace) after the step, shapes as given.
    """
    rank = len(gradient.shape)
    bound = accumulators[0] if rank == 0 else _along(accumulators[0], 0, rank)
    for axis in range(1, rank):
        bound = tf.minimum(bound, _along(accumulators[axis], axis, rank))
    square = tf.square(gradient)
    nu = bound + square if beta is None else beta * bound + (1.0 - beta) * square
    update = tf.math.divide_no_nan(gradient, tf.sqrt(nu))
    if momentum:
        update = trace = momentum * trace + (1.0 - momentum) * update
    others = [[other for other in range(rank) if other != axis] for axis in range(max(rank, 1))]
    after = [tf.reduce_max(nu, axis=axes) for axes in others]
    return weight - learning_rate * update, after, trace


def _along(accumulator, axis, rank):
    """An accumulator [n] as [1, .., n, .., 1], n at `axis`."""
    return tf.reshape(accumulator, [-1 if other == axis else 1 for other in range(rank)])


def sm3_sparse_update(weight, accumulators, trace, gradient, learning_rate, momentum=0.0, beta=None):
    """One step on distinct rows; equals sm3_update on the whole tensor as the module's docstring says.

    Args:
      weight: float [u, n_1, ..], the touched rows.
      accumulators: that of axis 0 for the touched rows, [u], caught up by `decayed`; the others whole.
      trace, gradient: as weight; the gradient summed over the row's occurrences.
      learning_rate, momentum, beta: as sm3_update.

    Returns:
      (weight, accumulators, trace) after the step, shapes as given.
    """
    weight, after, trace = sm3_update(weight, accumulators, trace, gradient, learning_rate, momentum, beta)
    kept = accumulators[1:] if beta is None else [beta * whole for whole in accumulators[1:]]
    whole = [tf.maximum(old, touched) for old, touched in zip(kept, after[1:], strict=True)]
    return weight, [after[0], *whole], trace


def decayed(accumulator, last, step, beta):
    """Row accumulators as of `step - 1` under a moving average.

    Args:
      accumulator: float [n], as of the row's step `last`.
      last: [n], the last step that moved the row; 0: never.
      step: scalar of the type of `last`, the coming step, counted from 1.
      beta: float.

    Returns:
      float [n].
    """
    missed = tf.cast(step - 1 - last, accumulator.dtype)
    return accumulator * tf.exp(missed * math.log(beta))
