"""Lazy averages of rows against the average of the whole table taken at every step, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from configs.sections.training import PolyakConfig
from trainer.averages import DenseAverages, Exponential, Uniform, horizon_finding, make_average

pytestmark = pytest.mark.any_python


def dense_average(rule, weights):
    """Brute force: float64 average after each of weights [steps + 1, ...], index 0 being initial."""
    average, count = weights[0].astype(np.float64), 0
    for step in range(1, len(weights)):
        w = weights[step].astype(np.float64)
        if step <= rule.start_step:
            average = w
        elif isinstance(rule, Exponential):
            average = rule.decay * average + (1 - rule.decay) * w
        else:
            count += 1
            average = w if count == 1 else average + (w - average) / count
        yield average


def lazy_walk(steps, rows, dim, seed):
    """Weights [steps + 1, rows, dim] of which Zipf-chosen rows move at each step, and the rows of each."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, rows + 1) ** 1.1
    weights, touched = [rng.normal(size=(rows, dim)).astype(np.float32)], []
    for _ in range(steps):
        ids = np.unique(rng.choice(rows, 12, p=share / share.sum()))
        after = weights[-1].copy()
        after[ids] += 0.1 * rng.normal(size=(len(ids), dim)).astype(np.float32)
        weights.append(after)
        touched.append(ids)
    return np.stack(weights), touched


RULES = [
    *(Exponential(decay, start) for decay in (0.0, 0.9, 0.99, 0.9999) for start in (0, 57)),
    Uniform(0),
    Uniform(100),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_lazy_rows_equal_the_average_of_the_whole_table_at_every_step(rule):
    steps, rows, dim = 250, 200, 4
    weights, touched = lazy_walk(steps, rows, dim, seed=3)
    average, last = weights[0].copy(), np.zeros([rows, 1], np.float32)
    expected = dense_average(rule, weights)
    for step, ids in enumerate(touched, start=1):
        now = np.float32(step)
        caught_up = rule.catch_up(average[ids], weights[step - 1][ids], last[ids], now - 1)
        average[ids] = rule.include(caught_up, weights[step][ids], now)
        last[ids] = now
        whole = rule.catch_up(average, weights[step], last, now)
        np.testing.assert_allclose(whole, next(expected), atol=3e-6)
    assert (last == 0).any(), "some rows should never be touched, or the test shows less than it says"


@pytest.mark.parametrize("rule", [Exponential(0.9, 5), Uniform(5)], ids=str)
def test_dense_averages_follow_the_rule(rule):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(30, 3)).astype(np.float32)
    variable = tf.Variable(weights[0])
    averages = DenseAverages(rule, [variable])
    for step, expected in enumerate(dense_average(rule, weights), start=1):
        variable.assign(weights[step])
        averages.update(tf.constant(float(step)))
        np.testing.assert_allclose(averages.shadows[0], expected, atol=1e-6)


def test_make_average_places_the_start():
    assert make_average(PolyakConfig(kind="none"), 100) is None
    assert make_average(PolyakConfig(decay=0.5, start_fraction=0.25), 100) == Exponential(0.5, 25)
    assert make_average(PolyakConfig(kind="uniform", start_fraction=0.9), 100) == Uniform(90)


@pytest.mark.parametrize("num_steps", [1, 7, 60, 820, 100_000, 2**24])
def test_the_horizon_follows_the_run_and_the_start_is_forgotten(num_steps):
    rule = make_average(PolyakConfig(horizon_fraction=0.01), num_steps)
    steps = max(1, round(0.01 * num_steps))
    assert 1 / (1 - rule.decay) == pytest.approx(steps)
    assert rule.start_step == min(steps, num_steps // 2)
    if num_steps > 1:
        assert rule.start_step > 0, "the initial weights would be averaged"
    tail = make_average(PolyakConfig(kind="uniform", horizon_fraction=0.01), num_steps)
    assert tail == Uniform(num_steps - steps)


@pytest.mark.parametrize(
    "config",
    [
        PolyakConfig(horizon_fraction=0.002),
        PolyakConfig(horizon_fraction=0.05),
        PolyakConfig(decay=0.999),
        PolyakConfig(kind="uniform", horizon_fraction=0.05),
    ],
)
def test_initial_weights_have_no_part_in_the_average(config):
    """Two walks that differ in their first weights alone end with the same average."""
    rule = make_average(config, 820)
    weights = np.random.default_rng(0).normal(size=(821, 3))
    other = weights.copy()
    other[0] += 1e6
    *_, first = dense_average(rule, weights)
    *_, second = dense_average(rule, other)
    np.testing.assert_array_equal(first, second)


def test_an_explicit_decay_starts_after_its_horizon_at_half_of_the_run_at_the_latest():
    assert make_average(PolyakConfig(decay=0.99), 10_000).start_step == 100
    assert make_average(PolyakConfig(decay=0.999), 820) == Exponential(0.999, 410)
    assert make_average(PolyakConfig(decay=0.999, start_fraction=0), 820) == Exponential(0.999, 0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (PolyakConfig(decay=0.999), "polyak.decay 0.999 averages over about 1,000 steps, but the run has"),
        (PolyakConfig(kind="uniform", start_fraction=0.0), "averages all weights since step 0 of 820"),
    ],
)
def test_an_average_that_looks_back_too_far_is_said(config, words):
    assert words in horizon_finding(config, 820)


@pytest.mark.parametrize(
    "config",
    [
        PolyakConfig(horizon_fraction=0.002),
        PolyakConfig(decay=0.99),
        PolyakConfig(horizon_fraction=0.5),
        PolyakConfig(kind="uniform", horizon_fraction=0.5),
        PolyakConfig(kind="uniform", start_fraction=0.8),
        PolyakConfig(kind="none"),
        PolyakConfig(kind="tail_average"),
    ],
)
def test_an_average_of_the_end_of_the_run_needs_no_word(config):
    assert horizon_finding(config, 820) is None
