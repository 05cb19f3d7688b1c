"""`lazytower compare`: runs on one dataset beside each other; who wins, by how much, and is it noise.

lazytower compare runs/a runs/b --html compare.html
"""

import argparse
import json

from absl import logging

from configs.arguments import add_override_argument, add_step_argument
from configs.system.storage import write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories or configs; all are compared with the first"
    )
    add_override_argument(parser)
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="split to predict")
    add_step_argument(parser)
    parser.add_argument("--html", default="compare.html", metavar="FILE", help="page to write (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compares, prints a table and writes the page."""
    from trainer.comparison.comparing import compare_runs
    from trainer.comparison.contenders import load_contenders

    comparison = compare_runs(load_contenders(args.runs, args.overrides), args.step, args.split)
    from trainer.comparison.page import comparison_page
    from trainer.comparison.text import compared_text, comparison_values

    write_bytes(args.html, comparison_page(comparison).encode())
    logging.info("wrote %s", args.html)
    values = comparison_values(comparison)
    print(json.dumps(values, indent=1) if args.json else compared_text(comparison))
    return 0
