"""What goes with `model.user_tower.sequence` and with the losses of two-tower models."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from configs.sections.devices import CpuDeviceConfig
from configs.sections.models import FullSoftmaxLossConfig, TwoTowerConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig

_KEY = "model.user_tower.sequence"


def check_sequence(config: "RunConfig") -> None:
    """Raises ValueError, naming keys, if the run's settings do not go with an ordered history, or its device
    cannot compute the model's loss."""
    model = config.model
    if not isinstance(model, TwoTowerConfig):
        return
    if model.sequence and (problems := [*_problems(config, model)]):
        raise ValueError(f"{_KEY}: {'; '.join(problems)}")
    _check_loss(config, model)


def _problems(config: "RunConfig", model: TwoTowerConfig) -> Iterator[str]:
    tower, sequence = model.user_tower, model.sequence
    assert tower is not None and sequence is not None, "the caller checks"
    if tower.inputs != ["history"]:
        yield f"reads the history alone, but user_tower.inputs is {tower.inputs}; use [history]"
        return
    if tower.dropout:
        yield f"user_tower.dropout: {tower.dropout} is for pooled inputs; set sequence.dropout instead"
    if model.history.pooling != "mean":
        yield f"does not pool, but model.history.pooling is {model.history.pooling}; remove it"
    if model.item_tower.inputs != ["item"]:
        yield f"model.item_tower.inputs is {model.item_tower.inputs}, but targets have ids alone; use [item]"
    if config.dataset.history_of != "earlier":
        found = config.dataset.history_of or "not set"
        yield f"dataset.history_of is {found}; if the rows have an order, set it to earlier"
    if config.dataset.user_ids.kind == "hash":
        yield "dataset.user_ids: hashed users share ids, so their rows have no order; use kind: vocab"
    for key in ("window_days", "half_life_days"):
        if getattr(config.train, key) is not None:
            yield f"train.{key} weighs rows by age, but a history's targets have many ages; remove it"
    if getattr(config.source.roles, "weight", None) is not None:
        yield "source.roles.weight is that of one row, but a history has many targets; remove it"
    if (width := config.input_width("history")) % sequence.heads:
        yield f"heads: {sequence.heads} does not divide the width {width} of the history's rows; change one"


def _check_loss(config: "RunConfig", model: TwoTowerConfig) -> None:
    device = config.device
    alone = isinstance(device, CpuDeviceConfig) and device.replicas == 1
    if isinstance(model.loss, FullSoftmaxLossConfig) and not alone:
        where = f"device.kind {device.kind}" if device.kind != "cpu" else "device.replicas above 1"
        raise ValueError(
            f"model.loss: full_softmax is not available with {where}; use in_batch with extra_negatives, "
            "or gbce"
        )
