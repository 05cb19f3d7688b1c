"""Checks of what goes on from day to day: bases, windows, warm starts."""

from typing import TYPE_CHECKING

from configs.rules.best import check_best
from configs.sections.dataset import VocabIdsConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_day(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if what a run continues does not fit the rest of it."""
    _check_base(config)
    _check_ages(config)
    _check_init(config)
    check_best(config)


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
    if dataset.base is not None and dataset.history_of == "others":
        raise ValueError(
            "dataset.history_of: others takes items of all days, and rows of earlier days are written "
            "already; set it to earlier for all days, or prepare all rows anew without dataset.base"
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
