"""Writes one file of a batch output: under a temporary name, read back, then renamed."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import google_crc32c
import pyarrow as pa

from configs.errors import DataError
from configs.system import storage
from trainer.batch.formats.base import make_writer
from trainer.batch.target import STATE, checksum


def write_shard(
    directory: str,
    name: str,
    format_name: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    more: Callable[[], dict] = dict,
) -> dict[str, Any]:
    """Writes, verifies and finishes the file `name` of an output.

    Args:
      directory: of the output, with its state (trainer.batch.target).
      format_name: key of FORMATS.
      schema: of all batches.
      batches: computed while earlier ones are written.
      more: facts of the shard, asked after the last batch.

    Returns:
      rows, bytes, crc32c, and those of `more`.

    Raises:
      DataError: what is read back is not what was written.
    """
    final, state = storage.join(directory, name), storage.join(directory, STATE)
    # An object appears when it is complete, and cannot be renamed.
    written = final if storage.is_remote(directory) else storage.join(state, f"{name}.tmp")
    with storage.writing(written) as file:
        counted = _CountedFile(file)
        try:
            rows = _write(make_writer(format_name, counted, schema), batches)  # type: ignore[arg-type]
        finally:
            counted.abandon()
    facts = {"rows": rows, "bytes": counted.bytes, "crc32c": counted.crc32c} | more()
    if checksum(written) != (counted.bytes, counted.crc32c):
        raise DataError(f"{written}: reads back differently from what was written; check the disk, and rerun")
    if written != final:
        os.replace(storage.filesystem(written)[1], storage.filesystem(final)[1])
        storage.sync_directory(directory)
    storage.write_bytes(storage.join(state, f"{name}.json"), json.dumps(facts).encode())
    return facts


def _write(writer, batches: Iterable[pa.RecordBatch]) -> int:
    """Writes each batch in a thread while the next one is computed; returns the number of rows."""
    rows, pending = 0, None
    with ThreadPoolExecutor(1) as pool:
        for batch in batches:
            _wait(pending)
            pending = pool.submit(writer.write, batch)
            rows += batch.num_rows
        _wait(pending)
        writer.close()
    return rows


def _wait(pending: Future | None) -> None:
    if pending is not None:
        pending.result()


class _CountedFile:
    """A file for writing only, with the size and checksum of what was written."""

    def __init__(self, file):
        self._file, self._checksum = file, google_crc32c.Checksum()
        self.bytes, self.closed = 0, False

    @property
    def crc32c(self) -> str:
        return self._checksum.hexdigest().decode()

    def write(self, data) -> int:
        data = bytes(data)
        if self._file is None:
            return len(data)
        self._file.write(data)
        self._checksum.update(data)
        self.bytes += len(data)
        return len(data)

    def abandon(self) -> None:
        """Drops what comes from now on: pyarrow's writer ends its file when it is collected, even if an error
        has ended it before."""
        self._file = None

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """The disk is synced once, at the end."""

    def close(self) -> None:
        """The file is closed by who opened it."""
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
