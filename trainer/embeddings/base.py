"""What models see of embedding tables, and the interface of tables of row records.

A row is one record, `[weight | slots | average | last step]`, contiguous in memory, so a training step is one
gather and one scatter of records with pure row mathematics in between (see docs/decisions.md). The last step
that updated the row is always stored, because checkpoints select rows by it.
"""

import abc
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

# Rows are initialised, read and written in pieces of this size, so no operation needs a table's memory twice:
# a few pieces of 129 float32 values per row, 34 MB each, stay far below 512 MB.
CHUNK_ROWS = 1 << 16


Skip = Callable[[int, int], bool]
"""Of a range of rows, start and stop, whether it is left out."""


class Lookup(NamedTuple):
    """Rows fetched for one step."""

    ids: tf.Tensor
    """int64 [u], distinct."""
    weight: tf.Tensor
    """float32 [u, dim], differentiated by the model; [n, dim] from `lookup_each`."""
    record: tf.Tensor | None
    """float32 [u, width] from engine `rows`; None from other engines."""
    where: tf.Tensor | None = None
    """int32 [n], from `lookup_each`: places of the requested ids in `ids`."""


class RowsElsewhere(Protocol):
    """What writes and reads pieces of a table's checkpoints where its rows are, on other hosts."""

    hosts: int
    """How many of them write at the same time."""

    def piece(self, number: int, start: int, stop: int, ids: np.ndarray | None) -> Any:
        """The trainer.checkpoints.files.Piece of rows start .. stop, or of `ids`, int64 ascending."""

    def load(self, checkpoint: Any, number: int, start: int, records: str, ids: str | None) -> None:
        """Overwrites the rows of a piece of a trainer.checkpoints.reader.Checkpoint.

        Args:
          checkpoint: the checkpoint.
          number: index of the piece.
          start: its first row, if it has no ids.
          records, ids: names of its files.
        """


class Snapshot(Protocol):
    """Records as of one moment, while steps go on."""

    def read(self, number: int) -> np.ndarray:
        """The records of a piece, float32 [rows, width]; each piece is read once."""

    def end(self) -> float:
        """Frees what it holds; returns the seconds in which steps waited for it."""


class Embedding(tf.Module, abc.ABC):
    """An embedding table as models see it: rows by id, however they are stored.

    Args:
      name: of the module.
      label: name of the table.
      rows, dim: shape of the weights.
      optimizer: trainer.optimizers.base.RowOptimizer.
      average: polyak rule (trainer.averages) or None.

    Attributes:
      takes_repeats: whether there is `lookup_each`.
    """

    engine: str
    takes_repeats = False

    def __init__(self, name: str, label: str, rows: int, dim: int, optimizer, average):
        super().__init__(name=name)
        self.label, self.rows, self.dim = label, rows, dim
        self.optimizer, self.average = optimizer, average

    @property
    @abc.abstractmethod
    def storage(self) -> "Table":
        """The table whose records are saved: this one, unless its rows are computed from others."""

    @property
    @abc.abstractmethod
    def bytes(self) -> int:
        """Bytes of weights, optimizer state, average and last step."""

    @abc.abstractmethod
    def initialize(
        self, stddev: float, seed: int, zero_row: int | None = None, skip: Skip = lambda start, stop: False
    ) -> None:
        """Sets the initial weights.

        Args:
          stddev: of the normal distribution.
          seed: of the run.
          zero_row: starts at zero, if rows have values of their own; None: none does.
          skip: whether rows start .. stop of the storage need no initial values, because they will be
            overwritten.
        """

    @abc.abstractmethod
    def lookup(self, ids) -> Any:
        """Fetches distinct rows, ids int64 [u], for training; `weight` of the result is float32 [u, dim]."""

    def lookup_each(self, ids) -> Any:
        """Fetches a row for each of ids int64 [n], which may repeat; `update` sums their gradients."""
        raise NotImplementedError(f"engine {self.engine} looks up distinct ids only")

    @abc.abstractmethod
    def update(self, lookup, gradient, step, multiplier) -> None:
        """One optimizer step on looked-up rows.

        Args:
          lookup: from `lookup` or `lookup_each`, of this step.
          gradient: float32, in the shape of `lookup.weight`.
          step: float32 scalar from 1.
          multiplier: float32 scalar from the schedule.
        """

    @abc.abstractmethod
    def read_weights(self, ids, averaged: bool, step):
        """Weights, float32 [n, dim], of ids int64 [n]; averaged: as of `step`, a float32 scalar."""

    @abc.abstractmethod
    def served(self, weights, ids):
        """Rows float32 [n, dim] of ids int64 [n], from weights [storage rows, storage dim] to serve."""

    def chunks(self) -> list[tuple[int, int]]:
        """(start, stop) of consecutive row ranges of at most CHUNK_ROWS."""
        return [(a, min(a + CHUNK_ROWS, self.rows)) for a in range(0, self.rows, CHUNK_ROWS)]


