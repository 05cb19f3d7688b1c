"""A table that stays on disk: reads records from a checkpoint, for evaluation and export."""

import numpy as np
import tensorflow as tf

from trainer.embeddings.base import Table


class StoredTable(Table):
    """Read-only; only requested rows occupy memory, beside the page cache."""

    engine = "stored"

    def open(self, stored) -> None:
        """Sets the source of rows: `stored.read(ids int64 [n])` returns records, float32 [n, width]."""
        self._stored = stored
        self._tail: list = []

    def open_tail(self, stored: list) -> None:
        """Sets the rows of several checkpoints, as `open`; averaged weights are their mean."""
        self._tail = stored

    def read_weights(self, ids, averaged, step):
        if not averaged or not self._tail:
            return super().read_weights(ids, averaged, step)
        total = sum(rows.read(np.asarray(ids))[:, : self.dim].astype(np.float64) for rows in self._tail)
        return tf.constant(total / len(self._tail), tf.float32)

    def read_records(self, ids):
        return self._stored.read(np.asarray(ids))

    def lookup(self, ids):
        raise NotImplementedError("a stored table cannot be trained")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("a stored table cannot be trained")

    def write_records(self, start, records):
        raise NotImplementedError("a stored table cannot be written")

    def write_rows(self, ids, records):
        raise NotImplementedError("a stored table cannot be written")
