"""Formulas of sums and of the order."""

import numpy as np
import pytest

from tests.support.naive_metrics import clicks
from trainer.evaluation.pointwise.metrics import OF_ORDER, OF_SUMS, TERMS, Ranked, of_order, of_sums


def sums_of(loss: str, labels, predictions, weights) -> dict:
    exact = predictions.astype(float)
    return {term: (weights * value(labels, exact)).sum() for term, value in TERMS[loss].items()}


def test_log_loss_normalised_entropy_and_calibration():
    labels, predictions, weights = clicks(500)
    found = of_sums("bce", sums_of("bce", labels, predictions, weights))
    p, w = predictions.astype(float), weights / weights.sum()
    loss = -(w * np.where(labels == 1, np.log(p), np.log(1 - p))).sum()
    rate = (w * labels).sum()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert found["log_loss"] == pytest.approx(loss, rel=1e-12)
    assert found["normalised_entropy"] == pytest.approx(loss / entropy, rel=1e-12)
    assert found["calibration"] == pytest.approx((w * p).sum() / rate, rel=1e-12)


def test_a_certain_and_wrong_prediction_has_a_finite_loss():
    one = np.ones(1)
    loss = of_sums("bce", sums_of("bce", one, np.zeros(1, np.float32), one))["log_loss"]
    assert loss == pytest.approx(-np.log(2.0**-52))
    assert of_sums("bce", sums_of("bce", 0 * one, np.ones(1, np.float32), one))["log_loss"] == pytest.approx(
        loss
    )


def test_errors_of_numbers():
    draw = np.random.default_rng(1)
    labels, weights = draw.normal(40, 3, 300), draw.random(300)
    predictions = (labels + draw.normal(0, 2, 300)).astype(np.float32)
    found = of_sums("mse", sums_of("mse", labels, predictions, weights))
    error, mean = labels - predictions, np.average(labels, weights=weights)
    assert found["rmse"] == pytest.approx(np.sqrt(np.average(error**2, weights=weights)), rel=1e-9)
    assert found["mae"] == pytest.approx(np.average(np.abs(error), weights=weights), rel=1e-9)
    spread = np.average((labels - mean) ** 2, weights=weights)
    assert found["r2"] == pytest.approx(1 - np.average(error**2, weights=weights) / spread, rel=1e-9)


def test_rows_of_one_label_leave_ratios_undefined():
    labels, predictions, weights = clicks(50)
    none = of_sums("bce", sums_of("bce", 0 * labels, predictions, weights))
    assert np.isnan(none["normalised_entropy"]) and np.isnan(none["calibration"])
    assert np.isfinite(none["log_loss"])
    assert np.isnan(of_sums("mse", sums_of("mse", 0 * labels + 0.1, predictions, weights))["r2"])
    one, none = np.ones(1), np.zeros(1)
    negatives_only = Ranked(none, one, none, none, np.asarray(0.0), np.asarray(1.0))
    assert np.isnan(of_order("bce", negatives_only)["auc"])


def test_every_metric_says_why_it_may_be_undefined():
    for registry in (OF_SUMS, OF_ORDER):
        assert set(registry) == set(TERMS) == {"bce", "mse"}
        assert all(metric.undefined for metrics in registry.values() for metric in metrics.values())
