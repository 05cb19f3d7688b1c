"""Losses; the softmax and its gradients never materialize a batch x batch matrix."""

import tensorflow as tf

from trainer.kernels.build import kernels, warn_of_slow_bfloat16
from trainer.kernels.ops import softmax_blocks
from trainer.models.base import split_last

BLOCK_ROWS = 256
WHOLE_ROWS = 1024
_MASKED = -1e30  # exp underflows to exactly 0, and unlike -inf never makes a NaN


def in_batch_softmax(
    user,
    item,
    item_ids,
    log_q,
    weight,
    temperature: float,
    mask_hits: bool,
    share=None,
    extra=None,
    group: int | None = None,
    precision: str = "float32",
    biased: bool = False,
):
    """Mean in-batch sampled softmax loss with logQ correction, blockwise.

    The positive of row i is item i. All items of the batch, or of the row's group, are candidates, with logit
    s_ij = user_i . item_j / temperature - log_q_j (Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling,
    eq. 3; the positive is corrected too). `mask_hits` excludes candidates j != i with item j == item i. Extra
    candidates are negatives of all rows. The loss and both gradients are computed in one pass over blocks of
    rows, so memory is O(candidates x BLOCK_ROWS).

    Args:
      user, item: float32 [batch, dim].
      item_ids: int64 [batch].
      log_q: float32 [batch], log of each item's probability of being a candidate.
      weight: float32 [batch], weight of each row; the loss is 0 if all are 0.
      temperature: divides the dot products.
      mask_hits: whether to exclude accidental hits.
      share: trainer.training.replicas.Share if the rows are one replica's; the items of all replicas are
        candidates then. None if they are the whole batch.
      extra: (vectors [m, dim], ids [m], log_q [m]) of m extra candidates, or of this replica's share of them;
        None if there are none.
      group: the items of the whole batch's rows 0 .. group - 1 are the candidates of these rows, those of the
        next `group` rows theirs, and so on. It divides the number of rows; of a replica's rows, whose number
        is static, it may be a multiple too. None: all rows are one group.
      precision: float32; or bfloat16: operands of products are rounded to bfloat16, and everything else is
        float32: products, their sums, the largest logits, exponentials.
      biased: whether the last value of each user is the constant 1, and that of an item its bias. It is added
        in float32, and users' last values get no gradient.

    Returns:
      float32 scalar, sum(weight_i loss_i) / sum(weight_i); the denominator sums the rows of all replicas.
    """
    total = weight if share is None else share.gather(weight)
    part = tf.math.divide_no_nan(weight, tf.reduce_sum(total))
    (item, item_ids, log_q), first, each = _candidates((item, item_ids, log_q), share, extra, group)
    blocks = _groups if kernels() is None else softmax_blocks
    if precision == "bfloat16":
        warn_of_slow_bfloat16()

    @tf.custom_gradient
    def loss_of(user, item):
        arguments = user, item, item_ids, log_q, part, 1.0 / temperature, mask_hits, first
        options = each, precision == "bfloat16"
        found = _with_biases(blocks, *arguments, *options) if biased else blocks(*arguments, *options)
        loss, to_users, to_items, *_ = found
        return loss, lambda up: (up * to_users, up * to_items)

    return loss_of(user, item)


def _candidates(own, share, extra, group):
    """The candidates of some rows.

    Args:
      own: (vectors, ids, log_q) of the rows' own items.
      share, extra, group: as in_batch_softmax.

    Returns:
      (vectors, ids, log_q) of candidates; the place of the first row's item among them; and the number of
      rows that have the same ones, or 0: all have.
    """
    first, each = 0, group or 0
    if share is not None:
        rows = own[1].shape[0]
        if group is None or rows < group:
            first, own = share.first_row(own[1]), tuple(share.gather(value) for value in own)
        if group is not None and rows < group:
            start, first, each = first // group * group, first % group, 0
            own = tuple(_part(value, start, group) for value in own)
        extra = extra and tuple(share.gather(value) for value in extra)
    if extra is not None:
        own = tuple(tf.concat(pair, axis=0) for pair in zip(own, extra, strict=True))
    return own, first, each


