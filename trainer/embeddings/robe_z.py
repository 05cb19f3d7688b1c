"""`kind: robe_z`: rows are read from one shared array at hashed places (ROBE-Z).

Block c, of Z values, of row x is M[h(x, c)] .. M[h(x, c) + Z - 1] of the circular array M; see
trainer.embeddings.block_hash for h and its source. Rows and blocks overlap wherever the hash places them, and
the gradient of a value of M is the sum over all blocks of the batch that contain it.

M is stored as aligned chunks of Z values, which are the rows of an ordinary table, so optimizers, averages
and checkpoints need not know of ROBE-Z. A lazy optimizer counts a chunk as touched if a block of the batch
overlaps it; values of the chunk outside all blocks get gradient zero, so momentum still moves them. An
untouched chunk does not change, and its average is caught up when read, exactly like that of a row.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from configs.errors import ConfigError
from configs.sections.tables import RobeZConfig
from trainer.embeddings.base import Embedding, Lookup, Skip, Table
from trainer.embeddings.block_hash import PRIME, BlockHash
from trainer.embeddings.blocks import gather_blocks, sum_blocks
from trainer.embeddings.engines.rows import RecordTable

# Gradients are summed over the whole array if it has at most this many values per value that a batch can look
# up; measured, see docs/decisions.md.
DENSE_RATIO = 1


class RobeLookup(NamedTuple):
    """Rows fetched for one step, with the chunks that contain them."""

    weight: tf.Tensor
    """float32 [u, dim], differentiated by the model."""
    chunks: tf.Tensor
    """int64 [c], distinct: all chunks if dense, the touched ones if sparse."""
    record: tf.Tensor
    """float32 [c, width], records of the chunks."""
    starts: tf.Tensor
    """int32 [u * blocks], starts of the blocks: in the array if dense, in the list of pairs if sparse."""
    halves: tf.Tensor
    """int32 [2 * pairs], places in `chunks` of the pairs' left, then right chunks; empty if dense."""


