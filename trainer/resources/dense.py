"""The number of dense weights of a model, from its config alone: what the models in trainer/models build."""

from typing import Any

from configs.schema import RunConfig
from configs.sections.models import SequenceConfig
from configs.sections.ranking import CrossInteractionConfig, RankingConfig


def dense_weights(config: RunConfig) -> int:
    """Values of all dense layers of the config's model."""
    return _OF_FAMILIES[config.model.family](config, config.model)


def _of_towers(config: RunConfig, model: Any) -> int:
    values = 0
    for tower in model.towers:
        widths = [config.input_width(name) for name in tower.inputs]
        if tower.sequence:
            values += _sequence(tower.sequence, widths[0], config.dataset.history_length or 0)
        values += _stack(widths[0] if tower.combine == "sum" else sum(widths), tower.layers)
    return values


def _sequence(options: SequenceConfig, width: int, length: int) -> int:
    """Values of positions, blocks and the last normalization."""
    attention, norm = 4 * width * width, 2 * width
    block = attention + 2 * norm + _stack(width, [options.hidden or width, width])
    return length * width + options.layers * block + norm


def _of_ranking(config: RunConfig, model: RankingConfig) -> int:
    keyed = [config.input_width(name) for name in model.inputs if name in config.table_of_input]
    numbers = sum(config.input_width(name) for name in model.inputs if name not in config.table_of_input)
    layers = model.bottom or []
    bottom = [numbers, *layers][-1] if numbers else 0
    inner, width, past = _INTERACTIONS[model.interaction.kind](model.interaction, keyed, bottom)
    head = _HEADS[model.sharing.kind](model, width, past)
    return (_stack(numbers, layers) if numbers else 0) + inner + head


def _stack(width: int, layers: list[int]) -> int:
    """Values of dense layers on an input of this width."""
    return sum((before + 1) * units for before, units in zip([width, *layers], layers, strict=False))


def _dots(options: Any, rows: list[int], bottom: int) -> tuple[int, int, int]:
    """(values of the interaction, width of what `top` reads, width of what goes past it)."""
    number = len(rows) + (bottom > 0)
    return 0, bottom + number * (number - 1) // 2, 0


def _crosses(options: CrossInteractionConfig, rows: list[int], bottom: int) -> tuple[int, int, int]:
    width = sum(rows) + bottom
    kernel = width * width if options.rank is None else 2 * width * options.rank
    values = options.layers * (kernel + width)
    return (values, width, width) if options.structure == "parallel" else (values, bottom + width, 0)


def _joined(options: Any, rows: list[int], bottom: int) -> tuple[int, int, int]:
    return 0, sum(rows) + bottom, 0


def _shared_bottom(model: RankingConfig, width: int, past: int) -> int:
    return _stack(width, model.top) + len(model.tasks) * ([width, *model.top][-1] + past + 1)


def _mmoe(model: RankingConfig, width: int, past: int) -> int:
    sharing: Any = model.sharing
    mixed = model.top[-1]
    last = [mixed, *sharing.tower][-1] + past + 1
    task = width * sharing.experts + _stack(mixed, sharing.tower) + last
    return sharing.experts * _stack(width, model.top) + len(model.tasks) * task


def _esmm(model: RankingConfig, width: int, past: int) -> int:
    return len(model.tasks) * (_stack(width, model.top) + [width, *model.top][-1] + past + 1)


_INTERACTIONS = {"dot": _dots, "cross": _crosses, "none": _joined}
_HEADS = {"shared_bottom": _shared_bottom, "mmoe": _mmoe, "esmm": _esmm}
_OF_FAMILIES: dict[str, Any] = {"retrieval": _of_towers, "ranking": _of_ranking}
