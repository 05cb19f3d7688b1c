"""The whole job as one Beam pipeline: from ranges of the source to files in the staging directory."""

import collections
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import fsspec
import numpy as np
from apache_beam.pvalue import AsIter, AsSingleton

from configs.sections.features import QuantilesConfig
from configs.sections.roles import PLANTED_LABEL
from pipelines.base.numbering import TableIds
from pipelines.chain.past import ReadPast
from pipelines.job import Job, JobLayout
from pipelines.sides.join import SendSide
from pipelines.sides.tables import SideCatalog, SideFeatures, SideRows
from pipelines.sources.reader import Range
from pipelines.stages.catalog import WriteCatalog, vector_files
from pipelines.stages.count import CountKeys, SendParts
from pipelines.stages.files import WrittenFile
from pipelines.stages.finish import FinishRows
from pipelines.stages.given import SendVocabularies
from pipelines.stages.group import GroupUsers
from pipelines.stages.ids import WITH_CATALOG, AssignIds, WriteMoved, plan_ids
from pipelines.stages.plan import Plan, make_plan, side_count
from pipelines.stages.read import Read, ReadRows
from pipelines.stages.stats import MergeCounts, MergeNumbers, MergeStats, Stats
from pipelines.stages.write import WriteFile, WriteRejected
from pipelines.statistics.distributions import distribution, merged_histograms, new_keys
from pipelines.statistics.moments import Moments
from pipelines.statistics.quantiles import boundaries
from pipelines.summary import FILE_NAME, dump_summary


class Ids(beam.PTransform):
    """Keys by (table, part) to ids for each shard, catalog slices, WrittenFile of indexes and moved ids,
    TableIds of some tables, and (table, ref) of their moved ids."""

    def __init__(self, job: Job, tables: list[str], plan: AsSingleton):
        super().__init__()
        self._job, self._tables, self._plan = job, tables, plan

    # Beam reads annotations, and has none for tuples of collections.
    def expand(self, keys: Any) -> Any:
        counted = (
            keys
            | "ByKeyRange" >> beam.GroupByKey()
            | "CountKeys"
            >> beam.ParDo(CountKeys(self._job), self._plan).with_outputs("histogram", main="counted")
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
            >> beam.ParDo(AssignIds(self._job), AsSingleton(tables), self._plan).with_outputs(
                "catalog", "moved", "files", main="maps"
            )
        )
        moved = (
            assigned.moved
            | "ByTable" >> beam.GroupByKey()
            | "WriteMoved" >> beam.ParDo(WriteMoved(self._job))
        )
        files = (assigned.files, moved) | "IdFiles" >> beam.Flatten()
        return assigned.maps, assigned.catalog, files, tables, assigned.moved


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
    sides = [pipeline | f"Side{n}" >> SideRows(job, n, found) for n, found in enumerate(side_ranges)]
    side_stats = _side_stats(pipeline, [found for _, _, found in sides])
    plan = AsSingleton(stats | "MakePlan" >> beam.Map(make_plan, job, AsSingleton(side_stats)))
    grouped = (
        rows
        | "ByUserShard" >> beam.GroupByKey()
        | "GroupUsers"
        >> beam.ParDo(GroupUsers(job), plan).with_outputs("keys", "counts", "numbers", "moments", main="rows")
    )
    side_rows = [found for found, _, _ in sides]
    joined, maps, keys_catalog, id_files, tables, moved = _assign(
        pipeline, job, grouped.keys, plan, side_rows
    )
    ids = AsSingleton(tables)
    shards = [grouped.rows, maps | "OfUsers" >> beam.Filter(_is_of_users, job.layout)]
    if job.base is not None and job.dataset.history_length and job.has_pairs:
        touched = shards | "UsersOfBase" >> beam.Flatten()
        shards.append(touched | "ReadPast" >> ReadPast(job, ids, moved))
    finished = (
        shards
        | "RowsAndIds" >> beam.Flatten()
        | "ByUserShardAgain" >> beam.GroupByKey()
        | "FinishRows"
        >> beam.ParDo(FinishRows(job), plan, ids).with_outputs("catalog", "counts", "numbers", main="rows")
    )
    finished_sides = [
        (side.rows, maps) | f"SideCatalog{n}" >> SideCatalog(job, n, ids) for n, side in enumerate(joined)
    ]
    slices = [keys_catalog, finished.catalog, *(side.catalog for side in finished_sides)]
    counts = _flat(
        "Counts", [grouped.counts, finished.counts, *(side.counts for side in [*joined, *finished_sides])]
    )
    numbers = _flat(
        "Numbers", [grouped.numbers, finished.numbers, *(side.numbers for side in [*joined, *finished_sides])]
    )
    facts = {
        "stats": AsSingleton(stats),
        "sides": AsSingleton(side_stats),
        "counts": AsSingleton(counts | "MergeCounts" >> beam.CombineGlobally(MergeCounts())),
        "plan": plan,
        "tables": ids,
        "numbers": AsSingleton(numbers | "MergeNumbers" >> beam.CombineGlobally(MergeNumbers())),
        "moments": AsIter(grouped.moments),
    }
    refused = _flat("Rejected", [rejected, *(found for _, found, _ in sides)])
    files = _write(pipeline, job, finished.rows, slices, refused, plan, ids)
    files = (files, id_files) | "AllFilesAndIds" >> beam.Flatten()
    once = pipeline | "Once" >> beam.Create([job.layout.spool])
    _ = once | "Summarize" >> beam.Map(_summarize, job, files=AsIter(files), **facts)


