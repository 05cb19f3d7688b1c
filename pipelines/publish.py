"""Where a dataset is written before it is complete, and how it becomes visible at once.

Everything is written inside the target, so that it is on the same disk even where the target is a mount or
a link. Then files are moved to names that hold the content's digest, dataset.json replaces its predecessor in
one step, and files that it does not list are removed.
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

from absl import logging

from configs.dataset_lock import DatasetLock
from configs.errors import DataError
from configs.manifest import MANIFEST_FILE, Dataset, load_dataset
from configs.system import storage
from configs.system.file_lock import FileLock
from configs.system.lease import Lease, LeaseHeld
from configs.system.storage import names
from pipelines.manifest import published_name
from pipelines.stages.write import DIRECTORIES, WrittenFile

LOCK_NAME = ".prepare.lock"
PREVIOUS = "dataset.previous.json"
"""In an object store, the manifest of the dataset that was replaced last."""
_STAGING = ".prepare-"
_OUR_FILE = re.compile(r"[0-9a-f]{8}-([a-z0-9_]+-)?\d{5}\.(tfrecord\.gz|jsonl)")
_TRACEBACKS = ("common", "portability.local_job_service")  # loggers that print them on their way here
_STALE_AFTER = datetime.timedelta(days=1)
# The last line of a traceback that Beam brings from a worker.
_WORKER_ERROR = re.compile(r"Error: \[Errno (\d+)\] [^\n:']*(?:: '([^\n']*)')?")


class Workspace(NamedTuple):
    """Where a job writes."""

    path: str
    """Temporary directory."""
    check: Callable[[], None]
    """Raises UserError when another job may have taken over the target."""


@contextlib.contextmanager
def workspace(target: str) -> Iterator[Workspace]:
    """A fresh temporary directory for a job that writes `target`; gone afterwards.

    What killed jobs left behind is removed. A lock tells a killed job from a running one: of files on a disk,
    a lease in gs://, and in other object stores, which have none, its age does.

    Raises:
      DataError: another job is writing this target, or the place cannot be written.
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
    """Holds the directory, made when missing, against other jobs by whatever name; an empty one goes again.

    Raises:
      DataError: another job holds it, or it cannot be written.
    """
    new = not os.path.exists(root)
    try:
        lock = _locked(root, target)
    except OSError as error:
        if os.path.exists(root) and not os.path.isdir(root):
            raise DataError(f"{target}: is a file; dataset.path must be a directory") from None
        raise DataError(
            f"{target}: cannot write there ({error.strerror}); choose another dataset.path"
        ) from None
    try:
        yield lock
    finally:
        # Under the lock: who waits for the file finds another one, or none, in its place.
        with contextlib.suppress(OSError):
            os.unlink(f"{root}/{LOCK_NAME}")
        lock.close()
        if new:
            with contextlib.suppress(OSError):  # it holds the dataset
                os.rmdir(root)


def _locked(root: str, target: str) -> FileLock:
    while True:
        storage.make_directory(root)
        try:
            lock = FileLock(f"{root}/{LOCK_NAME}")
        except LeaseHeld as holder:
            raise DataError(
                f"{target}: another `lazytower prepare` is writing it ({holder}); wait for it"
            ) from None
        except FileNotFoundError:  # its last owner has just removed the directory
            continue
        if lock.is_at(f"{root}/{LOCK_NAME}"):
            return lock
        lock.close()  # its last owner removed the file between our open and our lock


def _remove_staging(root: str) -> None:
    """What killed jobs left; the lock proves that none of them writes any more."""
    for entry in os.scandir(root):
        if entry.name.startswith(_STAGING) and entry.name != LOCK_NAME:
            shutil.rmtree(entry.path, ignore_errors=True)


def _check_renames(root: str, staging: str) -> None:
    """Raises DataError, before any work, where a finished file could not be moved to its place at once."""
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
                "directory of the same disk, or choose another dataset.path"
            ) from None


