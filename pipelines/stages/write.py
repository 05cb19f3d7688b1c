"""Last stage: writes a file of a split, with rows in the order of their hash.

Files of vectors are float32, little-endian, by catalog id; zeros where there is none.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import google_crc32c
import numpy as np
import pyarrow as pa

from pipelines.job import RECORDS, Job
from pipelines.rows.bags import length_name
from pipelines.rows.blocks import BlockWriter, Columns, lists
from pipelines.stages.files import WrittenFile, close_durably, open_staged
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.stages.spool import Ref, array, column, read_bytes, read_table
from pipelines.stages.threads import ThreadedDoFn

STEP_ROWS = 1 << 14  # brought into the order of a file at once
_STEP_BYTES = 4 << 20  # of vectors
_INTERNAL = ("_place", "_row")  # columns that records do not have


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
        labels = {name: (0, 0) for name in self._job.labels}
        oldest: list[int] = []
        newest: list[int] = []
        positives = 0
        for bucket in sorted(buckets):
            table = pa.concat_tables([read_table(ref) for ref in buckets[bucket]]).combine_chunks()
            oldest.append(int(column(table, "timestamp").min()))
            newest.append(int(column(table, "timestamp").max()))
            positives += int(np.count_nonzero(self._job.dataset.is_positive(column(table, "label"))))
            order = np.argsort(column(table, "_place"))  # no two rows share a place
            for name, column_ in self._job.labels.items():
                known, ones = labels[name]
                values = column(table, column_)
                known += int(np.count_nonzero(~np.isnan(values)))
                labels[name] = known, ones + int(np.count_nonzero(values > 0))
            for start in range(0, len(order), STEP_ROWS):
                writer.add(take(table, order[start : start + STEP_ROWS]))
        info = writer.close()
        close_durably(file)
        yield written._replace(
            info=info,
            min_timestamp=min(oldest),
            max_timestamp=max(newest),
            positives=positives,
            labels=labels,
        )


def take(table: pa.Table, order: np.ndarray) -> Columns:
    """Some rows of a table as columns for BlockWriter."""
    columns: Columns = {}
    for name in table.column_names:
        if pa.types.is_large_list(table[name].type):
            columns[name] = lists(array(table[name]), length_name(name)).take(order)
        elif name not in _INTERNAL:
            columns[name] = column(table, name)[order]
    return columns


class WriteRejected(beam.DoFn):
    """(0, [(first row, ref)]) to WrittenFile: all rejected rows in order."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element: tuple[int, Iterable[tuple[int, Ref]]]) -> Iterator[WrittenFile]:
        written = WrittenFile("rejected", 0, {})
        file = open_staged(self._job.layout.staging, written.directory, written.name)
        for _, ref in sorted(element[1]):
            file.write(read_bytes(ref))
        close_durably(file)
        yield written


def write_vectors(
    staging: str, directory: str, name: str, number: int, refs: list[Ref], rows: int, dim: int
) -> WrittenFile:
    """Writes the file of a feature's vectors for one range of catalog ids.

    Args:
      refs: tables of id and the vector, each id once.
      rows: of the file.
    """
    whole = np.zeros((rows, dim), "<f4")
    for ref in refs:  # one at a time: together they would double the memory
        table = read_table(ref).combine_chunks()
        whole[column(table, "id") - number * CATALOG_FILE_ROWS] = as_matrix(array(table[name]))
    written = WrittenFile(directory, number, {}, table=name, suffix="f32")
    checksum = google_crc32c.Checksum()
    file = open_staged(staging, written.directory, written.name)
    step = max(1, _STEP_BYTES // whole.itemsize // dim)
    for start in range(0, rows, step):
        piece = whole[start : start + step].tobytes()
        checksum.update(piece)
        file.write(piece)
    close_durably(file)
    crc32c = checksum.hexdigest().decode()
    return written._replace(info={"rows": rows, "bytes": whole.nbytes, "crc32c": crc32c})


def as_matrix(vectors: pa.FixedSizeListArray) -> np.ndarray:
    """float32 [n, dim] of fixed-size lists."""
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), vectors.type.list_size)
