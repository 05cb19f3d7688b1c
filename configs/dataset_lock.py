"""Shared locks on dataset.json for readers of a local dataset, exclusive ones for replacing it.

`train`, `evaluate` and `export` lock the dataset that they read, and `prepare` never replaces a locked one,
because a run cannot be resumed without its dataset. The lock is on the file itself, so it belongs to one
version of the dataset, is the same under every name of the directory, needs no write permission, and ends
with its process. In object stores, which have no locks, the files of a replaced dataset stay until the next
one is published; see pipelines/publish.py.
"""

import contextlib
import errno
import fcntl
import os

from configs.errors import DataError
from configs.manifest import MANIFEST_FILE
from configs.system import storage
from configs.system.file_lock import holders

# A file system without locks can be read all the same; it just does not show other readers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


class DatasetLock:
    """Locks the dataset of a directory until `close`; does nothing without a dataset, or without locks.

    Args:
      path: dataset directory, local or in an object store.
      exclusive: lock out readers too, to replace it; otherwise only those that would replace it.

    Raises:
      DataError: another process has locked it; names the process.
    """

    def __init__(self, path: str, *, exclusive: bool = False):
        self._descriptor: int | None = None
        if storage.is_remote(path):
            return
        name = storage.join(storage.filesystem(path)[1], MANIFEST_FILE)
        while self._descriptor is None:
            try:
                descriptor = _open(name)
            except OSError:  # missing or not permitted: loading it will say so
                return
            try:
                _lock(descriptor, path, exclusive)
                # If it was replaced between opening and locking, lock the new one.
                if os.path.samestat(os.stat(name), os.fstat(descriptor)):
                    self._descriptor = descriptor
            except FileNotFoundError:
                return
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def close(self) -> None:
        """Releases the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "DatasetLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(name: str) -> int:
    with contextlib.suppress(PermissionError):
        return os.open(name, os.O_RDWR)  # NFS grants exclusive locks only on files opened for writing
    return os.open(name, os.O_RDONLY)


def _lock(descriptor: int, path: str, exclusive: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        who = holders(descriptor) or "another process"
        if exclusive:
            raise DataError(
                f"{path}: {who} reads this dataset; wait for it or stop it, or choose another dataset.path"
            ) from None
        raise DataError(f"{path}: {who} is replacing this dataset; wait for it") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
