"""`lazytower bench NAME`: finds the benchmark's module; each measures one part beside its peers."""

import argparse
import importlib

BENCHES = {
    "prepare": ("pipelines.bench", "raw interactions to a dataset, beside polars"),
    "optimizers": ("trainer.bench_optimizers", "a step of every table and optimizer, beside peers"),
    "scaling": ("trainer.bench_scaling", "a step's time over rows and batch, and the cost of averages"),
    "peers": ("trainer.bench_peers", "steps, prepare and a whole training beside other libraries"),
    "input": ("trainer.bench_input", "the reader alone, and how long training waits for it"),
    "retrieval": ("trainer.bench_retrieval", "the best items of a request: served indexes beside peers"),
    "defaults": ("trainer.bench_defaults", "what settings reach on prepared datasets, averaged and raw"),
    "users25m": ("trainer.bench_users25m", "the whole chain at 25 million users: time, memory, checkpoints"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per benchmark, with its own flags."""
    benches = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, (module, help_line) in BENCHES.items():
        child = benches.add_parser(name, help=help_line, description=help_line.capitalize() + ".")
        importlib.import_module(module).add_arguments(child)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen benchmark."""
    return importlib.import_module(BENCHES[args.bench][0]).run(args)
