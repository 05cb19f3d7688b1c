"""Which content a source file had: what its store says of it, and a checksum.

A version is cheap: size, times and inode on a local disk, the generation in gs://, an entity tag or time
elsewhere. Equal versions mean equal content; different ones may hold the same, as after a copy or `touch`,
which the checksum then tells. Object stores know checksums; local files are read once for theirs.
"""

import base64
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import google_crc32c

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote

_CHUNK_BYTES = 4 << 20
_THREADS = 16  # requests to a store
_TICK_NANOSECONDS = 2_000_000_000


class SourceFile(NamedTuple):
    """One file of a source."""

    name: str
    """Path or URL, as messages show it."""
    size: int
    """Bytes, as they are stored."""
    version: str
    """What the store says of its content without reading it."""
    content: str = ""
    """Checksum of the stored bytes, or what stands for one; empty until `with_content`."""
    recent: bool = False
    """Local: written so shortly before that another write could have left the same times."""


def _local_version(stat: os.stat_result) -> str:
    """The time of a change of content comes first; what also changes by itself (links, moves) last."""
    return f"{stat.st_size}/{stat.st_mtime_ns}/{stat.st_ctime_ns}/{stat.st_ino}"


def _is_recent(stat: os.stat_result) -> bool:
    """Whether a write that comes next could leave the same times: clocks of disks tick in 10 ms to 2 s."""
    return time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _TICK_NANOSECONDS


def remote_file(name: str, info: dict) -> SourceFile:
    """From what fsspec says of a file.

    Raises:
      DataError: the store does not know its size, or keeps it compressed under another one.
    """
    if info.get("size") is None:
        raise DataError(f"{name}: its store does not say how big it is; copy it to a local disk or gs://")
    if info.get("contentEncoding") == "gzip":
        raise DataError(
            f"{name}: is stored with Content-Encoding: gzip, so what is read has another size than it; "
            "upload it again as a plain or .gz file without that header"
        )
    if info.get("generation"):  # gs://: never the same for two writes
        version = f"{info['size']}/{info['generation']}"
    else:
        tags = [info.get(key) for key in ("etag", "ETag", "LastModified", "last_modified", "mtime")]
        version = "/".join([str(info["size"]), *(str(tag) for tag in tags if tag)])
    content = f"crc32c {base64.b64decode(info['crc32c']).hex()}" if info.get("crc32c") else version
    return SourceFile(name, info["size"], version, content)


def look(name: str) -> SourceFile:
    """A file as it is now.

    Raises:
      DataError: it is gone, or cannot be looked at.
    """
    try:
        if not is_remote(name):
            stat = os.stat(name)
            return SourceFile(name, stat.st_size, _local_version(stat), recent=_is_recent(stat))
        fs, path = filesystem(name)
        return remote_file(name, fs.info(path))
    except FileNotFoundError:
        raise DataError(f"{name}: the file is gone; check source.paths") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None


def with_content(file: SourceFile) -> SourceFile:
    """The same with its checksum, for which a local file is read."""
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


def each(function: Callable, files: Sequence) -> list:
    """Results of a function that waits for disks or stores, in order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, files))


def check_range(name: str, version: str) -> None:
    """Compares a local file with its version when it was listed; called around the reading of a part.

    Stores of objects are looked at once in the end instead: their versions never return.

    Raises:
      DataError: somebody has written it since.
    """
    if not version or is_remote(name):
        return
    now = look(name)
    if now.version.split("/")[:2] != version.split("/")[:2]:
        raise _changed(name, version, now)


def check_unchanged(files: Sequence[SourceFile]) -> None:
    """Looks at all files again.

    Args:
      files: with their content.

    Raises:
      DataError: one has changed since it was listed.
    """
    for before, now in zip(files, each(look, [file.name for file in files]), strict=True):
        if now.version == before.version and not before.recent:
            continue
        same_times = now.version.split("/")[:2] == before.version.split("/")[:2]
        # A hard link or other rights change only the rest.
        if is_remote(before.name) or not same_times or with_content(now).content != before.content:
            raise _changed(before.name, before.version, now)


def _changed(name: str, version: str, now: SourceFile) -> DataError:
    size = int(version.split("/")[0])
    what = f"it had {size:,} bytes and has {now.size:,}" if size != now.size else "its size is the same"
    return DataError(
        f"{name}: has changed since it was listed ({what}); nothing is published. "
        "Run the same command when nothing writes to the source"
    )
