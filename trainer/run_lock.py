"""Locks a run or export directory for one process: a file lock on a disk, a lease in an object store."""

import os
import time
from typing import Protocol

from configs.errors import UserError
from configs.system import storage
from configs.system.file_lock import FileLock
from configs.system.lease import Lease, LeaseHeld

LOCK_FILE = ".lock"
_PATIENCE_SECONDS = 5.0  # the last process of a killed command may need a moment to end


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


def lock_job(path: str, key: str, what: str) -> Lock:
    """Locks the directory of a job that starts processes, which may outlive a killed one for a moment.

    Args:
      path: the directory; it is created if it is missing.
      key: of the config, that names it.
      what: the job, for messages: "a day".

    Raises:
      UserError: another process holds the lock, or the directory cannot be written.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return lock_directory(path)
        except LeaseHeld as holder:
            if time.monotonic() > until:
                raise UserError(
                    f"{path}: {what} is running ({holder}); wait for it, then rerun the same command"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise UserError(
                f"{key}: {path} cannot be written ({error.strerror or error}); give this user permission, or "
                "choose another path"
            ) from None
