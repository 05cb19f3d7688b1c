"""Each kernel against TensorFlow's ops or the graph that it replaces; on any number of threads."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.ranking import DotInteractionConfig
from trainer.averages import Exponential
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.kernels import ops
from trainer.kernels.build import graph_only, kernels
from trainer.models import losses
from trainer.models.interactions import DotProducts
from trainer.optimizers import LazyAdam

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_distinct_values_in_order(number):
    ids = np.random.default_rng(number).integers(-(2**60), 2**60, number) // 2**55 * 2**55
    for got, expected in zip(ops.unique(tf.constant(ids)), tf.unique(ids), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_rows_and_the_sum_of_their_gradients():
    rng = np.random.default_rng(0)
    values, where = (
        tf.constant(rng.normal(size=(50, 7)), tf.float32),
        tf.constant(rng.integers(0, 40, 900), tf.int32),
    )
    above = tf.constant(rng.normal(size=(900, 7)), tf.float32)
    found = []
    for gather in (ops.gather_rows, tf.gather):
        with tf.GradientTape() as tape:
            tape.watch(values)
            rows = gather(values, where)
        found.append((rows, tf.convert_to_tensor(tape.gradient(rows, values, above))))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)
    assert not np.any(found[0][1][40:])


@pytest.mark.parametrize(
    ("rows", "number", "dim"), [(1, 2, 1), (0, 3, 4), (300, 27, 16), (129, 18, 13), (7, 40, 33)]
)
def test_products_of_pairs_and_their_gradient(rows, number, dim):
    rng = np.random.default_rng(number)
    vectors = tf.constant(rng.normal(size=(rows, number, dim)), tf.float32)
    above = tf.constant(rng.normal(size=(rows, number * (number - 1) // 2)), tf.float32)
    interaction = DotProducts(DotInteractionConfig(kind="dot"), [dim] * number, 0, 0)

    @tf.function
    def differentiated():
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            found, _ = interaction(tf.unstack(vectors, axis=1), None)
        assert found.shape == above.shape
        return found, tape.gradient(found, vectors, above)

    with graph_only():
        expected = tf.function(differentiated.python_function)()
    for got, wanted in zip(differentiated(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    ("rows", "items", "first", "dim"), [(1, 1, 0, 1), (70, 70, 0, 5), (64, 300, 130, 33), (513, 520, 7, 64)]
)
def test_the_softmax_is_that_of_the_graph(rows, items, first, dim, mask):
    rng = np.random.default_rng(rows)
    user, item = (tf.constant(rng.normal(size=(n, dim)), tf.float32) for n in (rows, items))
    ids = tf.constant(rng.integers(0, max(items // 3, 1), items))
    log_q, part = (tf.constant(rng.normal(size=n) ** 2, tf.float32) for n in (items, rows))
    arguments = (user, item, ids, log_q, part, 1.7, mask, tf.constant(first) if first else 0, 0, False)
    for got, expected in _of_both(arguments):
        np.testing.assert_allclose(got, expected, rtol=3e-5, atol=1e-6 + 3e-5 * np.abs(expected).max())


def _of_both(arguments):
    """What the kernel and the graph return, with gradients of shifts and without them."""
    for shifts in (False, True):
        found, expected = (f(*arguments, shifts) for f in (ops.softmax_blocks, losses._groups))
        assert len(found) == len(expected) == 4
        assert (found[3] is None) == (expected[3] is None) == (not shifts)
        yield from list(zip(found, expected, strict=True))[: 3 + shifts]


ROUNDED = [(70, 70, 0, 5), (513, 520, 27, 64), (2200, 2200, 0, 33)]


@pytest.mark.parametrize(("rows", "items", "group", "dim"), ROUNDED)
def test_bfloat16_is_that_of_the_graph(rows, items, group, dim):
    """Up to where roundings of a scaled value fall: the kernel's logits are to base 2."""
    rng = np.random.default_rng(rows)
    user, item = (tf.constant(rng.normal(size=(n, dim)), tf.float32) for n in (rows, items))
    ids = tf.constant(rng.integers(0, max(items // 3, 1), items))
    log_q, part = (tf.constant(rng.normal(size=n) ** 2, tf.float32) for n in (items, rows))
    arguments = (user, item, ids, log_q, part, 1.7 / dim**0.5, True, 0, group, True)
    for got, expected in _of_both(arguments):
        np.testing.assert_allclose(got, expected, rtol=5e-4, atol=2**-7 * np.abs(expected).max())


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_softmax_of_large_logits_is_finite(bfloat16):
    user = tf.constant([[100.0], [-100.0]])
    ids = tf.constant([0, 1], tf.int64)
    arguments = (user, user, ids, tf.zeros(2), tf.ones(2) / 2, 5.0, True, 0, 0, bfloat16, True)
    loss, *gradients = ops.softmax_blocks(*arguments)
    assert float(loss) == 0 and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_is_not_finite_reaches_the_loss(bfloat16):
    for bad in (np.nan, np.inf):
        user = tf.constant([[1.0, bad], [-1.0, 2.0]])
        ids = tf.constant([0, 1], tf.int64)
        arguments = (user, tf.ones([2, 2]), ids, tf.zeros(2), tf.ones(2) / 2, 5.0, True, 0, 0, bfloat16)
        loss, to_user, *_ = ops.softmax_blocks(*arguments)
        assert not np.isfinite(loss) and not np.isfinite(to_user[0]).all()


def test_rows_that_do_not_fit_are_refused():
    ids = tf.zeros(3, tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="2 rows from 2 on do not fit 3 items"):
        ops.softmax_blocks(tf.ones([2, 4]), tf.ones([3, 4]), ids, tf.zeros(3), tf.ones(2), 1.0, True, 2)


def test_shapes_that_do_not_belong_together_are_refused():
    ids, three = tf.zeros(3, tf.int64), tf.ones([3, 4])
    for log_q, part in ((2, 3), (3, 2)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not as long as the 3 items, 3 rows"):
            ops.softmax_blocks(three, three, ids, tf.zeros(log_q), tf.ones(part), 1.0, False, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="3 rows from 0 on are not whole groups of 2"):
        ops.softmax_blocks(three, three, ids, tf.zeros(3), tf.ones(3), 1.0, False, 0, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no rows"):
        ops.softmax_blocks(three[:0], three, ids, tf.zeros(3), tf.ones(0), 1.0, False, 0)
    table = TABLE_ENGINES["native"]("t", 5, 4, LazyAdam(0.1), None)
    for shape in ([1, 4], [3, 20], [3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="gradients .* of 3 records of 13 values"):
            table.update(table.lookup(tf.range(3, dtype=tf.int64)), tf.ones(shape), tf.constant(1.0), 1.0)


def test_sums_of_values_that_occur_anywhere():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 3)).astype(np.float32)
    where, source = rng.integers(0, 6, 100), rng.integers(0, 20, 100)
    expected = np.zeros([7, 3])
    np.add.at(expected, where, values[source].astype(float))
    for context in (graph_only, contextlib.nullcontext):
        with context():
            found = ops.sum_rows(values, where.astype(np.int32), 7, source.astype(np.int32))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no value 20"):
        ops.sum_rows(values, np.array([1], np.int32), 7, np.array([20], np.int32))


def test_a_row_for_each_id_and_the_parts_of_its_gradient():
    rng = np.random.default_rng(0)
    ids, parts = rng.integers(0, 300, 2000), rng.normal(size=(2000, 4)).astype(np.float32)
    each, distinct = (TABLE_ENGINES["native"]("t", 300, 4, LazyAdam(0.1), None) for _ in range(2))
    for table in (each, distinct):
        table.initialize(0.1, 0)
    lookup = each.lookup_each(tf.constant(ids))
    np.testing.assert_array_equal(lookup.weight, each.read_weights(ids, False, 0.0))
    np.testing.assert_array_equal(tf.gather(lookup.ids, lookup.where), ids)
    each.update(lookup, tf.constant(parts), tf.constant(1.0), 1.0)
    summed = ops.sum_rows(tf.constant(parts), lookup.where, tf.size(lookup.ids))
    distinct.update(distinct.lookup(lookup.ids), summed, tf.constant(1.0), 1.0)
    everything = np.arange(300)
    np.testing.assert_array_equal(each.read_records(everything), distinct.read_records(everything))


def test_parts_that_belong_to_no_row_are_refused():
    table = TABLE_ENGINES["native"]("t", 5, 4, LazyAdam(0.1), None)
    lookup = table.lookup_each(tf.constant([3, 3, 1], tf.int64))
    for where, message in (([0, 2, 1], "no row 2"), ([0, -1, 1], "no row -1"), ([0, 1], "2 parts")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            wrong = lookup._replace(where=tf.constant(where))
            table.update(wrong, tf.ones([3, 4]), tf.constant(1.0), 1.0)


@pytest.mark.parametrize("dim", [1, 15, 16, 24, 32, 48, 64, 128])
@pytest.mark.parametrize("options", [{}, {"clip_value": 0.5, "weight_decay": 0.01}])
def test_updates_of_any_width_and_after_any_wait(dim, options):
    rng, rows = np.random.default_rng(dim), 40
    native, graph = (
        TABLE_ENGINES[engine]("t", rows, dim, LazyAdam(0.1, **options), Exponential(0.9999))
        for engine in ("native", "rows")
    )
    for table in (native, graph):
        table.initialize(0.1, 0)
    for step in (1.0, 2.0, 5.0, 16_386.0, 16_390.0, 50_000.0):
        ids = tf.constant(rng.integers(0, rows, 60))
        parts = tf.constant(rng.normal(size=(60, dim)), tf.float32)
        lookup = native.lookup_each(ids)
        native.update(lookup, parts, tf.constant(step), 1.0)
        summed = ops.sum_rows(parts, lookup.where, tf.size(lookup.ids))
        graph.update(graph.lookup(lookup.ids), summed, tf.constant(step), 1.0)
    records = [table.read_records(np.arange(rows)) for table in (native, graph)]
    np.testing.assert_allclose(*records, rtol=3e-5, atol=5e-5)  # steps of 0.1


def test_a_gradient_that_is_no_number_reaches_its_row():
    table = TABLE_ENGINES["native"]("t", 3, 20, LazyAdam(0.1), Exponential(0.9))
    table.initialize(0.1, 0)
    gradient = np.ones([2, 20], np.float32)
    gradient[1, [3, 18]] = np.nan, np.inf
    ids = tf.constant([0, 2], tf.int64)
    table.update(table.lookup(ids), tf.constant(gradient), tf.constant(1.0), 1.0)
    weight = table.read_weights([0, 1, 2], False, 1.0).numpy()
    assert np.isfinite(weight[:2]).all()
    np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(weight[2])), [3, 18])


@pytest.mark.parametrize(
    ("users", "items", "dim", "k"),
    [(1, 1, 1, 1), (7, 1000, 5, 40), (130, 333, 32, 33), (4, 20, 3, 50), (0, 9, 2, 3)],
)
def test_the_best_rows_are_those_of_a_sort(users, items, dim, k):
    """Of whole numbers, so that many scores are equal, and sums exact."""
    rng = np.random.default_rng(items)
    user, item = (rng.integers(-2, 3, (n, dim)).astype(np.float32) for n in (users, items))
    rows = np.sort(rng.choice(3 * items, items, replace=False)).astype(np.int32)
    owners = rng.integers(0, users, 20 * users) if users else np.zeros(0, np.int64)
    banned = rng.integers(0, 3 * items, len(owners))
    scores = user @ item.T
    scores[np.isin(np.arange(users)[:, None] * 3 * items + rows, owners * 3 * items + banned)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    found, where = ops.best_rows(user, ops.panels(item), rows, (owners, banned), k)
    there = np.arange(k) < (expected > -np.inf).sum(axis=1, keepdims=True)
    wide = min(k, items)
    np.testing.assert_array_equal(
        found[:, :wide], np.where(there[:, :wide], expected, np.finfo(np.float32).min)
    )
    np.testing.assert_array_equal(where[:, :wide], np.where(there[:, :wide], rows[order], -1))
    assert (where.numpy()[:, wide:] == -1).all()


def test_a_score_that_is_not_a_number_is_never_returned():
    items = np.array([[1], [np.nan], [np.inf], [-np.inf], [2]], np.float32)
    nobody = np.zeros(0, np.int64)
    scores, rows = ops.best_rows(
        [[1.0]], ops.panels(items), np.arange(5, dtype=np.int32), (nobody, nobody), 5
    )
    assert rows.numpy().tolist() == [[2, 4, 0, -1, -1]] and scores[0, 1] == 2


def test_programs_of_other_devices_hold_no_kernel():
    assert kernels() is not None
    with graph_only():
        assert kernels() is None

        @tf.function
        def graph(ids):
            return ops.unique(ids)

        made = graph.get_concrete_function(tf.TensorSpec([None], tf.int64)).graph
    assert not [op for op in made.get_operations() if op.type.startswith("Lazytower")]
    assert kernels() is not None


_RUN = """
import sys, json, hashlib
import numpy as np
import tensorflow as tf
from trainer.kernels import ops
from trainer.embeddings.engines import TABLE_ENGINES as ENGINES
from trainer.optimizers import LazyAdam
from trainer.averages import Exponential
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
user, item = (tf.constant(rng.normal(size=(700, 20)), tf.float32) for _ in range(2))
ids = tf.constant(rng.integers(0, 90, 700))
found = list(ops.softmax_blocks(user, item, ids, tf.zeros(700), tf.ones(700) / 700, 1.0, True, 0)[:3])
for group, bfloat16 in ((0, True), (350, False), (20, True)):
    columns = (ids, tf.zeros(700), tf.ones(700) / 700, 1.0, True, 0)
    found += ops.softmax_blocks(user, item, *columns, group, bfloat16, True)
table = ENGINES["native"]("t", 90, 20, LazyAdam(0.1), Exponential(0.9))
table.initialize(0.1, 0)
distinct, where = ops.unique(ids)
summed = ops.sum_rows(user, where, tf.size(distinct))
table.update(table.lookup(distinct), summed, tf.constant(1.0), 1.0)
found.append(table.read_records(np.arange(90)))
rows, none = np.arange(700, dtype=np.int32), np.zeros(0, np.int64)
found += ops.best_rows(user, ops.panels(item.numpy()), rows, (none, none), 30)
print(json.dumps([hashlib.sha256(np.asarray(value).tobytes()).hexdigest() for value in found]))
"""


@pytest.mark.slow
def test_bits_do_not_depend_on_the_number_of_threads():
    def bits(threads):
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(threads)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    assert bits(1) == bits(5)
