"""The blockwise softmax against the whole matrix in float64."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.kernels.build import graph_only
from trainer.models.losses import in_batch_softmax, logistic
from trainer.training.replicas import Share

pytestmark = pytest.mark.any_python


def reference(user, item, ids, log_q, weight, temperature, mask, groups=None):
    """Loss and gradients from the whole matrix of logits, in float64 NumPy.

    groups: of each row and its item; -1: an item that is a candidate of all. None: all are of one group.
    """
    user, item, log_q, weight = (np.asarray(x, np.float64) for x in (user, item, log_q, weight))
    share = weight / weight.sum()
    logits = user @ item.T / temperature - log_q
    if mask:
        logits[(ids[:, None] == ids[None]) & ~np.eye(len(ids), dtype=bool)] = -np.inf
    if groups is not None:
        logits[(groups[:, None] != groups) & (groups != -1) & ~np.eye(len(ids), dtype=bool)] = -np.inf
    top = logits.max(1, keepdims=True)
    p = np.exp(logits - top)
    total = p.sum(1, keepdims=True)
    loss = share @ (np.log(total[:, 0]) + top[:, 0] - np.diag(logits))
    slope = share[:, None] * (p / total - np.eye(len(ids))) / temperature
    return loss, slope @ item, slope.T @ user


@pytest.fixture(params=["graph", "native"])
def implementation(request):
    """With TensorFlow's ops, and with the kernels."""
    with graph_only() if request.param == "graph" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("batch", [1, 7, 256, 300, 1000, 2600])  # 2600: three tiles of the kernel
