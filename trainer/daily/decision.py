"""Whether the new model is served: not if it is worse than the served one on the same rows."""

import math
from typing import Any, NamedTuple

from configs.errors import ConfigError
from configs.rules.best import known_metrics
from configs.schema import RunConfig


class Decision(NamedTuple):
    """What was decided, and why."""

    accepted: bool
    reason: str


def day_metric(config: RunConfig) -> tuple[str, bool]:
    """(name, whether higher is better) of day.metric or its default.

    Raises:
      ConfigError: the run has no such metric.
    """
    known = known_metrics(config)
    name = config.day.metric
    if name is None:
        name = config.evaluate.best.metric if config.evaluate.best else _default(config, list(known))
    if name not in known:
        raise ConfigError(f"day.metric: {name!r} is not a metric of this run; known: {', '.join(known)}")
    return name, known[name]


def _default(config: RunConfig, known: list[str]) -> str:
    """log_loss of ranking models, or the first of their metrics; ndcg@10, or at the first k."""
    wanted = "ndcg@10" if config.model.family == "retrieval" else "log_loss"
    similar = [name for name in known if name.partition("@")[0].endswith(wanted.partition("@")[0])]
    return wanted if wanted in known else [*similar, *known][0]


def compared_figure(config: RunConfig, lines: list[dict[str, Any]], metric: str) -> tuple[float | None, str]:
    """(value, protocol) of a metric in lines of `lazytower evaluate`, of the weights that are exported.

    Undefined values are None.
    """
    task, slash, name = metric.rpartition("/")
    models = [line for line in lines if line["scorer"] == "model" and (not slash or line["task"] == task)]
    served = [line for line in models if line["weights"] == config.export.weights]
    line = [*served, *models][0]
    value = line.get(name)
    return (None if value is None or not math.isfinite(value) else value), line["protocol"]


def decide(
    metric: str, higher: bool, new: float | None, served: float | None, tolerance: float, is_first: bool
) -> Decision:
    """Compares two models.

    Args:
      metric: its name.
      higher: whether higher is better.
      new, served: the models' figures on the same rows; None: undefined.
      tolerance: as day.tolerance.
      is_first: whether no model is served yet.
    """
    if is_first:
        return Decision(True, f"the first model: {metric} {_text(new)}")
    text = f"{metric} {_text(new)}, the served model {_text(served)} on the same rows"
    if new is None or served is None:
        return Decision(False, f"{text}: they cannot be compared")
    loss = served - new if higher else new - served
    share = loss / abs(served) if served else math.copysign(math.inf, loss) if loss else 0.0
    if share > tolerance:
        return Decision(False, f"{text}: worse by {share:.1%}, day.tolerance is {tolerance:.1%}")
    how = f"worse by {share:.1%}, within day.tolerance {tolerance:.1%}" if share > 0 else "not worse"
    return Decision(True, f"{text}: {how}")


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
