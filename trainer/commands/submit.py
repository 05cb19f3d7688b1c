"""`lazytower submit`: runs a config as an unattended job, on this machine, Cloud TPU or Kubernetes."""

from absl import logging

from configs.arguments import add_config_arguments
from configs.errors import UserError
from trainer.jobs.stage import dry_run, stage, start_job, start_supervisor


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the exact requests and the start-up script; send and write nothing",
    )


def run(args) -> int:
    """Checks, stages and starts the job; prints its directory."""
    from configs.load import load_config

    config = load_config(args.config, args.overrides)
    if args.dry_run:
        print(dry_run(config))
        return 0
    from trainer.jobs.checks import check_all
    from trainer.jobs.record import FINAL

    config, warnings = check_all(config)
    for warning in warnings:
        logging.warning("%s", warning)
    path = stage(config)
    state = None
    try:
        state = start_job(path)
    finally:
        # Also after an interrupt: a slice may have been requested, and must be supervised.
        if state is None or state.state not in FINAL:
            _hand_over(path, "unknown" if state is None else state.state)
    if "failed" in (state.state, state.outcome):
        raise UserError(f"{state.reason} (job {path})")
    return 0


def _hand_over(path: str, state: str) -> None:
    _, log = start_supervisor(path)
    logging.info("job %s is %s; a process of this machine supervises it, log: %s", path, state, log)
    logging.info("lazytower jobs watch %s", path.rpartition("/")[2])
    print(path, flush=True)
