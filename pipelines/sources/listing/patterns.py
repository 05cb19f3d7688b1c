"""The files that a pattern of source.paths stands for: one file, the files of a directory, or a glob's
matches.

A glob may contain `*`, `?`, `[a-z]`, `[!a-z]` and, as a whole part of a path, `**` for any depth. A path that
exists literally is taken literally. Links are followed. The order is natural: numbers inside names are
compared as numbers.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.system.storage import filesystem, is_remote
from pipelines.sources.identity import SourceFile, look, remote_file

# These formats keep old versions of rows beside the new ones.
_TABLES = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table"}
_CLUTTER = {"Thumbs.db", "desktop.ini"}


class Expansion(NamedTuple):
    """The files of a pattern."""

    literal: bool
    """Whether it names one file."""
    files: list[SourceFile]
    """Files in order."""
    clutter: list[str]
    """Files left out because of their names."""


def natural(path: str) -> tuple[object, ...]:
    """Key of the natural order of paths, part by part; ties by their text."""
    return [_numbers_apart(part) for part in path.split("/")], path


def _numbers_apart(name: str) -> list[str | int]:
    """Text and numbers of a name, alternating."""
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split("([0-9]+)", name))]


def is_clutter(name: str) -> bool:
    """Whether a file or directory is left out because of its name, as in Spark; `_day=1` is a partition."""
    if name.startswith("_"):
        return "=" not in name
    return name.startswith(".") or name.endswith(".crc") or name in _CLUTTER


def has_magic(path: str) -> bool:
    """Whether a path is a pattern."""
    return any(mark in path for mark in "*?[")


def expand(pattern: str) -> Expansion:
    """All files of a pattern.

    Raises:
      DataError: nothing matches, or a directory cannot be listed or contains an unsupported table format.
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
        return "the directory contains no files"
    hint = " ([...] is a set of characters; write [[] for a bracket)" if "[" in path else ""
    return f"no file matches{hint}"


def _glob(fs: Any, path: str, clutter: list[str]) -> list[str]:
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


def _matching(fs: Any, base: str, part: str, clutter: list[str]) -> Iterator[str]:
    """Entries of a directory that match one part of a pattern."""
    if "*" not in part and "?" not in part and fs.kind(_join(base, part)):
        yield _join(base, part)
        return
    for name in _names(fs, base):
        if not fnmatch.fnmatchcase(name, part):
            continue
        if is_clutter(name) and part[0] != name[0]:  # a pattern that begins with _ includes them
            clutter.append(_join(base, name))
        else:
            yield _join(base, name)


def _names(fs: Any, directory: str) -> list[str]:
    names = fs.names(directory)
    if found := next((name for name in names if name in _TABLES), None):
        raise DataError(
            f"{directory}: is {_TABLES[found]}, whose files also hold deleted rows; export it as plain files"
        )
    return names


def _directories(
    fs: Any, directory: str, clutter: list[str], above: tuple[object, ...] = ()
) -> Iterator[str]:
    """A directory and all directories below it."""
    identity = fs.identity(directory)
    if identity in above:  # a link to a directory above, which is visited already
        return
    yield directory
    for name in fs.names(directory):
        place = _join(directory, name)
        if fs.kind(place) == "directory":
            if is_clutter(name):
                clutter.append(place)
            else:
                yield from _directories(fs, place, clutter, (*above, identity))


def _files_of(fs: Any, path: str, clutter: list[str], above: tuple[object, ...] = ()) -> Iterator[str]:
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
    """Local directories; relative paths stay relative."""

    def __init__(self, pattern: str):
        self.path = os.path.expanduser(pattern.removeprefix("file://"))
        if self.path.strip("/"):
            self.path = self.path.rstrip("/")

    def kind(self, path: str) -> str | None:
        """file (anything but a directory, even a broken link), directory, or None: does not exist."""
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

    def identity(self, directory: str) -> object:
        stat = os.stat(directory or ".")
        return stat.st_dev, stat.st_ino

    def file(self, path: str) -> SourceFile:
        if os.path.islink(path) and not os.path.exists(path):
            raise DataError(
                f"{path}: is a link to {os.readlink(path)}, which does not exist; "
                "restore that, or remove the link"
            )
        found = look(path)
        if not os.path.isfile(path):
            raise DataError(f"{path}: is a pipe, socket or device; copy its content to a file first")
        if not os.access(path, os.R_OK):
            raise DataError(
                f"{path}: cannot be read (Permission denied); change its permissions or source.paths"
            )
        return found


class _RemoteFiles:
    """Directories of an object store, listed once each."""

    def __init__(self, pattern: str):
        self._pattern = pattern
        self._fs, path = filesystem(pattern)
        self.path = path.rstrip("/")
        self._infos: dict[str, dict[str, Any] | None] = {}
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
            infos.pop(directory, None)  # an object that represents the directory
            self._infos.update(infos)
            self._names[directory] = [name.removeprefix(start) for name in infos]
        return self._names[directory]

    def identity(self, directory: str) -> object:
        return directory

    def file(self, path: str) -> SourceFile:
        self.kind(path)
        return remote_file(self._fs.unstrip_protocol(path), self._infos[path] or {})

    def _ask(self, method: Callable[..., Any], path: str, **options: Any) -> Any:
        """A driver's answer; None: not found."""
        try:
            return method(path, **options)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each store's driver raises its own errors
            message = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(f"{self._pattern}: cannot be listed ({message}); check source.paths") from None
