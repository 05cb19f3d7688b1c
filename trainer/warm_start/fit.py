"""What a run must have in common with the one it starts from; what differs is refused by name."""

from collections.abc import Iterator
from typing import Any

from configs.errors import ConfigError
from configs.schema import RunConfig
from configs.sections.models import TowerConfig, TwoTowerConfig
from configs.sections.ranking import RankingConfig
from trainer.warm_start.source import Source

_REMOVE = "restore the value, or remove init"
_SHAPES = {"table": ("dim",), "robe_z": ("dim", "size", "block", "seed")}
"""Keys of a table that decide what its stored rows mean, by kind."""


def check_fit(config: RunConfig, source: Source) -> None:
    """Raises ConfigError, naming every key, if the weights or slots of `source` do not fit the run."""
    assert config.init is not None
    found = [*_of_layers(config, source.config), *_of_tables(config, source.config)]
    fix = _REMOVE
    if not found and config.init.slots == "keep":
        found = [*_of_optimizers(config, source)]
        fix = "use init.slots: reset, or restore the value"
    if found:
        differences = "; ".join(f"{key} was {_text(there)}, is {_text(here)}" for key, there, here in found)
        raise ConfigError(f"init.from: {source.path} does not fit this run: {differences}; {fix}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({width})" for name, width in value.items()) or "none"
    return "not there" if value is None else str(value)


def _of_layers(config: RunConfig, other: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """(key, value there, value here) of all that decides the shapes of dense weights and what they read."""
    if config.model.kind != other.model.kind:  # other keys of different kinds cannot be compared
        yield "model.kind", other.model.kind, config.model.kind
        return
    here, there = dense_layout(config), dense_layout(other)
    for key in dict.fromkeys([*here, *there]):
        if here.get(key) != there.get(key):
            yield key, there.get(key), here.get(key)


def dense_layout(config: RunConfig) -> dict[str, Any]:
    """What decides the shapes of dense weights, and what they read, by config key."""
    model = config.model
    if isinstance(model, TwoTowerConfig):
        found: dict[str, Any] = {}
        for side, tower in zip(("user", "item"), model.towers, strict=True):
            found |= _of_tower(config, f"model.{side}_tower", tower)
        return found
    if not isinstance(model, RankingConfig):
        return {}
    return {
        "model.inputs": _inputs(config, model.inputs),
        "model.bottom": model.bottom,
        "model.interaction": model.interaction.model_dump(),
        "model.top": model.top,
        "model.sharing": model.sharing.model_dump(),
        "model.tasks": [task.name for task in model.tasks],
    }


def _of_tower(config: RunConfig, key: str, tower: TowerConfig) -> dict[str, Any]:
    """As dense_layout; a tower without layers has no weights of its own, whatever it reads."""
    if tower.sequence:
        inner = tower.sequence.model_dump(exclude={"dropout"})
        inner |= {"width": config.input_width("history"), "length": config.dataset.history_length}
        return {f"{key}.sequence": inner, f"{key}.layers": tower.layers}
    if not tower.layers:
        return {f"{key}.layers": []}
    return {
        f"{key}.layers": tower.layers,
        f"{key}.combine": tower.combine,
        f"{key}.inputs": _inputs(config, tower.inputs),
    }


def _inputs(config: RunConfig, names: list[str]) -> dict[str, int]:
    """Widths of inputs, in their order."""
    return {name: config.input_width(name) for name in names}


def _of_tables(config: RunConfig, other: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """As _of_layers, of the tables that both runs have."""
    for name in _common_tables(config, other):
        here, there = config.table(name), other.table(name)
        if here.kind != there.kind:
            yield f"tables.{name}.kind", there.kind, here.kind
            continue
        for key in _SHAPES[here.kind]:
            if getattr(here, key) != getattr(there, key):
                yield f"tables.{name}.{key}", getattr(there, key), getattr(here, key)


def _common_tables(config: RunConfig, other: RunConfig) -> list[str]:
    return sorted(set(config.table_of_input.values()) & set(other.table_of_input.values()))


def _of_optimizers(config: RunConfig, source: Source) -> Iterator[tuple[str, Any, Any]]:
    """As _of_layers, of the optimizers, whose slots must be the same."""
    from trainer.optimizers import ROW_OPTIMIZERS

    other = source.config
    for name in _common_tables(config, other):
        here, there = config.table(name).optimizer, other.table(name).optimizer
        key = f"tables.{name}.optimizer"
        if here.kind != there.kind:
            yield f"{key}.kind", there.kind, here.kind
            continue
        own, theirs = (list(ROW_OPTIMIZERS[o.kind](o).slot_names) for o in (here, there))
        if own != theirs:
            yield f"{key} (slots)", ", ".join(theirs), ", ".join(own)
    here, there = config.optimizer, other.optimizer
    if here.kind != there.kind:
        yield "optimizer.kind", there.kind, here.kind
    elif getattr(here, "amsgrad", None) != getattr(there, "amsgrad", None):
        yield "optimizer.amsgrad", getattr(there, "amsgrad", None), getattr(here, "amsgrad", None)
