"""Figures of one scorer for one task."""

import json

import numpy as np
import pytest

from configs.sections.evaluation import EvaluateConfig
from tests.support.naive_metrics import clicks, naive_auc, naive_grouped_auc
from trainer.evaluation.pointwise.figures import NO_GROUPS, Bootstrap, PredictionFigures, TaskRows
from trainer.evaluation.pointwise.resampling import blocks_of
from trainer.evaluation.pointwise.sorted_sums import Spill


def results(
    labels, predictions, weights, loss="bce", groups=None, slots=None, size=1000, units=None, **options
) -> dict:
    """Figures by slot of rows that come `size` at a time."""
    number = len(labels)
    slots = np.zeros(number, np.int64) if slots is None else slots
    units = np.arange(number) if units is None else units
    rows = TaskRows(labels, weights, blocks_of(0, units), groups)
    with Spill(1 << 20, 4) as spill:
        figures = PredictionFigures(loss, int(slots.max(initial=0)) + 1, spill, groups is not None, 0)
        for start in range(0, number, size):
            part = np.arange(start, min(start + size, number))
            figures.add(rows.take(part), slots[part], predictions[part])
        return dict(figures.results(Bootstrap(EvaluateConfig(bootstrap=200, **options))))


def test_metrics_and_intervals():
    labels, predictions, weights = clicks(2000, ties=50)
    groups = np.random.default_rng(0).integers(300, size=2000)
    found = results(labels, predictions, weights, groups=groups)[0]
    assert found["auc"] == pytest.approx(naive_auc(labels, predictions, weights), abs=1e-9)
    expected, without = naive_grouped_auc(groups, labels, predictions, weights)
    assert found["grouped_auc"] == pytest.approx(expected, abs=1e-9)
    assert (found["groups"], found["one_class_groups"], found["rows"]) == (
        len(np.unique(groups)),
        without,
        2000,
    )
    assert found["base_rate"] == pytest.approx(np.average(labels, weights=weights))
    assert list(found["intervals"]) == [
        *("auc", "pr_auc", "log_loss", "normalised_entropy", "calibration", "grouped_auc")
    ]
    for name, (low, high) in found["intervals"].items():
        assert low < found[name] < high and high - low < 0.5
    assert found["undefined"] == {}
    json.dumps(found, allow_nan=False)


def test_neither_order_nor_batches_change_figures():
    labels, predictions, weights = clicks(1000, ties=30)
    place, units = np.random.default_rng(1).permutation(1000), np.arange(1000)
    found = results(labels, predictions, weights, units=units)[0]
    other = results(labels[place], predictions[place], weights[place], units=units[place], size=37)[0]
    for name in found["intervals"]:
        assert found[name] == pytest.approx(other[name], abs=1e-12)
        assert found["intervals"][name] == pytest.approx(other["intervals"][name], abs=1e-9)
    for one, two in zip(found["deciles"], other["deciles"], strict=True):
        assert one.pop("interval") == pytest.approx(two.pop("interval"), abs=1e-9)
        assert one == pytest.approx(two, abs=1e-9)


def test_one_label_leaves_areas_undefined_and_says_so():
    labels, predictions, weights = clicks(100)
    found = results(0 * labels, predictions, weights, groups=np.zeros(100, np.int64))[0]
    assert found["auc"] is None and found["pr_auc"] is None and found["calibration"] is None
    assert found["grouped_auc"] is None and found["log_loss"] > 0 and found["roc"] is None
    assert found["undefined"] == {
        "auc": "all rows have the same label",
        "pr_auc": "no row is positive",
        "normalised_entropy": "all rows have the same label",
        "calibration": "no row is positive",
        "grouped_auc": NO_GROUPS,
    }
    assert found["intervals"]["auc"] is None
    json.dumps(found, allow_nan=False)


def test_few_rows_have_no_interval_and_no_samples_none_at_all():
    labels, predictions, weights = np.array([0.0, 1, 0, 1]), np.float32([0.1, 0.2, 0.3, 0.4]), np.ones(4)
    found = results(labels, predictions, weights)[0]
    assert found["auc"] == 0.75 and set(found["intervals"].values()) == {None}
    labels, predictions, weights = clicks(100)
    with Spill(1 << 20, 4) as spill:
        figures = PredictionFigures("bce", 1, spill, False, 0)
        rows = TaskRows(labels, weights, blocks_of(0, np.arange(100)), None)
        figures.add(rows, np.zeros(100, np.int64), predictions)
        [(_, found)] = figures.results(Bootstrap(EvaluateConfig(bootstrap=0)))
    assert found["auc"] is not None and set(found["intervals"].values()) == {None}


def test_numbers_have_errors_instead_of_areas():
    draw = np.random.default_rng(0)
    labels = draw.normal(5, 2, 400)
    found = results(labels, labels.astype(np.float32) + 1, np.ones(400), "mse")[0]
    assert found["rmse"] == pytest.approx(1, abs=1e-6) and found["mae"] == pytest.approx(1, abs=1e-6)
    assert found["r2"] == pytest.approx(1 - 1 / labels.var(), abs=1e-6)
    assert "auc" not in found and "deciles" not in found


def test_deciles_add_up_to_all_rows():
    labels, predictions, weights = clicks(3000)
    deciles = results(labels, predictions, weights)[0]["deciles"]
    assert [one["decile"] for one in deciles] == list(range(1, 11))
    np.testing.assert_allclose([one["weight"] for one in deciles], weights.sum() / 10)
    mean = np.mean([one["mean_prediction"] for one in deciles])
    assert mean == pytest.approx(np.average(predictions.astype(float), weights=weights))
    assert np.mean([one["mean_label"] for one in deciles]) == pytest.approx(
        np.average(labels, weights=weights)
    )
    for one in deciles:
        low, high = one["interval"]
        assert low < one["calibration"] < high


def test_labels_between_0_and_1_count_in_part():
    """A row with label 0.25 is a quarter of a positive row and three quarters of a negative one."""
    labels, predictions, weights = clicks(300, ties=20)
    soft = np.random.default_rng(0).integers(5, size=300) / 4
    found = results(soft, predictions, weights)[0]
    both = np.concatenate([predictions, predictions])
    expected = naive_auc(
        np.repeat([1.0, 0], 300), both, np.concatenate([weights * soft, weights * (1 - soft)])
    )
    assert found["auc"] == pytest.approx(expected, abs=1e-9)
