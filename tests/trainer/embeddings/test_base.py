"""Both engines against an independent NumPy reference, and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.optimizers import LazyAdamConfig
from configs.system.pythons import missing_addons
from tests.support.addons import needs_addons, skipping_tfa
from trainer.averages import Exponential, Uniform
from trainer.embeddings.base import CHUNK_ROWS
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.pooling import of_distinct
from trainer.optimizers import LazyAdam
from trainer.optimizers.base import RowOptimizer

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS, BATCH = 300, 8, 220, 64
HYPER = LazyAdamConfig(learning_rate=0.01)


def gradients(seed=0):
    """Zipf ids with repeats, float32 gradients and rate multipliers of each step."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ROWS + 1) ** 1.1
    for _ in range(STEPS):
        ids = rng.choice(ROWS, BATCH, p=share / share.sum())
        yield ids, rng.normal(size=(BATCH, DIM)).astype(np.float32), np.float32(rng.random())


def reference(weight, rule):
    """Lazy Adam on the whole table in float64, and the dense average at every step."""
    w, m, v = weight.astype(np.float64), np.zeros(weight.shape), np.zeros(weight.shape)
    average, count = w.copy(), 0
    for t, (ids, gradient, multiplier) in enumerate(gradients(), start=1):
        summed = np.zeros(weight.shape)
        np.add.at(summed, ids, gradient)
        u = np.unique(ids)
        m[u] = 0.9 * m[u] + 0.1 * summed[u]
        v[u] = 0.999 * v[u] + 0.001 * summed[u] ** 2
        rate = 0.01 * multiplier * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w[u] -= rate * m[u] / (np.sqrt(v[u]) + 1e-7)
        if isinstance(rule, Uniform):
            count += 1
            average += (w - average) / count
        elif rule is not None:
            average = rule.decay * average + (1 - rule.decay) * w
    return {"weight": w, "m": m, "v": v, "average": average}


def trained(engine, rule):
    table = TABLE_ENGINES[engine]("items", ROWS, DIM, LazyAdam(HYPER), rule)
    table.initialize(0.1, seed=7)
    initial = table.read_weights(np.arange(ROWS), False, 0.0).numpy()

    @tf.function
    def step(ids, gradient, step, multiplier):
        unique, where = of_distinct(ids, tf.identity)
        summed = tf.math.unsorted_segment_sum(gradient, where, tf.size(unique))
        table.update(table.lookup(unique), summed, step, multiplier)

    for t, (ids, gradient, multiplier) in enumerate(gradients(), start=1):
        step(tf.constant(ids), tf.constant(gradient), tf.constant(float(t)), tf.constant(multiplier))
    return table, initial


@pytest.mark.parametrize("engine", skipping_tfa(TABLE_ENGINES))
@pytest.mark.parametrize("rule", [None, Exponential(0.9), Exponential(0.999), Uniform()], ids=str)
def test_engine_equals_numpy_and_the_brute_force_average(engine, rule):
    table, initial = trained(engine, rule)
    expected = reference(initial, rule)
    records = table.read_records(np.arange(ROWS)).numpy()
    values = dict(zip([p for p, _ in table.parts], np.split(records, _cuts(table), axis=1), strict=True))
    for name in ("weight", "m", "v"):
        np.testing.assert_allclose(values[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
    averaged = table.read_weights(np.arange(ROWS), True, float(STEPS)).numpy()
    target = expected["weight"] if rule is None else expected["average"]
    np.testing.assert_allclose(averaged, target, atol=2e-5)


def test_engines_agree_to_rounding():
    rule = Exponential(0.99)
    engines = [name for name in TABLE_ENGINES if name != "tfa" or not missing_addons()]
    first, *others = (trained(name, rule)[0].read_records(np.arange(ROWS)).numpy() for name in engines)
    assert others
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", skipping_tfa(TABLE_ENGINES))
def test_untouched_rows_stay_and_records_round_trip(engine):
    table = TABLE_ENGINES[engine]("t", 20, 3, LazyAdam(HYPER), Exponential(0.9))
    table.initialize(0.1, seed=1)
    before = table.read_records(np.arange(20)).numpy()
    ids = tf.constant([4, 9], tf.int64)
    table.update(table.lookup(ids), tf.ones([2, 3]), tf.constant(1.0), tf.constant(1.0))
    after = table.read_records(np.arange(20)).numpy()
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == [4, 9]
    assert after[4, -1] == 1.0 and after[5, -1] == 0.0
    other = TABLE_ENGINES[engine]("t", 20, 3, LazyAdam(HYPER), Exponential(0.9))
    other.write_records(0, after[:11])
    other.write_records(11, after[11:])
    np.testing.assert_array_equal(other.read_records(np.arange(20)), after)


@needs_addons
def test_engines_start_from_the_same_weights_and_names_differ():
    def initial(engine, name):
        table = TABLE_ENGINES[engine](name, 50, 4, LazyAdam(HYPER), None)
        table.initialize(0.1, seed=3)
        return table.read_weights(np.arange(50), False, 0.0).numpy()

    np.testing.assert_array_equal(initial("rows", "a"), initial("tfa", "a"))
    assert np.abs(initial("rows", "a") - initial("rows", "b")).min() > 0
    assert 0.07 < initial("rows", "a").std() < 0.13


@pytest.mark.parametrize("engine", skipping_tfa(TABLE_ENGINES))
def test_the_out_of_vocabulary_row_starts_at_zero(engine):
    table = TABLE_ENGINES[engine]("x", 50, 4, LazyAdam(HYPER), Exponential(0.9))
    table.initialize(0.1, seed=3, zero_row=49)
    for averaged in (False, True):
        weights = table.read_weights(np.arange(50), averaged, 0.0).numpy()
        assert not weights[49].any() and weights[:49].all()


def test_chunks_cover_a_large_table_once():
    table = RecordTable("big", 2 * CHUNK_ROWS + 5, 1, LazyAdam(HYPER), None)
    assert table.chunks() == [
        (0, CHUNK_ROWS),
        (CHUNK_ROWS, 2 * CHUNK_ROWS),
        (2 * CHUNK_ROWS, 2 * CHUNK_ROWS + 5),
    ]
    assert table.bytes == (2 * CHUNK_ROWS + 5) * 4 * 4  # weight, m, v, last step


def test_addons_engine_refuses_an_optimizer_it_does_not_have():
    class Other(RowOptimizer):
        def row_update(self, weight, slots, gradient, step, learning_rate):
            return weight, slots

    with pytest.raises(ConfigError, match="engine: tfa does not support optimizer lazy_adam"):
        TABLE_ENGINES["tfa"]("x", 3, 2, Other(HYPER), None)
    with pytest.raises(
        ConfigError, match="engine: tfa does not support bias_correction: per_row; use engine: rows"
    ):
        TABLE_ENGINES["tfa"]("x", 3, 2, LazyAdam(bias_correction="per_row"), None)


def _cuts(table):
    return np.cumsum([width for _, width in table.parts])[:-1]
