"""What figures mean, in plain sentences for the log and the report: averages, popularity, learning rates.

Plain data in and out: lines as metrics.jsonl has them. A sentence says what was seen, with its numbers, and
what to do; a healthy run has none.
"""

from collections.abc import Sequence

WORSE = 0.02
"""Share by which the average must be worse than the raw weights to be worth a sentence."""
ABOVE_POPULARITY = 1.02
"""Times popularity that a model has to reach; what is less could be a handful of users."""
_PART = 0.1  # of the steps: what the loss ends with
_START_PART = 0.02  # of the steps: what it starts from
_BARELY = 0.01  # of the first loss
_GIVEN_BACK = 0.25  # of what the loss had fallen by


def main_metric(line: dict) -> str | None:
    """The metric that scorers are compared by: Recall, or HR where there is none, at its last cut-off."""
    for kind in ("recall@", "hr@"):
        if names := [name for name in line if name.startswith(kind)]:
            return names[-1]
    return None


def _figure(lines: Sequence[dict], scorer: str, weights: str | None, metric: str) -> float | None:
    found = [
        line.get(metric)
        for line in lines
        if line.get("scorer", "model") == scorer and weights in (None, line.get("weights"))
    ]
    return found[0] if found else None


def compared_weights(lines: Sequence[dict]) -> str | None:
    """Raw weights beside their average in one evaluation, with a word when the average is worse.

    Args:
      lines: of one evaluation, a dict per scorer.

    Returns:
      None unless both were evaluated.
    """
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    average, raw = (_figure(lines, "model", weights, metric) for weights in ("average", "raw"))
    if average is None or raw is None:
        return None
    return f"{lines[0].get('split', '')} {metric}: average {average:.4f}, raw weights {raw:.4f}".strip()


def evaluation_findings(lines: Sequence[dict]) -> list[str]:
    """Sentences about one evaluation; see `compared_weights` for the argument."""
    return [text for text in (_worse_average(lines), _no_better_than_popularity(lines)) if text]


def _worse_average(lines: Sequence[dict]) -> str | None:
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    average, raw = (_figure(lines, "model", weights, metric) for weights in ("average", "raw"))
    if average is None or raw is None or average >= raw * (1 - WORSE):
        return None
    return (
        f"The averaged weights are worse than the raw ones ({metric} {average:.4f} against {raw:.4f}): the "
        "average looks back too far for this run. Leave out polyak.decay and polyak.start_fraction, or lower "
        "polyak.horizon_fraction, and train again; or serve the raw weights with export.weights: raw."
    )


def _no_better_than_popularity(lines: Sequence[dict]) -> str | None:
    metric = main_metric(lines[0]) if lines else None
    if metric is None:
        return None
    model = _figure(lines, "model", None, metric)
    popularity = _figure(lines, "popularity", None, metric)
    if model is None or popularity is None or model > popularity * ABOVE_POPULARITY:
        return None
    raw = _figure(lines, "model", "raw", metric)
    first = ""
    if raw is not None and raw > popularity * ABOVE_POPULARITY:
        first = f" The raw weights are ({raw:.4f}), so look at polyak first."
    return (
        f"The model is no better than popularity ({metric} {model:.4f} against {popularity:.4f}).{first} "
        "Look at what the labels mean and which rows are positives; at the loss curve, learning rates and "
        "train.num_epochs (a model that has not learned yet); at polyak (an average of early weights); at "
        "model.loss.temperature, model.normalize and model.item_bias, or for dot_bias at model.negatives (4 "
        "suit a ranking of all items); and at the split: users without earlier rows cannot be told apart."
    )


def loss_findings(train: Sequence[dict]) -> list[str]:
    """Sentences about the loss of a whole run; none while it is too short to tell.

    Args:
      train: its train lines, each with step and loss.
    """
    points = [(line["step"], line["loss"]) for line in train if line.get("loss") is not None]
    if len(points) < 3:
        return []
    first, last = points[0][0], points[-1][0]
    start = points[0][1]
    end = _mean([loss for step, loss in points if step > last - _PART * last])
    if first > max(_START_PART * last, 1):  # the beginning was not recorded
        return []
    lowest = min(_mean(window) for window in _windows([loss for _, loss in points[1:]]))
    barely = _BARELY * abs(start)
    if abs(start - end) < barely and start - lowest < 2 * barely:
        return [
            f"The loss hardly moved, from {start:.4g} to {end:.4g}: the learning rates are far too low, or "
            "the run is too short for them. Raise tables.*.optimizer.learning_rate (0.005 suits lazy_adam), "
            "optimizer.learning_rate or train.num_epochs."
        ]
    if end >= start:
        return [f"The loss ended at {end:.4g}, no lower than the {start:.4g} it started from: {_LOWER_RATES}"]
    if end - lowest > _GIVEN_BACK * (start - lowest):
        return [
            f"The loss rose from {lowest:.4g} to {end:.4g} at the end, after a start at {start:.4g}: "
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
    """About twenty neighbouring parts, so that one lucky batch is not taken for the level of the loss."""
    size = max(1, len(losses) // 20)
    return [losses[i : i + size] for i in range(0, len(losses), size)]