class RobeZ(Embedding):
    """A compressed embedding.

    Args:
      name: of the table.
      rows: of the embedding.
      options: configs.sections.tables.RobeZConfig.
      optimizer: RowOptimizer.
      average: polyak rule or None.
      batch_size: rows of a training batch; decides between dense and sparse gradients.
      storage_type: Table class for the array; None: RecordTable.

    Attributes:
      dense: whether gradients are summed over the whole array.
    """

    engine = "robe_z"

    def __init__(self, name, rows, options: RobeZConfig, optimizer, average, batch_size, storage_type=None):
        assert options.dim is not None, "configs.defaults fills it in"
        super().__init__(f"robe_{name}", name, rows, options.dim, optimizer, average)
        if rows >= PRIME:
            raise ConfigError(
                f"tables.{name}: robe_z supports fewer than {PRIME:,} rows, not {rows:,}; use fewer rows"
            )
        num_chunks = options.size // options.block
        self._array = (storage_type or RecordTable)(name, num_chunks, options.block, optimizer, average)
        self._hash = BlockHash(name, options.seed, options.size, options.dim, options.block)
        looked_up = min(rows, batch_size) * options.dim
        by_size = options.size <= DENSE_RATIO * looked_up
        self.dense = by_size if options.gradient == "auto" else options.gradient == "dense"

    @property
    def storage(self) -> Table:
        """The array's chunks."""
        return self._array

    @property
    def bytes(self) -> int:
        """Bytes of the array, its slots and its average."""
        return self.storage.bytes

    def initialize(
        self, stddev: float, seed: int, zero_row: int | None = None, skip: Skip = lambda start, stop: False
    ) -> None:
        """As Table.initialize, without the zero row: no row has values of its own."""
        self.storage.initialize(stddev, seed, skip=skip)

    def lookup(self, ids) -> RobeLookup:
        """As Table.lookup."""
        places = tf.cast(self._hash(ids), tf.int32)
        return self._lookup_dense(places) if self.dense else self._lookup_sparse(places)

    def _lookup_dense(self, places) -> RobeLookup:
        block, record = self.storage.dim, self.storage.records.value()
        array = tf.reshape(record[:, :block], [-1])
        # A block that crosses the end of the array continues at its start.
        blocks = gather_blocks(tf.concat([array, array[: block - 1]], axis=0), places, block)
        chunks = tf.range(self.storage.rows, dtype=tf.int64)
        no_pairs = tf.zeros([0], tf.int32)
        return RobeLookup(self._rows_of(blocks), chunks, record, places, no_pairs)

    def _lookup_sparse(self, places) -> RobeLookup:
        block = self.storage.dim
        first, shift = places // block, places % block
        # A block lies in a pair of neighbouring chunks; each pair is assembled once for all its blocks.
        left, pair = tf.unique(first)
        reaches = tf.math.unsorted_segment_max(shift, pair, tf.size(left)) > 0
        right = tf.where(reaches, (left + 1) % self.storage.rows, left)
        chunks, halves = tf.unique(tf.concat([left, right], axis=0))
        chunks = tf.cast(chunks, tf.int64)
        record = self.storage.lookup(chunks).record
        sides = tf.split(tf.gather(record[:, :block], halves), 2, axis=0)
        starts = pair * (2 * block) + shift
        blocks = gather_blocks(tf.reshape(tf.concat(sides, axis=1), [-1]), starts, block)
        return RobeLookup(self._rows_of(blocks), chunks, record, starts, halves)

    def _rows_of(self, blocks):
        """Rows float32 [u, dim] of their blocks float32 [u * blocks, Z]."""
        return tf.reshape(blocks, [-1, self._hash.blocks * self.storage.dim])[:, : self.dim]

    def update(self, lookup: RobeLookup, gradient, step, multiplier) -> None:
        """As Table.update."""
        unused = self._hash.blocks * self.storage.dim - self.dim
        blocks = tf.reshape(tf.pad(gradient, [[0, 0], [0, unused]]), [-1, self.storage.dim])

        update = self._update_dense if self.dense else self._update_sparse
        update(lookup, blocks, step, multiplier)

    def _update_dense(self, lookup, blocks, step, multiplier) -> None:
        block, num_chunks, size = self.storage.dim, self.storage.rows, self._hash.size
        summed = sum_blocks(blocks, lookup.starts, size + block - 1)
        head = summed[: block - 1] + summed[size:]
        gradient = tf.reshape(tf.concat([head, summed[block - 1 : size]], axis=0), [num_chunks, block])
        first, shift = lookup.starts // block, lookup.starts % block
        last = tf.where(shift > 0, (first + 1) % num_chunks, first)
        reached = tf.concat([first, last], axis=0)
        touched = tf.math.unsorted_segment_sum(tf.ones_like(reached), reached, num_chunks) > 0
        after = self.storage.updated(lookup.record, gradient, step, multiplier)
        moved = touched[:, None] | (not self.optimizer.lazy)
        self.storage.records.assign(tf.where(moved, after, lookup.record))

    def _update_sparse(self, lookup, blocks, step, multiplier) -> None:
        block = self.storage.dim
        pairs = tf.size(lookup.halves) // 2
        summed = tf.reshape(sum_blocks(blocks, lookup.starts, pairs * 2 * block), [pairs, 2 * block])
        sides = tf.concat([summed[:, :block], summed[:, block:]], axis=0)
        gradient = tf.math.unsorted_segment_sum(sides, lookup.halves, tf.size(lookup.chunks))
        self.storage.update(
            Lookup(lookup.chunks, lookup.record[:, :block], lookup.record), gradient, step, multiplier
        )

    def read_weights(self, ids, averaged: bool, step):
        """As Table.read_weights; reads only the chunks that contain the rows. Not for use in graphs."""
        block, num_chunks = self.storage.dim, self.storage.rows
        places = self._hash(np.asarray(ids, np.int64))[:, None] + np.arange(block)
        chunk, value = places // block % num_chunks, places % block
        needed = np.zeros(num_chunks, bool)
        needed[chunk] = True
        weights = self.storage.read_weights(np.flatnonzero(needed), averaged, step).numpy()
        return self._rows_of(tf.constant(weights[(np.cumsum(needed) - 1)[chunk], value]))

    def served(self, weights, ids):
        """As Table.served: the array stays compressed; rows are read from it on request."""
        places = self._hash(ids)[:, None] + tf.range(self.storage.dim, dtype=tf.int64)
        return self._rows_of(tf.gather(tf.reshape(weights, [-1]), places % self._hash.size))
