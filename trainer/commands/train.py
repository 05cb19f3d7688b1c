"""`lazytower train`: trains the config's model; rerun the same command to resume."""

import argparse
import sys
import threading

from configs.arguments import add_config_arguments
from configs.load import load_config
from configs.system.terminal import bounded
from trainer.cluster.sockets import HostLost
from trainer.cluster.watch import hosts_watched
from trainer.runtime import end_process
from trainer.training.interrupt import Interrupt
from trainer.training.run import train


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--max_seconds",
        type=_seconds,
        metavar="N",
        help="save and exit with code 75 after N seconds unless done; rerun to resume",
    )
    parser.add_argument("--explain", action=_Explain, nargs=0, help="print every key of the config, and exit")


class _Explain(argparse.Action):
    """Acts like --help: before required flags are checked."""

    def __call__(self, parser, namespace, values, option_string=None):
        from configs.explain import explain

        print(explain())
        parser.exit()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < value < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


def run(args) -> int:
    """Loads the config and trains; see `train`."""
    config = load_config(args.config, args.overrides)
    try:
        with Interrupt(args.max_seconds) as interrupt, hosts_watched(_end):
            train(config, interrupt)
    except HostLost as lost:
        _end(lost)
    return 0


def _end(lost: HostLost) -> None:
    """Ends this process, which TensorFlow would not let end before a host that hangs has answered."""
    sys.stderr.write(f"lazytower train: error: {bounded(str(lost))}\n")
    end_process(lost.exit_code)
