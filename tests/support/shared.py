"""Directories that all processes of a test run share, for what takes long and is only read."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable

_ROOT = "SHARED_BY_TESTS"
"""Variable of the environment, which processes inherit: where the directories are."""


def begin() -> str:
    """Makes a place for the processes that this one starts; `end` removes it."""
    os.environ[_ROOT] = tempfile.mkdtemp(prefix="shared-by-tests-")
    return os.environ[_ROOT]


def end(root: str) -> None:
    """Removes what `begin` made."""
    shutil.rmtree(root, ignore_errors=True)


def shared(name: str, make: Callable[[str], None]) -> str:
    """A directory that `make` fills in the first process that asks for it; the others wait. Nobody may change
    it afterwards."""
    if _ROOT not in os.environ:  # not under pytest
        atexit.register(end, begin())
    directory = os.path.join(os.environ[_ROOT], name)
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(f"{directory}.made"):
            shutil.rmtree(directory, ignore_errors=True)  # of an attempt that failed
            os.makedirs(directory)
            make(directory)
            os.mkdir(f"{directory}.made")
    return directory
