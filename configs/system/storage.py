"""Files of datasets, runs and models, on a local disk or in an object store (gs://), through fsspec.

What is promised: `write_bytes` and a file of `writing` that was closed survive a power loss; a reader of
`write_bytes` finds the old content or the new, never a part. Object stores have no rename of directories, so
a directory becomes complete by a manifest that is written last. Listings are never cached: other processes
write too.
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

# Read when gcsfs is imported, which fsspec does at the first gs://. Its experimental paths ask another API
# for the kind of each bucket; off, all buckets but zonal ones work by the API that the tests cover.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

_ADVICE = {
    errno.ENOSPC: "free space there, or name another place",
    errno.EDQUOT: "free space there, have the quota raised, or name another place",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name another place",
    errno.EROFS: "mount it for writing, or name another place",
    errno.EIO: "the disk fails: look at the kernel's log, and name another place",
    errno.EACCES: "give this user the right, or name another place",
    errno.EPERM: "give this user the right, or name another place",
    errno.ENOMEM: "free memory, or raise the limits of it (ulimit -v, sysctl vm.max_map_count)",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
}
REFUSALS = frozenset(_ADVICE)
"""Numbers of the operating system's errors that say something of the machine, not of the program."""
_PIECE_BYTES = 32 << 20  # of an upload; each is a request that waits for its answer


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(fsspec file system, path inside it) of a path or URL."""
    if is_remote(path):
        return fsspec.url_to_fs(path, use_listings_cache=False)
    return fsspec.url_to_fs(os.path.abspath(path.removeprefix("file://")))


def is_remote(path: str) -> bool:
    """Whether `path` is in an object store; local paths and file:// are not."""
    return "://" in path and not path.startswith("file://")


def join(path: str, *names: str) -> str:
    """`path` with names appended."""
    return "/".join([path.rstrip("/") or "/", *names])


def inner_path(name: str) -> str:
    """`name`, a path that stays inside the directory it is relative to.

    Raises:
      ValueError: it would lead out of it; the writer of a manifest must not choose what is read elsewhere.
    """
    parts = name.split("/")
    if not name or "\0" in name or "://" in name or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{name[:100]!r} is no path inside the directory")
    return name


def exists(path: str) -> bool:
    """Whether there is a file or directory at `path`."""
    fs, place = filesystem(path)
    try:
        fs.info(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    # Not fs.exists: on a local disk fsspec's takes every error for an absence, a failing disk's too.
    return True


def names(path: str) -> list[str]:
    """Names in a directory, ascending; [] when there is none."""
    fs, place = filesystem(path)
    try:
        found = fs.ls(place, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A store may list the directory's own empty marker.
    return sorted(
        {name.rstrip("/").rpartition("/")[2] for name in found if name.strip("/") != place.strip("/")}
    )


def make_directory(path: str) -> None:
    """Makes a directory and its parents, durable, where directories exist; object stores have none."""
    if is_remote(path):
        return
    place, missing = filesystem(path)[1], []
    while not os.path.isdir(place) and place != os.path.dirname(place):
        missing.append(place)
        place = os.path.dirname(place)
    os.makedirs(filesystem(path)[1], exist_ok=True)
    for made in missing[::-1]:  # a name is kept by the directory that holds it
        with contextlib.suppress(PermissionError):  # one that we may write and not list
            sync_directory(os.path.dirname(made))


def remove(path: str) -> None:
    """Deletes a file or a whole directory; nothing when there is none."""
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
    """A whole file. Raises FileNotFoundError."""
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        return fs.cat_file(place)  # one request, where an open file asks for blocks
    with open(place, "rb") as file:
        return file.read()


def reading(path: str) -> BinaryIO:
    """An open file, to be closed by the caller. Raises FileNotFoundError."""
    fs, place = filesystem(path)
    return fs.open(place, "rb")


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file to write piece by piece; durable after the block. Local directories must exist.

    A reader may see a part of it, so only a manifest written later may name it. When the block raises, an
    object store keeps nothing and a local disk what was written.
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
            file.closed = True  # or it would publish the part when it is collected
        raise
    file.close()


def write_bytes(path: str, content: bytes) -> None:
    """Replaces a whole file at once; its local directory must exist."""
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(place, content)  # object stores publish an object when it is complete
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
    """Makes a whole file at once, of which no part is ever seen; its local directory must exist.

    Contents must differ between writers: an object that holds the very content is taken for written.

    Raises:
      FileExistsError: there is one already; it is not touched.
    """
    fs, place = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(place, content, mode="create")
        except FileExistsError:
            if read_bytes(path) != content:  # else only the answer was lost, and the client tried again
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
    """Makes the names in a local directory durable; nothing in an object store."""
    if is_remote(path):
        return
    handle = os.open(filesystem(path)[1], os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network shares without such a thing keep names by themselves
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Adds the file's name to the errors of writing and reading, which the operating system leaves out."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


def advice(number: int) -> str:
    """What to do about an error of the operating system, by its number."""
    return _ADVICE.get(number, "remove the cause and run the same command again")
