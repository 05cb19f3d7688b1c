"""The whole job as one Beam pipeline: from ranges of the source to files in the staging directory."""

import collections
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import fsspec
from apache_beam.pvalue import AsIter, AsSingleton

from configs.sections.features import QuantilesConfig
from pipelines.job import Job, JobLayout
from pipelines.sources.reader import Place, Range, first_rows
from pipelines.stages.catalog import WriteCatalog, vector_files
from pipelines.stages.files import WrittenFile
from pipelines.stages.finish import FinishRows
from pipelines.stages.given import SendVocabularies
from pipelines.stages.group import GroupUsers
from pipelines.stages.ids import WITH_CATALOG, AssignIds, CountKeys, TableIds, plan_ids
from pipelines.stages.plan import Plan, make_plan, side_count
from pipelines.stages.read import CountRows, ReadRows
from pipelines.stages.sides import FinishSide, JoinSide, ReadSide, ResolveSide, SendSide
from pipelines.stages.spool import Ref
from pipelines.stages.stats import MergeCounts, MergeNumbers, MergeStats, Stats
from pipelines.stages.write import WriteFile, WriteRejected
from pipelines.statistics.quantiles import NumberHistogram, boundaries
from pipelines.summary import FILE_NAME, dump_summary


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


class Ids(beam.PTransform):
    """Keys by (table, part) to ids for each shard, catalog slices and TableIds of some tables."""

    def __init__(self, job: Job, tables: list[str]):
        super().__init__()
        self._job, self._tables = job, tables

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
            | "PlanIds" >> beam.Map(plan_ids, self._job, self._tables)
        )
        assigned = (
            counted.counted
            | "SpreadParts" >> beam.Reshuffle()
            | "AssignIds"
            >> beam.ParDo(AssignIds(self._job), AsSingleton(tables)).with_outputs("catalog", main="maps")
        )
        return assigned.maps, assigned.catalog, tables


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
        mine = maps | "Mine" >> beam.Filter(_is_of_side, self._job.layout, self._number)
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


def _is_of_side(element: tuple[int, Any], layout: JobLayout, number: int) -> bool:
    first = layout.first_shard(number)
    return first <= element[0] < first + layout.side_shards[number]


def _is_of_users(element: tuple[int, Any], layout: JobLayout) -> bool:
    return element[0] < layout.user_shards


def _has_catalog(element: tuple[tuple[str, int], Any]) -> bool:
    return element[0][0] in WITH_CATALOG


def _has_no_catalog(element: tuple[tuple[str, int], Any]) -> bool:
    return element[0][0] not in WITH_CATALOG


def _together(tables: dict[str, TableIds], others: dict[str, TableIds]) -> dict[str, TableIds]:
    return tables | others


def build(pipeline: beam.Pipeline, job: Job, ranges: list[Range], side_ranges: list[list[Range]]) -> None:
    """Adds all stages of the job to a pipeline; the last one writes the summary file into the spool.

    Args:
      side_ranges: of each side table.
    """
    rows, rejected, stats = pipeline | "Read" >> Read(job, ranges, ReadRows(job))
    stats = stats | "MergeStats" >> beam.CombineGlobally(MergeStats())
    sides = [
        pipeline | f"Side{number}" >> SideRows(job, number, found) for number, found in enumerate(side_ranges)
    ]
    side_stats = (
        ([side_stats for _, _, side_stats in sides] or [pipeline | "NoSides" >> beam.Create([])])
        | "AllSideStats" >> beam.Flatten()
        | "MergeSideStats" >> beam.CombinePerKey(MergeStats())
        | "SidesByNumber" >> beam.combiners.ToDict()
    )
    plan = AsSingleton(stats | "MakePlan" >> beam.Map(make_plan, job, AsSingleton(side_stats)))
    grouped = (
        rows
        | "ByUserShard" >> beam.GroupByKey()
        | "GroupUsers"
        >> beam.ParDo(GroupUsers(job), plan).with_outputs("keys", "counts", "numbers", main="rows")
    )
    side_rows = [rows for rows, *_ in sides]
    joined, maps, keys_catalog, tables = _assign(pipeline, job, grouped.keys, plan, side_rows)
    finished = (
        (grouped.rows, maps | "OfUsers" >> beam.Filter(_is_of_users, job.layout))
        | "RowsAndIds" >> beam.Flatten()
        | "ByUserShardAgain" >> beam.GroupByKey()
        | "FinishRows"
        >> beam.ParDo(FinishRows(job), plan, AsSingleton(tables)).with_outputs(
            "catalog", "counts", main="rows"
        )
    )
    finished_sides = [
        (side.rows, maps | f"OfSide{number}" >> beam.Filter(_is_of_side, job.layout, number))
        | f"RowsAndIds{number}" >> beam.Flatten()
        | f"BySide{number}" >> beam.GroupByKey()
        | f"FinishSide{number}"
        >> beam.ParDo(FinishSide(job, number), AsSingleton(tables)).with_outputs("counts", main="catalog")
        for number, side in enumerate(joined)
    ]
    records = finished.rows | "ByFile" >> beam.GroupByKey() | "WriteRecords" >> beam.ParDo(WriteFile(job))
    every_file = (
        pipeline
        | "Catalogs" >> beam.Create([job])
        | "VectorFiles" >> beam.FlatMap(vector_files, AsSingleton(tables), plan)
    )
    catalogs = (
        (keys_catalog, finished.catalog, every_file, *(side.catalog for side in finished_sides))
        | "KeysAndRows" >> beam.Flatten()
        | "ByCatalogFile" >> beam.GroupByKey()
        | "WriteCatalogs" >> beam.ParDo(WriteCatalog(job), AsSingleton(tables))
    )
    refused = (
        (rejected, *(side_rejected for _, side_rejected, _ in sides))
        | "EveryRejected" >> beam.Flatten()
        | "AllRejected" >> beam.GroupByKey()
        | "WriteRejected" >> beam.ParDo(WriteRejected(job))
    )
    counts = (
        (grouped.counts, finished.counts, *(side.counts for side in [*joined, *finished_sides]))
        | "AllCounts" >> beam.Flatten()
        | "MergeCounts" >> beam.CombineGlobally(MergeCounts())
    )
    numbers = (
        (grouped.numbers, *(side.numbers for side in joined))
        | "AllNumbers" >> beam.Flatten()
        | "MergeNumbers" >> beam.CombineGlobally(MergeNumbers())
    )
    files = (records, catalogs, refused) | "AllFiles" >> beam.Flatten()
    buckets = {
        f.name: f.buckets.quantiles
        for part in (job, *job.sides)
        for f in part.numbers
        if isinstance(f.buckets, QuantilesConfig)
    }
    _ = (
        pipeline
        | "Once" >> beam.Create([job.layout.spool])
        | "Summarize"
        >> beam.Map(
            _summarize,
            buckets,
            AsSingleton(stats),
            AsSingleton(side_stats),
            AsSingleton(counts),
            plan,
            AsSingleton(tables),
            AsSingleton(numbers),
            AsIter(files),
        )
    )


