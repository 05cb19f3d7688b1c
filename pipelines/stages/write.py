"""Last stage of rows: one file of one split, rows in the order of their hash."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import fsspec
import numpy as np
import pyarrow as pa

from pipelines.layout import RECORDS, Job
from pipelines.rows.encode import RecordFile
from pipelines.rows.history import gather_ranges
from pipelines.stages.spool import Ref, array, column, read_bytes, read_table
from pipelines.stages.threads import ThreadedDoFn

DIRECTORIES = (*RECORDS, "users", "items", "vocabularies", "rejected")
"""Of a dataset's files."""
STEP_ROWS = 1 << 14  # taken at once into the order of a file
_INTERNAL = ("_place", "_row")  # columns that records do not hold


class Moments(NamedTuple):
    """Count, mean and summed squared distance from it, of float64 values."""

    count: int
    mean: float
    spread: float

    @staticmethod
    def of(values: np.ndarray) -> "Moments":
        """Moments of values [n], n > 0."""
        wide = values.astype(np.float64)
        return Moments(len(wide), float(wide.mean()), float(np.square(wide - wide.mean()).sum()))

    def join(self, other: "Moments") -> "Moments":
        """Moments of both together (Chan et al. 1983, Algorithms for Computing the Sample Variance, 2.1)."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.spread + other.spread + apart**2 * self.count * other.count / count)


class WrittenFile(NamedTuple):
    """A file of the dataset, in the staging directory."""

    directory: str
    """One of DIRECTORIES."""
    number: int
    """Place among the directory's files."""
    info: dict
    """rows, bytes, crc32c."""
    min_timestamp: int | None = None
    max_timestamp: int | None = None
    moments: dict[str, Moments] = {}
    """Of numeric features, by name."""
    positives: int = 0
    """Positive rows."""
    table: str = ""
    """Of a vocabulary, the feature."""

    def place(self) -> tuple[str, str, int]:
        """By which files are ordered."""
        return self.directory, self.table, self.number

    @property
    def name(self) -> str:
        suffix = "jsonl" if self.directory == "rejected" else "tfrecord.gz"
        return "-".join(filter(None, [self.table, f"{self.number:05d}.{suffix}"]))


