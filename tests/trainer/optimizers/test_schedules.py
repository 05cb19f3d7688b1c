"""Schedules against their formulas at every step."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.training import ScheduleConfig
from trainer.optimizers.schedules import (
    bias_correction_factor,
    exponential,
    product,
    rate_multiplier,
    warm_up,
)

pytestmark = pytest.mark.any_python


def test_warm_up_constant_cool_down():
    multiplier = rate_multiplier(
        ScheduleConfig(warmup_fraction=0.1, warmup_power=2, cooldown_fraction=0.2), 100
    )
    values = [float(multiplier(np.float32(step))) for step in range(1, 101)]
    np.testing.assert_allclose(values[:10], [(s / 10) ** 2 for s in range(1, 11)], rtol=1e-6)
    np.testing.assert_allclose(values[10:80], 1.0)
    np.testing.assert_allclose(values[80:], [(101 - s) / 20 for s in range(81, 101)], rtol=1e-6)


def test_constant():
    multiplier = rate_multiplier(ScheduleConfig(warmup_fraction=0, cooldown_fraction=0), 7)
    assert [float(multiplier(np.float32(s))) for s in (1, 4, 7)] == [1.0] * 3


@pytest.mark.parametrize("decay", ["cosine", "exponential"])
@pytest.mark.parametrize("to", [None, 0.25])
def test_a_decay_stands_between_warm_up_and_cool_down(decay, to):
    config = ScheduleConfig(
        warmup_fraction=0.1, warmup_power=1, decay=decay, decay_to=to, cooldown_fraction=0.2
    )
    multiplier, end = rate_multiplier(config, 100), to or 0.01
    steps = np.arange(1, 101)
    x = np.clip((steps - 10) / 70, 0, 1)
    middle = end**x if decay == "exponential" else end + (1 - end) * (1 + np.cos(np.pi * x)) / 2
    expected = np.minimum(steps / 10, 1) * middle * np.clip((101 - steps) / 20, 0, 1)
    values = [float(multiplier(np.float32(step))) for step in steps]
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    assert values[9] == 1.0 and values[79] == pytest.approx(end, rel=1e-5) and values[99] < end / 15


@pytest.mark.parametrize("fractions", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("decay", ["cosine", "exponential"])
def test_a_decay_without_room_or_neighbours_is_finite(decay, fractions):
    config = ScheduleConfig(warmup_fraction=fractions[0], decay=decay, cooldown_fraction=fractions[1])
    for num_steps in (1, 2, 7):
        multiplier = rate_multiplier(config, num_steps)
        values = np.array([float(multiplier(np.float32(step))) for step in range(1, num_steps + 1)])
        assert (values > 0).all() and (values <= 1).all()


def test_schedules_multiply():
    schedule = product(warm_up(4, 1.0), exponential(0, 10, 0.5))
    assert float(schedule(tf.constant(2.0))) == pytest.approx(0.5 * 0.5**0.2)
    assert float(product()(tf.constant(2.0))) == 1.0


@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.999), (0.0, 0.9999), (0.5, 0.0)])
def test_the_bias_correction_is_that_of_float64(beta_1, beta_2):
    factor = bias_correction_factor(beta_1, beta_2)
    for t in (1, 2, 10, 1000, 10**6):
        expected = np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        assert float(factor(tf.constant(float(t)))) == pytest.approx(expected, rel=1e-6)
