"""Exact lazy averages of rows that live in a TPU's embedding engine.

The engine keeps no step beside a row, and moves rows by gradients only. So the average of a table is a second
table under SGD with rate 1, whose "gradient" catches its row up:

    (average - weight) share(k) / count

k are the steps since the average was last caught up, in all of which the weight stood still; `count` is how
often the batch holds the row, because the engine sums its gradients. When a row is touched at step t, its
average then stands at t - 1, the last step before the weight moves again. The host keeps the last step of
every row, and computes share and count from the ids of the whole batch: exact on any number of replicas.

With exponential averages this is avg_t = d avg_{t-1} + (1 - d) w_t in closed form; see trainer/averages.py.
"""

import numpy as np
import tensorflow as tf


class Ledger(tf.Module):
    """The last step that touched each row of some tables.

    Args:
      rows: by table name, number of rows.
      average: rule from trainer.averages, or None.
    """

    def __init__(self, rows: dict[str, int], average):
        super().__init__(name="ledger")
        self._average = average
        with tf.device("CPU:0"):
            # Averages of rows that no step after this one touched stand at the row's last step, others one
            # before it.
            self._start = tf.Variable(0, dtype=tf.int32, trainable=False, name="ledger_start")
            self._last = {
                name: tf.Variable(tf.zeros([n], tf.int32), trainable=False, name=f"ledger_{name}")
                for name, n in rows.items()
            }

    def start(self, step: int) -> None:
        """Begins anew after `step`: averages of all rows stand at the rows' last steps."""
        self._start.assign(step)

    def copy(self, other: "Ledger") -> None:
        """Becomes equal to another ledger of the same tables."""
        self._start.assign(other._start)
        for name, last in self._last.items():
            last.assign(other._last[name])

    def last_steps(self, name: str, ids):
        """Last step that touched rows, int32 [n], 0: none, of ids int64 [n]."""
        return tf.gather(self._last[name], ids)

    def write(self, name: str, ids, steps) -> None:
        """Overwrites the last steps, [n], of distinct ids int64 [n]."""
        self._last[name].scatter_update(tf.IndexedSlices(tf.cast(steps, tf.int32), ids))

    def touch(self, name: str, ids, step) -> None:
        """Notes that `step` (int32 scalar) touches rows, ids integer [n] in any number."""
        self._last[name].scatter_update(tf.IndexedSlices(tf.fill(tf.shape(ids), step), ids))

    def shares(self, name: str, ids, step):
        """What the gradient of the average is multiplied by, float32 as ids, before `step` touches them.

        Args:
          name: of the table.
          ids: int32 [n], all of the batch; ids may repeat.
          step: int32 scalar.
        """
        last = tf.gather(self._last[name], ids)
        stands = tf.where(last > self._start, last - 1, last)
        share = self._average.share(tf.cast(stands, tf.float32), tf.cast(step - 1, tf.float32))
        _, where, count = tf.unique_with_counts(ids)
        return share / tf.cast(tf.gather(count, where), tf.float32)

    def averages(self, name: str, ids: np.ndarray, weight: np.ndarray, average: np.ndarray) -> np.ndarray:
        """Averages as of each row's last step, as checkpoints keep them, from those in the second table.

        Args:
          name: of the table.
          ids: int64 [n].
          weight, average: float32 [n, dim], the two tables' rows.
        """
        last = tf.gather(self._last[name], ids)[:, None]
        included = self._average.include(average, weight, tf.cast(last, tf.float32))
        return tf.where(last > self._start, included, average).numpy()
