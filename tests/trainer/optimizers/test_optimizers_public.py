"""Optimizers in someone else's code: plain variables, checkpoints, tf_keras models."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from tests.support.addons import needs_addons
from trainer.addons import import_addons
from trainer.optimizers import ROW_OPTIMIZERS, SGD, Adagrad, LazyAdam
from trainer.optimizers.clipping import clip_by_global_norm

pytestmark = pytest.mark.any_python

RATE = tf_keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)


@pytest.mark.parametrize("shape", [(), (5,), (5, 3), (5, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_variables_of_any_rank(kind, shape):
    variable = tf.Variable(tf.ones(shape))
    optimizer = ROW_OPTIMIZERS[kind](learning_rate=0.1)
    optimizer.apply_gradients([(tf.ones(shape), variable)])
    assert variable.shape == shape and (variable.numpy() < 1).all()
    if not shape:
        return
    before = variable.numpy()
    slices = tf.IndexedSlices(tf.ones([3, *shape[1:]]), tf.constant([1, 4, 1]))
    optimizer.apply_gradients([(slices, variable)])
    moved = (variable.numpy() != before).reshape(5, -1)
    assert moved[[1, 4]].all() and moved[[0, 2, 3]].any() != optimizer.lazy


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_types(dtype):
    variable = tf.Variable(tf.ones([3, 2], dtype))
    LazyAdam(0.5).apply_gradients([(tf.ones([3, 2], dtype), variable)])
    np.testing.assert_allclose(variable, 0.5, rtol=1e-3)


def test_learning_rates():
    seen = []

    def schedule(step):
        seen.append(float(step))
        return 1.0 / step

    given = tf.Variable(0.5)
    for rate, expected in ((0.5, -1.0), (schedule, -1.5), (given, -1.0), (np.float32(0.5), -1.0)):
        variable, optimizer = tf.Variable(0.0), SGD(learning_rate=rate)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == pytest.approx(expected)
    assert seen == [1.0, 2.0]
    given.assign(3.0)
    variable, optimizer = tf.Variable(0.0), SGD(given)
    optimizer.apply_gradients([(tf.constant(1.0), variable)])
    assert float(variable) == -3.0


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_the_step_is_the_first_of_the_state(kind):
    optimizer = ROW_OPTIMIZERS[kind](learning_rate=0.1)
    assert optimizer.variables == ()
    optimizer.minimize(lambda: first + second, [first := tf.Variable(1.0), second := tf.Variable(1.0)])
    assert optimizer.variables[0] is optimizer.iterations and int(optimizer.iterations) == 1
    if kind != "sm3":  # which also keeps a state of the whole variable
        assert len(optimizer.variables) == 1 + 2 * len(optimizer.slot_names)


def test_steps_are_counted_before_the_first(tmp_path):
    optimizer = SGD(0.5)
    optimizer.iterations.assign(5)
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    restored = SGD(0.5)
    tf.train.Checkpoint(optimizer=restored).restore(path)
    assert int(restored.iterations) == 5


def test_missing_gradients():
    a, b = tf.Variable(1.0), tf.Variable(1.0)
    SGD(0.5).apply_gradients([(None, a), (tf.constant(1.0), b)])
    assert float(a) == 1.0 and float(b) == 0.5
    for pairs in ([], [(None, a)]):
        with pytest.raises(ValueError, match="No gradients provided for any variable"):
            SGD(0.5).apply_gradients(pairs)


def train(optimizer, variables, steps, seed):
    rng = np.random.default_rng(seed)

    @tf.function
    def apply(ids, values):
        optimizer.apply_gradients([(tf.IndexedSlices(values, ids), v) for v in variables])

    for _ in range(steps):
        ids, values = rng.integers(0, 9, 6), rng.normal(size=(6, 2)).astype(np.float32)
        apply(tf.constant(ids), tf.constant(values))


@pytest.mark.slow
@pytest.mark.parametrize("restore_first", [True, False], ids=["before slots exist", "after"])
@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_tf_checkpoints_resume(kind, restore_first, tmp_path):
    def fresh():
        variables = [tf.Variable(tf.ones([9, 2])) for _ in range(2)]
        return ROW_OPTIMIZERS[kind](0.1), variables

    optimizer, variables = fresh()
    train(optimizer, variables, 7, seed=1)
    path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(str(tmp_path / "c"))
    train(optimizer, variables, 7, seed=2)
    resumed, others = fresh()
    if not restore_first:
        train(resumed, others, 1, seed=3)
    status = tf.train.Checkpoint(optimizer=resumed, variables=others).restore(path)
    train(resumed, others, 7, seed=2)
    status.assert_existing_objects_matched()
    assert int(resumed.updates.iterations) == 14
    np.testing.assert_array_equal(variables, others)


def model_and_data():
    tf_keras.utils.set_random_seed(5)
    model = tf_keras.Sequential([tf_keras.layers.Embedding(50, 4), tf_keras.layers.Dense(1)])
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, [256, 1])  # rows 30 .. 49 are never seen
    model(ids[:1])
    return model, ids, (ids[:, 0] % 2).astype(np.float32)


def fitted(optimizer):
    model, ids, labels = model_and_data()
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(ids, labels, batch_size=32, epochs=4, shuffle=False, verbose=0)
    return model


@needs_addons
def test_a_keras_model_trains_as_with_addons():
    ours = fitted(LazyAdam(learning_rate=0.01).keras())
    theirs = fitted(import_addons().optimizers.LazyAdam(0.01))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    untouched = model_and_data()[0].get_weights()[0][30:]
    np.testing.assert_array_equal(ours.get_weights()[0][30:], untouched)


def test_state_that_rows_share_has_no_place_in_keras():
    with pytest.raises(ConfigError, match="sm3 has no Keras form; call apply_gradients"):
        ROW_OPTIMIZERS["sm3"]().keras()


@pytest.mark.parametrize("kind", [k for k, made in ROW_OPTIMIZERS.items() if not made.shared_names])
def test_every_kind_fits_a_keras_model(kind):
    model = fitted(ROW_OPTIMIZERS[kind](learning_rate=0.01).keras())
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert int(model.optimizer.iterations) == 32


@pytest.mark.parametrize(
    "optimizer", [Adagrad(0.3, clip_value=0.2), LazyAdam(RATE)], ids=["number", "schedule"]
)
def test_a_saved_keras_model_goes_on(optimizer, tmp_path):
    model = fitted(optimizer.keras())
    model.save(tmp_path / "m.keras")
    loaded = tf_keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer._rows.config == optimizer.config
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    _, ids, labels = model_and_data()
    for each in (model, loaded):
        each.fit(ids, labels, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_takes_no_bare_function_as_rate():
    with pytest.raises(ConfigError, match="LearningRateSchedule"):
        SGD(lambda step: 0.1).keras()


def test_the_global_norm_counts_a_repeated_row_once():
    slices = tf.IndexedSlices(tf.constant([[3.0], [1.0], [-3.0]]), tf.constant([7, 2, 7]))
    dense = tf.constant([2.0])
    rows, tower, nothing = clip_by_global_norm([slices, dense, None], 1.0)
    scale = 1 / np.sqrt(0.0 + 1.0 + 4.0)
    np.testing.assert_array_equal(rows.indices, [7, 2])
    np.testing.assert_allclose(rows.values, [[0.0], [scale]], rtol=1e-6)
    np.testing.assert_allclose(tower, [2 * scale], rtol=1e-6)
    assert nothing is None
    unclipped = clip_by_global_norm([slices, dense], 10.0)
    np.testing.assert_allclose(unclipped[1], [2.0])


def test_a_program_that_knows_only_the_optimizer():
    """No environment of lazytower's, no configuration: import, apply."""
    program = """
import tensorflow as tf
from trainer.optimizers import LazyAdam
table = tf.Variable(tf.ones([4, 2]))
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.gather(table, [1, 1, 3]))
LazyAdam(learning_rate=0.5).apply_gradients(zip(tape.gradient(loss, [table]), [table]))
print(table.numpy()[:, 0].round(3).tolist())
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "[1.0, 0.5, 1.0, 0.5]\n", done.stderr