def _with_biases(blocks, user, item, item_ids, log_q, part, scale, *options):
    """As `blocks`, of items whose last values are biases; see in_batch_softmax."""
    (user, _), (item, bias) = split_last(user), split_last(item)
    shift = log_q - bias[:, 0] * scale
    loss, to_users, to_items, to_shifts = blocks(user, item, item_ids, shift, part, scale, *options, True)
    to_items = tf.concat([to_items, to_shifts[:, None] * scale], axis=1)
    return loss, tf.pad(to_users, [[0, 0], [0, 1]]), to_items


def _groups(
    user, item, item_ids, log_q, share, scale, mask_hits, first, group=0, bfloat16=False, shifts=False
):
    """The loss and its gradients, of users, items and, with `shifts`, of -log_q; see in_batch_softmax.

    The positive of row i is item first + i. With `group`, `first` is 0, rows have their group's items and all
    beyond the rows' own as candidates.
    """
    options = {"scale": scale, "mask_hits": mask_hits, "bfloat16": bfloat16, "shifts": shifts}
    if not group:
        loss, to_user, to_item = _blocks(user, item, item_ids, log_q, share, first=first, **options)
        return loss, to_user, *_parted(to_item, shifts)
    number_of_rows, dim = tf.shape(user)[0], user.shape[-1]
    candidates = [tf.convert_to_tensor(column) for column in (item, item_ids, log_q)]
    own = [column[:number_of_rows] for column in candidates]
    more = [column[number_of_rows:] for column in candidates]

    def body(number, loss, to_more, to_users, to_items):
        start = number * group
        here = [tf.concat([_part(c, start, group), m], axis=0) for c, m in zip(own, more, strict=True)]
        rows = _part(user, start, group), *here, _part(share, start, group)
        lost, to_user, to_item = _blocks(*rows, first=0, size=min(group, BLOCK_ROWS), **options)
        return (
            *(number + 1, loss + lost, to_more + to_item[group:]),
            *(to_users.write(number, to_user), to_items.write(number, to_item[:group])),
        )

    count = number_of_rows // group
    widths = dim, dim + shifts
    pieces = [tf.TensorArray(tf.float32, count, element_shape=[group, width]) for width in widths]
    _, loss, to_more, *pieces = tf.while_loop(
        lambda number, *_: number < count,
        body,
        (tf.constant(0), tf.constant(0.0), _widened(tf.zeros_like(more[0]), shifts), *pieces),
        parallel_iterations=1,
    )
    to_user, to_item = (
        tf.ensure_shape(piece.concat(), [None, width]) for piece, width in zip(pieces, widths, strict=True)
    )
    to_item = tf.concat([to_item, to_more], axis=0)
    return loss, tf.ensure_shape(to_user, user.shape), *_parted(to_item, shifts)


def _widened(rows, shifts: bool, values=0.0):
    """Rows [n, dim], with `shifts` followed by values [n, 1] or one number."""
    if not shifts:
        return rows
    return tf.concat([rows, tf.broadcast_to(values, [tf.shape(rows)[0], 1])], axis=1)


def _parted(rows, shifts: bool):
    """Gradients of items [n, dim], and with `shifts` those of -log_q [n], the last values; None without."""
    if not shifts:
        return rows, None
    to_item, to_shifts = split_last(rows)
    return to_item, to_shifts[:, 0]


