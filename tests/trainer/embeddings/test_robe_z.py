"""ROBE-Z against NumPy written from the paper, value by value; dense against sparse; one whole run each."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from configs.sections.optimizers import LazyAdamConfig, TableOptimizer
from configs.sections.tables import RobeZConfig
from trainer.averages import Exponential, Uniform
from trainer.embeddings.block_hash import PRIME, BlockHash
from trainer.embeddings.blocks import gather_blocks, padded_size, sum_blocks
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.robe_z import DENSE_RATIO, RobeZ
from trainer.optimizers import ROW_OPTIMIZERS, LazyAdam

pytestmark = pytest.mark.any_python

ROWS, STEPS = 200, 120
MODES = ("dense", "sparse")


def make(mode="auto", rule=None, rows=ROWS, batch_size=12, optimizer=None, **options):
    """A table of 9 values a row out of 60, in blocks of 4, unless `options` say otherwise."""
    options = {"dim": 9, "size": 60, "block": 4, "gradient": mode, **options}
    optimizer = optimizer or LazyAdam(LazyAdamConfig(learning_rate=0.01))
    table = RobeZ("items", rows, RobeZConfig(kind="robe_z", **options), optimizer, rule, batch_size)
    table.initialize(0.1, seed=7)
    return table


def place(table, row, i):
    """Place of value i of a row: the paper's formula in Python's integers."""
    size, block, hashed = table.storage.rows * table.storage.dim, table.storage.dim, table._hash
    start = (hashed.b * int(row) + hashed.c * (i // block) + hashed.d) % PRIME % size
    return (start + i % block) % size


def places(table, ids):
    return np.array([[place(table, row, i) for i in range(table.dim)] for row in ids])


def array(table):
    ids = np.arange(table.storage.rows)
    return table.storage.read_weights(ids, False, 0.0).numpy().reshape(-1)


def stepper(table):
    @tf.function(reduce_retracing=True)
    def step(ids, gradient, step, multiplier):
        lookup = table.lookup(ids)
        table.update(lookup, gradient, step, multiplier)
        return lookup.weight

    return step


def batches(table, number=STEPS):
    """Distinct ids, gradients and rate multipliers; batches of 1 to 12 rows."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        ids = rng.choice(table.rows, rng.integers(1, 13), replace=False)
        gradient = rng.normal(size=(len(ids), table.dim)).astype(np.float32)
        yield ids, gradient, np.float32(rng.random())


def train(table):
    step = stepper(table)
    for t, (ids, gradient, multiplier) in enumerate(batches(table), start=1):
        step(tf.constant(ids), tf.constant(gradient), tf.constant(float(t)), tf.constant(multiplier))
    return table


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("dim", "size", "block"), [(9, 60, 4), (8, 64, 8), (5, 30, 1), (3, 3, 3), (7, 1000, 5), (32, 2048, 32)]
)
def test_rows_are_the_papers(mode, dim, size, block):
    table = make(mode, dim=dim, size=size, block=block)
    ids = np.arange(ROWS)
    expected = array(table)[places(table, ids)]
    np.testing.assert_array_equal(tf.function(table.lookup)(tf.constant(ids)).weight, expected)
    np.testing.assert_array_equal(table.read_weights(ids, False, 0.0), expected)
    weights = tf.constant(array(table).reshape(-1, block))
    np.testing.assert_array_equal(table.served(weights, tf.constant(ids)), expected)


def test_blocks_reach_over_the_end_of_the_array():
    table = make()
    starts = table._hash(np.arange(ROWS))
    assert (starts > 60 - 4).any() and starts.min() >= 0 and starts.max() < 60


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_the_sum_over_all_places(mode):
    """Rows that share places, and blocks of one row that do: plain SGD makes the sum visible."""

    class Sgd(LazyAdam):
        slot_names = ()

        def row_update(self, weight, slots, gradient, step, learning_rate):
            return weight - gradient, []

    table = make(mode)
    table.optimizer = table.storage.optimizer = Sgd(LazyAdamConfig())
    table.storage.parts, table.storage.width = [("weight", 4), ("last_step", 1)], 5
    table.storage.records = tf.Variable(tf.pad(table.storage.records[:, :4], [[0, 0], [0, 1]]))
    before = array(table)
    for ids, gradient, _ in itertools.islice(batches(table), 10):
        summed = np.zeros(60)
        np.add.at(summed, places(table, ids), gradient)
        stepper(table)(tf.constant(ids), tf.constant(gradient), tf.constant(1.0), tf.constant(1.0))
        before = before - summed
        np.testing.assert_allclose(array(table), before, atol=2e-5)


