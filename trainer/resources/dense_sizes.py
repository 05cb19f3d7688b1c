"""Number of weights in the dense layers of a model, from its config alone."""

from itertools import pairwise

from configs.schema import RunConfig
from configs.sections.ranking import (
    CrossInteractionConfig,
    DotInteractionConfig,
    EsmmConfig,
    MmoeConfig,
    NoInteractionConfig,
    RankingConfig,
    SharedBottomConfig,
)


def dense_values(config: RunConfig) -> int:
    """Number of trained values outside the tables."""
    return _OF_FAMILY[config.model.family](config)


def _stack(width: int, units: list[int]) -> int:
    """Values of dense layers, one after the other, that read `width` values."""
    return sum((before + 1) * after for before, after in pairwise([width, *units]))


def _of_towers(config: RunConfig) -> int:
    values = 0
    for tower in config.model.towers:
        widths = [config.input_width(name) for name in tower.inputs]
        values += _stack(widths[0] if tower.combine == "sum" else sum(widths), tower.layers)
    return values


def _of_ranking(config: RunConfig) -> int:
    model = config.model
    assert isinstance(model, RankingConfig) and model.bottom is not None
    keyed = [name for name in model.inputs if name in config.table_of_input]
    rows = [config.input_width(name) for name in keyed]
    dense = sum(config.input_width(name) for name in model.inputs if name not in keyed)
    bottom = model.bottom[-1] if dense and model.bottom else dense
    values, width, past = _INTERACTIONS[type(model.interaction)](model.interaction, rows, bottom)
    return (
        values
        + (_stack(dense, model.bottom) if dense else 0)
        + _HEADS[type(model.sharing)](model, width, past)
    )


def _dot(options, rows: list[int], bottom: int) -> tuple[int, int, int]:
    """(values of the interaction, width of what `top` reads, width of what goes past it)."""
    number = len(rows) + bool(bottom)
    return 0, bottom + number * (number - 1) // 2, 0


def _cross(options: CrossInteractionConfig, rows: list[int], bottom: int) -> tuple[int, int, int]:
    """As _dot."""
    width = sum(rows) + bottom
    kernels = width * width if options.rank is None else 2 * width * options.rank
    values = options.layers * (kernels + width)
    return (values, width, width) if options.structure == "parallel" else (values, bottom + width, 0)


def _joined(options, rows: list[int], bottom: int) -> tuple[int, int, int]:
    """As _dot."""
    return 0, sum(rows) + bottom, 0


def _shared_bottom(model: RankingConfig, width: int, past: int) -> int:
    """Values of a head, given the widths from _dot."""
    return _stack(width, model.top) + len(model.tasks) * _logit(model.top, width, past)


def _mmoe(model: RankingConfig, width: int, past: int) -> int:
    """As _shared_bottom."""
    sharing = model.sharing
    assert isinstance(sharing, MmoeConfig)
    mixed = model.top[-1]
    task = width * sharing.experts + _stack(mixed, sharing.tower) + _logit(sharing.tower, mixed, past)
    return sharing.experts * _stack(width, model.top) + len(model.tasks) * task


def _esmm(model: RankingConfig, width: int, past: int) -> int:
    """As _shared_bottom."""
    return len(model.tasks) * (_stack(width, model.top) + _logit(model.top, width, past))


def _logit(units: list[int], width: int, past: int) -> int:
    """Values of the linear layer of a task, after dense layers of these widths."""
    return [width, *units][-1] + past + 1


_OF_FAMILY = {"retrieval": _of_towers, "ranking": _of_ranking}
_INTERACTIONS = {DotInteractionConfig: _dot, CrossInteractionConfig: _cross, NoInteractionConfig: _joined}
_HEADS = {SharedBottomConfig: _shared_bottom, MmoeConfig: _mmoe, EsmmConfig: _esmm}
