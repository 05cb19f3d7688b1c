"""Builds dataset.json from the pipeline's output."""

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from configs.dataset_parts import (
    BaseInfo,
    CatalogInfo,
    FeatureInfo,
    FileInfo,
    LabelInfo,
    SideInfo,
    SourceFileInfo,
    SplitInfo,
    TableInfo,
)
from configs.manifest import SPLITS, Dataset
from configs.sections.features import (
    BoundariesConfig,
    CrossFeatureConfig,
    FeatureConfig,
    ListFeatureConfig,
    NumericFeatureConfig,
    VectorFeatureConfig,
    table_of,
)
from pipelines.base.chain import Base
from pipelines.base.numbering import TableIds
from pipelines.base.statistics import keep_statistics
from pipelines.drift import distribution_facts
from pipelines.job import Job
from pipelines.sources.identity import SourceFile
from pipelines.stages.files import WrittenFile
from pipelines.stages.plan import side_count
from pipelines.statistics.coverage import known_count, other_count, value_count
from pipelines.statistics.moments import Moments
from pipelines.summary import Summary


def source_fingerprint(source: dict[str, Any], files: list[SourceFile]) -> str:
    """SHA-256 over the source section and its files' names, sizes and contents, in order.

    Args:
      source: the section as JSON.
      files: with their content checksums.
    """
    parts = [[file.name, file.size, file.content] for file in files]
    return hashlib.sha256(json.dumps([plain_source(source), parts], sort_keys=True).encode()).hexdigest()


def plain_source(source: dict[str, Any]) -> dict[str, Any]:
    """A source section as JSON without `labels` that name none, as sections were written before there were
    any."""
    roles = source.get("roles", {})
    if roles.get("labels", True):
        return source
    return source | {"roles": {key: value for key, value in roles.items() if key != "labels"}}


def fingerprint(files: list[WrittenFile], base: str | None = None) -> str:
    """SHA-256 over the checksums of all record files in order, and the fingerprint of the base; indexes,
    which have the same keys in more or fewer files, are left out."""
    content = sorted((f for f in files if f.directory not in ("rejected", "index")), key=WrittenFile.place)
    parts: list[Any] = [[f.directory, *([f.table] if f.table else []), f.number, f.info] for f in content]
    parts += [base] if base else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def published_name(file: WrittenFile, digest: str) -> str:
    """Path in the dataset directory. It contains the content's digest, so files of an older dataset, which
    stays valid until dataset.json is replaced, are never overwritten with different content."""
    if file.directory == "index":  # not in the digest
        digest = file.info["crc32c"]
    return f"{file.directory}/{digest[:8]}-{file.name}"


def build_manifest(job: Job, source_files: list[SourceFile], summary: Summary) -> Dataset:
    """The manifest of a dataset.

    Args:
      source_files: what was read, with its content.
    """
    source, stats, files = job.source.model_dump(mode="json"), summary.stats, summary.files
    digest = fingerprint(files, job.base.top.fingerprint if job.base else None)
    infos = functools.partial(infos_of, files, digest)

    def split(directory: str) -> SplitInfo:
        chosen = [f for f in files if f.directory == directory]
        prefix = f"{directory}/"
        left_out = {k.removeprefix(prefix): v for k, v in stats.counts.items() if k.startswith(prefix)}
        return SplitInfo(**split_rows(infos(directory), chosen, job.labels), **left_out)

    def table(name: str, ids: TableIds) -> TableInfo:
        places = {"files": "vocabularies", "moved": "moved", "index": "index"}
        return _table(job, name, ids).model_copy(update={k: infos(d, name) for k, d in places.items()})

    def catalog(directory: str) -> CatalogInfo:
        found = infos(directory)
        return CatalogInfo(rows=sum(f.rows for f in found), files=found)

    def feature(config: FeatureConfig) -> FeatureInfo:
        info = _feature(config, summary, config in job.source.features)
        return info.model_copy(update={"files": infos(f"{config.of}s", config.name)})

    features = {config.name: feature(config) for config in job.source.all_features}
    features = keep_statistics(features, None if job.dataset.refresh_statistics else job.base)
    tables = {name: table(name, ids) for name, ids in summary.tables.items()}
    tables |= _bucket_tables(features, job.base)
    return Dataset(
        fingerprint=digest,
        source_fingerprint=source_fingerprint(source, source_files),
        source_files=[_source_file(file) for file in source_files],
        history_length=job.dataset.history_length,
        history_of=job.dataset.history_of,
        has_weight=job.source.roles.weight is not None,
        splits={name: split(name) for name in SPLITS},
        positives=split("positives") if any(f.directory == "positives" for f in files) else None,
        tables=tables,
        features=features,
        sides=[_side(job, n, summary) for n in range(len(job.sides))],
        **distribution_facts(job, summary.distributions, files, stats.counts),
        users=catalog("users"),
        items=catalog("items"),
        source_rows=stats.rows,
        rejected=dict(sorted(stats.rejected.items())),
        filtered=stats.filtered,
        duplicates=stats.counts["duplicates"],
        short_users=stats.counts["short_users"],
        labels=list(job.labels),
        keep_negatives=job.dataset.keep_negatives,
        thinned=stats.counts["thinned"],
        base=_base(job, stats.counts),
        notes={reason: count for reason, count in sorted(stats.notes.items()) if count},
        source=source,
        dataset=job.dataset.model_dump(mode="json"),
    )


def infos_of(files: list[WrittenFile], digest: str, directory: str, table: str = "") -> list[FileInfo]:
    """Files of a directory; those with records, or those of a table or feature."""
    mine = [f for f in files if (f.directory, f.table) == (directory, table)]
    mine.sort(key=WrittenFile.place)
    return [FileInfo(path=published_name(f, digest), **f.info) for f in mine]


