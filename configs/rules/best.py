"""`evaluate.best`: which metrics a run has, and which way each of them is better."""

from typing import TYPE_CHECKING

from configs.sections.dataset import FractionSplitConfig
from configs.sections.ranking import RankingConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig

# Whether higher is better, by name; registries of trainer/evaluation have the metrics themselves.
AT_CUTOFF = {"hr": True, "recall": True, "ndcg": True}
UNCUT = {"mrr": True}
OF_LOSS = {
    # Not the calibration: it is best at 1, which predicting the mean reaches as well.
    "bce": {"log_loss": False, "normalised_entropy": False, "auc": True, "pr_auc": True, "grouped_auc": True},
    "mse": {"rmse": False, "mae": False, "r2": True},
}


def known_metrics(config: "RunConfig") -> dict[str, bool]:
    """Whether higher is better, by each name that evaluate.best.metric may have.

    Metrics of several tasks have the task before them: click/auc.
    """
    model, evaluate = config.model, config.evaluate
    if not isinstance(model, RankingConfig):
        cut = {f"{name}@{k}": higher for k in evaluate.k for name, higher in AT_CUTOFF.items()}
        return cut | UNCUT
    grouped = evaluate.group_by is not None or config.source.roles.user is not None
    found = {}
    for task in model.tasks:
        prefix = f"{task.name}/" if len(model.tasks) > 1 else ""
        for name, higher in OF_LOSS[task.loss].items():
            if grouped or name != "grouped_auc":
                found[prefix + name] = higher
    return found


def check_best(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if evaluate.best cannot be followed."""
    best, evaluate, split = config.evaluate.best, config.evaluate, config.dataset.split
    if best is None:
        return
    known = known_metrics(config)
    if best.metric not in known:
        raise ValueError(
            f"evaluate.best.metric: {best.metric!r} is not a metric of this run; known: {', '.join(known)}"
        )
    if not evaluate.every_steps:
        raise ValueError("evaluate.best requires evaluate.every_steps; set it above 0, or remove best")
    if isinstance(split, FractionSplitConfig) and not split.valid_fraction:
        raise ValueError(
            "evaluate.best is measured on valid, which dataset.split.valid_fraction: 0 leaves empty; raise "
            "it, or remove best"
        )
    if evaluate.weights == "raw" and config.polyak.kind not in ("none", "tail_average"):
        raise ValueError(
            "evaluate.best is measured with averaged weights, which evaluate.weights: raw leaves out; use "
            "both or average, or polyak.kind: none"
        )
