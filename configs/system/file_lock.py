"""A lock on a local file, released when its process ends in any way."""

import contextlib
import errno
import fcntl
import os

from configs.system.lease import LeaseHeld


class FileLock:
    """Held from construction until `close`.

    The file is created if missing, never truncated, and never opened through a link. Otherwise a user who may
    write to the directory could make this process open another of its files, or lock one of theirs.

    Args:
      path: the file; its directory must exist.
      wait: wait until other processes release it.

    Raises:
      LeaseHeld: another process holds it.
      OSError: the directory cannot be written, or `path` is not a plain file.
    """

    lost = False

    def __init__(self, path: str, wait: bool = False):
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise OSError(error.errno, "is a link or not a plain file; remove it", path) from None
            raise
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            who = holders(self._descriptor)
            os.close(self._descriptor)
            raise LeaseHeld(who or "a process of this machine") from None
        except BaseException:
            os.close(self._descriptor)
            raise
        self._open = True

    def fileno(self) -> int:
        """The descriptor: a process that inherits it holds the lock too, until it ends."""
        return self._descriptor

    def is_at(self, path: str) -> bool:
        """Whether the locked file is still the one at `path`."""
        try:
            return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Does nothing: a file lock cannot be lost."""

    def close(self) -> None:
        """Releases the lock."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


def holders(descriptor: int) -> str:
    """Names the processes of this machine that have locked an open file; "" if none is visible."""
    status = os.fstat(descriptor)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = []
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if "->" not in fields and wanted in fields:
                found.append(_process(fields[fields.index(wanted) - 1]))
    return ", ".join(dict.fromkeys(found))


def _process(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return f"process {pid}"
    # Leave out the interpreter and the path of the program.
    starts = [i for i, word in enumerate(words) if word.rpartition("/")[2] == "lazytower"]
    starts = starts or [
        i for i, word in enumerate(words) if word == "trainer.cli" or word.endswith("/cli.py")
    ]
    command = " ".join(["lazytower", *words[starts[0] + 1 :]] if starts else words)
    return f"process {pid} ({command[:200]})"