def _blocks(
    user,
    item,
    item_ids,
    log_q,
    share,
    scale,
    mask_hits,
    first,
    bfloat16=False,
    shifts=False,
    size: int = BLOCK_ROWS,
):
    """As `_groups`, of one group in blocks of `size` rows; `shifts` end items' gradients."""
    batch, dim = tf.shape(user)[0], user.shape[-1]
    # All blocks have the same size, the last one padded with rows of weight 0: XLA has no slices of dynamic
    # size.
    count = (batch + size - 1) // size
    positive_item = tf.slice(item, [first, 0], [batch, dim])
    columns = (user, positive_item, tf.slice(item_ids, [first], [batch]), share)
    user_rows, positive_rows, own_ids, part_rows = (_fill(c, count * size - batch) for c in columns)

    def body(block, loss, item_gradient, user_gradient):
        start = block * size
        rows, part = _part(user_rows, start, size), _part(part_rows, start, size)
        own_item = _part(positive_rows, start, size)
        logits = _product(rows * scale, item, bfloat16, transpose_b=True) - log_q
        # Clamp the positions of padding rows, whose weight is 0.
        place = tf.minimum(first + start + tf.range(size), tf.shape(item)[0] - 1)
        if mask_hits:
            hit = tf.equal(_part(own_ids, start, size)[:, None], item_ids[None, :])
            own = tf.equal(place[:, None], tf.range(tf.shape(item)[0])[None, :])
            logits = tf.where(hit & ~own, _MASKED, logits)
        positive = tf.gather(logits, place, axis=1, batch_dims=1)
        top = tf.reduce_max(logits, axis=1, keepdims=True)
        exp = tf.exp(logits - top)
        total = tf.reduce_sum(exp, axis=1, keepdims=True)
        loss += tf.reduce_sum(part * (tf.math.log(total[:, 0]) + top[:, 0] - positive))
        row_scale = part[:, None] * scale
        inverse = row_scale / total
        to_user = _product(exp, item, bfloat16) * inverse - _rounded(own_item, bfloat16) * row_scale
        weighted = _widened(rows * inverse, shifts, part[:, None] / total)
        item_gradient += _product(exp, weighted, bfloat16, transpose_a=True)
        return block + 1, loss, item_gradient, user_gradient.write(block, to_user)

    pieces = tf.TensorArray(tf.float32, size=count, element_shape=[size, dim])
    _, loss, item_gradient, pieces = tf.while_loop(
        lambda block, *_: block < count,
        body,
        (tf.constant(0), tf.constant(0.0), _widened(tf.zeros_like(item), shifts), pieces),
        parallel_iterations=1,
    )
    user_gradient = tf.ensure_shape(pieces.concat()[:batch], user.shape)
    own = _rounded(_widened(user * (share[:, None] * scale), shifts, share[:, None]), bfloat16)
    if isinstance(first, int):
        item_gradient -= tf.pad(own, [[0, tf.shape(item)[0] - batch], [0, 0]])
    else:
        places = first + tf.range(batch)
        item_gradient = tf.tensor_scatter_nd_sub(item_gradient, places[:, None], own)
    return loss, user_gradient, item_gradient


def _product(a, b, bfloat16: bool, **transposed):
    """tf.matmul with float32 sums."""
    if bfloat16 and isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        a, b = tf.cast(a, tf.bfloat16), tf.cast(b, tf.bfloat16)
        return tf.matmul(a, b, output_type=tf.float32, **transposed)
    # TensorFlow has no such product for CPUs. In float32, products of rounded values are exact.
    return tf.matmul(_rounded(a, bfloat16), _rounded(b, bfloat16), **transposed)


def _rounded(values, bfloat16: bool):
    """Float32 values as products take them, so that the positive's term and its gradient cancel out."""
    return tf.cast(tf.cast(values, tf.bfloat16), tf.float32) if bfloat16 else values


def _part(column, start, size):
    """Rows start .. start + size of a column [n, ...]; `size` is a number, so that the shape is static."""
    return tf.slice(column, [start] + [0] * (column.shape.rank - 1), [size, *column.shape[1:]])


def _fill(column, rows):
    """A column [n, ...] with this many rows of zeros appended."""
    return tf.pad(column, [[0, rows]] + [[0, 0]] * (column.shape.rank - 1))


