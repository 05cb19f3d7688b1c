"""`lazytower prepare`: turns raw interactions into a dataset, as the run's source and dataset sections say.

lazytower prepare --config configs/quickstart.yaml
"""

import argparse

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
    from pipelines.manifest import build_manifest
    from pipelines.present import find_present
    from pipelines.progress import Progress
    from pipelines.publish import publish, workspace
    from pipelines.runners import check_runner
    from pipelines.sources.identity import check_unchanged, each, with_content
    from pipelines.sources.reader import make_reader

    options = options or beam_options(None, [])
    check_runner(options, source, dataset)
    target = dataset.path.rstrip("/")
    reader = make_reader(source, plan_layout("", "", 0))
    source_files = reader.files()
    if not overwrite and (present := find_present(target, source, source_files, dataset)):
        logging.info("%s: already prepared from this source with these settings", target)
        return present
    job = Job(source, dataset, plan_layout("", "", reader.estimated_rows()))
    with workspace(target) as (path, check):
        sizes = {"threads": worker_threads(options)} | sizes
        layout = dataclasses.replace(job.layout, spool=f"{path}/spool", staging=f"{path}/staging", **sizes)
        job = dataclasses.replace(job, layout=layout)
        reader.layout = layout  # the files stay those that were listed
        ranges = reader.ranges()
        source_files = each(with_content, source_files)
        with Progress(layout.spool) as progress:
            found = _run_pipeline(job, ranges, options, lambda: check_unchanged(source_files))
        if found is None:
            return None
        manifest = build_manifest(job, source_files, *found)
        check()
        publish(target, layout.staging, manifest, found[2])
    _report(manifest, dataset, target, progress)
    return manifest


def _run_pipeline(job, ranges, options, check_source):
    """Runs the pipeline and returns what it left: Stats, TableIds by table, written files.

    None when only a template was written.

    Args:
      check_source: raises DataError when the source has changed, which says more than what came of it.
    """
    import os

    import apache_beam as beam
    import fsspec

    from configs.errors import DataError
    from pipelines.pipeline import build
    from pipelines.row_account import split_line
    from pipelines.runners import make_runner, run_to_end, template_location
    from pipelines.summary import FILE_NAME, load_summary

    if "://" not in job.layout.spool:
        os.makedirs(job.layout.spool)
    logging.info("%s", split_line(job.dataset))
    pipeline = beam.Pipeline(make_runner(options), options=options)
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
    check_source()
    if plan.failed:
        raise DataError(plan.failed)
    if not any(file.directory == "train" for file in files):
        raise DataError("no row falls into train; check dataset.split")
    if not any(file.positives for file in files if file.directory == "train"):
        raise DataError(
            f"no row of train is positive ({job.dataset.positive_rule}); "
            "check dataset.split and dataset.positive"
        )
    return stats, tables, files


def _report(manifest, dataset, target: str, progress) -> None:
    """The last lines: what was made of what, how fast, in how much memory."""
    from pipelines.row_account import date, row_lines

    logging.info("%s: prepared", target)
    splits = ", ".join(f"{name} {info.rows:,}" for name, info in manifest.splits.items())
    logging.info("rows read %s; %s", f"{manifest.source_rows:,}", splits)
    if manifest.source.get("roles", {}).get("timestamp"):
        # A wrong source.timestamp_unit often shows in nothing else.
        for name, info in manifest.splits.items():
            if info.rows:
                logging.info("%s: %s to %s UTC", name, date(info.min_timestamp), date(info.max_timestamp))
    for name, table in manifest.tables.items():
        logging.info(
            "table %s: %s rows, %s keys in train (%s)", name, f"{table.rows:,}", f"{table.keys:,}", table.ids
        )
    for name, info in manifest.splits.items():
        if not info.rows:
            logging.warning("split %s is empty", name)
    for reason, count in manifest.rejected.items():
        logging.info("rejected %s: %s, see %s/rejected", reason, f"{count:,}", target)
    for line in row_lines(manifest, dataset):
        logging.info("%s", line)
    for reason, count in manifest.notes.items():
        logging.info("%s: %s", _note(reason), f"{count:,}")
    logging.info(
        "%.1f s, %s rows/s, peak memory %.0f MB on this machine",
        progress.seconds,
        f"{manifest.source_rows / progress.seconds:,.0f}",
        progress.peak_bytes / 1e6,
    )


def _note(reason: str) -> str:
    """A reason of Dataset.notes in words."""
    forms = {
        "repeated_header": "repeated header lines, which are no rows",
        "null": "missing values of {}, empty or as source.nulls spells them",
        "outer_blanks": "keys of {} that lost outer blanks (source.clean_keys)",
        "integer_as_float": "keys of {} such as 17.0 read as 17 (source.clean_keys)",
    }
    form = next(form for form in forms if reason.startswith(form))
    return forms[form].format(reason[len(form) + 1 :])
