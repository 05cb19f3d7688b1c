"""Files of one checkpoint directory: written with checksums, and read back only if they agree.

  step-000001000/              a full one: all rows
    tables/<name>/00000.npy      records of consecutive row ranges, float32 [n, width]
    dense.npz                    step, towers, their averages and optimizer
    COMMITTED                    JSON, written last: sizes and CRC-32C of all files, tables' layouts, origin
  step-000002000.increment/    the rows touched since its base, the checkpoint before it
    tables/<name>/00000.ids.npy  int64 [n], ascending over all files
    tables/<name>/00000.npy      their records, float32 [n, width]
    dense.npz, COMMITTED         as above: dense state is always whole

Without TensorFlow, and through configs.system.storage, so directories may be in object stores. Every array is
checked on the very bytes that are used.
"""

import collections
import concurrent.futures
import contextlib
import ctypes
import errno
import functools
import io
import json
import math
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import google_crc32c
import numpy as np
from absl import logging

from configs.errors import CheckpointError, UserError
from configs.system import storage
from configs.system.terminal import bounded
from trainer.checkpoints.file_map import forget, map_file
from trainer.checkpoints.manifest import check_manifest

COMMITTED = "COMMITTED"
DENSE = "dense.npz"
_BLOCK = 1 << 22
_THREADS = 8
# Bytes of the pieces that are written, or read, at a time; TensorFlow's copy of each comes on top.
_IN_FLIGHT_BYTES = 200 << 20


class DamagedCheckpoint(CheckpointError):
    """A checkpoint cannot be restored; one before it may be."""


class RecordPiece(NamedTuple):
    """Records of one table that one file holds."""

    table: str
    number: int
    """Place of the file among those of its table."""
    ids: np.ndarray | None
    """int64 [n] ascending; None: the rows after those of the piece before."""
    records: np.ndarray
    """float32 [n, width]."""


def records_file(table: str, number: int) -> str:
    """Name of a piece's records inside the checkpoint's directory."""
    return f"tables/{table}/{number:05d}.npy"


def ids_file(table: str, number: int) -> str:
    """Name of a piece's ids inside an increment's directory."""
    return f"tables/{table}/{number:05d}.ids.npy"


