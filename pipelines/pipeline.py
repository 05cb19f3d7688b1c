"""The whole job as one Beam pipeline: from ranges of the source to files in the staging directory."""

import collections
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import fsspec
from apache_beam.pvalue import AsIter, AsSingleton

from configs.sections.features import QuantilesConfig
from pipelines.job import Job
from pipelines.sources.reader import Place, Range, first_rows
from pipelines.stages.catalog import WriteCatalog
from pipelines.stages.files import WrittenFile
from pipelines.stages.finish import FinishRows
from pipelines.stages.given import SendVocabularies
from pipelines.stages.group import GroupUsers
from pipelines.stages.ids import AssignIds, CountKeys, TableIds, plan_ids
from pipelines.stages.plan import Plan, make_plan
from pipelines.stages.read import CountRows, ReadRows
from pipelines.stages.stats import MergeCounts, MergeNumbers, MergeStats, Stats
from pipelines.stages.write import WriteFile, WriteRejected
from pipelines.statistics.quantiles import NumberHistogram, boundaries
from pipelines.summary import FILE_NAME, dump_summary


class Read(beam.PTransform):
    """Ranges to rows by user shard, rejected rows and merged Stats."""

    def __init__(self, job: Job, ranges: list[Range]):
        super().__init__()
        self._job, self._ranges = job, ranges

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
        rows = ranges | "ReadRows" >> beam.ParDo(ReadRows(self._job), AsSingleton(places)).with_outputs(
            "stats", "rejected", main="rows"
        )
        stats = rows.stats | "MergeStats" >> beam.CombineGlobally(MergeStats())
        return rows.rows, rows.rejected, stats


def _first_rows(counts: dict[int, int], ranges: list[Range]) -> dict[int, Place]:
    # A lambda would be pickled by value, with the path of this file on the machine that starts the job.
    return first_rows(ranges, counts)


class Ids(beam.PTransform):
    """Keys by (table, part) to ids for each user shard, catalog slices and TableIds of all tables."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, keys: Any) -> Any:
        counted = (
            keys
            | "ByKeyRange" >> beam.GroupByKey()
            | "CountKeys" >> beam.ParDo(CountKeys(self._job)).with_outputs("histogram", main="counted")
        )
        tables = (
            counted.histogram
            | "CollectHistograms" >> beam.combiners.ToList()
            | "PlanIds" >> beam.Map(plan_ids, self._job)
        )
        assigned = (
            counted.counted
            | "SpreadParts" >> beam.Reshuffle()
            | "AssignIds"
            >> beam.ParDo(AssignIds(self._job), AsSingleton(tables)).with_outputs("catalog", main="maps")
        )
        return assigned.maps, assigned.catalog, tables


def build(pipeline: beam.Pipeline, job: Job, ranges: list[Range]) -> None:
    """Adds all stages of the job to a pipeline; the last one writes the summary file into the spool."""
    rows, rejected, stats = pipeline | "Read" >> Read(job, ranges)
    plan = AsSingleton(stats | "MakePlan" >> beam.Map(make_plan, job))
    grouped = (
        rows
        | "ByUserShard" >> beam.GroupByKey()
        | "GroupUsers"
        >> beam.ParDo(GroupUsers(job), plan).with_outputs("keys", "counts", "numbers", main="rows")
    )
    keys = grouped.keys
    if job.given:
        given = (
            pipeline
            | "Given" >> beam.Create(sorted(job.given))
            | "SendVocabularies" >> beam.ParDo(SendVocabularies(job), plan)
        )
        keys = (keys, given) | "AllKeys" >> beam.Flatten()
    maps, keys_catalog, tables = keys | "Ids" >> Ids(job)
    finished = (
        (grouped.rows, maps)
        | "RowsAndIds" >> beam.Flatten()
        | "ByUserShardAgain" >> beam.GroupByKey()
        | "FinishRows"
        >> beam.ParDo(FinishRows(job), plan, AsSingleton(tables)).with_outputs(
            "catalog", "counts", main="rows"
        )
    )
    records = finished.rows | "ByFile" >> beam.GroupByKey() | "WriteRecords" >> beam.ParDo(WriteFile(job))
    catalogs = (
        (keys_catalog, finished.catalog)
        | "KeysAndRows" >> beam.Flatten()
        | "ByCatalogFile" >> beam.GroupByKey()
        | "WriteCatalogs" >> beam.ParDo(WriteCatalog(job))
    )
    refused = (
        rejected | "AllRejected" >> beam.GroupByKey() | "WriteRejected" >> beam.ParDo(WriteRejected(job))
    )
    counts = (
        (grouped.counts, finished.counts)
        | "AllCounts" >> beam.Flatten()
        | "MergeCounts" >> beam.CombineGlobally(MergeCounts())
    )
    numbers = grouped.numbers | "MergeNumbers" >> beam.CombineGlobally(MergeNumbers())
    files = (records, catalogs, refused) | "AllFiles" >> beam.Flatten()
    _ = (
        pipeline
        | "Once" >> beam.Create([job.layout.spool])
        | "Summarize"
        >> beam.Map(
            _summarize,
            {f.name: f.buckets.quantiles for f in job.numbers if isinstance(f.buckets, QuantilesConfig)},
            AsSingleton(stats),
            AsSingleton(counts),
            plan,
            AsSingleton(tables),
            AsSingleton(numbers),
            AsIter(files),
        )
    )


def _summarize(
    spool: str,
    parts: dict[str, int],
    stats: Stats,
    counts: collections.Counter[str],
    plan: Plan,
    tables: dict[str, TableIds],
    numbers: dict[str, NumberHistogram],
    files: Iterable[WrittenFile],
) -> None:
    """Writes the job's summary into the spool, which workers of any runner can write.

    Args:
      parts: number of buckets by feature with buckets by quantiles.
    """
    stats.counts = counts
    quantiles = {name: boundaries(found, parts[name]) for name, found in numbers.items()}
    with fsspec.open(f"{spool}/{FILE_NAME}", "wb") as file:
        file.write(dump_summary(stats, plan, tables, quantiles, files))
