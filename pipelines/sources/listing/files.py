"""Which files a source has: patterns, directories and links resolved, each file once, in a stable order.

The order is that of source.paths, and natural within a pattern or directory: events_8 before events_10. Files
that Spark, Dask, Hadoop and file managers put beside data (names that begin with . or _, checksums, empty
parts) are left out and logged. Any other match that cannot be read is an error.
"""

import os
from collections.abc import Sequence

import fsspec
from absl import logging

from configs.errors import DataError
from configs.sections.base import lone_slash_scheme
from configs.system.storage import is_remote
from pipelines.sources.compression import compression_of, open_stream, read_head
from pipelines.sources.identity import SourceFile
from pipelines.sources.listing.patterns import Expansion, expand

_SHOWN = 3  # names per log line
_EMPTY_INSIDE_BYTES = 256  # larger compressed files are not empty
_DOWNLOADS = ("http", "https", "ftp", "sftp", "ssh", "data", "github", "hf", "git")


def list_files(patterns: Sequence[str], key: str = "source.paths") -> list[SourceFile]:
    """All files that the patterns match, each once, in order.

    Args:
      key: configuration key that has the patterns, for messages.

    Raises:
      DataError: a pattern matches nothing, has an unknown scheme, or matches something unreadable.
    """
    files: dict[object, SourceFile] = {}
    clutter, empty, again = [], [], []
    for pattern in patterns:
        if problem := scheme_problem(pattern):
            raise DataError(f"{pattern}: {problem}")
        literal, found, left_out = _expand(pattern, key)
        whole = []
        for file in found:
            if not is_empty(file):
                whole.append(file)
            elif literal:
                raise DataError(f"{file.name}: the file is empty; remove it from {key} or write it again")
            else:
                empty.append(file.name)
        if not whole:
            raise DataError(
                f"{pattern}: all matches are left out: {_shown([*empty, *left_out])}; check {key}"
            )
        clutter += left_out
        for file in whole:
            if (first := files.setdefault(_key(file.name), file)) is not file:
                again.append(f"{file.name} is {first.name}")
    _log(key, "files left out by name (hidden, begins with _, or a checksum)", clutter)
    _log(key, "empty files left out", empty)
    _log(key, "files named more than once, read once", again)
    return list(files.values())


def scheme_problem(path: str) -> str | None:
    """What is wrong with the scheme of a path or URL, and what to do; None: nothing."""
    if (scheme := lone_slash_scheme(path)) and not os.path.exists(path):
        return f"{scheme}/ needs a second slash to be a URL; write {scheme}//bucket/path"
    scheme, found, _ = path.partition("://")
    if not found or scheme in ("file", "gs", "gcs"):
        return None
    where = "a local disk or gs://"
    if scheme in _DOWNLOADS:
        return f"cannot be read over {scheme}://; download it to {where}"
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        return f"{scheme}:// is not supported here ({error}); copy the files to {where}"
    except ValueError:
        return f"{scheme}:// is not a known scheme; use {where}"
    return None


def _expand(pattern: str, key: str) -> Expansion:
    try:
        return expand(pattern)
    except DataError as error:
        raise DataError(str(error).replace("source.paths", key)) from None
    except OSError as error:
        what = error.strerror or str(error).partition("\n")[0]
        raise DataError(f"{pattern}: cannot be listed ({what}); check {key}") from None


def is_empty(file: SourceFile) -> bool:
    """Whether a file is empty, or compressed and empty inside."""
    if file.size == 0 or file.size > _EMPTY_INSIDE_BYTES:
        return file.size == 0
    if compression_of(read_head(file.name)) is None:
        return False
    with open_stream(file.name) as stream:
        return not stream.read(1)


def _key(name: str) -> object:
    """A key that is equal for all names of one file."""
    if is_remote(name):
        return name
    stat = os.stat(name)
    if stat.st_nlink > 1:  # with size and time, because some network disks reuse inode numbers
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    return os.path.realpath(name)


def _log(key: str, what: str, names: list[str]) -> None:
    if names:
        logging.warning("%s: %s: %s (%s)", key, what, f"{len(names):,}", _shown(names))


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
