"""One checkpoint read back: its manifest, and its files, each verified on the very bytes that are used.

Without TensorFlow, and through configs.system.storage, so directories may be in object stores.
"""

import contextlib
import ctypes
import errno
import io
import math
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import google_crc32c
import numpy as np

from configs.errors import CheckpointError
from configs.system import storage
from configs.system.terminal import bounded
from trainer.checkpoints.file_map import forget, map_file
from trainer.checkpoints.files import (
    COMMITTED,
    DENSE,
    DamagedCheckpoint,
    errors_of,
    ids_file,
    records_file,
)
from trainer.checkpoints.manifest import CheckpointFile, CheckpointManifest, checksum_text

_BLOCK = 1 << 20
_PARSING = threading.Lock()
"""NumPy parses headers with ast.literal_eval, in which CPython 3.11's threads disturb one another: "AST
constructor recursion depth mismatch"."""


@dataclass(frozen=True)
class Checkpoint:
    """One complete directory."""

    path: str
    manifest: CheckpointManifest

    @property
    def name(self) -> str:
        """Of the directory."""
        return self.path.rpartition("/")[2]

    @property
    def step(self) -> int:
        """Steps done."""
        return self.manifest.step

    @property
    def is_full(self) -> bool:
        """Whether it holds all rows; otherwise it is an increment."""
        return self.manifest.kind == "full"

    @property
    def bytes(self) -> int:
        """Of all files but COMMITTED."""
        return sum(file.bytes for file in self.manifest.files.values())

    def pieces(self, table: str) -> list[tuple[int, str, str | None]]:
        """(rows, records file, ids file or None) of each piece of a table, in order of rows."""
        sizes = self.manifest.tables[table].pieces
        return [
            (n, records_file(table, i), None if self.is_full else ids_file(table, i))
            for i, n in enumerate(sizes)
        ]


def open_checkpoint(path: str) -> Checkpoint:
    """A complete checkpoint, its manifest verified. Raises DamagedCheckpoint."""
    content = _content(storage.join(path, COMMITTED))
    try:
        return Checkpoint(path, CheckpointManifest.parse(content))
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}/{COMMITTED}: cannot be read ({bounded(str(error), 200)})") from None


def read_checkpoint_file(checkpoint: Checkpoint, name: str) -> bytes:
    """A file's content. Raises DamagedCheckpoint unless it has the size and checksum of the manifest."""
    full_name = storage.join(checkpoint.path, name)
    content = _content(full_name)
    _compare(full_name, checkpoint.manifest.files[name], len(content), [content])
    return content


