"""Who reads a prepared dataset on a disk, and who may replace it: shared and exclusive locks of dataset.json.

A trainer, an evaluation and an export hold the dataset that they read; `prepare` replaces none that is held,
for a run whose dataset is gone can never be resumed. The lock is on the file itself, so it goes with the
generation it belongs to, is the same under every name of the directory, needs no right to write, and ends
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

# A file system that has no locks is one where nobody can be seen, not one that cannot be read.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


class DatasetLock:
    """Holds the dataset of a directory until `close`; nothing where there is none, or no locks.

    Args:
      path: dataset directory, local or in an object store.
      exclusive: against all others, to replace it; else against those who would.

    Raises:
      DataError: another process holds it; names the process.
    """

    def __init__(self, path: str, *, exclusive: bool = False):
        self._descriptor: int | None = None
        if storage.is_remote(path):
            return
        name = storage.join(storage.filesystem(path)[1], MANIFEST_FILE)
        while self._descriptor is None:
            try:
                descriptor = _open(name)
            except OSError:  # missing or closed to us: loading it says so
                return
            try:
                _lock(descriptor, path, exclusive)
                # Replaced between opening and locking it: hold the new one.
                if os.path.samestat(os.stat(name), os.fstat(descriptor)):
                    self._descriptor = descriptor
            except FileNotFoundError:
                return
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def close(self) -> None:
        """Lets go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self):
        self.close()

    def __enter__(self) -> "DatasetLock":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _open(name: str) -> int:
    with contextlib.suppress(PermissionError):
        return os.open(name, os.O_RDWR)  # NFS gives exclusive locks to those alone who may write
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
