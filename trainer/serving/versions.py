"""Version directories of SavedModels, which become visible complete or not at all.

A local version is written beside the others under a name that TensorFlow Serving does not read, and then
renamed. An object store cannot rename a directory: there the files are uploaded under such a name, compared,
and copied inside the store, saved_model.pb last. Without that file a directory is no model: nobody loads it,
`versions` does not count it, and the next export removes it.
"""

import base64
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import google_crc32c
from absl import logging

from configs.errors import ExportError
from configs.system import storage
from configs.system.lease import LeaseHeld
from trainer.run_lock import Lock, lock_directory

# TensorFlow Serving reads only directories whose name is a number.
_INCOMPLETE = "incomplete-"
_MANIFEST = "saved_model.pb"


@contextlib.contextmanager
def locked(directory: str) -> Iterator[Lock]:
    """Holds the export directory, made when missing; a killed process lets go of it.

    Raises:
      ExportError: another export holds it, or it cannot be written.
    """
    try:
        lock = lock_directory(directory)
    except LeaseHeld as holder:
        raise ExportError(f"{directory}: another export into it is running ({holder})") from None
    except OSError as error:
        raise ExportError(f"{directory}: cannot be written ({error.strerror or error})") from None
    try:
        yield lock
    finally:
        lock.close()


def versions(directory: str) -> list[int]:
    """Version numbers in an export directory, ascending; none when it is missing."""
    numbers = _numbers(directory)
    if not storage.is_remote(directory):
        return numbers  # each appeared complete, by a rename
    return [n for n in numbers if storage.exists(storage.join(directory, str(n), _MANIFEST))]


@contextlib.contextmanager
def new_version(directory: str) -> Iterator[tuple[int, str]]:
    """The next version's number, and an empty local directory to write it in, removed after the block.

    What killed exports left is removed, so the directory must be locked. A number is never used twice: a
    server that saw a torn version may remember it as bad.
    """
    number = max(_numbers(directory), default=0) + 1
    _remove(directory, lambda name: name.startswith(_INCOMPLETE))
    if storage.is_remote(directory):
        scratch = tempfile.mkdtemp(prefix="export-")
    else:
        scratch = os.path.join(directory, f"{_INCOMPLETE}{number}")  # on the same disk
        os.makedirs(scratch)
    try:
        yield number, scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(model: str, directory: str, number: int, check: Callable[[], None] = lambda: None) -> str:
    """Makes a written model the directory's version `number`.

    Args:
      model: local directory, from inside `new_version`.
      directory: export directory, local or gs://.
      number: from `new_version`.
      check: raises when the directory is no longer held by this process.

    Returns:
      The version's directory.

    Raises:
      ExportError: files did not arrive as they were sent.
      OSError: something cannot be written.
    """
    path = storage.join(directory, str(number))
    if storage.is_remote(directory):
        _upload(model, storage.join(directory, f"{_INCOMPLETE}{number}"), path, check)
        # Only after a larger number exists; otherwise these numbers would be used again.
        _remove(directory, lambda name: name.isdigit() and int(name) < number)
        return path
    for folder, _, files in os.walk(model):
        for name in files:
            _sync_file(os.path.join(folder, name))
        storage.sync_directory(folder)
    os.rename(model, path)
    storage.sync_directory(directory)
    return path


def remove_version(directory: str, number: int) -> None:
    """Deletes a version: it disappears at once, so that nobody loads a part of it.

    Raises:
      ExportError: an export into the directory is running.
    """
    path = storage.join(directory, str(number))
    if not storage.exists(path):
        return
    with locked(directory):
        logging.info("removing %s", path)
        if storage.is_remote(directory):
            storage.remove(storage.join(path, _MANIFEST))
            storage.remove(path)
            return
        # A name that servers do not read, and the next export removes.
        hidden = storage.join(directory, f"{_INCOMPLETE}removed-{number}")
        storage.remove(hidden)
        os.rename(path, hidden)
        storage.sync_directory(directory)
        storage.remove(hidden)


def is_pattern(path: str) -> bool:
    """Whether TensorFlow reads a path as a pattern that does not match the path itself."""
    return "[" in path or "\\" in path


@contextlib.contextmanager
def loadable(model: str) -> Iterator[str]:
    """A path under which TensorFlow can load the SavedModel at `model`; its own unless that is a pattern.

    Raises:
      ExportError: the path is a pattern in an object store, which has no links.
    """
    if not is_pattern(model):
        yield model
        return
    if storage.is_remote(model):
        raise ExportError(
            f"{model}: TensorFlow reads [ and \\ in a path as a pattern; copy the model to another path"
        )
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        link = os.path.join(folder, "model")
        os.symlink(os.path.abspath(model), link)
        yield link


def _upload(model: str, staging: str, path: str, check: Callable[[], None]) -> None:
    fs, staged = storage.filesystem(staging)
    _, place = storage.filesystem(path)
    names = sorted(_files(model), key=lambda name: (name == _MANIFEST, name))
    for name in names:
        fs.put_file(os.path.join(model, name), f"{staged}/{name}")
        if (found := fs.info(f"{staged}/{name}")) and not _arrived(os.path.join(model, name), found):
            raise ExportError(f"{staging}/{name}: differs from the file that was uploaded; export again")
    for name in names:
        check()
        fs.cp_file(f"{staged}/{name}", f"{place}/{name}")
    storage.remove(staging)


def _arrived(file: str, info: dict) -> bool:
    """Whether an object is the local file, by its size and, where the store tells it, CRC-32C."""
    if info["size"] != os.path.getsize(file):
        return False
    if "crc32c" not in info:
        return True
    checksum = google_crc32c.Checksum()
    with open(file, "rb") as content:
        while block := content.read(1 << 22):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode() == info["crc32c"]


def _files(model: str) -> list[str]:
    """Paths of a directory's files, relative to it."""
    return [
        os.path.relpath(os.path.join(folder, name), model)
        for folder, _, names in os.walk(model)
        for name in names
    ]


def _numbers(directory: str) -> list[int]:
    return sorted(int(n) for n in storage.names(directory) if n.isascii() and n.isdigit())


def _remove(directory: str, unwanted: Callable[[str], bool]) -> None:
    """Deletes what killed exports left under such names; the lock proves that no export writes there."""
    whole = {str(number) for number in versions(directory)}
    for name in storage.names(directory):
        if name.isascii() and unwanted(name) and name not in whole:
            path = storage.join(directory, name)
            logging.warning("removing %s, left by an unfinished export", path)
            storage.remove(path)


def _sync_file(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
