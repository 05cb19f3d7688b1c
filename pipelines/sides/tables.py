"""The stages of one side table as Beam transforms."""

from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from pipelines.job import Job, JobLayout
from pipelines.sides.join import FinishSide, JoinSide
from pipelines.sides.read import ReadSide
from pipelines.sides.resolve import ResolveSide
from pipelines.sources.reader import Range
from pipelines.stages.read import Read
from pipelines.stages.spool import Ref


class SideRows(beam.PTransform):
    """A side table's ranges to its rows without duplicate keys by part, rejected rows and Stats."""

    def __init__(self, job: Job, number: int, ranges: list[Range]):
        super().__init__()
        self._job, self._number, self._ranges = job, number, ranges

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, pipeline: Any) -> Any:
        side, number = self._job.sides[self._number], self._number
        rows, rejected, stats = pipeline | "Read" >> Read(side, self._ranges, ReadSide(self._job, number))
        resolved = (
            rows
            | "ByPart" >> beam.GroupByKey()
            | "ResolveSide" >> beam.ParDo(ResolveSide(self._job, number)).with_outputs("stats", main="rows")
        )
        all_stats = (stats, resolved.stats) | "SideStats" >> beam.Flatten()
        return resolved.rows, rejected, all_stats


class SideFeatures(beam.PTransform):
    """(rows of a side table by shard, ids of its users or items) to rows with indices of keys, keys of the
    features' tables, counts and numbers."""

    def __init__(self, job: Job, number: int, plan: AsSingleton):
        super().__init__()
        self._job, self._number, self._plan = job, number, plan

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, parts: Any) -> Any:
        rows, maps = parts
        tagged = rows | "Tag" >> beam.MapTuple(_as_rows)
        mine = maps | "Mine" >> beam.Filter(is_of_side, self._job.layout, self._number)
        return (
            (tagged, mine)
            | "RowsAndFacts" >> beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "JoinSide"
            >> beam.ParDo(JoinSide(self._job, self._number), self._plan).with_outputs(
                "keys", "counts", "numbers", main="rows"
            )
        )


def _as_rows(shard: int, ref: Ref) -> tuple[int, tuple[str, str, int, Ref]]:
    return shard, ("rows", "", 0, ref)


def is_of_side(element: tuple[int, Any], layout: JobLayout, number: int) -> bool:
    """Whether an element by shard is of a side table."""
    first = layout.first_shard(number)
    return first <= element[0] < first + layout.side_shards[number]


class SideCatalog(beam.PTransform):
    """(rows of SideFeatures, all ids) to catalog slices, counts and numbers."""

    def __init__(self, job: Job, number: int, tables: AsSingleton):
        super().__init__()
        self._job, self._number, self._tables = job, number, tables

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, parts: Any) -> Any:
        rows, maps = parts
        mine = maps | "Mine" >> beam.Filter(is_of_side, self._job.layout, self._number)
        return (
            (rows, mine)
            | "RowsAndIds" >> beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "FinishSide"
            >> beam.ParDo(FinishSide(self._job, self._number), self._tables).with_outputs(
                "counts", "numbers", main="catalog"
            )
        )
