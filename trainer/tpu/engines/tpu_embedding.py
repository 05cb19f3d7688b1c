"""The embedding engine of TPU v2, v3 and v4: `tf.tpu.experimental.embedding.TPUEmbedding`.

Hosts enqueue ids, the engine gathers rows into the step's program and takes gradients back, outside of the
program. The host's copy is sharded over the hosts by ranges of rows.
"""

import numpy as np
import tensorflow as tf

from trainer.tpu.engines.base import Engine


class TpuEmbeddingEngine(Engine):
    """One per initialisation of the TPU system."""

    def build(self) -> None:
        """See Engine.build."""
        self._embedding = self._make()
        self._embedding.build({name: tf.TensorShape([table.ids]) for name, table in self.tables.items()})
        self._lengths = {
            name: np.array([shard.shape[0] for shard in self._shards(name, "parameters")])
            for name in self.tables
        }

    def _make(self):
        with self.strategy.scope():
            # True would make the rows that a step sees one step old.
            return tf.tpu.experimental.embedding.TPUEmbedding(
                self.features(), None, pipeline_execution_with_tensor_core=False
            )

    def feed(self, ids):
        """See Engine.feed; ids leave here, replicas get nothing."""
        # training=True must match that gradients are sent back: else the engine waits forever.
        self._embedding.enqueue(ids, training=True)
        return None

    def lookup(self, fed):
        """See Engine.lookup."""
        return self._embedding.dequeue(), None

    def apply(self, gradients, looked_up):
        """See Engine.apply."""
        self._embedding.apply_gradients(gradients)

    def retrieve(self):
        """See Engine.retrieve."""
        # Public only as something that saving a tf.train.Checkpoint does.
        self._embedding._retrieve_variables()

    def release(self):
        """See Engine.release; this engine's host copy is part of it, and stays."""

    def load(self):
        """See Engine.load."""
        self._embedding._load_variables()

    def _shards(self, name: str, part: str) -> list[tf.Variable]:
        """A table's rows on each host; hosts without any have none."""
        return self._embedding._variables[name][part].variables

    def _places(self, name: str, ids: np.ndarray):
        """(shard, which of the ids, their rows in it) for every shard that holds some of them."""
        first = np.cumsum(self._lengths[name]) - self._lengths[name]
        shard = np.searchsorted(first, ids, side="right") - 1
        for i in np.unique(shard):
            which = np.flatnonzero(shard == i)
            yield int(i), which, ids[which] - first[i]

    def read(self, name, part, ids):
        """See Engine.read."""
        values = np.empty([len(ids), self.tables[name].dim], np.float32)
        for i, which, rows in self._places(name, ids):
            values[which] = tf.gather(self._shards(name, part)[i], rows).numpy()
        return values

    def write(self, name, part, ids, values):
        """See Engine.write."""
        for i, which, rows in self._places(name, ids):
            shard = self._shards(name, part)[i]
            shard.scatter_update(tf.IndexedSlices(tf.gather(values, which), rows))
