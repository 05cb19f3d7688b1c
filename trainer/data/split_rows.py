"""All rows of a split, or all that train, in the order of their files: for evaluation and replays."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import Dataset
from trainer.data.batches import complete_batch
from trainer.data.blocks import PIPELINED_BYTES, small_file_records
from trainer.data.chain.parsing import OWNERS, chain_ids, parse_blocks, parse_chain
from trainer.data.lookups import FeatureLookup
from trainer.data.record_files import PREPARE_AGAIN, verify_dataset_file
from trainer.data.train_rows import Part, TrainRows
from trainer.runtime import untuned

_BLOCKS = 16
"""Blocks that are parsed at once."""


def split_rows(
    dataset: Dataset,
    split: str,
    names: Iterable[str],
    lookups: Mapping[str, FeatureLookup],
    batch_size: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of all rows of a split; every file is verified before its first row is used.

    Args:
      dataset: the manifest, with its path.
      split: train, valid or test.
      names: features to read.
      lookups: of those that live in catalogs; see trainer.data.lookups.catalog_lookups.
      batch_size: rows of all batches but the last.

    Yields:
      Columns as trainer.data.batches.TrainData.batches, and user_id, item_id: int64 [n], catalog ids, if the
      dataset has users and items.

    Raises:
      DataError: a file differs from dataset.json (see `verify_dataset_file`), or cannot be read.
    """
    wanted = set(names)
    features = {
        name: info for name, info in dataset.features.items() if info.lives == "records" and name in wanted
    }

    @_traced
    def parse(blocks: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_blocks(dataset, blocks, features)

    @_traced
    def complete(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = {f"{of}_id": columns[of] for of in OWNERS if of in columns}
        return complete_batch(dataset, lookups, columns) | ids

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for info in dataset.splits[split].files:
            found = _batches(dataset, info, parse, complete, batch_size)
            yield from _checked(dataset.file_path(info), found, info.rows)

    return _of_size(batches(), batch_size)


def trained_rows(rows: TrainRows, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of all rows that train, in the order of their files, as `split_rows` without features.

    Yields:
      Columns as `split_rows`, without catalog ids; and `thinned`, bool [n]: whether the row was in a train
      split, which lacks the negative rows that dataset.keep_negatives leaves out.

    Raises:
      DataError: as `split_rows`.
    """
    dataset, ids = rows.dataset, chain_ids(rows.layers, {})

    def parse(part: Part, blocks: tf.Tensor) -> dict[str, tf.Tensor]:
        layers = tf.fill([tf.size(blocks)], part.layer)
        columns, _ = parse_chain(dataset, blocks, {}, ids, layers)
        columns["thinned"] = tf.fill([tf.size(columns["label"])], not part.held_out)
        if not part.is_whole:
            kept = part.keeps(columns["timestamp"], columns["label"])
            columns = {name: tf.boolean_mask(values, kept) for name, values in columns.items()}
        return columns

    @_traced
    def complete(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return complete_batch(dataset, {}, columns)

    parsers = [_traced(functools.partial(parse, part)) for part in rows.parts]

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for place, info in rows.files:
            part = rows.parts[place]
            found = _batches(part.dataset, info, parsers[place], complete, batch_size)
            yield from _checked(part.dataset.file_path(info), found, info.rows if part.is_whole else None)

    return _of_size(batches(), batch_size)


def _traced(function: Callable[..., Any]) -> Any:
    """The function as one that is traced when the first large file is read, once for all files."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def _batches(
    dataset: Dataset,
    info: FileInfo,
    parse: Any,
    complete: Any,
    batch_size: int,
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a verified file, at most `batch_size` at a time unless it is small.

    `parse` makes columns of blocks, string [n], and `complete` batches of columns, both by `_traced`.
    """
    verify_dataset_file(dataset, info)
    path = dataset.file_path(info)
    if info.bytes >= PIPELINED_BYTES:
        blocks = tf.data.TFRecordDataset(path, compression_type="GZIP").batch(_BLOCKS)
        windows = blocks.map(parse, num_parallel_calls=2)
        batches = windows.rebatch(batch_size).map(complete, num_parallel_calls=2).prefetch(2)
        yield from untuned(batches).as_numpy_iterator()
        return
    records = list(small_file_records(path))
    for start in range(0, len(records), _BLOCKS):
        with tf.device("CPU"):
            blocks = tf.constant(records[start : start + _BLOCKS])
            columns = complete.python_function(parse.python_function(blocks))
        yield {name: values.numpy() for name, values in columns.items()}


def _of_size(batches: Iterable[dict[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
    """The rows of batches of any size, `size` at a time."""
    held: dict[str, np.ndarray] = {}
    for batch in batches:
        held = _joined(held, batch)
        while len(held["timestamp"]) >= size:
            yield {name: values[:size] for name, values in held.items()}
            held = {name: values[size:] for name, values in held.items()}
    if held and len(held["timestamp"]):
        yield held


def _checked(
    path: str, batches: Iterable[dict[str, np.ndarray]], expected: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a file, which must have `expected` rows; None: any number."""
    rows = 0
    try:
        for batch in batches:
            rows += len(batch["timestamp"])
            yield batch
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); {PREPARE_AGAIN}") from None
    if expected is not None and rows != expected:
        raise DataError(f"{path}: has {rows} rows, but dataset.json says {expected}; {PREPARE_AGAIN}")


def _joined(held: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not held or not len(held["timestamp"]):
        return batch
    return {name: np.concatenate([held[name], values]) for name, values in batch.items()}
