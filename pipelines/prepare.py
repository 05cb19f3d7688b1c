"""`lazytower prepare`: turns raw interactions into a dataset, as configured in `source` and `dataset`.

lazytower prepare --config configs/quickstart.yaml
lazytower prepare --guess events.csv items.csv > run.yaml
lazytower prepare --config monday.yaml --compact
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import logging

from configs.arguments import add_config_arguments
from configs.errors import ConfigError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from configs.manifest import Dataset
    from configs.sections.dataset import DatasetConfig
    from configs.sections.sources import SourceConfig
    from pipelines.base.chain import Base
    from pipelines.job import Job
    from pipelines.sources.identity import SourceFile
    from pipelines.sources.reader import Range, Reader
    from pipelines.summary import Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the sub-command; all others are passed to Apache Beam."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--guess",
        nargs="+",
        metavar="FILE",
        help="instead of preparing, print a first configuration for these files: the interactions, then side "
        "tables; redirect it to a file and check its comments",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="instead of preparing, fold the dataset at dataset.path and those below it (dataset.base) into "
        "one that stands alone, with the same ids",
    )
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="Apache Beam runner (default: FnApiRunner, on this machine); other flags are passed to Beam, "
        "such as --direct_running_mode=multi_processing --direct_num_workers=8; see docs/prepare.md",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares the dataset of args.config.

    Raises:
      ConfigError, DataError: one line that says what is wrong; nothing is published.
    """
    if args.guess:
        return _print_guess(args)
    if not args.config:
        raise ConfigError(
            "--config RUN.yaml is required; `lazytower prepare --guess FILE` writes a first one"
        )
    from configs.load import load_config
    from pipelines.runners.options import beam_options

    config = load_config(args.config, args.overrides)
    options = beam_options(args.runner, args.beam_args)
    if args.compact:
        if args.overwrite:
            raise ConfigError("--overwrite prepares anew and --compact folds what is there; give one of them")
        _compact(config.source, config.dataset, options)
        return 0
    prepare(config.source, config.dataset, options, overwrite=args.overwrite)
    return 0


def _compact(source: "SourceConfig", dataset: "DatasetConfig", options: "PipelineOptions") -> None:
    from pipelines.runners.options import import_beam

    import_beam()
    from pipelines.compact import compact

    compact(source, dataset, options)


def _print_guess(args: argparse.Namespace) -> int:
    from pipelines.guess.document import guess

    given = [flag for flag, value in vars(args).items() if value and flag not in ("guess", "command")]
    if given:
        raise ConfigError(f"--guess takes files only; remove {', '.join(given)}")
    print(guess(args.guess), end="")
    return 0


def prepare(
    source: "SourceConfig",
    dataset: "DatasetConfig",
    options: "PipelineOptions | None" = None,
    overwrite: bool = False,
    **sizes: Any,
) -> "Dataset | None":
    """Writes the dataset unless it exists already. Returns it, as in dataset.json; None: only a template was
    written.

    Args:
      source, dataset: sections of a RunConfig.
      options: Beam's PipelineOptions; None: the local runner. With a template_location only a template of the
        Dataflow job is written.
      overwrite: replace an existing dataset, which stays valid until the new one is complete.
      sizes: replace fields of JobLayout.

    Raises:
      ConfigError: the runner lacks an option, or its workers could not access the files.
      DataError: the source, the base or the target has a problem; nothing is published.
    """
    from pipelines.runners.options import beam_options, import_beam

    import_beam()
    from pipelines.base.chain import reading
    from pipelines.base.checks import check_files
    from pipelines.file_order import with_history_of
    from pipelines.job import Job, plan_layout
    from pipelines.manifest import build_manifest
    from pipelines.progress import Progress
    from pipelines.publish import publish
    from pipelines.report import log_report
    from pipelines.runners.checks import check_runner
    from pipelines.sources.identity import check_unchanged, each, with_content
    from pipelines.sources.reader import make_reader
    from pipelines.workspace import workspace

    options, target = options or beam_options(None, []), dataset.path.rstrip("/")
    check_runner(options, source, dataset)
    readers = [make_reader(section, plan_layout("", "", 0)) for section in (source, *source.sides)]
    source_files = _source_files(readers, dataset)
    present, base = _present(source, dataset, source_files, overwrite)
    if present:
        return present
    job = Job(source, dataset, plan_layout("", "", readers[0].estimated_rows()), base=base)
    with reading(base), workspace(target) as (path, check):
        job = _placed(job, path, _sizes(readers, options) | sizes)
        ranges = [_ranges(reader, job) for reader in readers]
        job = with_history_of(job, readers[0], ranges[0])
        source_files = each(with_content, source_files)
        check_files(base, source, source_files[: len(readers[0].files())])
        with Progress(job.layout.spool) as progress:
            found = _run_pipeline(job, ranges, options, lambda: check_unchanged(source_files))
        if found is None:
            return None
        manifest = build_manifest(job, source_files, found)
        check()
        publish(target, job.layout.staging, manifest, found.files)
    log_report(manifest, dataset, target, progress, base)
    return manifest


