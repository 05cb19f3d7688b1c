"""The temporal histogram and its cuts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.statistics.histogram import TimeHistogram, cuts

SECONDS = st.lists(st.integers(0, 2**33), max_size=60)


def build(parts, order, limit) -> TimeHistogram:
    whole = TimeHistogram(limit)
    for i in order:
        part = TimeHistogram(limit)
        part.add(np.array(parts[i], np.int64))
        whole.merge(part)
    return whole


@settings(deadline=None, max_examples=150)
@given(st.lists(SECONDS, min_size=1, max_size=6), st.randoms(), st.sampled_from([4, 8, 1 << 20]))
def test_any_order_of_merging_gives_the_same(parts, random, limit):
    order = list(range(len(parts)))
    one = build(parts, order, limit)
    random.shuffle(order)
    other = build(parts, order, limit)
    at_once = build([sum(parts, [])], [0], limit)
    for histogram in (other, at_once):
        assert histogram.shift == one.shift
        for a, b in zip(histogram.items(), one.items(), strict=True):
            np.testing.assert_array_equal(a, b)
    starts, counts = one.items()
    assert counts.sum() == sum(map(len, parts))
    assert len(starts) <= limit
    if one.shift:  # half as wide would not have fitted
        seconds = np.array(sum(parts, []))
        assert len(np.unique(seconds >> (one.shift - 1))) > limit


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.floats(0, 0.5), st.floats(0.01, 0.49))
def test_cuts_are_nearest_and_keep_seconds_together(seconds, valid, test):
    histogram = TimeHistogram()
    histogram.add(np.array(seconds))
    first_valid, first_test = cuts(histogram, valid, test)
    assert first_valid <= first_test
    edges = [*sorted(set(seconds)), 10**9]
    for cut, fraction in ((first_test, test), (first_valid, valid + test)):
        missed = abs(sum(s >= cut for s in seconds) - fraction * len(seconds))
        best = min(abs(sum(s >= e for s in seconds) - fraction * len(seconds)) for e in edges)
        assert missed <= best + 1e-6


def test_nanoseconds_of_centuries_fold_into_the_limit():
    times = np.arange(5000, dtype=np.int64) * (2**63 // 5000)
    histogram = TimeHistogram(limit=64)
    histogram.add(times)
    starts, counts = histogram.items()
    assert 32 < len(starts) <= 64 and counts.sum() == 5000 and (np.diff(starts) > 0).all()
    first_valid, first_test = cuts(histogram, 0.1, 0.1)
    assert abs((times >= first_test).mean() - 0.1) < 0.02 and first_valid < first_test


def test_empty_histogram_has_no_rows():
    starts, counts = TimeHistogram().items()
    assert len(starts) == len(counts) == 0
