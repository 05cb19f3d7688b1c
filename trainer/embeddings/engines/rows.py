"""`engine: rows`: row records in one variable, with TensorFlow's own operations."""

import tensorflow as tf

from trainer.embeddings.base import Lookup, Table


class RecordTable(Table):
    """`engine: rows`: one variable of records."""

    engine = "rows"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        self.records = tf.Variable(tf.zeros([rows, self.width]), trainable=False, name=f"{name}_records")

    def lookup(self, ids) -> Lookup:
        record = tf.gather(self.records, ids)
        return Lookup(ids, record[:, : self.dim], record)

    def update(self, lookup, gradient, step, multiplier) -> None:
        if not self.optimizer.lazy:
            self._update_all(lookup.ids, gradient, step, multiplier)
            return
        after = self.updated(lookup.record, gradient, step, multiplier)
        self.records.scatter_update(tf.IndexedSlices(after, lookup.ids))

    def updated(self, record, gradient, step, multiplier):
        """Records after a step, float32 [n, width], from records before it and gradients [n, dim]."""
        after, shared = self.stepped(record, gradient, step, multiplier)
        for variable, value in zip(self.shared.values(), shared, strict=True):
            variable.assign(value)
        return after

    def stepped(self, record, gradient, step, multiplier) -> tuple:
        """As `updated`, and the values of `shared` after the step, which are not assigned."""
        weight, *parts = tf.split(record, [width for _, width in self.parts], axis=1)
        slots = parts[: len(self.optimizer.slot_names)]
        rate = self.optimizer.learning_rate * multiplier
        shared = [variable.read_value() for variable in self.shared.values()]
        after, slots, shared = self.optimizer.step_rows(weight, slots, gradient, step, rate, shared)
        last = tf.fill(tf.shape(parts[-1]), step)
        if self.average is None:
            return tf.concat([after, *slots, last], axis=1), shared
        average = self.average.catch_up(parts[-2], weight, parts[-1], step - 1.0)
        average = self.average.include(average, after, step)
        return tf.concat([after, *slots, average, last], axis=1), shared

    def _update_all(self, ids, gradient, step, multiplier) -> None:
        """A step of an optimizer that is not lazy: updates all rows, by chunks; missing gradients are 0."""
        for start, stop in self.chunks():
            here = tf.where((ids >= start) & (ids < stop))[:, 0]
            rows = tf.range(start, stop, dtype=tf.int64)
            spread = tf.scatter_nd(
                tf.gather(ids, here)[:, None] - start, tf.gather(gradient, here), [stop - start, self.dim]
            )
            after = self.updated(tf.gather(self.records, rows), spread, step, multiplier)
            self.records.scatter_update(tf.IndexedSlices(after, rows))

    def read_records(self, ids):
        # Gather, not slicing: slicing a variable that is also scattered into copies all of it.
        return tf.gather(self.records, ids)

    def last_steps(self, ids):
        columns = tf.fill(tf.shape(ids), tf.constant(self.width - 1, tf.int64))
        return tf.gather_nd(self.records, tf.stack([ids, columns], axis=1))

    def write_records(self, start, records) -> None:
        assign_rows(self.records, start, records)

    def write_rows(self, ids, records) -> None:
        self.records.scatter_update(tf.IndexedSlices(records, ids))


def assign_rows(variable: tf.Variable, start: int, values) -> None:
    """Overwrites rows start .. start + n of a variable with values [n, width], in place."""
    # Not variable[a:b].assign(...), which reads the slice first and so copies the whole variable.
    stop = start + values.shape[0]
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle, begin=[start], end=[stop], strides=[1], value=values
    )
