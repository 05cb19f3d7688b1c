"""Command-line flags that every sub-command on a run takes."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--config and --set."""
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="the run's configuration")
    add_override_argument(parser)


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """--set alone, for commands that may do without a config."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key of the config, such as train.batch_size=1024; repeatable",
    )
