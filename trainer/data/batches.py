"""Training input: (seed, epoch, step) fixes the batch, and any step can be the start.

Records are columnar blocks, shuffled when they were written. An epoch reads the files in an order drawn from
(seed, epoch), FILES_AT_ONCE of them in parallel, one block of each in turn. WINDOW_BLOCKS blocks are joined,
their rows permuted by (seed, epoch, window), and cut into batches. dataset.json has the number of rows of
every block, so the place of any step is computed, not replayed: only the blocks before it in its own group of
files are skipped, without parsing them. What lives in a catalog is looked up for each batch.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from configs.columns import label_column
from configs.dataset_parts import FeatureInfo
from configs.errors import DataError
from configs.manifest import Dataset
from trainer.data.features import LENGTH, WEIGHT
from trainer.data.lookups import FeatureLookup, table_rows
from trainer.data.numbers import model_numbers

FILES_AT_ONCE = 8
WINDOW_BLOCKS = 16
OWNERS = ("user", "item")
"""Columns of ids, if the source has them."""


class TrainData:
    """Batches of the train split.

    Args:
      dataset: the manifest, with its path.
      batch_size: rows per batch; an epoch drops the rows that do not fill its last batch.
      seed: of the order of rows.
      positives_only: read positive rows only.
      names: features to read; None: all that live in records.
      lookups: of features that live in catalogs; see trainer.data.lookups.catalog_lookups.

    Attributes:
      split: the rows that are read, as in the manifest.

    Raises:
      DataError: fewer train rows than a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        positives_only: bool = False,
        names: Iterable[str] | None = None,
        lookups: Mapping[str, FeatureLookup] | None = None,
    ):
        wanted = dataset.features if names is None else set(names)
        in_records = {n: info for n, info in dataset.features.items() if info.lives == "records"}
        self._features = {name: info for name, info in in_records.items() if name in wanted}
        self._lookups = lookups or {}
        self.split = split = dataset.training_split(positives_only)
        self._dataset, self._batch_size, self._seed = dataset, batch_size, seed
        self._paths = [dataset.file_path(file) for file in split.files]
        self._rows = [file.rows for file in split.files]
        self.steps_per_epoch = steps_per_epoch(dataset, batch_size, positives_only)

    def batches(self, start_step: int) -> tf.data.Dataset:
        """All batches from step `start_step` (0: the first) on, endlessly.

        Returns:
          Dataset of dicts: timestamp: int64 [batch]; label: float32 [batch]; and, if the dataset has them,
          user, item: int64 [batch], table rows; label/<name>: float32 [batch], NaN where it is not known;
          weight, features as trainer.data.features.model_inputs, and history int64 [batch, history_length]
          padded with -1.
        """
        epoch, step = divmod(start_step, self.steps_per_epoch)
        blocks, window, rows = self._place(epoch, step * self._batch_size)
        first = self._epoch(tf.constant(epoch, tf.int64), blocks, window, rows)
        later = tf.data.Dataset.range(epoch + 1, np.iinfo(np.int64).max).flat_map(self._epoch)
        return first.concatenate(later).prefetch(4)

    def _order(self, epoch: tf.Tensor) -> tf.Tensor:
        """File indices of an epoch, in order of reading."""
        files = tf.range(len(self._paths))
        return tf.random.experimental.stateless_shuffle(files, seed=tf.stack([self._seed, epoch]))

    def _place(self, epoch: int, row: int) -> tuple[int, int, int]:
        """(blocks before the window, index of the window, rows of it to skip) for a row of an epoch."""
        starts = self._window_starts(self._blocks(epoch))
        window = int(np.searchsorted(starts, row, side="right")) - 1
        return window * WINDOW_BLOCKS, window, row - int(starts[window])

    def _window_starts(self, blocks: np.ndarray) -> np.ndarray:
        """Rows of an epoch before each window, int64."""
        return np.concatenate([[0], np.cumsum(blocks[:, 2])])[:-1:WINDOW_BLOCKS]

    def _blocks(self, epoch: int) -> np.ndarray:
        """(file, index in the file, rows) of each block of an epoch in reading order, int64 [blocks, 3]."""
        order = self._order(tf.constant(epoch, tf.int64)).numpy()
        full = self._dataset.block_rows
        found = []
        for group in range(0, len(order), FILES_AT_ONCE):
            left, number = {int(file): self._rows[file] for file in order[group : group + FILES_AT_ONCE]}, 0
            while any(left.values()):
                found += [(file, number, min(rows, full)) for file, rows in left.items() if rows]
                left, number = {file: max(rows - full, 0) for file, rows in left.items()}, number + 1
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
        return np.concatenate(rows)[skip : skip + self._batch_size]

    def _window_rows(self, epoch: int, window: int, blocks: np.ndarray) -> np.ndarray:
        """As `origin`, for all rows of a window."""
        inside = blocks[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS]
        rows = [[file, block, row] for file, block, size in inside for row in range(size)]
        order = self._permutation(tf.constant(epoch, tf.int64), tf.constant(window, tf.int64), len(rows))
        return np.array(rows, np.int64)[order.numpy()]

    def _epoch(
        self, epoch: tf.Tensor, skip_blocks: int = 0, first_window: int = 0, skip_rows: int = 0
    ) -> tf.data.Dataset:
        """Batches of one epoch from a place that `_place` computed."""
        paths = tf.gather(tf.constant(self._paths), self._order(epoch))
        groups = tf.data.Dataset.from_tensor_slices(paths).batch(FILES_AT_ONCE)
        whole_groups, skip_blocks = self._skippable(epoch, skip_blocks) if skip_blocks else (0, 0)
        windows = (
            groups.skip(whole_groups)
            .flat_map(_read_group)
            .skip(skip_blocks)
            .batch(WINDOW_BLOCKS)
            .enumerate(start=first_window)
            .map(lambda index, blocks: self._window(epoch, index, blocks), num_parallel_calls=2)
        )
        if skip_rows:
            # Only the first window is cut: the place always lies within it.
            cut = windows.take(1).map(lambda rows: {name: value[skip_rows:] for name, value in rows.items()})
            windows = cut.concatenate(windows.skip(1))
        batches = windows.rebatch(self._batch_size, drop_remainder=True)
        return batches.map(
            lambda columns: complete_batch(self._dataset, self._lookups, columns), num_parallel_calls=2
        )

    def _skippable(self, epoch: tf.Tensor, blocks: int) -> tuple[int, int]:
        """(whole groups of files, blocks of the next group) that make up the first `blocks` blocks."""
        order = self._order(epoch).numpy()
        full, groups = self._dataset.block_rows, 0
        for group in range(0, len(order), FILES_AT_ONCE):
            held = sum(-(-self._rows[file] // full) for file in order[group : group + FILES_AT_ONCE])
            if held > blocks:
                break
            blocks, groups = blocks - held, groups + 1
        return groups, blocks

    def _window(self, epoch: tf.Tensor, index: tf.Tensor, blocks: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parses a window of serialized blocks, string [n], and permutes its rows."""
        columns = parse_blocks(self._dataset, blocks, self._features)
        order = self._permutation(epoch, index, tf.shape(columns["timestamp"])[0])
        return {name: tf.gather(value, order) for name, value in columns.items()}

    def _permutation(self, epoch: tf.Tensor, window: tf.Tensor, rows: int | tf.Tensor) -> tf.Tensor:
        """Order of a window's rows, int32 [rows]; epoch and window: int64 scalars."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), epoch * 2**32 + window])
        return tf.random.experimental.stateless_shuffle(tf.range(rows), seed=seed)


def steps_per_epoch(dataset: Dataset, batch_size: int, positives_only: bool = False) -> int:
    """Whole batches in the train split, or in its positive rows. Raises DataError if there is none."""
    rows = dataset.training_split(positives_only).rows
    if rows < batch_size:
        kind = "positive train" if positives_only and dataset.positives else "train"
        raise DataError(
            f"{dataset.path}: {rows:,} {kind} rows are fewer than train.batch_size {batch_size:,}; lower it"
        )
    return rows // batch_size


def complete_batch(
    dataset: Dataset, lookups: Mapping[str, FeatureLookup], columns: dict[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Columns of records with the features of catalogs, and table rows in place of catalog ids."""
    found = dict(columns)
    for of, lookup in lookups.items():
        found |= lookup.of(columns[of])
    return found | {of: table_rows(dataset.tables[of], columns[of]) for of in OWNERS if of in columns}


def parse_blocks(
    dataset: Dataset, blocks: tf.Tensor, features: Mapping[str, FeatureInfo]
) -> dict[str, tf.Tensor]:
    """Columns of serialized record blocks.

    Args:
      dataset: the manifest, which defines the columns.
      blocks: string [n] of columnar tf.train.Example.
      features: those to read, which live in records.

    Returns:
      Dict of columns, each [rows of all blocks] (history: [rows, history_length], padded with -1); features
      as trainer.data.features.model_inputs.
    """
    types = {"label": tf.float32, "timestamp": tf.int64}
    types |= {owner: tf.int64 for owner in OWNERS if owner in dataset.tables}
    types |= {label_column(name): tf.float32 for name in dataset.labels}
    if dataset.has_weight:
        types["weight"] = tf.float32
    types |= {name: tf.as_dtype(info.dtype) for name, info in features.items() if info.kind != "list"}
    spec: dict[str, tf.io.RaggedFeature] = {name: tf.io.RaggedFeature(dtype) for name, dtype in types.items()}
    lists = _list_columns(dataset, features)
    for name, (dtype, lengths, _, _) in lists.items():
        partition = tf.io.RaggedFeature.RowLengths(lengths)
        spec[name] = tf.io.RaggedFeature(dtype, value_key=name, partitions=[partition])
    parsed = tf.io.parse_example(blocks, spec)
    columns = {name: parsed[name].flat_values for name in types}
    for name, (_, _, length, padding) in lists.items():
        columns[name] = parsed[name].merge_dims(0, 1).to_tensor(padding, shape=[None, length])
    for name, info in features.items():
        if info.is_numeric:
            columns[name] = model_numbers(info, columns[name], tf)
    return columns


def _list_columns(
    dataset: Dataset, features: Mapping[str, FeatureInfo]
) -> dict[str, tuple[tf.DType, str, int, float]]:
    """By column with lists: (type, column of their lengths, longest list, padding)."""
    found: dict[str, tuple[tf.DType, str, int, float]] = {}
    if dataset.history_length:
        found["history"] = (tf.int64, "history_length", dataset.history_length, -1)
    for name, info in features.items():
        if info.kind == "list":
            found[name] = (tf.int64, name + LENGTH, info.max_length, -1)
            if info.weighted:
                found[name + WEIGHT] = (tf.float32, name + LENGTH, info.max_length, 0.0)
    return found


def _read_group(paths: tf.Tensor) -> tf.data.Dataset:
    """Serialized blocks of some files, one block of each in turn."""
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP", buffer_size=1 << 20),
        cycle_length=FILES_AT_ONCE,
        block_length=1,
        num_parallel_calls=2,
        deterministic=True,
    )