def whole_softmax(user, items, places, weight, temperature: float):
    """Mean cross-entropy of the softmax over all candidates, blockwise.

    As in_batch_softmax, the loss and both gradients are computed in one pass over blocks of rows. Rows of
    weight 0 cost nothing. For CPUs: their number is not static.

    Args:
      user: float32 [n, dim].
      items: float32 [m, dim], vectors of the candidates.
      places: int64 [n], which of them is the row's own.
      weight: float32 [n]; the loss is 0 if all are 0.
      temperature: divides the dot products.

    Returns:
      float32 scalar, sum(weight_i loss_i) / sum(weight_i).
    """
    rows = tf.where(weight > 0.0)[:, 0]
    part = tf.math.divide_no_nan(weight, tf.reduce_sum(weight))
    places, part = tf.gather(places, rows), tf.gather(part, rows)

    @tf.custom_gradient
    def loss_of(user, items):
        loss, user_gradient, item_gradient = _whole_blocks(user, items, places, part, 1.0 / temperature)
        return loss, lambda up: (up * user_gradient, up * item_gradient)

    return loss_of(tf.gather(user, rows), items)


def _whole_blocks(user, items, places, part, scale):
    """The loss and its gradients; see whole_softmax. The last block is shorter."""
    rows, dim = tf.shape(user)[0], user.shape[-1]
    count = tf.maximum((rows + WHOLE_ROWS - 1) // WHOLE_ROWS, 1)

    def body(block, loss, item_gradient, user_gradient):
        inside = slice(block * WHOLE_ROWS, (block + 1) * WHOLE_ROWS)
        own, place, weight = user[inside] * scale, places[inside], part[inside][:, None]
        logits = tf.matmul(own, items, transpose_b=True)
        top = tf.reduce_max(logits, axis=1, keepdims=True)
        exp = tf.exp(logits - top)
        total = tf.reduce_sum(exp, axis=1, keepdims=True)
        positive = tf.reduce_sum(own * tf.gather(items, place), axis=1, keepdims=True)
        loss += tf.reduce_sum(weight * (tf.math.log(total) + top - positive))
        inverse = weight / total
        gradient = tf.matmul(exp, items) * (inverse * scale) - tf.gather(items, place) * (weight * scale)
        item_gradient += tf.matmul(exp, own * inverse, transpose_a=True)
        item_gradient -= tf.math.unsorted_segment_sum(own * weight, place, tf.shape(items)[0])
        return block + 1, loss, item_gradient, user_gradient.write(block, gradient)

    pieces = tf.TensorArray(tf.float32, size=count, element_shape=[None, dim], infer_shape=False)
    _, loss, item_gradient, pieces = tf.while_loop(
        lambda block, *_: block < count,
        body,
        (tf.constant(0), tf.constant(0.0), tf.zeros_like(items), pieces),
        parallel_iterations=1,
    )
    return loss, tf.ensure_shape(pieces.concat(), user.shape), item_gradient


def generalized_bce(positive, negative, weight, power: float, share=None):
    """Weighted mean generalized binary cross-entropy (Petrov and Macdonald 2023, gSASRec, eq. 8).

    Args:
      positive: float32 [n], scores of the rows' own items.
      negative: float32 [n, m], scores of sampled items.
      weight: float32 [n].
      power: to which the probability of the own item is raised.
      share: as in_batch_softmax.

    Returns:
      float32 scalar; each row's loss is the mean over its m + 1 items.
    """
    others = tf.reduce_sum(tf.nn.softplus(negative), axis=1)
    loss = (power * tf.nn.softplus(-positive) + others) / (negative.shape[1] + 1.0)
    return _mean(loss, weight, share)


def logistic(logits, labels, weight, share=None):
    """Weighted mean logistic loss.

    Args:
      logits, labels, weight: float32, of the same shape; labels in 0..1.
      share: as in_batch_softmax; the mean is over the rows of all replicas.

    Returns:
      float32 scalar.
    """
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    return _mean(loss, weight, share)


def squared(values, labels, weight, share=None):
    """Weighted mean squared error; arguments as `logistic`, with any labels."""
    return _mean(tf.math.squared_difference(values, labels), weight, share)


def _mean(loss, weight, share):
    """Weighted mean of losses over the rows of all replicas; 0 if all weights are."""
    total = weight if share is None else share.gather(weight)
    return tf.math.divide_no_nan(tf.reduce_sum(loss * weight), tf.reduce_sum(total))
