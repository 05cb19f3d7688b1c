"""Reads and validates rows of a side table, and sends each to the part of its key."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.errors import DataError
from pipelines.job import Job
from pipelines.sides.validate import validate_side
from pipelines.sources.reader import Place, Range
from pipelines.stages.group import known_column
from pipelines.stages.read import ReadRows, shards_of
from pipelines.stages.spool import array, column
from pipelines.stages.stats import Stats
from pipelines.statistics.coverage import known_count


class ReadSide(ReadRows):
    """Range of a side table to (part, (first row, reference)), with outputs `stats` and `rejected`.

    `stats` holds (side table, Stats).
    """

    def __init__(self, job: Job, number: int):
        super().__init__(job.sides[number])
        self._number = number

    def work(self, part: Range, places: dict[int, Place]) -> Iterator[Any]:
        stats = Stats()
        try:
            for piece in self._pieces(part, places[part.index]):
                table, rejects = validate_side(piece, self._job)
                stats.rows += len(piece.rows) + len(piece.rejects)
                stats.kept += table.num_rows
                stats.add_rejects(rejects)
                stats.notes.update(piece.notes)
                yield from self._in_order(self._write_rejects(part.index, rejects))
                if table.num_rows:
                    self._count(table, stats)
                    yield from self._write_parts(table)
        except DataError as error:
            stats.fatal = str(error).replace("source.paths", "source.sides.paths")
        yield beam.pvalue.TaggedOutput("stats", (self._number, stats))

    def _in_order(self, rejected: Iterator[Any]) -> Iterator[Any]:
        """Rejected rows of side tables come after those of the interactions."""
        for output in rejected:
            zero, (row, ref) = output.value
            yield beam.pvalue.TaggedOutput(output.tag, (zero, (row + ((self._number + 1) << 48), ref)))

    def _count(self, table: pa.Table, stats: Stats) -> None:
        side = self._job.source
        for feature in side.features:
            if feature.name in table.column_names:
                stats.counts[known_count(feature.name)] += _number_known(table, feature.name)
        if self._job.layout.key_shards > 1:
            stats.add_sample(side.of, array(table["key"]).dictionary)
            self._sample(table, self._job.feature_columns, stats)

    def _write_parts(self, table: pa.Table) -> Iterator[Any]:
        side, layout = self._job.source, self._job.layout
        keys = array(table["key"])
        parts = shards_of(self._job, side.of, keys.dictionary, layout.side_shards[self._number])
        yield from self._write_shards(table, parts[keys.indices.to_numpy()], layout.side_shards[self._number])


def _number_known(table: pa.Table, name: str) -> int:
    """Rows with a value that is not empty."""
    values = array(table[name])
    if pa.types.is_dictionary(values.type):
        filled = compute.not_equal(values.dictionary, "").to_numpy(zero_copy_only=False).astype(bool)
        return int(np.count_nonzero(filled[values.indices.to_numpy()]))
    if pa.types.is_fixed_size_list(values.type):
        return int(column(table, known_column(name)).sum())
    return int(np.count_nonzero(~np.isnan(values.to_numpy(zero_copy_only=False))))
