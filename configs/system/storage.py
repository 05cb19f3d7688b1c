"""Files of datasets, runs and models, on a local disk or in an object store (gs://), through fsspec.

Guarantees: files of `write_bytes`, and of `writing` once closed, survive a power loss; a reader of a file
that `write_bytes` replaces finds the old content or the new, never a mixture. Object stores cannot rename
directories, so a directory becomes complete through a manifest that is written last. Listings are never
cached, because other processes write too.
"""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from configs.errors import ConfigError

# gcsfs reads this when it is imported, which fsspec does at the first gs://. Its experimental code queries
# another API for the type of each bucket. Without it all buckets but zonal ones work through the API that the
# tests cover.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_ADVICE = {
    errno.ENOSPC: "free space there, or choose another path",
    errno.EDQUOT: "free space there, have the quota raised, or choose another path",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another path",
    errno.EROFS: "mount it for writing, or choose another path",
    errno.EIO: "the disk is failing; check the kernel's log, and choose another path",
    errno.EACCES: "give this user permission, or choose another path",
    errno.EPERM: "give this user permission, or choose another path",
    errno.ENOMEM: "free memory, or raise its limits (ulimit -v, sysctl vm.max_map_count)",
    errno.EMFILE: "raise the limit of open files of this process (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of this machine (sysctl fs.file-max)",
}
REFUSALS = frozenset(_ADVICE)
"""Error numbers of the operating system that point to a problem of the machine, not of the program."""
_PIECE_BYTES = 32 << 20  # of an upload; each is one request


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec file system, path inside it) of a path or URL.

    Raises:
      ConfigError: the scheme is unknown, or its driver is not installed.
    """
    if is_remote(path):
        try:
            fs, place = fsspec.url_to_fs(path, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; use a local path or gs://") from error
    else:
        fs, place = fsspec.url_to_fs(os.path.abspath(path.removeprefix("file://")))
    return fs, place


def is_remote(path: str) -> bool:
    """Whether `path` is in an object store; local paths and file:// are not."""
    return "://" in path and not path.startswith("file://")


def join(path: str, *names: str) -> str:
    """`path` with names appended."""
    return "/".join([path.rstrip("/") or "/", *names])


def inner_path(name: str) -> str:
    """Returns `name` if it is a relative path that stays inside its directory.

    Raises:
      ValueError: it leads out of the directory; a manifest must not make its readers open other files.
    """
    parts = name.split("/")
    if not name or "\0" in name or "://" in name or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{name[:100]!r} is not a path inside the directory")
    return name


def exists(path: str) -> bool:
    """Whether there is a file or directory at `path`."""
    fs, place = filesystem(path)
    try:
        fs.info(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    # Not fs.exists: on a local disk fsspec returns False for every error, even one of a failing disk.
    return True


def names(path: str) -> list[str]:
    """Names in a directory, ascending; [] if the directory does not exist."""
    fs, place = filesystem(path)
    try:
        found = fs.ls(place, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A store may list the empty marker of the directory itself.
    return sorted(
        {name.rstrip("/").rpartition("/")[2] for name in found if name.strip("/") != place.strip("/")}
    )


def make_directory(path: str) -> None:
    """Creates a directory and its parents durably; does nothing in object stores, which have no
    directories."""
    if is_remote(path):
        return
    place, missing = filesystem(path)[1], []
    while not os.path.isdir(place) and place != os.path.dirname(place):
        missing.append(place)
        place = os.path.dirname(place)
    os.makedirs(filesystem(path)[1], exist_ok=True)
    for made in missing[::-1]:  # a name is stored in its parent directory
        with contextlib.suppress(PermissionError):  # a directory that may be written but not listed
            sync_directory(os.path.dirname(made))


def remove(path: str) -> None:
    """Deletes a file or a whole directory; does nothing if it does not exist."""
    fs, place = filesystem(path)
    if isinstance(fs, LocalFileSystem):
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
        return
    with contextlib.suppress(FileNotFoundError):
        fs.rm(place, recursive=True)


def read_bytes(path: str) -> bytes:
    """Content of a file. Raises FileNotFoundError."""
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        content: bytes = fs.cat_file(place)  # one request, whereas an open file requests blocks
        return content
    with open(place, "rb") as file:
        return file.read()


def reading(path: str) -> BinaryIO:
    """An open file, which the caller must close. Raises FileNotFoundError."""
    fs, place = filesystem(path)
    file: BinaryIO = fs.open(place, "rb")
    return file


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file to write piece by piece, durable after the block. A local directory must exist.

    A reader may see a part of it, so only a manifest written later should name it. If the block raises, an
    object store keeps nothing, and a local disk keeps what was written.
    """
    fs, place = filesystem(path)
    if isinstance(fs, LocalFileSystem):
        with naming(place), open(place, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        return
    file = fs.open(place, "wb", block_size=_PIECE_BYTES, autocommit=True)
    try:
        yield file
    except BaseException:
        if isinstance(file, AbstractBufferedFile):
            file.closed = True  # otherwise garbage collection would publish the part
        raise
    file.close()


def write_bytes(path: str, content: bytes) -> None:
    """Replaces a file atomically; a local directory must exist."""
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(place, content)  # object stores publish only complete objects
        return
    temporary = f"{place}.{os.getpid()}.tmp"
    try:
        with writing(temporary) as file:
            file.write(content)
        os.replace(temporary, place)
        sync_directory(os.path.dirname(place))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def create_bytes(path: str, content: bytes) -> None:
    """Creates a file atomically; a local directory must exist.

    Contents must differ between writers: an object with the same content counts as written by this call.

    Raises:
      FileExistsError: the file exists; it is left unchanged.
    """
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(place, content, mode="create")
        except FileExistsError:
            if read_bytes(path) != content:  # otherwise only the answer got lost, and the client tried again
                raise
        return
    temporary = f"{place}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with writing(temporary) as file:
            file.write(content)
        os.link(temporary, place)
        sync_directory(os.path.dirname(place))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def sync_directory(path: str) -> None:
    """Makes the names in a local directory durable; does nothing in an object store."""
    if is_remote(path):
        return
    handle = os.open(filesystem(path)[1], os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network shares lack this, and keep names anyway
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Adds the file's name to errors of reading and writing, which lack it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


def advice(number: int) -> str:
    """What to do about an error of the operating system, given its number."""
    return _ADVICE.get(number, "remove the cause, then rerun the same command")
