"""`lazytower bench NAME`: finds the benchmark's module and runs it."""

import argparse
import importlib

from trainer.bench import BENCHES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per benchmark, with its own flags."""
    benches = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, (module, help_line) in BENCHES.items():
        child = benches.add_parser(name, help=help_line, description=help_line.capitalize() + ".")
        importlib.import_module(module).add_arguments(child)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen benchmark."""
    return importlib.import_module(BENCHES[args.bench][0]).run(args)
