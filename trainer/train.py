"""`lazytower train`: trains the config's model; the same command run again resumes."""

import argparse
import resource
import sys
import time

from absl import logging

from configs.arguments import add_config_arguments
from configs.load import load_config


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument("--explain", action=_Explain, nargs=0, help="print every key of the config, and stop")


class _Explain(argparse.Action):
    """Answers like --help: before other flags are asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        from configs.explain import explain

        print(explain())
        parser.exit()


def run(args) -> int:
    """Loads the config and trains; see `train`."""
    train(load_config(args.config, args.overrides))
    return 0


def train(config) -> str:
    """Trains to the configured end, from the newest checkpoint if there is one.

    Args:
      config: configs.schema.RunConfig.

    Returns:
      Path of the report.

    Raises:
      DataError: the dataset is missing, torn, or not what the config asks for.
      CheckpointError: the run directory holds checkpoints of another run, or none that verifies.
    """
    from trainer.session import TrainSession

    logging.info("run %s: dataset %s, output %s", config.name, config.dataset.path, config.output.path)
    started = time.monotonic()
    with TrainSession(config) as session:
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
