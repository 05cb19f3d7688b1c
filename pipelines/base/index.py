"""Index files of a table: every key of a dataset's own rows, for datasets that stand on it.

An index file is an Arrow IPC file (zstd) with the keys of one range, in byte order:
  key    string
  id     catalog id in this dataset, or configs.chain.LEFT for a key of the base that has lost its row
  count  train rows that count, of the whole chain; held-out rows of datasets below, too, because the datasets
         on them train on these
  held   held-out rows of this dataset that would count in train
  seen   newest timestamp of the key's rows in the whole chain, nanoseconds; NEVER without rows or timestamps
id, count and held are int32 if their values fit, else int64. All datasets of a chain have the ranges of the
first one, so that file p of each covers the same keys; SPLITTERS in the metadata of the schema has the first
key of each range but the first, as JSON. The newest dataset that has a key says what holds for it.
"""

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote, read_bytes

NEVER = int(np.iinfo(np.int64).min)
"""Timestamp of a key without rows."""
SPLITTERS = b"splitters"
_NARROW = ("id", "count", "held")
_SUFFIX = "arrow"


def write_index(file: BinaryIO, columns: dict[str, Any], splitters: Sequence[str]) -> dict[str, Any]:
    """Writes an index file.

    Args:
      columns: key, id, count, held and seen, in byte order of the keys.
      splitters: of the table.

    Returns:
      rows, bytes and crc32c as in FileInfo.
    """
    narrow = {name: _narrowed(columns[name]) for name in _NARROW}
    table = pa.table(columns | narrow)
    table = table.replace_schema_metadata({SPLITTERS: json.dumps(list(splitters)).encode()})
    data = pa.BufferOutputStream()
    with pa.ipc.new_file(data, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as sink:
        sink.write_table(table)
    buffer = data.getvalue()
    file.write(buffer)
    return {
        "rows": table.num_rows,
        "bytes": buffer.size,
        "crc32c": f"{google_crc32c.value(bytes(buffer)):08x}",
    }


def _narrowed(values: np.ndarray) -> np.ndarray:
    """The values as int32 if they fit."""
    limits = np.iinfo(np.int32)
    fits = not len(values) or (limits.min <= values.min() and values.max() <= limits.max)
    return values.astype(np.int32 if fits else np.int64)


def read_index(path: str) -> pa.Table:
    """An index file; a local one is mapped into memory.

    Raises:
      DataError: it is missing or damaged.
    """
    try:
        source = pa.py_buffer(read_bytes(path)) if is_remote(path) else pa.memory_map(path)
        return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from None


def read_splitters(path: str) -> list[str]:
    """The first key of each range of a table but the first, by one of its index files."""
    try:
        if is_remote(path):
            fs, place = filesystem(path)
            with fs.open(place, "rb") as file:
                schema = pa.ipc.open_file(pa.PythonFile(file, "r")).schema
        else:
            schema = pa.ipc.open_file(pa.memory_map(path)).schema
        found: list[str] = json.loads(schema.metadata[SPLITTERS])
        return found
    except (OSError, pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(
        f"{path}: the index of dataset.base cannot be read ({error}); restore the file, or run "
        "`lazytower prepare` with the base's config, which rebuilds a damaged dataset"
    )
