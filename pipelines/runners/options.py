"""Beam's flags and the choice of a runner."""

import contextlib
import importlib
import io
import logging
import os
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from pipelines.runners.job_servers import keep_workers

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DEFAULT_RUNNER = "FnApiRunner"
_MOST_THREADS = 8  # each holds a chunk in memory
_ALIASES = {
    # Beam's DirectRunner looks for a Prism binary on the network first.
    "directrunner": DEFAULT_RUNNER,
    "direct": DEFAULT_RUNNER,
    "fnapirunner": DEFAULT_RUNNER,
}
_REFUSED = {
    "daskrunner": "it silently loses the last elements of batches and mixes up tagged outputs; "
    "use FnApiRunner here, or FlinkRunner, SparkRunner or DataflowRunner on a cluster",
}


def import_beam() -> None:
    """Imports Beam without its warnings about Google packages that are not installed."""
    logging.disable(logging.WARNING)
    try:
        importlib.import_module("apache_beam")
    finally:
        logging.disable(logging.NOTSET)
    logging.getLogger("apache_beam").setLevel(logging.WARNING)


def beam_options(runner: str | None, flags: list[str], command: str = "prepare") -> "PipelineOptions":
    """PipelineOptions for a runner and Beam's own flags.

    `command`: for messages.

    Raises:
      ConfigError: the runner is unsupported or unknown, or Beam has no such option or value.
    """
    import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

    runner = _runner_name(runner or DEFAULT_RUNNER)
    _check_flags(flags, command)
    options = PipelineOptions([f"--runner={runner}", *flags])
    setup = options.view_as(SetupOptions)
    # Otherwise Dataflow's workers would unpickle the content of the command's module, which they do not need.
    setup.save_main_session = bool(setup.save_main_session)
    keep_workers(options)
    return options


def worker_threads(options: "PipelineOptions") -> int:
    """Elements that a worker processes at once: one per core if the local runner has one worker, which is
    faster and needs less memory than several workers; 1 if the runner itself works in parallel."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    if options.view_as(StandardOptions).runner != DEFAULT_RUNNER:
        return 1
    if options.view_as(DirectOptions).direct_num_workers != 1:
        return 1
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def _runner_name(name: str) -> str:
    from apache_beam.options.pipeline_options import StandardOptions

    low = name.lower()
    for refused, reason in _REFUSED.items():
        if low in (refused, refused.removesuffix("runner")) or low.endswith(f".{refused}"):
            raise ConfigError(f"--runner {name} is not supported: {reason}")
    if low in _ALIASES:
        return _ALIASES[low]
    known = {known.rpartition(".")[2].lower() for known in StandardOptions.KNOWN_RUNNER_NAMES}
    if "." not in name and low not in known and f"{low}runner" not in known:
        names = sorted({*StandardOptions.KNOWN_RUNNER_NAMES, DEFAULT_RUNNER})
        allowed = ", ".join(n for n in names if "." not in n and n.lower() not in _REFUSED)
        raise ConfigError(f"--runner {name}: no such runner; use one of {allowed}")
    return name


def _check_flags(flags: list[str], command: str) -> None:
    """Refuses unknown flags, which Beam itself would drop with a warning."""
    from apache_beam.options import pipeline_options

    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False, add_help=False)
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            _, unknown = parser.parse_known_args(flags)
    except SystemExit:
        reason = complaint.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise ConfigError(f"{reason} (an option of Apache Beam)") from None
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: neither `lazytower {command}` nor Apache Beam has this option; "
            f"see `lazytower {command} --help`"
        )
