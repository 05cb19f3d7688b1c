"""Checks of towers and their loss that need the whole document."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from configs.sections.features import CrossFeatureConfig
from configs.sections.models import TowerConfig, TwoTowerConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_tower(config: "RunConfig", side: str, inputs: Iterable[str]) -> None:
    """Raises ValueError, naming the key, if a tower reads features that are not of its side.

    Args:
      config: the run.
      side: user or item.
      inputs: of the tower.
    """
    for name in inputs:
        feature = config.features.get(name)
        if feature is None:
            continue
        # A model has no side of its own for the row: what is of the context describes the request.
        if ("item" if feature.of == "item" else "user") != side:
            raise ValueError(
                f"model.{side}_tower.inputs: {name!r} is not a feature of the {side}; move it to "
                "the other tower"
            )
        if side == "user" and isinstance(feature, CrossFeatureConfig):
            for key in feature.keys:
                if config.features[key].of == "item":
                    raise ValueError(
                        f"model.user_tower.inputs: cross {name!r} has the key {key!r} of the item, which is "
                        "not known when items are recommended; remove it"
                    )


def check_group(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if a batch cannot be divided into groups, or among the replicas of a
    run on CPUs."""
    group, size = _group(config), config.train.batch_size
    if group and size % group:
        raise ValueError(
            f"train.batch_size: {size} is not divisible by model.loss.group {group}; use a multiple of it"
        )
    if config.device.kind != "cpu":
        return
    parts = config.device.replicas
    if odd := config.uneven(parts):
        raise ValueError(f"{odd} is not divisible by device.replicas {parts}; use a multiple of it")
    if wrong := split_group(config, parts):
        raise ValueError(wrong)


def split_group(config: "RunConfig", parts: int) -> str:
    """What is wrong with model.loss.group if each of `parts` replicas or hosts has an equal share of the
    batch, and what to do; empty: nothing."""
    group, rows = _group(config), config.train.batch_size // parts
    if not group or rows % group == 0 or group % rows == 0:
        return ""
    return (
        f"model.loss.group: {group} neither divides the {rows} rows of each of {parts} replicas or hosts nor "
        f"is a multiple of them; use a divisor or a multiple of {rows}"
    )


def _group(config: "RunConfig") -> int | None:
    return config.model.loss.group if isinstance(config.model, TwoTowerConfig) else None


def check_dropped_ids(config: "RunConfig", side: str, tower: TowerConfig) -> None:
    """Raises ValueError, naming the key, if the tower of a side (user or item) has no row for dropped ids."""
    if tower.id_dropout and config.ids_of(side).kind == "hash":
        raise ValueError(
            f"model.{side}_tower.id_dropout: hashed ids have no out-of-vocabulary row; use "
            f"dataset.{side}_ids.kind: vocab, or remove id_dropout"
        )
