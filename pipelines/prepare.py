"""`lazytower prepare`: turns raw interactions into a dataset, as the run's source and dataset sections say.

lazytower prepare --config configs/quickstart.yaml
"""

import argparse
import datetime

from absl import logging

from configs.arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command; all others go to Apache Beam."""
    add_config_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is already there")
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="Apache Beam runner (default: FnApiRunner, on this machine); further flags go to Beam, "
        "such as --direct_running_mode=multi_processing --direct_num_workers=8; see docs/prepare.md",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares the dataset that args.config describes.

    Raises:
      ConfigError, DataError: one line that says what is wrong; nothing has been published then.
    """
    from configs.load import load_config
    from pipelines.options import beam_options

    config = load_config(args.config, args.overrides)
    options = beam_options(args.runner, args.beam_args)
    prepare(config.source, config.dataset, options, overwrite=args.overwrite)
    return 0


def prepare(source, dataset, options=None, overwrite: bool = False, **sizes):
    """Writes the dataset unless it is there already.

    Args:
      source, dataset: sections of a RunConfig.
      options: Beam's PipelineOptions; the local runner when None. With a template_location Dataflow's job
        is written down there, and neither run nor published.
      overwrite: replace a dataset that is there; it stays valid until the new one is complete.
      sizes: replace fields of Layout.

    Returns:
      The Dataset, as dataset.json holds it; None when only a template was written.

    Raises:
      ConfigError: the runner lacks an option, or its workers would not see the files.
      DataError: what is wrong with the source or the target; nothing has been published then.
    """
    import dataclasses

    from pipelines.options import beam_options, import_beam, worker_threads

    import_beam()
    from pipelines.layout import Job, plan_layout
    from pipelines.manifest import build_manifest, source_fingerprint
    from pipelines.progress import Progress
    from pipelines.publish import publish, workspace
    from pipelines.runners import check_runner
    from pipelines.sources.reader import make_reader

    options = options or beam_options(None, [])
    check_runner(options, source, dataset)
    target = dataset.path.rstrip("/")
    estimate = make_reader(source, plan_layout("", "", 0))
    job = Job(source, dataset, plan_layout("", "", estimate.estimated_rows()))
    digest = source_fingerprint(job, estimate.files())
    present = None if overwrite else _present(target, digest, dataset)
    if present:
        logging.info("%s: already prepared from this source with these settings", target)
        return present
    with workspace(target) as (path, check):
        sizes = {"threads": worker_threads(options)} | sizes
        layout = dataclasses.replace(job.layout, spool=f"{path}/spool", staging=f"{path}/staging", **sizes)
        job = dataclasses.replace(job, layout=layout)
        with Progress(layout.spool) as progress:
            found = _run_pipeline(job, options)
        if found is None:
            return None
        stats, tables, files = found
        manifest = build_manifest(job, digest, stats, tables, files)
        check()
        publish(target, layout.staging, manifest, files)
    _report(manifest, target, progress)
    return manifest


def _present(target: str, digest: str, dataset):
    """The dataset at the target when it is the one that was asked for, None when there is none.

    Raises:
      DataError: there is a different one.
    """
    import fsspec

    from configs.dataset import FILE_NAME, load_dataset
    from configs.errors import DataError

    filesystem, root = fsspec.core.url_to_fs(target)
    if not filesystem.exists(f"{root}/{FILE_NAME}"):
        return None
    found = load_dataset(target)
    wanted = dataset.model_dump(mode="json", exclude={"path"})
    if found.source_fingerprint == digest and wanted == {
        k: v for k, v in found.dataset.items() if k != "path"
    }:
        return found
    what = "another source" if found.source_fingerprint != digest else "other dataset settings"
    raise DataError(
        f"{target}: holds a dataset prepared from {what}; "
        "give --overwrite to replace it, or another dataset.path"
    )


def _run_pipeline(job, options):
    """Runs the pipeline and returns what it left: Stats, TableIds by table, written files.

    None when only a template was written."""
    import os

    import apache_beam as beam
    import fsspec

    from configs.errors import DataError
    from pipelines.pipeline import build
    from pipelines.runners import run_to_end, template_location
    from pipelines.sources.reader import make_reader
    from pipelines.summary import FILE_NAME, load_summary

    ranges = make_reader(job.source, job.layout).ranges()
    if "://" not in job.layout.spool:
        os.makedirs(job.layout.spool)
    pipeline = beam.Pipeline(options=options)
    build(pipeline, job, ranges)
    run_to_end(pipeline, options)
    if template := template_location(options):
        logging.info(
            "%s: the job's template; nothing has run, nothing is published. The same command without "
            "--template_location runs the job and publishes",
            template,
        )
        return None
    name = f"{job.layout.spool}/{FILE_NAME}"
    try:
        with fsspec.open(name, "rb") as file:
            stats, plan, tables, files = load_summary(file.read(), name)
    except FileNotFoundError:
        raise DataError(
            f"{job.dataset.path}: the job ended well, but what its workers wrote is not here: they have "
            "another disk; put dataset.path in gs://"
        ) from None
    if plan.failed:
        raise DataError(plan.failed)
    if not any(file.directory == "train" for file in files):
        raise DataError("no row falls into train; check dataset.split")
    return stats, tables, files


def _report(manifest, target: str, progress) -> None:
    """The last lines: what was made of what, how fast, in how much memory."""
    logging.info("%s: prepared", target)
    splits = ", ".join(f"{name} {info.rows:,}" for name, info in manifest.splits.items())
    logging.info("rows read %s; %s", f"{manifest.source_rows:,}", splits)
    if manifest.source.get("roles", {}).get("timestamp"):
        # A wrong source.timestamp_unit often shows in nothing else.
        for name, info in manifest.splits.items():
            if info.rows:
                logging.info("%s: %s to %s UTC", name, _date(info.min_timestamp), _date(info.max_timestamp))
    for name, table in manifest.tables.items():
        logging.info(
            "table %s: %s rows, %s keys in train (%s)", name, f"{table.rows:,}", f"{table.keys:,}", table.ids
        )
    for name, info in manifest.splits.items():
        if not info.rows:
            logging.warning("split %s is empty", name)
    for reason, count in manifest.rejected.items():
        logging.info("rejected %s: %s, see %s/rejected", reason, f"{count:,}", target)
    if manifest.filtered:
        logging.info("left out by dataset.min_label: %s", f"{manifest.filtered:,}")
    logging.info(
        "%.1f s, %s rows/s, peak memory %.0f MB on this machine",
        progress.seconds,
        f"{manifest.source_rows / progress.seconds:,.0f}",
        progress.peak_bytes / 1e6,
    )


def _date(seconds: int) -> str:
    return f"{datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds):%Y-%m-%d %H:%M}"
