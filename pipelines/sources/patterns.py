"""What a pattern of source.paths stands for: a file, the files of a directory, or all that a glob matches.

A glob knows `*`, `?`, `[a-z]`, `[!a-z]` and, as a whole part of a path, `**` for any depth. A path that
exists as it is written is taken literally. Links are followed. Order is natural: numbers inside names count
as numbers.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote
from pipelines.sources.identity import SourceFile, look, remote_file

# What writes these keeps old versions of rows beside the new ones.
_TABLES = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table"}
_CLUTTER = {"Thumbs.db", "desktop.ini"}


class Expansion(NamedTuple):
    """What a pattern stands for."""

    literal: bool
    """Whether it names one file."""
    files: list[SourceFile]
    """In order."""
    clutter: list[str]
    """What is left out for its name."""


def natural(path: str) -> tuple:
    """Key of the natural order of paths, part by part; ties by their text."""
    return [_numbers_apart(part) for part in path.split("/")], path


def _numbers_apart(name: str) -> list:
    """Text and numbers of a name by turns."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split("([0-9]+)", name))]


def is_clutter(name: str) -> bool:
    """Whether a file or directory is left out for its name, as Spark does; `_day=1` is a partition."""
    if name.startswith("_"):
        return "=" not in name
    return name.startswith(".") or name.endswith(".crc") or name in _CLUTTER


def has_magic(path: str) -> bool:
    """Whether it is a pattern."""
    return any(mark in path for mark in "*?[")


def expand(pattern: str) -> Expansion:
    """All files of a pattern.

    Raises:
      DataError: nothing matches, or a directory cannot be listed or holds a table of another kind.
    """
    clutter: list[str] = []
    fs = _RemoteFiles(pattern) if is_remote(pattern) else _LocalFiles(pattern)
    path = fs.path
    kind = fs.kind(path) if "*" not in path and "?" not in path else None
    if kind == "file":
        return Expansion(True, [fs.file(path)], clutter)
    if kind is None and not has_magic(path):
        raise DataError(f"{pattern}: no such file; check source.paths")
    found = [path] if kind else _glob(fs, path, clutter)
    paths = {file for name in found for file in _files_of(fs, name, clutter)}
    if not paths and not clutter:
        raise DataError(f"{pattern}: {_nothing(path, kind)}; check source.paths")
    return Expansion(False, [fs.file(file) for file in sorted(paths, key=natural)], clutter)


def _nothing(path: str, kind: str | None) -> str:
    if kind:
        return "the directory holds no file"
    hint = " ([...] is a set of characters: [[] stands for a bracket)" if "[" in path else ""
    return f"no file matches{hint}"


def _glob(fs, path: str, clutter: list[str]) -> list[str]:
    """Files and directories that match a pattern."""
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if has_magic(part))
    found = ["/".join(parts[:first]) or ("/" if path.startswith("/") else "")]
    for part in filter(None, parts[first:]):
        if part == "**":
            found = [place for base in found for place in _directories(fs, base, clutter)]
        else:
            found = [place for base in found for place in _matching(fs, base, part, clutter)]
    return found


def _matching(fs, base: str, part: str, clutter: list[str]) -> Iterator[str]:
    """What in a directory matches one part of a pattern."""
    if "*" not in part and "?" not in part and fs.kind(_join(base, part)):
        yield _join(base, part)
        return
    for name in _names(fs, base):
        if not fnmatch.fnmatchcase(name, part):
            continue
        if is_clutter(name) and part[0] != name[0]:  # a pattern that begins with _ asks for them
            clutter.append(_join(base, name))
        else:
            yield _join(base, name)


def _names(fs, directory: str) -> list[str]:
    names = fs.names(directory)
    if found := next((name for name in names if name in _TABLES), None):
        raise DataError(
            f"{directory}: is {_TABLES[found]}, whose files hold removed rows too; export it as plain files"
        )
    return names


def _directories(fs, directory: str, clutter: list[str], above: tuple = ()) -> Iterator[str]:
    """A directory and all below it."""
    identity = fs.identity(directory)
    if identity in above:  # a link that leads back up: all of it is visited already
        return
    yield directory
    for name in fs.names(directory):
        place = _join(directory, name)
        if fs.kind(place) == "directory":
            if is_clutter(name):
                clutter.append(place)
            else:
                yield from _directories(fs, place, clutter, (*above, identity))


def _files_of(fs, path: str, clutter: list[str], above: tuple = ()) -> Iterator[str]:
    """A file itself, or all files in a directory and below it."""
    if fs.kind(path) != "directory":
        yield path
        return
    identity = fs.identity(path)
    if identity in above:
        return
    for name in _names(fs, path):
        if is_clutter(name):
            clutter.append(_join(path, name))
        else:
            yield from _files_of(fs, _join(path, name), clutter, (*above, identity))


def _join(base: str, name: str) -> str:
    return f"{base}{name}" if base in ("", "/") else f"{base}/{name}"


class _LocalFiles:
    """Directories of this machine; relative paths stay as they are written."""

    def __init__(self, pattern: str):
        self.path = os.path.expanduser(pattern.removeprefix("file://"))
        if self.path.strip("/"):
            self.path = self.path.rstrip("/")

    def kind(self, path: str) -> str | None:
        """file (anything but a directory, broken links too), directory, or None when nothing is there."""
        if os.path.isdir(path or "."):
            return "directory"
        return "file" if os.path.lexists(path) else None

    def names(self, directory: str) -> list[str]:
        if not os.path.isdir(directory or "."):
            return []
        try:
            return os.listdir(directory or ".")
        except OSError as error:
            raise DataError(f"{directory}: cannot be listed ({error.strerror}); check source.paths") from None

    def identity(self, directory: str):
        stat = os.stat(directory or ".")
        return stat.st_dev, stat.st_ino

    def file(self, path: str) -> SourceFile:
        if os.path.islink(path) and not os.path.exists(path):
            raise DataError(
                f"{path}: is a link to {os.readlink(path)}, which leads nowhere; "
                "restore what it points to, or remove the link"
            )
        found = look(path)
        if not os.path.isfile(path):
            raise DataError(f"{path}: is a pipe, socket or device; copy what it gives to a file first")
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: cannot be read (Permission denied); change its rights or source.paths")
        return found


class _RemoteFiles:
    """Directories of an object store, listed once each."""

    def __init__(self, pattern: str):
        self._pattern = pattern
        self._fs, path = filesystem(pattern)
        self.path = path.rstrip("/")
        self._infos: dict[str, dict | None] = {}
        self._names: dict[str, list[str]] = {}

    def kind(self, path: str) -> str | None:
        if path not in self._infos:
            self._infos[path] = self._ask(self._fs.info, path)
        info = self._infos[path]
        return None if info is None else info["type"]

    def names(self, directory: str) -> list[str]:
        if directory not in self._names:
            start = f"{directory}/"
            found = self._ask(self._fs.ls, directory, detail=True) or []
            infos = {info["name"].rstrip("/"): info for info in found if info["name"].startswith(start)}
            infos.pop(directory, None)  # an object that stands for the directory
            self._infos.update(infos)
            self._names[directory] = [name.removeprefix(start) for name in infos]
        return self._names[directory]

    def identity(self, directory: str):
        return directory

    def file(self, path: str) -> SourceFile:
        self.kind(path)
        return remote_file(self._fs.unstrip_protocol(path), self._infos[path])

    def _ask(self, method, path: str, **options):
        """What a driver answers; None when nothing is there."""
        try:
            return method(path, **options)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each store's driver has errors of its own
            message = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(f"{self._pattern}: cannot be listed ({message}); check source.paths") from None
