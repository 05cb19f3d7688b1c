"""Transforms: NumPy and TensorFlow agree to the last bit (log1p to some units there), buckets always."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.sections.features import ClipConfig
from configs.transforms import before_standardize, buckets, filled, standardized, thresholds

CLIP = ClipConfig(clip=(0.1, 1234.5))
EDGES = np.float32([np.nan, 0, -0.0, -1, -2, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, 0.1, 1234.5])
NUMBERS = np.concatenate([EDGES, np.random.default_rng(3).lognormal(0, 6, 20_000).astype(np.float32)])


def same(found, expected) -> None:
    found = np.asarray(found)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("steps", [[], [CLIP], ["standardize"], [CLIP, "standardize"]])
def test_numpy_and_tensorflow_agree_to_the_last_bit(steps):
    expected = before_standardize(steps, NUMBERS, np)
    same(before_standardize(steps, tf.constant(NUMBERS), tf), expected)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = standardized(expected, 0.1, 3.7, np)
    same(standardized(tf.constant(expected), 0.1, 3.7, tf), scaled)
    graph = tf.function(lambda v: standardized(before_standardize(steps, v, tf), 0.1, 3.7, tf))
    same(graph(tf.constant(NUMBERS)), scaled)
    assert scaled[0] == 0 and not np.isnan(scaled).any()
    same(filled(tf.constant(expected), tf), filled(expected, np))


def test_clip_keeps_its_limits_and_empty_values():
    found = before_standardize([CLIP], EDGES, np)
    assert np.isnan(found[0]) and found[1] == np.float32(0.1) and found[9] == np.float32(1234.5)


def test_log1p_agrees_in_its_last_bits():
    values = NUMBERS[np.isfinite(NUMBERS) & (NUMBERS > -1)]
    found = before_standardize(["log1p", CLIP], tf.constant(values), tf).numpy()
    expected = before_standardize(["log1p", CLIP], values, np)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=6e-7, atol=0)
    exact = np.log1p(values.astype(np.longdouble))
    np.testing.assert_array_equal(before_standardize(["log1p"], values, np), exact.astype(np.float32))


def reference(boundaries, values) -> list[int]:
    return [
        len(boundaries) + 1 if np.isnan(v) else sum(np.float32(b) <= v for b in boundaries) for v in values
    ]


def test_a_value_on_a_boundary_belongs_above_it():
    boundaries = np.float32([0.1, 1, 1, 2.5])  # thresholds may repeat
    values = np.float32(
        [np.nan, 0, 0.1, np.nextafter(np.float32(0.1), np.float32(0)), 1, 2, 2.5, np.inf, -np.inf]
    )
    assert (
        buckets(boundaries, values, np).tolist()
        == reference(boundaries, values)
        == [5, 0, 1, 0, 3, 3, 4, 4, 0]
    )
    same(buckets(boundaries, tf.constant(values), tf), buckets(boundaries, values, np))
    grid = values[:8].reshape(2, 2, 2)
    same(buckets(boundaries, tf.constant(grid), tf), buckets(boundaries, grid, np))
    same(tf.function(lambda v: buckets(boundaries, v, tf))(tf.constant(grid)), buckets(boundaries, grid, np))


def test_thresholds_without_steps_are_the_boundaries():
    boundaries = [-3e38, -1.5, -1.2e-38, 0, 1.2e-38, 0.1, 7]
    same(thresholds([], boundaries), np.float32(boundaries))


def test_denormal_numbers_count_as_zero():
    found, values = thresholds([], [0, 1e-45]), np.float32([-1e-45, 0, 1e-45, -1])
    assert found.tolist() == [0, 0]
    assert buckets(found, values, np).tolist() == [2, 2, 2, 0]
    graph = tf.function(lambda v: buckets(found, v, tf))
    assert graph(tf.constant(values)).numpy().tolist() == [2, 2, 2, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-4, 90, width=32, allow_subnormal=False), min_size=1, max_size=6, unique=True),
    st.sampled_from([["log1p"], [CLIP], ["log1p", CLIP], [CLIP, "log1p"], [CLIP, "log1p", "standardize"]]),
)
def test_thresholds_give_the_buckets_of_transformed_values(boundaries, steps):
    boundaries = sorted(boundaries)
    found = thresholds(steps, boundaries)
    edges = [np.nextafter(found, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([found, *edges, NUMBERS[:200]])
    values = values[np.isfinite(values) & (values > -1) & ((values == 0) | (np.abs(values) > 1.2e-38))]
    after = before_standardize(steps, values, np)
    np.testing.assert_array_equal(buckets(found, values, np), reference(boundaries, after))
    same(buckets(found, tf.constant(values), tf), buckets(found, values, np))


def test_a_boundary_that_no_value_reaches():
    steps = [ClipConfig(clip=(0, 5))]
    found = thresholds(steps, [3, 6])
    assert found[0] == 3 and np.isnan(found[1])
    assert buckets(found, np.float32([2, 3, 100, np.nan]), np).tolist() == [0, 1, 1, 3]
    assert buckets(found, tf.constant([2.0, 3, 100, np.nan]), tf).numpy().tolist() == [0, 1, 1, 3]


def test_below_minus_one_a_logarithm_has_the_lowest_bucket():
    found = thresholds(["log1p"], [0.5])
    assert buckets(found, np.float32([-5, -1, 0, 1, np.nan]), np).tolist() == [0, 0, 0, 1, 2]
