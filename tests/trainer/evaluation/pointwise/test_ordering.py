"""Exact metrics of the order, deciles, curves, and their bootstrap samples."""

import numpy as np
import pytest

from tests.support.naive_metrics import (
    clicks,
    naive_auc,
    naive_average_precision,
    sorted_auc,
    sorted_average_precision,
)
from trainer.evaluation.pointwise.ordering import Ordering, SlotOrders
from trainer.evaluation.pointwise.resampling import BLOCKS, blocks_of, sample_weights
from trainer.evaluation.pointwise.sorted_sums import Spill


def order(labels, predictions, weights, budget: int = 1 << 26, size: int = 1000, slots=None) -> dict:
    """Orderings by slot of rows that come `size` at a time."""
    number = len(labels)
    slots = np.zeros(number, np.int64) if slots is None else slots
    blocks = blocks_of(0, np.arange(number))
    with Spill(budget, 1) as spill:
        orders = SlotOrders("bce", spill)
        for start in range(0, number, size):
            part = slice(start, start + size)
            orders.add(slots[part], blocks[part], labels[part], predictions[part], weights[part])
        pos, neg = np.bincount(slots, weights * labels), np.bincount(slots, weights * (1 - labels))
        return dict(orders.orderings(pos, neg))


@pytest.mark.parametrize("ties", [None, 1, 2, 7, 100])
@pytest.mark.parametrize("budget", [1, 5000, 1 << 26])
def test_areas_equal_the_naive_ones(ties, budget):
    labels, predictions, weights = clicks(600, seed=ties or 0, ties=ties)
    found = order(labels, predictions, weights, budget, 70)[0].exact
    assert found["auc"] == pytest.approx(naive_auc(labels, predictions, weights), abs=1e-12)
    expected = naive_average_precision(labels, predictions, weights)
    assert found["pr_auc"] == pytest.approx(expected, abs=1e-12)


def test_a_constant_has_half_the_area():
    labels, predictions, weights = clicks(500)
    found = order(labels, np.full_like(predictions, 0.3), weights)[0]
    assert found.exact["auc"] == pytest.approx(0.5, abs=1e-12)
    assert found.exact["pr_auc"] == pytest.approx(np.average(labels, weights=weights), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("ties", [None, 1000])
def test_three_million_rows(ties):
    labels, predictions, weights = clicks(3_000_000, ties=ties)
    found = order(labels, predictions, weights, 16 << 20, 1 << 16)[0].exact
    assert found["auc"] == pytest.approx(sorted_auc(labels, predictions, weights), abs=1e-9)
    expected = sorted_average_precision(labels, predictions, weights)
    assert found["pr_auc"] == pytest.approx(expected, abs=1e-9)


def test_slots_are_separate():
    labels, predictions, weights = clicks(900, ties=30)
    slots = np.random.default_rng(3).integers(4, size=900) * 2
    found = order(labels, predictions, weights, 2000, 50, slots)
    assert list(found) == [0, 2, 4, 6]
    for slot, ordering in found.items():
        mine = slots == slot
        expected = naive_auc(labels[mine], predictions[mine], weights[mine])
        assert ordering.exact["auc"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [None, 1, 3, 40])
def test_deciles_have_a_tenth_of_the_weight_each(ties):
    labels, predictions, weights = clicks(1234, ties=ties)
    sums = order(labels, predictions, weights, 3000, 100)[0].deciles.sum(axis=1)
    tenth = weights.sum() / 10
    np.testing.assert_allclose(sums[:, 0] + sums[:, 1], tenth, rtol=1e-9)
    # Rows with equal predictions are divided in proportion.
    place = np.argsort(predictions, kind="stable")
    mean = {value: np.average(labels[predictions == value], weights=weights[predictions == value])
            for value in np.unique(predictions)}  # fmt: skip
    ends = np.concatenate([[0], np.cumsum(weights[place])])
    expected = np.interp(
        tenth * np.arange(11),
        ends,
        np.concatenate([[0], np.cumsum(weights[place] * [mean[p] for p in predictions[place]])]),
    )
    np.testing.assert_allclose(sums[:, 0], np.diff(expected), rtol=1e-9)
    predicted = np.concatenate([[0], np.cumsum(weights[place] * predictions[place].astype(float))])
    np.testing.assert_allclose(sums[:, 2], np.diff(np.interp(tenth * np.arange(11), ends, predicted)), 1e-9)


def test_samples_vary_as_those_of_all_rows_do():
    labels, predictions, weights = clicks(3000)
    found, blocks = order(labels, predictions, weights)[0], blocks_of(0, np.arange(3000))
    drawn = sample_weights(5, 20)
    samples = found.sampled(drawn)
    for sample, of_blocks in enumerate(drawn):
        w = weights * of_blocks[blocks]
        # Bins hold three rows here; the order within a bin is what samples do not know.
        assert samples["auc"][sample] == pytest.approx(sorted_auc(labels, predictions, w), abs=5e-4)
        exact = sorted_average_precision(labels, predictions, w)
        assert samples["pr_auc"][sample] == pytest.approx(exact, abs=6e-3)
    same = found.sampled(np.ones((1, BLOCKS)))
    assert same["auc"] == pytest.approx(found.exact["auc"], abs=1e-12)


def test_the_roc_curve_has_the_area():
    labels, predictions, weights = clicks(5000)
    found = order(labels, predictions, weights)[0]
    x, y = found.roc
    assert (x[0], y[0]) == (0, 0) and x[-1] == pytest.approx(1) and y[-1] == pytest.approx(1)
    assert np.trapezoid(y, x) == pytest.approx(found.exact["auc"], abs=1e-3)


def test_one_label_has_no_curve_and_no_area():
    labels, predictions, weights = clicks(100)
    found: Ordering = order(0 * labels, predictions, weights)[0]
    assert found.roc is None and np.isnan(found.exact["auc"]) and np.isnan(found.exact["pr_auc"])
    assert np.isnan(found.sampled(sample_weights(0, 3))["auc"]).all()
    found = order(0 * labels + 1, predictions, weights)[0]
    assert np.isnan(found.exact["auc"]) and found.exact["pr_auc"] == pytest.approx(1)
