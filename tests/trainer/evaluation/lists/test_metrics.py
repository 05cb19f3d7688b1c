"""Metrics of lists equal RecBole's definitions, written here as loops over their formulas."""

import collections
import math

import numpy as np
import pytest

from trainer.evaluation.lists.metrics import OF_EXPOSURE, gini, list_means, novelty, popularity

pytestmark = pytest.mark.any_python

ITEMS = 23


def lists_of(seed: int, users: int = 40, wide: int = 7) -> list[list[int]]:
    """Distinct items, few of them popular, of any length up to `wide`; some lists are empty or equal."""
    draw = np.random.default_rng(seed)
    chances = 1 / np.arange(1, ITEMS + 1)
    found = [
        draw.choice(ITEMS, size=draw.integers(wide + 1), replace=False, p=chances / chances.sum()).tolist()
        for _ in range(users)
    ]
    return [*found, [], found[0], found[0]]


def padded(lists: list[list[int]], wide: int) -> np.ndarray:
    return np.array([[*one, *[-1] * (wide - len(one))] for one in lists], np.int64)


def recbole_coverage(lists, items: int) -> float:
    return len({item for one in lists for item in one}) / items


def recbole_gini(lists, items: int) -> float:
    """GiniIndex.get_gini, whose sum is over the recommended items; the others add nothing."""
    count = collections.Counter(item for one in lists for item in one)
    rising = sorted(count.values())
    places = range(items - len(rising) + 1, items + 1)
    total = sum((2 * place - items - 1) * number for place, number in zip(places, rising, strict=True))
    return total / sum(rising) / items


@pytest.mark.parametrize("k", [1, 3, 7, 50])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_exposure_equal_the_definitions(seed, k):
    lists = [one[:k] for one in lists_of(seed)]
    counts = np.bincount([item for one in lists for item in one], minlength=ITEMS)
    assert OF_EXPOSURE["coverage"](counts) == pytest.approx(recbole_coverage(lists, ITEMS), abs=1e-12)
    assert OF_EXPOSURE["gini"](counts) == pytest.approx(recbole_gini(lists, ITEMS), abs=1e-12)


def test_gini_at_its_ends():
    assert gini(np.full(9, 4)) == pytest.approx(0, abs=1e-15)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert math.isnan(gini(np.zeros(5, np.int64)))


@pytest.mark.parametrize("seed", range(3))
def test_means_of_lists_equal_loops(seed):
    lists, draw = lists_of(seed), np.random.default_rng(seed)
    counts = draw.integers(1, 100, ITEMS)
    for values, of_item in (
        (popularity(counts), lambda item: counts[item]),
        (novelty(counts), lambda item: -math.log2(counts[item] / sum(counts))),
    ):
        found = list_means(padded(lists, 7), values, [1, 3, 7, 50])
        for k, column in found.items():
            for one, value in zip(lists, column, strict=True):
                if not one:
                    assert math.isnan(value)
                else:
                    mean = sum(of_item(item) for item in one[:k]) / len(one[:k])
                    assert value == pytest.approx(mean, abs=1e-9)


def test_lists_without_columns_have_no_mean():
    assert np.isnan(list_means(np.zeros((3, 0), np.int64), np.ones(4), [10])[10]).all()
