"""`engine: native`: row records with compiled kernels; the same numbers as `rows`, up to rounding."""

import os

import numpy as np
import tensorflow as tf

from configs.errors import ConfigError
from configs.system.threads import in_order
from trainer.embeddings.base import Lookup, Table
from trainer.embeddings.engines.rows import RecordTable
from trainer.kernels import ops
from trainer.kernels.build import kernels
from trainer.kernels.snapshot import RecordSnapshot

_SCAN_ROWS = 1 << 19


def available(optimizer) -> bool:
    """Whether the kernels are available, and one for this optimizer exists."""
    return optimizer.native is not None and kernels() is not None


class NativeTable(RecordTable):
    """One variable of records on huge pages, looked up and updated in place."""

    engine = "native"
    takes_repeats = True

    def __init__(self, name, rows, dim, optimizer, average):
        Table.__init__(self, name, rows, dim, optimizer, average)
        if optimizer.native is None:
            raise ConfigError(
                f"tables.{name}: engine: native has no optimizer {optimizer.config.kind}; use engine: rows"
            )
        if kernels() is None:
            raise ConfigError(
                f"tables.{name}: engine: native needs a C++ compiler (g++); install one, or use engine: auto"
            )
        # The kernels allocate the rows: TensorFlow would hold the initial value beside the variable.
        shape = tf.TensorShape([None, self.width])
        empty = tf.zeros([0, self.width])
        self.records = tf.Variable(empty, shape=shape, trainable=False, name=f"{name}_records")
        ops.allocate(self.records, rows, self.width)

    def lookup(self, ids) -> Lookup:
        return Lookup(ids, ops.lookup(self.records, ids, self.dim), None)

    def lookup_each(self, ids) -> Lookup:
        distinct, where = ops.unique(ids)
        return Lookup(distinct, ops.lookup(self.records, ids, self.dim), None, where)

    def update(self, lookup, gradient, step, multiplier) -> None:
        rate = self.optimizer.learning_rate * multiplier
        shared = list(self.shared.values())
        ops.update(
            *(self.records, shared, lookup.ids, gradient, lookup.where),
            *(step, rate, self.optimizer, self.average),
        )

    def memory(self) -> np.ndarray:
        return ops.in_place(self.records)

    def touched_since(self, step: int) -> np.ndarray:
        """As Table.touched_since, in place."""
        last = ops.in_place(self.records)[:, -1]
        parts = range(0, self.rows, _SCAN_ROWS)

        def touched(start: int) -> np.ndarray:
            return start + np.flatnonzero(last[start : start + _SCAN_ROWS] > step)

        threads = len(os.sched_getaffinity(0))
        return np.concatenate([np.zeros(0, np.int64), *in_order(touched, parts, threads)])

    def snapshot(self, ids: np.ndarray | None, piece: int, limit: int, beside=None) -> RecordSnapshot:
        return RecordSnapshot(self.records, ids, piece, limit, beside)
