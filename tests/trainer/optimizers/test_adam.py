"""Dense Adam on plain variables of every type, through both interfaces, against Keras' own in float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.optimizers import Adam

pytestmark = pytest.mark.any_python

FACES = {"plain": lambda optimizer: optimizer, "keras": lambda optimizer: optimizer.keras()}
STEPS, SHAPE = 8, (5, 3)


def gradients(dtype, sparse):
    """Gradients of a few steps; slices repeat a row, and no step has all rows."""
    rng = np.random.default_rng(2)
    for t in range(STEPS):
        values = tf.constant(rng.normal(size=SHAPE) * (10 if t == 2 else 1), dtype)
        yield tf.IndexedSlices(values[:3], tf.constant([t % 5, 4, t % 5]), SHAPE) if sparse else values


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "slices"])
@pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("face", FACES)
def test_adam_equals_keras(face, dtype, amsgrad, sparse):
    options = {"beta_2": 0.9, "epsilon": 1e-5, "amsgrad": amsgrad}
    optimizer = FACES[face](Adam(0.05, **options))
    reference = tf_keras.optimizers.legacy.Adam(0.05, **options)
    ours, theirs = tf.Variable(tf.ones(SHAPE, dtype)), tf.Variable(tf.ones(SHAPE, "float64"))
    largest = {"float16": 5e-3, "bfloat16": 4e-2}.get(dtype, 1e-6)
    for gradient in gradients(dtype, sparse):
        optimizer.apply_gradients([(gradient, ours)])
        reference.apply_gradients([(_double(gradient), theirs)])
        np.testing.assert_allclose(ours.numpy().astype(float), theirs, atol=largest)
    assert np.ptp(theirs) > 0.1


def _double(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.cast(gradient.values, "float64"), gradient.indices, gradient.dense_shape)
    return tf.cast(gradient, "float64")


@pytest.mark.parametrize("face", FACES)
def test_two_compiled_steps_share_the_state(face):
    """Steps of two functions on the same variables alternate as those of one."""
    results = []
    for functions in (1, 2):
        optimizer, variable = FACES[face](Adam(0.05)), tf.Variable(tf.ones(SHAPE))
        optimizer.build([variable])
        traced = [
            tf.function(lambda g, o=optimizer, v=variable: o.apply_gradients([(g, v)]))
            for _ in range(functions)
        ]
        for apply, gradient in zip(itertools.cycle(traced), gradients("float32", False)):
            apply(gradient)
        assert int(optimizer.iterations) == STEPS
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)
