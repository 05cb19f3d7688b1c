"""Compiles the kernels against the installed TensorFlow, once, and loads them.

They are compiled for this very processor when they are first needed, about 20 seconds, and kept in
~/.cache/lazytower (or LAZYTOWER_CACHE), under a name made of all that they depend on, beside their checksum.
What is cut, or what other users may write, is not loaded but compiled again. Images carry them
ready: LAZYTOWER_KERNELS=FILE.so makes runs load that file; LAZYTOWER_KERNELS=off, none.

    python -m trainer.kernels.build FILE.so x86-64-v3
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from configs.system import storage
from configs.system.file_lock import FileLock

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
SOURCES = sorted(pathlib.Path(__file__).parent.glob("*.cc"))
# Errors of mathematics are looked for in the results (trainer/training/guard.py), not in flags of the
# processor. Tuned for this processor, GCC 12 avoids the wide registers of one that it does not know:
# 17 % slower.
_FLAGS = [
    "-shared",
    "-fPIC",
    "-O3",
    "-DNDEBUG",
    "-w",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-mtune=generic",
]


class NoKernels(Exception):
    """They cannot be had here; the message says why."""


_graph_only = threading.local()


@contextlib.contextmanager
def graph_only():
    """Inside, in this thread, `kernels` says that there are none: for programs that other devices run."""
    before, _graph_only.set = getattr(_graph_only, "set", False), True
    try:
        yield
    finally:
        _graph_only.set = before


def kernels():
    """The loaded ops; None when there are none here (after a notice, once) or within graph_only."""
    return None if getattr(_graph_only, "set", False) else _loaded()


@functools.cache
def _loaded():
    try:
        return tf.load_op_library(_library())
    except (NoKernels, OSError, tf.errors.NotFoundError) as reason:  # OSError: no room to keep them
        logging.warning("no native kernels, TensorFlow's ops do their work: %s", reason)
        return None


def _library() -> str:
    given = os.environ.get("LAZYTOWER_KERNELS")
    if given == "off":
        raise NoKernels("LAZYTOWER_KERNELS is off")
    if given:
        path = pathlib.Path(given)
        if _sum_of(path).exists() and not _is_whole(path):
            raise NoKernels(f"LAZYTOWER_KERNELS: {given} is not as it was compiled; make it again")
        return given
    return cached_library("kernels", SOURCES, tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags())


def cached_library(
    name: str, sources: Sequence[pathlib.Path], flags: Sequence[str], link: Sequence[str] = ()
) -> str:
    """Path of a shared library of C++ sources, compiled for this processor when it is not kept yet.

    Args:
      name: the file's begins with it.
      sources: files.
      flags, link: of the compiler, before and after the sources.

    Raises:
      NoKernels: no compiler, or it fails.
    """
    path = _cached(name, sources, [*_FLAGS, *flags])
    _make_private(path.parent)
    if _distrust(path):
        lock = FileLock(str(path.with_suffix(".lock")), wait=True)  # a second process waits, and finds them
        try:
            if reason := _distrust(path):
                if os.path.lexists(path):
                    logging.warning("%s: %s; compiled again", path, reason)
                logging.info("compiling native %s, once, into %s (about 20 s)", name, path.parent)
                _compile(str(path), sources, ["-march=native", *flags], link)
        finally:
            lock.close()
    return str(path)


def _make_private(directory: pathlib.Path) -> None:
    """Makes the cache's directory; code from a directory that others may change is not run.

    Raises:
      NoKernels: it is another user's, or others may write there.
    """
    storage.make_directory(str(directory))
    status = directory.stat()
    others_write = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
    if others_write and status.st_uid == os.geteuid() and not os.environ.get("LAZYTOWER_CACHE"):
        directory.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)  # made under a umask of 002
    elif others_write or status.st_uid not in (0, os.geteuid()):
        raise NoKernels(
            f"{directory} belongs to another user, or others may write there; chmod go-w {directory}, or "
            "name another directory in LAZYTOWER_CACHE"
        )


def _distrust(path: pathlib.Path) -> str | None:
    """Why a library is not loaded: missing, cut, or in reach of other users; None: it is as it was made."""
    for file in (path, _sum_of(path)):
        try:
            status = file.lstat()
        except FileNotFoundError:
            return f"{file.name} is missing"
        if not stat.S_ISREG(status.st_mode):
            return f"{file.name} is no plain file"
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS_WRITE:
            return f"{file.name} belongs to another user, or others may write it"
    return None if _is_whole(path) else "is not as it was compiled"


def _is_whole(path: pathlib.Path) -> bool:
    return _sum_of(path).read_bytes() == _sum(path.read_bytes())


def _sum_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.sha256")


def _sum(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()} {len(content)}\n".encode()


def _cached(name: str, sources, flags) -> pathlib.Path:
    home = os.environ.get("LAZYTOWER_CACHE") or os.path.expanduser("~/.cache/lazytower")
    folders = sorted({source.parent for source in sources})
    headers = [header for folder in folders for header in sorted(folder.glob("*.h"))]
    parts = [file.read_bytes() for file in (*sources, *headers)]
    parts += [text.encode() for text in (tf.__version__, _processor(), *flags)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return pathlib.Path(home) / f"{name}-{digest}.so"


def _processor() -> str:
    """What code compiled for this processor may use."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line for line in file if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def compile_kernels(path: str, march: str) -> None:
    """Writes the library, whole or not at all.

    Args:
      path: of the library.
      march: processor, as g++ names it.

    Raises:
      NoKernels: no compiler, or it fails.
    """
    flags = [f"-march={march}", *tf.sysconfig.get_compile_flags()]
    _compile(path, SOURCES, flags, tf.sysconfig.get_link_flags())


def _compile(path: str, sources, flags, link) -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise NoKernels("no C++ compiler is installed (g++)")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as directory:
        made = os.path.join(directory, "kernels.so")
        command = [compiler, *_FLAGS, *flags, *map(str, sources), "-o", made, *link]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise NoKernels(f"{compiler} fails: {reasons[0]}")
        content = pathlib.Path(made).read_bytes()
    # Beside its sum, and through the disk before its name: what a power loss cuts is seen, not run.
    storage.write_bytes(path, content)
    os.chmod(path, 0o755)
    storage.write_bytes(f"{path}.sha256", _sum(content))
    os.chmod(f"{path}.sha256", 0o644)


if __name__ == "__main__":
    compile_kernels(sys.argv[1], sys.argv[2])
