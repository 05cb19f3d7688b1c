"""What a run takes over of another one outside its tables: dense weights and the state of optimizers."""

import numpy as np
import tensorflow as tf

from configs.errors import CheckpointError
from trainer.checkpoints.files import DENSE
from trainer.models.recommender import Recommender
from trainer.warm_start.source import Source


def start_of_dense(
    source: Source,
    saved: dict[str, np.ndarray],
    means: dict[str, np.ndarray] | None,
    averaged: bool,
    recommender: Recommender,
) -> dict[str, np.ndarray]:
    """Values of dense weights, and of their averages, which begin at them, by name in checkpoints."""
    wanted = {f"dense/{i:03d}": variable for i, variable in enumerate(recommender.dense_variables)}
    theirs = {name: value for name, value in saved.items() if name.startswith("dense/")}
    if odd := _odd_shapes(wanted, theirs):
        raise CheckpointError(
            f"init.from: {source.chain[-1].path}/{DENSE}: dense weights have other shapes: {odd}; restore "
            "the config of the model, or remove init"
        )
    found = {}
    for name in wanted:
        shadow = name.replace("dense/", "average/")
        value = theirs[name]
        if averaged and means is not None:
            value = means[name].astype(np.float32)
        elif averaged and shadow in saved:
            value = saved[shadow]
        found[name] = value
        if recommender.dense_averages is not None:
            found[shadow] = value
    return found


def _odd_shapes(wanted: dict[str, tf.Variable], found: dict[str, np.ndarray]) -> str:
    """Names of variables that lack a value of their shape, with both shapes; empty: none does."""
    odd = []
    for name in sorted({*wanted, *found}):
        here = tuple(wanted[name].shape) if name in wanted else None
        there = found[name].shape if name in found else None
        if here != there:
            label = wanted[name].name.partition(":")[0] if name in wanted else name
            odd.append(f"{label} was {_shape(there)}, is {_shape(here)}")
    return "; ".join(odd)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(shape)


def state_of_optimizers(
    source: Source, saved: dict[str, np.ndarray], state: dict[str, tf.Variable], tables: set[str]
) -> dict[str, np.ndarray]:
    """State of the optimizers that is not in rows: that of dense weights, and what rows of a table share."""
    names = [name for name in state if name.startswith("optimizer/")]
    prefixes = tuple(f"shared/{table}/" for table in tables)
    names += [name for name in state if name.startswith(prefixes)]
    wanted = {name: state[name] for name in names}
    if odd := _odd_shapes(wanted, {name: saved[name] for name in names if name in saved}):
        raise CheckpointError(
            f"init.from: {source.chain[-1].path}/{DENSE}: slots have other shapes: {odd}; use init.slots: "
            "reset"
        )
    return {name: saved[name] for name in names}
