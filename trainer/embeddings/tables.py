"""The table interface, and its implementation on row records.

A row is one record, `[weight | slots | average | last step]`: one place in memory, so that a training step
is one gather and one scatter of records with pure row mathematics between (see docs/decisions.md).
"""

import abc
import hashlib
from typing import NamedTuple

import tensorflow as tf

# Rows are initialised, read and written in pieces of this many, so that nothing doubles a table in memory.
CHUNK_ROWS = 1 << 18


class Lookup(NamedTuple):
    """Rows fetched for one step."""

    ids: tf.Tensor
    """int64 [u], distinct."""
    weight: tf.Tensor
    """float32 [u, dim]: what the model differentiates."""
    record: tf.Tensor | None
    """float32 [u, width] under `rows`, None under other engines."""


class Table(tf.Module, abc.ABC):
    """An embedding table with its optimizer's slots and its average.

    Attributes:
      rows, dim: shape of the weights.
      optimizer: RowOptimizer.
      average: polyak rule or None.
    """

    engine: str

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name=f"table_{name}")
        self.label, self.rows, self.dim = name, rows, dim
        self.optimizer, self.average = optimizer, average
        self.parts = [("weight", dim), *zip(optimizer.slot_names, optimizer.slot_widths(dim), strict=True)]
        if average is not None:
            self.parts += [("average", dim), ("last_step", 1)]
        self.width = sum(width for _, width in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of weights, slots and average."""
        return self.rows * self.width * 4

    @property
    def storage(self) -> "Table":
        """The table whose records are saved: this one, unless its rows are made of others."""
        return self

    def served(self, weights, ids):
        """Rows float32 [n, dim] of ids int64 [n], given the weights [storage rows, storage dim] to serve."""
        return tf.gather(weights, ids)

    @abc.abstractmethod
    def lookup(self, ids) -> Lookup:
        """Fetches distinct rows, ids int64 [u], for training."""

    @abc.abstractmethod
    def update(self, lookup: Lookup, gradient, step, multiplier) -> None:
        """One optimizer step on looked-up rows.

        Args:
          lookup: from `lookup`, of this step.
          gradient: float32 [u, dim].
          step: float32 scalar from 1.
          multiplier: float32 scalar from the schedule.
        """

    @abc.abstractmethod
    def read_records(self, ids):
        """Records, float32 [n, width], of ids int64 [n]: the engine-independent form, in `parts` order."""

    @abc.abstractmethod
    def write_records(self, start: int, records) -> None:
        """Overwrites rows start .. start + n with records float32 [n, width]."""

    def read_weights(self, ids, averaged: bool, step):
        """Weights, float32 [n, dim], of ids int64 [n]; averaged: as of `step`, a float32 scalar."""
        records = self.read_records(ids)
        if averaged and self.average is not None:
            return self.average_of(records, step)
        return tf.convert_to_tensor(records[:, : self.dim])

    def average_of(self, records, step):
        """Averages as of `step` (float32 scalar), float32 [n, dim], of records float32 [n, width]."""
        average, last = records[:, -1 - self.dim : -1], records[:, -1:]
        return self.average.catch_up(average, records[:, : self.dim], last, step)

    def chunks(self):
        """(start, stop) of consecutive row ranges of at most CHUNK_ROWS."""
        return [(a, min(a + CHUNK_ROWS, self.rows)) for a in range(0, self.rows, CHUNK_ROWS)]

    def initialize(self, stddev: float, seed: int, zero_row: int | None = None) -> None:
        """Normal weights from a stateless generator: equal for equal seed and name, whatever the engine.

        `zero_row` starts at zero: the out-of-vocabulary row, which training may never touch, so that unknown
        users and items are scored by what is known of the other side, not by noise.
        """
        key = int.from_bytes(hashlib.sha256(self.label.encode()).digest()[:4], "big")
        for start, stop in self.chunks():
            chunk_seed = [seed + key, start]
            weight = stddev * tf.random.stateless_normal([stop - start, self.dim], seed=chunk_seed)
            if zero_row is not None and start <= zero_row < stop:
                weight = tf.tensor_scatter_nd_update(weight, [[zero_row - start]], tf.zeros([1, self.dim]))
            parts = [weight, *self.optimizer.initial_slots(weight)]
            if self.average is not None:
                parts += [weight, tf.zeros([stop - start, 1])]
            self.write_records(start, tf.concat(parts, axis=1))


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
        after = self.stepped(lookup.record, gradient, step, multiplier)
        self.records.scatter_update(tf.IndexedSlices(after, lookup.ids))

    def stepped(self, record, gradient, step, multiplier):
        """Records after a step, float32 [n, width], from those before it and gradients [n, dim]."""
        weight, *parts = tf.split(record, [width for _, width in self.parts], axis=1)
        slots = parts[: len(self.optimizer.slot_names)]
        rate = self.optimizer.learning_rate * multiplier
        after, slots = self.optimizer.row_update(weight, slots, gradient, step, rate)
        if self.average is None:
            return tf.concat([after, *slots], axis=1)
        average = self.average.catch_up(parts[-2], weight, parts[-1], step - 1.0)
        last = tf.fill(tf.shape(parts[-1]), step)
        return tf.concat([after, *slots, self.average.include(average, after, step), last], axis=1)

    def read_records(self, ids):
        # Gather, not slicing: reading a slice of a variable that is scattered into copies all of it.
        return tf.gather(self.records, ids)

    def write_records(self, start, records) -> None:
        assign_rows(self.records, start, records)


def assign_rows(variable: tf.Variable, start: int, values) -> None:
    """Overwrites rows start .. start + n of a variable with values [n, width], in place."""
    # variable[a:b].assign(...) reads the slice first; for that second reader it copies the whole variable.
    stop = start + values.shape[0]
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle, begin=[start], end=[stop], strides=[1], value=values
    )
