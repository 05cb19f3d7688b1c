"""FTRL on plain variables and with Keras, against Keras' legacy optimizer and the formulas it reduces to."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.optimizers import FTRL

pytestmark = pytest.mark.any_python

FACES = {"plain": FTRL, "keras": lambda *args, **options: FTRL(*args, **options).keras()}
EVERY_FACE = pytest.mark.parametrize("make", FACES.values(), ids=FACES)
EVERY_GRADIENT = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "rows"])
OPTIONS = [
    {},
    {"l1": 0.05},
    {"beta": 0.3},
    {"l2": 0.1, "beta": 0.3},
    {"l1": 0.05, "l2": 0.5},
    {"l1": 0.05, "l2": 0.5, "l2_shrinkage": 0.1, "learning_rate_power": -0.7},
]
KERAS_NAMES = {
    "l1": "l1_regularization_strength",
    "l2": "l2_regularization_strength",
    "l2_shrinkage": "l2_shrinkage_regularization_strength",
}


def gradients(dtype, sparse, steps=10):
    """Gradients of a [3, 2] variable; sparse ones leave its row 1 out."""
    rng = np.random.default_rng(4)
    for _ in range(steps):
        values = tf.constant(rng.normal(size=(2 if sparse else 3, 2)) / 4, dtype)
        yield tf.IndexedSlices(values, tf.constant([2, 0]), tf.constant([3, 2])) if sparse else values


def trained(optimizer, dtype, sparse, start):
    variable = tf.Variable(start, dtype=dtype)
    for gradient in gradients(dtype, sparse):
        optimizer.apply_gradients([(gradient, variable)])
    return variable.numpy().astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@EVERY_GRADIENT
@EVERY_FACE
def test_every_option_and_type_equals_legacy_keras(make, sparse, options, dtype):
    """The legacy class leaves rows without a gradient alone, as these do."""
    start = [[1.0, -2.0], [4.0, 3.0], [0.5, 0.0]]
    ours = trained(make(0.5, **options), dtype, sparse, start)
    named = {KERAS_NAMES.get(name, name): value for name, value in options.items()}
    theirs = trained(tf_keras.optimizers.legacy.Ftrl(0.5, **named), "float32", sparse, start)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    assert (ours[1] == start[1]).all() == sparse


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
@EVERY_GRADIENT
@EVERY_FACE
def test_from_zero_without_penalties_it_is_gradient_descent_or_adagrad(make, sparse, power):
    """At power 0 and -0.5; in general the rate is divided by the sum of squares to -power."""
    weight, total = np.zeros([3, 2]), np.full([3, 2], 0.1)
    for gradient in gradients("float32", sparse):
        dense = tf.convert_to_tensor(gradient).numpy()
        total += dense**2
        weight -= 0.5 * dense / total**-power
    ours = trained(make(0.5, learning_rate_power=power), "float32", sparse, np.zeros([3, 2]))
    np.testing.assert_allclose(ours, weight, rtol=1e-5, atol=1e-6)


@EVERY_GRADIENT
def test_shrinkage_makes_weights_smaller_at_the_same_rates(sparse):
    weights, squares = [], []
    for shrinkage in (0.0, 0.1):
        optimizer, variable = (
            FTRL(3.0, l1=0.001, l2=2.0, l2_shrinkage=shrinkage),
            tf.Variable(tf.ones([3, 2])),
        )
        for _ in range(10):
            rows = tf.IndexedSlices(tf.fill([2, 2], 0.1), tf.constant([2, 0]))
            optimizer.apply_gradients([(rows if sparse else tf.fill([3, 2], 0.1), variable)])
        weights.append(variable.numpy()[[0, 2]])
        squares.append(optimizer.get_slot(variable, "accumulator").numpy())
    assert (np.abs(weights[1]) < np.abs(weights[0])).all()
    np.testing.assert_array_equal(*squares)
    assert (squares[0] > 0.1).all(axis=1).tolist() == [True, not sparse, True]
