"""Losses with gradients that never hold a batch x batch matrix."""

import tensorflow as tf

BLOCK_ROWS = 256
_MASKED = -1e30  # exp underflows to exactly 0, and unlike -inf never makes a NaN


def in_batch_softmax(user, item, item_ids, log_q, weight, temperature: float, mask_hits: bool, share=None):
    """Mean in-batch sampled softmax loss with logQ correction, blockwise.

    Row i's positive is item i; all items of the batch are candidates, with logit
    s_ij = user_i . item_j / temperature - log_q_j (Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling,
    eq. 3; the correction is on the positive too). With `mask_hits`, candidate j != i with item j == item i is
    left out. Loss and both gradients are computed in one pass over blocks of rows, so memory is
    O(batch x BLOCK_ROWS).

    Args:
      user, item: float32 [batch, dim].
      item_ids: int64 [batch].
      log_q: float32 [batch], log of each item's probability of being drawn as a candidate.
      weight: float32 [batch], weight of each row; the loss is 0 when all are 0.
      temperature: divides the dot products.
      mask_hits: leave accidental hits out.
      share: trainer.replicas.Share when the rows are those of one replica: the items of all replicas are
        candidates; None when the batch is whole.

    Returns:
      float32 scalar, sum(weight_i loss_i) / sum(weight_i), the lower sum over all replicas' rows.
    """
    first, total = 0, weight
    if share is not None:
        first = share.first_row(user)
        item, item_ids, log_q, total = (share.gather(value) for value in (item, item_ids, log_q, weight))
    part = tf.math.divide_no_nan(weight, tf.reduce_sum(total))

    @tf.custom_gradient
    def loss_of(user, item):
        loss, user_gradient, item_gradient = _blocks(
            user, item, item_ids, log_q, part, 1.0 / temperature, mask_hits, first
        )
        return loss, lambda up: (up * user_gradient, up * item_gradient)

    return loss_of(user, item)


def _blocks(user, item, item_ids, log_q, share, scale, mask_hits, first):
    """Loss and its gradients to user and item; see in_batch_softmax. Row i's positive is item first + i."""
    batch = tf.shape(user)[0]
    dim = user.shape[-1]
    positive_item = item[first : first + batch]
    positive_ids = item_ids[first : first + batch]

    def body(start, loss, item_gradient, user_gradient):
        stop = tf.minimum(start + BLOCK_ROWS, batch)
        rows = tf.range(start, stop)
        block, part = user[start:stop], share[start:stop]
        logits = tf.matmul(block * scale, item, transpose_b=True) - log_q
        if mask_hits:
            hit = tf.equal(positive_ids[start:stop, None], item_ids[None, :])
            own = tf.equal(first + rows[:, None], tf.range(tf.shape(item)[0])[None, :])
            logits = tf.where(hit & ~own, _MASKED, logits)
        at = tf.stack([tf.range(stop - start), first + rows], axis=1)
        positive = tf.gather_nd(logits, at)
        top = tf.reduce_max(logits, axis=1, keepdims=True)
        exp = tf.exp(logits - top)
        total = tf.reduce_sum(exp, axis=1, keepdims=True)
        loss += tf.reduce_sum(part * (tf.math.log(total[:, 0]) + top[:, 0] - positive))
        row_scale = part[:, None] * scale
        inverse = row_scale / total
        user_gradient = user_gradient.write(
            start // BLOCK_ROWS, tf.matmul(exp, item) * inverse - positive_item[start:stop] * row_scale
        )
        item_gradient += tf.matmul(exp, block * inverse, transpose_a=True)
        return start + BLOCK_ROWS, loss, item_gradient, user_gradient

    count = (batch + BLOCK_ROWS - 1) // BLOCK_ROWS
    pieces = tf.TensorArray(tf.float32, size=count, element_shape=[None, dim], infer_shape=False)
    zeros = tf.zeros_like(item)
    _, loss, item_gradient, pieces = tf.while_loop(
        lambda start, *_: start < batch,
        body,
        (tf.constant(0), tf.constant(0.0), zeros, pieces),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None, dim]), None),
        parallel_iterations=1,
    )
    item_gradient = tf.ensure_shape(item_gradient, zeros.shape)
    own = user * (share[:, None] * scale)
    if isinstance(first, int):
        item_gradient -= own
    else:
        places = first + tf.range(batch)
        item_gradient = tf.tensor_scatter_nd_sub(item_gradient, places[:, None], own)
    return loss, tf.ensure_shape(pieces.concat(), [None, dim]), item_gradient


def logistic(logits, labels, weight, share=None):
    """Weighted mean logistic loss.

    Args:
      logits, labels, weight: float32, same shape; labels in 0..1.
      share: as in_batch_softmax; the mean is over the rows of all replicas.

    Returns:
      float32 scalar.
    """
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    total = weight if share is None else share.gather(weight)
    return tf.math.divide_no_nan(tf.reduce_sum(loss * weight), tf.reduce_sum(total))
