"""Training input: (seed, epoch, step) fixes the batch, and any step can be the start.

Records are columnar blocks, shuffled when they were written. An epoch reads the files in an order drawn from
(seed, epoch), FILES_AT_ONCE of them in parallel, one block of each in turn. WINDOW_BLOCKS blocks are joined,
their rows permuted by (seed, epoch, window), and cut into batches. How many rows of every block train is
known before (trainer/data/train_rows.py), so the place of any step is computed, not replayed: only the blocks
before it in its own group of files are skipped, without parsing them. What lives in a catalog is looked up
for each batch.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from configs.columns import label_column
from configs.manifest import Dataset
from configs.sections.roles import PLANTED_LABEL
from trainer.data.chain.parsing import OWNERS, chain_ids, parse_chain
from trainer.data.lookups import FeatureLookup, table_rows
from trainer.data.train_rows import DAY, TrainRows, positive_rows
from trainer.runtime import untuned

FILES_AT_ONCE = 8
_MIXED_SEED = 300  # added to the run's seed where a batch is divided into groups
WINDOW_BLOCKS = 16

# Without AutoGraph: converting the functions takes as long as tracing them, and none needs it.
_plain = tf.autograph.experimental.do_not_convert


class TrainData:
    """Batches of the rows that train.

    Args:
      dataset: the manifest, with its path.
      batch_size: rows per batch; an epoch drops the rows that do not fill its last batch.
      seed: of the order of rows.
      positives_only: read positive rows only.
      names: features to read; None: all that live in records.
      lookups: of features that live in catalogs; see trainer.data.lookups.catalog_lookups.
      rows: which rows train; None: those of a run without a window.
      half_life_days: as train.half_life_days.
      group: as model.loss.group: each batch is permuted by (seed, epoch, step), so that the next `group` rows
        are a random group. None: rows stay as the windows give them.

    Attributes:
      rows: which rows train.

    Raises:
      DataError: fewer rows than a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        positives_only: bool = False,
        names: Iterable[str] | None = None,
        lookups: Mapping[str, FeatureLookup] | None = None,
        rows: TrainRows | None = None,
        half_life_days: float | None = None,
        group: int | None = None,
    ):
        wanted = dataset.features if names is None else set(names)
        in_records = {n: info for n, info in dataset.features.items() if info.lives == "records"}
        self._features = {name: info for name, info in in_records.items() if name in wanted}
        self._lookups = lookups or {}
        self.rows = rows = TrainRows(dataset, positives_only) if rows is None else rows
        self._dataset, self._batch_size, self._seed = dataset, batch_size, seed
        self._half_life = half_life_days and half_life_days * DAY
        self._mixes = group is not None and group < batch_size
        self._paths = [rows.parts[part].dataset.file_path(file) for part, file in rows.files]
        self._parts = [part for part, _ in rows.files]
        sizes = [file.rows for _, file in rows.files]
        self._starts = np.cumsum([0, *sizes])[: len(sizes)]  # of each file's rows among all
        self._block_rows = [rows.parts[part].dataset.block_rows for part, _ in rows.files]
        self.steps_per_epoch = rows.steps_per_epoch(batch_size)
        self._ids = chain_ids(rows.layers, self._features)
        # A tensor made here, so that no graph holds a copy of it.
        self._ends = tf.constant(rows.ends) if rows.sequences else None

    def batches(self, start_step: int) -> tf.data.Dataset:
        """All batches from step `start_step` (0: the first) on, endlessly.

        Returns:
          Dataset of dicts: timestamp: int64 [batch]; label: float32 [batch]; and, if the dataset has them,
          user, item: int64 [batch], table rows; label/<name>: float32 [batch], NaN where it is not known;
          weight, features as trainer.data.features.model_inputs, and history int64 [batch, history_length]
          padded with -1.
        """
        epoch, step = divmod(start_step, self.steps_per_epoch)
        place = epoch, *self._place(epoch, step * self._batch_size), step
        first = tf.data.Dataset.from_tensors(tuple(tf.constant(number, tf.int64) for number in place))
        later = tf.data.Dataset.range(epoch + 1, np.iinfo(np.int64).max)
        places = first.concatenate(later.map(lambda number: (number, *[tf.zeros([], tf.int64)] * 5)))
        return untuned(places.flat_map(_plain(self._epoch)).prefetch(4))

    def _order(self, epoch: tf.Tensor) -> tf.Tensor:
        """File indices of an epoch, in order of reading."""
        files = tf.range(len(self._paths))
        return tf.random.experimental.stateless_shuffle(files, seed=tf.stack([self._seed, epoch]))

    def _place(self, epoch: int, row: int) -> tuple[int, int, int, int]:
        """(groups of files before the window, blocks of the next group before it, its index, rows of it to
        skip) for a row of an epoch."""
        starts = self._window_starts(self._blocks(epoch))
        window = int(np.searchsorted(starts, row, side="right")) - 1
        return *self._skippable(epoch, window * WINDOW_BLOCKS), window, row - int(starts[window])

    def _window_starts(self, blocks: np.ndarray) -> np.ndarray:
        """Rows of an epoch before each window, int64."""
        return np.concatenate([[0], np.cumsum(blocks[:, 2])])[:-1:WINDOW_BLOCKS]

    def _blocks(self, epoch: int) -> np.ndarray:
        """(file, index in the file, rows that train) of each block of an epoch in reading order, int64
        [blocks, 3]."""
        order = self._order(tf.constant(epoch, tf.int64)).numpy()
        found = []
        for group in range(0, len(order), FILES_AT_ONCE):
            kept = {int(file): self.rows.kept[file] for file in order[group : group + FILES_AT_ONCE]}
            for number in range(max(map(len, kept.values()))):
                found += [(file, number, own[number]) for file, own in kept.items() if number < len(own)]
        return np.array(found, np.int64).reshape(-1, 3)

    def origin(self, step: int) -> np.ndarray:
        """Where the rows of a step's batch (0: the first) are stored.

        Returns:
          int64 [batch, 3], in the batch's order: index of the file, block in it, row in the block; from 0.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        first, last = place * self._batch_size, (place + 1) * self._batch_size
        blocks = self._blocks(epoch)
        starts = self._window_starts(blocks)
        begin = int(np.searchsorted(starts, first, side="right")) - 1
        end = int(np.searchsorted(starts, last, side="left"))
        rows = [self._window_rows(epoch, window, blocks) for window in range(begin, end)]
        skip = first - int(starts[begin])
        found = np.concatenate(rows)[skip : skip + self._batch_size]
        if not self._mixes:
            return found
        return found[self._mixed_order(tf.constant(epoch, tf.int64), tf.constant(place, tf.int64)).numpy()]

    def _window_rows(self, epoch: int, window: int, blocks: np.ndarray) -> np.ndarray:
        """As `origin`, for all rows of a window."""
        inside = blocks[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS]
        places = {file: self.rows.places(file) for file in np.unique(inside[:, 0])}
        rows = [[file, block, row] for file, block, _ in inside for row in places[file][block]]
        order = self._permutation(tf.constant(epoch, tf.int64), tf.constant(window, tf.int64), len(rows))
        return np.array(rows, np.int64).reshape(-1, 3)[order.numpy()]

    def _epoch(
        self,
        epoch: tf.Tensor,
        groups: tf.Tensor,
        blocks: tf.Tensor,
        window: tf.Tensor,
        rows: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.data.Dataset:
        """Batches of one epoch from a step of it on, whose place `_place` computed; int64 scalars."""
        order = self._order(epoch)
        columns = self._paths, self._parts, self._starts, np.array(self._block_rows, np.int64)
        files = tuple(tf.gather(tf.constant(column), order) for column in columns)
        # The place always lies within the first window.
        read = _plain(
            lambda index, read: self._window(epoch, index, tf.where(index == window, rows, 0), *read)
        )
        windows = (
            tf.data.Dataset.from_tensor_slices(files)
            .batch(FILES_AT_ONCE)
            .skip(groups)
            .flat_map(_read_group)
            .skip(blocks)
            .batch(WINDOW_BLOCKS)
            .enumerate(start=window)
            .map(read, num_parallel_calls=2)
        )
        batches = windows.rebatch(self._batch_size, drop_remainder=True)
        complete = _plain(lambda columns: complete_batch(self._dataset, self._lookups, columns))
        if not self._mixes:
            return batches.map(complete, num_parallel_calls=2)
        mixed = _plain(lambda step, columns: complete(self._mixed(epoch, step, columns)))
        return batches.enumerate(start=step).map(mixed, num_parallel_calls=2)

    def _mixed(
        self, epoch: tf.Tensor, step: tf.Tensor, columns: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """A batch's rows, permuted; step: int64 scalar, of the epoch."""
        order = self._mixed_order(epoch, step)
        return {name: tf.gather(value, order) for name, value in columns.items()}

    def _mixed_order(self, epoch: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed + _MIXED_SEED, tf.int64), epoch * 2**32 + step])
        return tf.random.experimental.stateless_shuffle(tf.range(self._batch_size), seed=seed)

    def _skippable(self, epoch: int, blocks: int) -> tuple[int, int]:
        """(whole groups of files, blocks of the next group) that make up the first `blocks` blocks."""
        order, groups = self._order(tf.constant(epoch, tf.int64)).numpy(), 0
        for group in range(0, len(order), FILES_AT_ONCE):
            held = sum(len(self.rows.kept[file]) for file in order[group : group + FILES_AT_ONCE])
            if held > blocks:
                break
            blocks, groups = blocks - held, groups + 1
        return groups, blocks

    def _window(
        self,
        epoch: tf.Tensor,
        index: tf.Tensor,
        skip: tf.Tensor,
        blocks: tf.Tensor,
        parts: tf.Tensor,
        starts: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Parses a window of serialized blocks, string [n], of parts int32 [n], permutes its rows, and skips
        the first of them.

        starts: int64 [n], the place of each block's first row among those of all files.
        """
        layers = tf.gather(tf.constant([part.layer for part in self.rows.parts]), parts)
        columns, block = parse_chain(self._dataset, blocks, self._features, self._ids, layers)
        part = tf.gather(parts, block)
        columns = self._weighed(columns, part)
        if self.rows.is_whole:
            order = self._permutation(epoch, index, tf.size(part))
        else:
            kept = self._kept(columns, part) if self._ends is None else self._kept_ends(block, starts)
            order = tf.gather(kept, self._permutation(epoch, index, tf.size(kept)))
        return {name: tf.gather(value, order[skip:]) for name, value in columns.items()}

    def _kept(self, columns: dict[str, tf.Tensor], part: tf.Tensor) -> tf.Tensor:
        """Places of the rows that train, int64 [kept], as Part.keeps; part: int32 [n], of each row."""
        parts = self.rows.parts
        since = tf.constant([part.since for part in parts], tf.int64)
        positive = tf.constant([part.positive for part in parts])
        kept = columns["timestamp"] >= tf.gather(since, part)
        kept &= positive_rows(self._dataset, columns["label"]) | ~tf.gather(positive, part)
        return tf.where(kept)[:, 0]

    def _kept_ends(self, block: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """As `_kept`, if histories are read in their order; block: int64 [n], that of each row."""
        sizes = tf.math.bincount(tf.cast(block, tf.int32), minlength=tf.size(starts), dtype=tf.int64)
        before = tf.gather(tf.math.cumsum(sizes, exclusive=True), block)
        rows = tf.gather(starts, block) + tf.range(tf.size(block, tf.int64)) - before
        return tf.where(tf.gather(self._ends, rows))[:, 0]

    def _weighed(self, columns: dict[str, tf.Tensor], part: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns with weights by age. Train lacks some negative rows (dataset.keep_negatives), which
        held-out splits have: there each of them weighs as much less."""
        thinned = [part.held_out and self._dataset.keep_negatives < 1 for part in self.rows.parts]
        weight = columns.get("weight", tf.ones_like(columns["label"]))
        if any(thinned):
            lighter = tf.gather(tf.constant(thinned), part) & _negative(self._dataset, columns)
            weight = tf.where(lighter, weight * self._dataset.keep_negatives, weight)
        if self._half_life is not None and self.rows.newest is not None:
            age = tf.cast(tf.maximum(self.rows.newest - columns["timestamp"], 0), tf.float64)
            weight *= tf.cast(tf.pow(tf.constant(0.5, tf.float64), age / self._half_life), tf.float32)
        elif not any(thinned):
            return columns
        return columns | {"weight": weight}

    def _permutation(self, epoch: tf.Tensor, window: tf.Tensor, rows: int | tf.Tensor) -> tf.Tensor:
        """Order of a window's rows, int32 [rows]; epoch and window: int64 scalars."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), epoch * 2**32 + window])
        return tf.random.experimental.stateless_shuffle(tf.range(rows), seed=seed)


def _negative(dataset: Dataset, columns: dict[str, tf.Tensor]) -> tf.Tensor:
    """Which rows dataset.keep_negatives thins in train, bool [n]: all labels are 0 or empty."""
    found = tf.ones_like(columns["label"], tf.bool)
    if dataset.has_label:
        found &= ~positive_rows(dataset, columns["label"])
    for name in dataset.labels:
        if name != PLANTED_LABEL:
            label = columns[label_column(name)]
            found &= tf.math.is_nan(label) | (label == 0.0)
    return found


def complete_batch(
    dataset: Dataset, lookups: Mapping[str, FeatureLookup], columns: dict[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Columns of records with the features of catalogs, and table rows in place of catalog ids."""
    found = dict(columns)
    for of, lookup in lookups.items():
        found |= lookup.of(columns[of])
    return found | {of: table_rows(dataset.tables[of], columns[of]) for of in OWNERS if of in columns}


def _read_group(
    paths: tf.Tensor, parts: tf.Tensor, starts: tf.Tensor, block_rows: tf.Tensor
) -> tf.data.Dataset:
    """Serialized blocks of some files, one block of each in turn, each with the part of its file and the
    place of its first row among those of all files."""

    def blocks_of(path: tf.Tensor, part: tf.Tensor, start: tf.Tensor, rows: tf.Tensor) -> tf.data.Dataset:
        blocks = tf.data.TFRecordDataset(path, compression_type="GZIP", buffer_size=1 << 20)
        return blocks.enumerate().map(lambda number, block: (block, part, start + number * rows))

    return tf.data.Dataset.from_tensor_slices((paths, parts, starts, block_rows)).interleave(
        blocks_of,
        cycle_length=FILES_AT_ONCE,
        block_length=1,
        num_parallel_calls=2,
        deterministic=True,
    )
