"""Command-line flags shared by all sub-commands that work on a run."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds --config and --set."""
    parser.add_argument("--config", required=required, metavar="RUN.yaml", help="the run's configuration")
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
