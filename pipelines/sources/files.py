"""Files of a source, local or gs://."""

import fsspec

from configs.errors import DataError


def list_files(patterns: list[str]) -> list[tuple[str, int]]:
    """Names and sizes of all files that the patterns match, sorted by name, each once.

    Raises:
      DataError: a pattern matches nothing, is a directory, or a file is empty.
    """
    sizes = {}
    for pattern in patterns:
        for name, info in _expand(pattern).items():
            if info["size"] == 0:
                raise DataError(f"{name}: the file is empty; remove it from source.paths or write it again")
            sizes[name] = info["size"]
    return sorted(sizes.items())


def _expand(pattern: str) -> dict[str, dict]:
    filesystem, path = fsspec.core.url_to_fs(pattern)
    if any(mark in pattern for mark in "*?["):
        found = filesystem.glob(path, detail=True)
        found = {name: info for name, info in found.items() if info["type"] == "file"}
        if not found:
            raise DataError(f"{pattern}: no file matches; check source.paths")
    else:
        try:
            found = {path: filesystem.info(path)}
        except FileNotFoundError:
            raise DataError(f"{pattern}: no such file; check source.paths") from None
        if found[path]["type"] != "file":
            raise DataError(f"{pattern}: is a directory; write {pattern.rstrip('/')}/* for the files in it")
    if "://" not in pattern:
        # A relative path stays as it was written: it is what messages and the fingerprint show.
        if list(found) == [path]:
            return {pattern if "*" not in pattern else path: info for info in found.values()}
        return found
    return {filesystem.unstrip_protocol(name): info for name, info in found.items()}