def _base(job: Job, counts: Counter[str]) -> BaseInfo | None:
    if job.base is None:
        return None
    top = job.base.top
    depth = 1 + (top.base.depth if top.base else 0)
    return BaseInfo(path=job.dataset.base, fingerprint=top.fingerprint, depth=depth, late=counts["late"])


def _source_file(file: SourceFile) -> SourceFileInfo:
    return SourceFileInfo(path=file.name, bytes=file.size, version=file.version, content=file.content)


def _side(job: Job, number: int, summary: Summary) -> SideInfo:
    counts, of = summary.stats.counts, job.sides[number].source.of
    prefix = side_count(number, "rejected/")
    rejected = {key.removeprefix(prefix): n for key, n in sorted(counts.items()) if key.startswith(prefix)}
    facts = {name: counts[side_count(number, name)] for name in ("rows", "duplicates", "matched", "alone")}
    missing = summary.tables[of].met - facts["matched"]
    return SideInfo(of=of, rejected=rejected, missing=missing, **facts)


def _feature(feature: FeatureConfig, summary: Summary, in_records: bool) -> FeatureInfo:
    """A feature of a column of the interactions, or else of a side table."""
    counts, name = summary.stats.counts, feature.name
    info: dict[str, Any] = {
        "coverage": counts[known_count(name)] + sum(f.coverage.get(name, 0) for f in summary.files),
        "values": counts[value_count(name)],
        "oov_values": counts[other_count(name)],
    }
    if isinstance(feature, ListFeatureConfig):
        info |= {"max_length": feature.max_length, "weighted": feature.weights is not None}
    if isinstance(feature, CrossFeatureConfig):
        info["keys"] = feature.keys
    if isinstance(feature, NumericFeatureConfig):
        info |= {"steps": feature.steps, "boundaries": _boundaries(feature, summary)}
        if in_records:
            info |= _scale(summary.moments.get(name))
        else:
            info |= _scale(_moments_of_side(name, summary.files, f"{feature.of}s"))
    if isinstance(feature, VectorFeatureConfig):
        info["dim"] = feature.dim
    if not in_records:
        info["lives"] = "catalog"
    return FeatureInfo(of=feature.of, kind=feature.kind, table=table_of(feature), **info)


def _boundaries(feature: NumericFeatureConfig, summary: Summary) -> list[float] | None:
    """Distinct boundaries as float32, which models compare."""
    if feature.buckets is None:
        return None
    if isinstance(feature.buckets, BoundariesConfig):
        return [float(value) for value in np.unique(np.array(feature.buckets.boundaries, np.float32))]
    return summary.quantiles.get(feature.name, [])


def _moments_of_side(name: str, files: list[WrittenFile], directory: str) -> Moments | None:
    """Over the users or items of a catalog; None: there are none."""
    mine = sorted((f for f in files if f.directory == directory and name in f.moments), key=WrittenFile.place)
    return functools.reduce(Moments.join, (f.moments[name] for f in mine)) if mine else None


def _scale(moments: Moments | None) -> dict[str, float]:
    """Mean and standard deviation; empty without values, or if they are not needed.

    Rounded, because the last bits depend on how rows are distributed over shards: first a little, so that
    no value lies so close to the middle of two rounded ones that they decide between them.
    """
    if moments is None:
        return {}
    stddev = math.sqrt(moments.spread / moments.count)
    return {"mean": _rounded(moments.mean), "stddev": _rounded(stddev) or 1.0}


def _rounded(value: float) -> float:
    return float(f"{float(f'{value:.11g}'):.7g}")


def _bucket_tables(features: dict[str, FeatureInfo], base: Base | None) -> dict[str, TableInfo]:
    """Tables of numeric features with buckets: one row for each, and one for empty values."""
    found = {}
    below = base.top.tables if base else {}
    for info in features.values():
        if info.boundaries is not None and info.table is not None:
            buckets = len(info.boundaries) + 1
            before = below[info.table].rows if info.table in below else None
            found[info.table] = TableInfo(
                ids="buckets", rows=buckets + 1, oov=None, keys=buckets, base_rows=before
            )
    return found


def split_rows(infos: list[FileInfo], files: list[WrittenFile], labels: Iterable[str]) -> dict[str, Any]:
    """Fields of SplitInfo, from all files of the split."""
    return {
        "rows": sum(info.rows for info in infos),
        "files": infos,
        "min_timestamp": min((f.min_timestamp for f in files if f.min_timestamp is not None), default=None),
        "max_timestamp": max((f.max_timestamp for f in files if f.max_timestamp is not None), default=None),
        "positives": sum(f.positives for f in files),
        "labels": {
            name: LabelInfo(
                known=sum(f.labels[name][0] for f in files), ones=sum(f.labels[name][1] for f in files)
            )
            for name in labels
        },
    }


def _table(job: Job, name: str, ids: TableIds) -> TableInfo:
    kind = job.ids_of(name).kind
    oov = ids.keys if kind in ("vocab", "given") else None
    sizes: dict[str, Any] = {"rows": ids.rows, "catalog_rows": ids.catalog_rows}
    if kind == "given":
        sizes["oov_rows"] = ids.rows - ids.keys
    if job.base and name in job.base.tables:
        before = job.base.top.tables[name]
        sizes |= {"base_rows": before.rows, "base_oov": before.oov, "left": ids.left}
    return TableInfo(ids=kind, oov=oov, keys=ids.keys, oov_keys=ids.others, **sizes)
