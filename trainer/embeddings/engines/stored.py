"""A table that stays on disk: reads records from a checkpoint, for evaluation and export."""

import numpy as np
import tensorflow as tf

from trainer.embeddings.base import Table


def mean_weights(stored: list, ids: np.ndarray, dim: int) -> np.ndarray:
    """Means of the weights in several checkpoints, float32 [n, dim].

    Args:
      stored: sources of rows, see StoredTable.open.
      ids: int64 [n].
      dim: width of the weights.
    """
    total = sum(rows.read(ids)[:, :dim].astype(np.float64) for rows in stored)
    return np.asarray(total / len(stored), np.float32)


class StoredTable(Table):
    """Read-only; only requested rows occupy memory, beside the page cache."""

    engine = "stored"

    def open(self, stored) -> None:
        """Sets the source of rows, as trainer.checkpoints.rows.StoredRows."""
        self._stored = stored
        self._tail: list = []

    def open_tail(self, stored: list) -> None:
        """Sets the rows of several checkpoints, as `open`; averaged weights are their mean."""
        self._tail = stored

    def read_weights(self, ids, averaged, step):
        if not averaged or not self._tail:
            return super().read_weights(ids, averaged, step)
        return tf.constant(mean_weights(self._tail, np.asarray(ids), self.dim))

    def all_weights(self, averaged, step):
        if averaged and self._tail:
            yield from super().all_weights(averaged, step)
            return

        def weights(start: int, records: np.ndarray) -> tuple[int, tf.Tensor]:
            if averaged and self.average is not None:
                return start, self.average_of(records, step)
            return start, tf.constant(records[:, : self.dim])

        yield from self._stored.stream(weights)

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
