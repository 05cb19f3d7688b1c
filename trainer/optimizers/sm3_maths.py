"""SM3-II: Anil, Gupta, Koren, Singer, "Memory-Efficient Adaptive Optimization", NeurIPS 2019, section 3.

Adagrad keeps a sum of squared gradients for every value. SM3 keeps one accumulator for every slice in a
cover of the tensor, here (section 4) all slices of codimension one: for a matrix, its rows and columns, n + m
floats instead of n m. If a_k[i_k] is the accumulator of the slice with index i_k on axis k, a step is

  nu[i]    = min_k a_k[i_k] + g[i]^2
  w[i]    -= rate * g[i] / sqrt(nu[i])                    0 where nu is 0
  a_k[i_k] = max of nu over the slice

The slices of a vector or scalar are its single values, so there SM3 equals Adagrad. Options, from the
authors' implementation and its note (google-research/sm3):

  momentum: m = momentum m + (1 - momentum) g / sqrt(nu); w -= rate * m.
  beta (for any rank, the note's two tables): nu = beta min_k a_k + (1 - beta) g^2, a moving average.

Sparse rows. If a gradient is zero outside some rows (axis 0), reading and writing those rows gives the result
of the dense algorithm. All accumulators start at zero and max a_k is the maximum of nu over the whole tensor,
so max a_0 = max a_1 = .... Hence on an untouched row r, where nu = beta min_k a_k (beta = 1 if accumulating):
  a_0[r] becomes beta min(a_0[r], max a_1, ...) = beta a_0[r], and
  a_k[j], k > 0, becomes max(beta min(max a_0, a_k[j], ...), touched nu) = max(beta a_k[j], touched nu).
  - Accumulating: the row accumulators of untouched rows do not change; for equal summed gradients the results
    are equal to the last bit.
  - beta: they decay by beta per step. A row stores its last step, one more float, and is multiplied by
    beta^missed when it is next touched; results are equal up to rounding.
  - momentum: NOT equal. The dense algorithm keeps moving untouched rows by their decaying momentum; here, as
    in lazy Adam, neither they nor their momentum change. Accumulators are still equal for equal gradients.
    (The authors' sparse path ignores momentum and the column accumulators, so its steps are smaller.)
"""

import math

import tensorflow as tf


def sm3_accumulators(shape, dtype=tf.float32) -> list[tf.Tensor]:
    """Zero accumulators of a tensor: [n_k] for every axis k; for a scalar, one scalar."""
    return [tf.zeros([n], dtype) for n in shape] or [tf.zeros([], dtype)]


def sm3_update(weight, accumulators, trace, gradient, learning_rate, momentum=0.0, beta=None):
    """One dense step; see the module's docstring for the formula.

    Args:
      weight: float [n_0, .., n_r], any rank.
      accumulators: as sm3_accumulators(weight.shape), all of one float dtype.
      trace: momentum, as weight; unused, and may be None, if momentum is 0.
      gradient: as weight.
      learning_rate: scalar, the rate at this step.
      momentum: in [0, 1).
      beta: in (0, 1); None to accumulate.

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
      accumulators: axis 0: those of the touched rows, [u], after `decayed`; other axes: all.
      trace, gradient: as weight; the gradient is summed over the row's occurrences.
      learning_rate, momentum, beta: as sm3_update.

    Returns:
      (weight, accumulators, trace) after the step, shapes as given.
    """
    weight, after, trace = sm3_update(weight, accumulators, trace, gradient, learning_rate, momentum, beta)
    kept = accumulators[1:] if beta is None else [beta * whole for whole in accumulators[1:]]
    whole = [tf.maximum(old, touched) for old, touched in zip(kept, after[1:], strict=True)]
    return weight, [after[0], *whole], trace


def decayed(accumulator, last, step, beta):
    """Decays row accumulators (beta) to `step - 1`.

    Args:
      accumulator: float [n], as of the row's step `last`.
      last: [n], the last step that updated the row; 0 if none did.
      step: scalar of the dtype of `last`, the step about to be taken, counted from 1.
      beta: as sm3_update.

    Returns:
      float [n].
    """
    missed = tf.cast(step - 1 - last, accumulator.dtype)
    return accumulator * tf.exp(missed * math.log(beta))
