"""Findings about evaluations of ranking models: averages, baselines, calibration.

As trainer/report/findings.py, with lines of one evaluation by task and scorer.
"""

from collections.abc import Sequence

from trainer.report.facts import grouped
from trainer.report.findings import LOWER_IS_BETTER, figure_of

WORSE_LOSS = 0.002
"""Relative rise of the log-loss or RMSE of averaged over raw weights from which it is reported."""
OFF = 0.05
"""Distance of the calibration from 1 from which it is reported, if its interval excludes 1."""
_BASELINES = {"constant": "the mean label of train", "item_rate": "the rate of each item in train"}


def prediction_findings(lines: Sequence[dict]) -> list[str]:
    """Findings about one evaluation.

    Args:
      lines: one dict per task and scorer (trainer/evaluation/pointwise/evaluator.py).
    """
    found = []
    for task, own in grouped(lines, lambda line: line["task"]).items():
        texts = (_worse_average(own), _no_better_than_baselines(own), _badly_calibrated(own))
        found += [f"Task {task}: {text}" for text in texts if text]
    return found


def _metric(lines: Sequence[dict]) -> str:
    return next(name for name in LOWER_IS_BETTER if name in lines[0])


def _worse_average(lines: Sequence[dict]) -> str | None:
    metric = _metric(lines)
    average, raw = (figure_of(lines, "model", weights, metric) for weights in ("average", "raw"))
    if average is None or raw is None or average <= raw * (1 + WORSE_LOSS):
        return None
    return (
        f"the averaged weights are worse than the raw weights ({metric} {average:.4f} against {raw:.4f}): "
        "the averaging window is too long for this run. Remove polyak.decay and polyak.start_fraction, or "
        "lower polyak.horizon_fraction, and train again; or serve the raw weights (export.weights: raw)."
    )


def _no_better_than_baselines(lines: Sequence[dict]) -> str | None:
    metric = _metric(lines)
    model = figure_of(lines, "model", None, metric)
    known = {name: figure_of(lines, name, None, metric) for name in _BASELINES}
    if model is None:
        return None
    better = {name: value for name, value in known.items() if value is not None and value <= model}
    if not better:
        return None
    name = min(better, key=better.__getitem__)
    return (
        f"the model is no better than {_BASELINES[name]} ({metric} {model:.4f} against {better[name]:.4f}). "
        "Check what the label means; the loss curve (a loss of valid that rises while that of train falls "
        "calls for fewer epochs, lower learning rates, or a larger min_count of dataset.feature_ids); the "
        "learning rates and train.num_epochs (the model may not have learned enough); and polyak (it may "
        "average early weights)."
    )


def _badly_calibrated(lines: Sequence[dict]) -> str | None:
    line = next((line for line in lines if line.get("scorer") == "model"), None)
    ratio = line.get("calibration") if line else None
    if line is None or ratio is None or abs(ratio - 1) <= OFF:
        return None
    limits = (line.get("intervals") or {}).get("calibration")
    if limits is not None and limits[0] <= 1 <= limits[1]:
        return None
    side = "above" if ratio > 1 else "below"
    reach = f" (interval {limits[0]:.3f} to {limits[1]:.3f})" if limits is not None else ""
    return (
        f"predictions are {side} the labels by {abs(ratio - 1):.1%} in sum{reach}. Compare the rate of "
        "positive rows in train and in this split (it may have changed over time); train longer or with "
        "lower learning rates; and see the calibration by decile and the worst calibrated slices in the "
        "report."
    )
