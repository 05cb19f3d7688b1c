"""Exact lazy averages of rows in a TPU's embedding engine.

The engine stores no step with a row, and changes rows only by gradients. So the averages of a table are a
second table, trained by SGD with rate 1. The "gradient" that brings a row's average up to date is

    (average - weight) share(k) / count

k is the number of steps since the average was last updated, during which the weight was constant; `count` is
the number of occurrences of the row in the batch, because the engine sums their gradients. If step t touches
a row, its average becomes that of step t - 1, before the weight changes again. The host keeps the last step
of every row and computes share and count from the ids of the whole batch, so averages are exact for any
number of replicas.

For exponential averages this is avg_t = d avg_{t-1} + (1 - d) w_t in closed form; see trainer/averages.py.
"""

import numpy as np
import tensorflow as tf


class Ledger(tf.Module):
    """The last step that touched each row, for a set of tables.

    Args:
      rows: by table name, number of rows.
      average: rule from trainer.averages, or None.
    """

    def __init__(self, rows: dict[str, int], average):
        super().__init__(name="ledger")
        self._average = average
        with tf.device("CPU:0"):
            # If a row was last touched after this step, its average is that of the step before the touch;
            # otherwise it includes the touch.
            self._start = tf.Variable(0, dtype=tf.int32, trainable=False, name="ledger_start")
            self._last = {
                name: tf.Variable(tf.zeros([n], tf.int32), trainable=False, name=f"ledger_{name}")
                for name, n in rows.items()
            }

    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return list(self._last)

    def start(self, step: int) -> None:
        """Declares, after `step`, that the averages of all rows include the rows' last steps."""
        self._start.assign(step)

    def copy(self, other: "Ledger") -> None:
        """Copies the state of another ledger of the same tables."""
        self._start.assign(other._start)
        for name, last in self._last.items():
            last.assign(other._last[name])

    def last_steps(self, name: str, ids):
        """Last steps that touched rows, int32 [n], 0 if none did, for ids int64 [n]."""
        return tf.gather(self._last[name], ids)

    def write(self, name: str, ids, steps) -> None:
        """Overwrites the last steps, [n], of distinct ids int64 [n]."""
        self._last[name].scatter_update(tf.IndexedSlices(tf.cast(steps, tf.int32), ids))

    def touch(self, name: str, ids, step) -> None:
        """Records that `step` (int32 scalar) touches rows; ids integer [n], which may repeat."""
        self._last[name].scatter_update(tf.IndexedSlices(tf.fill(tf.shape(ids), step), ids))

    def shares(self, name: str, ids, step):
        """Factors of the averages' gradients, float32 as ids; call it before `touch` for the same step.

        Args:
          name: of the table.
          ids: int32 [n], those of the whole batch; may repeat.
          step: int32 scalar.
        """
        last = tf.gather(self._last[name], ids)
        stands = tf.where(last > self._start, last - 1, last)
        share = self._average.share(tf.cast(stands, tf.float32), tf.cast(step - 1, tf.float32))
        _, where, count = tf.unique_with_counts(ids)
        return share / tf.cast(tf.gather(count, where), tf.float32)

    def averages(self, name: str, ids: np.ndarray, weight: np.ndarray, average: np.ndarray) -> np.ndarray:
        """Averages as of each row's last step, as in checkpoints, from those in the second table.

        Args:
          name: of the table.
          ids: int64 [n].
          weight, average: float32 [n, dim], the rows of the two tables.
        """
        last = tf.gather(self._last[name], ids)[:, None]
        included = self._average.include(average, weight, tf.cast(last, tf.float32))
        return tf.where(last > self._start, included, average).numpy()
