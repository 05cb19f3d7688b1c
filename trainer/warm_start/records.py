"""What becomes of a record of the run that another starts from.

weight   its weight, or its average as of the last step of that run, by which evaluation and export go
slots    as they are, or as those of a new row. Slots that hold a step are moved to the new run's clock, on
         which the other run's last step is 0
average  begins at the weight
last     0: no step of the new run has touched the row
"""

import functools

import numpy as np
import tensorflow as tf

from trainer.averages import Uniform, make_average
from trainer.checkpoints.reader import Checkpoint
from trainer.checkpoints.rows import stream_rows
from trainer.embeddings.base import Table
from trainer.embeddings.engines.stored import mean_weights
from trainer.kernels import ops
from trainer.warm_start.placement import Placement
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
        self._table = table
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

    def transfer(self, chain: list[Checkpoint], placement: Placement) -> None:
        """Writes the records of all rows that continue one of the source, range by range.

        Args:
          chain: the source's checkpoint, as stream_rows.
          placement: where they go.

        Raises:
          DamagedCheckpoint: a file is not as it was written.
        """
        memory = self._storage.memory() if self._keep_slots and not self._tail else None
        if memory is None:
            for start, records in stream_rows(chain, self._table, self):
                placement.write(self._storage, start, records)
            return
        for _ in stream_rows(chain, self._table, functools.partial(self._write, memory, placement)):
            pass

    def _write(self, memory: np.ndarray, placement: Placement, start: int, records: np.ndarray) -> None:
        """As __call__, by a kernel that writes into the table itself: without it, making records and copying
        them takes longer than reading them."""
        factor, stop = self._factor(records), start + len(records)
        self._start_rows(memory, placement.rows(start, stop), records, factor)
        more, sources = placement.further(start, stop)
        if more.size:
            here = sources - start
            self._start_rows(memory, more, records[here], None if factor is None else factor[here])

    def _start_rows(
        self, memory: np.ndarray, rows: np.ndarray, records: np.ndarray, factor: np.ndarray | None
    ) -> None:
        optimizer, dim = self._storage.optimizer, self._storage.dim
        average = None
        if factor is not None:
            onto_average = isinstance(self._average, Uniform)
            average = self._part["average"].start, factor, onto_average
        ops.start_rows(
            *(memory, rows, records, dim, sum(optimizer.slot_widths(dim))),
            step=self._step,
            clocks=[self._part[name].start - dim for name in optimizer.step_slots if name in self._part],
            average=average,
        )

    def _factor(self, records: np.ndarray) -> np.ndarray | None:
        """Of the difference between averages and weights, float32 [n]; computed for a whole piece, because
        tf.exp rounds a value by its place in a vector."""
        if self._average is None:
            return None
        with tf.device("CPU:0"):
            last = records[:, self._part["last_step"]]
            return np.asarray(self._average.factor(last, float(self._step)))[:, 0]

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
