"""`evaluate.best`: which metrics a run has to choose by, and which way each of them is better."""

from typing import TYPE_CHECKING

from configs.sections.dataset import FractionSplitConfig
from configs.sections.evaluation import is_better
from configs.sections.ranking import RankingConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig

# Registries of trainer/evaluation have the metrics themselves. Not the calibration: it is best at 1, which
# predicting the mean reaches as well.
_OF_LOSS = {
    "bce": ("auc", "pr_auc", "log_loss", "normalised_entropy", "grouped_auc"),
    "mse": ("rmse", "mae", "r2"),
}


def known_metrics(config: "RunConfig") -> dict[str, bool]:
    """Whether higher is better, by the names that evaluate.best.metric and day.metric may have.

    They are those that `lazytower evaluate` prints. Of ranking models, the metrics of each task have its name
    before them too: click/auc. Those of the first task need none.
    """
    return {name: is_better(name, 1, 0) for name in _names(config)}


def _names(config: "RunConfig") -> list[str]:
    evaluate, model = config.evaluate, config.model
    if not isinstance(model, RankingConfig):
        names = ["hr", "recall", "ndcg"] if evaluate.protocol == "full" else ["hr", "ndcg"]
        return [*(f"{name}@{k}" for k in evaluate.k for name in names), "mrr"]
    grouped = evaluate.group_by is not None or config.source.roles.user is not None
    own = {
        task.name: [name for name in _OF_LOSS[task.loss] if grouped or name != "grouped_auc"]
        for task in model.tasks
    }
    return [*own[model.tasks[0].name], *(f"{task}/{name}" for task, names in own.items() for name in names)]


def check_best(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if evaluate.best cannot be followed, or the run lacks a metric."""
    best, evaluate, split = config.evaluate.best, config.evaluate, config.dataset.split
    known = known_metrics(config)
    for key, metric in (("day.metric", config.day.metric), ("evaluate.best.metric", best and best.metric)):
        if metric is not None and metric not in known:
            raise ValueError(f"{key}: {metric!r} is not a metric of this run; known: {', '.join(known)}")
    if best is None:
        return
    if not evaluate.every_steps:
        raise ValueError(
            "evaluate.best requires evaluate.every_steps above 0, because it chooses among evaluations; set "
            "it, or remove best"
        )
    if isinstance(split, FractionSplitConfig) and split.valid_fraction == 0:
        raise ValueError(
            "evaluate.best requires rows in valid; set dataset.split.valid_fraction above 0, or remove best"
        )
    if evaluate.weights == "raw" and config.polyak.at_each_step:
        raise ValueError(
            "evaluate.best chooses by averaged weights, which evaluate.weights: raw leaves out; use both or "
            "average, or polyak.kind: none"
        )
