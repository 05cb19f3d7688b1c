"""Reads the record files of a dataset, each verified against dataset.json before its first record is used."""

import contextlib
import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from configs.columns import LABEL, feature_of_column
from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import Dataset
from configs.system.storage import read_bytes
from configs.system.threads import in_order
from trainer.data.record_files import PREPARE_AGAIN, verify_dataset_file
from trainer.runtime import untuned

PIPELINED_BYTES = 1 << 20
"""Smaller files are read whole: setting up a tf.data pipeline takes longer, 30 ms of CPU time and more."""

_FILES_AHEAD = 4


def read_blocks(
    dataset: Dataset, files: Iterable[FileInfo], columns: Sequence[str], wanted: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The blocks of record files, in order, as one flat array per column.

    Args:
      columns: names as in configs/manifest.py; the first must have one value per row (id or user). Keys are
        objects (bytes); labels, weight, numeric features and weights of lists float32; all others int64.
      wanted: int64, ascending. Blocks whose first column has none of these values are left out if that saves
        time.

    Raises:
      DataError: a file differs from dataset.json (see `verify_dataset_file`), or cannot be read.
    """
    import tensorflow as tf

    spec = {name: tf.io.RaggedFeature(_column_type(dataset, name)) for name in columns}

    def opened(info: FileInfo) -> tuple[FileInfo, Iterable[dict[str, np.ndarray]]]:
        """A file and its blocks, in a thread: those of a small one are read, those of others will be."""
        verify_dataset_file(dataset, info)
        path = dataset.file_path(info)
        if info.bytes >= PIPELINED_BYTES:
            return info, _pipelined(path, spec)
        with _naming_file(path):
            return info, list(_at_once(path, spec, None if wanted is None else (columns[0], wanted)))

    for info, blocks in in_order(opened, files, _FILES_AHEAD):
        path, rows = dataset.file_path(info), 0
        with _naming_file(path):
            for block in blocks:
                rows += len(block[columns[0]])
                if len(block) == len(spec):
                    yield block
        if rows != info.rows:
            raise DataError(f"{path}: has {rows} rows, but dataset.json says {info.rows}; {PREPARE_AGAIN}")


@contextlib.contextmanager
def _naming_file(path: str) -> Iterator[None]:
    """Turns errors of TensorFlow into a DataError that names the file."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise DataError(
            f"{path}: cannot be read ({error.message.splitlines()[0]}); {PREPARE_AGAIN}"
        ) from None


def _pipelined(path: str, spec: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """The blocks of a file; the next ones are read meanwhile."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(path, compression_type="GZIP")
    blocks = records.map(lambda record: tf.io.parse_single_example(record, spec), num_parallel_calls=2)
    return untuned(blocks.prefetch(2)).as_numpy_iterator()


def _at_once(
    path: str, spec: dict[str, Any], wanted: tuple[str, np.ndarray] | None
) -> Iterator[dict[str, np.ndarray]]:
    """The same, of a small file; blocks that have none of the wanted values in this column have it alone."""
    import tensorflow as tf

    def parsed(record: bytes, spec: dict[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in tf.io.parse_single_example(record, spec).items()}

    for record in small_file_records(path):
        if wanted is not None:
            column, values = wanted
            first = parsed(record, {column: spec[column]})
            low, high = np.searchsorted(values, [first[column].min(), first[column].max() + 1])
            if low == high:
                yield first
                continue
        yield parsed(record, spec)


def small_file_records(path: str) -> Iterator[bytes]:
    """The serialized blocks of a verified file, which is read whole.

    Raises:
      DataError: it was removed or damaged since it was verified, or its storage fails.
    """
    try:
        data, start = gzip.decompress(read_bytes(path)), 0
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); {PREPARE_AGAIN}") from None
    while start < len(data):  # a record is its length and 4 bytes of checksum, then data and 4 more
        (length,) = struct.unpack_from("<Q", data, start)
        yield data[start + 12 : start + 12 + length]
        start += length + 16


def _column_type(dataset: Dataset, name: str) -> str:
    column, _, part = name.partition("/")  # a list has <name>/length and <name>/weight beside it
    feature = dataset.features.get(feature_of_column(column))
    numbers = feature is not None and feature.dtype == "float32" and not part
    if name in ("label", "weight") or name.startswith(LABEL) or part == "weight" or numbers:
        return "float32"
    return "string" if name == "key" else "int64"
