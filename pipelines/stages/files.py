"""Files of a dataset in the staging directory."""

import os
from typing import Any, BinaryIO, NamedTuple

import fsspec

from pipelines.job import RECORDS
from pipelines.statistics.moments import Moments

DIRECTORIES = (*RECORDS, "users", "items", "vocabularies", "index", "moved", "rejected")
"""Directories of a dataset's files."""


class WrittenFile(NamedTuple):
    """A file of the dataset, in the staging directory."""

    directory: str
    """One of DIRECTORIES."""
    number: int
    """Index among the directory's files."""
    info: dict[str, Any]
    """rows, bytes, crc32c."""
    min_timestamp: int | None = None
    max_timestamp: int | None = None
    moments: dict[str, Moments] = {}
    """Moments of numeric features of a side table, by name."""
    positives: int = 0
    """Positive rows."""
    labels: dict[str, tuple[int, int]] = {}
    """Rows in which a further label is known, and in which it is above 0, by its name."""
    table: str = ""
    """Table of a vocabulary, an index or moved ids, or feature of vectors."""
    coverage: dict[str, int] = {}
    """Items with a known value, by feature."""
    suffix: str = "tfrecord.gz"
    """What the name of the file ends in: tfrecord.gz of records, f32 of vectors, arrow of an index, i64 of
    moved ids; rejected rows have their own."""

    def place(self) -> tuple[str, str, int]:
        """Key by which files are ordered."""
        return self.directory, self.table, self.number

    @property
    def name(self) -> str:
        suffix = "jsonl" if self.directory == "rejected" else self.suffix
        return "-".join(filter(None, [self.table, f"{self.number:05d}.{suffix}"]))


def open_staged(staging: str, directory: str, name: str) -> BinaryIO:
    """A new file under the staging directory, for writing bytes."""
    path = f"{staging}/{directory}"
    if "://" in staging:
        return fsspec.open(f"{path}/{name}", "wb").open()
    os.makedirs(path, exist_ok=True)
    return open(f"{path}/{name}", "wb")


def close_durably(file: BinaryIO) -> None:
    """Closes a file; a local file is synced to disk."""
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError):
        descriptor = None
    if descriptor is not None:
        file.flush()
        os.fsync(descriptor)
    file.close()