def read_array(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """An .npy file's array, read-only. Raises DamagedCheckpoint as read_checkpoint_file."""
    content = read_checkpoint_file(checkpoint, name)
    with _as_written(checkpoint, name):
        return _array(content)


def read_copy(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """As read_array, to be changed in place."""
    if storage.is_remote(checkpoint.path):
        return read_array(checkpoint, name).copy()
    full_name = storage.join(checkpoint.path, name)
    with _reading(full_name), storage.reading(full_name) as file:
        # NumPy asks for huge pages, which come much faster than the many small ones of `bytes`.
        content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        size = cast(io.BufferedIOBase, file).readinto(content.data)
    _compare(full_name, checkpoint.manifest.files[name], size, [content])
    with _as_written(checkpoint, name):
        return _array(content, writeable=True)


def read_into(checkpoint: Checkpoint, name: str, to: np.ndarray) -> None:
    """Reads an .npy file's array into an array of its shape and type, contiguous: no copy is in memory.

    Raises:
      DamagedCheckpoint: as read_checkpoint_file; what `to` holds then is not to be used.
    """
    full_name, expected = storage.join(checkpoint.path, name), checkpoint.manifest.files[name]
    with _as_written(checkpoint, name):
        if storage.is_remote(checkpoint.path):
            to[...] = read_array(checkpoint, name)
            return
        if (header := expected.bytes - to.nbytes) <= 0:
            raise ValueError(f"{expected.bytes} bytes are no array {to.shape}")
    checksum, values = google_crc32c.Checksum(), to.reshape(-1).view(np.uint8)
    with _reading(full_name), storage.reading(full_name) as file:
        size = os.fstat(file.fileno()).st_size
        if size == expected.bytes:  # else there is no need to read it
            head = file.read(header)
            checksum.update(head)
            for at in range(0, len(values), _BLOCK):
                block = values[at : at + _BLOCK]
                cast(io.BufferedIOBase, file).readinto(block.data)
                checksum.update(block)
    if CheckpointFile(bytes=size, crc32c=checksum_text(checksum)) != expected:
        raise _differs(full_name)
    with _as_written(checkpoint, name):
        shape, dtype, _ = _header(head)
        if (shape, dtype) != (to.shape, to.dtype):
            raise ValueError(f"an array {shape} of {dtype}, not {to.shape} of {to.dtype}")


def read_dense(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The arrays of dense.npz by name. Raises DamagedCheckpoint as read_checkpoint_file."""
    content = read_checkpoint_file(checkpoint, DENSE)
    with _as_written(checkpoint, DENSE), np.load(io.BytesIO(content), allow_pickle=False) as values:
        return {name: values[name] for name in values.files}


def verify_checkpoint_file(checkpoint: Checkpoint, name: str) -> None:
    """Raises DamagedCheckpoint as read_checkpoint_file; reads block by block and keeps nothing."""
    full_name, size, checksum = storage.join(checkpoint.path, name), 0, google_crc32c.Checksum()
    with _reading(full_name), storage.reading(full_name) as file:
        for block in _blocks(file):
            size += len(block)
            checksum.update(block)
    if CheckpointFile(bytes=size, crc32c=checksum_text(checksum)) != checkpoint.manifest.files[name]:
        raise _differs(full_name)


def map_array(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """An .npy file's array, read-only, mapped into memory after the open file has been verified.

    The map stays valid when a trainer deletes the checkpoint meanwhile. A remote file is verified in memory;
    what is mapped is an unnamed temporary copy, which is gone when the process ends for whatever reason.

    Raises:
      DamagedCheckpoint: as read_checkpoint_file.
    """
    full_name = storage.join(checkpoint.path, name)
    if storage.is_remote(checkpoint.path):
        content = read_checkpoint_file(checkpoint, name)
        with errors_of(tempfile.gettempdir()), tempfile.TemporaryFile(prefix="lazytower-") as file:
            file.write(content)
            file.flush()
            return _array(map_file(file))
    with _reading(full_name), storage.reading(full_name) as file:
        size = os.fstat(file.fileno()).st_size
        # Not through the map, whose pages would be read one after another with Python's lock held.
        _compare(full_name, checkpoint.manifest.files[name], size, _blocks(file))
        mapped: Any = map_file(file) if size else b""  # an empty file cannot be mapped
    with _as_written(checkpoint, name):
        return _array(mapped)


def release(array: np.ndarray) -> None:
    """Frees the memory of an array of map_array; later reads come from the file, or the page cache.

    Without it a process that has read a table once would count as holding all of it.
    """
    base: Any = array
    while not isinstance(base, ctypes.Array):
        base = base.obj if isinstance(base, memoryview) else base.base
    forget(base)


def _content(name: str) -> bytes:
    with _reading(name):
        return storage.read_bytes(name)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Tells damage from trouble: a missing file is damage, any other failure to read may be temporary.

    Falling back to an older checkpoint because of a temporary failure would have the next save delete a good
    one.
    """
    try:
        with errors_of(name, "read"):
            yield
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DamagedCheckpoint(f"{name}: missing") from None
        if isinstance(error, DamagedCheckpoint):
            raise
        # A lack of file handles, memory or permissions says nothing about the checkpoint.
        number = getattr(error.__cause__, "errno", None)
        fix = "remove the cause and run again, or delete its checkpoint to go on from the one before"
        if number in storage.REFUSALS - {errno.EIO}:
            fix = storage.advice(number)
        raise CheckpointError(f"{error}; {fix}") from error


@contextlib.contextmanager
def _as_written(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """A file that agrees with its manifest and still holds no array was not written by this program."""
    try:
        yield
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        reason = bounded(str(error), 200)
        raise DamagedCheckpoint(
            f"{checkpoint.path}/{name}: holds no array of a checkpoint ({reason})"
        ) from None


def _array(content: Any, writeable: bool = False) -> np.ndarray:
    """The array of an .npy file's content, a view of it."""
    shape, dtype, start = _header(content)
    array = np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
    array.flags.writeable = writeable
    return array


def _header(content: Any) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, type, place of the first value) of an .npy file's array."""
    header = io.BytesIO(bytes(content[:256]))
    np.lib.format.read_magic(header)
    with _PARSING:
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return shape, dtype, header.tell()


def _blocks(file: BinaryIO) -> Iterator[np.ndarray]:
    """The rest of a file, uint8 [n], in one piece of memory: the system clears new ones for longer than it
    reads into them."""
    room = np.empty(_BLOCK, np.uint8)
    while number := cast(io.BufferedIOBase, file).readinto(room.data):
        yield room[:number]


def _compare(name: str, expected: CheckpointFile, size: int, blocks: Iterable[Any]) -> None:
    checksum = google_crc32c.Checksum()
    if size == expected.bytes:  # else there is no need to read it
        for block in blocks:
            checksum.update(block)
    if CheckpointFile(bytes=size, crc32c=checksum_text(checksum)) != expected:
        raise _differs(name)


def _differs(name: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{name}: size or checksum differs from {COMMITTED}")
