"""The model that all cases of `bench ranking` train, its initial weights, and random batches."""

from typing import NamedTuple

import numpy as np

from trainer.bench.parts.rows import draw
from trainer.bench.timing import GIB

RATES = {"lazy_adam": 1e-3, "adagrad": 1e-2, "sgd": 0.1}
"""Learning rate of each optimizer; that of dense layers too."""
RANKED_EPSILON, ACCUMULATOR, _STDDEV = 1e-10, 0.1, 0.05
"""Epsilon is small beside gradients of large batches, because libraries add it in different places."""

# Keys of each of the 26 columns of Criteo's display challenge, C1 to C26.
_CRITEO = (
    *(
        1_460,
        583,
        10_131_227,
        2_202_608,
        305,
        24,
        12_517,
        633,
        3,
        93_145,
        5_683,
        8_351_593,
        3_194,
        27,
        14_992,
    ),
    *(5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)


class RankedModel(NamedTuple):
    """A model and its data."""

    rows: dict[str, int]
    """Rows of the table of each key, whose names must be in alphabetical order, as TFRS reads them."""
    numbers: list[str]
    dim: int
    """Width of all tables, and of the last layer of `bottom`."""
    bottom: list[int]
    """Widths of the layers before that one."""
    top: list[int]
    """Widths of the layers before the logit."""
    crosses: int
    """Number of crosses; 0: dot products."""
    optimizer: str
    """A key of RATES."""

    @property
    def vectors(self) -> int:
        """Number of vectors that interact."""
        return len(self.rows) + 1

    @property
    def interacted(self) -> int:
        """Width of what the interaction gives, without the output of `bottom`."""
        number = self.vectors
        return number * self.dim if self.crosses else number * (number - 1) // 2


class RankedWeights(NamedTuple):
    """Initial weights; biases are zero."""

    tables: dict[str, np.ndarray]
    """float32 [rows, dim] by key."""
    bottom: list[np.ndarray]
    """Kernels [in, out]; so in `crosses` and `top`, whose last one is the logit's."""
    crosses: list[np.ndarray]
    top: list[np.ndarray]


def criteo_rows(total: int) -> dict[str, int]:
    """Rows of c01 to c26, as many in all as `total`, in the proportions of Criteo's columns; at least 2."""
    return {f"c{i:02}": max(2, round(total * keys / sum(_CRITEO))) for i, keys in enumerate(_CRITEO, 1)}


def ranked_weights(model: RankedModel) -> RankedWeights:
    """Random initial weights, which follow from the model."""
    generator = np.random.default_rng(7)
    width = model.vectors * model.dim
    return RankedWeights(
        {
            name: np.float32(_STDDEV) * generator.standard_normal([rows, model.dim], dtype=np.float32)
            for name, rows in model.rows.items()
        },
        _kernels(generator, [len(model.numbers), *model.bottom, model.dim]),
        _kernels(generator, [width] * (model.crosses + 1)),
        _kernels(generator, [model.dim + model.interacted, *model.top, 1]),
    )


def _kernels(generator: np.random.Generator, widths: list[int]) -> list[np.ndarray]:
    """Glorot uniform."""
    limits = [np.sqrt(6 / (first + second)) for first, second in zip(widths, widths[1:], strict=False)]
    pairs = zip(limits, widths, widths[1:], strict=False)
    return [generator.uniform(-limit, limit, shape).astype(np.float32) for limit, *shape in pairs]


def ranked_batches(model: RankedModel, batch: int, number: int):
    """So many random batches: Zipf keys, normal numbers, and a label that follows the first number."""
    generator = np.random.default_rng(3)
    for _ in range(number):
        made = {name: draw("zipf", rows, batch, 1.05, generator) for name, rows in model.rows.items()}
        made |= {name: generator.standard_normal(batch, dtype=np.float32) for name in model.numbers}
        chance = 1 / (1 + np.exp(1 - made[model.numbers[0]]))
        yield made | {"label": (generator.random(batch) < chance).astype(np.float32)}


def ranked_gigabytes(model: RankedModel, batch: int) -> float:
    """GiB that a case needs: weights, slots and averages; layers and products of a batch."""
    tables = 5 * sum(model.rows.values()) * model.dim
    widths = sum([*model.bottom, *model.top]) + 6 * model.vectors * max(model.dim, model.vectors)
    return 4 * (tables + 4 * batch * widths) / GIB
