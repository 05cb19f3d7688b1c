"""Blocks, weights and intervals of the bootstrap."""

import numpy as np
import pytest

from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of, interval, sample_weights


def test_blocks_are_even_and_stable():
    blocks = blocks_of(7, np.arange(256_000))
    counts = np.bincount(blocks, minlength=BLOCKS)
    assert len(counts) == BLOCKS and 850 < counts.min() and counts.max() < 1150
    np.testing.assert_array_equal(blocks[[5, 99]], blocks_of(7, np.array([5, 99])))
    assert (blocks != blocks_of(8, np.arange(256_000))).mean() > 0.9


def test_weights_are_poisson_with_mean_1():
    weights = sample_weights(0, 2000)
    assert weights.shape == (2000, BLOCKS)
    assert weights.mean() == pytest.approx(1, abs=0.01) and weights.var() == pytest.approx(1, abs=0.01)
    for count, chance in enumerate([0.3679, 0.3679, 0.1839, 0.0613]):
        assert (weights == count).mean() == pytest.approx(chance, abs=0.003)
    np.testing.assert_array_equal(weights[:3], sample_weights(0, 3))


def test_an_interval_is_the_middle_of_the_samples():
    assert interval(np.arange(101.0), 0.9) == pytest.approx([5, 95])
    assert interval(np.array([np.nan, 1.0, 2.0]), 0.5) == [1.25, 1.75]
    assert interval(np.array([np.nan, np.nan, 2.0]), 0.5) is None
    assert interval(np.zeros(0), 0.5) is None


def test_intervals_cover_the_truth_as_often_as_they_say():
    """The mean of dependent rows: users have effects, so single rows as units would be far too certain."""
    draw, weights, hits = np.random.default_rng(0), sample_weights(0, 300), 0
    for attempt in range(300):
        users = np.repeat(np.arange(400), 5)
        values = draw.normal(size=400)[users] + draw.normal(size=2000)
        sums = np.zeros((BLOCKS, 2))
        np.add.at(sums, blocks_of(attempt, users), np.stack([values, np.ones(2000)], axis=1))
        sampled = weights @ sums
        low, high = interval(sampled[:, 0] / sampled[:, 1], 0.9)
        hits += low <= 0 <= high
    assert hits / 300 == pytest.approx(0.9, abs=0.05)
