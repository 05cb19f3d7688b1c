"""What becomes of a record of the run that another starts from.

weight   its weight, or its average as of the last step of that run, by which evaluation and export go
slots    as they are, or as those of a new row. Slots that hold a step are moved to the new run's clock, on
         which the other run's last step is 0
average  begins at the weight
last     0: no step of the new run has touched the row
"""

import numpy as np
import tensorflow as tf

from trainer.averages import make_average
from trainer.embeddings.base import Table
from trainer.embeddings.engines.stored import mean_weights
from trainer.warm_start.source import Source


class RecordRule:
    """Turns records of a source into those of a table.

    Args:
      source: the run to start from.
      table: name.
      storage: where the records will be.
      averaged: whether the source's averages are taken.
      keep_slots: whether the source's slots are kept.
      tail: rows of the checkpoints whose mean is the average; empty: records hold it.
    """

    def __init__(
        self, source: Source, table: str, storage: Table, averaged: bool, keep_slots: bool, tail: list
    ):
        parts = source.layouts[table].parts
        stops = np.cumsum([width for _, width in parts])
        self._part = {
            name: slice(int(stop) - width, int(stop))
            for (name, width), stop in zip(parts, stops, strict=True)
        }
        self._storage, self._keep_slots, self._step = storage, keep_slots, source.manifest.step
        self._tail = tail if averaged else []
        self._average = None
        if averaged and "average" in self._part:
            self._average = make_average(source.config.polyak, source.num_steps)

    def __call__(self, start: int, records: np.ndarray) -> tuple[int, np.ndarray]:
        """(start, records float32 [n, width of the table]) from records of the source's rows from `start`
        on."""
        weight = self._weights(start, records)
        parts = [weight, *(self._slots(records) if self._keep_slots else self._new_slots(weight))]
        if self._storage.average is not None:
            parts.append(weight)
        parts.append(np.zeros([len(records), 1], np.float32))
        return start, np.concatenate(parts, axis=1)

    def _weights(self, start: int, records: np.ndarray) -> np.ndarray:
        weight = records[:, self._part["weight"]]
        if self._tail:
            ids = np.arange(start, start + len(records), dtype=np.int64)
            return mean_weights(self._tail, ids, weight.shape[1])
        if self._average is None:
            return weight
        average, last = records[:, self._part["average"]], records[:, self._part["last_step"]]
        with tf.device("CPU:0"):
            return self._average.catch_up(average, weight, last, float(self._step)).numpy()

    def _slots(self, records: np.ndarray) -> list[np.ndarray]:
        optimizer = self._storage.optimizer
        slots = {name: records[:, self._part[name]] for name in optimizer.slot_names}
        for name in optimizer.step_slots:
            if name in slots:
                slots[name] = slots[name] - np.float32(self._step)
        return list(slots.values())

    def _new_slots(self, weight: np.ndarray) -> list[np.ndarray]:
        with tf.device("CPU:0"):
            return [slot.numpy() for slot in self._storage.optimizer.initial_slots(tf.constant(weight))]