def _assign(pipeline: beam.Pipeline, job: Job, keys: Any, plan: AsSingleton, sides: list[Any]) -> Any:
    """Assigns ids: first those of users and items, so that keys of side tables can be counted, then those of
    features.

    Args:
      keys: of the user shards.
      sides: rows of each side table.

    Returns:
      Outputs of SideFeatures of each side table; all maps; catalog slices; TableIds of all tables.
    """
    feature_keys = []
    if job.given:
        feature_keys.append(
            pipeline
            | "Given" >> beam.Create(sorted(job.given))
            | "SendVocabularies" >> beam.ParDo(SendVocabularies(job), plan)
        )
    if not sides:  # one phase is enough
        all_keys = (keys, *feature_keys) | "AllKeys" >> beam.Flatten()
        maps, catalog, tables = all_keys | "Ids" >> Ids(job, [*WITH_CATALOG, *job.feature_tables])
        return [], maps, catalog, tables
    sent = [
        rows | f"SendSide{number}" >> beam.ParDo(SendSide(job, number), plan)
        for number, rows in enumerate(sides)
    ]
    own_keys = (keys | "OfCatalogs" >> beam.Filter(_has_catalog), *sent) | "OwnKeys" >> beam.Flatten()
    maps, catalog, tables = own_keys | "Ids" >> Ids(job, list(WITH_CATALOG))
    joined = [
        (rows, maps) | f"SideFeatures{number}" >> SideFeatures(job, number, plan)
        for number, rows in enumerate(sides)
    ]
    feature_keys += [keys | "OfFeatures" >> beam.Filter(_has_no_catalog), *(side.keys for side in joined)]
    feature_maps, feature_catalog, feature_tables = (
        feature_keys | "FeatureKeys" >> beam.Flatten() | "FeatureIds" >> Ids(job, job.feature_tables)
    )
    return (
        joined,
        (maps, feature_maps) | "AllMaps" >> beam.Flatten(),
        (catalog, feature_catalog) | "AllKeySlices" >> beam.Flatten(),
        tables | "AllTables" >> beam.Map(_together, AsSingleton(feature_tables)),
    )


def _summarize(
    spool: str,
    parts: dict[str, int],
    stats: Stats,
    sides: dict[int, Stats],
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
    for number, side in sorted(sides.items()):
        counts[side_count(number, "rows")] = side.rows
        counts[side_count(number, "duplicates")] = side.counts["duplicates"]
        counts.update({side_count(number, f"rejected/{why}"): n for why, n in side.rejected.items()})
        stats.notes.update(side.notes)
    quantiles = {name: boundaries(found, parts[name]) for name, found in numbers.items()}
    with fsspec.open(f"{spool}/{FILE_NAME}", "wb") as file:
        file.write(dump_summary(stats, plan, tables, quantiles, files))