def _flat(name: str, collections_: list[Any]) -> Any:
    return collections_ | f"All{name}" >> beam.Flatten()


def _side_stats(pipeline: beam.Pipeline, found: list[Any]) -> Any:
    """Merged Stats of all side tables, by their number, in one dictionary."""
    return (
        _flat("SideStats", found or [pipeline | "NoSides" >> beam.Create([])])
        | "MergeSideStats" >> beam.CombinePerKey(MergeStats())
        | "SidesByNumber" >> beam.combiners.ToDict()
    )


def _quantile_parts(job: Job) -> dict[str, int]:
    """Number of buckets by feature with buckets by quantiles."""
    numbers = [feature for part in (job, *job.sides) for feature in part.numbers]
    return {f.name: f.buckets.quantiles for f in numbers if isinstance(f.buckets, QuantilesConfig)}


def _spread_columns(job: Job) -> list[str]:
    """Columns whose distribution is stored, in order."""
    features = [feature.name for feature in job.source.all_features]
    roles = job.source.model_dump().get("roles", {})
    has_label = roles.get("label") is not None or PLANTED_LABEL in job.labels  # otherwise it is always 1
    return [*(["label"] if has_label else []), *job.labels.values(), *job.owners, *features]


def _keyed(job: Job) -> dict[str, str]:
    """Those of them that are counted by key, with their tables."""
    return {name: table for part in (job, *job.sides) for name, table in part.feature_columns.items()}


def _write(
    pipeline: beam.Pipeline,
    job: Job,
    rows: Any,
    slices: list[Any],
    refused: Any,
    plan: AsSingleton,
    tables: AsSingleton,
) -> Any:
    """All WrittenFile: records, catalogs and rejected rows.

    Args:
      rows: by file.
      slices: of catalogs.
    """
    every = pipeline | "Catalogs" >> beam.Create([job])
    slices = [*slices, every | "VectorFiles" >> beam.FlatMap(vector_files, tables, plan)]
    records = rows | "ByFile" >> beam.GroupByKey() | "WriteRecords" >> beam.ParDo(WriteFile(job))
    catalogs = (
        _flat("Slices", slices)
        | "ByCatalogFile" >> beam.GroupByKey()
        | "WriteCatalogs" >> beam.ParDo(WriteCatalog(job), tables)
    )
    rejects = refused | "Together" >> beam.GroupByKey() | "WriteRejected" >> beam.ParDo(WriteRejected(job))
    return _flat("Files", [records, catalogs, rejects])


