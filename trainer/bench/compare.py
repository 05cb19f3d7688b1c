"""`lazytower bench compare`: what changed between two runs of a benchmark.

    lazytower bench users25m --repeat 3 --output new
    lazytower bench compare old/users25m.csv new/users25m.csv

A figure whose stage was repeated in both files is within the noise if the ranges of its values overlap.
Differences of the machine and of the run's config are named, because then ratios say little.
"""

import argparse

from configs.errors import UserError
from trainer.bench.results.figures import changes, circumstances_changed, read_figures, table_of_changes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("old", metavar="OLD.csv", help="written by an earlier run of `bench users25m`")
    parser.add_argument("new", metavar="NEW.csv", help="written by a later one")


def run(args: argparse.Namespace) -> int:
    """Prints ratios.

    Raises:
      UserError: a file cannot be read, or the two have no figure in common.
    """
    old, new = read_figures(args.old), read_figures(args.new)
    found = changes(old, new)
    if not found:
        raise UserError(f"{args.old} and {args.new} have no figure in common; repeat the same stages")
    print(table_of_changes(found))
    for line in circumstances_changed(old, new):
        print(f"-  {line}")
    return 0
