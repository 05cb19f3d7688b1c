"""Command-line flags shared by all sub-commands that work on a run."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds --config and --set."""
    parser.add_argument("--config", required=required, metavar="RUN.yaml", help="the run's configuration")
    add_override_argument(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --config and --set for commands that ask an exported model."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--model", metavar="DIR", help="export directory, or one version inside it; local or gs://"
    )
    model.add_argument("--config", metavar="RUN.yaml", help="run whose newest export is used")
    add_override_argument(parser)


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --set alone, for commands to which a config is optional."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key of the config, such as train.batch_size=1024; repeatable",
    )


def add_step_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --step for commands that open a checkpoint."""
    parser.add_argument(
        "--step",
        type=_step,
        metavar="N",
        help="checkpoint: a step, best, or newest (default: best with evaluate.best, else newest)",
    )


def _step(text: str) -> int | str:
    if text in ("best", "newest"):
        return text
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a step, best or newest")
    return int(text)
