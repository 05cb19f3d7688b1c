"""Distributions do not depend on how rows are divided, and are exact where they promise it."""

import collections

import numpy as np
import pytest

from pipelines.statistics.distributions import (
    KEYS,
    LIMIT,
    BaseBins,
    IdHistogram,
    Spreads,
    distribution,
    merged_histograms,
    on_base,
)

pytestmark = pytest.mark.any_python


def merged(parts: list[Spreads]):
    """(histograms by column, counts) of all parts."""
    histograms, counts = {}, collections.Counter()
    for part in parts:
        counts.update(part.counts)
        for name, histogram in part.histograms.items():
            if name not in histograms:
                histograms[name] = type(histogram)(histogram.limit)
            histograms[name].merge(histogram)
    return merged_histograms(histograms), counts


def of_ids(ids, first_oov, parts=3, base=None, strange=()):
    spreads = []
    for piece in np.array_split(ids, parts):
        spreads.append(Spreads(base or {}))
        spreads[-1].add_ids(
            "genre", piece, np.ones(len(piece), np.int64), 2, first_oov, np.isin(piece, strange)
        )
    return merged(spreads)


def test_frequent_keys_are_counted_on_their_own():
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, 5000), 900) - 1
    histograms, counts = of_ids(ids, 850)
    found = distribution(histograms["genre"], "genre", counts, by_key=True)
    real = collections.Counter(ids[ids < 850].tolist())
    best = sorted(real, key=lambda i: (-real[i], i))[:KEYS]
    assert found.keys == best
    assert found.counts == [*(real[i] for i in best), sum(real.values()) - sum(real[i] for i in best)]
    assert (found.values, found.empty, found.unknown) == (5006, 6, int((ids >= 850).sum()))


def test_ranges_hold_about_equally_many_values():
    values = np.random.default_rng(1).normal(size=3000).astype(np.float32)
    known = np.arange(3000) % 10 != 0
    spread = Spreads({})
    spread.add_numbers("age", values, known)
    histograms, counts = merged([spread])
    found = distribution(histograms["age"], "age", counts, by_key=False)
    ordered = np.sort(values[known])
    assert found.boundaries == [float(v) for v in ordered[len(ordered) * np.arange(1, 10) // 10]]
    assert found.counts == [270] * 10 and found.empty == 300 and found.values == 3000


def test_the_division_into_parts_does_not_matter():
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 10 * LIMIT, 60_000)
    found = [
        distribution(of_ids(ids, 10**9, parts)[0]["genre"], "genre", {}, by_key)
        for by_key in (True, False)
        for parts in (1, 7)
    ]
    assert found[0] == found[1] and found[2] == found[3]
    assert len(found[2].counts) == 10 and max(found[2].counts) < 1.1 * min(found[2].counts)


def test_keys_with_small_ids_stay_apart_beyond_the_limit():
    ids = np.r_[np.repeat(np.arange(30), 500), np.arange(100, 20 * LIMIT)]
    histogram = IdHistogram()
    histogram.add_times(ids, np.ones(len(ids), np.int64))
    found = distribution(histogram, "genre", {}, by_key=True)
    assert found.keys == list(range(KEYS)) and found.counts[:KEYS] == [500] * KEYS


def test_large_ids_are_counted_like_small_ones():
    ids = np.array([2**40, 5, 2**40, 2**33 + 1, 2**33])
    histogram = IdHistogram()
    histogram.add_times(ids, np.array([1, 1, 3, 2, 1]))
    found = distribution(histogram, "genre", {}, by_key=True)
    assert found.keys == [2**40, 2**33 + 1, 5, 2**33] and found.counts == [4, 2, 1, 1, 0]


def test_counts_on_the_bins_of_a_base_are_exact():
    rng = np.random.default_rng(4)
    values = rng.normal(size=2000).astype(np.float32)
    limits = np.float32([-1, 0, 0.5])
    spread = Spreads({"age": BaseBins(limits, None)})
    spread.add_numbers("age", values, values < 2)
    places = np.digitize(values[values < 2], limits)
    found = on_base("age", spread.counts, 4)
    assert found == (np.bincount(places, minlength=4).tolist(), 0, int((values >= 2).sum()))


def test_keys_of_a_base_are_counted_by_their_new_ids():
    ids = np.array([4, 4, 1, 0, 9, 9, 9, 3, 2])
    base = {"genre": BaseBins(None, np.array([4, -1, 0]))}
    _, counts = of_ids(ids, first_oov=9, base=base, strange=[3])
    assert on_base("genre", counts, 4) == ([2, 0, 1, 2], 4, 6)
    assert counts["unknown/genre"] == 3
