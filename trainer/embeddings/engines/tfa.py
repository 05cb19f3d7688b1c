"""`engine: tfa`: plain variables with tfa.optimizers.LazyAdam, the reference for `rows`."""

import tensorflow as tf

from configs.errors import ConfigError
from trainer.embeddings.base import Lookup, Table
from trainer.embeddings.engines.rows import assign_rows


class AddonsTable(Table):
    """Weights, average and last step in separate variables; slots inside the TF-Addons optimizer."""

    engine = "tfa"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        if not hasattr(optimizer, "addons"):
            kind = optimizer.config.kind
            raise ConfigError(
                f"tables.{name}: engine: tfa does not support optimizer {kind}; use engine: rows"
            )
        self.weight = tf.Variable(tf.zeros([rows, dim]), name=f"{name}_weight")
        self.addons = optimizer.addons()
        # Created before the first step, so that restoring a checkpoint can assign them.
        self.addons._create_all_weights([self.weight])
        self.slots = [self.addons.get_slot(self.weight, slot) for slot in optimizer.slot_names]
        self.extra = [
            tf.Variable(tf.zeros([rows, width]), trainable=False, name=f"{name}_{part}")
            for part, width in self.parts[1 + len(self.slots) :]
        ]

    def lookup(self, ids) -> Lookup:
        return Lookup(ids, tf.gather(self.weight, ids), None)

    def update(self, lookup, gradient, step, multiplier) -> None:
        self.addons.iterations.assign(tf.cast(step, tf.int64) - 1)
        self.addons.learning_rate.assign(self.optimizer.learning_rate * multiplier)
        self.addons.apply_gradients([(tf.IndexedSlices(gradient, lookup.ids), self.weight)])
        last = tf.gather(self.extra[-1], lookup.ids)
        if self.average is not None:
            average = tf.gather(self.extra[0], lookup.ids)
            average = self.average.catch_up(average, lookup.weight, last, step - 1.0)
            average = self.average.include(average, tf.gather(self.weight, lookup.ids), step)
            self.extra[0].scatter_update(tf.IndexedSlices(average, lookup.ids))
        self.extra[-1].scatter_update(tf.IndexedSlices(tf.fill(tf.shape(last), step), lookup.ids))

    def read_records(self, ids):
        parts = [self.weight, *self.slots, *self.extra]
        return tf.concat([tf.gather(part, ids) for part in parts], axis=1)

    def last_steps(self, ids):
        return tf.gather(self.extra[-1], ids)[:, 0]

    def write_records(self, start, records) -> None:
        for variable, value in self._split(records):
            assign_rows(variable, start, value)

    def write_rows(self, ids, records) -> None:
        for variable, value in self._split(records):
            variable.scatter_update(tf.IndexedSlices(value, ids))

    def _split(self, records):
        """Pairs of a variable and its columns of records."""
        values = tf.split(records, [width for _, width in self.parts], axis=1)
        return zip([self.weight, *self.slots, *self.extra], values, strict=True)
