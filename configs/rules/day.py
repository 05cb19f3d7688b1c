"""Checks of what goes on from day to day: bases, windows, warm starts."""

from typing import TYPE_CHECKING

from configs.sections.dataset import FractionSplitConfig, VocabIdsConfig
from configs.sections.ranking import RankingConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_day(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if what a run continues does not fit the rest of it."""
    _check_base(config)
    _check_ages(config)
    _check_init(config)
    _check_best(config)


def _check_base(config: "RunConfig") -> None:
    dataset, roles = config.dataset, config.source.roles
    if dataset.base is None and dataset.refresh_statistics:
        raise ValueError(
            "dataset.refresh_statistics requires dataset.base, without which it has no effect; remove it"
        )
    if dataset.base is not None and dataset.base.rstrip("/") == dataset.path.rstrip("/"):
        raise ValueError(
            f"dataset.base: {dataset.base} is dataset.path itself; name the dataset of the days before, or "
            "use another dataset.path"
        )
    sections = {"user_ids": dataset.user_ids, "item_ids": dataset.item_ids}
    sections |= {f"feature_ids.{name}": ids for name, ids in dataset.feature_ids.items()}
    if roles.timestamp is None:
        for name, ids in sections.items():
            if isinstance(ids, VocabIdsConfig) and ids.expire_days is not None:
                raise ValueError(
                    f"dataset.{name}.expire_days requires source.roles.timestamp, without which rows have no "
                    "age; name the column, or remove expire_days"
                )


def _check_ages(config: "RunConfig") -> None:
    if config.source.roles.timestamp is not None:
        return
    for key in ("window_days", "half_life_days"):
        if getattr(config.train, key) is not None:
            raise ValueError(
                f"train.{key} requires source.roles.timestamp, without which rows have no age; name the "
                f"column, or remove {key}"
            )


def _check_init(config: "RunConfig") -> None:
    if config.init is not None and config.init.from_.rstrip("/") == config.output.path.rstrip("/"):
        raise ValueError(
            f"init.from: {config.init.from_} is the run's own output.path; name the run to start from, or "
            "use another output.path"
        )


def choosing_metrics(config: "RunConfig") -> list[str]:
    """Names of the metrics by which checkpoints and models can be compared, as `lazytower evaluate` prints
    them; of one of several tasks as TASK/name. Without the calibration, of which neither more nor less is
    better."""
    evaluate, model = config.evaluate, config.model
    if not isinstance(model, RankingConfig):
        names = ["hr", "recall", "ndcg"] if evaluate.protocol == "full" else ["hr", "ndcg"]
        return [*(f"{name}@{k}" for k in evaluate.k for name in names), "mrr"]
    grouped = evaluate.group_by is not None or config.source.roles.user is not None
    found: list[str] = []
    for place, task in enumerate(model.tasks):
        names = ["rmse", "mae", "r2"]
        if task.loss == "bce":
            names = ["auc", "pr_auc", "log_loss", "normalised_entropy"]
            names += ["grouped_auc"] if grouped else []
        found += names if place == 0 else []
        found += [f"{task.name}/{name}" for name in names]
    return found


def _check_best(config: "RunConfig") -> None:
    evaluate, split = config.evaluate, config.dataset.split
    known = choosing_metrics(config)
    wanted = {"day.metric": config.day.metric, "evaluate.best.metric": evaluate.best and evaluate.best.metric}
    for key, metric in wanted.items():
        if metric is not None and metric not in known:
            raise ValueError(f"{key}: {metric!r} is not a metric to choose by; known: {', '.join(known)}")
    if evaluate.best is None:
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
