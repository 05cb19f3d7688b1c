"""Formulas of the metrics of predictions, all of rows with a weight w, a label y and a prediction p.

Metrics of sums are functions of weighted sums over rows, so parts of the rows can be added in any order:
  log_loss            sum w l / sum w, with l = -(y log p + (1 - y) log(1 - p)); p is cut to
                      [2^-52, 1 - 2^-52], as sklearn.metrics.log_loss does
  normalised_entropy  log_loss / -(q log q + (1 - q) log(1 - q)), with q = sum w y / sum w: below 1 is better
                      than always predicting the rows' own rate (He et al. 2014, Practical Lessons from
                      Predicting Clicks on Ads at Facebook, eq. 1)
  calibration         sum w p / sum w y: above 1 predicts too much (the same paper, section 3)
  rmse, mae, r2       root of sum w (y - p)^2 / sum w; sum w |y - p| / sum w; 1 - sum w (y - p)^2 /
                      sum w (y - mean y)^2
Metrics of the order are sums over distinct predictions, from the highest down. With the weight of positives
w y and of negatives w (1 - y) at this prediction (pos, neg), above it (tp, fp), and in all (P, N):
  auc                 sum neg (tp + pos / 2) / (P N): the probability that a positive row is predicted higher
                      than a negative one, where equal predictions count one half (Fawcett 2006, An
                      introduction to ROC analysis)
  pr_auc              sum pos / P * (tp + pos) / (tp + pos + fp + neg): average precision, as
                      sklearn.metrics.average_precision_score
trainer/evaluation/pointwise/groups.py has the grouped AUC.

To add a metric, write its function and enter it in OF_SUMS (with its term in TERMS, if it is a new one) or in
OF_ORDER.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Sums = Mapping[str, np.ndarray]
"""Weighted sums by term: float64 of any shape, that of the result."""
_CUT = 2.0**-52


class SumMetric(NamedTuple):
    """A metric of sums."""

    value: Callable[[Sums], np.ndarray]
    """From sums by term; NaN or infinite where the metric is undefined."""
    undefined: str
    """What it means if it is."""


class Ranked(NamedTuple):
    """Distinct predictions from the highest down; float64 [groups, ...] each, totals [...]."""

    pos: np.ndarray
    """Weight of the positives with this prediction."""
    neg: np.ndarray
    """Weight of the negatives."""
    tp: np.ndarray
    """Weight of the positives with a higher prediction."""
    fp: np.ndarray
    """Weight of the negatives."""
    all_pos: np.ndarray
    """Weight of all positives."""
    all_neg: np.ndarray
    """Weight of all negatives."""


class OrderMetric(NamedTuple):
    """A metric of the order."""

    terms: Callable[[Ranked], np.ndarray]
    """What each distinct prediction adds to the metric, float64 [groups, ...]."""
    undefined: str
    """As in SumMetric."""


def cross_entropy(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The log-loss of each row, float64."""
    cut = np.clip(prediction, _CUT, 1 - _CUT)
    return -(label * np.log(cut) + (1 - label) * np.log1p(-cut))


def normalised_entropy(sums: Sums) -> np.ndarray:
    """As at the top of this module."""
    rate = sums["label"] / sums["weight"]
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return sums["log_loss"] / sums["weight"] / entropy


def r2(sums: Sums) -> np.ndarray:
    """As at the top of this module."""
    spread = sums["label_square"] - sums["label"] ** 2 / sums["weight"]
    # What is left by rounding is no spread.
    spread = np.where(spread > 1e-12 * sums["label_square"], spread, 0.0)
    return 1 - sums["square"] / spread


def area(ranked: Ranked) -> np.ndarray:
    """Terms of the AUC."""
    return ranked.neg * (ranked.tp + ranked.pos / 2) / (ranked.all_pos * ranked.all_neg)


def precision(ranked: Ranked) -> np.ndarray:
    """Terms of the average precision."""
    found = ranked.tp + ranked.pos
    predicted = found + ranked.fp + ranked.neg
    return ranked.pos / ranked.all_pos * found / np.where(predicted > 0, predicted, 1)


def _one(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return np.ones_like(label)


# What is summed over rows, times their weights, by the loss of the task: functions of label and prediction.
_ALWAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "weight": _one,
    "label": lambda label, prediction: label,
    "prediction": lambda label, prediction: prediction,
}
TERMS = {
    "bce": _ALWAYS | {"log_loss": cross_entropy},
    "mse": _ALWAYS
    | {
        "square": lambda label, prediction: (label - prediction) ** 2,
        "distance": lambda label, prediction: np.abs(label - prediction),
        "label_square": lambda label, prediction: label**2,
    },
}
_NO_WEIGHT = "no row has a weight above 0"
OF_SUMS = {
    "bce": {
        "log_loss": SumMetric(lambda sums: sums["log_loss"] / sums["weight"], _NO_WEIGHT),
        "normalised_entropy": SumMetric(normalised_entropy, "all rows have the same label"),
        "calibration": SumMetric(lambda sums: sums["prediction"] / sums["label"], "no row is positive"),
    },
    "mse": {
        "rmse": SumMetric(lambda sums: np.sqrt(sums["square"] / sums["weight"]), _NO_WEIGHT),
        "mae": SumMetric(lambda sums: sums["distance"] / sums["weight"], _NO_WEIGHT),
        "r2": SumMetric(r2, "all rows have the same label"),
    },
}
OF_ORDER: dict[str, dict[str, OrderMetric]] = {
    "bce": {
        "auc": OrderMetric(area, "all rows have the same label"),
        "pr_auc": OrderMetric(precision, "no row is positive"),
    },
    "mse": {},
}


def of_sums(loss: str, sums: Sums) -> dict[str, np.ndarray]:
    """All metrics of sums, by name, of the shape of the sums; NaN where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {name: metric.value(sums) for name, metric in OF_SUMS[loss].items()}
    return {name: np.where(np.isfinite(value), value, np.nan) for name, value in values.items()}


def of_order(loss: str, ranked: Ranked) -> dict[str, np.ndarray]:
    """Sums over `ranked` of all metrics of the order, by name; NaN where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: metric.terms(ranked).sum(axis=0) for name, metric in OF_ORDER[loss].items()}
