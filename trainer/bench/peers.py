"""`lazytower bench peers`: lazytower compared with other libraries, in one call.

    scripts/peers.sh                   all parts, in a separate environment with PyTorch and FBGEMM
    lazytower bench peers --parts towers --tower_batches 8192
    lazytower bench peers --parts rows --rows 25000000 --batches 32768 --peers lazytower tfa_lazy_adam

rows: the embedding step compared with the memory floor (trainer/bench/parts/rows.py); 25 million rows
need 20 GiB. towers: a two-tower training step, its memory and its losses (trainer/bench/parts/towers.py).
prepare: raw interactions to a dataset, compared with polars (`lazytower bench prepare`).
closed_form: quality of a config beside EASE^R and item-kNN (trainer/bench/parts/closed_form.py), with
`--config FILE` only.
ml100k: training until a tutorial's Recall@20 (trainer/bench/parts/ml100k.py), with `--ml100k FILE` only.

Times are medians of `--steps` after 3 warm-up steps, with their interquartile range; in the part `rows`, each
is the mean of 20 steps that run without a pause. Libraries that cannot be imported, and what does not fit
into memory, show '-' and the reason. A part's rows go to peers_<part>.csv; peers.html has every part whose
file is in the directory, so parts can be run one by one.
"""

import argparse
import csv
import os

from trainer.bench.parts import closed_form, ml100k, prepare, towers
from trainer.bench.parts import rows as bench_peer_rows
from trainer.bench.timing import add_shared_arguments, positive

PARTS = {
    "rows": (bench_peer_rows, "Embedding step, compared with the memory floor"),
    "towers": (towers, "Two-tower training step"),
    "prepare": (prepare, "prepare, compared with polars"),
    "closed_form": (closed_form, "Quality from ids alone, compared with models in closed form"),
    "ml100k": (ml100k, "MovieLens 100K to the Recall@20 of TFRS's tutorial model"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure"
    )
    parser.add_argument(
        "--turns", type=positive, default=3, help="number of processes, runs or seeds per measurement"
    )
    for module, _ in PARTS.values():
        module.add_arguments(parser)
    add_shared_arguments(parser, "bench_results")


def run(args: argparse.Namespace) -> int:
    """Measures the parts, prints their tables, writes peers_<part>.csv and peers.html."""
    from trainer.bench.results.page import print_plain_table, write_plain_csv

    for part in args.parts:
        module, title = PARTS[part]
        rows = module.measure(args)
        if not rows:
            continue
        print(f"\n{title}")
        print_plain_table(rows, module.COLUMNS)
        write_plain_csv(_csv(args, part), rows, module.COLUMNS)
    path = os.path.join(args.output, "peers.html")
    _write_page(path, args)
    print(f"written: {path} and peers_*.csv beside it")
    return 0


def _csv(args: argparse.Namespace, part: str) -> str:
    return os.path.join(args.output, f"peers_{part}.csv")


def _write_page(path: str, args: argparse.Namespace) -> None:
    """The tables of all parts that have been measured into the directory."""
    from trainer.bench.results.page import write_tables

    tables = {}
    for part, (_, title) in PARTS.items():
        if os.path.exists(_csv(args, part)):
            with open(_csv(args, part), newline="", encoding="utf-8") as file:
                tables[title] = list(csv.DictReader(file))
    write_tables(path, "lazytower compared with its peers", "lazytower bench peers", tables)