class Table(Embedding):
    """An embedding whose rows are records, with its optimizer's slots and its average.

    Attributes:
      parts: (name, values) of each part of a record, in order.
      width: values of a record.
      shared: state of the optimizer that all rows share, variables by name.
      elsewhere: set if other hosts hold the rows; None: this process does.
    """

    elsewhere: RowsElsewhere | None = None

    def __init__(self, name, rows, dim, optimizer, average):
        super().__init__(f"table_{name}", name, rows, dim, optimizer, average)
        self.parts = [("weight", dim), *zip(optimizer.slot_names, optimizer.slot_widths(dim), strict=True)]
        if average is not None:
            self.parts.append(("average", dim))
        self.parts.append(("last_step", 1))
        self.width = sum(width for _, width in self.parts)
        self.shared = {
            part: tf.Variable(value, trainable=False, name=f"{name}_{part}")
            for part, value in zip(optimizer.shared_names, optimizer.initial_shared(dim), strict=True)
        }

    @property
    def bytes(self) -> int:
        average = 0 if self.average is None else self.dim
        return self.rows * (self.dim + average + 1) * 4 + self.optimizer_bytes

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state: slots of all rows and what they share."""
        slots = self.rows * sum(self.optimizer.slot_widths(self.dim))
        return 4 * (slots + sum(variable.shape.num_elements() for variable in self.shared.values()))

    @property
    def storage(self) -> "Table":
        return self

    def served(self, weights, ids):
        return tf.gather(weights, ids)

    @abc.abstractmethod
    def read_records(self, ids):
        """Records float32 [n, width] of ids int64 [n]: the form common to all engines, in `parts` order."""

    @abc.abstractmethod
    def write_records(self, start: int, records) -> None:
        """Overwrites rows start .. start + n with records float32 [n, width]."""

    @abc.abstractmethod
    def write_rows(self, ids, records) -> None:
        """Overwrites the rows of distinct ids int64 [n] with records float32 [n, width]."""

    def memory(self) -> np.ndarray | None:
        """All records, float32 [rows, width], in place, to be written by any thread before the first step;
        None: the engine keeps them where this process cannot write them."""
        return None

    def snapshot(self, ids: np.ndarray | None, piece: int, limit: int, beside: Any = None) -> Snapshot | None:
        """The records as of now, in pieces, to be read by another thread while steps update them.

        Args:
          ids: rows, int64 ascending; None: all.
          piece: rows of a piece; the last one may have fewer.
          limit: bytes that it may hold.
          beside: another table's, of the same moment: both share its limit.

        Returns:
          None: the engine has nothing of the kind.
        """
        return None

    def touched_since(self, step: int) -> np.ndarray:
        """Ids of rows that a step after `step` updated, int64 ascending; reads last steps only.

        Args:
          step: 0: all rows that were ever updated.
        """
        found = [np.zeros(0, np.int64)]
        for start, stop in self.chunks():
            last = np.asarray(self.last_steps(tf.range(start, stop, dtype=tf.int64)))
            found.append(start + np.flatnonzero(last > step))
        return np.concatenate(found)

    def last_steps(self, ids):
        """The last step that updated each of ids int64 [n], float32 [n]; 0: none."""
        return self.read_records(ids)[:, -1]

    def read_weights(self, ids, averaged: bool, step):
        records = self.read_records(ids)
        if averaged and self.average is not None:
            return self.average_of(records, step)
        return tf.convert_to_tensor(records[:, : self.dim])

    def all_weights(self, averaged: bool, step) -> Iterator[tuple[int, Any]]:
        """(first row, weights as of read_weights) of consecutive ranges of all rows."""
        for start, stop in self.chunks():
            yield start, self.read_weights(np.arange(start, stop, dtype=np.int64), averaged, step)

    def average_of(self, records, step):
        """Averages as of `step` (float32 scalar), float32 [n, dim], of records float32 [n, width]."""
        average, last = records[:, -1 - self.dim : -1], records[:, -1:]
        return self.average.catch_up(average, records[:, : self.dim], last, step)

    def initialize(
        self, stddev: float, seed: int, zero_row: int | None = None, skip: Skip = lambda start, stop: False
    ) -> None:
        """Normal weights from a stateless generator: equal for equal seed and name under every engine.

        `zero_row`, the out-of-vocabulary row, starts at zero. Training may never touch it, and then unknown
        users and items are scored by what is known of the other side, not by noise.
        """
        for start, stop in self.chunks():
            if not skip(start, stop):
                self.write_records(start, self.initial_records(start, stop, stddev, seed, zero_row))
        for variable, value in zip(
            self.shared.values(), self.optimizer.initial_shared(self.dim), strict=True
        ):
            variable.assign(value)

    def initial_records(self, start, stop, stddev: float, seed: int, zero_row: int | None):
        """Records of rows start .. stop before the first step, float32 [stop - start, width].

        Args:
          start, stop: a range of `chunks`, on which the values depend; int, or int64 scalars.
          stddev, seed, zero_row: as `initialize`.
        """
        key = int.from_bytes(hashlib.sha256(self.label.encode()).digest()[:4], "big")
        chunk_seed = tf.stack([tf.constant(seed + key, tf.int64), tf.cast(start, tf.int64)])
        weight = stddev * tf.random.stateless_normal([stop - start, self.dim], seed=chunk_seed)
        if zero_row is not None:
            weight = tf.where((tf.range(start, stop) == zero_row)[:, None], 0.0, weight)
        parts = [weight, *self.optimizer.initial_slots(weight)]
        if self.average is not None:
            parts.append(weight)
        parts.append(tf.zeros([stop - start, 1]))
        return tf.concat(parts, axis=1)

    def row_norms(self, ids, step):
        """Of ids int64 [n], float32 [n, 3]: the norm of the weight, that of the average as of `step` (float32
        scalar) minus the weight, 0 without averages, and the last step that updated the row."""
        records = self.read_records(ids)
        weight = records[:, : self.dim]
        distance = self.average_of(records, step) - weight if self.average is not None else 0.0 * weight
        return tf.concat(
            [
                tf.norm(weight, axis=1, keepdims=True),
                tf.norm(distance, axis=1, keepdims=True),
                records[:, -1:],
            ],
            axis=1,
        )
