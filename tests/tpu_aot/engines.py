"""Engines whose tables, or rows, are arguments and results of the step's program."""

import tensorflow as tf
from tensorflow.python.tpu.tpu_embedding_v3 import PartitionedCsrFormatTensor

from trainer.tpu.engines.layout import SparseCoreLayout
from trainer.tpu.engines.sparse_core import SparseCoreEngine


class HandedOver:
    """Rows are arguments, their gradients results: the step without its tables.

    Args:
      tables, strategy: as trainer.tpu.engines.base.Engine.
    """

    def __init__(self, tables, strategy):
        self.tables, self._gradients = tables, None

    def build(self):
        """There is nothing to create."""

    def arguments(self) -> dict:
        """tf.TensorSpec of what `take` takes: rows by table."""
        return {name: tf.TensorSpec([table.ids, table.dim]) for name, table in self.tables.items()}

    def take(self, arguments):
        """Sets what `lookup` finds; returns the argument for it."""
        return arguments

    def results(self) -> dict:
        """Gradients of the rows, by table."""
        return self._gradients

    def lookup(self, fed):
        """See Engine.lookup."""
        return fed, None

    def apply(self, gradients, looked_up):
        """See Engine.apply."""
        self._gradients = gradients


class _Array:
    """One array of a table on one chip, where TPUEmbeddingV2 expects a variable."""

    def __init__(self, shape):
        self.spec = tf.TensorSpec(shape)
        self.value = None

    def read_value(self):
        return self.value

    def __tf_tensor__(self, dtype=None, name=None):
        return self.value

    def assign(self, value):
        self.value = tf.ensure_shape(value, self.spec.shape)


class TablesHandedOver(SparseCoreEngine):
    """The real engine, with the tables, and the ids as the host sorts them, for arguments, and the tables of
    after the step for results."""

    def build(self):
        """See Engine.build; allocates nothing."""
        self.strategy = self.strategy.real
        self._embedding = self._make()
        self._layouts = {n: SparseCoreLayout.of(p) for n, p in self._embedding.embedding_layouts.items()}
        self._arrays = {
            name: {part: _Array(self._layouts[name].chip_shape) for part in self.parts(name)}
            for name in self.tables
        }
        self._embedding._variables, self._embedding._built = self._arrays, True

    def arguments(self) -> dict:
        """tf.TensorSpec of what `take` takes; the tables come last when it is flattened."""
        return {"ids": self._sorted_ids(), "tables": self._map(lambda array: array.spec)}

    def _sorted_ids(self) -> dict:
        """What the host computes from a step's ids: four arrays by table."""
        with tf.Graph().as_default():
            ids = {n: tf.compat.v1.placeholder(tf.int32, [table.ids]) for n, table in self.tables.items()}
            sorted_ids = {name: value[0] for name, value in self._embedding.enqueue(ids).items()}
            return {
                name: [
                    tf.TensorSpec(value.shape, value.dtype)
                    for value in (s.row_pointers, s.sorted_sample_ids, s.sorted_token_ids, s.sorted_gains)
                ]
                for name, s in sorted_ids.items()
            }

    def take(self, arguments):
        """Sets the tables; returns the argument for `lookup`."""
        for name, parts in arguments["tables"].items():
            for part, value in parts.items():
                self._arrays[name][part].value = value
        return {
            name: PartitionedCsrFormatTensor(
                *arrays,
                sample_count=self.tables[name].ids,
                num_minibatches_per_physical_sparse_core=tf.constant(1),
            )
            for name, arrays in arguments["ids"].items()
        }

    def results(self) -> dict:
        """The tables."""
        return self._map(lambda array: array.value)

    def _map(self, function) -> dict:
        return {n: {p: function(array) for p, array in parts.items()} for n, parts in self._arrays.items()}

    def lookup(self, fed):
        """See Engine.lookup."""
        return self._embedding.dequeue(fed)
