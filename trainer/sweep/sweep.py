"""`lazytower sweep`: runs of a config with other values of some keys; rerun the same command to continue.

lazytower sweep --config shop.yaml --sweep sweep.yaml --jobs 2
"""

import argparse

from configs.arguments import add_config_arguments
from configs.errors import UserError
from configs.load import overridden, parse_as, read_document
from configs.sections.search.sweep import SweepConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--sweep", required=True, metavar="SWEEP.yaml", help="which keys are varied, and how; see --explain"
    )
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="trials at once (default: 1)")
    parser.add_argument(
        "--submit",
        action="store_true",
        help="run each trial as a job, as `lazytower submit` does with the config's launch section; default: "
        "as a process of this machine",
    )
    parser.add_argument(
        "--explain", action=_ExplainSweep, nargs=0, help="print every key of SWEEP.yaml, and exit"
    )


class _ExplainSweep(argparse.Action):
    """Acts like --help: before required flags are checked."""

    def __call__(self, parser, namespace, values, option_string=None):
        from configs.explain import explain

        print(explain(SweepConfig))
        parser.exit()


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of trials from 1 to 1000")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Runs the sweep and prints what it has found."""
    try:
        from trainer.sweep.job import run_sweep
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("optuna", "sqlalchemy", "alembic"):
            raise
        raise UserError("lazytower sweep needs Optuna; run `pip install 'lazytower[sweep]'`") from None
    from trainer.sweep.space import Space

    sweep = parse_as(SweepConfig, read_document(args.sweep), args.sweep)
    space = Space(overridden(read_document(args.config), args.overrides), args.config, sweep)
    print(run_sweep(space, sweep, args.sweep, args.jobs, args.submit).text)
    return 0
