"""`lazytower doctor`: checks that this machine has what a run needs, a line per check, with what to do."""

import argparse
import dataclasses
import json

from configs.arguments import add_override_argument
from configs.errors import ConfigError, UserError
from configs.text import aligned
from trainer.preflight.checks import FAIL, Result
from trainer.preflight.doctor import diagnose
from trainer.version import VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    parser.add_argument("--config", metavar="RUN.yaml", help="also check what this run needs")
    add_override_argument(parser)
    parser.add_argument(
        "--gcs",
        action="append",
        default=[],
        type=_bucket_url,
        metavar="gs://BUCKET",
        help="also write, read and delete a small object there; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _bucket_url(text: str) -> str:
    if not text.startswith("gs://"):
        raise argparse.ArgumentTypeError(f"{text} does not start with gs://")
    return text


def run(args: argparse.Namespace) -> int:
    """Prints the report; failed checks are an error after it."""
    config = None
    if args.config:
        from configs.load import load_config

        config = load_config(args.config, args.overrides)
    elif args.overrides:
        raise ConfigError("--set: changes a config; name the config with --config")
    results = diagnose(config, args.gcs)
    failed = [result.name for result in results if result.status == FAIL]
    if args.json:
        checks = [dataclasses.asdict(result) for result in results]
        print(json.dumps({"version": VERSION, "checks": checks, "failed": failed}, indent=1))
    else:
        print(format_checks(results))
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
    return 0


def format_checks(results: list[Result]) -> str:
    """A line for each check: status, name, what was found, what to do."""
    rows = [
        [result.status, f"{result.name}:", result.found + (f"; {result.fix}" if result.fix else "")]
        for result in results
    ]
    return aligned(rows, left=range(3))
