"""First stage: reads and validates rows, and sends each user's rows to one shard.

Rows without users go to shards by a hash of their row numbers.
"""

import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from apache_beam.pvalue import AsSingleton

from configs.columns import label_column
from configs.errors import DataError
from pipelines.job import Job
from pipelines.rows import bags
from pipelines.rows.hashes import hash_keys, hash_rows
from pipelines.rows.validate import validate
from pipelines.sources.identity import check_range
from pipelines.sources.reader import Place, Range, Reject, SourcePiece, first_rows, make_reader
from pipelines.sources.text import decode
from pipelines.stages.ids import hash_ids
from pipelines.stages.spool import Ref, SpoolWriter, array, column, partition
from pipelines.stages.stats import Stats
from pipelines.stages.threads import ThreadedDoFn
from pipelines.statistics.coverage import ones_count

_STREAM = 5  # of hash_rows; other stages use others


class CountRows(beam.DoFn):
    """Range to (index, lines); 0 for a range that cannot be read, which reading then reports."""

    def __init__(self, job: Job):
        self._job = job

    def setup(self) -> None:
        self._reader = make_reader(self._job.source, self._job.layout)

    def process(self, part: Range) -> Iterator[tuple[int, int]]:
        try:
            yield part.index, self._reader.count(part)
        except (DataError, OSError):
            yield part.index, 0


class ReadRows(ThreadedDoFn):
    """Range to (user shard, (first row, reference)), with outputs `stats` and `rejected`.

    A piece's rows go to the spool in one slice per user shard, keys as dictionaries of that slice.
    """

    def setup(self) -> None:
        super().setup()
        self._reader = make_reader(self._job.source, self._job.layout)
        self._reader.setup()

    def work(self, part: Range, places: dict[int, Place]) -> Iterator[Any]:
        stats = Stats()
        try:
            for piece in self._pieces(part, places[part.index]):
                table, rejects = validate(piece, self._job)
                stats.rows += len(piece.rows) + len(piece.rejects)
                stats.add_rejects(rejects)
                stats.notes.update(piece.notes)
                yield from self._write_rejects(part.index, rejects)
                table = self._filter(table, stats)
                if table.num_rows:
                    self._sample_labels(piece, stats)
                    self._observe(table, stats)
                    yield from self._write_rows(table)
        except DataError as error:
            stats.fatal = str(error)
        yield beam.pvalue.TaggedOutput("stats", stats)

    def _pieces(self, part: Range, place: Place) -> Iterator[SourcePiece]:
        """Raises DataError: the range cannot be read, or has changed since it was listed and counted."""
        check_range(part.path, part.version)
        try:
            count = yield from self._reader.read(part, place.row, place.line)
        except (DataError, OSError) as error:
            check_range(part.path, part.version)  # a changed file explains the error better
            if isinstance(error, DataError):
                raise
            what = error.strerror or str(error).partition("\n")[0]
            raise DataError(f"{part.path}: cannot be read ({what}); nothing is published") from None
        check_range(part.path, part.version)
        if count != place.count:
            raise DataError(
                f"{part.path}: changed while it was being read (a range had {place.count:,} lines or "
                f"rows, then {count:,}); nothing is published. Rerun the same command when no process "
                "writes to the source"
            )

    def _filter(self, table: pa.Table, stats: Stats) -> pa.Table:
        """Leaves out rows with labels below dataset.min_label."""
        limit = self._job.dataset.min_label
        if limit is not None:
            kept = table.filter(pa.array(column(table, "label") >= np.float32(limit)))
            stats.filtered += table.num_rows - kept.num_rows
            table = kept
        return table

    def _observe(self, table: pa.Table, stats: Stats) -> None:
        labels = column(table, "label")
        stats.add_labels(labels, self._job.dataset.is_positive(labels))
        stats.add_times(column(table, "timestamp"))
        for name, column_ in self._job.labels.items():
            stats.add_label(name, column(table, column_))
        if self._job.dataset.split.kind == "temporal":
            stats.histogram.add(column(table, "timestamp"))
        if self._job.layout.key_shards > 1:
            self._sample(table, self._job.columns, stats)

    def _sample_labels(self, piece: SourcePiece, stats: Stats) -> None:
        """Samples the values of labels that are text, until one counts as 1: a message may have to name
        them."""
        for name, label in self._job.source.roles.labels.items():
            if label.ones and not stats.labels[ones_count(name)]:
                values = piece.columns[label_column(name)]
                values = values.dictionary if pa.types.is_dictionary(values.type) else values.unique()
                stats.add_sample(label_column(name), compute.drop_null(decode(values)[0]))

    def _sample(self, table: pa.Table, tables: dict[str, str], stats: Stats) -> None:
        """Samples the keys of columns, by the table of each."""
        lists = {feature.name: feature.weights is not None for feature in self._job.lists}
        for name, keys_of in tables.items():
            if self._job.ids_of(keys_of).kind == "vocab":
                keys = array(table[name]).dictionary
                if name in lists:
                    keys = bags.split(keys, lists[name]).members.unique()
                stats.add_sample(keys_of, keys)

    def _write_rows(self, table: pa.Table) -> Iterator[tuple[int, tuple[int, Ref]]]:
        num_shards = self._job.layout.user_shards
        if "user" in self._job.owners:
            users = array(table["user"])
            shard = shards_of(self._job, "user", users.dictionary, num_shards)[users.indices.to_numpy()]
        else:
            shard = hash_rows(column(table, "_row"), 0, _STREAM) % np.uint64(num_shards)
        yield from self._write_shards(table, shard.astype(np.int64), num_shards)

    def _write_shards(
        self, table: pa.Table, shard: np.ndarray, num_shards: int
    ) -> Iterator[tuple[int, tuple[int, Ref]]]:
        """Rows in one slice per shard."""
        order, bounds = partition(shard, num_shards)
        table = table.take(pa.array(order)).combine_chunks()
        output, slices = [], _Slices(table, bounds)
        with SpoolWriter(self._job.layout.spool, "read", table.num_rows) as spool:
            for part in np.flatnonzero(np.diff(bounds)):
                slice_ = slices.of(int(part))
                output.append((int(part), (slice_["_row"][0].as_py(), spool.add(slice_))))
        yield from output

    def _write_rejects(self, index: int, rejects: list[Reject]) -> Iterator[Any]:
        if not rejects:
            return
        lines = (
            json.dumps(
                {"reason": r.reason, "file": r.path, "line": r.line, "text": r.text}, ensure_ascii=False
            )
            for r in rejects
        )
        with SpoolWriter(self._job.layout.spool, "rejected") as spool:
            ref = spool.add_bytes(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        yield beam.pvalue.TaggedOutput("rejected", (0, (rejects[0].row, ref)))


class Read(beam.PTransform):
    """Ranges to rows by shard, rejected rows and Stats.

    Args:
      job: whose source is read: of the interactions, or one of Job.sides.
      reader: DoFn that makes rows of ranges.
    """

    def __init__(self, job: Job, ranges: list[Range], reader: ReadRows):
        super().__init__()
        self._job, self._ranges, self._reader = job, ranges, reader

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, pipeline: Any) -> Any:
        ranges = (
            pipeline | "Ranges" >> beam.Create(self._ranges, reshuffle=False) | "Spread" >> beam.Reshuffle()
        )
        places = (
            ranges
            | "CountRows" >> beam.ParDo(CountRows(self._job))
            | "CollectCounts" >> beam.combiners.ToDict()
            | "FirstRows" >> beam.Map(_first_rows, self._ranges)
        )
        rows = ranges | "ReadRows" >> beam.ParDo(self._reader, AsSingleton(places)).with_outputs(
            "stats", "rejected", main="rows"
        )
        return rows.rows, rows.rejected, rows.stats


