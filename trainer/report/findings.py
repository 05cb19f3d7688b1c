"""Findings for the log and the report: what the metrics say about averages, popularity and learning rates.

Input is lines of metrics.jsonl, output plain sentences. Each says what was observed, with its figures, and
what to do. A healthy run has no findings.
"""

from collections.abc import Sequence

WORSE = 0.02
"""Relative loss of the average against the raw weights from which it is reported."""
ABOVE_POPULARITY = 1.02
"""Multiple of popularity that a model must exceed; a smaller gain could come from a handful of users."""
LOWER_IS_BETTER = ("log_loss", "rmse")
"""The main metrics of ranking models."""
_PART = 0.1  # share of the steps that the final loss is averaged over
_START_PART = 0.02  # share of the steps by which the first loss must have been recorded
_BARELY = 0.01  # share of the first loss
_GIVEN_BACK = 0.25  # share of the decrease of the loss that was lost again


def main_metric(line: dict) -> str | None:
    """The metric for comparing scorers: Recall, or else HR, at its last cut-off; of ranking models the
    log-loss or RMSE, where lower is better. None without any."""
    for kind in ("recall@", "hr@"):
        if names := [name for name in line if name.startswith(kind)]:
            return names[-1]
    return next((name for name in LOWER_IS_BETTER if name in line), None)


def figure_of(lines: Sequence[dict], scorer: str, weights: str | None, metric: str) -> float | None:
    """A metric of the first line of a scorer with these weights (None: any); None: there is no such line."""
    found = [
        line.get(metric)
        for line in lines
        if line.get("scorer", "model") == scorer and weights in (None, line.get("weights"))
    ]
    return found[0] if found else None


def compared_weights(lines: Sequence[dict]) -> str | None:
    """One evaluation's metric with averaged and with raw weights, as a line for the log.

    Args:
      lines: of one evaluation, one dict per scorer.

    Returns:
      The line, or None unless both were evaluated.
    """
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    average, raw = (figure_of(lines, "model", weights, metric) for weights in ("average", "raw"))
    if average is None or raw is None:
        return None
    return f"{lines[0].get('split', '')} {metric}: average {average:.4f}, raw weights {raw:.4f}".strip()


def evaluation_findings(lines: Sequence[dict]) -> list[str]:
    """Findings about one evaluation; `lines` as for `compared_weights`, of ranking models also of several
    tasks."""
    if lines and "task" in lines[0]:
        from trainer.report.prediction_findings import prediction_findings

        return prediction_findings(lines)
    return [text for text in (_worse_average(lines), _no_better_than_popularity(lines)) if text]


def _worse_average(lines: Sequence[dict]) -> str | None:
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    average, raw = (figure_of(lines, "model", weights, metric) for weights in ("average", "raw"))
    if average is None or raw is None or average >= raw * (1 - WORSE):
        return None
    return (
        f"The averaged weights are worse than the raw weights ({metric} {average:.4f} against {raw:.4f}): "
        "the averaging window is too long for this run. Remove polyak.decay and polyak.start_fraction, or "
        "lower polyak.horizon_fraction, and train again; or serve the raw weights (export.weights: raw)."
    )


def _no_better_than_popularity(lines: Sequence[dict]) -> str | None:
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    model = figure_of(lines, "model", None, metric)
    popularity = figure_of(lines, "popularity", None, metric)
    if model is None or popularity is None or model > popularity * ABOVE_POPULARITY:
        return None
    raw = figure_of(lines, "model", "raw", metric)
    first = ""
    if raw is not None and raw > popularity * ABOVE_POPULARITY:
        first = f" The raw weights are better ({raw:.4f}), so check polyak first."
    return (
        f"The model is no better than popularity ({metric} {model:.4f} against {popularity:.4f}).{first} "
        "Check what the labels mean and which rows are positive; the loss curve, the learning rates and "
        "train.num_epochs (the model may not have learned enough); polyak (it may average early weights); "
        "model.loss.temperature, model.normalize and model.item_bias, or model.negatives for dot_bias (use "
        "4 to rank all items); and the split (a model cannot distinguish users without earlier rows)."
    )


def loss_findings(train: Sequence[dict]) -> list[str]:
    """Findings about the loss of a whole run; none when there are too few points to judge.

    Args:
      train: the run's train lines, each with step and loss.
    """
    points = [(line["step"], line["loss"]) for line in train if line.get("loss") is not None]
    if len(points) < 3:
        return []
    first, last = points[0][0], points[-1][0]
    start = points[0][1]
    end = _mean([loss for step, loss in points if step > last - _PART * last])
    if first > max(_START_PART * last, 1):  # the start was not recorded
        return []
    lowest = min(_mean(window) for window in _windows([loss for _, loss in points[1:]]))
    barely = _BARELY * abs(start)
    if abs(start - end) < barely and start - lowest < 2 * barely:
        return [
            f"The loss barely changed, from {start:.4g} to {end:.4g}: the learning rates are far too low, or "
            "the run is too short for them. Raise tables.*.optimizer.learning_rate (0.005 suits lazy_adam), "
            "optimizer.learning_rate or train.num_epochs."
        ]
    if end >= start:
        return [f"The loss ended at {end:.4g}, no lower than its initial {start:.4g}: {_LOWER_RATES}"]
    if end - lowest > _GIVEN_BACK * (start - lowest):
        return [
            f"The loss rose from {lowest:.4g} to {end:.4g} at the end, after starting at {start:.4g}: "
            f"{_LOWER_RATES}"
        ]
    return []


_LOWER_RATES = (
    "the learning rates are far too high, or the labels cannot be learned. Lower "
    "tables.*.optimizer.learning_rate (0.005 suits lazy_adam) and optimizer.learning_rate."
)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _windows(losses: Sequence[float]) -> list[Sequence[float]]:
    """About twenty consecutive windows, so that one lucky batch does not count as the lowest loss."""
    size = max(1, len(losses) // 20)
    return [losses[i : i + size] for i in range(0, len(losses), size)]
