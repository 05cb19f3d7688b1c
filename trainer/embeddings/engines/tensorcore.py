"""A small table on the TensorCores of a TPU: every replica has a copy, and updates it as all others do.

The gradients of all replicas are summed as a matrix of the table's shape, because XLA needs static shapes and
the number of touched rows varies. Then the row optimizer's arithmetic runs on all rows, and rows that are not
in the batch keep their records. So a step equals that of trainer/embeddings/engines/rows.py on the CPU.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from configs.rules.tpu import placed
from configs.schema import RunConfig
from trainer.embeddings.base import Table
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.engines.tpu import TpuTable


class TensorCoreTable(RecordTable):
    """Records in a variable that is mirrored on all replicas; create it in the scope of the strategy.

    The host's copy of the records can be written before `load`, and read between `retrieve` and `release`.
    """

    engine = "tensorcore"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        self._copy: np.ndarray | None = np.zeros([rows, self.width], np.float32)

    def fetch(self, ids):
        """On a replica: weights float32 [n, dim] of ids int32 [n]; padding, id `rows`, gets those of some
        row."""
        weights = self.records.read_value()[:, : self.dim]
        return tf.gather(weights, tf.minimum(ids, self.rows - 1))

    def summed(self, ids, gradient):
        """On a replica: the gradients of its ids by row, and how many ids name the row.

        Args:
          ids: int32 [n], may repeat; padding, id `rows`, counts for no row.
          gradient: float32 [n, dim].

        Returns:
          float32 [rows, dim + 1]; that of the batch is the sum over the replicas.
        """
        counted = tf.concat([gradient, tf.ones([tf.shape(ids)[0], 1])], axis=1)
        places = tf.where(ids < self.rows, ids, -1)  # negative places are left out
        return tf.math.unsorted_segment_sum(counted, places, self.rows)

    def apply(self, summed, step, multiplier) -> None:
        """On a replica: one optimizer step.

        Args:
          summed: float32 [rows, dim + 1], that of the batch.
          step, multiplier: as Table.update.
        """
        before = self.records.read_value()
        after, shared = self.stepped(before, summed[:, : self.dim], step, multiplier)
        if self.optimizer.lazy:
            after = tf.where(summed[:, self.dim :] > 0, after, before)
        context = tf.distribute.get_replica_context()
        context.merge_call(self._assign, args=([after, *shared],))

    def _assign(self, strategy, values) -> None:
        for variable, value in zip([self.records, *self.shared.values()], values, strict=True):
            strategy.extended.update(variable, lambda v, value: v.assign(value), args=(value,))

    def load(self) -> None:
        """Copies the host's copy to all replicas, and frees it."""
        self.records.assign(self._host())
        self.release()

    def retrieve(self) -> None:
        """Copies the records of one replica to the host."""
        self._copy = self.records.numpy()

    def release(self) -> None:
        """Frees the host's copy."""
        self._copy = None

    def _host(self) -> np.ndarray:
        if self._copy is None:
            raise RuntimeError(f"table {self.label} has no copy on the host; call retrieve first")
        return self._copy

    def lookup(self, ids):
        raise NotImplementedError("replicas call fetch: see trainer.training.steps.tpu_step")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("replicas call summed and apply: see trainer.training.steps.tpu_step")

    def read_records(self, ids):
        return tf.constant(self._host()[np.asarray(ids)])

    def last_steps(self, ids):
        return tf.constant(self._host()[np.asarray(ids), -1])

    def write_records(self, start, records) -> None:
        self._host()[start : start + len(records)] = np.asarray(records)

    def write_rows(self, ids, records) -> None:
        self._host()[np.asarray(ids)] = np.asarray(records)


_KINDS: dict[str, Callable[..., Table]] = {"engine": TpuTable, "tensorcore": TensorCoreTable}


def tpu_tables(config: RunConfig) -> Callable[..., Table]:
    """What makes the tables of a run on a TPU, each where its `placement` says; for Recommender."""

    def table(name: str, rows: int, dim: int, optimizer, average) -> Table:
        make = _KINDS[placed(config.table(name), rows)]
        return make(name, rows, dim, optimizer, average)

    return table
