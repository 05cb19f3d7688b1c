"""The grouped AUC."""

import numpy as np
import pytest

from tests.support.naive_metrics import clicks, naive_grouped_auc
from trainer.evaluation.pointwise.groups import GroupedAuc
from trainer.evaluation.pointwise.sorted_sums import Spill


def grouped(groups, labels, predictions, weights, budget: int) -> tuple[float, GroupedAuc]:
    with Spill(budget, 1) as spill:
        found = GroupedAuc(spill, 0)
        for start in range(0, len(groups), 90):
            part = slice(start, start + 90)
            found.add(groups[part], labels[part], predictions[part], weights[part])
        areas, weight = found.blocks().sum(axis=0)
    return areas / weight if weight else np.nan, found


@pytest.mark.parametrize("budget", [1, 4000, 1 << 26])
@pytest.mark.parametrize("number", [1, 3, 200, 900])
@pytest.mark.parametrize("ties", [None, 5])
def test_it_equals_the_naive_mean_over_groups(budget, number, ties):
    labels, predictions, weights = clicks(1000, seed=number, ties=ties)
    groups = np.random.default_rng(number).integers(number, size=1000) * 1_000_003
    value, found = grouped(groups, labels, predictions, weights, budget)
    expected, without = naive_grouped_auc(groups, labels, predictions, weights)
    assert value == pytest.approx(expected, abs=1e-12)
    assert (found.groups, found.one_class_groups) == (len(np.unique(groups)), without)


def test_groups_of_one_label_only_have_none():
    labels, predictions, weights = clicks(100)
    value, found = grouped(labels.astype(np.int64), labels, predictions, weights, 1 << 20)
    assert np.isnan(value) and (found.groups, found.one_class_groups) == (2, 2)


def test_groups_up_to_two_to_the_32():
    labels, predictions, weights = clicks(300)
    groups = 2**32 - 1 - np.random.default_rng(0).integers(9, size=300)
    value, _ = grouped(groups, labels, predictions, weights, 1)
    expected = naive_grouped_auc(groups, labels, predictions, weights)[0]
    assert value == pytest.approx(expected, abs=1e-12)
