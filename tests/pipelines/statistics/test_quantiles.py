"""Quantiles: exact for few distinct numbers, within the stated error for many, in any order of parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.statistics.quantiles import LIMIT, NumberHistogram, boundaries, numbers, places


def histogram(*parts, limit=LIMIT) -> NumberHistogram:
    whole = NumberHistogram(limit)
    for part in parts:
        one = NumberHistogram(limit)
        one.add(np.float32(part))
        whole.merge(one)
    return whole


def test_places_keep_the_order_of_numbers():
    values = np.float32(
        [-np.inf, -3e38, -1.5, -1e-45, 0, 1e-45, 1, np.nextafter(np.float32(1), np.float32(2)), 3e38]
    )
    found = places(values)
    assert (np.diff(found) > 0).all() and found[7] - found[6] == 1
    assert places(np.float32([-0.0])) == places(np.float32([0.0]))
    np.testing.assert_array_equal(numbers(found), values)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.integers(2, 9),
)
@settings(max_examples=100, deadline=None)
def test_few_numbers_are_cut_exactly(values, parts):
    ordered = np.sort(np.float32(values) + np.float32(0))
    expected = {float(ordered[len(ordered) * i // parts]) for i in range(1, parts)} - {float(ordered[0])}
    assert boundaries(histogram(values[::2], values[1::2]), parts) == sorted(expected)


def test_equal_numbers_make_one_boundary():
    assert boundaries(histogram([1] * 97 + [2, 3, 4]), 10) == []
    assert boundaries(histogram([1] * 5 + [2] * 5), 10) == [2.0]
    assert boundaries(histogram(), 4) == []
    assert boundaries(histogram([7]), 4) == []


def test_the_order_of_parts_does_not_matter():
    values = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    cut = np.split(values, [100, 101, 2000, 4000])
    found = boundaries(histogram(*cut, limit=64), 10)
    assert (
        found
        == boundaries(histogram(*cut[::-1], limit=64), 10)
        == boundaries(histogram(values, limit=64), 10)
    )
    assert len(found) == 9


@pytest.mark.parametrize("spread", [0.5, 2])
def test_many_numbers_are_cut_within_the_stated_error(spread):
    values = np.exp(np.clip(np.random.default_rng(2).normal(0, spread, 400_000), -5.5, 5.5)).astype(
        np.float32
    )
    assert len(np.unique(values)) > 2 * LIMIT and values.max() < values.min() * 2**16
    exact = np.sort(values)[len(values) * np.arange(1, 100) // 100]
    found = np.array(boundaries(histogram(values), 100))
    assert ((found <= exact) & (found >= exact * (1 - 2.0**-12))).all() and (found != exact).any()
