"""All rows of a split in the order of its files, as a model reads them: for evaluation and replays."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import Dataset
from trainer.data.batches import OWNERS, complete_batch, parse_blocks
from trainer.data.lookups import FeatureLookup
from trainer.data.record_files import PREPARE_AGAIN, verify_dataset_file

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

    def complete(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = {f"{of}_id": columns[of] for of in OWNERS if of in columns}
        return complete_batch(dataset, lookups, columns) | ids

    held: dict[str, np.ndarray] = {}
    for info in dataset.splits[split].files:
        verify_dataset_file(dataset, info)
        records = tf.data.TFRecordDataset(dataset.file_path(info), compression_type="GZIP")
        windows = records.batch(_BLOCKS).map(lambda blocks: parse_blocks(dataset, blocks, features))
        batches = windows.rebatch(batch_size).map(complete, num_parallel_calls=2).prefetch(2)
        for batch in _read(dataset, info, batches):
            held = _joined(held, batch)
            if len(held["timestamp"]) >= batch_size:
                yield {name: values[:batch_size] for name, values in held.items()}
                held = {name: values[batch_size:] for name, values in held.items()}
    if held and len(held["timestamp"]):
        yield held


def _read(dataset: Dataset, info: FileInfo, batches: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    path, rows = dataset.file_path(info), 0
    try:
        for batch in batches.as_numpy_iterator():
            rows += len(batch["timestamp"])
            yield batch
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); {PREPARE_AGAIN}") from None
    if rows != info.rows:
        raise DataError(f"{path}: has {rows} rows, but dataset.json says {info.rows}; {PREPARE_AGAIN}")


def _joined(held: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not held or not len(held["timestamp"]):
        return batch
    return {name: np.concatenate([held[name], values]) for name, values in batch.items()}
