"""`lazytower train`: trains the config's model; the same command run again resumes."""

import argparse
import resource
import sys
import threading
import time

from absl import logging

from configs.arguments import add_config_arguments
from configs.load import load_config
from trainer.interrupt import Interrupt


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--max_seconds",
        type=_seconds,
        metavar="N",
        help="save and exit with code 75 after so many seconds unless done; run again to resume",
    )
    parser.add_argument("--explain", action=_Explain, nargs=0, help="print every key of the config, and stop")


class _Explain(argparse.Action):
    """Answers like --help: before other flags are asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        from configs.explain import explain

        print(explain())
        parser.exit()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 < value < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no time above 0")
    return value


def run(args) -> int:
    """Loads the config and trains; see `train`."""
    with Interrupt(args.max_seconds) as interrupt:
        train(load_config(args.config, args.overrides), interrupt)
    return 0


def train(config, interrupt: Interrupt | None = None) -> str:
    """Trains to the configured end, from the newest checkpoint if there is one.

    Args:
      config: configs.schema.RunConfig.
      interrupt: what may stop the run before; None: SIGTERM and SIGINT, when in the main thread.

    Returns:
      Path of the report.

    Raises:
      Stopped: a signal or the time limit ended it early; what was trained is saved.
      DataError: the dataset is missing, torn, or not what the config asks for.
      CheckpointError: the run directory holds checkpoints of another run, or none that verifies.
    """
    if interrupt is None:
        with Interrupt() as interrupt:
            return train(config, interrupt)
    from trainer.session import TrainSession

    logging.info("run %s: dataset %s, output %s", config.name, config.dataset.path, config.output.path)
    started = time.monotonic()
    with TrainSession(config, interrupt) as session:
        session.run()
    logging.info(
        "done in %.0f s, peak memory %.2f GB; report: %s",
        time.monotonic() - started,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        session.report_path,
    )
    return session.report_path


if __name__ == "__main__":  # python -m trainer.train, for containers whose entry point is a module
    from trainer.cli import main

    sys.argv.insert(1, "train")
    main()