def in_flight(piece_bytes: int) -> int:
    """How many pieces of this size may be in memory together."""
    return max(1, min(_THREADS, _IN_FLIGHT_BYTES // max(piece_bytes, 1)))


def in_order(function: Callable, items: Iterable, most: int) -> Iterator:
    """function(item) of each item, in order, computed by threads; at most `most` items are under way.

    `items` is consumed in the caller's thread. What an item raises comes up at its turn; later ones that
    have not begun are dropped then.
    """
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                del item  # or it would be one more in memory
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def errors_of(path: str, what: str = "written"):
    """Turns what storage raises into a CheckpointError that names `path`, `what` cannot be done, and why."""
    try:
        yield
    except Exception as error:
        # Object stores have errors of their own; on a local disk any other than OSError is a bug.
        if isinstance(error, UserError) or not (isinstance(error, OSError) or storage.is_remote(path)):
            raise
        reason = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: cannot be {what} ({reason})") from error


def write_checkpoint(
    path: str,
    head: dict,
    pieces: Iterable[RecordPiece],
    dense: dict,
    most: int,
    check: Callable[[], None] = lambda: None,
) -> dict:
    """Writes a complete checkpoint, in place of what is at `path`.

    Args:
      path: its directory.
      head: the manifest without "files"; head["tables"] names the tables.
      pieces: read in the caller's thread while threads write those before.
      dense: arrays by name.
      most: pieces in memory at a time.
      check: called before anything is written or deleted, and before COMMITTED; raises UserError when the
        run is no longer this process's.

    Returns:
      The manifest.

    Raises:
      CheckpointError: it cannot be written: names file and cause; what was written is removed if possible.
    """
    files = {}
    check()
    try:
        with errors_of(path):
            remove_checkpoint(path)
            for name in head["tables"]:
                storage.make_directory(storage.join(path, "tables", name))
            storage.make_directory(path)
        for written in in_order(functools.partial(_write_piece, path), pieces, most):
            check()
            files |= written
        buffer = io.BytesIO()
        np.savez(buffer, **dense)
        # Released also on errors: a view that outlives its buffer's cycle crashes Python 3.12.
        with buffer.getbuffer() as content:
            files[DENSE] = _write(path, DENSE, [content])
        with errors_of(path):
            _sync_directories(path, head["tables"])
            check()
            manifest = {**head, "time": round(time.time(), 3), "files": files}
            text = json.dumps({**manifest, "crc32c": _checksum(manifest)}, indent=1)
            storage.write_bytes(storage.join(path, COMMITTED), text.encode())
    except BaseException:
        try:
            check()  # what is there may be another's by now
            remove_checkpoint(path)
        except Exception as error:  # the first error is the one to tell; what is left has no COMMITTED
            logging.warning("%s: is incomplete and cannot be removed (%s)", path, error)
        raise
    return manifest


def remove_checkpoint(path: str) -> None:
    """Deletes a checkpoint's directory; killed in the middle it leaves one that is plainly incomplete."""
    storage.remove(storage.join(path, COMMITTED))
    storage.remove(path)


def read_manifest(path: str) -> dict:
    """COMMITTED of a checkpoint's directory. Raises DamagedCheckpoint."""
    content = _content(storage.join(path, COMMITTED))
    try:
        manifest = json.loads(content)
        if manifest.pop("crc32c") != _checksum(manifest):
            raise ValueError("its own checksum differs")
        check_manifest(manifest)
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        # Torn JSON can hold anything.
        raise DamagedCheckpoint(f"{path}/{COMMITTED}: cannot be read ({bounded(str(error), 200)})") from None
    return manifest


def read_checkpoint_file(path: str, manifest: dict, name: str) -> bytes:
    """A file's content. Raises DamagedCheckpoint unless it has the size and checksum of the manifest."""
    full_name, expected = storage.join(path, name), manifest["files"][name]
    content = _content(full_name)
    _compare(full_name, expected, len(content), [content])
    return content


def _content(name: str) -> bytes:
    with _reading(name):
        return storage.read_bytes(name)


@contextlib.contextmanager
def _reading(name: str):
    """A missing file is damage. What else keeps it from being read may pass: falling back for it would have
    the next save delete a good checkpoint."""
    try:
        with errors_of(name, "read"):
            yield
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DamagedCheckpoint(f"{name}: missing") from None
        if isinstance(error, DamagedCheckpoint):
            raise
        # A machine that lacks files, memory or rights says nothing of the checkpoint, which may be the best.
        number = getattr(error.__cause__, "errno", None)
        fix = "remove the cause and run again, or delete its checkpoint to go on from the one before"
        if number in storage.REFUSALS - {errno.EIO}:
            fix = storage.advice(number)
        raise CheckpointError(f"{error}; {fix}") from error


def read_array(path: str, manifest: dict, name: str) -> np.ndarray:
    """An .npy file's array, read-only, checked as by read_file."""
    content = read_checkpoint_file(path, manifest, name)
    with _as_written(path, name):
        return _array(content)


def read_dense(path: str, manifest: dict) -> dict[str, np.ndarray]:
    """The arrays of dense.npz by name, checked as by read_file."""
    content = read_checkpoint_file(path, manifest, DENSE)
    with _as_written(path, DENSE), np.load(io.BytesIO(content), allow_pickle=False) as values:
        return {name: values[name] for name in values.files}


@contextlib.contextmanager
def _as_written(path: str, name: str) -> Iterator[None]:
    """A file that is what its manifest says, and still no array, was written by somebody else."""
    try:
        yield
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        reason = bounded(str(error), 200)
        raise DamagedCheckpoint(f"{path}/{name}: holds no array of a checkpoint ({reason})") from None


def verify_checkpoint_file(path: str, manifest: dict, name: str) -> None:
    """As read_file, in pieces, keeping nothing."""
    full_name, size, checksum = storage.join(path, name), 0, google_crc32c.Checksum()
    with _reading(full_name), storage.reading(full_name) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum.update(block)
    if {"bytes": size, "crc32c": _hex(checksum)} != manifest["files"][name]:
        raise DamagedCheckpoint(f"{full_name}: size or checksum differs from {COMMITTED}")


def map_array(path: str, manifest: dict, name: str) -> np.ndarray:
    """An .npy file's array, read-only, mapped into memory and checked through that map.

    The map stays good when a trainer deletes the checkpoint meanwhile. A remote file is checked in memory,
    and what is mapped is a temporary copy without a name, gone with the process however it ends.

    Raises:
      DamagedCheckpoint: as read_file.
    """
    full_name, expected = storage.join(path, name), manifest["files"][name]
    if storage.is_remote(path):
        content = read_checkpoint_file(path, manifest, name)
        with errors_of(tempfile.gettempdir()), tempfile.TemporaryFile(prefix="lazytower-") as file:
            file.write(content)
            file.flush()
            return _array(map_file(file))
    with _reading(full_name), storage.reading(full_name) as file:
        size = os.fstat(file.fileno()).st_size
        mapped = map_file(file) if size else b""  # nothing cannot be mapped
    blocks = (mapped[at : at + _BLOCK] for at in range(0, len(mapped), _BLOCK))
    _compare(full_name, expected, len(mapped), blocks)
    with _as_written(path, name):
        array = _array(mapped)
    release(array)
    return array


def release(array: np.ndarray) -> None:
    """Lets go of the memory of an array of map_array; what is read again comes from the file, or its cache.

    Without it a process that has read a table once would count as holding all of it.
    """
    base = array
    while not isinstance(base, ctypes.Array):
        base = base.obj if isinstance(base, memoryview) else base.base
    forget(base)


def _write_piece(path: str, piece: RecordPiece) -> dict:
    """Writes a piece's files; their sizes and checksums by name."""
    arrays = {records_file(piece.table, piece.number): piece.records}
    if piece.ids is not None:
        arrays[ids_file(piece.table, piece.number)] = piece.ids
    return {name: _write(path, name, _npy_parts(array)) for name, array in arrays.items()}


def _write(path: str, name: str, parts: Iterable) -> dict:
    """Writes buffers into a file; size and checksum of the bytes that were handed over."""
    full_name = storage.join(path, name)
    size, checksum = 0, google_crc32c.Checksum()
    with errors_of(full_name), storage.writing(full_name) as file:
        for part in parts:
            for at in range(0, len(part), _BLOCK):
                block = bytes(part[at : at + _BLOCK])  # the checksum takes nothing else
                checksum.update(block)
                file.write(block)
                size += len(block)
    return {"bytes": size, "crc32c": _hex(checksum)}


def _npy_parts(array: np.ndarray) -> list:
    header = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), memoryview(array.reshape(-1).view(np.uint8))]


