"""Files of one checkpoint directory, and how they are written; trainer/checkpoints/reader.py reads them.

  step-000001000/              a full checkpoint: all rows
    tables/<name>/00000.npy      records of consecutive row ranges, float32 [n, width]
    dense.npz                    step, towers, their averages and optimizer
    COMMITTED                    JSON, written last: sizes and CRC-32C of all files, tables' layouts, origin
  step-000002000.increment/    the rows touched since its base, the checkpoint before it
    tables/<name>/00000.ids.npy  int64 [n], ascending over all files
    tables/<name>/00000.npy      their records, float32 [n, width]
    dense.npz, COMMITTED         as above: the dense state is always complete

Without TensorFlow, and through configs.system.storage, so directories may be in object stores.
"""

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import google_crc32c
import numpy as np
from absl import logging

from configs.errors import CheckpointError, UserError
from configs.system import storage
from configs.system.threads import in_order
from trainer.checkpoints.manifest import (
    CheckpointFile,
    CheckpointHead,
    CheckpointManifest,
    checksum_text,
)

COMMITTED = "COMMITTED"
DENSE = "dense.npz"
_BLOCK = 1 << 20
_THREADS = 8
# Bytes of the pieces being written, or read, at a time; TensorFlow holds a copy of each on top.
_IN_FLIGHT_BYTES = 200 << 20


class DamagedCheckpoint(CheckpointError):
    """A checkpoint cannot be restored; an earlier one may be."""


class Piece(Protocol):
    """Records of one table that become one file, wherever they are now."""

    def write(self, path: str) -> dict[str, CheckpointFile]:
        """Writes the piece's files into a checkpoint's directory; their sizes and checksums by name."""


class RecordPiece(NamedTuple):
    """Records of one table in one file."""

    table: str
    number: int
    """Index of the file among those of its table."""
    ids: np.ndarray | None
    """int64 [n] ascending; None: the rows that follow the previous piece's."""
    records: np.ndarray
    """float32 [n, width]."""

    def write(self, path: str) -> dict[str, CheckpointFile]:
        """As Piece.write."""
        return write_piece(path, self)


def records_file(table: str, number: int) -> str:
    """Name of a piece's records inside the checkpoint's directory."""
    return f"tables/{table}/{number:05d}.npy"


def ids_file(table: str, number: int) -> str:
    """Name of a piece's ids inside an increment's directory."""
    return f"tables/{table}/{number:05d}.ids.npy"


def in_flight(piece_bytes: int) -> int:
    """How many pieces of this size may be in memory at a time."""
    return max(1, min(_THREADS, _IN_FLIGHT_BYTES // max(piece_bytes, 1)))


@contextlib.contextmanager
def errors_of(path: str, what: str = "written") -> Iterator[None]:
    """Turns exceptions of storage into a CheckpointError: `path` cannot be `what` (reason)."""
    try:
        yield
    except Exception as error:
        # Object stores have exceptions of their own; on a local disk anything but OSError is a bug.
        if isinstance(error, UserError) or not (isinstance(error, OSError) or storage.is_remote(path)):
            raise
        reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: cannot be {what} ({reason})") from error


def write_checkpoint(
    path: str,
    head: CheckpointHead,
    pieces: Iterable[Piece],
    dense: dict[str, Any],
    most: int,
    check: Callable[[], None] = lambda: None,
) -> CheckpointManifest:
    """Writes a complete checkpoint, replacing whatever is at `path`.

    Args:
      path: its directory.
      head: the manifest without its time and files.
      pieces: consumed in the caller's thread while other threads write earlier ones.
      dense: arrays by name.
      most: largest number of pieces in memory.
      check: called before anything is written or deleted, and before COMMITTED; raises UserError if another
        process owns the run.

    Returns:
      The manifest.

    Raises:
      CheckpointError: it cannot be written; names file and cause. What was written is removed if possible.
    """
    files: dict[str, CheckpointFile] = {}
    check()
    try:
        with errors_of(path):
            remove_checkpoint(path)
            for name in head.tables:
                storage.make_directory(storage.join(path, "tables", name))
            storage.make_directory(path)
        for written in in_order(lambda piece: piece.write(path), pieces, most):
            check()
            files |= written
        buffer = io.BytesIO()
        np.savez(buffer, **dense)
        files[DENSE] = _write(path, DENSE, [buffer.getvalue()])
        with errors_of(path):
            _sync_directories(path, head.tables)
            check()
            manifest = CheckpointManifest(**dict(head), time=round(time.time(), 3), files=files)
            storage.write_bytes(storage.join(path, COMMITTED), manifest.encode())
    except BaseException:
        try:
            check()  # the directory may belong to another process by now
            remove_checkpoint(path)
        except Exception as error:  # the first error is raised; without COMMITTED the rest is not used
            logging.warning("%s: is incomplete and cannot be removed (%s)", path, error)
        raise
    return manifest


def remove_checkpoint(path: str) -> None:
    """Deletes a checkpoint's directory, COMMITTED first: a partly deleted one counts as incomplete."""
    storage.remove(storage.join(path, COMMITTED))
    storage.remove(path)


def write_piece(path: str, piece: RecordPiece) -> dict[str, CheckpointFile]:
    """Writes the files of a piece in memory; returns their sizes and checksums by name."""
    arrays = {records_file(piece.table, piece.number): piece.records}
    if piece.ids is not None:
        arrays[ids_file(piece.table, piece.number)] = piece.ids
    return {name: _write(path, name, _npy_parts(array)) for name, array in arrays.items()}


def _write(path: str, name: str, parts: Iterable[bytes | memoryview]) -> CheckpointFile:
    """Writes buffers into a file; returns size and checksum of the bytes passed in."""
    full_name = storage.join(path, name)
    size, checksum = 0, google_crc32c.Checksum()
    with errors_of(full_name), storage.writing(full_name) as file:
        for part in parts:
            # The checksum takes arrays but no memoryview; blocks of this size stay in the cache.
            values = np.frombuffer(part, np.uint8)
            for at in range(0, len(values), _BLOCK):
                block = values[at : at + _BLOCK]
                checksum.update(block)
                file.write(block.data)
                size += len(block)
    return CheckpointFile(bytes=size, crc32c=checksum_text(checksum))


def _npy_parts(array: np.ndarray) -> list[bytes | memoryview]:
    header = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), array.reshape(-1).view(np.uint8).data]


def _sync_directories(path: str, tables: Iterable[str]) -> None:
    """Makes all names durable, up to the name of the directory that holds the checkpoints."""
    if storage.is_remote(path):
        return
    inner = [storage.join(path, "tables", name) for name in tables]
    outer = [os.path.dirname(path), os.path.dirname(os.path.dirname(path))]
    for name in [*inner, *([storage.join(path, "tables")] if inner else []), path, *outer]:
        storage.sync_directory(name)