def _present(
    source: "SourceConfig", dataset: "DatasetConfig", files: "list[SourceFile]", overwrite: bool
) -> "tuple[Dataset | None, Base | None]":
    """The dataset, if it is there and may stay; and the datasets on which a new one stands."""
    from pipelines.base.checks import checked_base
    from pipelines.existing import find_existing, is_folded

    target = dataset.path.rstrip("/")
    folded = not overwrite and is_folded(target)  # then what is below it may be gone
    base = None if folded else checked_base(source, dataset)
    if not overwrite and (present := find_existing(target, source, files, dataset, base)):
        logging.info("%s: already prepared from this source with these settings", target)
        return present, base
    return None, checked_base(source, dataset) if folded else base


def _source_files(readers: "list[Reader]", dataset: "DatasetConfig") -> "list[SourceFile]":
    """All files on which the dataset depends, each once: those of the source, of side tables, and vocabulary
    files."""
    from pipelines.stages.given import given_files

    files = [file for reader in readers for file in reader.files()]
    return list({file.name: file for file in [*files, *given_files(dataset)]}.values())


def _sizes(readers: "list[Reader]", options: "PipelineOptions") -> dict[str, Any]:
    """Fields of JobLayout that depend on side tables, which follow the interactions, and on the machine."""
    from pipelines.job import side_parts
    from pipelines.runners.options import worker_threads

    parts = tuple(side_parts(side.config, side.estimated_rows()) for side in readers[1:])
    return {"threads": worker_threads(options), "side_shards": parts}


def _ranges(reader: "Reader", job: "Job") -> "list[Range]":
    """Ranges of a source or side table; the reader keeps the files that were listed."""
    reader.layout = job.layout
    return reader.ranges()


def _placed(job: "Job", path: str, sizes: dict[str, Any]) -> "Job":
    """The job with its directories in a workspace, and other sizes."""
    import dataclasses

    layout = dataclasses.replace(job.layout, spool=f"{path}/spool", staging=f"{path}/staging")
    return dataclasses.replace(job, layout=dataclasses.replace(layout, **sizes))


def _run_pipeline(
    job: "Job", ranges: "list[list[Range]]", options: "PipelineOptions", check_source: Callable[[], None]
) -> "Summary | None":
    """Runs the pipeline and returns its Summary.

    None: only a template was written.

    Args:
      ranges: of the interactions, then of each side table.
      check_source: raises DataError if the source has changed, which explains other errors.
    """
    import dataclasses
    import os

    import apache_beam as beam
    import fsspec

    from configs.errors import DataError
    from pipelines.pipeline import build
    from pipelines.report import choice_lines
    from pipelines.runners.running import make_runner, run_to_end, template_location
    from pipelines.stages.given import store_vocabularies
    from pipelines.summary import FILE_NAME, load_summary

    if "://" not in job.layout.spool:
        os.makedirs(job.layout.spool)
    job = dataclasses.replace(job, given=store_vocabularies(job))
    for line in choice_lines(job.dataset):
        logging.info("%s", line)
    pipeline = beam.Pipeline(make_runner(options), options=options)
    build(pipeline, job, ranges[0], ranges[1:])
    run_to_end(pipeline, options)
    if template := template_location(options):
        logging.info(
            "%s: template written; nothing has run, nothing is published. Rerun the command without "
            "--template_location to run the job and publish",
            template,
        )
        return None
    name = f"{job.layout.spool}/{FILE_NAME}"
    try:
        with fsspec.open(name, "rb") as file:
            summary = load_summary(file.read(), name)
    except FileNotFoundError:
        raise DataError(
            f"{job.dataset.path}: the job succeeded, but its workers wrote to another disk, "
            "so the dataset is not here; use gs:// in dataset.path"
        ) from None
    check_source()
    if summary.plan.failed:
        raise DataError(summary.plan.failed)
    if not any(file.directory == "train" for file in summary.files):
        raise DataError("no row is in train; check dataset.split")
    if not any(file.positives for file in summary.files if file.directory == "train"):
        raise DataError(
            f"no row of train is positive ({job.dataset.positive_rule}); "
            "check dataset.split and dataset.positive"
        )
    return summary
