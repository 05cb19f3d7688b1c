"""`engine: tfa`: plain variables under tfa.optimizers.LazyAdam, the reference for `rows`."""

import tensorflow as tf

from configs.errors import ConfigError
from trainer.embeddings.tables import Lookup, Table, assign_rows


class AddonsTable(Table):
    """Weights, average and last step in variables of their own; slots inside the TF-Addons optimizer."""

    engine = "tfa"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        if not hasattr(optimizer, "addons"):
            kind = optimizer.config.kind
            raise ConfigError(f"tables.{name}: engine: tfa has no optimizer {kind}; use engine: rows")
        self.weight = tf.Variable(tf.zeros([rows, dim]), name=f"{name}_weight")
        self.addons = optimizer.addons()
        # Slots exist before the first step, so that a checkpoint can be written into them.
        self.addons._create_all_weights([self.weight])
        self.slots = [self.addons.get_slot(self.weight, slot) for slot in optimizer.slot_names]
        self.extra = []
        if average is not None:
            self.extra = [
                tf.Variable(tf.zeros([rows, width]), trainable=False, name=f"{name}_{part}")
                for part, width in (("average", dim), ("last_step", 1))
            ]

    def lookup(self, ids) -> Lookup:
        return Lookup(ids, tf.gather(self.weight, ids), None)

    def update(self, lookup, gradient, step, multiplier) -> None:
        self.addons.iterations.assign(tf.cast(step, tf.int64) - 1)
        self.addons.learning_rate.assign(self.optimizer.learning_rate * multiplier)
        self.addons.apply_gradients([(tf.IndexedSlices(gradient, lookup.ids), self.weight)])
        if self.average is None:
            return
        average, last = (tf.gather(variable, lookup.ids) for variable in self.extra)
        average = self.average.catch_up(average, lookup.weight, last, step - 1.0)
        average = self.average.include(average, tf.gather(self.weight, lookup.ids), step)
        self.extra[0].scatter_update(tf.IndexedSlices(average, lookup.ids))
        self.extra[1].scatter_update(tf.IndexedSlices(tf.fill(tf.shape(last), step), lookup.ids))

    def read_records(self, ids):
        parts = [self.weight, *self.slots, *self.extra]
        return tf.concat([tf.gather(part, ids) for part in parts], axis=1)

    def write_records(self, start, records) -> None:
        values = tf.split(records, [width for _, width in self.parts], axis=1)
        for variable, value in zip([self.weight, *self.slots, *self.extra], values, strict=True):
            assign_rows(variable, start, value)
