"""Adagrad, SGD and momentum under both faces, as other code calls them, against Keras' legacy classes."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainer.optimizers import SGD, Adagrad, Momentum
from trainer.optimizers.standalone.keras import KerasShell

pytestmark = pytest.mark.any_python

legacy = tf_keras.optimizers.legacy
KINDS = {
    "adagrad": (Adagrad, legacy.Adagrad, {}),
    "adagrad from 1": (Adagrad, legacy.Adagrad, {"initial_accumulator_value": 1.0}),
    "sgd": (SGD, legacy.SGD, {}),
    "momentum": (Momentum, legacy.SGD, {"momentum": 0.8, "nesterov": False}),
    "nesterov": (Momentum, legacy.SGD, {"momentum": 0.8, "nesterov": True}),
}
FACES = {"plain": lambda optimizer: optimizer, "keras": lambda optimizer: optimizer.keras()}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_FACE = pytest.mark.parametrize("face", FACES)
SCHEDULE = tf_keras.optimizers.schedules.InverseTimeDecay(0.5, decay_steps=1.0, decay_rate=0.5)


def pair(kind, face, rate=0.1):
    """Our optimizer under a face, and Keras' own."""
    ours, theirs, options = KINDS[kind]
    return FACES[face](ours(rate, **options)), theirs(rate, **options)


def gradients(shape, sparse, dtype="float64", steps=6):
    """Slices take three rows of a step, one of them twice in every other step."""
    rng = np.random.default_rng(8)
    for t in range(steps):
        values = tf.constant(rng.normal(size=shape), dtype)
        rows = tf.constant([t % 4, 4, 4 if t % 2 else (t + 1) % 4])
        yield tf.IndexedSlices(values[:3], rows, shape) if sparse else values


def as_type(gradient, dtype):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.cast(gradient.values, dtype), gradient.indices, gradient.dense_shape)
    return tf.cast(gradient, dtype)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "slices"])
@pytest.mark.parametrize("shape", [(5,), (5, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@EVERY_KIND
@EVERY_FACE
def test_every_type_and_rank(face, kind, dtype, shape, sparse):
    """Rows without a gradient rest in the legacy classes too, momentum included."""
    optimizer, reference = pair(kind, face)
    ours, theirs = tf.Variable(tf.ones(shape, dtype)), tf.Variable(tf.ones(shape, "float64"))
    largest = 5e-3 if dtype == "float16" else 2e-6
    for gradient in gradients(shape, sparse):
        optimizer.apply_gradients([(as_type(gradient, dtype), ours)])
        reference.apply_gradients([(gradient, theirs)])
        np.testing.assert_allclose(ours.numpy().astype(float), theirs, atol=largest)
    assert np.ptp(theirs) > 0.1


@EVERY_KIND
@EVERY_FACE
def test_schedules(face, kind):
    optimizer, reference = pair(kind, face, SCHEDULE)
    ours, theirs = tf.Variable(tf.ones([5, 3])), tf.Variable(tf.ones([5, 3]))
    for gradient in gradients((5, 3), False, "float32"):
        optimizer.apply_gradients([(gradient, ours)])
        reference.apply_gradients([(gradient, theirs)])
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@EVERY_KIND
@EVERY_FACE
def test_minimize_takes_ids_of_any_rank(face, kind):
    """A lookup of [1, 3] ids, one of them twice, beside a weight of rank 1."""
    results = []
    for optimizer in pair(kind, face):
        table, bias = tf.Variable(tf.ones([4, 2])), tf.Variable([0.5])

        def loss(table=table, bias=bias):
            return tf.reduce_sum(tf.nn.embedding_lookup(table, [[1, 3, 1]])) * bias

        for _ in range(3):
            optimizer.minimize(loss, [table, bias])
        results.append(np.append(table.numpy(), bias))
    np.testing.assert_allclose(*results, rtol=1e-5)
    assert (results[0][[0, 1, 4, 5]] == 1).all() and (results[0][[2, 3, 6, 7]] != 1).all()


@EVERY_KIND
@EVERY_FACE
def test_eager_and_compiled_steps_take_turns(face, kind):
    """The variable is made in the first step; what a function was compiled with does not leak out of it."""
    results = []
    for optimizer in pair(kind, face):
        held = []

        def step(held=held, optimizer=optimizer):
            if not held:
                held.append(tf.Variable(1.0))
            with tf.GradientTape() as tape:
                loss = held[0] ** 2
            optimizer.apply_gradients([(tape.gradient(loss, held[0]), held[0])])
            return held[0].read_value()

        compiled = tf.function(step)
        results.append([float(run()) for run in (step, compiled, step, compiled)])
    np.testing.assert_allclose(*results, rtol=1e-5)


@EVERY_FACE
def test_tensors_as_hyperparameters(face):
    optimizer = FACES[face](Momentum(tf.constant(2.0), momentum=tf.constant(0.5)))
    variable = tf.Variable([1.0, 2.0])
    for expected in ([0.8, 1.8], [0.5, 1.5]):
        optimizer.apply_gradients([(tf.constant([0.1, 0.1]), variable)])
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


@EVERY_KIND
def test_a_config_makes_the_same_optimizer(kind):
    """Before and after the first step, schedules included."""
    first = pair(kind, "keras", SCHEDULE)[0]
    variables = [tf.Variable(tf.ones([5, 3])) for _ in range(3)]
    gradient = next(gradients((5, 3), True, "float32"))
    optimizers = [first, KerasShell.from_config(first.get_config())]
    first.apply_gradients([(gradient, variables[0])])
    optimizers.append(KerasShell.from_config(first.get_config()))
    for optimizer, variable in zip(optimizers[1:], variables[1:], strict=True):
        assert optimizer.get_config() == first.get_config()
        optimizer.apply_gradients([(gradient, variable)])
        np.testing.assert_array_equal(variable, variables[0])


@EVERY_FACE
def test_epsilon_of_adagrad_stands_inside_the_root_as_in_the_new_class(face):
    """The legacy class adds it to the root; a large one tells them apart."""
    ends = []
    for optimizer in (
        FACES[face](Adagrad(0.1, epsilon=1.0)),
        tf_keras.optimizers.Adagrad(0.1, epsilon=1.0),
        legacy.Adagrad(0.1, epsilon=1.0),
    ):
        variable = tf.Variable(tf.ones([5, 3]))
        for gradient in gradients((5, 3), False, "float32"):
            optimizer.apply_gradients([(gradient, variable)])
        ends.append(variable.numpy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    assert np.abs(ends[0] - ends[2]).max() > 0.01


@EVERY_FACE
def test_squares_that_half_precision_cannot_hold_are_summed(face):
    """Gradients of 1e-4 have squares that are 0 in float16; after many steps of them the rate has fallen."""
    optimizer = FACES[face](Adagrad(1.0, initial_accumulator_value=1e-8, epsilon=1e-12))
    variable = tf.Variable(tf.zeros([1, 2], "float16"))
    moved = []
    for _ in range(3):
        before = variable.numpy().astype(float)
        gradient = tf.IndexedSlices(tf.fill([1, 2], tf.constant(1e-4, "float16")), tf.constant([0]), [1, 2])
        optimizer.apply_gradients([(gradient, variable)])
        moved.append(float((before - variable.numpy())[0, 0]))
    np.testing.assert_allclose(moved, [2**-0.5, 3**-0.5, 4**-0.5], rtol=5e-3)