@pytest.mark.parametrize("mask", [True, False])
def test_loss_and_gradients_equal_the_whole_matrix(implementation, batch, mask):
    rng = np.random.default_rng(batch)
    user, item = (rng.normal(size=(batch, 6)).astype(np.float32) for _ in range(2))
    ids = rng.integers(0, max(batch // 3, 1), batch)
    log_q = np.log(rng.random(batch)).astype(np.float32)
    weight = rng.random(batch).astype(np.float32)

    @tf.function
    def run(user, item):
        with tf.GradientTape() as tape:
            tape.watch([user, item])
            loss = 2.0 * in_batch_softmax(user, item, tf.constant(ids), log_q, weight, 0.3, mask)
        return loss, *tape.gradient(loss, [user, item])

    got = run(tf.constant(user), tf.constant(item))
    for value, expected in zip(got, reference(user, item, ids, log_q, weight, 0.3, mask), strict=True):
        np.testing.assert_allclose(value, 2 * expected, rtol=2e-5, atol=2e-6)


def test_extra_candidates_are_negatives_of_all_rows(implementation):
    """As rows of weight 0, which are candidates and nothing else."""
    rng = np.random.default_rng(2)
    batch, extra = 300, 50
    every = rng.normal(size=(batch + extra, 6)).astype(np.float32)
    user = rng.normal(size=(batch + extra, 6)).astype(np.float32)
    ids = rng.integers(0, 90, batch + extra)
    log_q = np.log(rng.random(batch + extra)).astype(np.float32)
    weight = np.where(np.arange(batch + extra) < batch, rng.random(batch + extra), 0).astype(np.float32)
    own, more, item = tf.constant(user[:batch]), tf.constant(every[batch:]), tf.constant(every[:batch])
    with tf.GradientTape() as tape:
        tape.watch([own, item, more])
        further = (more, ids[batch:], log_q[batch:])
        loss = in_batch_softmax(
            own, item, ids[:batch], log_q[:batch], weight[:batch], 0.3, True, extra=further
        )
    expected, to_user, to_item = reference(user, every, ids, log_q, weight, 0.3, True)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    gradients = tape.gradient(loss, [own, item, more])
    rights = (to_user[:batch], to_item[:batch], to_item[batch:])
    for value, right in zip(gradients, rights, strict=True):
        np.testing.assert_allclose(value, right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("group", [None, 100])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_biases_are_the_last_values_of_items(implementation, group, precision):
    """As multiplied with a last value of 1, which has no gradient; bfloat16 does not round a bias."""
    rng = np.random.default_rng(4)
    batch, extra = 300, 40
    user, item = (rng.normal(size=(batch + extra, 9)).astype(np.float32) / 3 for _ in range(2))
    user[:, -1] = 1
    item[:, -1] = rng.choice([-1, 1], batch + extra) * (30 + 2.0**-6)  # rounded to 30
    ids = rng.integers(0, 90, batch + extra)
    log_q = np.log(rng.random(batch + extra)).astype(np.float32)
    weight = np.where(np.arange(batch + extra) < batch, rng.random(batch + extra), 0).astype(np.float32)
    values = tuple(tf.constant(v) for v in (user[:batch], item[:batch], item[batch:]))
    with tf.GradientTape() as tape:
        tape.watch(values)
        columns = (value[:batch] for value in (ids, log_q, weight))
        further = (values[2], ids[batch:], log_q[batch:])
        loss = in_batch_softmax(
            *values[:2], *columns, 0.3, True, None, further, group, precision, biased=True
        )
    groups = group and np.concatenate([np.arange(batch) // group, np.full(extra, -1)])
    wanted, to_user, to_item = reference(user, item, ids, log_q, weight, 0.3, True, groups)
    to_user[:, -1] = 0
    rounded = precision == "bfloat16"
    np.testing.assert_allclose(loss, wanted, rtol=1e-4 if rounded else 1e-6)
    rights = (to_user[:batch], to_item[:batch], to_item[batch:])
    for got, right in zip(tape.gradient(loss, values), rights, strict=True):
        error = (2**-7 if rounded else 2e-6) * np.abs(right).max()
        np.testing.assert_allclose(got, right, rtol=2e-5, atol=error)


# 16: several groups at a time in the kernel; 1500: several parts of a group, and two tiles.
@pytest.mark.parametrize(("batch", "group"), [(640, 16), (600, 300), (3000, 1500)])
@pytest.mark.parametrize("mask", [True, False])
def test_the_candidates_of_a_row_are_those_of_its_group(implementation, batch, group, mask):
    """And all extra ones, which are the last rows of the reference, of weight 0."""
    rng = np.random.default_rng(group)
    extra = 50
    user, item = (rng.normal(size=(batch + extra, 6)).astype(np.float32) for _ in range(2))
    ids = rng.integers(0, group // 3, batch + extra)
    log_q = np.log(rng.random(batch + extra)).astype(np.float32)
    weight = np.where(np.arange(batch + extra) < batch, rng.random(batch + extra), 0).astype(np.float32)
    own, here, more = tf.constant(user[:batch]), tf.constant(item[:batch]), tf.constant(item[batch:])

    @tf.function
    def run(own, here, more):
        with tf.GradientTape() as tape:
            tape.watch([own, here, more])
            columns = (value[:batch] for value in (ids, log_q, weight))
            further = (more, ids[batch:], log_q[batch:])
            loss = in_batch_softmax(own, here, *columns, 0.3, mask, extra=further, group=group)
        return loss, *tape.gradient(loss, [own, here, more])

    groups = np.concatenate([np.arange(batch) // group, np.full(extra, -1)])
    loss, to_user, to_item = reference(user, item, ids, log_q, weight, 0.3, mask, groups)
    rights = (loss, to_user[:batch], to_item[:batch], to_item[batch:])
    for value, right in zip(run(own, here, more), rights, strict=True):
        np.testing.assert_allclose(value, right, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("group", [None, 100])
def test_bfloat16_rounds_products_alone(implementation, group):
    """Of cosines times 10, as by default: the logits' errors are about 10 x 2^-9, of all else 2^-9."""
    rng = np.random.default_rng(1)
    batch = 1300
    user, item = (rng.normal(size=(batch, 17)) for _ in range(2))
    user, item = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (user, item))
    ids, log_q = rng.integers(0, 700, batch), np.log(rng.random(batch)).astype(np.float32)
    weight = rng.random(batch).astype(np.float32)
    values = [tf.constant(x, tf.float32) for x in (user, item)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = in_batch_softmax(
            *values, tf.constant(ids), log_q, weight, 0.1, True, group=group, precision="bfloat16"
        )
    groups = None if group is None else np.arange(batch) // group
    expected = reference(user, item, ids, log_q, weight, 0.1, True, groups)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-3)
    for gradient, right in zip(tape.gradient(loss, values), expected[1:], strict=True):
        error = np.abs(gradient - right).max() / np.abs(right).max()
        assert 2**-16 < error < 2**-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bias_that_is_not_finite_reaches_the_loss(implementation, precision, bad):
    user, item = tf.ones([3, 2]), tf.constant([[0.5, 1.0], [0.1, bad], [0.2, 2.0]])
    ids, zero, weight = tf.range(3, dtype=tf.int64), tf.zeros(3), tf.ones(3)
    loss = in_batch_softmax(user, item, ids, zero, weight, 0.5, True, precision=precision, biased=True)
    assert not np.isfinite(loss)


@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_of_a_certain_positive_gives_no_gradient(implementation, biased):
    """Rounded operands cancel out: what is left would move vectors of rows that are learnt already."""
    user = tf.constant([[10.3, 0.7], [-9.1, 0.2]])
    item = tf.constant([[7.7, 0.3], [-7.9, 0.1]])
    if biased:
        user, item = tf.pad(user, [[0, 0], [0, 1]], constant_values=1), tf.pad(item, [[0, 0], [0, 1]])
    zero, weight = tf.zeros(2), tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch([user, item])
        ids = tf.constant([0, 1], tf.int64)
        columns = ids, zero, weight
        loss = in_batch_softmax(user, item, *columns, 0.7, True, precision="bfloat16", biased=biased)
    assert float(loss) < 1e-30
    # Gradients of about 10 would be 0.02 otherwise.
    assert all(np.abs(gradient).max() < 2e-6 for gradient in tape.gradient(loss, [user, item]))


@pytest.mark.parametrize(
    ("batch", "extra", "group"), [(7, 0, None), (300, 0, None), (300, 40, None), (300, 40, 100)]
)
def test_xla_compiles_a_replicas_share(batch, extra, group):
    """As on a TPU: which share it is is known only when the program runs."""
    rng = np.random.default_rng(batch)
    rows, items = 3 * batch, 3 * (batch + extra)
    # Rows of weight 0 are candidates and nothing else, as those beyond the batch are.
    user, item = (rng.normal(size=(items, 6)).astype(np.float32) for _ in range(2))
    ids = rng.integers(0, batch, items).astype(np.int32)
    log_q = np.log(rng.random(items)).astype(np.float32)
    weight = np.where(np.arange(items) < rows, rng.random(items), 0).astype(np.float32)

    run = tf.function(lambda *args: of_share(3, rows, (ids, log_q, weight), group, *args), jit_compile=True)
    with graph_only():
        shares = [run(tf.constant(i), tf.constant(user), tf.constant(item)) for i in range(3)]
    groups = group and np.where(np.arange(items) < rows, np.arange(items) // group, -1)
    expected = reference(user, item, ids, log_q, weight, 0.3, True, groups)
    for values, whole in zip(zip(*shares, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.sum(values, axis=0), whole, rtol=2e-5, atol=2e-6)


def of_share(count, rows, columns, group, index, user, item):
    """Loss and gradients of one of `count` shares of `rows` rows; items beyond them are extra candidates."""
    with tf.GradientTape() as tape:
        tape.watch([user, item])
        whole = [item, *map(tf.constant, columns)]
        further = [value[rows:] for value in whole[:3]] if item.shape[0] > rows else []
        whole = [value[:rows] for value in whole]
        share = Share(index, count, lambda own: next(v for k, v in gathered if k is own))
        own = [share.rows_of(value) for value in (user[:rows], *whole)]
        more = tuple(share.rows_of(value) for value in further) or None
        gathered = [*zip(own[1:], whole, strict=True), *zip(more or (), further, strict=True)]
        loss = in_batch_softmax(*own, 0.3, True, share, more, group)
    return loss, *tape.gradient(loss, [user, item])


@pytest.mark.parametrize("group", [25, 50, 100, 200])
def test_groups_of_several_shares_and_several_groups_of_a_share(implementation, group):
    rng = np.random.default_rng(group)
    rows, items = 200, 240
    user, item = (rng.normal(size=(items, 6)).astype(np.float32) for _ in range(2))
    ids, log_q = rng.integers(0, 60, items), np.log(rng.random(items)).astype(np.float32)
    weight = np.where(np.arange(items) < rows, rng.random(items), 0).astype(np.float32)
    shares = [
        of_share(4, rows, (ids, log_q, weight), group, tf.constant(i), tf.constant(user), tf.constant(item))
        for i in range(4)
    ]
    groups = np.where(np.arange(items) < rows, np.arange(items) // group, -1)
    expected = reference(user, item, ids, log_q, weight, 0.3, True, groups)
    for values, whole in zip(zip(*shares, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.sum(values, axis=0), whole, rtol=2e-5, atol=2e-6)


def test_logq_raises_the_relative_score_of_rare_items():
    """The sign: a candidate drawn often competes less, so its correction lowers its logit."""
    user = tf.ones([2, 1])
    item = tf.zeros([2, 1])
    ids, weight = tf.constant([0, 1], tf.int64), tf.constant([1.0, 0.0])
    log_q = tf.math.log([0.9, 0.1])
    loss = in_batch_softmax(user, item, ids, log_q, weight, 1.0, True)
    np.testing.assert_allclose(loss, -np.log((1 / 0.9) / (1 / 0.9 + 1 / 0.1)), rtol=1e-6)


def test_logistic_is_the_weighted_mean():
    logits, labels, weight = (np.array(x, np.float32) for x in ([0.3, -2, 1], [1, 0, 0.5], [1, 3, 0]))
    p = 1 / (1 + np.exp(-logits))
    each = -labels * np.log(p) - (1 - labels) * np.log(1 - p)
    np.testing.assert_allclose(logistic(logits, labels, weight), (each * weight).sum() / 4, rtol=1e-6)


def test_rows_of_no_weight_give_no_loss_and_no_gradient():
    user, zero = tf.constant([[1.0], [2.0]]), tf.zeros([2])
    with tf.GradientTape() as tape:
        tape.watch(user)
        loss = in_batch_softmax(user, user, tf.constant([0, 1], tf.int64), zero, zero, 1.0, True)
        loss += logistic(user[:, 0], zero, zero)
    assert float(loss) == 0.0 and not np.any(tape.gradient(loss, user))


def test_logits_that_grow_and_hits_of_whole_tiles(implementation):
    """The largest logit of a row comes late, and whole stretches of items are masked hits of it."""
    rng = np.random.default_rng(5)
    batch = 3000
    user = rng.normal(size=(batch, 6)).astype(np.float32)
    item = (rng.normal(size=(batch, 6)) * np.linspace(0.1, 8, batch)[:, None]).astype(np.float32)
    ids, zero = np.zeros(batch, np.int64), np.zeros(batch, np.float32)
    ids[2500:] = np.arange(500)  # the first 2,500 are hits of each other, and of row 2,500
    weight = rng.random(batch).astype(np.float32)
    user, item = tf.constant(user), tf.constant(item)
    with tf.GradientTape() as tape:
        tape.watch([user, item])
        loss = in_batch_softmax(user, item, tf.constant(ids), zero, weight, 1.0, True)
    got = (loss, *tape.gradient(loss, [user, item]))
    expected = reference(user, item, ids, zero, weight, 1.0, True)
    for value, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=2e-4, atol=1e-6)
