"""One process at a time in a run or export directory: a file lock on a disk, a lease in an object store."""

import os
from typing import Protocol

from configs.system import storage
from configs.system.file_lock import FileLock
from configs.system.lease import Lease

LOCK_FILE = ".lock"


class Lock(Protocol):
    """A directory locked against other processes."""

    @property
    def lost(self) -> bool:
        """Whether another process has taken over, so that nothing may be written any more."""

    def check(self) -> None:
        """Raises UserError when another process may have taken over; call it before each write."""

    def close(self) -> None:
        """Releases the lock."""


def lock_directory(path: str) -> Lock:
    """Locks a directory, creating it when missing.

    If the holder of a lease may have died, this waits for up to a minute to find out.

    Raises:
      LeaseHeld: another process holds it; the text names it.
      OSError: it cannot be created or written.
    """
    name = storage.join(path, LOCK_FILE)
    if storage.is_remote(path):
        return Lease(name)
    storage.make_directory(path)
    return FileLock(os.path.abspath(name))
