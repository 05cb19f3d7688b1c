"""Where a dataset is written before it is complete, and how it becomes visible at once.

Everything is written beside the target. Then files are moved in under names that hold the content's digest,
dataset.json replaces its predecessor in one step, and files that it does not list are removed.
"""

import contextlib
import datetime
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import fsspec

from configs.dataset import FILE_NAME, Dataset
from configs.errors import DataError
from configs.lease import Lease, LeaseHeld
from configs.storage import names
from pipelines.manifest import published_name
from pipelines.write import DIRECTORIES, WrittenFile

_OUR_FILE = re.compile(r"[0-9a-f]{8}-\d{5}\.(tfrecord\.gz|jsonl)")
_STALE_AFTER = datetime.timedelta(days=1)


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
    if "://" in target:
        with _remote_workspace(target) as place:
            yield place
        return
    target = os.path.abspath(target)
    parent, name = os.path.split(target)
    prefix = f".{name}.prepare-"
    try:
        os.makedirs(parent, exist_ok=True)
        if os.path.exists(target) and not os.path.isdir(target):
            raise DataError(f"{target}: is a file; dataset.path must be a directory")
        lock = _lock(f"{parent}/.{name}.prepare.lock", target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot write there ({error.strerror}); choose another dataset.path"
        ) from None
    path = f"{parent}/{prefix}{uuid.uuid4().hex[:8]}"
    try:
        for entry in os.scandir(parent):
            if entry.name.startswith(prefix):
                shutil.rmtree(entry.path, ignore_errors=True)
        os.mkdir(path)
        yield Workspace(path, lambda: None)  # a file lock cannot be lost
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{parent}/.{name}.prepare.lock")
        os.close(lock)


def _lock(path: str, target: str) -> int:
    """Descriptor of a locked file; the lock goes when the process ends, however it ends."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DataError(f"{target}: another `lazytower prepare` is writing it; wait for it") from None
        # Its last owner may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _remote_workspace(target: str) -> Iterator[Workspace]:
    filesystem, root = fsspec.core.url_to_fs(target)
    name = f".prepare-{uuid.uuid4().hex[:8]}"
    with _lease(target) as lease:
        # Listed, not globbed: the path may hold the marks of a pattern.
        for old in (f"{root}/{found}" for found in names(target) if found.startswith(".prepare-")):
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
        lease = Lease(f"{target}/.prepare.lock")
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
    """Moves staged files into the target and writes dataset.json last."""
    filesystem, root = fsspec.core.url_to_fs(target)
    _, staged = fsspec.core.url_to_fs(staging)
    local = "://" not in target
    for file in files:
        destination = f"{root}/{published_name(file, dataset.fingerprint)}"
        if local:
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            os.replace(f"{staged}/{file.directory}/{file.name}", destination)
        else:
            filesystem.mv(f"{staged}/{file.directory}/{file.name}", destination)
    text = dataset.model_dump_json(indent=1).encode()
    if local:
        _replace_durably(root, text)
    else:
        filesystem.pipe_file(f"{root}/{FILE_NAME}", text)
    _remove_others(filesystem, root, {published_name(file, dataset.fingerprint) for file in files})


def _replace_durably(root: str, text: bytes) -> None:
    """Writes dataset.json so that after a power loss it is the old or the new one, and its files exist."""
    for directory in (*DIRECTORIES, "."):
        if os.path.isdir(f"{root}/{directory}"):
            _sync_directory(f"{root}/{directory}")
    with open(f"{root}/{FILE_NAME}.new", "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{root}/{FILE_NAME}.new", f"{root}/{FILE_NAME}")
    _sync_directory(root)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