def _assign(pipeline: beam.Pipeline, job: Job, keys: Any, plan: AsSingleton, sides: list[Any]) -> Any:
    """Assigns ids: first those of users and items, so that keys of side tables can be counted, then those of
    features.

    Args:
      keys: of the user shards.
      sides: rows of each side table.

    Returns:
      Outputs of SideFeatures of each side table; all maps; catalog slices; WrittenFile of indexes and moved
      ids; TableIds of all tables; (table, ref) of moved ids, at least of users and items.
    """
    tables_of_keys = [*job.owners, *job.feature_tables]
    exact = [name for name in tables_of_keys if job.ids_of(name).kind == "vocab"]
    given = [
        pipeline | "Exact" >> beam.Create(exact) | "SendParts" >> beam.ParDo(SendParts(job), plan),
    ]
    if job.given:
        given.append(
            pipeline
            | "Given" >> beam.Create(sorted(job.given))
            | "SendVocabularies" >> beam.ParDo(SendVocabularies(job), plan)
        )
    if not sides:  # one phase is enough
        all_keys = (keys, *given) | "AllKeys" >> beam.Flatten()
        return [], *(all_keys | "Ids" >> Ids(job, tables_of_keys, plan))
    sent = [
        rows | f"SendSide{number}" >> beam.ParDo(SendSide(job, number), plan)
        for number, rows in enumerate(sides)
    ]
    keys = (keys, *given) | "SentKeys" >> beam.Flatten()
    own_keys = (keys | "OfCatalogs" >> beam.Filter(_has_catalog), *sent) | "OwnKeys" >> beam.Flatten()
    maps, catalog, files, tables, moved = own_keys | "Ids" >> Ids(job, job.owners, plan)
    joined = [
        (rows, maps) | f"SideFeatures{number}" >> SideFeatures(job, number, plan)
        for number, rows in enumerate(sides)
    ]
    feature_keys = [keys | "OfFeatures" >> beam.Filter(_has_no_catalog), *(side.keys for side in joined)]
    feature_maps, feature_catalog, feature_files, feature_tables, _ = (
        feature_keys | "FeatureKeys" >> beam.Flatten() | "FeatureIds" >> Ids(job, job.feature_tables, plan)
    )
    return (
        joined,
        (maps, feature_maps) | "AllMaps" >> beam.Flatten(),
        (catalog, feature_catalog) | "AllKeySlices" >> beam.Flatten(),
        (files, feature_files) | "AllIdFiles" >> beam.Flatten(),
        tables | "AllTables" >> beam.Map(_together, AsSingleton(feature_tables)),
        moved,
    )


def _summarize(
    spool: str,
    job: Job,
    stats: Stats,
    sides: dict[int, Stats],
    counts: collections.Counter[str],
    plan: Plan,
    tables: dict[str, TableIds],
    numbers: dict[str, Any],
    moments: Iterable[tuple[int, dict[str, Moments]]],
    files: Iterable[WrittenFile],
) -> None:
    """Writes the job's summary into the spool, which workers of any runner can write.

    Args:
      numbers: merged histograms: of features with buckets by quantiles, and of Spreads.
      moments: of each user shard.
    """
    stats.counts = counts
    for number, side in sorted(sides.items()):
        counts[side_count(number, "rows")] = side.rows
        counts[side_count(number, "duplicates")] = side.counts["duplicates"]
        counts.update({side_count(number, f"rejected/{why}"): n for why, n in side.rejected.items()})
        stats.notes.update(side.notes)
    parts = _quantile_parts(job)
    quantiles = {name: boundaries(numbers[name], parts[name]) for name in sorted(parts) if name in numbers}
    spreads, table_of = merged_histograms(numbers), _keyed(job)
    distributions = {
        name: distribution(spreads[name], name, counts, name in table_of)
        for name in _spread_columns(job)
        if name in spreads
    }
    for name, table in table_of.items() if job.base else ():
        keys = np.array(distributions[name].keys, np.int64)
        if (new := tables[table].is_new(keys)) is not None:
            counts.update(new_keys(name, keys[new]))
    whole: dict[str, Moments] = {}
    for _, found_moments in sorted(moments, key=lambda element: element[0]):
        for name, mine in found_moments.items():
            whole[name] = whole[name].join(mine) if name in whole else mine
    with fsspec.open(f"{spool}/{FILE_NAME}", "wb") as file:
        file.write(dump_summary(stats, plan, tables, quantiles, whole, distributions, files))