def reference(table, weight, rule):
    """Lazy Adam on touched chunks in float64, and the average of the whole array at every step."""
    w = weight.astype(np.float64)
    m, v, average = np.zeros(w.shape), np.zeros(w.shape), w.copy()
    size, block = len(w), table.storage.dim
    for t, (ids, gradient, multiplier) in enumerate(batches(table), start=1):
        summed, touched = np.zeros(size), np.zeros(size // block, bool)
        np.add.at(summed, places(table, ids), gradient)
        starts = table._hash(ids)
        for i in range(block):
            touched[(starts + i) % size // block] = True
        moves = np.repeat(touched, block)
        m[moves] = (0.9 * m + 0.1 * summed)[moves]
        v[moves] = (0.999 * v + 0.001 * summed**2)[moves]
        rate = 0.01 * multiplier * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w[moves] -= (rate * m / (np.sqrt(v) + 1e-7))[moves]
        share = 1 / t if isinstance(rule, Uniform) else 1 - rule.decay
        average += share * (w - average)
    return w, m, v, average


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [Exponential(0.9), Exponential(0.999), Uniform()], ids=str)
def test_training_equals_numpy_and_the_brute_force_average(mode, rule):
    # An array large enough that every batch leaves chunks untouched.
    table = make(mode, rule, size=400)
    expected = reference(table, array(table), rule)
    train(table)
    records = table.storage.read_records(np.arange(100)).numpy()
    for value, part in zip(expected[:3], range(3), strict=True):
        np.testing.assert_allclose(records[:, part * 4 : part * 4 + 4].ravel(), value, rtol=2e-5, atol=2e-5)
    averaged = table.read_weights(np.arange(ROWS), True, float(STEPS))
    np.testing.assert_allclose(averaged, expected[3][places(table, np.arange(ROWS))], atol=2e-5)


@pytest.mark.parametrize("size", [60, 400, 4000])
def test_dense_and_sparse_agree(size):
    dense, sparse = (train(make(mode, Exponential(0.9), size=size)).storage.records.numpy() for mode in MODES)
    np.testing.assert_allclose(dense, sparse, rtol=1e-5, atol=1e-6)
    assert (dense[:, -1] == sparse[:, -1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_every_optimizer_sees_chunks_as_rows(kind):
    """Each step equals the optimizer's own, on the touched chunks and their summed gradients."""
    optimizer = ROW_OPTIMIZERS[kind](TypeAdapter(TableOptimizer).validate_python({"kind": kind}))
    tables = [make(mode, Exponential(0.9), optimizer=optimizer, size=400) for mode in MODES]
    plain = RecordTable("plain", 100, 4, optimizer, Exponential(0.9))
    plain.write_records(0, tables[0].storage.read_records(np.arange(100)))
    steps = [stepper(table) for table in tables]
    for t, (ids, gradient, multiplier) in enumerate(batches(tables[0], 30), start=1):
        scalars = tf.constant(float(t)), tf.constant(multiplier)
        for step in steps:
            step(tf.constant(ids), tf.constant(gradient), *scalars)
        summed = np.zeros(400, np.float32)
        np.add.at(summed, places(tables[0], ids), gradient)
        touched = np.unique((tables[0]._hash(ids)[:, None] + np.arange(4)) % 400 // 4)
        plain.update(plain.lookup(touched), summed.reshape(100, 4)[touched], *scalars)
    for table in tables:
        np.testing.assert_allclose(table.storage.records, plain.records, rtol=1e-4, atol=1e-5)


def test_auto_is_dense_for_arrays_small_beside_the_batch():
    looked_up = 40 * 9  # values
    assert make(size=DENSE_RATIO * looked_up, batch_size=40).dense
    assert not make(size=DENSE_RATIO * looked_up + 4, batch_size=40).dense
    assert not make(size=DENSE_RATIO * looked_up, batch_size=40, rows=39).dense
    assert make("dense", size=4000).dense and not make("sparse", size=4).dense


@pytest.mark.parametrize("mode", MODES)
def test_untouched_chunks_stay(mode):
    table = make(mode, Exponential(0.9), size=400)
    before = table.storage.records.numpy()
    ids = np.array([4, 9])
    stepper(table)(tf.constant(ids), tf.ones([2, 9]), tf.constant(1.0), tf.constant(1.0))
    after = table.storage.records.numpy()
    starts = table._hash(ids)
    reached = np.unique((starts[:, None] + np.arange(4)) % 400 // 4)
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == reached.tolist()


def test_hashing_is_fixed_by_seed_and_name():
    # Written down: a change would silently scramble every stored array.
    hashed = BlockHash("items", 0, 1000, 8, 4)
    assert (hashed.b, hashed.c, hashed.d) == (795574889, 1164957939, 75203550)
    assert hashed(np.arange(3)).tolist() == [550, 489, 439, 378, 328, 620]
    others = [BlockHash("users", 0, 1000, 8, 4), BlockHash("items", 1, 1000, 8, 4)]
    assert len({hashed.b, *(other.b for other in others)}) == 3


def test_large_ids_do_not_overflow():
    hashed = BlockHash("items", 0, PRIME - 2, 4096, 1)
    hashed.b, ids = PRIME - 1, np.array([PRIME - 1, PRIME - 2])
    expected = [((PRIME - 1) * int(x) + int(c)) % PRIME % (PRIME - 2) for x in ids for c in hashed._of_block]
    assert hashed(ids).tolist() == expected
    assert hashed(tf.constant(ids)).numpy().tolist() == expected


def test_places_are_spread_evenly_and_collide_as_often_as_chance():
    """Over 20 seeds; an affine hash of consecutive ids has regular gaps, so single seeds differ."""
    size, rows, rates = 5000, 20000, []
    for seed in range(20):
        starts = BlockHash("items", seed, size, 16, 8)(np.arange(rows)).reshape(rows, 2)
        for block in starts.T:
            cells = np.bincount(block // 50, minlength=100)  # 200 each
            assert cells.min() > 120 and cells.max() < 280
            number = np.bincount(block, minlength=size).astype(np.float64)
            rates.append((number * (number - 1)).sum() / (rows * (rows - 1)) * size)
    # Universal: at most about twice chance for any pair of rows; on average chance.
    assert 0.7 < np.mean(rates) < 1.3 and max(rates) < 3


def test_blocks_of_any_number():
    values = tf.constant(np.arange(50, dtype=np.float32))
    for number in (1, 8, 9, 100):
        starts = np.random.default_rng(number).integers(0, 47, number)
        spec = [tf.TensorSpec([None], tf.int32)]
        found = tf.function(lambda s: gather_blocks(values, s, 4), input_signature=spec)(starts)
        np.testing.assert_array_equal(found, starts[:, None] + np.arange(4))
        expected = np.zeros(50)
        np.add.at(expected, starts[:, None] + np.arange(4), 1)
        for size in (50, tf.constant(50)):
            np.testing.assert_array_equal(sum_blocks(tf.ones([number, 4]), starts, size), expected)


def test_padded_sizes_are_few_and_little_larger():
    numbers = np.r_[np.arange(1, 3000), 2 ** np.arange(4, 30), 2 ** np.arange(4, 30) + 1]
    padded = np.array([int(padded_size(tf.constant(int(n)))) for n in numbers])
    assert (padded >= numbers).all() and (padded <= np.maximum(numbers * 1.125 + 1, 8)).all()
    assert len(set(padded[:2999].tolist())) < 80


def test_bytes():
    assert make(rule=None).bytes == (60 * 3 + 15) * 4  # weight, m, v, and one last step per chunk
    table = make(rule=Exponential(0.9), rows=10**6, size=4000)
    assert table.bytes == 4 * (4000 * 4 + 1000)  # and an average
    assert array(table).nbytes == 4000 * 4 and table.rows == 10**6
