"""Compiles the kernels once for the installed TensorFlow, and loads them.

    python -m trainer.kernels.build              for this machine, now instead of at the first use
    python -m trainer.kernels.build DIRECTORY    for an image or a wheel

They are compiled for this machine's processor, which takes about 20 seconds, and cached with their checksum
in ~/.cache/lazytower (or LAZYTOWER_CACHE), under a hash of all that they depend on. A truncated library, or
one that other users may write, is recompiled instead of loaded.

For other machines, a directory gets a library for each level of processors (trainer/kernels/levels.py), and
the best one that the processor runs is loaded. It is looked for in LAZYTOWER_KERNELS=DIRECTORY, which images
set, or else in BUNDLED, where a wheel has it if it was compiled before the wheel was built.
LAZYTOWER_KERNELS=FILE.so loads that file, LAZYTOWER_KERNELS=off none.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent import futures

import tensorflow as tf
from absl import logging

from configs.system import storage
from configs.system.file_lock import FileLock
from trainer.kernels.levels import LEVELS, Level, levels, processor

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
SOURCES = sorted(pathlib.Path(__file__).parent.glob("*.cc"))
BUNDLED = pathlib.Path(__file__).parent / "compiled"
"""Libraries that come with the package."""
# Floating-point errors are detected in the results (trainer/training/guard.py), not by processor flags.
# -mtune=generic, because GCC 12 avoids the wide registers of processors it does not know: 17 % slower.
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
    """The kernels are not available on this machine; the message says why."""


_graph_only = threading.local()


@contextlib.contextmanager
def graph_only():
    """Within the context, in this thread, `kernels` returns None: for programs that run on other devices."""
    before, _graph_only.set = getattr(_graph_only, "set", False), True
    try:
        yield
    finally:
        _graph_only.set = before


def kernels():
    """The loaded ops; None within graph_only or, after one warning, if they are not available."""
    return None if getattr(_graph_only, "set", False) else _loaded()


@functools.cache
def _loaded():
    try:
        return tf.load_op_library(_library())
    except (NoKernels, OSError, tf.errors.NotFoundError) as reason:  # OSError: the disk is full
        logging.warning("native kernels are not available, using slower TensorFlow ops: %s", reason)
        return None


@functools.cache
def without_tensorflow() -> ctypes.CDLL:
    """The library, for functions that Python calls itself; requires the kernels."""
    return ctypes.CDLL(_library())  # loaded already: the same one


def release_tracked() -> int:
    """Frees the records of this process that trainer.kernels.ops.track was called with; returns their bytes.
    Requires the kernels."""
    release = without_tensorflow().lazytower_release
    release.restype = ctypes.c_int64
    return int(release())


def multiplies_bfloat16() -> bool:
    """Whether the kernels have instructions for products of bfloat16: they were compiled for AVX512-BF16."""
    return kernels() is not None and bool(without_tensorflow().lazytower_has_bfloat16())


def warn_of_slow_bfloat16() -> None:
    """Says once that bfloat16 takes longer than float32 on this machine, if so; not within graph_only."""
    if not getattr(_graph_only, "set", False):
        _warn_of_slow_bfloat16()


@functools.cache
def _warn_of_slow_bfloat16() -> None:
    if not multiplies_bfloat16():
        logging.warning(
            "model.loss.precision: bfloat16 is slower than float32 here, because the processor, or the "
            "library of kernels, has no AVX512-BF16; use float32 unless the run must compare with others"
        )


def _library() -> str:
    given = os.environ.get("LAZYTOWER_KERNELS")
    if given == "off":
        raise NoKernels("LAZYTOWER_KERNELS is off")
    if given and not os.path.isdir(given):
        return _whole(pathlib.Path(given))
    directory = pathlib.Path(given) if given else BUNDLED
    for level in levels(processor()):
        path = directory / _name_for(level)
        if path.exists():
            return _whole(path)
    if given:
        raise NoKernels(
            f"LAZYTOWER_KERNELS: {given} has none for this processor, this version of lazytower and "
            f"TensorFlow {tf.__version__}; run `python -m trainer.kernels.build {given}`, or unset it"
        )
    return _compiled_here()


def _whole(path: pathlib.Path) -> str:
    """A library that was compiled elsewhere; a file without a checksum is the user's own."""
    if _sum_of(path).exists() and not _is_whole(path):
        raise NoKernels(f"{path} does not match its checksum; compile or install it again")
    return str(path)


def _name_for(level: Level) -> str:
    return f"kernels-{level.name}-{_digest(SOURCES, [*_FLAGS, *tf.sysconfig.get_compile_flags()])}.so"


def _compiled_here() -> str:
    return cached_library("kernels", SOURCES, tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags())


