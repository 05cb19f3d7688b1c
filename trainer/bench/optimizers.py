"""`lazytower bench optimizers`: a step of every table and optimizer, compared with other libraries.

    lazytower bench optimizers                      about 8 minutes on 2 cores, 9 with torch
    lazytower bench optimizers --threads 1 --models full robe_1mb
    lazytower bench optimizers --models full --rows 2000000 --dim 32 --batch 50 \\
        --peers lazytower_plain lazytower_keras

score = e_u . e_i of pairs of ids from one table under the logistic loss (trainer.bench.cases.tables), ids
uniform. A step's three phases are compiled and timed one by one (trainer.bench.timing): forward is lookup and
loss, gradient reaches the looked-up rows, update is the optimizer on the table. Model `full` is the table
itself, `robe_<n>mb` is ROBE-Z with an array of n MiB in blocks of a quarter row; for peers, ROBE-Z is a
gather of every value. A combination without figures shows '-', with the reason below.
"""

import argparse
import functools
import os
import re

from absl import logging

from trainer.bench.results.page import bars, print_table, write_csv, write_page
from trainer.bench.timing import add_shared_arguments, measured, positive, start_bench

TABLE_MODELS = ("full", "robe_1mb", "robe_10mb", "robe_381mb")
PEER_OPTIMIZERS = ("sgd", "adagrad", "adam", "lazy_adam", "sm3")
PEERS = ("lazytower", "keras", "keras_legacy", "tfa", "torch")
# lazytower's optimizers on plain variables, and as Keras optimizers; measured on request.
FACES = ("lazytower_plain", "lazytower_keras")
_KEYS = ("model", "optimizer", "by")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--rows", type=positive, default=1_000_000, help="rows of the embedding")
    parser.add_argument("--dim", type=positive, default=100, help="values per row")
    parser.add_argument("--batch", type=positive, default=32_768, help="pairs of ids per step")
    parser.add_argument(
        "--models", nargs="+", type=_model, default=TABLE_MODELS, metavar="MODEL", help="full, or robe_<n>mb"
    )
    parser.add_argument("--optimizers", nargs="+", choices=PEER_OPTIMIZERS, default=PEER_OPTIMIZERS)
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS + FACES,
        default=PEERS,
        help="whose optimizers; lazytower_plain and lazytower_keras are measured only on request",
    )
    add_shared_arguments(parser, "bench_results")


def _model(name: str) -> str:
    if name != "full" and not re.fullmatch(r"robe_[1-9]\d*mb", name):
        raise argparse.ArgumentTypeError(f"{name} is neither full nor robe_<n>mb, such as robe_10mb")
    return name


def run(args: argparse.Namespace) -> int:
    """Measures all combinations, prints the table, writes optimizers.csv and optimizers.html."""
    start_bench(args.threads)
    rows = []
    for model in args.models:
        for optimizer in args.optimizers:
            for peer in args.peers:
                build = functools.partial(_case, model, optimizer, peer, args)
                result = measured(build, args.rows, args.batch, args.steps)
                rows.append({"model": model, "optimizer": optimizer, "by": peer} | result)
                logging.info(
                    "%s %s %s: %s",
                    model,
                    optimizer,
                    peer,
                    result["reason"] or f"{result['total_ms']:,.1f} ms",
                )
    title = f"{args.rows:,} x {args.dim}, {args.batch:,} pairs, {_threads(args.threads)}"
    print(title)
    print_table(rows, _KEYS)
    write_csv(os.path.join(args.output, "optimizers.csv"), rows, _KEYS)
    figures = [
        bars(f"figure-{i}", model, [row for row in rows if row["model"] == model], _KEYS[1:])
        for i, model in enumerate(args.models)
    ]
    path = os.path.join(args.output, "optimizers.html")
    write_page(path, f"Optimizers of embeddings: {title}", "lazytower bench optimizers", figures, rows, _KEYS)
    print(f"written: {path} and optimizers.csv beside it")
    return 0


def _threads(threads: int) -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{threads or cores} of {cores} threads"


def _case(model: str, optimizer: str, peer: str, args: argparse.Namespace):
    """Makes the case, or raises NotMeasured."""
    from trainer.bench.cases import tables
    from trainer.bench.cases.torch import torch_case

    robe = None if model == "full" else robe_section(int(model[5:-2]), args.dim)
    if peer == "lazytower":
        from configs.sections.tables import TableConfig

        options = robe or TableConfig(dim=args.dim)
        return tables.OurCase(args.rows, options, optimizer, args.batch)
    if peer in FACES:
        return tables.face_case(args.rows, args.dim, optimizer, robe, keras=peer == "lazytower_keras")
    if peer == "tfa":
        return tables.addons_case(args.rows, args.dim, optimizer, robe)
    if peer == "torch":
        return torch_case(args.rows, args.dim, optimizer, robe, args.threads)
    return tables.keras_case(args.rows, args.dim, optimizer, robe, legacy=peer == "keras_legacy")


def robe_section(mebibytes: int, dim: int):
    """The config of a ROBE-Z embedding with an array of about so many MiB, in blocks of a quarter row."""
    from configs.sections.tables import RobeZConfig

    block = max(dim // 4, 1)
    return RobeZConfig(kind="robe_z", dim=dim, block=block, size=mebibytes * (1 << 18) // block * block)
