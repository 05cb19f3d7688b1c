"""Locks a run or export directory for one process: a file lock on a disk, a lease in an object store."""

import os
from typing import Protocol

from configs.system import storage
from configs.system.file_lock import FileLock
from configs.system.lease import Lease

LOCK_FILE = ".lock"


class Lock(Protocol):
    """The lock of a directory."""

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lock, so that this one must not write any more."""

    def check(self) -> None:
        """Raises UserError if another process may have taken the lock; call it before each write."""

    def close(self) -> None:
        """Releases the lock."""


def lock_directory(path: str) -> Lock:
    """Locks a directory, creating it if it is missing.

    If the holder of a lease may have died, this waits for up to a minute to find out.

    Raises:
      LeaseHeld: another process holds the lock; the message names it.
      OSError: the directory cannot be created or written.
    """
    name = storage.join(path, LOCK_FILE)
    if storage.is_remote(path):
        return Lease(name)
    storage.make_directory(path)
    return FileLock(os.path.abspath(name))
