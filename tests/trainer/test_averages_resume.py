"""Averages stay exact across a checkpoint in the middle of a run and a change of engine at it."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.optimizers import LazyAdamConfig
from tests.support.addons import skipping_tfa
from trainer.averages import Exponential, Uniform
from trainer.checkpoints.store import CheckpointStore
from trainer.embeddings.engines import TABLE_ENGINES
from trainer.optimizers import LazyAdam

pytestmark = pytest.mark.any_python

ROWS, DIM, STEPS, SAVED = 80, 3, 200, 90


def batches():
    rng = np.random.default_rng(2)
    share = 1 / np.arange(1, ROWS + 1) ** 1.1
    for _ in range(STEPS):
        ids = np.unique(rng.choice(ROWS, 20, p=share / share.sum()))
        yield ids, rng.normal(size=(len(ids), DIM)).astype(np.float32)


@pytest.mark.parametrize(
    "engines", skipping_tfa([("rows", "rows"), ("rows", "tfa"), ("tfa", "rows")]), ids="-".join
)
@pytest.mark.parametrize("start", [0, 40, 120])
@pytest.mark.parametrize("kind", [Exponential, Uniform])
def test_average_over_a_restore(tmp_path, engines, start, kind):
    rule = kind(start_step=start) if kind is Uniform else kind(0.97, start)

    def table_of(engine):
        return TABLE_ENGINES[engine]("user", ROWS, DIM, LazyAdam(LazyAdamConfig(learning_rate=0.01)), rule)

    table, store = table_of(engines[0]), CheckpointStore(str(tmp_path), 1, {})
    table.initialize(0.1, seed=5)
    average, count = table.read_weights(np.arange(ROWS), False, 0.0).numpy().astype(np.float64), 0
    for t, (ids, gradient) in enumerate(batches(), start=1):
        step = tf.constant(float(t))
        table.update(table.lookup(tf.constant(ids)), tf.constant(gradient), step, tf.constant(1.0))
        weight = table.read_weights(np.arange(ROWS), False, 0.0).numpy()
        count += t > start
        share = 1.0 if t <= start else 1 / count if kind is Uniform else 1 - rule.decay
        average += share * (weight - average)
        if t == SAVED:
            store.save(t, {"user": table}, {})
            store.wait()
            table = table_of(engines[1])
            assert store.restore_newest({"user": table}, {}) == SAVED
    lazy = table.read_weights(np.arange(ROWS), True, float(STEPS)).numpy()
    np.testing.assert_allclose(lazy, average, atol=3e-6)
