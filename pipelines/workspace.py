"""Where a dataset is written before it is complete: a temporary directory inside the locked target.

Inside the target it is on the same disk, even where the target is a mount or a link.
"""

import contextlib
import datetime
import logging as logging_
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fsspec import AbstractFileSystem

from configs.dataset_lock import DatasetLock
from configs.errors import DataError
from configs.system import storage
from configs.system.file_lock import FileLock
from configs.system.lease import Lease, LeaseHeld
from configs.system.storage import names
from pipelines.stages.files import DIRECTORIES

LOCK_NAME = ".prepare.lock"
_STAGING = ".prepare-"
_TRACEBACKS = ("common", "portability.local_job_service")  # loggers that print tracebacks of workers
_STALE_AFTER = datetime.timedelta(days=1)
# The last line of a traceback that Beam forwards from a worker.
_WORKER_ERROR = re.compile(r"Error: \[Errno (\d+)\] [^\n:']*(?:: '([^\n']*)')?")


class Workspace(NamedTuple):
    """Where a job writes."""

    path: str
    """Temporary directory."""
    check: Callable[[], None]
    """Raises UserError if another job may have taken over the target."""


@contextlib.contextmanager
def workspace(target: str) -> Iterator[Workspace]:
    """A new temporary directory for a job that writes `target`, removed afterwards.

    Leftovers of killed jobs are removed. To tell killed jobs from running ones, a local disk has a file lock
    and gs:// a lease; other object stores have neither, so there the age of the files decides.

    Raises:
      DataError: another job is writing this target, or it cannot be written.
    """
    if storage.is_remote(target):
        with _remote_workspace(target) as place:
            yield place
        return
    root = os.path.realpath(storage.filesystem(target)[1])
    with _directory(target, root) as lock, disk_errors(root):
        path = f"{root}/{_STAGING}{uuid.uuid4().hex[:8]}"
        try:
            with DatasetLock(root, exclusive=True):
                _remove_staging(root)
                os.mkdir(path)
                _check_renames(root, path)
                yield Workspace(path, lambda: None)  # a file lock cannot be lost
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock.close()


@contextlib.contextmanager
def _directory(target: str, root: str) -> Iterator[FileLock]:
    """Locks the directory, created if missing, against other jobs under any of its names; removes it if
    empty.

    Raises:
      DataError: another job has locked it, or it cannot be written.
    """
    new = not os.path.exists(root)
    try:
        lock = _locked(root, target)
    except OSError as error:
        if os.path.exists(root) and not os.path.isdir(root):
            raise DataError(f"{target}: is a file; set dataset.path to a directory") from None
        raise DataError(
            f"{target}: cannot write there ({error.strerror}); choose another dataset.path"
        ) from None
    try:
        yield lock
    finally:
        # While holding the lock: a job that waits for the file will find another one, or none, in its place.
        with contextlib.suppress(OSError):
            os.unlink(f"{root}/{LOCK_NAME}")
        lock.close()
        if new:
            with contextlib.suppress(OSError):  # it contains the dataset
                os.rmdir(root)


def _locked(root: str, target: str) -> FileLock:
    while True:
        storage.make_directory(root)
        try:
            lock = FileLock(f"{root}/{LOCK_NAME}")
        except LeaseHeld as holder:
            raise DataError(
                f"{target}: another `lazytower prepare` is writing it ({holder}); wait until it ends"
            ) from None
        except FileNotFoundError:  # the previous job has just removed the directory
            continue
        if lock.is_at(f"{root}/{LOCK_NAME}"):
            return lock
        lock.close()  # the previous job removed the file between open and lock


def _remove_staging(root: str) -> None:
    """Removes leftovers of killed jobs; the lock proves that none of them is still running."""
    for entry in os.scandir(root):
        if entry.name.startswith(_STAGING) and entry.name != LOCK_NAME:
            shutil.rmtree(entry.path, ignore_errors=True)


def _check_renames(root: str, staging: str) -> None:
    """Raises DataError, before any work, if finished files could not be moved to their place atomically."""
    for directory in DIRECTORIES:
        place = f"{root}/{directory}"
        if not os.path.lexists(place):
            continue
        probe = f"{staging}/probe"
        try:
            with open(probe, "xb"):
                pass
            os.replace(probe, f"{place}/{_STAGING}probe")
            os.unlink(f"{place}/{_STAGING}probe")
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(probe)
            raise DataError(
                f"{place}: files cannot be moved there from {root} ({error.strerror}); make it an ordinary "
                "directory on the same disk, or choose another dataset.path"
            ) from None


@contextlib.contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turns a disk error, in this process or a worker, into a DataError of one line.

    Args:
      path: named if the error names no file.
    """
    loggers = [logging_.getLogger(f"apache_beam.runners.{name}") for name in _TRACEBACKS]
    for logger in loggers:
        logger.addFilter(_is_no_refusal)
    try:
        yield
    except OSError as error:
        if error.errno is None:  # from an object store
            raise
        raise DataError(_refusal(error.errno, error.filename or path)) from None
    except RuntimeError as error:  # from Beam, with the worker's traceback as its text
        found = _WORKER_ERROR.findall(str(error))
        if not found:
            raise
        number, file = found[-1]
        raise DataError(_refusal(int(number), file or path)) from None
    finally:
        for logger in loggers:
            logger.removeFilter(_is_no_refusal)


def _is_no_refusal(record: logging_.LogRecord) -> bool:
    return not _WORKER_ERROR.search(record.getMessage())


def _refusal(number: int, file: str) -> str:
    return f"{file}: {os.strerror(number)}; {storage.advice(number)}. Nothing is published"


@contextlib.contextmanager
def _remote_workspace(target: str) -> Iterator[Workspace]:
    filesystem, root = storage.filesystem(target)
    name = f"{_STAGING}{uuid.uuid4().hex[:8]}"
    with _lease(target) as lease:
        # Listed, not globbed: the path may contain characters of a pattern.
        for old in (f"{root}/{found}" for found in names(target) if found.startswith(_STAGING)):
            if lease or _is_old(filesystem, old):
                filesystem.rm(old, recursive=True)
        try:
            yield Workspace(f"{target}/{name}", lease.check if lease else lambda: None)
        finally:
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm(f"{root}/{name}", recursive=True)


@contextlib.contextmanager
def _lease(target: str) -> Iterator[Lease | None]:
    """Locks a target in gs:// against other jobs; yields None, without a lock, in other stores."""
    if not target.startswith("gs://"):
        yield None
        return
    try:
        lease = Lease(f"{target}/{LOCK_NAME}")
    except LeaseHeld as holder:
        raise DataError(
            f"{target}: another `lazytower prepare` is writing it ({holder}); wait until it ends"
        ) from None
    except OSError as error:
        raise DataError(f"{target}: cannot write there ({error}); choose another dataset.path") from None
    try:
        yield lease
    finally:
        lease.close()


def _is_old(filesystem: AbstractFileSystem, directory: str) -> bool:
    files = filesystem.find(directory, detail=True).values()
    ages = [info.get("mtime") or info.get("updated") for info in files]
    now = datetime.datetime.now(datetime.timezone.utc)
    return bool(ages) and all(isinstance(a, datetime.datetime) and now - a > _STALE_AFTER for a in ages)