def cached_library(
    name: str, sources: Sequence[pathlib.Path], flags: Sequence[str], link: Sequence[str] = ()
) -> str:
    """Path of a shared library of C++ sources; compiles it for this processor unless it is cached.

    Args:
      name: prefix of the file's name.
      sources: C++ files.
      flags, link: compiler options before and after the sources.

    Raises:
      NoKernels: there is no compiler, or it fails.
    """
    path = _cached(name, sources, flags)
    _make_private(path.parent)
    if _distrust(path):
        lock = FileLock(
            str(path.with_suffix(".lock")), wait=True
        )  # a second process waits and finds it compiled
        try:
            if reason := _distrust(path):
                if os.path.lexists(path):
                    logging.warning("%s: %s; compiling it again", path, reason)
                logging.info("compiling native %s once into %s (about 20 s)", name, path.parent)
                _compile(str(path), sources, ["-march=native", *flags], link)
        finally:
            lock.close()
    return str(path)


def _make_private(directory: pathlib.Path) -> None:
    """Creates the cache directory; code from a directory that other users may write is never run.

    Raises:
      NoKernels: it belongs to another user, or others may write there.
    """
    storage.make_directory(str(directory))
    status = directory.stat()
    others_write = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
    if others_write and status.st_uid == os.geteuid() and not os.environ.get("LAZYTOWER_CACHE"):
        directory.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)  # created under umask 002
    elif others_write or status.st_uid not in (0, os.geteuid()):
        raise NoKernels(
            f"{directory} belongs to another user, or others may write there; run chmod go-w {directory}, or "
            "set LAZYTOWER_CACHE to another directory"
        )


def _distrust(path: pathlib.Path) -> str | None:
    """Why a library must not be loaded: missing, corrupt or writable by others; None if it may be."""
    for file in (path, _sum_of(path)):
        try:
            status = file.lstat()
        except FileNotFoundError:
            return f"{file.name} is missing"
        if not stat.S_ISREG(status.st_mode):
            return f"{file.name} is not a regular file"
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS_WRITE:
            return f"{file.name} belongs to another user, or others may write it"
    return None if _is_whole(path) else "does not match its checksum"


def _is_whole(path: pathlib.Path) -> bool:
    return _sum_of(path).read_bytes() == _sum(path.read_bytes())


def _sum_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.sha256")


def _sum(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()} {len(content)}\n".encode()


def _cached(name: str, sources, flags) -> pathlib.Path:
    home = os.environ.get("LAZYTOWER_CACHE") or os.path.expanduser("~/.cache/lazytower")
    return pathlib.Path(home) / f"{name}-{_digest(sources, [*_FLAGS, *flags], processor())}.so"


def _digest(sources, flags, processor_flags: str = "") -> str:
    folders = sorted({source.parent for source in sources})
    headers = [header for folder in folders for header in sorted(folder.glob("*.h"))]
    parts = [file.read_bytes() for file in (*sources, *headers)]
    # Where TensorFlow's headers are does not matter: environments with the same version share the library.
    flags = [flag for flag in flags if not flag.startswith("-I")]
    parts += [text.encode() for text in (tf.__version__, processor_flags, *flags)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compile_levels(directory: str) -> list[str]:
    """Compiles the kernels for each level of processors, several at once, and writes each library atomically.

    Args:
      directory: is created. Libraries of other versions stay beside the new ones.

    Returns:
      The libraries' paths, the best level first.

    Raises:
      NoKernels: there is no compiler, or it fails.
    """
    storage.make_directory(directory)
    paths = [os.path.join(directory, _name_for(level)) for level in LEVELS]
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_compile_level, paths, LEVELS))
    return paths


def _compile_level(path: str, level: Level) -> None:
    flags = [*level.options, *tf.sysconfig.get_compile_flags()]
    _compile(path, SOURCES, flags, tf.sysconfig.get_link_flags())


def _compile(path: str, sources, flags, link) -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise NoKernels("no C++ compiler is installed; install g++")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as directory:
        made = os.path.join(directory, "kernels.so")
        # As one file: TensorFlow's headers take ten seconds each time that they are read.
        whole = pathlib.Path(directory, "whole.cc")
        whole.write_text("".join(f'#include "{source.absolute()}"\n' for source in sources), encoding="utf-8")
        command = [compiler, *_FLAGS, *flags, str(whole), "-o", made, *link]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise NoKernels(f"{compiler} fails: {reasons[0]}")
        content = pathlib.Path(made).read_bytes()
    # Both files are synced before they are renamed, so a library truncated by a power loss is detected.
    storage.write_bytes(path, content)
    os.chmod(path, 0o755)
    storage.write_bytes(f"{path}.sha256", _sum(content))
    os.chmod(f"{path}.sha256", 0o644)


def main(arguments: list[str]) -> int:
    """The command; prints the libraries. Returns 1, after the reason, if there are no kernels."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.kernels.build", description="Compiles the kernels."
    )
    parser.add_argument(
        "directory",
        nargs="?",
        help="where a library for each level of processors is written (default: a library for "
        "this machine, in the cache)",
    )
    directory = parser.parse_args(arguments).directory
    logging.set_verbosity(logging.INFO)
    try:
        print(*([_library()] if directory is None else compile_levels(directory)), sep="\n")
    except (NoKernels, OSError) as reason:
        print(f"there are no native kernels: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