def _first_rows(counts: dict[int, int], ranges: list[Range]) -> dict[int, Place]:
    # A lambda would be pickled by value, with the path of this file on the machine that starts the job.
    return first_rows(ranges, counts)


def shards_of(job: Job, table: str, keys: pa.StringArray, num_shards: int) -> np.ndarray:
    """Shard of each key. With hashed ids keys that share an id stay together, as one user or item."""
    ids = job.ids_of(table)
    values = hash_ids(keys, ids.rows) if ids.kind == "hash" else hash_keys(keys)
    return values % values.dtype.type(num_shards)


class _Slices:
    """Cuts a table into slices whose dictionaries have only the keys that they use, in their order.

    Of all slices at once: one by one, each would have to look through the whole dictionary.

    Args:
      table: of one chunk.
      bounds: int64 [n + 1], slice i has the rows from bounds[i] to bounds[i + 1].
    """

    def __init__(self, table: pa.Table, bounds: np.ndarray):
        self._table, self._bounds = table, bounds
        self._columns = {
            name: self._split(array(table[name]))
            for name in table.column_names
            if pa.types.is_dictionary(table[name].type)
        }

    def _split(self, values: pa.DictionaryArray) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """int32 [rows] codes in the slice's dictionary, the dictionaries of all slices one after the other,
        and the bounds int64 [n + 1] of each."""
        size, number = len(values.dictionary), len(self._bounds) - 1
        kind = np.uint32 if size * number < 1 << 32 else np.uint64
        places = np.repeat(np.arange(number, dtype=kind), np.diff(self._bounds)) * kind(size)
        used, where = np.unique(places + values.indices.to_numpy().astype(kind), return_inverse=True)
        bounds = np.searchsorted(used, np.arange(number + 1, dtype=np.uint64) * np.uint64(size))
        codes = (where - np.repeat(bounds[:-1], np.diff(self._bounds))).astype(np.int32)
        return codes, values.dictionary.take(pa.array(used % kind(size))), bounds

    def of(self, number: int) -> pa.Table:
        """One slice."""
        start, stop = self._bounds[number], self._bounds[number + 1]
        found = {}
        for name in self._table.column_names:
            if name in self._columns:
                codes, keys, bounds = self._columns[name]
                keys = keys.slice(bounds[number], bounds[number + 1] - bounds[number])
                found[name] = pa.DictionaryArray.from_arrays(pa.array(codes[start:stop]), keys)
            else:
                found[name] = array(self._table[name]).slice(start, stop - start)
        return pa.table(found)