@contextlib.contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turns a disk's refusal, of this process or of a worker, into a DataError of one line.

    Args:
      path: named when the refusal names no file.
    """
    loggers = [logging_.getLogger(f"apache_beam.runners.{name}") for name in _TRACEBACKS]
    for logger in loggers:
        logger.addFilter(_is_no_refusal)
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of an object store
            raise
        raise DataError(_refusal(error.errno, error.filename or path)) from None
    except RuntimeError as error:  # of Beam, with the worker's traceback as its text
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
        # Listed, not globbed: the path may hold the marks of a pattern.
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
    """Holds a target in gs:// against other jobs; yields None, and holds nothing, in other stores."""
    if not target.startswith("gs://"):
        yield None
        return
    try:
        lease = Lease(f"{target}/{LOCK_NAME}")
    except LeaseHeld as holder:
        raise DataError(
            f"{target}: another `lazytower prepare` is writing it ({holder}); wait for it"
        ) from None
    except OSError as error:
        raise DataError(f"{target}: cannot write there ({error}); choose another dataset.path") from None
    try:
        yield lease
    finally:
        lease.close()


def _is_old(filesystem, directory: str) -> bool:
    files = filesystem.find(directory, detail=True).values()
    ages = [info.get("mtime") or info.get("updated") for info in files]
    now = datetime.datetime.now(datetime.timezone.utc)
    return bool(ages) and all(isinstance(a, datetime.datetime) and now - a > _STALE_AFTER for a in ages)


def publish(target: str, staging: str, dataset: Dataset, files: list[WrittenFile]) -> None:
    """Moves staged files into the target, writes dataset.json last, and removes what it does not list.

    In an object store, where readers cannot be seen, the files of the dataset that is replaced stay, and its
    manifest as PREVIOUS, until the next one is published.
    """
    names = {published_name(file, dataset.fingerprint): file for file in files}
    text = dataset.model_dump_json(indent=1).encode()
    if storage.is_remote(target):
        _publish_remotely(target, staging, names, text)
    else:
        _publish_here(os.path.realpath(storage.filesystem(target)[1]), staging, names, text)


def _publish_here(root: str, staging: str, names: dict[str, WrittenFile], text: bytes) -> None:
    for name, file in names.items():
        storage.make_directory(os.path.dirname(f"{root}/{name}"))
        os.replace(f"{staging}/{file.directory}/{file.name}", f"{root}/{name}")
    for directory in DIRECTORIES:
        if os.path.isdir(f"{root}/{directory}"):
            storage.sync_directory(f"{root}/{directory}")
    storage.write_bytes(f"{root}/{MANIFEST_FILE}", text)
    filesystem, place = storage.filesystem(root)
    _remove_others(filesystem, place, set(names))


def _publish_remotely(target: str, staging: str, names: dict[str, WrittenFile], text: bytes) -> None:
    filesystem, root = storage.filesystem(target)
    _, staged = storage.filesystem(staging)
    for name, file in names.items():
        filesystem.mv(f"{staged}/{file.directory}/{file.name}", f"{root}/{name}")
    previous, listed = _manifest_files(target)
    if previous is not None and not listed <= set(names):
        filesystem.pipe_file(f"{root}/{PREVIOUS}", previous)
        logging.info(
            "%s: the files of the dataset that is replaced stay, for runs that read it, until the next "
            "`lazytower prepare` here; %s is its manifest",
            *(target, PREVIOUS),
        )
    filesystem.pipe_file(f"{root}/{MANIFEST_FILE}", text)
    _remove_others(filesystem, root, set(names) | listed)


def _manifest_files(target: str) -> tuple[bytes | None, set[str]]:
    """The manifest that is there, and the files it lists; None and nothing when there is no readable one."""
    try:
        content = storage.read_bytes(f"{target}/{MANIFEST_FILE}")
        found = load_dataset(target)
    except (FileNotFoundError, DataError):
        return None, set()
    return content, {file.path for file in found.record_files}


def _remove_others(filesystem, root: str, keep: set[str]) -> None:
    """Removes files of older datasets, and of jobs that were killed while they published."""
    for directory in DIRECTORIES:
        try:
            found = filesystem.ls(f"{root}/{directory}", detail=False)
        except FileNotFoundError:
            continue
        for path in found:
            name = path.rpartition("/")[2]
            if _OUR_FILE.fullmatch(name) and f"{directory}/{name}" not in keep:
                filesystem.rm_file(path)
