"""What the training step and the tables ask of an embedding engine; the registry is `TPU_ENGINES`.

An engine holds, for each table, its weights under the table's optimizer and, with averaging, a second table
of averages (see trainer/tpu/ledger.py). All lookups of a table are one feature: a fixed number of ids for
each replica, one row each; pooling is left to the model.
"""

import abc
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

AVERAGE = "_average"  # appended to the name of a table: its second table


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
    """Ids that a replica looks up at each step."""


class Engine(abc.ABC):
    """Tables outside of TensorFlow's variables.

    A training step is, on the host, `feed`, and then on every replica `lookup` and `apply`. The host's copy
    of the tables can be written from `build` to `load`, and read from `retrieve` to `release`.

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
            # Rows are written one by one before training starts, so these zeros only allocate.
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
        """Arrays of a table: the weights, and slots in the order of the row optimizer's."""
        return ["parameters", *self.tables[name].optimizer._slot_names()]

    @abc.abstractmethod
    def build(self) -> None:
        """Makes the tables, before the first step; rows are zero."""

    @abc.abstractmethod
    def feed(self, ids):
        """Sends a step's ids on their way, from the host's part of a tf.function.

        Args:
          ids: a value for each replica (tf.distribute.DistributedValues): by table name, int32 [ids].

        Returns:
          What every replica's `lookup` gets.
        """

    @abc.abstractmethod
    def lookup(self, fed) -> tuple[dict, object]:
        """On a replica: (rows by table name, float32 [ids, dim]; what `apply` gets)."""

    @abc.abstractmethod
    def apply(self, gradients: dict, looked_up) -> None:
        """On a replica: sends the gradients of the rows, by table name, float32 [ids, dim]."""

    @abc.abstractmethod
    def retrieve(self) -> None:
        """Copies all tables to the host."""

    @abc.abstractmethod
    def release(self) -> None:
        """Gives up the host's copy."""

    @abc.abstractmethod
    def load(self) -> None:
        """Copies the host's copy to the chips."""

    @abc.abstractmethod
    def read(self, name: str, part: str, ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim] of one of the table's `parts`, ids int64 [n], of the host's copy."""

    @abc.abstractmethod
    def write(self, name: str, part: str, ids: np.ndarray, values) -> None:
        """Overwrites rows of the host's copy; as `read`, ids distinct."""
