"""Tenths and ages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.segments.groups import age_groups, tenths

pytestmark = pytest.mark.any_python


def test_distinct_values_make_ten_groups_of_one_size():
    values = np.random.default_rng(0).permutation(100)
    groups, texts = tenths(values, np.ones(100))
    assert np.bincount(groups).tolist() == [10] * 10
    assert texts[0] == "0 to 9" and texts[9] == "90 to 99"
    assert (groups == values // 10).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=60))
def test_groups_follow_the_values_and_keep_equal_ones_together(pairs):
    values = np.array([value for value, _ in pairs], np.int64)
    weights = np.array([weight for _, weight in pairs], float)
    groups, texts = tenths(values, weights)
    order = np.argsort(values, kind="stable")
    assert (np.diff(groups[order]) >= 0).all()
    assert all(len(set(groups[values == value])) == 1 for value in set(values.tolist()))
    assert len(groups) == len(values) and groups.max(initial=0) <= max(len(texts) - 1, 0)
    for group, text in enumerate(texts if weights.sum() else []):
        low, high = values[groups == group].min(), values[groups == group].max()
        assert text == (str(low) if low == high else f"{low} to {high}")


def test_weights_decide_the_size():
    values, weights = np.arange(10), np.array([91.0] + [1.0] * 9)
    groups, _ = tenths(values, weights)
    assert (groups[1:] == groups[9]).all() and groups[0] == 0


def test_ages():
    days = np.array([0.0, 0.99, 1.0, 6.9, 7, 30, 89, 90, 364.9, 365, 4000])
    groups, texts = age_groups(days)
    assert [texts[group] for group in groups] == [
        *("less than 1 day", "less than 1 day", "1 to 7 days", "1 to 7 days", "7 to 30 days"),
        *("30 to 90 days", "30 to 90 days", "90 to 365 days", "90 to 365 days"),
        *("365 days or more", "365 days or more"),
    ]
