"""The interface of TPU embedding engines; `TPU_ENGINES` lists them.

An engine holds the weights and optimizer slots of each table and, with averaging, a second table of averages
(see trainer/tpu/ledger.py). All lookups in a table form one feature: a fixed number of ids per replica, each
for one row. The model does the pooling.
"""

import abc
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

AVERAGE = "_average"  # suffix of the name of a table of averages


class EngineOptimizer(Protocol):
    """An optimizer from tf.tpu.experimental.embedding."""

    def _slot_names(self) -> list[str]: ...


class EngineTableSpec(NamedTuple):
    """One table of an engine."""

    rows: int
    dim: int
    optimizer: EngineOptimizer
    """Tables that share the object share a learning rate."""
    ids: int
    """Number of ids that a replica looks up at each step."""


class Engine(abc.ABC):
    """Tables in the memory of TPUs or their hosts.

    A training step calls `feed` on the host, then `lookup` and `apply` on every replica. The host's copy of
    the tables can be written between `build` and `load`, and read between `retrieve` and `release`.

    Args:
      tables: by name.
      strategy: tf.distribute.TPUStrategy.
    """

    def __init__(self, tables: dict[str, EngineTableSpec], strategy):
        self.tables, self.strategy = tables, strategy

    def features(self) -> dict:
        """tf.tpu.experimental.embedding.FeatureConfig by table name."""
        api = tf.tpu.experimental.embedding
        found = {}
        for name, table in self.tables.items():
            # Initial rows are written before training starts, so zeros suffice here.
            config = api.TableConfig(
                table.rows,
                table.dim,
                initializer=tf.zeros_initializer(),
                optimizer=table.optimizer,
                combiner="sum",
                name=name,
            )
            found[name] = api.FeatureConfig(config, name=name, output_shape=[table.ids])
        return found

    def parts(self, name: str) -> list[str]:
        """Names of a table's arrays: the weights, then the slots in the order of the row optimizer."""
        return ["parameters", *self.tables[name].optimizer._slot_names()]

    @abc.abstractmethod
    def build(self) -> None:
        """Creates the tables, with zeros, before the first step."""

    @abc.abstractmethod
    def feed(self, ids):
        """Sends the ids of a step, from the host's part of a tf.function.

        Args:
          ids: by table name, int32 [ids], for each replica (tf.distribute.DistributedValues).

        Returns:
          The argument of `lookup`.
        """

    @abc.abstractmethod
    def lookup(self, fed) -> tuple[dict, object]:
        """On a replica: rows by table name, float32 [ids, dim], and the argument `looked_up` of `apply`."""

    @abc.abstractmethod
    def apply(self, gradients: dict, looked_up) -> None:
        """On a replica: sends the gradients of the rows, by table name, float32 [ids, dim]."""

    @abc.abstractmethod
    def retrieve(self) -> None:
        """Copies all tables to the host."""

    @abc.abstractmethod
    def release(self) -> None:
        """Frees the host's copy."""

    @abc.abstractmethod
    def load(self) -> None:
        """Copies the host's copy to the chips."""

    @abc.abstractmethod
    def read(self, name: str, part: str, ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim] of one of the table's `parts` in the host's copy; ids int64 [n]."""

    @abc.abstractmethod
    def write(self, name: str, part: str, ids: np.ndarray, values) -> None:
        """Overwrites rows of the host's copy; arguments as `read`, with distinct ids."""


class NoEngine(Engine):
    """For a model without a table in the engine."""

    def build(self):
        """See Engine.build."""

    def feed(self, ids):
        """See Engine.feed."""

    def lookup(self, fed):
        """See Engine.lookup."""
        return {}, None

    def apply(self, gradients, looked_up):
        """See Engine.apply."""

    def retrieve(self):
        """See Engine.retrieve."""

    def release(self):
        """See Engine.release."""

    def load(self):
        """See Engine.load."""

    def read(self, name, part, ids):
        """Raises KeyError: this engine holds no tables."""
        raise KeyError(name)

    def write(self, name, part, ids, values):
        """Raises KeyError: this engine holds no tables."""
        raise KeyError(name)