class Lists(NamedTuple):
    """A column of lists."""

    values: np.ndarray
    """All lists one after the other."""
    offsets: np.ndarray
    """int64 [n + 1]: list i is values[offsets[i]:offsets[i + 1]]."""
    length_name: str | None
    """Column for the lengths; None when another column of lists has the same."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> "Lists":
        offsets = self.offsets[start : stop + 1]
        return Lists(self.values[offsets[0] : offsets[-1]], offsets - offsets[0], self.length_name)

    def join(self, other: "Lists") -> "Lists":
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Lists(np.concatenate([self.values, other.values]), offsets, self.length_name)

    def take(self, order: np.ndarray) -> "Lists":
        first, last = self.offsets[:-1][order], self.offsets[1:][order]
        offsets = np.zeros(len(order) + 1, np.int64)
        np.cumsum(last - first, out=offsets[1:])
        return Lists(gather_ranges(self.values, first, last), offsets, self.length_name)


def lists(values: pa.LargeListArray, length_name: str | None) -> Lists:
    """The column of lists that an Arrow array holds."""
    return Lists(values.values.to_numpy(), values.offsets.to_numpy(), length_name)


class BlockWriter:
    """Collects columns of any length and writes full blocks."""

    def __init__(self, file, block_rows: int):
        self._records = RecordFile(file, block_rows)
        self._block_rows = block_rows
        self._rest: dict | None = None

    def add(self, columns: dict) -> None:
        """Appends rows: arrays, lists of bytes or Lists, all of one length."""
        columns = columns if self._rest is None else _join(self._rest, columns)
        rows = _num_rows(columns)
        whole = rows - rows % self._block_rows
        for start in range(0, whole, self._block_rows):
            self._write(_slice(columns, start, start + self._block_rows))
        self._rest = _slice(columns, whole, rows)

    def close(self) -> dict:
        """Writes the last block; returns rows, bytes and crc32c."""
        if self._rest is not None and _num_rows(self._rest):
            self._write(self._rest)
        return self._records.close()

    def _write(self, columns: dict) -> None:
        block = {}
        for name, values in columns.items():
            if isinstance(values, Lists):
                block[name] = values.values
                if values.length_name:
                    block[values.length_name] = np.diff(values.offsets)
            else:
                block[name] = values
        self._records.write_block(block, _num_rows(columns))


def _num_rows(columns: dict) -> int:
    return len(next(iter(columns.values())))


def _slice(columns: dict, start: int, stop: int) -> dict:
    return {
        name: values.slice(start, stop) if isinstance(values, Lists) else values[start:stop]
        for name, values in columns.items()
    }


def _join(first: dict, second: dict) -> dict:
    joined = {}
    for name, values in second.items():
        if isinstance(values, Lists):
            joined[name] = first[name].join(values)
        elif isinstance(values, list):
            joined[name] = first[name] + values
        else:
            joined[name] = np.concatenate([first[name], values])
    return joined


def open_staged(staging: str, directory: str, name: str):
    """A new file under the staging directory, for writing bytes."""
    path = f"{staging}/{directory}"
    if "://" in staging:
        return fsspec.open(f"{path}/{name}", "wb").open()
    os.makedirs(path, exist_ok=True)
    return open(f"{path}/{name}", "wb")


def close_durably(file) -> None:
    """Closes a file; a local one is on disk then."""
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError):
        descriptor = None
    if descriptor is not None:
        file.flush()
        os.fsync(descriptor)
    file.close()


class WriteFile(ThreadedDoFn):
    """((directory of RECORDS, file), [(bucket, ref)]) to WrittenFile."""

    def work(self, element: tuple[tuple[int, int], Iterable[tuple[int, Ref]]]) -> Iterator[WrittenFile]:
        (directory, number), slices = element
        buckets: dict[int, list[Ref]] = {}
        for bucket, ref in slices:
            buckets.setdefault(bucket, []).append(ref)
        written = WrittenFile(RECORDS[directory], number, {})
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        writer = BlockWriter(file, self._job.block_rows)
        numeric = [f.name for f in self._job.source.features if f.kind == "numeric"]
        oldest, newest, moments, positives = [], [], {}, 0
        for bucket in sorted(buckets):
            table = pa.concat_tables([read_table(ref) for ref in buckets[bucket]]).combine_chunks()
            oldest.append(int(column(table, "timestamp").min()))
            newest.append(int(column(table, "timestamp").max()))
            positives += int(np.count_nonzero(self._job.dataset.is_positive(column(table, "label"))))
            order = np.argsort(column(table, "_place"))  # no two rows share a place
            for name in numeric:
                found = Moments.of(column(table, name)[order])
                moments[name] = moments[name].join(found) if name in moments else found
            for start in range(0, len(order), STEP_ROWS):
                writer.add(take(table, order[start : start + STEP_ROWS], {"history": "history_length"}))
        info = writer.close()
        close_durably(file)
        yield written._replace(
            info=info,
            min_timestamp=min(oldest),
            max_timestamp=max(newest),
            moments=moments,
            positives=positives,
        )


def take(table: pa.Table, order: np.ndarray, length_names: dict[str, str | None]) -> dict:
    """Some rows of a table as columns for BlockWriter.

    Args:
      length_names: Lists.length_name of each column of lists.
    """
    columns = {}
    for name in table.column_names:
        if pa.types.is_large_list(table[name].type):
            columns[name] = lists(array(table[name]), length_names[name]).take(order)
        elif name not in _INTERNAL:
            columns[name] = column(table, name)[order]
    return columns


class WriteRejected(beam.DoFn):
    """(0, [(first row, ref)]) to WrittenFile: all refused rows in order."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element: tuple[int, Iterable[tuple[int, Ref]]]) -> Iterator[WrittenFile]:
        written = WrittenFile("rejected", 0, {})
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        for _, ref in sorted(element[1]):
            file.write(read_bytes(ref))
        close_durably(file)
        yield written
