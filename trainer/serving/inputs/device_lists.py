"""Lists of every row of a table, in the served model."""

import tensorflow as tf

from trainer.serving.user_rows import Lists


class DeviceLists(tf.Module):
    """Lists as variables."""

    def __init__(self, lists: Lists, name: str):
        super().__init__(name=name)
        self._splits = tf.Variable(lists.splits, trainable=False, name=f"{name}_splits")
        self._values = tf.Variable(lists.values, trainable=False, name=f"{name}_values")

    def lengths(self, ids):
        """Lengths of the lists of rows int64 [n], int64 [n]."""
        return tf.gather(self._splits, ids + 1) - tf.gather(self._splits, ids)

    def of(self, ids, wanted=True) -> tf.RaggedTensor:
        """The lists of rows int64 [n]; empty unless `wanted`, bool scalar or [n]."""
        start, stop = tf.gather(self._splits, ids), tf.gather(self._splits, ids + 1)
        where = tf.ragged.range(start, tf.where(wanted, stop, start))
        return where.with_values(tf.gather(self._values, where.values))
