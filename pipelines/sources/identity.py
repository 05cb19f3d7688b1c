"""The identity of a source file's content: the version that its store reports, and a checksum.

A version is cheap: size, times and inode on a local disk, the generation in gs://, an ETag or time elsewhere.
Equal versions mean equal content. Different versions may have equal content, as after a copy or `touch`; then
the checksum decides. Object stores report checksums; local files are read once to compute theirs.
"""

import base64
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import google_crc32c

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote

_CHUNK_BYTES = 4 << 20
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_THREADS = 16  # requests to a store
_TICK_NANOSECONDS = 2_000_000_000


class SourceFile(NamedTuple):
    """One file of a source."""

    name: str
    """Path or URL, as messages show it."""
    size: int
    """Size in bytes, as stored."""
    version: str
    """Version of the content, known without reading it."""
    content: str = ""
    """Checksum of the stored bytes, or the version if there is none; empty until `with_content`."""
    recent: bool = False
    """Local file written so recently that another write could leave the same times."""
    fixed: bool = False
    """No file, but a table that is read as of one moment, so that later changes do not matter."""


def _local_version(stat: os.stat_result) -> str:
    """Version of a local file: first the time of content changes, last what links and moves change too."""
    return f"{stat.st_size}/{stat.st_mtime_ns}/{stat.st_ctime_ns}/{stat.st_ino}"


def _is_recent(stat: os.stat_result) -> bool:
    """Whether another write could leave the same times: the resolution of disks' times is 10 ms to 2 s."""
    return time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _TICK_NANOSECONDS


def remote_file(name: str, info: dict[str, Any]) -> SourceFile:
    """A SourceFile from fsspec's info.

    Raises:
      DataError: the store does not report its size, or stores it compressed with another size.
    """
    if info.get("size") is None:
        raise DataError(f"{name}: its store does not report its size; copy it to a local disk or gs://")
    if info.get("contentEncoding") == "gzip":
        raise DataError(
            f"{name}: stored with Content-Encoding: gzip, so its size differs from that of its content; "
            "upload it again as a plain or .gz file without that header"
        )
    if info.get("generation"):  # gs://: differs for every write
        version = f"{info['size']}/{info['generation']}"
    else:
        tags = [info.get(key) for key in ("etag", "ETag", "LastModified", "last_modified", "mtime")]
        version = "/".join([str(info["size"]), *(str(tag) for tag in tags if tag)])
    content = f"crc32c {base64.b64decode(info['crc32c']).hex()}" if info.get("crc32c") else version
    return SourceFile(name, info["size"], version, content)


def look(name: str, key: str = "source.paths") -> SourceFile:
    """A file as it is now.

    Args:
      key: configuration key that names it, for messages.

    Raises:
      DataError: it does not exist, or cannot be read.
    """
    try:
        if not is_remote(name):
            stat = os.stat(name)
            return SourceFile(name, stat.st_size, _local_version(stat), recent=_is_recent(stat))
        fs, path = filesystem(name)
        return remote_file(name, fs.info(path))
    except FileNotFoundError:
        raise DataError(f"{name}: no such file; check {key}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None


def with_content(file: SourceFile) -> SourceFile:
    """The file with its checksum, for which a local file is read."""
    if file.content:
        return file
    if is_remote(file.name):
        return file._replace(content=look(file.name).content)
    checksum = google_crc32c.Checksum()
    try:
        with open(file.name, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                checksum.update(chunk)
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read ({error.strerror})") from None
    return file._replace(content=f"crc32c {checksum.hexdigest().decode()}")


def each(function: Callable[[_Item], _Result], files: Sequence[_Item]) -> list[_Result]:
    """Results of a function that waits for disks or stores, computed in threads, in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, files))


def check_range(name: str, version: str) -> None:
    """Compares a local file with its version when it was listed; called before and after reading a range.

    Files in object stores are checked once at the end instead, because their versions never repeat.

    Raises:
      DataError: it has changed since.
    """
    if not version or is_remote(name):
        return
    now = look(name)
    if now.version.split("/")[:2] != version.split("/")[:2]:
        raise _changed(name, version, now)


def check_unchanged(files: Sequence[SourceFile]) -> None:
    """Checks that no file has changed.

    Args:
      files: with their content checksums.

    Raises:
      DataError: one has changed since it was listed.
    """
    files = [file for file in files if not file.fixed]
    for before, now in zip(files, each(look, [file.name for file in files]), strict=True):
        if now.version == before.version and not before.recent:
            continue
        same_times = now.version.split("/")[:2] == before.version.split("/")[:2]
        # A new hard link or other permissions change only the rest.
        if is_remote(before.name) or not same_times or with_content(now).content != before.content:
            raise _changed(before.name, before.version, now)


def _changed(name: str, version: str, now: SourceFile) -> DataError:
    size = int(version.split("/")[0])
    what = f"from {size:,} to {now.size:,} bytes" if size != now.size else "its size is the same"
    return DataError(
        f"{name}: has changed since it was listed ({what}); nothing is published. "
        "Rerun the same command when no process writes to the source"
    )
