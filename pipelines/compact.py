"""`lazytower prepare --compact`: folds the chain of datasets below a dataset into one that stands alone.

FOLDED in the docstring of configs/manifest.py says what stays.
"""

import dataclasses
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from absl import logging

from configs.dataset_parts import CatalogInfo, FeatureInfo, FoldInfo, SplitInfo, TableInfo
from configs.errors import DataError
from configs.manifest import SPLITS, Dataset, load_dataset
from configs.sections.dataset import DatasetConfig
from configs.sections.sources import SourceConfig
from pipelines.base.chain import Base, open_base, reading
from pipelines.existing import settings_differ
from pipelines.job import Job, plan_layout
from pipelines.manifest import fingerprint, infos_of, split_rows
from pipelines.progress import Progress
from pipelines.publish import publish
from pipelines.stages.files import WrittenFile
from pipelines.statistics.coverage import other_count, value_count
from pipelines.workspace import workspace

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_SUMS = ("source_rows", "filtered", "duplicates", "thinned")


def compact(
    source: SourceConfig, dataset: DatasetConfig, options: "PipelineOptions | None" = None, **sizes: Any
) -> Dataset:
    """Replaces the dataset at dataset.path by one with the rows of all datasets below it, which stay.

    Args:
      source, dataset: sections of a RunConfig, with which the dataset was prepared.
      options: as of pipelines.prepare.prepare.
      sizes: replace fields of JobLayout.

    Raises:
      ConfigError: the runner lacks an option, or its workers could not access the files.
      DataError: there is nothing to fold, or a dataset of the chain is missing or damaged; nothing changes.
    """
    from pipelines.runners.checks import check_runner
    from pipelines.runners.options import beam_options, worker_threads

    options, target = options or beam_options(None, []), dataset.path.rstrip("/")
    check_runner(options, source, dataset)
    top = load_dataset(target)
    if difference := settings_differ(top, source, dataset):
        raise DataError(f"{target}: was prepared from {difference}; use the config of that run")
    if top.base is None:
        raise DataError(f"{target}: stands on no other dataset: nothing to fold; remove --compact")
    base = open_base(target)
    shards = max(int(below.dataset["num_shards"]) for below in base.datasets)
    layout = plan_layout("", "", sum(below.splits["train"].rows for below in base.datasets))
    job = Job(source, dataset.model_copy(update={"num_shards": shards}), layout)
    below = dataclasses.replace(base, datasets=base.datasets[1:])
    with reading(below), workspace(target) as (path, check):
        if load_dataset(target).fingerprint != top.fingerprint:
            raise DataError(f"{target}: has just been replaced by another process; rerun the same command")
        layout = dataclasses.replace(layout, spool=f"{path}/spool", staging=f"{path}/staging")
        layout = dataclasses.replace(layout, **({"threads": worker_threads(options)} | sizes))
        job = dataclasses.replace(job, layout=layout)
        with Progress(layout.spool) as progress:
            files = _run(job, base, options)
        manifest = _manifest(job, base, files)
        check()
        publish(target, layout.staging, manifest, files)
    _report(manifest, base, progress)
    return manifest


def _run(job: Job, base: Base, options: "PipelineOptions") -> list[WrittenFile]:
    import apache_beam as beam

    from pipelines.chain.fold import build_fold, listed_files
    from pipelines.runners.running import make_runner, run_to_end

    if "://" not in job.layout.spool:
        os.makedirs(job.layout.spool)
    pipeline = beam.Pipeline(make_runner(options), options=options)
    build_fold(pipeline, job, base)
    run_to_end(pipeline, options)
    try:
        return listed_files(job.layout.spool)
    except FileNotFoundError:
        raise DataError(
            f"{job.dataset.path}: the job succeeded, but its workers wrote to another disk, "
            "so the dataset is not here; use gs:// in dataset.path"
        ) from None


def _manifest(job: Job, base: Base, files: list[WrittenFile]) -> Dataset:
    """The manifest of the folded dataset."""
    chain, top = base.datasets, base.top
    digest = fingerprint(files)

    def split(directory: str) -> SplitInfo:
        mine = [file for file in files if file.directory == directory]
        return SplitInfo(**split_rows(infos_of(files, digest, directory), mine, job.labels))

    def table(name: str, info: TableInfo) -> TableInfo:
        places = {"files": "vocabularies", "index": "index"}
        found: dict[str, Any] = {key: infos_of(files, digest, place, name) for key, place in places.items()}
        alone: dict[str, Any] = {"base_rows": None, "base_oov": None, "moved": [], "left": 0}
        return info.model_copy(update=found | alone)

    def catalog(directory: str) -> CatalogInfo:
        infos = infos_of(files, digest, directory)
        return CatalogInfo(rows=sum(info.rows for info in infos), files=infos)

    held_out = {
        name: top.splits[name].model_copy(update={"files": infos_of(files, digest, name)})
        for name in SPLITS[1:]
    }
    changes: dict[str, Any] = {
        "fingerprint": digest,
        "base": None,
        "folds": _folds(chain),
        "splits": {SPLITS[0]: split(SPLITS[0])} | held_out,
        "positives": split("positives") if any(f.directory == "positives" for f in files) else None,
        "tables": {name: table(name, info) for name, info in top.tables.items()},
        "features": {name: _feature(name, chain, files, digest) for name in top.features},
        "users": catalog("users"),
        "items": catalog("items"),
        "drift": {},
        "rejected": _sum(chain, "rejected"),
        "notes": _sum(chain, "notes"),
    }
    sums = {name: sum(getattr(dataset, name) for dataset in chain) for name in _SUMS}
    return top.model_copy(update=changes | sums)


def _folds(chain: tuple[Dataset, ...]) -> list[FoldInfo]:
    """What is folded: every dataset of the chain, and what they have folded before."""
    found = []
    for level, dataset in enumerate(chain):
        before = [fold.model_copy(update={"same_ids": fold.same_ids and not level}) for fold in dataset.folds]
        mine = FoldInfo(
            path=dataset.path,
            fingerprint=dataset.fingerprint,
            same_ids=not level,
            source_files=dataset.source_files if level else [],
        )
        found += [mine, *before]
    return found


def _feature(name: str, chain: tuple[Dataset, ...], files: list[WrittenFile], digest: str) -> FeatureInfo:
    """A feature of the folded dataset: of users and items counted again, of rows added up."""
    info = chain[0].features[name]
    found: dict[str, Any] = {}
    for key, counted in (
        ("coverage", name), ("values", value_count(name)), ("oov_values", other_count(name)),
    ):  # fmt: skip
        of_catalog = [file.coverage[counted] for file in files if counted in file.coverage]
        of_rows = sum(getattr(dataset.features[name], key) for dataset in chain)
        found[key] = sum(of_catalog) if of_catalog else of_rows
    found["files"] = infos_of(files, digest, f"{info.of}s", name)
    return info.model_copy(update=found)


def _sum(chain: tuple[Dataset, ...], name: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for dataset in chain:
        counts.update(getattr(dataset, name))
    return dict(sorted(counts.items()))


def _report(manifest: Dataset, base: Base, progress: Progress) -> None:
    rows = ", ".join(f"{name} {info.rows:,}" for name, info in manifest.splits.items())
    logging.info(
        "%s: %d datasets folded into one, which stands alone; %s",
        *(base.top.path, len(base.datasets), rows),
    )
    logging.info("the datasets that were below it are not needed any more, except by others on them")
    logging.info("%.1f s, peak memory %.0f MB on this machine", progress.seconds, progress.peak_bytes / 1e6)
