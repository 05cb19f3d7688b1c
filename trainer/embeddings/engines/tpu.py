"""A table whose rows are in a TPU's embedding engine; the host can read them while training pauses."""

import numpy as np
import tensorflow as tf

from trainer.embeddings.base import Table


class TpuTable(Table):
    """Converts between records and the engine's arrays and ledger's steps: checkpoints equal the CPU's."""

    engine = "tpu"

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(name, rows, dim, optimizer, average)
        if self.shared:
            raise NotImplementedError(
                f"tables.{name}: the engine has no place for optimizer state shared by rows"
            )

    def attach(self, engine, ledger, averages: str | None) -> None:
        """Sets where the rows are.

        Args:
          engine: trainer.tpu.engines.base.Engine, which holds a table of this one's name.
          ledger: trainer.tpu.ledger.Ledger.
          averages: name of the engine's table of averages, None without averaging.
        """
        self._engine, self._ledger, self._averages = engine, ledger, averages

    def write_padding(self, row: int) -> None:
        """Writes the row that padding looks up: zero weights, and the slots of an untouched row, because an
        optimizer may divide by a slot."""
        weight = tf.zeros([1, self.dim])
        average = [] if self.average is None else [weight]
        record = tf.concat(
            [weight, *self.optimizer.initial_slots(weight), *average, tf.zeros([1, 1])], axis=1
        )
        self.write_rows(np.array([row]), record)

    def lookup(self, ids):
        raise NotImplementedError("the engine looks up whole batches: see trainer.training.steps.tpu_step")

    def update(self, lookup, gradient, step, multiplier):
        raise NotImplementedError("the engine updates whole batches: see trainer.training.steps.tpu_step")

    def read_records(self, ids):
        ids = np.asarray(ids, np.int64)
        arrays = [self._engine.read(self.label, part, ids) for part in self._engine.parts(self.label)]
        if self.average is not None:
            average = self._engine.read(self._averages, "parameters", ids)
            arrays.append(self._ledger.averages(self.label, ids, arrays[0], average))
        return np.concatenate([*arrays, np.asarray(self.last_steps(ids))[:, None]], axis=1)

    def last_steps(self, ids):
        return tf.cast(self._ledger.last_steps(self.label, ids), tf.float32)

    def write_records(self, start, records) -> None:
        self.write_rows(np.arange(start, start + len(records), dtype=np.int64), records)

    def write_rows(self, ids, records) -> None:
        ids, records = np.asarray(ids, np.int64), np.asarray(records)
        pieces = np.split(records, np.cumsum([width for _, width in self.parts])[:-1], axis=1)
        places: list[tuple[str | None, str]] = [(self.label, part) for part in self._engine.parts(self.label)]
        if self.average is not None:
            places.append((self._averages, "parameters"))
        for (name, part), piece in zip(places, pieces[:-1], strict=True):
            self._engine.write(name, part, ids, piece)
        self._ledger.write(self.label, ids, pieces[-1][:, 0])