def _array(content) -> np.ndarray:
    """The array of an .npy file's content, a view of it."""
    header = io.BytesIO(content[:256])
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    array = np.frombuffer(content, dtype, math.prod(shape), header.tell()).reshape(shape)
    array.flags.writeable = False
    return array


def _sync_directories(path: str, tables: Iterable[str]) -> None:
    """Makes all names durable, up to that of the directory that holds the checkpoints."""
    if storage.is_remote(path):
        return
    inner = [storage.join(path, "tables", name) for name in tables]
    outer = [os.path.dirname(path), os.path.dirname(os.path.dirname(path))]
    for name in [*inner, *([storage.join(path, "tables")] if inner else []), path, *outer]:
        storage.sync_directory(name)


def _compare(name: str, expected: dict, size: int, blocks: Iterable[bytes]) -> None:
    checksum = google_crc32c.Checksum()
    if size == expected["bytes"]:  # else there is no need to read it
        for block in blocks:
            checksum.update(block)
    if {"bytes": size, "crc32c": _hex(checksum)} != expected:
        raise DamagedCheckpoint(f"{name}: size or checksum differs from {COMMITTED}")


def _checksum(manifest: dict) -> str:
    """CRC-32C of a manifest's content, whatever its layout."""
    return _hex(google_crc32c.Checksum(json.dumps(manifest, sort_keys=True).encode()))


def _hex(checksum) -> str:
    return checksum.hexdigest().decode()
