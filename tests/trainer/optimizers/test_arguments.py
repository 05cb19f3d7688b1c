"""What the constructors of the public optimizers take and refuse; rates against those of Keras."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from configs.errors import ConfigError
from trainer.optimizers import FTRL, ROW_OPTIMIZERS, SGD, SM3, Adam
from trainer.optimizers.arguments import rate_of

UNKNOWN = {
    "lr": (Adam, "lr: unknown; use learning_rate"),
    "clipvalue": (Adam, "clipvalue: unknown; use clip_value"),
    "l1_regularization_strength": (FTRL, "l1_regularization_strength: unknown; use l1"),
    "clipnorm": (Adam, r"clipnorm: unknown; give it to the Keras form, as keras\(clipnorm=...\)"),
    "decay": (Adam, "decay: unknown; use a LearningRateSchedule or a function of the step as learning_rate"),
    "beta1": (Adam, r"beta1: unknown; did you mean beta_1\?"),
    "centered": (SM3, "centered: unknown; known: learning_rate, momentum, beta"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_arguments_name_what_to_use(name):
    kind, message = UNKNOWN[name]
    with pytest.raises(ConfigError, match=f"^{kind.__name__}: {message}$"):
        kind(0.1, **{name: 0.5})


def test_each_wrong_argument_is_named():
    with pytest.raises(ConfigError, match="^Adam: beta_1: Input should be less than 1; lr: unknown; use lea"):
        Adam(beta_1=1.0, lr=0.1)


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
@pytest.mark.parametrize(
    "rate", [lambda step, more: 0.1, tf.function(lambda step, more: 0.1)], ids=["two", "tf.function"]
)
def test_a_rate_takes_the_step_alone(kind, rate):
    """It is refused when it is given, not at the first step, when the step is already counted."""
    name = ROW_OPTIMIZERS[kind].__name__
    message = f"^{name}: learning_rate is a function of more than the step; write lambda step"
    with pytest.raises(ConfigError, match=message):
        ROW_OPTIMIZERS[kind](rate)
    optimizer = ROW_OPTIMIZERS[kind](0.5)
    with pytest.raises(ConfigError, match=message):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.5


@pytest.mark.parametrize("kind", ROW_OPTIMIZERS)
def test_a_function_of_nothing_is_called_at_each_step(kind):
    """As Keras' legacy optimizers do: a rate that is changed from outside."""
    rates, variables = [0.5], [tf.Variable([1.0, 2.0]) for _ in range(2)]
    called = ROW_OPTIMIZERS[kind](lambda: rates[-1])
    held = ROW_OPTIMIZERS[kind](tf.Variable(0.5))
    for rate in (0.5, 0.25, 0.125):
        rates.append(rate)
        held.learning_rate.assign(rate)
        for optimizer, variable in zip((called, held), variables, strict=True):
            optimizer.apply_gradients([(tf.constant([1.0, -2.0]), variable)])
    np.testing.assert_array_equal(*(variable.numpy() for variable in variables))


@pytest.mark.parametrize(
    "rate",
    [
        lambda step: 0.5 * step,
        lambda step, scale=0.5: scale * step,
        lambda *steps: 0.5 * steps[0],
        functools.partial(lambda scale, step: scale * step, 0.5),
        tf.function(lambda step: 0.5 * step),
        tf.Variable(1.0),
        tf.constant(1.0),
        np.float64(1.0),
        1,
    ],
    ids=["function", "default", "any number", "partial", "tf.function", "variable", "tensor", "numpy", "int"],
)
def test_rates(rate):
    variable = tf.Variable(0.0)
    SGD(rate).apply_gradients([(tf.constant(1.0), variable)])
    assert float(variable) in (-0.5, -1.0) and float(rate_of(SGD(rate).learning_rate, 2.0)) == 1.0


def schedules(api):
    return {
        "inverse": api.InverseTimeDecay(0.5, decay_steps=1.0, decay_rate=0.5),
        "piecewise": api.PiecewiseConstantDecay([1, 2], [0.5, 0.25, 0.125]),
        "cosine": api.CosineDecay(0.5, decay_steps=4),
    }


class OfIntegers(tf_keras.optimizers.schedules.LearningRateSchedule):
    """As many are written: it counts on the type that Keras gives."""

    def __call__(self, step):
        return 0.5 / tf.cast(tf.minimum(step, tf.constant(2, tf.int64)) + 1, tf.float32)


SCHEDULES = schedules(tf_keras.optimizers.schedules) | {"of integers": OfIntegers()}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_count_from_zero_as_in_keras(name, compiled):
    """The plain face, its Keras form and Keras' own optimizer take the same steps."""
    schedule = SCHEDULES[name]
    set_later = SGD(1.0)
    set_later.learning_rate = schedule
    moved = []
    for optimizer in (tf_keras.optimizers.SGD(schedule), SGD(schedule), SGD(schedule).keras(), set_later):
        variable = tf.Variable([0.0])
        optimizer.build([variable])
        step = functools.partial(optimizer.apply_gradients, [(tf.constant([1.0]), variable)])
        step = tf.function(step) if compiled else step
        moved.append([])
        for _ in range(4):
            step()
            moved[-1].append(float(variable[0]))
    assert len(set(np.diff(moved[0]))) > 1
    for other in moved[1:]:
        np.testing.assert_allclose(other, moved[0], rtol=1e-6)


def test_a_schedule_on_a_tpu_counts_from_zero():
    rate = SGD(SCHEDULES["inverse"]).tpu(step=lambda: tf.constant(3.0), multiplier=lambda step: step)
    assert float(rate.learning_rate()) == pytest.approx(3.0 * 0.5 / (1 + 0.5 * 2))


def test_schedules_of_keras_3_count_from_zero():
    keras = pytest.importorskip("keras")
    for name, schedule in schedules(keras.optimizers.schedules).items():
        for step in (1.0, 2.0, 3.0):
            expected = float(SCHEDULES[name](int(step) - 1))
            assert float(rate_of(schedule, tf.constant(step))) == pytest.approx(expected)
